//! AlephBFT's messages as bytes, and the filter in front of it.
//!
//! aleph-bft 0.45.4 decodes node indices from peers' messages and indexes vectors
//! by them, and it asserts what only a hostile peer's alert violates: without
//! this filter three short messages each stop every honest guardian. So every
//! message is decoded here first, by a mirror of AlephBFT's private types, and
//! dropped unless AlephBFT's own validator would accept each unit in it and every
//! index in it is that of the guardian that sent it, or somebody's. Signatures
//! are left to AlephBFT, which checks them before it believes anything and does not
//! say whose message held one that is none: those of alerts are checked here too, since
//! alerts are long and seldom, and those of units once there has been one that is none.

use std::{collections::HashSet, fmt, sync::Arc};

use aleph_bft::{Hasher, Keychain, NetworkData, NodeIndex, SignatureSet};
use modmint_core::{PeerId, threshold};
use parity_scale_codec::{Decode, DecodeAll, Encode};

use super::{
    MAX_PAYLOAD_BYTES,
    keychain::{SessionKeychain, Signature},
};

/// What AlephBFT calls its network data, with this project's types in it.
pub(super) type AlephMessage = NetworkData<Blake3, Payload, Signature, SignatureSet<Signature>>;

/// How AlephBFT's units and alerts are hashed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Blake3;

impl Hasher for Blake3 {
    type Hash = [u8; 32];

    fn hash(bytes: &[u8]) -> [u8; 32] {
        blake3::hash(bytes).into()
    }
}

/// A unit's payload. AlephBFT copies and prints its units a lot.
#[derive(Clone, PartialEq, Eq, Hash, Encode, Decode)]
pub(super) struct Payload(pub Arc<Vec<u8>>);

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// A message between AlephBFT instances.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) enum Message {
    Units(UnitMessage),
    Alert(AlertMessage),
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) enum UnitMessage {
    Unit(Unit),
    /// The requester, and what it wants.
    CoordRequest(u64, Coord),
    ParentsRequest(u64, [u8; 32]),
    ParentsResponse([u8; 32], Vec<Unit>),
    /// The requester, and a salt.
    NewestRequest(u64, u64),
    NewestResponse(NewestResponse),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode)]
pub(super) struct Coord {
    pub round: u16,
    pub creator: u64,
}

/// A unit with its maker's signature.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct Unit {
    pub coord: Coord,
    /// For each guardian the round of its unit that is a parent.
    pub parents: Vec<Option<u16>>,
    /// The hash of the parents' hashes and rounds.
    pub control_hash: [u8; 32],
    pub payload: Option<Payload>,
    pub session: u64,
    pub signature: Signature,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct NewestResponse {
    pub requester: u64,
    pub responder: u64,
    pub unit: Option<Unit>,
    pub salt: u64,
    pub signature: Signature,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) enum AlertMessage {
    Fork(Box<Alert>),
    /// Who sends it, which need not be who signed it.
    Rmc(u64, RmcMessage),
    /// The requester, and the alert's hash.
    Request(u64, [u8; 32]),
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct Alert {
    pub sender: u64,
    pub proof: (Unit, Unit),
    pub legit_units: Vec<Unit>,
    pub signature: Signature,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) enum RmcMessage {
    SignedHash {
        hash: [u8; 32],
        signer: u64,
        signature: Signature,
    },
    MultisignedHash {
        hash: [u8; 32],
        signatures: Vec<Option<Signature>>,
    },
}

impl Unit {
    /// The message that carries this unit, given its encoding.
    pub fn message_bytes(encoded_unit: &[u8]) -> Vec<u8> {
        const UNITS: u8 = 0;
        const UNIT: u8 = 0;
        [&[UNITS, UNIT], encoded_unit].concat()
    }
}

/// Why bytes from a peer do not reach AlephBFT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Rejected {
    #[error("no message of AlephBFT's")]
    Encoding,
    #[error("speaks in the name of guardian {0}")]
    Impersonation(u64),
    #[error("there is no guardian {0}")]
    NoSuchGuardian(u64),
    #[error("a unit of session {0}")]
    Session(u64),
    #[error("a unit of round {0}")]
    Round(u16),
    #[error("a unit whose parents are impossible")]
    Parents,
    #[error("a unit with a payload of {0} bytes")]
    PayloadSize(usize),
    #[error("a list of {0} entries")]
    ListSize(usize),
    #[error("an alert about two units that are no fork")]
    NoFork,
    #[error("an alert with two units of round {0}")]
    SameRound(u16),
    #[error("a unit that guardian {0} has not signed")]
    UnitSignature(u64),
    #[error("an alert that guardian {0} has not signed")]
    AlertSignature(u64),
    #[error("a response meant for guardian {0}")]
    NotForUs(u64),
}

