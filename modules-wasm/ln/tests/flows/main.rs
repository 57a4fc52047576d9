//! Lightning through a federation that is played in this process, a gateway's wallet,
//! and a Lightning node of which nothing is played but its answers.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should say where"
)]

mod machine;
mod random;
mod rules;
mod wallets;
mod world;

use modmint_ln::*;
use modmint_sdk::mock::{Behaviour, Kill};
use world::*;

#[test]
fn an_invoice_is_paid_from_ecash_and_the_payer_has_the_preimage() {
    let mut world = World::new(4);
    let mut alice = world.wallet("alice", 20_000);
    let invoice = world.outside_invoice(1, 5_000 * SAT);
    let payment = alice.pay(&invoice);
    let (asked, taken) = alice.wallet.asked.clone().unwrap();
    assert!(asked.starts_with("pay 5000 sat"), "{asked}");
    // The invoice, the gateway's fee, the federation's.
    assert_eq!(taken, 5_000 * SAT + PAY_FEE + CONTRACT_FEE);
    assert_eq!(alice.finished(payment), None);

    world.node.borrow_mut().knows(1);
    world.serve_payments();
    assert_eq!(world.gateway_earned(), (5_000 * SAT + PAY_FEE) as i64);
    alice.run();
    assert_eq!(alice.finished(payment), Some(Ok(())));
    let preimage = alice.detail(payment, "preimage");
    assert_eq!(preimage, modmint_sdk::to_hex(&preimage_of(1)));
    world.check(&[&alice]);
    assert_eq!(alice.try_pay(&invoice).unwrap_err().code, "already-paid");
}

#[test]
fn an_invoice_is_made_and_what_is_paid_for_it_arrives() {
    let mut world = World::new(4);
    // Without any money.
    let mut bob = world.wallet("bob", 0);
    let (receipt, invoice) = bob.invoice(3_000 * SAT);
    assert!(invoice.starts_with("lnbcrt"), "{invoice}");
    assert_eq!(bob.finished(receipt), None);

    let received = world.receive(3_000 * SAT);
    assert_eq!(world.gateway.operation(received).finished(), Some(Ok(())));
    assert_eq!(world.node.borrow().settled.len(), 1);
    bob.run();
    assert_eq!(bob.finished(receipt), Some(Ok(())));
    assert_eq!(bob.wallet.balance(), 3_000 * SAT - RECEIVE_FEE);
    world.check(&[&bob]);
}

#[test]
fn a_wallet_pays_another_of_the_same_federation_by_a_swap() {
    let mut world = World::new(4);
    let mut alice = world.wallet("alice", 20_000);
    let mut bob = world.wallet("bob", 0);
    let (receipt, invoice) = bob.invoice(3_000 * SAT);
    let payment = alice.pay(&invoice);
    // The node finds the invoice to be its own: it buys the offer, and has the preimage.
    world.serve_payments();
    world.receive(3_000 * SAT);
    let (hash, preimage) = world.node.borrow().settled[0];
    world.node.borrow_mut().answers.insert(hash, Ok(preimage));
    world.federation.pass(30);
    world.gateway.run();
    alice.run();
    bob.run();
    assert_eq!(alice.finished(payment), Some(Ok(())));
    assert_eq!(bob.finished(receipt), Some(Ok(())));
    assert_eq!(bob.wallet.balance(), 3_000 * SAT - RECEIVE_FEE);
    let earned = (PAY_FEE + RECEIVE_FEE - CONTRACT_FEE) as i64;
    assert_eq!(world.gateway_earned(), earned);
    world.check(&[&alice, &bob]);
}

#[test]
fn a_payment_that_fails_for_good_is_given_back_at_once() {
    let mut world = World::new(4);
    let mut alice = world.wallet("alice", 20_000);
    let invoice = world.outside_invoice(1, 5_000 * SAT);
    let payment = alice.pay(&invoice);
    world.node.borrow_mut().cannot_pay(1);
    world.serve_payments();
    alice.run();
    let end = alice.finished(payment).unwrap().unwrap_err();
    assert_eq!(end.code, "payment-failed");
    assert_eq!(alice.stage(payment), "refunded");
    assert_eq!(alice.wallet.balance(), 20_000 * SAT - CONTRACT_FEE);
    assert_eq!(world.gateway_earned(), 0);
    world.check(&[&alice]);
    // The same invoice may be tried again, through the same gateway if there is no other.
    let again = alice.pay(&invoice);
    world.node.borrow_mut().knows(1);
    world.serve_payments();
    alice.run();
    assert_eq!(alice.finished(again), Some(Ok(())));
    world.check(&[&alice]);
}

