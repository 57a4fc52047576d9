//! bitcoind's JSON-RPC over HTTP: calls, credentials, and what can go wrong.

use std::{fmt, path::PathBuf, time::Duration};

use bitcoin::{Block, BlockHash, Txid, consensus::encode, hashes::Hash};
use parking_lot::Mutex;
use reqwest::StatusCode;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

/// The longest answer that is read: a block of 4 MB in hexadecimal, and room.
const MAX_ANSWER_BYTES: usize = 16 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// bitcoind hangs up on connections that are idle for 30 seconds.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);

/// Codes of Bitcoin Core's `rpc/protocol.h`.
pub(super) mod code {
    /// A parameter is out of range: there is no block of this height.
    pub const INVALID_PARAMETER: i64 = -8;
    /// There is no such block or transaction.
    pub const NOT_FOUND: i64 = -5;
    /// The transaction is in a block already.
    pub const ALREADY_IN_CHAIN: i64 = -27;
    /// bitcoind is starting.
    pub const WARMING_UP: i64 = -28;
}

/// How bitcoind knows us.
#[derive(Clone)]
pub enum BitcoindAuth {
    /// The cookie file that bitcoind writes anew at each start.
    Cookie(PathBuf),
    /// As in bitcoind's `rpcauth` or `rpcuser`.
    Password {
        /// The user's name.
        user: String,
        /// The password.
        password: String,
    },
}

impl fmt::Debug for BitcoindAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cookie(path) => f.debug_tuple("Cookie").field(path).finish(),
            Self::Password { user, .. } => write!(f, "Password({user:?}, …)"),
        }
    }
}

/// Why a call brought no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum RpcError {
    /// Nobody is there, or not for long enough.
    #[error("bitcoind cannot be reached: {0}")]
    Unreachable(String),
    /// bitcoind does not know us.
    #[error("bitcoind does not accept our credentials: {0}")]
    Unauthorized(String),
    /// bitcoind refuses, and says why.
    #[error("bitcoind refuses {method}: {message} ({code})")]
    Refused {
        /// Which call.
        method: &'static str,
        /// See [`code`].
        code: i64,
        /// For people.
        message: String,
    },
    /// The answer makes no sense.
    #[error("bitcoind's answer to {method} cannot be read: {reason}")]
    Unreadable {
        /// Which call.
        method: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

impl RpcError {
    /// bitcoind's code, where it answered at all.
    pub(super) fn code(&self) -> Option<i64> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }
}

/// A user and a password. Never printed.
#[derive(Clone)]
struct Credentials {
    user: String,
    password: String,
}

/// A client of one bitcoind.
pub(super) struct Rpc {
    url: reqwest::Url,
    auth: BitcoindAuth,
    http: reqwest::Client,
    /// What the cookie file held when it was last read.
    credentials: Mutex<Option<Credentials>>,
}

#[derive(Deserialize)]
struct Answer<T> {
    result: Option<T>,
    error: Option<AnswerError>,
}

#[derive(Deserialize)]
struct AnswerError {
    code: i64,
    message: String,
}

/// Of `getblockchaininfo`.
#[derive(Deserialize)]
pub(super) struct ChainInfo {
    /// `main`, `test`, `testnet4`, `signet` or `regtest`.
    pub chain: String,
    /// The best chain's height.
    pub blocks: u32,
    /// The best chain's last block.
    pub bestblockhash: BlockHash,
    /// Whether bitcoind is still catching up.
    pub initialblockdownload: bool,
}

#[derive(Deserialize)]
struct FeeEstimate {
    /// Bitcoin per 1000 virtual bytes.
    feerate: Option<f64>,
}

#[derive(Deserialize)]
struct MempoolInfo {
    mempoolminfee: f64,
}

#[derive(Deserialize)]
struct RawTransaction {
    blockhash: Option<BlockHash>,
    confirmations: Option<i64>,
}

#[derive(Deserialize)]
struct TxOut {
    bestblock: BlockHash,
    confirmations: i64,
}

#[derive(Deserialize)]
struct HeaderInfo {
    height: u32,
    confirmations: i64,
}

impl Rpc {
    /// A client; nothing is sent.
    ///
    /// # Errors
    /// Says what is wrong with `url`.
    pub(super) fn new(url: &str, auth: BitcoindAuth) -> Result<Self, String> {
        let url: reqwest::Url = url.parse().map_err(|e| format!("{e}"))?;
        if url.scheme() != "http" {
            return Err(format!("its scheme is {:?}", url.scheme()));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("credentials do not belong into it".to_owned());
        }
        // A node on this machine or this network is never behind a proxy.
        let http = reqwest::Client::builder()
            .no_proxy()
            .http1_only()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(CALL_TIMEOUT)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .build()
            .map_err(|e| e.to_string())?;
        Ok(Self {
            url,
            auth,
            http,
            credentials: Mutex::new(None),
        })
    }

