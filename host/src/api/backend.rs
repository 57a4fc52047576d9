//! What the routes ask, so that they can be tested without a federation.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use modmint_core::{
    Argument, Hash32, InstanceId, OutPoint, TxId,
    consensus::SignedHeader,
    rest::{
        AuditResponse, ChainOutputResponse, CheckResponse, QueryResponse, StatusResponse,
        SubmitResponse, TransactionResponse,
    },
};

use crate::{
    health::Health,
    p2p::P2p,
    pipeline::{Pipeline, QueryError, SubmitError},
};

/// Answers the routes' questions. What is not `async` may block, for as long as a
/// disk or a module takes.
#[async_trait]
pub(super) trait Backend: Send + Sync + 'static {
    /// Takes a transaction to be decided.
    fn submit(&self, bytes: &[u8]) -> Result<SubmitResponse, SubmitError>;

    /// Where a transaction stands, at the latest after `wait`, once that is final.
    async fn transaction(&self, txid: &TxId, wait: Duration) -> TransactionResponse;

    /// Contributions to outcomes, at the latest after `wait`, once all are there.
    async fn outcomes(
        &self,
        instance: InstanceId,
        out_points: &[OutPoint],
        wait: Duration,
    ) -> Result<Vec<Option<Vec<u8>>>, QueryError>;

    /// A module's answer, at the latest after `wait`, once there is one.
    async fn query(
        &self,
        instance: InstanceId,
        name: &str,
        arguments: &[Argument],
        wait: Duration,
    ) -> Result<QueryResponse, QueryError>;

    /// Where this guardian stands, with all that is wrong.
    fn status(&self) -> StatusResponse;

    /// Whether this guardian can serve, check by check.
    fn checks(&self) -> Vec<CheckResponse>;

    /// What the federation has and owes.
    fn audit(&self) -> Result<AuditResponse, QueryError>;

    /// A session's header, signed by n − f; without an index the latest.
    fn signed_header(&self, session: Option<u64>) -> Option<SignedHeader>;

    /// The agreed block's hash at this height.
    fn block_hash(&self, height: u32) -> Option<Hash32>;

    /// The agreed output at this place of the chain.
    fn chain_output_at(&self, txid: &Hash32, index: u32) -> Option<ChainOutputResponse>;

    /// The agreed outputs that pay to `script`.
    fn chain_outputs(&self, script: &[u8]) -> Vec<ChainOutputResponse>;

    /// Whether this instance is paused.
    fn paused(&self, instance: InstanceId) -> bool;
}

/// A guardian that runs.
pub(super) struct Live {
    pub pipeline: Arc<Pipeline>,
    pub p2p: Arc<P2p>,
    pub health: Arc<Health>,
}

#[async_trait]
impl Backend for Live {
    fn submit(&self, bytes: &[u8]) -> Result<SubmitResponse, SubmitError> {
        if let Some(problem) = self.health.catching_up() {
            return Err(SubmitError::CatchingUp(problem));
        }
        self.pipeline.submit(bytes)
    }

    async fn transaction(&self, txid: &TxId, wait: Duration) -> TransactionResponse {
        self.pipeline.wait_transaction(txid, wait).await
    }

    async fn outcomes(
        &self,
        instance: InstanceId,
        out_points: &[OutPoint],
        wait: Duration,
    ) -> Result<Vec<Option<Vec<u8>>>, QueryError> {
        self.pipeline.outcomes(instance, out_points, wait).await
    }

    async fn query(
        &self,
        instance: InstanceId,
        name: &str,
        arguments: &[Argument],
        wait: Duration,
    ) -> Result<QueryResponse, QueryError> {
        self.pipeline.query(instance, name, arguments, wait).await
    }

    fn status(&self) -> StatusResponse {
        let mut status = self.pipeline.status();
        status.peers = self.p2p.status();
        // What keeps it from serving comes first. What the pipeline reports (the
        // chain, a paused module) leaves the rest working.
        let (required, others): (Vec<_>, Vec<_>) =
            self.checks().into_iter().partition(|check| check.required);
        let problems_of = |checks: Vec<CheckResponse>| checks.into_iter().flat_map(|c| c.problems);
        let mut problems: Vec<String> = problems_of(required).collect();
        problems.append(&mut status.problems);
        problems.extend(self.p2p.problems());
        problems.extend(problems_of(others));
        status.problems = problems;
        status
    }

    fn checks(&self) -> Vec<CheckResponse> {
        self.health.checks()
    }

    fn audit(&self) -> Result<AuditResponse, QueryError> {
        self.pipeline.audit()
    }

    fn signed_header(&self, session: Option<u64>) -> Option<SignedHeader> {
        let session = session.or_else(|| self.pipeline.latest_signed_session())?;
        self.pipeline.signed_header(session)
    }

    fn block_hash(&self, height: u32) -> Option<Hash32> {
        self.pipeline.block_hash(height)
    }

    fn chain_output_at(&self, txid: &Hash32, index: u32) -> Option<ChainOutputResponse> {
        self.pipeline.chain_output_at(&txid.0, index)
    }

    fn chain_outputs(&self, script: &[u8]) -> Vec<ChainOutputResponse> {
        self.pipeline.chain_outputs(script)
    }

    fn paused(&self, instance: InstanceId) -> bool {
        self.pipeline.paused(instance)
    }
}
