//! Transactions: inputs bring money in, outputs take it out, each in the bytes of
//! its own module.

use borsh::{BorshDeserialize, BorshSerialize};

use crate::{FederationId, InstanceId, MAX_ITEM_BYTES, TxId, tagged_hash};

/// What brings money into a transaction; `bytes` are the module's own.
#[derive(Clone, Debug, PartialEq, Eq, Hash, BorshSerialize, BorshDeserialize)]
pub struct Input {
    /// Whose input this is.
    pub instance: InstanceId,
    /// In the module's canonical encoding.
    pub bytes: Vec<u8>,
}

/// What takes money out of a transaction; `bytes` are the module's own.
#[derive(Clone, Debug, PartialEq, Eq, Hash, BorshSerialize, BorshDeserialize)]
pub struct Output {
    /// Whose output this is.
    pub instance: InstanceId,
    /// In the module's canonical encoding.
    pub bytes: Vec<u8>,
}

/// What a transaction's id and signatures commit to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, BorshSerialize, BorshDeserialize)]
pub struct TransactionBody {
    /// The transaction can be decided while agreed time is less than this,
    /// seconds since 1970; afterwards never again. At most
    /// [`crate::MAX_EXPIRY_SECONDS`] ahead of agreed time.
    pub expires: u64,
    /// In the order in which they are processed.
    pub inputs: Vec<Input>,
    /// In the order in which they are processed, after the inputs.
    pub outputs: Vec<Output>,
}

/// A body and, for each input, a BIP 340 signature (64 bytes) by that input's
/// spend key over [`TransactionBody::signature_hash`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, BorshSerialize, BorshDeserialize)]
pub struct Transaction {
    /// What is signed.
    pub body: TransactionBody,
    /// One for each input, in their order.
    pub signatures: Vec<[u8; 64]>,
}

/// Why bytes are no transaction.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransactionError {
    /// More bytes than fit into a unit.
    #[error("transaction is {size} bytes, the limit is {limit}")]
    TooLarge {
        /// What was given, in bytes.
        size: usize,
        /// What is allowed, in bytes.
        limit: usize,
    },
    /// No borsh encoding of a transaction, or bytes left over behind it.
    #[error("these bytes are no transaction: {0}")]
    Encoding(String),
    /// Not one signature for each input.
    #[error("{signatures} signatures for {inputs} inputs; one for each is expected")]
    Signatures {
        /// How many there are.
        signatures: usize,
        /// How many are needed.
        inputs: usize,
    },
    /// Neither inputs nor outputs.
    #[error("a transaction needs an input or an output")]
    Empty,
}

impl TransactionBody {
    /// The transaction's id: a tagged hash of the federation's id and the body.
    /// Signatures are no part of it.
    pub fn id(&self, federation: &FederationId) -> TxId {
        let body = borsh::to_vec(self).expect("writing to memory does not fail");
        TxId(tagged_hash("modmint/transaction", &[&federation.0, &body]))
    }

    /// What inputs' keys sign, 32 bytes.
    pub fn signature_hash(&self, federation: &FederationId) -> [u8; 32] {
        tagged_hash(
            "modmint/transaction/signature",
            &[&federation.0, &self.id(federation).0],
        )
    }
}

impl Transaction {
    /// See [`TransactionBody::id`].
    pub fn id(&self, federation: &FederationId) -> TxId {
        self.body.id(federation)
    }

    /// The canonical bytes.
    pub fn encode(&self) -> Vec<u8> {
        borsh::to_vec(self).expect("writing to memory does not fail")
    }

    /// From canonical bytes, checked for everything that can be seen without a
    /// federation: size, encoding, number of signatures.
    ///
    /// # Errors
    /// What is wrong, and what would be accepted.
    pub fn decode(bytes: &[u8]) -> Result<Self, TransactionError> {
        if bytes.len() > MAX_ITEM_BYTES {
            return Err(TransactionError::TooLarge {
                size: bytes.len(),
                limit: MAX_ITEM_BYTES,
            });
        }
        let transaction: Self =
            borsh::from_slice(bytes).map_err(|e| TransactionError::Encoding(e.to_string()))?;
        transaction.check_shape()?;
        Ok(transaction)
    }

    /// Whether signatures and inputs match up, and there is anything at all.
    ///
    /// # Errors
    /// [`TransactionError::Signatures`], [`TransactionError::Empty`].
    pub fn check_shape(&self) -> Result<(), TransactionError> {
        let (signatures, inputs) = (self.signatures.len(), self.body.inputs.len());
        if signatures != inputs {
            return Err(TransactionError::Signatures { signatures, inputs });
        }
        if inputs == 0 && self.body.outputs.is_empty() {
            return Err(TransactionError::Empty);
        }
        Ok(())
    }
}
