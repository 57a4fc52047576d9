//! Bundles built against older versions of the contract.

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
};

use modmint_core::{Amount, OutPoint, PeerId, TxId};

use super::{
    admission::dummy_of,
    fixture::{Memory, context, server, server_of},
};
use crate::{
    Action, AdmitError, Audience, Bundle, CallError, ContractVersion, Description, Endpoint,
    Engines, Host, Instance, LoadError, RenderItem, Trap, admit, bundle::Interface, prices::Phase,
    wallet::Event,
};

static ENGINES: LazyLock<Arc<Engines>> = LazyLock::new(|| Engines::new().unwrap());

/// What an item does that calls the host in many ways.
const IMPORTS: &str = r#"
    (import "modmint:module/storage@0.2.0" "put" (func $put (param i32 i32 i32 i32)))
    (import "modmint:module/storage@0.2.0" "get" (func $get (param i32 i32 i32)))
    (import "modmint:module/crypto@0.2.0" "sha256" (func $sha256 (param i32 i32 i32)))
    (import "modmint:module/federation@0.2.0" "config" (func $config (param i32)))
    (import "modmint:module/log@0.2.0" "log" (func $log (param i32 i32 i32)))"#;
const BODY: &str = "(call $config (i32.const 12288))
    (call $sha256 (local.get $ptr) (local.get $len) (i32.const 12288))
    (call $put (i32.load (i32.const 12288)) (i32.const 32) (local.get $ptr) (local.get $len))
    (call $get (i32.load (i32.const 12288)) (i32.const 32) (i32.const 12304))
    (call $log (i32.const 1) (i32.const 1056) (i32.const 23))
    (global.get $accepted)";

/// One item, in as many calls as an item may have: what it wrote, and its fuel.
fn process(bytes: &[u8]) -> (BTreeMap<Vec<u8>, Vec<u8>>, [u64; 2]) {
    let instance = Instance::new(Bundle::load(&ENGINES, bytes).unwrap(), context());
    let host = Arc::new(Memory::default());
    let shared: Arc<dyn Host> = host.clone();
    let mut item = instance.item(shared);
    let fuel = [&b"one"[..], b"another"].map(|input| {
        let called = item.process_input(input);
        assert_eq!(called.result.unwrap().value, Amount(1000));
        called.fuel
    });
    let stored = host.stored.lock().unwrap().clone();
    (stored, fuel)
}

#[test]
fn an_item_of_a_bundle_of_0_1_costs_and_writes_what_it_always_did() {
    let older = process(&server_of(ContractVersion::V0_1, IMPORTS, "", BODY));
    let newest = process(&server(IMPORTS, "", BODY));
    assert_eq!(older, newest);
    // Guardians agree on fuel: another number here is another consensus.
    assert_eq!(older.1, [14_904, 14_931]);
}

/// What a module would say that has one of each, by the name `x`.
fn described() -> (Description, Vec<Action>) {
    let endpoint = Endpoint {
        name: "x".into(),
        summary: "Traps.".into(),
        parameters: Vec::new(),
    };
    let action = Action {
        name: "x".into(),
        summary: "Traps.".into(),
        audience: Audience::Person,
        parameters: Vec::new(),
    };
    let description = Description {
        kind: "fixture".into(),
        version: "1.0.0".into(),
        summary: "Traps.".into(),
        server_storage: 1,
        client_storage: 1,
        configuration: Vec::new(),
        queries: vec![endpoint.clone()],
        commands: vec![endpoint],
    };
    (description, vec![action])
}

#[test]
fn every_export_of_every_version_is_called_with_the_types_that_it_has() {
    for version in ContractVersion::ALL {
        // Each of its functions traps. One that is called with other types than it has
        // would be a host error.
        let bytes = dummy_of(version, "ecash-module", |text| text);
        assert_eq!(admit(&bytes).unwrap().contract, version);
        let (description, actions) = described();
        let bundle = Bundle::described(&ENGINES, &bytes, description, actions).unwrap();
        let described = Bundle::load(&ENGINES, &bytes).map(drop);
        assert!(
            matches!(
                described,
                Err(LoadError::Describe(CallError::Trapped(Trap::Broken)))
            ),
            "{described:?}"
        );
        let listed = bundle
            .compiled
            .pure(Interface::Client, Phase::Pure, None, |client, store| {
                version.actions(client, store).map(drop)
            });
        let instance = Instance::new(bundle, context());
        let host = &Memory::default().host();
        let place = OutPoint {
            txid: TxId([1; 32]),
            index: 0,
        };
        let item = || instance.item(host.clone());
        let output = item().process_output(b"x", place).result;
        let consensus_item = instance.process_consensus_item(host, PeerId(0), b"x");
        let migrated = instance.migrate_server(host, 0, Some(vec![1]));
        for (export, result) in [
            ("actions", listed),
            ("configure", instance.bundle().configure(&[]).map(drop)),
            ("render", instance.render(RenderItem::Input, b"x").map(drop)),
            ("init", instance.init(host).result),
            ("server.migrate", migrated.result.map(drop)),
            ("process-input", item().process_input(b"x").result.map(drop)),
            ("process-output", output.map(drop)),
            ("process-consensus-item", consensus_item.result),
            ("propose", instance.propose(host).map(drop)),
            ("broadcast", instance.broadcast(host).map(drop)),
            ("outcomes", instance.outcomes(host, &[place]).map(drop)),
            ("query", instance.query(host, "x", &[]).map(drop)),
            ("command", instance.command(host, "x", &[]).map(drop)),
            ("audit", instance.audit(host).result.map(drop)),
            ("start", instance.start(host, "x", &[]).map(drop)),
            (
                "advance",
                instance.advance(host, b"x", Event::Cancel).map(drop),
            ),
            ("backup", instance.backup(host).map(drop)),
            ("recover", instance.recover(host, Some(b"x")).map(drop)),
            (
                "client.migrate",
                instance.migrate_client(host, 0, None).map(drop),
            ),
            ("balance", instance.balance(host).map(drop)),
            (
                "complete",
                instance.complete(host, Amount(1), Amount(2)).map(drop),
            ),
        ] {
            assert!(
                matches!(result, Err(CallError::Trapped(Trap::Broken))),
                "{version}, {export}: {result:?}"
            );
        }
    }
}

#[test]
fn a_version_that_is_not_known_is_refused_with_those_that_are() {
    let newer = |text: String| text.replace("modmint:module@0.2.0", "modmint:module@0.3.0");
    let refusal = admit(&dummy_of(ContractVersion::V0_2, "federation-module", newer)).unwrap_err();
    assert_eq!(
        refusal,
        AdmitError::ContractVersion {
            found: "0.3.0".into()
        }
    );
    let told = refusal.to_string();
    for number in ["0.3.0", "0.1.0", "0.2.0"] {
        assert!(told.contains(number), "{told}");
    }
}

#[test]
fn a_bundle_of_two_versions_at_once_is_refused() {
    let mixed = wat::parse_str(
        r#"(component
            (import "modmint:module/storage@0.1.0" (instance))
            (import "modmint:module/log@0.2.0" (instance)))"#,
    )
    .unwrap();
    let refusal = admit(&mixed).unwrap_err().to_string();
    assert!(refusal.contains("0.1.0 and 0.2.0"), "{refusal}");
}
