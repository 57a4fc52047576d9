//! Users of a federation pay and are paid over Lightning: guardians, a gateway and
//! wallets as processes, a node of somebody else's, a real chain, a real channel.

mod common;

use std::time::{Duration, Instant};

use common::{Fixture, until};
use modmint::{
    lightning::{self, Gateway, Peer},
    tour::{balanced, refused},
    wallet::Wallet,
};
use modmint_core::{Hash32, sha256};
use modmint_gateway::{journal::CRASH_VARIABLE, lightning::Invoice};
use serde_json::Value;

const SAT: u64 = 1000;

/// A federation with a gateway, a peer of the gateway's, and a wallet with money.
struct World {
    // Before the federation: its processes end first.
    gateway: Gateway,
    peer: Peer,
    user: Wallet,
    federation: Fixture,
}

impl World {
    async fn new() -> Self {
        let federation = Fixture::standard().await;
        let folder = federation.folder();
        let gateway = Gateway::set_up(&folder.join("gateway")).expect("it is made");
        gateway
            .start(&federation.bitcoind)
            .await
            .expect("it starts");
        let peer = Peer::start(&folder.join("peer"), &federation.bitcoind).await;
        let peer = peer.expect("the peer starts");
        lightning::channel(&federation.bitcoind, &gateway, &peer)
            .await
            .expect("a channel");
        let user = federation.rich_wallet("user", 500_000).await;
        lightning::serve(&gateway, &federation, &user, 500_000)
            .await
            .expect("it serves");
        Self {
            gateway,
            peer,
            user,
            federation,
        }
    }

    /// Starts the gateway again, and waits until its channel can be used.
    async fn again(&self) {
        self.gateway
            .start(&self.federation.bitcoind)
            .await
            .expect("it starts");
        lightning::usable(&self.gateway, &self.peer)
            .await
            .expect("a channel");
    }

    async fn pay(&self, invoice: &str) -> Value {
        self.user
            .run(&["ln", "pay", invoice])
            .await
            .expect("it is paid")
    }
}

async fn balance(wallet: &Wallet) -> u64 {
    wallet.balance().await.expect("a balance")
}

fn preimage_fits(paid: &Value, invoice: &str) -> bool {
    let preimage: Hash32 = paid["details"]["preimage"]
        .as_str()
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(|| panic!("no preimage in {paid}"));
    let hash = Invoice::parse(invoice).expect("an invoice").payment_hash;
    Hash32(sha256(&preimage.0)) == hash
}

/// An invoice of a wallet's, and the command that waits for it.
async fn invoiced(wallet: &Wallet, sat: &str) -> (modmint::wallet::Running, String) {
    let mut waiting = wallet
        .begin(&["ln", "invoice", sat], &[])
        .expect("it begins");
    let invoice = waiting
        .progress(|line| line["details"]["invoice"].as_str().map(str::to_owned))
        .await
        .expect("there is an invoice");
    (waiting, invoice)
}

