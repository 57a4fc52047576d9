//! What a gateway meets and nobody must lose money by: no route, junk, another federation, its
//! own death. Guardians, gateway, node and chain are real.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use crate::common::lightning::{
    SAT, TIMELOCK, World, balance, invoiced, last, memory_kib, preimage_fits,
};
use crate::common::{
    raw::{federation_id, submit, transaction},
    until,
};
use modmint::{
    federation::{Federation, Options},
    lightning::{self, Gateway, ecash},
    programs,
    tour::{balanced, deposit, refused},
    wallet::Wallet,
};
use modmint_core::{
    Hash32, Input, InstanceId, config::FederationConfig, rest::FederationResponse, sha256,
    tagged_hash,
};
use modmint_crypto::{secp, tpe};
use modmint_gateway::{gateway::TIMELOCK_MARGIN, journal::CRASH_VARIABLE};
use modmint_ln::{CIPHERTEXT, CLAIM_MARGIN_BLOCKS, ContractInput, KEY, Offer};
use modmint_sdk::to_hex;
use serde_json::{Value, json};

/// Behind the mint and the wallet.
const LN: InstanceId = InstanceId(2);
/// More than any fees, and less than anything that is paid here.
const FEES: u64 = 100 * SAT;

/// Has the user pay what cannot be paid; what it costs.
async fn pays_in_vain(world: &World, invoice: &str) -> u64 {
    let before = balance(&world.user).await;
    let outcome = world.user.try_run(&["ln", "pay", invoice], &[]).await;
    let code = refused(outcome.expect("it runs")).expect("it fails");
    assert_eq!(code, "payment-failed");
    before - balance(&world.user).await
}

async fn log(world: &World, limit: &str) -> Vec<Value> {
    let log = world.gateway.run(&["payments", "--limit", limit]).await;
    log.expect("a log")["items"]
        .as_array()
        .expect("lines")
        .clone()
}

/// An offer of the federation's users whose ciphertext holds something else than the
/// preimage.
async fn junk_offer(federation: &Federation, preimage: Hash32, amount: u64) -> Offer {
    let guardian = &federation.guardians[0];
    let described: FederationResponse = guardian.get("/v1/federation").await.expect("it answers");
    let config = FederationConfig::decode(&described.config.0, &described.id).expect("a config");
    let instance = config.instance(LN).expect("there is one");
    let key = instance.keys.iter().find(|key| key.label == KEY);
    let mut offer = Offer {
        payment_hash: sha256(&preimage.0),
        amount,
        claim_key: secp::public_key(&[8; 32]),
        gateway_key: None,
        expiry: guardian.status().await.expect("it answers").unix_time + 3600,
        nonce: [1; 16],
        ciphertext: [0; CIPHERTEXT],
    };
    let encoded = |offer: &Offer| borsh::to_vec(offer).expect("encodes");
    let terms = tagged_hash("modmint/ln/terms", &[&encoded(&offer)]);
    let terms = [&described.id.0[..], &LN.0.to_be_bytes(), &terms].concat();
    let ciphertext = tpe::encrypt(
        &key.expect("a key").public_keys[0].0,
        &[99; 32],
        &terms,
        &[4; 32],
    );
    offer.ciphertext = ciphertext.expect("a key").try_into().expect("its length");
    offer
}

/// Anybody can see contracts: who is not the payer has none of them cancelled, or paid for
/// another invoice.
async fn a_stranger_says_nothing_of_a_contract(world: &World, id: &str) {
    let World {
        gateway,
        peer,
        user,
        federation,
    } = world;
    peer.set_slow(true);
    let invoice = peer.invoice(6_000 * SAT).await.expect("an invoice");
    let paying = user.begin(&["ln", "pay", &invoice], &[]);
    until("the payment to be under way", || async {
        last(gateway).await["state"] == "pending"
    })
    .await;
    let open = federation.guardians[0].query("ln", "contracts").await;
    let open = open.expect("it answers");
    let [contract] = &open.as_array().expect("a list")[..] else {
        panic!("one is open: {open}");
    };
    let http = reqwest::Client::builder().no_proxy().build();
    let http = http.expect("a client");
    let other = peer.invoice(6_000 * SAT).await.expect("an invoice");
    for (invoice, code) in [(&other, "wrong-hash"), (&invoice, "bad-signature")] {
        let request = json!({
            "invoice": invoice,
            "contract": contract["id"],
            "signature": to_hex(&[7; 64]),
        });
        let url = format!("{}/v1/federations/{id}/payments", gateway.api_url());
        let answer = http.post(url).json(&request).send().await;
        let answer = answer.expect("it answers");
        assert_eq!(answer.status(), 422);
        let answer: Value = answer.json().await.expect("JSON");
        assert_eq!(answer["code"], code, "{answer}");
    }
    let still = federation.guardians[0].query("ln", "contracts").await;
    assert_eq!(still.expect("it answers"), open);
    peer.set_slow(false);
    peer.settle(&invoice).await.expect("it settles");
    let paid = paying.expect("it begins").end().await.expect("it ends");
    assert!(preimage_fits(
        &paid.succeeded().expect("it is paid"),
        &invoice
    ));
}

