//! A bundle in a federation, and the calls into it.

#![allow(missing_docs, unused_variables, reason = "signatures first")]

use std::sync::Arc;

use modmint_core::{Amount, Argument, OutPoint, PeerId, rest::AuditLine};

use crate::{
    Answer, Bundle, CallError, Called, Context, Host, InputEffect, OutputEffect, RenderItem,
    wallet::{Completion, Event, Transition},
};

/// A bundle in a federation.
#[derive(Debug)]
pub struct Instance {
    bundle: Arc<Bundle>,
    context: Context,
}

impl Instance {
    pub fn new(bundle: Arc<Bundle>, context: Context) -> Arc<Self> {
        Arc::new(Self { bundle, context })
    }
    pub fn bundle(&self) -> &Arc<Bundle> {
        &self.bundle
    }
    pub fn context(&self) -> &Context {
        &self.context
    }

    pub fn render(&self, item: RenderItem, bytes: &[u8]) -> Result<String, CallError> {
        panic!("not written yet")
    }

    pub fn init(&self, host: &Arc<dyn Host>) -> Called<()> {
        panic!("not written yet")
    }
    pub fn process_input(&self, host: &Arc<dyn Host>, input: &[u8]) -> Called<InputEffect> {
        panic!("not written yet")
    }
    pub fn process_output(
        &self,
        host: &Arc<dyn Host>,
        output: &[u8],
        out_point: OutPoint,
    ) -> Called<OutputEffect> {
        panic!("not written yet")
    }
    pub fn process_consensus_item(
        &self,
        host: &Arc<dyn Host>,
        peer: PeerId,
        item: &[u8],
    ) -> Called<()> {
        panic!("not written yet")
    }
    pub fn migrate_server(
        &self,
        host: &Arc<dyn Host>,
        from: u32,
        cursor: Option<Vec<u8>>,
    ) -> Called<Option<Vec<u8>>> {
        panic!("not written yet")
    }
    pub fn audit(&self, host: &Arc<dyn Host>) -> Called<Vec<AuditLine>> {
        panic!("not written yet")
    }

    pub fn propose(&self, host: &Arc<dyn Host>) -> Result<Vec<Vec<u8>>, CallError> {
        panic!("not written yet")
    }
    pub fn broadcast(&self, host: &Arc<dyn Host>) -> Result<Vec<Vec<u8>>, CallError> {
        panic!("not written yet")
    }
    pub fn command(
        &self,
        host: &Arc<dyn Host>,
        name: &str,
        arguments: &[Argument],
    ) -> Result<Vec<Vec<u8>>, CallError> {
        panic!("not written yet")
    }
    pub fn outcomes(
        &self,
        host: &Arc<dyn Host>,
        out_points: &[OutPoint],
    ) -> Result<Vec<Option<Vec<u8>>>, CallError> {
        panic!("not written yet")
    }
    pub fn query(
        &self,
        host: &Arc<dyn Host>,
        name: &str,
        arguments: &[Argument],
    ) -> Result<Answer, CallError> {
        panic!("not written yet")
    }

    pub fn start(
        &self,
        host: &Arc<dyn Host>,
        action: &str,
        arguments: &[Argument],
    ) -> Result<Transition, CallError> {
        panic!("not written yet")
    }
    pub fn advance(
        &self,
        host: &Arc<dyn Host>,
        state: &[u8],
        event: Event,
    ) -> Result<Transition, CallError> {
        panic!("not written yet")
    }
    pub fn recover(
        &self,
        host: &Arc<dyn Host>,
        backup: Option<&[u8]>,
    ) -> Result<Transition, CallError> {
        panic!("not written yet")
    }
    pub fn backup(&self, host: &Arc<dyn Host>) -> Result<Vec<u8>, CallError> {
        panic!("not written yet")
    }
    pub fn migrate_client(
        &self,
        host: &Arc<dyn Host>,
        from: u32,
        cursor: Option<Vec<u8>>,
    ) -> Result<Option<Vec<u8>>, CallError> {
        panic!("not written yet")
    }
    pub fn balance(&self, host: &Arc<dyn Host>) -> Result<Amount, CallError> {
        panic!("not written yet")
    }
    pub fn complete(
        &self,
        host: &Arc<dyn Host>,
        inputs: Amount,
        outputs: Amount,
    ) -> Result<Completion, CallError> {
        panic!("not written yet")
    }
}
