//! A bitcoind in a few lines: as much of JSON-RPC as is spoken here, over a chain
//! that tests make as they need it.

use std::{collections::HashMap, net::SocketAddr};

use axum::{
    Json, Router,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::post,
};
use base64::Engine;
use bitcoin::{Block, BlockHash, CompactTarget, TxMerkleNode, Txid, block::Header};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    sync::{oneshot, watch},
    task::JoinHandle,
};

use super::*;

pub(super) struct FakeNode {
    node: Arc<Node>,
    address: SocketAddr,
    directory: tempfile::TempDir,
    server: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

struct Node {
    state: Mutex<NodeState>,
    sent: watch::Sender<Vec<Txid>>,
}

struct NodeState {
    cookie: String,
    network: &'static str,
    /// By height.
    chain: Vec<Block>,
    forgotten: Vec<Txid>,
    estimate: Option<f64>,
    relayed: f64,
    calls: HashMap<String, usize>,
    /// Makes every block another.
    nonce: u32,
}

impl NodeState {
    fn mine(&mut self, transactions: Vec<Transaction>) {
        self.nonce += 1;
        let height = self.chain.len() as i64;
        let mut txdata = vec![transaction(
            OutPoint::null(),
            &[(&anybody(-1 - height).0, 50)],
        )];
        txdata.extend(transactions);
        let mut block = Block {
            header: Header {
                version: bitcoin::block::Version::TWO,
                prev_blockhash: self
                    .chain
                    .last()
                    .map_or_else(BlockHash::all_zeros, Block::block_hash),
                merkle_root: TxMerkleNode::all_zeros(),
                time: 1_800_000_000,
                bits: CompactTarget::from_consensus(0x207f_ffff),
                nonce: self.nonce,
            },
            txdata,
        };
        block.header.merkle_root = block.compute_merkle_root().unwrap();
        self.chain.push(block);
    }

    fn height_of(&self, hash: &BlockHash) -> Option<usize> {
        self.chain
            .iter()
            .position(|block| block.block_hash() == *hash)
    }

    /// The answer, or a code.
    fn answer(&mut self, method: &str, params: &[Value]) -> Result<Value, i64> {
        *self.calls.entry(method.to_owned()).or_default() += 1;
        let best = self.chain.len() - 1;
        let hash = || -> BlockHash { serde_json::from_value(params[0].clone()).unwrap() };
        match method {
            "getbestblockhash" => Ok(json!(self.chain[best].block_hash())),
            "getblockchaininfo" => Ok(json!({
                "chain": self.network,
                "blocks": best,
                "bestblockhash": self.chain[best].block_hash(),
                "initialblockdownload": false,
            })),
            "getblockhash" => {
                let height = params[0].as_u64().unwrap() as usize;
                self.chain
                    .get(height)
                    .map(|b| json!(b.block_hash()))
                    .ok_or(-8)
            }
            "getblock" => {
                assert_eq!(params[1], 0, "verbosity");
                let height = self.height_of(&hash()).ok_or(-5)?;
                Ok(json!(encode::serialize_hex(&self.chain[height])))
            }
            "getblockheader" => {
                let height = self.height_of(&hash()).ok_or(-5)?;
                Ok(json!({ "height": height, "confirmations": best - height + 1 }))
            }
            "estimatesmartfee" => Ok(match self.estimate {
                Some(rate) => json!({ "feerate": rate, "blocks": 6 }),
                None => json!({ "errors": ["Insufficient data"], "blocks": 6 }),
            }),
            "getmempoolinfo" => Ok(json!({ "mempoolminfee": self.relayed })),
            "gettxout" => {
                let txid: Txid = serde_json::from_value(params[0].clone()).unwrap();
                let height = self
                    .chain
                    .iter()
                    .position(|b| b.txdata.iter().any(|t| t.compute_txid() == txid))
                    .filter(|_| !self.forgotten.contains(&txid));
                Ok(height.map_or(Value::Null, |height| {
                    json!({
                        "bestblock": self.chain[best].block_hash(),
                        "confirmations": best - height + 1,
                    })
                }))
            }
            "getrawtransaction" => Err(-5),
            "sendrawtransaction" => Ok(json!(decode(&params[0]).compute_txid())),
            _ => panic!("{method} is not spoken here"),
        }
    }
}

fn decode(hex: &Value) -> Transaction {
    encode::deserialize_hex(hex.as_str().unwrap()).unwrap()
}

async fn handle(State(node): State<Arc<Node>>, headers: HeaderMap, body: String) -> Response {
    let mut state = node.state.lock();
    let expected = base64::prelude::BASE64_STANDARD.encode(&state.cookie);
    if headers.get("authorization").unwrap() != &format!("Basic {expected}") {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let request: Value = serde_json::from_str(&body).unwrap();
    let method = request["method"].as_str().unwrap();
    let params = request["params"].as_array().unwrap();
    let answer = state.answer(method, params);
    drop(state);
    if method == "sendrawtransaction" {
        node.sent
            .send_modify(|sent| sent.push(decode(&params[0]).compute_txid()));
    }
    match answer {
        Ok(result) => Json(json!({ "result": result, "error": null, "id": 0 })).into_response(),
        Err(code) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            Json(json!({ "result": null, "error": { "code": code, "message": "no" }, "id": 0 })),
        )
            .into_response(),
    }
}

impl FakeNode {
    /// On regtest, with one block.
    pub(super) async fn start() -> Self {
        let mut state = NodeState {
            cookie: String::new(),
            network: "regtest",
            chain: Vec::new(),
            forgotten: Vec::new(),
            estimate: None,
            relayed: 0.000_01,
            calls: HashMap::new(),
            nonce: 0,
        };
        state.mine(Vec::new());
        let mut node = Self {
            node: Arc::new(Node {
                state: Mutex::new(state),
                sent: watch::channel(Vec::new()).0,
            }),
            address: "127.0.0.1:0".parse().unwrap(),
            directory: tempfile::tempdir().unwrap(),
            server: None,
        };
        node.come_back("first").await;
        node
    }

