//! The guardians' half: deposits here, withdrawals in [`crate::withdrawals`].

use borsh::BorshSerialize;
use modmint_sdk::{
    Amount, Answer, Arguments, AuditLine, ChainOutPoint, InputEffect, OutPoint, OutputEffect,
    PeerId, Refusal, Server, Wake, federation, parameters, treasury,
};

use crate::{
    Deposit, Deposits, PegInProof, PegOut, Small, Wallet, WalletConfig, WalletItem,
    withdrawals::{self, check_chain},
};

/// Bitcoin Core's `MAX_PUBKEYS_PER_MULTISIG`.
const MAX_GUARDIANS: usize = 20;

parameters! {
    /// An agreed deposit to a script, and what lies there that is too small to be one.
    pub struct DepositQuery {
        /// The scriptPubKey.
        script: Vec<u8>,
        /// Which of the deposits to it, counted from 0 in the order of the chain; what is below the minimum is none.
        number: u64,
        /// Of how many outputs below the minimum is known.
        small: u64 = 0,
        /// Wait until there is the deposit, or more that is too small.
        wait: bool,
    }
}

parameters! {
    /// What a withdrawal would have to pay for the chain now.
    pub struct QuoteQuery {
        /// The scriptPubKey that would be paid to.
        script: Vec<u8>,
        /// What would arrive there.
        satoshi: u64,
    }
}
parameters! {
    /// What has become of a withdrawal.
    pub struct WithdrawalQuery {
        /// The id of the transaction that it was an output of.
        txid: Vec<u8>,
        /// Its place there.
        index: u64,
        /// Wait until it is buried, or has more bitcoin transactions than this.
        known: Option<u64>,
    }
}
parameters! {
    /// Withdrawals that wait and transactions that are not buried yet, the reserve, and guardians at fault.
    pub struct OverviewQuery {}
}

impl PegInProof {
    fn out_point(&self) -> ChainOutPoint {
        ChainOutPoint {
            txid: self.txid.to_vec(),
            vout: self.vout,
        }
    }
}

impl Server for Wallet {
    type Input = PegInProof;
    type Output = PegOut;
    type ConsensusItem = WalletItem;

    fn init() -> Result<(), Refusal> {
        match federation::peers().len() {
            0..=MAX_GUARDIANS => Ok(()),
            guardians => Err(Refusal::new(
                "too-many-guardians",
                format!(
                    "a multisig of bitcoin has at most {MAX_GUARDIANS} keys; {guardians} guardians \
                     cannot hold bitcoin together"
                ),
            )),
        }
    }

    fn process_input(proof: PegInProof) -> Result<InputEffect, Refusal> {
        check_chain()?;
        let out_point = proof.out_point();
        let Some(found) = federation::chain_output_at(&out_point) else {
            return Err(Refusal::new(
                "no-such-deposit",
                "no agreed block has this output; deposits count once their block is buried \
                 deep enough",
            ));
        };
        if proof.tweak.script().as_ref() != Some(&found.script) {
            return Err(Refusal::new(
                "wrong-tweak",
                "the output does not pay to the address that this claim is made for",
            ));
        }
        let value = msat(found.satoshi)?;
        let WalletConfig {
            minimum_deposit,
            deposit_fee,
        } = federation::config();
        if value < minimum_deposit {
            return Err(too_small(found.satoshi, minimum_deposit));
        }
        if treasury::claim(&out_point).is_none() {
            return Err(Refusal::new(
                "already-claimed",
                "this deposit has been claimed before",
            ));
        }
        let tweak = proof.tweak.hash();
        withdrawals::add_deposit(out_point, found.satoshi, tweak, deposit_fee / 1000);
        Ok(InputEffect {
            value,
            fee: deposit_fee,
            spend_key: proof.tweak.claim_key.to_vec(),
        })
    }

    fn process_output(output: PegOut, out_point: OutPoint) -> Result<OutputEffect, Refusal> {
        withdrawals::withdraw(output, out_point)
    }

    fn process_consensus_item(peer: PeerId, item: WalletItem) -> Result<(), Refusal> {
        withdrawals::process(peer, item)
    }

