//! `modmint module …`: from nothing to a module in a running federation.
//!
//! What a bundle may do is decided in `modmint-runtime`, what a module is written with
//! is in `modmint-sdk`. Here is what whoever writes one types: a new module from a
//! template, its component, the admission check in words, what it is, what its calls
//! cost, and a federation with it in.

mod build;
mod c;
mod check;
mod compile;
mod component;
pub mod conformance;
pub mod fuel;
mod inspect;
mod new;
mod run;
mod subject;

use std::path::PathBuf;

use anyhow::Result;
use clap::Subcommand;
use modmint_runtime::ContractVersion;

pub use build::{Built, build, build_against, example};
pub use component::Component;
pub use subject::{Setting, Subject};

/// Write, build, look at and try a module.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Write a new module from a template that compiles, is tested, and works
    New(new::New),
    /// Compile a module to its component
    Build {
        /// The module's folder
        #[arg(default_value = ".")]
        folder: PathBuf,
        /// Write the component here too
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// For hosts that know no newer one: the version of the contract, in C
        #[arg(long, value_name = "VERSION", default_value_t = ContractVersion::NEWEST)]
        contract: ContractVersion,
    },
    /// Check whether guardians and wallets would take a bundle
    Check {
        /// A component, or a module's folder, which is built
        #[arg(default_value = ".")]
        module: PathBuf,
    },
    /// Show what a bundle is and what it can do
    Inspect(inspect::Inspect),
    /// Run the suite that any bundle must pass
    Test(conformance::Test),
    /// Meter the calls that a module's tests make, on its component
    Fuel(fuel::Fuel),
    /// Run a federation with the module in it, and a new one when it changes
    Run(run::Run),
}

impl Command {
    /// Does it; false if what was asked for was found wanting, and said so.
    ///
    /// # Errors
    /// It cannot be done.
    pub async fn run(self) -> Result<bool> {
        match self {
            Self::New(new) => new.write().map(|()| true),
            Self::Build {
                folder,
                out,
                contract,
            } => {
                let built = build_against(&folder, contract)?;
                if let Some(out) = out {
                    std::fs::copy(&built.component, out)?;
                }
                println!("{built}");
                Ok(true)
            }
            Self::Check { module } => check::check(&Subject::read(&module)?),
            Self::Inspect(inspect) => inspect.show().map(|()| true),
            Self::Test(test) => test.report(),
            Self::Fuel(fuel) => fuel.report(),
            Self::Run(run) => run.until_ended().await.map(|()| true),
        }
    }
}
