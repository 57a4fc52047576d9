#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{net::SocketAddr, time::Duration};

use async_trait::async_trait;
use modmint_core::{
    Argument, BundleHash, Hash32, InstanceId, OutPoint, PeerId, Refusal, TransactionError, TxId,
    config::HexBytes,
    consensus::{SessionHeader, SignedHeader, TransactionStatus},
    rest::{
        AuditResponse, ChainOutputResponse, CheckResponse, FederationResponse, HealthResponse,
        InfoResponse, ModuleResponse, Problem, QueryResponse, StatusResponse, SubmitResponse,
        TransactionResponse,
    },
};
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{Notify, watch},
    task::JoinHandle,
};

use super::{backend::Backend, routes::Api, *};
use crate::pipeline::{QueryError, SubmitError};

/// A guardian that is told what to answer.
#[derive(Default)]
struct FakeBackend {
    checks: Mutex<Vec<CheckResponse>>,
    /// How long the last question could wait.
    waited: Mutex<Option<Duration>>,
    /// Notified by questions about [`UNDECIDED`].
    asked: Notify,
}

const TXID: TxId = TxId([1; 32]);
/// Never decided.
const UNDECIDED: TxId = TxId([2; 32]);
/// Accepted.
const ACCEPTED: TxId = TxId([3; 32]);
const BUNDLE: &[u8] = b"\0asm, a bundle";

#[async_trait]
impl Backend for FakeBackend {
    fn submit(&self, bytes: &[u8]) -> Result<SubmitResponse, SubmitError> {
        match bytes {
            b"good" => Ok(SubmitResponse {
                txid: TXID,
                status: TransactionStatus::Pending,
            }),
            b"spent" => Err(SubmitError::Refused {
                refusal: Refusal::new("spent-before", "this note was spent before"),
                input: Some(3),
                output: None,
            }),
            b"busy" => Err(SubmitError::Busy { pending: 9 }),
            b"behind" => Err(SubmitError::CatchingUp("it replays".into())),
            b"panic" => panic!("as a test wants it"),
            _ => Err(SubmitError::Malformed(TransactionError::Empty)),
        }
    }

    async fn transaction(&self, txid: &TxId, wait: Duration) -> TransactionResponse {
        *self.waited.lock() = Some(wait);
        if *txid == UNDECIDED {
            self.asked.notify_one();
            tokio::time::sleep(wait).await;
        }
        TransactionResponse {
            txid: *txid,
            status: match *txid {
                ACCEPTED => TransactionStatus::Accepted {
                    session: 1,
                    epoch: 1,
                },
                _ => TransactionStatus::Unknown,
            },
            message: None,
            as_of: (1, 2),
            outcomes: Vec::new(),
        }
    }

    async fn outcomes(
        &self,
        instance: InstanceId,
        out_points: &[OutPoint],
        wait: Duration,
    ) -> Result<Vec<Option<Vec<u8>>>, QueryError> {
        *self.waited.lock() = Some(wait);
        match instance {
            InstanceId(0) => Ok(out_points.iter().map(|_| Some(vec![7])).collect()),
            InstanceId(1) => Ok(out_points
                .iter()
                .map(|at| (at.index > 0).then(|| vec![at.index as u8]))
                .collect()),
            _ => Err(QueryError::UnknownInstance(instance)),
        }
    }

    async fn query(
        &self,
        instance: InstanceId,
        name: &str,
        arguments: &[Argument],
        _: Duration,
    ) -> Result<QueryResponse, QueryError> {
        match (instance, name) {
            (InstanceId(0), "echo") => Ok(QueryResponse::Ready {
                bytes: HexBytes(vec![arguments.len() as u8]),
                json: json!({ "count": arguments.len() }),
            }),
            (InstanceId(0), "panic") => panic!("as a test wants it"),
            (InstanceId(0), "fail") => Err(QueryError::Failed("a secret of the disk".to_owned())),
            (InstanceId(0), _) => Err(QueryError::UnknownQuery {
                name: name.to_owned(),
                known: "echo".to_owned(),
            }),
            _ => Err(QueryError::UnknownInstance(instance)),
        }
    }

