//! Against a real bitcoind on regtest: the one that `BITCOIND_EXE` names, or that
//! `scripts/bitcoind` has fetched. Without one there is nothing to test here.

use std::{net::SocketAddr, process::Stdio};

use bitcoin::{Address, BlockHash};
use serde_json::json;
use tokio::process::{Child, Command};

use super::{super::rpc::Rpc, *};
use crate::loopback;

struct RealNode {
    executable: PathBuf,
    directory: tempfile::TempDir,
    address: SocketAddr,
    process: Child,
    rpc: Rpc,
}

fn executable() -> Option<PathBuf> {
    let fetched = || {
        let home = std::env::var_os("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))?;
        Some(home.join("modmint/bitcoind/bitcoind"))
    };
    std::env::var_os("BITCOIND_EXE")
        .map(PathBuf::from)
        .or_else(fetched)
        .filter(|path| path.exists())
}

impl RealNode {
    async fn start(executable: PathBuf) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let address = loopback::addresses(1)[0];
        let process = spawn(&executable, &directory, address);
        let cookie = BitcoindAuth::Cookie(directory.path().join("regtest/.cookie"));
        let rpc = Rpc::new(&format!("http://{address}"), cookie).unwrap();
        let node = Self {
            executable,
            directory,
            address,
            process,
            rpc,
        };
        node.until_ready().await;
        node
    }

    async fn until_ready(&self) {
        let ready = async {
            while self.rpc.chain_info().await.is_err() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), ready)
            .await
            .expect("bitcoind starts");
    }

    async fn stop(&mut self) {
        let _: String = self.rpc.call("stop", json!([])).await.unwrap();
        self.process.wait().await.unwrap();
    }

    async fn start_again(&mut self) {
        self.process = spawn(&self.executable, &self.directory, self.address);
        self.until_ready().await;
    }

    async fn mine(&self, count: u32, script: &ScriptBuf) -> Vec<BlockHash> {
        let address = Address::from_script(script, bitcoin::Network::Regtest).unwrap();
        let params = json!([count, address.to_string()]);
        self.rpc.call("generatetoaddress", params).await.unwrap()
    }

    async fn block_id(&self, height: u32) -> BlockId {
        let hash = self.rpc.block_hash(height).await.unwrap().unwrap();
        BlockId {
            height,
            hash: window::internal(&hash),
        }
    }
}

fn spawn(executable: &PathBuf, directory: &tempfile::TempDir, address: SocketAddr) -> Child {
    Command::new(executable)
        .args(["-regtest", "-server", "-listen=0", "-printtoconsole=0"])
        .arg(format!("-datadir={}", directory.path().display()))
        .args([
            format!("-rpcbind={address}"),
            "-rpcallowip=127.0.0.0/8".into(),
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("bitcoind can be started")
}

#[tokio::test]
async fn a_real_bitcoind_is_followed_through_a_reorganisation_and_a_restart() {
    let Some(executable) = executable() else {
        eprintln!("no bitcoind here: set BITCOIND_EXE, or run scripts/setup");
        return;
    };
    let mut node = RealNode::start(executable).await;
    let start = node.block_id(0).await;
    let chain = Bitcoind::start(BitcoindSetup {
        url: format!("http://{}", node.address),
        auth: BitcoindAuth::Cookie(node.directory.path().join("regtest/.cookie")),
        network: Network::Regtest,
        chain_start: start,
    })
    .await
    .unwrap();
    assert_eq!(chain.best_height(), Some(0));
    assert_eq!(chain.fee_rate(), Some(1000));

    // Coinbases that anybody can spend, in a script that guardians vote.
    let ((passing, witness_script), other) = scripts();
    let mined = node.mine(101, &passing).await;
    until_height(&chain, 101).await;
    let blocks = voted(&chain, start, 1, 100).await;
    assert_eq!(blocks[0].outputs[0].script, passing.to_bytes());
    assert_eq!(blocks[0].outputs[0].satoshi, 5_000_000_000);
    assert!(
        chain
            .blocks_after(node.block_id(100).await, 1, 144)
            .is_none_or(|b| b.is_empty())
    );

    // A transaction that a module names comes into the next block.
    let coinbase = OutPoint::new(Txid::from_byte_array(blocks[0].outputs[0].txid.0), 0);
    let mut spending = transaction(coinbase, &[(&passing, 4_999_990_000)]);
    spending.input[0].witness = Witness::from_slice(&[witness_script.to_bytes()]);
    let txid = spending.compute_txid();
    chain.set_broadcast(WALLET, vec![encode::serialize(&spending)]);
    let in_mempool = async {
        loop {
            let pool: Vec<Txid> = node.rpc.call("getrawmempool", json!([])).await.unwrap();
            if pool == [txid] {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), in_mempool)
        .await
        .expect("the transaction is relayed");
    node.mine(1, &other).await;
    let seen = || chain.confirmed_at(&txid.to_byte_array());
    until(&chain, "the confirmation", |_| seen() == Some(102)).await;

    // A better chain without the last two blocks.
    let last: serde_json::Value = node
        .rpc
        .call("invalidateblock", json!([mined[100]]))
        .await
        .unwrap();
    assert!(last.is_null());
    node.mine(3, &anybody(77).0).await;
    until_height(&chain, 103).await;
    let now = voted(&chain, start, 0, 103).await;
    assert_eq!(now[..100], blocks[..]);
    let tip = encode::serialize(
        &node
            .rpc
            .block(node.rpc.best_block_hash().await.unwrap())
            .await
            .unwrap()
            .header,
    );
    assert_eq!(now[102].header[..], tip);
    until(&chain, "the transaction in the better chain", |_| {
        seen() == Some(101)
    })
    .await;

    node.stop().await;
    until(&chain, "its absence", |c| c.best_height().is_none()).await;
    node.start_again().await;
    until_height(&chain, 103).await;
    node.mine(1, &other).await;
    until_height(&chain, 104).await;
    assert_eq!(chain.problems(), Vec::<String>::new());
    node.stop().await;
}