/// Checks what peers say in one session.
#[derive(Clone, Debug)]
pub(super) struct Filter {
    pub me: PeerId,
    pub count: usize,
    pub session: u64,
    pub max_round: u16,
}

impl Filter {
    /// The message in these bytes, if `from` may say it.
    pub fn read(&self, from: PeerId, mut bytes: &[u8]) -> Result<Message, Rejected> {
        let message = Message::decode_all(&mut bytes).map_err(|_| Rejected::Encoding)?;
        match &message {
            Message::Units(message) => self.check_unit_message(from, message)?,
            Message::Alert(message) => self.check_alert_message(from, message)?,
        }
        Ok(message)
    }

    fn check_unit_message(&self, from: PeerId, message: &UnitMessage) -> Result<(), Rejected> {
        match message {
            UnitMessage::Unit(unit) => self.check_unit(unit),
            UnitMessage::CoordRequest(requester, coord) => {
                check_speaker(from, *requester)?;
                self.check_coord(coord)
            }
            UnitMessage::ParentsRequest(requester, _) => check_speaker(from, *requester),
            UnitMessage::ParentsResponse(_, units) => {
                check_list(units.len(), self.count)?;
                units.iter().try_for_each(|unit| self.check_unit(unit))
            }
            UnitMessage::NewestRequest(requester, _) => check_speaker(from, *requester),
            UnitMessage::NewestResponse(response) => {
                check_speaker(from, response.responder)?;
                if response.requester != u64::from(self.me.0) {
                    return Err(Rejected::NotForUs(response.requester));
                }
                response
                    .unit
                    .iter()
                    .try_for_each(|unit| self.check_unit(unit))
            }
        }
    }

    fn check_alert_message(&self, from: PeerId, message: &AlertMessage) -> Result<(), Rejected> {
        match message {
            AlertMessage::Fork(alert) => self.check_alert(alert),
            AlertMessage::Rmc(sender, message) => {
                check_speaker(from, *sender)?;
                match message {
                    RmcMessage::SignedHash { signer, .. } => self.check_index(*signer),
                    RmcMessage::MultisignedHash { signatures, .. } => {
                        if signatures.len() == self.count {
                            Ok(())
                        } else {
                            Err(Rejected::ListSize(signatures.len()))
                        }
                    }
                }
            }
            AlertMessage::Request(requester, _) => check_speaker(from, *requester),
        }
    }

    fn check_alert(&self, alert: &Alert) -> Result<(), Rejected> {
        let Alert {
            sender,
            proof: (first, second),
            legit_units,
            signature: _,
        } = alert;
        self.check_index(*sender)?;
        self.check_unit(first)?;
        self.check_unit(second)?;
        if first.coord != second.coord || first == second {
            return Err(Rejected::NoFork);
        }
        // One a round, which is all that a guardian can have made: no alert is longer than
        // a session's rounds of the longest units.
        let mut rounds = HashSet::new();
        legit_units.iter().try_for_each(|unit| {
            self.check_unit(unit)?;
            if unit.coord.creator != first.coord.creator {
                Err(Rejected::NoFork)
            } else if !rounds.insert(unit.coord.round) {
                Err(Rejected::SameRound(unit.coord.round))
            } else {
                Ok(())
            }
        })
    }

