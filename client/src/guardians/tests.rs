//! Guardians that lie, are silent, slow or gone.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use modmint_core::{
    BundleHash, Hash32, InstanceId, OutPoint, PeerId, PublicKey, Refusal, TxId,
    config::{BaseFee, BlockId, FederationConfig, HexBytes, Network, PeerConfig, SessionLimits},
    consensus::TransactionStatus,
    rest::{
        OutcomesRequest, OutcomesResponse, Problem, QueryResponse, StatusResponse, SubmitRequest,
        SubmitResponse, TransactionResponse,
    },
};
use modmint_runtime::wallet::{Agreement, OutcomeRequest, QueryRequest};
use parking_lot::Mutex;
use tokio::{net::TcpSocket, sync::watch};

use super::{Contributions, Guardians, Opinions};
use crate::operation::Fate;

const TXID: TxId = TxId([9; 32]);
const EXPIRES: u64 = 2_000_000_000_000;
const MINT: InstanceId = InstanceId(0);

/// What a guardian does and has seen.
#[derive(Clone)]
pub(crate) struct Fake {
    /// Takes connections and says nothing, as a machine that hangs.
    pub(crate) silent: bool,
    pub(crate) txid: TxId,
    height: u32,
    time: u64,
    pub(crate) status: TransactionStatus,
    pub(crate) refuses: Option<&'static str>,
    pub(crate) outcome: Option<Vec<u8>>,
    /// What comes with a transaction's fate.
    pub(crate) contributes: Vec<Option<HexBytes>>,
    answer: Result<Option<Vec<u8>>, &'static str>,
    pub(crate) submitted: Vec<Instant>,
    asked: usize,
}

impl Default for Fake {
    fn default() -> Self {
        Self {
            silent: false,
            txid: TXID,
            height: 100,
            time: 1_700_000_000,
            status: TransactionStatus::Unknown,
            refuses: None,
            outcome: None,
            contributes: Vec::new(),
            answer: Ok(Some(b"honest".to_vec())),
            submitted: Vec::new(),
            asked: 0,
        }
    }
}

pub(crate) type Shared = Arc<Mutex<Fake>>;

/// What the guardian is like now; never, if it is silent.
async fn now(fake: &Shared) -> Fake {
    fake.lock().asked += 1;
    let copy = fake.lock().clone();
    if copy.silent {
        std::future::pending::<()>().await;
    }
    copy
}

async fn status(State(fake): State<Shared>) -> Json<StatusResponse> {
    let fake = now(&fake).await;
    Json(StatusResponse {
        peer: PeerId(0),
        session: 1,
        epoch: 1,
        state_root: Hash32([0; 32]),
        block_height: fake.height,
        block_hash: Hash32([fake.height as u8; 32]),
        chain_height: None,
        unix_time: fake.time,
        fee_rate: 1000,
        peers: vec![],
        convicted: vec![],
        problems: vec![],
    })
}

async fn submit(State(fake): State<Shared>, Json(_): Json<SubmitRequest>) -> Response {
    fake.lock().submitted.push(Instant::now());
    let fake = now(&fake).await;
    match fake.refuses {
        Some(code) => (
            StatusCode::CONFLICT,
            Json(Problem {
                kind: format!("about:blank#{code}"),
                title: "Conflict".into(),
                status: 409,
                detail: "no".into(),
                code: code.into(),
                input: None,
                output: None,
            }),
        )
            .into_response(),
        None => (
            StatusCode::ACCEPTED,
            Json(SubmitResponse {
                txid: fake.txid,
                status: TransactionStatus::Pending,
            }),
        )
            .into_response(),
    }
}

async fn transaction(State(fake): State<Shared>) -> Json<TransactionResponse> {
    let fake = now(&fake).await;
    Json(TransactionResponse {
        txid: fake.txid,
        status: fake.status,
        message: None,
        as_of: (1, 1),
        outcomes: fake.contributes,
    })
}

async fn outcomes(
    State(fake): State<Shared>,
    Json(request): Json<OutcomesRequest>,
) -> Json<OutcomesResponse> {
    let fake = now(&fake).await;
    let outcome = fake.outcome.map(HexBytes);
    Json(OutcomesResponse {
        outcomes: vec![outcome; request.out_points.len()],
    })
}

