//! The life of contracts between three wallets in a running federation: the module is
//! an example, and no program knows a word of it.

use std::time::Instant;

use crate::common::{Fixture, until};
use modmint::{
    federation::{Module, Options},
    kit,
    tour::{balanced, refused},
    wallet::Wallet,
};
use serde_json::Value;

/// What an action of escrow shows under `name`.
async fn shown(wallet: &Wallet, words: &[&str], name: &str) -> String {
    let words = [&["escrow"], words].concat();
    let result = wallet.run(&words).await.expect("it succeeds");
    match &result["details"][name] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// For whoever reads the log: what each step took.
struct Watch(Instant);

impl Watch {
    fn step(&mut self, what: &str) {
        println!("{:>7.2} s  {what}", self.0.elapsed().as_secs_f64());
        self.0 = Instant::now();
    }
}

async fn refusal(wallet: &Wallet, words: &[&str]) -> String {
    let words = [&["escrow"], words].concat();
    let outcome = wallet.try_run(&words, &[]).await.expect("it runs");
    refused(outcome).expect("it is refused")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_wallets_lock_release_refund_and_time_out() {
    let mut watch = Watch(Instant::now());
    let escrow = kit::example("escrow").expect("the example builds");
    watch.step("the module is built");
    let fee = "escrow.fee=1sat".parse().expect("NAME=VALUE");
    let mut options = Options::standard().expect("scripts/test builds the bundles");
    let escrow = Module::at(&escrow.component, &[fee]);
    options
        .modules
        .push(escrow.expect("guardians would take it"));
    let federation = Fixture::found(options).await;
    watch.step("a federation of four with it is founded");
    let buyer = federation.rich_wallet("buyer", 200_200).await;
    let seller = federation.wallet("seller").await;
    let arbiter = federation.wallet("arbiter").await;
    watch.step("three wallets join, one of them with a deposit");

    let arbiter_key = shown(&arbiter, &["key"], "key").await;
    let mut contracts = Vec::new();
    for blocks in ["100", "100", "3"] {
        let seller_key = shown(&seller, &["key"], "key").await;
        let open = [
            "open",
            "50000sat",
            &seller_key,
            &arbiter_key,
            "--blocks",
            blocks,
        ];
        contracts.push(shown(&buyer, &open, "contract").await);
    }
    let [released, refunded, forgotten] = contracts.as_slice() else {
        panic!("three were opened");
    };
    // Three fees.
    let sat = |msat: u64| msat / 1000;
    assert_eq!(sat(buyer.balance().await.expect("a balance")), 49_997);
    watch.step("the arbiter's key, and three times the seller's key and a contract");

    // What all see of one, and who they are in it.
    for (wallet, party) in [
        (&buyer, "buyer"),
        (&seller, "seller"),
        (&arbiter, "arbiter"),
    ] {
        assert_eq!(shown(wallet, &["show", released], "you_are").await, party);
        let amount = shown(wallet, &["show", released], "amount_msat").await;
        assert_eq!(amount, "50000000");
    }
    watch.step("all three look at one, twice");

    // Delivered: the buyer releases.
    assert_eq!(refusal(&seller, &["claim", released]).await, "undecided");
    let approval = shown(&buyer, &["release", released], "approval").await;
    shown(&seller, &["claim", released, "--approval", &approval], "").await;
    assert_eq!(sat(seller.balance().await.expect("a balance")), 50_000);
    watch.step("a claim refused; the buyer releases, the seller claims");

    // In dispute: the arbiter decides for the buyer. An approval fits nothing else.
    let wrong = ["claim", refunded, "--approval", &approval];
    assert_eq!(refusal(&seller, &wrong).await, "not-approved");
    let approval = shown(&arbiter, &["refund", refunded], "approval").await;
    shown(&buyer, &["claim", refunded, "--approval", &approval], "").await;
    assert_eq!(sat(buyer.balance().await.expect("a balance")), 99_997);
    watch.step("a claim refused; the arbiter refunds, the buyer claims");

    // Nobody comes: after the timeout the buyer needs nobody.
    assert_eq!(refusal(&buyer, &["claim", forgotten]).await, "undecided");
    federation.bitcoind.mine(3).await.expect("mined");
    federation.bury().await.expect("agreed");
    watch.step("a claim refused; blocks until the timeout is agreed");
    shown(&buyer, &["claim", forgotten], "").await;
    assert_eq!(sat(buyer.balance().await.expect("a balance")), 149_997);
    assert_eq!(
        refusal(&buyer, &["claim", forgotten]).await,
        "no-such-contract"
    );
    watch.step("the buyer claims, and once more in vain");

    until("guardians to have the same books", || async {
        balanced(&federation).await.is_ok()
    })
    .await;
    let told = balanced(&federation).await.expect("even");
    assert!(told.contains("contracts 0 msat"), "{told}");
    watch.step("all guardians have the same books");
}
