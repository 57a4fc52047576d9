//! The life of contracts between three wallets in a running federation: the module is
//! an example, and no program knows a word of it.

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

async fn refusal(wallet: &Wallet, words: &[&str]) -> String {
    let words = [&["escrow"], words].concat();
    let outcome = wallet.try_run(&words, &[]).await.expect("it runs");
    refused(outcome).expect("it is refused")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_wallets_lock_release_refund_and_time_out() {
    let escrow = kit::example("escrow").expect("the example builds");
    let fee = "escrow.fee=1sat".parse().expect("NAME=VALUE");
    let mut options = Options::standard().expect("scripts/test builds the bundles");
    let escrow = Module::at(&escrow.component, &[fee]);
    options
        .modules
        .push(escrow.expect("guardians would take it"));
    let federation = Fixture::found(options).await;
    let buyer = federation.rich_wallet("buyer", 200_200).await;
    let seller = federation.wallet("seller").await;
    let arbiter = federation.wallet("arbiter").await;

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

    // Delivered: the buyer releases.
    assert_eq!(refusal(&seller, &["claim", released]).await, "undecided");
    let approval = shown(&buyer, &["release", released], "approval").await;
    shown(&seller, &["claim", released, "--approval", &approval], "").await;
    assert_eq!(sat(seller.balance().await.expect("a balance")), 50_000);

    // In dispute: the arbiter decides for the buyer. An approval fits nothing else.
    let wrong = ["claim", refunded, "--approval", &approval];
    assert_eq!(refusal(&seller, &wrong).await, "not-approved");
    let approval = shown(&arbiter, &["refund", refunded], "approval").await;
    shown(&buyer, &["claim", refunded, "--approval", &approval], "").await;
    assert_eq!(sat(buyer.balance().await.expect("a balance")), 99_997);

    // Nobody comes: after the timeout the buyer needs nobody.
    assert_eq!(refusal(&buyer, &["claim", forgotten]).await, "undecided");
    federation.bitcoind.mine(3).await.expect("mined");
    federation.bury().await.expect("agreed");
    shown(&buyer, &["claim", forgotten], "").await;
    assert_eq!(sat(buyer.balance().await.expect("a balance")), 149_997);
    assert_eq!(
        refusal(&buyer, &["claim", forgotten]).await,
        "no-such-contract"
    );

    until("guardians to have the same books", || async {
        balanced(&federation).await.is_ok()
    })
    .await;
    let told = balanced(&federation).await.expect("even");
    assert!(told.contains("contracts 0 msat"), "{told}");
}
