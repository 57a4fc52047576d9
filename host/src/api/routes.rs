//! The routes, each with its description for `/openapi.json`.
#![allow(
    unused_qualifications,
    reason = "utoipa's macro writes some that are not needed"
)]

use std::{collections::BTreeMap, ops::Deref, path::PathBuf, sync::Arc, time::Duration};

use axum::{
    Extension, Json, Router,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use modmint_core::{
    BundleHash, Hash32, InstanceId, MAX_ITEM_BYTES, OutPoint, TxId,
    config::HexBytes,
    consensus::{SignedHeader, TransactionStatus},
    rest::{
        AuditResponse, ChainOutputResponse, CheckResponse, FederationResponse, HealthResponse,
        InfoResponse, Limits, ModuleResponse, OutcomesRequest, OutcomesResponse, Problem,
        QueryRequest, QueryResponse, StatusResponse, SubmitRequest, SubmitResponse,
        TransactionResponse,
    },
};
use modmint_rest::{
    BURST_SECONDS, Body, Failure, PROBLEM_JSON, Pages, Parameters, Rate, Requests, Segments,
};
use serde::Deserialize;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::timeout,
};
use utoipa::{
    IntoParams, IntoResponses, OpenApi, ToSchema,
    openapi::{
        Content, Header, HeaderBuilder, ObjectBuilder, RefOr, Response as Described,
        ResponseBuilder, schema::Type,
    },
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::backend::Backend;

/// The longest wait for an answer that is not there yet.
const MAX_WAIT: Duration = Duration::from_secs(60);
/// Requests that wait at a time.
const MAX_WAITING: usize = 512;
/// Requests that keep a thread busy at a time; others queue.
const MAX_WORKING: usize = 64;
/// How long a request queues for a thread.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(10);
/// A guardian that cannot say within this time how it is lives no more.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(5);

/// What the routes share.
#[derive(Clone)]
pub(super) struct Api(Arc<Shared>);

struct Shared {
    setup: Setup,
    waiting: Arc<Semaphore>,
    working: Arc<Semaphore>,
}

/// What the routes answer from.
pub(super) struct Setup {
    pub backend: Arc<dyn Backend>,
    pub federation: FederationResponse,
    pub modules: Vec<ModuleResponse>,
    pub bundle_dir: PathBuf,
    /// See [`Limits`].
    pub requests_per_second: u32,
    /// Becomes true when nobody is to wait any longer.
    pub ending: watch::Receiver<bool>,
}

impl Deref for Shared {
    type Target = Setup;
    fn deref(&self) -> &Setup {
        &self.setup
    }
}

impl Api {
    pub(super) fn new(setup: Setup) -> Self {
        Self(Arc::new(Shared {
            setup,
            waiting: Arc::new(Semaphore::new(MAX_WAITING)),
            working: Arc::new(Semaphore::new(MAX_WORKING)),
        }))
    }

    fn limits(&self) -> Limits {
        Limits {
            requests_per_second: self.0.requests_per_second,
            requests_at_once: self.0.requests_per_second.saturating_mul(BURST_SECONDS),
            connections: modmint_rest::MAX_CONNECTIONS_PER_ADDRESS as u32,
            body_bytes: modmint_rest::MAX_BODY_BYTES as u32,
            transaction_bytes: MAX_ITEM_BYTES as u32,
            wait_seconds: MAX_WAIT.as_secs() as u32,
            waiting: MAX_WAITING as u32,
        }
    }

    /// The answer to a question that may wait so long; at once when the guardian
    /// ends.
    async fn wait<T, F: Future<Output = T>>(
        &self,
        patience: Duration,
        ask: impl Fn(Duration) -> F,
    ) -> T {
        let mut ending = self.0.ending.clone();
        let ending = async {
            if ending.wait_for(|ending| *ending).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            answer = ask(patience) => answer,
            () = ending => ask(Duration::ZERO).await,
        }
    }

    /// Asks the backend on a thread that may block.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&dyn Backend) -> T + Send + 'static,
    ) -> Result<T, Failure> {
        let queued = timeout(QUEUE_TIMEOUT, self.0.working.clone().acquire_owned()).await;
        let Ok(Ok(permit)) = queued else {
            return Err(Failure::later(
                StatusCode::SERVICE_UNAVAILABLE,
                "overloaded",
                "this guardian is busy with other requests; try another, or later",
            ));
        };
        let backend = self.0.backend.clone();
        let span = tracing::Span::current();
        let answer = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            span.in_scope(|| question(&*backend))
        });
        answer.await.map_err(Failure::internal)
    }

    /// How long a request may wait, and its place among those that do.
    pub(super) fn patience(
        &self,
        wait: u32,
    ) -> Result<(Duration, Option<OwnedSemaphorePermit>), Failure> {
        if wait == 0 {
            return Ok((Duration::ZERO, None));
        }
        match self.0.waiting.clone().try_acquire_owned() {
            Ok(place) => Ok((Duration::from_secs(wait.into()).min(MAX_WAIT), Some(place))),
            Err(_) => Err(Failure::later(
                StatusCode::TOO_MANY_REQUESTS,
                "too-many-waiting",
                format!(
                    "{MAX_WAITING} requests wait already; ask another guardian, or without wait"
                ),
            )),
        }
    }

    /// What a question about this guardian's health finds, or that it cannot be
    /// found out.
    async fn health(&self, question: fn(&dyn Backend) -> Vec<CheckResponse>) -> Response {
        let backend = self.0.backend.clone();
        let answer = tokio::task::spawn_blocking(move || question(&*backend));
        let mut checks = match timeout(HEALTH_TIMEOUT, answer).await {
            Ok(Ok(checks)) => checks,
            Ok(Err(panicked)) => vec![failed(
                "answers",
                format!("the guardian cannot say how it is: {panicked}"),
            )],
            Err(_) => vec![failed("answers", "the guardian is stuck".to_owned())],
        };
        if *self.0.ending.borrow() {
            checks.push(failed("ending", "the guardian is ending".to_owned()));
        }
        modmint_rest::health(checks)
    }
}

