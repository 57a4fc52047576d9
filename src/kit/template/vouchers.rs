//! Vouchers in a federation and wallets that are played in this process.

use @ident@::{Create, Redeem, Vouchers};
use modmint_sdk::{
    Amount,
    mock::{Behaviour, Bundle, Federation, Kill, OperationId, Wallet},
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

#[test]
fn a_wallet_that_was_restored_makes_vouchers_that_nobody_knows() {
    let federation = federation();
    let mut alice = Wallet::new(&federation, "alice");
    let mut bob = Wallet::new(&federation, "bob");
    alice.endow(1_000);
    let given = create(&mut alice, 1_000).expect("she has so much");
    redeem(&mut bob, &given).expect("he has the text");

    // From her words, without anything else that she had.
    let mut alice = alice.another_device();
    alice.endow(1_000);
    let kept = create(&mut alice, 1_000).expect("she has so much");
    assert_ne!(kept, given);
    assert_eq!(redeem(&mut bob, &given), Err("no-such-voucher".into()));
    redeem(&mut alice, &kept).expect("it is hers alone");
}

#[test]
fn a_transaction_that_fails_for_another_s_sake_is_tried_again() {
    let federation = federation();
    let mut alice = Wallet::new(&federation, "alice");
    alice.endow(1_000);
    // She dies before it is sent, and comes back when it has expired.
    let after = alice.writes() + 1;
    alice.kill_at(Kill { after, sent: false });
    let create = Create {
        amount: Amount(1_000_000),
    };
    let operation = alice.perform(VOUCHERS, "create", create.arguments());
    federation.pass(24 * 3600);
    alice.resume();
    alice.run();
    let voucher = result(&alice, operation.expect("it begins"), "voucher");
    redeem(&mut alice, &voucher.expect("it is paid")).expect("she has the text");
    assert_eq!(alice.balance(), 1_000_000);
}
