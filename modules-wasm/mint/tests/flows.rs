//! Deposit and e-cash with the real modules, through a federation of four that is
//! played in this process: no network, no clock, real keys.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should say where"
)]

use modmint_core::Transaction;
use modmint_mint::{
    BlindNote, Cancel, Consolidate, Issuance, IssuedQuery, Mint, Note, Notes, Receive, Send, Split,
    label,
};
use modmint_sdk::{
    Amount, Answer, Blinding, Client, Ecash, Item, OutPoint, Refusal, Server,
    mock::{Behaviour, Bundle, Federation, Kill, OperationId, Phase, Wallet},
    storage::Cell,
    wallet,
};
use modmint_wallet::{PegInProof, Wallet as WalletModule};
use proptest::prelude::*;

const SAT: u64 = 1000;

/// As the mint keeps how many notes there are.
type Counts = [u32; 42];

/// A federation with the wallet module as instance 0 and the mint as 1.
const WALLET: u16 = 0;
const MINT: u16 = 1;

fn federation(guardians: usize) -> Federation {
    let federation = Federation::new(guardians);
    let minimum = modmint_wallet::Configuration {
        minimum_deposit: Amount(1_000 * SAT),
        deposit_fee: Amount(0),
    };
    let wallet = Bundle::federation_module::<WalletModule>();
    assert_eq!(federation.found(wallet, minimum.arguments()), WALLET);
    let mint = Bundle::ecash_module::<Mint>();
    assert_eq!(federation.found(mint, Vec::new()), MINT);
    federation
}

fn script_of(address: &str) -> Vec<u8> {
    let (_, version, program) = bech32::segwit::decode(address).unwrap();
    assert_eq!(version, bech32::Fe32::Q);
    [&[0, 32], &program[..]].concat()
}

/// Goes on after a kill, as often as there is one.
fn carry_on(wallet: &mut Wallet) {
    wallet.run();
    while wallet.is_dead() {
        wallet.resume();
        wallet.run();
    }
}

fn perform(
    wallet: &mut Wallet,
    instance: u16,
    action: &str,
    arguments: Vec<modmint_sdk::Argument>,
) -> OperationId {
    let operation = wallet.start(instance, action, arguments).unwrap();
    carry_on(wallet);
    operation
}

/// Begins a deposit and pays to its address; it is claimed once the wallet runs.
fn pay_in(federation: &Federation, wallet: &mut Wallet, satoshi: u64) -> OperationId {
    let operation = perform(wallet, WALLET, "deposit", Vec::new());
    let address = wallet.operation(operation).detail("address").unwrap();
    federation.mine(&[(script_of(&address), satoshi)]);
    operation
}

fn deposit(federation: &Federation, wallet: &mut Wallet, satoshi: u64) -> OperationId {
    let operation = pay_in(federation, wallet, satoshi);
    carry_on(wallet);
    assert_eq!(wallet.operation(operation).finished(), Some(Ok(())));
    operation
}

fn send_arguments(msat: u64) -> Vec<modmint_sdk::Argument> {
    Send {
        amount: Amount(msat),
        reclaim_after: 3600,
        invite: false,
    }
    .arguments()
}

fn send(wallet: &mut Wallet, msat: u64) -> (OperationId, String) {
    let operation = perform(wallet, MINT, "send", send_arguments(msat));
    let sent = wallet.operation(operation);
    assert!(sent.rests(), "{:?}", sent.progress);
    (operation, sent.detail("notes").unwrap())
}

fn receive(wallet: &mut Wallet, notes: &str) -> Result<(), Refusal> {
    let arguments = Receive {
        notes: notes.into(),
    };
    let operation = wallet.start(MINT, "receive", arguments.arguments())?;
    carry_on(wallet);
    wallet.operation(operation).finished().unwrap()
}

/// The books hold: what was claimed is what is owed, and what modules say of
/// themselves is what the host saw.
fn check_books(federation: &Federation, deposited: u64) {
    let lines = |instance| -> i128 {
        let lines = federation.audit(instance);
        lines.iter().map(|line| i128::from(line.msat)).sum()
    };
    let (wallet_balance, treasury) = federation.books(WALLET);
    let (mint_balance, _) = federation.books(MINT);
    assert_eq!(treasury, i128::from(deposited));
    assert_eq!(lines(WALLET), treasury);
    assert_eq!(wallet_balance, -treasury);
    assert!(-lines(MINT) <= mint_balance);
    assert!(lines(WALLET) + lines(MINT) >= 0);
}

#[test]
fn a_deposit_becomes_ecash_of_the_same_worth() {
    let federation = federation(4);
    let mut alice = Wallet::new(&federation, "alice");
    let operation = deposit(&federation, &mut alice, 50_000);
    assert_eq!(alice.balance(), 50_000 * SAT);
    assert_eq!(
        alice.operation(operation).progress.as_ref().unwrap().stage,
        "claimed"
    );
    check_books(&federation, 50_000 * SAT);
}

