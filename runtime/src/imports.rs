//! The host's side of every import.
//!
//! Each begins with the phase's gate and the price, both in [`Call::enter`]. Then
//! lengths: in `crypto` malformed bytes make a check false, anywhere else they trap.
//! What is left goes to [`Host`], or is done here where it needs no host.

use std::sync::Arc;

use modmint_core::{
    KeyKind, PublicKey,
    config::{HexBytes, InstanceKey},
    sha256,
};
use modmint_crypto::{secp, tbs, tpe};
use wasmtime::component::{HasSelf, Linker};

use crate::{
    Approval, ChainOutPoint, ChainOutput, Check, Context, ContractVersion, HostError, LogLevel,
    OwnChain, Signable, Trap,
    bindings::modmint::module::{
        crypto, federation, guardian, log, signing, storage, treasury, types, wallet_host,
    },
    call::Call,
    limits, prices,
    trap::Stop,
};

/// Every import of every world, under the names of every version of the contract; phases
/// decide which of them may be called.
pub(crate) fn add_to_linker(linker: &mut Linker<Call>) -> wasmtime::Result<()> {
    macro_rules! link {
        ($version:ident: $($interface:ident as $name:literal,)*) => {$(
            let mut instance = linker.instance(&$version.interface($name))?;
            $interface::add_to_linker_instance::<_, HasSelf<Call>>(&mut instance, |call| call)?;
        )*};
    }
    for version in ContractVersion::ALL {
        link! { version:
            log as "log",
            types as "types",
            storage as "storage",
            federation as "federation",
            crypto as "crypto",
            signing as "signing",
            treasury as "treasury",
            guardian as "guardian",
            wallet_host as "wallet-host",
        }
    }
    Ok(())
}

type Imported<T> = wasmtime::Result<T>;

/// Bytes of a fixed length, or a trap.
fn exactly<const N: usize>(bytes: &[u8]) -> Result<[u8; N], Stop> {
    bytes.try_into().map_err(|_| Trap::BadArgument.into())
}

fn at_most(length: usize, limit: usize) -> Result<(), Stop> {
    if length <= limit {
        Ok(())
    } else {
        Err(Trap::BadArgument.into())
    }
}

fn storage_key(key: &[u8]) -> Result<(), Stop> {
    if key.is_empty() {
        return Err(Trap::BadArgument.into());
    }
    at_most(key.len(), limits::MAX_KEY_BYTES)
}

impl Call {
    fn context(&self) -> Result<Arc<Context>, Stop> {
        self.context.clone().ok_or_else(|| {
            HostError("a call without a federation passed the phase's gate".into()).into()
        })
    }
}

/// The instance's key of this label and kind; labels are bound to a kind.
fn key<'a>(context: &'a Context, label: &str, kind: KeyKind) -> Result<&'a InstanceKey, Stop> {
    any_key(context, label).and_then(|key| {
        if key.kind == kind {
            Ok(key)
        } else {
            Err(Trap::BadArgument.into())
        }
    })
}

fn any_key<'a>(context: &'a Context, label: &str) -> Result<&'a InstanceKey, Stop> {
    context
        .instance
        .keys
        .iter()
        .find(|key| key.label == label)
        .ok_or_else(|| Trap::BadArgument.into())
}

fn group_key(key: &InstanceKey) -> Result<&HexBytes, Stop> {
    key.public_keys.first().ok_or_else(|| {
        HostError(format!(
            "the config has no public key for {:?}: it was checked badly",
            key.label
        ))
        .into()
    })
}

/// Terms, bound to federation and instance.
fn bound(context: &Context, terms: &[u8]) -> Vec<u8> {
    [
        context.federation.0.as_slice(),
        &context.instance.id.0.to_be_bytes(),
        terms,
    ]
    .concat()
}

impl types::Host for Call {}

impl log::Host for Call {
    fn log(&mut self, level: log::Level, message: String) -> Imported<()> {
        let host = self.enter(&prices::LOG, message.len(), 0)?;
        let level = match level {
            log::Level::Debug => LogLevel::Debug,
            log::Level::Info => LogLevel::Info,
            log::Level::Warn => LogLevel::Warn,
            log::Level::Error => LogLevel::Error,
        };
        self.log.line(&*host, level, &message);
        Ok(())
    }
}

