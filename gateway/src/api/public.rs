//! For users' wallets.

use axum::{Json, extract::State, http::StatusCode};
use modmint_client::OperationStatus;
use modmint_core::{FederationId, Hash32, rest::Problem};
use modmint_rest::{Body, Failure, Segments};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Answer, Api, Error,
    types::{
        InvoiceRequest, InvoiceResponse, InvoiceStateResponse, PaymentRequest, PaymentResponse,
        RoutingResponse,
    },
    unprocessable,
};
use crate::{
    federations::BeginError,
    gateway::{InvoiceOrder, TIMELOCK_MARGIN},
    journal::OutgoingState,
    lightning::Invoice,
};

pub(super) fn reading() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(routing))
        .routes(routes!(invoice_state))
}

pub(super) fn beginning() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(pay))
        .routes(routes!(invoice))
}

/// What a wallet needs before it locks money for this gateway.
#[utoipa::path(get, path = "/v1/federations/{id}/routing",
    params(("id" = FederationId, Path)),
    responses(
        (status = 200, body = RoutingResponse),
        (status = 404, description = "`unknown-federation`", body = Problem),
        (status = 503, description = "`not-ready`: the module has not told its key yet", body = Problem),
    ))]
async fn routing(
    State(api): State<Api>,
    Segments(id): Segments<FederationId>,
) -> Answer<RoutingResponse> {
    let membership = api.served(&id)?;
    let node = api.gateway.node().info();
    let terms = membership.terms;
    let gateway_key = membership.gateway_key.ok_or_else(|| {
        Failure::later(
            StatusCode::SERVICE_UNAVAILABLE,
            "not-ready",
            "this gateway has just joined the federation; ask again in some seconds",
        )
    })?;
    Ok(Json(RoutingResponse {
        gateway_key,
        node_key: node.node_key,
        alias: node.alias,
        network: node.network,
        pay_base_msat: terms.pay_base_msat,
        pay_parts_per_million: terms.pay_parts_per_million,
        receive_base_msat: terms.receive_base_msat,
        receive_parts_per_million: terms.receive_parts_per_million,
        minimum_timelock_blocks: api.minimum_timelock_blocks.saturating_add(TIMELOCK_MARGIN),
        maximum_invoice_msat: terms.maximum_invoice_msat,
    }))
}

/// Has an invoice paid for which there is an outgoing contract. Asking again for the
/// same changes nothing; what comes of it is in the federation. What does not fit the
/// contract, or is not signed by its payer, is refused, and the contract stays.
#[utoipa::path(post, path = "/v1/federations/{id}/payments",
    params(("id" = FederationId, Path)),
    request_body = PaymentRequest,
    responses(
        (status = 202, body = PaymentResponse),
        (status = 400, description = "`bad-invoice`", body = Problem),
        (status = 404, description = "`unknown-federation`", body = Problem),
        (status = 422, description = "what the module refuses, as `wrong-hash`, `bad-signature`", body = Problem),
        (status = 503, description = "`federation-unreachable`, `too-many-payments`", body = Problem),
    ))]
async fn pay(
    State(api): State<Api>,
    Segments(id): Segments<FederationId>,
    Body(request): Body<PaymentRequest>,
) -> Result<(StatusCode, Json<PaymentResponse>), Error> {
    let membership = api.served(&id)?;
    let invoice = Invoice::parse(&request.invoice)
        .map_err(|reason| Failure::malformed("bad-invoice", reason))?;
    let begun = api
        .federations
        .pay(&id, &request, &invoice, &membership.terms);
    let later =
        |code, told: &str| Failure::later(StatusCode::SERVICE_UNAVAILABLE, code, told).into();
    let view = match begun.await? {
        Ok(view) => view,
        Err(BeginError::Refused(refusal)) => return Err(unprocessable(&refusal).into()),
        Err(busy @ BeginError::Busy) => {
            return Err(later("too-many-payments", &busy.to_string()));
        }
        Err(BeginError::Trouble(e)) => {
            tracing::warn!("a payment cannot begin: {e:#}");
            let told = "this gateway does not reach the federation now";
            return Err(later("federation-unreachable", told));
        }
    };
    let payment_hash = invoice.payment_hash;
    let row = api
        .gateway
        .journal()
        .outgoing(payment_hash)?
        .filter(|row| row.contract == request.contract);
    let (state, preimage, reason) = match row.map(|row| row.state) {
        Some(OutgoingState::Paid { preimage, .. } | OutgoingState::Lost { preimage, .. }) => {
            ("paid", Some(preimage), None)
        }
        Some(OutgoingState::Failed { reason, .. }) => ("failed", None, Some(reason)),
        _ if view.status == OperationStatus::Failed => {
            ("failed", None, view.error.map(|refusal| refusal.message))
        }
        _ => ("pending", None, None),
    };
    let response = PaymentResponse {
        payment_hash,
        state: state.to_owned(),
        preimage,
        reason,
    };
    Ok((StatusCode::ACCEPTED, Json(response)))
}

/// An invoice for an offer. Asking again with the same offer gives the same invoice.
#[utoipa::path(post, path = "/v1/federations/{id}/invoices",
    params(("id" = FederationId, Path)),
    request_body = InvoiceRequest,
    responses(
        (status = 200, body = InvoiceResponse),
        (status = 404, description = "`unknown-federation`", body = Problem),
        (status = 422, description = "`bad-expiry`, `description-too-long`, `bad-offer`, `amount-too-small`, `amount-too-large`, `hash-used`", body = Problem),
        (status = 503, description = "`gateway-short-of-ecash`, `gateway-halted`, `too-many-invoices`", body = Problem),
    ))]
async fn invoice(
    State(api): State<Api>,
    Segments(id): Segments<FederationId>,
    Body(request): Body<InvoiceRequest>,
) -> Answer<InvoiceResponse> {
    api.served(&id)?;
    let order = InvoiceOrder {
        federation: id,
        payment_hash: request.payment_hash,
        offer: request.offer.0,
        amount_msat: request.amount_msat,
        contract_msat: request.contract_msat,
        description: request.description,
        expiry_seconds: request.expiry_seconds,
    };
    let invoice = api.gateway.invoice(order).await?;
    Ok(Json(InvoiceResponse { invoice }))
}

/// How an invoice of this gateway's stands.
#[utoipa::path(get, path = "/v1/invoices/{payment_hash}",
    params(("payment_hash" = Hash32, Path)),
    responses(
        (status = 200, body = InvoiceStateResponse),
        (status = 404, description = "`unknown-invoice`", body = Problem),
    ))]
async fn invoice_state(
    State(api): State<Api>,
    Segments(hash): Segments<Hash32>,
) -> Answer<InvoiceStateResponse> {
    match api.gateway.invoice_state(hash)? {
        Some(state) => Ok(Json(InvoiceStateResponse { state })),
        None => {
            let told = format!(
                "no invoice of this gateway is for {hash}; those that ended unpaid are forgotten after a day"
            );
            Err(Failure::not_found("unknown-invoice", told).into())
        }
    }
}