#[test]
fn an_address_passes_the_filter_of_a_real_federation() {
    let federation = federation(4);
    federation.set_filter_bits(12);
    let mut alice = Wallet::new(&federation, "alice");
    let operation = alice.perform(WALLET, "deposit", Vec::new()).unwrap();
    let address = alice.operation(operation).detail("address").unwrap();
    assert!(address.starts_with("bcrt1q"), "{address}");
    assert!(modmint_core::consensus::script_passes_filter(&script_of(
        &address
    )));
}

#[test]
fn a_deposit_below_the_minimum_is_refused_with_the_minimum_and_the_next_is_taken() {
    let federation = federation(4);
    let mut alice = Wallet::new(&federation, "alice");
    let operation = pay_in(&federation, &mut alice, 999);
    alice.run();
    let shown = alice.operation(operation).progress.clone().unwrap();
    assert_eq!(shown.stage, "too-small");
    assert!(shown.message.contains("1000 sat"), "{}", shown.message);
    assert_eq!(alice.balance(), 0);

    let address = alice.operation(operation).detail("address").unwrap();
    federation.mine(&[(script_of(&address), 1000)]);
    alice.run();
    assert_eq!(alice.balance(), 1000 * SAT);
    check_books(&federation, 1000 * SAT);
}

/// The claim that a wallet has made durable and not sent.
fn pending_claim(wallet: &Wallet) -> PegInProof {
    let transaction = Transaction::decode(&wallet.pending()[0]).unwrap();
    let mut inputs = transaction.body.inputs.iter();
    let claim = inputs.find(|input| input.instance.0 == WALLET).unwrap();
    borsh::from_slice(&claim.bytes).unwrap()
}

#[test]
fn guardians_refuse_claims_that_are_too_small_of_another_key_or_second() {
    let federation = federation(4);
    let mut alice = Wallet::new(&federation, "alice");
    pay_in(&federation, &mut alice, 5000);
    alice.step();
    let claim = pending_claim(&alice);
    let claim_of = |proof: PegInProof| {
        let claimed = federation.consensus(WALLET, || WalletModule::process_input(proof));
        claimed
            .map(|effect| effect.value)
            .map_err(|refusal| refusal.code)
    };

    let mut other_key = claim.clone();
    other_key.tweak.claim_key[5] ^= 1;
    assert_eq!(claim_of(other_key), Err("wrong-tweak".into()));
    let mut nowhere = claim.clone();
    nowhere.vout = 9;
    assert_eq!(claim_of(nowhere), Err("no-such-deposit".into()));
    let script = federation.call(WALLET, Phase::Query, Some(0), || claim.tweak.script());
    let small = federation.mine(&[(script.unwrap(), 999)]).remove(0);
    let too_small = PegInProof {
        txid: small.txid.try_into().unwrap(),
        vout: small.vout,
        ..claim.clone()
    };
    assert_eq!(claim_of(too_small), Err("deposit-too-small".into()));
    assert_eq!(claim_of(claim.clone()), Ok(5000 * SAT));
    assert_eq!(claim_of(claim), Err("already-claimed".into()));
}

#[test]
fn an_address_used_twice_is_found_again() {
    let federation = federation(4);
    let mut alice = Wallet::new(&federation, "alice");
    let operation = perform(&mut alice, WALLET, "deposit", Vec::new());
    let address = alice.operation(operation).detail("address").unwrap();
    let script = script_of(&address);
    federation.mine(&[(script.clone(), 2000), (script.clone(), 3000)]);
    alice.run();
    assert_eq!(alice.balance(), 2000 * SAT);
    federation.mine(&[(script, 4000)]);
    perform(&mut alice, WALLET, "deposit", Vec::new());
    let again = perform(&mut alice, WALLET, "recheck", Vec::new());
    assert_eq!(alice.operation(again).finished(), Some(Ok(())));
    assert_eq!(
        alice.operation(again).details(),
        r#"{"amount_msat":7000000}"#
    );
    assert_eq!(alice.balance(), 9000 * SAT);
    check_books(&federation, 9000 * SAT);
}

#[test]
fn a_deposit_that_two_operations_see_is_claimed_once() {
    let federation = federation(4);
    let mut alice = Wallet::new(&federation, "alice");
    pay_in(&federation, &mut alice, 5000);
    alice.start(WALLET, "recheck", Vec::new()).unwrap();
    carry_on(&mut alice);
    assert_eq!(alice.balance(), 5000 * SAT);
    check_books(&federation, 5000 * SAT);
}

#[test]
fn a_deposit_given_up_is_found_by_a_recheck() {
    let federation = federation(4);
    let mut alice = Wallet::new(&federation, "alice");
    let operation = perform(&mut alice, WALLET, "deposit", Vec::new());
    let address = alice.operation(operation).detail("address").unwrap();
    alice.cancel(operation).unwrap();
    federation.mine(&[(script_of(&address), 5000)]);
    alice.run();
    assert_eq!(alice.balance(), 0);
    perform(&mut alice, WALLET, "recheck", Vec::new());
    assert_eq!(alice.balance(), 5000 * SAT);
}

