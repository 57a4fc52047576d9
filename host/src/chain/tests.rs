#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod fake;
mod real;

use std::{path::PathBuf, sync::Arc, time::Duration};

use bitcoin::{
    Amount, OutPoint, ScriptBuf, Sequence, Transaction, TxIn, TxOut, Txid, Witness,
    absolute::LockTime, consensus::encode, hashes::Hash, transaction::Version,
};
use modmint_core::{
    Hash32, InstanceId,
    config::{BlockId, Network},
    consensus::script_passes_filter,
};
use modmint_runtime::{ChainOutPoint, OwnChain};

use self::fake::FakeNode;
use super::*;

const WALLET: InstanceId = InstanceId(0);

/// Waits until `reached`, looking whenever the chain's monitor says that there is
/// something new.
async fn until(chain: &Bitcoind, what: &str, reached: impl Fn(&Bitcoind) -> bool) {
    let mut changed = chain.changed();
    let waiting = async {
        while !reached(chain) {
            changed.changed().await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waiting)
        .await
        .unwrap_or_else(|_| {
            panic!(
                "waited in vain for {what}; problems: {:?}",
                chain.problems()
            )
        });
}

async fn until_height(chain: &Bitcoind, height: u32) {
    until(chain, &format!("height {height}"), |c| {
        c.best_height() == Some(height)
    })
    .await;
}

/// The hashes of the blocks that can be voted behind `parent`, once there are
/// `count` of them.
async fn voted(chain: &Bitcoind, parent: BlockId, depth: u32, count: usize) -> Vec<VotedBlock> {
    until(chain, &format!("{count} blocks"), |c| {
        c.blocks_after(parent, depth, 144)
            .is_some_and(|blocks| blocks.len() == count)
    })
    .await;
    chain.blocks_after(parent, depth, 144).unwrap()
}

/// P2WSH of a script that anybody satisfies and every node relays; `n` makes it
/// another.
fn anybody(n: i64) -> (ScriptBuf, ScriptBuf) {
    let script = ScriptBuf::builder()
        .push_int(n)
        .push_int(n)
        .push_opcode(bitcoin::opcodes::all::OP_EQUAL)
        .into_script();
    (script.to_p2wsh(), script)
}

/// One of them that guardians vote, and one that they do not.
fn scripts() -> ((ScriptBuf, ScriptBuf), ScriptBuf) {
    let passes = |(script, _): &(ScriptBuf, ScriptBuf)| script_passes_filter(script.as_bytes());
    let passing = (1000..).map(anybody).find(passes).unwrap();
    (passing, anybody(1).0)
}

fn transaction(spends: OutPoint, outputs: &[(&ScriptBuf, u64)]) -> Transaction {
    Transaction {
        version: Version::TWO,
        lock_time: LockTime::ZERO,
        input: vec![TxIn {
            previous_output: spends,
            sequence: Sequence::MAX,
            ..TxIn::default()
        }],
        output: outputs
            .iter()
            .map(|(script, satoshi)| TxOut {
                script_pubkey: (*script).clone(),
                value: Amount::from_sat(*satoshi),
            })
            .collect(),
    }
}

#[tokio::test]
async fn a_block_can_be_voted_once_it_is_buried_with_the_outputs_that_count() {
    let node = FakeNode::start().await;
    let ((passing, _), other) = scripts();
    let deposit = transaction(OutPoint::null(), &[(&other, 1), (&passing, 70_000)]);
    node.mine(vec![deposit.clone()]);
    node.mine(vec![]);
    let chain = node.follow().await.unwrap();
    assert_eq!(chain.best_height(), Some(2));
    let start = node.block_id(0);

    let blocks = voted(&chain, start, 1, 1).await;
    let header = encode::serialize(&node.header(1));
    assert_eq!(blocks[0].header[..], header);
    let [output] = &blocks[0].outputs[..] else {
        panic!("one output counts: {:?}", blocks[0].outputs);
    };
    assert_eq!(output.txid.0, deposit.compute_txid().to_byte_array());
    assert_eq!((output.index, output.satoshi), (1, 70_000));
    assert_eq!(output.script, passing.to_bytes());

    node.mine(vec![]);
    assert_eq!(voted(&chain, start, 1, 2).await.len(), 2);
    // What was agreed meanwhile is not voted again.
    assert_eq!(voted(&chain, node.block_id(1), 1, 1).await.len(), 1);
    assert_eq!(voted(&chain, node.block_id(3), 1, 0).await.len(), 0);
}

#[tokio::test]
async fn one_vote_holds_no_more_than_was_asked_for() {
    let node = FakeNode::start().await;
    for _ in 0..10 {
        node.mine(vec![]);
    }
    let chain = node.follow().await.unwrap();
    let start = node.block_id(0);
    let blocks = || chain.blocks_after(start, 2, 3).map(|blocks| blocks.len());
    until(&chain, "three blocks", |_| blocks() == Some(3)).await;
    assert_eq!(node.calls("getblock"), 3);
}

#[tokio::test]
async fn after_a_reorganisation_the_blocks_are_those_of_the_better_chain() {
    let node = FakeNode::start().await;
    for _ in 0..4 {
        node.mine(vec![]);
    }
    let chain = node.follow().await.unwrap();
    let start = node.block_id(0);
    let before = voted(&chain, start, 0, 4).await;

    node.reorganise(2, 3);
    until_height(&chain, 5).await;
    let after = voted(&chain, start, 0, 5).await;
    assert_eq!(before[..2], after[..2]);
    assert_ne!(before[2], after[2]);
    let headers: Vec<_> = (1..=5)
        .map(|h| encode::serialize(&node.header(h)))
        .collect();
    let seen: Vec<_> = after.iter().map(|block| block.header.to_vec()).collect();
    assert_eq!(seen, headers);
}

#[tokio::test]
async fn an_agreed_block_that_is_not_in_our_chain_is_reported_and_nothing_follows_it() {
    let node = FakeNode::start().await;
    for _ in 0..3 {
        node.mine(vec![]);
    }
    let chain = node.follow().await.unwrap();
    let agreed = node.block_id(3);
    voted(&chain, agreed, 0, 0).await;
    node.reorganise(2, 2);
    until(&chain, "the report", |c| !c.problems().is_empty()).await;
    assert_eq!(chain.blocks_after(agreed, 0, 144), None);
    assert!(
        chain.problems()[0].contains("at height 3 is not in"),
        "{:?}",
        chain.problems()
    );
    // A node that has not got so far has not diverged.
    let ahead = BlockId {
        height: 100,
        hash: Hash32([9; 32]),
    };
    assert_eq!(chain.blocks_after(ahead, 0, 144), None);
    until(&chain, "no report", |c| c.problems().is_empty()).await;
}

#[tokio::test]
async fn bitcoind_may_go_away_and_come_back_with_another_cookie() {
    let mut node = FakeNode::start().await;
    node.mine(vec![]);
    let chain = node.follow().await.unwrap();
    until_height(&chain, 1).await;
    assert!(chain.fee_rate().is_some());

    node.stop().await;
    until(&chain, "its absence", |c| c.best_height().is_none()).await;
    assert_eq!(chain.fee_rate(), None);
    assert!(
        chain.problems()[0].contains("cannot be reached"),
        "{:?}",
        chain.problems()
    );

    node.mine(vec![]);
    node.come_back("another").await;
    until_height(&chain, 2).await;
    assert_eq!(chain.problems(), Vec::<String>::new());
    // A cookie that changes without anybody noticing.
    node.change_cookie("a third");
    node.mine(vec![]);
    until_height(&chain, 3).await;
}

#[tokio::test]
async fn a_bitcoind_that_is_away_at_the_start_is_waited_for() {
    let mut node = FakeNode::start().await;
    node.stop().await;
    let chain = node.follow().await.unwrap();
    assert_eq!(chain.best_height(), None);
    node.come_back("new").await;
    until_height(&chain, 0).await;
}

#[tokio::test]
async fn a_bitcoind_on_another_network_or_chain_is_refused() {
    let node = FakeNode::start().await;
    let mut setup = node.setup();
    setup.network = Network::Signet;
    let error = Bitcoind::start(setup).await.err().unwrap();
    assert!(matches!(error, ChainError::WrongNetwork { .. }), "{error}");

    let mut setup = node.setup();
    setup.chain_start.hash = Hash32([1; 32]);
    let error = Bitcoind::start(setup).await.err().unwrap();
    assert!(matches!(error, ChainError::WrongChain { .. }), "{error}");

    for url in [
        "https://127.0.0.1:1",
        "http://user:password@127.0.0.1:1",
        "bitcoind",
    ] {
        let mut setup = node.setup();
        setup.url = url.to_owned();
        let error = Bitcoind::start(setup).await.err().unwrap();
        assert!(matches!(error, ChainError::Url { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_bitcoind_that_comes_back_on_another_network_is_as_good_as_none() {
    let node = FakeNode::start().await;
    let chain = node.follow().await.unwrap();
    until_height(&chain, 0).await;
    node.change_network("main");
    node.mine(vec![]);
    until(&chain, "the refusal", |c| c.best_height().is_none()).await;
    assert!(
        chain.problems()[0].contains("\"main\""),
        "{:?}",
        chain.problems()
    );
}

#[tokio::test]
async fn the_fee_rate_has_a_floor_and_test_networks_do_without_an_estimate() {
    let node = FakeNode::start().await;
    let chain = node.follow().await.unwrap();
    assert_eq!(chain.fee_rate(), Some(1000));
    for (estimate, relayed, expected) in [
        (Some(0.000_123_45), 0.000_01, 12_345),
        (Some(0.000_001), 0.000_01, 1000),
        (Some(0.000_02), 0.000_05, 5000),
        (None, 0.000_01, 1000),
    ] {
        node.change_fees(estimate, relayed);
        node.mine(vec![]);
        until(&chain, &format!("{expected}"), |c| {
            c.fee_rate() == Some(expected)
        })
        .await;
    }
}

#[tokio::test]
async fn a_transaction_is_sent_after_each_block_until_it_is_in_one_and_again_after_it_left() {
    let node = FakeNode::start().await;
    node.mine(vec![]);
    let chain = node.follow().await.unwrap();
    let wanted = transaction(OutPoint::null(), &[(&anybody(5).0, 1000)]);
    let txid = wanted.compute_txid();
    let seen = || chain.confirmed_at(&txid.to_byte_array());

    chain.set_broadcast(WALLET, vec![encode::serialize(&wanted), b"junk".to_vec()]);
    node.until_sent(1).await;
    node.mine(vec![]);
    node.until_sent(2).await;
    assert_eq!(seen(), None);

    node.mine(vec![wanted.clone()]);
    until(&chain, "the confirmation", |_| seen() == Some(3)).await;
    // bitcoind forgets what is spent; the block is still there.
    node.forget(txid);
    node.mine(vec![]);
    until_height(&chain, 4).await;
    assert_eq!(seen(), Some(3));
    assert_eq!(node.sent(), [txid, txid]);

    node.reorganise(2, 3);
    node.until_sent(3).await;
    until(&chain, "its absence", |_| seen().is_none()).await;

    // What is no longer named is no longer sent.
    chain.set_broadcast(WALLET, vec![]);
    node.mine(vec![]);
    until_height(&chain, 6).await;
    assert_eq!(node.sent().len(), 3);
}

#[tokio::test]
async fn our_chain_follows_the_agreed_one_or_differs_and_nobody_knows_while_it_is_away() {
    let mut node = FakeNode::start().await;
    node.mine(vec![]);
    let chain = node.follow().await.unwrap();
    let agreed = node.block_id(1);
    assert_eq!(chain.stands(agreed), OwnChain::Unknown, "nobody has asked");
    voted(&chain, agreed, 0, 0).await;
    assert_eq!(chain.stands(agreed), OwnChain::Follows(1));
    node.mine(vec![]);
    until_height(&chain, 2).await;
    assert_eq!(chain.stands(agreed), OwnChain::Follows(2));
    node.reorganise(0, 4);
    until(&chain, "another chain", |c| {
        c.stands(agreed) == OwnChain::Differs
    })
    .await;
    node.stop().await;
    until(&chain, "its absence", |c| {
        c.stands(agreed) == OwnChain::Unknown
    })
    .await;
}

#[tokio::test]
async fn what_a_module_holds_and_bitcoind_has_not_is_named_until_it_is_back_or_let_go() {
    let node = FakeNode::start().await;
    let deposits = [5, 6].map(|n| transaction(OutPoint::null(), &[(&anybody(n).0, 1000)]));
    node.mine(deposits.to_vec());
    let chain = node.follow().await.unwrap();
    let start = node.block_id(0);
    let held = deposits.map(|deposit| ChainOutPoint {
        txid: deposit.compute_txid().to_byte_array(),
        vout: 0,
    });
    // Before it is known whose chain this is, nothing is missing from it.
    assert_eq!(chain.missing(WALLET, &held), []);
    voted(&chain, start, 0, 1).await;
    node.forget(Txid::from_byte_array(held[1].txid));
    node.mine(vec![]);
    until(&chain, "the loss", |c| {
        c.missing(WALLET, &held) == [held[1]]
    })
    .await;
    let problems = chain.problems();
    assert!(problems[0].contains("which a module holds"), "{problems:?}");
    // The one that is there is not asked for again until the next block.
    assert_eq!(chain.missing(WALLET, &held[..1]), []);
    assert_eq!(chain.problems(), Vec::<String>::new());
    node.reorganise(0, 4);
    until(&chain, "the loss of the other", |c| {
        c.missing(WALLET, &held[..1]) == [held[0]]
    })
    .await;
}

#[test]
fn a_password_is_not_printed() {
    let auth = BitcoindAuth::Password {
        user: "alice".to_owned(),
        password: "geheim".to_owned(),
    };
    let text = format!("{auth:?}");
    assert!(text.contains("alice") && !text.contains("geheim"), "{text}");
}
