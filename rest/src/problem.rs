//! Errors, all of one shape: RFC 9457 problems with a stable code.

use std::time::Duration;

use axum::{
    extract::{
        FromRequest, FromRequestParts, Path, Query, Request,
        rejection::{BytesRejection, PathRejection, QueryRejection},
    },
    http::{HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use modmint_core::rest::Problem;
use serde::de::DeserializeOwned;

/// The media type of [`Problem`].
pub const PROBLEM_JSON: &str = "application/problem+json";

/// The longest explanation that is given: what a client sends comes back in it.
const MAX_DETAIL_CHARS: usize = 500;

/// An error on its way to the client.
#[derive(Debug)]
pub struct Failure {
    problem: Box<Problem>,
    /// Seconds, where trying again later helps.
    retry_after: Option<u64>,
}

impl Failure {
    /// An error of this status with a stable code, and for people what was refused,
    /// why, and what would be accepted.
    pub fn new(status: StatusCode, code: &str, detail: impl Into<String>) -> Self {
        let detail: String = detail.into();
        Self {
            problem: Box::new(Problem {
                kind: format!("about:blank#{code}"),
                title: status.canonical_reason().unwrap_or("Error").to_owned(),
                status: status.as_u16(),
                detail: detail.chars().take(MAX_DETAIL_CHARS).collect(),
                code: code.to_owned(),
                input: None,
                output: None,
            }),
            retry_after: None,
        }
    }

    /// The client asks for what is not there.
    pub fn not_found(code: &str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, code, detail)
    }

    /// The client sends what makes no sense.
    pub fn malformed(code: &str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, detail)
    }

    /// It is not the client's fault. The cause is logged, not told.
    pub fn internal(cause: impl std::fmt::Display) -> Self {
        tracing::error!("a request failed: {cause}");
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "the request could not be answered, and the log of this program says why",
        )
    }

    /// Later it may go better.
    pub fn later(status: StatusCode, code: &str, detail: impl Into<String>) -> Self {
        Self::after(Duration::ZERO, status, code, detail)
    }

    /// Names the part of a transaction that is refused.
    #[must_use]
    pub fn of_part(mut self, input: Option<u16>, output: Option<u16>) -> Self {
        self.problem.input = input;
        self.problem.output = output;
        self
    }

    /// After so long, a second at least, it goes better.
    pub fn after(
        wait: Duration,
        status: StatusCode,
        code: &str,
        detail: impl Into<String>,
    ) -> Self {
        let wait = wait + Duration::from_nanos(999_999_999);
        Self {
            retry_after: Some(wait.as_secs().max(1)),
            ..Self::new(status, code, detail)
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status =
            StatusCode::from_u16(self.problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        // A problem is a map of texts and numbers: encoding it cannot fail.
        let body = serde_json::to_vec(&self.problem).unwrap_or_default();
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// A JSON body.
pub struct Body<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        if !is_json(&request) {
            return Err(Failure::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "wrong-content-type",
                "the body must be JSON, and the header Content-Type: application/json say so",
            ));
        }
        let bytes = Bytes::from_request(request, state)
            .await
            .map_err(|e: BytesRejection| Failure::malformed("malformed-body", e.body_text()))?;
        match serde_json::from_slice(&bytes) {
            Ok(value) => Ok(Self(value)),
            Err(e) => Err(Failure::malformed(
                "malformed-body",
                format!("the body is not what this route takes, see /openapi.json: {e}"),
            )),
        }
    }
}

fn is_json(request: &Request) -> bool {
    let kind = request.headers().get(header::CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or("");
    let essence = kind.split(';').next().unwrap_or("").trim();
    essence.eq_ignore_ascii_case("application/json")
}

/// The path's parameters.
pub struct Segments<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Segments<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let Path(value) = Path::from_request_parts(parts, state)
            .await
            .map_err(|e: PathRejection| Failure::malformed("malformed-path", e.body_text()))?;
        Ok(Self(value))
    }
}

/// What stands behind the question mark.
pub struct Parameters<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Parameters<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let Query(value) = Query::from_request_parts(parts, state)
            .await
            .map_err(|e: QueryRejection| Failure::malformed("malformed-query", e.body_text()))?;
        Ok(Self(value))
    }
}