#[test]
fn ecash_is_handed_out_as_text_and_taken_in_once() {
    let federation = federation(4);
    let mut alice = Wallet::new(&federation, "alice");
    let mut bob = Wallet::new(&federation, "bob");
    deposit(&federation, &mut alice, 10_000);
    let (_, notes) = send(&mut alice, 1000 * SAT);
    assert_eq!(
        alice.asked, None,
        "exact notes were there, so nothing was exchanged"
    );
    assert_eq!(alice.balance(), 9000 * SAT);
    receive(&mut bob, &notes).unwrap();
    assert_eq!(bob.balance(), 1000 * SAT);
    assert_eq!(receive(&mut bob, &notes).unwrap_err().code, "note-spent");
    let mut carol = Wallet::new(&federation, "carol");
    assert_eq!(receive(&mut carol, &notes).unwrap_err().code, "note-spent");
    assert_eq!(bob.balance() + carol.balance(), 1000 * SAT);
    check_books(&federation, 10_000 * SAT);
}

#[test]
fn notes_of_another_federation_or_of_nobody_are_refused() {
    let ours = federation(4);
    let theirs = federation(1);
    let mut alice = Wallet::new(&theirs, "alice");
    let mut bob = Wallet::new(&ours, "bob");
    deposit(&theirs, &mut alice, 10_000);
    let (_, notes) = send(&mut alice, 8);
    assert_eq!(
        receive(&mut bob, &notes).unwrap_err().code,
        "wrong-federation"
    );
    let mut forged = Notes::decode(&notes).unwrap();
    forged.federation = modmint_core::sha256(&4u64.to_be_bytes());
    assert_eq!(
        receive(&mut bob, &forged.encode()).unwrap_err().code,
        "bad-note"
    );
    assert_eq!(receive(&mut bob, "hello").unwrap_err().code, "bad-notes");
}

/// So many small payments from one to the other.
fn trickle(federation: &Federation, alice: &mut Wallet, bob: &mut Wallet, payments: usize) {
    deposit(federation, alice, 100_000);
    for _ in 0..payments {
        let (_, text) = send(alice, 1024);
        let notes = Notes::decode(&text).unwrap().notes.len();
        let arguments = Receive { notes: text };
        let operation = bob.start(MINT, "receive", arguments.arguments()).unwrap();
        let transaction = Transaction::decode(&bob.pending()[0]).unwrap();
        assert_eq!(
            transaction.body.inputs.len(),
            notes,
            "what is taken in binds none of ours"
        );
        carry_on(bob);
        assert_eq!(bob.operation(operation).finished(), Some(Ok(())));
    }
}

#[test]
fn who_only_receives_has_few_notes_all_the_same() {
    let federation = federation(4);
    let mut alice = Wallet::new(&federation, "alice");
    let mut bob = Wallet::new(&federation, "bob");
    trickle(&federation, &mut alice, &mut bob, 60);
    assert_eq!(bob.balance(), 60 * 1024);
    let (_, text) = send(&mut bob, 60 * 1024);
    assert_eq!(
        bob.asked, None,
        "all of its notes are few enough for a text"
    );
    assert!(Notes::decode(&text).unwrap().notes.len() < 60);
    check_books(&federation, 100_000 * SAT);
}

/// An amount that this wallet's notes cannot pay exactly.
fn inexact(federation: &Federation, wallet: &mut Wallet) -> u64 {
    deposit(federation, wallet, 1000);
    // The smallest notes are missing: 1000 sat are made of 8 msat and more.
    500 * SAT + 1
}

#[test]
fn an_amount_without_exact_notes_is_exchanged_first_and_asked_about() {
    let federation = federation(4);
    let mut alice = Wallet::new(&federation, "alice");
    let mut bob = Wallet::new(&federation, "bob");
    let amount = inexact(&federation, &mut alice);
    let (_, notes) = send(&mut alice, amount);
    assert_eq!(alice.asked.as_ref().unwrap().1, amount);
    assert_eq!(Notes::decode(&notes).unwrap().amount(), Some(amount));
    receive(&mut bob, &notes).unwrap();
    assert_eq!(
        (alice.balance(), bob.balance()),
        (1000 * SAT - amount, amount)
    );
}