/// A second federation on the same chain, of one guardian, and a user of it.
async fn another_federation(world: &World, folder: &Path) -> (Federation, Wallet) {
    let bitcoind = world.federation.bitcoind.clone();
    let options = Options {
        guardians: 1,
        ..Options::standard().expect("scripts/test builds the bundles")
    };
    let federation = Federation::found_on(bitcoind, folder, options).await;
    let federation = federation.expect("it is founded");
    let user = federation.wallet(&folder.join("user")).await;
    (federation, user.expect("a wallet can join"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn money_comes_back_whatever_the_gateway_meets() {
    let world = World::without_a_channel().await;
    let World {
        gateway,
        peer,
        federation,
        ..
    } = &world;
    let id = federation_id(&federation.guardians[0]).await;
    let id_text = id.to_string();

    // No route. The node has sent nothing, so the same invoice may be tried again once
    // there is one.
    let invoice = peer.invoice(20_000 * SAT).await.expect("an invoice");
    let cost = pays_in_vain(&world, &invoice).await;
    assert!(cost < FEES, "{cost}");
    assert_eq!(last(gateway).await["state"], "failed");
    println!("no route: {cost} msat of fees, the rest is back");
    world.open_channel().await;
    assert!(preimage_fits(&world.pay(&invoice).await, &invoice));
    let states: Vec<_> = log(&world, "2").await;
    assert_eq!(
        states.iter().map(|line| &line["state"]).collect::<Vec<_>>(),
        ["paid", "failed"]
    );

    // What has been sent is not tried again, and costs fees alone.
    peer.set_unwilling(true);
    let invoice = peer.invoice(7_000 * SAT).await.expect("an invoice");
    assert!(pays_in_vain(&world, &invoice).await < FEES);
    peer.set_unwilling(false);
    assert!(pays_in_vain(&world, &invoice).await < FEES);
    assert!(!peer.is_paid(&invoice));

    a_stranger_says_nothing_of_a_contract(&world, &id_text).await;

    // A receiver sells junk: the payer has the money back, and so has the gateway.
    let before = ecash(gateway, &id_text).await.expect("it says");
    let preimage = Hash32([21; 32]);
    let offer = junk_offer(federation, preimage, 10_000 * SAT).await;
    let encoded = borsh::to_vec(&offer).expect("encodes");
    let request = json!({
        "offer": to_hex(&encoded),
        "payment_hash": to_hex(&offer.payment_hash),
        "amount_msat": 10_100 * SAT,
        "contract_msat": offer.amount,
        "expiry_seconds": 600,
    });
    let http = reqwest::Client::builder().no_proxy().build();
    let url = format!("{}/v1/federations/{id}/invoices", gateway.api_url());
    let answer = http
        .expect("a client")
        .post(url)
        .json(&request)
        .send()
        .await;
    let answer: Value = answer.expect("it answers").json().await.expect("JSON");
    let invoice = answer["invoice"].as_str().expect("an invoice");
    peer.pay(invoice).await.expect_err("it is junk");
    let line = last(gateway).await;
    assert_eq!(line["state"], "failed", "{line}");
    until("the gateway to have its money back", || async {
        let now = ecash(gateway, &id_text).await.expect("it says");
        println!("junk: the gateway had {before} msat, and has {now}");
        before - now < FEES
    })
    .await;
    // Whoever sold it comes too late with the preimage.
    let claim = ContractInput::ClaimIncoming {
        offer: tagged_hash("modmint/ln/offer", &[&encoded]),
        preimage: preimage.0,
    };
    let claim = Input {
        instance: LN,
        bytes: borsh::to_vec(&claim).expect("encodes"),
    };
    let guardian = &federation.guardians[0];
    let claim = transaction(guardian, vec![(claim, [8; 32])], Vec::new()).await;
    let refused = submit(guardian, &claim).await;
    assert_eq!(refused, Err("no-such-contract".to_owned()));

    until("guardians to have the same books", || async {
        balanced(federation).await.is_ok()
    })
    .await;
    println!("the gateway has {} KiB of memory", memory_kib(gateway));
    gateway.stop().await.expect("it ends");
    peer.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn federations_swap_operators_leave_and_a_dead_gateway_keeps_nothing() {
    let world = World::new().await;
    let id = federation_id(&world.federation.guardians[0]).await;
    let id = id.to_string();
    swaps_across_federations(&world).await;
    the_operator_leaves_nothing_by_mistake(&world, &id).await;
    a_gateway_that_dies_keeps_nothing(&world).await;
}

/// Nobody can be asked, and the node is about to give the payment back.
async fn what_is_held_for_too_long_is_not_bought(world: &World) {
    let World {
        gateway,
        peer,
        user,
        federation,
    } = world;
    let id = federation_id(&federation.guardians[0]).await.to_string();
    let (waiting, invoice) = invoiced(user, "5000sat").await;
    waiting.kill().await.expect("it ends");
    let before = ecash(gateway, &id).await.expect("it says");
    for guardian in &federation.guardians {
        guardian.kill();
    }
    // The gateway's wallet relies for ten seconds on what it has heard, and would begin.
    tokio::time::sleep(Duration::from_secs(11)).await;
    peer.begin_pay(&invoice).await.expect("there is a way");
    let held = modmint::wait_for("a held payment", Duration::from_secs(30), || async {
        let line = last(gateway).await;
        let deadline = line["deadline"].as_u64();
        anyhow::Context::with_context(deadline, || format!("{line}"))
    });
    let deadline = held.await.expect("it is held");
    let tip = u64::from(federation.bitcoind.tip().await.expect("a tip").height);
    let blocks = u32::try_from(deadline - 1 - tip).expect("few blocks");
    federation.bitcoind.mine(blocks).await.expect("blocks");
    let back = modmint::wait_for("it to go back", Duration::from_secs(60), || async {
        let line = last(gateway).await;
        anyhow::ensure!(line["state"] == "failed", "{line}");
        Ok(line["reason"].as_str().unwrap_or_default().to_owned())
    });
    let reason = back.await.expect("it goes back");
    assert!(
        reason.contains(&format!("too near to {deadline}")),
        "{reason}"
    );
    for index in 0..federation.guardians.len() {
        federation.start(index).expect("it starts");
    }
    federation.all_ready().await.expect("they go on");
    assert_eq!(ecash(gateway, &id).await.expect("it says"), before);
    lightning::usable(gateway, peer).await.expect("a channel");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_federation_that_stood_still_sells_its_gateway_nothing() {
    let world = World::new().await;
    what_is_held_for_too_long_is_not_bought(&world).await;
    let World {
        gateway,
        peer,
        user,
        federation,
    } = &world;
    let id = federation_id(&federation.guardians[0]).await.to_string();
    let (waiting, invoice) = invoiced(user, "5000sat").await;
    waiting.kill().await.expect("it ends");
    let (waiting, other) = invoiced(user, "5000sat").await;
    waiting.kill().await.expect("it ends");
    // A purchase, so that the gateway's wallet has heard of the federation just now and
    // hands in the next one: for ten seconds it does not ask again.
    tokio::time::sleep(Duration::from_secs(11)).await;
    peer.pay(&other).await.expect("it arrives");
    let before = ecash(gateway, &id).await.expect("it says");
    for guardian in &federation.guardians[2..] {
        guardian.kill();
    }
    // Until the guardians that are left know no more than that nobody says anything.
    tokio::time::sleep(Duration::from_secs(4)).await;
    peer.begin_pay(&invoice).await.expect("there is a way");
    // On a busy machine it may have to ask again after all, and hands nothing in.
    let patience = Duration::from_secs(20);
    let waits = modmint::wait_for("the purchase to wait for the others", patience, || async {
        let metrics = federation.guardians[0].metrics().await?;
        anyhow::ensure!(metrics.contains("modmint_pending_transactions 1"));
        Ok(())
    });
    println!("handed in: {}", waits.await.is_ok());
    // The node gives the payment back, and a purchase may not wait for so long.
    federation.bitcoind.mine(40).await.expect("blocks");
    tokio::time::sleep(Duration::from_secs(61)).await;
    federation.start(2).expect("it starts");
    federation.start(3).expect("it starts");
    federation.all_ready().await.expect("they go on");
    // Agreed time is in minutes, and moves when they are over.
    let back = modmint::wait_for(
        "the payment to go back",
        Duration::from_secs(240),
        || async {
            anyhow::ensure!(last(gateway).await["state"] == "failed");
            Ok(())
        },
    );
    back.await.expect("it goes back");
    assert_eq!(ecash(gateway, &id).await.expect("it says"), before);
    // It was nobody's fault: the next one arrives.
    lightning::usable(gateway, peer).await.expect("a channel");
    let had = balance(user).await;
    let (waiting, invoice) = invoiced(user, "5000sat").await;
    peer.begin_pay(&invoice).await.expect("there is a way");
    let received = waiting.end().await.expect("it ends").succeeded();
    received.expect("it is there");
    assert!(balance(user).await > had);
}

async fn swaps_across_federations(world: &World) {
    let World {
        gateway,
        user,
        federation,
        ..
    } = world;
    let (other, stranger) = another_federation(world, &federation.folder().join("other")).await;
    deposit(&other, &stranger, 100_000)
        .await
        .expect("a deposit");
    lightning::serve(gateway, &other, &stranger, 200_000)
        .await
        .expect("it serves both");
    let channels = gateway.run(&["channel", "list"]).await.expect("channels");
    for (payer, payee) in [(user, &stranger), (&stranger, user)] {
        let before = balance(payee).await;
        let (waiting, invoice) = invoiced(payee, "5000sat").await;
        let paid = payer.run(&["ln", "pay", &invoice]).await;
        assert!(preimage_fits(&paid.expect("it is paid"), &invoice));
        waiting
            .end()
            .await
            .expect("it ends")
            .succeeded()
            .expect("it is there");
        let brought = balance(payee).await - before;
        assert!((4_900 * SAT..=5_000 * SAT).contains(&brought), "{brought}");
        let lines = log(world, "2").await;
        assert!(lines.iter().all(|line| line["swap"] == true), "{lines:?}");
        assert_ne!(lines[0]["federation"], lines[1]["federation"]);
    }
    let after = gateway.run(&["channel", "list"]).await.expect("channels");
    assert_eq!(after, channels, "no payment went over the channel");
    until("both federations to have their books", || async {
        balanced(&other).await.is_ok() && balanced(federation).await.is_ok()
    })
    .await;

    // It is left with what is in it: not by mistake.
    let id = federation_id(&other.guardians[0]).await.to_string();
    let leave = ["federation", "leave", &id];
    let refused = gateway.run(&leave).await.expect_err("there is e-cash");
    assert!(refused.to_string().contains("not-empty"), "{refused}");
    let left = gateway.run(&[&leave[..], &["--force"]].concat()).await;
    let left = left.expect("it is said so");
    assert!(
        left["balance_msat"].as_u64() > Some(100_000 * SAT),
        "{left}"
    );
    let outcome = stranger.try_run(&["ln", "invoice", "1000sat"], &[]).await;
    assert!(!outcome.expect("it runs").status.success());
    let again = gateway.run(&["federation", "join", &other.invite]).await;
    assert_eq!(
        again.expect("it is joined")["balance_msat"],
        left["balance_msat"]
    );
    gateway
        .run(&[&leave[..], &["--force"]].concat())
        .await
        .expect("it is left");
}

/// Withdrawing, announcing, keys.
async fn the_operator_leaves_nothing_by_mistake(world: &World, id: &str) {
    let World {
        gateway,
        user,
        federation,
        ..
    } = world;
    let bitcoind = &federation.bitcoind;
    let address: String = bitcoind
        .call("getnewaddress", json!([]))
        .await
        .expect("an address");
    let before = ecash(gateway, id).await.expect("it says");
    let withdraw = ["federation", "withdraw", id, &address, "50000"];
    let cheap = [&withdraw[..], &["--maximum-fee", "1"]].concat();
    let refused = gateway.run(&cheap).await.expect_err("it costs more");
    assert!(
        refused.to_string().contains("confirmation-needed"),
        "{refused}"
    );
    let withdrawn = gateway.run(&withdraw).await.expect("it is on its way");
    let took = withdrawn["took_msat"].as_u64().expect("an amount");
    assert!((50_000 * SAT..56_000 * SAT).contains(&took), "{withdrawn}");
    until("the withdrawal to arrive", || async {
        bitcoind.mine(1).await.expect("a block");
        bitcoind.received(&address).await.expect("it says") == 50_000
    })
    .await;
    until("the change to be there", || async {
        ecash(gateway, id).await.expect("it says") == before - took
    })
    .await;
    let solvency = gateway.run(&["solvency"]).await.expect("it says");
    assert_eq!(solvency["status"], "ok", "{solvency}");
    let books = solvency["federations"].as_array().expect("a book for each");
    let book = books.iter().find(|book| book["id"] == id).expect("one");
    assert_eq!(book["missing_msat"], 0, "{solvency}");

    // Users hear of other fees.
    let terms = ["federation", "terms", id, "--pay-base", "7777"];
    gateway.run(&terms).await.expect("they are set");
    until("users to hear of it", || async {
        let known = user.run(&["ln", "gateways"]).await;
        known.expect("they are listed").to_string().contains("7777")
    })
    .await;

    // Keys open what they are for.
    for (scope, looks, moves, rules) in [
        ("read", true, false, false),
        ("funds", true, true, false),
        ("admin", true, true, true),
    ] {
        let key = key_of(gateway, scope);
        for (words, allowed) in [
            (&["balances"][..], looks),
            (&["onchain", "address"][..], moves),
            (&terms[..], rules),
        ] {
            let expected = match allowed {
                true => Ok(()),
                false => Err("scope-missing".to_owned()),
            };
            let outcome = as_operator(gateway, &key, words);
            assert_eq!(outcome, expected, "{scope}: {words:?}");
        }
    }
}

/// A file with a new key.
fn key_of(gateway: &Gateway, scope: &str) -> PathBuf {
    let folder = gateway.key_file().with_file_name("");
    let made = Command::new(programs::program("modmint-gatewayd").expect("it is built"))
        .args([
            "key",
            "add",
            "--name",
            &format!("for-{scope}"),
            "--scope",
            scope,
        ])
        .arg("--data-dir")
        .arg(&folder)
        .output()
        .expect("it runs");
    assert!(made.status.success(), "{made:?}");
    let file = folder.join(format!("{scope}.key"));
    std::fs::write(&file, made.stdout).expect("it is written");
    file
}

/// Runs a command with a key; the code, if it is refused.
fn as_operator(gateway: &Gateway, key: &Path, words: &[&str]) -> Result<(), String> {
    let outcome = Command::new(programs::program("modmint-gateway-cli").expect("it is built"))
        .args(["--json", "--url", &gateway.api_url(), "--key-file"])
        .arg(key)
        .args(words)
        .output()
        .expect("it runs");
    if outcome.status.success() {
        return Ok(());
    }
    let answer: Value = serde_json::from_slice(&outcome.stdout).expect("JSON");
    Err(answer["error"]["code"].as_str().expect("a code").to_owned())
}

/// Killed before its node is told, and back when all is over.
async fn a_gateway_that_dies_keeps_nothing(world: &World) {
    let World {
        gateway,
        peer,
        user,
        federation,
    } = world;
    gateway.stop().await.expect("it ends");
    gateway
        .start_with(&federation.bitcoind, &[(CRASH_VARIABLE, "1")])
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
    // The gateway wants its margin, a wallet adds twelve blocks, and the tip may be ahead
    // of what is agreed.
    const { assert!(CLAIM_MARGIN_BLOCKS == TIMELOCK_MARGIN) };
    let lasts = TIMELOCK + TIMELOCK_MARGIN + 12;
    let blocks = lasts + 2 + federation.plan.finality_depth;
    federation.bitcoind.mine(blocks).await.expect("blocks");
    let outcome = paying.end().await.expect("it ends");
    assert_eq!(refused(outcome).expect("it fails"), "payment-failed");
    let cost = before - balance(user).await;
    assert!(cost < FEES, "{cost}");
    println!("dead: {cost} msat of fees, the rest is back");

    // It knows no better than that something may be under way, until that is over.
    gateway
        .start(&federation.bitcoind)
        .await
        .expect("it starts");
    federation.bitcoind.mine(10).await.expect("blocks");
    until("the gateway to give it up", || async {
        last(gateway).await["state"] == "failed"
    })
    .await;
    assert!(!peer.is_paid(&invoice));
    lightning::usable(gateway, peer).await.expect("a channel");
    let invoice = peer.invoice(1_000 * SAT).await.expect("an invoice");
    assert!(preimage_fits(&world.pay(&invoice).await, &invoice));
}