#[test]
fn a_gateway_that_vanishes_costs_the_payer_nothing_but_time() {
    let mut world = World::new(4);
    let mut alice = world.wallet("alice", 20_000);
    let invoice = world.outside_invoice(1, 5_000 * SAT);
    let payment = alice.pay(&invoice);
    let timelock = alice.timelock(&world);
    world
        .federation
        .mine_blocks(timelock - 1 - world.federation.height());
    alice.run();
    assert_eq!(alice.finished(payment), None);
    world.federation.mine_blocks(1);
    alice.run();
    assert_eq!(alice.stage(payment), "refunded");
    assert_eq!(alice.wallet.balance(), 20_000 * SAT - CONTRACT_FEE);
    // It comes back too late.
    world.node.borrow_mut().knows(1);
    world.serve_payments();
    assert_eq!(world.gateway_earned(), 0);
    world.check(&[&alice]);
}

#[test]
fn a_gateway_with_a_wrong_preimage_gets_nothing() {
    let mut world = World::new(4);
    let mut alice = world.wallet("alice", 20_000);
    let invoice = world.outside_invoice(1, 5_000 * SAT);
    let payment = alice.pay(&invoice);
    let wrong = preimage_of(2);
    let contract = world.node.borrow().posted[0].1;
    world
        .node
        .borrow_mut()
        .answers
        .insert(hash_of(1), Ok(wrong));
    world.serve_payments();
    assert_eq!(world.gateway_earned(), 0);
    alice.run();
    assert_eq!(alice.finished(payment), None);
    let claim = ContractInput::Claim {
        contract,
        preimage: wrong,
    };
    assert_eq!(world.refused_input(claim), "wrong-preimage");
}

#[test]
fn a_preimage_that_is_junk_is_paid_back_and_the_payment_is_failed() {
    let mut world = World::new(4);
    let mut mallory = world.wallet("mallory", 0);
    let offer = world.forge(&mut mallory, 7, |preimage| preimage[0] ^= 1);
    world.node.borrow_mut().offers.push(offer);
    let received = world.receive(3_000 * SAT);
    let end = world.gateway.operation(received).finished().unwrap();
    assert_eq!(end.unwrap_err().code, "junk-preimage");
    assert_eq!(world.node.borrow().failed.len(), 1);
    // But for what buying costs.
    assert_eq!(world.gateway_earned(), -(CONTRACT_FEE as i64));
    world.check(&[&mallory]);
}

/// The wallets' half cannot be made to lie, so `conformance.toml` has the liar's offer in
/// it: it holds in any mock federation of four in which this module is the first one.
#[test]
fn the_junk_in_the_scenario_is_this_liar_s() {
    let mut world = World::new(4);
    let mut mallory = world.wallet("mallory", 0);
    let offer = world.forge(&mut mallory, 9, |preimage| preimage[0] ^= 1);
    let offer = modmint_sdk::to_hex(&borsh::to_vec(&offer).unwrap());
    let scenario = include_str!("../../conformance.toml");
    assert!(scenario.contains(&offer), "expected: {offer}");
}

#[test]
fn an_offer_copied_with_other_terms_is_worthless() {
    let mut world = World::new(4);
    let mut bob = world.wallet("bob", 0);
    bob.invoice(3_000 * SAT);
    let mut offer = world.offer();
    offer.amount = 1_000;
    world.node.borrow_mut().offers = vec![offer.clone()];
    let received = world.receive(3_000 * SAT);
    let end = world.gateway.operation(received).finished().unwrap();
    assert_eq!(end.unwrap_err().code, "bad-ciphertext");
    let contract = IncomingContract {
        offer,
        gateway_key: world.gateway_key(),
    };
    let output = ContractOrOfferOutput::Contract(Contract::Incoming(contract));
    assert_eq!(world.refused_output(output), "bad-ciphertext");
    assert_eq!(world.gateway_earned(), 0);
}