#[test]
fn what_is_declined_or_cannot_be_paid_leaves_the_balance_alone() {
    let federation = federation(4);
    let mut alice = Wallet::new(&federation, "alice");
    let amount = inexact(&federation, &mut alice);
    alice.set_confirms(false);
    let declined = perform(&mut alice, MINT, "send", send_arguments(amount));
    let end = alice.operation(declined).finished().unwrap();
    assert_eq!(end.unwrap_err().code, "declined");
    alice.set_confirms(true);
    let short = perform(&mut alice, MINT, "send", send_arguments(1001 * SAT));
    let end = alice.operation(short).finished().unwrap();
    assert_eq!(end.unwrap_err().code, "not-enough-money");
    assert_eq!(alice.balance(), 1000 * SAT);
    assert!(alice.start(MINT, "send", send_arguments(0)).is_err());
}

#[test]
fn a_blinded_message_that_somebody_signs_first_costs_a_try_and_no_money() {
    let federation = federation(4);
    let mut alice = Wallet::new(&federation, "alice");
    let amount = inexact(&federation, &mut alice);
    let operation = alice.start(MINT, "send", send_arguments(amount)).unwrap();
    for round in 0..2 {
        // The first time one of the notes to be sent, then one of the change.
        let transaction = Transaction::decode(&alice.pending()[0]).unwrap();
        let outputs = transaction.body.outputs;
        let copied = if round == 0 {
            outputs.last()
        } else {
            outputs.first()
        };
        let note: BlindNote = borsh::from_slice(&copied.unwrap().bytes).unwrap();
        let elsewhere = OutPoint {
            txid: vec![round; 32],
            index: 0,
        };
        let cheap = BlindNote {
            exponent: note.exponent,
            ..note
        };
        federation
            .consensus(MINT, || Mint::process_output(cheap, elsewhere))
            .unwrap();
        // Refused; both machines are told; the planner has tried again.
        assert!(alice.step() && alice.step());
        assert_eq!(
            alice.pending().len(),
            2,
            "the same transaction for two machines"
        );
    }
    alice.run();
    assert!(alice.operation(operation).rests());
    assert_eq!(alice.balance(), 1000 * SAT - amount);
}

#[test]
fn a_note_that_is_spent_already_is_dropped_and_the_others_come_back() {
    let federation = federation(4);
    let mut alice = Wallet::new(&federation, "alice");
    let amount = inexact(&federation, &mut alice);
    let operation = alice.start(MINT, "send", send_arguments(amount)).unwrap();
    let transaction = Transaction::decode(&alice.pending()[0]).unwrap();
    // As if another device with the same seed had been quicker.
    let note: Note = borsh::from_slice(&transaction.body.inputs[0].bytes).unwrap();
    let lost = 1u64 << note.exponent;
    federation
        .consensus(MINT, || Mint::process_input(note))
        .unwrap();
    alice.run();
    assert!(alice.operation(operation).rests());
    assert_eq!(alice.balance(), 1000 * SAT - amount - lost);
}

#[test]
fn ecash_that_nobody_takes_comes_back_when_asked_or_at_its_time() {
    let federation = federation(4);
    let mut alice = Wallet::new(&federation, "alice");
    deposit(&federation, &mut alice, 10_000);
    let (cancelled, first) = send(&mut alice, 1000 * SAT);
    let (forgotten, second) = send(&mut alice, 2000 * SAT);
    alice.cancel(cancelled).unwrap();
    carry_on(&mut alice);
    assert_eq!(
        alice.operation(cancelled).progress.as_ref().unwrap().stage,
        "reclaimed"
    );
    assert_eq!(alice.balance(), 8000 * SAT);
    assert_eq!(alice.operation(forgotten).finished(), None);
    federation.pass(3600);
    alice.run();
    assert_eq!(
        alice.operation(forgotten).progress.as_ref().unwrap().stage,
        "reclaimed"
    );
    assert_eq!(alice.balance(), 10_000 * SAT);
    for notes in [first, second] {
        assert_eq!(receive(&mut alice, &notes).unwrap_err().code, "note-spent");
    }
}

#[test]
fn what_the_receiver_has_taken_does_not_come_back() {
    let federation = federation(4);
    let mut alice = Wallet::new(&federation, "alice");
    let mut bob = Wallet::new(&federation, "bob");
    deposit(&federation, &mut alice, 10_000);
    let (operation, notes) = send(&mut alice, 1000 * SAT);
    // Of the notes in the text Bob has entered one alone.
    let mut part = Notes::decode(&notes).unwrap();
    part.notes.truncate(1);
    let taken = part.amount().unwrap();
    receive(&mut bob, &part.encode()).unwrap();
    let arguments = Cancel {
        notes: notes.clone(),
    };
    let cancel = perform(&mut alice, MINT, "cancel", arguments.arguments());
    assert_eq!(alice.operation(cancel).finished(), Some(Ok(())));
    assert_eq!(alice.balance() + taken, 10_000 * SAT);
    federation.pass(3600);
    alice.run();
    assert_eq!(
        alice.operation(operation).progress.as_ref().unwrap().stage,
        "taken"
    );
    assert_eq!(alice.operation(operation).finished(), Some(Ok(())));
    assert_eq!(bob.balance(), taken);
}

