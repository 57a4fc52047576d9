//! What the end-to-end tests of Lightning share: a federation, a gateway and a node of
//! somebody else's as parts of one world.

use std::{cell::Cell, time::Duration};

use modmint::{
    lightning::{self, Gateway, Peer},
    wallet::{Running, Wallet},
};
use modmint_core::{Hash32, sha256};
use modmint_gateway::{journal::CRASH_VARIABLE, lightning::Invoice};
use serde_json::Value;

use crate::common::Fixture;

pub const SAT: u64 = 1000;

/// A federation with a gateway, a peer of the gateway's, and a wallet with money.
pub struct World {
    // Before the federation: its processes end first.
    pub gateway: Gateway,
    pub peer: Peer,
    pub user: Wallet,
    pub federation: Fixture,
}

impl World {
    /// With a channel between the two nodes, and half of it each one's.
    pub async fn new() -> Self {
        let world = Self::without_a_channel().await;
        world.open_channel().await;
        world
    }

    pub async fn without_a_channel() -> Self {
        Self::of(Fixture::standard().await).await
    }

    /// With a federation that is there, and no channel yet.
    pub async fn of(federation: Fixture) -> Self {
        let folder = federation.folder();
        let gateway = Gateway::set_up(&folder.join("gateway")).expect("it is made");
        nearer_timelocks(&gateway);
        gateway
            .start(&federation.bitcoind)
            .await
            .expect("it starts");
        let peer = Peer::start(&folder.join("peer"), &federation.bitcoind).await;
        let peer = peer.expect("the peer starts");
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

    pub async fn open_channel(&self) {
        lightning::channel(&self.federation.bitcoind, &self.gateway, &self.peer)
            .await
            .expect("a channel");
    }

    /// Starts the gateway again, and waits until its channel can be used.
    pub async fn again(&self) {
        self.gateway
            .start(&self.federation.bitcoind)
            .await
            .expect("it starts");
        lightning::usable(&self.gateway, &self.peer)
            .await
            .expect("a channel");
    }

    pub async fn pay(&self, invoice: &str) -> Value {
        self.user
            .run(&["ln", "pay", invoice])
            .await
            .expect("it is paid")
    }
}

/// Blocks that a contract must last by this gateway: enough for an HTLC, and few to mine.
pub const TIMELOCK: u32 = 60;

fn nearer_timelocks(gateway: &Gateway) {
    let path = gateway.key_file().with_file_name("config.json");
    let text = std::fs::read_to_string(&path).expect("there is a configuration");
    let mut config: Value = serde_json::from_str(&text).expect("JSON");
    config["minimum_timelock_blocks"] = TIMELOCK.into();
    std::fs::write(&path, config.to_string()).expect("it is written");
}

/// Has `flow` happen again and again, with the gateway killed behind each write of a
/// payment in turn and started again, until it happens without. Returns behind how many
/// writes it was killed.
pub async fn killed_behind_each_write(world: &World, flow: impl AsyncFn(u64)) -> u64 {
    for writes in 1.. {
        let gateway = &world.gateway;
        gateway.stop().await.expect("it ends");
        let value = writes.to_string();
        gateway
            .start_with(&world.federation.bitcoind, &[(CRASH_VARIABLE, &value)])
            .await
            .expect("it starts");
        lightning::usable(gateway, &world.peer)
            .await
            .expect("a channel");
        let killed = Cell::new(false);
        let keeper = async {
            // For as long as the flow takes.
            while gateway.is_running() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            killed.set(true);
            world.again().await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = flow(writes) => {}
            () = keeper => {}
        }
        if !killed.get() {
            return writes - 1;
        }
        assert!(writes < 20, "there is no end of writes");
    }
    unreachable!("numbers do not end")
}

/// Memory of the gateway's process, KiB.
pub fn memory_kib(gateway: &Gateway) -> u64 {
    let id = gateway.process_id().expect("it runs");
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.expect("Linux says")
}

pub async fn balance(wallet: &Wallet) -> u64 {
    wallet.balance().await.expect("a balance")
}

pub fn preimage_fits(paid: &Value, invoice: &str) -> bool {
    let preimage: Hash32 = paid["details"]["preimage"]
        .as_str()
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(|| panic!("no preimage in {paid}"));
    let hash = Invoice::parse(invoice).expect("an invoice").payment_hash;
    Hash32(sha256(&preimage.0)) == hash
}

/// An invoice of a wallet's, and the command that waits for it.
pub async fn invoiced(wallet: &Wallet, sat: &str) -> (Running, String) {
    invoiced_at(wallet, &[sat]).await
}

/// The same, with what else the command is told.
pub async fn invoiced_at(wallet: &Wallet, words: &[&str]) -> (Running, String) {
    let words = [&["ln", "invoice"], words].concat();
    let mut waiting = wallet.begin(&words, &[]).expect("it begins");
    let invoice = waiting
        .progress(|line| line["details"]["invoice"].as_str().map(str::to_owned))
        .await
        .expect("there is an invoice");
    (waiting, invoice)
}

/// The gateway's last payment, for its log.
pub async fn last(gateway: &Gateway) -> Value {
    let log = gateway
        .run(&["payments", "--limit", "1"])
        .await
        .expect("a log");
    log["items"][0].clone()
}
