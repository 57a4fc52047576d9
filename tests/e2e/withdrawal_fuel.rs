//! The largest withdrawals that there can be, through the wallet's component: every
//! item of theirs stays well below the fuel that an item may burn.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use modmint::federation::Module;
use modmint_core::{
    BundleHash, FederationId, InstanceId, KeyKind, OutPoint, PeerId, TxId,
    config::{HexBytes, InstanceConfig, InstanceKey, Network},
    sha256, threshold,
};
use modmint_crypto::secp;
use modmint_runtime::{
    Approval, Bundle, Called, ChainOutPoint, ChainOutput, Check, Context, Engines, Host,
    HostResult, Instance, Signable, limits::MAX_FUEL,
};
use modmint_wallet::{
    DepositTweak, MAX_INPUTS, MAX_PAYMENTS, MAX_VERSIONS, PegInProof, PegOut, PegOutOutcome,
    STUCK_BLOCKS, WalletItem,
};

/// Agreed state in memory. What was approved is kept in order.
#[derive(Default)]
struct State {
    stored: BTreeMap<Vec<u8>, Vec<u8>>,
    approved: Vec<Signable>,
    revoked: usize,
    height: u32,
    fee_rate: u64,
}

struct Memory {
    state: Mutex<State>,
    script: Vec<u8>,
}

/// What each coin is worth: enough for change that pays for many replacements.
const SATOSHI: u64 = 2_000_000_000_000;

impl Host for Memory {
    fn get(&self, key: &[u8]) -> HostResult<Option<Vec<u8>>> {
        Ok(self.state().stored.get(key).cloned())
    }
    fn put(&self, key: &[u8], value: &[u8]) -> HostResult<()> {
        self.state().stored.insert(key.to_vec(), value.to_vec());
        Ok(())
    }
    fn delete(&self, key: &[u8]) -> HostResult<()> {
        self.state().stored.remove(key);
        Ok(())
    }
    fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
        max_bytes: usize,
    ) -> HostResult<Vec<(Vec<u8>, Vec<u8>)>> {
        let mut bytes = 0;
        let state = self.state();
        let entries = state.stored.iter().filter(|(key, _)| {
            key.starts_with(prefix) && after.is_none_or(|after| key.as_slice() > after)
        });
        let page = entries.take(limit).take_while(|(key, value)| {
            bytes += key.len() + value.len();
            bytes <= max_bytes
        });
        Ok(page.map(|(k, v)| (k.clone(), v.clone())).collect())
    }
    fn block_height(&self) -> HostResult<u32> {
        Ok(self.state().height)
    }
    fn chain_output_at(&self, out_point: &ChainOutPoint) -> HostResult<Option<ChainOutput>> {
        Ok(Some(ChainOutput {
            out_point: *out_point,
            script: self.script.clone(),
            satoshi: SATOSHI,
            height: 1,
        }))
    }
    fn fee_rate(&self) -> HostResult<u64> {
        Ok(self.state().fee_rate)
    }
    fn check(&self, check: &Check) -> HostResult<bool> {
        Ok(check.verify())
    }
    fn approve(&self, what: &Signable) -> HostResult<Approval> {
        self.state().approved.push(what.clone());
        Ok(Approval::Approved)
    }
    fn revoke(&self, _: &Signable) -> HostResult<()> {
        self.state().revoked += 1;
        Ok(())
    }
    fn claim(&self, output: &ChainOutPoint) -> HostResult<Option<ChainOutput>> {
        self.chain_output_at(output)
    }
    fn release(&self, _: u64) -> HostResult<bool> {
        Ok(true)
    }
}

impl Memory {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("not poisoned")
    }
}

/// The multisig of a deposit's tweak, made without the module.
fn script(keys: &[[u8; 33]], tweak: &DepositTweak) -> Vec<u8> {
    let tweak = sha256(&[&tweak.claim_key[..], &tweak.nonce.to_be_bytes()].concat());
    let mut tweaked: Vec<_> = keys
        .iter()
        .map(|key| secp::tweak_public_key(key, &tweak).expect("a point"))
        .collect();
    tweaked.sort_unstable();
    let push = |n: usize| {
        if n > 16 {
            vec![1, n as u8]
        } else {
            vec![0x50 + n as u8]
        }
    };
    let mut script = push(threshold(keys.len()));
    for key in &tweaked {
        script.push(33);
        script.extend(key);
    }
    script.extend(push(keys.len()));
    script.push(0xae);
    [&[0, 32], &sha256(&script)[..]].concat()
}

