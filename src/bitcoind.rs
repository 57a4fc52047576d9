//! A bitcoind on a private regtest chain.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use modmint_core::{Hash32, config::BlockId};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::{
    process::{Process, free_address},
    programs, wait_for,
};

/// How long bitcoind may take to answer after its start.
const PATIENCE: Duration = Duration::from_secs(60);

/// Blocks that a new chain begins with: after 100 the first coins can be spent.
/// The others are there because a wallet sets one lock time in ten up to 100 blocks
/// back, and Bitcoin Knots passes on no transaction whose lock time is 21, which it
/// takes for a token's.
const FIRST_BLOCKS: u32 = 150;

/// A running bitcoind with a wallet that has mined itself money. Dropped, it is
/// killed.
#[derive(Debug)]
pub struct Bitcoind {
    folder: PathBuf,
    url: String,
    http: reqwest::Client,
    process: Mutex<Option<Process>>,
}

impl Bitcoind {
    /// Starts one in `folder` and mines the blocks after which its wallet has
    /// money to send.
    ///
    /// # Errors
    /// There is no bitcoind, or it does not come up.
    pub async fn start(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        let bitcoind = Self {
            folder: folder.to_owned(),
            url: format!("http://{}", free_address()?),
            http: local_client()?,
            process: Mutex::new(None),
        };
        bitcoind.start_again().await?;
        let wallet = json!({"wallet_name": "miner", "load_on_startup": true});
        let _: Value = bitcoind.call("createwallet", wallet).await?;
        bitcoind.mine(FIRST_BLOCKS).await?;
        Ok(bitcoind)
    }

    /// Starts it after [`Self::stop`]; returns when it answers.
    ///
    /// # Errors
    /// It does not come up.
    pub async fn start_again(&self) -> Result<()> {
        self.start_with(&[]).await
    }

    /// As [`Self::start_again`], with options of bitcoind on top.
    ///
    /// # Errors
    /// It does not come up.
    pub async fn start_with(&self, options: &[&str]) -> Result<()> {
        let port = self.url.rsplit(':').next().unwrap_or_default();
        let mut command = Command::new(programs::bitcoind()?);
        command
            .arg(format!("-datadir={}", self.folder.display()))
            .arg(format!("-rpcport={port}"))
            .args(["-regtest", "-server", "-txindex", "-fallbackfee=0.0002"])
            .args(["-listen=0", "-connect=0", "-dnsseed=0", "-printtoconsole=1"])
            .args(["-rpcthreads=8", "-rpcworkqueue=128"])
            .args(options);
        let process = Process::spawn("bitcoind", &command, &self.folder.join("bitcoind.log"))?;
        *self.lock() = Some(process);
        wait_for("bitcoind to answer", PATIENCE, || async {
            let answer = self.call::<u32>("getblockcount", json!([])).await;
            if answer.is_err()
                && let Some(process) = self.lock().as_mut()
            {
                process.check_running()?;
            }
            answer
        })
        .await
        .map(|_| ())
    }

    /// Ends it as an operator would.
    ///
    /// # Errors
    /// It does not end.
    pub async fn stop(&self) -> Result<()> {
        let process = self.lock().take();
        if let Some(mut process) = process {
            process.stop(PATIENCE).await?;
        }
        Ok(())
    }

    /// The process' id, while it runs.
    pub fn process_id(&self) -> Option<u32> {
        self.lock().as_ref().map(Process::id)
    }

    /// Where its JSON-RPC is.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What opens it.
    pub fn cookie_file(&self) -> PathBuf {
        self.folder.join("regtest/.cookie")
    }