impl storage::Host for Call {
    fn get(&mut self, key: Vec<u8>) -> Imported<Option<Vec<u8>>> {
        let host = self.enter(&prices::GET, key.len(), 0)?;
        storage_key(&key)?;
        let value = host.get(&key).map_err(Stop::from)?;
        let bytes = value.as_ref().map_or(0, Vec::len);
        self.charge(prices::GET.byte.saturating_mul(bytes as u64))?;
        Ok(value)
    }

    fn put(&mut self, key: Vec<u8>, value: Vec<u8>) -> Imported<()> {
        let host = self.enter(&prices::PUT, key.len() + value.len(), 0)?;
        storage_key(&key)?;
        at_most(value.len(), limits::MAX_VALUE_BYTES)?;
        Ok(host.put(&key, &value).map_err(Stop::from)?)
    }

    fn delete(&mut self, key: Vec<u8>) -> Imported<()> {
        let host = self.enter(&prices::DELETE, key.len(), 0)?;
        storage_key(&key)?;
        Ok(host.delete(&key).map_err(Stop::from)?)
    }

    fn scan(
        &mut self,
        prefix: Vec<u8>,
        after: Option<Vec<u8>>,
        limit: u32,
    ) -> Imported<Vec<(Vec<u8>, Vec<u8>)>> {
        let price = &prices::SCAN;
        let after_len = after.as_ref().map_or(0, Vec::len);
        let host = self.enter(price, prefix.len() + after_len, 0)?;
        at_most(prefix.len(), limits::MAX_KEY_BYTES)?;
        at_most(after_len, limits::MAX_KEY_BYTES)?;
        // No more is looked for than the fuel that is left can pay, and one element
        // or byte over, so that a call which cannot pay ends.
        let affordable =
            |each: u64| usize::try_from((self.available() / each).saturating_add(1)).ok();
        let limit = affordable(price.item)
            .unwrap_or(usize::MAX)
            .min(limit as usize);
        let bytes = affordable(price.byte)
            .unwrap_or(usize::MAX)
            .min(limits::MAX_SCAN_BYTES);
        let found = host
            .scan(&prefix, after.as_deref(), limit, bytes)
            .map_err(Stop::from)?;
        let bytes = found
            .iter()
            .map(|(key, value)| key.len() + value.len())
            .sum();
        self.charge(price.price(bytes, found.len()) - price.base)?;
        Ok(found)
    }
}

fn chain_output(output: ChainOutput) -> federation::ChainOutput {
    federation::ChainOutput {
        out_point: federation::ChainOutPoint {
            txid: output.out_point.txid.to_vec(),
            vout: output.out_point.vout,
        },
        script: output.script,
        satoshi: output.satoshi,
        height: output.height,
    }
}

fn chain_out_point(out_point: &federation::ChainOutPoint) -> Result<ChainOutPoint, Stop> {
    Ok(ChainOutPoint {
        txid: exactly(&out_point.txid)?,
        vout: out_point.vout,
    })
}

impl federation::Host for Call {
    fn id(&mut self) -> Imported<Vec<u8>> {
        self.enter(&prices::ID, 32, 0)?;
        Ok(self.context()?.federation.0.to_vec())
    }

    fn network(&mut self) -> Imported<String> {
        self.enter(&prices::NETWORK, 0, 0)?;
        Ok(self.context()?.network.name().into())
    }

    fn peers(&mut self) -> Imported<Vec<u16>> {
        self.gate(&prices::PEERS)?;
        let context = self.context()?;
        self.charge(prices::PEERS.price(2 * usize::from(context.peers), 0))?;
        Ok((0..context.peers).collect())
    }

    fn threshold(&mut self) -> Imported<u16> {
        self.enter(&prices::THRESHOLD, 0, 0)?;
        Ok(self.context()?.threshold)
    }

    fn config(&mut self) -> Imported<Vec<u8>> {
        self.gate(&prices::CONFIG)?;
        let context = self.context()?;
        self.charge(prices::CONFIG.price(context.instance.config.len(), 0))?;
        Ok(context.instance.config.clone())
    }

    fn public_keys(&mut self, label: String) -> Imported<Vec<Vec<u8>>> {
        self.enter(&prices::PUBLIC_KEYS, label.len(), 0)?;
        let context = self.context()?;
        let keys = &any_key(&context, &label)?.public_keys;
        let bytes = keys.iter().map(|key| key.0.len()).sum();
        self.charge(prices::PUBLIC_KEYS.price(bytes, keys.len()))?;
        Ok(keys.iter().map(|key| key.0.clone()).collect())
    }

