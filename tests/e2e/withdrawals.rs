//! Withdrawals on a real bitcoind: to every kind of address, fifty at once, with a
//! guardian down, with one that signs junk, through reorganisations, bitcoind's
//! restarts and a jump of the fee rate.
//!
//! One federation goes through all of it, one thing after the other.

use std::time::Duration;

use crate::common::{Fixture, until};
use modmint::{
    federation::Options,
    tour::{balanced, receive, refused, send, withdraw},
    wallet::Wallet,
};
use modmint_core::{config::FederationConfig, rest::FederationResponse};
use modmint_crypto::at_rest;
use serde_json::{Value, json};

/// A block is agreed on with two on top of it, so that one may be reorganised.
const DEPTH: u32 = 2;

async fn new_address(federation: &Fixture, kind: &str) -> String {
    let address = federation.bitcoind.call("getnewaddress", json!(["", kind]));
    address.await.expect("an address")
}

async fn received(federation: &Fixture, address: &str) -> u64 {
    let received = federation.bitcoind.received(address).await;
    received.expect("a sum")
}

/// Withdraws, and checks that as much arrives.
async fn pay(federation: &Fixture, wallet: &Wallet, satoshi: u64) -> Value {
    let address = new_address(federation, "bech32").await;
    let paid = withdraw(federation, wallet, &address, satoshi).await;
    let paid = paid.expect("a withdrawal");
    assert_eq!(received(federation, &address).await, satoshi);
    paid
}

/// Withdraws and returns when guardians have sent the transaction; its operation.
async fn begin(federation: &Fixture, wallet: &Wallet, address: &str, satoshi: u64) -> String {
    let amount = format!("{satoshi} sat");
    let command = ["wallet", "withdraw", address, &amount, "--detach"];
    let begun = wallet.run(&command).await.expect("it begins");
    let operation = begun["operation"].as_str().map(str::to_owned);
    let operation = operation.unwrap_or_else(|| panic!("no operation: {begun}"));
    // Whoever opens the wallet carries on with it.
    until("the withdrawal to be in the mempool", || async {
        let _ = wallet
            .try_run(&["wait", &operation, "--timeout", "1"], &[])
            .await;
        mempool(federation).await > 0
    })
    .await;
    operation
}

async fn mempool(federation: &Fixture) -> usize {
    let pool: Vec<String> = federation
        .bitcoind
        .call("getrawmempool", json!([]))
        .await
        .expect("a list");
    pool.len()
}

/// Mines until the operation is done, and returns it.
async fn done(federation: &Fixture, wallet: &Wallet, operation: &str) -> Value {
    let waiting = wallet.begin(&["wait", operation], &[]).expect("it starts");
    let mut waiting = std::pin::pin!(waiting.end());
    loop {
        tokio::select! {
            ended = &mut waiting => {
                let ended = ended.expect("it ends");
                return ended.succeeded().expect("it is paid");
            }
            () = tokio::time::sleep(Duration::from_millis(300)) => {
                federation.bitcoind.mine(1).await.expect("mined");
            }
        }
    }
}

async fn overview(federation: &Fixture, guardian: usize) -> Value {
    let answer = federation.guardians[guardian].query("wallet", "withdrawals");
    answer.await.expect("an answer")
}

