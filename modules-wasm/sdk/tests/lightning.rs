//! The shapes of Lightning: paying through a gateway that races a timelock, and
//! receiving a preimage that the federation decrypts for whoever funds.

mod common;

use borsh::{BorshDeserialize, BorshSerialize};
use common::{TOY, federation, wallet};
use modmint_sdk::{
    Action, Agreement, Amount, Answer, Approval, Arguments, AuditLine, Client, EffectDone,
    EffectResult, Event, InputEffect, KeyKind, Nothing, OutPoint, OutputEffect, Plan, PlannedInput,
    PlannedOutput, Quote, Refusal, Server, Signable, Signer, Transition, Wake, crypto,
    federation as agreed, guardian, object, parameters, signing, storage::Table, wallet as keys,
};

struct Lightning;
toy_module!(Lightning, "lightning", () => [("offers", KeyKind::Decryption)]);

#[derive(Clone, BorshSerialize, BorshDeserialize)]
enum Contract {
    /// The gateway has it for the preimage, the payer after the height.
    Outgoing {
        hash: [u8; 32],
        amount: u64,
        gateway: [u8; 33],
        payer: [u8; 33],
        timeout: u32,
    },
    /// The receiver has it if the ciphertext holds the preimage.
    Incoming(Offer),
}

#[derive(Clone, BorshSerialize, BorshDeserialize)]
struct Offer {
    hash: [u8; 32],
    amount: u64,
    claim_key: [u8; 33],
    ciphertext: Vec<u8>,
}

impl Offer {
    fn terms(hash: &[u8; 32], amount: u64, claim_key: &[u8; 33]) -> Vec<u8> {
        [&hash[..], &amount.to_be_bytes(), claim_key].concat()
    }
    fn signable(&self) -> Signable {
        Signable {
            label: "offers".into(),
            message: self.ciphertext.clone(),
            terms: Self::terms(&self.hash, self.amount, &self.claim_key),
        }
    }
}

#[derive(BorshSerialize, BorshDeserialize)]
enum Spend {
    Preimage([u8; 32], [u8; 32]),
    Timeout([u8; 32]),
    Offer([u8; 32]),
}

const CONTRACTS: Table<[u8; 32], Contract> = Table::new(1);
const PREIMAGES: Table<[u8; 32], [u8; 32]> = Table::new(2);
const PLACES: Table<([u8; 32], u16), [u8; 32]> = Table::new(3);

fn refused(code: &str) -> Refusal {
    Refusal::new(code, "the toy refuses")
}

impl Server for Lightning {
    type Input = Spend;
    type Output = Contract;
    type ConsensusItem = Nothing;

    fn process_input(spend: Spend) -> Result<InputEffect, Refusal> {
        let (Spend::Preimage(hash, _) | Spend::Timeout(hash) | Spend::Offer(hash)) = &spend;
        let contract = CONTRACTS.get(hash).ok_or_else(|| refused("no-contract"))?;
        let (value, key) = match (&spend, contract) {
            (
                Spend::Preimage(hash, preimage),
                Contract::Outgoing {
                    amount, gateway, ..
                },
            ) if crypto::sha256(preimage) == *hash => {
                PREIMAGES.put(hash, preimage);
                (amount, gateway)
            }
            (
                Spend::Timeout(_),
                Contract::Outgoing {
                    amount,
                    payer,
                    timeout,
                    ..
                },
            ) if agreed::block_height() >= timeout => (amount, payer),
            (Spend::Offer(_), Contract::Incoming(offer)) => (offer.amount, offer.claim_key),
            _ => return Err(refused("not-yet")),
        };
        CONTRACTS.delete(hash);
        Ok(InputEffect {
            value,
            fee: 0,
            spend_key: key.to_vec(),
        })
    }

