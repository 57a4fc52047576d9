//! Who may ask, health, and the description of the routes.
#![allow(
    unused_qualifications,
    reason = "utoipa's macro writes some that are not needed"
)]

use std::{ops::Deref, sync::Arc, time::Duration};

use axum::{
    Extension, Json, Router,
    extract::{Request, State},
    http::StatusCode,
    middleware::{Next, from_fn_with_state},
    response::Response,
};
use modmint_core::{
    FederationId,
    rest::{CheckResponse, HealthResponse, Problem},
};
use modmint_rest::{Failure, Pages, Rate, Requests};
use tokio::{sync::watch, time::Instant};
use utoipa::{
    Modify, OpenApi,
    openapi::security::{Http, HttpAuthScheme, SecurityScheme},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    error::{Answer, Error},
    federations,
    key::Key,
    operations,
    types::{ActionProblem, InfoResponse},
};
use crate::{Federation, Wallet};

/// Requests a second that one client on another machine may make in the long run.
const REQUESTS_PER_SECOND: u32 = 50;
/// The longest wait for what is not there yet.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// What the routes answer from.
pub(super) struct Shared {
    pub(super) wallet: Arc<Wallet>,
    key: Key,
    /// Becomes true when nobody is to wait any longer.
    ending: watch::Receiver<bool>,
}

#[derive(Clone)]
pub(super) struct Api(Arc<Shared>);

impl Deref for Api {
    type Target = Shared;
    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl Api {
    /// A federation that was joined.
    pub(super) fn federation(&self, id: &FederationId) -> Result<Federation, Failure> {
        let all = self.wallet.federations();
        let found = all.into_iter().find(|federation| federation.id() == *id);
        found.ok_or_else(|| {
            Failure::not_found(
                "unknown-federation",
                format!("this wallet has not joined federation {id}; /v1/federations lists those that it has"),
            )
        })
    }

    /// Until when somebody who waits so many seconds waits.
    pub(super) fn patience(seconds: u32) -> Instant {
        Instant::now() + Duration::from_secs(seconds.into()).min(MAX_WAIT)
    }

    /// What comes of `what`, if it comes by then and before the wallet ends.
    pub(super) async fn until<T>(
        &self,
        deadline: Instant,
        what: impl Future<Output = T>,
    ) -> Option<T> {
        let mut ending = self.ending.clone();
        let ending = async {
            if ending.wait_for(|ending| *ending).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            // What is there is told, however little time there is.
            biased;
            done = what => Some(done),
            () = tokio::time::sleep_until(deadline) => None,
            () = ending => None,
        }
    }

    fn checks(&self) -> Vec<CheckResponse> {
        let check = |name: &str, required, problems: Vec<String>| CheckResponse {
            name: name.to_owned(),
            ok: problems.is_empty(),
            required,
            problems,
        };
        let ending = (*self.ending.borrow()).then(|| "the wallet is ending".to_owned());
        let all = self.wallet.federations().into_iter();
        let away = all.filter_map(|federation| {
            let lack = federation.guardians().lack()?;
            Some(format!("federation {}: {lack}", federation.id()))
        });
        vec![
            check("ending", true, ending.into_iter().collect()),
            // One federation is none of the others' business.
            check("federations", false, away.collect()),
        ]
    }
}

/// Carries out to its end what may move money, whether or not its asker stays to hear
/// of it.
pub(super) async fn to_its_end<T: Send + 'static>(
    what: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Error> {
    match tokio::spawn(what).await {
        Ok(answer) => answer,
        Err(e) => Err(Failure::internal(e).into()),
    }
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Modmint wallet",
        description = "A wallet for federated e-cash. Routes with a security requirement need \
            `Authorization: Bearer <key>`, the key in `api.key` of the wallet's folder. What a \
            module can be asked comes from its bundle: `/v1/federations/{id}/modules`. Every \
            error is a problem (RFC 9457) with a stable `code`: 400 `malformed-body`, \
            `malformed-path`, `malformed-query` and `bad-argument`, 401 `unauthenticated`, 404, \
            409, 422, 429 `too-many-requests`, 500 `internal`, 503, 504 `timeout`; 429, 503 and \
            504 say in `Retry-After` when to come again.",
    ),
    components(schemas(Problem, ActionProblem)),
    modifiers(&Bearer),
)]
struct Description;

