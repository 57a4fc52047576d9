//! The gateway's Lightning node, two real ones of them on a real chain: what the trait
//! promises.

use std::{sync::Arc, time::Duration};

use modmint::{bitcoind::Bitcoind, process::free_address, wait_for};
use modmint_core::{Hash32, config::Network, sha256};
use modmint_gateway::{
    daemon,
    lightning::{
        LightningNode, NodeEvent, OpenChannel, PayError, PayOrder, Received, Sent,
        ldk::{LdkNode, LdkSetup},
    },
};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);

async fn start(folder: &TempDir, n: u8, address: &str, bitcoind: &Bitcoind) -> LdkNode {
    let setup = LdkSetup {
        folder: &folder.path().join(n.to_string()),
        seed: &[n; 64],
        network: Network::Regtest,
        alias: "node",
        listen: &[address.to_owned()],
        bitcoind: daemon::with_cookie(bitcoind.url(), &bitcoind.cookie_file()).expect("a cookie"),
    };
    LdkNode::start(setup).await.expect("the node starts")
}

/// The next event of payments.
async fn next(node: &LdkNode) -> NodeEvent {
    loop {
        let event = tokio::time::timeout(PATIENCE, node.next_event()).await;
        let event = event.expect("something happens");
        if !matches!(event, NodeEvent::Other(_)) {
            return event;
        }
        node.event_handled().await.expect("handled");
    }
}

async fn taken(node: &LdkNode) -> NodeEvent {
    let event = next(node).await;
    node.event_handled().await.expect("handled");
    event
}

async fn until(what: &str, mut ask: impl FnMut() -> bool) {
    let asked = wait_for(what, PATIENCE, || {
        let is = ask();
        async move {
            anyhow::ensure!(is, "not yet");
            Ok(())
        }
    });
    asked.await.expect("it comes true");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_pay_hold_settle_and_give_back_through_restarts() {
    let folder = TempDir::with_prefix("modmint-test-").expect("a folder");
    let bitcoind = Bitcoind::start(&folder.path().join("bitcoind"))
        .await
        .expect("a bitcoind");
    let addresses = [0, 1].map(|_| free_address().expect("a port").to_string());
    let payer = start(&folder, 1, &addresses[0], &bitcoind).await;
    let payee = start(&folder, 2, &addresses[1], &bitcoind).await;

    // On chain, and into a channel.
    let address = payer.address().await.expect("an address");
    bitcoind.send(&address, 3_000_000).await.expect("sent");
    bitcoind.mine(6).await.expect("mined");
    until("the money to be there", || {
        payer.balance().onchain_spendable_sat == 3_000_000
    })
    .await;
    let order = OpenChannel {
        peer: payee.info().node_key,
        address: addresses[1].clone(),
        capacity_sat: 1_000_000,
        push_msat: 0,
        announced: false,
    };
    let id = payer.open_channel(&order).await.expect("it opens");
    until("the channel to be known", || {
        payer.channels().iter().any(|c| c.funding.is_some())
    })
    .await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    bitcoind.mine(6).await.expect("mined");
    until("the channel to be usable", || {
        [&payer, &payee]
            .iter()
            .all(|node| node.channels().iter().any(|c| c.usable))
    })
    .await;
    assert_eq!(payer.channels()[0].id, id);

    let preimage = |n: u8| Hash32([n; 32]);
    let hash = |n: u8| Hash32(sha256(&[n; 32]));
    let pay = |invoice: String, blocks: u32| PayOrder {
        invoice,
        maximum_fee_msat: 1_000,
        latest_height: payer.info().height + blocks,
    };

    // Held, told again until it is handled, settled.
    let invoice = payee
        .invoice(hash(1), 50_000_000, "one", 600)
        .await
        .expect("an invoice");
    // A limit that no HTLC can keep.
    let refused = payer.pay(&pay(invoice.clone(), 20)).await;
    assert!(matches!(refused, Err(PayError::NotSent(_))), "{refused:?}");
    assert_eq!(payer.sent(hash(1)), Some(Sent::Failed));
    payer
        .pay(&pay(invoice.clone(), 200))
        .await
        .expect("it is sent");
    let held = next(&payee).await;
    let NodeEvent::Held {
        payment_hash,
        amount_msat,
        deadline,
    } = held.clone()
    else {
        panic!("{held:?}");
    };
    assert_eq!((payment_hash, amount_msat), (hash(1), 50_000_000));
    let left = deadline - payee.info().height;
    println!("an HTLC can be settled for {left} blocks");
    assert!(left >= 3, "{left}");
    assert_eq!(next(&payee).await, held, "told again");
    assert!(payee.has_event(), "until it is handled");
    assert_eq!(payer.pay(&pay(invoice, 200)).await, Err(PayError::Known));
    assert_eq!(payer.sent(hash(1)), Some(Sent::Pending));
    assert_eq!(payee.received(hash(1)), Some(Received::Pending));

    // Both nodes end before it is handled, and know everything afterwards.
    payee.stop().await;
    payer.stop().await;
    drop((payee, payer));
    let payer = start(&folder, 1, &addresses[0], &bitcoind).await;
    let payee = Arc::new(start(&folder, 2, &addresses[1], &bitcoind).await);
    assert_eq!(taken(&payee).await, held, "and after a restart");
    assert_eq!(payer.sent(hash(1)), Some(Sent::Pending));
    payee.settle(hash(1), preimage(1)).await.expect("settled");
    assert_eq!(
        taken(&payee).await,
        NodeEvent::Settled {
            payment_hash: hash(1)
        }
    );
    let paid = NodeEvent::Paid {
        payment_hash: hash(1),
        preimage: preimage(1),
        fee_msat: 0,
    };
    assert_eq!(taken(&payer).await, paid);
    let record = Sent::Paid {
        preimage: preimage(1),
        fee_msat: 0,
    };
    assert_eq!(payer.sent(hash(1)), Some(record));
    assert_eq!(payee.received(hash(1)), Some(Received::Settled));
    // Told again of what is over.
    payee
        .settle(hash(1), preimage(1))
        .await
        .expect("nothing happens");

    // Given back.
    until("the channel to be usable", || {
        payer.channels().iter().any(|c| c.usable)
    })
    .await;
    let invoice = payee
        .invoice(hash(2), 1_000_000, "two", 600)
        .await
        .expect("an invoice");
    let order = PayOrder {
        invoice: invoice.clone(),
        maximum_fee_msat: 1_000,
        latest_height: payer.info().height + 200,
    };
    payer.pay(&order).await.expect("it is sent");
    assert!(matches!(taken(&payee).await, NodeEvent::Held { .. }));
    payee.fail(hash(2)).await.expect("given back");
    let event = taken(&payer).await;
    assert!(
        matches!(&event, NodeEvent::NotPaid { payment_hash, .. } if *payment_hash == hash(2)),
        "{event:?}"
    );
    assert_eq!(payer.sent(hash(2)), Some(Sent::Failed));

    // An invoice of the node's own has one record with its payment.
    let refused = payee.pay(&PayOrder { invoice, ..order }).await;
    assert!(refused.is_err(), "{refused:?}");

    payee
        .close_channel("0", false)
        .await
        .expect_err("there is none");
    payer.close_channel(&id, false).await.expect("it closes");
    until("the channel to be gone", || payer.channels().is_empty()).await;
    let balance = payer.balance();
    println!("after closing: {balance:?}");
    payer.stop().await;
    payee.stop().await;
}
