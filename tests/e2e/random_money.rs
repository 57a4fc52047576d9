//! Deposits, payments, refusals and withdrawals in random order, in a real federation on
//! a real bitcoind: what wallets hold and what the chain holds change by fees alone.
//!
//! The chain's side is read from bitcoind's blocks, and nothing of it from the module
//! whose outputs it is held against.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    time::{Duration, Instant},
};

use crate::common::Fixture;
use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use modmint::{
    federation::Options,
    tour::{balanced, deposit, receive, refused, send},
    wait_for,
    wallet::Wallet,
};
use modmint_core::config::BaseFee;
use modmint_mint::Notes;
use rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};
use serde_json::{Value, json};

/// For how long acts are begun.
const TIME: Duration = Duration::from_secs(40);
/// What a deposit pays, in satoshi: the module's default.
const DEPOSIT_FEE: u64 = 200;
/// Enough for whatever a payment or a withdrawal pays beside its amount, msat.
const FEES: u64 = 1_000_000;
/// For guardians and wallets to agree.
const PATIENCE: Duration = Duration::from_secs(60);
/// The seed of the sequence; without it one is drawn.
const SEED: &str = "MODMINT_SEED";

/// A withdrawal that is not buried yet.
struct Withdrawal {
    wallet: usize,
    operation: String,
    address: String,
    satoshi: u64,
}

/// The federation, and what the test knows of money in it.
struct Game {
    federation: Fixture,
    wallets: Vec<Wallet>,
    /// What each of them has, msat.
    balances: Vec<u64>,
    /// Notes that were taken out of a wallet, with what they are worth, msat.
    in_flight: Vec<(String, u64)>,
    spent: Vec<String>,
    /// Addresses that deposits were paid to, and satoshi that were.
    deposits: BTreeMap<String, u64>,
    /// Addresses that withdrawals pay to, and satoshi that they do.
    withdrawals: BTreeMap<String, u64>,
    pending: Vec<Withdrawal>,
    /// More than the base fee of taking it in, satoshi.
    least_sent: u64,
    /// What deposits and withdrawals have paid, msat.
    fees: u64,
    /// How often each act was done.
    acts: BTreeMap<&'static str, u32>,
}