    fn process_output(contract: Contract, place: OutPoint) -> Result<OutputEffect, Refusal> {
        let (hash, amount) = match &contract {
            Contract::Outgoing { hash, amount, .. } => (*hash, *amount),
            Contract::Incoming(offer) => {
                if signing::approve(&offer.signable()) != Approval::Approved {
                    return Err(refused("bad-offer"));
                }
                (offer.hash, offer.amount)
            }
        };
        if CONTRACTS.contains(&hash) {
            return Err(refused("known"));
        }
        CONTRACTS.put(&hash, &contract);
        let txid = place.txid.try_into().expect("32 bytes");
        PLACES.put(&(txid, place.index), &hash);
        Ok(OutputEffect {
            value: amount,
            fee: 0,
        })
    }

    fn outcomes(out_points: Vec<OutPoint>) -> Vec<Option<Vec<u8>>> {
        let share = |place: OutPoint| {
            let txid = place.txid.try_into().ok()?;
            match CONTRACTS.get(&PLACES.get(&(txid, place.index))?)? {
                Contract::Incoming(offer) => guardian::shares(&[offer.signable()]).remove(0),
                Contract::Outgoing { .. } => None,
            }
        };
        out_points.into_iter().map(share).collect()
    }

    fn query(name: &str, arguments: Arguments) -> Result<Answer, Refusal> {
        let Ask { hash, timeout } = Ask::read(arguments)?;
        let hash: [u8; 32] = hash.try_into().map_err(|_| refused("bad-argument"))?;
        let (ready, wake) = match name {
            "preimage" => (
                PREIMAGES.get(&hash).map(|p| p.to_vec()),
                Wake::Key(PREIMAGES.key(&hash)),
            ),
            "funded" => (
                CONTRACTS.get(&hash).map(|_| Vec::new()),
                Wake::Key(CONTRACTS.key(&hash)),
            ),
            _ => {
                let timeout = timeout.unwrap_or_default() as u32;
                let late = agreed::block_height() >= timeout;
                (late.then(Vec::new), Wake::Height(timeout))
            }
        };
        Ok(ready.map_or(Answer::Wait(vec![wake]), Answer::Ready))
    }

    fn audit() -> Vec<AuditLine> {
        let amount = |contract| match contract {
            Contract::Outgoing { amount, .. } => amount,
            Contract::Incoming(offer) => offer.amount,
        };
        let held: u64 = CONTRACTS.iter().map(|(_, c)| amount(c)).sum();
        vec![AuditLine {
            name: "contracts".into(),
            msat: -(held as i64),
        }]
    }
}

parameters! {
    /// About a contract.
    struct Ask {
        /// Its payment hash.
        hash: Vec<u8>,
        /// Its height.
        timeout: Option<u64>,
    }
}
parameters! {
    /// What the actions take.
    struct Do {
        /// How much.
        amount: Amount,
        /// A payment hash, an offer, or nothing.
        what: Option<Vec<u8>>,
        /// The gateway's key.
        gateway: Option<Vec<u8>>,
    }
}

#[derive(Clone, BorshSerialize, BorshDeserialize)]
enum State {
    /// The payer: contract submitted, then preimage or timeout, then refund.
    Pay {
        hash: [u8; 32],
        amount: u64,
        timeout: u32,
    },
    Refund,
    /// The gateway: asks its node, then claims.
    Gateway {
        hash: [u8; 32],
        amount: u64,
    },
    Claim,
    /// The receiver: waits for the gateway's money, then takes it.
    Receive {
        hash: [u8; 32],
        amount: u64,
    },
    /// The gateway: funds, then decrypts, then settles.
    Fund(Offer),
    Settle,
}

fn spend(what: &Spend, amount: u64) -> Plan {
    Plan {
        inputs: vec![PlannedInput {
            input: borsh::to_vec(what).expect("memory"),
            value: amount,
            fee: 0,
            signer: Signer::Path(vec![0]),
        }],
        outputs: Vec::new(),
        confirm: None,
    }
}

