//! Small bundles, written by hand: a server half whose `process-input` is given,
//! and whose other exports do nothing.
//!
//! Also used by the benchmark.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex},
};

use modmint_core::{
    FederationId, InstanceId, KeyKind,
    config::{HexBytes, InstanceConfig, InstanceKey, Network},
};
use modmint_runtime::ContractVersion;
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::{PackageId, Resolve};

/// This version of the contract, or a changed one.
pub fn contract(
    version: ContractVersion,
    change: impl FnOnce(String) -> String,
) -> (Resolve, PackageId) {
    let file = match version {
        ContractVersion::V0_1 => "../wit/0.1/federation-module.wit",
        ContractVersion::V0_2 => "../wit/federation-module.wit",
    };
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    let text = std::fs::read_to_string(&path).expect("the contract is there");
    let mut resolve = Resolve::default();
    let package = resolve
        .push_str(&path, &change(text))
        .expect("the contract parses");
    (resolve, package)
}

/// A component of a core module in text form.
pub fn component(version: ContractVersion, wat: &str, world: &str) -> Vec<u8> {
    let (resolve, package) = contract(version, |text| text);
    let core = wat::parse_str(wat).expect("the fixture is well-formed");
    encode(&resolve, package, world, core)
}

/// A component of a core module of this world.
pub fn encode(resolve: &Resolve, package: PackageId, world: &str, mut core: Vec<u8>) -> Vec<u8> {
    let world = resolve
        .select_world(&[package], Some(world))
        .expect("the world is in the contract");
    embed_component_metadata(&mut core, resolve, world, StringEncoding::UTF8)
        .expect("a core module has room for a section");
    ComponentEncoder::default()
        .module(&core)
        .and_then(|mut encoder| encoder.encode())
        .expect("the fixture is a module of its world")
}

/// A server half: `imports` and `functions` stand as they are in the core module,
/// `process_input` is the body of `(param $ptr i32) (param $len i32) (result i32)`.
///
/// At `$accepted` lies an acceptance of 1000 msat and a key of 33 bytes; `$heap`
/// may be moved.
pub fn server(imports: &str, functions: &str, process_input: &str) -> Vec<u8> {
    server_of(ContractVersion::NEWEST, imports, functions, process_input)
}

/// The same for a version of the contract: it has no parameters, which is all that the
/// versions have otherwise, so that the core module is the same but for names.
pub fn server_of(
    version: ContractVersion,
    imports: &str,
    functions: &str,
    process_input: &str,
) -> Vec<u8> {
    component(
        version,
        &format!(
            r#"(module
  {imports}
  (memory (export "memory") 4)
  (global $heap (mut i32) (i32.const 65536))
  (global $accepted i32 (i32.const 4096))

  ;; Names and sentences.
  (data (i32.const 1024) "fixture")
  (data (i32.const 1040) "1.0.0")
  (data (i32.const 1056) "Stands in for a module.")
  (data (i32.const 1088) "question")
  (data (i32.const 1104) "{{}}")
  ;; A description: kind, version, summary, two storage versions, configuration,
  ;; queries, commands.
  (data (i32.const 2048)
    "\00\04\00\00" "\07\00\00\00" "\10\04\00\00" "\05\00\00\00" "\20\04\00\00" "\17\00\00\00"
    "\00\00\00\00" "\00\00\00\00" "\00\00\00\00" "\00\00\00\00"
    "\00\09\00\00" "\01\00\00\00" "\00\00\00\00" "\00\00\00\00")
  ;; One query, without parameters.
  (data (i32.const 2304)
    "\40\04\00\00" "\08\00\00\00" "\20\04\00\00" "\17\00\00\00" "\00\00\00\00" "\00\00\00\00")
  ;; Ok(input-effect): 1000 msat, no fee, 33 bytes at 4160.
  (data (i32.const 4096)
    "\00\00\00\00\00\00\00\00" "\e8\03\00\00\00\00\00\00" "\00\00\00\00\00\00\00\00"
    "\40\10\00\00" "\21\00\00\00")
  (data (i32.const 4160) "\02")
  ;; Ok("{{}}").
  (data (i32.const 4224) "\00\00\00\00" "\50\04\00\00" "\02\00\00\00")
  ;; Zeros, which are Ok of nothing and empty lists, lie at 8192.

  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (local $at i32)
    (local.set $at (i32.and (i32.add (global.get $heap) (i32.const 7)) (i32.const -8)))
    (global.set $heap (i32.add (local.get $at) (local.get 3)))
    (local.get $at))

  (func (export "modmint:module/module-info@0.2.0#describe") (result i32) (i32.const 2048))
  (func (export "modmint:module/module-info@0.2.0#configure") (param i32 i32) (result i32)
    (i32.const 8192))
  (func (export "modmint:module/module-info@0.2.0#render") (param i32 i32 i32 i32 i32) (result i32)
    (i32.const 4224))

  (func (export "modmint:module/server@0.2.0#init") (result i32) (i32.const 8192))
  (func (export "modmint:module/server@0.2.0#migrate") (param i32 i32 i32 i32) (result i32)
    (i32.const 8192))
  (func (export "modmint:module/server@0.2.0#process-output") (param i32 i32 i32 i32 i32) (result i32)
    (i32.const 8192))
  (func (export "modmint:module/server@0.2.0#process-consensus-item") (param i32 i32 i32) (result i32)
    (i32.const 8192))
  (func (export "modmint:module/server@0.2.0#propose") (result i32) (i32.const 8192))
  (func (export "modmint:module/server@0.2.0#broadcast") (result i32) (i32.const 8192))
  (func (export "modmint:module/server@0.2.0#outcomes") (param i32 i32) (result i32)
    (i32.const 8192))
  ;; A query does what process-input does, and has nothing to say.
  (func (export "modmint:module/server@0.2.0#query") (param i32 i32 i32 i32) (result i32)
    (drop (call $process-input (local.get 0) (local.get 1)))
    (i32.const 8192))
  (func (export "modmint:module/server@0.2.0#command") (param i32 i32 i32 i32) (result i32)
    (i32.const 8192))
  (func (export "modmint:module/server@0.2.0#audit") (result i32) (i32.const 8192))

  {functions}
  (func $process-input (export "modmint:module/server@0.2.0#process-input")
    (param $ptr i32) (param $len i32) (result i32)
    {process_input})
)"#
        )
        .replace(
            &format!("@{}", ContractVersion::NEWEST),
            &format!("@{version}"),
        ),
        "server-half",
    )
}

