//! Money for tests: a module that holds a wallet's e-cash, without the mathematics
//! that the real one needs.
//!
//! A coin is a value and the key that may spend it, and guardians see both. So
//! nothing here is private, and a test of another module runs in no time.

use borsh::{BorshDeserialize, BorshSerialize};

use super::{Bundle, Federation, Phase, Wallet};
use crate::{
    Action, Amount, Arguments, Audience, AuditLine, ChainOutPoint, Client, Completion, Description,
    Ecash, EffectDone, EffectResult, Event, InputEffect, Item, Json, Module, Nothing, OutPoint,
    OutputEffect, Plan, PlannedInput, PlannedOutput, Refusal, Server, Setup, Signer, Transition,
    federation, parameters,
    storage::{Cell, Table},
    treasury, wallet,
};

/// The module.
pub struct Cash;

/// What brings money in.
#[derive(BorshSerialize, BorshDeserialize)]
pub enum CashInput {
    /// A coin, by the output that made it.
    Coin([u8; 32], u16),
    /// An output of the chain that pays to this key.
    Deposit {
        /// The transaction.
        txid: [u8; 32],
        /// The output's place in it.
        vout: u32,
        /// Whose it is.
        key: [u8; 33],
        /// What makes the script pass the federation's filter.
        nonce: u8,
    },
}

/// A coin.
#[derive(BorshSerialize, BorshDeserialize)]
pub struct Coin {
    /// What it is worth.
    pub msat: u64,
    /// Who may spend it.
    pub key: [u8; 33],
}

/// A coin of this wallet.
#[derive(Clone, BorshSerialize, BorshDeserialize)]
struct OwnCoin {
    msat: u64,
    /// Of its key.
    number: u64,
}

// Guardians.
const COINS: Table<OutPoint, Coin> = Table::new(b'c');
const CLAIMED: Cell<u64> = Cell::new(b't');
const IN_COINS: Cell<u64> = Cell::new(b's');
// Wallets.
const OWN: Table<OutPoint, OwnCoin> = Table::new(b'o');
const NEXT: Cell<u64> = Cell::new(b'n');

/// Keys of deposits are all this one.
const DEPOSIT_KEY: [u64; 1] = [0];

fn coin_path(number: u64) -> Vec<u64> {
    vec![1, number]
}

fn bytes<T: BorshSerialize>(value: &T) -> Vec<u8> {
    borsh::to_vec(value).expect("writing to memory does not fail")
}

fn deposit_script(key: &[u8; 33], nonce: u8) -> Vec<u8> {
    [&key[..], &[nonce]].concat()
}

fn change(cell: &Cell<u64>, by: impl FnOnce(u64) -> Option<u64>) {
    let value = by(cell.get().unwrap_or_default());
    cell.put(&value.expect("no test has so much money"));
}

impl Module for Cash {
    type Config = ();

    fn describe() -> Description {
        Description {
            kind: "cash".into(),
            version: "0.1.0".into(),
            summary: "Money for tests.".into(),
            server_storage: 1,
            client_storage: 1,
            configuration: Vec::new(),
            queries: Vec::new(),
            commands: Vec::new(),
        }
    }
    fn configure(_: Arguments) -> Result<Setup<()>, Refusal> {
        Ok(Setup {
            config: (),
            keys: Vec::new(),
        })
    }
    fn render(_: Item, _: &[u8]) -> Result<Json, Refusal> {
        Ok(Json::Null)
    }
}

impl Server for Cash {
    type Input = CashInput;
    type Output = Coin;
    type ConsensusItem = Nothing;

