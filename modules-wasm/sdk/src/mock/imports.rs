//! The contract's imports over the mock, with the same signatures as the
//! component's. They panic where the contract traps, and outside of any call.

#![allow(missing_docs, reason = "the contract says what they are")]

use modmint_crypto::{secp, tbs, tpe};

use super::call::{Call, Import, WalletSide, import};

/// Malformed bytes where the contract traps.
fn array<const N: usize>(what: &str, bytes: &[u8]) -> [u8; N] {
    bytes
        .try_into()
        .unwrap_or_else(|_| panic!("trap: {what} is {} bytes, not {N}", bytes.len()))
}

fn check_key(key: &[u8]) {
    assert!(
        (1..=256).contains(&key.len()),
        "trap: a storage key of {} bytes",
        key.len()
    );
}

pub mod log {
    use crate::Level;

    /// Nobody reads it.
    pub fn log(_level: Level, _message: &str) {}
}

pub mod storage {
    use super::{Import, check_key, import};

    pub fn get(key: &[u8]) -> Option<Vec<u8>> {
        check_key(key);
        import(Import::StorageRead, "storage.get", |call| {
            call.storage.get(key).cloned()
        })
    }
    pub fn put(key: &[u8], value: &[u8]) {
        check_key(key);
        assert!(
            value.len() <= 131_072,
            "trap: a stored value of {} bytes",
            value.len()
        );
        import(Import::StorageWrite, "storage.put", |call| {
            call.storage.insert(key.to_vec(), value.to_vec());
        });
    }
    pub fn delete(key: &[u8]) {
        check_key(key);
        import(Import::StorageWrite, "storage.delete", |call| {
            call.storage.remove(key);
        });
    }
    pub fn scan(prefix: &[u8], after: Option<&[u8]>, limit: u32) -> Vec<(Vec<u8>, Vec<u8>)> {
        import(Import::StorageRead, "storage.scan", |call| {
            let mut bytes = 0;
            call.storage
                .iter()
                .filter(|(key, _)| key.starts_with(prefix))
                .filter(|(key, _)| after.is_none_or(|after| key.as_slice() > after))
                .take(limit as usize)
                .take_while(|(key, value)| {
                    bytes += key.len() + value.len();
                    bytes <= 1 << 20
                })
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect()
        })
    }
}

pub mod federation {
    use super::{Import, array, import};
    use crate::{ChainOutPoint, ChainOutput, mock::Phase};

    pub fn id() -> Vec<u8> {
        import(Import::Constants, "federation.id", |call| {
            call.state.borrow().id.to_vec()
        })
    }
    pub fn network() -> String {
        import(Import::Constants, "federation.network", |_| {
            "regtest".to_owned()
        })
    }
    pub fn peers() -> Vec<u16> {
        import(Import::Constants, "federation.peers", |call| {
            (0..call.state.borrow().guardians.len() as u16).collect()
        })
    }
    pub fn threshold() -> u16 {
        import(Import::Constants, "federation.threshold", |call| {
            call.state.borrow().threshold() as u16
        })
    }
    pub fn config() -> Vec<u8> {
        import(Import::Constants, "federation.config", |call| {
            let state = call.state.borrow();
            state.instances[usize::from(call.instance)].config.clone()
        })
    }
    pub fn public_keys(label: &str) -> Vec<Vec<u8>> {
        import(Import::Constants, "federation.public-keys", |call| {
            call.key(label, |key| key.public_keys())
        })
    }
    pub fn block_height() -> u32 {
        import(Import::Agreed, "federation.block-height", |call| {
            call.state.borrow().height
        })
    }
    pub fn block_hash(height: u32) -> Option<Vec<u8>> {
        import(Import::Agreed, "federation.block-hash", |call| {
            (height <= call.state.borrow().height)
                .then(|| modmint_core::sha256(&height.to_be_bytes()).to_vec())
        })
    }
    pub fn chain_output_at(out_point: &ChainOutPoint) -> Option<ChainOutput> {
        let txid = array("a txid", &out_point.txid);
        import(Import::Agreed, "federation.chain-output-at", |call| {
            call.state.borrow().chain_output(txid, out_point.vout)
        })
    }
    pub fn chain_outputs(script: &[u8]) -> Vec<ChainOutput> {
        import(Import::Agreed, "federation.chain-outputs", |call| {
            let state = call.state.borrow();
            let paying = state.chain.iter().filter(|o| o.script == script);
            // As the host does: results in consensus are the same in every release.
            let limit = match call.phase {
                Phase::Propose | Phase::Query => 10_000,
                _ => 100,
            };
            paying.take(limit).cloned().collect()
        })
    }
    pub fn fee_rate() -> u64 {
        import(Import::Agreed, "federation.fee-rate", |call| {
            call.state.borrow().fee_rate
        })
    }
    pub fn unix_time() -> u64 {
        import(Import::Agreed, "federation.unix-time", |call| {
            call.state.borrow().time
        })
    }
}