    fn status(&self) -> StatusResponse {
        StatusResponse {
            peer: PeerId(0),
            session: 1,
            epoch: 2,
            state_root: Hash32([0; 32]),
            block_height: 3,
            block_hash: Hash32([0; 32]),
            chain_height: None,
            unix_time: 4,
            fee_rate: 5,
            peers: Vec::new(),
            convicted: vec![],
            problems: Vec::new(),
        }
    }

    fn checks(&self) -> Vec<CheckResponse> {
        self.checks.lock().clone()
    }

    fn audit(&self) -> Result<AuditResponse, QueryError> {
        Ok(AuditResponse {
            as_of: (1, 2),
            instances: Vec::new(),
            net_msat: 0,
        })
    }

    fn signed_header(&self, session: Option<u64>) -> Option<SignedHeader> {
        let zero = Hash32([0; 32]);
        let header = SessionHeader {
            session: 1,
            previous: zero,
            epochs: 1,
            items_root: zero,
            state_root: zero,
            module_registry: zero,
            runtime_hash: zero,
            skip_list: zero,
        };
        matches!(session, None | Some(1)).then(|| SignedHeader {
            header,
            signatures: Vec::new(),
        })
    }

    fn block_hash(&self, height: u32) -> Option<Hash32> {
        (height < 10).then_some(Hash32([height as u8; 32]))
    }

    fn chain_output_at(&self, txid: &Hash32, index: u32) -> Option<ChainOutputResponse> {
        (index == 1).then(|| ChainOutputResponse {
            txid: *txid,
            index,
            script: HexBytes(vec![0x51]),
            satoshi: 1,
            height: 2,
        })
    }

    fn chain_outputs(&self, _: &[u8]) -> Vec<ChainOutputResponse> {
        Vec::new()
    }

    fn paused(&self, instance: InstanceId) -> bool {
        instance == InstanceId(1)
    }
}

struct Server {
    backend: Arc<FakeBackend>,
    address: SocketAddr,
    client: Client,
    stop: watch::Sender<bool>,
    serving: JoinHandle<()>,
    metrics: SocketAddr,
    _bundles: tempfile::TempDir,
}

fn api(
    backend: Arc<FakeBackend>,
    bundle_dir: PathBuf,
    requests_per_second: u32,
    ending: watch::Receiver<bool>,
) -> Api {
    let federation = FederationResponse {
        id: modmint_core::FederationId([2; 32]),
        name: "test".to_owned(),
        network: "regtest".to_owned(),
        config: HexBytes(Vec::new()),
        signatures: Vec::new(),
        invite: "modmint1".to_owned(),
        threshold: 3,
        guardians: Vec::new(),
    };
    let module = |instance| ModuleResponse {
        instance: InstanceId(instance),
        kind: "echo".to_owned(),
        version: "1.0.0".to_owned(),
        summary: "Echoes.".to_owned(),
        bundle: bundle_hash(),
        paused: false,
        capabilities: Vec::new(),
        queries: Vec::new(),
    };
    Api::new(routes::Setup {
        backend,
        federation,
        modules: vec![module(0), module(1)],
        bundle_dir,
        requests_per_second,
        ending,
    })
}

fn bundle_hash() -> BundleHash {
    BundleHash(modmint_core::sha256(BUNDLE))
}

impl Server {
    async fn start() -> Self {
        Self::with_limit(100).await
    }