/// What bitcoind's blocks say of the federation's money, satoshi.
#[derive(Default)]
struct Chain {
    /// Unspent, by transaction and output.
    coins: BTreeMap<(String, u64), u64>,
    /// By address, what withdrawals have brought.
    paid: BTreeMap<String, u64>,
    miners: u64,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_money_is_made_or_lost_in_any_order_of_deposits_payments_and_withdrawals() {
    let seed = match env::var(SEED) {
        Ok(seed) => seed.parse().expect("a number"),
        Err(_) => rand::random(),
    };
    println!("{SEED}={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    // Half of all federations ask a base fee.
    let base_fee = BaseFee {
        msat_per_kilobyte: if random.gen_bool(0.5) { 20_000 } else { 0 },
    };
    println!("{base_fee:?}");
    let mut game = Game::begin(base_fee).await;
    game.deposit(0, 200_000).await;
    game.even().await;
    let start = Instant::now();
    while start.elapsed() < TIME {
        game.act(&mut random).await;
        game.even().await;
    }
    game.settle().await;
    println!("{:?} in {:?}", game.acts, start.elapsed());
}

impl Game {
    async fn begin(base_fee: BaseFee) -> Self {
        let options = Options::standard().expect("scripts/test builds the bundles");
        let federation = Fixture::found(Options {
            base_fee,
            ..options
        })
        .await;
        let mut wallets = Vec::new();
        for name in ["alice", "bob", "carol"] {
            wallets.push(federation.wallet(name).await);
        }
        Self {
            federation,
            balances: vec![0; wallets.len()],
            wallets,
            in_flight: Vec::new(),
            spent: Vec::new(),
            deposits: BTreeMap::new(),
            withdrawals: BTreeMap::new(),
            pending: Vec::new(),
            least_sent: match base_fee.msat_per_kilobyte {
                0 => 1,
                _ => 200,
            },
            fees: 0,
            acts: BTreeMap::new(),
        }
    }

    async fn act(&mut self, random: &mut StdRng) {
        let who = random.gen_range(0..self.wallets.len());
        let act = match random.gen_range(0..16) {
            0 => {
                self.deposit(who, random.gen_range(10_000..100_000)).await;
                "deposit"
            }
            1..=4 => self.send(random).await,
            5..=8 => self.receive(who, random).await,
            9 => self.double_spend(who, random).await,
            10..=12 => self.withdraw(random).await,
            13 => self.withdraw_too_much(who).await,
            _ => {
                self.mine().await;
                "block"
            }
        };
        *self.acts.entry(act).or_default() += 1;
    }

    async fn mine(&self) {
        self.federation.bitcoind.mine(1).await.expect("mined");
    }

    /// A wallet that has as much, if one has.
    fn rich(&self, random: &mut StdRng, msat: u64) -> Option<usize> {
        let rich = |who: &usize| self.balances[*who] >= msat;
        let rich: Vec<usize> = (0..self.wallets.len()).filter(rich).collect();
        rich.choose(random).copied()
    }

    async fn deposit(&mut self, who: usize, satoshi: u64) {
        let wallet = &self.wallets[who];
        let known = self.deposit_addresses(wallet).await;
        let done = deposit(&self.federation, wallet, satoshi).await;
        done.expect("a deposit succeeds");
        let all = self.deposit_addresses(wallet).await;
        let address = all.difference(&known).next().expect("an address");
        self.deposits.insert(address.clone(), satoshi);
        self.fees += DEPOSIT_FEE * 1000;
    }

    async fn deposit_addresses(&self, wallet: &Wallet) -> BTreeSet<String> {
        let answer = wallet
            .run(&["operations", "--limit", "1000"])
            .await
            .expect("a list");
        let operations = answer["operations"].as_array().expect("a list");
        let deposits = operations.iter().filter(|o| o["action"] == "deposit");
        deposits
            .filter_map(|o| Some(o["details"]["address"].as_str()?.to_owned()))
            .collect()
    }

    async fn send(&mut self, random: &mut StdRng) -> &'static str {
        let satoshi = random.gen_range(self.least_sent..20_000);
        let Some(who) = self.rich(random, FEES + satoshi * 1000) else {
            return "nothing to send";
        };
        let sent = send(&self.wallets[who], satoshi).await;
        let text = sent.expect("a wallet can send");
        let notes = Notes::decode(&text).expect("these are notes").notes;
        let worth = notes.iter().map(|note| 1 << note.exponent).sum();
        self.in_flight.push((text, worth));
        "send"
    }

    async fn receive(&mut self, who: usize, random: &mut StdRng) -> &'static str {
        if self.in_flight.is_empty() {
            return "nothing to receive";
        }
        let which = random.gen_range(0..self.in_flight.len());
        let (text, _) = self.in_flight.swap_remove(which);
        let received = receive(&self.wallets[who], &text).await;
        received.expect("a wallet can receive");
        self.spent.push(text);
        "receive"
    }

