//! Which gateway: those that have announced themselves are asked for a quote, some at a
//! time, until one of them does it.
//!
//! Those that guardians have vetted are asked before all others, so a cheaper stranger
//! does not come before one of them that does it. Anybody can announce a hundred gateways
//! for little, at whatever price: so strangers are asked in an order that is drawn. Of
//! those that answer in time the cheapest is taken, and of these the one that wants money
//! locked for the shortest time.

use borsh::{BorshDeserialize, BorshSerialize};
use modmint_sdk::{
    Agreement, Amount, EffectResult, Json, PeerAnswer, Refusal, Transition, crypto, federation,
    object, parameters, to_hex, wallet,
};

use crate::{
    Gateway, GatewayFee, KnownGateway, PublicKey,
    api::{self, Routing},
    client::{State, Step, answer},
    server::GatewaysQuery,
};

parameters! {
    /// Shows the gateways that this federation's users can pay and receive through.
    pub struct GatewaysAction {}
}

/// How many are asked for a quote at once.
const MOST_ASKED: usize = 5;
/// How many of all that were asked are still listened to; the host does 64 things at once.
const MOST_HEARD: usize = 50;
/// When those that have not answered are left out, if others have, or the next are asked.
const PATIENCE_SECONDS: u64 = 5;
/// No money is locked for longer than three days, unless the person has named the gateway:
/// then for two weeks. A gateway whose operator has changed nothing wants 336 blocks.
const MOST_BLOCKS: u32 = 432;
const MOST_BLOCKS_OF_NAMED: u32 = 2016;

/// What is wanted of a gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Direction {
    /// That it pays.
    Pay,
    /// That it is paid.
    Receive,
}

/// What a gateway would do it for.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Quoted {
    /// The gateway's.
    pub gateway_key: PublicKey,
    /// Where it is.
    pub api: String,
    /// What it is called.
    pub name: String,
    /// Millisatoshi, all in all.
    pub fee: u64,
    /// How far away a timelock has to be.
    pub blocks: u32,
}

/// What a quote may come to.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Millisatoshi.
    pub fee: u64,
    /// How far away a timelock may be.
    pub blocks: u32,
}

/// How far away a timelock may be if the person has said this of the gateway.
pub fn most_blocks(wanted: Option<&str>) -> u32 {
    match wanted {
        Some(_) => MOST_BLOCKS_OF_NAMED,
        None => MOST_BLOCKS,
    }
}

/// The gateways that are being asked, and those that are next.
///
/// Effects are numbered when it opens: each group has one for its clock and the ones
/// behind it for its gateways.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Market {
    direction: Direction,
    /// The invoice's, millisatoshi.
    amount: u64,
    /// Those that have not answered, by their effects: asked already if that is of the
    /// clock's group or one before.
    asked: Vec<(u32, Gateway)>,
    /// The effect that ends waiting for more of the last group that was asked; none once
    /// all have been asked and it has come.
    clock: Option<(u32, u64)>,
    quotes: Vec<Quoted>,
    /// What spoke against the others.
    against: Vec<String>,
}

/// Asks guardians which there are.
pub fn list(step: Step, effect: u32) -> Step {
    step.query(
        effect,
        "gateways",
        GatewaysQuery {}.arguments(),
        Agreement::Same,
    )
}

impl GatewayFee {
    fn announced(gateway: &Gateway, direction: Direction) -> Self {
        match direction {
            Direction::Pay => gateway.pay_fee,
            Direction::Receive => gateway.receive_fee,
        }
    }
}

impl Market {
    /// Asks the first group of them, see the module. `wanted` is the one to ask by its key,
    /// alias or address; an address need not be announced. The effects are numbered from
    /// `first` on.
    ///
    /// # Errors
    /// `no-gateway`.
    pub fn open(
        known: Vec<KnownGateway>,
        wanted: Option<&str>,
        direction: Direction,
        amount: u64,
        first: u32,
    ) -> Result<Self, Refusal> {
        let mut left = known;
        if let Some(wanted) = wanted {
            let wanted = wanted.trim().trim_end_matches('/');
            left.retain(|KnownGateway { gateway, .. }| {
                [&gateway.alias, &gateway.api, &to_hex(&gateway.gateway_key)]
                    .iter()
                    .any(|name| *name == wanted)
            });
            if left.is_empty() && wanted.starts_with("http") {
                left.push(unannounced(wanted));
            }
        }
        if left.is_empty() {
            let message = match wanted {
                Some(wanted) => format!(
                    "no gateway is called {wanted:?}; `gateways` shows those there are, and the \
                     address of another one may be given"
                ),
                None => "no gateway serves this federation that has not tried this in vain; the \
                         address of one may be given"
                    .into(),
            };
            return Err(Refusal::new("no-gateway", message));
        }
        let (mut vetted, others): (Vec<_>, Vec<_>) =
            left.into_iter().partition(|known| known.vetted);
        vetted.sort_by_key(|known| {
            let fee = GatewayFee::announced(&known.gateway, direction).of(amount);
            fee.unwrap_or(u64::MAX)
        });
        let drawn = in_drawn_order(others);
        let groups = vetted.chunks(MOST_ASKED).chain(drawn.chunks(MOST_ASKED));
        let clocks = (first..).step_by(MOST_ASKED + 1);
        let numbered = clocks.zip(groups).flat_map(|(clock, group)| {
            let gateways = group.iter().map(|known| known.gateway.clone());
            (clock + 1..).zip(gateways)
        });
        Ok(Self {
            direction,
            amount,
            asked: numbered.collect(),
            clock: Some((first, soon())),
            quotes: Vec::new(),
            against: Vec::new(),
        })
    }

