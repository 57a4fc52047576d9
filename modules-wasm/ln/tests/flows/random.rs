//! Anything that anybody may send, and anything that may happen.

use modmint_ln::*;
use modmint_sdk::{
    Component, Item, Module, OutPoint,
    bindings::exports::modmint::module::server::Guest,
    mock::{Kill, OperationId, Phase},
};
use proptest::prelude::*;

use crate::world::*;

/// Bytes that decode, or nearly.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    (0u8..6, proptest::collection::vec(any::<u8>(), 0..600)).prop_map(|(first, mut bytes)| {
        bytes.insert(0, first);
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Guardians refuse what makes no sense; nothing traps, and nothing is left behind.
    #[test]
    fn no_bytes_trap_a_guardian(bytes in bytes(), exact in 0usize..600) {
        thread_local!(static WORLD: World = World::new(1));
        WORLD.with(|world| {
            let federation = &world.federation;
            // Lengths that decode: the encodings are of fixed length but for texts.
            for length in [bytes.len(), exact.min(bytes.len()), 34, 65, 81, 97, 148, 322] {
                let part = bytes[..length.min(bytes.len())].to_vec();
                let before = federation.store(LN);
                let refused = federation.consensus(LN, || {
                    <Component<Ln> as Guest>::process_input(part.clone())
                });
                assert!(refused.is_err());
                assert_eq!(federation.store(LN), before);
                let out_point = OutPoint { txid: vec![1; 32], index: 0 };
                // Some bytes are a contract; then it is kept.
                let _ = federation.consensus(LN, || {
                    <Component<Ln> as Guest>::process_output(part.clone(), out_point)
                });
                let _ = federation.consensus(LN, || {
                    <Component<Ln> as Guest>::process_consensus_item(0, part.clone())
                });
                for item in [Item::Input, Item::Output, Item::ConsensusItem] {
                    let _ = federation.call(LN, Phase::Stateless, None, || Ln::render(item, &part));
                }
                for query in ["outgoing", "refundable", "preimage", "incoming", "contracts"] {
                    let _ = federation.query(0, LN, query, GatewaysQuery {}.arguments());
                    let ask = SharesQuery { offer: part.clone(), signature: part.clone() };
                    let _ = federation.query(0, LN, "decryption-share", ask.arguments());
                    let answer = Item::Answer(query.into());
                    let _ = federation.call(LN, Phase::Stateless, None, || Ln::render(answer, &part));
                }
            }
        });
    }
}

