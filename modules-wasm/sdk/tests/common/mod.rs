//! A federation with the real e-cash, beside which a toy module lives.

use modmint_sdk::{
    Client, Server,
    mock::{Bundle, Federation, Wallet},
};

pub const WALLET: u16 = 0;
pub const MINT: u16 = 1;
/// The toy.
pub const TOY: u16 = 2;

pub fn federation<M: Server + Client>() -> Federation {
    let federation = Federation::new(4);
    let wallet = Bundle::federation_module::<modmint_wallet::Wallet>();
    let free = modmint_wallet::Configuration {
        minimum_deposit: modmint_sdk::Amount(10_000_000),
        deposit_fee: modmint_sdk::Amount(0),
    };
    assert_eq!(federation.found(wallet, free.arguments()), WALLET);
    let mint = Bundle::ecash_module::<modmint_mint::Mint>();
    assert_eq!(federation.found(mint, Vec::new()), MINT);
    let toy = Bundle::federation_module::<M>();
    assert_eq!(federation.found(toy, Vec::new()), TOY);
    federation
}

/// A wallet with so many satoshi of e-cash.
pub fn wallet(federation: &Federation, name: &str, satoshi: u64) -> Wallet {
    let mut wallet = Wallet::new(federation, name);
    if satoshi > 0 {
        let deposit = wallet
            .perform(WALLET, "deposit", Vec::new())
            .expect("deposits are always possible");
        let address = wallet.operation(deposit).detail("address");
        let address = address.expect("the address is shown at once");
        let (_, _, program) = bech32::segwit::decode(&address).expect("an address");
        federation.mine(&[([&[0, 32], &program[..]].concat(), satoshi)]);
        wallet.run();
    }
    assert_eq!(wallet.balance(), satoshi * 1000);
    wallet
}

/// What a toy shows of itself.
#[macro_export]
macro_rules! toy_module {
    ($module:ty, $kind:literal, $config:expr => $keys:expr) => {
        impl modmint_sdk::Module for $module {
            type Config = ();
            fn describe() -> modmint_sdk::Description {
                modmint_sdk::Description {
                    kind: $kind.into(),
                    version: "0.1.0".into(),
                    summary: "A toy.".into(),
                    server_storage: 1,
                    client_storage: 1,
                    configuration: Vec::new(),
                    queries: Vec::new(),
                    commands: Vec::new(),
                }
            }
            fn configure(
                _: modmint_sdk::Arguments,
            ) -> Result<modmint_sdk::Setup<()>, modmint_sdk::Refusal> {
                let keys: &[(&str, modmint_sdk::KeyKind)] = &$keys;
                Ok(modmint_sdk::Setup {
                    config: $config,
                    keys: keys
                        .iter()
                        .map(|(label, kind)| modmint_sdk::KeySpec {
                            label: (*label).into(),
                            kind: *kind,
                        })
                        .collect(),
                })
            }
            fn render(
                _: modmint_sdk::Item,
                _: &[u8],
            ) -> Result<modmint_sdk::Json, modmint_sdk::Refusal> {
                Ok(modmint_sdk::Json::Null)
            }
        }
    };
}
