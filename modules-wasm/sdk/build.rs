//! Encodes the contract's worlds, so that `export!` can put the right one into a
//! module: wit-component reads from that section what the component is.

use std::{env, error::Error, fs, path::Path};

use wit_component::StringEncoding;
use wit_parser::Resolve;

const WORLDS: [&str; 4] = [
    "server-half",
    "client-half",
    "federation-module",
    "ecash-module",
];

fn main() -> Result<(), Box<dyn Error>> {
    let wit = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("../../wit");
    println!("cargo::rerun-if-changed={}", wit.display());
    println!("cargo::rerun-if-changed=build.rs");
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_dir(&wit)?;
    let out = env::var("OUT_DIR")?;
    for name in WORLDS {
        let world = resolve.select_world(&[package], Some(name))?;
        let section = wit_component::metadata::encode(&resolve, world, StringEncoding::UTF8, None)?;
        fs::write(Path::new(&out).join(name), section)?;
    }
    Ok(())
}
