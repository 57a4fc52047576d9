//! The wallets' half. Deposits are here: make an address, wait, claim. Withdrawals
//! are in [`crate::withdraw`].
//!
//! An address belongs to a key of the wallet, numbered from 0. Its nonce is found
//! by trying, a few hundred at a time, so that no call takes long. Every deposit to it
//! is claimed by itself, in the order of the chain; what is too small for one is said
//! to be there.

use borsh::{BorshDeserialize, BorshSerialize};
use modmint_sdk::{
    Acceptance, Agreement, Amount, Arguments, Audience, Client, EffectDone, EffectResult, Event,
    Json, PeerAnswer, Plan, PlannedInput, Refusal, Rejection, Signer, Transition, federation,
    object, parameters,
    storage::{Cell, Table},
    wallet,
};

use crate::{
    Deposit, DepositTweak, Deposits, PegInProof, Small, Wallet, WalletConfig, address,
    display_txid,
    server::{DepositQuery, too_small},
    withdraw::{self, WithdrawAction, Withdrawal},
};

/// An address of this wallet.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
struct Address {
    nonce: u32,
    script: Vec<u8>,
    /// How many deposits to it have been dealt with: never more than were claimed.
    done: u64,
    /// Of how many outputs below the minimum the person has been told.
    small: u64,
}

/// As storage of version 1 has it: `done` counted outputs below the minimum too.
#[derive(BorshSerialize, BorshDeserialize)]
struct AddressOf1 {
    nonce: u32,
    script: Vec<u8>,
    done: u64,
}

/// The number of the next address.
const NEXT: Cell<u64> = Cell::new(b'n');
const ADDRESSES: Table<u64, Address> = Table::new(b'a');
const ADDRESSES_OF_1: Table<u64, AddressOf1> = Table::new(b'a');

/// How many addresses one call of a migration takes.
const MIGRATED_AT_ONCE: u32 = 100;

/// How many nonces one call tries.
const TRIES: u32 = 256;
/// How often a claim is tried again that was refused for somebody else's item.
pub const ATTEMPTS: u32 = 5;
/// When guardians are asked again that could not be.
pub const LATER_SECONDS: u64 = 30;

parameters! {
    /// Shows an address to pay bitcoin to, waits for them and turns them into e-cash.
    pub struct DepositAction {}
}
parameters! {
    /// Looks for deposits to addresses of this wallet that were used before.
    pub struct RecheckAction {}
}

/// The actions by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// `deposit`
    Deposit,
    /// `recheck`
    Recheck,
    /// `withdraw`
    Withdraw,
}

/// A machine.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum State {
    /// Tries nonces for the address of this number, from this one on.
    Search {
        /// The address' number.
        number: u64,
        /// The next nonce to try.
        nonce: u32,
    },
    /// Watches addresses for the next deposit and claims it.
    Watch {
        /// The address' number.
        number: u64,
        /// Claimed so far in this operation, millisatoshi.
        claimed: u64,
        /// Whether the addresses after it are looked at too, and none waited for.
        all: bool,
        /// What is being claimed.
        claim: Option<Claim>,
        /// Effects' ids, never used twice.
        effect: u32,
    },
    /// Pays bitcoin.
    Withdraw(Withdrawal),
}

/// A deposit on its way.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Claim {
    /// What is claimed.
    pub deposit: Deposit,
    /// How often it has been tried.
    pub attempts: u32,
}

/// The wallet's key of an address.
fn path(number: u64) -> Vec<u64> {
    vec![0, number]
}

fn tweak(number: u64, nonce: u32) -> DepositTweak {
    DepositTweak {
        claim_key: wallet::derive_public_key(&path(number)),
        nonce,
    }
}

fn text(used: &Address) -> String {
    address::text(&federation::network(), &used.script)
        .expect("an address is kept with its P2WSH script")
}

impl Client for Wallet {
    type State = State;

    fn actions() -> Vec<modmint_sdk::Action> {
        vec![
            DepositAction::action("deposit", Audience::Person),
            RecheckAction::action("recheck", Audience::Person),
            WithdrawAction::action("withdraw", Audience::Person),
        ]
    }

    fn start(action: &str, arguments: Arguments) -> Result<Transition<State>, Refusal> {
        match action {
            "deposit" => {
                let number = NEXT.get().unwrap_or_default();
                NEXT.put(&(number + 1));
                Ok(search(number, 0))
            }
            "recheck" => Ok(look(0, 0, true, 1)),
            "withdraw" => withdraw::start(WithdrawAction::read(arguments)?),
            _ => Err(Refusal::new(
                "no-such-action",
                format!("the wallet module has no action {action:?}: deposit, recheck, withdraw"),
            )),
        }
    }