    /// The state of the best chain.
    pub(super) async fn chain_info(&self) -> Result<ChainInfo, RpcError> {
        self.call("getblockchaininfo", json!([])).await
    }

    /// The best chain's last block.
    pub(super) async fn best_block_hash(&self) -> Result<BlockHash, RpcError> {
        self.call("getbestblockhash", json!([])).await
    }

    /// The block at `height` in the best chain; none beyond its end.
    pub(super) async fn block_hash(&self, height: u32) -> Result<Option<BlockHash>, RpcError> {
        absent_is_none(
            self.call("getblockhash", json!([height])).await,
            code::INVALID_PARAMETER,
        )
    }

    /// A block. That it is the one that was asked for is checked.
    pub(super) async fn block(&self, hash: BlockHash) -> Result<Block, RpcError> {
        const METHOD: &str = "getblock";
        let hex: String = self.call(METHOD, json!([hash, 0])).await?;
        let unreadable = |reason: String| RpcError::Unreadable {
            method: METHOD,
            reason,
        };
        // Megabytes are decoded elsewhere than where everything else is served.
        let block = tokio::task::spawn_blocking(move || encode::deserialize_hex::<Block>(&hex))
            .await
            .map_err(|e| unreadable(e.to_string()))?
            .map_err(|e| unreadable(e.to_string()))?;
        if block.block_hash() != hash {
            return Err(unreadable(format!(
                "it is block {}, asked for was {hash}",
                block.block_hash()
            )));
        }
        Ok(block)
    }

    /// What a transaction should pay so as to be confirmed within `blocks` blocks,
    /// satoshi per 1000 virtual bytes; none where bitcoind cannot say.
    pub(super) async fn estimate_fee(&self, blocks: u16) -> Result<Option<u64>, RpcError> {
        const METHOD: &str = "estimatesmartfee";
        let estimate: FeeEstimate = self.call(METHOD, json!([blocks])).await?;
        estimate
            .feerate
            .map(|rate| satoshi(METHOD, rate))
            .transpose()
    }

    /// What a transaction must pay so as to be relayed, satoshi per 1000 virtual
    /// bytes.
    pub(super) async fn mempool_min_fee(&self) -> Result<u64, RpcError> {
        const METHOD: &str = "getmempoolinfo";
        let info: MempoolInfo = self.call(METHOD, json!([])).await?;
        satoshi(METHOD, info.mempoolminfee)
    }

    /// Gives a transaction to the network. One that is known already is fine.
    pub(super) async fn broadcast(&self, transaction: &[u8]) -> Result<(), RpcError> {
        let sent: Result<Txid, _> = self
            .call("sendrawtransaction", json!([hex::encode(transaction)]))
            .await;
        absent_is_none(sent, code::ALREADY_IN_CHAIN).map(drop)
    }

    /// The height at which `txid` stands in the best chain, as far as bitcoind can
    /// say: it knows of a transaction while one of its `outputs` is unspent, or if
    /// it keeps an index of transactions.
    pub(super) async fn confirmed_at(
        &self,
        txid: Txid,
        outputs: u32,
    ) -> Result<Option<u32>, RpcError> {
        for vout in 0..outputs {
            let output: Option<TxOut> = self.call("gettxout", json!([txid, vout, false])).await?;
            if let Some(output) = output {
                let best = self.header(output.bestblock).await?;
                let above = u32::try_from(output.confirmations).unwrap_or(0);
                return Ok(best.map(|best| (best.height + 1).saturating_sub(above)));
            }
        }
        let found: Option<RawTransaction> = absent_is_none(
            self.call("getrawtransaction", json!([txid, true])).await,
            code::NOT_FOUND,
        )?;
        let Some(RawTransaction {
            blockhash: Some(hash),
            confirmations: Some(1..),
        }) = found
        else {
            return Ok(None);
        };
        let header = self.header(hash).await?;
        Ok(header.filter(|h| h.confirmations > 0).map(|h| h.height))
    }

    /// Whether the output is in the best chain and unspent there, whatever waits to
    /// be confirmed.
    pub(super) async fn is_unspent(&self, txid: Txid, vout: u32) -> Result<bool, RpcError> {
        let output: Option<TxOut> = self.call("gettxout", json!([txid, vout, false])).await?;
        Ok(output.is_some())
    }

    async fn header(&self, hash: BlockHash) -> Result<Option<HeaderInfo>, RpcError> {
        absent_is_none(
            self.call("getblockheader", json!([hash])).await,
            code::NOT_FOUND,
        )
    }

