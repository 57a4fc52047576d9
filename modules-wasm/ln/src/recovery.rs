//! Finding a wallet's contracts again with nothing but its seed: all open contracts are
//! looked through, and one is this wallet's if the nonce in it derives the key in it.
//!
//! Found are contracts that hold money: what was paid to this wallet and not taken, and
//! what it locked and may have back. Not found are offers that nobody has bought yet
//! (one that is bought later is found by looking again), preimages of payments made, and
//! a gateway's own contracts with their payments.

use borsh::{BorshDeserialize, BorshSerialize};
use modmint_sdk::{
    Agreement, Amount, EffectResult, Transition, crypto, federation, object, wallet,
};

use crate::{
    Contract, ContractInput, OpenContract,
    client::{LATER_SECONDS, Purpose, State, Step, answer, path, take},
    receive::preimage,
    server::ContractsQuery,
};

/// When it is looked again for what cannot be taken yet.
const AGAIN_SECONDS: u64 = 3600;

/// A search.
#[derive(Clone, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Recovery {
    /// Whether it is at incoming contracts; outgoing ones come first.
    incoming: bool,
    /// The last contract looked at.
    after: Option<[u8; 32]>,
    /// What is ours and can be taken now: the input, its amount, the path of its key.
    found: Vec<(ContractInput, u64, Vec<u64>)>,
    /// What is ours and cannot, millisatoshi.
    locked: u64,
    /// What has been taken.
    restored: u64,
    /// Whether a transaction is on its way.
    taking: bool,
    /// The last effect.
    effect: u32,
}

/// Begins one.
pub fn start() -> Step {
    search(Recovery::default())
}

fn step(recovery: Recovery) -> Step {
    Transition::to(State::Recovery(recovery))
}

/// Asks for the next contracts.
fn search(mut recovery: Recovery) -> Step {
    recovery.effect += 1;
    recovery.taking = false;
    let query = ContractsQuery {
        incoming: recovery.incoming,
        after: recovery.after.map(Vec::from),
    };
    let effect = recovery.effect;
    step(recovery).query(effect, "contracts", query.arguments(), Agreement::Same)
}

fn rest(mut recovery: Recovery, seconds: u64) -> Step {
    recovery.effect += 1;
    let effect = recovery.effect;
    let time = wallet::unix_time().saturating_add(seconds);
    step(recovery).until(effect, time)
}

/// Goes on with one.
pub fn advance(mut recovery: Recovery, _effect: u32, outcome: EffectResult) -> Step {
    if recovery.taking {
        return taken(recovery, &outcome);
    }
    if outcome == EffectResult::TimeReached {
        return search(recovery);
    }
    let page: Vec<OpenContract> = match answer(outcome) {
        Ok(page) => page,
        Err(_) => return rest(recovery, LATER_SECONDS),
    };
    let Some(last) = page.last() else {
        if !recovery.incoming {
            recovery.incoming = true;
            recovery.after = None;
            return search(recovery);
        }
        return take_found(recovery);
    };
    recovery.after = Some(last.id);
    page.into_iter()
        .for_each(|open| look_at(&mut recovery, open));
    search(recovery)
}

fn look_at(recovery: &mut Recovery, open: OpenContract) {
    let OpenContract {
        id,
        contract,
        cancelled,
    } = open;
    match contract {
        Contract::Outgoing(contract) => {
            let key = path(Purpose::Refund, &contract.nonce);
            if wallet::derive_public_key(&key) != contract.user_key {
                return;
            }
            let input = if cancelled {
                ContractInput::RefundCancelled { contract: id }
            } else if federation::block_height() >= contract.timelock {
                ContractInput::RefundTimeout { contract: id }
            } else {
                recovery.locked = recovery.locked.saturating_add(contract.amount);
                return;
            };
            recovery.found.push((input, contract.amount, key));
        }
        Contract::Incoming(contract) => {
            let offer = contract.offer;
            let key = path(Purpose::Claim, &offer.nonce);
            let preimage = preimage(&offer.nonce);
            // Somebody may have copied key and nonce into an offer of his own.
            if wallet::derive_public_key(&key) != offer.claim_key
                || crypto::sha256(&preimage) != offer.payment_hash
            {
                return;
            }
            let input = ContractInput::ClaimIncoming {
                offer: id,
                preimage,
            };
            recovery.found.push((input, offer.amount, key));
        }
    }
}

/// One by one: no contract stands in another's way.
fn take_found(mut recovery: Recovery) -> Step {
    let Some(one) = recovery.found.last().cloned() else {
        return looked(recovery);
    };
    recovery.taking = true;
    recovery.effect += 1;
    let effect = recovery.effect;
    step(recovery).submit(effect, take(vec![one]))
}

fn taken(mut recovery: Recovery, outcome: &EffectResult) -> Step {
    let amount = recovery.found.pop().map_or(0, |(_, amount, _)| amount);
    match outcome {
        EffectResult::Accepted(_) => recovery.restored = recovery.restored.saturating_add(amount),
        // Another device was quicker, or the federation is not there: looked for again.
        _ => recovery.locked = recovery.locked.saturating_add(amount),
    }
    recovery.taking = false;
    take_found(recovery)
}

/// All contracts have been looked at.
fn looked(mut recovery: Recovery) -> Step {
    let restored = Amount(recovery.restored);
    if recovery.locked == 0 {
        return Transition::done(State::Over).progress(
            "recovered",
            format!("{restored} found in contracts"),
            object! { "amount_msat" => restored },
        );
    }
    let locked = Amount(recovery.locked);
    recovery.locked = 0;
    recovery.incoming = false;
    recovery.after = None;
    rest(recovery, AGAIN_SECONDS).progress(
        "waiting",
        format!("{restored} found in contracts; {locked} are locked in others, for now"),
        object! { "amount_msat" => restored, "locked_msat" => locked },
    )
}
