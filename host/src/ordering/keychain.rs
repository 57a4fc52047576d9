//! Signatures for AlephBFT: BIP 340 over tagged hashes that name the federation
//! and the session.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use aleph_bft::{Index, Keychain, MultiKeychain, NodeCount, NodeIndex, SignatureSet};
use modmint_core::{FederationId, PeerId, PublicKey, tagged_hash};
use secp256k1::{Keypair, Message, SECP256K1, XOnlyPublicKey, schnorr};

use super::OrderingError;

/// A BIP 340 signature.
pub(super) type Signature = [u8; 64];

/// One guardian's key and everybody's public keys, for one session. Total: an
/// index that is nobody's has no valid signatures.
#[derive(Clone)]
pub(super) struct SessionKeychain {
    keys: Arc<GuardianKeys>,
    session: u64,
    /// Shared by all clones: AlephBFT does not say when a signature is none.
    has_met_forgery: Arc<AtomicBool>,
}

/// What the keychains of all sessions share.
pub(super) struct GuardianKeys {
    me: PeerId,
    own: Keypair,
    all: Vec<XOnlyPublicKey>,
    tag: FederationId,
}

impl GuardianKeys {
    pub fn new(
        me: PeerId,
        secret: &[u8; 32],
        keys: &[PublicKey],
        tag: FederationId,
    ) -> Result<Self, OrderingError> {
        let own =
            Keypair::from_seckey_slice(SECP256K1, secret).map_err(|_| OrderingError::Secret(me))?;
        let mut all = Vec::with_capacity(keys.len());
        for (peer, key) in (0..).map(PeerId).zip(keys) {
            let key =
                secp256k1::PublicKey::from_slice(&key.0).map_err(|_| OrderingError::Key(peer))?;
            all.push(key.x_only_public_key().0);
        }
        if all.get(me.index()) != Some(&own.x_only_public_key().0) {
            return Err(OrderingError::Secret(me));
        }
        Ok(Self { me, own, all, tag })
    }

    pub fn count(&self) -> usize {
        self.all.len()
    }
}

impl SessionKeychain {
    pub fn new(keys: Arc<GuardianKeys>, session: u64) -> Self {
        Self {
            keys,
            session,
            has_met_forgery: Arc::default(),
        }
    }

    /// Whether any signature that was verified so far was none.
    pub fn has_met_forgery(&self) -> bool {
        self.has_met_forgery.load(Ordering::Relaxed)
    }

    fn message(&self, bytes: &[u8]) -> Message {
        let session = self.session.to_le_bytes();
        let parts = [self.keys.tag.as_ref(), &session, bytes];
        Message::from_digest(tagged_hash("modmint/aleph-bft", &parts))
    }
}

impl Index for SessionKeychain {
    fn index(&self) -> NodeIndex {
        NodeIndex(self.keys.me.index())
    }
}

impl Keychain for SessionKeychain {
    type Signature = Signature;

    fn node_count(&self) -> NodeCount {
        NodeCount(self.keys.count())
    }

    fn sign(&self, bytes: &[u8]) -> Signature {
        SECP256K1
            .sign_schnorr_no_aux_rand(&self.message(bytes), &self.keys.own)
            .serialize()
    }

    fn verify(&self, bytes: &[u8], signature: &Signature, index: NodeIndex) -> bool {
        let holds = self.keys.all.get(index.0).is_some_and(|key| {
            schnorr::Signature::from_slice(signature).is_ok_and(|signature| {
                SECP256K1
                    .verify_schnorr(&signature, &self.message(bytes), key)
                    .is_ok()
            })
        });
        if !holds {
            self.has_met_forgery.store(true, Ordering::Relaxed);
        }
        holds
    }
}

impl MultiKeychain for SessionKeychain {
    type PartialMultisignature = SignatureSet<Signature>;

    fn bootstrap_multi(&self, signature: &Signature, index: NodeIndex) -> SignatureSet<Signature> {
        let mut set = SignatureSet::with_size(self.node_count());
        if index.0 < self.keys.count() {
            set.insert(index, *signature);
        }
        set
    }

    fn is_complete(&self, bytes: &[u8], partial: &SignatureSet<Signature>) -> bool {
        partial.size() == self.node_count()
            && partial.item_count() >= self.node_count().consensus_threshold().0
            && partial
                .iter()
                .all(|(index, signature)| self.verify(bytes, signature, index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keychains(tag: u8, session: u64) -> Vec<SessionKeychain> {
        let secrets: Vec<[u8; 32]> = (1..=4).map(|byte| [byte; 32]).collect();
        let keys: Vec<PublicKey> = secrets
            .iter()
            .map(|secret| {
                let pair = Keypair::from_seckey_slice(SECP256K1, secret).expect("a secret key");
                PublicKey(pair.public_key().serialize())
            })
            .collect();
        let keychain = |(me, secret)| {
            let keys = GuardianKeys::new(PeerId(me), secret, &keys, FederationId([tag; 32]));
            SessionKeychain::new(Arc::new(keys.expect("good keys")), session)
        };
        (0..).zip(&secrets).map(keychain).collect()
    }

    #[test]
    fn a_signature_holds_for_its_maker_its_session_and_its_federation_only() {
        let chains = keychains(1, 7);
        let signature = chains[2].sign(b"unit");
        assert!(chains[0].verify(b"unit", &signature, NodeIndex(2)));
        assert!(!chains[0].verify(b"unit", &signature, NodeIndex(1)));
        assert!(!chains[0].verify(b"other", &signature, NodeIndex(2)));
        assert!(!keychains(1, 8)[0].verify(b"unit", &signature, NodeIndex(2)));
        assert!(!keychains(2, 7)[0].verify(b"unit", &signature, NodeIndex(2)));
    }

    #[test]
    fn no_index_and_no_set_of_any_size_makes_it_panic() {
        let chains = keychains(1, 7);
        let signature = chains[0].sign(b"alert");
        for index in [4, 5, 99, usize::MAX] {
            assert!(!chains[0].verify(b"alert", &signature, NodeIndex(index)));
            let set = chains[0].bootstrap_multi(&signature, NodeIndex(index));
            assert!(!chains[0].is_complete(b"alert", &set));
        }
        for size in [0, 3, 5, 100] {
            let set = SignatureSet::with_size(NodeCount(size));
            assert!(!chains[0].is_complete(b"alert", &set));
        }
    }

    #[test]
    fn three_of_four_signatures_complete_a_set_unless_one_is_wrong() {
        let chains = keychains(1, 7);
        let mut set = SignatureSet::with_size(NodeCount(4));
        for (index, chain) in chains.iter().enumerate().take(3) {
            assert!(!chains[0].is_complete(b"alert", &set));
            set.insert(NodeIndex(index), chain.sign(b"alert"));
        }
        assert!(chains[3].is_complete(b"alert", &set));
        set.insert(NodeIndex(3), chains[0].sign(b"alert"));
        assert!(!chains[3].is_complete(b"alert", &set));
    }

    #[test]
    fn another_guardians_secret_is_refused() {
        let keys = [1u8, 2].map(|byte| {
            let pair = Keypair::from_seckey_slice(SECP256K1, &[byte; 32]).expect("a secret key");
            PublicKey(pair.public_key().serialize())
        });
        let made = GuardianKeys::new(PeerId(0), &[2; 32], &keys, FederationId([0; 32]));
        assert!(matches!(made, Err(OrderingError::Secret(PeerId(0)))));
    }
}
