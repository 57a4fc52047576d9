//! Routes that have a module do something, and about what came of it.
#![allow(
    unused_qualifications,
    reason = "utoipa's macro writes some that are not needed"
)]

use std::time::Duration;

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{AppendHeaders, IntoResponse, Response},
};
use modmint_core::{
    Amount, Argument, FederationId, Hash32, InstanceId, rest::Problem, sha256, tagged_hash,
};
use modmint_rest::{Body, Failure, Parameters, Segments};
use serde::Deserialize;
use tokio::time::Instant;
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    api::{Api, to_its_end},
    arguments,
    error::{Answer, Error},
    federations,
    types::{ActRequest, ActionProblem, ConfirmRequest, OperationResponse, OperationsResponse},
};
use crate::{
    Allowance, Federation, OperationId, OperationStatus, OperationView, WalletError,
    host::device_time,
};

/// How long an action is waited for if nobody says.
const USUAL_WAIT: u32 = 10;
/// How long a question that was answered beforehand may be in coming.
const LATE_QUESTION: Duration = Duration::from_secs(300);
/// The longest page of operations, and the usual one.
const MAX_PAGE: usize = 1000;
const USUAL_PAGE: usize = 50;
/// The longest key of a request, bytes.
const MAX_KEY_BYTES: usize = 255;

pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(act))
        .routes(routes!(list))
        .routes(routes!(operation))
        .routes(routes!(confirm))
        .routes(routes!(decline))
        .routes(routes!(cancel))
}

fn shown(view: OperationView) -> OperationResponse {
    OperationResponse {
        version: version(&view),
        operation: view,
    }
}

/// The first eight bytes of a hash of all that is shown, so that it outlives a restart.
fn version(view: &OperationView) -> String {
    // A view is a map of texts and numbers: encoding it cannot fail.
    let bytes = serde_json::to_vec(view).unwrap_or_default();
    hex::encode(&sha256(&bytes)[..8])
}

/// Whether there is something for whoever began it: a result, a question, something to
/// hand on.
fn has_something_to_show(view: &OperationView) -> bool {
    let details = view.details.as_ref();
    let some = |details: &serde_json::Value| details.as_object().is_none_or(|all| !all.is_empty());
    view.status != OperationStatus::Running || view.resting || details.is_some_and(some)
}

/// Whether nothing more comes by itself, or not soon.
fn is_at_rest(view: &OperationView) -> bool {
    match view.status {
        OperationStatus::Done | OperationStatus::Failed => !view.settling,
        OperationStatus::Asking | OperationStatus::Stuck => true,
        OperationStatus::Running => view.resting || view.error.is_some(),
    }
}

fn unknown_operation(error: WalletError) -> Error {
    match error {
        WalletError::NotFound(text) => Failure::not_found("unknown-operation", text).into(),
        error => error.into(),
    }
}

/// The key under which a request is one operation, if its sender gave one.
fn key_of(headers: &HeaderMap) -> Result<Option<String>, Failure> {
    let Some(value) = headers.get("idempotency-key") else {
        return Ok(None);
    };
    let key = value.to_str().ok().map(str::trim);
    match key.filter(|key| !key.is_empty() && key.len() <= MAX_KEY_BYTES) {
        Some(key) => Ok(Some(key.to_owned())),
        None => Err(Failure::malformed(
            "bad-idempotency-key",
            format!("the header Idempotency-Key has from 1 to {MAX_KEY_BYTES} bytes of ASCII"),
        )),
    }
}

/// What an action is asked to do: two requests with the same are the same, whatever they
/// may spend and however long they wait.
fn hash_of(
    federation: &FederationId,
    instance: InstanceId,
    action: &str,
    arguments: &[Argument],
) -> Result<Hash32, Failure> {
    let arguments = borsh::to_vec(arguments).map_err(Failure::internal)?;
    let parts: [&[u8]; 5] = [
        &federation.0,
        &instance.0.to_be_bytes(),
        &(action.len() as u64).to_be_bytes(),
        action.as_bytes(),
        &arguments,
    ];
    Ok(Hash32(tagged_hash("modmint/wallet/request", &parts)))
}