    /// What AlephBFT's validator demands of a unit, but for the signature.
    fn check_unit(&self, unit: &Unit) -> Result<(), Rejected> {
        let Unit {
            coord,
            parents,
            control_hash,
            payload,
            session,
            signature: _,
        } = unit;
        self.check_coord(coord)?;
        if *session != self.session {
            return Err(Rejected::Session(*session));
        }
        if let Some(payload) = payload
            && payload.0.len() > MAX_PAYLOAD_BYTES
        {
            return Err(Rejected::PayloadSize(payload.0.len()));
        }
        if parents.len() != self.count {
            return Err(Rejected::Parents);
        }
        let possible = match coord.round.checked_sub(1) {
            None => {
                parents.iter().all(Option::is_none) && *control_hash == no_parents(parents.len())
            }
            Some(previous) => {
                let own = parents[coord.creator as usize];
                let newest = parents.iter().flatten().filter(|round| **round == previous);
                own == Some(previous)
                    && newest.count() >= threshold(self.count)
                    && parents.iter().flatten().all(|round| *round <= previous)
            }
        };
        if possible {
            Ok(())
        } else {
            Err(Rejected::Parents)
        }
    }

    fn check_coord(&self, coord: &Coord) -> Result<(), Rejected> {
        self.check_index(coord.creator)?;
        if coord.round > self.max_round {
            return Err(Rejected::Round(coord.round));
        }
        Ok(())
    }

    fn check_index(&self, index: u64) -> Result<(), Rejected> {
        if index < self.count as u64 {
            Ok(())
        } else {
            Err(Rejected::NoSuchGuardian(index))
        }
    }
}

/// Checks the signatures in a message that no honest guardian passes on if they are none:
/// those of an alert, and of units once there has been a forgery.
pub(super) fn check_signatures(
    message: &Message,
    keychain: &SessionKeychain,
) -> Result<(), Rejected> {
    let check_unit = |unit: &Unit| {
        let creator = unit.coord.creator;
        match is_signed(keychain, unit, creator, &unit.signature) {
            true => Ok(()),
            false => Err(Rejected::UnitSignature(creator)),
        }
    };
    match message {
        Message::Alert(AlertMessage::Fork(alert)) => {
            check_unit(&alert.proof.0)?;
            check_unit(&alert.proof.1)?;
            match is_signed(keychain, alert, alert.sender, &alert.signature) {
                true => Ok(()),
                false => Err(Rejected::AlertSignature(alert.sender)),
            }
        }
        Message::Units(message) if keychain.has_met_forgery() => match message {
            UnitMessage::Unit(unit) => check_unit(unit),
            UnitMessage::ParentsResponse(_, units) => units.iter().try_for_each(check_unit),
            UnitMessage::NewestResponse(response) => response.unit.iter().try_for_each(check_unit),
            _ => Ok(()),
        },
        _ => Ok(()),
    }
}

/// Whether a guardian has signed something whose last field is the signature.
fn is_signed(
    keychain: &SessionKeychain,
    signed: &impl Encode,
    by: u64,
    signature: &Signature,
) -> bool {
    let bytes = signed.encode();
    let signed = &bytes[..bytes.len() - signature.len()];
    keychain.verify(&Blake3::hash(signed), signature, NodeIndex(by as usize))
}

fn check_speaker(from: PeerId, named: u64) -> Result<(), Rejected> {
    if named == u64::from(from.0) {
        Ok(())
    } else {
        Err(Rejected::Impersonation(named))
    }
}

fn check_list(len: usize, limit: usize) -> Result<(), Rejected> {
    if len <= limit {
        Ok(())
    } else {
        Err(Rejected::ListSize(len))
    }
}

/// The control hash of a unit of round 0.
fn no_parents(count: usize) -> [u8; 32] {
    let none: Vec<Option<([u8; 32], u16)>> = vec![None; count];
    Blake3::hash(&none.encode())
}