    fn block_height(&mut self) -> Imported<u32> {
        let host = self.enter(&prices::BLOCK_HEIGHT, 0, 0)?;
        Ok(host.block_height().map_err(Stop::from)?)
    }

    fn block_hash(&mut self, height: u32) -> Imported<Option<Vec<u8>>> {
        let host = self.enter(&prices::BLOCK_HASH, 32, 0)?;
        let hash = host.block_hash(height).map_err(Stop::from)?;
        Ok(hash.map(|hash| hash.to_vec()))
    }

    fn chain_output_at(
        &mut self,
        out_point: federation::ChainOutPoint,
    ) -> Imported<Option<federation::ChainOutput>> {
        let host = self.enter(&prices::CHAIN_OUTPUT_AT, out_point.txid.len(), 0)?;
        let out_point = chain_out_point(&out_point)?;
        let output = host.chain_output_at(&out_point).map_err(Stop::from)?;
        Ok(output.map(chain_output))
    }

    fn chain_outputs(&mut self, script: Vec<u8>) -> Imported<Vec<federation::ChainOutput>> {
        let price = &prices::CHAIN_OUTPUTS;
        let host = self.enter(price, script.len(), 0)?;
        let outputs = host.chain_outputs(&script).map_err(Stop::from)?;
        let bytes = outputs.iter().map(|output| output.script.len()).sum();
        self.charge(price.price(bytes, outputs.len()) - price.base)?;
        Ok(outputs.into_iter().map(chain_output).collect())
    }

    fn fee_rate(&mut self) -> Imported<u64> {
        let host = self.enter(&prices::FEE_RATE, 0, 0)?;
        Ok(host.fee_rate().map_err(Stop::from)?)
    }

    fn unix_time(&mut self) -> Imported<u64> {
        let host = self.enter(&prices::UNIX_TIME, 0, 0)?;
        Ok(host.unix_time().map_err(Stop::from)?)
    }
}

impl Call {
    /// The verdict on a signature check of malformed or well-formed bytes.
    fn signed(
        &mut self,
        import: &prices::Import,
        key: Vec<u8>,
        message: Vec<u8>,
        signature: Vec<u8>,
        check: fn(PublicKey, [u8; 32], Vec<u8>) -> Check,
    ) -> Imported<bool> {
        let host = self.enter(import, key.len() + message.len() + signature.len(), 0)?;
        let (Ok(key), Ok(message)) = (key.as_slice().try_into(), message.as_slice().try_into())
        else {
            return Ok(false);
        };
        if signature.len() != 64 {
            return Ok(false);
        }
        let check = check(PublicKey(key), message, signature);
        Ok(host.check(&check).map_err(Stop::from)?)
    }
}

impl crypto::Host for Call {
    fn sha256(&mut self, data: Vec<u8>) -> Imported<Vec<u8>> {
        self.enter(&prices::SHA256, data.len(), 0)?;
        Ok(sha256(&data).to_vec())
    }

    fn verify_schnorr(
        &mut self,
        key: Vec<u8>,
        message: Vec<u8>,
        signature: Vec<u8>,
    ) -> Imported<bool> {
        self.signed(
            &prices::VERIFY_SCHNORR,
            key,
            message,
            signature,
            |key, message, signature| Check::Schnorr {
                key,
                message,
                signature,
            },
        )
    }

    fn verify_ecdsa(
        &mut self,
        key: Vec<u8>,
        message: Vec<u8>,
        signature: Vec<u8>,
    ) -> Imported<bool> {
        self.signed(
            &prices::VERIFY_ECDSA,
            key,
            message,
            signature,
            |key, message, signature| Check::Ecdsa {
                key,
                message,
                signature,
            },
        )
    }

    fn tweak_public_key(&mut self, key: Vec<u8>, tweak: Vec<u8>) -> Imported<Option<Vec<u8>>> {
        self.enter(&prices::TWEAK_PUBLIC_KEY, key.len() + tweak.len(), 0)?;
        let Ok(tweak) = tweak.as_slice().try_into() else {
            return Ok(None);
        };
        Ok(secp::tweak_public_key(&key, &tweak).map(|key| key.to_vec()))
    }

    fn tbs_verify(
        &mut self,
        label: String,
        message: Vec<u8>,
        signature: Vec<u8>,
    ) -> Imported<bool> {
        let bytes = label.len() + message.len() + signature.len();
        let host = self.enter(&prices::TBS_VERIFY, bytes, 0)?;
        let context = self.context()?;
        let key = group_key(key(&context, &label, KeyKind::BlindSignature)?)?;
        if signature.len() != 48 {
            return Ok(false);
        }
        let check = Check::Tbs {
            public_key: key.0.clone(),
            message,
            signature,
        };
        Ok(host.check(&check).map_err(Stop::from)?)
    }