    /// The highest number of an effect.
    pub fn last_effect(&self) -> u32 {
        let last = self.asked.last().map(|(effect, _)| *effect);
        last.unwrap_or_default()
    }

    /// Of those that have not answered, how many have been asked: they come first.
    fn asked_already(&self) -> usize {
        match self.clock {
            Some((clock, _)) => {
                let last = clock + MOST_ASKED as u32;
                self.asked.partition_point(|(effect, _)| *effect <= last)
            }
            None => self.asked.len(),
        }
    }

    /// Waits for their answers.
    pub fn wait<S>(&self, mut step: Transition<S>) -> Transition<S> {
        for (effect, gateway) in &self.asked[..self.asked_already()] {
            step = step.want(*effect, api::ask_routing(&gateway.api));
        }
        match self.clock {
            Some((effect, late)) => step.until(effect, late),
            None => step,
        }
    }

    /// Takes an answer in; says whether it is time to choose.
    pub fn hear(&mut self, effect: u32, outcome: EffectResult, limits: Limits) -> bool {
        if let Some(place) = self.asked.iter().position(|(asked, _)| *asked == effect) {
            let (_, gateway) = self.asked.remove(place);
            match self.quote(&gateway, outcome, limits.blocks) {
                Ok(quote) => self.quotes.push(quote),
                Err(refusal) => self.against.push(refusal.message),
            }
        }
        let done = self.quotes.iter().any(|quote| quote.fee <= limits.fee);
        let asked = self.asked_already();
        let Some((clock, _)) = self.clock else {
            return done || self.asked.is_empty();
        };
        let group = self.asked[..asked].iter().any(|(asked, _)| *asked > clock);
        if group && effect != clock {
            return false;
        }
        // All of the group have answered, or have had their time.
        if done {
            return true;
        }
        match self.asked.get(asked) {
            Some((next, _)) => {
                self.clock = Some((next - 1, soon()));
                let late = self.asked_already().saturating_sub(MOST_HEARD);
                let late = self.asked.drain(..late).map(|(_, gateway)| gateway);
                let silent = late.map(|gateway| format!("{} does not answer", name(&gateway)));
                self.against.extend(silent);
                false
            }
            None => {
                if effect == clock {
                    self.clock = None;
                }
                self.asked.is_empty()
            }
        }
    }

    fn quote(
        &self,
        gateway: &Gateway,
        outcome: EffectResult,
        most_blocks: u32,
    ) -> Result<Quoted, Refusal> {
        let name = name(gateway);
        let against = |message: String| Refusal::new("bad-gateway", format!("{name} {message}"));
        let routing: Routing = api::read_response(&name, outcome)?;
        let gateway_key = api::hex::<33>(&routing.gateway_key)
            .filter(|key| *key == gateway.gateway_key || gateway.gateway_key == UNKNOWN)
            .ok_or_else(|| against("answers with another key than it has announced".into()))?;
        let network = federation::network();
        if routing.network != network {
            let theirs = &routing.network;
            return Err(against(format!(
                "is on {theirs}, the federation on {network}"
            )));
        }
        if routing.maximum_invoice_msat < self.amount {
            let most = Amount(routing.maximum_invoice_msat);
            return Err(against(format!("takes {most} at most")));
        }
        if routing.minimum_timelock_blocks > most_blocks {
            return Err(against(format!(
                "wants money locked for {} blocks; {most_blocks} is the most, and \
                 {MOST_BLOCKS_OF_NAMED} for a gateway that is named",
                routing.minimum_timelock_blocks
            )));
        }
        let fee = match self.direction {
            Direction::Pay => GatewayFee {
                base: routing.pay_base_msat,
                parts_per_million: routing.pay_parts_per_million,
            },
            Direction::Receive => GatewayFee {
                base: routing.receive_base_msat,
                parts_per_million: routing.receive_parts_per_million,
            },
        };
        let fee = fee.of(self.amount);
        Ok(Quoted {
            gateway_key,
            api: gateway.api.clone(),
            fee: fee.ok_or_else(|| against("asks for more than there is".into()))?,
            blocks: routing.minimum_timelock_blocks,
            name,
        })
    }

