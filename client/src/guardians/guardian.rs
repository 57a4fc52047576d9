//! One guardian's REST API.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use futures::future::BoxFuture;
use modmint_core::{
    BundleHash, InstanceId, OutPoint, PeerId, TxId,
    config::HexBytes,
    rest::{
        FederationResponse, OutcomesRequest, OutcomesResponse, Problem, QueryRequest,
        QueryResponse, StatusResponse, SubmitRequest, SubmitResponse, TransactionResponse,
    },
    sha256,
};
use reqwest::{Method, StatusCode};
use serde::{Serialize, de::DeserializeOwned};
use url::Url;

use super::Health;

/// The longest JSON that a guardian may answer with: a thousand outcomes, or a
/// module's answer, in hexadecimal.
const MAX_JSON_BYTES: usize = 8 << 20;
/// The largest bundle that is fetched.
const MAX_BUNDLE_BYTES: usize = 32 << 20;
/// How long a guardian may take, beyond what it was asked to wait.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long an answer may take for which nobody waits.
const LINGER: Duration = Duration::from_secs(2);
/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(3);

/// Why there is no answer.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AskError {
    /// No answer, or one that says that there is none now (5xx, 429).
    #[error("{0}")]
    Unavailable(String),
    /// The guardian refuses the request.
    #[error("{0}")]
    Refused(Problem),
    /// What came cannot be understood, or is longer than it may be.
    #[error("{0}")]
    Nonsense(String),
}

/// One guardian.
#[derive(Debug)]
pub struct Guardian {
    /// Its index; in an invite, its place there.
    pub peer: PeerId,
    /// Where its API is, without `/v1`.
    base: Url,
    http: reqwest::Client,
    /// How it has been doing.
    pub health: Health,
}

/// The client that all guardians share.
pub(crate) fn http_client() -> Result<reqwest::Client, reqwest::Error> {
    reqwest::Client::builder()
        .connect_timeout(CONNECT)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .user_agent(concat!("modmint/", env!("CARGO_PKG_VERSION")))
        .build()
}

impl Guardian {
    /// The guardian at `api_url`; none if that is no http or https address.
    pub fn new(peer: PeerId, api_url: &str, http: reqwest::Client) -> Option<Self> {
        let mut base: Url = api_url.parse().ok()?;
        if !matches!(base.scheme(), "http" | "https") || base.cannot_be_a_base() {
            return None;
        }
        if !base.path().ends_with('/') {
            let path = format!("{}/", base.path());
            base.set_path(&path);
        }
        Some(Self {
            peer,
            base,
            http,
            health: Health::default(),
        })
    }

    /// Where its API is.
    pub fn url(&self) -> &str {
        self.base.as_str()
    }

    /// One request; what comes of it goes into the guardian's health.
    async fn ask(
        &self,
        method: Method,
        path: &str,
        json: Option<Vec<u8>>,
        wait: Duration,
        limit: usize,
    ) -> Result<Vec<u8>, AskError> {
        let url = self
            .base
            .join(&format!("v1/{path}"))
            .map_err(|e| AskError::Nonsense(e.to_string()))?;
        let begun = Instant::now();
        let exchange = Lingering::new(exchange(self.http.clone(), method, url, json, limit));
        let result = tokio::time::timeout(wait + PATIENCE, exchange)
            .await
            .unwrap_or_else(|_| {
                Err(AskError::Unavailable(format!(
                    "no answer within {} s",
                    (wait + PATIENCE).as_secs()
                )))
            });
        match &result {
            // A refusal is an answer.
            Ok(_) | Err(AskError::Refused(_)) => {
                let latency = wait.is_zero().then(|| begun.elapsed());
                self.health.succeeded(latency);
            }
            Err(error) => self.health.failed(&error.to_string()),
        }
        result
    }

