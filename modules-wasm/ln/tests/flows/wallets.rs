//! What wallets refuse, choose and find again.

use lightning_invoice::Currency;
use modmint_ln::*;
use modmint_sdk::{
    Amount, HttpResponse, Refusal, Server, borsh,
    mock::{Behaviour, Kill, Phase, Wallet},
    wallet,
};
use serde_json::json;

use crate::world::*;

fn to(invoice: &str) -> PayAction {
    PayAction {
        to: invoice.into(),
        amount: None,
        gateway: None,
        maximum_fee: None,
    }
}

fn code(end: Option<Result<(), Refusal>>) -> String {
    end.unwrap().unwrap_err().code
}

#[test]
fn an_invoice_that_should_not_be_paid_is_refused_before_anything_is_asked() {
    let world = World::new(1);
    let mut alice = world.wallet("alice", 20_000);
    let time = world.federation.time();
    let make = |currency, expiry| invoice(currency, hash_of(1), 1_000 * SAT, time, expiry);
    let good = make(Currency::Regtest, 60);
    // One character of the signature.
    let mut forged = good.clone().into_bytes();
    let place = forged.len() - 20;
    forged[place] = if forged[place] == b'q' { b'p' } else { b'q' };
    let forged = String::from_utf8(forged).unwrap();
    for (text, refused) in [
        ("hello", "bad-invoice"),
        (&forged, "bad-invoice"),
        (&make(Currency::Bitcoin, 60), "wrong-network"),
        (&make(Currency::Signet, 60), "wrong-network"),
    ] {
        assert_eq!(alice.try_pay(text).unwrap_err().code, refused, "{text}");
    }
    let mut other_amount = to(&good);
    other_amount.amount = Some(Amount(5));
    assert_eq!(
        alice.pay_with(other_amount).unwrap_err().code,
        "wrong-amount"
    );
    world.federation.pass(60);
    assert_eq!(alice.try_pay(&good).unwrap_err().code, "invoice-expired");
    assert_eq!(alice.wallet.balance(), 20_000 * SAT);
}

#[test]
fn an_invoice_with_its_scheme_and_in_capitals_is_read() {
    let world = World::new(1);
    let mut alice = world.wallet("alice", 20_000);
    let invoice = world.outside_invoice(1, 1_000 * SAT).to_uppercase();
    let payment = alice.pay(&format!(" LIGHTNING:{invoice}\n"));
    assert_eq!(alice.stage(payment), "pending");
}

#[test]
fn what_is_declined_or_costs_too_much_leaves_the_balance_alone() {
    let world = World::new(1);
    let mut alice = world.wallet("alice", 20_000);
    let invoice = world.outside_invoice(1, 1_000 * SAT);
    let mut cheap = to(&invoice);
    cheap.maximum_fee = Some(Amount(PAY_FEE - 1));
    let payment = alice.pay_with(cheap).unwrap();
    assert_eq!(code(alice.finished(payment)), "no-gateway");
    alice.wallet.set_confirms(false);
    let payment = alice.pay(&invoice);
    assert_eq!(code(alice.finished(payment)), "declined");
    alice.wallet.set_confirms(true);
    let dear = world.outside_invoice(2, 30_000 * SAT);
    let payment = alice.pay(&dear);
    assert_eq!(code(alice.finished(payment)), "not-enough-money");
    assert_eq!(alice.wallet.balance(), 20_000 * SAT);
    // None of it stands in the way of another try.
    let payment = alice.pay(&invoice);
    assert_eq!(alice.stage(payment), "pending");
    assert_eq!(alice.try_pay(&invoice).unwrap_err().code, "being-paid");
    assert_eq!(alice.wallet.cancel(payment).unwrap_err().code, "too-late");
}

#[test]
fn a_gateway_that_is_away_is_left_out_and_told_later() {
    let mut world = World::new(1);
    let mut alice = world.wallet("alice", 20_000);
    let invoice = world.outside_invoice(1, 1_000 * SAT);
    world.node.borrow_mut().down = true;
    let payment = alice.pay(&invoice);
    assert_eq!(code(alice.finished(payment)), "no-gateway");
    // It goes away between its quote and the contract.
    world.node.borrow_mut().down = false;
    let action = to(&invoice).arguments();
    let payment = alice.wallet.start(LN, "pay", action).unwrap();
    while alice.stage(payment) != "pending" {
        assert!(alice.wallet.step());
    }
    world.node.borrow_mut().down = true;
    alice.run();
    assert_eq!(world.node.borrow().posted.len(), 0);
    world.node.borrow_mut().down = false;
    world.federation.pass(15);
    alice.run();
    world.node.borrow_mut().knows(1);
    world.serve_payments();
    alice.run();
    assert_eq!(alice.finished(payment), Some(Ok(())));
}

