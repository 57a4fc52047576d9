//! A walk through what a federation does, in plain words, each step with its time.

use std::{
    io::Write,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use futures::try_join;
use serde_json::{Value, json};

use crate::{
    federation::Federation,
    lightning::Lightning,
    wait_for,
    wallet::{Outcome, Running, Wallet},
};

/// What is deposited.
const DEPOSIT_SAT: u64 = 1_000_000;
/// What is sent from wallet to wallet, each time.
const SEND_SAT: u64 = 25_000;
/// What is paid over Lightning, each time.
const LIGHTNING_SAT: u64 = 20_000;
/// What is withdrawn at the end.
const WITHDRAW_SAT: u64 = 300_000;
/// How long what goes on behind a step may take on a slow machine.
const PATIENCE: Duration = Duration::from_secs(300);

/// Walks through `federation`, telling `out` about it, and through what a gateway does
/// that is about to serve it.
///
/// # Errors
/// The first step that fails; those behind it are not tried.
pub async fn walk(
    federation: &Federation,
    lightning: Option<&Lightning>,
    out: impl Write,
) -> Result<()> {
    let mut tour = Tour { out, number: 0 };
    let folder = federation.folder().join("wallets");
    let join = |name: &str| {
        let folder = folder.join(name);
        async move { federation.wallet(&folder).await }
    };

    let (alice, bob, mallory) = tour
        .step(
            "Alice, Bob and Mallory each make a wallet and join by the invite",
            async {
                let wallets = try_join!(join("alice"), join("bob"), join("mallory"));
                Ok((
                    wallets?,
                    "the wallets checked the config and the bundles by their hashes".into(),
                ))
            },
        )
        .await?;

    tour.step(
        "Alice deposits bitcoin: sent, mined, agreed upon, claimed as e-cash",
        async {
            let received = deposit(federation, &alice, DEPOSIT_SAT).await?;
            Ok((
                (),
                format!(
                    "{DEPOSIT_SAT} sat on the chain, {} in Alice's wallet",
                    sat(received)
                ),
            ))
        },
    )
    .await?;

    let notes = tour
        .step(
            "Alice takes notes out of her wallet, to give to Bob as text",
            async {
                let notes = send(&alice, SEND_SAT).await?;
                let told = format!("{SEND_SAT} sat in {} characters", notes.len());
                Ok((notes, told))
            },
        )
        .await?;

    tour.step(
        "Bob receives them: exchanged for fresh notes that only he knows",
        async {
            receive(&bob, &notes).await?;
            let balance = bob.balance().await?;
            ensure!(
                balance > 0 && balance <= SEND_SAT * 1000,
                "Bob has {} after receiving {SEND_SAT} sat",
                sat(balance)
            );
            Ok(((), format!("Bob has {}", sat(balance))))
        },
    )
    .await?;

    tour.step("Mallory, who copied the notes, tries them too", async {
        let code = refused(mallory.try_run(&["mint", "receive", &notes], &[]).await?)?;
        let balance = mallory.balance().await?;
        ensure!(balance == 0, "Mallory has {}", sat(balance));
        Ok(((), format!("refused: {code}")))
    })
    .await?;

    if let Some(lightning) = lightning {
        walk_lightning(&mut tour, federation, lightning, &alice, &bob).await?;
    }

    let victim = federation.size() - 1;
    let name = federation.guardians[victim].name();
    if federation.plan.peers.len() > 1 {
        tour.step(
            &format!("{name} is killed (SIGKILL); Bob pays Alice all the same"),
            async {
                federation.guardians[victim].kill();
                let notes = send(&bob, SEND_SAT / 5).await?;
                receive(&alice, &notes).await?;
                Ok(((), format!("Alice has {}", sat(alice.balance().await?))))
            },
        )
        .await?;
    } else {
        tour.step(
            &format!("{name}, which is alone, is killed (SIGKILL)"),
            async {
                federation.guardians[victim].kill();
                Ok(((), "nobody can pay until it is back".into()))
            },
        )
        .await?;
    }

    tour.step(&format!("{name} comes back and catches up"), async {
        federation.start(victim)?;
        federation.guardians[victim].ready().await?;
        let root = federation.same_state_root().await?;
        Ok((
            (),
            format!("all {} have the state root {root}", federation.size()),
        ))
    })
    .await?;

    tour.step(
        "Alice withdraws: the guardians sign together, bitcoind sees it, it is buried",
        async {
            let address: String = federation.bitcoind.call("getnewaddress", json!([])).await?;
            let paid = withdraw(federation, &alice, &address, WITHDRAW_SAT).await?;
            let txid = find(&paid, "buried").context("no transaction was buried")?;
            let received = federation.bitcoind.received(&address).await?;
            ensure!(
                received == WITHDRAW_SAT,
                "{received} sat arrived at {address}, not {WITHDRAW_SAT}"
            );
            Ok((
                (),
                format!(
                    "{received} sat at {address} by {}…, {} left in Alice's wallet",
                    &txid[..8],
                    sat(alice.balance().await?)
                ),
            ))
        },
    )
    .await?;

    tour.step(
        "The books: what the federation holds and what it owes",
        async {
            let even = || balanced(federation);
            let told = wait_for("guardians to have the same books", PATIENCE, even).await?;
            let held = all_notes_are_held(federation, lightning, [&alice, &bob, &mallory]).await?;
            Ok((
                (),
                format!("{told}; {held} are what the wallets have together"),
            ))
        },
    )
    .await
}

/// Pays and is paid over Lightning.
async fn walk_lightning(
    tour: &mut Tour<impl Write>,
    federation: &Federation,
    lightning: &Lightning,
    alice: &Wallet,
    bob: &Wallet,
) -> Result<()> {
    let Lightning { gateway, peer } = lightning;
    tour.step(
        "A gateway serves them: a Lightning node, and a wallet as theirs",
        async {
            lightning.announced(federation).await?;
            let channels = gateway.run(&["channel", "list"]).await?;
            let capacity = channels[0]["capacity_sat"].as_u64();
            Ok((
                (),
                format!(
                    "{} of e-cash, and a channel of {} sat to a node of somebody else's",
                    sat(lightning.ecash(federation).await?),
                    capacity.context("it has no channel")?
                ),
            ))
        },
    )
    .await?;

    tour.step("Alice pays an invoice of that node from e-cash", async {
        let before = alice.balance().await?;
        let invoice = peer.invoice(LIGHTNING_SAT * 1000).await?;
        let paid = alice.run(&["ln", "pay", &invoice]).await?;
        let preimage = find(&paid, "preimage").context("she has no preimage")?;
        wait_for("the payee to have it", PATIENCE, || async {
            ensure!(peer.is_paid(&invoice), "it has not");
            Ok(())
        })
        .await?;
        Ok((
            (),
            format!(
                "{LIGHTNING_SAT} sat for {} of hers; her receipt is {}…",
                sat(before.saturating_sub(alice.balance().await?)),
                &preimage[..8]
            ),
        ))
    })
    .await?;

    tour.step("The node pays an invoice of Bob's, into e-cash", async {
        let before = bob.balance().await?;
        let (waiting, invoice) = invoice(bob, LIGHTNING_SAT).await?;
        peer.pay(&invoice).await?;
        waiting.end().await?.succeeded()?;
        let brought = bob.balance().await?.saturating_sub(before);
        ensure!(brought > 0, "Bob has not got anything");
        Ok(((), format!("{LIGHTNING_SAT} sat, {} for Bob", sat(brought))))
    })
    .await?;

    tour.step(
        "Bob pays an invoice of Alice's: the gateway swaps, Lightning is not needed",
        async {
            let amount = LIGHTNING_SAT / 4;
            let (waiting, invoice) = invoice(alice, amount).await?;
            bob.run(&["ln", "pay", &invoice]).await?;
            waiting.end().await?.succeeded()?;
            let log = gateway.run(&["payments", "--limit", "1"]).await?;
            ensure!(
                log["items"][0]["swap"] == true,
                "the gateway says that it was no swap: {log}"
            );
            let solvency = gateway.run(&["solvency"]).await?;
            ensure!(solvency["status"] == "ok", "the gateway misses {solvency}");
            Ok((
                (),
                format!("{amount} sat; the gateway misses nothing of its own"),
            ))
        },
    )
    .await
}

/// An invoice of a wallet's, and the command that waits for it.
///
/// # Errors
/// The wallet fails, or no gateway gives one.
pub async fn invoice(wallet: &Wallet, satoshi: u64) -> Result<(Running, String)> {
    let mut waiting = wallet.begin(&["ln", "invoice", &format!("{satoshi} sat")], &[])?;
    let invoice = waiting
        .progress(|line| line["details"]["invoice"].as_str().map(str::to_owned))
        .await
        .context("there is no invoice")?;
    Ok((waiting, invoice))
}

/// Waits until all notes that guardians have issued are in these wallets and in the
/// gateway's, and says how much that is: none are missing, and none are too many.
async fn all_notes_are_held(
    federation: &Federation,
    lightning: Option<&Lightning>,
    wallets: [&Wallet; 3],
) -> Result<String> {
    wait_for("the notes that were issued", PATIENCE, || async {
        let mut held = 0;
        for wallet in wallets {
            held += wallet.balance().await?;
        }
        if let Some(lightning) = lightning {
            held += lightning.ecash(federation).await?;
        }
        let audit = federation.guardians[0].audit().await?;
        let mint = audit.instances.iter().find(|i| i.kind == "mint");
        let lines = mint.into_iter().flat_map(|mint| &mint.lines);
        let issued: i64 = -lines.map(|line| line.msat).sum::<i64>();
        ensure!(
            u64::try_from(issued).is_ok_and(|issued| issued == held),
            "{issued} msat were issued, {held} msat are held"
        );
        Ok(format!("{held} msat"))
    })
    .await
}

/// Deposits satoshi and returns the wallet's balance, in millisatoshi.
///
/// # Errors
/// Whatever stood in the way.
pub async fn deposit(federation: &Federation, wallet: &Wallet, satoshi: u64) -> Result<u64> {
    let mut deposit = wallet.begin(&["wallet", "deposit"], &[])?;
    let address = deposit
        .progress(|line| line["details"]["address"].as_str().map(str::to_owned))
        .await
        .context("there is no deposit address")?;
    federation.bitcoind.send(&address, satoshi).await?;
    federation
        .bitcoind
        .mine(1 + federation.plan.finality_depth)
        .await?;
    deposit.end().await?.succeeded()?;
    wallet.balance().await
}

/// Pays satoshi from a wallet to an address and returns what the wallet says when
/// that is buried.
///
/// # Errors
/// Whatever stood in the way.
pub async fn withdraw(
    federation: &Federation,
    wallet: &Wallet,
    address: &str,
    satoshi: u64,
) -> Result<Value> {
    let amount = format!("{satoshi} sat");
    let withdrawal = wallet.begin(&["wallet", "withdraw", address, &amount], &[])?;
    let ended = withdrawal.end();
    let mut ended = std::pin::pin!(ended);
    // A block when guardians have sent what pays it, and those that bury it.
    loop {
        tokio::select! {
            outcome = &mut ended => return outcome?.succeeded(),
            () = tokio::time::sleep(Duration::from_millis(300)) => {
                federation.bitcoind.mine(1).await?;
            }
        }
    }
}

/// Takes notes worth `satoshi` out of a wallet, as text.
///
/// # Errors
/// The wallet fails.
pub async fn send(wallet: &Wallet, satoshi: u64) -> Result<String> {
    let answer = wallet
        .run(&["mint", "send", &format!("{satoshi} sat")])
        .await?;
    find(&answer, "notes").with_context(|| format!("no notes in {answer}"))
}

/// Puts notes into a wallet.
///
/// # Errors
/// The wallet fails, or the notes are refused.
pub async fn receive(wallet: &Wallet, notes: &str) -> Result<Value> {
    wallet.run(&["mint", "receive", notes]).await
}

/// The code with which a command was refused.
///
/// # Errors
/// It succeeded.
pub fn refused(outcome: Outcome) -> Result<String> {
    if outcome.status.success() {
        bail!("it was not refused: {}", outcome.json);
    }
    find(&outcome.json, "code")
        .or_else(|| {
            let lines = outcome.messages.lines().rev();
            lines
                .filter_map(|line| serde_json::from_str(line).ok())
                .find_map(|line: Value| find(&line, "code"))
        })
        .with_context(|| format!("no code in {} {}", outcome.json, outcome.messages))
}

/// Checks every guardian's books and says what they say.
///
/// # Errors
/// A guardian's differ, or owe more than there is.
pub async fn balanced(federation: &Federation) -> Result<String> {
    let first = federation.guardians[0].audit().await?;
    for guardian in &federation.guardians {
        let audit = guardian.audit().await?;
        ensure!(
            audit.instances == first.instances && audit.net_msat == first.net_msat,
            "{} has other books than {}: {audit:?}, {first:?}",
            guardian.name(),
            federation.guardians[0].name()
        );
    }
    ensure!(first.net_msat >= 0, "it owes more than it has: {first:?}");
    let treasury: i64 = first.instances.iter().map(|i| i.treasury_msat).sum();
    let balances: i64 = first.instances.iter().map(|i| i.balance_msat).sum();
    let lines = first.instances.iter().flat_map(|i| &i.lines);
    let told: Vec<_> = lines
        .map(|line| format!("{} {} msat", line.name, line.msat))
        .collect();
    ensure!(
        balances <= treasury,
        "modules' balances are {balances} msat, the treasury has {treasury}: {first:?}"
    );
    Ok(format!("{}; net {} msat", told.join(", "), first.net_msat))
}

/// The text under `key`, wherever it is in `json`.
fn find(json: &Value, key: &str) -> Option<String> {
    match json {
        Value::Object(fields) => fields
            .get(key)
            .and_then(Value::as_str)
            .map(str::to_owned)
            .or_else(|| fields.values().find_map(|value| find(value, key))),
        Value::Array(values) => values.iter().find_map(|value| find(value, key)),
        _ => None,
    }
}

fn sat(msat: u64) -> String {
    match msat % 1000 {
        0 => format!("{} sat", msat / 1000),
        rest => format!("{}.{rest:03} sat", msat / 1000),
    }
}

struct Tour<W> {
    out: W,
    number: usize,
}

impl<W: Write> Tour<W> {
    /// Tells what will be done, does it, tells what came of it and how long it took.
    async fn step<T>(
        &mut self,
        what: &str,
        doing: impl Future<Output = Result<(T, String)>>,
    ) -> Result<T> {
        self.number += 1;
        write!(self.out, "{:2}. {what}\n      ", self.number)?;
        self.out.flush()?;
        let start = Instant::now();
        let done = doing.await;
        let time = seconds(start.elapsed());
        match done {
            Ok((value, told)) => {
                writeln!(self.out, "{time}  {told}")?;
                Ok(value)
            }
            Err(error) => {
                writeln!(self.out, "{time}  FAILED")?;
                Err(error.context(format!("step {} failed ({what})", self.number)))
            }
        }
    }
}

fn seconds(time: Duration) -> String {
    format!("{:6.2} s", time.as_secs_f64())
}