    fn advance(state: State, event: Event) -> Result<Transition<State>, Refusal> {
        match (state, event) {
            (State::Withdraw(withdrawal), event) => withdraw::advance(withdrawal, event),
            (State::Watch { claim: Some(_), .. }, Event::Cancel) => Err(Refusal::new(
                "being-claimed",
                "a deposit is being claimed; its e-cash arrives in a moment",
            )),
            (state, Event::Cancel) => Ok(Transition::failed(
                state,
                Refusal::new(
                    "cancelled",
                    "nobody waits for this deposit any more; `recheck` finds it if it comes",
                ),
            )),
            (State::Search { number, nonce }, Event::Done(_)) => Ok(search(number, nonce)),
            (
                State::Watch {
                    number,
                    claimed,
                    all,
                    claim: None,
                    effect,
                },
                Event::Done(EffectDone {
                    outcome: EffectResult::Answers(answers),
                    ..
                }),
            ) => Ok(found(number, claimed, all, effect, &answers)),
            (
                State::Watch {
                    number,
                    claimed,
                    all,
                    claim: Some(claim),
                    effect,
                },
                Event::Done(EffectDone { outcome, .. }),
            ) => Ok(decided(number, claimed, all, claim, effect, outcome)),
            (
                State::Watch {
                    number,
                    claimed,
                    all,
                    effect,
                    ..
                },
                Event::Done(EffectDone { outcome, .. }),
            ) => Ok(match outcome {
                EffectResult::TimeReached => look(number, claimed, all, effect + 1),
                _ => later(number, claimed, all, effect),
            }),
        }
    }

    /// From version 1, deposits are counted anew: those claimed already are refused by
    /// guardians and passed over. A machine that asks in the older way is refused, and
    /// asks again in this one.
    fn migrate(from: u32, cursor: Option<Vec<u8>>) -> Result<Option<Vec<u8>>, Refusal> {
        let after = cursor
            .map(|bytes| borsh::from_slice::<u64>(&bytes))
            .transpose();
        let (1, Ok(after)) = (from, after) else {
            return Err(Refusal::new(
                "no-migration",
                format!("this bundle reads storage of versions 1 and 2, not of {from}"),
            ));
        };
        let addresses = ADDRESSES_OF_1.page(after.as_ref(), MIGRATED_AT_ONCE);
        let last = addresses.last().map(|(number, _)| *number);
        for (number, AddressOf1 { nonce, script, .. }) in addresses {
            let address = Address {
                nonce,
                script,
                done: 0,
                small: 0,
            };
            ADDRESSES.put(&number, &address);
        }
        Ok(last.map(|last| borsh::to_vec(&last).expect("writing to memory does not fail")))
    }
}

/// Tries some nonces; with the right one the address is there.
fn search(number: u64, from: u32) -> Transition<State> {
    let last = from.saturating_add(TRIES);
    for nonce in from..last {
        let Some(script) = tweak(number, nonce).script() else {
            continue;
        };
        if federation::script_passes_filter(&script) {
            let address = Address {
                nonce,
                script,
                done: 0,
                small: 0,
            };
            ADDRESSES.put(&number, &address);
            let minimum = Amount(federation::config::<WalletConfig>().minimum_deposit);
            return look(number, 0, false, 1).progress(
                "waiting",
                format!("pay at least {minimum} to {}", text(&address)),
                object! {
                    "address" => text(&address),
                    "minimum_msat" => minimum,
                    "scan" => format!("bitcoin:{}", text(&address)).to_ascii_uppercase(),
                },
            );
        }
    }
    let state = State::Search {
        number,
        nonce: last,
    };
    // Nothing to wait for: the next tries are another call. An effect that is
    // named again goes on, so each has an id of its own.
    Transition::to(state).until(last, 0)
}

/// Asks for the next deposit to an address; where `all` are looked at, for the next
/// address that there is.
fn look(number: u64, claimed: u64, all: bool, effect: u32) -> Transition<State> {
    let state = State::Watch {
        number,
        claimed,
        all,
        claim: None,
        effect,
    };
    let Some(address) = ADDRESSES.get(&number) else {
        if all && number < NEXT.get().unwrap_or_default() {
            return look(number + 1, claimed, all, effect);
        }
        return Transition::done(state).progress(
            "rechecked",
            format!("{} found at addresses used before", Amount(claimed)),
            object! { "amount_msat" => Amount(claimed) },
        );
    };
    let query = DepositQuery {
        script: address.script,
        number: address.done,
        small: address.small,
        wait: !all,
    };
    Transition::to(state).query(effect, "deposit", query.arguments(), Agreement::Same)
}

