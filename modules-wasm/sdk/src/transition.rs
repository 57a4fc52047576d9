//! What a machine returns, built up step by step.

use crate::{
    Agreement, Argument, Effect, Json, OutPoint, OutcomeRequest, Plan, Progress, QueryRequest,
    Refusal, ServiceRequest, Want,
};

/// A machine's next state and what it waits for. The effects replace those of the
/// transition before; one that is named again goes on undisturbed.
#[derive(Clone, Debug)]
pub struct Transition<S> {
    /// The state.
    pub state: S,
    /// What it waits for.
    pub effects: Vec<Effect>,
    /// How the operation stands, if there is something to say.
    pub progress: Option<Progress>,
    /// With this the machine ends.
    pub finished: Option<Result<(), Refusal>>,
}

impl<S> Transition<S> {
    /// To this state, waiting for nothing yet.
    pub fn to(state: S) -> Self {
        Self {
            state,
            effects: Vec::new(),
            progress: None,
            finished: None,
        }
    }

    /// To this state, at the machine's end.
    pub fn done(state: S) -> Self {
        Self {
            finished: Some(Ok(())),
            ..Self::to(state)
        }
    }

    /// To this state, at the machine's end: what was asked for could not be done.
    pub fn failed(state: S, refusal: Refusal) -> Self {
        Self {
            finished: Some(Err(refusal)),
            ..Self::to(state)
        }
    }

    /// Waits for this.
    pub fn want(mut self, id: u32, want: Want) -> Self {
        self.effects.push(Effect { id, want });
        self
    }

    /// Waits for a transaction's fate.
    pub fn submit(self, id: u32, plan: Plan) -> Self {
        self.want(id, Want::Submit(plan))
    }

    /// Waits for outputs' outcomes.
    pub fn outcomes(self, id: u32, out_points: Vec<OutPoint>, agreement: Agreement) -> Self {
        self.want(
            id,
            Want::Outcomes(OutcomeRequest {
                out_points,
                agreement,
            }),
        )
    }

    /// Waits for a query's answers.
    pub fn query(
        self,
        id: u32,
        name: &str,
        arguments: Vec<Argument>,
        agreement: Agreement,
    ) -> Self {
        self.want(
            id,
            Want::Query(QueryRequest {
                name: name.to_owned(),
                arguments,
                agreement,
            }),
        )
    }

    /// Waits for a time, seconds since 1970.
    pub fn until(self, id: u32, unix_time: u64) -> Self {
        self.want(id, Want::Until(unix_time))
    }

    /// Asks the application around the wallet.
    pub fn service(self, id: u32, name: &str, request: Vec<u8>) -> Self {
        self.want(
            id,
            Want::Service(ServiceRequest {
                name: name.to_owned(),
                request,
            }),
        )
    }

    /// Says how the operation stands.
    pub fn progress(mut self, stage: &str, message: impl Into<String>, details: Json) -> Self {
        self.progress = Some(Progress {
            stage: stage.to_owned(),
            message: message.into(),
            details: details.to_string(),
        });
        self
    }
}
