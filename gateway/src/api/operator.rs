//! For the operator: keys with scopes, see `keys`.

use axum::{Json, extract::State, http::StatusCode};
use modmint_core::{
    Amount, FederationId,
    config::{FederationConfig, Invite},
    rest::Problem,
};
use modmint_rest::{Body, Failure, Parameters, Segments};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Answer, Api, Error, to_its_end,
    types::{
        AddressResponse, BalancesResponse, ChannelResponse, ConnectRequest, FederationBalance,
        GatewayInfoResponse, JoinRequest, LoggedPayment, MembershipResponse, PaymentsResponse,
        SendRequest, SendResponse, SummaryLine, SummaryResponse, TermsChange, WithdrawRequest,
        WithdrawResponse,
    },
    unknown_federation,
};
use crate::{
    federations::Left,
    journal::{IncomingState, Logged, OutgoingState, Terms},
    ledger::Solvency,
    lightning::{Channel, OpenChannel},
    now,
};

/// The longest page of the payment log.
const MAX_PAGE: usize = 1000;

pub(super) fn reading() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(info))
        .routes(routes!(balances))
        .routes(routes!(federations))
        .routes(routes!(channels))
        .routes(routes!(payments))
        .routes(routes!(summary))
        .routes(routes!(solvency))
}

pub(super) fn funds() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(onchain_address))
        .routes(routes!(onchain_send))
        .routes(routes!(deposit_address))
        .routes(routes!(withdraw))
}

pub(super) fn everything() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(join))
        .routes(routes!(leave))
        .routes(routes!(set_terms))
        .routes(routes!(connect))
        .routes(routes!(open_channel))
        .routes(routes!(close_channel))
        .routes(routes!(accept))
}

/// What runs here.
#[utoipa::path(get, path = "/v1/info", security(("key" = ["read"])),
    responses((status = 200, body = GatewayInfoResponse)))]
async fn info(State(api): State<Api>) -> Answer<GatewayInfoResponse> {
    let journal = api.gateway.journal();
    let mut served = 0;
    for federation in api.federations.wallet().federations() {
        let row = journal.membership(&federation.id())?;
        served += usize::from(row.is_some_and(|row| row.active));
    }
    Ok(Json(GatewayInfoResponse {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        node: api.gateway.node().info(),
        federations: served,
        halted: journal.book(None)?.halted,
    }))
}

/// All that the gateway holds.
#[utoipa::path(get, path = "/v1/balances", security(("key" = ["read"])),
    responses((status = 200, body = BalancesResponse)))]
async fn balances(State(api): State<Api>) -> Answer<BalancesResponse> {
    api.gateway.check_ledger().await?;
    let mut federations = Vec::new();
    for federation in api.federations.wallet().federations() {
        federations.push(FederationBalance {
            id: federation.id(),
            name: federation.config().name.clone(),
            balance_msat: balance(&federation).await,
        });
    }
    Ok(Json(BalancesResponse {
        node: api.gateway.node().balance(),
        federations,
        solvency: api.gateway.ledger().last(),
    }))
}

/// None if the federation's module does not say: that is its own trouble, and nobody
/// else's.
async fn balance(federation: &modmint_client::Federation) -> Option<u64> {
    let balance = federation.balance().await;
    balance.ok().map(Amount::msat)
}

/// All federations that were ever joined.
#[utoipa::path(get, path = "/v1/federations", security(("key" = ["read"])),
    responses((status = 200, body = Vec<MembershipResponse>)))]
async fn federations(State(api): State<Api>) -> Answer<Vec<MembershipResponse>> {
    let mut all = Vec::new();
    for federation in api.federations.wallet().federations() {
        all.extend(membership(&api, &federation).await?);
    }
    Ok(Json(all))
}

async fn membership(
    api: &Api,
    federation: &modmint_client::Federation,
) -> Result<Option<MembershipResponse>, Error> {
    let id = federation.id();
    let Some(row) = api.gateway.journal().membership(&id)? else {
        return Ok(None);
    };
    let balance_msat = balance(federation).await;
    Ok(Some(MembershipResponse {
        id,
        name: federation.config().name.clone(),
        active: row.active,
        balance_msat,
        exposure_msat: api.gateway.exposure_with(&id, balance_msat.unwrap_or(0))?,
        gateway_key: row.gateway_key,
        terms: row.terms,
        invite: federation.invite(),
    }))
}

