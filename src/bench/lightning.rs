//! Wallets that pay a node of somebody else's through a gateway, are paid by it, and
//! pay each other, without pause.

use std::{
    fmt,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
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
    let lightning = Arc::new(lightning);
    lightning.serve(&federation, GATEWAY_SAT).await?;
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
    let pay = measure(&lightning, &clients, time, pay_once).await?;
    tell(&format!("being paid for {seconds} s"));
    let receive = measure(&lightning, &clients, time, receive_once).await?;
    tell(&format!("paying each other for {seconds} s"));
    let swap = measure(&lightning, &clients, time, swap_once).await?;
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
async fn measure<F>(
    lightning: &Arc<Lightning>,
    clients: &[LnClient],
    time: Duration,
    once: fn(Arc<Lightning>, LnClient, LnClient) -> F,
) -> Result<Kind>
where
    F: Future<Output = Result<Payment>> + Send + 'static,
{
    let stop = Arc::new(AtomicBool::new(false));
    let running = clients.iter().enumerate().map(|(place, client)| {
        let next = clients[(place + 1) % clients.len()].clone();
        let (lightning, client, stop) = (lightning.clone(), client.clone(), stop.clone());
        tokio::spawn(async move {
            let mut payments = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                payments.push(once(lightning.clone(), client.clone(), next.clone()).await?);
            }
            Ok::<_, anyhow::Error>(payments)
        })
    });
    let running: Vec<_> = running.collect();
    tokio::time::sleep(WARM_UP.min(time)).await;
    let process = process_of(lightning)?;
    let ((cpu, _), begun) = (meters::of_process(process)?, Instant::now());
    tokio::time::sleep(time).await;
    let ((cpu_then, _), ended) = (meters::of_process(process)?, Instant::now());
    stop.store(true, Ordering::Relaxed);
    let mut latencies = Vec::new();
    for payments in try_join_all(running).await? {
        let within = |p: &Payment| p.ended >= begun && p.ended < ended;
        let payments = payments?.into_iter().filter(within);
        latencies.extend(payments.map(|p| p.ended - p.begun));
    }
    ensure!(!latencies.is_empty(), "not one payment came to its end");
    latencies.sort_unstable();
    let payments = latencies.len() as f64;
    Ok(Kind {
        payments_per_second: payments / (ended - begun).as_secs_f64(),
        latency_ms: Latency::of(&latencies),
        gateway_cpu_ms_per_payment: (cpu_then - cpu) * 1000.0 / payments,
    })
}

async fn pay(client: &LnClient, invoice: &str) -> Result<Payment> {
    let begun = Instant::now();
    client.pay(invoice, None, Allowance::Anything).await?;
    Ok(Payment {
        begun,
        ended: Instant::now(),
    })
}

async fn pay_once(lightning: Arc<Lightning>, client: LnClient, _: LnClient) -> Result<Payment> {
    let peer: &Peer = &lightning.peer;
    let invoice = peer.invoice(AMOUNT.0).await?;
    pay(&client, &invoice).await
}

async fn receive_once(lightning: Arc<Lightning>, client: LnClient, _: LnClient) -> Result<Payment> {
    let invoiced = client.invoice(AMOUNT, "").await?;
    let begun = Instant::now();
    lightning.peer.begin_pay(&invoiced.invoice).await?;
    client.received(invoiced.operation).await?;
    Ok(Payment {
        begun,
        ended: Instant::now(),
    })
}

async fn swap_once(_: Arc<Lightning>, client: LnClient, next: LnClient) -> Result<Payment> {
    let invoiced = next.invoice(AMOUNT, "").await?;
    let payment = pay(&client, &invoiced.invoice).await?;
    next.received(invoiced.operation).await?;
    Ok(payment)
}

impl fmt::Display for LightningReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = [
            ("paid", &self.pay),
            ("received", &self.receive),
            ("swapped", &self.swap),
        ];
        for (name, kind) in kinds {
            let Latency { p50, p95, p99 } = &kind.latency_ms;
            writeln!(
                f,
                "{name:9} {:6.1}/s  latency p50 {p50:.0} ms, p95 {p95:.0} ms, p99 {p99:.0} ms; \
                 {:.0} ms of the gateway's CPU for each",
                kind.payments_per_second, kind.gateway_cpu_ms_per_payment
            )?;
        }
        write!(f, "memory of the gateway  {:.0} MB", self.gateway_rss_mb)
    }
}