    pub(super) fn setup(&self) -> BitcoindSetup {
        BitcoindSetup {
            url: format!("http://{}", self.address),
            auth: BitcoindAuth::Cookie(self.cookie_file()),
            network: Network::Regtest,
            chain_start: self.block_id(0),
        }
    }

    pub(super) async fn follow(&self) -> Result<Arc<Bitcoind>, ChainError> {
        Bitcoind::start(self.setup()).await
    }

    /// As a bitcoind ends: with its connections and its cookie.
    pub(super) async fn stop(&mut self) {
        let (stop, server) = self.server.take().unwrap();
        stop.send(()).unwrap();
        server.await.unwrap();
        std::fs::remove_file(self.cookie_file()).unwrap();
    }

    /// Starts, at the address that it had.
    pub(super) async fn come_back(&mut self, cookie: &str) {
        self.change_cookie(cookie);
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let routes = Router::new()
            .route("/", post(handle))
            .with_state(self.node.clone());
        let server = axum::serve(listener, routes).with_graceful_shutdown(async {
            let _ = stopped.await;
        });
        let server = tokio::spawn(async move { server.await.unwrap() });
        self.server = Some((stop, server));
    }

    pub(super) fn change_cookie(&self, cookie: &str) {
        let cookie = format!("__cookie__:{cookie}");
        std::fs::write(self.cookie_file(), &cookie).unwrap();
        self.node.state.lock().cookie = cookie;
    }

    fn cookie_file(&self) -> PathBuf {
        self.directory.path().join(".cookie")
    }

    pub(super) fn change_network(&self, network: &'static str) {
        self.node.state.lock().network = network;
    }

    pub(super) fn change_fees(&self, estimate: Option<f64>, relayed: f64) {
        let mut state = self.node.state.lock();
        (state.estimate, state.relayed) = (estimate, relayed);
    }

    /// A block with these transactions, and one of its own.
    pub(super) fn mine(&self, transactions: Vec<Transaction>) {
        self.node.state.lock().mine(transactions);
    }

    /// Keeps the blocks up to `height` and puts `count` others on top.
    pub(super) fn reorganise(&self, height: u32, count: u32) {
        let mut state = self.node.state.lock();
        state.chain.truncate(height as usize + 1);
        for _ in 0..count {
            state.mine(Vec::new());
        }
    }

    /// No output of this transaction is unspent any more.
    pub(super) fn forget(&self, txid: Txid) {
        self.node.state.lock().forgotten.push(txid);
    }

    pub(super) fn header(&self, height: u32) -> Header {
        self.node.state.lock().chain[height as usize].header
    }

    pub(super) fn block_id(&self, height: u32) -> BlockId {
        BlockId {
            height,
            hash: window::internal(&self.header(height).block_hash()),
        }
    }

    /// How often a method was called.
    pub(super) fn calls(&self, method: &str) -> usize {
        let state = self.node.state.lock();
        state.calls.get(method).copied().unwrap_or(0)
    }

    /// Every transaction sent, as often as it was.
    pub(super) fn sent(&self) -> Vec<Txid> {
        self.node.sent.borrow().clone()
    }

    pub(super) async fn until_sent(&self, count: usize) {
        let mut sent = self.node.sent.subscribe();
        let enough = sent.wait_for(|sent| sent.len() >= count);
        let waited = tokio::time::timeout(Duration::from_secs(20), enough).await;
        assert!(waited.is_ok(), "waited in vain for {count} to be sent");
    }
}