/// Joins a federation, or serves one again that was left.
#[utoipa::path(post, path = "/v1/federations", security(("key" = ["admin"])),
    request_body = JoinRequest,
    responses(
        (status = 200, body = MembershipResponse),
        (status = 400, description = "`bad-invite`", body = Problem),
        (status = 404, description = "`not-found`: the federation has no module `ln`", body = Problem),
        (status = 422, description = "`wrong-network`, `untrusted`", body = Problem),
        (status = 503, description = "`federation-unreachable`", body = Problem),
    ))]
async fn join(
    State(api): State<Api>,
    Body(request): Body<JoinRequest>,
) -> Answer<MembershipResponse> {
    let invite = request
        .invite
        .trim()
        .parse::<Invite>()
        .map_err(|e| Failure::malformed("bad-invite", e.to_string()))?;
    let first = api.default_terms;
    let terms = |config: &FederationConfig| {
        let covering = || first.covering(config.base_fee);
        request.terms.unwrap_or_else(covering)
    };
    let federation = api.federations.join(&invite, terms).await?;
    match membership(&api, &federation).await? {
        Some(joined) => Ok(Json(joined)),
        None => Err(unknown_federation(&federation.id()).into()),
    }
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct LeaveParameters {
    /// Even where there is e-cash, or something is under way.
    #[serde(default)]
    force: bool,
}

/// Serves a federation no longer, and says what is left there. E-cash stays in the
/// wallet, and joining again brings it back; what is under way goes on.
#[utoipa::path(delete, path = "/v1/federations/{id}", security(("key" = ["admin"])),
    params(("id" = FederationId, Path), LeaveParameters),
    responses(
        (status = 200, body = Left),
        (status = 404, description = "`unknown-federation`", body = Problem),
        (status = 409, description = "`not-empty`: there is e-cash, or something is under way; wait, withdraw, or force", body = Problem),
    ))]
async fn leave(
    State(api): State<Api>,
    Segments(id): Segments<FederationId>,
    Parameters(parameters): Parameters<LeaveParameters>,
) -> Answer<Left> {
    api.served(&id)?;
    let left = match api.federations.left(&id).await {
        // Of one that says nothing sensible it is not known.
        Err(e) if parameters.force => {
            tracing::error!(federation = %id, "what is left there cannot be counted: {e:#}");
            Left::default()
        }
        left => left?,
    };
    if !left.is_nothing() && !parameters.force {
        let told = format!(
            "the gateway has there: {left}. Withdraw, and wait for the rest, or say force=true: what is under way goes on then, e-cash stays in the wallet, and payments of invoices go back"
        );
        return Err(Failure::new(StatusCode::CONFLICT, "not-empty", told).into());
    }
    api.federations.leave(&id)?;
    Ok(Json(left))
}

/// Changes fees and limits; what is not named stays.
#[utoipa::path(post, path = "/v1/federations/{id}/terms", security(("key" = ["admin"])),
    params(("id" = FederationId, Path)),
    request_body = TermsChange,
    responses(
        (status = 200, body = Terms),
        (status = 404, description = "`unknown-federation`", body = Problem),
    ))]
async fn set_terms(
    State(api): State<Api>,
    Segments(id): Segments<FederationId>,
    Body(change): Body<TermsChange>,
) -> Answer<Terms> {
    let terms = change.over(&api.served(&id)?.terms);
    api.federations.set_terms(&id, terms)?;
    Ok(Json(terms))
}

/// An address that makes e-cash of the gateway of what is paid to it.
#[utoipa::path(post, path = "/v1/federations/{id}/deposit-addresses", security(("key" = ["funds"])),
    params(("id" = FederationId, Path)),
    responses(
        (status = 200, body = AddressResponse),
        (status = 404, description = "`not-found`", body = Problem),
        (status = 503, description = "`federation-unreachable`", body = Problem),
    ))]
async fn deposit_address(
    State(api): State<Api>,
    Segments(id): Segments<FederationId>,
) -> Answer<AddressResponse> {
    let address = api.federations.deposit(&id).await?.address;
    Ok(Json(AddressResponse { address }))
}

