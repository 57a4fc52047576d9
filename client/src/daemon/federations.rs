//! Routes about federations: which there are, what they offer, what is there to spend.
#![allow(
    unused_qualifications,
    reason = "utoipa's macro writes some that are not needed"
)]

use std::time::Duration;

use axum::{Json, extract::State};
use modmint_core::{Amount, FederationId, config::Invite, rest::Problem};
use modmint_rest::{Body, Failure, Segments};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    api::{Api, to_its_end},
    error::{Answer, Error},
    types::{
        BalanceResponse, BalancesResponse, FederationResponse, GuardiansResponse, InviteRequest,
        JoinedResponse, ModuleResponse, PreviewResponse,
    },
};
use crate::{Federation, ModuleView, OperationStatus, OperationView, WalletError};

/// How long each guardian may take to say how it is.
const PROBE: Duration = Duration::from_secs(1);
/// How long what could not begin rests before it is tried again.
const BEGIN_AGAIN: Duration = Duration::from_secs(30);

pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(list, join))
        .routes(routes!(preview))
        .routes(routes!(federation))
        .routes(routes!(balances))
        .routes(routes!(guardians))
        .routes(routes!(modules))
        .routes(routes!(module))
}

/// Has what begins with joining begin once the wallet has found its money again: a
/// process that runs for months does not leave it to the next start.
pub(super) async fn begin_once_found(federation: Federation) {
    loop {
        let begun = async {
            for view in federation.recoveries().await? {
                let over = |view: &OperationView| {
                    let ended =
                        matches!(view.status, OperationStatus::Done | OperationStatus::Failed);
                    ended && !view.settling
                };
                federation.wait(view.operation, over).await?;
            }
            federation.begin().await?;
            Ok::<_, WalletError>(federation.recoveries().await?.is_empty())
        };
        match begun.await {
            Ok(true) | Err(WalletError::Closed) => return,
            Ok(false) => {}
            Err(e) => tracing::warn!(federation = %federation.id(), "cannot begin: {e}"),
        }
        tokio::time::sleep(BEGIN_AGAIN).await;
    }
}

/// None if the federation's module does not say: that is its own trouble, and no other
/// federation's.
async fn balance(federation: &Federation) -> Option<u64> {
    let balance = federation.balance().await;
    if let Err(e) = &balance {
        tracing::warn!(federation = %federation.id(), "there is no balance: {e}");
    }
    balance.ok().map(Amount::msat)
}

async fn described(federation: &Federation) -> Result<FederationResponse, WalletError> {
    let config = federation.config();
    Ok(FederationResponse {
        federation: federation.id(),
        name: config.name.clone(),
        network: config.network,
        balance_msat: balance(federation).await,
        recovering: !federation.recoveries().await?.is_empty(),
        invite: federation.invite(),
    })
}

async fn module_of(
    federation: &Federation,
    view: &ModuleView,
) -> Result<ModuleResponse, WalletError> {
    let capabilities = federation.capabilities(view.instance).await?;
    let ecash = federation.ecash_instance();
    let config = federation.config();
    Ok(ModuleResponse::of(view, capabilities, ecash, config))
}

async fn modules_of(federation: &Federation) -> Result<Vec<ModuleResponse>, WalletError> {
    let mut all = Vec::new();
    for view in federation.modules().await? {
        all.push(module_of(federation, &view).await?);
    }
    Ok(all)
}

async fn joined(federation: &Federation) -> Result<JoinedResponse, WalletError> {
    Ok(JoinedResponse {
        federation: described(federation).await?,
        modules: modules_of(federation).await?,
    })
}

/// The module that a path names: by its number, by its kind if there is one of it, or
/// as `kind:number`.
pub(super) async fn named(federation: &Federation, name: &str) -> Result<ModuleView, Error> {
    let config = federation.config();
    let number = config
        .instances
        .iter()
        .find(|instance| instance.id.to_string() == name)
        .map(|instance| instance.id);
    let instance = match number.map_or_else(|| federation.instance(name), Ok) {
        Ok(instance) => instance,
        Err(WalletError::NotFound(text)) => {
            return Err(Failure::not_found("unknown-module", text).into());
        }
        Err(WalletError::Usage(text)) => {
            return Err(Failure::malformed("several-modules", text).into());
        }
        Err(e) => return Err(e.into()),
    };
    Ok(federation.module(instance).await?)
}

/// All federations that were joined.
#[utoipa::path(get, path = "/v1/federations", security(("key" = [])),
    responses(
        (status = 200, body = Vec<FederationResponse>),
        (status = 401, description = "`unauthenticated`", body = Problem),
    ))]
async fn list(State(api): State<Api>) -> Answer<Vec<FederationResponse>> {
    let mut all = Vec::new();
    for federation in api.wallet.federations() {
        all.push(described(&federation).await?);
    }
    Ok(Json(all))
}

fn invited(request: &InviteRequest) -> Result<Invite, Failure> {
    let invite = request.invite.trim().parse::<Invite>();
    invite.map_err(|e| Failure::malformed("bad-invite", e.to_string()))
}

/// Joins a federation: fetches its config and modules and verifies them by the invite's
/// hash. Joining again changes nothing. Of a wallet that was made of given words,
/// modules look for its money first.
#[utoipa::path(post, path = "/v1/federations", security(("key" = [])),
    request_body = InviteRequest,
    responses(
        (status = 200, body = JoinedResponse),
        (status = 400, description = "`bad-invite`", body = Problem),
        (status = 401, description = "`unauthenticated`", body = Problem),
        (status = 422, description = "`untrusted`: what is served is not what the invite names", body = Problem),
        (status = 503, description = "`federation-unreachable`", body = Problem),
    ))]
