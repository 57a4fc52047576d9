//! What the application around a wallet can do for its modules beyond the contract:
//! the `service` effect.

use async_trait::async_trait;
use modmint_core::{FederationId, Refusal};

/// Serves modules. A wallet without any refuses every request with
/// [`no_such_service`].
#[async_trait]
pub trait Services: Send + Sync + 'static {
    /// Answers a module of `federation` that asks for the service `name`, for
    /// example `lightning.pay`; `request` and the answer are in the service's own
    /// encoding. It may take as long as it takes: the module waits.
    ///
    /// A request is made again after a restart, and until its answer is written: an
    /// answer once given must be the answer for ever.
    ///
    /// # Errors
    /// What the module is told as `failed`: it is final too.
    async fn serve(
        &self,
        federation: FederationId,
        name: &str,
        request: &[u8],
    ) -> Result<Vec<u8>, Refusal>;
}

/// What a module is told that asks for what there is not.
pub fn no_such_service(name: &str) -> Refusal {
    Refusal::new(
        "no-such-service",
        format!("this wallet has no service {name:?}"),
    )
}
