//! What guardians say to each other.

use borsh::{BorshDeserialize, BorshSerialize};
use modmint_core::{
    Hash32,
    consensus::{OrderedUnit, SignedHeader},
};

/// One message between guardians; borsh, one a frame.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum PeerMessage {
    /// AlephBFT's own bytes, of one session.
    Aleph {
        /// Whose instance they are for.
        session: u64,
        /// SCALE; the filter in `ordering` reads them before AlephBFT does.
        bytes: Vec<u8>,
    },
    /// The sender has undecided work in this session: nobody waits while this is
    /// fresh.
    Wake {
        /// The session that the sender is in.
        session: u64,
    },
    /// Asks for units of a session that goes on, by one who is too far behind to be
    /// sent them one by one.
    RequestUnits {
        /// Which session.
        session: u64,
        /// Where to go on in the receiver's unit log; 0 at first.
        from: u64,
        /// For each guardian the round of its newest unit that the sender has.
        have: Vec<Option<u16>>,
    },
    /// Answers [`PeerMessage::RequestUnits`].
    Units {
        /// Which session.
        session: u64,
        /// Where the log goes on behind these.
        next: u64,
        /// Units as AlephBFT encodes them, parents first; none at the log's end.
        units: Vec<Vec<u8>>,
    },
    /// Where the sender stands; the heartbeat.
    Position {
        /// The session that is being filled.
        session: u64,
        /// How many epochs of it the sender has processed.
        epoch: u32,
        /// The state root behind the last of them.
        state_root: Hash32,
    },
    /// A signature over a session's header.
    HeaderSignature {
        /// The header's session.
        session: u64,
        /// The header's hash.
        hash: Hash32,
        /// BIP 340, 64 bytes.
        signature: Vec<u8>,
    },
    /// Asks for a session that has ended, from an epoch on.
    RequestOutcome {
        /// Which session.
        session: u64,
        /// The first epoch that is wanted.
        from_epoch: u32,
    },
    /// Answers [`PeerMessage::RequestOutcome`].
    Outcome(Box<OutcomePart>),
    /// The key ceremony's messages, which only it understands.
    Ceremony(Vec<u8>),
    /// Takes [`PeerMessage::Wake`] back: all the sender's work in this session is
    /// decided.
    Rest {
        /// The session of the lease.
        session: u64,
    },
    /// Answers [`PeerMessage::RequestOutcome`] of one who cannot: n − f have not signed
    /// the session's header yet, or its epochs are not kept any more.
    NoOutcome {
        /// Which session.
        session: u64,
    },
}

/// A part of an ended session, with the header that proves it.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct OutcomePart {
    /// Which session.
    pub session: u64,
    /// Signed by n − f guardians.
    pub header: SignedHeader,
    /// The number of the first epoch below.
    pub from_epoch: u32,
    /// What was ordered, epoch by epoch.
    pub epochs: Vec<Vec<OrderedUnit>>,
    /// Whether there are further epochs behind these.
    pub more: bool,
}
