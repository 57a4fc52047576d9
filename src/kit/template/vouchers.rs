//! Vouchers in a federation and wallets that are played in this process.

use @ident@::{Create, Redeem, Vouchers};
use modmint_sdk::{
    Amount,
    mock::{Behaviour, Bundle, Federation, OperationId, Wallet},
};

/// Instance 0 is the money.
const VOUCHERS: u16 = 1;

fn federation() -> Federation {
    let federation = Federation::with_cash(4);
    let vouchers = Bundle::federation_module::<Vouchers>();
    assert_eq!(federation.found(vouchers, Vec::new()), VOUCHERS);
    federation
}

/// What an operation ended with: a text that it shows, or the refusal's code.
fn result(wallet: &Wallet, operation: OperationId, shown: &str) -> Result<String, String> {
    let operation = wallet.operation(operation);
    match operation.finished().expect("it ends") {
        Ok(()) => Ok(operation.detail(shown).unwrap_or_default()),
        Err(refusal) => Err(refusal.code),
    }
}

fn create(wallet: &mut Wallet, satoshi: u64) -> Result<String, String> {
    let create = Create {
        amount: Amount(satoshi * 1000),
    };
    let operation = wallet.perform(VOUCHERS, "create", create.arguments());
    result(wallet, operation.expect("it begins"), "voucher")
}

fn redeem(wallet: &mut Wallet, voucher: &str) -> Result<String, String> {
    let digits = |place| u8::from_str_radix(&voucher[place..place + 2], 16);
    let bytes: Result<_, _> = (0..voucher.len()).step_by(2).map(digits).collect();
    let redeem = Redeem {
        voucher: bytes.expect("hexadecimal"),
    };
    let operation = wallet.perform(VOUCHERS, "redeem", redeem.arguments());
    result(wallet, operation.expect("it begins"), "")
}

#[test]
fn whoever_has_the_text_takes_the_money_once() {
    let federation = federation();
    let mut alice = Wallet::new(&federation, "alice");
    let mut bob = Wallet::new(&federation, "bob");
    alice.endow(5_000);
    let voucher = create(&mut alice, 2_000).expect("she has so much");
    assert_eq!(alice.balance(), 3_000_000);
    assert_eq!(federation.audit(VOUCHERS)[0].msat, -2_000_000);

    redeem(&mut bob, &voucher).expect("he has the text");
    assert_eq!(bob.balance(), 2_000_000);
    assert_eq!(redeem(&mut alice, &voucher), Err("no-such-voucher".into()));
    assert_eq!(federation.audit(VOUCHERS)[0].msat, 0);
}

#[test]
fn one_guardian_of_four_that_lies_is_in_nobodys_way() {
    let federation = federation();
    federation.set_behaviour(0, Behaviour::Lying);
    let mut alice = Wallet::new(&federation, "alice");
    alice.endow(1_000);
    let voucher = create(&mut alice, 1_000).expect("she has so much");
    redeem(&mut alice, &voucher).expect("she has the text");
    assert_eq!(alice.balance(), 1_000_000);
}

#[test]
fn more_than_there_is_cannot_be_locked() {
    let federation = federation();
    let mut alice = Wallet::new(&federation, "alice");
    alice.endow(1_000);
    assert_eq!(create(&mut alice, 1_001), Err("not-enough-money".into()));
    assert_eq!(alice.balance(), 1_000_000);
}