/// Guardians have answered whether there is such a deposit.
fn found(
    number: u64,
    claimed: u64,
    all: bool,
    effect: u32,
    answers: &[PeerAnswer],
) -> Transition<State> {
    let answer = answers.first().and_then(|a| a.answer.as_deref().ok());
    let answer = answer.and_then(|bytes| borsh::from_slice::<Deposits>(bytes).ok());
    let address = ADDRESSES.get(&number);
    let (Some(Deposits { deposit, small }), Some(address)) = (answer, address) else {
        return later(number, claimed, all, effect);
    };
    if small.number > address.small {
        return tell(number, claimed, all, effect, address, small);
    }
    match deposit {
        Some(deposit) => {
            let claim = Claim {
                deposit,
                attempts: 0,
            };
            submit(number, claimed, all, claim, effect + 1)
        }
        None if all => look(number + 1, claimed, all, effect + 1),
        None => later(number, claimed, all, effect),
    }
}

/// Guardians cannot be asked, or say what makes no sense: asks again in a while.
fn later(number: u64, claimed: u64, all: bool, effect: u32) -> Transition<State> {
    let state = State::Watch {
        number,
        claimed,
        all,
        claim: None,
        effect: effect + 1,
    };
    Transition::to(state).until(
        effect + 1,
        wallet::unix_time().saturating_add(LATER_SECONDS),
    )
}

/// What nobody would take is said to be there, once, and a deposit awaited.
fn tell(
    number: u64,
    claimed: u64,
    all: bool,
    effect: u32,
    mut address: Address,
    small: Small,
) -> Transition<State> {
    address.small = small.number;
    ADDRESSES.put(&number, &address);
    let minimum = federation::config::<WalletConfig>().minimum_deposit;
    let message = match small.number {
        1 => too_small(small.satoshi, minimum).message,
        outputs => format!(
            "{outputs} payments of {} sat together were made to this address, each too small to \
             be taken; the least that is taken is {}",
            small.satoshi,
            Amount(minimum)
        ),
    };
    let details = object! {
        "address" => text(&address),
        "number" => small.number,
        "satoshi" => small.satoshi,
        "minimum_msat" => Amount(minimum),
    };
    look(number, claimed, all, effect + 1).progress("too-small", message, details)
}

/// The next deposit to this address is the next to be looked for.
fn settle(number: u64) {
    if let Some(mut address) = ADDRESSES.get(&number) {
        address.done += 1;
        ADDRESSES.put(&number, &address);
    }
}

fn submit(number: u64, claimed: u64, all: bool, claim: Claim, effect: u32) -> Transition<State> {
    let nonce = ADDRESSES.get(&number).map_or(0, |address| address.nonce);
    let value = claim.deposit.satoshi.saturating_mul(1000);
    let fee = federation::config::<WalletConfig>().deposit_fee;
    let proof = PegInProof {
        txid: claim.deposit.txid,
        vout: claim.deposit.vout,
        tweak: tweak(number, nonce),
    };
    let input = PlannedInput {
        input: borsh::to_vec(&proof).expect("writing to memory does not fail"),
        value,
        fee,
        signer: Signer::Path(path(number)),
    };
    let details = details(number, &claim.deposit);
    let state = State::Watch {
        number,
        claimed,
        all,
        claim: Some(claim),
        effect,
    };
    let plan = Plan {
        inputs: vec![input],
        outputs: Vec::new(),
        confirm: None,
    };
    Transition::to(state).submit(effect, plan).progress(
        "claiming",
        format!("a deposit of {} is being claimed", Amount(value)),
        details,
    )
}

fn shown_address(number: u64) -> Option<String> {
    ADDRESSES.get(&number).map(|address| text(&address))
}

fn details(number: u64, deposit: &Deposit) -> Json {
    object! {
        "address" => shown_address(number),
        "amount_msat" => Amount(credited(deposit)),
        "fee_msat" => Amount(federation::config::<WalletConfig>().deposit_fee),
        "txid" => display_txid(&deposit.txid),
        "vout" => deposit.vout,
    }
}