    fn tpe_verify(&mut self, label: String, ciphertext: Vec<u8>, terms: Vec<u8>) -> Imported<bool> {
        let bytes = label.len() + ciphertext.len() + terms.len();
        let host = self.enter(&prices::TPE_VERIFY, bytes, 0)?;
        let context = self.context()?;
        let check = Check::Tpe {
            public_key: group_key(key(&context, &label, KeyKind::Decryption)?)?
                .0
                .clone(),
            ciphertext,
            terms: bound(&context, &terms),
        };
        Ok(host.check(&check).map_err(Stop::from)?)
    }

    fn tpe_decrypt(
        &mut self,
        label: String,
        ciphertext: Vec<u8>,
        terms: Vec<u8>,
        decryption_key: Vec<u8>,
    ) -> Imported<Option<Vec<u8>>> {
        let bytes = label.len() + ciphertext.len() + terms.len() + decryption_key.len();
        self.enter(&prices::TPE_DECRYPT, bytes, 0)?;
        let context = self.context()?;
        let key = group_key(key(&context, &label, KeyKind::Decryption)?)?;
        let terms = bound(&context, &terms);
        let plaintext = tpe::decrypt(&key.0, &ciphertext, &terms, &decryption_key);
        Ok(plaintext.map(|plaintext| plaintext.to_vec()))
    }
}

fn signable_bytes(what: &signing::Signable) -> usize {
    what.label.len() + what.message.len() + what.terms.len()
}

/// As the host knows it; terms are there for decryption alone, and bound.
fn signable(context: &Context, what: signing::Signable, kind: KeyKind) -> Signable {
    Signable {
        label: what.label,
        message: what.message,
        terms: match kind {
            KeyKind::Decryption => bound(context, &what.terms),
            KeyKind::BlindSignature | KeyKind::Multisig => Vec::new(),
        },
    }
}

impl signing::Host for Call {
    fn approve(&mut self, what: signing::Signable) -> Imported<signing::Approval> {
        let host = self.enter(&prices::APPROVE, signable_bytes(&what), 0)?;
        let context = self.context()?;
        let key = any_key(&context, &what.label)?;
        let well_formed = match key.kind {
            KeyKind::BlindSignature => {
                what.terms.is_empty() && tbs::valid_blinded_message(&what.message)
            }
            KeyKind::Multisig => what.terms.is_empty() && what.message.len() == 64,
            KeyKind::Decryption => {
                self.charge(prices::APPROVE_DECRYPTION)?;
                let check = Check::Tpe {
                    public_key: group_key(key)?.0.clone(),
                    ciphertext: what.message.clone(),
                    terms: bound(&context, &what.terms),
                };
                host.check(&check).map_err(Stop::from)?
            }
        };
        if !well_formed {
            return Ok(signing::Approval::Malformed);
        }
        let what = signable(&context, what, key.kind);
        Ok(match host.approve(&what).map_err(Stop::from)? {
            Approval::Approved => signing::Approval::Approved,
            Approval::Before => signing::Approval::Before,
        })
    }

    fn revoke(&mut self, what: signing::Signable) -> Imported<()> {
        let host = self.enter(&prices::REVOKE, signable_bytes(&what), 0)?;
        let context = self.context()?;
        let kind = any_key(&context, &what.label)?.kind;
        if kind == KeyKind::BlindSignature {
            return Err(Stop::from(Trap::BadArgument).into());
        }
        let what = signable(&context, what, kind);
        Ok(host.revoke(&what).map_err(Stop::from)?)
    }
}

impl treasury::Host for Call {
    fn claim(
        &mut self,
        output: federation::ChainOutPoint,
    ) -> Imported<Option<federation::ChainOutput>> {
        let host = self.enter(&prices::CLAIM, output.txid.len(), 0)?;
        let out_point = chain_out_point(&output)?;
        let output = host.claim(&out_point).map_err(Stop::from)?;
        Ok(output.map(chain_output))
    }

    fn release(&mut self, satoshi: u64) -> Imported<bool> {
        let host = self.enter(&prices::RELEASE, 0, 0)?;
        Ok(host.release(satoshi).map_err(Stop::from)?)
    }
}

