//! Wallets that pay a node of somebody else's through a gateway, are paid by it, and
//! pay each other, without pause.

use std::{
    fmt,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use futures::{future::try_join_all, try_join};
use modmint_client::{Allowance, LnClient};
use modmint_core::Amount;
use serde::Serialize;

use super::{Latency, WARM_UP, found, load::Member, memory_or, meters};
use crate::{
    lightning::{Lightning, Peer},
    tour, wait_for,
};

/// What is paid each time: so much that a commitment transaction has an output for it,
/// so little that the channel lasts.
const AMOUNT: Amount = Amount(400_000);
/// What the gateway keeps of each payment: it takes none in that costs it more.
const FEES: [&str; 2] = ["--receive-base", "3000"];
/// What each wallet has, msat.
const FILLING: u64 = 100_000_000;
/// What the gateway has of the federation's e-cash, satoshi.
const GATEWAY_SAT: u64 = 1_000_000;
/// How long books may take to be even when nobody pays any more.
const PATIENCE: Duration = Duration::from_secs(60);

/// What came of payments.
#[derive(Debug, Serialize)]
pub struct LightningReport {
    /// Invoices of the other node's, from asking gateways for a quote to the preimage in
    /// the wallet.
    pub pay: Kind,
    /// Invoices of wallets', from the other node's paying to spendable notes in the
    /// wallet.
    pub receive: Kind,
    /// Invoices of another wallet's, from asking gateways for a quote to the preimage in
    /// the payer's wallet.
    pub swap: Kind,
    /// The gateway's resident memory at the end.
    pub gateway_rss_mb: f64,
}

/// What came of payments of one kind.
#[derive(Debug, Serialize)]
pub struct Kind {
    /// Ended within the time, each second.
    pub payments_per_second: f64,
    /// See [`LightningReport`].
    pub latency_ms: Latency,
    /// Processor time of the gateway's, its node's included, for each payment.
    pub gateway_cpu_ms_per_payment: f64,
}

/// One payment.
struct Payment {
    begun: Instant,
    ended: Instant,
}

/// Runs so many wallets for so long, for each kind of payment, and measures them.
///
/// # Errors
/// The federation or the gateway does not come up, a payment fails, or money was lost.
pub async fn run(
    wallets: usize,
    time: Duration,
    mut tell: impl FnMut(&str),
) -> Result<LightningReport> {
    ensure!(wallets > 1, "at least two wallets are expected");
    let folder = tempfile::tempdir()?;
    tell("founding a federation of four, with a gateway");
    let federation = found(folder.path()).await?;
    let nodes = folder.path().join("lightning");
    let lightning = Lightning::start(&nodes, &federation.bitcoind).await?;
    lightning.serve(&federation, GATEWAY_SAT).await?;
    lightning.charge(&federation, &FEES).await?;
    let wallet_folder = tempfile::tempdir_in(memory_or(folder.path()))?;
    tell(&format!("filling {wallets} wallets"));
    let invite = &federation.invite;
    let size = (wallets, FILLING);
    let members = wallet_folder.path();
    let members = Member::rich(members, invite, Some(&federation), size, &mut tell).await?;
    let clients = members.iter().map(|m| LnClient::new(m.joined.clone()));
    let clients: Vec<LnClient> = clients.collect::<Result<_, _>>()?;

    let seconds = time.as_secs();
    tell(&format!("paying for {seconds} s"));
    let pay = measure(&lightning, &clients, time, Way::Pay).await?;
    tell(&format!("being paid for {seconds} s"));
    let receive = measure(&lightning, &clients, time, Way::Receive).await?;
    tell(&format!("paying each other for {seconds} s"));
    let swap = measure(&lightning, &clients, time, Way::Swap).await?;
    let (_, resident) = meters::of_process(process_of(&lightning)?)?;

    drop(clients);
    for member in members {
        member.close().await;
    }
    let solvency = lightning.gateway.run(&["solvency"]).await?;
    ensure!(solvency["status"] == "ok", "the gateway misses {solvency}");
    wait_for("guardians to have the same books", PATIENCE, || {
        tour::balanced(&federation)
    })
    .await?;
    lightning.stop().await?;
    federation.stop().await?;
    Ok(LightningReport {
        pay,
        receive,
        swap,
        gateway_rss_mb: resident / 1e6,
    })
}

fn process_of(lightning: &Lightning) -> Result<u32> {
    let process = lightning.gateway.process_id();
    process.context("the gateway does not run")
}

/// Has all wallets do the same, again and again: each with the one behind it.
async fn measure(
    lightning: &Lightning,
    clients: &[LnClient],
    time: Duration,
    way: Way,
) -> Result<Kind> {
    let stop = AtomicBool::new(false);
    let paying = clients.iter().enumerate().map(|(place, client)| {
        let (stop, next) = (&stop, &clients[(place + 1) % clients.len()]);
        async move {
            let mut payments = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                payments.push(way.once(&lightning.peer, client, next).await?);
            }
            Ok::<_, anyhow::Error>(payments)
        }
    });
    let metering = async {
        tokio::time::sleep(WARM_UP.min(time)).await;
        let process = process_of(lightning)?;
        let ((before, _), begun) = (meters::of_process(process)?, Instant::now());
        tokio::time::sleep(time).await;
        let ((after, _), ended) = (meters::of_process(process)?, Instant::now());
        stop.store(true, Ordering::Relaxed);
        Ok((after - before, begun, ended))
    };
    let (payments, (cpu, begun, ended)) = try_join!(try_join_all(paying), metering)?;
    let payments = payments.iter().flatten();
    let within = payments.filter(|p| p.ended >= begun && p.ended < ended);
    let mut latencies: Vec<_> = within.map(|p| p.ended - p.begun).collect();
    ensure!(!latencies.is_empty(), "not one payment came to its end");
    latencies.sort_unstable();
    let payments = latencies.len() as f64;
    Ok(Kind {
        payments_per_second: payments / (ended - begun).as_secs_f64(),
        latency_ms: Latency::of(&latencies),
        gateway_cpu_ms_per_payment: cpu * 1000.0 / payments,
    })
}