#[test]
fn two_operations_at_once_never_take_the_same_notes() {
    let federation = federation(4);
    let mut alice = Wallet::new(&federation, "alice");
    deposit(&federation, &mut alice, 1000);
    let amount = 300 * SAT + 1;
    let begun: Vec<_> = (0..4)
        .map(|_| alice.start(MINT, "send", send_arguments(amount)).unwrap())
        .collect();
    carry_on(&mut alice);
    let out: Vec<_> = begun
        .iter()
        .filter(|o| alice.operation(**o).rests())
        .collect();
    let paid = out
        .iter()
        .filter(|o| alice.operation(***o).finished().is_none())
        .count() as u64;
    assert!(paid >= 1, "one of them at least gets its notes");
    assert_eq!(alice.balance() + paid * amount, 1000 * SAT);
    for operation in &begun {
        if let Some(end) = alice.operation(*operation).finished() {
            assert_eq!(end.unwrap_err().code, "not-enough-money");
        }
    }
    check_books(&federation, 1000 * SAT);
}

#[test]
fn a_guardian_that_lies_or_is_silent_changes_nothing() {
    for behaviour in [Behaviour::Lying, Behaviour::Silent] {
        for guardian in 0..4 {
            let federation = federation(4);
            federation.set_behaviour(guardian, behaviour);
            let mut alice = Wallet::new(&federation, "alice");
            let mut bob = Wallet::new(&federation, "bob");
            let amount = inexact(&federation, &mut alice);
            let (_, notes) = send(&mut alice, amount);
            receive(&mut bob, &notes).unwrap();
            let (operation, _) = send(&mut bob, 8);
            bob.cancel(operation).unwrap();
            bob.run();
            assert_eq!(
                (alice.balance(), bob.balance()),
                (1000 * SAT - amount, amount)
            );
        }
    }
}

#[test]
fn with_too_few_guardians_ecash_waits_and_then_goes_on() {
    let federation = federation(4);
    let mut alice = Wallet::new(&federation, "alice");
    pay_in(&federation, &mut alice, 10_000);
    federation.set_behaviour(0, Behaviour::Silent);
    assert!(alice.step(), "three guardians agree on the deposit");
    federation.set_behaviour(1, Behaviour::Lying);
    alice.run();
    assert_eq!(
        alice.balance(),
        0,
        "the transaction is accepted, two shares are good"
    );
    federation.set_behaviour(0, Behaviour::Honest);
    alice.run();
    assert_eq!(alice.balance(), 10_000 * SAT);
}

#[test]
fn a_large_note_is_split_and_many_small_ones_are_consolidated() {
    let federation = federation(4);
    let mut alice = Wallet::new(&federation, "alice");
    let mut bob = Wallet::new(&federation, "bob");
    trickle(&federation, &mut alice, &mut bob, 14);
    assert_eq!(bob.balance(), 14 * 1024);
    let before = alice.balance();
    let consolidate = perform(&mut bob, MINT, "consolidate", Consolidate {}.arguments());
    assert_eq!(bob.operation(consolidate).finished(), Some(Ok(())));
    let split = perform(&mut alice, MINT, "split", Split {}.arguments());
    assert_eq!(alice.operation(split).finished(), Some(Ok(())));
    assert_eq!((alice.balance(), bob.balance()), (before, 14 * 1024));
    let refused = bob.start(MINT, "consolidate", Vec::new()).unwrap_err();
    assert_eq!(refused.code, "nothing-to-consolidate");
}

#[test]
fn with_fees_nothing_is_made_that_costs_more_than_it_is_worth() {
    let federation = Federation::new(1);
    let wallet = Bundle::federation_module::<WalletModule>();
    let free = modmint_wallet::Configuration {
        minimum_deposit: Amount(10_000 * SAT),
        deposit_fee: Amount(0),
    };
    federation.found(wallet, free.arguments());
    let fee = modmint_mint::Configuration {
        note_fee: Amount(100),
    };
    federation.found(Bundle::ecash_module::<Mint>(), fee.arguments());
    let mut alice = Wallet::new(&federation, "alice");
    let mut bob = Wallet::new(&federation, "bob");
    deposit(&federation, &mut alice, 100_000);
    let after_deposit = alice.balance();
    assert!(after_deposit > 99_000 * SAT, "{after_deposit}");
    let refused = alice.start(MINT, "send", send_arguments(1)).unwrap_err();
    assert_eq!(refused.code, "no-such-notes");
    let (_, notes) = send(&mut alice, 128 * 77);
    let text = Notes::decode(&notes).unwrap();
    assert!(text.notes.iter().all(|note| note.exponent >= 7));
    receive(&mut bob, &notes).unwrap();
    // Four notes in, at most fourteen out, and what is too little for a note.
    let fees = 100 * (4 + 14) + 228;
    assert!(bob.balance() >= 128 * 77 - fees && bob.balance() < 128 * 77);
    check_books(&federation, 100_000 * SAT);
}