impl guardian::Host for Call {
    fn whoami(&mut self) -> Imported<u16> {
        let host = self.enter(&prices::WHOAMI, 0, 0)?;
        Ok(host.whoami().map_err(Stop::from)?.0)
    }

    fn shares(&mut self, what: Vec<signing::Signable>) -> Imported<Vec<Option<Vec<u8>>>> {
        let bytes = what.iter().map(signable_bytes).sum();
        let host = self.enter(&prices::SHARES, bytes, what.len())?;
        let context = self.context()?;
        let mut shares = vec![None; what.len()];
        let mut asked = Vec::new();
        let mut places = Vec::new();
        for (place, what) in what.into_iter().enumerate() {
            let kind = any_key(&context, &what.label)?.kind;
            // Signatures on chain are made when this guardian proposes, and not
            // because somebody asks.
            let here = kind != KeyKind::Multisig || self.phase == prices::Phase::Propose;
            if here && (kind == KeyKind::Decryption || what.terms.is_empty()) {
                asked.push(signable(&context, what, kind));
                places.push(place);
            }
        }
        let given = host.shares(&asked).map_err(Stop::from)?;
        if given.len() != asked.len() {
            return Err(Stop::from(HostError("not one answer for each share".into())).into());
        }
        for (place, share) in places.into_iter().zip(given) {
            shares[place] = share;
        }
        Ok(shares)
    }

    fn chain(&mut self) -> Imported<guardian::OwnChain> {
        let host = self.enter(&prices::CHAIN, 0, 0)?;
        Ok(match host.chain().map_err(Stop::from)? {
            OwnChain::Unknown => guardian::OwnChain::Unknown,
            OwnChain::Follows(height) => guardian::OwnChain::Follows(height),
            OwnChain::Differs => guardian::OwnChain::Differs,
        })
    }

    fn confirmed_at(&mut self, txid: Vec<u8>) -> Imported<Option<u32>> {
        let host = self.enter(&prices::CONFIRMED_AT, txid.len(), 0)?;
        let txid = exactly(&txid)?;
        Ok(host.confirmed_at(&txid).map_err(Stop::from)?)
    }

    fn missing(
        &mut self,
        held: Vec<federation::ChainOutPoint>,
    ) -> Imported<Vec<federation::ChainOutPoint>> {
        let bytes = held.iter().map(|output| output.txid.len() + 4).sum();
        let host = self.enter(&prices::MISSING, bytes, held.len())?;
        let held = held
            .iter()
            .map(chain_out_point)
            .collect::<Result<Vec<_>, _>>()?;
        let missing = host.missing(&held).map_err(Stop::from)?;
        let shown = missing.iter().map(|output| federation::ChainOutPoint {
            txid: output.txid.to_vec(),
            vout: output.vout,
        });
        Ok(shown.collect())
    }
}

/// The secret of a path: 32 bytes, a valid secp256k1 key.
fn secret(host: &dyn crate::Host, path: &[u64]) -> Result<[u8; 32], Stop> {
    at_most(path.len(), limits::MAX_PATH)?;
    let secret = host.derive_secret(path)?;
    if secp::valid_secret(&secret) {
        Ok(secret)
    } else {
        Err(HostError("the wallet derived a secret that is no key".into()).into())
    }
}

fn blinding_bytes(what: &wallet_host::Blinding) -> usize {
    what.label.len() + what.message.len() + 8 * what.path.len()
}

fn shares_bytes(shares: &[(u16, Vec<u8>)]) -> usize {
    shares.iter().map(|(_, share)| share.len() + 2).sum()
}

impl wallet_host::Host for Call {
    fn derive_secret(&mut self, path: Vec<u64>) -> Imported<Vec<u8>> {
        let host = self.enter(&prices::DERIVE_SECRET, 8 * path.len(), 0)?;
        Ok(secret(&*host, &path)?.to_vec())
    }

    fn derive_public_key(&mut self, path: Vec<u64>) -> Imported<Vec<u8>> {
        let host = self.enter(&prices::DERIVE_PUBLIC_KEY, 8 * path.len(), 0)?;
        Ok(secp::public_key(&secret(&*host, &path)?).to_vec())
    }