/// Flips a bit of a guardian's key for bitcoin, in the file that it keeps its
/// secrets in; returns the file as it was.
async fn damage_key(federation: &Fixture, guardian: usize) -> Vec<u8> {
    let answer = federation.guardians[0].get::<FederationResponse>("/v1/federation");
    let config = answer.await.expect("it answers").config.0;
    let config: FederationConfig = borsh::from_slice(&config).expect("a config");
    let wallet = config.instances.iter().find(|i| i.kind == "wallet");
    let public_key = &wallet.expect("there is one").keys[0].public_keys[guardian].0;
    let guardian = &federation.guardians[guardian];
    let path = guardian.data_folder().join("secrets.sealed");
    let sealed = std::fs::read(&path).expect("a file");
    let mut plain = at_rest::open(guardian.password(), &sealed).expect("its password");
    let place = plain
        .windows(33)
        .position(|window| window == &public_key[..])
        .expect("a key is kept with its public key before it");
    plain[place + 33 + 31] ^= 1;
    std::fs::write(&path, at_rest::seal(guardian.password(), &plain)).expect("written");
    sealed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn withdrawals_are_paid_whatever_happens_to_guardians_and_chain() {
    let mut options = Options::standard().expect("scripts/test builds the bundles");
    options.finality_depth = DEPTH;
    let federation = Fixture::found(options).await;
    let alice = federation.rich_wallet("alice", 2_000_000).await;
    let bob = federation.wallet("bob").await;

    every_kind_of_address_and_fifty_at_once(&federation, &alice).await;
    a_guardian_down_and_one_that_signs_junk(&federation, &alice).await;
    a_shallow_reorganisation(&federation, &alice).await;
    a_restart_of_bitcoind_and_a_jump_of_the_fee_rate(&federation, &alice).await;
    a_deep_reorganisation(&federation, &alice, &bob).await;

    federation.same_state_root().await.expect("one state root");
    balanced(&federation).await.expect("the books balance");
}

async fn every_kind_of_address_and_fifty_at_once(federation: &Fixture, alice: &Wallet) {
    let mut last = String::new();
    let mut expected = Vec::new();
    for number in 0..50u64 {
        let kind = ["legacy", "p2sh-segwit", "bech32", "bech32m"][number as usize % 4];
        let address = new_address(federation, kind).await;
        let satoshi = 1_000 + number;
        let amount = format!("{satoshi} sat");
        let command = ["wallet", "withdraw", &address, &amount, "--detach"];
        let begun = alice.run(&command).await.expect("it begins");
        let operation = begun["operation"].as_str().expect("an operation");
        last = operation.to_owned();
        expected.push((address, satoshi));
    }
    // First come, first served: the others are paid by then.
    done(federation, alice, &last).await;
    for (address, satoshi) in expected {
        assert_eq!(received(federation, &address).await, satoshi, "{address}");
    }
    let overview = overview(federation, 0).await;
    assert_eq!(overview["waiting"], 0, "{overview}");
    balanced(federation).await.expect("the books balance");
    // A script hash that bitcoind's wallet knows nothing of.
    let deposit = alice.run(&["wallet", "deposit", "--detach"]).await;
    let deposit = deposit.expect("an address");
    let own = deposit["details"]["address"].as_str().expect("an address");
    let paid = withdraw(federation, alice, own, 20_000).await;
    assert!(paid.expect("paid").to_string().contains("buried"));
    let operation = deposit["operation"].as_str().expect("an operation");
    done(federation, alice, operation).await;

    let wrong = "bc1qar0srrr7xfkvy5l643lydnw9re59gtzzwf5mdq";
    let command = ["wallet", "withdraw", wrong, "5000 sat"];
    let wrong = alice.try_run(&command, &[]).await.expect("it starts");
    let code = refused(wrong).expect("a code");
    assert_eq!(code, "wrong-network");
}

async fn a_guardian_down_and_one_that_signs_junk(federation: &Fixture, alice: &Wallet) {
    let victim = &federation.guardians[3];
    victim.kill();
    pay(federation, alice, 7_001).await;

    let secrets = damage_key(federation, 3).await;
    federation.start(3).expect("it starts");
    federation.all_ready().await.expect("it is ready");
    federation.same_state_root().await.expect("it catches up");
    pay(federation, alice, 7_002).await;
    until("the culprit to be named", || async {
        let overview = overview(federation, 0).await;
        overview["culprits"][0]["peer"] == 3
    })
    .await;
    let log = std::fs::read_to_string(federation.guardians[0].log_file());
    let log = log.expect("a log");
    assert!(
        log.contains("guardian 3 has signed input 0 of"),
        "it is logged"
    );

    victim.kill();
    let path = victim.data_folder().join("secrets.sealed");
    std::fs::write(path, secrets).expect("written");
    federation.start(3).expect("it starts");
    federation.all_ready().await.expect("it is ready");
}

async fn a_shallow_reorganisation(federation: &Fixture, alice: &Wallet) {
    let address = new_address(federation, "bech32").await;
    let operation = begin(federation, alice, &address, 7_003).await;
    let bitcoind = &federation.bitcoind;
    bitcoind.mine(1).await.expect("mined");
    assert_eq!(mempool(federation).await, 0);
    let tip: String = bitcoind
        .call("getbestblockhash", json!([]))
        .await
        .expect("a block");
    let _: Value = bitcoind
        .call("invalidateblock", json!([tip]))
        .await
        .expect("it leaves the chain");
    // Its transaction waits again, and an empty block takes the place.
    let to = new_address(federation, "bech32").await;
    let _: Value = bitcoind
        .call("generateblock", json!([to, []]))
        .await
        .expect("mined");
    assert_eq!(mempool(federation).await, 1);
    done(federation, alice, &operation).await;
    assert_eq!(received(federation, &address).await, 7_003);
}

async fn a_restart_of_bitcoind_and_a_jump_of_the_fee_rate(federation: &Fixture, alice: &Wallet) {
    let address = new_address(federation, "bech32").await;
    let operation = begin(federation, alice, &address, 7_004).await;
    let bitcoind = &federation.bitcoind;
    // It comes back without its mempool, and takes nothing below 3 sat/vB.
    bitcoind.stop().await.expect("it stops");
    let dear = ["-persistmempool=0", "-minrelaytxfee=0.00003"];
    bitcoind.start_with(&dear).await.expect("it starts");
    assert_eq!(mempool(federation).await, 0);
    until("the fee rate to be agreed on", || async {
        let status = federation.guardians[0].status().await;
        status.expect("it answers").fee_rate >= 3_000
    })
    .await;
    let outcome = done(federation, alice, &operation).await;
    assert_eq!(received(federation, &address).await, 7_004);
    let txids = outcome["details"]["txids"].as_array().expect("a list");
    assert_eq!(txids.len(), 2, "it was replaced once: {outcome}");
    assert_eq!(txids[1], outcome["details"]["buried"]);
    bitcoind.stop().await.expect("it stops");
    bitcoind.start_again().await.expect("it starts");
    until("the fee rate to be agreed on", || async {
        let status = federation.guardians[0].status().await;
        status.expect("it answers").fee_rate < 3_000
    })
    .await;
    pay(federation, alice, 7_005).await;
    balanced(federation).await.expect("the books balance");
}

async fn a_deep_reorganisation(federation: &Fixture, alice: &Wallet, bob: &Wallet) {
    let bitcoind = &federation.bitcoind;
    let tip = bitcoind.tip().await.expect("a block").height;
    let block = |height: u32| bitcoind.call::<String>("getblockhash", json!([height]));
    let ours = block(tip - DEPTH - 2).await.expect("a block");
    let _: Value = bitcoind
        .call("invalidateblock", json!([ours]))
        .await
        .expect("it leaves the chain");
    bitcoind.mine(DEPTH + 4).await.expect("mined");
    let theirs = block(tip - DEPTH - 2).await.expect("a block");
    until("the alarm", || async {
        let overview = overview(federation, 0).await;
        overview["alarms"].as_array().is_some_and(|a| a.len() == 4)
    })
    .await;
    for guardian in &federation.guardians {
        let problems = guardian.status().await.expect("it answers").problems;
        let told = problems
            .iter()
            .any(|p| p.contains("is not in bitcoind's best chain"));
        assert!(told, "{problems:?}");
    }
    let address = new_address(federation, "bech32").await;
    let command = ["wallet", "withdraw", &address, "5000 sat"];
    let outcome = alice.try_run(&command, &[]).await.expect("it starts");
    assert_eq!(refused(outcome).expect("a code"), "chain-alarm");
    let notes = send(alice, 1_000).await.expect("e-cash goes on");
    receive(bob, &notes).await.expect("e-cash goes on");

    // The agreed chain turns out to be the better one after all.
    for (method, hash) in [("invalidateblock", theirs), ("reconsiderblock", ours)] {
        let _: Value = bitcoind.call(method, json!([hash])).await.expect(method);
    }
    bitcoind.mine(1).await.expect("mined");
    until("the alarm to end", || async {
        let overview = overview(federation, 0).await;
        overview["alarms"].as_array().is_some_and(Vec::is_empty)
    })
    .await;
    pay(federation, alice, 7_006).await;
}
