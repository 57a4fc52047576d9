//! `modmint dev`: a federation on this machine, to look at and to build against.

use std::{io::stdout, path::PathBuf, sync::Arc, time::Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use futures::try_join;

use crate::{
    bitcoind::Bitcoind,
    federation::{Federation, Module, Options},
    kit::Setting,
    lightning::Lightning,
    programs, tour,
};

/// What a deposit may be, satoshi: less than the wallet module's least is not taken in.
pub(crate) const DEPOSIT: std::ops::RangeFrom<u64> = 10_000..;
/// What of the federation's e-cash the gateway begins with, satoshi.
const GATEWAY_SAT: u64 = 500_000;

/// A federation on a regtest bitcoind of its own. Everything ends with it.
#[derive(Debug, Args)]
pub struct Dev {
    /// How many guardians: 1, 4, 7, …
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=31))]
    pub guardians: u16,
    /// Where everything is kept; a new folder. Without it a temporary one, which
    /// is deleted at the end.
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// A module beside mint, wallet and ln: its component, or its folder, which is built;
    /// as often as needed.
    #[arg(long = "module", value_name = "PATH")]
    pub modules: Vec<PathBuf>,
    /// What one of these is configured with; as often as needed.
    #[arg(long = "set", value_name = "KIND.NAME=VALUE")]
    pub settings: Vec<Setting>,
    /// Make a wallet with so much e-cash, in the folder `wallet`.
    #[arg(long, value_name = "SATOSHI", value_parser = clap::value_parser!(u64).range(DEPOSIT))]
    pub wallet: Option<u64>,
    /// Leave out the Lightning gateway and the node that it has a channel with.
    #[arg(long)]
    pub no_lightning: bool,
    /// Walk through what a federation does, with the time of each step.
    #[arg(long)]
    pub tour: bool,
    /// End when the federation is up and the tour, if there is one, is over.
    #[arg(long)]
    pub once: bool,
}

impl Dev {
    /// Founds it and keeps it up. Dropping what runs ends every process that it
    /// started.
    ///
    /// # Errors
    /// Whatever stood in the way.
    pub async fn run(self) -> Result<()> {
        let temporary;
        let folder = match &self.dir {
            Some(folder) => {
                std::fs::create_dir_all(folder)
                    .with_context(|| format!("{} cannot be created", folder.display()))?;
                ensure!(
                    std::fs::read_dir(folder)?.next().is_none(),
                    "{} is not empty; a new folder is expected",
                    folder.display()
                );
                folder.canonicalize()?
            }
            None => {
                temporary = tempfile::tempdir()?;
                temporary.path().to_owned()
            }
        };
        let mut options = Options {
            guardians: self.guardians,
            ..Options::standard()?
        };
        for path in &self.modules {
            options.modules.push(Module::at(path, &self.settings)?);
        }
        let known = |setting: &&Setting| !options.modules.iter().any(|m| setting.is_of(&m.kind));
        if let Some(stray) = self.settings.iter().find(known) {
            bail!("--set {stray}: no module is of this kind; KIND.NAME=VALUE is expected");
        }
        let up = Up::found(folder, options, !self.no_lightning).await?;
        let serving = async {
            match &up.lightning {
                Some(lightning) => lightning.serve(&up.federation, GATEWAY_SAT).await,
                None => Ok(()),
            }
        };
        let touring = async {
            match self.tour {
                true => tour::walk(&up.federation, up.lightning.as_ref(), stdout()).await,
                false => Ok(()),
            }
        };
        // The gateway is not waited for before it is needed.
        try_join!(serving, touring)?;
        if let Some(satoshi) = self.wallet {
            up.rich_wallet(satoshi).await?;
        }
        if !self.once {
            println!("\nIt stays up until Ctrl-C.");
            if self.wallet.is_none() {
                println!("To join it with a wallet of your own:\n");
                println!("  export MODMINT_WALLET_DIR=$(mktemp -d)");
                let program = programs::program("modmint-cli")?;
                println!("  {} join {}", program.display(), up.federation.invite);
            }
            std::future::pending::<()>().await;
        }
        up.stop().await
    }
}

/// A federation that is up.
pub(crate) struct Up {
    // Before the federation: its processes end first.
    lightning: Option<Lightning>,
    federation: Federation,
}

impl Up {
    /// Founds one and tells about it; with a gateway, which serves nobody yet, and a
    /// node that it has a channel with, if they are wanted.
    pub(crate) async fn found(folder: PathBuf, options: Options, lightning: bool) -> Result<Self> {
        let start = Instant::now();
        println!(
            "Founding a federation of {} guardians on a regtest bitcoind …",
            options.guardians
        );
        let bitcoind = Arc::new(Bitcoind::start(&folder.join("bitcoind")).await?);
        let founding = Federation::found_on(bitcoind.clone(), &folder, options);
        let lightning = async {
            match lightning {
                true => Lightning::start(&folder.join("lightning"), &bitcoind)
                    .await
                    .map(Some),
                false => Ok(None),
            }
        };
        let (federation, lightning) = try_join!(founding, lightning)?;
        println!(
            "It is up after {:.1} s: {} must agree.\n",
            start.elapsed().as_secs_f64(),
            modmint_core::threshold(federation.size())
        );
        describe(&federation);
        if let Some(lightning) = &lightning {
            describe_lightning(lightning);
        }
        Ok(Self {
            lightning,
            federation,
        })
    }

    /// Ends everything as an operator would.
    async fn stop(self) -> Result<()> {
        if let Some(lightning) = &self.lightning {
            lightning.stop().await?;
        }
        self.federation.stop().await
    }

    /// A wallet with money in it, and how to use it.
    pub(crate) async fn rich_wallet(&self, satoshi: u64) -> Result<()> {
        let folder = self.federation.folder().join("wallet");
        let wallet = self.federation.wallet(&folder).await?;
        tour::deposit(&self.federation, &wallet, satoshi).await?;
        println!("A wallet with {satoshi} sat is ready:\n");
        println!("  export MODMINT_WALLET_DIR={}", folder.display());
        for module in &self.federation.plan.modules {
            println!("  modmint-cli {} --help", module.kind);
        }
        Ok(())
    }
}

fn describe(federation: &Federation) {
    println!("  bitcoind    {}", federation.bitcoind.url());
    println!(
        "              cookie {}",
        federation.bitcoind.cookie_file().display()
    );
    for guardian in &federation.guardians {
        println!(
            "  {}  {}  log {}",
            guardian.name(),
            guardian.api_url(),
            guardian.log_file().display()
        );
    }
    println!("  invite      {}\n", federation.invite);
}

fn describe_lightning(lightning: &Lightning) {
    let Lightning { gateway, peer } = lightning;
    println!("  gateway     {}", gateway.api_url());
    println!("              key {}", gateway.key_file().display());
    println!("              log {}", gateway.log_file().display());
    println!("  peer        a Lightning node of somebody else's, a channel away");
    println!("              is paid at {}", peer.lightning_address());
    println!("              pays: curl -d <invoice> {}\n", peer.pays_at());
}