#[test]
fn one_guardian_that_lies_or_is_silent_changes_nothing() {
    for behaviour in [Behaviour::Lying, Behaviour::Silent] {
        for guardian in 0..4 {
            let mut world = World::new(4);
            world.federation.set_behaviour(guardian, behaviour);
            let mut alice = world.wallet("alice", 20_000);
            let mut bob = world.wallet("bob", 0);
            let invoice = world.outside_invoice(1, 5_000 * SAT);
            let payment = alice.pay(&invoice);
            world.node.borrow_mut().knows(1);
            world.serve_payments();
            alice.run();
            assert_eq!(alice.finished(payment), Some(Ok(())));
            let (receipt, _) = bob.invoice(3_000 * SAT);
            world.receive(3_000 * SAT);
            bob.run();
            assert_eq!(bob.finished(receipt), Some(Ok(())));
            world.check(&[&alice, &bob]);
        }
    }
}

/// Everything once; whoever is killed goes on.
fn a_busy_day(kill: Option<(usize, Kill)>) -> [u64; 3] {
    let mut world = World::new(4);
    let mut alice = world.wallet("alice", 40_000);
    let mut bob = world.wallet("bob", 0);
    if let Some((who, kill)) = kill {
        match who {
            0 => alice.wallet.kill_at(kill),
            1 => bob.wallet.kill_at(kill),
            _ => world.gateway.kill_at(kill),
        }
    }
    // Paid.
    let invoice = world.outside_invoice(1, 5_000 * SAT);
    let paid = alice.pay(&invoice);
    world.node.borrow_mut().knows(1);
    world.serve_payments();
    alice.run();
    assert_eq!(alice.finished(paid), Some(Ok(())));
    // Given back.
    let invoice = world.outside_invoice(2, 6_000 * SAT);
    let given_back = alice.pay(&invoice);
    world.node.borrow_mut().cannot_pay(2);
    world.serve_payments();
    alice.run();
    assert_eq!(alice.stage(given_back), "refunded");
    // Timed out.
    let invoice = world.outside_invoice(3, 7_000 * SAT);
    let timed_out = alice.pay(&invoice);
    world.node.borrow_mut().posted.clear();
    world.federation.mine_blocks(1_000);
    alice.run();
    assert_eq!(alice.stage(timed_out), "refunded");
    // Received.
    let (receipt, _) = bob.invoice(3_000 * SAT);
    world.receive(3_000 * SAT);
    bob.run();
    assert_eq!(bob.finished(receipt), Some(Ok(())));
    // Junk.
    let junk = world.forge(&mut bob, 9, |preimage| preimage[0] ^= 1);
    world.node.borrow_mut().offers.push(junk);
    world.receive(3_000 * SAT);
    assert_eq!(world.node.borrow().failed.len(), 1);

    world.check(&[&alice, &bob]);
    assert_eq!(
        alice.wallet.balance(),
        35_000 * SAT - PAY_FEE - 3 * CONTRACT_FEE
    );
    assert_eq!(bob.wallet.balance(), 3_000 * SAT - RECEIVE_FEE);
    assert_eq!(world.held(), 0);
    if kill.is_some() {
        assert_eq!(
            alice.wallet.kills() + bob.wallet.kills() + world.gateway.kills(),
            1
        );
    }
    [
        alice.wallet.writes(),
        bob.wallet.writes(),
        world.gateway.writes(),
    ]
}

fn killed_after_any_write(sent: bool) {
    let writes = a_busy_day(None);
    // Before that the wallets are set up.
    let first = World::new(4).gateway.writes() + 1;
    for (who, writes) in writes.into_iter().enumerate() {
        assert!(writes > 6, "{who} has written {writes} times");
        let first = if who == 2 { first } else { 4 };
        for after in first..=writes {
            a_busy_day(Some((who, Kill { after, sent })));
        }
    }
}

#[test]
fn a_wallet_killed_after_any_write_goes_on_where_it_was() {
    killed_after_any_write(false);
}

#[test]
fn a_wallet_killed_after_sending_what_it_wrote_goes_on_where_it_was() {
    killed_after_any_write(true);
}