/// Has a module do something.
///
/// Arguments are JSON of the kinds that the module's parameters declare. What takes money
/// from the balance needs `max_spend_msat`; without it, or where it does not suffice, the
/// answer is 409 `confirmation-needed` with the quote. Where the problem names no
/// `operation` nothing has happened, and the same request with enough in `max_spend_msat`
/// does it. Where it names one, that has begun, and waits to be confirmed or declined.
///
/// With the header `Idempotency-Key` the same request is one operation however often it
/// is sent, also over restarts: send it again whenever an answer is lost.
///
/// The answer comes when there is something to show: a result, a question, or something
/// to hand on, such as an address or notes. Else it comes after `wait` seconds, and the
/// operation goes on.
#[utoipa::path(post, path = "/v1/federations/{id}/modules/{module}/actions/{action}",
    security(("key" = [])),
    params(
        ("id" = FederationId, Path),
        ("module" = String, Path, description = "Its number, its kind, or `kind:number`"),
        ("action" = String, Path, description = "Its name"),
        ("Idempotency-Key" = Option<String>, Header, description = "Any text of the caller's, up to 255 bytes of ASCII, another for each thing that is to happen"),
    ),
    request_body = ActRequest,
    responses(
        (status = 202, body = OperationResponse, description = "It has begun, and says how far it is; `Location` is where to ask again"),
        (status = 400, description = "`bad-argument`, `bad-idempotency-key`, `several-modules`", body = Problem),
        (status = 401, description = "`unauthenticated`", body = Problem),
        (status = 404, description = "`unknown-federation`, `unknown-module`, `unknown-action`", body = Problem),
        (status = 409, description = "`confirmation-needed` with the quote; `not-enough-money`; `idempotency-mismatch`: the key was another request's", body = ActionProblem),
        (status = 422, description = "what the module or the federation refuses, by its own code; with `operation` if one has begun and come to nothing", body = ActionProblem),
        (status = 503, description = "`federation-unreachable`; `recovering`: the wallet is still finding its money again", body = Problem),
    ))]
async fn act(
    State(api): State<Api>,
    Segments((id, module, action)): Segments<(FederationId, String, String)>,
    headers: HeaderMap,
    Body(request): Body<ActRequest>,
) -> Result<Response, Error> {
    let deadline = Api::patience(request.wait.unwrap_or(USUAL_WAIT));
    let federation = api.federation(&id)?;
    let view = federations::named(&federation, &module).await?;
    let known = view.actions.iter().find(|known| known.name == action);
    let Some(known) = known else {
        let names: Vec<_> = view.actions.iter().map(|known| &*known.name).collect();
        let told = match names.is_empty() {
            true => format!("there is nothing to ask of module {module}"),
            false => format!(
                "module {module} has no action {action:?}; known are: {}",
                names.join(", ")
            ),
        };
        return Err(Failure::not_found("unknown-action", told).into());
    };
    let arguments = arguments::typed(&known.parameters, &request.arguments)
        .map_err(|refusal| Failure::malformed(&refusal.code, refusal.message))?;
    let hash = hash_of(&id, view.instance, &action, &arguments)?;
    let operation = match key_of(&headers)? {
        Some(key) => api.wallet.operation_for(&key, hash)?,
        None => OperationId::new(device_time()),
    };
    let most = request.max_spend_msat.map(Amount);
    let view = to_its_end(async move {
        let allowance = most.map_or(Allowance::Nothing, Allowance::UpTo);
        let begun = federation.start_once(operation, view.instance, &action, &arguments, allowance);
        let begun = begun.await?;
        tracing::info!(%operation, kind = begun.kind, action = begun.action, "begun");
        let view = follow(&api, &federation, operation, most, deadline).await?;
        if most.is_some() && !has_something_to_show(&view) {
            tokio::spawn(answer_late(api, federation, operation, most));
        }
        Ok(view)
    })
    .await?;
    match (view.status, &view.question, &view.error) {
        (OperationStatus::Asking, Some(quote), _) => {
            Err(Error::unconfirmed(quote.clone(), Some(view.operation)))
        }
        (OperationStatus::Failed, _, Some(refusal)) => Err(Error::failed(refusal, view.operation)),
        _ => {
            let path = format!("/v1/federations/{id}/operations/{}", view.operation);
            let location = AppendHeaders([(header::LOCATION, path)]);
            Ok((StatusCode::ACCEPTED, location, Json(shown(view))).into_response())
        }
    }
}

