//! Guardians and bitcoind that die, alone and together, and come back.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crate::common::{Fixture, raw, until};
use modmint::{
    tour::{balanced, deposit, receive, send},
    wallet::Wallet,
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::time::sleep;

/// `modmint-cli`'s exit code when too few guardians answer.
const FEDERATION_UNREACHABLE: i32 = 7;
/// What a guardian that takes transactions says to what is none.
const NONSENSE: &str = "malformed-transaction";

/// E-cash that goes back and forth between two wallets until told to stop.
/// Returns how often.
async fn load(alice: Wallet, bob: Wallet, stop: Arc<AtomicBool>) -> usize {
    let mut times = 0;
    while !stop.load(Ordering::Relaxed) {
        let (from, to) = match times % 2 {
            0 => (&alice, &bob),
            _ => (&bob, &alice),
        };
        let notes = send(from, 1_000).await.expect("a wallet can send");
        receive(to, &notes).await.expect("a wallet can receive");
        times += 1;
    }
    times
}

/// What a guardian says to what is no transaction.
async fn answer_to_nonsense(guardian: usize, federation: &Fixture) -> String {
    let given = raw::give(&federation.guardians[guardian], vec![1, 2, 3]).await;
    given.expect_err("it is refused").code
}

/// The federation agrees, its books balance, and no money came or went.
async fn check_money(federation: &Fixture, wallets: &[&Wallet], msat: u64) {
    federation.same_state_root().await.expect("one state root");
    balanced(federation).await.expect("the books balance");
    let mut sum = 0;
    for wallet in wallets {
        sum += wallet.balance().await.expect("a balance");
    }
    assert_eq!(sum, msat, "msat in all wallets");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guardian_killed_twenty_times_at_random_under_load_agrees_at_the_end() {
    let federation = Fixture::standard().await;
    let alice = federation.rich_wallet("alice", 200_000).await;
    let bob = federation.wallet("bob").await;
    let money = alice.balance().await.expect("a balance");

    let stop = Arc::new(AtomicBool::new(false));
    let load = tokio::spawn(load(alice.clone(), bob.clone(), stop.clone()));
    let mut random = StdRng::seed_from_u64(20);
    for time in 0..20 {
        let victim = random.gen_range(0..federation.size());
        // These are no waits but the moments at which it dies and comes back.
        sleep(Duration::from_millis(random.gen_range(0..1000))).await;
        federation.guardians[victim].kill();
        sleep(Duration::from_millis(random.gen_range(0..500))).await;
        federation.start(victim).expect("it starts");
        let ready = federation.guardians[victim].ready().await;
        ready.unwrap_or_else(|error| {
            panic!("guardian {victim}, killed as number {time}: {error:#}")
        });
        assert!(!load.is_finished(), "the load ended early");
    }
    stop.store(true, Ordering::Relaxed);
    let times = load.await.expect("no payment failed");
    println!("{times} payments meanwhile");
    assert!(times >= 20, "only {times} payments");
    check_money(&federation, &[&alice, &bob], money).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_two_of_four_down_service_stops_and_says_so_and_resumes_when_they_are_back() {
    let federation = Fixture::standard().await;
    let alice = federation.rich_wallet("alice", 100_000).await;
    let bob = federation.wallet("bob").await;
    let money = alice.balance().await.expect("a balance");
    let notes = send(&alice, 5_000).await.expect("a wallet can send");

    for guardian in &federation.guardians[2..] {
        guardian.kill();
    }
    until(
        "those that are left to say that they cannot serve",
        || async {
            let mut readiness = Vec::new();
            for guardian in &federation.guardians[..2] {
                let problems = guardian.problems().await.expect("it answers");
                readiness.push(!problems.is_empty());
            }
            readiness.iter().all(|unready| *unready)
        },
    )
    .await;
    let mut receiving = bob
        .begin(&["mint", "receive", &notes], &[])
        .expect("it starts");
    let ended = receiving.wait(Duration::from_secs(10)).await;
    assert!(
        ended.is_some_and(|status| status.code() == Some(FEDERATION_UNREACHABLE)),
        "with two guardians of four: {ended:?}"
    );
    let end = receiving.end().await.expect("it has ended");
    println!("two of four down: {} {}", end.json, end.messages);

    // One that is started meanwhile cannot know where the others are: what is handed in
    // would lie with it.
    federation.guardians[1].kill();
    federation.start(1).expect("it starts");
    until("it to answer", || async {
        federation.guardians[1].status().await.is_ok()
    })
    .await;
    assert_eq!(answer_to_nonsense(0, &federation).await, NONSENSE);
    assert_eq!(answer_to_nonsense(1, &federation).await, "catching-up");

    for index in [2, 3] {
        federation.start(index).expect("it starts");
    }
    federation.all_ready().await.expect("all are back");
    assert_eq!(answer_to_nonsense(1, &federation).await, NONSENSE);
    // What could not begin has taken nothing: the notes are as good as before.
    receive(&bob, &notes)
        .await
        .expect("what begins once all are back is done");
    check_money(&federation, &[&alice, &bob], money).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_bitcoind_e_cash_goes_on_and_deposits_wait_until_it_is_back() {
    let federation = Fixture::standard().await;
    let alice = federation.rich_wallet("alice", 100_000).await;
    let bob = federation.wallet("bob").await;
    let before = alice.balance().await.expect("a balance");

    federation.bitcoind.stop().await.expect("it ends");
    until("every guardian to miss it", || async {
        let mut heights = Vec::new();
        for guardian in &federation.guardians {
            heights.push(guardian.status().await.expect("it answers").chain_height);
        }
        heights.iter().all(Option::is_none)
    })
    .await;
    let notes = send(&alice, 10_000).await.expect("e-cash goes on");
    receive(&bob, &notes).await.expect("e-cash goes on");

    // A guardian that starts meanwhile does not give up.
    federation.guardians[1].kill();
    federation.start(1).expect("it starts");

    federation.bitcoind.start_again().await.expect("it starts");
    federation.all_ready().await.expect("all find it again");
    let after = deposit(&federation, &alice, 50_000).await;
    let after = after.expect("deposits work again");
    assert!(
        after > before - 10_000_000,
        "{after} msat after, {before} before"
    );
    let bobs = bob.balance().await.expect("a balance");
    check_money(&federation, &[&alice, &bob], after + bobs).await;
}