fn failed(name: &str, problem: String) -> CheckResponse {
    CheckResponse {
        name: name.to_owned(),
        ok: false,
        required: true,
        problems: vec![problem],
    }
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Modmint guardian",
        description = "One guardian of a federated e-cash mint. Believe f + 1 equal answers of \
            different guardians about what is final, n − f about what is latest or not there. \
            Every error is a problem (RFC 9457) with a stable `code`. `x-limits` says how much \
            one client may ask for.",
    ),
    components(schemas(Problem))
)]
struct Description;

/// All routes, ready to be served.
pub(super) fn router(api: Api, requests: Requests) -> Router {
    let health = OpenApiRouter::new()
        .routes(routes!(livez))
        .routes(routes!(readyz));
    let (health, described) = health.split_for_parts();
    let (routes, mut description) = OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(info))
        .routes(routes!(federation))
        .routes(routes!(status))
        .routes(routes!(modules))
        .routes(routes!(bundle))
        .routes(routes!(submit))
        .routes(routes!(transaction))
        .routes(routes!(outcomes))
        .routes(routes!(query))
        .routes(routes!(latest_session))
        .routes(routes!(session))
        .routes(routes!(block_hash))
        .routes(routes!(chain_outputs))
        .routes(routes!(audit))
        .routes(routes!(openapi))
        .routes(routes!(docs))
        .split_for_parts();
    description.merge(described);
    let limits = api.limits();
    let json = |value: serde_json::Result<serde_json::Value>| {
        value.expect("maps with texts as keys are JSON")
    };
    let mut description = json(serde_json::to_value(&description));
    description["x-limits"] = json(serde_json::to_value(&limits));
    let pages = Pages::of(&description);
    let rate = Rate::new(limits.requests_per_second);
    modmint_rest::wrap(
        routes.with_state(api.clone()).layer(Extension(pages)),
        health.with_state(api),
        rate,
        requests,
    )
}

/// Problems with a request's body, of whatever route.
struct Bounds;

impl IntoResponses for Bounds {
    fn responses() -> BTreeMap<String, RefOr<Described>> {
        problems(&[
            (408, "`body-too-slow`"),
            (413, "`body-too-large`: `x-limits` says how large it may be"),
        ])
    }
}

/// Problems that any route may answer with but for those of health.
struct Common;

