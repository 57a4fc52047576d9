//! The contracts as a machine, against a model of it that fits on a page: after any
//! sequence of inputs, outputs, blocks and time guardians have taken and refused what the
//! model says, and the sum of what everyone holds has changed by fees alone.

use std::collections::BTreeMap;

use modmint_ln::*;
use modmint_sdk::{InputEffect, OutPoint, OutputEffect, Refusal, Server, mock::Phase};
use proptest::prelude::*;

use crate::{
    rules::{Signer, buys, decryption_key, id_of, take},
    world::*,
};

/// Somebody sends something, or time passes. Numbers name people, hashes, and what was
/// made before, modulo how many there are.
#[derive(Clone, Copy, Debug)]
enum Act {
    Fund {
        user: usize,
        gateway: usize,
        hash: u8,
        satoshi: u64,
        blocks: u32,
    },
    Claim(usize, u8),
    RefundTimeout(usize),
    Cancel(usize, usize),
    RefundCancelled(usize),
    Offer {
        user: usize,
        to: Option<usize>,
        hash: u8,
        satoshi: u64,
        junk: bool,
    },
    Publish(usize),
    Buy(usize, usize),
    ClaimIncoming(usize, u8),
    RefundJunk(usize, usize),
    Blocks(u32),
    Time(u64),
}

const PEOPLE: usize = 2;

fn act() -> impl Strategy<Value = Act> {
    let who = || 0..PEOPLE;
    let hash = || 1u8..4;
    // Small numbers, so that most acts concern something that is there.
    let which = || 0usize..6;
    prop_oneof![
        4 => (who(), who(), hash(), 0u64..5, 0u32..6).prop_map(
            |(user, gateway, hash, satoshi, blocks)| Act::Fund { user, gateway, hash, satoshi, blocks }
        ),
        4 => (which(), hash()).prop_map(|(which, hash)| Act::Claim(which, hash)),
        4 => which().prop_map(Act::RefundTimeout),
        3 => (which(), who()).prop_map(|(which, by)| Act::Cancel(which, by)),
        3 => which().prop_map(Act::RefundCancelled),
        4 => (who(), proptest::option::of(who()), hash(), 0u64..5, any::<bool>()).prop_map(
            |(user, to, hash, satoshi, junk)| Act::Offer { user, to, hash, satoshi, junk }
        ),
        2 => which().prop_map(Act::Publish),
        4 => (which(), who()).prop_map(|(which, by)| Act::Buy(which, by)),
        3 => (which(), hash()).prop_map(|(which, hash)| Act::ClaimIncoming(which, hash)),
        3 => (which(), which()).prop_map(|(which, key)| Act::RefundJunk(which, key)),
        4 => (1u32..4).prop_map(Act::Blocks),
        1 => (1u64..2_500).prop_map(Act::Time),
    ]
}

/// An outgoing contract as the model knows it.
struct Out {
    id: ContractId,
    hash: u8,
    amount: u64,
    user: PublicKey,
    gateway: usize,
    timelock: u32,
    cancelled: bool,
    open: bool,
}

/// An offer, and the contract that bought it.
struct In {
    offer: Offer,
    id: OfferId,
    hash: u8,
    junk: bool,
    published: bool,
    bought_by: Option<PublicKey>,
    key: Option<[u8; 48]>,
    open: bool,
}

struct Machine {
    world: World,
    users: Vec<Signer>,
    gateways: Vec<Signer>,
    out: Vec<Out>,
    incoming: Vec<In>,
    /// Millisatoshi; everybody begins with nothing.
    balances: BTreeMap<Vec<u8>, i128>,
    fees: i128,
    outputs: u32,
}

type Taken = Result<InputEffect, Refusal>;

impl Machine {
    fn new() -> Self {
        let world = World::new(1);
        let people = |kind: &str| {
            let of = |number| Signer::new(&world, &format!("{kind}{number}"));
            (0..PEOPLE).map(of).collect()
        };
        Self {
            users: people("user"),
            gateways: people("gateway"),
            world,
            out: Vec::new(),
            incoming: Vec::new(),
            balances: BTreeMap::new(),
            fees: 0,
            outputs: 0,
        }
    }

    /// Somebody pays for an output what guardians say that it takes.
    fn give(
        &mut self,
        who: PublicKey,
        output: ContractOrOfferOutput,
        place: OutPoint,
    ) -> Result<OutputEffect, Refusal> {
        let done = self
            .world
            .federation
            .consensus(LN, || Ln::process_output(output, place));
        if let Ok(OutputEffect { value, fee }) = &done {
            let balance = self.balances.entry(who.to_vec()).or_default();
            *balance -= i128::from(value + fee);
            self.fees += i128::from(*fee);
        }
        done
    }

