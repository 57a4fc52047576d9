//! The shape of a withdrawal: approved by consensus, signed by guardians in items
//! that are checked, broadcast until it is confirmed, waited for by the wallet.
//!
//! A treasury belongs to the instance that claimed it, so the toy takes deposits
//! too.

mod common;

use borsh::{BorshDeserialize, BorshSerialize};
use common::{TOY, federation, wallet};
use modmint_sdk::{
    Action, Agreement, Amount, Answer, Arguments, AuditLine, ChainOutPoint, Client, EffectDone,
    EffectResult, Event, FeeLine, InputEffect, KeyKind, OutPoint, OutputEffect, PeerId, Plan,
    PlannedInput, PlannedOutput, Quote, Refusal, Server, Signable, Signer, Transition, Wake,
    crypto, federation as agreed, guardian,
    mock::Behaviour,
    object, parameters, signing,
    storage::{Cell, Table},
    treasury, wallet as keys,
};

struct Vault;
toy_module!(Vault, "vault", () => [("vault", KeyKind::Multisig)]);

#[derive(BorshSerialize, BorshDeserialize)]
struct PegIn {
    txid: [u8; 32],
    vout: u32,
    owner: [u8; 33],
}

#[derive(Clone, BorshSerialize, BorshDeserialize)]
struct PegOut {
    satoshi: u64,
    fee: u64,
    script: Vec<u8>,
}

#[derive(Clone, BorshSerialize, BorshDeserialize)]
struct Payment {
    what: PegOut,
    signatures: Vec<(u16, [u8; 64])>,
    confirmed: Vec<u16>,
}

#[derive(BorshSerialize, BorshDeserialize)]
enum VaultItem {
    Signature([u8; 32], [u8; 64]),
    Confirmed([u8; 32]),
}

const TWEAK: [u8; 32] = [3; 32];
const SATOSHI: Cell<u64> = Cell::new(0);
const PAYMENTS: Table<[u8; 32], Payment> = Table::new(1);
const BY_OUTPUT: Table<([u8; 32], u16), [u8; 32]> = Table::new(2);
const BURIED: Table<[u8; 32], ()> = Table::new(3);

fn signable(id: &[u8; 32]) -> Signable {
    Signable {
        label: "vault".into(),
        message: [TWEAK, *id].concat(),
        terms: Vec::new(),
    }
}

fn refused(code: &str) -> Refusal {
    Refusal::new(code, "the toy refuses")
}

fn id_of(out_point: &OutPoint) -> Option<[u8; 32]> {
    let txid = out_point.txid.as_slice().try_into().ok()?;
    BY_OUTPUT.get(&(txid, out_point.index))
}

impl Server for Vault {
    type Input = PegIn;
    type Output = PegOut;
    type ConsensusItem = VaultItem;

    fn process_input(claim: PegIn) -> Result<InputEffect, Refusal> {
        let place = ChainOutPoint {
            txid: claim.txid.to_vec(),
            vout: claim.vout,
        };
        let found = treasury::claim(&place).ok_or_else(|| refused("no-deposit"))?;
        SATOSHI.put(&(SATOSHI.get().unwrap_or_default() + found.satoshi));
        Ok(InputEffect {
            value: found.satoshi * 1000,
            fee: 0,
            spend_key: claim.owner.to_vec(),
        })
    }

    fn process_output(what: PegOut, place: OutPoint) -> Result<OutputEffect, Refusal> {
        if what.fee < agreed::fee_rate() * 200 / 1000 {
            return Err(refused("fee-too-low"));
        }
        let total = what.satoshi + what.fee;
        if !treasury::release(total) {
            return Err(refused("not-enough-bitcoin"));
        }
        SATOSHI.put(&(SATOSHI.get().unwrap_or_default() - total));
        let txid: [u8; 32] = place.txid.try_into().expect("32 bytes");
        let id = crypto::sha256(&[&txid[..], &place.index.to_be_bytes()].concat());
        signing::approve(&signable(&id));
        BY_OUTPUT.put(&(txid, place.index), &id);
        let payment = Payment {
            what,
            signatures: Vec::new(),
            confirmed: Vec::new(),
        };
        PAYMENTS.put(&id, &payment);
        Ok(OutputEffect {
            value: total * 1000,
            fee: 0,
        })
    }

