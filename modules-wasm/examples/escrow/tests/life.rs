//! The life of contracts in a federation and wallets that are played in this
//! process.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should say where"
)]

use modmint_escrow::{
    Approval, Approve, Claim, Configuration, Contract, Escrow, Open, Party, Release, Show,
};
use modmint_sdk::{
    Amount, Client, Item, Server,
    mock::{Bundle, Federation, Kill, OperationId, Phase, Wallet},
};
use proptest::prelude::*;

const SAT: u64 = 1000;
/// Instance 0 is the money.
const ESCROW: u16 = 1;

fn federation(fee: u64) -> Federation {
    let federation = Federation::with_cash(4);
    let configuration = Configuration { fee: Amount(fee) };
    let escrow = Bundle::federation_module::<Escrow>();
    assert_eq!(federation.found(escrow, configuration.arguments()), ESCROW);
    federation
}

/// Buyer, seller and arbiter, each with so many satoshi.
fn wallets(federation: &Federation, satoshi: u64) -> [Wallet; 3] {
    ["buyer", "seller", "arbiter"].map(|name| {
        let mut wallet = Wallet::new(federation, name);
        wallet.endow(satoshi);
        wallet
    })
}

/// What an operation ended with: a text that it shows, or the refusal's code.
fn result(wallet: &Wallet, operation: OperationId, shown: &str) -> Result<String, String> {
    let operation = wallet.operation(operation);
    match operation.finished().unwrap() {
        Ok(()) => Ok(operation.detail(shown).unwrap_or_default()),
        Err(refusal) => Err(refusal.code),
    }
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits = |place| u8::from_str_radix(&hex[place..place + 2], 16).unwrap();
    (0..hex.len()).step_by(2).map(digits).collect()
}

fn key(wallet: &mut Wallet) -> Vec<u8> {
    let operation = wallet.perform(ESCROW, "key", Vec::new()).unwrap();
    bytes(&result(wallet, operation, "key").unwrap())
}

fn open(buyer: &mut Wallet, amount: u64, seller: Vec<u8>, arbiter: Vec<u8>) -> OperationId {
    let open = Open {
        amount: Amount(amount),
        seller,
        arbiter,
        blocks: 10,
    };
    buyer.perform(ESCROW, "open", open.arguments()).unwrap()
}

/// A contract over 5,000 sat; its id.
fn contract(parties: &mut [Wallet; 3]) -> Vec<u8> {
    let [buyer, seller, arbiter] = parties;
    let operation = open(buyer, 5_000 * SAT, key(seller), key(arbiter));
    bytes(&result(buyer, operation, "contract").unwrap())
}

fn approve(wallet: &mut Wallet, action: &str, id: &[u8]) -> Result<Vec<u8>, String> {
    let approve = Approve {
        contract: id.to_vec(),
    };
    let operation = wallet.perform(ESCROW, action, approve.arguments()).unwrap();
    result(wallet, operation, "approval").map(|text| bytes(&text))
}

fn claim(wallet: &mut Wallet, id: &[u8], approval: Option<Vec<u8>>) -> Result<(), String> {
    let claim = Claim {
        contract: id.to_vec(),
        approval,
    };
    let operation = wallet.perform(ESCROW, "claim", claim.arguments()).unwrap();
    result(wallet, operation, "").map(drop)
}

fn balances(wallets: &[Wallet; 3]) -> [u64; 3] {
    [0, 1, 2].map(|place| wallets[place].balance() / SAT)
}

/// What the module says it owes, and what the host has counted.
fn check_books(federation: &Federation, held: u64) {
    let lines = federation.audit(ESCROW);
    assert_eq!(
        lines.iter().map(|line| line.msat).sum::<i64>(),
        -(held as i64)
    );
    assert!(federation.books(ESCROW).0 >= i128::from(held));
}

#[test]
fn the_buyer_releases_and_the_seller_has_the_money() {
    let federation = federation(0);
    let mut wallets = wallets(&federation, 6_000);
    let id = contract(&mut wallets);
    assert_eq!(balances(&wallets), [1_000, 6_000, 6_000]);
    check_books(&federation, 5_000 * SAT);

    let [buyer, seller, _] = &mut wallets;
    let show = Show {
        contract: id.clone(),
    };
    let shown = seller.perform(ESCROW, "show", show.arguments()).unwrap();
    assert_eq!(result(seller, shown, "you_are"), Ok("seller".into()));

    assert_eq!(claim(seller, &id, None), Err("undecided".into()));
    let approval = approve(buyer, "release", &id).unwrap();
    assert_eq!(approval.len(), 65);
    assert_eq!(claim(seller, &id, Some(approval.clone())), Ok(()));
    assert_eq!(balances(&wallets), [1_000, 11_000, 6_000]);
    check_books(&federation, 0);

    let again = claim(&mut wallets[1], &id, Some(approval));
    assert_eq!(again, Err("no-such-contract".into()));
}