/// What a deposit brings, its fee taken off, millisatoshi.
fn credited(deposit: &Deposit) -> u64 {
    let fee = federation::config::<WalletConfig>().deposit_fee;
    deposit.satoshi.saturating_mul(1000).saturating_sub(fee)
}

/// A claim has been decided.
fn decided(
    number: u64,
    claimed: u64,
    all: bool,
    claim: Claim,
    effect: u32,
    outcome: EffectResult,
) -> Transition<State> {
    let stays = |claim: Claim| State::Watch {
        number,
        claimed,
        all,
        claim: Some(claim),
        effect,
    };
    match outcome {
        EffectResult::Accepted(Acceptance { .. }) => {
            settle(number);
            let value = credited(&claim.deposit);
            let shown = details(number, &claim.deposit);
            if all {
                return look(number, claimed.saturating_add(value), all, effect + 1);
            }
            Transition::done(stays(claim)).progress(
                "claimed",
                format!("{} deposited", Amount(value)),
                shown,
            )
        }
        // Another operation of this wallet, or another device, was first.
        EffectResult::Rejected(Rejection { refusal, .. }) if refusal.code == "already-claimed" => {
            settle(number);
            look(number, claimed, all, effect + 1)
        }
        EffectResult::Rejected(rejection)
            if rejection.is_elsewhere() && claim.attempts < ATTEMPTS =>
        {
            let again = Claim {
                attempts: claim.attempts + 1,
                ..claim
            };
            submit(number, claimed, all, again, effect + 1)
        }
        EffectResult::Rejected(Rejection { refusal, .. }) | EffectResult::Failed(refusal) => {
            Transition::failed(stays(claim), refusal)
        }
        _ => Transition::failed(
            stays(claim),
            Refusal::new(
                "unexpected-answer",
                "the claim was neither accepted nor rejected; `recheck` tries again",
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use modmint_sdk::{
        Value, Want,
        mock::{self, Bundle, Federation, Phase},
    };

    use super::*;

    #[test]
    fn an_older_wallet_counts_its_deposits_anew_and_asks_again_what_it_asked() {
        let federation = Federation::new(1);
        let instance = federation.found(Bundle::federation_module::<Wallet>(), Vec::new());
        let wallet = mock::Wallet::new(&federation, "alice");
        wallet.call(instance, Phase::Wallet, || {
            for number in 0..250u8 {
                let address = AddressOf1 {
                    nonce: number.into(),
                    script: vec![number; 34],
                    done: 7,
                };
                ADDRESSES_OF_1.put(&number.into(), &address);
            }
            let mut cursor = <Wallet as Client>::migrate(1, None).expect("it can");
            while cursor.is_some() {
                cursor = <Wallet as Client>::migrate(1, cursor).expect("it can");
            }
            let addresses: Vec<_> = ADDRESSES.iter().collect();
            assert_eq!(addresses.len(), 250);
            for (number, address) in addresses {
                let expected = Address {
                    nonce: number as u32,
                    script: vec![number as u8; 34],
                    done: 0,
                    small: 0,
                };
                assert_eq!(address, expected);
            }
            <Wallet as Client>::migrate(3, None).expect_err("not known");

            // It waits for the eighth output, dust included, and asks in the older way.
            let older = vec![
                modmint_sdk::Argument {
                    name: "script".into(),
                    value: Value::Bytes(vec![3; 34]),
                },
                modmint_sdk::Argument {
                    name: "index".into(),
                    value: Value::Number(7),
                },
            ];
            let refusal = DepositQuery::read(older).expect_err("there is no such question");
            let state = State::Watch {
                number: 3,
                claimed: 0,
                all: false,
                claim: None,
                effect: 1,
            };
            let done = |effect, outcome| Event::Done(EffectDone { effect, outcome });
            let answers = vec![PeerAnswer {
                peer: 0,
                answer: Err(refusal),
            }];
            let waits = Wallet::advance(state, done(1, EffectResult::Answers(answers)));
            let waits = waits.expect("it goes on");
            assert_eq!(waits.finished, None);
            let asks = Wallet::advance(waits.state, done(2, EffectResult::TimeReached));
            let Want::Query(query) = &asks.expect("it goes on").effects[0].want else {
                panic!("it asks");
            };
            let asked = DepositQuery::read(query.arguments.clone()).expect("its own");
            assert_eq!((asked.number, asked.small, asked.wait), (0, 0, true));
        });
    }
}
