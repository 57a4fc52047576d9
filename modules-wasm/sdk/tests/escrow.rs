//! The shape of an escrow: two of three decide who gets the money; after a height
//! the buyer has it back.

mod common;

use borsh::{BorshDeserialize, BorshSerialize};
use common::{TOY, federation, wallet};
use modmint_sdk::{
    Action, Amount, Arguments, AuditLine, Client, EffectDone, EffectResult, Event, InputEffect,
    OutPoint, OutputEffect, Plan, PlannedInput, PlannedOutput, Quote, Refusal, Server, Signer,
    Transition, crypto, federation as agreed, object, parameters, storage::Table, wallet as keys,
};

struct Escrow;
toy_module!(Escrow, "escrow", () => []);

#[derive(Clone, BorshSerialize, BorshDeserialize)]
struct Contract {
    amount: u64,
    /// Buyer, seller, arbiter.
    parties: [[u8; 33]; 3],
    timeout: u32,
}

#[derive(BorshSerialize, BorshDeserialize)]
struct Release {
    contract: ([u8; 32], u16),
    receiver: [u8; 33],
    /// Each by one of the parties, over contract and receiver.
    signatures: Vec<(u8, [u8; 64])>,
}

fn decision(contract: &([u8; 32], u16), receiver: &[u8; 33]) -> [u8; 32] {
    crypto::sha256(&[&contract.0[..], &contract.1.to_be_bytes(), receiver].concat())
}

const CONTRACTS: Table<([u8; 32], u16), Contract> = Table::new(1);

impl Server for Escrow {
    type Input = Release;
    type Output = Contract;
    type ConsensusItem = modmint_sdk::Nothing;

    fn process_input(release: Release) -> Result<InputEffect, Refusal> {
        let contract = CONTRACTS
            .get(&release.contract)
            .ok_or_else(|| Refusal::new("no-such-contract", "it is not there or paid out"))?;
        let message = decision(&release.contract, &release.receiver);
        let mut signers: Vec<u8> = release
            .signatures
            .iter()
            .filter(|(party, signature)| {
                let key = contract.parties.get(usize::from(*party));
                key.is_some_and(|key| crypto::verify_schnorr(key, &message, signature))
            })
            .map(|(party, _)| *party)
            .collect();
        signers.sort_unstable();
        signers.dedup();
        let late = agreed::block_height() >= contract.timeout;
        if signers.len() < 2 && !(late && release.receiver == contract.parties[0]) {
            return Err(Refusal::new(
                "undecided",
                "two of three signatures, or the buyer after the timeout, are expected",
            ));
        }
        CONTRACTS.delete(&release.contract);
        Ok(InputEffect {
            value: contract.amount,
            fee: 0,
            spend_key: release.receiver.to_vec(),
        })
    }

    fn process_output(contract: Contract, place: OutPoint) -> Result<OutputEffect, Refusal> {
        let txid = place
            .txid
            .try_into()
            .expect("the host's txids are 32 bytes");
        CONTRACTS.put(&(txid, place.index), &contract);
        Ok(OutputEffect {
            value: contract.amount,
            fee: 0,
        })
    }

    fn audit() -> Vec<AuditLine> {
        let held: u64 = CONTRACTS.iter().map(|(_, contract)| contract.amount).sum();
        vec![AuditLine {
            name: "contracts".into(),
            msat: -(held as i64),
        }]
    }
}

parameters! {
    /// Pays into a contract.
    struct Open {
        /// How much.
        amount: Amount,
        /// The seller's and the arbiter's keys.
        others: Vec<u8>,
    }
}
parameters! {
    /// Signs for a receiver.
    struct Sign {
        /// The contract.
        contract: Vec<u8>,
        /// Which party this wallet is.
        party: u64,
        /// Who shall have it.
        receiver: Vec<u8>,
    }
}
parameters! {
    /// Takes the money.
    struct Take {
        /// The contract.
        contract: Vec<u8>,
        /// How much is in it.
        amount: Amount,
        /// Signatures, each behind its party's number.
        signatures: Vec<u8>,
    }
}

const KEY: [u64; 1] = [0];

fn read<T: BorshDeserialize>(bytes: &[u8]) -> Result<T, Refusal> {
    borsh::from_slice(bytes).map_err(|e| Refusal::new("bad-argument", e.to_string()))
}

impl Client for Escrow {
    type State = ();

    fn actions() -> Vec<Action> {
        Vec::new()
    }

