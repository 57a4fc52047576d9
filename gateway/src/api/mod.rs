//! What is asked over HTTP: users' wallets, the operator, whoever looks after it.
//!
//! `public` is for everybody, within limits; `operator` needs a key. Everything about
//! HTTP itself is in `modmint_rest`; the JSON is in [`types`].
#![allow(
    unused_qualifications,
    reason = "utoipa's macro writes some that are not needed"
)]

mod operator;
mod public;
pub mod types;

use std::{ops::Deref, sync::Arc};

use axum::{
    Extension, Json, Router,
    extract::{Request, State},
    http::StatusCode,
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
};
use modmint_client::WalletError;
use modmint_core::{
    FederationId, Refusal,
    rest::{CheckResponse, HealthResponse, Problem},
};
use modmint_rest::{Failure, Pages, Rate, Requests, bound_rate};
use tokio::sync::watch;
use utoipa::{
    Modify, OpenApi,
    openapi::security::{Http, HttpAuthScheme, SecurityScheme},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    federations::WalletFederations,
    gateway::{Gateway, InvoiceError},
    journal::{Membership, Terms},
    keys::{Keys, Scope},
    lightning::NodeError,
};

/// What the routes answer from.
pub struct Setup {
    /// Pays and is paid.
    pub gateway: Gateway,
    /// Holds e-cash.
    pub federations: Arc<WalletFederations>,
    /// Who may ask for what.
    pub keys: Keys,
    /// Of a federation that is joined without any.
    pub default_terms: Terms,
    /// For so many blocks a payment over Lightning may be under way.
    pub minimum_timelock_blocks: u32,
    /// Requests a second that one client may make in the long run; 0 for any number.
    pub requests_per_second: u32,
    /// Invoices and payments a second that one client may begin; 0 for any number.
    pub payments_per_second: u32,
    /// Becomes true when the gateway ends.
    pub ending: watch::Receiver<bool>,
}

#[derive(Clone)]
struct Api(Arc<Setup>);

impl Deref for Api {
    type Target = Setup;
    fn deref(&self) -> &Setup {
        &self.0
    }
}

impl Api {
    /// A federation that is served.
    fn served(&self, id: &FederationId) -> Result<Membership, Error> {
        let row = self.gateway.journal().membership(id)?;
        Ok(row
            .filter(|row| row.active)
            .ok_or_else(|| unknown_federation(id))?)
    }

    fn checks(&self) -> Vec<CheckResponse> {
        let check = |name: &str, problems: Vec<String>| CheckResponse {
            name: name.to_owned(),
            ok: problems.is_empty(),
            required: true,
            problems,
        };
        let halted = self.gateway.ledger().halted(self.gateway.journal());
        let halted = halted.unwrap_or_else(|e| Some(format!("{e:#}")));
        let mut channels = check("channels", Vec::new());
        channels.required = false;
        let all = self.gateway.node().channels();
        if !all.iter().any(|channel| channel.usable) {
            channels.ok = false;
            channels.problems = vec![format!(
                "none of {} channels can be used: users are served among each other alone",
                all.len()
            )];
        }
        let ending = (*self.ending.borrow()).then(|| "the gateway is ending".to_owned());
        let mut federations = check("federations", Vec::new());
        federations.required = false;
        for book in self.gateway.ledger().last().federations {
            if let Some(problem) = book.problem {
                federations.ok = false;
                federations
                    .problems
                    .push(format!("nothing new is begun in {}: {problem}", book.id));
            }
        }
        vec![
            check("solvency", halted.into_iter().collect()),
            federations,
            check("ending", ending.into_iter().collect()),
            channels,
        ]
    }
}

fn unknown_federation(id: &FederationId) -> Failure {
    Failure::not_found(
        "unknown-federation",
        format!("this gateway does not serve federation {id}"),
    )
}

fn unprocessable(refusal: &Refusal) -> Failure {
    Failure::new(
        StatusCode::UNPROCESSABLE_ENTITY,
        &refusal.code,
        refusal.message.clone(),
    )
}

/// What a route answers.
type Answer<T> = Result<Json<T>, Error>;

/// Why a route does not answer what was asked for, of whatever part it comes.
#[derive(Debug)]
struct Error(Failure);

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        self.0.into_response()
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        Self(failure)
    }
}

/// This machine's: the log alone says what it is.
impl From<anyhow::Error> for Error {
    fn from(error: anyhow::Error) -> Self {
        Self(Failure::internal(format!("{error:#}")))
    }
}

impl From<NodeError> for Error {
    fn from(error: NodeError) -> Self {
        Self(match error {
            NodeError::Refused(reason) => {
                Failure::new(StatusCode::UNPROCESSABLE_ENTITY, "node-refuses", reason)
            }
            NodeError::Trouble(reason) => {
                Failure::later(StatusCode::BAD_GATEWAY, "node-trouble", reason)
            }
        })
    }
}

