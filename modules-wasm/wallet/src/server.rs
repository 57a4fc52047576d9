//! What guardians do about deposits.

use borsh::{BorshDeserialize, BorshSerialize};
use modmint_sdk::{
    Amount, Answer, Arguments, AuditLine, ChainOutPoint, InputEffect, Nothing, OutPoint,
    OutputEffect, Refusal, Server, Wake, federation, parameters,
    storage::{Cell, Table},
    treasury,
};

use crate::{Deposit, DepositTweak, PegInProof, Wallet, WalletConfig};

/// A deposit that has been claimed: bitcoin that the guardians can spend.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Utxo {
    /// Its value.
    pub satoshi: u64,
    /// By which the guardians' keys are tweaked.
    pub tweak: DepositTweak,
    /// The agreed block's height.
    pub height: u32,
}

const UTXOS: Table<ChainOutPoint, Utxo> = Table::new(b'u');
/// The sum over `UTXOS`.
const SATOSHI: Cell<u64> = Cell::new(b's');

parameters! {
    /// An agreed output that pays to a script.
    pub struct DepositQuery {
        /// The scriptPubKey.
        script: Vec<u8>,
        /// Which of the outputs that pay to it, counted from 0 in the order of the chain.
        index: u64,
        /// Wait until there is one.
        wait: bool,
    }
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
    type Output = Nothing;
    type ConsensusItem = Nothing;

    fn process_input(proof: PegInProof) -> Result<InputEffect, Refusal> {
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
        let minimum = federation::config::<WalletConfig>().minimum_deposit;
        if value < minimum {
            return Err(too_small(found.satoshi, minimum));
        }
        if treasury::claim(&out_point).is_none() {
            return Err(Refusal::new(
                "already-claimed",
                "this deposit has been claimed before",
            ));
        }
        let utxo = Utxo {
            satoshi: found.satoshi,
            tweak: proof.tweak.clone(),
            height: found.height,
        };
        UTXOS.put(&out_point, &utxo);
        let total = SATOSHI.get().unwrap_or_default() + found.satoshi;
        SATOSHI.put(&total);
        Ok(InputEffect {
            value,
            fee: 0,
            spend_key: proof.tweak.claim_key.to_vec(),
        })
    }

    fn process_output(output: Nothing, _: OutPoint) -> Result<OutputEffect, Refusal> {
        match output {}
    }

    fn query(name: &str, arguments: Arguments) -> Result<Answer, Refusal> {
        if name != "deposit" {
            return Err(Refusal::new(
                "no-such-query",
                format!("this module has no query {name:?}; there is: deposit"),
            ));
        }
        let query = DepositQuery::read(arguments)?;
        let outputs = federation::chain_outputs(&query.script);
        let place = usize::try_from(query.index).unwrap_or(usize::MAX);
        let deposit = outputs.get(place).map(|output| Deposit {
            txid: output
                .out_point
                .txid
                .as_slice()
                .try_into()
                .expect("the host's txids are 32 bytes"),
            vout: output.out_point.vout,
            satoshi: output.satoshi,
            height: output.height,
        });
        if deposit.is_none() && query.wait {
            let next = federation::block_height().saturating_add(1);
            return Ok(Answer::Wait(vec![Wake::Height(next)]));
        }
        Ok(Answer::Ready(
            borsh::to_vec(&deposit).expect("writing to memory does not fail"),
        ))
    }

    fn audit() -> Vec<AuditLine> {
        let satoshi = SATOSHI.get().unwrap_or_default();
        vec![AuditLine {
            name: "deposits held".into(),
            msat: i64::try_from(satoshi)
                .unwrap_or(i64::MAX)
                .saturating_mul(1000),
        }]
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
