//! How far this guardian has got, and what it keeps for peers that fell behind:
//! ordered units and headers. In `local`:
//!
//! | key | value |
//! |---|---|
//! | `progress` | [`Progress`] |
//! | `units/` session epoch | the units of an epoch that has any |
//! | `units-from` | the first session whose units are kept |
//! | `header/own/` session | the header that this guardian made, and the bytes ordered |
//! | `header/signed/` session | the same with n − f signatures |
//! | `signed` | the latest session of which that is kept |

use borsh::{BorshDeserialize, BorshSerialize};
use modmint_core::{
    Hash32,
    consensus::{OrderedUnit, SessionHeader, SignedHeader, next_items_root},
};

use super::state::{decode, encode};
use crate::storage::{Database, Durability, LocalChanges, StorageError};

type Result<T> = std::result::Result<T, StorageError>;

/// The units of so many sessions are kept: a week of idle ones.
const KEEP_SESSIONS: u64 = 1008;
/// Fewer if they are so many bytes.
const KEEP_BYTES: u64 = 8 << 30;

/// Where the next epoch goes. Empty epochs are counted here in memory and written
/// with the next that is not.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(super) struct Progress {
    /// The session that is being filled.
    pub session: u64,
    /// The number of epochs that it has.
    pub epoch: u32,
    /// Over those epochs.
    pub items_root: Hash32,
    /// How many bytes of payload they have.
    pub bytes: u64,
    /// The previous session's header.
    pub previous: Hash32,
}

impl Progress {
    /// At the beginning of the first session.
    pub(super) fn genesis() -> Self {
        Self::begin(1, Hash32([0; 32]))
    }

    /// At the beginning of a session.
    pub(super) fn begin(session: u64, previous: Hash32) -> Self {
        Self {
            session,
            epoch: 0,
            items_root: Hash32([0; 32]),
            bytes: 0,
            previous,
        }
    }

    /// One epoch further.
    pub(super) fn advance(&mut self, units: &[OrderedUnit]) {
        self.items_root = next_items_root(&self.items_root, units);
        self.bytes += units.iter().map(|u| u.payload.len() as u64).sum::<u64>();
        self.epoch += 1;
    }
}

fn session_key(name: &[u8], session: u64) -> Vec<u8> {
    [name, &session.to_be_bytes()].concat()
}

fn units_key(session: u64, epoch: u32) -> Vec<u8> {
    [&session_key(b"units/", session)[..], &epoch.to_be_bytes()].concat()
}

pub(super) fn add_progress(local: &mut LocalChanges, progress: &Progress) {
    local.put(b"progress".as_slice(), encode(progress));
}

pub(super) fn add_units(
    local: &mut LocalChanges,
    session: u64,
    epoch: u32,
    units: &Vec<OrderedUnit>,
) {
    local.put(units_key(session, epoch), encode(units));
}

pub(super) fn add_own_header(local: &mut LocalChanges, header: &SessionHeader, bytes: u64) {
    let key = session_key(b"header/own/", header.session);
    local.put(key, encode(&(header, bytes)));
}

/// See the top of this file.
pub(super) trait History {
    fn progress(&self) -> Result<Option<Progress>>;
    fn units(&self, session: u64, epoch: u32) -> Result<Vec<OrderedUnit>>;
    fn own_header(&self, session: u64) -> Result<Option<(SessionHeader, u64)>>;
    fn signed_header(&self, session: u64) -> Result<Option<SignedHeader>>;
    fn store_signed_header(&self, signed: &SignedHeader) -> Result<()>;
    fn latest_signed_session(&self) -> Result<Option<u64>>;
    fn units_from(&self) -> Result<u64>;
    /// Deletes the units of sessions that are too old, `session` being filled.
    fn prune(&self, session: u64) -> Result<()>;
}

impl History for Database {
    fn progress(&self) -> Result<Option<Progress>> {
        let value = self.local(b"progress")?;
        value.map(|bytes| decode(&bytes, "progress")).transpose()
    }

    fn units(&self, session: u64, epoch: u32) -> Result<Vec<OrderedUnit>> {
        let value = self.local(&units_key(session, epoch))?;
        value.map_or_else(|| Ok(Vec::new()), |bytes| decode(&bytes, "units/"))
    }

    fn own_header(&self, session: u64) -> Result<Option<(SessionHeader, u64)>> {
        let value = self.local(&session_key(b"header/own/", session))?;
        value.map(|bytes| decode(&bytes, "header/own/")).transpose()
    }

    fn signed_header(&self, session: u64) -> Result<Option<SignedHeader>> {
        let value = self.local(&session_key(b"header/signed/", session))?;
        value
            .map(|bytes| decode(&bytes, "header/signed/"))
            .transpose()
    }

    fn store_signed_header(&self, signed: &SignedHeader) -> Result<()> {
        let mut local = LocalChanges::default();
        let session = signed.header.session;
        local.put(session_key(b"header/signed/", session), encode(signed));
        let latest = self.latest_signed_session()?.unwrap_or(0);
        local.put(b"signed".as_slice(), encode(&latest.max(session)));
        self.commit_local(local, Durability::Disk)
    }

    fn latest_signed_session(&self) -> Result<Option<u64>> {
        let value = self.local(b"signed")?;
        value.map(|bytes| decode(&bytes, "signed")).transpose()
    }

    fn units_from(&self) -> Result<u64> {
        let value = self.local(b"units-from")?;
        value.map_or(Ok(1), |bytes| decode(&bytes, "units-from"))
    }

    fn prune(&self, session: u64) -> Result<()> {
        let from = self.units_from()?;
        let (mut keep_from, mut bytes) = (session, 0);
        while keep_from > from && session - keep_from < KEEP_SESSIONS {
            let before = keep_from - 1;
            bytes += self.own_header(before)?.map_or(0, |(_, bytes)| bytes);
            if bytes > KEEP_BYTES {
                break;
            }
            keep_from = before;
        }
        if keep_from > from {
            let mut local = LocalChanges::default();
            local.delete_range(units_key(from, 0), units_key(keep_from, 0));
            local.put(b"units-from".as_slice(), encode(&keep_from));
            self.commit_local(local, Durability::Process)?;
        }
        Ok(())
    }
}