/// Another gateway, which is announced and asks less; its key.
fn announced(world: &World, name: &str) -> PublicKey {
    let mut other = Wallet::new(&world.federation, name);
    other.endow(100);
    let announce = AnnounceAction {
        api: format!("https://{name}.example"),
        node_key: vec![3; 33],
        alias: name.into(),
        pay_base_msat: 1,
        pay_parts_per_million: 0,
        receive_base_msat: 1,
        receive_parts_per_million: 0,
        lifetime_seconds: 3600,
    };
    other
        .perform(LN, "gateway-announce", announce.arguments())
        .unwrap();
    let shown = other.perform(LN, "gateway-key", Vec::new()).unwrap();
    let key = other.operation(shown).detail("gateway_key").unwrap();
    modmint_core::decode_hex(&key).unwrap().try_into().unwrap()
}

/// What such a gateway answers, for this fee and so long a lock.
fn quotes(world: &World, name: &str, key: &PublicKey, fee: u64, blocks: u32) {
    let answer = json!({
        "gateway_key": modmint_sdk::to_hex(key),
        "network": "regtest",
        "pay_base_msat": fee,
        "pay_parts_per_million": 0,
        "receive_base_msat": fee,
        "receive_parts_per_million": 0,
        "minimum_timelock_blocks": blocks,
        "maximum_invoice_msat": 1_000_000 * SAT,
    });
    let api = format!("https://{name}.example");
    world.node.borrow_mut().others.insert(api, answer);
}

fn vet(world: &World, gateway_key: PublicKey) {
    let good = LnItem::Vet {
        gateway_key,
        good: true,
    };
    world
        .federation
        .consensus(LN, || Ln::process_consensus_item(0, good.clone()))
        .unwrap();
}

#[test]
fn many_cheap_gateways_that_are_not_there_keep_nobody_from_paying() {
    let world = World::new(1);
    for n in 0..23 {
        announced(&world, &format!("dead{n}"));
    }
    let mut alice = world.wallet("alice", 20_000);
    let payment = alice.pay(&world.outside_invoice(1, 1_000 * SAT));
    assert_eq!(alice.stage(payment), "pending");
    let mut bob = world.wallet("bob", 0);
    let (_, invoice) = bob.invoice(3_000 * SAT);
    assert!(invoice.starts_with("lnbcrt"));
}

#[test]
fn a_gateway_that_guardians_have_vetted_comes_before_cheaper_strangers() {
    let mut world = World::new(1);
    for n in 0..12 {
        let name = format!("cheap{n}");
        let key = announced(&world, &name);
        quotes(&world, &name, &key, 1, 10);
    }
    let key = world.gateway_key();
    vet(&world, key);
    let mut alice = world.wallet("alice", 40_000);
    let payment = alice.pay(&world.outside_invoice(1, 1_000 * SAT));
    assert_eq!(alice.detail(payment, "gateway"), "gateway");
    // It is away, or asks too much: strangers are asked.
    let mut cheap = to(&world.outside_invoice(2, 1_000 * SAT));
    cheap.maximum_fee = Some(Amount(PAY_FEE - 1));
    let payment = alice.pay_with(cheap).unwrap();
    assert!(alice.detail(payment, "gateway").starts_with("cheap"));
    world.node.borrow_mut().down = true;
    let payment = alice.pay(&world.outside_invoice(3, 1_000 * SAT));
    assert!(alice.detail(payment, "gateway").starts_with("cheap"));
}

