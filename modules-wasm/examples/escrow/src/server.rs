//! What guardians do: keep contracts, and pay each out once.

use modmint_sdk::{
    Answer, Arguments, AuditLine, InputEffect, Nothing, OutPoint, OutputEffect, Refusal, Server,
    crypto, federation, parameters,
    storage::{Cell, Table},
};

use crate::{Config, Contract, ContractId, Escrow, Party, Release};

/// The contracts that hold money.
const CONTRACTS: Table<ContractId, Contract> = Table::new(b'c');
/// What is in them together, millisatoshi. Kept, so that `audit` costs the same
/// however many contracts there are.
const HELD: Cell<u64> = Cell::new(b'h');

parameters! {
    /// A contract that holds money.
    pub struct ContractQuery {
        /// Its id, 32 bytes.
        id: ContractId,
    }
}

impl Server for Escrow {
    type Input = Release;
    type Output = Contract;
    type ConsensusItem = Nothing;

    fn process_input(release: Release) -> Result<InputEffect, Refusal> {
        let contract = CONTRACTS.get(&release.contract).ok_or_else(no_such)?;
        may_take(&contract, &release)?;
        CONTRACTS.delete(&release.contract);
        HELD.put(&(HELD.get().unwrap_or_default() - contract.amount));
        Ok(InputEffect {
            value: contract.amount,
            fee: 0,
            // The host checks that this key signed the transaction.
            spend_key: contract.key(release.to).to_vec(),
        })
    }

    fn process_output(contract: Contract, _: OutPoint) -> Result<OutputEffect, Refusal> {
        let id = contract.id();
        if contract.amount == 0 {
            return Err(Refusal::new("empty", "a contract holds at least 1 msat"));
        }
        if CONTRACTS.contains(&id) {
            return Err(Refusal::new(
                "contract-exists",
                "there is this very contract already; open one with a new key of the buyer",
            ));
        }
        let held = HELD.get().unwrap_or_default().checked_add(contract.amount);
        HELD.put(&held.ok_or_else(|| Refusal::new("too-much", "there is not so much money"))?);
        CONTRACTS.put(&id, &contract);
        Ok(OutputEffect {
            value: contract.amount,
            fee: federation::config::<Config>().fee,
        })
    }

    fn query(name: &str, arguments: Arguments) -> Result<Answer, Refusal> {
        if name != "contract" {
            return Err(Refusal::new(
                "no-such-query",
                format!("this module has no query {name:?}; there is: contract"),
            ));
        }
        let id = ContractQuery::read(arguments)?.id;
        let found = borsh::to_vec(&CONTRACTS.get(&id));
        Ok(Answer::Ready(
            found.expect("writing to memory does not fail"),
        ))
    }

    fn audit() -> Vec<AuditLine> {
        let held = i64::try_from(HELD.get().unwrap_or_default()).unwrap_or(i64::MAX);
        vec![AuditLine {
            name: "contracts".into(),
            // Negative: the federation owes it.
            msat: -held,
        }]
    }
}

/// Whether the receiver may have the money now.
pub(crate) fn may_take(contract: &Contract, release: &Release) -> Result<(), Refusal> {
    if release.to == Party::Arbiter {
        return Err(Refusal::new(
            "not-a-receiver",
            "buyer or seller can take the money, the arbiter cannot",
        ));
    }
    match &release.approval {
        Some(approval) => {
            let message = Contract::approves(&release.contract, release.to);
            let key = contract.key(approval.by);
            if approval.by == release.to
                || !crypto::verify_schnorr(key, &message, &approval.signature)
            {
                return Err(Refusal::new(
                    "not-approved",
                    format!(
                        "this is not a signature by which one of the others lets the {} take the \
                         money of this contract",
                        release.to.name()
                    ),
                ));
            }
            Ok(())
        }
        None if release.to == Party::Buyer && federation::block_height() >= contract.timeout => {
            Ok(())
        }
        None => Err(Refusal::new(
            "undecided",
            format!(
                "the {} needs an approval of one of the others; without one the buyer can take \
                 the money from block {} on, and the agreed height is {}",
                release.to.name(),
                contract.timeout,
                federation::block_height()
            ),
        )),
    }
}

/// An id as people enter it.
pub(crate) fn contract_id(bytes: Vec<u8>) -> Result<ContractId, Refusal> {
    ContractId::try_from(bytes).map_err(|bytes| {
        Refusal::new(
            "bad-argument",
            format!("a contract's id is 32 bytes, not {}", bytes.len()),
        )
    })
}

pub(crate) fn no_such() -> Refusal {
    Refusal::new(
        "no-such-contract",
        "there is no contract of this id that holds money: it is not paid yet, paid out, or \
         another federation's",
    )
}