/// Something that happens.
#[derive(Clone, Copy, Debug)]
enum Act {
    /// Alice pays an invoice of somebody outside.
    Pay(u64),
    /// Alice pays Bob's newest invoice.
    Swap,
    /// Bob makes an invoice.
    Invoice(u64),
    /// The node learns the preimage, or that there is no way, of the n-th payment.
    Decide(usize, bool),
    /// The daemon serves what was asked for.
    Serve,
    /// A payment for Bob's newest invoice is held by the node.
    Hold,
    /// Somebody's offer holds junk.
    Junk,
    /// Somebody's wallet goes on.
    Run(u8),
    /// And dies behind so many writes.
    Kill(u8, u64),
    Blocks(u32),
    Time(u64),
    Away,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (1u64..4_000).prop_map(Act::Pay),
        2 => Just(Act::Swap),
        3 => (20u64..4_000).prop_map(Act::Invoice),
        4 => (0usize..6, any::<bool>()).prop_map(|(which, known)| Act::Decide(which, known)),
        4 => Just(Act::Serve),
        3 => Just(Act::Hold),
        1 => Just(Act::Junk),
        3 => (0u8..3).prop_map(Act::Run),
        3 => (0u8..3, 1u64..5).prop_map(|(who, writes)| Act::Kill(who, writes)),
        2 => (1u32..120).prop_map(Act::Blocks),
        2 => (1u64..4_000).prop_map(Act::Time),
        1 => Just(Act::Away),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// What everybody has and what is in contracts never changes but by fees; and in the
    /// end whoever has a preimage has paid, and whoever has paid has a preimage.
    #[test]
    fn no_money_is_made_or_lost(acts in proptest::collection::vec(act(), 1..25)) {
        let mut world = World::new(1);
        let mut alice = world.wallet("alice", 60_000);
        let mut bob = world.wallet("bob", 0);
        let mut payments: Vec<(OperationId, u64, u8)> = Vec::new();
        let mut swaps: Vec<(OperationId, u64)> = Vec::new();
        let mut receipts: Vec<(OperationId, u64, String)> = Vec::new();
        let mut held: Vec<PaymentHash> = Vec::new();
        for act in acts {
            match act {
                Act::Pay(satoshi) => {
                    let number = payments.len() as u8 + 1;
                    let invoice = world.outside_invoice(number, satoshi * SAT);
                    let payment = alice.pay(&invoice);
                    payments.push((payment, satoshi * SAT, number));
                }
                Act::Swap => {
                    if let Some((_, msat, invoice)) = receipts.last()
                        && let Ok(payment) = alice.try_pay(invoice)
                    {
                        swaps.push((payment, *msat));
                    }
                }
                Act::Invoice(satoshi) => {
                    world.node.borrow_mut().time = world.federation.time();
                    let (receipt, invoice) = bob.try_invoice(satoshi * SAT);
                    if let Some(invoice) = invoice {
                        receipts.push((receipt, satoshi * SAT, invoice));
                    }
                }
                Act::Decide(which, known) => {
                    if let Some((_, _, number)) = payments.get(which)
                        && !world.node.borrow().answers.contains_key(&hash_of(*number))
                    {
                        match known {
                            true => world.node.borrow_mut().knows(*number),
                            false => world.node.borrow_mut().cannot_pay(*number),
                        }
                    }
                }
                Act::Serve => drop(world.serve_payments()),
                Act::Hold => {
                    if let Some((_, msat, _)) = receipts.last() {
                        held.push(world.offer().payment_hash);
                        world.receive(*msat);
                    }
                }
                Act::Junk => {
                    let junk = world.forge(&mut bob, 99, |preimage| preimage[0] ^= 1);
                    let honest = world.node.borrow().offers.clone();
                    world.node.borrow_mut().offers.push(junk);
                    world.receive(3_000 * SAT);
                    world.node.borrow_mut().offers = honest;
                }
                Act::Run(0) => alice.run(),
                Act::Run(1) => bob.run(),
                Act::Run(_) => carry_on(&mut world.gateway),
                Act::Kill(who, writes) => {
                    let wallet = match who {
                        0 => &mut alice.wallet,
                        1 => &mut bob.wallet,
                        _ => &mut world.gateway,
                    };
                    let after = wallet.writes() + writes;
                    wallet.kill_at(Kill { after, sent: writes % 2 == 0 });
                }
                Act::Blocks(blocks) => world.federation.mine_blocks(blocks),
                Act::Time(seconds) => world.federation.pass(seconds),
                Act::Away => {
                    let mut node = world.node.borrow_mut();
                    node.down = !node.down;
                }
            }
            world.check(&[&alice, &bob]);
        }
        // What was bought of Bob answers the swap; everything else comes to its end.
        let settled = world.node.borrow().settled.clone();
        for (hash, preimage) in settled {
            world.node.borrow_mut().answers.insert(hash, Ok(preimage));
        }
        world.node.borrow_mut().down = false;
        for _ in 0..3 {
            world.federation.pass(600);
            alice.run();
            world.serve_payments();
            carry_on(&mut world.gateway);
            bob.run();
        }
        world.federation.mine_blocks(500);
        world.federation.pass(48 * 3600);
        for _ in 0..3 {
            alice.run();
            carry_on(&mut world.gateway);
            bob.run();
            world.federation.pass(600);
        }
        world.check(&[&alice, &bob]);
        prop_assert_eq!(world.held(), 0);

        // Nothing was sold twice, and what was sold was settled.
        let mut received = 0;
        for (receipt, msat, _) in &receipts {
            let end = bob.finished(*receipt).expect("it ends");
            if end.is_ok() {
                received += msat - RECEIVE_FEE;
            }
        }
        prop_assert_eq!(bob.wallet.balance(), received);
        let mut balance = 60_000 * SAT;
        let all = payments.iter().map(|(payment, msat, _)| (payment, msat));
        for (payment, msat) in all.chain(swaps.iter().map(|(payment, msat)| (payment, msat))) {
            let end = alice.finished(*payment).expect("it ends");
            match (end, alice.stage(*payment).as_str()) {
                (Ok(()), "paid") => balance -= msat + PAY_FEE + CONTRACT_FEE,
                (Err(_), "refunded") => balance -= CONTRACT_FEE,
                // Nothing was locked.
                (Err(_), "quoting" | "funding") => {}
                other => panic!("{other:?}"),
            }
        }
        prop_assert_eq!(alice.wallet.balance(), balance);
    }
}
