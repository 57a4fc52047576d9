//! What the pipeline refuses, as the API says it.

use axum::http::StatusCode;
use modmint_rest::Failure;

use crate::pipeline::{QueryError, SubmitError};

impl From<SubmitError> for Failure {
    fn from(error: SubmitError) -> Self {
        let (code, detail) = (error.code().to_owned(), error.to_string());
        match error {
            SubmitError::Malformed(_) => Self::malformed(&code, detail),
            SubmitError::Expired { .. } | SubmitError::ExpiresTooLate { .. } => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, &code, detail)
            }
            SubmitError::Refused {
                refusal,
                input,
                output,
            } => {
                let status = StatusCode::UNPROCESSABLE_ENTITY;
                Self::new(status, &code, refusal.message).of_part(input, output)
            }
            SubmitError::Busy { .. } | SubmitError::CatchingUp(_) => {
                Self::later(StatusCode::SERVICE_UNAVAILABLE, &code, detail)
            }
            SubmitError::Failed(cause) => Self::internal(cause),
        }
    }
}

impl From<QueryError> for Failure {
    fn from(error: QueryError) -> Self {
        let (code, detail) = (error.code().to_owned(), error.to_string());
        match error {
            QueryError::UnknownInstance(_) | QueryError::UnknownQuery { .. } => {
                Self::not_found(&code, detail)
            }
            QueryError::Arguments(refusal) => Self::malformed(&code, refusal.message),
            QueryError::TooMany { .. } => Self::malformed(&code, detail),
            QueryError::Failed(cause) => Self::internal(cause),
        }
    }
}