async fn query(
    State(fake): State<Shared>,
    Path(_): Path<(u16, String)>,
    Json(_): Json<serde_json::Value>,
) -> Json<QueryResponse> {
    let fake = now(&fake).await;
    Json(match fake.answer {
        Ok(Some(bytes)) => QueryResponse::Ready {
            bytes: HexBytes(bytes),
            json: serde_json::Value::Null,
        },
        Ok(None) => QueryResponse::Waiting,
        Err(code) => QueryResponse::Refused(Refusal::new(code, "no")),
    })
}

/// Four guardians; whose server is none is not there at all.
pub(crate) struct Set {
    pub(crate) fakes: Vec<Shared>,
    pub(crate) peers: Vec<PeerConfig>,
    /// The places of those that are not there. Bound and not listened on, a port
    /// refuses connections and is given to no other test's server.
    _vacant: Vec<TcpSocket>,
    guardians: Guardians,
}

impl Set {
    /// Waits until some guardian has seen this.
    pub(crate) async fn until(&self, seen: impl Fn(&Fake) -> bool) {
        soon(async {
            while !self.fakes.iter().any(|fake| seen(&fake.lock())) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }
}

pub(crate) async fn guardians(fakes: [Option<Fake>; 4]) -> Set {
    let mut peers = Vec::new();
    let mut shared = Vec::new();
    let mut vacant = Vec::new();
    for (index, fake) in fakes.into_iter().enumerate() {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = socket.local_addr().unwrap();
        peers.push(PeerConfig {
            name: format!("guardian {index}"),
            api_url: format!("http://{address}"),
            p2p_address: String::new(),
            certificate: vec![],
            consensus_key: PublicKey([2; 33]),
        });
        let Some(fake) = fake else {
            shared.push(Shared::default());
            vacant.push(socket);
            continue;
        };
        let fake = Arc::new(Mutex::new(fake));
        shared.push(fake.clone());
        let router = Router::new()
            .route("/v1/status", get(status))
            .route("/v1/transactions", post(submit))
            .route("/v1/transactions/{txid}", get(transaction))
            .route("/v1/modules/{instance}/outcomes", post(outcomes))
            .route("/v1/modules/{instance}/queries/{name}", post(query))
            .with_state(fake);
        let listener = socket.listen(64).unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
    }
    let config = FederationConfig {
        name: "fakes".into(),
        network: Network::Regtest,
        peers: peers.clone(),
        chain_start: BlockId {
            height: 0,
            hash: Hash32([0; 32]),
        },
        finality_depth: 1,
        session: SessionLimits::default(),
        base_fee: BaseFee::default(),
        instances: vec![],
    };
    Set {
        fakes: shared,
        peers,
        _vacant: vacant,
        guardians: Guardians::new(&config).unwrap(),
    }
}

pub(crate) fn honest() -> Option<Fake> {
    Some(Fake::default())
}

fn fake(change: impl FnOnce(&mut Fake)) -> Option<Fake> {
    let mut fake = Fake::default();
    change(&mut fake);
    Some(fake)
}

pub(crate) fn silent() -> Option<Fake> {
    fake(|fake| fake.silent = true)
}

pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), what)
        .await
        .expect("within twenty seconds")
}

fn price(agreement: Agreement) -> QueryRequest {
    QueryRequest {
        name: "price".into(),
        arguments: vec![],
        agreement,
    }
}

/// All deliveries of a query: who answered, and what.
async fn ask(set: &Set, agreement: Agreement) -> Vec<Vec<(u16, Result<Vec<u8>, String>)>> {
    let deliveries = Arc::new(Mutex::new(Vec::new()));
    let seen = deliveries.clone();
    let request = price(agreement);
    let asking = set.guardians.query(MINT, &request, |answers| {
        let answers = answers
            .into_iter()
            .map(|answer| (answer.peer.0, answer.answer.map_err(|e| e.code)))
            .collect();
        seen.lock().push(answers);
        std::future::ready(true)
    });
    soon(asking).await;
    deliveries.lock().clone()
}

#[tokio::test]
async fn one_liar_neither_hurries_nor_holds_back_what_is_agreed() {
    for lie in [(0, 0), (u32::MAX, u64::MAX)] {
        let liar = fake(|fake| (fake.height, fake.time) = lie);
        let late = fake(|fake| (fake.height, fake.time) = (99, 1_699_999_940));
        let set = guardians([honest(), liar, honest(), late]).await;
        for _ in 0..8 {
            let view = soon(set.guardians.view()).await.unwrap();
            assert!((99..=100).contains(&view.block_height), "{view:?}");
            assert!((1_699_999_940..=1_700_000_000).contains(&view.unix_time));
        }
    }
}