fn fund(contract: &Contract, amount: u64) -> Plan {
    Plan {
        inputs: Vec::new(),
        outputs: vec![PlannedOutput {
            output: borsh::to_vec(contract).expect("memory"),
            value: amount,
            fee: 0,
        }],
        confirm: Some(Quote {
            summary: "pay".into(),
            fees: Vec::new(),
            expires: None,
        }),
    }
}

impl Client for Lightning {
    type State = State;

    fn actions() -> Vec<Action> {
        Vec::new()
    }

    fn start(action: &str, arguments: Arguments) -> Result<Transition<State>, Refusal> {
        let Do {
            amount: Amount(amount),
            what,
            gateway,
        } = Do::read(arguments)?;
        let what = what.unwrap_or_default();
        let me = keys::derive_public_key(&[0]);
        let hash = || what.clone().try_into().map_err(|_| refused("bad-argument"));
        match action {
            "key" => {
                let state = State::Claim;
                Ok(Transition::done(state).progress("key", "", object! { "key" => me.as_slice() }))
            }
            "pay" => {
                let (hash, timeout) = (hash()?, agreed::block_height() + 10);
                let contract = Contract::Outgoing {
                    hash,
                    amount,
                    gateway: gateway
                        .and_then(|k| k.try_into().ok())
                        .ok_or_else(|| refused("key"))?,
                    payer: me,
                    timeout,
                };
                let state = State::Pay {
                    hash,
                    amount,
                    timeout,
                };
                Ok(Transition::to(state).submit(0, fund(&contract, amount)))
            }
            "gateway-pay" => {
                let hash = hash()?;
                Ok(Transition::to(State::Gateway { hash, amount }).service(
                    0,
                    "lightning.pay",
                    hash.to_vec(),
                ))
            }
            "receive" => {
                let preimage = keys::random::<32>();
                let hash = crypto::sha256(&preimage);
                let terms = Offer::terms(&hash, amount, &me);
                let seed = keys::derive_secret(&[1]);
                let ciphertext = keys::tpe_encrypt("offers", &preimage, &terms, &seed);
                let offer = Offer {
                    hash,
                    amount,
                    claim_key: me,
                    ciphertext,
                };
                let text = borsh::to_vec(&offer).expect("memory");
                let ask = Ask {
                    hash: hash.to_vec(),
                    timeout: None,
                };
                Ok(Transition::to(State::Receive { hash, amount })
                    .query(0, "funded", ask.arguments(), Agreement::Same)
                    .progress("waiting", "", object! { "offer" => text.as_slice() }))
            }
            _ => {
                let offer: Offer = borsh::from_slice(&what).map_err(|_| refused("bad-argument"))?;
                let plan = fund(&Contract::Incoming(offer.clone()), offer.amount);
                Ok(Transition::to(State::Fund(offer)).submit(0, plan))
            }
        }
    }