#[test]
fn of_two_that_ask_the_same_the_shorter_lock_is_taken_and_a_long_one_by_name_alone() {
    let world = World::new(1);
    for (name, fee, blocks) in [("slow", 5, 400), ("quick", 5, 300), ("week", 1, 1_000)] {
        let key = announced(&world, name);
        quotes(&world, name, &key, fee, blocks);
    }
    let mut alice = world.wallet("alice", 20_000);
    let payment = alice.pay(&world.outside_invoice(1, 1_000 * SAT));
    assert_eq!(alice.detail(payment, "gateway"), "quick");
    let mut named = to(&world.outside_invoice(2, 1_000 * SAT));
    named.gateway = Some("week".into());
    let payment = alice.pay_with(named).unwrap();
    assert_eq!(alice.detail(payment, "gateway"), "week");
    let key = announced(&world, "month");
    quotes(&world, "month", &key, 1, 2_017);
    let mut named = to(&world.outside_invoice(3, 1_000 * SAT));
    named.gateway = Some("month".into());
    let payment = alice.pay_with(named).unwrap();
    assert_eq!(code(alice.finished(payment)), "no-gateway");
}

#[test]
fn another_gateway_is_taken_when_the_cheapest_does_not_answer() {
    let world = World::new(1);
    announced(&world, "cheaper");
    let mut alice = world.wallet("alice", 20_000);
    let shown = alice.wallet.perform(LN, "gateways", Vec::new()).unwrap();
    let details = alice.wallet.operation(shown).details();
    assert!(details.contains("cheaper.example"), "{details}");
    let invoice = world.outside_invoice(1, 1_000 * SAT);
    let payment = alice.pay(&invoice);
    assert_eq!(alice.stage(payment), "pending");
    assert_eq!(alice.detail(payment, "gateway"), "gateway");
    // Whoever insists has it as it is.
    let mut insists = to(&world.outside_invoice(2, 1_000 * SAT));
    insists.gateway = Some("cheaper".into());
    let payment = alice.pay_with(insists).unwrap();
    assert_eq!(code(alice.finished(payment)), "no-gateway");
    // An address that nobody has announced may be given.
    let mut by_address = to(&world.outside_invoice(3, 1_000 * SAT));
    by_address.gateway = Some(format!("{API}/"));
    let payment = alice.pay_with(by_address).unwrap();
    assert_eq!(alice.stage(payment), "pending");
}

#[test]
fn an_invoice_that_is_not_what_was_asked_for_is_not_handed_out() {
    let spoils: [fn(&mut PaymentHash, &mut u64); 2] =
        [|hash, _| hash[0] ^= 1, |_, amount| *amount += 1];
    for spoil in spoils {
        let world = World::new(1);
        let mut bob = world.wallet("bob", 0);
        world.node.borrow_mut().spoils = Some(spoil);
        let action = InvoiceAction {
            amount: Amount(3_000 * SAT),
            description: None,
            expiry: DAY,
            gateway: None,
            maximum_fee: None,
        };
        let receipt = bob
            .wallet
            .perform(LN, "invoice", action.arguments())
            .unwrap();
        assert_eq!(code(bob.finished(receipt)), "bad-gateway");
    }
}

#[test]
fn an_invoice_that_nobody_pays_ends_by_itself() {
    let world = World::new(4);
    let mut bob = world.wallet("bob", 0);
    let (receipt, _) = bob.invoice(3_000 * SAT);
    assert_eq!(bob.wallet.cancel(receipt).unwrap_err().code, "too-late");
    world.federation.pass(25 * 3600 - 1);
    bob.run();
    assert_eq!(bob.finished(receipt), None);
    world.federation.pass(1);
    bob.run();
    assert_eq!(bob.stage(receipt), "expired");
}

#[test]
fn a_gateway_does_not_buy_what_it_cannot_settle_in_time_or_with_profit() {
    for (received, blocks, later, refused) in [
        (3_000 * SAT - 1, 3, 0, "too-little"),
        (3_000 * SAT, 1, 0, "deadline-too-near"),
        (3_000 * SAT, 3, 25 * 3600, "offer-expired"),
    ] {
        let mut world = World::new(1);
        let mut bob = world.wallet("bob", 0);
        bob.invoice(3_000 * SAT);
        world.federation.pass(later);
        let deadline = world.federation.height() + blocks;
        let received = world.receive_by(received, deadline);
        let end = world.gateway.operation(received).finished();
        assert_eq!(code(end), refused);
        assert_eq!(world.node.borrow().failed.len(), 1);
        assert_eq!(world.gateway_earned(), 0);
    }
}