    fn place(&mut self) -> OutPoint {
        self.outputs += 1;
        OutPoint {
            txid: vec![7; 32],
            index: self.outputs as u16,
        }
    }

    fn take(&mut self, input: ContractInput) -> Taken {
        let taken = take(&self.world, input);
        if let Ok(InputEffect {
            value,
            fee,
            spend_key,
        }) = &taken
        {
            let balance = self.balances.entry(spend_key.clone()).or_default();
            *balance += i128::from(*value) - i128::from(*fee);
            self.fees += i128::from(*fee);
        }
        taken
    }

    /// Does it, and compares with what the model says.
    fn act(&mut self, act: Act) {
        let before = self.world.federation.store(LN);
        let refused = match act {
            Act::Fund { .. } => self.fund(act),
            Act::Claim(which, hash) => self.claim(which, hash),
            Act::RefundTimeout(which) => self.refund_timeout(which),
            Act::Cancel(which, by) => self.cancel(which, by),
            Act::RefundCancelled(which) => self.refund_cancelled(which),
            Act::Offer { .. } => self.offer(act),
            Act::Publish(which) => self.publish(which),
            Act::Buy(which, by) => self.buy(which, by),
            Act::ClaimIncoming(which, hash) => self.claim_incoming(which, hash),
            Act::RefundJunk(which, key) => self.refund_junk(which, key),
            Act::Blocks(blocks) => {
                self.world.federation.mine_blocks(blocks);
                false
            }
            Act::Time(seconds) => {
                self.world.federation.pass(seconds);
                false
            }
        };
        if refused {
            assert_eq!(self.world.federation.store(LN), before, "{act:?}");
        }
        self.check();
    }

    /// The sum of what everyone holds has changed by fees alone.
    fn check(&self) {
        let held = self.world.held();
        let open = self.out.iter().filter(|out| out.open).map(|out| out.amount);
        let bought = self.incoming.iter().filter(|one| one.open);
        let open: u64 = open.chain(bought.map(|one| one.offer.amount)).sum();
        assert_eq!(held, open);
        let everybody: i128 = self.balances.values().sum();
        assert_eq!(everybody + i128::from(held) + self.fees, 0);
    }

    fn fund(&mut self, act: Act) -> bool {
        let Act::Fund {
            user,
            gateway,
            hash,
            satoshi,
            blocks,
        } = act
        else {
            unreachable!("see `act`")
        };
        let height = self.world.federation.height();
        let user = self.users[user].key();
        let contract = OutgoingContract {
            payment_hash: hash_of(hash),
            amount: satoshi * SAT,
            gateway_key: self.gateways[gateway].key(),
            user_key: user,
            timelock: height + blocks,
            nonce: [0; 16],
        };
        let place = self.place();
        let output = ContractOrOfferOutput::Contract(Contract::Outgoing(contract));
        let id = self
            .world
            .federation
            .call(LN, Phase::Query, Some(0), || contract_id(&place));
        let done = self.give(user, output, place);
        let expected = match (blocks, satoshi) {
            (0, _) => Err("bad-timelock"),
            (_, 0) => Err("too-little"),
            _ => Ok((satoshi * SAT, CONTRACT_FEE)),
        };
        let refused = done.is_err();
        assert_eq!(
            codes(done.map(|effect| (effect.value, effect.fee))),
            expected.map_err(str::to_owned)
        );
        if !refused {
            self.out.push(Out {
                id,
                hash,
                amount: satoshi * SAT,
                user,
                gateway,
                timelock: height + blocks,
                cancelled: false,
                open: true,
            });
        }
        refused
    }

    /// The n-th outgoing contract, whether it is open or over; none if there is none.
    fn nth_out(&self, which: usize) -> Option<usize> {
        (!self.out.is_empty()).then(|| which % self.out.len())
    }

    fn nth_in(&self, which: usize) -> Option<usize> {
        (!self.incoming.is_empty()).then(|| which % self.incoming.len())
    }

    /// Takes an outgoing contract, or is refused, as `expected` says.
    fn take_out(
        &mut self,
        which: usize,
        input: ContractInput,
        expected: Result<PublicKey, &'static str>,
    ) -> bool {
        let expected = match self.out[which].open {
            true => expected,
            false => Err("no-such-contract"),
        };
        let taken = self.take(input);
        let refused = taken.is_err();
        let amount = self.out[which].amount;
        assert_eq!(
            codes(taken.map(|effect| (effect.value, effect.fee, effect.spend_key))),
            expected
                .map(|key| (amount, 0, key.to_vec()))
                .map_err(str::to_owned)
        );
        self.out[which].open &= refused;
        refused
    }

