//! Bytes of a module's own values: borsh, and nothing left over.

use borsh::{BorshDeserialize, BorshSerialize};

use crate::Refusal;

pub fn encode<T: BorshSerialize>(value: &T) -> Vec<u8> {
    borsh::to_vec(value).expect("writing to memory does not fail")
}

/// Bytes that come from somebody else.
pub fn decode<T: BorshDeserialize>(what: &str, bytes: &[u8]) -> Result<T, Refusal> {
    borsh::from_slice(bytes).map_err(|error| {
        Refusal::new(
            "bad-encoding",
            format!("these {} bytes are no {what}: {error}", bytes.len()),
        )
    })
}

/// Bytes that this module wrote itself: anything else is a bug, and a trap.
pub fn decode_own<T: BorshDeserialize>(what: &str, bytes: &[u8]) -> T {
    match borsh::from_slice(bytes) {
        Ok(value) => value,
        Err(error) => panic!("{what} does not decode: {error}"),
    }
}