    fn sign_schnorr(
        &mut self,
        path: Vec<u64>,
        tweak: Option<Vec<u8>>,
        message: Vec<u8>,
    ) -> Imported<Vec<u8>> {
        let host = self.enter(&prices::SIGN_SCHNORR, 8 * path.len() + message.len(), 0)?;
        let message = exactly(&message)?;
        let secret = secret(&*host, &path)?;
        let signature = match tweak {
            None => secp::sign_schnorr(&secret, &message),
            Some(tweak) => {
                let tweaked =
                    secp::tweak_secret(&secret, &exactly(&tweak)?).ok_or(Trap::BadArgument)?;
                secp::sign_schnorr(&tweaked, &message)
            }
        };
        Ok(signature.to_vec())
    }

    fn random(&mut self, length: u32) -> Imported<Vec<u8>> {
        let host = self.enter(&prices::RANDOM, length as usize, 0)?;
        at_most(length as usize, limits::MAX_RANDOM_BYTES)?;
        Ok(host.random(length as usize).map_err(Stop::from)?)
    }

    fn unix_time(&mut self) -> Imported<u64> {
        let host = self.enter(&prices::DEVICE_TIME, 0, 0)?;
        Ok(host.device_time().map_err(Stop::from)?)
    }

    fn invite(&mut self) -> Imported<String> {
        let host = self.enter(&prices::INVITE, 0, 0)?;
        Ok(host.invite().map_err(Stop::from)?)
    }

    fn tbs_blind(&mut self, what: Vec<wallet_host::Blinding>) -> Imported<Vec<Vec<u8>>> {
        let bytes = what.iter().map(blinding_bytes).sum();
        let host = self.enter(&prices::TBS_BLIND, bytes, what.len())?;
        let context = self.context()?;
        what.iter()
            .map(|what| {
                key(&context, &what.label, KeyKind::BlindSignature)?;
                let factor = secret(&*host, &what.path)?;
                Ok(tbs::blind(&what.message, &factor).to_vec())
            })
            .collect()
    }

    fn tbs_unblind(
        &mut self,
        what: Vec<wallet_host::SignedBlinding>,
    ) -> Imported<Result<Vec<Vec<u8>>, Vec<u16>>> {
        let bytes = what
            .iter()
            .map(|what| blinding_bytes(&what.blinding) + shares_bytes(&what.shares))
            .sum();
        let host = self.enter(&prices::TBS_UNBLIND, bytes, what.len())?;
        let context = self.context()?;
        let factors = what
            .iter()
            .map(|what| secret(&*host, &what.blinding.path))
            .collect::<Result<Vec<_>, _>>()?;
        let items = what
            .iter()
            .zip(&factors)
            .map(|(what, factor)| {
                let key = key(&context, &what.blinding.label, KeyKind::BlindSignature)?;
                Ok(tbs::SignedBlinding {
                    message: &what.blinding.message,
                    factor,
                    group_key: &group_key(key)?.0,
                    share_keys: &key.share_keys,
                    shares: &what.shares,
                    threshold: context.threshold.into(),
                })
            })
            .collect::<Result<Vec<_>, Stop>>()?;
        Ok(tbs::unblind(&items).map(|signatures| signatures.iter().map(|s| s.to_vec()).collect()))
    }

    fn tpe_encrypt(
        &mut self,
        label: String,
        plaintext: Vec<u8>,
        terms: Vec<u8>,
        seed: Vec<u8>,
    ) -> Imported<Vec<u8>> {
        self.enter(&prices::TPE_ENCRYPT, terms.len(), 0)?;
        let context = self.context()?;
        let key = group_key(key(&context, &label, KeyKind::Decryption)?)?;
        let terms = bound(&context, &terms);
        let ciphertext = tpe::encrypt(&key.0, &exactly(&plaintext)?, &terms, &exactly(&seed)?);
        ciphertext.ok_or_else(|| {
            Stop::from(HostError(
                "the config's decryption key is no point: it was checked badly".into(),
            ))
            .into()
        })
    }

    fn tpe_combine(
        &mut self,
        label: String,
        ciphertext: Vec<u8>,
        terms: Vec<u8>,
        shares: Vec<(u16, Vec<u8>)>,
    ) -> Imported<Result<Vec<u8>, Vec<u16>>> {
        let bytes = ciphertext.len() + terms.len() + shares_bytes(&shares);
        self.enter(&prices::TPE_COMBINE, bytes, shares.len())?;
        let context = self.context()?;
        let key = key(&context, &label, KeyKind::Decryption)?;
        Ok(tpe::combine(&tpe::Combination {
            public_key: &group_key(key)?.0,
            share_keys: &key.share_keys,
            ciphertext: &ciphertext,
            terms: &bound(&context, &terms),
            shares: &shares,
            threshold: context.threshold.into(),
        }))
    }
}
