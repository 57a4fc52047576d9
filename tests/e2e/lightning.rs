//! Users of a federation pay and are paid over Lightning: guardians, a gateway and
//! wallets as processes, a node of somebody else's, a real chain, a real channel.

use std::time::{Duration, Instant};

use crate::common::lightning::{
    SAT, World, balance, invoiced, killed_behind_each_write, last, memory_kib, preimage_fits,
};
use crate::common::until;
use modmint::{
    lightning::Gateway,
    tour::{balanced, refused},
};
use modmint_core::sha256;
use modmint_gateway::lightning::Invoice;

/// All that a gateway has for certain, millisatoshi.
async fn total(gateway: &Gateway) -> i64 {
    let solvency = gateway.run(&["solvency"]).await.expect("it says");
    assert_eq!(solvency["status"], "ok", "{solvency}");
    let parts = ["onchain_msat", "lightning_msat", "ecash_msat"];
    let parts = parts.map(|part| solvency[part].as_i64().expect("an amount"));
    parts.iter().sum()
}

/// What a gateway has earned with what was paid in its newest lines, less what the
/// federation asks it for each payment in: 1 sat for the contract.
async fn earned(gateway: &Gateway, lines: usize) -> i64 {
    let limit = lines.to_string();
    let log = gateway.run(&["payments", "--limit", &limit]).await;
    let log = log.expect("a log");
    let lines = log["items"].as_array().expect("lines").iter();
    let earned = lines.map(|line| {
        let contract = match (&line["direction"], &line["state"]) {
            (direction, state) if direction == "in" && state == "paid" => 1_000,
            _ => 0,
        };
        line["earned_msat"].as_i64().expect("an amount") - contract
    });
    earned.sum()
}

/// Waits until a gateway has what it had and what it has earned since, to the millisatoshi,
/// with so many lines more in its log.
async fn exact(gateway: &Gateway, had: &mut i64, lines: usize) {
    let before = *had;
    let patience = Duration::from_secs(60);
    let books = modmint::wait_for("the gateway to have what it earned", patience, || async {
        let (has, earned) = (total(gateway).await, earned(gateway, lines).await);
        anyhow::ensure!(
            has == before + earned,
            "it had {before} msat, has earned {earned}, and has {has}"
        );
        Ok(has)
    });
    *had = books.await.expect("nothing is lost");
    println!("{} msat more, as it earned", *had - before);
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

    let mut had = total(gateway).await;

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
    exact(gateway, &mut had, 1).await;

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
    exact(gateway, &mut had, 1).await;

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
    exact(gateway, &mut had, 2).await;

    refunded(&world).await;
    exact(gateway, &mut had, 1).await;

    // One guardian is down, whatever is done.
    federation.guardians[3].kill();
    let invoice = peer.invoice(3_000 * SAT).await.expect("an invoice");
    assert!(preimage_fits(&world.pay(&invoice).await, &invoice));
    for payer_is_user in [false, true] {
        let receiver = if payer_is_user { &other } else { user };
        let (waiting, invoice) = invoiced(receiver, "3000sat").await;
        match payer_is_user {
            true => assert!(preimage_fits(&world.pay(&invoice).await, &invoice)),
            false => drop(peer.pay(&invoice).await.expect("the peer pays")),
        }
        waiting
            .end()
            .await
            .expect("it ends")
            .succeeded()
            .expect("it is there");
    }
    refunded(&world).await;
    exact(gateway, &mut had, 5).await;
    federation.start(3).expect("it starts");
    federation.all_ready().await.expect("it is ready");

    println!("the gateway has {} KiB of memory", memory_kib(gateway));
    let summary = gateway.run(&["summary"]).await.expect("it says");
    println!("{summary:#}");
    assert_eq!(
        (&summary["out"]["paid"], &summary["incoming"]["paid"]),
        (&4.into(), &4.into())
    );
    until("guardians to have the same books", || async {
        balanced(federation).await.is_ok()
    })
    .await;
    gateway.stop().await.expect("it ends");
    peer.stop().await;
}

/// A payee that does not take it: the money comes back.
async fn refunded(world: &World) {
    let World {
        gateway,
        peer,
        user,
        ..
    } = world;
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

    let mut had = total(gateway).await;

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

    let times = killed_behind_each_write(&world, async |writes| {
        let before = balance(user).await;
        let invoice = peer.invoice(10_000 * SAT).await.expect("an invoice");
        let paid = world.pay(&invoice).await;
        assert!(preimage_fits(&paid, &invoice), "write {writes}");
        let cost = before - balance(user).await;
        assert!(cost < 10_200 * SAT, "write {writes}: {cost}");
    })
    .await;
    println!("paying, killed behind {times} writes");
    assert!(times >= 2);

    let times = killed_behind_each_write(&world, async |writes| {
        let before = balance(user).await;
        // A wallet asks again for an invoice that it has not been given.
        let (waiting, invoice) = invoiced(user, "10000sat").await;
        let patience = Duration::from_secs(60);
        modmint::wait_for("a way to the gateway", patience, || {
            peer.begin_pay(&invoice)
        })
        .await
        .expect("it is on its way");
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
            let log = gateway.run(&["payments", "--limit", "1"]).await;
            log.is_ok_and(|log| log["items"][0]["state"] == "paid")
        })
        .await;
    })
    .await;
    println!("being paid, killed behind {times} writes");
    assert!(times >= 5);

    // Whenever it was killed.
    exact(gateway, &mut had, 1000).await;
    until("guardians to have the same books", || async {
        balanced(federation).await.is_ok()
    })
    .await;
    gateway.stop().await.expect("it ends");
    peer.stop().await;
}
