//! The wallet's REST daemon: whatever a program wants of a wallet it gets by HTTP alone,
//! what is asked twice happens once, and a daemon that is killed loses nothing.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use crate::common::{Fixture, shared, until};
use modmint::{
    bitcoind::Bitcoind,
    process::{Process, free_address},
    programs,
    wallet::Wallet,
};
use modmint_client::CRASH_VARIABLE;
use reqwest::{Client, Method, StatusCode, header};
use serde_json::{Value, json};

/// What a deposit of 200,000 sat brings at least.
const RICH: u64 = 199_000_000;
/// How long a start or an end may take on a slow machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// More writes than any payment makes.
const MANY: u32 = 16;

/// A wallet's daemon, and the one key to it.
struct Daemon {
    folder: PathBuf,
    address: SocketAddr,
    metrics: SocketAddr,
    federation: String,
    http: Client,
    process: Option<Process>,
}

/// A request that is being made.
struct Ask<'a> {
    daemon: &'a Daemon,
    method: Method,
    path: String,
    body: Value,
    key: Option<&'a str>,
}

impl Daemon {
    /// A daemon on a wallet that is there.
    async fn on(wallet: &Wallet, fixture: &Fixture) -> Self {
        let id = fixture.guardians[0].get::<Value>("/v1/federation").await;
        let federation = id.expect("it answers")["id"].as_str().map(str::to_owned);
        let http = Client::builder()
            .no_proxy()
            .timeout(Duration::from_secs(90));
        let mut daemon = Self {
            folder: wallet.folder().to_owned(),
            address: free_address().expect("a port"),
            metrics: free_address().expect("a port"),
            federation: federation.expect("an id"),
            http: http.build().expect("a client"),
            process: None,
        };
        daemon.start().await;
        daemon
    }

    /// A daemon on a wallet with a seed and nothing else.
    async fn empty(fixture: &Fixture, name: &str) -> Self {
        let folder = fixture.folder().join("wallets").join(name);
        fixture.lend_code(&folder).expect("it is written");
        let wallet = Wallet::at(&folder);
        wallet.run(&["init"]).await.expect("a seed");
        Self::on(&wallet, fixture).await
    }

    /// A daemon on a wallet that has joined.
    async fn joined(fixture: &Fixture, name: &str) -> Self {
        Self::on(&fixture.wallet(name).await, fixture).await
    }

    fn spawn(&mut self, environment: &[(&str, &str)]) {
        let mut command = Command::new(programs::program("modmint-cli").expect("it is built"));
        command
            .arg("--data-dir")
            .arg(&self.folder)
            .args(["serve", "--listen", &self.address.to_string()])
            .args(["--metrics-listen", &self.metrics.to_string()])
            .envs(environment.iter().copied());
        let log = self.folder.join("daemon.log");
        let process = Process::spawn("modmint-cli serve", &command, &log);
        self.process = Some(process.expect("it starts"));
    }

    async fn start(&mut self) {
        self.spawn(&[]);
        self.answers().await.expect("it runs");
    }

    /// Starts it so that it is killed behind so many writes, which may be before it answers.
    async fn start_to_crash(&mut self, writes: u32) {
        self.spawn(&[(CRASH_VARIABLE, &writes.to_string())]);
        // An error is what was asked for.
        let _ = self.answers().await;
    }

    /// Waits until it answers or has ended.
    async fn answers(&mut self) -> anyhow::Result<()> {
        let url = self.url("/readyz");
        let start = Instant::now();
        loop {
            let process = self.process.as_mut().expect("just started");
            process.check_running()?;
            let answer = self.http.get(&url).send().await;
            if answer.is_ok_and(|answer| answer.status() == StatusCode::OK) {
                return Ok(());
            }
            assert!(start.elapsed() < PATIENCE, "it never answers");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// SIGKILL.
    fn kill(&mut self) {
        self.process.take();
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn api_key(&self) -> String {
        let key = fs::read_to_string(self.folder.join("api.key"));
        key.expect("there is a key").trim().to_owned()
    }

    fn get(&self, path: &str) -> Ask<'_> {
        Ask {
            daemon: self,
            method: Method::GET,
            path: path.to_owned(),
            body: Value::Null,
            key: None,
        }
    }

    fn post(&self, path: &str, body: Value) -> Ask<'_> {
        Ask {
            method: Method::POST,
            body,
            ..self.get(path)
        }
    }

    /// Has a module do something: `act("mint/actions/send", …)`.
    fn act(&self, what: &str, body: Value) -> Ask<'_> {
        self.post(&self.of(&format!("modules/{what}")), body)
    }

