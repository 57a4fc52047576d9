//! The calls into modules that the pipeline makes. `Instance` answers them; so do
//! the toys of the tests.

use std::sync::Arc;

use modmint_core::{Argument, OutPoint, PeerId, rest::AuditLine};
use modmint_runtime::{
    Answer, CallError, Called, Endpoint, Host, InputEffect, Instance, ItemCalls, OutputEffect,
    RenderItem,
};

type Asked<T> = Result<T, CallError>;

pub(super) trait Module: Send + Sync + 'static {
    // Metered: on guest threads alone.
    fn init(&self, host: &Arc<dyn Host>) -> Called<()>;
    /// Begins a transaction's inputs or outputs.
    fn transaction<'a>(&'a self, host: Arc<dyn Host>) -> Box<dyn Parts + 'a>;
    fn process_item(&self, host: &Arc<dyn Host>, peer: PeerId, item: &[u8]) -> Called<()>;
    fn audit(&self, host: &Arc<dyn Host>) -> Called<Vec<AuditLine>>;

    // With a time limit.
    fn propose(&self, host: &Arc<dyn Host>) -> Asked<Vec<Vec<u8>>>;
    fn broadcast(&self, host: &Arc<dyn Host>) -> Asked<Vec<Vec<u8>>>;
    fn outcomes(
        &self,
        host: &Arc<dyn Host>,
        out_points: &[OutPoint],
    ) -> Asked<Vec<Option<Vec<u8>>>>;
    fn queries(&self) -> &[Endpoint];
    fn query(&self, host: &Arc<dyn Host>, name: &str, arguments: &[Argument]) -> Asked<Answer>;
    /// JSON of a query's answer.
    fn render_answer(&self, name: &str, answer: &[u8]) -> Asked<String>;
}

/// What follows each other of a transaction's inputs and outputs in one instance.
/// While it lives, its thread calls no other.
pub(super) trait Parts {
    fn process_input(&mut self, input: &[u8]) -> Called<InputEffect>;
    fn process_output(&mut self, output: &[u8], at: OutPoint) -> Called<OutputEffect>;
}

impl Parts for ItemCalls<'_> {
    fn process_input(&mut self, input: &[u8]) -> Called<InputEffect> {
        self.process_input(input)
    }
    fn process_output(&mut self, output: &[u8], at: OutPoint) -> Called<OutputEffect> {
        self.process_output(output, at)
    }
}

impl Module for Instance {
    fn init(&self, host: &Arc<dyn Host>) -> Called<()> {
        self.init(host)
    }
    fn transaction<'a>(&'a self, host: Arc<dyn Host>) -> Box<dyn Parts + 'a> {
        Box::new(self.item(host))
    }
    fn process_item(&self, host: &Arc<dyn Host>, peer: PeerId, item: &[u8]) -> Called<()> {
        self.process_consensus_item(host, peer, item)
    }
    fn audit(&self, host: &Arc<dyn Host>) -> Called<Vec<AuditLine>> {
        self.audit(host)
    }
    fn propose(&self, host: &Arc<dyn Host>) -> Asked<Vec<Vec<u8>>> {
        self.propose(host)
    }
    fn broadcast(&self, host: &Arc<dyn Host>) -> Asked<Vec<Vec<u8>>> {
        self.broadcast(host)
    }
    fn outcomes(
        &self,
        host: &Arc<dyn Host>,
        out_points: &[OutPoint],
    ) -> Asked<Vec<Option<Vec<u8>>>> {
        self.outcomes(host, out_points)
    }
    fn queries(&self) -> &[Endpoint] {
        &self.bundle().description().queries
    }
    fn query(&self, host: &Arc<dyn Host>, name: &str, arguments: &[Argument]) -> Asked<Answer> {
        self.query(host, name, arguments)
    }
    fn render_answer(&self, name: &str, answer: &[u8]) -> Asked<String> {
        self.render(RenderItem::Answer(name.to_owned()), answer)
    }
}