#[derive(Clone, Copy)]
enum Way {
    Pay,
    Receive,
    Swap,
}

impl Way {
    async fn once(self, peer: &Peer, client: &LnClient, next: &LnClient) -> Result<Payment> {
        match self {
            Self::Pay => {
                let invoice = peer.invoice(AMOUNT.0).await?;
                pay(client, &invoice).await
            }
            Self::Receive => {
                let invoiced = client.invoice(AMOUNT, "").await?;
                let begun = Instant::now();
                let received = async { Ok(client.received(invoiced.operation).await?) };
                let ended = async { received.await.map(|_| Instant::now()) };
                // A payment that comes back is nothing to wait for.
                let (_, ended) = try_join!(peer.pay(&invoiced.invoice), ended)?;
                Ok(Payment { begun, ended })
            }
            Self::Swap => {
                let invoiced = next.invoice(AMOUNT, "").await?;
                let payment = pay(client, &invoiced.invoice).await?;
                next.received(invoiced.operation).await?;
                Ok(payment)
            }
        }
    }
}

async fn pay(client: &LnClient, invoice: &str) -> Result<Payment> {
    let begun = Instant::now();
    client.pay(invoice, None, Allowance::Anything).await?;
    Ok(Payment {
        begun,
        ended: Instant::now(),
    })
}

impl fmt::Display for LightningReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = [
            ("paid", &self.pay),
            ("received", &self.receive),
            ("swapped", &self.swap),
        ];
        for (name, kind) in kinds {
            let Latency { p50, p95, p99, max } = &kind.latency_ms;
            writeln!(
                f,
                "{name:9} {:6.1}/s  latency p50 {p50:.0} ms, p95 {p95:.0} ms, p99 {p99:.0} ms, at most {max:.0} ms; \
                 {:.0} ms of the gateway's CPU for each",
                kind.payments_per_second, kind.gateway_cpu_ms_per_payment
            )?;
        }
        write!(f, "memory of the gateway  {:.0} MB", self.gateway_rss_mb)
    }
}