    /// A path below the federation's.
    fn of(&self, path: &str) -> String {
        format!("/v1/federations/{}/{path}", self.federation)
    }

    fn operation(&self, view: &Value) -> String {
        let id = view["operation"].as_str();
        self.of(&format!("operations/{}", id.expect("an operation")))
    }

    async fn join(&self, fixture: &Fixture) -> Value {
        let joined = self.post("/v1/federations", json!({ "invite": fixture.invite }));
        joined.ok(StatusCode::OK).await
    }

    async fn balance(&self) -> u64 {
        let all = self.get("/v1/balances").ok(StatusCode::OK).await;
        all["federations"][0]["balance_msat"]
            .as_u64()
            .expect("a sum")
    }

    /// Waits until nothing more comes of an operation by itself.
    async fn rested(&self, view: &Value) -> Value {
        let path = format!("{}?wait=60", self.operation(view));
        loop {
            let view = self.get(&path).ok(StatusCode::OK).await;
            let over = ["done", "failed", "asking"].map(Value::from);
            let over = over.contains(&view["status"]) && view["settling"] == false;
            if over || view["resting"] == true {
                return view;
            }
        }
    }

    async fn deposit(&self, fixture: &Fixture, satoshi: u64) {
        let begun = self.act("wallet/actions/deposit", json!({}));
        let begun = begun.ok(StatusCode::ACCEPTED).await;
        let address = begun["details"]["address"].as_str().expect("an address");
        fixture.bitcoind.send(address, satoshi).await.expect("sent");
        let blocks = 1 + fixture.plan.finality_depth;
        fixture.bitcoind.mine(blocks).await.expect("mined");
        let done = self.rested(&begun).await;
        assert_eq!(done["status"], "done", "{done}");
    }

    /// What is not over is brought to where it rests.
    async fn settle(&self) {
        let all = self.of("operations?unfinished=true");
        let all = self.get(&all).ok(StatusCode::OK).await;
        for view in all["items"].as_array().expect("a list") {
            if view["action"] == "send" || view["action"] == "receive" {
                self.rested(view).await;
            }
        }
    }

    async fn operations_of(&self, action: &str) -> Vec<Value> {
        let all = self
            .get(&self.of("operations?limit=1000"))
            .ok(StatusCode::OK)
            .await;
        let all = all["items"].as_array().expect("a list").clone();
        all.into_iter()
            .filter(|view| view["action"] == action)
            .collect()
    }
}

impl<'a> Ask<'a> {
    /// Under a key, so that it happens once.
    fn once(mut self, key: &'a str) -> Self {
        self.key = Some(key);
        self
    }

    async fn try_send(&self) -> reqwest::Result<(StatusCode, Value)> {
        let Self {
            daemon,
            method,
            path,
            body,
            key,
        } = self;
        let mut request = daemon.http.request(method.clone(), daemon.url(path));
        request = request.bearer_auth(daemon.api_key());
        if !body.is_null() {
            request = request.json(body);
        }
        if let Some(key) = key {
            request = request.header("Idempotency-Key", *key);
        }
        let answer = request.send().await?;
        let status = answer.status();
        let kind = answer.headers().get(header::CONTENT_TYPE).cloned();
        let kind = kind.expect("a content type");
        match status.is_success() {
            true => assert_eq!(kind, "application/json"),
            false => assert_eq!(kind, "application/problem+json", "{path}"),
        }
        Ok((status, answer.json().await?))
    }

    /// The answer, which is of this status.
    async fn ok(&self, status: StatusCode) -> Value {
        let (found, answer) = self.try_send().await.expect("it answers");
        assert_eq!(found, status, "{}: {answer}", self.path);
        answer
    }

    /// The problem, which has this status and code and says this.
    async fn refused(&self, status: StatusCode, code: &str, says: &str) -> Value {
        let problem = self.ok(status).await;
        assert_eq!(problem["code"], code, "{problem}");
        assert_eq!(problem["type"], format!("about:blank#{code}"));
        assert_eq!(problem["status"], status.as_u16());
        let detail = problem["detail"].as_str().expect("a text");
        assert!(detail.contains(says), "{detail}");
        problem
    }
}