impl From<WalletError> for Error {
    fn from(error: WalletError) -> Self {
        let (code, text) = (error.code().to_owned(), error.to_string());
        Self(match error {
            WalletError::NotFound(_) => Failure::not_found(&code, text),
            WalletError::Usage(_) => Failure::malformed(&code, text),
            WalletError::InsufficientFunds(_) | WalletError::ConfirmationNeeded(_) => {
                Failure::new(StatusCode::CONFLICT, &code, text)
            }
            WalletError::Refused(_) | WalletError::Untrusted(_) => {
                Failure::new(StatusCode::UNPROCESSABLE_ENTITY, &code, text)
            }
            WalletError::Unreachable(_) => {
                Failure::later(StatusCode::SERVICE_UNAVAILABLE, &code, text)
            }
            error => Failure::internal(error),
        })
    }
}

impl From<InvoiceError> for Error {
    fn from(error: InvoiceError) -> Self {
        match error {
            InvoiceError::Refused(refusal) => Self(unprocessable(&refusal)),
            InvoiceError::Unavailable(refusal) => Self(Failure::later(
                StatusCode::SERVICE_UNAVAILABLE,
                &refusal.code,
                refusal.message,
            )),
            InvoiceError::Failed(e) => e.into(),
        }
    }
}

/// Carries out to its end what moves money, whether or not its asker stays to hear of it:
/// what was taken out is counted then.
async fn to_its_end<T: Send + 'static>(
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
        title = "Modmint gateway",
        description = "A gateway between federations and the Lightning network. Routes with a \
            security requirement are the operator's: `Authorization: Bearer <key>`, a key of \
            `modmint-gatewayd key add`. Every error is a problem (RFC 9457) with a stable \
            `code`: 400 `malformed-body`, `malformed-path` and `malformed-query`, 401 \
            `unauthenticated`, 403 `scope-missing`, 404, 409, 422, 429 `too-many-requests`, \
            500 `internal`, 503; 429 and 503 say in `Retry-After` when to come again.",
    ),
    components(schemas(Problem)),
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
pub fn router(setup: Setup, requests: Requests) -> Router {
    let rate = Rate::new(setup.requests_per_second);
    let payments = Rate::new(setup.payments_per_second);
    let api = Api(Arc::new(setup));
    let (health, described) = OpenApiRouter::new()
        .routes(routes!(livez))
        .routes(routes!(readyz))
        .split_for_parts();
    let key = |scope| from_fn_with_state((api.clone(), scope), authorize);
    let (routes, mut description) = OpenApiRouter::with_openapi(Description::openapi())
        .merge(public::reading())
        .merge(public::beginning().layer(from_fn_with_state(payments, bound_rate)))
        .merge(operator::reading().layer(key(Scope::Read)))
        .merge(operator::funds().layer(key(Scope::Funds)))
        .merge(operator::everything().layer(key(Scope::Admin)))
        .routes(routes!(openapi))
        .routes(routes!(docs))
        .split_for_parts();
    description.merge(described);
    // Maps with texts as keys are JSON.
    let pages = Pages::of(&serde_json::to_value(&description).unwrap_or_default());
    modmint_rest::wrap(
        routes.with_state(api.clone()).layer(Extension(pages)),
        health.with_state(api),
        rate,
        requests,
    )
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

/// Whether users can be served, check by check.
#[utoipa::path(get, path = "/readyz", responses(
    (status = 200, body = HealthResponse),
    (status = 503, body = HealthResponse),
))]
async fn readyz(State(api): State<Api>) -> Response {
    modmint_rest::health(api.checks())
}

/// Lets through whoever has a key of this scope or a wider one.
async fn authorize(
    State((api, scope)): State<(Api, Scope)>,
    request: Request,
    next: Next,
) -> Result<Response, Error> {
    let refused = |status, code, told: String| Error(Failure::new(status, code, told));
    let key = modmint_rest::bearer(request.headers());
    let known = match key {
        Some(key) => api.keys.known(key)?,
        None => None,
    };
    let Some(known) = known else {
        return Err(refused(
            StatusCode::UNAUTHORIZED,
            "unauthenticated",
            "this route is the operator's: the header Authorization: Bearer <key> is needed, with a key of `modmint-gatewayd key add`".to_owned(),
        ));
    };
    if known.scope < scope {
        return Err(refused(
            StatusCode::FORBIDDEN,
            "scope-missing",
            format!(
                "the key {:?} is for {:?}; this route needs one for {scope}",
                known.name,
                known.scope.to_string()
            ),
        ));
    }
    tracing::debug!(key = known.name, "an operator asks");
    Ok(next.run(request).await)
}