impl IntoResponses for Common {
    fn responses() -> BTreeMap<String, RefOr<Described>> {
        let mut all = Bounds::responses();
        all.extend(problems(&[
            (
                429,
                "`too-many-requests`, where one can wait also `too-many-waiting`: try again after `Retry-After` seconds",
            ),
            (500, "`internal`"),
            (503, "`overloaded`; for transactions also `busy` and `catching-up`"),
            (504, "`timeout`"),
        ]));
        all
    }
}

/// Problems of routes with parameters in their path or behind it.
struct BadAddress;

impl IntoResponses for BadAddress {
    fn responses() -> BTreeMap<String, RefOr<Described>> {
        problems(&[(400, "`malformed-path`, `malformed-query`")])
    }
}

/// Problems of routes that take JSON.
struct BadBody;

impl IntoResponses for BadBody {
    fn responses() -> BTreeMap<String, RefOr<Described>> {
        problems(&[
            (
                400,
                "`malformed-body`, `malformed-path`, or what the route's own code says",
            ),
            (415, "`wrong-content-type`"),
        ])
    }
}

fn problems(list: &[(u16, &str)]) -> BTreeMap<String, RefOr<Described>> {
    let describe = |(status, codes): &(u16, &str)| {
        let content = Content::new(Some(RefOr::Ref(utoipa::openapi::Ref::from_schema_name(
            Problem::name(),
        ))));
        let response = ResponseBuilder::new()
            .description(*codes)
            .content(PROBLEM_JSON, content);
        let response = match status {
            429 | 503 | 504 => response.header("Retry-After", retry_after()),
            _ => response,
        };
        (status.to_string(), RefOr::T(response.build()))
    };
    list.iter().map(describe).collect()
}

/// What runs here, and how much one client may ask of it.
#[utoipa::path(get, path = "/v1/info", responses((status = 200, body = InfoResponse), Common))]
async fn info(State(api): State<Api>) -> Json<InfoResponse> {
    Json(InfoResponse {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        runtime_hash: Hash32(modmint_runtime::runtime_hash()),
        limits: api.limits(),
    })
}

fn retry_after() -> Header {
    let seconds = ObjectBuilder::new().schema_type(Type::Integer);
    HeaderBuilder::new()
        .schema(seconds.minimum(Some(1)))
        .description(Some("seconds after which trying again may help"))
        .build()
}

/// The federation's founding config and invite.
#[utoipa::path(get, path = "/v1/federation",
    responses((status = 200, body = FederationResponse), Common))]
async fn federation(State(api): State<Api>) -> Json<FederationResponse> {
    Json(api.0.federation.clone())
}

/// Where this guardian stands.
#[utoipa::path(get, path = "/v1/status", responses((status = 200, body = StatusResponse), Common))]
async fn status(State(api): State<Api>) -> Result<Json<StatusResponse>, Failure> {
    api.ask(|backend| backend.status()).await.map(Json)
}

/// The federation's modules.
#[utoipa::path(get, path = "/v1/modules",
    responses((status = 200, body = Vec<ModuleResponse>), Common))]
async fn modules(State(api): State<Api>) -> Result<Json<Vec<ModuleResponse>>, Failure> {
    let mut modules = api.0.modules.clone();
    let filled = api.ask(move |backend| {
        for module in &mut modules {
            module.paused = backend.paused(module.instance);
        }
        modules
    });
    filled.await.map(Json)
}

/// A module's bundle. The hash is the SHA-256 of what is answered; check it.
#[utoipa::path(get, path = "/v1/bundles/{hash}",
    params(("hash" = BundleHash, Path)),
    responses(
        (status = 200, content_type = "application/wasm", body = Vec<u8>),
        (status = 304, description = "the bundle is what `If-None-Match` names"),
        (status = 404, description = "`unknown-bundle`", body = Problem, content_type = "application/problem+json"),
        BadAddress, Common
    ))]