#[test]
fn the_arbiter_decides_for_either() {
    let federation = federation(0);
    let mut wallets = wallets(&federation, 10_000);
    let (first, second) = (contract(&mut wallets), contract(&mut wallets));
    let [buyer, seller, arbiter] = &mut wallets;
    let release = approve(arbiter, "release", &first).unwrap();
    let refund = approve(arbiter, "refund", &second).unwrap();
    // An approval is for one receiver of one contract.
    assert_eq!(
        claim(buyer, &first, Some(release.clone())),
        Err("not-approved".into())
    );
    assert_eq!(
        claim(seller, &second, Some(release.clone())),
        Err("not-approved".into())
    );
    assert_eq!(
        claim(arbiter, &first, Some(release.clone())),
        Err("not-yours".into())
    );
    assert_eq!(claim(seller, &first, Some(release)), Ok(()));
    assert_eq!(claim(buyer, &second, Some(refund)), Ok(()));
    assert_eq!(balances(&wallets), [5_000, 15_000, 10_000]);
    check_books(&federation, 0);
}

#[test]
fn after_the_timeout_the_buyer_needs_nobody() {
    let federation = federation(0);
    let mut wallets = wallets(&federation, 5_000);
    let id = contract(&mut wallets);
    federation.mine_blocks(9);
    assert_eq!(claim(&mut wallets[0], &id, None), Err("undecided".into()));
    federation.mine_blocks(1);
    assert_eq!(claim(&mut wallets[1], &id, None), Err("undecided".into()));
    assert_eq!(claim(&mut wallets[0], &id, None), Ok(()));
    assert_eq!(balances(&wallets), [5_000, 5_000, 5_000]);
}

#[test]
fn nobody_approves_for_himself_or_in_anothers_name() {
    let federation = federation(0);
    let mut wallets = wallets(&federation, 5_000);
    let id = contract(&mut wallets);
    let [buyer, seller, _] = &mut wallets;
    assert_eq!(approve(seller, "release", &id), Err("not-yours".into()));
    assert_eq!(approve(buyer, "refund", &id), Err("not-yours".into()));
    let mut approval: Approval =
        borsh::from_slice(&approve(buyer, "release", &id).unwrap()).unwrap();
    for by in [Party::Seller, Party::Arbiter] {
        approval.by = by;
        let release = Release {
            contract: id.clone().try_into().unwrap(),
            to: Party::Seller,
            approval: Some(approval.clone()),
        };
        let refused = federation.consensus(ESCROW, || Escrow::process_input(release));
        assert_eq!(refused.unwrap_err().code, "not-approved");
    }
}

#[test]
fn a_stranger_finds_nothing_to_do_and_junk_is_refused_with_words() {
    let federation = federation(0);
    let mut wallets = wallets(&federation, 5_000);
    let id = contract(&mut wallets);
    let mut stranger = Wallet::new(&federation, "stranger");
    assert_eq!(
        approve(&mut stranger, "refund", &id),
        Err("not-yours".into())
    );
    assert_eq!(claim(&mut stranger, &id, None), Err("not-yours".into()));
    assert_eq!(
        approve(&mut stranger, "refund", &[7; 32]),
        Err("no-such-contract".into())
    );
    let junk = Claim {
        contract: id,
        approval: Some(vec![1, 2, 3]),
    };
    let refused = stranger.perform(ESCROW, "claim", junk.arguments());
    assert!(refused.unwrap_err().message.contains("65 bytes"));
    assert!(federation.render(ESCROW, Item::Output, vec![1]).is_err());
}

#[test]
fn the_fee_is_shown_before_it_is_paid_and_a_no_costs_nothing() {
    let federation = federation(1_000);
    let mut wallets = wallets(&federation, 6_000);
    let [buyer, seller, arbiter] = &mut wallets;
    buyer.set_confirms(false);
    let operation = open(buyer, 5_000 * SAT, key(seller), key(arbiter));
    assert_eq!(result(buyer, operation, ""), Err("declined".into()));
    assert_eq!(buyer.asked.as_ref().unwrap().1, 5_001 * SAT);
    assert_eq!(buyer.balance(), 6_000 * SAT);
}

