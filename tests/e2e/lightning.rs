//! Users of a federation pay and are paid over Lightning: guardians, a gateway and
//! wallets as processes, a node of somebody else's, a real chain, a real channel.

use std::time::{Duration, Instant};

use crate::common::lightning::{
    SAT, World, balance, invoiced, killed_behind_each_write, last, memory_kib, preimage_fits,
};
use crate::common::until;
use modmint::tour::{balanced, refused};
use modmint_core::sha256;
use modmint_gateway::lightning::Invoice;

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
    println!("the gateway has {} KiB of memory", memory_kib(gateway));
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

    let solvency = gateway.run(&["solvency"]).await.expect("it says");
    assert_eq!(solvency["status"], "ok", "{solvency}");
    until("guardians to have the same books", || async {
        balanced(federation).await.is_ok()
    })
    .await;
    gateway.stop().await.expect("it ends");
    peer.stop().await;
}