struct Bearer;

impl Modify for Bearer {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        openapi
            .components
            .get_or_insert_default()
            .add_security_scheme("key", scheme);
    }
}

/// All routes, ready to be served.
pub(super) fn router(
    wallet: Arc<Wallet>,
    key: Key,
    ending: watch::Receiver<bool>,
    requests: Requests,
) -> Router {
    let api = Api(Arc::new(Shared {
        wallet,
        key,
        ending,
    }));
    let (health, described) = OpenApiRouter::new()
        .routes(routes!(livez))
        .routes(routes!(readyz))
        .split_for_parts();
    let behind_the_key = OpenApiRouter::new()
        .routes(routes!(info))
        .merge(federations::routes())
        .merge(operations::routes())
        .layer(from_fn_with_state(api.clone(), authorize));
    let (routes, mut description) = OpenApiRouter::with_openapi(Description::openapi())
        .merge(behind_the_key)
        .routes(routes!(openapi))
        .routes(routes!(docs))
        .split_for_parts();
    description.merge(described);
    // Maps with texts as keys are JSON.
    let pages = Pages::of(&serde_json::to_value(&description).unwrap_or_default());
    modmint_rest::wrap(
        routes.with_state(api.clone()).layer(Extension(pages)),
        health.with_state(api),
        Rate::new(REQUESTS_PER_SECOND),
        requests,
    )
}

/// Lets through whoever has the key.
async fn authorize(
    State(api): State<Api>,
    request: Request,
    next: Next,
) -> Result<Response, Failure> {
    let key = modmint_rest::bearer(request.headers());
    match key {
        Some(key) if api.key.is(key) => Ok(next.run(request).await),
        given => Err(Failure::new(
            StatusCode::UNAUTHORIZED,
            "unauthenticated",
            format!(
                "{}; the header Authorization: Bearer <key> is needed, with the key in api.key of the wallet's folder",
                match given {
                    Some(_) => "this is not the wallet's key",
                    None => "no key is given",
                }
            ),
        )),
    }
}

/// This description.
#[utoipa::path(get, path = "/openapi.json", responses((status = 200, content_type = "application/json")))]
async fn openapi(Extension(pages): Extension<Pages>) -> Response {
    pages.openapi()
}

/// This description, for people.
#[utoipa::path(get, path = "/docs", responses((status = 200, content_type = "text/html")))]
async fn docs(Extension(pages): Extension<Pages>) -> Response {
    pages.docs()
}

/// Whether the process lives.
#[utoipa::path(get, path = "/livez", responses((status = 200, body = HealthResponse)))]
async fn livez() -> Json<HealthResponse> {
    Json(HealthResponse {
        status: "ok".to_owned(),
        problems: Vec::new(),
        checks: Vec::new(),
    })
}

/// Whether the wallet can be asked, check by check. A federation whose guardians do not
/// answer does not make it unready.
#[utoipa::path(get, path = "/readyz", responses(
    (status = 200, body = HealthResponse),
    (status = 503, body = HealthResponse),
))]
async fn readyz(State(api): State<Api>) -> Response {
    modmint_rest::health(api.checks())
}

/// What runs here.
#[utoipa::path(get, path = "/v1/info", security(("key" = [])),
    responses(
        (status = 200, body = InfoResponse),
        (status = 401, description = "`unauthenticated`", body = Problem),
    ))]
async fn info(State(api): State<Api>) -> Answer<InfoResponse> {
    Ok(Json(InfoResponse {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        federations: api.wallet.federations().len(),
    }))
}
