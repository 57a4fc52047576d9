//! HTTP itself: connections and their bounds, and what wraps every route.

use std::{
    any::Any,
    collections::HashMap,
    net::IpAddr,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{MatchedPath, Request, State},
    http::{HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::{Next, from_fn, from_fn_with_state},
    response::{IntoResponse, Response},
};
use futures::StreamExt;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use parking_lot::Mutex;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout, timeout_at},
};
use tower_http::{
    add_extension::AddExtension,
    catch_panic::CatchPanicLayer,
    cors::{Any as AnyOrigin, CorsLayer},
};
use tracing::Instrument;

use crate::{
    limits::{Address, Rate, bound_rate, network},
    problem::Failure,
    requests::Requests,
};

/// Connections at a time; who comes later is hung up on.
const MAX_CONNECTIONS: usize = 1024;
/// How many of them only this machine may have: whoever runs the program reaches it
/// whatever strangers do.
const KEPT_FOR_THIS_MACHINE: usize = 64;
/// Connections at a time of one client: an address, or a network of IPv6 (/64). This
/// machine is exempt: a reverse proxy speaks for many.
pub const MAX_CONNECTIONS_PER_ADDRESS: usize = MAX_CONNECTIONS / 8;
/// How long a request's head may take, and how long a connection may be idle.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of a request's head, and of what is buffered of a connection.
const MAX_HEAD_BYTES: usize = 64 << 10;
/// After this a connection ends with the request under way.
const CONNECTION_LIFETIME: Duration = Duration::from_secs(600);
/// How long the last request of a connection may take, its answer's way included.
const LAST_REQUEST_TIMEOUT: Duration = Duration::from_secs(120);
/// How long requests under way may take when the program ends.
const GRACE: Duration = Duration::from_secs(2);

/// The longest body that is accepted: a transaction and 1000 out-points fit.
pub const MAX_BODY_BYTES: usize = 128 << 10;
/// Of a longer body so much is read and thrown away, so that its sender comes to
/// read the answer.
const MAX_DRAINED_BYTES: usize = 64 << 20;
/// How long a body may take.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long anything may take, the longest wait included.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(75);

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Serves connections until `stopped` becomes true.
pub async fn serve(listener: TcpListener, router: Router, mut stopped: watch::Receiver<bool>) {
    let places = Arc::new(Places::default());
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopped.wait_for(|stop| *stop) => break,
        };
        while connections.try_join_next().is_some() {}
        let (stream, address) = match accepted {
            Ok((stream, address)) => (stream, address.ip()),
            Err(error) => {
                // Out of file descriptors, most likely: some will be free soon.
                tracing::warn!("a connection could not be accepted: {error}");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Some(place) = places.enter(address) else {
            tracing::debug!(%address, "there is no place for another connection");
            continue;
        };
        connections.spawn(connection(
            stream,
            AddExtension::new(router.clone(), Address(address)),
            stopped.clone(),
            place,
        ));
    }
    drop(listener);
    let all_ended = async { while connections.join_next().await.is_some() {} };
    if timeout(GRACE, all_ended).await.is_err() {
        tracing::debug!("requests under way are broken off");
    }
}

async fn connection(
    stream: TcpStream,
    router: AddExtension<Router, Address>,
    mut stopped: watch::Receiver<bool>,
    _place: Place,
) {
    // Answers are small and awaited.
    let _ = stream.set_nodelay(true);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = pin!(connection);
    tokio::select! {
        // What goes wrong with a connection is its client's affair.
        _ = connection.as_mut() => return,
        _ = stopped.wait_for(|stop| *stop) => {}
        () = sleep(CONNECTION_LIFETIME) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = timeout(LAST_REQUEST_TIMEOUT, connection).await;
}

/// How many connections each client has.
#[derive(Default)]
struct Places(Mutex<HashMap<IpAddr, usize>>);

/// One connection's place.
struct Place {
    places: Arc<Places>,
    client: IpAddr,
}

impl Places {
    fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let address = address.to_canonical();
        let (client, of_its_own, of_all) = if address.is_loopback() {
            (address, MAX_CONNECTIONS, MAX_CONNECTIONS)
        } else {
            let for_strangers = MAX_CONNECTIONS - KEPT_FOR_THIS_MACHINE;
            (network(address), MAX_CONNECTIONS_PER_ADDRESS, for_strangers)
        };
        let mut counts = self.0.lock();
        let own = counts.get(&client).copied().unwrap_or(0);
        if own >= of_its_own || counts.values().sum::<usize>() >= of_all {
            return None;
        }
        counts.insert(client, own + 1);
        drop(counts);
        Some(Place {
            places: Arc::clone(self),
            client,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.places.0.lock();
        if let Some(count) = counts.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.client);
            }
        }
    }
}

/// Puts around the routes what every request meets, from the inside out. Those of
/// `health` are asked however much else is.
pub fn wrap(routes: Router, health: Router, rate: Rate, requests: Requests) -> Router {
    let anybody = CorsLayer::new()
        .allow_origin(AnyOrigin)
        .allow_methods([Method::GET, Method::POST])
        .allow_headers([header::CONTENT_TYPE])
        .expose_headers([REQUEST_ID, header::ETAG, header::RETRY_AFTER]);
    routes
        .fallback(unknown_route)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(rate, bound_rate))
        .merge(health.method_not_allowed_fallback(wrong_method))
        .layer(from_fn(bound_body))
        .layer(from_fn(bound_time))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(anybody)
        .layer(from_fn_with_state(requests, observe))
}

async fn unknown_route(request: Request) -> Failure {
    Failure::not_found(
        "unknown-route",
        format!(
            "there is no route {}; the routes are in /openapi.json",
            request.uri().path()
        ),
    )
}

