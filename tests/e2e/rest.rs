//! Whatever anybody sends to a guardian's ports, it answers with a problem and
//! lives.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::common::{shared, until};
use rand::{Rng, SeedableRng, rngs::StdRng};
use reqwest::{Client, Method, Response, StatusCode};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    task::JoinSet,
    time::{sleep, timeout},
};

/// What stands in a path's place of a parameter.
const ODD_PARAMETERS: &[&str] = &[
    "0",
    "65535",
    "18446744073709551615",
    "-1",
    "zz",
    "%00",
    "%ff%fe",
    "..%2f..%2fsecrets.sealed",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
];

/// What stands behind a question mark.
const ODD_QUERIES: &[&str] = &[
    "",
    "?wait=-1",
    "?wait=99999999999999999999999",
    "?wait=x&wait=y",
    "?script=zz",
    "?script=&out_point=",
    "?out_point=%00:1",
    "?%ff=%ff",
];

/// Bodies that are not what any route expects, but for chance.
const ODD_BODIES: &[&str] = &[
    "",
    "{",
    "null",
    "[]",
    "0",
    "\"\"",
    "{}",
    "{\"transaction\":\"\"}",
    "{\"transaction\":\"zz\"}",
    "{\"transaction\":\"00\"}",
    "{\"transaction\":[1,2,3]}",
    "{\"out_points\":\"all\",\"wait\":-1}",
    "{\"out_points\":[\"00:0\"],\"wait\":18446744073709551616}",
    "{\"arguments\":[{\"name\":\"a\",\"value\":{\"number\":-1}}]}",
    "{\"arguments\":[{\"name\":\"a\",\"value\":{\"number\":1}},{\"name\":\"a\",\"value\":{\"number\":1}}]}",
    "\u{0}\u{fffd}",
];

fn client() -> Client {
    let client = Client::builder()
        .no_proxy()
        .timeout(Duration::from_secs(30));
    client.build().expect("a client")
}

/// Every method and path, from the guardian's own description.
async fn routes(client: &Client, api: &str) -> Vec<(Method, String)> {
    let answer = client.get(format!("{api}/openapi.json")).send().await;
    let description: Value = answer.expect("answers").json().await.expect("is JSON");
    let paths = description["paths"].as_object().expect("has paths");
    let routes: Vec<_> = paths
        .iter()
        .flat_map(|(path, operations)| {
            let methods = operations.as_object().into_iter().flatten();
            methods.filter_map(move |(method, _)| {
                let method = method.to_uppercase().parse().ok()?;
                Some((method, path.clone()))
            })
        })
        .filter(|(method, _): &(Method, String)| {
            [Method::GET, Method::POST, Method::PUT, Method::DELETE].contains(method)
        })
        .collect();
    assert!(routes.len() >= 12, "only {routes:?}");
    routes
}

/// The path with every parameter replaced.
fn fill(path: &str, value: &str) -> String {
    let mut filled = String::new();
    let mut rest = path;
    while let Some((before, behind)) = rest.split_once('{') {
        let (_, after) = behind.split_once('}').expect("parameters end");
        filled.push_str(before);
        filled.push_str(value);
        rest = after;
    }
    filled + rest
}

/// An answer may be anything but an error of the server's, and errors of the
/// client's are problems with a code.
async fn check(what: String, answer: reqwest::Result<Response>) {
    let answer = answer.unwrap_or_else(|error| panic!("{what}: {error}"));
    let status = answer.status();
    assert!(!status.is_server_error(), "{what}: {status}");
    if status.is_client_error() {
        let kind = answer.headers().get("content-type").cloned();
        let body = answer.text().await.unwrap_or_default();
        let kind = kind.as_ref().and_then(|kind| kind.to_str().ok());
        assert_eq!(
            kind,
            Some("application/problem+json"),
            "{what}: {status} {body}"
        );
        let problem: Value = serde_json::from_str(&body).expect("a problem is JSON");
        let code = problem["code"].as_str().unwrap_or_default();
        assert!(!code.is_empty(), "{what}: {body}");
        assert_eq!(problem["status"], status.as_u16(), "{what}: {body}");
    }
}

#[tokio::test]
async fn malformed_requests_to_every_route_are_answered_with_problems() {
    let federation = shared().await;
    let guardian = &federation.guardians[0];
    let (client, api) = (client(), guardian.api_url());
    for (method, path) in routes(&client, api).await {
        for parameter in ODD_PARAMETERS {
            for query in ODD_QUERIES {
                let url = format!("{api}{}{query}", fill(&path, parameter));
                if method == Method::GET {
                    check(format!("GET {url}"), client.get(&url).send().await).await;
                    continue;
                }
                let body = ODD_BODIES[(parameter.len() + query.len()) % ODD_BODIES.len()];
                let request = client.request(method.clone(), &url);
                let request = request
                    .header("content-type", "application/json")
                    .body(body);
                check(format!("{method} {url} {body}"), request.send().await).await;
            }
            if !path.contains('{') {
                break;
            }
        }
        let url = format!("{api}{}", fill(&path, "0"));
        for body in ODD_BODIES {
            for kind in ["application/json", "text/plain"] {
                let request = client.request(method.clone(), &url);
                let request = request.header("content-type", kind).body(*body);
                check(format!("{method} {url} {body}"), request.send().await).await;
            }
        }
        check(format!("DELETE {url}"), client.delete(&url).send().await).await;
    }
    guardian.ready().await.expect("the guardian lives");
}