    fn process_consensus_item(peer: PeerId, item: VaultItem) -> Result<(), Refusal> {
        let (VaultItem::Signature(id, _) | VaultItem::Confirmed(id)) = &item;
        let mut payment = PAYMENTS.get(id).ok_or_else(|| refused("no-payment"))?;
        match item {
            VaultItem::Signature(id, signature) => {
                let key = agreed::public_keys("vault").remove(peer.into());
                let key = crypto::tweak_public_key(&key, &TWEAK).expect("a point");
                let known = payment.signatures.iter().any(|(signer, _)| *signer == peer);
                if known || !crypto::verify_ecdsa(&key, &id, &signature) {
                    return Err(refused("bad-signature"));
                }
                payment.signatures.push((peer, signature));
                PAYMENTS.put(&id, &payment);
            }
            VaultItem::Confirmed(id) => {
                if payment.confirmed.contains(&peer) {
                    return Err(refused("known"));
                }
                payment.confirmed.push(peer);
                if payment.confirmed.len() < agreed::threshold().into() {
                    PAYMENTS.put(&id, &payment);
                } else {
                    PAYMENTS.delete(&id);
                    BURIED.put(&id, &());
                    signing::revoke(&signable(&id));
                }
            }
        }
        Ok(())
    }

    fn propose() -> Vec<VaultItem> {
        let me = guardian::whoami();
        PAYMENTS
            .iter()
            .filter_map(|(id, payment)| {
                if payment.signatures.iter().all(|(signer, _)| *signer != me) {
                    let share = guardian::shares(&[signable(&id)]).remove(0)?;
                    return Some(VaultItem::Signature(id, share.try_into().ok()?));
                }
                let seen = guardian::confirmed_at(&id).is_some();
                (seen && !payment.confirmed.contains(&me)).then_some(VaultItem::Confirmed(id))
            })
            .collect()
    }

    fn broadcast() -> Vec<Vec<u8>> {
        PAYMENTS
            .iter()
            .filter(|(_, payment)| payment.signatures.len() >= agreed::threshold().into())
            .map(|(id, _)| id.to_vec())
            .collect()
    }

    fn outcomes(out_points: Vec<OutPoint>) -> Vec<Option<Vec<u8>>> {
        out_points
            .iter()
            .map(|place| Some(id_of(place)?.to_vec()))
            .collect()
    }

    fn query(_: &str, arguments: Arguments) -> Result<Answer, Refusal> {
        let Buried { id } = Buried::read(arguments)?;
        let id: [u8; 32] = id.try_into().map_err(|_| refused("bad-argument"))?;
        Ok(match BURIED.get(&id) {
            Some(()) => Answer::Ready(vec![1]),
            None => Answer::Wait(vec![Wake::Key(BURIED.key(&id))]),
        })
    }

    fn audit() -> Vec<AuditLine> {
        vec![AuditLine {
            name: "vault".into(),
            msat: (SATOSHI.get().unwrap_or_default() * 1000) as i64,
        }]
    }
}

parameters! {
    /// Whether a payment is buried.
    struct Buried {
        /// Which.
        id: Vec<u8>,
    }
}
parameters! {
    /// Takes a deposit.
    struct Claim {
        /// Its transaction.
        txid: Vec<u8>,
        /// Its place.
        vout: u64,
        /// What it is worth.
        amount: Amount,
    }
}
parameters! {
    /// Pays to a script.
    struct Withdraw {
        /// How many satoshi.
        satoshi: u64,
        /// For the chain, satoshi.
        fee: u64,
    }
}

#[derive(BorshSerialize, BorshDeserialize)]
enum State {
    Submitted,
    Signing,
    Burying([u8; 32]),
}

impl Client for Vault {
    type State = State;

    fn actions() -> Vec<Action> {
        Vec::new()
    }

    fn start(action: &str, arguments: Arguments) -> Result<Transition<State>, Refusal> {
        let plan = if action == "claim" {
            let claim = Claim::read(arguments)?;
            let input = PegIn {
                txid: claim.txid.try_into().map_err(|_| refused("bad-argument"))?,
                vout: claim.vout as u32,
                owner: keys::derive_public_key(&[0]),
            };
            Plan {
                inputs: vec![PlannedInput {
                    input: borsh::to_vec(&input).expect("memory"),
                    value: claim.amount.0,
                    fee: 0,
                    signer: Signer::Path(vec![0]),
                }],
                outputs: Vec::new(),
                confirm: None,
            }
        } else {
            let Withdraw { satoshi, fee } = Withdraw::read(arguments)?;
            let output = PegOut {
                satoshi,
                fee,
                script: vec![0x51],
            };
            Plan {
                inputs: Vec::new(),
                outputs: vec![PlannedOutput {
                    output: borsh::to_vec(&output).expect("memory"),
                    value: (satoshi + fee) * 1000,
                    fee: 0,
                }],
                confirm: Some(Quote {
                    summary: format!("withdraw {satoshi} sat"),
                    fees: vec![FeeLine {
                        name: "on-chain".into(),
                        amount: fee * 1000,
                    }],
                    expires: None,
                }),
            }
        };
        Ok(Transition::to(State::Submitted).submit(0, plan))
    }

