//! The wallets' half of a module, as the executor calls it.

use std::sync::Arc;

use modmint_core::{Amount, Argument, BundleHash};
use modmint_runtime::{
    Action, CallError, Host, Instance,
    wallet::{Completion, Event, Transition},
};

/// What the executor asks of a module. [`Instance`] is the one that runs
/// bundles; tests have others.
pub trait ClientHalf: Send + Sync + 'static {
    /// The bundle behind it.
    fn bundle(&self) -> BundleHash;
    /// The bundle's version and its summary, for people.
    fn about(&self) -> (&str, &str);
    /// Whether it has a half for wallets; one that has none takes no part here but
    /// to say what it is.
    fn has_client(&self) -> bool;
    /// What it is able to do, in words, from its imports alone; of a bundle.
    fn capabilities(&self) -> &[String] {
        &[]
    }
    /// What can be asked of it.
    fn actions(&self) -> &[Action];
    /// Whether it holds the wallet's money.
    fn is_ecash(&self) -> bool;
    /// Begins a machine.
    ///
    /// # Errors
    /// The module refuses or breaks, or the host's storage does.
    fn start(
        &self,
        host: &Arc<dyn Host>,
        action: &str,
        arguments: &[Argument],
    ) -> Result<Transition, CallError>;
    /// Tells a machine what happened.
    ///
    /// # Errors
    /// As [`ClientHalf::start`].
    fn advance(
        &self,
        host: &Arc<dyn Host>,
        state: &[u8],
        event: Event,
    ) -> Result<Transition, CallError>;
    /// Begins the machine that finds this module's money again.
    ///
    /// # Errors
    /// As [`ClientHalf::start`].
    fn recover(&self, host: &Arc<dyn Host>) -> Result<Transition, CallError>;
    /// What can be spent now; of the e-cash module alone.
    ///
    /// # Errors
    /// As [`ClientHalf::start`].
    fn balance(&self, host: &Arc<dyn Host>) -> Result<Amount, CallError>;
    /// Makes a transaction even; of the e-cash module alone.
    ///
    /// # Errors
    /// As [`ClientHalf::start`].
    fn complete(
        &self,
        host: &Arc<dyn Host>,
        inputs: Amount,
        outputs: Amount,
    ) -> Result<Completion, CallError>;
}

impl ClientHalf for Instance {
    fn bundle(&self) -> BundleHash {
        Instance::bundle(self).hash()
    }

    fn about(&self) -> (&str, &str) {
        let description = Instance::bundle(self).description();
        (&description.version, &description.summary)
    }

    fn has_client(&self) -> bool {
        Instance::bundle(self).has_client()
    }

    fn capabilities(&self) -> &[String] {
        Instance::bundle(self).capabilities()
    }

    fn actions(&self) -> &[Action] {
        Instance::bundle(self).actions()
    }

    fn is_ecash(&self) -> bool {
        Instance::bundle(self).has_ecash()
    }

    fn start(
        &self,
        host: &Arc<dyn Host>,
        action: &str,
        arguments: &[Argument],
    ) -> Result<Transition, CallError> {
        Instance::start(self, host, action, arguments)
    }

    fn advance(
        &self,
        host: &Arc<dyn Host>,
        state: &[u8],
        event: Event,
    ) -> Result<Transition, CallError> {
        Instance::advance(self, host, state, event)
    }

    fn recover(&self, host: &Arc<dyn Host>) -> Result<Transition, CallError> {
        Instance::recover(self, host, None)
    }

    fn balance(&self, host: &Arc<dyn Host>) -> Result<Amount, CallError> {
        Instance::balance(self, host)
    }

    fn complete(
        &self,
        host: &Arc<dyn Host>,
        inputs: Amount,
        outputs: Amount,
    ) -> Result<Completion, CallError> {
        Instance::complete(self, host, inputs, outputs)
    }
}