/// What may still be taken, of the most that an operation may take.
fn rest(view: &OperationView, most: Option<Amount>) -> Option<Amount> {
    let taken = u64::try_from(view.took_msat).unwrap_or(0);
    most?.checked_sub(Amount(taken))
}

/// Waits until an operation has something to show, and confirms what it asks if it was
/// allowed beforehand.
async fn follow(
    api: &Api,
    federation: &Federation,
    id: OperationId,
    most: Option<Amount>,
    deadline: Instant,
) -> Result<OperationView, Error> {
    loop {
        let waited = federation.wait(id, has_something_to_show);
        let view = match api.until(deadline, waited).await {
            Some(view) => view?,
            None => return Ok(federation.operation(id).await?),
        };
        let asked = view.question.as_ref().map(|quote| quote.total);
        let allowed = rest(&view, most).filter(|rest| asked.is_some_and(|total| total <= *rest));
        let Some(rest) = allowed else {
            return Ok(view);
        };
        match federation.confirm(id, Allowance::UpTo(rest)).await {
            // It costs more by now.
            Err(WalletError::ConfirmationNeeded(quote)) => {
                return Err(Error::unconfirmed(*quote, Some(id)));
            }
            // The same request, sent twice at once, has confirmed it, or somebody else has.
            Err(WalletError::Refused(refusal)) if refusal.code == "nothing-to-confirm" => {}
            confirmed => drop(confirmed?),
        }
    }
}

/// Confirms what was allowed beforehand and is asked when nobody waits any more. If the
/// process ends before, it stays a question, which the same request answers.
async fn answer_late(
    api: Api,
    federation: Federation,
    operation: OperationId,
    most: Option<Amount>,
) {
    let deadline = Instant::now() + LATE_QUESTION;
    if let Err(error) = follow(&api, &federation, operation, most, deadline).await {
        let status = error.into_response().status();
        tracing::warn!(%operation, %status, "what was allowed beforehand is not confirmed");
    }
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct PageParameters {
    /// `next_cursor` of the page before.
    cursor: Option<OperationId>,
    /// How many, up to 1000; 50 without it.
    limit: Option<usize>,
    /// Only those that are not over, all of them, oldest first: without pages.
    #[serde(default)]
    unfinished: bool,
}

/// Operations of a federation, the newest first. What modules began by themselves when
/// the federation was joined comes before all others.
#[utoipa::path(get, path = "/v1/federations/{id}/operations", security(("key" = [])),
    params(("id" = FederationId, Path), PageParameters),
    responses(
        (status = 200, body = OperationsResponse),
        (status = 400, description = "`bad-limit`", body = Problem),
        (status = 401, description = "`unauthenticated`", body = Problem),
        (status = 404, description = "`unknown-federation`", body = Problem),
    ))]
async fn list(
    State(api): State<Api>,
    Segments(id): Segments<FederationId>,
    Parameters(page): Parameters<PageParameters>,
) -> Answer<OperationsResponse> {
    let federation = api.federation(&id)?;
    if page.unfinished {
        let items = federation.unfinished().await?;
        return Ok(Json(OperationsResponse {
            items: items.into_iter().map(shown).collect(),
            next_cursor: None,
        }));
    }
    let limit = page.limit.unwrap_or(USUAL_PAGE);
    if !(1..=MAX_PAGE).contains(&limit) {
        let told = format!("limit is {limit}; from 1 to {MAX_PAGE} is accepted");
        return Err(Failure::malformed("bad-limit", told).into());
    }
    let views = federation.operations_below(page.cursor, limit).await?;
    let last = views.last().map(|view| view.operation);
    Ok(Json(OperationsResponse {
        next_cursor: last.filter(|_| views.len() == limit),
        items: views.into_iter().map(shown).collect(),
    }))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct WaitParameters {
    /// Seconds to wait; more than 60 is taken for that. With `seen` until anything has
    /// changed, without it until nothing more comes by itself.
    #[serde(default)]
    #[param(maximum = 4294967295u32)]
    wait: u32,
    /// The `version` that the caller knows.
    seen: Option<String>,
}

/// One operation, and how it goes on.
#[utoipa::path(get, path = "/v1/federations/{id}/operations/{operation}", security(("key" = [])),
    params(("id" = FederationId, Path), ("operation" = OperationId, Path), WaitParameters),
    responses(
        (status = 200, body = OperationResponse),
        (status = 401, description = "`unauthenticated`", body = Problem),
        (status = 404, description = "`unknown-federation`, `unknown-operation`", body = Problem),
    ))]
