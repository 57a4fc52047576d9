//! What the end-to-end tests share: federations in folders of their own.

pub mod lightning;
pub mod raw;

use std::{
    future::Future,
    ops::Deref,
    path::Path,
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};

use modmint::{
    federation::{Federation, Options},
    wallet::Wallet,
};
use tempfile::TempDir;
use tokio::sync::Mutex;

/// A federation and the folder that it lives in, which is kept if the test fails.
pub struct Fixture {
    federation: Option<Federation>,
    folder: Option<TempDir>,
}

impl Fixture {
    /// Four guardians with the standard modules.
    pub async fn standard() -> Self {
        Self::found(Options::standard().expect("scripts/test builds the bundles")).await
    }

    pub async fn found(options: Options) -> Self {
        let folder = TempDir::with_prefix("modmint-test-").expect("a folder for the test");
        let path = folder.path().to_owned();
        let mut fixture = Self {
            federation: None,
            folder: Some(folder),
        };
        let federation = Federation::found(&path, options).await;
        fixture.federation = Some(federation.expect("the federation is founded"));
        fixture
    }

    /// A new wallet of this federation.
    pub async fn wallet(&self, name: &str) -> Wallet {
        let folder = self.folder().join("wallets").join(name);
        let wallet = self.deref().wallet(&folder).await;
        wallet.expect("a wallet can join")
    }

    /// A new wallet with so much in it.
    pub async fn rich_wallet(&self, name: &str, satoshi: u64) -> Wallet {
        let wallet = self.wallet(name).await;
        let balance = modmint::tour::deposit(self, &wallet, satoshi).await;
        assert!(balance.expect("a deposit succeeds") > 0);
        wallet
    }
}

impl Deref for Fixture {
    type Target = Federation;
    fn deref(&self) -> &Federation {
        self.federation.as_ref().expect("there until dropped")
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.federation = None;
        if std::thread::panicking()
            && let Some(folder) = self.folder.take()
        {
            eprintln!("logs and data are kept in {}", folder.keep().display());
        }
    }
}

/// The federation of all tests of this program that leave it as they found it:
/// founded by the first, ended by the last that runs at the same time.
pub async fn shared() -> Arc<Fixture> {
    static SHARED: OnceLock<Mutex<Weak<Fixture>>> = OnceLock::new();
    let mut shared = SHARED.get_or_init(Mutex::default).lock().await;
    if let Some(fixture) = shared.upgrade() {
        return fixture;
    }
    let fixture = Arc::new(Fixture::standard().await);
    *shared = Arc::downgrade(&fixture);
    fixture
}

/// Waits until `ask` is true.
pub async fn until<F: Future<Output = bool>>(what: &str, mut ask: impl FnMut() -> F) {
    let answer = modmint::wait_for(what, Duration::from_secs(60), || {
        let asked = ask();
        async {
            anyhow::ensure!(asked.await, "not yet");
            Ok(())
        }
    });
    answer.await.expect("it comes true");
}

/// The command lines of all processes that name `folder`.
pub fn processes_of(folder: &Path) -> Vec<String> {
    let folder = folder.to_str().expect("the folder's name is text");
    std::fs::read_dir("/proc")
        .expect("Linux")
        .filter_map(|entry| std::fs::read(entry.ok()?.path().join("cmdline")).ok())
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains(folder) && !line.contains("modmint dev"))
        .collect()
}