/// The gateway's last payment, for its log.
async fn last(gateway: &Gateway) -> Value {
    let log = gateway
        .run(&["payments", "--limit", "1"])
        .await
        .expect("a log");
    log["items"][0].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_pay_are_paid_swap_and_have_their_money_back() {
    let world = World::new().await;
    let World {
        gateway,
        peer,
        user,
        federation,
    } = &world;

    // Out.
    let before = balance(user).await;
    let invoice = peer.invoice(20_000 * SAT).await.expect("an invoice");
    let start = Instant::now();
    let paid = world.pay(&invoice).await;
    println!("paid in {:?}", start.elapsed());
    assert!(preimage_fits(&paid, &invoice));
    assert!(peer.is_paid(&invoice));
    let cost = before - balance(user).await;
    // 1 sat and 3000 ppm are the gateway's, some are the federation's.
    assert!((20_061 * SAT..20_200 * SAT).contains(&cost), "{cost}");

    // In.
    let before = balance(user).await;
    let (waiting, invoice) = invoiced(user, "10000sat").await;
    let start = Instant::now();
    let preimage = peer.pay(&invoice).await.expect("the peer pays");
    println!("the payer has the preimage after {:?}", start.elapsed());
    assert_eq!(
        Invoice::parse(&invoice).expect("one").payment_hash.0,
        sha256(&preimage.0)
    );
    waiting
        .end()
        .await
        .expect("it ends")
        .succeeded()
        .expect("it is there");
    println!("the payee has the money after {:?}", start.elapsed());
    let brought = balance(user).await - before;
    assert!((9_800 * SAT..10_000 * SAT).contains(&brought), "{brought}");

    // Another user, through the gateway alone.
    let other = federation.wallet("other").await;
    let channels = gateway.run(&["channel", "list"]).await.expect("channels");
    let (waiting, invoice) = invoiced(&other, "5000sat").await;
    let start = Instant::now();
    let paid = world.pay(&invoice).await;
    println!("swapped in {:?}", start.elapsed());
    assert!(preimage_fits(&paid, &invoice));
    waiting
        .end()
        .await
        .expect("it ends")
        .succeeded()
        .expect("it is there");
    let log = gateway
        .run(&["payments", "--limit", "2"])
        .await
        .expect("a log");
    assert!(
        log["items"]
            .as_array()
            .expect("a list")
            .iter()
            .all(|line| line["swap"] == true),
        "{log}"
    );
    assert_eq!(
        gateway.run(&["channel", "list"]).await.expect("channels"),
        channels
    );

    // A payee that does not take it: the money comes back.
    peer.set_unwilling(true);
    let before = balance(user).await;
    let invoice = peer.invoice(7_000 * SAT).await.expect("an invoice");
    let outcome = user
        .try_run(&["ln", "pay", &invoice], &[])
        .await
        .expect("it runs");
    assert_eq!(refused(outcome).expect("it fails"), "payment-failed");
    let cost = before - balance(user).await;
    assert!(cost < 100 * SAT, "{cost}");
    assert_eq!(last(gateway).await["state"], "failed");
    peer.set_unwilling(false);

    // One guardian is down.
    federation.guardians[3].kill();
    let invoice = peer.invoice(3_000 * SAT).await.expect("an invoice");
    assert!(preimage_fits(&world.pay(&invoice).await, &invoice));
    let (waiting, invoice) = invoiced(user, "3000sat").await;
    peer.pay(&invoice).await.expect("the peer pays");
    waiting
        .end()
        .await
        .expect("it ends")
        .succeeded()
        .expect("it is there");
    federation.start(3).expect("it starts");
    federation.all_ready().await.expect("it is ready");

    let solvency = gateway.run(&["solvency"]).await.expect("it says");
    assert_eq!(solvency["status"], "ok", "{solvency}");
    let summary = gateway.run(&["summary"]).await.expect("it says");
    println!("{summary:#}");
    assert_eq!(
        (&summary["out"]["paid"], &summary["incoming"]["paid"]),
        (&3.into(), &3.into())
    );
    until("guardians to have the same books", || async {
        balanced(federation).await.is_ok()
    })
    .await;
    gateway.stop().await.expect("it ends");
    peer.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_is_killed_goes_on_and_pays_nothing_twice() {
    let world = World::new().await;
    let World {
        gateway,
        peer,
        user,
        federation,
    } = &world;

    // While the payee holds the payment.
    peer.set_slow(true);
    let invoice = peer.invoice(10_000 * SAT).await.expect("an invoice");
    let paying = user
        .begin(&["ln", "pay", &invoice], &[])
        .expect("it begins");
    until("the payment to be under way", || async {
        last(gateway).await["state"] == "pending"
    })
    .await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    gateway.kill();
    world.again().await;
    assert_eq!(last(gateway).await["state"], "pending");
    peer.set_slow(false);
    peer.settle(&invoice).await.expect("it settles");
    let paid = paying
        .end()
        .await
        .expect("it ends")
        .succeeded()
        .expect("it is paid");
    assert!(preimage_fits(&paid, &invoice));

    // Behind each write of the journal, paying.
    for writes in 1..=2 {
        gateway.stop().await.expect("it ends");
        let crash = [(CRASH_VARIABLE, writes.to_string())];
        let crash: Vec<_> = crash
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        gateway
            .start_with(&federation.bitcoind, &crash)
            .await
            .expect("it starts");
        lightning::usable(gateway, peer).await.expect("a channel");
        let before = balance(user).await;
        let invoice = peer.invoice(10_000 * SAT).await.expect("an invoice");
        let paying = user
            .begin(&["ln", "pay", &invoice], &[])
            .expect("it begins");
        until("the gateway to be killed", || async {
            !gateway.is_running()
        })
        .await;
        world.again().await;
        let paid = paying.end().await.expect("it ends").succeeded();
        assert!(
            preimage_fits(&paid.expect("it is paid"), &invoice),
            "write {writes}"
        );
        let cost = before - balance(user).await;
        assert!(cost < 10_200 * SAT, "write {writes}: {cost}");
    }

    // Behind each write, being paid: three come before there is an invoice.
    for writes in 4..=6 {
        gateway.stop().await.expect("it ends");
        let value = writes.to_string();
        let crash = [(CRASH_VARIABLE, value.as_str())];
        gateway
            .start_with(&federation.bitcoind, &crash)
            .await
            .expect("it starts");
        lightning::usable(gateway, peer).await.expect("a channel");
        let before = balance(user).await;
        let (waiting, invoice) = invoiced(user, "10000sat").await;
        peer.begin_pay(&invoice).await.expect("it is on its way");
        until("the gateway to be killed", || async {
            !gateway.is_running()
        })
        .await;
        world.again().await;
        waiting
            .end()
            .await
            .expect("it ends")
            .succeeded()
            .expect("it is there");
        let brought = balance(user).await - before;
        assert!(
            (9_800 * SAT..10_000 * SAT).contains(&brought),
            "write {writes}: {brought}"
        );
        until("the gateway to be done", || async {
            last(gateway).await["state"] == "paid"
        })
        .await;
    }

    let solvency = gateway.run(&["solvency"]).await.expect("it says");
    assert_eq!(solvency["status"], "ok", "{solvency}");
    until("guardians to have the same books", || async {
        balanced(federation).await.is_ok()
    })
    .await;
    gateway.stop().await.expect("it ends");
    peer.stop().await;
}
