//! Who a guardian is to the others: a TLS certificate, which they pin, and the
//! key by which it signs units, headers, acks and configs.

use modmint_core::PublicKey;
use modmint_crypto::secp;
use rand::{RngCore, rngs::OsRng};
use zeroize::Zeroizing;

/// A guardian's identity, made once at set-up and then sealed among its
/// [`Secrets`](crate::keys::Secrets). Secrets are erased when dropped.
#[derive(Clone)]
pub struct Identity {
    /// The self-signed TLS certificate, DER.
    pub certificate: Vec<u8>,
    /// The certificate's private key, PKCS #8 DER.
    pub tls_key: Zeroizing<Vec<u8>>,
    /// The consensus key's secret, see [`secp`].
    pub consensus_secret: Zeroizing<[u8; 32]>,
}

/// A certificate could not be made.
#[derive(Debug, thiserror::Error)]
#[error("no TLS certificate could be made: {0}")]
pub struct IdentityError(#[from] rcgen::Error);

impl Identity {
    /// A new identity, from the operating system's randomness.
    ///
    /// # Errors
    /// When the certificate cannot be made.
    pub fn generate() -> Result<Self, IdentityError> {
        let made = rcgen::generate_simple_self_signed(vec!["guardian".to_owned()])?;
        let tls_key = Zeroizing::new(made.signing_key.serialize_der());
        Ok(Self {
            certificate: made.cert.der().to_vec(),
            tls_key,
            consensus_secret: random_secret(),
        })
    }

    /// The public key of [`Self::consensus_secret`].
    pub fn consensus_key(&self) -> PublicKey {
        PublicKey(secp::public_key(&self.consensus_secret))
    }
}

fn random_secret() -> Zeroizing<[u8; 32]> {
    let mut secret = Zeroizing::new([0; 32]);
    while !secp::valid_secret(&secret) {
        OsRng.fill_bytes(&mut *secret);
    }
    secret
}