/// What the fixtures run in.
pub fn context() -> modmint_runtime::Context {
    modmint_runtime::Context {
        federation: FederationId([5; 32]),
        network: Network::Regtest,
        peers: 4,
        threshold: 3,
        instance: InstanceConfig {
            id: InstanceId(1),
            kind: "fixture".into(),
            bundle: modmint_core::BundleHash([0; 32]),
            config: vec![1, 2, 3],
            keys: vec![InstanceKey {
                label: "multisig".into(),
                kind: KeyKind::Multisig,
                public_keys: vec![HexBytes(vec![2; 33]); 4],
                share_keys: vec![],
            }],
        },
    }
}

/// A host in memory.
#[derive(Default)]
pub struct Memory {
    pub stored: Mutex<BTreeMap<Vec<u8>, Vec<u8>>>,
    pub logged: Mutex<Vec<String>>,
    /// What checks answer; none: made here and now.
    pub verdict: Option<bool>,
    /// Where a store of this host breaks.
    pub broken: bool,
    /// What panics.
    pub panics: bool,
}

impl Memory {
    pub fn host(self) -> Arc<dyn modmint_runtime::Host> {
        Arc::new(self)
    }
}

impl modmint_runtime::Host for Memory {
    fn get(&self, key: &[u8]) -> modmint_runtime::HostResult<Option<Vec<u8>>> {
        assert!(!self.panics, "a host that panics");
        if self.broken {
            return Err(modmint_runtime::HostError::new("the disk is gone"));
        }
        Ok(self.stored.lock().expect("not poisoned").get(key).cloned())
    }

    fn put(&self, key: &[u8], value: &[u8]) -> modmint_runtime::HostResult<()> {
        let mut stored = self.stored.lock().expect("not poisoned");
        stored.insert(key.to_vec(), value.to_vec());
        Ok(())
    }

    fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
        max_bytes: usize,
    ) -> modmint_runtime::HostResult<Vec<(Vec<u8>, Vec<u8>)>> {
        let stored = self.stored.lock().expect("not poisoned");
        let mut bytes = 0;
        Ok(stored
            .iter()
            .filter(|(key, _)| key.starts_with(prefix) && after.is_none_or(|a| key.as_slice() > a))
            .take(limit)
            .take_while(|(key, value)| {
                bytes += key.len() + value.len();
                bytes <= max_bytes
            })
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect())
    }

    fn check(&self, check: &modmint_runtime::Check) -> modmint_runtime::HostResult<bool> {
        Ok(self.verdict.unwrap_or_else(|| check.verify()))
    }

    fn whoami(&self) -> modmint_runtime::HostResult<modmint_core::PeerId> {
        Ok(modmint_core::PeerId(2))
    }

    fn log(&self, _level: modmint_runtime::LogLevel, message: &str) {
        self.logged
            .lock()
            .expect("not poisoned")
            .push(message.to_owned());
    }
}