    /// One call; with a new cookie once more, if bitcoind does not know ours.
    pub(super) async fn call<T: DeserializeOwned>(
        &self,
        method: &'static str,
        params: Value,
    ) -> Result<T, RpcError> {
        let request = json!({ "jsonrpc": "1.0", "id": 0, "method": method, "params": params });
        let (status, body) = self.post(&request).await?;
        let (status, body) = match (status, &self.auth) {
            (StatusCode::UNAUTHORIZED, BitcoindAuth::Cookie(_)) => {
                *self.credentials.lock() = None;
                self.post(&request).await?
            }
            _ => (status, body),
        };
        self.read(method, status, &body)
    }

    async fn post(&self, request: &Value) -> Result<(StatusCode, Vec<u8>), RpcError> {
        let Credentials { user, password } = self.credentials().await?;
        let unreachable = |e: reqwest::Error| RpcError::Unreachable(causes(&e));
        let mut response = self
            .http
            .post(self.url.clone())
            .basic_auth(user, Some(password))
            .json(request)
            .send()
            .await
            .map_err(unreachable)?;
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
            if body.len() + chunk.len() > MAX_ANSWER_BYTES {
                return Err(RpcError::Unreachable(format!(
                    "what answers sends more than {MAX_ANSWER_BYTES} bytes"
                )));
            }
            body.extend_from_slice(&chunk);
        }
        Ok((response.status(), body))
    }

    async fn credentials(&self) -> Result<Credentials, RpcError> {
        let path = match &self.auth {
            BitcoindAuth::Password { user, password } => {
                return Ok(Credentials {
                    user: user.clone(),
                    password: password.clone(),
                });
            }
            BitcoindAuth::Cookie(path) => path,
        };
        if let Some(known) = self.credentials.lock().clone() {
            return Ok(known);
        }
        let cookie = tokio::fs::read_to_string(path).await.map_err(|e| {
            RpcError::Unreachable(format!(
                "its cookie {} cannot be read ({e}): bitcoind writes it when it starts",
                path.display()
            ))
        })?;
        let Some((user, password)) = cookie.trim_end().split_once(':') else {
            return Err(RpcError::Unauthorized(format!(
                "{} is no cookie of a bitcoind",
                path.display()
            )));
        };
        let credentials = Credentials {
            user: user.to_owned(),
            password: password.to_owned(),
        };
        *self.credentials.lock() = Some(credentials.clone());
        Ok(credentials)
    }

    fn read<T: DeserializeOwned>(
        &self,
        method: &'static str,
        status: StatusCode,
        body: &[u8],
    ) -> Result<T, RpcError> {
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                return Err(RpcError::Unauthorized(match &self.auth {
                    BitcoindAuth::Cookie(path) => {
                        format!("the cookie in {} ({status})", path.display())
                    }
                    BitcoindAuth::Password { user, .. } => {
                        format!("user {user:?} and the password given ({status})")
                    }
                }));
            }
            // "Work queue depth exceeded", as text.
            StatusCode::SERVICE_UNAVAILABLE => {
                return Err(RpcError::Unreachable("it is overloaded".to_owned()));
            }
            // Refusals come with 500 or 404 and an answer that says why.
            _ => {}
        }
        let unreadable = |e: serde_json::Error| RpcError::Unreadable {
            method,
            reason: format!("{e} ({status})"),
        };
        let answer: Answer<T> = serde_json::from_slice(body).map_err(unreadable)?;
        if let Some(AnswerError { code, message }) = answer.error {
            return Err(RpcError::Refused {
                method,
                code,
                message,
            });
        }
        match answer.result {
            Some(result) => Ok(result),
            // Some calls answer `null`, and mean it.
            None => serde_json::from_value(Value::Null).map_err(unreadable),
        }
    }
}

/// bitcoind says by this code that there is nothing.
fn absent_is_none<T>(answer: Result<T, RpcError>, absent: i64) -> Result<Option<T>, RpcError> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(e) if e.code() == Some(absent) => Ok(None),
        Err(e) => Err(e),
    }
}

fn satoshi(method: &'static str, bitcoin: f64) -> Result<u64, RpcError> {
    bitcoin::Amount::from_btc(bitcoin)
        .map(bitcoin::Amount::to_sat)
        .map_err(|e| RpcError::Unreadable {
            method,
            reason: e.to_string(),
        })
}

/// An error and what caused it, in one line.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// A hash as bitcoind writes it, from the bytes as they are hashed.
pub(super) fn block_hash(internal: &[u8; 32]) -> BlockHash {
    BlockHash::from_byte_array(*internal)
}