    /// Those that do it for at most `most`, the one to take last.
    ///
    /// # Errors
    /// `no-gateway`: what speaks against each.
    pub fn close(mut self, most: u64) -> Result<Vec<Quoted>, Refusal> {
        for quote in &self.quotes {
            if quote.fee > most {
                self.against.push(format!(
                    "{} asks {}, more than {}",
                    quote.name,
                    Amount(quote.fee),
                    Amount(most)
                ));
            }
        }
        self.quotes.retain(|quote| quote.fee <= most);
        if self.quotes.is_empty() {
            let mut message = format!("no gateway does it: {}", self.against.join("; "));
            let end = (0..=900.min(message.len())).rev();
            let end = end.into_iter().find(|end| message.is_char_boundary(*end));
            message.truncate(end.unwrap_or_default());
            return Err(Refusal::new("no-gateway", message));
        }
        self.quotes
            .sort_by_key(|quote| core::cmp::Reverse((quote.fee, quote.blocks)));
        Ok(self.quotes)
    }
}

/// The most that is paid in fees unless said otherwise: 100 sat and 1.5 %.
pub fn usual_most(amount: u64) -> u64 {
    let usual = GatewayFee {
        base: 100_000,
        parts_per_million: 15_000,
    };
    usual.of(amount).unwrap_or(u64::MAX)
}

/// Not by anything that a gateway could choose.
fn in_drawn_order(gateways: Vec<KnownGateway>) -> Vec<KnownGateway> {
    let lot = wallet::random::<32>();
    let drawn = |known: KnownGateway| {
        let bytes = [&lot[..], &known.gateway.gateway_key].concat();
        (crypto::sha256(&bytes), known)
    };
    let mut drawn: Vec<_> = gateways.into_iter().map(drawn).collect();
    drawn.sort_by_key(|(place, _)| *place);
    drawn.into_iter().map(|(_, known)| known).collect()
}

fn soon() -> u64 {
    wallet::unix_time().saturating_add(PATIENCE_SECONDS)
}

/// No key, for a gateway of which nothing but the address is known.
const UNKNOWN: PublicKey = [0; 33];

fn unannounced(api: &str) -> KnownGateway {
    let gateway = Gateway {
        gateway_key: UNKNOWN,
        node_key: UNKNOWN,
        api: api.into(),
        alias: String::new(),
        pay_fee: GatewayFee::default(),
        receive_fee: GatewayFee::default(),
        expires: 0,
    };
    KnownGateway {
        gateway,
        vetted: false,
    }
}

fn name(gateway: &Gateway) -> String {
    match gateway.alias.as_str() {
        "" => gateway.api.clone(),
        alias => alias.to_owned(),
    }
}

// The action that shows them.

/// Begins it.
pub fn start() -> Step {
    list(Transition::to(State::Gateways), 1)
}

/// Ends it.
pub fn shown(outcome: EffectResult) -> Step {
    match answer::<Vec<KnownGateway>>(outcome) {
        Ok(known) => {
            let number = known.len();
            let list: Vec<Json> = known.iter().map(Json::from).collect();
            Transition::done(State::Over).progress(
                "shown",
                format!("{number} gateways"),
                object! { "gateways" => list },
            )
        }
        Err(refusal) => Transition::failed(State::Over, refusal),
    }
}

impl From<&KnownGateway> for Json {
    fn from(KnownGateway { gateway, vetted }: &KnownGateway) -> Self {
        let Self::Object(mut shown) = Self::from(gateway) else {
            return Self::Null;
        };
        shown.push(("vetted".into(), (*vetted).into()));
        Self::Object(shown)
    }
}

impl From<&Gateway> for Json {
    fn from(gateway: &Gateway) -> Self {
        object! {
            "alias" => gateway.alias.as_str(),
            "api" => gateway.api.as_str(),
            "gateway_key" => gateway.gateway_key.as_slice(),
            "node_key" => gateway.node_key.as_slice(),
            "pay_base_msat" => gateway.pay_fee.base,
            "pay_parts_per_million" => gateway.pay_fee.parts_per_million,
            "receive_base_msat" => gateway.receive_fee.base,
            "receive_parts_per_million" => gateway.receive_fee.parts_per_million,
            "expires" => gateway.expires,
        }
    }
}

/// Guardians' answers that are checked one by one.
pub fn shares(answers: Vec<PeerAnswer>) -> Vec<(u16, Vec<u8>)> {
    let share = |PeerAnswer { peer, answer }: PeerAnswer| Some((peer, answer.ok()?));
    answers.into_iter().filter_map(share).collect()
}
