//! What is counted of requests, and where Prometheus reads all counts.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};
use tokio::{net::TcpListener, sync::watch};

use crate::server;

/// The media type of what `/metrics` answers with.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Counts requests.
#[derive(Clone)]
pub struct Requests {
    answered: Family<Answered, Counter>,
    seconds: Family<[(&'static str, String); 1], Histogram>,
    under_way: Gauge,
}

/// A kind of answer. Routes are those of the description, so there are few.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    method: String,
    route: String,
    status: u16,
}

impl Requests {
    /// Counts from 0, into `registry`.
    pub fn new(registry: &mut Registry) -> Self {
        let requests = Self {
            answered: Family::default(),
            // From 1 ms to 65 s, the longest wait.
            seconds: Family::new_with_constructor(|| {
                Histogram::new(exponential_buckets(0.001, 4.0, 9))
            }),
            under_way: Gauge::default(),
        };
        registry.register(
            "http_requests",
            "Requests answered",
            requests.answered.clone(),
        );
        registry.register_with_unit(
            "http_request",
            "Time from a request's head to its answer, waiting included",
            Unit::Seconds,
            requests.seconds.clone(),
        );
        registry.register(
            "http_requests_under_way",
            "Requests under way, those that wait included",
            requests.under_way.clone(),
        );
        requests
    }

    /// Counts a request as under way until the result is dropped.
    pub fn begin(&self) -> UnderWay {
        self.under_way.inc();
        UnderWay(self.under_way.clone())
    }

    /// Counts an answer to a request of this route.
    pub(crate) fn answered(&self, method: &str, route: &str, status: StatusCode, took: Duration) {
        let answered = Answered {
            method: method.to_owned(),
            route: route.to_owned(),
            status: status.as_u16(),
        };
        self.answered.get_or_create(&answered).inc();
        let route = [("route", route.to_owned())];
        let seconds = took.as_secs_f64();
        self.seconds.get_or_create(&route).observe(seconds);
    }
}

pub struct UnderWay(Gauge);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Serves `GET /metrics` until `stopped` becomes true.
pub async fn serve_metrics(
    listener: TcpListener,
    registry: Registry,
    stopped: watch::Receiver<bool>,
) {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .with_state(Arc::new(registry));
    server::serve(listener, router, stopped).await;
}

async fn metrics(State(registry): State<Arc<Registry>>) -> Response {
    // Reading how things stand may block.
    let encoded = tokio::task::spawn_blocking(move || {
        let mut text = String::new();
        encode(&mut text, &registry).map(|()| text)
    });
    match encoded.await {
        Ok(Ok(text)) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        _ => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