    fn claim(&mut self, which: usize, hash: u8) -> bool {
        let Some(which) = self.nth_out(which) else {
            return false;
        };
        let Out {
            id,
            hash: wanted,
            gateway,
            cancelled,
            ..
        } = self.out[which];
        let input = ContractInput::Claim {
            contract: id,
            preimage: preimage_of(hash),
        };
        // Until somebody has it, at and behind the timelock's block too.
        let expected = match (cancelled, hash == wanted) {
            (true, _) => Err("contract-cancelled"),
            (_, false) => Err("wrong-preimage"),
            _ => Ok(self.gateways[gateway].key()),
        };
        self.take_out(which, input, expected)
    }

    fn refund_timeout(&mut self, which: usize) -> bool {
        let Some(which) = self.nth_out(which) else {
            return false;
        };
        let Out {
            id, user, timelock, ..
        } = self.out[which];
        let expected = match self.world.federation.height() >= timelock {
            true => Ok(user),
            false => Err("too-early"),
        };
        let input = ContractInput::RefundTimeout { contract: id };
        self.take_out(which, input, expected)
    }

    fn refund_cancelled(&mut self, which: usize) -> bool {
        let Some(which) = self.nth_out(which) else {
            return false;
        };
        let Out {
            id,
            user,
            cancelled,
            ..
        } = self.out[which];
        let expected = cancelled.then_some(user).ok_or("not-cancelled");
        let input = ContractInput::RefundCancelled { contract: id };
        self.take_out(which, input, expected)
    }

    fn cancel(&mut self, which: usize, by: usize) -> bool {
        let Some(which) = self.nth_out(which) else {
            return false;
        };
        let Out {
            id,
            gateway,
            cancelled,
            open,
            ..
        } = self.out[which];
        let output = self.gateways[by].cancels(id);
        let (who, place) = (self.gateways[by].key(), self.place());
        let expected = match (open, cancelled, by == gateway) {
            (false, ..) => Err("no-such-contract"),
            (_, true, _) => Err("contract-cancelled"),
            (_, _, false) => Err("bad-signature"),
            _ => Ok((0, 0)),
        };
        let done = self.give(who, output, place);
        let refused = done.is_err();
        assert_eq!(
            codes(done.map(|effect| (effect.value, effect.fee))),
            expected.map_err(str::to_owned)
        );
        self.out[which].cancelled |= !refused;
        refused
    }

    /// Guardians first see it when it is published or bought.
    fn offer(&mut self, act: Act) -> bool {
        let Act::Offer {
            user,
            to,
            hash,
            satoshi,
            junk,
        } = act
        else {
            unreachable!("see `act`")
        };
        let number = self.incoming.len() as u8;
        let mut offer = Offer {
            payment_hash: hash_of(hash),
            amount: satoshi * SAT,
            claim_key: self.users[user].key(),
            gateway_key: to.map(|to| self.gateways[to].key()),
            expiry: self.world.federation.time() + 3600,
            nonce: [number; 16],
            ciphertext: [0; CIPHERTEXT],
        };
        let inside = if junk { 200 } else { hash };
        self.users[user].encrypt(&mut offer, &preimage_of(inside));
        let id = id_of(&self.world, &offer);
        self.incoming.push(In {
            offer,
            id,
            hash,
            junk,
            published: false,
            bought_by: None,
            key: None,
            open: false,
        });
        false
    }