#[test]
fn a_wallet_killed_anywhere_loses_nothing() {
    // Each write of the buyer's wallet, until there are none left.
    for after in 1.. {
        let mut killed = false;
        for sent in [false, true] {
            let federation = federation(0);
            let mut wallets = wallets(&federation, 5_000);
            let [buyer, seller, arbiter] = &mut wallets;
            let (seller_key, arbiter_key) = (key(seller), key(arbiter));
            let after = buyer.writes() + after;
            buyer.kill_at(Kill { after, sent });
            let operation = open(buyer, 5_000 * SAT, seller_key, arbiter_key);
            killed |= buyer.is_dead();
            buyer.resume();
            buyer.run();
            let id = bytes(&result(buyer, operation, "contract").unwrap());
            let refund = approve(seller, "refund", &id).unwrap();
            assert_eq!(claim(buyer, &id, Some(refund)), Ok(()));
            assert_eq!(balances(&wallets), [5_000; 3]);
        }
        if !killed {
            return;
        }
    }
}

#[test]
fn a_wallet_restored_from_its_seed_has_its_keys_again() {
    let federation = federation(0);
    let mut wallets = wallets(&federation, 5_000);
    let id = contract(&mut wallets);
    let refund = approve(&mut wallets[2], "refund", &id).unwrap();
    let backup = wallets[0].call(ESCROW, Phase::Look, Escrow::backup);
    assert_eq!(backup, 1u64.to_be_bytes(), "how many keys it has made");
    let mut restored = wallets[0].another_device();
    assert_eq!(
        claim(&mut restored, &id, Some(refund.clone())),
        Err("not-yours".into())
    );
    restored.recover(ESCROW).unwrap();
    assert_eq!(claim(&mut restored, &id, Some(refund)), Ok(()));
    assert_eq!(restored.balance(), 5_000 * SAT);
}

/// Something that one of the three does, with a contract of those that there are.
#[derive(Clone, Debug)]
enum Act {
    Open(u64),
    Approve(usize, bool),
    Claim(usize, usize, Option<usize>),
    Mine(u32),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        (1u64..3_000_000).prop_map(Act::Open),
        (0usize..3, any::<bool>()).prop_map(|(who, release)| Act::Approve(who, release)),
        (0usize..3, 0usize..4, proptest::option::of(0usize..8))
            .prop_map(|(who, id, approval)| Act::Claim(who, id, approval)),
        (1u32..6).prop_map(Act::Mine),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// What three wallets and all contracts hold, and the fees, is always the same
    /// sum, whatever anybody does.
    #[test]
    fn value_is_conserved(acts in proptest::collection::vec(act(), 1..24), fee in 0u64..2_000) {
        let federation = federation(fee);
        let mut wallets = wallets(&federation, 5_000);
        let (mut ids, mut approvals) = (Vec::<Vec<u8>>::new(), Vec::new());
        let (mut held, mut fees) = (0, 0);
        for act in acts {
            match act {
                Act::Open(amount) => {
                    let [buyer, seller, arbiter] = &mut wallets;
                    let operation = open(buyer, amount, key(seller), key(arbiter));
                    if let Ok(id) = result(buyer, operation, "contract") {
                        ids.push(bytes(&id));
                        (held, fees) = (held + amount, fees + fee);
                    }
                }
                Act::Approve(who, release) => {
                    let action = if release { "release" } else { "refund" };
                    for id in &ids {
                        approvals.extend(approve(&mut wallets[who], action, id));
                    }
                }
                Act::Claim(who, id, approval) => {
                    let Some(id) = ids.get(id) else { continue };
                    let approval = approval.and_then(|place| approvals.get(place).cloned());
                    let before = wallets[who].balance();
                    if claim(&mut wallets[who], id, approval).is_ok() {
                        held -= wallets[who].balance() - before;
                    }
                }
                Act::Mine(blocks) => federation.mine_blocks(blocks),
            }
            let all: u64 = wallets.iter().map(Wallet::balance).sum();
            prop_assert_eq!(all + held + fees, 3 * 5_000 * SAT);
            check_books(&federation, held);
        }
    }
}

#[test]
fn what_the_module_makes_it_shows() {
    let federation = federation(0);
    let contract = Contract {
        amount: 1,
        buyer: [2; 33],
        seller: [2; 33],
        arbiter: [3; 33],
        timeout: 9,
    };
    let output = borsh::to_vec(&contract).unwrap();
    let shown = federation.render(ESCROW, Item::Output, output).unwrap();
    assert!(shown.contains("\"timeout_height\":9"), "{shown}");
    let release = Release {
        contract: [1; 32],
        to: Party::Buyer,
        approval: None,
    };
    let input = borsh::to_vec(&release).unwrap();
    let shown = federation.render(ESCROW, Item::Input, input).unwrap();
    assert!(shown.contains("\"approved_by\":null"), "{shown}");
}