#[test]
fn a_purchase_that_a_federation_does_not_decide_for_a_minute_is_none() {
    for (seconds, bought) in [(59, true), (60, false)] {
        let mut world = World::new(4);
        let mut bob = world.wallet("bob", 0);
        bob.invoice(3_000 * SAT);
        let action = GatewayReceiveAction {
            offer: borsh::to_vec(&world.offer()).unwrap(),
            claim_deadline: 1000,
            received: Amount(3_000 * SAT),
            minimum_fee: Amount(RECEIVE_FEE),
        };
        // It is made durable, and not sent.
        world.gateway.kill_at(Kill {
            after: world.gateway.writes() + 1,
            sent: false,
        });
        let started = world
            .gateway
            .start(LN, "gateway-receive", action.arguments());
        world.federation.pass(seconds);
        world.gateway.resume();
        carry_on(&mut world.gateway);
        let end = world.gateway.operation(started.unwrap()).finished();
        if bought {
            assert_eq!(end, Some(Ok(())));
        } else {
            assert_eq!(code(end), "quote-expired");
            assert_eq!(world.node.borrow().failed.len(), 1);
            assert_eq!(world.gateway_earned(), 0);
        }
    }
}

#[test]
fn a_contract_that_does_not_suit_is_given_back_at_once() {
    let mut world = World::new(1);
    let mut alice = world.wallet("alice", 20_000);
    let invoice = world.outside_invoice(1, 1_000 * SAT);
    let payment = alice.pay(&invoice);
    // The gateway asks more by now.
    let (_, contract, signature) = world.node.borrow().posted[0].clone();
    let action = GatewayPayAction {
        invoice,
        contract: contract.to_vec(),
        signature,
        maximum_routing_fee: Amount(PAY_FEE),
        minimum_fee: Amount(PAY_FEE + 1),
    };
    let served = world.gateway.perform(LN, "gateway-pay", action.arguments());
    let end = world.gateway.operation(served.unwrap()).finished();
    assert_eq!(code(end), "too-little");
    alice.run();
    assert_eq!(alice.stage(payment), "refunded");
    world.check(&[&alice]);
}

#[test]
fn nobody_but_the_payer_says_what_is_paid_for_a_contract_or_has_it_cancelled() {
    let mut world = World::new(1);
    let mut alice = world.wallet("alice", 20_000);
    let invoice = world.outside_invoice(1, 1_000 * SAT);
    let payment = alice.pay(&invoice);
    let (_, contract, signature) = world.node.borrow().posted[0].clone();
    world.node.borrow_mut().knows(1);
    let time = world.federation.time();
    let other_hash = world.outside_invoice(2, 1_000 * SAT);
    // Of the same hash, and dearer, cheaper, or somebody else's.
    let dearer = world.outside_invoice(1, 2_000 * SAT);
    let longer = crate::world::invoice(Currency::Regtest, hash_of(1), 1_000 * SAT, time, 7_200);
    for (invoice, signature, refused) in [
        (&other_hash, signature.clone(), "wrong-hash"),
        (&dearer, signature.clone(), "bad-signature"),
        (&longer, signature.clone(), "bad-signature"),
        (&invoice, vec![7; 64], "bad-signature"),
        (&invoice, Vec::new(), "bad-signature"),
    ] {
        let action = GatewayPayAction {
            invoice: invoice.clone(),
            contract: contract.to_vec(),
            signature,
            maximum_routing_fee: Amount(PAY_FEE),
            minimum_fee: Amount(PAY_FEE),
        };
        let asked = world.gateway.perform(LN, "gateway-pay", action.arguments());
        let end = world.gateway.operation(asked.unwrap()).finished();
        assert_eq!(code(end), refused);
        alice.run();
        assert_eq!(alice.stage(payment), "pending");
    }
    assert!(world.node.borrow().latest_heights.is_empty());
    world.serve_payments();
    alice.run();
    assert_eq!(alice.finished(payment), Some(Ok(())));
    world.check(&[&alice]);
}

#[test]
fn a_contract_that_cannot_be_given_back_now_is_given_back_later() {
    let mut world = World::new(1);
    let mut alice = world.wallet("alice", 20_000);
    let payment = alice.pay(&world.outside_invoice(1, 1_000 * SAT));
    world.node.borrow_mut().cannot_pay(1);
    // As where the transaction costs more than the gateway has.
    world.gateway.set_confirms(false);
    let served = world.serve_payments()[0];
    for _ in 0..3 {
        world.federation.pass(30);
        carry_on(&mut world.gateway);
        assert_eq!(world.gateway.operation(served).finished(), None);
    }
    alice.run();
    assert_eq!(alice.stage(payment), "pending");
    world.gateway.set_confirms(true);
    world.federation.pass(30);
    carry_on(&mut world.gateway);
    let end = world.gateway.operation(served).finished();
    assert_eq!(code(end), "payment-failed");
    alice.run();
    assert_eq!(alice.stage(payment), "refunded");
    world.check(&[&alice]);
}