    async fn json<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        request: Option<&(impl Serialize + Sync)>,
        wait: Duration,
    ) -> Result<T, AskError> {
        let request = request
            .map(serde_json::to_vec)
            .transpose()
            .map_err(|e| AskError::Nonsense(e.to_string()))?;
        let body = self
            .ask(method, path, request, wait, MAX_JSON_BYTES)
            .await?;
        serde_json::from_slice(&body).map_err(|e| {
            let error = AskError::Nonsense(format!("the answer cannot be read: {e}"));
            self.health.failed(&error.to_string());
            error
        })
    }

    async fn get<T: DeserializeOwned>(&self, path: &str, wait: Duration) -> Result<T, AskError> {
        self.json(Method::GET, path, None::<&()>, wait).await
    }

    /// The founding config and its signatures, not verified.
    ///
    /// # Errors
    /// See [`AskError`].
    pub async fn federation(&self) -> Result<FederationResponse, AskError> {
        self.get("federation", Duration::ZERO).await
    }

    /// Where the guardian stands.
    ///
    /// # Errors
    /// See [`AskError`].
    pub async fn status(&self) -> Result<StatusResponse, AskError> {
        self.get("status", Duration::ZERO).await
    }

    /// A bundle; what comes is what was asked for.
    ///
    /// # Errors
    /// See [`AskError`].
    pub async fn bundle(&self, hash: &BundleHash) -> Result<Vec<u8>, AskError> {
        let path = format!("bundles/{hash}");
        // A large file over a slow line: the patience is for the whole of it.
        let wait = Duration::from_secs(50);
        let bytes = self
            .ask(Method::GET, &path, None, wait, MAX_BUNDLE_BYTES)
            .await?;
        let found = BundleHash(sha256(&bytes));
        if found != *hash {
            let error = AskError::Nonsense(format!("bundle {hash} was asked for, {found} came"));
            self.health.failed(&error.to_string());
            return Err(error);
        }
        Ok(bytes)
    }

    /// Gives the guardian a transaction to propose.
    ///
    /// # Errors
    /// See [`AskError`].
    pub async fn submit(&self, transaction: &[u8]) -> Result<SubmitResponse, AskError> {
        let request = SubmitRequest {
            transaction: HexBytes(transaction.to_vec()),
        };
        self.json(Method::POST, "transactions", Some(&request), Duration::ZERO)
            .await
    }

    /// What the guardian knows of a transaction, after at most `wait` if it is
    /// not decided; and of its outputs, whose instances `outputs` are.
    ///
    /// # Errors
    /// See [`AskError`].
    pub async fn transaction(
        &self,
        txid: &TxId,
        outputs: &[InstanceId],
        wait: Duration,
    ) -> Result<TransactionResponse, AskError> {
        let mut path = format!("transactions/{txid}?wait={}", wait.as_secs());
        for (place, instance) in outputs.iter().enumerate() {
            path += if place == 0 { "&outputs=" } else { "," };
            path += &instance.to_string();
        }
        self.get(&path, wait).await
    }

    /// Outcomes of an instance's outputs, after at most `wait` if they are not
    /// all there.
    ///
    /// # Errors
    /// See [`AskError`].
    pub async fn outcomes(
        &self,
        instance: InstanceId,
        out_points: &[OutPoint],
        wait: Duration,
    ) -> Result<Vec<Option<HexBytes>>, AskError> {
        let request = OutcomesRequest {
            out_points: out_points.to_vec(),
            wait: seconds(wait),
        };
        let path = format!("modules/{instance}/outcomes");
        let response: OutcomesResponse =
            self.json(Method::POST, &path, Some(&request), wait).await?;
        if response.outcomes.len() != out_points.len() {
            let error = AskError::Nonsense(format!(
                "{} outcomes came for {} outputs",
                response.outcomes.len(),
                out_points.len()
            ));
            self.health.failed(&error.to_string());
            return Err(error);
        }
        Ok(response.outcomes)
    }

    /// A module's answer, after at most `wait` if there is none yet.
    ///
    /// # Errors
    /// See [`AskError`].
    pub async fn query(
        &self,
        instance: InstanceId,
        name: &str,
        arguments: &[modmint_core::Argument],
        wait: Duration,
    ) -> Result<QueryResponse, AskError> {
        let request = QueryRequest {
            arguments: arguments.to_vec(),
            wait: seconds(wait),
        };
        let mut path = format!("modules/{instance}/queries/");
        path.extend(url::form_urlencoded::byte_serialize(name.as_bytes()));
        self.json(Method::POST, &path, Some(&request), wait).await
    }
}

/// A request and its answer, of at most `limit` bytes.
async fn exchange(
    http: reqwest::Client,
    method: Method,
    url: Url,
    json: Option<Vec<u8>>,
    limit: usize,
) -> Result<Vec<u8>, AskError> {
    let mut request = http.request(method, url);
    if let Some(json) = json {
        request = request
            .header("content-type", "application/json")
            .body(json);
    }
    let response = request
        .send()
        .await
        .map_err(|e| AskError::Unavailable(describe(&e)))?;
    let status = response.status();
    if status.is_success() {
        return bounded_body(response, limit).await;
    }
    let body = bounded_body(response, 64 << 10).await?;
    let problem: Option<Problem> = serde_json::from_slice(&body).ok();
    if status.is_client_error() && status != StatusCode::TOO_MANY_REQUESTS {
        return Err(match problem {
            Some(problem) => AskError::Refused(problem),
            None => AskError::Nonsense(format!("HTTP {status} without a reason")),
        });
    }
    Err(AskError::Unavailable(problem.map_or_else(
        || format!("HTTP {status}"),
        |problem| problem.to_string(),
    )))
}

/// A request for whose answer [`LINGER`] remains when nobody waits any more: one that
/// is broken off takes its connection with it. (What several guardians are asked is
/// known when some of them have answered; the others are about to.)
struct Lingering<T: Send + 'static> {
    request: Option<BoxFuture<'static, T>>,
    begun: bool,
}

impl<T: Send + 'static> Lingering<T> {
    fn new(request: impl Future<Output = T> + Send + 'static) -> Self {
        Self {
            request: Some(Box::pin(request)),
            begun: false,
        }
    }
}

impl<T: Send + 'static> Future for Lingering<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        self.begun = true;
        let Some(request) = &mut self.request else {
            return Poll::Pending;
        };
        let answer = ready!(request.as_mut().poll(cx));
        self.request = None;
        Poll::Ready(answer)
    }
}

impl<T: Send + 'static> Drop for Lingering<T> {
    fn drop(&mut self) {
        if let Some(request) = self.request.take().filter(|_| self.begun)
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(async { tokio::time::timeout(LINGER, request).await.map(drop) });
        }
    }
}

fn seconds(wait: Duration) -> u32 {
    u32::try_from(wait.as_secs()).unwrap_or(u32::MAX)
}

/// An answer's body, of at most `limit` bytes.
pub(crate) async fn bounded_body(
    mut response: reqwest::Response,
    limit: usize,
) -> Result<Vec<u8>, AskError> {
    let mut body = Vec::new();
    while let Some(chunk) = response
        .chunk()
        .await
        .map_err(|e| AskError::Unavailable(describe(&e)))?
    {
        if body.len() + chunk.len() > limit {
            return Err(AskError::Nonsense(format!(
                "the answer is longer than {limit} bytes"
            )));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// An error with its causes: reqwest's own text says only that something failed.
pub(crate) fn describe(error: &reqwest::Error) -> String {
    let mut text = String::new();
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = cause {
        let this = error.to_string();
        if !text.ends_with(&this) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&this);
        }
        cause = error.source();
    }
    text.chars().take(300).collect()
}