    fn advance(state: State, event: Event) -> Result<Transition<State>, Refusal> {
        let Event::Done(EffectDone { outcome, .. }) = event else {
            return Err(refused("too-late"));
        };
        Ok(match (state, outcome) {
            (_, EffectResult::Accepted(accepted)) if accepted.outputs.is_empty() => {
                Transition::done(State::Submitted)
            }
            (_, EffectResult::Accepted(accepted)) => {
                let place = OutPoint {
                    txid: accepted.txid,
                    index: accepted.outputs[0],
                };
                Transition::to(State::Signing).outcomes(1, vec![place], Agreement::Same)
            }
            (State::Signing, EffectResult::Outcomes(answers)) => {
                let id = answers[0].outcomes[0].clone();
                let shown = object! { "txid" => id.as_slice() };
                let query = Buried { id: id.clone() };
                let id = id.try_into().map_err(|_| refused("bad-outcome"))?;
                Transition::to(State::Burying(id))
                    .query(2, "buried", query.arguments(), Agreement::Same)
                    .progress("signing", "guardians sign", shown)
            }
            (state @ State::Burying(id), _) => {
                let shown = object! { "txid" => id.as_slice() };
                Transition::done(state).progress("buried", "it is paid", shown)
            }
            (state, EffectResult::Rejected(rejection)) => {
                Transition::failed(state, rejection.refusal)
            }
            (state, EffectResult::Failed(refusal)) => Transition::failed(state, refusal),
            (state, _) => Transition::failed(state, refused("unexpected")),
        })
    }
}

#[test]
fn a_withdrawal_is_signed_broadcast_and_buried_whoever_lies() {
    let federation = federation::<Vault>();
    federation.set_behaviour(1, Behaviour::Lying);
    let mut alice = wallet(&federation, "alice", 0);
    // A script that passes the filter, of the vault.
    let script = (0u8..255)
        .map(|byte| vec![byte; 4])
        .find(|script| modmint_core::sha256(script)[0] < 32)
        .expect("one of eight");
    let place = federation.mine(&[(script, 50_000)]).remove(0);
    let claim = Claim {
        txid: place.txid,
        vout: place.vout.into(),
        amount: Amount(50_000_000),
    };
    alice
        .perform(TOY, "claim", claim.arguments())
        .expect("it begins");
    assert_eq!(alice.balance(), 50_000_000);

    let withdraw = |satoshi, fee| Withdraw { satoshi, fee }.arguments();
    let low = alice
        .perform(TOY, "withdraw", withdraw(1000, 1))
        .expect("it begins");
    let end = alice.operation(low).finished().expect("it ends");
    assert_eq!(end.expect_err("too low").code, "fee-too-low");
    assert_eq!(
        alice.balance(),
        50_000_000,
        "notes of a refused transaction come back"
    );

    let paid = alice
        .perform(TOY, "withdraw", withdraw(20_000, 300))
        .expect("it begins");
    assert_eq!(alice.asked, Some(("withdraw 20000 sat".into(), 20_300_000)));
    assert_eq!(alice.balance(), 29_700_000);
    assert!(federation.broadcast(TOY).is_empty(), "nobody has signed");
    assert_eq!(
        federation.order_proposals(),
        3,
        "the liar's signature is refused"
    );
    let sent = federation.broadcast(TOY).remove(0);
    alice.run();
    assert_eq!(alice.operation(paid).finished(), None);
    federation.confirm(sent.try_into().expect("an id"));
    federation.order_proposals();
    alice.run();
    assert_eq!(alice.operation(paid).finished(), Some(Ok(())));
    assert!(federation.broadcast(TOY).is_empty());
    let lines: i64 = federation.audit(TOY).iter().map(|line| line.msat).sum();
    assert_eq!(
        (i128::from(lines), 29_700_000),
        (federation.books(TOY).1, lines)
    );
}