/// Makes bitcoin of e-cash of the gateway.
#[utoipa::path(post, path = "/v1/federations/{id}/withdrawals", security(("key" = ["funds"])),
    params(("id" = FederationId, Path)),
    request_body = WithdrawRequest,
    responses(
        (status = 202, body = WithdrawResponse),
        (status = 404, description = "`not-found`", body = Problem),
        (status = 409, description = "`not-enough-money`, `confirmation-needed`: it costs more than maximum_fee_sat", body = Problem),
        (status = 422, description = "what the module refuses", body = Problem),
        (status = 503, description = "`federation-unreachable`", body = Problem),
    ))]
async fn withdraw(
    State(api): State<Api>,
    Segments(id): Segments<FederationId>,
    Body(request): Body<WithdrawRequest>,
) -> Result<(StatusCode, Json<WithdrawResponse>), Error> {
    let msat = |sat: u64| {
        sat.checked_mul(1000)
            .ok_or_else(|| Failure::malformed("bad-amount", format!("{sat} sat are too many")))
    };
    let amount = msat(request.amount_sat)?;
    let maximum = amount.saturating_add(msat(request.maximum_fee_sat)?);
    to_its_end(async move {
        let withdrawn =
            api.federations
                .withdraw(&id, &request.address, Amount(amount), Amount(maximum));
        let begun = withdrawn.await?;
        if let Some(refusal) = begun.error {
            return Err(super::unprocessable(&refusal).into());
        }
        let took = u64::try_from(begun.took_msat).unwrap_or(0);
        api.gateway.journal().taken_from(&id, took)?;
        let response = WithdrawResponse {
            operation: begun.operation.to_string(),
            took_msat: begun.took_msat,
        };
        Ok((StatusCode::ACCEPTED, Json(response)))
    })
    .await
}

/// The node's channels.
#[utoipa::path(get, path = "/v1/channels", security(("key" = ["read"])),
    responses((status = 200, body = Vec<Channel>)))]
async fn channels(State(api): State<Api>) -> Json<Vec<Channel>> {
    Json(api.gateway.node().channels())
}

/// Opens a channel; it is ready some blocks later.
#[utoipa::path(post, path = "/v1/channels", security(("key" = ["admin"])),
    request_body = OpenChannel,
    responses(
        (status = 202, body = ChannelResponse),
        (status = 422, description = "`node-refuses`", body = Problem),
        (status = 502, description = "`node-trouble`", body = Problem),
    ))]
async fn open_channel(
    State(api): State<Api>,
    Body(order): Body<OpenChannel>,
) -> Result<(StatusCode, Json<ChannelResponse>), Error> {
    to_its_end(async move {
        let id = api.gateway.node().open_channel(&order).await?;
        let ledger = api.gateway.ledger();
        ledger.taken_out(api.gateway.journal(), order.push_msat)?;
        Ok((StatusCode::ACCEPTED, Json(ChannelResponse { id })))
    })
    .await
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct CloseParameters {
    /// Without the peer: slower and dearer.
    #[serde(default)]
    force: bool,
}

/// Closes a channel.
#[utoipa::path(delete, path = "/v1/channels/{id}", security(("key" = ["admin"])),
    params(("id" = String, Path), CloseParameters),
    responses(
        (status = 202),
        (status = 422, description = "`node-refuses`", body = Problem),
        (status = 502, description = "`node-trouble`", body = Problem),
    ))]
async fn close_channel(
    State(api): State<Api>,
    Segments(id): Segments<String>,
    Parameters(parameters): Parameters<CloseParameters>,
) -> Result<StatusCode, Error> {
    let closed = api
        .gateway
        .node()
        .close_channel(&id, parameters.force)
        .await;
    closed?;
    Ok(StatusCode::ACCEPTED)
}

/// Connects to a peer, and again after each restart.
#[utoipa::path(post, path = "/v1/peers", security(("key" = ["admin"])),
    request_body = ConnectRequest,
    responses(
        (status = 204),
        (status = 422, description = "`node-refuses`", body = Problem),
        (status = 502, description = "`node-trouble`", body = Problem),
    ))]
async fn connect(
    State(api): State<Api>,
    Body(request): Body<ConnectRequest>,
) -> Result<StatusCode, Error> {
    let connected = api.gateway.node().connect(&request.peer, &request.address);
    connected.await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A new address of the node's own wallet.
#[utoipa::path(post, path = "/v1/onchain/addresses", security(("key" = ["funds"])),
    responses((status = 200, body = AddressResponse)))]
