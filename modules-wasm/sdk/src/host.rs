//! The host's imports with Rust's types: hashes and keys of fixed length, configs
//! decoded. In a component they are the imports themselves, natively those of the
//! mock host.

#[cfg(target_arch = "wasm32")]
use crate::bindings::modmint::module as imports;
#[cfg(not(target_arch = "wasm32"))]
use crate::mock::imports;

/// The host keeps the contract's lengths.
fn fixed<const N: usize>(bytes: Vec<u8>) -> [u8; N] {
    bytes
        .try_into()
        .expect("the host returns the length that the contract says")
}

/// Raw storage; see [`crate::storage`] for typed keys.
pub(crate) mod raw_storage {
    pub(crate) use super::imports::storage::{delete, get, put, scan};
}

/// Lines for the host's log.
pub mod log {
    use crate::Level;

    /// A line of this level, at most 4096 bytes.
    pub fn log(level: Level, message: &str) {
        super::imports::log::log(level, message);
    }
    /// For whoever looks for a fault.
    pub fn debug(message: &str) {
        log(Level::Debug, message);
    }
    /// For the operator.
    pub fn info(message: &str) {
        log(Level::Info, message);
    }
    /// For the operator, who should do something about it.
    pub fn warn(message: &str) {
        log(Level::Warn, message);
    }
}

/// What the federation is and has agreed on.
pub mod federation {
    use borsh::BorshDeserialize;

    use super::{fixed, imports::federation as host};
    use crate::{ChainOutPoint, ChainOutput, PeerId};

    /// The federation's id.
    pub fn id() -> [u8; 32] {
        fixed(host::id())
    }
    /// `bitcoin`, `testnet4`, `signet` or `regtest`.
    pub fn network() -> String {
        host::network()
    }
    /// All guardians, ascending.
    pub fn peers() -> Vec<PeerId> {
        host::peers()
    }
    /// n − f.
    pub fn threshold() -> u16 {
        host::threshold()
    }
    /// What `configure` returned when this instance was founded.
    pub fn config<T: BorshDeserialize>() -> T {
        crate::encoding::decode_own("the instance's config", &host::config())
    }
    /// The public keys under a label that `configure` asked for.
    pub fn public_keys(label: &str) -> Vec<Vec<u8>> {
        host::public_keys(label)
    }
    /// Agreed block height; 0 in a wallet that has not been told.
    pub fn block_height() -> u32 {
        host::block_height()
    }
    /// The agreed block's hash, internal byte order.
    pub fn block_hash(height: u32) -> Option<[u8; 32]> {
        host::block_hash(height).map(fixed)
    }
    /// The agreed output at this place of the chain.
    pub fn chain_output_at(out_point: &ChainOutPoint) -> Option<ChainOutput> {
        host::chain_output_at(out_point)
    }
    /// The agreed outputs that pay to `script`, oldest first: at most 100 in consensus and
    /// audit, at most 10,000 elsewhere.
    pub fn chain_outputs(script: &[u8]) -> Vec<ChainOutput> {
        host::chain_outputs(script)
    }
    /// Agreed fee rate, satoshi per 1000 virtual bytes.
    pub fn fee_rate() -> u64 {
        host::fee_rate()
    }
    /// Agreed time, seconds since 1970.
    pub fn unix_time() -> u64 {
        host::unix_time()
    }
    /// Whether guardians vote outputs with this script: its SHA-256 begins with
    /// 12 zero bits (fewer in a mock federation, where tests cannot wait).
    pub fn script_passes_filter(script: &[u8]) -> bool {
        #[cfg(target_arch = "wasm32")]
        let bits = 12;
        #[cfg(not(target_arch = "wasm32"))]
        let bits = crate::mock::filter_bits();
        let hash = super::crypto::sha256(script);
        u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]]).leading_zeros() >= bits
    }
}

/// Public mathematics, native and the same everywhere.
pub mod crypto {
    use super::{fixed, imports::crypto as host};

    /// SHA-256.
    pub fn sha256(data: &[u8]) -> [u8; 32] {
        fixed(host::sha256(data))
    }
    /// BIP 340; `key` is taken as its x coordinate.
    pub fn verify_schnorr(key: &[u8], message: &[u8; 32], signature: &[u8]) -> bool {
        host::verify_schnorr(key, message, signature)
    }
    /// ECDSA, low S.
    pub fn verify_ecdsa(key: &[u8], message: &[u8; 32], signature: &[u8]) -> bool {
        host::verify_ecdsa(key, message, signature)
    }
    /// `key` + t·G, with t bound to both; none if there is no such point.
    pub fn tweak_public_key(key: &[u8], tweak: &[u8; 32]) -> Option<[u8; 33]> {
        host::tweak_public_key(key, tweak).map(fixed)
    }
    /// The group key `label`'s signature over `message`.
    pub fn tbs_verify(label: &str, message: &[u8], signature: &[u8]) -> bool {
        host::tbs_verify(label, message, signature)
    }
    /// Whether the ciphertext was made for exactly these terms.
    pub fn tpe_verify(label: &str, ciphertext: &[u8], terms: &[u8]) -> bool {
        host::tpe_verify(label, ciphertext, terms)
    }
    /// What is in the ciphertext; none if the key is not the right one.
    pub fn tpe_decrypt(
        label: &str,
        ciphertext: &[u8],
        terms: &[u8],
        decryption_key: &[u8],
    ) -> Option<[u8; 32]> {
        host::tpe_decrypt(label, ciphertext, terms, decryption_key).map(fixed)
    }
}

