//! A federation of one guardian: no AlephBFT, the same sessions, headers and books.

use crate::common::{Fixture, until};
use modmint::{
    federation::Options,
    tour::{balanced, receive, refused, send},
};
use modmint_core::{config::SessionLimits, consensus::SignedHeader};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_guardian_signs_its_sessions_and_forgets_nothing_when_it_is_killed() {
    let federation = Fixture::found(Options {
        guardians: 1,
        session: SessionLimits {
            epochs: 4,
            ..SessionLimits::default()
        },
        ..Options::standard().expect("scripts/test builds the bundles")
    })
    .await;
    let guardian = &federation.guardians[0];
    let alice = federation.rich_wallet("alice", 100_000).await;
    let bob = federation.wallet("bob").await;
    for _ in 0..3 {
        let mut notes = String::new();
        for _ in 0..3 {
            notes = send(&alice, 2_000).await.expect("a wallet can send");
            receive(&bob, &notes).await.expect("a wallet can receive");
        }
        let before = guardian.audit().await.expect("it answers");
        let (session, epoch) = before.as_of;
        guardian.kill();
        federation.start(0).expect("it starts");
        guardian.ready().await.expect("it is ready");
        until("it to have all that it had", || async {
            let after = guardian.audit().await.expect("it answers");
            after.as_of >= (session, epoch) && after.instances == before.instances
        })
        .await;
        let again = bob.try_run(&["mint", "receive", &notes], &[]).await;
        refused(again.expect("it runs")).expect("what was spent stays spent");
    }
    balanced(&federation).await.expect("the books balance");
    let latest: SignedHeader = guardian.get("/v1/sessions/latest").await.expect("a header");
    assert!(latest.header.session > 1);
    assert_eq!(latest.signatures.len(), 1);
}