#[test]
fn what_cannot_be_given_back_is_let_go_once_its_payer_needs_nobody() {
    let mut world = World::new(1);
    let mut alice = world.wallet("alice", 20_000);
    let payment = alice.pay(&world.outside_invoice(1, 1_000 * SAT));
    let timelock = alice.timelock(&world);
    world.node.borrow_mut().cannot_pay(1);
    world.gateway.set_confirms(false);
    let served = world.serve_payments()[0];
    for (height, over) in [(timelock - 1, false), (timelock, true)] {
        let blocks = height - world.federation.height();
        world.federation.mine_blocks(blocks);
        world.federation.pass(60);
        carry_on(&mut world.gateway);
        let end = world.gateway.operation(served).finished();
        assert_eq!(end.is_some(), over);
    }
    alice.run();
    assert_eq!(alice.stage(payment), "refunded");
    world.check(&[&alice]);
}

#[test]
fn an_htlc_ends_so_long_before_the_timelock_that_a_late_preimage_is_claimed_in_time() {
    // What the node's library needs on chain behind an HTLC's end, and to be sure of it.
    const { assert!(CLAIM_MARGIN_BLOCKS >= 3 + 2 * 18 + 6) };
    for (left, paid) in [(0, false), (1, true)] {
        let mut world = World::new(1);
        let mut alice = world.wallet("alice", 20_000);
        let payment = alice.pay(&world.outside_invoice(1, 1_000 * SAT));
        let timelock = alice.timelock(&world);
        let height = timelock - CLAIM_MARGIN_BLOCKS - left;
        world
            .federation
            .mine_blocks(height - world.federation.height());
        world.node.borrow_mut().knows(1);
        let served = world.serve_payments()[0];
        let end = world.gateway.operation(served).finished();
        let latest = u64::from(timelock - CLAIM_MARGIN_BLOCKS);
        match paid {
            true => {
                assert_eq!(end, Some(Ok(())));
                assert_eq!(world.node.borrow().latest_heights, [latest]);
            }
            false => {
                assert_eq!(code(end), "timelock-too-near");
                assert!(world.node.borrow().latest_heights.is_empty());
            }
        }
        alice.run();
        let stage = if paid { "paid" } else { "refunded" };
        assert_eq!(alice.stage(payment), stage);
    }
}

#[test]
fn a_contract_that_nobody_knows_is_not_waited_for() {
    let mut world = World::new(1);
    let action = GatewayPayAction {
        invoice: world.outside_invoice(1, 1_000 * SAT),
        contract: vec![7; 32],
        signature: vec![7; 64],
        maximum_routing_fee: Amount(0),
        minimum_fee: Amount(0),
    };
    let served = world.gateway.perform(LN, "gateway-pay", action.arguments());
    let served = served.unwrap();
    assert_eq!(world.gateway.operation(served).finished(), None);
    world.federation.pass(20);
    world.gateway.run();
    let end = world.gateway.operation(served).finished();
    assert_eq!(code(end), "no-such-contract");
}

#[test]
fn a_payer_whose_refund_comes_behind_the_claim_has_paid_and_the_preimage() {
    for asleep in [false, true] {
        let world = World::new(4);
        let mut alice = world.wallet("alice", 20_000);
        let invoice = world.outside_invoice(1, 1_000 * SAT);
        let payment = alice.pay(&invoice);
        let timelock = alice.timelock(&world);
        world
            .federation
            .mine_blocks(timelock - world.federation.height());
        // The refund is made durable, and not sent.
        let kill = |wallet: &Wallet| Kill {
            after: wallet.writes() + 1,
            sent: false,
        };
        alice.wallet.kill_at(kill(&alice.wallet));
        alice.wallet.run();
        assert_eq!(alice.stage(payment), "refunding");
        let contract = world.node.borrow().posted[0].1;
        let claim = ContractInput::Claim {
            contract,
            preimage: preimage_of(1),
        };
        let claimed = world
            .federation
            .consensus(LN, || Ln::process_input(claim.clone()));
        claimed.unwrap();
        alice.wallet.resume();
        if asleep {
            // The refund is refused, and guardians are away for a while.
            while alice.wallet.pending().len() > 1 {
                assert!(alice.wallet.step());
            }
            alice.wallet.step();
            for guardian in 0..4 {
                world.federation.set_behaviour(guardian, Behaviour::Silent);
            }
            world.federation.pass(600);
            alice.run();
            assert_eq!(alice.finished(payment), None);
            for guardian in 0..4 {
                world.federation.set_behaviour(guardian, Behaviour::Honest);
            }
        }
        alice.run();
        assert_eq!(alice.finished(payment), Some(Ok(())));
        let preimage = alice.detail(payment, "preimage");
        assert_eq!(preimage, modmint_sdk::to_hex(&preimage_of(1)));
    }
}

