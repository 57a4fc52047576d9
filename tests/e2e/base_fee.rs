//! A federation that asks a base fee: wallets pay it without being told.

use crate::common::Fixture;
use modmint::{
    federation::Options,
    tour::{balanced, receive, send, withdraw},
};
use modmint_core::config::BaseFee;
use serde_json::json;

/// Dear enough to be seen: an input or output is about 130 bytes.
const BASE_FEE: BaseFee = BaseFee {
    msat_per_kilobyte: 100_000,
};
/// What a deposit pays to the module.
const DEPOSIT_FEE: u64 = 200_000;

async fn net(federation: &Fixture) -> u64 {
    let audit = federation.guardians[0].audit().await.expect("it answers");
    u64::try_from(audit.net_msat).expect("it owes no more than it has")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wallets_pay_the_base_fee_of_whatever_they_do() {
    let federation = Fixture::found(Options {
        base_fee: BASE_FEE,
        ..Options::standard().expect("scripts/test builds the bundles")
    })
    .await;
    let alice = federation.rich_wallet("alice", 200_000).await;
    let bob = federation.wallet("bob").await;
    let mut paid = net(&federation).await;
    // An input and some outputs.
    assert!(paid >= BASE_FEE.of(300).msat(), "{paid} msat for a claim");
    let balance = alice.balance().await.expect("a balance");
    assert_eq!(balance, 200_000_000 - DEPOSIT_FEE - paid);

    let notes = send(&alice, 12_345).await.expect("a wallet can send");
    receive(&bob, &notes).await.expect("a wallet can receive");
    let more = net(&federation).await - paid;
    assert!(more >= BASE_FEE.of(300).msat(), "{more} msat for a payment");
    paid += more;
    let held = [alice.balance().await, bob.balance().await].map(|b| b.expect("a balance"));
    assert_eq!(held[0] + held[1], 200_000_000 - DEPOSIT_FEE - paid);

    let address: String = federation
        .bitcoind
        .call("getnewaddress", json!([]))
        .await
        .expect("an address");
    let outcome = withdraw(&federation, &alice, &address, 20_000).await;
    let outcome = outcome.expect("a withdrawal");
    let fee = outcome["details"]["fee_msat"].as_u64().expect("a fee");
    let more = net(&federation).await - paid;
    assert!(more >= BASE_FEE.of(300).msat(), "{more} msat for it");
    let left = alice.balance().await.expect("a balance");
    assert_eq!(held[0] - left, 20_000_000 + fee + more);
    balanced(&federation).await.expect("the books balance");
}