    /// Why nobody may publish or buy it any more.
    fn over(&self, which: usize) -> Option<&'static str> {
        let one = &self.incoming[which];
        if one.offer.expiry <= self.world.federation.time() {
            return Some("offer-expired");
        }
        one.bought_by.is_some().then_some("offer-bought")
    }

    fn publish(&mut self, which: usize) -> bool {
        let Some(which) = self.nth_in(which) else {
            return false;
        };
        let One { over, offer } = self.one(which);
        let expected = match (over, self.incoming[which].published, offer.amount) {
            (Some(over), ..) => Err(over),
            (_, true, _) => Err("offer-known"),
            (_, _, 0) => Err("too-little"),
            _ => Ok(0),
        };
        let place = self.place();
        let who = offer.claim_key;
        let done = self.give(who, ContractOrOfferOutput::Offer(offer), place);
        let refused = done.is_err();
        assert_eq!(
            codes(done.map(|effect| effect.value)),
            expected.map_err(str::to_owned)
        );
        self.incoming[which].published |= !refused;
        refused
    }

    fn one(&self, which: usize) -> One {
        One {
            over: self.over(which),
            offer: self.incoming[which].offer.clone(),
        }
    }

    fn buy(&mut self, which: usize, by: usize) -> bool {
        let Some(which) = self.nth_in(which) else {
            return false;
        };
        let One { over, offer } = self.one(which);
        let buyer = self.gateways[by].key();
        let stranger = offer.gateway_key.is_some_and(|named| named != buyer);
        let expected = match (over, stranger, offer.amount) {
            (Some(over), ..) => Err(over),
            (_, true, _) => Err("wrong-gateway"),
            (_, _, 0) => Err("too-little"),
            (.., amount) => Ok((amount, CONTRACT_FEE)),
        };
        let place = self.place();
        let done = self.give(buyer, buys(&offer, buyer), place);
        let refused = done.is_err();
        assert_eq!(
            codes(done.map(|effect| (effect.value, effect.fee))),
            expected.map_err(str::to_owned)
        );
        if !refused {
            let key = decryption_key(&self.world, &self.gateways[by], &offer);
            let one = &mut self.incoming[which];
            (one.bought_by, one.key, one.open) = (Some(buyer), Some(key), true);
        }
        refused
    }

    fn take_in(
        &mut self,
        which: usize,
        input: ContractInput,
        expected: Result<PublicKey, &'static str>,
    ) -> bool {
        let expected = match self.incoming[which].open {
            true => expected,
            false => Err("no-such-contract"),
        };
        let taken = self.take(input);
        let refused = taken.is_err();
        let amount = self.incoming[which].offer.amount;
        assert_eq!(
            codes(taken.map(|effect| (effect.value, effect.fee, effect.spend_key))),
            expected
                .map(|key| (amount, 0, key.to_vec()))
                .map_err(str::to_owned)
        );
        self.incoming[which].open &= refused;
        refused
    }

    fn claim_incoming(&mut self, which: usize, hash: u8) -> bool {
        let Some(which) = self.nth_in(which) else {
            return false;
        };
        let one = &self.incoming[which];
        // Junk too: whoever has the preimage after all has sold it.
        let expected = (hash == one.hash)
            .then_some(one.offer.claim_key)
            .ok_or("wrong-preimage");
        let input = ContractInput::ClaimIncoming {
            offer: one.id,
            preimage: preimage_of(hash),
        };
        self.take_in(which, input, expected)
    }

    fn refund_junk(&mut self, which: usize, key_of: usize) -> bool {
        let (Some(which), Some(key_of)) = (self.nth_in(which), self.nth_in(key_of)) else {
            return false;
        };
        let one = &self.incoming[which];
        let key = self.incoming[key_of].key;
        let own = key.is_some() && key == one.key;
        let expected = match (own, one.junk, one.bought_by) {
            (false, ..) => Err("bad-decryption-key"),
            (_, false, _) => Err("not-junk"),
            (.., buyer) => buyer.ok_or("no-such-contract"),
        };
        let input = ContractInput::RefundJunk {
            offer: one.id,
            decryption_key: key.unwrap_or([0; 48]),
        };
        self.take_in(which, input, expected)
    }

    /// Whoever is owed something takes it.
    fn end(&mut self) {
        self.world.federation.mine_blocks(10);
        for which in 0..self.out.len() {
            self.refund_timeout(which);
        }
        for which in 0..self.incoming.len() {
            match self.incoming[which].junk {
                true => self.refund_junk(which, which),
                false => self.claim_incoming(which, self.incoming[which].hash),
            };
        }
        self.check();
        assert_eq!(self.world.held(), 0);
        // What is over leaves nothing behind that could be taken once more.
        for which in 0..self.out.len() {
            assert!(self.refund_timeout(which) && self.claim(which, self.out[which].hash));
        }
    }
}

/// An offer, and why it is over.
struct One {
    over: Option<&'static str>,
    offer: Offer,
}

/// A refusal by its code, which never changes.
fn codes<T>(done: Result<T, Refusal>) -> Result<T, String> {
    done.map_err(|refusal| refusal.code)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn the_sum_of_what_everyone_holds_changes_by_fees_alone(
        acts in proptest::collection::vec(act(), 1..60),
    ) {
        let mut machine = Machine::new();
        for act in acts {
            machine.act(act);
        }
        machine.end();
    }
}