#[test]
fn a_receiver_that_is_quicker_than_the_refund_of_its_junk_has_sold_its_preimage() {
    let mut world = World::new(4);
    let mut mallory = world.wallet("mallory", 0);
    let offer = world.forge(&mut mallory, 7, |preimage| preimage[0] ^= 1);
    world.node.borrow_mut().offers.push(offer.clone());
    let action = GatewayReceiveAction {
        offer: borsh::to_vec(&offer).unwrap(),
        claim_deadline: 1000,
        received: Amount(3_000 * SAT),
        minimum_fee: Amount(RECEIVE_FEE),
    };
    let started = world
        .gateway
        .start(LN, "gateway-receive", action.arguments());
    let received = started.unwrap();
    // Until the refund is made durable, and dies before it is sent.
    loop {
        let kill = Kill {
            after: world.gateway.writes() + 1,
            sent: false,
        };
        world.gateway.kill_at(kill);
        world.gateway.run();
        assert!(world.gateway.is_dead());
        world.gateway.resume();
        let refunds = world.gateway.pending().iter().any(|bytes| {
            let transaction = modmint_core::Transaction::decode(bytes).unwrap();
            transaction.body.inputs.iter().any(|i| i.instance.0 == LN)
        });
        if refunds {
            break;
        }
    }
    let claim = ContractInput::ClaimIncoming {
        offer: world
            .federation
            .call(LN, Phase::Stateless, None, || offer.id()),
        preimage: preimage_of(7),
    };
    world
        .federation
        .consensus(LN, || Ln::process_input(claim))
        .unwrap();
    carry_on(&mut world.gateway);
    assert_eq!(world.gateway.operation(received).finished(), Some(Ok(())));
    assert_eq!(world.node.borrow().settled, [(hash_of(7), preimage_of(7))]);
    assert!(world.node.borrow().failed.is_empty());
}

#[test]
fn an_offer_that_is_bought_already_is_settled_by_its_buyer_and_failed_by_others() {
    let mut world = World::new(4);
    let mut bob = world.wallet("bob", 0);
    bob.invoice(3_000 * SAT);
    world.receive(3_000 * SAT);
    // The daemon has forgotten it; the receiver has not been there yet.
    world.node.borrow_mut().settled.clear();
    let again = world.receive(3_000 * SAT);
    assert_eq!(world.gateway.operation(again).finished(), Some(Ok(())));
    assert_eq!(world.node.borrow().settled.len(), 1);
    // One that any gateway may buy, and another one has.
    let mut offer = world.offer();
    offer.gateway_key = None;
    offer.payment_hash = hash_of(3);
    let ciphertext = bob.wallet.call(LN, Phase::Look, || {
        wallet::tpe_encrypt(KEY, &preimage_of(3), &offer.terms(), &[1; 32])
    });
    offer.ciphertext = ciphertext.try_into().unwrap();
    let contract = IncomingContract {
        offer: offer.clone(),
        gateway_key: [2; 33],
    };
    world
        .put(ContractOrOfferOutput::Contract(Contract::Incoming(
            contract,
        )))
        .unwrap();
    world.node.borrow_mut().offers.push(offer);
    let late = world.receive(3_000 * SAT);
    let end = world.gateway.operation(late).finished();
    assert_eq!(code(end), "offer-bought");
    assert_eq!(world.node.borrow().failed, [hash_of(3)]);
}