    fn advance(state: State, event: Event) -> Result<Transition<State>, Refusal> {
        let Event::Done(EffectDone { effect, outcome }) = event else {
            return Err(refused("too-late"));
        };
        Ok(match (state.clone(), outcome) {
            (State::Pay { hash, timeout, .. }, EffectResult::Accepted(_)) => {
                let ask = |timeout| {
                    Ask {
                        hash: hash.to_vec(),
                        timeout,
                    }
                    .arguments()
                };
                Transition::to(state)
                    .query(1, "preimage", ask(None), Agreement::Any)
                    .query(2, "late", ask(Some(timeout.into())), Agreement::Same)
            }
            (State::Pay { hash, timeout, .. }, EffectResult::Answers(answers)) if effect == 1 => {
                // Any guardian's word: it can be checked.
                let preimage = answers[0].answer.clone().unwrap_or_default();
                if crypto::sha256(&preimage) == hash {
                    let shown = object! { "preimage" => preimage.as_slice() };
                    return Ok(Transition::done(state).progress("paid", "", shown));
                }
                let ask = |timeout| {
                    Ask {
                        hash: hash.to_vec(),
                        timeout,
                    }
                    .arguments()
                };
                Transition::to(state)
                    .query(3, "preimage", ask(None), Agreement::Same)
                    .query(2, "late", ask(Some(timeout.into())), Agreement::Same)
            }
            (State::Pay { hash, amount, .. }, EffectResult::Answers(answers)) => {
                if effect == 3 {
                    let preimage = answers[0].answer.clone().unwrap_or_default();
                    let shown = object! { "preimage" => preimage.as_slice() };
                    return Ok(Transition::done(state).progress("paid", "", shown));
                }
                Transition::to(State::Refund).submit(4, spend(&Spend::Timeout(hash), amount))
            }
            (State::Gateway { hash, amount }, EffectResult::Served(preimage)) => {
                let preimage = preimage.try_into().map_err(|_| refused("bad-preimage"))?;
                Transition::to(State::Claim)
                    .submit(1, spend(&Spend::Preimage(hash, preimage), amount))
            }
            (State::Receive { hash, amount }, EffectResult::Answers(_)) => {
                Transition::to(State::Claim).submit(1, spend(&Spend::Offer(hash), amount))
            }
            (State::Fund(_), EffectResult::Accepted(accepted)) => {
                let place = OutPoint {
                    txid: accepted.txid,
                    index: accepted.outputs[0],
                };
                Transition::to(state).outcomes(1, vec![place], Agreement::Each)
            }
            (State::Fund(offer), EffectResult::Outcomes(answers)) => {
                let what = offer.signable();
                let mut shares: Vec<_> = answers
                    .into_iter()
                    .map(|a| (a.peer, a.outcomes.into_iter().next().unwrap_or_default()))
                    .collect();
                loop {
                    match keys::tpe_combine(&what.label, &what.message, &what.terms, &shares) {
                        Ok(key) => {
                            let preimage =
                                crypto::tpe_decrypt(&what.label, &what.message, &what.terms, &key);
                            let preimage = preimage.unwrap_or_default();
                            return Ok(Transition::to(State::Settle).service(
                                2,
                                "lightning.settle",
                                preimage.to_vec(),
                            ));
                        }
                        Err(bad) if !bad.is_empty() => shares.retain(|(p, _)| !bad.contains(p)),
                        Err(_) => break,
                    }
                }
                let again = Transition::to(state);
                // The same effect: more answers may come.
                again.outcomes(1, Vec::new(), Agreement::Each)
            }
            (_, EffectResult::Accepted(_) | EffectResult::Served(_)) => Transition::done(state),
            (_, EffectResult::Rejected(r)) => Transition::failed(state, r.refusal),
            (_, EffectResult::Failed(refusal)) => Transition::failed(state, refusal),
            _ => Transition::failed(state, refused("unexpected")),
        })
    }
}

fn act(amount: u64, what: &[u8], gateway: &[u8]) -> Vec<modmint_sdk::Argument> {
    Do {
        amount: Amount(amount),
        what: (!what.is_empty()).then(|| what.to_vec()),
        gateway: (!gateway.is_empty()).then(|| gateway.to_vec()),
    }
    .arguments()
}

fn key_of(wallet: &mut modmint_sdk::mock::Wallet) -> Vec<u8> {
    let shown = wallet
        .perform(TOY, "key", act(0, &[], &[]))
        .expect("it begins");
    let key = wallet.operation(shown).detail("key").expect("it is shown");
    modmint_core::decode_hex(&key).expect("hexadecimal")
}

const PREIMAGE: [u8; 32] = [5; 32];

