//! A federation that asks a base fee: wallets pay it without being told.

use std::time::Duration;

use crate::common::{
    Fixture,
    lightning::{SAT, World, balance, invoiced_at, last, preimage_fits},
    until,
};
use modmint::{
    federation::Options,
    lightning::Gateway,
    tour::{balanced, receive, send, withdraw},
    wallet::{Running, Wallet},
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

async fn founded() -> Fixture {
    Fixture::found(Options {
        base_fee: BASE_FEE,
        ..Options::standard().expect("scripts/test builds the bundles")
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wallets_pay_the_base_fee_of_whatever_they_do() {
    let federation = founded().await;
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

/// More than gateways usually ask for.
const DEAR: [&str; 2] = ["--maximum-fee", "1000sat"];

async fn pay(wallet: &Wallet, invoice: &str) {
    let words = [&["ln", "pay", invoice][..], &DEAR].concat();
    let paid = wallet.run(&words).await.expect("it is paid");
    assert!(preimage_fits(&paid, invoice));
}

/// An invoice of a wallet's for 1000 sat, and the command that waits for it.
async fn invoiced(wallet: &Wallet) -> (Running, String) {
    invoiced_at(wallet, &[&["1000sat"][..], &DEAR].concat()).await
}

/// All that a gateway has for certain, counted once more: that is done every ten seconds.
async fn total(gateway: &Gateway) -> u64 {
    tokio::time::sleep(Duration::from_secs(12)).await;
    let solvency = gateway.run(&["solvency"]).await.expect("it says");
    assert_eq!(solvency["status"], "ok", "{solvency}");
    let parts = ["onchain_msat", "lightning_msat", "ecash_msat"];
    let parts = parts.map(|part| solvency[part].as_u64().expect("an amount"));
    parts.iter().sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_asks_for_the_base_fee_that_it_pays() {
    let world = World::of(founded().await).await;
    world.open_channel().await;
    let World {
        gateway,
        peer,
        user,
        federation,
    } = &world;
    let mut had = total(gateway).await;

    // Out.
    let invoice = peer.invoice(1_000 * SAT).await.expect("an invoice");
    pay(user, &invoice).await;
    let has = total(gateway).await;
    println!("out: {} msat are left", i128::from(has) - i128::from(had));
    assert!(has >= had, "{has} msat of {had}");
    had = has;

    // In.
    let before = balance(user).await;
    let (waiting, invoice) = invoiced(user).await;
    peer.pay(&invoice).await.expect("the peer pays");
    let received = waiting.end().await.expect("it ends").succeeded();
    received.expect("it is there");
    let brought = balance(user).await - before;
    assert!((300 * SAT..1_000 * SAT).contains(&brought), "{brought}");
    let has = total(gateway).await;
    println!("in: {} msat are left", i128::from(has) - i128::from(had));
    assert!(has >= had, "{has} msat of {had}");
    had = has;

    // From one user to another.
    let other = federation.wallet("other").await;
    let (waiting, invoice) = invoiced(&other).await;
    pay(user, &invoice).await;
    let received = waiting.end().await.expect("it ends").succeeded();
    received.expect("it is there");
    let has = total(gateway).await;
    println!(
        "swapped: {} msat are left",
        i128::from(has) - i128::from(had)
    );
    assert!(has >= had, "{has} msat of {had}");

    // Who asks for nothing gives the payment back rather than lose by it.
    let id = gateway.run(&["balances"]).await.expect("they are listed");
    let id = id["federations"][0]["id"]
        .as_str()
        .expect("an id")
        .to_owned();
    let cheap = ["--receive-base", "0", "--receive-ppm", "0"];
    let terms = [&["federation", "terms", &id][..], &cheap].concat();
    gateway.run(&terms).await.expect("they are set");
    until("users to hear of it", || async {
        let known = user.run(&["ln", "gateways"]).await;
        let known = known.expect("they are listed").to_string();
        known.contains("\"receive_base_msat\":0")
    })
    .await;
    let had = total(gateway).await;
    let (waiting, invoice) = invoiced(&other).await;
    peer.begin_pay(&invoice).await.expect("there is a way");
    until("it to go back", || async {
        last(gateway).await["state"] == "failed"
    })
    .await;
    waiting.kill().await.expect("it ends");
    println!("given back: {}", last(gateway).await["reason"]);
    assert_eq!(total(gateway).await, had);
    balanced(federation).await.expect("the books balance");
}