#[tokio::test]
async fn oversized_requests_to_every_route_are_refused() {
    let federation = shared().await;
    let guardian = &federation.guardians[1];
    let (client, api) = (client(), guardian.api_url());
    let huge = format!("{{\"transaction\":\"{}\"}}", "00".repeat(16 << 20));
    let deep = "[".repeat(1 << 17);
    for (method, path) in routes(&client, api).await {
        let url = format!("{api}{}", fill(&path, "0"));
        for body in [&huge, &deep] {
            let request = client.request(method.clone(), &url);
            let request = request.header("content-type", "application/json");
            match request.body(body.clone()).send().await {
                Ok(answer) if method == Method::POST => {
                    let status = answer.status();
                    let expected = match body.len() > 1 << 20 {
                        true => status == StatusCode::PAYLOAD_TOO_LARGE,
                        false => status.is_client_error(),
                    };
                    assert!(
                        expected,
                        "{method} {url} with {} bytes: {status}",
                        body.len()
                    );
                }
                Ok(answer) => assert!(!answer.status().is_server_error(), "{method} {url}"),
                // It may hang up before it has read everything.
                Err(error) => assert!(!error.is_timeout(), "{method} {url}: {error}"),
            }
        }
        let long = format!(
            "{api}{}?wait={}",
            fill(&path, &"a".repeat(8 << 10)),
            "1".repeat(8 << 10)
        );
        check(
            format!("{method} a long address"),
            client.request(method, &long).send().await,
        )
        .await;
    }
    guardian.ready().await.expect("the guardian lives");
}

#[tokio::test]
async fn hostile_bytes_on_the_guardians_port_stop_nobody() {
    let federation = shared().await;
    let victim = &federation.guardians[3];
    let address = &victim.config.p2p_address;
    let mut random = StdRng::seed_from_u64(7);
    let mut noise = vec![0; 1 << 20];
    random.fill(&mut noise[..]);
    let hostile: Vec<Vec<u8>> = vec![
        Vec::new(),
        vec![0],
        vec![0xff; 64 << 10],
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        // A TLS record that says it is 65,535 bytes long, and one of 5 bytes.
        vec![0x16, 3, 1, 0xff, 0xff, 1],
        vec![0x16, 3, 1, 0, 5, 1, 0xff, 0xff, 0xff, 0],
        noise,
    ];
    for bytes in &hostile {
        let mut stream = TcpStream::connect(address).await.expect("it listens");
        // It may hang up at any byte.
        let _ = stream.write_all(bytes).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let ended = timeout(Duration::from_secs(30), stream.read_to_end(&mut answer)).await;
        assert!(
            ended.is_ok(),
            "it keeps a connection that sent {} bytes and ended",
            bytes.len()
        );
    }
    victim.ready().await.expect("the guardian lives");
    federation.same_state_root().await.expect("all go on");
}

/// Strangers from many addresses that connect, say nothing, and come again when they are
/// hung up on, which is counted, until the set is dropped.
fn besiege(to: SocketAddr, hung_up: &Arc<AtomicUsize>) -> JoinSet<()> {
    let mut strangers = JoinSet::new();
    for number in 0..300_u16 {
        let [high, low] = number.to_be_bytes();
        let from = SocketAddr::from(([127, 254, high, low], 0));
        let hung_up = Arc::clone(hung_up);
        strangers.spawn(async move {
            loop {
                let socket = TcpSocket::new_v4().expect("a socket");
                socket
                    .bind(from)
                    .expect("all of 127.0.0.0/8 is this machine");
                if let Ok(mut stream) = socket.connect(to).await {
                    let _ = stream.read_u8().await;
                    hung_up.fetch_add(1, Ordering::Relaxed);
                }
                sleep(Duration::from_millis(50)).await;
            }
        });
    }
    strangers
}

#[tokio::test]
async fn strangers_that_say_nothing_keep_no_guardian_out_that_comes_back() {
    let federation = shared().await;
    // The one with the lower index dials, so it is the other's port that matters.
    let (back, besieged) = (&federation.guardians[2], &federation.guardians[3]);
    let reaches = || async {
        let status = besieged.status().await.expect("it answers");
        status.peers[2].connected
    };
    let address = besieged.config.p2p_address.parse().expect("an address");
    let hung_up = Arc::default();
    let _strangers = besiege(address, &hung_up);
    until("all places to be taken", || async {
        hung_up.load(Ordering::Relaxed) > 0
    })
    .await;
    back.kill();
    until("the besieged guardian to miss it", || async {
        !reaches().await
    })
    .await;
    federation.start(2).expect("it starts");
    until("the besieged guardian to have it back", reaches).await;
    back.ready().await.expect("it is ready");
    besieged.ready().await.expect("the besieged guardian lives");
    federation.same_state_root().await.expect("all go on");
}