    /// Lets each client ask so often a second.
    async fn with_limit(requests_per_second: u32) -> Self {
        let bundles = tempfile::tempdir().unwrap();
        let bundle = bundles.path().join(format!("{}.wasm", bundle_hash()));
        std::fs::write(bundle, BUNDLE).unwrap();
        std::fs::write(bundles.path().join("secret"), b"secret").unwrap();
        let backend = Arc::new(FakeBackend::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = watch::channel(false);
        let api = api(
            backend.clone(),
            bundles.path().to_owned(),
            requests_per_second,
            stopped.clone(),
        );
        let mut registry = Registry::with_prefix("modmint");
        let router = routes::router(api, Requests::new(&mut registry));
        let for_metrics = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let metrics = for_metrics.local_addr().unwrap();
        tokio::spawn(serve_metrics(for_metrics, registry, stopped.clone()));
        Self {
            metrics,
            backend,
            address,
            client: Client::builder().no_proxy().build().unwrap(),
            stop,
            serving: tokio::spawn(modmint_rest::serve(listener, router, stopped)),
            _bundles: bundles,
        }
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let url = format!("http://{}{path}", self.address);
        self.client.request(method, url)
    }

    async fn get(&self, path: &str) -> Response {
        self.request(Method::GET, path).send().await.unwrap()
    }

    async fn post(&self, path: &str, body: Value) -> Response {
        let request = self.request(Method::POST, path).json(&body);
        request.send().await.unwrap()
    }

    async fn submit(&self, transaction: &[u8]) -> Response {
        let transaction = hex::encode(transaction);
        self.post("/v1/transactions", json!({ "transaction": transaction }))
            .await
    }

    /// The whole answer to a body of which nobody said how long it is.
    async fn chunked(&self, method: &Method, path: &str, length: usize) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let head = "host: x\r\nconnection: close\r\ntransfer-encoding: chunked";
        let chunk = format!("1000\r\n{}\r\n", " ".repeat(0x1000));
        let body = chunk.repeat(length.div_ceil(0x1000)) + "0\r\n\r\n";
        let request = format!("{method} {path} HTTP/1.1\r\n{head}\r\n\r\n{body}");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    /// Every method and path of the description, with the statuses that it
    /// promises.
    async fn operations(&self) -> Vec<(Method, String, Vec<u16>)> {
        let description: Value = self.get("/openapi.json").await.json().await.unwrap();
        let mut found = Vec::new();
        for (path, operations) in description["paths"].as_object().unwrap() {
            for (method, operation) in operations.as_object().unwrap() {
                let statuses = operation["responses"].as_object().unwrap().keys();
                found.push((
                    method.to_uppercase().parse().unwrap(),
                    path.clone(),
                    statuses.map(|status| status.parse().unwrap()).collect(),
                ));
            }
        }
        assert_eq!(found.len(), 18, "{found:?}");
        found
    }
}

/// The problem that an answer holds, and nothing but that.
async fn problem(answer: Response) -> Problem {
    let status = answer.status();
    let kind = answer.headers().get("content-type").cloned();
    let text = answer.text().await.unwrap();
    assert_eq!(kind.unwrap(), "application/problem+json", "{status} {text}");
    let problem: Problem = serde_json::from_str(&text).unwrap();
    assert_eq!(problem.status, status.as_u16());
    assert_eq!(problem.kind, format!("about:blank#{}", problem.code));
    assert!(!problem.detail.is_empty() && !problem.title.is_empty());
    problem
}

async fn code(answer: Response) -> (u16, String) {
    let problem = problem(answer).await;
    (problem.status, problem.code)
}

/// A path with its parameters replaced.
fn fill(path: &str, value: &str) -> String {
    let fill = |segment: &str| match segment.starts_with('{') {
        true => value.to_owned(),
        false => segment.to_owned(),
    };
    let filled: Vec<String> = path.split('/').map(fill).collect();
    filled.join("/")
}

#[tokio::test]
async fn malformed_requests_to_every_route_are_answered_with_the_problems_it_documents() {
    let server = Server::start().await;
    let bodies = [
        "",
        "{",
        "null",
        "[]",
        "{}",
        "{\"transaction\":\"zz\"}",
        "{\"transaction\":\"00\"}",
        "{\"out_points\":[\"00:0\"]}",
        "{\"wait\":-1,\"out_points\":[],\"arguments\":[]}",
        "{\"arguments\":[{\"name\":\"a\",\"value\":{\"number\":-1}}]}",
        "\u{0}",
    ];
    let mut client_errors = 0;
    for (method, path, documented) in server.operations().await {
        for parameter in [
            "0",
            "-1",
            "zz",
            "%00",
            "%ff",
            "..%2fsecret",
            &"a".repeat(64),
        ] {
            for query in ["", "?wait=-1", "?wait=x&wait=y", "?script=zz", "?%ff=%ff"] {
                let path = format!("{}{query}", fill(&path, parameter));
                for (index, body) in bodies.iter().enumerate() {
                    if method == Method::GET && index > 0 {
                        continue;
                    }
                    for kind in ["application/json", "text/plain", ""] {
                        let request = server.request(method.clone(), &path).body(*body);
                        let request = request.header("content-type", kind);
                        let answer = request.send().await.unwrap();
                        let status = answer.status();
                        let what = format!("{method} {path} {body:?} as {kind}: {status}");
                        assert!(documented.contains(&status.as_u16()), "{what}");
                        assert!(!status.is_server_error(), "{what}");
                        if status.is_client_error() {
                            client_errors += 1;
                            problem(answer).await;
                        }
                    }
                }
            }
        }
    }
    assert!(client_errors > 1000, "{client_errors}");
}

#[tokio::test]
async fn oversized_bodies_to_every_route_are_refused_however_they_come() {
    let server = Server::start().await;
    for (method, path, documented) in server.operations().await {
        let path = fill(&path, "0");
        if path == "/livez" || path == "/readyz" {
            assert!(documented.contains(&503));
        } else {
            assert!(documented.contains(&413), "{method} {path}");
        }
        for length in [modmint_rest::MAX_BODY_BYTES + 1, 4 << 20] {
            let request = server.request(method.clone(), &path);
            let request = request.header("content-type", "application/json");
            let answer = request.body(vec![b'['; length]).send().await.unwrap();
            let expected = (413, "body-too-large".to_owned());
            assert_eq!(code(answer).await, expected, "{method} {path}");
        }
        let answer = server
            .chunked(&method, &path, modmint_rest::MAX_BODY_BYTES + 1)
            .await;
        assert!(
            answer.starts_with("HTTP/1.1 413 "),
            "{method} {path}: {answer}"
        );
        assert!(
            answer.contains("body-too-large"),
            "{method} {path}: {answer}"
        );
    }
}

#[tokio::test]
async fn unknown_routes_and_wrong_methods_are_problems_too() {
    let server = Server::start().await;
    for path in [
        "/",
        "/v1",
        "/v1/",
        "/v2/status",
        "/v1/status/",
        "/v1/bundles/",
    ] {
        let expected = (404, "unknown-route".to_owned());
        assert_eq!(code(server.get(path).await).await, expected, "{path}");
    }
    for (method, path, _) in server.operations().await {
        let other = match method {
            Method::GET => Method::POST,
            _ => Method::GET,
        };
        for wrong in [other, Method::DELETE, Method::PATCH] {
            let answer = server.request(wrong.clone(), &fill(&path, "0"));
            let answer = answer.send().await.unwrap();
            let allowed = answer.headers().get("allow").unwrap().clone();
            let allowed = allowed.to_str().unwrap();
            assert!(allowed.contains(method.as_str()), "{path}: {allowed}");
            let expected = (405, "wrong-method".to_owned());
            assert_eq!(code(answer).await, expected, "{wrong} {path}");
        }
    }
}

#[tokio::test]
async fn what_is_asked_for_is_answered() {
    let server = Server::start().await;
    let good = server.submit(b"good").await;
    assert_eq!(good.status(), StatusCode::ACCEPTED);
    let good: Value = good.json().await.unwrap();
    assert_eq!(good, json!({ "txid": TXID, "status": "pending" }));

    let modules: Vec<ModuleResponse> = server.get("/v1/modules").await.json().await.unwrap();
    let paused: Vec<_> = modules.iter().map(|module| module.paused).collect();
    assert_eq!(paused, [false, true]);

    let body = json!({ "arguments": [{ "name": "a", "value": { "text": "b" } }] });
    let answer = server.post("/v1/modules/0/queries/echo", body).await;
    let answer: Value = answer.json().await.unwrap();
    assert_eq!(answer["json"]["count"], 1);

    let body = json!({ "out_points": [format!("{TXID}:0"), format!("{TXID}:1")] });
    let answer = server.post("/v1/modules/0/outcomes", body).await;
    let answer: Value = answer.json().await.unwrap();
    assert_eq!(answer, json!({ "outcomes": ["07", "07"] }));

    for path in ["/v1/sessions/latest", "/v1/sessions/1"] {
        let header: SignedHeader = server.get(path).await.json().await.unwrap();
        assert_eq!(header.header.session, 1);
    }
    let place = format!("/v1/chain-outputs?out_point={}:1", Hash32([8; 32]));
    let outputs: Vec<ChainOutputResponse> = server.get(&place).await.json().await.unwrap();
    assert_eq!(outputs[0].txid, Hash32([8; 32]));
    let hash: Hash32 = server.get("/v1/block-hashes/4").await.json().await.unwrap();
    assert_eq!(hash, Hash32([4; 32]));
}

#[tokio::test]
async fn what_is_not_there_has_a_code_of_its_own() {
    let server = Server::start().await;
    let unknown = "f".repeat(64);
    for (path, expected) in [
        (format!("/v1/bundles/{unknown}"), "unknown-bundle"),
        ("/v1/sessions/7".to_owned(), "unknown-session"),
        ("/v1/block-hashes/70".to_owned(), "unknown-block"),
    ] {
        assert_eq!(
            code(server.get(&path).await).await,
            (404, expected.to_owned())
        );
    }
    for (path, expected) in [
        ("/v1/modules/0/queries/none", "unknown-query"),
        ("/v1/modules/9/queries/echo", "unknown-instance"),
    ] {
        let answer = server.post(path, json!({})).await;
        assert_eq!(code(answer).await, (404, expected.to_owned()));
    }
    let answer = server.get("/v1/chain-outputs").await;
    assert_eq!(code(answer).await, (400, "malformed-query".to_owned()));
}

#[tokio::test]
async fn a_refusal_names_its_code_and_the_input() {
    let server = Server::start().await;
    let refusal = problem(server.submit(b"spent").await).await;
    assert_eq!(
        (refusal.status, refusal.input, refusal.output),
        (422, Some(3), None)
    );
    assert_eq!(refusal.code, "spent-before");
    assert_eq!(refusal.detail, "this note was spent before");

    for (what, name) in [("busy", "busy"), ("behind", "catching-up")] {
        let later = server.submit(what.as_bytes()).await;
        assert_eq!(later.headers().get("retry-after").unwrap(), "1");
        assert_eq!(code(later).await, (503, name.to_owned()));
    }
}

#[tokio::test]
async fn a_panic_is_a_problem_of_that_request_alone_and_tells_no_secrets() {
    let server = Server::start().await;
    let internal = (500, "internal".to_owned());
    assert_eq!(code(server.submit(b"panic").await).await, internal);
    let answer = server.post("/v1/modules/0/queries/panic", json!({})).await;
    assert_eq!(code(answer).await, internal);
    let failed = server.post("/v1/modules/0/queries/fail", json!({})).await;
    let failed = problem(failed).await;
    assert_eq!(failed.code, "internal");
    assert!(!failed.detail.contains("secret"), "{}", failed.detail);
    assert_eq!(server.get("/livez").await.status(), StatusCode::OK);
}

#[tokio::test]
async fn waits_are_capped() {
    let server = Server::start().await;
    for (given, expected) in [("0", 0), ("5", 5), ("4294967295", 60)] {
        let path = format!("/v1/transactions/{TXID}?wait={given}");
        assert_eq!(server.get(&path).await.status(), StatusCode::OK);
        let waited = *server.backend.waited.lock();
        assert_eq!(waited, Some(Duration::from_secs(expected)));
    }
    let body = json!({ "out_points": [], "wait": 1000 });
    server.post("/v1/modules/0/outcomes", body).await;
    let waited = *server.backend.waited.lock();
    assert_eq!(waited, Some(Duration::from_secs(60)));
}

#[tokio::test]
async fn with_a_transactions_fate_come_the_outcomes_of_its_outputs() {
    let server = Server::start().await;
    let ask = async |txid: TxId, outputs: &str| {
        let answer = server
            .get(&format!("/v1/transactions/{txid}{outputs}"))
            .await;
        assert_eq!(answer.status(), StatusCode::OK, "{outputs}");
        let answer: Value = answer.json().await.expect("JSON");
        answer.get("outcomes").cloned()
    };
    assert_eq!(ask(ACCEPTED, "").await, None);
    assert_eq!(ask(TXID, "?outputs=0").await, None, "not decided");
    let all = ask(ACCEPTED, "?outputs=1,0,1,1").await;
    assert_eq!(all, Some(json!([null, "07", "02", "03"])));
    for (outputs, expected) in [
        ("2", (404, "unknown-instance")),
        ("0,x", (400, "malformed-query")),
        ("0,", (400, "malformed-query")),
        ("", (400, "malformed-query")),
        ("65536", (400, "malformed-query")),
    ] {
        let path = format!("/v1/transactions/{ACCEPTED}?outputs={outputs}");
        let (status, name) = code(server.get(&path).await).await;
        assert_eq!((status, name.as_str()), expected, "{outputs}");
    }
}

#[tokio::test]
async fn no_more_than_so_many_wait_at_a_time() {
    let (_stop, stopped) = watch::channel(false);
    let api = api(Arc::default(), PathBuf::new(), 0, stopped);
    let mut places = Vec::new();
    let refused = loop {
        match api.patience(1) {
            Ok(place) => places.push(place),
            Err(refused) => break refused,
        }
        assert!(places.len() < 10_000);
    };
    assert!(format!("{refused:?}").contains("too-many-waiting"));
    assert!(api.patience(0).is_ok(), "who does not wait is served");
    places.pop();
    assert!(api.patience(1).is_ok());
}

#[tokio::test]
async fn a_bundle_is_served_once_and_for_ever() {
    let server = Server::start().await;
    let path = format!("/v1/bundles/{}", bundle_hash());
    let answer = server.get(&path).await;
    let headers = answer.headers().clone();
    assert_eq!(headers["content-type"], "application/wasm");
    assert!(
        headers["cache-control"]
            .to_str()
            .unwrap()
            .contains("immutable")
    );
    assert_eq!(answer.bytes().await.unwrap(), BUNDLE);

    let again = server.request(Method::GET, &path);
    let again = again.header("if-none-match", &headers["etag"]);
    let again = again.send().await.unwrap();
    assert_eq!(again.status(), StatusCode::NOT_MODIFIED);
    let other = server
        .request(Method::GET, &path)
        .header("if-none-match", "\"0\"");
    assert_eq!(other.send().await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn readiness_names_its_checks_and_says_why_not() {
    let server = Server::start().await;
    let check = |name: &str, required, problem: Option<&str>| CheckResponse {
        name: name.to_owned(),
        ok: problem.is_none(),
        required,
        problems: problem.into_iter().map(str::to_owned).collect(),
    };
    let checks = [
        check("peers", true, None),
        check("bitcoind", false, Some("away")),
    ];
    *server.backend.checks.lock() = checks.to_vec();
    let ready = server.get("/readyz").await;
    assert_eq!(ready.status(), StatusCode::OK);
    let health: HealthResponse = ready.json().await.unwrap();
    assert_eq!((health.status.as_str(), health.problems.len()), ("ok", 0));
    assert_eq!(health.checks, checks);

    *server.backend.checks.lock() = vec![check("peers", true, Some("alone"))];
    let unready = server.get("/readyz").await;
    assert_eq!(unready.status(), StatusCode::SERVICE_UNAVAILABLE);
    let health: HealthResponse = unready.json().await.unwrap();
    assert_eq!(
        (health.status.as_str(), &health.problems[..]),
        ("not-ready", &["alone".to_owned()][..])
    );
    // It lives, all the same.
    assert_eq!(server.get("/livez").await.status(), StatusCode::OK);
}

#[tokio::test]
async fn who_asks_too_fast_is_told_to_wait_and_nobody_else_is() {
    let server = Server::with_limit(1).await;
    let info: InfoResponse = server.get("/v1/info").await.json().await.unwrap();
    assert_eq!(info.limits.requests_per_second, 1);
    let ask = async |client: &str, path: &str| {
        let request = server.request(Method::GET, path);
        let request = request.header("x-forwarded-for", client);
        request.send().await.unwrap()
    };
    for _ in 0..info.limits.requests_at_once {
        let answer = ask("192.0.2.1", "/v1/federation").await;
        assert_eq!(answer.status(), StatusCode::OK);
    }
    // A machine may be slow enough for one or two more.
    let refused = loop {
        let answer = ask("192.0.2.1", "/v1/federation").await;
        if answer.status() != StatusCode::OK {
            break answer;
        }
    };
    let wait = refused.headers()["retry-after"].to_str().unwrap();
    assert_eq!(wait, "1");
    assert!(refused.headers().contains_key("x-request-id"));
    let expected = (429, "too-many-requests".to_owned());
    assert_eq!(code(refused).await, expected);
    for (client, path) in [
        ("192.0.2.1", "/livez"),
        ("192.0.2.1", "/readyz"),
        ("192.0.2.2", "/v1/federation"),
    ] {
        assert_eq!(ask(client, path).await.status(), StatusCode::OK, "{path}");
    }
}

#[tokio::test]
async fn the_limits_that_are_announced_are_those_that_hold() {
    let server = Server::start().await;
    let info: Value = server.get("/v1/info").await.json().await.unwrap();
    let description: Value = server.get("/openapi.json").await.json().await.unwrap();
    assert_eq!(description["x-limits"], info["limits"]);
    let most = info["limits"]["body_bytes"].as_u64().unwrap() as usize;
    for (length, status) in [(most, 400), (most + 1, 413)] {
        let request = server.request(Method::POST, "/v1/transactions");
        let request = request.header("content-type", "application/json");
        let answer = request.body(vec![b'['; length]).send().await.unwrap();
        assert_eq!(answer.status(), status);
    }
}

#[tokio::test]
async fn the_page_for_people_shows_every_route_and_runs_nothing() {
    let server = Server::start().await;
    let answer = server.get("/docs").await;
    assert_eq!(answer.status(), StatusCode::OK);
    let policy = &answer.headers()["content-security-policy"];
    assert!(policy.to_str().unwrap().starts_with("default-src 'none'"));
    let page = answer.text().await.unwrap();
    for (method, path, statuses) in server.operations().await {
        let heading = format!("<h3><code>{method} {path}</code></h3>");
        let section = page.split(&heading).nth(1).expect(&heading);
        let section = section.split("</section>").next().unwrap();
        for status in statuses {
            assert!(section.contains(&format!("<td>{status}</td>")), "{path}");
        }
    }
    // Every link within the page leads somewhere, and none leads elsewhere.
    for link in page.split("href=\"").skip(1) {
        let target = link.split('"').next().unwrap();
        match target.strip_prefix('#') {
            Some(id) => assert!(page.contains(&format!("id=\"{id}\"")), "{target}"),
            None => assert_eq!(target, "/openapi.json"),
        }
    }
    assert!(!page.contains("<script") && !page.contains("src="));
}

#[tokio::test]
async fn requests_are_counted_by_route_and_status_on_a_listener_of_their_own() {
    let server = Server::start().await;
    for _ in 0..3 {
        server.get("/livez").await;
    }
    server.get(&format!("/v1/bundles/{}", "f".repeat(64))).await;
    server.get("/nowhere").await;
    let made_up = Method::from_bytes(b"MADEUP").unwrap();
    server.request(made_up, "/livez").send().await.unwrap();

    let url = format!("http://{}/metrics", server.metrics);
    let answer = server.client.get(url).send().await.unwrap();
    let kind = answer.headers()["content-type"].to_str().unwrap();
    assert!(kind.starts_with("application/openmetrics-text"), "{kind}");
    let text = answer.text().await.unwrap();
    for (method, route, status, count) in [
        ("GET", "/livez", 200, 3),
        ("GET", "/v1/bundles/{hash}", 404, 1),
        ("GET", "unknown", 404, 1),
        ("other", "/livez", 405, 1),
    ] {
        let labels = format!("method=\"{method}\",route=\"{route}\",status=\"{status}\"");
        let line = format!("modmint_http_requests_total{{{labels}}} {count}\n");
        assert!(text.contains(&line), "{line} in {text}");
    }
    let line = "modmint_http_request_seconds_count{route=\"/livez\"} 4\n";
    assert!(text.contains(line), "{text}");
    assert!(text.contains("modmint_http_requests_under_way 0\n"));
    // The API itself does not show them.
    let elsewhere = server.get("/metrics").await;
    assert_eq!(elsewhere.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn every_line_of_a_request_bears_its_id() {
    let lines = Lines::default();
    let writer = lines.clone();
    let logs = tracing_subscriber::fmt()
        .json()
        .with_max_level(tracing::Level::DEBUG)
        .with_writer(move || writer.clone())
        .finish();
    let _logs = tracing::subscriber::set_default(logs);
    let server = Server::start().await;
    for id in ["zeroth-0", "first-1", "second-2"] {
        let request = server.request(Method::POST, "/v1/modules/0/queries/fail");
        let request = request.header("x-request-id", id).json(&json!({}));
        request.send().await.unwrap();
        // What another test's thread, where nobody listens, reached first at this very
        // moment is taken for what nobody wants.
        tracing::callsite::rebuild_interest_cache();
    }
    let text = String::from_utf8(lines.0.lock().clone()).unwrap();
    let logged: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    for id in ["first-1", "second-2"] {
        let of_request = logged.iter().filter(|line| line["span"]["id"] == id);
        let messages: Vec<_> = of_request.map(|line| &line["fields"]["message"]).collect();
        assert_eq!(messages.len(), 2, "{text}");
        assert!(messages[0].as_str().unwrap().contains("secret of the disk"));
        assert_eq!(messages[1], "answered");
    }
}

/// What is logged.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        std::io::Write::write(&mut *self.0.lock(), bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_request_keeps_its_id_if_that_is_harmless() {
    let server = Server::start().await;
    let own = server.get("/livez").await.headers()["x-request-id"].clone();
    assert_eq!(own.len(), 16);
    for (given, kept) in [("abc-123", true), ("a b", false), (&"a".repeat(65), false)] {
        let request = server.request(Method::GET, "/nowhere");
        let answer = request.header("x-request-id", given).send().await.unwrap();
        assert_eq!(answer.headers()["x-request-id"] == given, kept, "{given}");
    }
}

#[tokio::test]
async fn hostile_bytes_are_hung_up_on_and_others_are_served() {
    let server = Server::start().await;
    let head = format!("GET /livez HTTP/1.1\r\nx: {}\r\n\r\n", "a".repeat(1 << 20));
    for bytes in [
        b"\x16\x03\x01".to_vec(),
        vec![0; 1 << 16],
        head.into_bytes(),
    ] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let _ = stream.write_all(&bytes).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let ended = stream.read_to_end(&mut answer);
        // Hung up on, with or without a word.
        let ended = tokio::time::timeout(Duration::from_secs(10), ended).await;
        assert!(ended.is_ok());
        assert!(!answer.starts_with(b"HTTP/1.1 200"));
    }
    assert_eq!(server.get("/livez").await.status(), StatusCode::OK);
}

#[tokio::test]
async fn serving_ends_when_it_is_told_to_though_connections_are_open() {
    let server = Server::start().await;
    let _idle = TcpStream::connect(server.address).await.unwrap();
    assert_eq!(server.get("/livez").await.status(), StatusCode::OK);
    server.stop.send(true).unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(10), server.serving).await;
    ended.expect("it ends").unwrap();
    assert!(TcpStream::connect(server.address).await.is_err());
}

#[tokio::test]
async fn who_waits_when_the_guardian_ends_is_answered() {
    let server = Server::start().await;
    let path = format!("/v1/transactions/{UNDECIDED}?wait=60");
    let waiting = tokio::spawn(server.request(Method::GET, &path).send());
    server.backend.asked.notified().await;
    server.stop.send(true).unwrap();
    // Sooner than the connection would be broken off.
    let answer = waiting.await.unwrap().unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    let status: Value = answer.json().await.unwrap();
    assert_eq!(status["status"], "unknown");
    assert_eq!(*server.backend.waited.lock(), Some(Duration::ZERO));
    let ended = tokio::time::timeout(Duration::from_secs(10), server.serving).await;
    ended.expect("it ends").unwrap();
    assert!(TcpStream::connect(server.address).await.is_err());
}