async fn operation(
    State(api): State<Api>,
    Segments((id, operation)): Segments<(FederationId, OperationId)>,
    Parameters(WaitParameters { wait, seen }): Parameters<WaitParameters>,
) -> Answer<OperationResponse> {
    let federation = api.federation(&id)?;
    let enough = |view: &OperationView| match &seen {
        Some(seen) => version(view) != *seen,
        None => is_at_rest(view),
    };
    let waited = federation.wait(operation, enough);
    let view = match api.until(Api::patience(wait), waited).await {
        Some(view) => view,
        None => federation.operation(operation).await,
    };
    Ok(Json(shown(view.map_err(unknown_operation)?)))
}

/// Confirms what an operation asks for, if it takes no more than is allowed here.
#[utoipa::path(post, path = "/v1/federations/{id}/operations/{operation}/confirm",
    security(("key" = [])),
    params(("id" = FederationId, Path), ("operation" = OperationId, Path)),
    request_body = ConfirmRequest,
    responses(
        (status = 200, body = OperationResponse),
        (status = 401, description = "`unauthenticated`", body = Problem),
        (status = 404, description = "`unknown-federation`, `unknown-operation`", body = Problem),
        (status = 409, description = "`confirmation-needed` with the quote of today, which is more; `not-enough-money`; `nothing-to-confirm`: it asks for nothing, or was confirmed before", body = ActionProblem),
        (status = 503, description = "`federation-unreachable`", body = Problem),
    ))]
async fn confirm(
    State(api): State<Api>,
    Segments((id, operation)): Segments<(FederationId, OperationId)>,
    Body(request): Body<ConfirmRequest>,
) -> Answer<OperationResponse> {
    let federation = api.federation(&id)?;
    federation
        .operation(operation)
        .await
        .map_err(unknown_operation)?;
    to_its_end(async move {
        let most = Allowance::UpTo(Amount(request.max_spend_msat));
        match federation.confirm(operation, most).await {
            Ok(view) => Ok(Json(shown(view))),
            Err(WalletError::ConfirmationNeeded(quote)) => {
                Err(Error::unconfirmed(*quote, Some(operation)))
            }
            Err(error) => Err(error.into()),
        }
    })
    .await
}

/// Says no to what an operation asks for.
#[utoipa::path(post, path = "/v1/federations/{id}/operations/{operation}/decline",
    security(("key" = [])),
    params(("id" = FederationId, Path), ("operation" = OperationId, Path)),
    responses(
        (status = 200, body = OperationResponse),
        (status = 401, description = "`unauthenticated`", body = Problem),
        (status = 404, description = "`unknown-federation`, `unknown-operation`", body = Problem),
        (status = 409, description = "`nothing-to-confirm`", body = Problem),
    ))]
async fn decline(
    State(api): State<Api>,
    Segments((id, operation)): Segments<(FederationId, OperationId)>,
) -> Answer<OperationResponse> {
    let federation = api.federation(&id)?;
    federation
        .operation(operation)
        .await
        .map_err(unknown_operation)?;
    to_its_end(async move { Ok(Json(shown(federation.decline(operation).await?))) }).await
}