async fn join(
    State(api): State<Api>,
    Body(request): Body<InviteRequest>,
) -> Answer<JoinedResponse> {
    let invite = invited(&request)?;
    to_its_end(async move {
        let federation = api.wallet.join(&invite).await?;
        tokio::spawn(begin_once_found(federation.clone()));
        Ok(Json(joined(&federation).await?))
    })
    .await
}

/// What joining would bring: who runs the federation, and its modules with what each is
/// able to do. Nothing is joined.
#[utoipa::path(post, path = "/v1/federations/preview", security(("key" = [])),
    request_body = InviteRequest,
    responses(
        (status = 200, body = PreviewResponse),
        (status = 400, description = "`bad-invite`", body = Problem),
        (status = 401, description = "`unauthenticated`", body = Problem),
        (status = 422, description = "`untrusted`", body = Problem),
        (status = 503, description = "`federation-unreachable`", body = Problem),
    ))]
async fn preview(
    State(api): State<Api>,
    Body(request): Body<InviteRequest>,
) -> Answer<PreviewResponse> {
    let preview = api.wallet.preview(&invited(&request)?).await?;
    let config = &preview.config;
    let modules = preview.modules.iter().map(|(view, capabilities)| {
        ModuleResponse::of(view, capabilities.clone(), preview.ecash, config)
    });
    Ok(Json(PreviewResponse {
        federation: config.id(),
        name: config.name.clone(),
        network: config.network,
        guardians: config.peers.iter().map(|peer| peer.name.clone()).collect(),
        faulty: config.max_faulty(),
        base_fee_msat_per_kilobyte: config.base_fee.msat_per_kilobyte,
        modules: modules.collect(),
    }))
}

/// One federation.
#[utoipa::path(get, path = "/v1/federations/{id}", security(("key" = [])),
    params(("id" = FederationId, Path)),
    responses(
        (status = 200, body = JoinedResponse),
        (status = 401, description = "`unauthenticated`", body = Problem),
        (status = 404, description = "`unknown-federation`", body = Problem),
    ))]
async fn federation(
    State(api): State<Api>,
    Segments(id): Segments<FederationId>,
) -> Answer<JoinedResponse> {
    Ok(Json(joined(&api.federation(&id)?).await?))
}

/// What can be spent in each federation.
#[utoipa::path(get, path = "/v1/balances", security(("key" = [])),
    responses(
        (status = 200, body = BalancesResponse),
        (status = 401, description = "`unauthenticated`", body = Problem),
    ))]
async fn balances(State(api): State<Api>) -> Answer<BalancesResponse> {
    let mut federations = Vec::new();
    for federation in api.wallet.federations() {
        let config = federation.config();
        federations.push(BalanceResponse {
            federation: federation.id(),
            name: config.name.clone(),
            network: config.network,
            balance_msat: balance(&federation).await,
        });
    }
    Ok(Json(BalancesResponse { federations }))
}

/// The guardians and how they are. Each is asked for this.
#[utoipa::path(get, path = "/v1/federations/{id}/guardians", security(("key" = [])),
    params(("id" = FederationId, Path)),
    responses(
        (status = 200, body = GuardiansResponse),
        (status = 401, description = "`unauthenticated`", body = Problem),
        (status = 404, description = "`unknown-federation`", body = Problem),
    ))]
async fn guardians(
    State(api): State<Api>,
    Segments(id): Segments<FederationId>,
) -> Answer<GuardiansResponse> {
    let federation = api.federation(&id)?;
    federation.guardians().probe(PROBE).await;
    let threshold = federation.config().threshold();
    let all = federation.guardian_views();
    let answer = all.iter().filter(|one| one.health.failures == 0).count();
    if answer >= threshold
        && let Err(e) = federation.refresh().await
    {
        tracing::debug!("what guardians have agreed on is not told: {e}");
    }
    Ok(Json(GuardiansResponse {
        reachable: answer >= threshold,
        threshold,
        agreed: federation.view().into(),
        guardians: all.into_iter().map(Into::into).collect(),
    }))
}

/// A federation's modules, and what can be asked of each.
#[utoipa::path(get, path = "/v1/federations/{id}/modules", security(("key" = [])),
    params(("id" = FederationId, Path)),
    responses(
        (status = 200, body = Vec<ModuleResponse>),
        (status = 401, description = "`unauthenticated`", body = Problem),
        (status = 404, description = "`unknown-federation`", body = Problem),
    ))]
async fn modules(
    State(api): State<Api>,
    Segments(id): Segments<FederationId>,
) -> Answer<Vec<ModuleResponse>> {
    Ok(Json(modules_of(&api.federation(&id)?).await?))
}

/// One module.
#[utoipa::path(get, path = "/v1/federations/{id}/modules/{module}", security(("key" = [])),
    params(
        ("id" = FederationId, Path),
        ("module" = String, Path, description = "Its number, its kind, or `kind:number`"),
    ),
    responses(
        (status = 200, body = ModuleResponse),
        (status = 400, description = "`several-modules` are of this kind: `kind:number` is expected", body = Problem),
        (status = 401, description = "`unauthenticated`", body = Problem),
        (status = 404, description = "`unknown-federation`, `unknown-module`", body = Problem),
    ))]
async fn module(
    State(api): State<Api>,
    Segments((id, name)): Segments<(FederationId, String)>,
) -> Answer<ModuleResponse> {
    let federation = api.federation(&id)?;
    let view = named(&federation, &name).await?;
    Ok(Json(module_of(&federation, &view).await?))
}