    fn propose() -> Vec<WalletItem> {
        withdrawals::propose()
    }

    fn broadcast() -> Vec<Vec<u8>> {
        withdrawals::broadcast()
    }

    fn outcomes(out_points: Vec<OutPoint>) -> Vec<Option<Vec<u8>>> {
        let outcome = |out_point| Some(encode(&withdrawals::outcome(out_point).0?));
        out_points.iter().map(outcome).collect()
    }

    fn query(name: &str, arguments: Arguments) -> Result<Answer, Refusal> {
        match name {
            "deposit" => deposit(DepositQuery::read(arguments)?),
            "quote" => {
                let QuoteQuery { script, satoshi } = QuoteQuery::read(arguments)?;
                check_chain()?;
                let quote = withdrawals::quote(&script, satoshi)?;
                Ok(Answer::Ready(encode(&quote)))
            }
            "withdrawal" => withdrawal(WithdrawalQuery::read(arguments)?),
            "withdrawals" => Ok(Answer::Ready(encode(&withdrawals::overview()))),
            _ => Err(Refusal::new(
                "no-such-query",
                format!(
                    "this module has no query {name:?}; there are: deposit, quote, withdrawal, \
                     withdrawals"
                ),
            )),
        }
    }

    fn audit() -> Vec<AuditLine> {
        withdrawals::audit()
    }
}

fn encode<T: BorshSerialize>(value: &T) -> Vec<u8> {
    borsh::to_vec(value).expect("writing to memory does not fail")
}

/// What is below the minimum is passed over: it costs next to nothing to pay a hundred
/// such outputs to an address that somebody else waits at.
fn deposit(query: DepositQuery) -> Result<Answer, Refusal> {
    let minimum = federation::config::<WalletConfig>().minimum_deposit;
    let (mut small, mut number, mut deposit) = (Small::default(), 0, None);
    for output in federation::chain_outputs(&query.script) {
        if output.satoshi.saturating_mul(1000) < minimum {
            small.number += 1;
            small.satoshi = small.satoshi.saturating_add(output.satoshi);
        } else if number < query.number {
            number += 1;
        } else {
            let txid = output.out_point.txid.as_slice().try_into();
            deposit = Some(Deposit {
                txid: txid.expect("the host's txids are 32 bytes"),
                vout: output.out_point.vout,
                satoshi: output.satoshi,
                height: output.height,
            });
            break;
        }
    }
    if query.wait && deposit.is_none() && small.number <= query.small {
        let next = federation::block_height().saturating_add(1);
        return Ok(Answer::Wait(vec![Wake::Height(next)]));
    }
    Ok(Answer::Ready(encode(&Deposits { deposit, small })))
}

fn withdrawal(query: WithdrawalQuery) -> Result<Answer, Refusal> {
    let bad = |what: &str| Refusal::new("bad-argument", format!("{what} is out of range"));
    let out_point = OutPoint {
        txid: query.txid,
        index: u16::try_from(query.index).map_err(|_| bad("index"))?,
    };
    let (outcome, keys) = withdrawals::outcome(&out_point);
    if keys.is_empty() {
        return Err(bad("txid"));
    }
    let is_news = |known: u64| {
        let outcome = outcome.as_ref();
        outcome.is_some_and(|o| o.buried.is_some() || o.txids.len() as u64 > known)
    };
    match query.known {
        Some(known) if !is_news(known) => {
            Ok(Answer::Wait(keys.into_iter().map(Wake::Key).collect()))
        }
        _ => Ok(Answer::Ready(encode(&outcome))),
    }
}

/// More satoshi than there can ever be are refused, not multiplied.
fn msat(satoshi: u64) -> Result<u64, Refusal> {
    satoshi.checked_mul(1000).ok_or_else(|| {
        Refusal::new(
            "no-such-deposit",
            format!("{satoshi} satoshi are more than there are"),
        )
    })
}

/// Why a deposit of so many satoshi is refused.
pub fn too_small(satoshi: u64, minimum: u64) -> Refusal {
    Refusal::new(
        "deposit-too-small",
        format!(
            "{satoshi} sat were deposited; the least that is taken is {}",
            Amount(minimum)
        ),
    )
}