async fn onchain_address(State(api): State<Api>) -> Answer<AddressResponse> {
    let address = api.gateway.node().address().await?;
    Ok(Json(AddressResponse { address }))
}

/// Sends from the node's own wallet.
#[utoipa::path(post, path = "/v1/onchain/sends", security(("key" = ["funds"])),
    request_body = SendRequest,
    responses(
        (status = 200, body = SendResponse),
        (status = 422, description = "`node-refuses`", body = Problem),
        (status = 502, description = "`node-trouble`", body = Problem),
    ))]
async fn onchain_send(
    State(api): State<Api>,
    Body(request): Body<SendRequest>,
) -> Answer<SendResponse> {
    to_its_end(async move {
        let node = api.gateway.node();
        let all = node.balance().onchain_spendable_sat;
        let SendRequest {
            address,
            amount_sat,
            sat_per_vbyte,
        } = request;
        let sent = node.send_onchain(&address, amount_sat, sat_per_vbyte);
        let txid = sent.await?;
        let msat = amount_sat.unwrap_or(all).saturating_mul(1000);
        let ledger = api.gateway.ledger();
        ledger.taken_out(api.gateway.journal(), msat)?;
        Ok(Json(SendResponse { txid }))
    })
    .await
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct PageParameters {
    /// `next_cursor` of the page before.
    cursor: Option<u64>,
    /// How many lines, up to 1000; 50 without it.
    limit: Option<usize>,
}

/// The payment log, newest first.
#[utoipa::path(get, path = "/v1/payments", security(("key" = ["read"])),
    params(PageParameters),
    responses((status = 200, body = PaymentsResponse)))]
async fn payments(
    State(api): State<Api>,
    Parameters(page): Parameters<PageParameters>,
) -> Answer<PaymentsResponse> {
    let limit = page.limit.unwrap_or(50);
    if !(1..=MAX_PAGE).contains(&limit) {
        let told = format!("limit is {limit}; from 1 to {MAX_PAGE} is accepted");
        return Err(Failure::malformed("bad-limit", told).into());
    }
    let rows = api.gateway.journal().log(page.cursor, limit)?;
    let next_cursor = (rows.len() == limit)
        .then(|| rows.last().map(Logged::number))
        .flatten()
        .filter(|number| *number > 1);
    Ok(Json(PaymentsResponse {
        items: rows.iter().map(line).collect(),
        next_cursor,
    }))
}

fn line(logged: &Logged) -> LoggedPayment {
    match logged {
        Logged::Outgoing(hash, row) => {
            let (state, preimage, reason, fee) = match &row.state {
                OutgoingState::Paid { preimage, fee_msat } => {
                    ("paid", Some(*preimage), None, Some(*fee_msat))
                }
                OutgoingState::Failed { reason, .. } => {
                    ("failed", None, Some(reason.clone()), None)
                }
                OutgoingState::Lost { preimage, fee_msat } => {
                    ("lost", Some(*preimage), None, Some(*fee_msat))
                }
                _ => ("pending", None, None, None),
            };
            // The contract brings the most that routing may cost, see `federations`.
            let earned = match (state, fee) {
                ("lost", Some(fee)) => -signed(row.amount_msat.saturating_add(fee)),
                (_, Some(fee)) => signed(row.maximum_fee_msat) - signed(fee),
                (_, None) => 0,
            };
            LoggedPayment {
                number: row.number,
                direction: "out".to_owned(),
                federation: row.federation,
                payment_hash: *hash,
                state: state.to_owned(),
                swap: row.swap,
                amount_msat: row.amount_msat,
                earned_msat: earned,
                routing_fee_msat: fee.unwrap_or(0),
                created: row.created,
                updated: row.updated,
                invoice: row.invoice.clone(),
                preimage,
                reason,
                deadline: None,
            }
        }
        Logged::Incoming(hash, row) => {
            let (state, preimage, reason) = match &row.state {
                IncomingState::Settled { preimage } => ("paid", Some(*preimage), None),
                IncomingState::Settling { preimage, .. } => ("pending", Some(*preimage), None),
                IncomingState::Lost { preimage } => ("lost", Some(*preimage), None),
                IncomingState::Failed { reason } | IncomingState::Failing { reason } => {
                    ("failed", None, Some(reason.clone()))
                }
                _ => ("pending", None, None),
            };
            let deadline = match row.state {
                IncomingState::Held { deadline, .. }
                | IncomingState::Swap { deadline, .. }
                | IncomingState::Settling { deadline, .. } => Some(deadline),
                _ => None,
            };
            let earned = match state {
                "paid" => signed(row.amount_msat) - signed(row.contract_msat),
                "lost" => -signed(row.contract_msat),
                _ => 0,
            };
            LoggedPayment {
                number: row.number.unwrap_or(0),
                direction: "in".to_owned(),
                federation: row.federation,
                payment_hash: *hash,
                state: state.to_owned(),
                swap: row.swap,
                amount_msat: row.amount_msat,
                earned_msat: earned,
                routing_fee_msat: 0,
                created: row.created,
                updated: row.updated,
                invoice: row.invoice.clone(),
                preimage,
                reason,
                deadline,
            }
        }
    }
}