struct Wallet {
    instance: Arc<Instance>,
    memory: Arc<Memory>,
    secrets: Vec<[u8; 32]>,
}

impl Wallet {
    fn new(guardians: usize) -> Self {
        let bundle = Module::built_in("wallet").expect("scripts/test builds the bundles");
        let bundle = std::fs::read(bundle.bundle).expect("a bundle");
        let engines = Engines::new().expect("engines");
        let bundle = Bundle::load(&engines, &bundle).expect("it is admitted");
        let setup = bundle.configure(&[]).expect("its defaults");
        let secrets: Vec<[u8; 32]> = (0..guardians).map(|n| [n as u8 + 1; 32]).collect();
        let keys: Vec<_> = secrets.iter().map(secp::public_key).collect();
        let context = Context {
            federation: FederationId([5; 32]),
            network: Network::Regtest,
            peers: guardians as u16,
            threshold: threshold(guardians) as u16,
            instance: InstanceConfig {
                id: InstanceId(1),
                kind: "wallet".into(),
                bundle: BundleHash([0; 32]),
                config: setup.config,
                keys: vec![InstanceKey {
                    label: setup.keys[0].label.clone(),
                    kind: KeyKind::Multisig,
                    public_keys: keys.iter().map(|key| HexBytes(key.to_vec())).collect(),
                    share_keys: vec![],
                }],
            },
        };
        let state = State {
            height: 100,
            fee_rate: 1_000,
            ..State::default()
        };
        let memory = Memory {
            state: Mutex::new(state),
            script: script(&keys, &tweak()),
        };
        Self {
            instance: Instance::new(bundle, context),
            memory: Arc::new(memory),
            secrets,
        }
    }

    fn host(&self) -> Arc<dyn Host> {
        Arc::clone(&self.memory) as Arc<dyn Host>
    }

    fn item(&self, peer: u16, item: &WalletItem) -> u64 {
        let bytes = borsh::to_vec(item).expect("encodes");
        assert!(bytes.len() < modmint_core::MAX_ITEM_BYTES);
        let called = self
            .instance
            .process_consensus_item(&self.host(), PeerId(peer), &bytes);
        spent(called)
    }

    /// The newest bitcoin transaction, as the wallet is told of it.
    fn txid(&self) -> [u8; 32] {
        let place = OutPoint {
            txid: TxId([3; 32]),
            index: 0,
        };
        let outcome = self.instance.outcomes(&self.host(), &[place]);
        let outcome = outcome.expect("an answer").remove(0).expect("one");
        let outcome: PegOutOutcome = borsh::from_slice(&outcome).expect("one");
        *outcome.txids.last().expect("it is under way")
    }

    /// Everything is approved that may be signed; the most that an item cost.
    fn approve(&self) -> u64 {
        let mut most = 0;
        let txid = self.txid();
        loop {
            let from = self.memory.state().approved.len() % MAX_INPUTS;
            most = most.max(self.item(0, &WalletItem::Approve(txid, from as u16)));
            if self
                .memory
                .state()
                .approved
                .len()
                .is_multiple_of(MAX_INPUTS)
            {
                return most;
            }
        }
    }

    /// Everybody's signatures of the newest transaction; the most that an item cost.
    fn sign(&self) -> u64 {
        let txid = self.txid();
        let approved = self.memory.state().approved.clone();
        let newest = &approved[approved.len() - MAX_INPUTS..];
        let items = self.secrets.iter().zip(0..).map(|(secret, peer)| {
            let sign = |what: &Signable| {
                let (tweak, hash) = what.message.split_at(32);
                let (tweak, hash) = (tweak.try_into().ok()?, hash.try_into().ok()?);
                secp::sign_ecdsa(secret, tweak, hash)
            };
            let signatures: Option<Vec<_>> = newest.iter().map(sign).collect();
            let item = WalletItem::Sign(txid, signatures.expect("signatures"));
            self.item(peer, &item)
        });
        items.max().expect("somebody signs")
    }
}