    async fn double_spend(&mut self, who: usize, random: &mut StdRng) -> &'static str {
        let Some(text) = self.spent.choose(random) else {
            return "nothing to spend twice";
        };
        let command = ["mint", "receive", text];
        let outcome = self.wallets[who].try_run(&command, &[]).await;
        refused(outcome.expect("it starts")).expect("notes are spent once");
        "double spend"
    }

    async fn withdraw(&mut self, random: &mut StdRng) -> &'static str {
        let satoshi = random.gen_range(1_000..30_000);
        let Some(who) = self.rich(random, FEES + satoshi * 1000) else {
            return "nothing to withdraw";
        };
        let address = self.address().await;
        let amount = format!("{satoshi} sat");
        let command = ["wallet", "withdraw", &address, &amount, "--detach"];
        let begun = self.wallets[who].run(&command).await.expect("it begins");
        let operation = begun["operation"].as_str().expect("an operation");
        self.pending.push(Withdrawal {
            wallet: who,
            operation: operation.to_owned(),
            address: address.clone(),
            satoshi,
        });
        // It goes on whenever its wallet is opened.
        let withdrawal = self.pending.last().expect("it was just put there");
        let accepted = wait_for("guardians to accept the withdrawal", PATIENCE, || async {
            let view = self.look_at(withdrawal).await?;
            view["details"]["fee_msat"].as_u64().context("not yet")
        });
        self.fees += accepted.await.expect("it is accepted");
        self.withdrawals.insert(address, satoshi);
        "withdraw"
    }

    async fn withdraw_too_much(&mut self, who: usize) -> &'static str {
        let satoshi = self.balances[who] / 1000 + 1_000;
        let (address, amount) = (self.address().await, format!("{satoshi} sat"));
        let command = ["wallet", "withdraw", &address, &amount];
        let outcome = self.wallets[who].try_run(&command, &[]).await;
        refused(outcome.expect("it starts")).expect("there is not so much");
        "withdraw too much"
    }

    async fn address(&self) -> String {
        let address = self.federation.bitcoind.call("getnewaddress", json!([]));
        address.await.expect("an address")
    }

    async fn look_at(&self, withdrawal: &Withdrawal) -> Result<Value> {
        let wallet = &self.wallets[withdrawal.wallet];
        let command = ["wait", &withdrawal.operation, "--timeout", "1"];
        wallet.try_run(&command, &[]).await?;
        wallet.run(&["operation", &withdrawal.operation]).await
    }

    /// Waits until the books are even, as they must be behind every act.
    async fn even(&mut self) {
        let even = wait_for("even books", PATIENCE, || async {
            let even = self.try_even().await;
            if even.is_err() {
                // Change comes in while a wallet is open.
                for withdrawal in &self.pending {
                    self.look_at(withdrawal).await?;
                }
            }
            even
        });
        self.balances = even.await.expect("no money is made or lost");
    }

    /// What there is in wallets and between them is what guardians have issued, and what
    /// was deposited less what was withdrawn and the module's fees. What is left, base fees
    /// and what no note is small enough for, is the federation's net worth.
    async fn try_even(&self) -> Result<Vec<u64>> {
        let balances = self.wallets.iter().map(Wallet::balance);
        let balances = try_join_all(balances).await?;
        let in_flight = self.in_flight.iter().map(|(_, worth)| worth);
        let held: u64 = balances.iter().chain(in_flight).sum();
        let audit = self.federation.guardians[0].audit().await?;
        let lines = audit.instances.iter().flat_map(|i| &i.lines);
        let lines: BTreeMap<&str, i64> = lines.map(|l| (l.name.as_str(), l.msat)).collect();
        let issued = -lines.get("notes in circulation").context("no such line")?;
        ensure!(
            issued == i64::try_from(held)?,
            "{issued} msat are issued, {held} are held"
        );
        let deposited: u64 = self.deposits.values().sum();
        let withdrawn: u64 = self.withdrawals.values().sum();
        let gone = withdrawn * 1000 + self.fees + held;
        let left = i64::try_from(deposited * 1000)? - i64::try_from(gone)?;
        ensure!(
            left == audit.net_msat,
            "{deposited} sat were deposited, {withdrawn} sat withdrawn, {} msat paid in fees, \
             {held} msat are held: {left} msat are left, not {}",
            self.fees,
            audit.net_msat
        );
        Ok(balances)
    }

    /// Has all withdrawals buried, and holds the module's books against the chain.
    async fn settle(&mut self) {
        let buried = wait_for("the withdrawals to be buried", PATIENCE, || async {
            self.mine().await;
            for withdrawal in &self.pending {
                let view = self.look_at(withdrawal).await?;
                ensure!(view["status"] == "done", "{view}");
            }
            Ok(())
        });
        buried.await.expect("they are paid");
        for withdrawal in self.pending.drain(..) {
            let received = self.federation.bitcoind.received(&withdrawal.address).await;
            assert_eq!(received.expect("a sum"), withdrawal.satoshi);
        }
        self.even().await;
        balanced(&self.federation).await.expect("the books balance");
        self.federation
            .same_state_root()
            .await
            .expect("one state root");

        let chain = self.chain().await.expect("bitcoind has the blocks");
        assert_eq!(chain.paid, self.withdrawals, "what withdrawals have paid");
        for ((txid, vout), satoshi) in &chain.coins {
            let coin = self
                .federation
                .bitcoind
                .call("gettxout", json!([txid, vout]));
            let coin: Value = coin.await.expect("it answers");
            assert_eq!(satoshi_of(&coin["value"]), *satoshi, "{txid}:{vout}");
        }
        for guardian in &self.federation.guardians {
            let overview = guardian.query("wallet", "withdrawals").await;
            let overview = overview.expect("an answer");
            assert_eq!(overview["waiting"], 0, "{overview}");
            assert_eq!(overview["alarms"], json!([]), "{overview}");
            let held: u64 = chain.coins.values().sum();
            assert_eq!(overview["held_satoshi"], held, "{overview}");
            // Nothing is promised to miners any more.
            let reserve = self.fees / 1000 - chain.miners;
            assert_eq!(overview["reserve_satoshi"], reserve, "{overview}");
        }
    }

    /// The federation's money as the blocks have it, from its first deposit on.
    async fn chain(&self) -> Result<Chain> {
        let bitcoind = &self.federation.bitcoind;
        let first = self.federation.plan.chain_start.height + 1;
        let mut chain = Chain::default();
        for height in first..=bitcoind.tip().await?.height {
            let hash: String = bitcoind.call("getblockhash", json!([height])).await?;
            let block: Value = bitcoind.call("getblock", json!([hash, 2])).await?;
            for transaction in block["tx"].as_array().context("no transactions")? {
                chain.read(transaction, self)?;
            }
        }
        Ok(chain)
    }
}