async fn bundle(
    State(api): State<Api>,
    Segments(hash): Segments<BundleHash>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let tag = format!("\"{hash}\"");
    let wanted = headers.get(header::IF_NONE_MATCH);
    let known = wanted
        .and_then(|tags| tags.to_str().ok())
        .is_some_and(|tags| tags.split(',').any(|known| known.trim() == tag));
    let path = api.0.bundle_dir.join(format!("{hash}.wasm"));
    let mut response = match (tokio::fs::metadata(&path).await, known) {
        (Ok(_), true) => StatusCode::NOT_MODIFIED.into_response(),
        (Ok(_), false) => tokio::fs::read(&path)
            .await
            .map_err(Failure::internal)?
            .into_response(),
        (Err(e), _) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(Failure::not_found(
                "unknown-bundle",
                "no module of this federation is that bundle; /v1/modules names those that are",
            ));
        }
        (Err(e), _) => return Err(Failure::internal(e)),
    };
    let tag = HeaderValue::try_from(tag).map_err(Failure::internal)?;
    let headers = response.headers_mut();
    headers.insert(header::ETAG, tag);
    headers.insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static("public, max-age=31536000, immutable"),
    );
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/wasm"),
    );
    Ok(response)
}

/// Gives this guardian a transaction to have decided. A refusal is this
/// guardian's opinion alone: nothing has been decided.
#[utoipa::path(post, path = "/v1/transactions", request_body = SubmitRequest,
    responses(
        (status = 202, body = SubmitResponse),
        (status = 422, description = "`transaction-expired`, `expires-too-late`, or the code of the refusal",
            body = Problem, content_type = "application/problem+json"),
        BadBody, Common
    ))]
async fn submit(
    State(api): State<Api>,
    Body(request): Body<SubmitRequest>,
) -> Result<(StatusCode, Json<SubmitResponse>), Failure> {
    let submitted = api
        .ask(move |backend| backend.submit(&request.transaction.0))
        .await??;
    Ok((StatusCode::ACCEPTED, Json(submitted)))
}

/// How long to wait, and for what.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Await {
    /// Seconds to wait until there is an answer that will not change; at most 60,
    /// more is taken for that.
    #[serde(default)]
    #[param(default = 0, maximum = 4294967295u32)]
    wait: u32,
    /// The instances of the transaction's outputs, all of them in their order, with
    /// commas between: what this guardian contributes to their outcomes is in the
    /// answer then, once the transaction is accepted.
    #[param(
        pattern = "^(6553[0-5]|655[0-2][0-9]|65[0-4][0-9]{2}|6[0-4][0-9]{3}|[1-5][0-9]{4}|[0-9]{1,4})(,(6553[0-5]|655[0-2][0-9]|65[0-4][0-9]{2}|6[0-4][0-9]{3}|[1-5][0-9]{4}|[0-9]{1,4}))*$"
    )]
    outputs: Option<String>,
}

/// Where a transaction stands; at once when that is final.
#[utoipa::path(get, path = "/v1/transactions/{txid}",
    params(("txid" = TxId, Path), Await),
    responses(
        (status = 200, body = TransactionResponse),
        (status = 404, description = "`unknown-instance`", body = Problem, content_type = "application/problem+json"),
        BadAddress, Common
    ))]
async fn transaction(
    State(api): State<Api>,
    Segments(txid): Segments<TxId>,
    Parameters(Await { wait, outputs }): Parameters<Await>,
) -> Result<Json<TransactionResponse>, Failure> {
    let instances = outputs.map_or(Ok(Vec::new()), |outputs| parse_instances(&outputs))?;
    let (patience, _place) = api.patience(wait)?;
    let backend = &api.0.backend;
    let transaction = api.wait(patience, |wait| backend.transaction(&txid, wait));
    let mut transaction = transaction.await;
    if matches!(transaction.status, TransactionStatus::Accepted { .. }) {
        transaction.outcomes = outcomes_of(&**backend, txid, &instances).await?;
    }
    Ok(Json(transaction))
}

fn parse_instances(text: &str) -> Result<Vec<InstanceId>, Failure> {
    let numbers: Result<Vec<u16>, _> = text.split(',').map(str::parse).collect();
    let instances = numbers.map(|numbers| numbers.into_iter().map(InstanceId).collect());
    instances.map_err(|_| {
        let shown: String = text.chars().take(80).collect();
        Failure::malformed(
            "malformed-query",
            format!(
                "{shown:?} is no list of instances: outputs are numbers up to 65535 with commas \
                 between"
            ),
        )
    })
}

