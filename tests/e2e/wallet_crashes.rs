//! A wallet killed behind each of its durable writes goes on where it was: no
//! money is lost, none is made, and nothing has to be entered again that the
//! wallet had taken.

use std::{collections::BTreeSet, os::unix::process::ExitStatusExt};

use crate::common::shared;
use modmint::{
    tour::{receive, send},
    wallet::{Outcome, Wallet},
};
use serde_json::Value;

/// What a deposit of 20,000 sat brings: 200 sat of it are the deposit's fee.
const DEPOSITED: u64 = 19_800_000;

/// More writes than any of these commands makes.
const MANY: u32 = 100;

/// Whether the command was killed behind a write, as it was told to be.
fn crashed(outcome: &Outcome) -> bool {
    let aborted = outcome.status.signal() == Some(6);
    assert!(aborted || outcome.status.success(), "{outcome:?}");
    aborted
}

/// Where a deposit is to be sent, if this says so.
fn address_in(operation: &Value) -> Option<String> {
    operation["details"]["address"].as_str().map(str::to_owned)
}

/// A wallet that is killed, and what it remembered before.
struct Victim {
    wallet: Wallet,
    known: BTreeSet<String>,
}

impl Victim {
    fn new(wallet: Wallet) -> Self {
        Self {
            wallet,
            known: BTreeSet::new(),
        }
    }

    async fn operations(&self) -> Vec<Value> {
        let answer = self.wallet.run(&["operations"]).await.expect("a list");
        let list = answer
            .as_array()
            .or_else(|| answer["operations"].as_array());
        list.unwrap_or_else(|| panic!("no list: {answer}")).clone()
    }

    fn id(operation: &Value) -> String {
        let id = operation["operation"]
            .as_str()
            .or_else(|| operation["id"].as_str());
        id.unwrap_or_else(|| panic!("no id: {operation}"))
            .to_owned()
    }

    /// The operation that is there since the last call, if there is one.
    async fn new_operation(&mut self) -> Option<Value> {
        let operations = self.operations().await;
        let new: Vec<_> = operations
            .into_iter()
            .filter(|operation| self.known.insert(Self::id(operation)))
            .collect();
        assert!(new.len() <= 1, "more than one: {new:?}");
        new.into_iter().next()
    }

    /// Where a deposit that goes on is to be sent.
    async fn address_of(&self, operation: &Value) -> String {
        let command = ["wait", &Self::id(operation)];
        let mut waiting = self.wallet.begin(&command, &[]).expect("it starts");
        let address = waiting.progress(address_in).await;
        address.expect("it goes on to have an address")
    }

    /// Lets everything that goes on come to its end.
    async fn settle(&self) {
        for operation in self.operations().await {
            let over = ["done", "failed"]
                .map(Value::from)
                .contains(&operation["status"]);
            if (!over || operation["settling"] == true) && operation["resting"] != true {
                let waited = self.wallet.run(&["wait", &Self::id(&operation)]).await;
                waited.unwrap_or_else(|error| panic!("{operation}: {error:#}"));
            }
        }
    }

    async fn balance(&self) -> u64 {
        self.wallet.balance().await.expect("a balance")
    }