pub mod crypto {
    use super::{Import, array, import, secp, tbs, tpe};

    pub fn sha256(data: &[u8]) -> Vec<u8> {
        import(Import::Crypto, "crypto.sha256", |_| {
            modmint_core::sha256(data).to_vec()
        })
    }
    pub fn verify_schnorr(key: &[u8], message: &[u8], signature: &[u8]) -> bool {
        import(Import::Crypto, "crypto.verify-schnorr", |_| {
            message
                .try_into()
                .is_ok_and(|message| secp::verify_schnorr(key, message, signature))
        })
    }
    pub fn verify_ecdsa(key: &[u8], message: &[u8], signature: &[u8]) -> bool {
        import(Import::Crypto, "crypto.verify-ecdsa", |_| {
            message
                .try_into()
                .is_ok_and(|message| secp::verify_ecdsa(key, message, signature))
        })
    }
    pub fn tweak_public_key(key: &[u8], tweak: &[u8]) -> Option<Vec<u8>> {
        import(Import::Crypto, "crypto.tweak-public-key", |_| {
            let tweak = tweak.try_into().ok()?;
            secp::tweak_public_key(key, tweak).map(Vec::from)
        })
    }
    pub fn tbs_verify(label: &str, message: &[u8], signature: &[u8]) -> bool {
        import(Import::Crypto, "crypto.tbs-verify", |call| {
            call.key(label, |key| {
                tbs::verify(&tbs::TbsCheck {
                    public_key: key.group_key(),
                    message,
                    signature,
                })
            })
        })
    }
    pub fn tpe_verify(label: &str, ciphertext: &[u8], terms: &[u8]) -> bool {
        import(Import::Crypto, "crypto.tpe-verify", |call| {
            let terms = call.terms(terms);
            call.key(label, |key| {
                tpe::verify(key.group_key(), ciphertext, &terms)
            })
        })
    }
    pub fn tpe_decrypt(
        label: &str,
        ciphertext: &[u8],
        terms: &[u8],
        decryption_key: &[u8],
    ) -> Option<Vec<u8>> {
        import(Import::Crypto, "crypto.tpe-decrypt", |call| {
            let terms = call.terms(terms);
            call.key(label, |key| {
                tpe::decrypt(key.group_key(), ciphertext, &terms, decryption_key)
                    .map(|plaintext| array::<32>("a plaintext", &plaintext).to_vec())
            })
        })
    }
}

pub mod signing {
    use super::{Import, import};
    use crate::{Approval, Signable};

    pub fn approve(what: &Signable) -> Approval {
        import(Import::Signing, "signing.approve", |call| {
            let terms = call.terms(&what.terms);
            if !call.key(&what.label, |key| key.can_sign(&what.message, &terms)) {
                return Approval::Malformed;
            }
            if call.approvals(|approvals| approvals.insert(key_of(what))) {
                Approval::Approved
            } else {
                Approval::Before
            }
        })
    }
    pub fn revoke(what: &Signable) {
        import(Import::Signing, "signing.revoke", |call| {
            assert!(
                !call.key(&what.label, |key| key.signs_blindly()),
                "trap: the approval of a blinded message is never forgotten"
            );
            call.approvals(|approvals| approvals.remove(&key_of(what)));
        });
    }
    pub(super) fn key_of(what: &Signable) -> (String, Vec<u8>, Vec<u8>) {
        (what.label.clone(), what.message.clone(), what.terms.clone())
    }
}