#[tokio::test]
async fn a_guardian_that_is_silent_or_gone_costs_no_time() {
    for missing in [silent(), None] {
        let set = guardians([honest(), missing, honest(), honest()]).await;
        let begun = Instant::now();
        soon(set.guardians.view()).await.unwrap();
        let answers = ask(&set, Agreement::Same).await;
        assert_eq!(answers[0][0].1, Ok(b"honest".to_vec()));
        ask(&set, Agreement::Any).await;
        assert!(
            begun.elapsed() < Duration::from_secs(2),
            "{:?}",
            begun.elapsed()
        );
    }
}

#[tokio::test]
async fn a_guardian_that_is_gone_is_asked_less_and_less() {
    let set = guardians([honest(), None, honest(), honest()]).await;
    soon(set.guardians.view()).await.unwrap();
    let gone = &set.guardians.all()[1];
    // Its connection is refused at once or before the next look.
    while !gone.health.is_bad() {
        soon(set.guardians.view()).await.unwrap();
    }
    assert!(gone.health.pause() > Duration::ZERO);
    let order = set.guardians.by_health();
    assert_eq!(order.last().unwrap().peer, PeerId(1));
}

#[tokio::test]
async fn a_probe_knows_the_health_of_all_whoever_is_silent() {
    let set = guardians([honest(), silent(), None, honest()]).await;
    soon(set.guardians.probe(Duration::from_millis(500))).await;
    let bad: Vec<_> = set
        .guardians
        .all()
        .iter()
        .map(|guardian| guardian.health.is_bad())
        .collect();
    assert_eq!(bad, [false, true, true, false]);
}

#[tokio::test]
async fn too_few_guardians_are_named() {
    let set = guardians([honest(), None, honest(), None]).await;
    let error = set.guardians.view().await.unwrap_err();
    assert_eq!(error.code(), "federation-unreachable");
    let text = error.to_string();
    assert!(text.contains("2 of 4") && text.contains("guardian 1") && text.contains("guardian 3"));
}

#[tokio::test]
async fn the_same_answer_needs_a_threshold_and_outvotes_a_liar() {
    let liar = fake(|fake| fake.answer = Ok(Some(b"lie".to_vec())));
    let set = guardians([liar, honest(), honest(), honest()]).await;
    let deliveries = ask(&set, Agreement::Same).await;
    assert_eq!(deliveries.len(), 1);
    assert_eq!(deliveries[0].len(), 1);
    assert_eq!(deliveries[0][0].1, Ok(b"honest".to_vec()));
}

#[tokio::test]
async fn guardians_that_differ_are_asked_again_until_they_agree() {
    let behind = || fake(|fake| fake.answer = Ok(Some(b"older".to_vec())));
    let set = guardians([behind(), behind(), honest(), honest()]).await;
    let late = set.fakes[0].clone();
    let (deliveries, ()) = tokio::join!(ask(&set, Agreement::Same), async {
        // It catches up once it has been asked.
        while late.lock().asked == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        late.lock().answer = Ok(Some(b"honest".to_vec()));
    });
    assert_eq!(deliveries[0][0].1, Ok(b"honest".to_vec()));
}

#[tokio::test]
async fn the_same_refusal_is_an_answer_too() {
    let refuses = || fake(|fake| fake.answer = Err("sold-out"));
    let set = guardians([refuses(), refuses(), honest(), refuses()]).await;
    let deliveries = ask(&set, Agreement::Same).await;
    assert_eq!(deliveries[0][0].1, Err("sold-out".to_owned()));
}

#[tokio::test]
async fn each_answer_is_delivered_from_the_threshold_on_with_all_so_far() {
    let set = guardians([honest(), honest(), honest(), honest()]).await;
    let deliveries = ask(&set, Agreement::Each).await;
    let sizes: Vec<_> = deliveries.iter().map(Vec::len).collect();
    assert_eq!(sizes, [3, 4]);
}

