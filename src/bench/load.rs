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
    Allowance, Federation as Joined, MintClient, OperationStatus, Wallet, WalletClient, WalletError,
};
use modmint_core::{Amount, config::Invite};
use tokio::task::JoinHandle;

use super::Options;
use crate::federation::Federation;

/// The largest note that is handed out is of 2 to this, msat.
const LARGEST: u32 = 20;
/// What each wallet has, msat: enough for all notes up to the largest, and some more.
const FILLING: u64 = 20_000_000;

/// When what too few guardians answered is begun again.
const AGAIN: Duration = Duration::from_millis(100);

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

/// All wallets' transactions, in the order in which they ended.
pub(super) struct Exchanges(Vec<Exchange>);

impl Exchanges {
    fn between(&self, from: Instant, to: Instant) -> impl Iterator<Item = &Exchange> {
        let within = move |exchange: &&Exchange| exchange.ended >= from && exchange.ended < to;
        self.0.iter().filter(within)
    }

    /// How long those took that ended between `from` and `to`, ascending.
    pub(super) fn latencies(&self, from: Instant, to: Instant) -> Vec<Duration> {
        let within = self.between(from, to);
        let mut latencies: Vec<Duration> = within.map(|e| e.ended - e.begun).collect();
        latencies.sort_unstable();
        latencies
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    /// How many ended each second.
    pub(super) fn per_second(&self, from: Instant, to: Instant) -> f64 {
        self.between(from, to).count() as f64 / (to - from).as_secs_f64()
    }

    /// When the first ended behind `from`.
    pub(super) fn first_behind(&self, from: Instant) -> Option<Instant> {
        let mut ends = self.0.iter().map(|exchange| exchange.ended);
        ends.find(|ended| *ended >= from)
    }

    /// The longest time in which none ended.
    pub(super) fn longest_gap(&self, from: Instant, to: Instant) -> Duration {
        let mut last = from;
        let ends = self.between(from, to).map(|exchange| exchange.ended);
        let gaps = ends.chain([to]).map(|end| {
            let gap = end - last;
            last = end;
            gap
        });
        gaps.max().unwrap_or_default()
    }
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

    /// Whether some wallet says that too few guardians answer.
    pub(super) fn meets_an_obstacle(&self) -> bool {
        let met = |member: &Member| member.joined.obstacle().is_some();
        self.members.iter().any(met)
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
    /// Lets all end what they have begun.
    pub(super) async fn end(self) -> Result<Exchanges> {
        self.stop.store(true, Ordering::Relaxed);
        let mut exchanges = Vec::new();
        for wallet in self.wallets {
            exchanges.extend(wallet.await.context("a wallet has panicked")??);
        }
        exchanges.sort_unstable_by_key(|exchange| exchange.ended);
        Ok(Exchanges(exchanges))
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
        let sent = reached(|| mint.send(amount, Allowance::UpTo(amount))).await?;
        let begun = Instant::now();
        reached(|| mint.receive(&sent.notes)).await?;
        exchanges.push(Exchange {
            begun,
            ended: Instant::now(),
        });
    }
    Ok(exchanges)
}

/// What begins while guardians are stopped begins once they are back.
async fn reached<T, F>(ask: impl Fn() -> F) -> Result<T, WalletError>
where
    F: Future<Output = Result<T, WalletError>>,
{
    loop {
        match ask().await {
            Err(WalletError::Unreachable(_)) => tokio::time::sleep(AGAIN).await,
            answer => return answer,
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_reach_from_the_beginning_to_the_end() {
        let start = Instant::now();
        let at = |second| start + Duration::from_secs(second);
        let ended = [1, 2, 7, 9].map(|second| Exchange {
            begun: at(second - 1),
            ended: at(second),
        });
        let exchanges = Exchanges(ended.into());
        let gap = |from, to| exchanges.longest_gap(at(from), at(to)).as_secs();
        assert_eq!(gap(0, 10), 5);
        assert_eq!(gap(2, 6), 4);
        assert_eq!(gap(3, 6), 3);
        assert_eq!(gap(7, 20), 11);
        assert_eq!(exchanges.per_second(at(1), at(9)), 3.0 / 8.0);
        let latencies = exchanges.latencies(at(2), at(9));
        assert_eq!(latencies, [Duration::from_secs(1); 2]);
    }
}