#[test]
fn a_payment_ends_with_the_preimage_that_the_gateway_claimed_with() {
    let federation = federation::<Lightning>();
    federation.set_behaviour(2, modmint_sdk::mock::Behaviour::Lying);
    let mut payer = wallet(&federation, "payer", 20_000);
    let mut gateway = wallet(&federation, "gateway", 0);
    let hash = modmint_core::sha256(&PREIMAGE);
    let key = key_of(&mut gateway);
    let payment = payer
        .perform(TOY, "pay", act(5_000_000, &hash, &key))
        .expect("it begins");
    assert_eq!(payer.balance(), 15_000_000);
    assert_eq!(payer.operation(payment).finished(), None);

    let failed = gateway.perform(TOY, "gateway-pay", act(5_000_000, &hash, &[]));
    let end = gateway.operation(failed.expect("it begins")).finished();
    assert_eq!(
        end.expect("it ends").expect_err("no node").code,
        "no-such-service"
    );
    gateway.offer_service("lightning.pay", |_| Ok(PREIMAGE.to_vec()));
    gateway
        .perform(TOY, "gateway-pay", act(5_000_000, &hash, &[]))
        .expect("it begins");
    assert_eq!(gateway.balance(), 5_000_000);
    payer.run();
    assert_eq!(payer.operation(payment).finished(), Some(Ok(())));
    let preimage = payer.operation(payment).detail("preimage");
    assert_eq!(preimage, Some(modmint_sdk::to_hex(&PREIMAGE)));
}

#[test]
fn a_payment_that_nobody_claims_comes_back_after_its_height() {
    let federation = federation::<Lightning>();
    let mut payer = wallet(&federation, "payer", 20_000);
    let hash = modmint_core::sha256(&PREIMAGE);
    let key = key_of(&mut wallet(&federation, "gateway", 0));
    let payment = payer
        .perform(TOY, "pay", act(5_000_000, &hash, &key))
        .expect("it begins");
    (0..9).for_each(|_| drop(federation.mine(&[])));
    payer.run();
    assert_eq!(payer.balance(), 15_000_000);
    federation.mine(&[]);
    payer.run();
    assert_eq!(payer.balance(), 20_000_000);
    assert_eq!(payer.operation(payment).finished(), Some(Ok(())));
}

#[test]
fn whoever_funds_an_offer_has_the_preimage_and_a_copied_ciphertext_is_worthless() {
    let federation = federation::<Lightning>();
    federation.set_behaviour(0, modmint_sdk::mock::Behaviour::Lying);
    let mut receiver = wallet(&federation, "receiver", 0);
    let mut gateway = wallet(&federation, "gateway", 20_000);
    let settled = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
    let node = std::rc::Rc::clone(&settled);
    gateway.offer_service("lightning.settle", move |preimage| {
        node.borrow_mut().extend(preimage);
        Ok(Vec::new())
    });
    let received = receiver
        .perform(TOY, "receive", act(3_000_000, &[], &[]))
        .expect("begins");
    let offer = receiver
        .operation(received)
        .detail("offer")
        .expect("it is shown at once");
    let offer = modmint_core::decode_hex(&offer).expect("hexadecimal");

    let mut copied: Offer = borsh::from_slice(&offer).expect("an offer");
    copied.amount = 1;
    let copied = borsh::to_vec(&copied).expect("memory");
    let stolen = gateway
        .perform(TOY, "fund", act(0, &copied, &[]))
        .expect("it begins");
    let end = gateway.operation(stolen).finished().expect("it ends");
    assert_eq!(end.expect_err("other terms").code, "bad-offer");
    assert_eq!(gateway.balance(), 20_000_000);

    gateway
        .perform(TOY, "fund", act(0, &offer, &[]))
        .expect("it begins");
    let hash = borsh::from_slice::<Offer>(&offer).expect("an offer").hash;
    assert_eq!(modmint_core::sha256(&settled.borrow()), hash);
    receiver.run();
    assert_eq!(
        (receiver.balance(), gateway.balance()),
        (3_000_000, 17_000_000)
    );
}