impl Chain {
    /// Whatever is paid to a deposit's address is the federation's, and change of what is.
    fn read(&mut self, transaction: &Value, game: &Game) -> Result<()> {
        let txid = transaction["txid"].as_str().context("no txid")?;
        let inputs = transaction["vin"].as_array().context("no inputs")?;
        let mut spent = 0;
        for input in inputs {
            let place = input["txid"].as_str().zip(input["vout"].as_u64());
            let place = place.map(|(txid, vout)| (txid.to_owned(), vout));
            spent += place
                .and_then(|place| self.coins.remove(&place))
                .unwrap_or(0);
        }
        let mut out = 0;
        for output in transaction["vout"].as_array().context("no outputs")? {
            let satoshi = satoshi_of(&output["value"]);
            out += satoshi;
            let vout = output["n"].as_u64().context("no place")?;
            let address = output["scriptPubKey"]["address"].as_str().unwrap_or("");
            if spent > 0 && game.withdrawals.contains_key(address) {
                *self.paid.entry(address.to_owned()).or_default() += satoshi;
            } else if spent > 0 || game.deposits.contains_key(address) {
                self.coins.insert((txid.to_owned(), vout), satoshi);
            }
        }
        if spent > 0 {
            ensure!(
                spent - out == satoshi_of(&transaction["fee"]),
                "others have paid for {transaction}"
            );
            self.miners += spent - out;
        }
        Ok(())
    }
}

fn satoshi_of(bitcoin: &Value) -> u64 {
    (bitcoin.as_f64().unwrap_or_default() * 1e8).round() as u64
}