#[tokio::test]
async fn any_answer_is_taken_before_a_refusal() {
    let refuses = || fake(|fake| fake.answer = Err("no-idea"));
    let set = guardians([refuses(), refuses(), honest(), silent()]).await;
    let deliveries = ask(&set, Agreement::Any).await;
    assert_eq!(deliveries, [[(2, Ok(b"honest".to_vec()))]]);
    let set = guardians([refuses(), refuses(), refuses(), silent()]).await;
    let deliveries = ask(&set, Agreement::Any).await;
    assert_eq!(deliveries[0][0].1, Err("no-idea".to_owned()));
}

#[tokio::test]
async fn outcomes_are_waited_for() {
    let there = || fake(|fake| fake.outcome = Some(b"share".to_vec()));
    let set = guardians([there(), there(), honest(), honest()]).await;
    let late = set.fakes[3].clone();
    let request = OutcomeRequest {
        out_points: vec![OutPoint {
            txid: TXID,
            index: 1,
        }],
        agreement: Agreement::Each,
    };
    let mut deliveries = Vec::new();
    let asking = async {
        tokio::select! {
            _ = set.guardians.outcomes(MINT, &request, |outcomes| {
                deliveries.push(outcomes);
                std::future::ready(true)
            }) => {}
            () = async {
                while late.lock().asked < 2 {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                late.lock().outcome = Some(b"late".to_vec());
                let asked = late.lock().asked;
                while late.lock().asked == asked {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                // The answer is on its way; nothing else is to come.
                tokio::time::sleep(Duration::from_millis(200)).await;
            } => {}
        }
    };
    soon(asking).await;
    assert_eq!(deliveries.len(), 1);
    let peers: Vec<_> = deliveries[0].iter().map(|outcome| outcome.peer.0).collect();
    assert_eq!(peers, [0, 1, 3]);
}

pub(crate) const ACCEPTED: TransactionStatus = TransactionStatus::Accepted {
    session: 3,
    epoch: 5,
};

fn refused() -> TransactionStatus {
    TransactionStatus::Rejected {
        session: 3,
        epoch: 5,
        code: "spent".into(),
        input: Some(0),
        output: None,
    }
}

async fn fate(set: &Set, expires: u64) -> Fate {
    decided(set, expires).await.0
}

async fn decided(set: &Set, expires: u64) -> (Fate, Contributions) {
    let (opinions, _told) = watch::channel(Opinions::default());
    let decided = set
        .guardians
        .submit(TXID, b"transaction", expires, &[MINT], &opinions);
    soon(decided).await
}

/// Decides for all once `enough` guardians have been given the transaction.
async fn decide(set: &Set, enough: usize, status: TransactionStatus) -> Vec<Instant> {
    loop {
        let mut given: Vec<_> = set
            .fakes
            .iter()
            .filter_map(|fake| fake.lock().submitted.first().copied())
            .collect();
        if given.len() >= enough {
            for fake in &set.fakes {
                fake.lock().status = status.clone();
            }
            given.sort();
            return given;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_transaction_is_given_to_one_guardian_and_its_decision_seen_at_once() {
    let set = guardians([honest(), honest(), honest(), honest()]).await;
    let begun = Instant::now();
    let (fate, given) = tokio::join!(fate(&set, EXPIRES), decide(&set, 1, ACCEPTED));
    assert_eq!(fate, Fate::Accepted);
    assert_eq!(given.len(), 1);
    assert!(
        begun.elapsed() < Duration::from_millis(900),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test]
async fn with_its_fate_comes_what_guardians_contribute_to_its_outcomes() {
    let share = |peer: u8| fake(|fake| fake.contributes = vec![Some(HexBytes(vec![peer]))]);
    // One says that there are two outputs.
    let odd = fake(|fake| fake.contributes = vec![None, None]);
    let set = guardians([share(0), share(1), odd, share(3)]).await;
    let (decided, _) = tokio::join!(decided(&set, EXPIRES), decide(&set, 1, ACCEPTED));
    let (fate, Contributions { instances, by }) = decided;
    assert_eq!((fate, instances), (Fate::Accepted, vec![MINT]));
    // Two agree about the fate; no more than three are asked at first, one of them odd.
    assert!((2..=3).contains(&by.len()), "{by:?}");
    for (peer, given) in by {
        assert_eq!(given, [Some(HexBytes(vec![peer.0 as u8]))]);
    }
}

#[tokio::test]
async fn who_has_no_contribution_holds_up_nobody() {
    let share = |peer: u8| fake(|fake| fake.contributes = vec![Some(HexBytes(vec![peer]))]);
    let set = guardians([share(0), share(1), honest(), silent()]).await;
    let begun = Instant::now();
    let (decided, _) = tokio::join!(decided(&set, EXPIRES), decide(&set, 1, ACCEPTED));
    assert_eq!(decided.0, Fate::Accepted);
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test]
async fn undecided_for_a_second_it_is_given_to_f_more() {
    let set = guardians([honest(), honest(), honest(), honest()]).await;
    let (fate, given) = tokio::join!(fate(&set, EXPIRES), decide(&set, 2, ACCEPTED));
    assert_eq!(fate, Fate::Accepted);
    assert_eq!(given.len(), 2);
    let between = given[1] - given[0];
    assert!(between > Duration::from_millis(800), "{between:?}");
    assert!(between < Duration::from_secs(3), "{between:?}");
}

#[tokio::test]
async fn a_guardian_that_refuses_it_is_followed_by_the_next_at_once() {
    let refuses = || fake(|fake| fake.refuses = Some("paused"));
    let set = guardians([refuses(), refuses(), refuses(), honest()]).await;
    let begun = Instant::now();
    let taken = set.fakes[3].clone();
    let (fate, ()) = tokio::join!(fate(&set, EXPIRES), async {
        while taken.lock().submitted.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        decide(&set, 1, ACCEPTED).await;
    });
    assert_eq!(fate, Fate::Accepted);
    assert!(
        begun.elapsed() < Duration::from_secs(1),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test]
async fn one_liar_decides_nothing() {
    let liar = fake(|fake| fake.status = ACCEPTED);
    let set = guardians([liar, honest(), honest(), honest()]).await;
    let (fate, ()) = tokio::join!(fate(&set, EXPIRES), async {
        decide(&set, 2, TransactionStatus::Pending).await;
        set.fakes[0].lock().status = ACCEPTED;
        for fake in &set.fakes[1..] {
            fake.lock().status = refused();
        }
    });
    let Fate::Rejected { refusal, input, .. } = fate else {
        panic!("a liar was believed");
    };
    assert_eq!((refusal.code.as_str(), input), ("spent", Some(0)));
}

#[tokio::test]
async fn refusals_at_submission_are_opinions_and_not_final() {
    let refuses = |code| fake(|fake| fake.refuses = Some(code));
    let set = guardians([refuses("spent"), refuses("spent"), refuses("odd"), silent()]).await;
    let (opinions, mut told) = watch::channel(Opinions::default());
    let submitting = set
        .guardians
        .submit(TXID, b"transaction", EXPIRES, &[], &opinions);
    let opinion = async {
        told.wait_for(|opinions| opinions.refused_by(3).is_some())
            .await
            .unwrap()
            .refused_by(3)
            .unwrap()
            .refusal
            .code
            .clone()
    };
    let code = soon(async {
        tokio::select! {
            fate = submitting => panic!("decided: {fate:?}"),
            code = opinion => code,
        }
    })
    .await;
    assert_eq!(code, "spent");
}

#[tokio::test]
async fn past_its_expiry_an_undecided_transaction_is_dead_once_a_threshold_says_so() {
    const EARLY: u64 = 1_600_000_000;
    // One guardian lies that there is an outcome.
    let liar = fake(|fake| fake.outcome = Some(vec![1]));
    let set = guardians([honest(), liar, honest(), honest()]).await;
    let Fate::Rejected { refusal, .. } = fate(&set, EARLY).await else {
        panic!("one liar made it accepted");
    };
    assert_eq!(refusal.code, "expired");
}

#[tokio::test]
async fn an_accepted_transaction_whose_status_is_forgotten_is_known_by_its_outcome() {
    const EARLY: u64 = 1_600_000_000;
    let knows = || fake(|fake| fake.outcome = Some(vec![1]));
    // One guardian lies that there is none, one is gone.
    let set = guardians([knows(), honest(), None, knows()]).await;
    assert_eq!(fate(&set, EARLY).await, Fate::Accepted);
}

#[tokio::test]
async fn a_bundle_that_hashes_to_something_else_is_not_taken() {
    let set = guardians([honest(), honest(), honest(), honest()]).await;
    let error = soon(set.guardians.bundle(&BundleHash([1; 32]))).await;
    assert_eq!(error.unwrap_err().code(), "federation-unreachable");
}
