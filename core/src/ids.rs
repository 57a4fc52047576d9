//! Names of things: hashes, peers, instances, keys.

use std::{fmt, str::FromStr};

use borsh::{BorshDeserialize, BorshSerialize};
use serde::{Deserialize, Serialize, de::Error as _};
use sha2::{Digest, Sha256};

/// Text that is no id of the kind that was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is no {what}: {wanted} is expected")]
pub struct ParseIdError {
    given: String,
    what: &'static str,
    wanted: &'static str,
}

impl ParseIdError {
    fn new(given: &str, what: &'static str, wanted: &'static str) -> Self {
        let given = given.chars().take(80).collect();
        Self {
            given,
            what,
            wanted,
        }
    }
}

/// Bytes from lower- or upper-case hexadecimal text.
///
/// # Errors
/// Says which character or length is wrong.
pub fn decode_hex(text: &str) -> Result<Vec<u8>, ParseIdError> {
    hex::decode(text).map_err(|_| {
        ParseIdError::new(
            text,
            "hexadecimal text",
            "an even number of the digits 0-9 and a-f",
        )
    })
}

macro_rules! bytes_id {
    ($(#[$doc:meta])* $name:ident, $length:literal, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, BorshSerialize, BorshDeserialize)]
        pub struct $name(pub [u8; $length]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;
            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                let mut bytes = [0; $length];
                hex::decode_to_slice(text, &mut bytes).map_err(|_| {
                    ParseIdError::new(text, $what, concat!(stringify!($length), " bytes in hexadecimal"))
                })?;
                Ok(Self(bytes))
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <String as Deserialize>::deserialize(deserializer)?;
                text.parse().map_err(D::Error::custom)
            }
        }

        impl AsRef<[u8]> for $name {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }

        impl TryFrom<&[u8]> for $name {
            type Error = std::array::TryFromSliceError;
            fn try_from(bytes: &[u8]) -> Result<Self, Self::Error> {
                Ok(Self(bytes.try_into()?))
            }
        }

        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
                utoipa::openapi::ObjectBuilder::new()
                    .schema_type(utoipa::openapi::schema::Type::String)
                    .pattern(Some(concat!("^([0-9a-f]{2}){", stringify!($length), "}$").to_string()))
                    .description(Some(concat!($what, ", ", stringify!($length), " bytes in hexadecimal")))
                    .build()
                    .into()
            }
        }

        impl utoipa::ToSchema for $name {}
    };
}

bytes_id!(
    /// A 32-byte hash with no more special meaning.
    Hash32, 32, "hash"
);
bytes_id!(
    /// The SHA-256 of a federation's founding config, 32 bytes.
    FederationId, 32, "federation id"
);
bytes_id!(
    /// The SHA-256 of a module's component file, 32 bytes.
    BundleHash, 32, "bundle hash"
);
bytes_id!(
    /// A transaction's id, 32 bytes: see [`crate::Transaction::id`].
    TxId, 32, "transaction id"
);
bytes_id!(
    /// A 33-byte compressed secp256k1 point. Whether it lies on the curve is
    /// found out by whoever uses it.
    PublicKey, 33, "public key"
);

/// A guardian's index in its federation, 0 to n − 1.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    BorshSerialize,
    BorshDeserialize,
    Serialize,
    Deserialize,
    utoipa::ToSchema,
)]
#[serde(transparent)]
pub struct PeerId(pub u16);

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl PeerId {
    /// As an index into a list with one entry a guardian.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A module instance's place in its federation's config.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    BorshSerialize,
    BorshDeserialize,
    Serialize,
    Deserialize,
    utoipa::ToSchema,
)]
#[serde(transparent)]
pub struct InstanceId(pub u16);

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The output at `index` of the transaction `txid`; as text `txid:index`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, BorshSerialize, BorshDeserialize)]
pub struct OutPoint {
    /// The transaction.
    pub txid: TxId,
    /// The output's place in it.
    pub index: u16,
}

impl fmt::Display for OutPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.txid, self.index)
    }
}

impl fmt::Debug for OutPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for OutPoint {
    type Err = ParseIdError;
    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let wrong = || ParseIdError::new(text, "out-point", "TXID:INDEX");
        let (txid, index) = text.split_once(':').ok_or_else(wrong)?;
        Ok(Self {
            txid: txid.parse().map_err(|_| wrong())?,
            index: index.parse().map_err(|_| wrong())?,
        })
    }
}

impl Serialize for OutPoint {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for OutPoint {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <String as Deserialize>::deserialize(deserializer)?
            .parse()
            .map_err(D::Error::custom)
    }
}

impl utoipa::PartialSchema for OutPoint {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::Type::String)
            .pattern(Some(
                // Up to 65535.
                "^[0-9a-f]{64}:([0-9]{1,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])$",
            ))
            .description(Some("an output of a transaction, TXID:INDEX"))
            .build()
            .into()
    }
}

impl utoipa::ToSchema for OutPoint {}

/// SHA-256 of `data`.
pub fn sha256(data: &[u8]) -> [u8; 32] {
    Sha256::digest(data).into()
}

/// BIP 340's tagged hash: SHA-256(SHA-256(tag) ‖ SHA-256(tag) ‖ parts…).
///
/// Parts are joined as they are: give fixed lengths, or put a length before what
/// varies.
pub fn tagged_hash(tag: &str, parts: &[&[u8]]) -> [u8; 32] {
    let tag = Sha256::digest(tag.as_bytes());
    let mut hash = Sha256::new();
    hash.update(tag);
    hash.update(tag);
    for part in parts {
        hash.update(part);
    }
    hash.finalize().into()
}
