//! Wallets that hand notes out and take them in again, without pause.
//!
//! A wallet keeps some notes of each denomination, and makes those that it lacks:
//! what it takes in becomes the same notes again that it handed out. So each
//! transaction has as many outputs as inputs, for as long as one likes.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use modmint_client::{
    Allowance, Federation as Joined, MintClient, OperationStatus, Wallet, WalletClient,
};
use modmint_core::{Amount, config::Invite};
use tokio::task::JoinHandle;

use super::Options;
use crate::federation::Federation;

/// The largest note that is handed out is of 2 to this, msat.
const LARGEST: u32 = 20;
/// What each wallet has, msat: enough for all notes up to the largest, and some more.
const FILLING: u64 = 20_000_000;

/// A wallet in the federation.
pub(super) struct Member {
    wallet: Wallet,
    pub(super) joined: Joined,
    mint: MintClient,
}

impl Member {
    /// So many wallets in `folder`, each with so much, msat, from one deposit, which is
    /// paid by the federation's bitcoind if it is here, and by whoever is told otherwise.
    pub(super) async fn rich(
        folder: &Path,
        invite: &str,
        own: Option<&Federation>,
        (wallets, filling): (usize, u64),
        tell: &mut impl FnMut(&str),
    ) -> Result<Vec<Self>> {
        let invite: Invite = invite.parse().context("this is no invite")?;
        let funder = Wallet::open(&folder.join("funder"))?;
        let mut members = Vec::new();
        for number in 0..wallets {
            let wallet = funder.open_beside(&folder.join(number.to_string()))?;
            members.push(wallet);
        }
        let funder = Self::join(funder, &invite).await?;
        let join = |wallet| Self::join(wallet, &invite);
        let members = try_join_all(members.into_iter().map(join)).await?;

        // Notes come to a few msat less than what was paid.
        let satoshi = (filling * members.len() as u64).div_ceil(1000) + 1000;
        deposit(&funder, satoshi, own, tell).await?;
        let mut filled = Vec::new();
        for member in &members {
            let sent = funder
                .mint
                .send(Amount(filling), Allowance::Anything)
                .await?;
            let fill = async move { member.mint.receive(&sent.notes).await };
            filled.push(fill);
        }
        try_join_all(filled).await?;
        funder.close().await;
        Ok(members)
    }

    async fn join(wallet: Wallet, invite: &Invite) -> Result<Self> {
        wallet.init(None)?;
        let joined = wallet.join(invite).await?;
        let mint = MintClient::new(joined.clone())?;
        Ok(Self {
            wallet,
            joined,
            mint,
        })
    }

    pub(super) async fn close(self) {
        drop((self.joined, self.mint));
        self.wallet.close().await;
    }
}

/// The wallets, full.
pub(super) struct Load {
    members: Vec<Member>,
    amount: Amount,
}

/// The load while it runs.
pub(super) struct Running {
    stop: Arc<AtomicBool>,
    wallets: Vec<JoinHandle<Result<Vec<Exchange>>>>,
}

/// One transaction, from its submission to its notes in the wallet.
struct Exchange {
    begun: Instant,
    ended: Instant,
}

impl Load {
    /// Makes the wallets in `folder` and fills them, see [`Member::rich`].
    pub(super) async fn prepare(
        folder: &Path,
        invite: &str,
        own: Option<&Federation>,
        options: &Options,
        tell: &mut impl FnMut(&str),
    ) -> Result<Self> {
        let members = Member::rich(folder, invite, own, (options.wallets, FILLING), tell).await?;
        let smallest = LARGEST + 1 - options.notes;
        let amount = (smallest..=LARGEST).map(|exponent| 1 << exponent).sum();
        Ok(Self {
            members,
            amount: Amount(amount),
        })
    }

    /// What all have together.
    pub(super) async fn balance(&mut self) -> Result<Amount> {
        let balances = self.members.iter().map(|member| member.joined.balance());
        let balances = try_join_all(balances).await?;
        let sum = balances.iter().map(|balance| balance.msat()).sum();
        Ok(Amount(sum))
    }

    pub(super) fn start(&self) -> Running {
        let stop = Arc::new(AtomicBool::new(false));
        let exchange = |member: &Member| {
            let (mint, amount, stop) = (member.mint.clone(), self.amount, stop.clone());
            tokio::spawn(exchange_until(mint, amount, stop))
        };
        let wallets = self.members.iter().map(exchange).collect();
        Running { stop, wallets }
    }

    pub(super) async fn close(self) {
        for member in self.members {
            member.close().await;
        }
    }
}

impl Running {
    /// Lets all end what they have begun. Gives how long those transactions took,
    /// ascending, that ended between `from` and `to`.
    pub(super) async fn end(self, from: Instant, to: Instant) -> Result<Vec<Duration>> {
        self.stop.store(true, Ordering::Relaxed);
        let mut latencies = Vec::new();
        for wallet in self.wallets {
            let exchanges = wallet.await.context("a wallet has panicked")??;
            let within = exchanges.iter().filter(|e| e.ended >= from && e.ended < to);
            latencies.extend(within.map(|e| e.ended - e.begun));
        }
        latencies.sort_unstable();
        Ok(latencies)
    }
}

async fn exchange_until(
    mint: MintClient,
    amount: Amount,
    stop: Arc<AtomicBool>,
) -> Result<Vec<Exchange>> {
    let mut exchanges = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        // The notes are there: this asks nobody.
        let sent = mint.send(amount, Allowance::UpTo(amount)).await?;
        let begun = Instant::now();
        mint.receive(&sent.notes).await?;
        exchanges.push(Exchange {
            begun,
            ended: Instant::now(),
        });
    }
    Ok(exchanges)
}

async fn deposit(
    funder: &Member,
    satoshi: u64,
    own: Option<&Federation>,
    tell: &mut impl FnMut(&str),
) -> Result<()> {
    let wallet = WalletClient::new(funder.joined.clone())?;
    let deposit = wallet.deposit().await?;
    match own {
        Some(federation) => {
            federation.bitcoind.send(&deposit.address, satoshi).await?;
            let depth = federation.plan.finality_depth;
            federation.bitcoind.mine(1 + depth).await?;
        }
        None => tell(&format!("waiting for {satoshi} sat at {}", deposit.address)),
    }
    let over = funder
        .joined
        .wait(deposit.operation, |view| {
            view.status != OperationStatus::Running && !view.settling
        })
        .await?;
    ensure!(
        over.status == OperationStatus::Done,
        "the deposit has failed: {:?}",
        over.error
    );
    Ok(())
}
