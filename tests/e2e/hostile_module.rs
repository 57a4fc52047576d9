//! A module that loops, traps, recurses and allocates without end, floods disk
//! and log, and pays out what it never got: its items are refused, every guardian
//! lives, and everybody else's money is safe.

use std::time::Duration;

use crate::common::{
    Fixture,
    raw::{submit, transaction},
    until,
};
use modmint::{
    federation::{Module, Options},
    tour::{receive, send},
};
use modmint_core::{Input, InstanceId, Output, config::SessionLimits, rest::ModuleResponse};
use modmint_crypto::{secp, tbs};
use modmint_hostile::{Input as HostileInput, Misdeed, Output as HostileOutput};
use reqwest::Client;

const MINT: InstanceId = InstanceId(0);
const HOSTILE: InstanceId = InstanceId(3);

async fn federation_with_a_hostile_module(session: SessionLimits) -> Fixture {
    let mut options = Options::standard().expect("scripts/test builds the bundles");
    let hostile = Module::built_in("hostile").expect("scripts/test builds the bundles");
    options.modules.push(hostile);
    options.session = session;
    Fixture::found(options).await
}

fn input(input: &HostileInput) -> Input {
    Input {
        instance: HOSTILE,
        bytes: borsh::to_vec(input).expect("encodes"),
    }
}

fn output(output: &HostileOutput) -> Output {
    Output {
        instance: HOSTILE,
        bytes: borsh::to_vec(output).expect("encodes"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_a_module_does_its_items_are_refused_and_the_guardians_go_on() {
    let federation = federation_with_a_hostile_module(SessionLimits::default()).await;
    let alice = federation.rich_wallet("alice", 100_000).await;
    let bob = federation.wallet("bob").await;
    let secret = [7; 32];
    let key = secp::public_key(&secret);

    // In transactions.
    for (turn, misdeed) in Misdeed::ALL.into_iter().enumerate() {
        let guardian = &federation.guardians[turn % federation.size()];
        let wrong = vec![(input(&HostileInput::Commit(misdeed)), secret)];
        let wrong = transaction(guardian, wrong, Vec::new()).await;
        let code = submit(guardian, &wrong)
            .await
            .expect_err("an input misbehaves");
        assert_ne!(code, "survived", "{misdeed:?}");
        let wrong = output(&HostileOutput::Commit(misdeed));
        let wrong = transaction(guardian, Vec::new(), vec![wrong]).await;
        let code = submit(guardian, &wrong)
            .await
            .expect_err("an output misbehaves");
        assert_ne!(code, "survived", "{misdeed:?}");
        println!("{misdeed:?}: {code}");
    }

    // In consensus items, which no guardian can refuse to order.
    for misdeed in Misdeed::ALL {
        for armed in [Some(misdeed), None] {
            let guardian = &federation.guardians[0];
            let arm = output(&HostileOutput::Arm(armed));
            let arm = transaction(guardian, Vec::new(), vec![arm]).await;
            submit(guardian, &arm).await.expect("this one behaves");
        }
        federation.same_state_root().await.expect("one state root");
    }

    // In queries, and in what makes their answers readable.
    let http = Client::builder().no_proxy().build().expect("a client");
    for query in ["loop", "trap", "recurse", "allocate"] {
        let api = federation.guardians[1].api_url();
        let url = format!("{api}/v1/modules/{HOSTILE}/queries/{query}");
        let request = http.post(url).timeout(Duration::from_secs(30));
        let answer = request.json(&serde_json::json!({})).send().await;
        let status = answer.expect("an answer, in time").status();
        assert!(!status.is_success(), "{query}: {status}");
    }

    // Money from nothing, into real e-cash.
    let steal = HostileInput::Steal {
        value: 1 << 20,
        key,
    };
    let loot = modmint_mint::BlindNote {
        exponent: 20,
        blinded_message: tbs::blind(b"loot", &[9; 32]),
        tweak: [0; 16],
    };
    let loot = Output {
        instance: MINT,
        bytes: borsh::to_vec(&loot).expect("encodes"),
    };
    let guardian = &federation.guardians[2];
    let theft = transaction(guardian, vec![(input(&steal), secret)], vec![loot]).await;
    let code = submit(guardian, &theft)
        .await
        .expect_err("money from nothing");
    println!("theft: {code}");

    for guardian in &federation.guardians {
        guardian.ready().await.expect("every guardian lives");
    }
    let notes = send(&alice, 10_000).await.expect("e-cash goes on");
    receive(&bob, &notes).await.expect("e-cash goes on");
    federation.same_state_root().await.expect("one state root");
    let modules: Vec<ModuleResponse> = guardian.get("/v1/modules").await.expect("it answers");
    for module in modules.iter().filter(|module| module.instance != HOSTILE) {
        assert!(
            !module.paused,
            "{} is paused for what another did",
            module.kind
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_module_without_a_wallet_half_is_shown_and_the_rest_is_used() {
    let federation = federation_with_a_hostile_module(SessionLimits::default()).await;
    let alice = federation.rich_wallet("alice", 20_000).await;
    let info = alice.run(&["info"]).await.expect("it is shown");
    let modules = info["federations"][0]["modules"].as_array();
    let halves: Vec<_> = modules
        .expect("a list of modules")
        .iter()
        .map(|module| (module["kind"].as_str(), module["wallet_half"].as_bool()))
        .collect();
    assert_eq!(
        halves,
        [
            (Some("mint"), Some(true)),
            (Some("wallet"), Some(true)),
            (Some("ln"), Some(true)),
            (Some("hostile"), Some(false)),
        ]
    );
    let asked = alice.try_run(&["hostile", "loop"], &[]).await;
    let asked = asked.expect("it runs");
    assert_eq!(asked.json["error"]["code"], "not-found", "{}", asked.json);
    send(&alice, 10_000).await.expect("the others work");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_module_that_claims_debts_it_has_not_is_paused_when_the_session_ends() {
    let short = SessionLimits {
        epochs: 20,
        ..SessionLimits::default()
    };
    let federation = federation_with_a_hostile_module(short).await;
    until("the module to be paused by every guardian", || async {
        // Something to order, so that the session comes to its end.
        federation.bitcoind.mine(1).await.expect("mined");
        let mut paused = 0;
        for guardian in &federation.guardians {
            let modules = guardian.get::<Vec<ModuleResponse>>("/v1/modules").await;
            let modules = modules.expect("it answers");
            paused += usize::from(modules.iter().any(|m| m.instance == HOSTILE && m.paused));
        }
        paused == federation.size()
    })
    .await;
    let alice = federation.rich_wallet("alice", 10_000).await;
    assert!(alice.balance().await.expect("a balance") > 0);
}