/// What there is of the outcomes of an accepted transaction's outputs, whose instances
/// these are.
async fn outcomes_of(
    backend: &dyn Backend,
    txid: TxId,
    instances: &[InstanceId],
) -> Result<Vec<Option<HexBytes>>, Failure> {
    let mut places: BTreeMap<InstanceId, Vec<u16>> = BTreeMap::new();
    for (index, instance) in (0..=u16::MAX).zip(instances) {
        places.entry(*instance).or_default().push(index);
    }
    let mut all = vec![None; instances.len()];
    for (instance, indices) in places {
        let out_points: Vec<OutPoint> = indices
            .iter()
            .map(|index| OutPoint {
                txid,
                index: *index,
            })
            .collect();
        let outcomes = backend.outcomes(instance, &out_points, Duration::ZERO);
        for (index, outcome) in indices.into_iter().zip(outcomes.await?) {
            all[usize::from(index)] = outcome.map(HexBytes);
        }
    }
    Ok(all)
}

/// This guardian's contributions to outputs' outcomes.
#[utoipa::path(post, path = "/v1/modules/{instance}/outcomes", request_body = OutcomesRequest,
    params(("instance" = u16, Path, maximum = 65535)),
    responses(
        (status = 200, body = OutcomesResponse),
        (status = 404, description = "`unknown-instance`", body = Problem, content_type = "application/problem+json"),
        BadBody, Common
    ))]
async fn outcomes(
    State(api): State<Api>,
    Segments(instance): Segments<InstanceId>,
    Body(request): Body<OutcomesRequest>,
) -> Result<Json<OutcomesResponse>, Failure> {
    let (patience, _place) = api.patience(request.wait)?;
    let backend = &api.0.backend;
    let ask = |wait| backend.outcomes(instance, &request.out_points, wait);
    let outcomes = api.wait(patience, ask).await?;
    Ok(Json(OutcomesResponse {
        outcomes: outcomes.into_iter().map(|o| o.map(HexBytes)).collect(),
    }))
}

/// A module's answer to a query of its own; `/v1/modules` lists them.
#[utoipa::path(post, path = "/v1/modules/{instance}/queries/{name}", request_body = QueryRequest,
    params(("instance" = u16, Path, maximum = 65535), ("name" = String, Path)),
    responses(
        (status = 200, body = QueryResponse),
        (status = 404, description = "`unknown-instance`, `unknown-query`", body = Problem, content_type = "application/problem+json"),
        BadBody, Common
    ))]
async fn query(
    State(api): State<Api>,
    Segments((instance, name)): Segments<(InstanceId, String)>,
    Body(request): Body<QueryRequest>,
) -> Result<Json<QueryResponse>, Failure> {
    let (patience, _place) = api.patience(request.wait)?;
    let backend = &api.0.backend;
    let ask = |wait| backend.query(instance, &name, &request.arguments, wait);
    Ok(Json(api.wait(patience, ask).await?))
}

/// The latest session that n − f guardians have signed.
#[utoipa::path(get, path = "/v1/sessions/latest",
    responses(
        (status = 200, body = SignedHeader),
        (status = 404, description = "`unknown-session`", body = Problem, content_type = "application/problem+json"),
        Common
    ))]
async fn latest_session(State(api): State<Api>) -> Result<Json<SignedHeader>, Failure> {
    let header = api.ask(|backend| backend.signed_header(None)).await?;
    header.map(Json).ok_or_else(|| {
        Failure::not_found(
            "unknown-session",
            "no session has ended and been signed yet",
        )
    })
}

/// A session that n − f guardians have signed.
#[utoipa::path(get, path = "/v1/sessions/{index}",
    params(("index" = u64, Path, maximum = 18446744073709551615u64)),
    responses(
        (status = 200, body = SignedHeader),
        (status = 404, description = "`unknown-session`", body = Problem, content_type = "application/problem+json"),
        BadAddress, Common
    ))]
async fn session(
    State(api): State<Api>,
    Segments(index): Segments<u64>,
) -> Result<Json<SignedHeader>, Failure> {
    let header = api
        .ask(move |backend| backend.signed_header(Some(index)))
        .await?;
    header.map(Json).ok_or_else(|| {
        Failure::not_found(
            "unknown-session",
            format!("session {index} has not ended, or not been signed yet"),
        )
    })
}

