//! A wallet that was lost is made again from its words, and has its money.

use crate::common::Fixture;
use modmint::{
    tour::{receive, send},
    wallet::Wallet,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wallet_that_was_deleted_is_restored_from_its_words_and_has_its_money() {
    let federation = Fixture::standard().await;
    let alice = federation.rich_wallet("alice", 100_000).await;
    let bob = federation.wallet("bob").await;
    for satoshi in [20_000, 1_234] {
        let notes = send(&alice, satoshi).await.expect("a wallet can send");
        receive(&bob, &notes).await.expect("a wallet can receive");
    }
    let notes = send(&bob, 777).await.expect("a wallet can send");
    receive(&alice, &notes).await.expect("a wallet can receive");
    let money = alice.balance().await.expect("a balance");

    let words = federation.folder().join("words");
    std::fs::copy(alice.folder().join("seed"), &words).expect("the words are written down");
    std::fs::remove_dir_all(alice.folder()).expect("the wallet is lost");
    // A guardian that is away holds up nobody.
    federation.guardians[2].kill();

    let alice = Wallet::at(&federation.folder().join("wallets").join("alice again"));
    let words = words.to_str().expect("a text");
    let restored = alice.run(&["init", "--words-file", words]).await;
    restored.expect("the words are a seed's");
    let joined = alice.run(&["join", &federation.invite]).await;
    let joined = joined.expect("it finds its money");
    assert_eq!(joined["balance_msat"], money, "{joined}");
    assert_eq!(alice.balance().await.expect("a balance"), money);

    let notes = send(&alice, 5_000).await.expect("it can be spent");
    receive(&bob, &notes).await.expect("a wallet can receive");
    // A wallet that is new has nothing to find.
    let carol = federation.wallet("carol").await;
    assert_eq!(carol.balance().await.expect("a balance"), 0);
}