/// What consensus allows guardians to sign or decrypt.
pub mod signing {
    use super::imports::signing as host;
    use crate::{Approval, Signable};

    /// From the end of this epoch on every guardian gives out its share.
    pub fn approve(what: &Signable) -> Approval {
        host::approve(what)
    }
    /// Forgets an approval; never that of a blinded message.
    pub fn revoke(what: &Signable) {
        host::revoke(what);
    }
}

/// Bitcoin that the instance holds for the federation.
pub mod treasury {
    use super::imports::treasury as host;
    use crate::{ChainOutPoint, ChainOutput};

    /// Takes an agreed output into the instance's books; none if there is no such
    /// output or it has been claimed.
    pub fn claim(output: &ChainOutPoint) -> Option<ChainOutput> {
        host::claim(output)
    }
    /// Takes satoshi out of them; false if there are not as many.
    pub fn release(satoshi: u64) -> bool {
        host::release(satoshi)
    }
}

/// This guardian's own secrets and own view of the chain.
pub mod guardian {
    use super::imports::guardian as host;
    use crate::{ChainOutPoint, OwnChain, PeerId, Signable};

    /// This guardian.
    pub fn whoami() -> PeerId {
        host::whoami()
    }
    /// Its shares; none where consensus has approved nothing.
    pub fn shares(what: &[Signable]) -> Vec<Option<Vec<u8>>> {
        host::shares(what)
    }
    /// How its own chain stands to the agreed one.
    pub fn chain() -> OwnChain {
        host::chain()
    }
    /// Where it sees a transaction that `broadcast` has named.
    pub fn confirmed_at(txid: &[u8; 32]) -> Option<u32> {
        host::confirmed_at(txid)
    }
    /// Those of the outputs that the instance holds which its chain has not got
    /// unspent. In `propose` alone, and with all of them.
    pub fn missing(held: &[ChainOutPoint]) -> Vec<ChainOutPoint> {
        host::missing(held)
    }
}

/// What a wallet lends its modules.
pub mod wallet {
    use super::{fixed, imports::wallet_host as host};
    use crate::{Blinding, PeerId, SignedBlinding};

    /// A secret of this wallet, this federation and this instance. It is the same again in
    /// a wallet that is restored from its words: do not number by a counter what leaves the
    /// wallet, because the counter begins anew there and the secret is somebody else's.
    pub fn derive_secret(path: &[u64]) -> [u8; 32] {
        fixed(host::derive_secret(path))
    }
    /// Its public key.
    pub fn derive_public_key(path: &[u64]) -> [u8; 33] {
        fixed(host::derive_public_key(path))
    }
    /// BIP 340 with it, tweaked if there is a tweak.
    pub fn sign_schnorr(path: &[u64], tweak: Option<&[u8; 32]>, message: &[u8; 32]) -> [u8; 64] {
        fixed(host::sign_schnorr(
            path,
            tweak.map(|tweak| &tweak[..]),
            message,
        ))
    }
    /// Not from the seed; different each time.
    pub fn random<const N: usize>() -> [u8; N] {
        fixed(host::random(N as u32))
    }
    /// This device's clock, seconds since 1970.
    pub fn unix_time() -> u64 {
        host::unix_time()
    }
    /// The federation's invite.
    pub fn invite() -> String {
        host::invite()
    }
    /// The blinded messages.
    pub fn tbs_blind(what: &[Blinding]) -> Vec<[u8; 48]> {
        host::tbs_blind(what).into_iter().map(fixed).collect()
    }
    /// The signatures, or the guardians whose share is bad.
    ///
    /// # Errors
    /// Names guardians to leave out.
    pub fn tbs_unblind(what: &[SignedBlinding]) -> Result<Vec<[u8; 48]>, Vec<PeerId>> {
        host::tbs_unblind(what).map(|list| list.into_iter().map(fixed).collect())
    }
    /// Encrypts to the federation; `seed` makes it repeatable.
    pub fn tpe_encrypt(
        label: &str,
        plaintext: &[u8; 32],
        terms: &[u8],
        seed: &[u8; 32],
    ) -> Vec<u8> {
        host::tpe_encrypt(label, plaintext, terms, seed)
    }
    /// The decryption key that the shares combine to.
    ///
    /// # Errors
    /// Names guardians to leave out.
    pub fn tpe_combine(
        label: &str,
        ciphertext: &[u8],
        terms: &[u8],
        shares: &[(PeerId, Vec<u8>)],
    ) -> Result<Vec<u8>, Vec<PeerId>> {
        host::tpe_combine(label, ciphertext, terms, shares)
    }
}