fn spent<T: std::fmt::Debug>(called: Called<T>) -> u64 {
    let Called { result, fuel } = called;
    result.expect("it is accepted");
    fuel
}

fn tweak() -> DepositTweak {
    DepositTweak {
        claim_key: secp::public_key(&[9; 32]),
        nonce: 0,
    }
}

fn largest_withdrawals(guardians: usize) {
    let wallet = Wallet::new(guardians);
    let host = wallet.host();
    let mut most = BTreeMap::new();
    let mut note = |what: &'static str, fuel: u64| {
        if fuel > 1_000_000 {
            println!("{guardians} guardians: {what} burns {fuel}");
        }
        let kept = most.entry(what).or_insert(0);
        *kept = fuel.max(*kept);
    };
    // More coins than a transaction takes.
    for number in 0..2 * MAX_INPUTS {
        let proof = PegInProof {
            txid: sha256(&number.to_be_bytes()),
            vout: 0,
            tweak: tweak(),
        };
        let proof = borsh::to_vec(&proof).expect("encodes");
        note(
            "deposit",
            spent(wallet.instance.item(host.clone()).process_input(&proof)),
        );
    }
    let mut script = vec![0x51, 32];
    script.extend([7; 32]);
    for index in 0..MAX_PAYMENTS as u16 {
        let output = PegOut {
            script: script.clone(),
            // All of them take all but one of the coins, and their fees the last.
            satoshi: SATOSHI * (MAX_INPUTS as u64 - 1) / MAX_PAYMENTS as u64,
            fee: SATOSHI / MAX_PAYMENTS as u64,
        };
        let output = borsh::to_vec(&output).expect("encodes");
        let place = OutPoint {
            txid: TxId([3; 32]),
            index,
        };
        let mut item = wallet.instance.item(host.clone());
        let called = item.process_output(&output, place);
        note("withdrawal", spent(called));
    }
    let output = PegOut {
        script,
        satoshi: SATOSHI * MAX_INPUTS as u64 / 2,
        fee: SATOSHI,
    };
    let output = borsh::to_vec(&output).expect("encodes");
    let place = OutPoint {
        txid: TxId([4; 32]),
        index: 0,
    };
    let mut item = wallet.instance.item(host.clone());
    let Called { result, fuel } = item.process_output(&output, place);
    let refusal = format!("{:?}", result.expect_err("that much waits"));
    assert!(refusal.contains("too-much-waits"), "{refusal}");
    note("refusal", fuel);
    note("batch", wallet.item(0, &WalletItem::Batch(100)));
    note("approval", wallet.approve());
    assert_eq!(wallet.memory.state().approved.len(), MAX_INPUTS);
    note("signatures", wallet.sign());
    // As often as it can be, at twice the fee rate each time.
    let mut versions = 1;
    while versions < MAX_VERSIONS {
        {
            let mut state = wallet.memory.state();
            state.height += STUCK_BLOCKS;
            state.fee_rate *= 2;
        }
        let txid = wallet.txid();
        for peer in 0..threshold(guardians) as u16 {
            note("replacement", wallet.item(peer, &WalletItem::Stuck(txid)));
        }
        versions += 1;
        note("approval", wallet.approve());
        assert_eq!(wallet.memory.state().approved.len(), versions * MAX_INPUTS);
        note("signatures", wallet.sign());
    }
    let txid = wallet.txid();
    for peer in 0..threshold(guardians) as u16 {
        note("burial", wallet.item(peer, &WalletItem::Buried(txid)));
    }
    assert_eq!(wallet.memory.state().revoked, versions * MAX_INPUTS);
    println!("{guardians} guardians: {most:?}");
    for (what, fuel) in most {
        assert!(
            fuel < MAX_FUEL / 10 * 9,
            "{what} burns {fuel} of {MAX_FUEL}"
        );
    }
}

#[test]
fn the_largest_withdrawals_of_four_guardians_fit_into_their_items() {
    largest_withdrawals(4);
}

#[test]
fn the_largest_withdrawals_of_nineteen_guardians_fit_into_their_items() {
    largest_withdrawals(19);
}