fn signed(msat: u64) -> i64 {
    i64::try_from(msat).unwrap_or(i64::MAX)
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct TimeParameters {
    /// Seconds since 1970; 24 hours ago without it.
    since: Option<u64>,
    /// Seconds since 1970; now without it.
    until: Option<u64>,
}

/// What happened in a time, by when payments began.
#[utoipa::path(get, path = "/v1/summary", security(("key" = ["read"])),
    params(TimeParameters),
    responses((status = 200, body = SummaryResponse)))]
async fn summary(
    State(api): State<Api>,
    Parameters(time): Parameters<TimeParameters>,
) -> Answer<SummaryResponse> {
    let until = time.until.unwrap_or_else(now);
    let since = time
        .since
        .unwrap_or_else(|| now().saturating_sub(24 * 3600));
    let gateway = api.gateway.clone();
    let counted = tokio::task::spawn_blocking(move || {
        let mut summary = SummaryResponse {
            since,
            until,
            ..SummaryResponse::default()
        };
        let mut seconds = (Vec::new(), Vec::new());
        let mut cursor = None;
        loop {
            let page = gateway.journal().log(cursor, MAX_PAGE)?;
            let Some(last) = page.last() else { break };
            cursor = Some(last.number());
            for payment in page.iter().map(line) {
                if payment.created < since || payment.created >= until.saturating_add(1) {
                    continue;
                }
                match payment.direction.as_str() {
                    "out" => count(&mut summary.out, &mut seconds.0, &payment),
                    _ => count(&mut summary.incoming, &mut seconds.1, &payment),
                }
            }
        }
        summary.out.median_seconds = median(seconds.0);
        summary.incoming.median_seconds = median(seconds.1);
        Ok::<_, anyhow::Error>(summary)
    });
    let counted = counted.await.map_err(Failure::internal)?;
    Ok(Json(counted?))
}

fn count(sums: &mut SummaryLine, seconds: &mut Vec<u64>, payment: &LoggedPayment) {
    sums.earned_msat = sums.earned_msat.saturating_add(payment.earned_msat);
    match payment.state.as_str() {
        "paid" => {
            sums.paid += 1;
            sums.amount_msat = sums.amount_msat.saturating_add(payment.amount_msat);
            seconds.push(payment.updated.saturating_sub(payment.created));
        }
        "pending" => sums.pending += 1,
        _ => sums.failed += 1,
    }
}

fn median(mut all: Vec<u64>) -> Option<u64> {
    all.sort_unstable();
    all.get(all.len().saturating_sub(1) / 2).copied()
}

/// Whether nothing is lost: what there is, against the most that there was.
#[utoipa::path(get, path = "/v1/solvency", security(("key" = ["read"])),
    responses((status = 200, body = Solvency)))]
async fn solvency(State(api): State<Api>) -> Answer<Solvency> {
    api.gateway.check_ledger().await?;
    Ok(Json(api.gateway.ledger().last()))
}

/// The operator has looked: what is there now is right, and a gateway that has halted
/// goes on.
#[utoipa::path(post, path = "/v1/solvency/accept", security(("key" = ["admin"])),
    responses((status = 200, body = Solvency)))]
async fn accept(State(api): State<Api>) -> Answer<Solvency> {
    api.gateway.ledger().accept(api.gateway.journal())?;
    api.gateway.check_ledger().await?;
    Ok(Json(api.gateway.ledger().last()))
}
