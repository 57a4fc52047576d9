//! Why a route does not answer what was asked for.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use modmint_core::{Refusal, rest::Problem};
use modmint_rest::{Failure, PROBLEM_JSON};

use super::types::ActionProblem;
use crate::{NOT_ENOUGH_MONEY, OperationId, SpendQuote, WalletError};

/// What a route answers.
pub(super) type Answer<T> = Result<Json<T>, Error>;

/// See the module.
pub(super) enum Error {
    Plain(Failure),
    /// One that says more than the others.
    OfAction(Box<ActionProblem>),
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let problem = match self {
            Self::Plain(failure) => return failure.into_response(),
            Self::OfAction(problem) => problem,
        };
        let status = StatusCode::from_u16(problem.problem.status)
            .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(problem)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        Self::Plain(failure)
    }
}

impl From<WalletError> for Error {
    fn from(error: WalletError) -> Self {
        if let WalletError::ConfirmationNeeded(quote) = error {
            return Self::unconfirmed(*quote, None);
        }
        let (code, text) = (error.code().to_owned(), error.to_string());
        Self::Plain(match error {
            WalletError::NotFound(_) => Failure::not_found(&code, text),
            WalletError::Usage(_) => Failure::malformed(&code, text),
            WalletError::InsufficientFunds(refusal) | WalletError::Refused(refusal) => {
                refused(&refusal)
            }
            WalletError::Untrusted(_) => {
                Failure::new(StatusCode::UNPROCESSABLE_ENTITY, &code, text)
            }
            WalletError::Unreachable(_) => {
                Failure::later(StatusCode::SERVICE_UNAVAILABLE, &code, text)
            }
            WalletError::Closed => Failure::later(
                StatusCode::SERVICE_UNAVAILABLE,
                "ending",
                "the wallet is ending; ask again when it runs",
            ),
            error => Failure::internal(error),
        })
    }
}

/// Codes of refusals by how things stand, which another request may change.
const BY_STATE: &[&str] = &[
    NOT_ENOUGH_MONEY,
    "idempotency-mismatch",
    "nothing-to-confirm",
    "operation-over",
];

fn status_of(code: &str) -> StatusCode {
    if BY_STATE.contains(&code) {
        StatusCode::CONFLICT
    } else {
        StatusCode::UNPROCESSABLE_ENTITY
    }
}

fn refused(refusal: &Refusal) -> Failure {
    // It comes to its end by itself.
    if refusal.code == "recovering" {
        return Failure::later(
            StatusCode::SERVICE_UNAVAILABLE,
            &refusal.code,
            "the wallet is still finding its money again; its operations say how far it is",
        );
    }
    Failure::new(status_of(&refusal.code), &refusal.code, &*refusal.message)
}

impl Error {
    /// A spend that nobody has allowed; with the operation, if one has begun and asks.
    pub(super) fn unconfirmed(quote: SpendQuote, operation: Option<OperationId>) -> Self {
        let detail = format!(
            "this takes {} from the balance, which was not allowed; {}max_spend_msat of {} or more allows it",
            quote.total,
            match operation {
                Some(_) => "its route confirm, with ",
                None => "nothing has happened: the same request with ",
            },
            quote.total.msat()
        );
        Self::OfAction(Box::new(ActionProblem {
            problem: problem(StatusCode::CONFLICT, "confirmation-needed", detail),
            quote: Some(quote),
            operation,
        }))
    }

    /// An operation that has begun and come to nothing.
    pub(super) fn failed(refusal: &Refusal, operation: OperationId) -> Self {
        let detail = refusal.message.clone();
        Self::OfAction(Box::new(ActionProblem {
            problem: problem(status_of(&refusal.code), &refusal.code, detail),
            quote: None,
            operation: Some(operation),
        }))
    }
}

/// As [`Failure`] has it.
fn problem(status: StatusCode, code: &str, detail: String) -> Problem {
    Problem {
        kind: format!("about:blank#{code}"),
        title: status.canonical_reason().unwrap_or("Error").to_owned(),
        status: status.as_u16(),
        detail,
        code: code.to_owned(),
        input: None,
        output: None,
    }
}