pub mod treasury {
    use super::{Import, array, import};
    use crate::{ChainOutPoint, ChainOutput};

    pub fn claim(output: &ChainOutPoint) -> Option<ChainOutput> {
        let txid = array("a txid", &output.txid);
        import(Import::Treasury, "treasury.claim", |call| {
            let mut state = call.state.borrow_mut();
            let found = state.chain_output(txid, output.vout)?;
            if !state.books.claimed.insert((txid, output.vout)) {
                return None;
            }
            *state.books.treasury.entry(call.instance).or_default() += found.satoshi;
            Some(found)
        })
    }
    pub fn release(satoshi: u64) -> bool {
        import(Import::Treasury, "treasury.release", |call| {
            let mut state = call.state.borrow_mut();
            let held = state.books.treasury.entry(call.instance).or_default();
            let enough = satoshi <= *held;
            if enough {
                *held -= satoshi;
            }
            enough
        })
    }
}

pub mod guardian {
    use super::{Import, array, import};
    use crate::{ChainOutPoint, OwnChain, Signable, mock::Phase};

    pub fn whoami() -> u16 {
        import(Import::Guardian, "guardian.whoami", |call| call.guardian())
    }
    pub fn shares(what: &[Signable]) -> Vec<Option<Vec<u8>>> {
        import(Import::Guardian, "guardian.shares", |call| {
            let guardian = call.guardian();
            let proposes = call.phase == Phase::Propose;
            what.iter()
                .map(|what| {
                    let approved = call
                        .approvals(|approvals| approvals.contains(&super::signing::key_of(what)));
                    let terms = call.terms(&what.terms);
                    call.key(&what.label, |key| {
                        (approved && (proposes || !key.is_multisig()))
                            .then(|| key.share(guardian, &what.message, &terms))
                    })
                })
                .collect()
        })
    }
    pub fn chain() -> OwnChain {
        import(Import::Guardian, "guardian.chain", |call| {
            let state = call.state.borrow();
            match state.elsewhere.contains(&call.guardian()) {
                true => OwnChain::Differs,
                false => OwnChain::Follows(state.height + 6),
            }
        })
    }
    pub fn confirmed_at(txid: &[u8]) -> Option<u32> {
        let txid = array("a txid", txid);
        import(Import::Guardian, "guardian.confirmed-at", |call| {
            call.state.borrow().confirmed.get(&txid).copied()
        })
    }
    pub fn missing(held: &[ChainOutPoint]) -> Vec<ChainOutPoint> {
        import(Import::Propose, "guardian.missing", |call| {
            let state = call.state.borrow();
            let lost = |output: &&ChainOutPoint| state.lost.contains(output);
            held.iter().filter(lost).cloned().collect()
        })
    }
}

pub mod wallet_host {
    use super::{Import, WalletSide, array, derive, import, secp, tbs, tpe};
    use crate::{Blinding, SignedBlinding};