#[test]
fn a_wallet_with_nothing_but_its_seed_finds_its_contracts() {
    let mut world = World::new(4);
    let mut alice = world.wallet("alice", 20_000);
    for number in [1, 2] {
        let invoice = world.outside_invoice(number, 1_000 * SAT);
        alice.pay(&invoice);
    }
    alice.invoice(3_000 * SAT);
    world.receive(3_000 * SAT);
    world.node.borrow_mut().cannot_pay(1);
    world.node.borrow_mut().posted.pop();
    world.serve_payments();

    let device = alice.wallet.another_device();
    let mut again = world.connect(device);
    let found = again.wallet.recover(LN).unwrap();
    again.run();
    assert_eq!(again.stage(found), "waiting");
    assert!(again.wallet.operation(found).rests());
    // What was received, and what was given back.
    let taken = 3_000 * SAT - RECEIVE_FEE + 1_000 * SAT + PAY_FEE;
    assert_eq!(again.wallet.balance(), taken);
    world.federation.mine_blocks(1_000);
    world.federation.pass(3600);
    again.run();
    assert_eq!(again.finished(found), Some(Ok(())));
    assert_eq!(again.wallet.balance(), taken + 1_000 * SAT + PAY_FEE);
    assert_eq!(world.held(), 0);
    // Somebody else's seed finds nothing.
    let mut nobody = world.wallet("nobody", 0);
    let found = nobody.wallet.recover(LN).unwrap();
    nobody.run();
    assert_eq!(nobody.finished(found), Some(Ok(())));
    assert_eq!(nobody.wallet.balance(), 0);
}

/// Somebody with an address, who may cheat.
fn connect_receiver(alice: &mut Person, world: &World, cheats: bool) {
    let metadata = r#"[["text/plain","for carol"]]"#;
    let time = world.federation.time();
    let node = std::rc::Rc::clone(&world.node);
    alice.wallet.offer_web(move |request| {
        let (url, query) = request.url.split_once('?').unwrap_or((&request.url, ""));
        let body = match url {
            "http://carol.example/.well-known/lnurlp/carol" => json!({
                "tag": "payRequest",
                "callback": "http://carol.example/pay?id=1",
                "minSendable": 1_000,
                "maxSendable": 10_000_000,
                "metadata": metadata,
            }),
            "http://carol.example/pay" => {
                let amount = query.strip_prefix("id=1&amount=").unwrap();
                let amount = amount.parse::<u64>().unwrap() + u64::from(cheats);
                json!({ "pr": invoice(Currency::Regtest, hash_of(1), amount, time, 3600) })
            }
            _ => return node.borrow_mut().answer(request),
        };
        Ok(HttpResponse {
            status: 200,
            body: body.to_string().into_bytes(),
        })
    });
}

#[test]
fn an_address_and_an_lnurl_are_paid_and_the_amount_is_what_was_said() {
    let world = World::new(1);
    let hrp = bech32::Hrp::parse("lnurl").unwrap();
    let url = b"http://carol.example/.well-known/lnurlp/carol";
    let lnurl = bech32::encode::<bech32::Bech32>(hrp, url).unwrap();
    let texts = [
        "carol@carol.example".to_owned(),
        lnurl,
        "lnurlp://carol.example/.well-known/lnurlp/carol".to_owned(),
    ];
    for text in texts {
        for (msat, cheats, stage) in [
            (1_000 * SAT, false, Ok("pending")),
            (1_000 * SAT, true, Err("wrong-amount")),
            (999, false, Err("bad-amount")),
        ] {
            let mut alice = world.wallet(&format!("{text} {msat} {cheats}"), 20_000);
            connect_receiver(&mut alice, &world, cheats);
            let action = PayAction {
                amount: Some(Amount(msat)),
                ..to(&text)
            };
            let payment = alice.pay_with(action).unwrap();
            match stage {
                Ok(stage) => assert_eq!(alice.stage(payment), stage, "{text}"),
                Err(refused) => assert_eq!(code(alice.finished(payment)), refused, "{text}"),
            }
        }
        let mut alice = world.wallet("alice", 0);
        assert_eq!(alice.try_pay(&text).unwrap_err().code, "no-amount");
    }
    let mut alice = world.wallet("alice", 0);
    for text in ["lnurl1hello", "a b@carol.example", "@", "x@evil/path"] {
        assert_eq!(alice.try_pay(text).unwrap_err().code, "bad-lnurl", "{text}");
    }
}
