//! The same notes spent by four transactions at once, each given to another
//! guardian: one takes effect, and everybody agrees on which.

use crate::common::{
    Fixture,
    raw::{fate, federation_id, submit, transaction},
};
use futures::future::join_all;
use modmint::tour::send;
use modmint_core::{Input, InstanceId, Output, consensus::TransactionStatus};
use modmint_crypto::tbs;
use modmint_mint::{BlindNote, Note, Notes};

const MINT: InstanceId = InstanceId(0);

/// What spends `notes` into as many that only `rival` can unblind.
fn respend(notes: &Notes, rival: u8) -> (Vec<(Input, [u8; 32])>, Vec<Output>) {
    let encode = |bytes: std::io::Result<Vec<u8>>| bytes.expect("encodes");
    let inputs = notes.notes.iter().map(|note| {
        let spent = Note {
            exponent: note.exponent,
            nonce: note.nonce,
            signature: note.signature,
        };
        let bytes = encode(borsh::to_vec(&spent));
        (
            Input {
                instance: MINT,
                bytes,
            },
            note.secret,
        )
    });
    let outputs = notes.notes.iter().enumerate().map(|(index, note)| {
        let fresh = BlindNote {
            exponent: note.exponent,
            blinded_message: tbs::blind(&[rival, index as u8], &note.secret),
            tweak: [rival; 16],
        };
        let bytes = encode(borsh::to_vec(&fresh));
        Output {
            instance: MINT,
            bytes,
        }
    });
    (inputs.collect(), outputs.collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_four_rivals_at_four_guardians_one_gets_the_notes() {
    let federation = Fixture::standard().await;
    let alice = federation.rich_wallet("alice", 100_000).await;
    let id = federation_id(&federation.guardians[0]).await;
    for round in 0..10 {
        let text = send(&alice, 1_000).await.expect("a wallet can send");
        let notes = Notes::decode(&text).expect("these are notes");
        let mut rivals = Vec::new();
        for (rival, guardian) in (0..).zip(&federation.guardians) {
            let (inputs, outputs) = respend(&notes, rival + 4 * round);
            rivals.push(transaction(guardian, inputs, outputs).await);
        }
        let race = rivals.iter().zip(&federation.guardians);
        let race = race.map(|(rival, guardian)| submit(guardian, rival));
        let ends = join_all(race).await;
        let winners = ends.iter().filter(|end| end.is_ok()).count();
        assert_eq!(winners, 1, "round {round}: {ends:?}");
        federation.same_state_root().await.expect("one state root");
        for (rival, end) in rivals.iter().zip(&ends) {
            let txid = rival.id(&id);
            for guardian in &federation.guardians {
                match fate(guardian, &txid, 0).await {
                    TransactionStatus::Accepted { .. } => assert!(end.is_ok()),
                    TransactionStatus::Rejected { code, .. } => {
                        assert_eq!(end.as_ref(), Err(&code));
                    }
                    // Refused by the guardian that it was given to, ahead of any
                    // decision, it was never ordered.
                    TransactionStatus::Unknown | TransactionStatus::Pending => {
                        assert!(end.is_err());
                    }
                }
            }
        }
    }
}
