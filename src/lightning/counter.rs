//! The counter of somebody else's node, for whoever is on this machine: a Lightning
//! address that is paid to, and a till that pays.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
};

use anyhow::Result;
use axum::{
    Json, Router,
    extract::{Query, State},
    http::StatusCode,
    routing::{get, post},
};
use modmint_gateway::lightning::ldk::LdkNode;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};

use super::Known;

/// The name before the `@`.
pub(super) const NAME: &str = "peer";
/// An invoice that is posted here is paid.
pub(super) const PAY: &str = "/pay";
const INVOICE: &str = "/invoice";

#[derive(Clone)]
struct Counter {
    node: Arc<LdkNode>,
    known: Arc<Mutex<Known>>,
    address: SocketAddr,
}

/// Where LUD-16 looks for the terms of `NAME@address`.
pub(super) fn terms_url(address: SocketAddr) -> String {
    format!("http://{address}/.well-known/lnurlp/{NAME}")
}

/// Opens it; it is open until the task is aborted.
pub(super) async fn open(
    node: Arc<LdkNode>,
    known: Arc<Mutex<Known>>,
) -> Result<(SocketAddr, JoinHandle<()>)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    let routes = Router::new()
        .route(&format!("/.well-known/lnurlp/{NAME}"), get(terms))
        .route(INVOICE, get(invoice))
        .route(PAY, post(pay))
        .with_state(Counter {
            node,
            known,
            address,
        });
    let serving = tokio::spawn(async move {
        // It ends with the task alone.
        let _ = axum::serve(listener, routes).await;
    });
    Ok((address, serving))
}

/// LUD-06, the first answer.
async fn terms(State(counter): State<Counter>) -> Json<Value> {
    Json(json!({
        "tag": "payRequest",
        "callback": format!("http://{}{INVOICE}", counter.address),
        "minSendable": 1_000,
        "maxSendable": 100_000_000,
        "metadata": r#"[["text/plain","a Lightning node of somebody else's"]]"#,
    }))
}

#[derive(Deserialize)]
struct Asked {
    /// Millisatoshi.
    amount: u64,
}

/// LUD-06, the second one.
async fn invoice(State(counter): State<Counter>, Query(asked): Query<Asked>) -> Json<Value> {
    Json(
        match super::invoice(&counter.node, &counter.known, asked.amount).await {
            Ok(invoice) => json!({ "pr": invoice, "routes": [] }),
            Err(error) => json!({ "status": "ERROR", "reason": format!("{error:#}") }),
        },
    )
}

async fn pay(State(counter): State<Counter>, invoice: String) -> (StatusCode, Json<Value>) {
    match super::pay(&counter.node, invoice.trim()).await {
        Ok(preimage) => (StatusCode::OK, Json(json!({ "preimage": preimage }))),
        Err(error) => (
            StatusCode::BAD_GATEWAY,
            Json(json!({ "error": format!("{error:#}") })),
        ),
    }
}