async fn wrong_method(request: Request) -> Failure {
    Failure::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "wrong-method",
        format!(
            "{} is not for {}; the header Allow and /openapi.json say what is",
            request.uri().path(),
            request.method()
        ),
    )
}

#[allow(clippy::needless_pass_by_value, reason = "the layer passes it so")]
fn panicked(panic: Box<dyn Any + Send>) -> Response {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    Failure::internal(format!("panicked: {}", text.unwrap_or("without a word"))).into_response()
}

/// Reads the whole body before any route sees it, whatever the method.
async fn bound_body(request: Request, next: Next) -> Result<Response, Failure> {
    let (parts, body) = request.into_parts();
    let bytes = read_body(body).await?;
    Ok(next.run(Request::from_parts(parts, bytes.into())).await)
}

async fn read_body(body: Body) -> Result<Bytes, Failure> {
    let deadline = tokio::time::Instant::now() + BODY_TIMEOUT;
    let mut stream = body.into_data_stream();
    let (mut bytes, mut length) = (Vec::new(), 0_usize);
    loop {
        let chunk = match timeout_at(deadline, stream.next()).await {
            Ok(Some(Ok(chunk))) => chunk,
            Ok(Some(Err(e))) => return Err(Failure::malformed("malformed-body", e.to_string())),
            Ok(None) => break,
            Err(_) if length > MAX_BODY_BYTES => break,
            Err(_) => {
                return Err(Failure::new(
                    StatusCode::REQUEST_TIMEOUT,
                    "body-too-slow",
                    format!(
                        "the body took longer than {} seconds",
                        BODY_TIMEOUT.as_secs()
                    ),
                ));
            }
        };
        length = length.saturating_add(chunk.len());
        if length <= MAX_BODY_BYTES {
            bytes.extend_from_slice(&chunk);
        } else if length > MAX_DRAINED_BYTES {
            break;
        }
    }
    if length > MAX_BODY_BYTES {
        return Err(Failure::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "body-too-large",
            format!("the body has more than {MAX_BODY_BYTES} bytes, the most that is accepted"),
        ));
    }
    Ok(bytes.into())
}

async fn bound_time(request: Request, next: Next) -> Result<Response, Failure> {
    timeout(REQUEST_TIMEOUT, next.run(request))
        .await
        .map_err(|_| {
            Failure::later(
                StatusCode::GATEWAY_TIMEOUT,
                "timeout",
                "the answer was not found in time; what was sent may still take effect",
            )
        })
}

/// Gives the request an id, the client's own if it has one, which stands in the
/// answer's head and in every line that is logged on its behalf; counts it.
async fn observe(State(requests): State<Requests>, request: Request, next: Next) -> Response {
    let id = request
        .headers()
        .get(REQUEST_ID)
        .filter(|id| is_harmless(id.as_bytes()))
        .cloned()
        .unwrap_or_else(new_request_id);
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let route = route.as_ref().map_or("unknown", MatchedPath::as_str);
    let span = tracing::info_span!(
        "http",
        id = id.to_str().unwrap_or_default(),
        %method,
        path = request.uri().path(),
    );
    let begun = Instant::now();
    let under_way = requests.begin();
    let mut response = next.run(request).instrument(span.clone()).await;
    drop(under_way);
    let (status, took) = (response.status(), begun.elapsed());
    span.in_scope(|| tracing::debug!(status = status.as_u16(), ?took, "answered"));
    requests.answered(method_label(&method), route, status, took);
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

/// Clients may make methods up.
fn method_label(method: &Method) -> &str {
    match *method {
        Method::GET | Method::HEAD | Method::POST | Method::DELETE | Method::OPTIONS => {
            method.as_str()
        }
        _ => "other",
    }
}

fn is_harmless(id: &[u8]) -> bool {
    let harmless = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
    (1..=64).contains(&id.len()) && id.iter().all(harmless)
}

fn new_request_id() -> HeaderValue {
    let id = format!("{:016x}", rand::random::<u64>());
    HeaderValue::from_str(&id).expect("hexadecimal digits may stand in a header")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use super::*;

    fn taken(places: &Arc<Places>, addresses: impl Iterator<Item = String>) -> Vec<Place> {
        let addresses = addresses.map(|address| address.parse().unwrap());
        addresses
            .map_while(|address| places.enter(address))
            .collect()
    }

    #[test]
    fn addresses_of_one_network_share_the_places_of_one_client() {
        let places = Arc::default();
        let many = (1..10_000).map(|number| format!("2001:db8::{number:x}"));
        let held = taken(&places, many);
        assert_eq!(held.len(), MAX_CONNECTIONS_PER_ADDRESS);
        assert!(places.enter("2001:db8:0:1::1".parse().unwrap()).is_some());
        drop(held);
        assert!(places.enter("2001:db8::1".parse().unwrap()).is_some());
        assert!(places.0.lock().is_empty());
    }

    #[test]
    fn a_few_clients_cannot_take_all_places_and_many_leave_some_to_this_machine() {
        let places = Arc::default();
        let of = |client| move |_| format!("192.0.2.{client}");
        let held: Vec<_> = (0..4)
            .map(|client| taken(&places, (0..2000).map(of(client))))
            .collect();
        let another: IpAddr = "198.51.100.7".parse().unwrap();
        assert!(places.enter(another).is_some());
        let many = (0..u16::MAX).map(|number| {
            let [high, low] = number.to_be_bytes();
            format!("10.0.{high}.{low}")
        });
        let all = taken(&places, many);
        assert!(places.enter(another).is_none());
        for local in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
            assert!(places.enter(local.parse().unwrap()).is_some(), "{local}");
        }
        drop((held, all));
        assert!(places.0.lock().is_empty());
    }
}