fn notes(view: &Value) -> String {
    let notes = view["details"]["notes"].as_str();
    notes
        .unwrap_or_else(|| panic!("no notes in {view}"))
        .to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_programs_pay_each_other_over_rest_and_what_is_sent_twice_happens_once() {
    let federation = shared().await;
    let alice = Daemon::empty(&federation, "rest alice").await;
    let bob = Daemon::joined(&federation, "rest bob").await;

    // Before joining she sees what she would run.
    let invite = json!({ "invite": federation.invite });
    let preview = alice
        .post("/v1/federations/preview", invite)
        .ok(StatusCode::OK)
        .await;
    assert_eq!(preview["federation"], alice.federation.as_str());
    assert_eq!(preview["guardians"].as_array().map(Vec::len), Some(4));
    let none = alice.get("/v1/federations").ok(StatusCode::OK).await;
    assert_eq!(none, json!([]));
    let joined = alice.join(&federation).await;
    assert_eq!(joined["modules"], preview["modules"]);
    let mint = alice
        .get(&alice.of("modules/mint"))
        .ok(StatusCode::OK)
        .await;
    assert_eq!(mint["holds_money"], true);
    assert!(!mint["capabilities"].as_array().expect("a list").is_empty());
    let same = alice.get(&alice.of(&format!("modules/{}", mint["instance"])));
    assert_eq!(same.ok(StatusCode::OK).await, mint);
    let mut actions = mint["actions"].as_array().expect("a list").iter();
    let send = actions.find(|action| action["name"] == "send");
    let amount = &send.expect("there is one")["parameters"][0];
    assert_eq!(
        (&amount["name"], &amount["type"]),
        (&json!("amount"), &json!("amount"))
    );
    assert_eq!(amount["required"], true);

    alice.deposit(&federation, 200_000).await;
    let rich = alice.balance().await;
    assert!(rich >= RICH, "{rich}");

    // A spend that nobody allowed is a quote, and nothing more.
    let order = json!({ "arguments": { "amount": 3_000_001 } });
    let asked = alice.act("mint/actions/send", order.clone()).once("tea");
    let told = "nothing has happened";
    let quoted = asked
        .refused(StatusCode::CONFLICT, "confirmation-needed", told)
        .await;
    let total = quoted["quote"]["total_msat"].as_u64().expect("a sum");
    assert!(
        total >= 3_000_001 && quoted["operation"].is_null(),
        "{quoted}"
    );
    assert_eq!(alice.operations_of("send").await.len(), 0);
    let with = |most: u64| {
        let mut order = order.clone();
        order["max_spend_msat"] = most.into();
        order
    };
    let little = alice.act("mint/actions/send", with(total - 1)).once("tea");
    little
        .refused(StatusCode::CONFLICT, "confirmation-needed", told)
        .await;

    // Allowed, it is one payment however often it is sent, also at once.
    let paid = alice.act("mint/actions/send", with(total)).once("tea");
    let (first, second) =
        tokio::join!(paid.ok(StatusCode::ACCEPTED), paid.ok(StatusCode::ACCEPTED));
    let third = paid.ok(StatusCode::ACCEPTED).await;
    for again in [&second, &third] {
        assert_eq!(again["operation"], first["operation"]);
        assert_eq!(notes(again), notes(&first));
    }
    alice.rested(&first).await;
    until("the change to be there", || async {
        alice.balance().await == rich - total
    })
    .await;
    assert_eq!(alice.operations_of("send").await.len(), 1);
    let mut other = with(total);
    other["arguments"]["amount"] = 7.into();
    let other = alice.act("mint/actions/send", other).once("tea");
    other
        .refused(StatusCode::CONFLICT, "idempotency-mismatch", "another key")
        .await;

    // Bob takes the notes, once.
    let taken = json!({ "arguments": { "notes": notes(&first) }, "wait": 60 });
    let received = bob
        .act("mint/actions/receive", taken.clone())
        .once("from alice");
    let done = bob.rested(&received.ok(StatusCode::ACCEPTED).await).await;
    assert_eq!(done["status"], "done", "{done}");
    assert_eq!(bob.balance().await, 3_000_001);
    received.ok(StatusCode::ACCEPTED).await;
    let again = bob
        .act("mint/actions/receive", taken)
        .once("from alice again");
    let (status, problem) = again.try_send().await.expect("it answers");
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{problem}");
    assert_eq!(bob.balance().await, 3_000_001);

    // Notes that nobody takes come back.
    let order = json!({ "arguments": { "amount": "500 sat" }, "max_spend_msat": 600_000 });
    let kept = alice
        .act("mint/actions/send", order)
        .ok(StatusCode::ACCEPTED)
        .await;
    let cancel = format!("{}/cancel", alice.operation(&kept));
    alice.post(&cancel, Value::Null).ok(StatusCode::OK).await;
    let back = alice.rested(&kept).await;
    assert_eq!(back["status"], "done", "{back}");
    until("the notes to be back", || async {
        alice.balance().await == rich - total
    })
    .await;
    let over = alice.post(&cancel, Value::Null);
    over.refused(StatusCode::CONFLICT, "operation-over", "over")
        .await;

    pages(&alice).await;
    let health = alice.get(&alice.of("guardians")).ok(StatusCode::OK).await;
    assert_eq!(health["reachable"], true, "{health}");
    assert_eq!(health["threshold"], 3);
    assert!(health["guardians"][3]["latency_ms"].is_u64(), "{health}");
    assert!(
        health["agreed"]["block_height"].as_u64() > Some(0),
        "{health}"
    );
}

/// Each operation is on one page, however short pages are.
async fn pages(daemon: &Daemon) {
    let all = daemon
        .get(&daemon.of("operations"))
        .ok(StatusCode::OK)
        .await;
    let all = all["items"].as_array().expect("a list").clone();
    let (mut found, mut cursor) = (Vec::new(), String::new());
    loop {
        let path = daemon.of(&format!("operations?limit=1{cursor}"));
        let page = daemon.get(&path).ok(StatusCode::OK).await;
        found.extend(page["items"].as_array().expect("a list").clone());
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    let ids = |all: &[Value]| -> Vec<Value> {
        let ids = all.iter().map(|view| view["operation"].clone());
        ids.collect()
    };
    assert!(found.len() >= 3, "{found:?}");
    assert_eq!(ids(&found), ids(&all));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spend_that_asks_is_confirmed_or_declined_or_allowed_beforehand() {
    let federation = shared().await;
    let bitcoind = &federation.bitcoind;
    let alice = Daemon::joined(&federation, "rest withdrawer").await;
    alice.deposit(&federation, 200_000).await;
    let rich = alice.balance().await;
    let address = || async {
        let address = bitcoind.call::<String>("getnewaddress", json!([])).await;
        address.expect("an address")
    };
    let order = |address: &str, mut more: Value| {
        more["arguments"] = json!({ "address": address, "amount": "5000 sat" });
        more
    };
    let withdraw = "wallet/actions/withdraw";

    // Guardians say what it costs; so it has begun, and asks.
    let to = address().await;
    let asked = alice
        .act(withdraw, order(&to, json!({ "wait": 60 })))
        .once("first");
    let quoted = asked
        .refused(
            StatusCode::CONFLICT,
            "confirmation-needed",
            "its route confirm",
        )
        .await;
    let total = quoted["quote"]["total_msat"].as_u64().expect("a sum");
    assert!(total > 5_000_000, "{quoted}");
    let path = alice.operation(&quoted);
    let asking = alice.get(&path).ok(StatusCode::OK).await;
    assert_eq!(asking["status"], "asking");
    assert_eq!(asking["question"], quoted["quote"]);
    let little = json!({ "max_spend_msat": total - 1 });
    let little = alice.post(&format!("{path}/confirm"), little);
    little
        .refused(StatusCode::CONFLICT, "confirmation-needed", "confirm")
        .await;
    assert_eq!(alice.balance().await, rich);

    // Declined, it is over, and nothing more can be said to it.
    alice
        .post(&format!("{path}/decline"), Value::Null)
        .ok(StatusCode::OK)
        .await;
    let declined = alice.rested(&quoted).await;
    assert_eq!(declined["status"], "failed", "{declined}");
    let confirm = alice.post(
        &format!("{path}/confirm"),
        json!({ "max_spend_msat": total }),
    );
    confirm
        .refused(StatusCode::CONFLICT, "nothing-to-confirm", "")
        .await;
    assert_eq!(alice.balance().await, rich);

    // Confirmed, and allowed beforehand.
    let asked = alice
        .act(withdraw, order(&to, json!({ "wait": 60 })))
        .once("second");
    let quoted = asked
        .refused(StatusCode::CONFLICT, "confirmation-needed", "")
        .await;
    let confirm = format!("{}/confirm", alice.operation(&quoted));
    let most = json!({ "max_spend_msat": 2 * total });
    let confirmed = alice.post(&confirm, most).ok(StatusCode::OK).await;
    assert_ne!(confirmed["status"], "asking");
    let other = address().await;
    let most = json!({ "max_spend_msat": 2 * total, "wait": 0 });
    let allowed = alice.act(withdraw, order(&other, most)).once("third");
    let allowed = allowed.ok(StatusCode::ACCEPTED).await;

    let stages = buried(&alice, bitcoind, confirmed).await;
    assert!(stages.len() > 1, "{stages:?}");
    assert_eq!(bitcoind.received(&to).await.expect("a sum"), 5_000);
    buried(&alice, bitcoind, allowed).await;
    assert_eq!(bitcoind.received(&other).await.expect("a sum"), 5_000);
}

/// Follows a withdrawal to its end, while blocks come: whoever has seen a state hears of
/// the next. Returns the stages that were heard of.
async fn buried(daemon: &Daemon, bitcoind: &Bitcoind, mut seen: Value) -> Vec<Value> {
    let path = daemon.operation(&seen);
    let under_way = ["running", "asking"].map(Value::from);
    let (start, mut stages) = (Instant::now(), Vec::new());
    while under_way.contains(&seen["status"]) {
        assert!(start.elapsed() < Duration::from_secs(300), "{seen}");
        let version = seen["version"].as_str().expect("a version");
        let ask = daemon.get(&format!("{path}?wait=60&seen={version}"));
        let mut waiting = std::pin::pin!(ask.ok(StatusCode::OK));
        seen = loop {
            tokio::select! {
                view = &mut waiting => break view,
                () = tokio::time::sleep(Duration::from_millis(300)) => {
                    bitcoind.mine(1).await.expect("mined");
                }
            }
        };
        stages.push(seen["stage"].clone());
    }
    assert_eq!(seen["status"], "done", "{seen}");
    stages
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_asked_wrongly_is_refused_and_the_problem_says_what_is_expected() {
    let federation = shared().await;
    let daemon = Daemon::joined(&federation, "rest mistaken").await;
    let key = fs::metadata(daemon.folder.join("api.key")).expect("there is a key");
    assert_eq!(key.permissions().mode() & 0o777, 0o600);

    // Nothing is told without the key but what is nobody's secret.
    let description = daemon.http.get(daemon.url("/openapi.json")).send().await;
    let description: Value = description.expect("answers").json().await.expect("JSON");
    let mut locked = 0;
    for (path, methods) in description["paths"].as_object().expect("paths") {
        for method in methods.as_object().expect("methods").keys() {
            let method: Method = method.to_uppercase().parse().expect("a method");
            let open = ["/livez", "/readyz", "/docs", "/openapi.json"].contains(&&**path);
            let url = daemon.url(&path.replace(['{', '}'], ""));
            for given in [None, Some("mmw_00"), Some("")] {
                let mut request = daemon.http.request(method.clone(), &url);
                if let Some(given) = given {
                    request = request.bearer_auth(given);
                }
                let answer = request.send().await.expect("it answers");
                if open {
                    assert_eq!(answer.status(), StatusCode::OK, "{path}");
                    continue;
                }
                locked += 1;
                assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{method} {path}");
                let problem: Value = answer.json().await.expect("JSON");
                assert_eq!(problem["code"], "unauthenticated");
            }
        }
    }
    assert!(locked >= 3 * 14, "{locked}");

    let (bad, missing) = (StatusCode::BAD_REQUEST, StatusCode::NOT_FOUND);
    let send =
        |arguments: Value| daemon.act("mint/actions/send", json!({ "arguments": arguments }));
    for (arguments, says) in [
        (json!({ "amount": "1000" }), "1000sat"),
        (json!({ "amount": true }), "a whole number of millisatoshi"),
        (json!({ "amount": -5 }), "a whole number of millisatoshi"),
        (json!({}), "\"amount\" is missing"),
        (
            json!({ "amount": 1, "sum": 2 }),
            "no parameter \"sum\"; known are: amount",
        ),
    ] {
        send(arguments).refused(bad, "bad-argument", says).await;
    }
    let unknown = daemon.act("mint/actions/burn", json!({}));
    unknown
        .refused(missing, "unknown-action", "known are: ")
        .await;
    // The gateway's own actions are no program's.
    let gateways = daemon.act("ln/actions/gateway-pay", json!({}));
    gateways.refused(missing, "unknown-action", "pay").await;
    let unknown = daemon.act("bank/actions/send", json!({}));
    unknown
        .refused(missing, "unknown-module", "mint, wallet, ln")
        .await;
    let unknown = daemon.act("9/actions/send", json!({}));
    unknown
        .refused(missing, "unknown-module", "mint, wallet, ln")
        .await;
    let other = format!("/v1/federations/{}/modules", "00".repeat(32));
    daemon
        .get(&other)
        .refused(missing, "unknown-federation", "has not joined")
        .await;
    let odd = daemon.get("/v1/federations/xyz/modules");
    odd.refused(bad, "malformed-path", "32 bytes in hexadecimal")
        .await;
    let nobody = daemon.of(&format!("operations/{}", "00".repeat(10)));
    daemon
        .get(&nobody)
        .refused(missing, "unknown-operation", "there is no operation")
        .await;
    let nobody = daemon.post(&format!("{nobody}/cancel"), Value::Null);
    nobody
        .refused(missing, "unknown-operation", "there is no operation")
        .await;
    let odd = daemon.get(&daemon.of("operations/7"));
    odd.refused(bad, "malformed-path", "20 hexadecimal digits")
        .await;
    let odd = daemon.get(&daemon.of("operations?limit=0"));
    odd.refused(bad, "bad-limit", "from 1 to 1000").await;
    let odd = daemon.get(&daemon.of("operations?page=2"));
    odd.refused(bad, "malformed-query", "page").await;
    let odd = daemon.post("/v1/federations", json!({ "invite": "modmint1nothing" }));
    odd.refused(bad, "bad-invite", "").await;
    let odd = daemon.act("mint/actions/send", json!({ "amount": 1 }));
    odd.refused(bad, "malformed-body", "unknown field `amount`")
        .await;
    let odd = send(json!({ "amount": 1 }))
        .once(" ")
        .refused(bad, "bad-idempotency-key", "255")
        .await;
    assert!(odd["operation"].is_null());
    daemon
        .get("/v1/nothing")
        .refused(missing, "unknown-route", "/openapi.json")
        .await;
    let method = daemon.post("/v1/balances", json!({}));
    method
        .refused(StatusCode::METHOD_NOT_ALLOWED, "wrong-method", "Allow")
        .await;
    let poor = json!({ "arguments": { "amount": "5 sat" }, "max_spend_msat": 6000 });
    let poor = daemon.act("mint/actions/send", poor);
    poor.refused(StatusCode::CONFLICT, "not-enough-money", "")
        .await;

    let url = daemon.url(&daemon.of("modules/mint/actions/send"));
    for (kind, body, status, code) in [
        ("application/json", "{\"arguments\":", bad, "malformed-body"),
        ("application/json", "", bad, "malformed-body"),
        ("application/json", "[1]", bad, "malformed-body"),
        (
            "text/plain",
            "{}",
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "wrong-content-type",
        ),
    ] {
        let request = daemon.http.post(&url).bearer_auth(daemon.api_key());
        let answer = request
            .header(header::CONTENT_TYPE, kind)
            .body(body)
            .send()
            .await;
        let answer = answer.expect("it answers");
        assert_eq!(answer.status(), status, "{body}");
        let problem: Value = answer.json().await.expect("JSON");
        assert_eq!(problem["code"], code, "{problem}");
    }
    assert_eq!(daemon.operations_of("send").await.len(), 0);
}

/// A wallet in `folder` is served by nobody, and says why.
async fn not_served(folder: &Path, words: &[&str], says: &str) {
    let wallet = Wallet::at(folder);
    let outcome = wallet.try_run(&[&["serve"], words].concat(), &[]).await;
    let outcome = outcome.expect("it can be started");
    assert_eq!(outcome.status.code(), Some(2), "{outcome:?}");
    assert!(outcome.json.to_string().contains(says), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_has_its_wallet_for_itself_and_ends_politely() {
    let federation = shared().await;
    let empty = federation.folder().join("wallets").join("rest nobody");
    not_served(&empty, &[], "modmint-cli init").await;
    not_served(&empty, &["--listen", "0.0.0.0:0"], "--allow-remote").await;

    let mut daemon = Daemon::joined(&federation, "rest polite").await;
    let other = Wallet::at(&daemon.folder).try_run(&["balance"], &[]).await;
    let other = other.expect("it can be started");
    assert_eq!(other.status.code(), Some(9), "{other:?}");
    let id = daemon.process.as_ref().map(Process::id).expect("it runs");
    let told = other.json["error"]["message"].as_str().expect("a text");
    assert!(told.contains(&format!("is held by process {id}")), "{told}");

    // Whoever waits is answered, and it ends well.
    let begun = daemon
        .act("wallet/actions/deposit", json!({}))
        .ok(StatusCode::ACCEPTED)
        .await;
    let path = format!("{}?wait=60", daemon.operation(&begun));
    let mut process = daemon.process.take().expect("it runs");
    let ask = daemon.get(&path);
    let metrics = format!("http://{}/metrics", daemon.metrics);
    let ending = async {
        until("the request to be waited for", || async {
            let metrics = daemon.http.get(&metrics).send().await.expect("it answers");
            let metrics = metrics.text().await.expect("a text");
            metrics.contains("modmint_wallet_http_requests_under_way 1\n")
        })
        .await;
        process.stop(PATIENCE).await.expect("it ends")
    };
    let start = Instant::now();
    let (view, status) = tokio::join!(ask.ok(StatusCode::OK), ending);
    assert!(status.success(), "{status}: {}", process.log_tail());
    assert_eq!(view["status"], "running", "{view}");
    assert!(
        start.elapsed() < Duration::from_secs(30),
        "{:?}",
        start.elapsed()
    );

    // The key is the same, and so is what goes on.
    let key = daemon.api_key();
    daemon.start().await;
    assert_eq!(daemon.api_key(), key);
    let again = daemon
        .get(&daemon.operation(&begun))
        .ok(StatusCode::OK)
        .await;
    assert_eq!(again["details"], begun["details"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_killed_in_the_middle_of_a_payment_has_lost_nothing_when_it_is_started_again() {
    let federation = shared().await;
    let mut alice = Daemon::joined(&federation, "rest killed payer").await;
    let mut bob = Daemon::joined(&federation, "rest killed payee").await;
    alice.deposit(&federation, 200_000).await;
    let (mut alices, mut bobs) = (alice.balance().await, 0);
    let (mut crashes, mut ended) = (0, false);
    for writes in 1..=MANY {
        // Behind each write in turn, and then with SIGKILL at whatever moment.
        let amount = 3_000_001 + u64::from(writes);
        let order = json!({ "arguments": { "amount": amount }, "max_spend_msat": amount });
        let key = format!("payment {writes}");
        alice.kill();
        alice.start_to_crash(writes).await;
        let sent = alice
            .act("mint/actions/send", order.clone())
            .once(&key)
            .try_send()
            .await;
        crashes += u32::from(sent.is_err());
        // What counts its writes is not what anybody runs on.
        alice.kill();
        alice.start().await;
        let paid = alice.act("mint/actions/send", order).once(&key);
        let paid = paid.ok(StatusCode::ACCEPTED).await;
        if let Ok((_, first)) = &sent {
            assert_eq!(first["operation"], paid["operation"]);
        }
        let paid = alice.rested(&paid).await;
        alice.settle().await;

        let taken = json!({ "arguments": { "notes": notes(&paid) }, "wait": 60 });
        let received = bob.act("mint/actions/receive", taken.clone()).once(&key);
        let receiving = received.try_send();
        let moment = Duration::from_millis(50 * u64::from(writes));
        let answered = tokio::time::timeout(moment, receiving).await;
        bob.kill();
        bob.start().await;
        let received = bob.act("mint/actions/receive", taken).once(&key);
        let received = bob.rested(&received.ok(StatusCode::ACCEPTED).await).await;
        assert_eq!(received["status"], "done", "{received}");
        bob.settle().await;

        alices -= amount;
        bobs += amount;
        assert_eq!(
            alice.balance().await,
            alices,
            "killed behind write {writes}"
        );
        assert_eq!(bob.balance().await, bobs, "killed after {moment:?}");
        ended = sent.is_ok();
        if ended && answered.is_ok() {
            break;
        }
    }
    assert!(ended && crashes >= 2, "{crashes} crashes");
    println!("a payment was broken off behind {crashes} of its writes");
    assert_eq!(
        alice.operations_of("send").await.len(),
        bob.operations_of("receive").await.len()
    );
}