/// Everything a wallet does, once. Alice may be killed on the way.
fn a_busy_day(federation: &Federation, alice: &mut Wallet) -> u64 {
    let mut bob = Wallet::new(federation, "bob");
    deposit(federation, alice, 3000);
    let (_, exact) = send(alice, 1000 * SAT);
    receive(&mut bob, &exact).unwrap();
    let (_, exchanged) = send(alice, 500 * SAT + 1);
    receive(&mut bob, &exchanged).unwrap();
    let (cancelled, _) = send(alice, 77 * SAT);
    // A kill between what was asked and what was written: asked again.
    if alice.cancel(cancelled).is_ok() {
        carry_on(alice);
    }
    let (_, back) = send(&mut bob, 200 * SAT);
    receive(alice, &back).unwrap();
    perform(alice, MINT, "split", Vec::new());
    let end = (3000 - 1000 - 500 + 200) * SAT - 1;
    assert_eq!(alice.balance(), end);
    assert_eq!(bob.balance(), 3000 * SAT - end);
    check_books(federation, 3000 * SAT);
    alice.writes()
}

/// A day for each write, with the wallet killed behind it.
fn killed_after_any_write(sent: bool) {
    let writes = {
        let federation = federation(4);
        a_busy_day(&federation, &mut Wallet::new(&federation, "alice"))
    };
    assert!(writes > 20, "{writes} writes are not much of a day");
    for after in 1..=writes {
        let federation = federation(4);
        let mut alice = Wallet::new(&federation, "alice");
        alice.kill_at(Kill { after, sent });
        a_busy_day(&federation, &mut alice);
        assert_eq!(alice.kills(), 1);
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

#[test]
fn people_are_shown_what_moves() {
    let federation = federation(4);
    let mut alice = Wallet::new(&federation, "alice");
    inexact(&federation, &mut alice);
    alice
        .start(MINT, "send", send_arguments(500 * SAT + 1))
        .unwrap();
    let transaction = Transaction::decode(&alice.pending()[0]).unwrap();
    let input = transaction.body.inputs[0].bytes.clone();
    let shown = federation.render(MINT, Item::Input, input).unwrap();
    assert!(
        shown.starts_with(r#"{"type":"note","amount_msat":"#),
        "{shown}"
    );
    let output = transaction.body.outputs[0].bytes.clone();
    let shown = federation
        .render(MINT, Item::Output, output.clone())
        .unwrap();
    assert!(
        shown.starts_with(r#"{"type":"blind-note","amount_msat":"#),
        "{shown}"
    );
    let wrong = federation.render(MINT, Item::Input, output).unwrap_err();
    assert_eq!(wrong.code, "bad-encoding");
    assert_eq!(label(7), "note-7");
}

#[test]
fn the_largest_transaction_that_a_wallet_makes_fits_into_a_unit() {
    use modmint_core::{Input, InstanceId, MAX_ITEM_BYTES, Output, TransactionBody};
    use modmint_mint::selection::{MOST_INPUTS, MOST_OUTPUTS, MOST_SENT};
    let note = Note {
        exponent: 0,
        nonce: [0; 33],
        signature: [0; 48],
    };
    let blind = BlindNote {
        exponent: 0,
        blinded_message: [0; 48],
        tweak: [0; 16],
    };
    let input = Input {
        instance: InstanceId(MINT),
        bytes: borsh::to_vec(&note).unwrap(),
    };
    let output = Output {
        instance: InstanceId(MINT),
        bytes: borsh::to_vec(&blind).unwrap(),
    };
    for (sent, asked) in [(MOST_SENT, 0), (0, MOST_SENT)] {
        let inputs = (sent + MOST_INPUTS) as usize;
        let body = TransactionBody {
            expires: 0,
            inputs: vec![input.clone(); inputs],
            outputs: vec![output.clone(); (asked + MOST_OUTPUTS) as usize],
        };
        let signatures = vec![[0; 64]; inputs];
        let size = Transaction { body, signatures }.encode().len();
        assert!(size < MAX_ITEM_BYTES, "{size} bytes");
    }
}

/// Something that somebody does.
#[derive(Clone, Copy, Debug)]
enum Act {
    Deposit(u64),
    Send(u64),
    Receive,
    Cancel,
    Split,
    Consolidate,
    Kill(u64),
    Pass,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        1 => (1000u64..20_000).prop_map(Act::Deposit),
        4 => (1u64..3_000_000).prop_map(Act::Send),
        3 => Just(Act::Receive),
        1 => Just(Act::Cancel),
        1 => Just(Act::Split),
        1 => Just(Act::Consolidate),
        2 => (0u64..4).prop_map(Act::Kill),
        1 => Just(Act::Pass),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    /// Value in is value out and fees, whatever two wallets do.
    #[test]
    fn no_money_is_made_or_lost(
        acts in proptest::collection::vec((0usize..2, act()), 1..14),
        fee in prop_oneof![3 => Just(0u64), 1 => Just(3u64)],
    ) {
        let federation = Federation::new(1);
        let minimum = modmint_wallet::Configuration {
            minimum_deposit: Amount(1_000 * SAT),
            deposit_fee: Amount(0),
        };
        federation.found(Bundle::federation_module::<WalletModule>(), minimum.arguments());
        let config = modmint_mint::Configuration { note_fee: Amount(fee) };
        federation.found(Bundle::ecash_module::<Mint>(), config.arguments());
        let mut wallets = [Wallet::new(&federation, "alice"), Wallet::new(&federation, "bob")];
        let mut deposited = 0;
        let mut texts: Vec<String> = Vec::new();
        let mut sends: Vec<(usize, OperationId)> = Vec::new();
        deposit(&federation, &mut wallets[0], 5000);
        deposited += 5000 * SAT;
        for (who, act) in acts {
            let wallet = &mut wallets[who];
            match act {
                Act::Deposit(satoshi) => {
                    deposit(&federation, wallet, satoshi);
                    deposited += satoshi * SAT;
                }
                Act::Send(msat) => {
                    if let Ok(operation) = wallet.start(MINT, "send", send_arguments(msat)) {
                        carry_on(wallet);
                        if let Some(text) = wallet.operation(operation).detail("notes") {
                            texts.push(text);
                            sends.push((who, operation));
                        }
                    }
                }
                Act::Receive => {
                    if let Some(text) = texts.pop() {
                        let _: Result<(), Refusal> = receive(wallet, &text);
                    }
                }
                Act::Cancel => {
                    if let Some((who, operation)) = sends.pop() {
                        let _: Result<(), Refusal> = wallets[who].cancel(operation);
                        carry_on(&mut wallets[who]);
                    }
                }
                Act::Split | Act::Consolidate => {
                    let action = if matches!(act, Act::Split) { "split" } else { "consolidate" };
                    if wallet.start(MINT, action, Vec::new()).is_ok() {
                        carry_on(wallet);
                    }
                }
                Act::Kill(writes) => {
                    wallet.kill_at(Kill { after: wallet.writes() + 1 + writes, sent: writes % 2 == 0 });
                }
                Act::Pass => {
                    federation.pass(1200);
                    carry_on(wallet);
                }
            }
        }
        check_books(&federation, deposited);
        // Everything that is out comes back, then all of it is in the two wallets.
        federation.pass(7200);
        wallets.iter_mut().for_each(carry_on);
        for wallet in &wallets {
            check_stock(wallet);
            prop_assert!(wallet.operations().iter().all(|o| o.finished().is_some()));
        }
        let circulating: i64 = federation.audit(MINT).iter().map(|line| -line.msat).sum();
        let balances: u64 = wallets.iter().map(Wallet::balance).sum();
        let kept = federation.books(MINT).0 - i128::from(circulating);
        prop_assert_eq!(federation.books(MINT).0, i128::from(deposited) - lost(&federation, deposited));
        prop_assert!(kept >= 0);
        if fee == 0 {
            prop_assert_eq!(balances, deposited);
            prop_assert_eq!(kept, 0);
        } else {
            prop_assert!(balances <= u64::try_from(circulating).unwrap());
        }
    }
}

/// The balance is that of the notes that are there.
fn check_stock(wallet: &Wallet) {
    let store = wallet.store(MINT);
    let exponents = store.keys().filter(|key| key[0] == b'n').map(|key| key[1]);
    let worth: u64 = exponents.filter_map(modmint_mint::value).sum();
    assert_eq!(wallet.balance(), worth);
}

#[test]
fn the_notes_of_a_wallet_with_an_older_bundle_are_counted() {
    let (_, alice) = with_a_history();
    let balance = alice.balance();
    assert!(balance > 0);
    alice.call(MINT, Phase::Wallet, || {
        // Version 1 had the notes alone.
        Cell::<Counts>::new(b'c').delete();
        assert_eq!(Mint::balance(), 0);
        assert_eq!(<Mint as Client>::migrate(1, None).unwrap(), None);
        assert_eq!(Mint::balance(), balance);
        let refused = <Mint as Client>::migrate(3, None).unwrap_err();
        assert_eq!(refused.code, "no-migration");
    });
}

/// What transactions paid more than they had to: less than a note in each.
fn lost(federation: &Federation, deposited: u64) -> i128 {
    let lost = i128::from(deposited) - federation.books(MINT).0;
    assert!(lost >= 0);
    lost
}

/// A federation in which alice has received, paid, and has something left.
fn with_a_history() -> (Federation, Wallet) {
    let federation = federation(4);
    let mut alice = Wallet::new(&federation, "alice");
    let mut bob = Wallet::new(&federation, "bob");
    deposit(&federation, &mut alice, 20_000);
    deposit(&federation, &mut bob, 20_000);
    for msat in [1_234_567, 7, 3_000_000] {
        let (_, notes) = send(&mut alice, msat);
        receive(&mut bob, &notes).unwrap();
        let (_, notes) = send(&mut bob, msat / 2);
        receive(&mut alice, &notes).unwrap();
    }
    (federation, alice)
}

fn recover(wallet: &mut Wallet) -> OperationId {
    let operation = wallet.recover(MINT).unwrap();
    carry_on(wallet);
    assert_eq!(wallet.operation(operation).finished(), Some(Ok(())));
    operation
}

#[test]
fn a_wallet_with_nothing_but_its_seed_finds_its_money_again_and_can_spend_it() {
    let (federation, alice) = with_a_history();
    federation.set_behaviour(1, Behaviour::Lying);
    let mut again = alice.another_device();
    assert_eq!(again.balance(), 0);
    let operation = recover(&mut again);
    assert_eq!(again.balance(), alice.balance());
    let shown = again.operation(operation).progress.as_ref().unwrap();
    assert_eq!(shown.stage, "recovered");
    assert_eq!(
        shown.details,
        format!("{{\"amount_msat\":{}}}", alice.balance())
    );
    // Once more finds nothing more.
    recover(&mut again);
    assert_eq!(again.balance(), alice.balance());
    let mut carol = Wallet::new(&federation, "carol");
    let (_, notes) = send(&mut again, 5_000_001);
    receive(&mut carol, &notes).unwrap();
    assert_eq!(carol.balance(), 5_000_001);
    assert_eq!(again.balance(), alice.balance() - 5_000_001);
    // Somebody else's seed finds nothing.
    let mut nobody = Wallet::new(&federation, "nobody");
    recover(&mut nobody);
    assert_eq!(nobody.balance(), 0);
}

#[test]
fn a_recovery_that_is_killed_behind_any_write_goes_on() {
    let (_, alice) = with_a_history();
    for after in 1.. {
        let mut again = alice.another_device();
        again.kill_at(Kill { after, sent: false });
        recover(&mut again);
        assert_eq!(again.balance(), alice.balance(), "killed behind {after}");
        check_stock(&again);
        if again.kills() == 0 {
            assert!(after > 3, "nothing was written");
            break;
        }
    }
}

#[test]
fn guardians_that_cannot_be_asked_make_a_recovery_wait() {
    let (federation, alice) = with_a_history();
    for guardian in [0, 1] {
        federation.set_behaviour(guardian, Behaviour::Silent);
    }
    let mut again = alice.another_device();
    let operation = again.recover(MINT).unwrap();
    again.run();
    assert_eq!(again.operation(operation).finished(), None);
    federation.set_behaviour(0, Behaviour::Honest);
    again.run();
    assert_eq!(again.operation(operation).finished(), Some(Ok(())));
    assert_eq!(again.balance(), alice.balance());
}

/// All that was issued, as guardian 0 says.
fn issued(federation: &Federation) -> Vec<Issuance> {
    let mut all: Vec<Issuance> = Vec::new();
    loop {
        let after = all.last().map(|last| {
            let index = last.index.to_be_bytes();
            [&last.txid[..], &index].concat()
        });
        let answer = federation.query(0, MINT, "issued", IssuedQuery { after }.arguments());
        let Some(Ok(Answer::Ready(bytes))) = answer else {
            panic!("{answer:?}");
        };
        let page: Vec<Issuance> = borsh::from_slice(&bytes).unwrap();
        if page.is_empty() {
            return all;
        }
        all.extend(page);
    }
}

#[test]
fn a_tweak_that_somebody_copied_makes_no_note_ours() {
    let (federation, alice) = with_a_history();
    let mallory = Wallet::new(&federation, "mallory");
    let copied = issued(&federation);
    for (index, issuance) in copied.iter().enumerate() {
        let blinding = Blinding {
            label: label(issuance.note.exponent),
            message: vec![7; 33],
            path: vec![index as u64],
        };
        let blinded = mallory.call(MINT, Phase::Look, || wallet::tbs_blind(&[blinding]));
        let note = BlindNote {
            blinded_message: blinded[0],
            ..issuance.note.clone()
        };
        let out_point = OutPoint {
            txid: vec![7; 32],
            index: index as u16,
        };
        let taken = federation.consensus(MINT, || Mint::process_output(note, out_point));
        taken.unwrap();
    }
    assert_eq!(issued(&federation).len(), 2 * copied.len());
    let mut again = alice.another_device();
    recover(&mut again);
    assert_eq!(again.balance(), alice.balance());
}

#[test]
fn a_page_of_issued_notes_begins_behind_an_output_and_nothing_else() {
    let (federation, _) = with_a_history();
    let query = IssuedQuery {
        after: Some(vec![0; 33]),
    };
    let answer = federation.query(0, MINT, "issued", query.arguments());
    assert_eq!(answer.unwrap().unwrap_err().code, "bad-argument");
}