    fn start(action: &str, arguments: Arguments) -> Result<Transition<()>, Refusal> {
        let me = keys::derive_public_key(&KEY);
        match action {
            "key" => {
                Ok(Transition::done(()).progress("key", "", object! { "key" => me.as_slice() }))
            }
            "open" => {
                let open = Open::read(arguments)?;
                let [seller, arbiter]: [[u8; 33]; 2] = read(&open.others)?;
                let contract = Contract {
                    amount: open.amount.0,
                    parties: [me, seller, arbiter],
                    timeout: agreed::block_height() + 10,
                };
                let plan = Plan {
                    inputs: Vec::new(),
                    outputs: vec![PlannedOutput {
                        output: borsh::to_vec(&contract).expect("memory"),
                        value: contract.amount,
                        fee: 0,
                    }],
                    confirm: Some(Quote {
                        summary: "pay into an escrow".into(),
                        fees: Vec::new(),
                        expires: None,
                    }),
                };
                Ok(Transition::to(()).submit(0, plan))
            }
            "sign" => {
                let sign = Sign::read(arguments)?;
                let message = decision(&read(&sign.contract)?, &read(&sign.receiver)?);
                let signature = keys::sign_schnorr(&KEY, None, &message);
                let signed = [&[sign.party as u8], &signature[..]].concat();
                let shown = object! { "signature" => signed.as_slice() };
                Ok(Transition::done(()).progress("signed", "", shown))
            }
            _ => {
                let take = Take::read(arguments)?;
                let (signatures, _) = take.signatures.as_chunks::<65>();
                let release = Release {
                    contract: read(&take.contract)?,
                    receiver: me,
                    signatures: signatures
                        .iter()
                        .map(|s| (s[0], s[1..].try_into().expect("64 of 65")))
                        .collect(),
                };
                let plan = Plan {
                    inputs: vec![PlannedInput {
                        input: borsh::to_vec(&release).expect("memory"),
                        value: take.amount.0,
                        fee: 0,
                        signer: Signer::Path(KEY.to_vec()),
                    }],
                    outputs: Vec::new(),
                    confirm: None,
                };
                Ok(Transition::to(()).submit(0, plan))
            }
        }
    }

    fn advance((): (), event: Event) -> Result<Transition<()>, Refusal> {
        Ok(match event {
            Event::Done(EffectDone {
                outcome: EffectResult::Accepted(accepted),
                ..
            }) => {
                let txid: [u8; 32] = accepted.txid.try_into().expect("32 bytes");
                let place = accepted.outputs.first().map(|index| {
                    modmint_sdk::to_hex(&borsh::to_vec(&(txid, *index)).expect("memory"))
                });
                Transition::done(()).progress("done", "", object! { "contract" => place })
            }
            Event::Done(EffectDone {
                outcome: EffectResult::Rejected(rejection),
                ..
            }) => Transition::failed((), rejection.refusal),
            _ => return Err(Refusal::new("no", "this toy does not do that")),
        })
    }
}

fn bytes(hex: &str) -> Vec<u8> {
    modmint_core::decode_hex(hex).expect("hexadecimal")
}

#[test]
fn two_of_three_decide_and_after_the_timeout_the_buyer_has_it_back() {
    let federation = federation::<Escrow>();
    let mut buyer = wallet(&federation, "buyer", 20_000);
    let mut seller = wallet(&federation, "seller", 0);
    let mut arbiter = wallet(&federation, "arbiter", 0);
    let shown = |w: &mut modmint_sdk::mock::Wallet, action: &str, arguments, what: &str| {
        let operation = w.perform(TOY, action, arguments).expect("it begins");
        w.operation(operation).detail(what).unwrap_or_default()
    };
    let keys: Vec<u8> = [&mut seller, &mut arbiter]
        .into_iter()
        .flat_map(|w| bytes(&shown(w, "key", Vec::new(), "key")))
        .collect();
    let open = |others: &[u8]| Open {
        amount: Amount(5_000_000),
        others: others.to_vec(),
    };
    let contract = bytes(&shown(
        &mut buyer,
        "open",
        open(&keys).arguments(),
        "contract",
    ));
    let second = bytes(&shown(
        &mut buyer,
        "open",
        open(&keys).arguments(),
        "contract",
    ));
    assert_eq!(buyer.balance(), 10_000_000);

    let sign = |party, receiver: &[u8]| Sign {
        contract: contract.clone(),
        party,
        receiver: receiver.to_vec(),
    };
    let receiver = &keys[..33];
    let one = bytes(&shown(
        &mut arbiter,
        "sign",
        sign(2, receiver).arguments(),
        "signature",
    ));
    let own = bytes(&shown(
        &mut seller,
        "sign",
        sign(1, receiver).arguments(),
        "signature",
    ));
    let take = |contract: &[u8], signatures: &[&[u8]]| Take {
        contract: contract.to_vec(),
        amount: Amount(5_000_000),
        signatures: signatures.concat(),
    };
    for too_few in [&[&one[..]][..], &[&one[..], &one[..]]] {
        let arguments = take(&contract, too_few).arguments();
        let operation = seller.perform(TOY, "take", arguments).expect("it begins");
        let end = seller.operation(operation).finished().expect("it ends");
        assert_eq!(end.expect_err("one is not two").code, "undecided");
    }
    let enough = take(&contract, &[&one, &own]).arguments();
    seller.perform(TOY, "take", enough).expect("it begins");
    assert_eq!(seller.balance(), 5_000_000);

    let early = take(&second, &[]).arguments();
    buyer.perform(TOY, "take", early).expect("it begins");
    assert_eq!(buyer.balance(), 10_000_000);
    (0..10).for_each(|_| drop(federation.mine(&[])));
    let late = take(&second, &[]).arguments();
    buyer.perform(TOY, "take", late).expect("it begins");
    assert_eq!(buyer.balance(), 15_000_000);
    assert_eq!(federation.books(TOY).0, 0);
}