    async fn run(&self, arguments: &[&str], writes: u32) -> Outcome {
        let crash = [("MODMINT_CRASH_AFTER_WRITE", &*writes.to_string())];
        let outcome = self.wallet.try_run(arguments, &crash).await;
        outcome.expect("the wallet can be started")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wallet_killed_behind_any_write_of_a_deposit_claims_it_later() {
    let federation = shared().await;
    let mut alice = Victim::new(federation.wallet("depositor").await);
    for writes in 1..=MANY {
        let before = alice.balance().await;
        let crash = [("MODMINT_CRASH_AFTER_WRITE", &*writes.to_string())];
        let mut deposit = alice
            .wallet
            .begin(&["wallet", "deposit"], &crash)
            .expect("it starts");
        let mut address = deposit.progress(address_in).await.ok();
        let mut begun = address.is_some();
        if address.is_none() {
            let outcome = deposit.end().await.expect("it ends");
            assert!(
                crashed(&outcome),
                "it ended without an address: {outcome:?}"
            );
            if let Some(operation) = alice.new_operation().await {
                address = Some(alice.address_of(&operation).await);
            }
            begun = address.is_some();
        } else {
            let address = address.take().expect("just looked");
            federation
                .bitcoind
                .send(&address, 20_000)
                .await
                .expect("sent");
            let blocks = 1 + federation.plan.finality_depth;
            federation.bitcoind.mine(blocks).await.expect("mined");
            let outcome = deposit.end().await.expect("it ends");
            let ended = !crashed(&outcome);
            alice.new_operation().await.expect("it is remembered");
            if ended {
                assert!(writes > 1, "it wrote nothing");
                println!("a deposit makes {} writes", writes - 1);
                let gained = alice.balance().await - before;
                assert_eq!(gained, DEPOSITED);
                return;
            }
        }
        if let Some(address) = address {
            federation
                .bitcoind
                .send(&address, 20_000)
                .await
                .expect("sent");
            let blocks = 1 + federation.plan.finality_depth;
            federation.bitcoind.mine(blocks).await.expect("mined");
        }
        alice.settle().await;
        let expected = before + if begun { DEPOSITED } else { 0 };
        assert_eq!(
            alice.balance().await,
            expected,
            "killed behind write {writes}"
        );
    }
    panic!("a deposit makes more than {MANY} writes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wallet_killed_behind_any_write_of_a_send_loses_nothing() {
    let federation = shared().await;
    let bank = federation.rich_wallet("bank", 200_000).await;
    let bob = federation.wallet("sender's friend").await;
    for writes in 1..=MANY {
        // Whole satoshi come as notes of 8 msat and more, so that the amount below
        // has to be made by an exchange.
        let alice = federation.wallet(&format!("sender {writes}")).await;
        let notes = send(&bank, 3_100).await.expect("a wallet can send");
        receive(&alice, &notes).await.expect("the notes are good");
        let mut alice = Victim::new(alice);
        alice.new_operation().await;
        let bobs = bob.balance().await.expect("a balance");

        let outcome = alice.run(&["mint", "send", "3000001 msat"], writes).await;
        let ended = !crashed(&outcome);
        alice.settle().await;
        let mut sent = 0;
        if let Some(operation) = alice.new_operation().await {
            let command = ["operation", &Victim::id(&operation)];
            let operation = alice.wallet.run(&command).await;
            let operation = operation.expect("it is remembered");
            let notes = operation["details"]["notes"].as_str();
            let notes = notes.unwrap_or_else(|| panic!("no notes: {operation}"));
            receive(&bob, notes).await.expect("the notes are good");
            sent = 3_000_001;
        }
        let gained = bob.balance().await.expect("a balance") - bobs;
        assert_eq!(gained, sent, "killed behind write {writes}");
        let left = alice.balance().await;
        assert_eq!(left + sent, 3_100_000, "killed behind write {writes}");
        if ended {
            assert!(writes > 2, "it sent without an exchange");
            println!("a send makes {} writes", writes - 1);
            return;
        }
    }
    panic!("a send makes more than {MANY} writes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wallet_killed_behind_any_write_of_a_withdrawal_pays_once_or_has_the_money() {
    let federation = shared().await;
    let bitcoind = &federation.bitcoind;
    let mut alice = Victim::new(federation.rich_wallet("withdrawer", 1_000_000).await);
    alice.new_operation().await;
    // Blocks come as they do elsewhere, by themselves.
    let mining = async {
        loop {
            bitcoind.mine(1).await.expect("mined");
            tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        }
    };
    let killing = async {
        for writes in 1..=MANY {
            let before = alice.balance().await;
            let address: String = bitcoind
                .call("getnewaddress", serde_json::json!([]))
                .await
                .expect("an address");
            let command = ["wallet", "withdraw", &address, "5000 sat"];
            let outcome = alice.run(&command, writes).await;
            let ended = !crashed(&outcome);
            alice.settle().await;
            let mut paid = 0;
            if let Some(operation) = alice.new_operation().await {
                let command = ["operation", &Victim::id(&operation)];
                let operation = alice.wallet.run(&command).await;
                let operation = operation.expect("it is remembered");
                if operation["status"] == "done" {
                    paid = 5_000;
                }
            }
            let received = bitcoind.received(&address).await.expect("a sum");
            assert_eq!(received, paid, "killed behind write {writes}");
            let spent = before - alice.balance().await;
            assert!(
                (paid == 0 && spent == 0)
                    || (spent > paid * 1000 && spent < paid * 1000 + 1_000_000),
                "{spent} msat for {paid} sat, killed behind write {writes}"
            );
            if ended {
                assert!(paid > 0 && writes > 3, "it ended behind write {writes}");
                println!("a withdrawal makes {} writes", writes - 1);
                return;
            }
        }
        panic!("a withdrawal makes more than {MANY} writes");
    };
    tokio::select! {
        () = killing => {}
        () = mining => {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wallet_killed_behind_any_write_of_a_receive_has_the_money_later() {
    let federation = shared().await;
    let alice = federation.rich_wallet("payer", 200_000).await;
    let mut bob = Victim::new(federation.wallet("receiver").await);
    let money = alice.balance().await.expect("a balance");
    for writes in 1..=MANY {
        let notes = send(&alice, 3_000).await.expect("a wallet can send");
        let outcome = bob.run(&["mint", "receive", &notes], writes).await;
        let ended = !crashed(&outcome);
        bob.settle().await;
        if bob.new_operation().await.is_none() {
            // Killed before it had taken the notes: they are tried again.
            assert!(!ended, "it ended and remembers nothing");
            receive(&bob.wallet, &notes)
                .await
                .expect("the notes are good");
            bob.new_operation().await.expect("it is remembered");
        }
        let alices = alice.balance().await.expect("a balance");
        assert_eq!(
            alices + bob.balance().await,
            money,
            "killed behind write {writes}"
        );
        if ended {
            println!("a receive makes {} writes", writes - 1);
            return;
        }
    }
    panic!("a receive makes more than {MANY} writes");
}