    fn process_input(input: CashInput) -> Result<InputEffect, Refusal> {
        let (value, key) = match input {
            CashInput::Coin(txid, index) => {
                let place = OutPoint {
                    txid: txid.to_vec(),
                    index,
                };
                let coin = COINS
                    .get(&place)
                    .ok_or_else(|| Refusal::new("no-such-coin", "it is spent or never was"))?;
                COINS.delete(&place);
                change(&IN_COINS, |sum| sum.checked_sub(coin.msat));
                (coin.msat, coin.key)
            }
            CashInput::Deposit {
                txid,
                vout,
                key,
                nonce,
            } => {
                let place = ChainOutPoint {
                    txid: txid.to_vec(),
                    vout,
                };
                let output = treasury::claim(&place)
                    .filter(|output| output.script == deposit_script(&key, nonce))
                    .ok_or_else(|| Refusal::new("no-such-deposit", "it is claimed or another's"))?;
                change(&CLAIMED, |sum| sum.checked_add(output.satoshi * 1000));
                (output.satoshi * 1000, key)
            }
        };
        Ok(InputEffect {
            value,
            fee: 0,
            spend_key: key.to_vec(),
        })
    }

    fn process_output(coin: Coin, out_point: OutPoint) -> Result<OutputEffect, Refusal> {
        COINS.put(&out_point, &coin);
        change(&IN_COINS, |sum| sum.checked_add(coin.msat));
        Ok(OutputEffect {
            value: coin.msat,
            fee: 0,
        })
    }

    fn audit() -> Vec<AuditLine> {
        let sum = |cell: &Cell<u64>| cell.get().unwrap_or_default() as i64;
        let line = |name: &str, msat| AuditLine {
            name: name.into(),
            msat,
        };
        vec![
            line("deposits", sum(&CLAIMED)),
            line("coins", -sum(&IN_COINS)),
        ]
    }
}

parameters! {
    /// Takes in a deposit.
    struct Claim {
        /// Where it is.
        place: Vec<u8>,
        /// The script's nonce.
        nonce: u64,
        /// How much it is.
        amount: Amount,
    }
}

/// A machine.
#[derive(BorshSerialize, BorshDeserialize)]
pub enum CashState {
    /// A deposit is being taken in.
    Claiming,
    /// Behind `complete`: the coins that were taken, and the key and value of the
    /// one that comes back.
    Completing(Vec<([u8; 32], u16, u64, u64)>, Option<(u64, u64)>),
}

impl Client for Cash {
    type State = CashState;

    fn actions() -> Vec<Action> {
        vec![Claim::action("claim", Audience::Person)]
    }

    fn start(_: &str, arguments: Arguments) -> Result<Transition<CashState>, Refusal> {
        let claim = Claim::read(arguments)?;
        let (txid, vout) = borsh::from_slice(&claim.place).expect("`endow` makes the arguments");
        let deposit = CashInput::Deposit {
            txid,
            vout,
            key: wallet::derive_public_key(&DEPOSIT_KEY),
            nonce: claim.nonce as u8,
        };
        let input = PlannedInput {
            input: bytes(&deposit),
            value: claim.amount.0,
            fee: 0,
            signer: Signer::Path(DEPOSIT_KEY.to_vec()),
        };
        let plan = Plan {
            inputs: vec![input],
            outputs: Vec::new(),
            confirm: None,
        };
        Ok(Transition::to(CashState::Claiming).submit(1, plan))
    }

    fn advance(state: CashState, event: Event) -> Result<Transition<CashState>, Refusal> {
        let Event::Done(EffectDone { outcome, .. }) = event else {
            return Err(Refusal::new("not-now", "it takes a moment only"));
        };
        let CashState::Completing(taken, change) = &state else {
            return Ok(match outcome {
                EffectResult::Accepted(_) => Transition::done(state),
                outcome => {
                    Transition::failed(state, Refusal::new("not-claimed", format!("{outcome:?}")))
                }
            });
        };
        match outcome {
            EffectResult::Accepted(accepted) => {
                if let (Some((number, msat)), Some(index)) = (change, accepted.outputs.first()) {
                    let place = OutPoint {
                        txid: accepted.txid,
                        index: *index,
                    };
                    let coin = OwnCoin {
                        msat: *msat,
                        number: *number,
                    };
                    OWN.put(&place, &coin);
                }
            }
            _ => {
                for (txid, index, msat, number) in taken {
                    let place = OutPoint {
                        txid: txid.to_vec(),
                        index: *index,
                    };
                    let coin = OwnCoin {
                        msat: *msat,
                        number: *number,
                    };
                    OWN.put(&place, &coin);
                }
            }
        }
        Ok(Transition::done(state))
    }
}