    pub fn derive_secret(path: &[u64]) -> Vec<u8> {
        import(Import::WalletHost, "wallet-host.derive-secret", |call| {
            derive(call, path).to_vec()
        })
    }
    pub fn derive_public_key(path: &[u64]) -> Vec<u8> {
        import(
            Import::WalletHost,
            "wallet-host.derive-public-key",
            |call| secp::public_key(&derive(call, path)).to_vec(),
        )
    }
    pub fn sign_schnorr(path: &[u64], tweak: Option<&[u8]>, message: &[u8]) -> Vec<u8> {
        import(Import::WalletHost, "wallet-host.sign-schnorr", |call| {
            let mut secret = derive(call, path);
            if let Some(tweak) = tweak {
                let tweak = array("a tweak", tweak);
                let tweaked = secp::tweak_secret(&secret, &tweak);
                secret = *tweaked.expect("a hash is no secret's negation");
            }
            secp::sign_schnorr(&secret, &array("a message's hash", message)).to_vec()
        })
    }
    pub fn random(length: u32) -> Vec<u8> {
        import(Import::WalletHost, "wallet-host.random", |call| {
            let mut bytes = Vec::new();
            while bytes.len() < length as usize {
                call.wallet(|wallet: &mut WalletSide| {
                    wallet.drawn += 1;
                    let drawn = wallet.drawn.to_be_bytes();
                    bytes.extend(modmint_core::tagged_hash(
                        "mock/random",
                        &[&wallet.seed, &drawn],
                    ));
                });
            }
            bytes.truncate(length as usize);
            bytes
        })
    }
    pub fn unix_time() -> u64 {
        import(Import::WalletHost, "wallet-host.unix-time", |call| {
            call.state.borrow().time
        })
    }
    pub fn invite() -> String {
        import(Import::WalletHost, "wallet-host.invite", |_| {
            "modmint1mock".to_owned()
        })
    }
    pub fn tbs_blind(what: &[Blinding]) -> Vec<Vec<u8>> {
        import(Import::WalletHost, "wallet-host.tbs-blind", |call| {
            what.iter()
                .map(|what| tbs::blind(&what.message, &derive(call, &what.path)).to_vec())
                .collect()
        })
    }
    pub fn tbs_unblind(what: &[SignedBlinding]) -> Result<Vec<Vec<u8>>, Vec<u16>> {
        import(Import::WalletHost, "wallet-host.tbs-unblind", |call| {
            let factors: Vec<_> = what
                .iter()
                .map(|what| derive(call, &what.blinding.path))
                .collect();
            let keys: Vec<_> = what
                .iter()
                .map(|what| call.key(&what.blinding.label, |key| key.threshold_keys()))
                .collect();
            let threshold = call.state.borrow().threshold();
            let items: Vec<_> = what
                .iter()
                .zip(&factors)
                .zip(&keys)
                .map(
                    |((what, factor), (group_key, share_keys))| tbs::SignedBlinding {
                        message: &what.blinding.message,
                        factor,
                        group_key,
                        share_keys,
                        shares: &what.shares,
                        threshold,
                    },
                )
                .collect();
            tbs::unblind(&items).map(|list| list.into_iter().map(Vec::from).collect())
        })
    }
    pub fn tpe_encrypt(label: &str, plaintext: &[u8], terms: &[u8], seed: &[u8]) -> Vec<u8> {
        import(Import::WalletHost, "wallet-host.tpe-encrypt", |call| {
            let (plaintext, seed) = (array("a plaintext", plaintext), array("a seed", seed));
            let terms = call.terms(terms);
            call.key(label, |key| {
                tpe::encrypt(key.group_key(), &plaintext, &terms, &seed)
                    .expect("the ceremony made this key")
            })
        })
    }
    pub fn tpe_combine(
        label: &str,
        ciphertext: &[u8],
        terms: &[u8],
        shares: &[(u16, Vec<u8>)],
    ) -> Result<Vec<u8>, Vec<u16>> {
        import(Import::WalletHost, "wallet-host.tpe-combine", |call| {
            let terms = call.terms(terms);
            let threshold = call.state.borrow().threshold();
            call.key(label, |key| {
                let (public_key, share_keys) = key.threshold_keys();
                tpe::combine(&tpe::Combination {
                    public_key: &public_key,
                    share_keys: &share_keys,
                    ciphertext,
                    terms: &terms,
                    shares,
                    threshold,
                })
            })
        })
    }
}

fn derive(call: &mut Call, path: &[u64]) -> [u8; 32] {
    let (id, instance) = (call.state.borrow().id, call.instance);
    call.wallet(|wallet| super::wallet::derive_secret(&wallet.seed, &id, instance, path))
}