    /// Calls an RPC.
    ///
    /// # Errors
    /// bitcoind is not there, or refuses.
    pub async fn call<T: DeserializeOwned>(&self, method: &str, params: Value) -> Result<T> {
        let cookie = std::fs::read_to_string(self.cookie_file()).context("no cookie yet")?;
        let (user, password) = cookie.trim().split_once(':').context("an odd cookie")?;
        let mut answer: Value = self
            .http
            .post(&self.url)
            .basic_auth(user, Some(password))
            .json(&json!({"jsonrpc": "1.0", "id": 1, "method": method, "params": params}))
            .send()
            .await?
            .json()
            .await?;
        if !answer["error"].is_null() {
            bail!("bitcoind refuses {method}: {}", answer["error"]);
        }
        serde_json::from_value(answer["result"].take())
            .with_context(|| format!("bitcoind's answer to {method} is of another shape"))
    }

    /// Mines so many blocks, to its own wallet.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn mine(&self, blocks: u32) -> Result<()> {
        let address: String = self.call("getnewaddress", json!([])).await?;
        let _: Vec<String> = self
            .call("generatetoaddress", json!([blocks, address]))
            .await?;
        Ok(())
    }

    /// Sends satoshi and returns the transaction's id, as people write it.
    ///
    /// # Errors
    /// As [`Self::call`], or the transaction is in no block and not waiting for one:
    /// bitcoind's wallet keeps what its node refuses, and says nothing.
    pub async fn send(&self, address: &str, satoshi: u64) -> Result<String> {
        let bitcoin = format!("{}.{:08}", satoshi / 100_000_000, satoshi % 100_000_000);
        let txid: String = self
            .call("sendtoaddress", json!([address, bitcoin]))
            .await?;
        let _: String = self
            .call("getrawtransaction", json!([txid]))
            .await
            .context("bitcoind does not pass its own wallet's transaction on; see its log")?;
        Ok(txid)
    }

    /// Satoshi that have arrived, in a block, at an address of its wallet.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn received(&self, address: &str) -> Result<u64> {
        let bitcoin: f64 = self.call("getreceivedbyaddress", json!([address])).await?;
        Ok((bitcoin * 1e8).round() as u64)
    }

    /// The newest block.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn tip(&self) -> Result<BlockId> {
        let height: u32 = self.call("getblockcount", json!([])).await?;
        let hash: String = self.call("getblockhash", json!([height])).await?;
        let mut hash: Hash32 = hash.parse()?;
        // RPC writes hashes in reverse.
        hash.0.reverse();
        Ok(BlockId { height, hash })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A client for this machine. It keeps no connection: those would belong to the
/// tokio runtime of one test and be used by another's.
pub(crate) fn local_client() -> Result<reqwest::Client> {
    Ok(reqwest::Client::builder()
        .no_proxy()
        .pool_max_idle_per_host(0)
        .timeout(Duration::from_secs(70))
        .build()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_mines_and_sends_and_is_the_same_after_a_restart() {
        let folder = tempfile::tempdir().expect("a folder");
        let bitcoind = Bitcoind::start(folder.path()).await.expect("it starts");
        let address: String = bitcoind
            .call("getnewaddress", json!([]))
            .await
            .expect("an address");
        let txid = bitcoind.send(&address, 123_456_789).await.expect("sent");
        bitcoind.mine(1).await.expect("mined");
        let tip = bitcoind.tip().await.expect("a tip");
        assert_eq!(tip.height, FIRST_BLOCKS + 1);
        bitcoind.stop().await.expect("it ends");
        assert!(bitcoind.tip().await.is_err());
        bitcoind.start_again().await.expect("it starts");
        assert_eq!(bitcoind.tip().await.expect("a tip"), tip);
        let sent: Value = bitcoind
            .call("gettransaction", json!([txid]))
            .await
            .expect("its wallet is back");
        assert_eq!(sent["confirmations"], 1);
        let outputs = &sent["details"];
        assert!(outputs.to_string().contains("1.23456789"), "{outputs}");

        // What its wallet keeps to itself is not sent.
        bitcoind.stop().await.expect("it ends");
        let silent = bitcoind.start_with(&["-walletbroadcast=0"]).await;
        silent.expect("it starts");
        let kept = bitcoind.send(&address, 1_000_000).await;
        let why = format!("{:#}", kept.expect_err("nobody heard of it"));
        assert!(why.contains("does not pass"), "{why}");
    }
}