/// The agreed block's hash at a height, in internal byte order.
#[utoipa::path(get, path = "/v1/block-hashes/{height}",
    params(("height" = u32, Path, maximum = 4294967295u32)),
    responses(
        (status = 200, body = Hash32),
        (status = 404, description = "`unknown-block`", body = Problem, content_type = "application/problem+json"),
        BadAddress, Common
    ))]
async fn block_hash(
    State(api): State<Api>,
    Segments(height): Segments<u32>,
) -> Result<Json<Hash32>, Failure> {
    let hash = api.ask(move |backend| backend.block_hash(height)).await?;
    hash.map(Json).ok_or_else(|| {
        Failure::not_found(
            "unknown-block",
            format!("the federation has agreed on no block at height {height}"),
        )
    })
}

/// Which agreed outputs.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Which {
    /// Those that pay to this scriptPubKey, in hexadecimal.
    #[param(value_type = Option<String>, pattern = "^([0-9a-f]{2})*$")]
    script: Option<HexBytes>,
    /// The one at this place, `TXID:INDEX`, the id in internal byte order.
    #[param(pattern = "^[0-9a-f]{64}:[0-9]{1,10}$")]
    out_point: Option<String>,
}

/// Agreed outputs of the bitcoin chain, oldest first, at most 100.
#[utoipa::path(get, path = "/v1/chain-outputs", params(Which),
    responses((status = 200, body = Vec<ChainOutputResponse>), BadAddress, Common))]
async fn chain_outputs(
    State(api): State<Api>,
    Parameters(which): Parameters<Which>,
) -> Result<Json<Vec<ChainOutputResponse>>, Failure> {
    let outputs = match which {
        Which {
            script: Some(script),
            out_point: None,
        } => {
            api.ask(move |backend| backend.chain_outputs(&script.0))
                .await?
        }
        Which {
            script: None,
            out_point: Some(place),
        } => {
            let (txid, index) = parse_out_point(&place)?;
            let found = api.ask(move |backend| backend.chain_output_at(&txid, index));
            found.await?.into_iter().collect()
        }
        _ => {
            return Err(Failure::malformed(
                "malformed-query",
                "either script or out_point is to be given, and not both",
            ));
        }
    };
    Ok(Json(outputs))
}

fn parse_out_point(text: &str) -> Result<(Hash32, u32), Failure> {
    let parsed = text
        .split_once(':')
        .and_then(|(txid, index)| Some((txid.parse().ok()?, index.parse().ok()?)));
    parsed.ok_or_else(|| {
        Failure::malformed(
            "malformed-query",
            format!("{text:?} is no TXID:INDEX with 64 hexadecimal digits and a number"),
        )
    })
}

/// What the federation has and owes.
#[utoipa::path(get, path = "/v1/audit", responses((status = 200, body = AuditResponse), Common))]
async fn audit(State(api): State<Api>) -> Result<Json<AuditResponse>, Failure> {
    Ok(Json(api.ask(|backend| backend.audit()).await??))
}

/// Whether the guardian is not stuck: it can say where it stands. If not, restart
/// it.
#[utoipa::path(get, path = "/livez",
    responses((status = 200, body = HealthResponse), (status = 503, body = HealthResponse), Bounds))]
async fn livez(State(api): State<Api>) -> Response {
    let question = |backend: &dyn Backend| {
        let _ = backend.status();
        Vec::new()
    };
    api.health(question).await
}

/// Whether the guardian can serve: it takes part in consensus and reaches enough
/// others.
#[utoipa::path(get, path = "/readyz",
    responses((status = 200, body = HealthResponse), (status = 503, body = HealthResponse), Bounds))]
async fn readyz(State(api): State<Api>) -> Response {
    api.health(|backend| backend.checks()).await
}

/// This description.
#[utoipa::path(get, path = "/openapi.json",
    responses((status = 200, content_type = "application/json", body = Object), Common))]
async fn openapi(Extension(pages): Extension<Pages>) -> Response {
    pages.openapi()
}

/// This description, for people.
#[utoipa::path(get, path = "/docs",
    responses((status = 200, content_type = "text/html", body = String), Common))]
async fn docs(Extension(pages): Extension<Pages>) -> Response {
    pages.docs()
}
