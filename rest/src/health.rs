//! How a daemon is, check by check.

use axum::{
    Json,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use modmint_core::rest::{CheckResponse, HealthResponse};

/// The answer of `/readyz`, never kept by anybody: 200 if all required checks are well,
/// else 503, with the problems of those that are not.
pub fn health(checks: Vec<CheckResponse>) -> Response {
    let failed = || checks.iter().filter(|check| check.required && !check.ok);
    let problems = failed().flat_map(|check| check.problems.clone()).collect();
    let (code, status) = match failed().next() {
        None => (StatusCode::OK, "ok"),
        Some(_) => (StatusCode::SERVICE_UNAVAILABLE, "not-ready"),
    };
    let health = HealthResponse {
        status: status.to_owned(),
        problems,
        checks,
    };
    (code, [(header::CACHE_CONTROL, "no-store")], Json(health)).into_response()
}
