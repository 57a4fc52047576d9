//! The federation's e-cash: notes, signed blindly by a threshold of guardians.

mod messages;

pub use messages::{BlindNote, DENOMINATIONS, MintConfig, Note, Outcome, Spent, label, value};
