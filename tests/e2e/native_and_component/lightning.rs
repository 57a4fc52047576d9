//! Lightning's flows, natively and as a component. The invoices are read by C code that
//! is compiled for both.

use modmint::{kit::Component, programs};
use modmint_runtime::Engines;
use modmint_sdk::mock::{Bundle, Store};

use super::load;

#[allow(
    dead_code,
    clippy::unwrap_used,
    unused_qualifications,
    reason = "the module's own tests, of which this is a part"
)]
#[path = "../../../modules-wasm/ln/tests/flows/world.rs"]
mod world;

use world::{LN, SAT, World};

/// Everything once, and what is to be seen of it.
fn a_day(bundle: Bundle) -> (Vec<Store>, Vec<String>) {
    let mut world = World::of(bundle, 4);
    let mut alice = world.wallet("alice", 20_000);
    let mut bob = world.wallet("bob", 0);
    let mut seen = Vec::new();
    let invoice = world.outside_invoice(1, 5_000 * SAT);
    let mut forged = invoice.clone();
    forged.replace_range(invoice.len() - 20..invoice.len() - 19, "q");
    for text in [invoice.as_str(), &forged, "hello"] {
        seen.push(format!("{:?}", alice.try_pay(text)));
    }
    world.node.borrow_mut().knows(1);
    alice.pay(&world.outside_invoice(2, 1_000 * SAT));
    world.node.borrow_mut().cannot_pay(2);
    world.serve_payments();
    alice.run();
    let (_, invoice) = bob.invoice(3_000 * SAT);
    seen.push(invoice);
    world.receive(3_000 * SAT);
    bob.run();
    let junk = world.forge(&mut bob, 7, |preimage| preimage[0] ^= 1);
    world.node.borrow_mut().offers.push(junk);
    world.receive(3_000 * SAT);
    alice
        .wallet
        .perform(LN, "gateways", Vec::new())
        .expect("it begins");
    world.check(&[&alice, &bob]);
    let wallets = [&alice.wallet, &bob.wallet, &world.gateway];
    for wallet in wallets {
        let operations = wallet.operations().iter();
        seen.extend(operations.map(|o| format!("{:?} {:?}", o.history, o.finished())));
    }
    let mut stores: Vec<_> = wallets.iter().map(|wallet| wallet.store(LN)).collect();
    stores.push(world.federation.store(LN));
    seen.push(format!("{:?}", world.federation.audit(LN)));
    (stores, seen)
}

#[test]
fn lightning_does_the_same_natively_and_as_a_component() {
    let compared = || {
        let engines = Engines::new().expect("engines");
        let path = programs::bundle("ln").expect("the build script makes the bundles");
        let component = load(&engines, &path);
        let native = a_day(Bundle::federation_module::<modmint_ln::Ln>());
        let in_runtime = a_day(Component::new(component).bundle());
        assert_eq!(native, in_runtime);
        assert!(native.1.iter().any(|seen| seen.contains("junk-preimage")));
    };
    let thread = modmint_runtime::spawn_guest_thread("both", compared).expect("a thread");
    thread.join().expect("both do the same");
}