/// Asks an operation to stop: notes that nobody has taken come back, say.
#[utoipa::path(post, path = "/v1/federations/{id}/operations/{operation}/cancel",
    security(("key" = [])),
    params(("id" = FederationId, Path), ("operation" = OperationId, Path)),
    responses(
        (status = 200, body = OperationResponse),
        (status = 401, description = "`unauthenticated`", body = Problem),
        (status = 404, description = "`unknown-federation`, `unknown-operation`", body = Problem),
        (status = 409, description = "`operation-over`", body = Problem),
        (status = 422, description = "what the module refuses, by its own code", body = Problem),
        (status = 503, description = "`federation-unreachable`", body = Problem),
    ))]
async fn cancel(
    State(api): State<Api>,
    Segments((id, operation)): Segments<(FederationId, OperationId)>,
) -> Answer<OperationResponse> {
    let federation = api.federation(&id)?;
    to_its_end(async move {
        let cancelled = federation.cancel(operation).await;
        Ok(Json(shown(cancelled.map_err(unknown_operation)?)))
    })
    .await
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that panics has failed")]
    use modmint_core::Value;
    use serde_json::json;

    use super::*;

    fn view(change: &serde_json::Value) -> OperationView {
        let mut view = json!({
            "operation": "00".repeat(10),
            "federation": "00".repeat(32),
            "kind": "any",
            "instance": 7,
            "action": "ask",
            "status": "running",
            "settling": false,
            "resting": false,
            "created": 0,
            "updated": 0,
            "stage": "waiting",
            "message": null,
            "details": null,
            "took_msat": 0,
            "error": null,
            "obstacle": null,
            "question": null,
            "transactions": [],
        });
        let more = change.as_object().unwrap().clone();
        view.as_object_mut().unwrap().extend(more);
        serde_json::from_value(view).unwrap()
    }

    #[test]
    fn an_answer_comes_when_there_is_something_to_hand_on_and_waiting_ends_at_rest() {
        for (change, shows, rests) in [
            (json!({}), false, false),
            (json!({ "details": {} }), false, false),
            (json!({ "details": { "address": "bcrt1" } }), true, false),
            (json!({ "resting": true }), true, true),
            (
                json!({ "error": { "code": "paused", "message": "" } }),
                false,
                true,
            ),
            (json!({ "status": "done", "settling": true }), true, false),
            (json!({ "status": "done" }), true, true),
            (json!({ "status": "failed" }), true, true),
            (json!({ "status": "asking" }), true, true),
            (json!({ "status": "stuck" }), true, true),
        ] {
            let view = view(&change);
            assert_eq!(has_something_to_show(&view), shows, "{change}");
            assert_eq!(is_at_rest(&view), rests, "{change}");
        }
        let (one, other) = (view(&json!({})), view(&json!({ "settling": true })));
        assert_ne!(version(&one), version(&other));
    }

    #[test]
    fn what_was_taken_before_counts_against_what_was_allowed() {
        let took = |msat: i64| view(&json!({ "took_msat": msat }));
        assert_eq!(rest(&took(0), Some(Amount(500))), Some(Amount(500)));
        assert_eq!(rest(&took(200), Some(Amount(500))), Some(Amount(300)));
        assert_eq!(rest(&took(-200), Some(Amount(500))), Some(Amount(500)));
        assert_eq!(rest(&took(501), Some(Amount(500))), None);
        assert_eq!(rest(&took(0), None), None);
    }

    #[test]
    fn requests_differ_by_whatever_they_ask_for() {
        let argument = |value| {
            vec![Argument {
                name: "amount".into(),
                value,
            }]
        };
        let amount = argument(Value::Amount(Amount(7)));
        let hash = |federation, instance, action, arguments: &[Argument]| {
            let federation = FederationId([federation; 32]);
            hash_of(&federation, InstanceId(instance), action, arguments).unwrap()
        };
        let all = [
            hash(1, 0, "send", &amount),
            hash(2, 0, "send", &amount),
            hash(1, 1, "send", &amount),
            hash(1, 0, "sen", &amount),
            hash(1, 0, "send", &[]),
            hash(1, 0, "send", &argument(Value::Number(7))),
        ];
        for (index, one) in all.iter().enumerate() {
            assert!(!all[..index].contains(one), "{index}");
        }
    }
}
