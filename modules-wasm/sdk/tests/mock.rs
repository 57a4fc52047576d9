//! What a test can set in the mock host, and what the host does by itself.

use modmint_sdk::{
    Action, Arguments, AuditLine, Client, Description, Event, InputEffect, Item, Json, KeyKind,
    KeySpec, Module, Nothing, OutPoint, OutputEffect, Refusal, Server, Setup, Transition,
    federation,
    mock::{Bundle, Federation, Phase},
    storage::Cell,
};

/// A module with keys, which writes before it refuses.
struct Keeper;

const WRITTEN: Cell<u64> = Cell::new(b'w');

impl Module for Keeper {
    type Config = ();
    fn describe() -> Description {
        Description {
            kind: "keeper".into(),
            version: "0.1.0".into(),
            summary: "Has keys.".into(),
            server_storage: 1,
            client_storage: 1,
            configuration: Vec::new(),
            queries: Vec::new(),
            commands: Vec::new(),
        }
    }
    fn configure(_: Arguments) -> Result<Setup<()>, Refusal> {
        let key = |label: &str, kind| KeySpec {
            label: label.into(),
            kind,
        };
        Ok(Setup {
            config: (),
            keys: vec![
                key("notes", KeyKind::BlindSignature),
                key("coins", KeyKind::Multisig),
            ],
        })
    }
    fn render(_: Item, _: &[u8]) -> Result<Json, Refusal> {
        Err(Refusal::new("bad-encoding", "nothing is shown"))
    }
}

impl Server for Keeper {
    type Input = Nothing;
    type Output = u64;
    type ConsensusItem = Nothing;
    fn process_input(input: Nothing) -> Result<InputEffect, Refusal> {
        match input {}
    }
    fn process_output(number: u64, _: OutPoint) -> Result<OutputEffect, Refusal> {
        WRITTEN.put(&number);
        match number {
            0 => Err(Refusal::new("nothing", "a number above 0 is expected")),
            _ => Ok(OutputEffect { value: 0, fee: 0 }),
        }
    }
    fn audit() -> Vec<AuditLine> {
        Vec::new()
    }
}

impl Client for Keeper {
    type State = ();
    fn actions() -> Vec<Action> {
        Vec::new()
    }
    fn start(_: &str, _: Arguments) -> Result<Transition<()>, Refusal> {
        Err(Refusal::new("no-such-action", "there is none"))
    }
    fn advance(_: (), _: Event) -> Result<Transition<()>, Refusal> {
        Ok(Transition::done(()))
    }
}

fn keeper() -> Bundle {
    Bundle::federation_module::<Keeper>()
}

fn keys(federation: &Federation, instance: u16) -> [Vec<Vec<u8>>; 2] {
    federation.call(instance, Phase::Stateless, None, || {
        ["notes", "coins"].map(federation::public_keys)
    })
}

#[test]
fn keys_follow_from_what_a_test_sets() {
    let of = |seed: Option<&[u8]>| {
        let federation = Federation::new(4);
        if let Some(seed) = seed {
            federation.set_keys(seed);
        }
        let instance = federation.found(keeper(), Vec::new());
        keys(&federation, instance)
    };
    assert_eq!(of(None), of(None));
    assert_eq!(of(Some(b"one")), of(Some(b"one")));
    let (unset, one, other) = (of(None), of(Some(b"one")), of(Some(b"other")));
    for label in 0..2 {
        assert_ne!(unset[label], one[label]);
        assert_ne!(one[label], other[label]);
    }
    assert_eq!(one[1].len(), 4, "one of each guardian");
}

#[test]
fn height_and_time_are_what_a_test_sets() {
    let federation = Federation::new(4);
    let instance = federation.found(keeper(), Vec::new());
    federation.set_height(850_000);
    federation.set_time(1_900_000_000);
    let seen = federation.call(instance, Phase::Audit, None, || {
        (federation::block_height(), federation::unix_time())
    });
    assert_eq!(seen, (850_000, 1_900_000_000));
    federation.mine_blocks(1);
    federation.pass(1);
    assert_eq!(
        (federation.height(), federation.time()),
        (850_001, 1_900_000_001)
    );
}

#[test]
#[should_panic(expected = "never goes back")]
fn what_is_agreed_does_not_go_back() {
    let federation = Federation::new(4);
    federation.set_height(federation.height() - 1);
}

#[test]
fn what_a_refused_item_wrote_is_gone() {
    let federation = Federation::new(4);
    let instance = federation.found(keeper(), Vec::new());
    let bundle = keeper();
    let output = |number: u64| {
        let bytes = number.to_le_bytes().to_vec();
        let place = OutPoint {
            txid: vec![0; 32],
            index: 0,
        };
        federation.consensus(instance, || bundle.process_output(bytes, place))
    };
    output(7).expect("it is taken");
    assert_eq!(output(0).expect_err("it is refused").code, "nothing");
    let written = federation.call(instance, Phase::Audit, None, || WRITTEN.get());
    assert_eq!(written, Some(7));
}