impl Ecash for Cash {
    fn balance() -> u64 {
        OWN.iter().map(|(_, coin)| coin.msat).sum()
    }

    fn complete(inputs: u64, outputs: u64) -> Result<Completion, Refusal> {
        let (mut sum, mut taken, mut planned) = (inputs, Vec::new(), Vec::new());
        for (place, coin) in OWN.iter() {
            if sum >= outputs {
                break;
            }
            sum += coin.msat;
            OWN.delete(&place);
            let txid = place.txid.as_slice().try_into().expect("32 bytes");
            taken.push((txid, place.index, coin.msat, coin.number));
            planned.push(PlannedInput {
                input: bytes(&CashInput::Coin(txid, place.index)),
                value: coin.msat,
                fee: 0,
                signer: Signer::Path(coin_path(coin.number)),
            });
        }
        let back = sum.checked_sub(outputs).ok_or_else(|| {
            let (has, needs) = (Amount(sum), Amount(outputs));
            Refusal::new("not-enough-money", format!("{has} are there of {needs}"))
        })?;
        let change = (back > 0).then(|| {
            let number = NEXT.get().unwrap_or_default();
            NEXT.put(&(number + 1));
            (number, back)
        });
        let outputs = change.map(|(number, msat)| {
            let key = wallet::derive_public_key(&coin_path(number));
            PlannedOutput {
                output: bytes(&Coin { msat, key }),
                value: msat,
                fee: 0,
            }
        });
        Ok(Completion {
            inputs: planned,
            outputs: outputs.into_iter().collect(),
            machine: bytes(&CashState::Completing(taken, change)),
        })
    }
}

impl Federation {
    /// So many honest guardians whose instance 0 is [`Cash`]: wallets have money by
    /// [`Wallet::endow`].
    pub fn with_cash(guardians: usize) -> Self {
        let federation = Self::new(guardians);
        federation.found(Bundle::ecash_module::<Cash>(), Vec::new());
        federation
    }
}

impl Wallet {
    /// Pays this wallet so many satoshi: a deposit to [`Cash`], mined and taken in.
    ///
    /// # Panics
    /// If the federation's money is another module.
    pub fn endow(&mut self, satoshi: u64) {
        let federation = self.federation().clone();
        let cash = 0;
        let (nonce, script) = self.call(cash, Phase::Look, || {
            let key = wallet::derive_public_key(&DEPOSIT_KEY);
            (0..=u8::MAX)
                .map(|nonce| (nonce, deposit_script(&key, nonce)))
                .find(|(_, script)| federation::script_passes_filter(script))
                .expect("the mock's filter lets one of eight pass")
        });
        let place = federation.mine(&[(script, satoshi)]).remove(0);
        let txid: [u8; 32] = place.txid.try_into().expect("32 bytes");
        let claim = Claim {
            place: bytes(&(txid, place.vout)),
            nonce: nonce.into(),
            amount: Amount(satoshi * 1000),
        };
        let operation = self
            .perform(cash, "claim", claim.arguments())
            .expect("a deposit is always taken in");
        assert_eq!(self.operation(operation).finished(), Some(Ok(())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wallet_that_is_endowed_can_spend_and_the_books_are_even() {
        let federation = Federation::with_cash(4);
        let mut wallet = Wallet::new(&federation, "alice");
        wallet.endow(5_000);
        wallet.endow(2_000);
        assert_eq!(wallet.balance(), 7_000_000);
        let lines = federation.audit(0);
        assert_eq!(lines.iter().map(|line| line.msat).sum::<i64>(), 0);
        let (balance, treasury) = federation.books(0);
        assert_eq!((balance, treasury), (0, 7_000_000));
    }
}
