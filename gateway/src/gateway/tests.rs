//! Payments over a node and federations that are made for it, through lives that end
//! at any write.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::{
    collections::HashMap,
    sync::{OnceLock, atomic::Ordering},
};

use modmint_core::{Amount, sha256};
use tempfile::TempDir;

use super::*;
use crate::{
    federations::{BeginError, ReceiveOrder},
    journal::{Membership, Terms},
    ledger::Thresholds,
    lightning::{
        Sent,
        fake::{FakeNode, Fate, invoice_of},
    },
};

const PAYER: FederationId = FederationId([1; 32]);
const PAYEE: FederationId = FederationId([2; 32]);
const AMOUNT: u64 = 100_000;

fn preimage(n: u8) -> Hash32 {
    Hash32([n; 32])
}

fn hash(n: u8) -> Hash32 {
    Hash32(sha256(&preimage(n).0))
}

/// What came of buying.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bought {
    Begun,
    Settled,
    Refused,
}

/// Federations whose module buys at once. An offer is the preimage.
#[derive(Default)]
struct FakeFederations {
    services: OnceLock<Mutex<Arc<dyn Services>>>,
    bought: Mutex<HashMap<Hash32, Bought>>,
    /// What the gateway wanted to keep of each.
    fees: Mutex<HashMap<Hash32, Amount>>,
    balances: Mutex<HashMap<FederationId, u64>>,
    /// Whose module traps.
    traps: Mutex<HashSet<FederationId>>,
    /// Refuses to begin.
    refuses: Mutex<bool>,
    /// Begins, and then the offer is junk.
    junk: Mutex<bool>,
    /// So often it panics first.
    panics: Mutex<u32>,
}

#[async_trait]
impl Federations for FakeFederations {
    async fn balance_msat(&self, federation: &FederationId) -> anyhow::Result<u64> {
        anyhow::ensure!(!self.traps.lock().contains(federation), "it traps");
        Ok(self.balances.lock().get(federation).copied().unwrap_or(0))
    }

    async fn ecash_msat(&self) -> Vec<(FederationId, anyhow::Result<u64>)> {
        let mut all = Vec::new();
        for federation in [PAYER, PAYEE] {
            all.push((federation, self.balance_msat(&federation).await));
        }
        all
    }

    async fn has_begun(&self, order: &ReceiveOrder) -> anyhow::Result<bool> {
        Ok(self.bought.lock().contains_key(&order.payment_hash))
    }

    async fn begin_receive(&self, order: &ReceiveOrder) -> Result<(), BeginError> {
        if *self.refuses.lock() {
            return Err(BeginError::Refused(Refusal::new("not-today", "not today")));
        }
        self.fees
            .lock()
            .insert(order.payment_hash, order.minimum_fee);
        let mut bought = self.bought.lock();
        bought.entry(order.payment_hash).or_insert(Bought::Begun);
        Ok(())
    }

    async fn received(&self, order: &ReceiveOrder) -> anyhow::Result<Result<(), Refusal>> {
        let services = self.services.get().unwrap().lock().clone();
        let panics = {
            let mut left = self.panics.lock();
            let panics = *left > 0;
            *left = left.saturating_sub(1);
            panics
        };
        assert!(!panics, "it was asked to");
        let known = self.bought.lock()[&order.payment_hash];
        let junk = *self.junk.lock();
        if known == Bought::Begun {
            let (name, request) = match junk {
                true => (
                    "lightning.fail",
                    serde_json::json!({"payment_hash": order.payment_hash}),
                ),
                false => (
                    "lightning.settle",
                    serde_json::json!({
                        "payment_hash": order.payment_hash,
                        "preimage": Hash32(order.offer.clone().try_into().unwrap()),
                    }),
                ),
            };
            let request = serde_json::to_vec(&request).unwrap();
            services.serve(order.federation, name, &request).await?;
            let over = if junk {
                Bought::Refused
            } else {
                Bought::Settled
            };
            self.bought.lock().insert(order.payment_hash, over);
        }
        match self.bought.lock()[&order.payment_hash] {
            Bought::Refused => Ok(Err(Refusal::new("junk", "the offer was junk"))),
            _ => Ok(Ok(())),
        }
    }
}

/// The world around a gateway; it goes on when a gateway's life ends.
struct World {
    _folder: TempDir,
    node: Arc<FakeNode>,
    federations: Arc<FakeFederations>,
    journal: Arc<Journal>,
    thresholds: Thresholds,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let journal = Arc::new(Journal::open(folder.path()).unwrap());
        for federation in [PAYER, PAYEE] {
            let membership = Membership {
                active: true,
                terms: Terms {
                    receive_base_msat: 0,
                    maximum_exposure_msat: 10 * AMOUNT,
                    ..Terms::default()
                },
                gateway_key: None,
                announce_at: 0,
            };
            journal.put_membership(&federation, &membership).unwrap();
        }
        let federations = FakeFederations::default();
        federations.balances.lock().insert(PAYEE, 5 * AMOUNT);
        Self {
            _folder: folder,
            node: Arc::new(FakeNode::at(100)),
            federations: Arc::new(federations),
            journal,
            thresholds: Thresholds::default(),
        }
    }

    /// A gateway's life, as long as `during`.
    fn life<T>(&self, during: impl AsyncFnOnce(Gateway) -> T) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let gateway = Gateway::new(
                Network::Regtest,
                self.node.clone(),
                self.journal.clone(),
                self.federations.clone(),
                Ledger::new(self.thresholds),
            );
            let services = gateway.services();
            let place = &self.federations.services;
            let place = place.get_or_init(|| Mutex::new(services.clone()));
            *place.lock() = services;
            // A disk that is dead by now is no matter of this start.
            let _ = gateway.begin();
            let running = gateway.clone();
            tokio::spawn(async move { running.run().await });
            during(gateway).await
        })
    }

    fn fate(&self, n: u8, fate: Fate) {
        self.node.state.lock().fates.insert(hash(n), fate);
    }

    fn left(&self, n: u8) -> u32 {
        let state = self.node.state.lock();
        state.left.get(&hash(n)).copied().unwrap_or(0)
    }
}

fn request(n: u8) -> PayRequest {
    PayRequest {
        payment_hash: hash(n),
        contract: Hash32([n; 32]),
        invoice: invoice_of(9, hash(n), Some(AMOUNT), 600),
        maximum_fee_msat: 1_000,
        latest_height: 400,
    }
}

fn order(n: u8) -> InvoiceOrder {
    InvoiceOrder {
        federation: PAYEE,
        payment_hash: hash(n),
        offer: preimage(n).0.to_vec(),
        amount_msat: AMOUNT,
        contract_msat: AMOUNT - 1_000,
        description: String::new(),
        expiry_seconds: 600,
    }
}

/// Waits for something that comes.
async fn until(mut ask: impl FnMut() -> bool) {
    let asked = async {
        while !ask() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon(asked).await.expect("it comes true");
}

async fn soon<T>(what: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(Duration::from_secs(60), what)
        .await
        .ok()
}

/// Waits for what does not come: for long enough that it would have.
async fn in_vain<T>(what: impl Future<Output = T>) {
    let waited = tokio::time::timeout(Duration::from_millis(500), what).await;
    assert!(waited.is_err(), "it came");
}

#[test]
fn a_payment_is_made_once_and_for_the_contract_that_asked_first() {
    let world = World::new();
    world.fate(1, Fate::Arrives(preimage(1)));
    world.life(async |gateway| {
        for _ in 0..2 {
            let answer = gateway.pay(PAYER, request(1)).await.unwrap();
            assert_eq!(answer.preimage, preimage(1));
        }
        let other = PayRequest {
            contract: Hash32([7; 32]),
            ..request(1)
        };
        for (federation, request) in [(PAYER, other), (PAYEE, request(1))] {
            let refusal = gateway.pay(federation, request).await.unwrap_err();
            assert_eq!(refusal.code, PAYMENT_FAILED);
        }
    });
    assert_eq!(world.left(1), 1);
}

#[test]
fn what_came_back_has_failed_for_ever() {
    let world = World::new();
    for (n, fate) in [(1, Fate::Comes), (2, Fate::NoRoute)] {
        world.fate(n, fate);
        world.life(async |gateway| {
            let refusal = gateway.pay(PAYER, request(n)).await.unwrap_err();
            assert_eq!(refusal.code, PAYMENT_FAILED);
        });
        world.fate(n, Fate::Arrives(preimage(n)));
        world.life(async |gateway| {
            gateway.pay(PAYER, request(n)).await.unwrap_err();
        });
    }
    assert_eq!((world.left(1), world.left(2)), (1, 0));
}

/// The same invoice, for another contract.
fn again(n: u8) -> PayRequest {
    PayRequest {
        contract: Hash32([77; 32]),
        ..request(n)
    }
}

#[test]
fn what_was_never_sent_may_be_tried_again_for_another_contract() {
    let world = World::new();
    for (n, fate, left) in [(1, Fate::NoRoute, 0), (2, Fate::Comes, 1)] {
        world.fate(n, fate);
        world.life(async |gateway| {
            gateway.pay(PAYER, request(n)).await.unwrap_err();
        });
        assert_eq!(world.left(n), left);
        world.fate(n, Fate::Arrives(preimage(n)));
    }
    world.life(async |gateway| {
        let answer = soon(gateway.pay(PAYER, again(1))).await.unwrap();
        assert_eq!(answer.unwrap().preimage, preimage(1));
        // The first contract was given back: nothing is ever paid for it.
        gateway.pay(PAYER, request(1)).await.unwrap_err();
        // What the node sent once may still come to life in its events.
        gateway.pay(PAYER, again(2)).await.unwrap_err();
    });
    assert_eq!((world.left(1), world.left(2)), (1, 1));
    assert_eq!(world.journal.log(None, 10).unwrap().len(), 3);
}

#[test]
fn killed_at_each_write_what_is_tried_twice_leaves_once() {
    let pays = async |world: &World, gateway: Gateway| {
        let row = world.journal.outgoing(hash(1)).unwrap();
        if row.is_none_or(|row| row.contract == request(1).contract) {
            world.fate(1, Fate::NoRoute);
        }
        gateway.pay(PAYER, request(1)).await.unwrap_err();
        world.fate(1, Fate::Arrives(preimage(1)));
        let _ = gateway.pay(PAYER, again(1)).await;
    };
    let writes = killed_at_each_write(pays, pays, |world| {
        let row = world.journal.outgoing(hash(1)).unwrap().unwrap();
        let paid = matches!(row.state, OutgoingState::Paid { .. });
        assert_eq!(world.left(1), u32::from(paid), "{row:?}");
        assert_eq!(paid, row.contract == again(1).contract);
    });
    assert!(writes >= 4, "{writes}");
}

#[test]
fn a_federation_that_hides_what_it_owes_is_paid_for_up_to_the_limit() {
    let world = World::new();
    world.life(async |gateway| {
        // Its balance never becomes more.
        for n in 1..=9 {
            world.fate(n, Fate::Arrives(preimage(n)));
            gateway.pay(PAYER, request(n)).await.unwrap();
        }
        world.fate(10, Fate::Arrives(preimage(10)));
        let refused = gateway.pay(PAYER, request(10)).await.unwrap_err();
        assert!(refused.message.contains("at most"), "{refused}");
        // What comes back by the same way makes room.
        gateway.ledger().accept(&world.journal).unwrap();
        gateway.pay(PAYER, request(10)).await.unwrap();
    });
}

#[test]
fn what_is_missing_after_a_payment_is_seen_then_and_halts_the_gateway() {
    let mut world = World::new();
    world.thresholds = Thresholds {
        grace_msat: 0,
        patience_seconds: 0,
        ..Thresholds::default()
    };
    // Satoshi; each payment takes 100 and some of them, and its contract owes as much.
    let holds = |sat| world.node.state.lock().lightning_sat = sat;
    holds(1_000);
    world.life(async |gateway| {
        let counted = || world.journal.book(None).unwrap().highest_msat == Some(1_000_000);
        until(counted).await;
        for (n, left, status) in [(1, 850, "warning"), (2, 600, "halted")] {
            world.fate(n, Fate::Arrives(preimage(n)));
            holds(left);
            gateway.pay(PAYER, request(n)).await.unwrap();
            until(|| gateway.ledger().last().status == status).await;
        }
        gateway.pay(PAYER, request(3)).await.unwrap_err();
        assert!(gateway.invoice(order(4)).await.is_err());
    });
}

#[test]
fn a_federation_that_misses_e_cash_or_traps_is_served_no_more_and_others_are() {
    let mut world = World::new();
    world.thresholds = Thresholds {
        grace_msat: 0,
        patience_seconds: 0,
        ..Thresholds::default()
    };
    let holds = |msat| world.federations.balances.lock().insert(PAYEE, msat);
    world.life(async |gateway| {
        let status = async || {
            gateway.check_ledger().await.unwrap();
            let books = gateway.ledger().last().federations;
            let of = |id| {
                let mut all = books.iter();
                all.find(|book| book.id == id).unwrap().status.clone()
            };
            (of(PAYER), of(PAYEE))
        };
        let ok = || "ok".to_owned();
        let halted = || "halted".to_owned();
        let pays = async |federation, n| {
            world.fate(n, Fate::Arrives(preimage(n)));
            gateway.pay(federation, request(n)).await
        };
        assert_eq!(status().await, (ok(), ok()));
        world.federations.traps.lock().insert(PAYEE);
        assert_eq!(status().await, (ok(), halted()));
        assert!(gateway.invoice(order(1)).await.is_err());
        pays(PAYEE, 2).await.unwrap_err();
        pays(PAYER, 3).await.unwrap();
        world.federations.traps.lock().clear();
        assert_eq!(status().await, (ok(), ok()));
        gateway.invoice(order(1)).await.unwrap();
        // More than there can be halts nobody, and less than before halts itself.
        holds(u64::MAX);
        assert_eq!(status().await, (ok(), ok()));
        holds(5 * AMOUNT);
        assert_eq!(status().await, (ok(), halted()));
        pays(PAYEE, 4).await.unwrap_err();
        pays(PAYER, 5).await.unwrap();
        assert!(gateway.invoice(order(6)).await.is_err());
        gateway.ledger().accept(&world.journal).unwrap();
        assert_eq!(status().await, (ok(), ok()));
        pays(PAYEE, 7).await.unwrap();
    });
}

#[test]
fn a_panic_delays_a_payment_and_loses_none() {
    let world = World::new();
    *world.federations.panics.lock() = 3;
    world.life(async |gateway| {
        gateway.invoice(order(1)).await.unwrap();
        world.node.tell(NodeEvent::Held {
            payment_hash: hash(1),
            amount_msat: AMOUNT,
            deadline: 140,
        });
        until(|| gateway.invoice_state(hash(1)).unwrap() == Some(InvoiceState::Settled)).await;
    });
    assert_eq!(*world.federations.panics.lock(), 0);
    assert!(world.node.state.lock().settled.contains_key(&hash(1)));
}

#[test]
fn what_comes_for_a_federation_that_was_left_goes_back_and_what_was_there_goes_on() {
    let world = World::new();
    let held = |n| NodeEvent::Held {
        payment_hash: hash(n),
        amount_msat: AMOUNT,
        deadline: 140,
    };
    world.life(async |gateway| {
        for n in [1, 2] {
            gateway.invoice(order(n)).await.unwrap();
        }
        // It is on its way when the operator leaves.
        *world.federations.panics.lock() = 20;
        world.node.tell(held(1));
        until(|| gateway.invoice_state(hash(1)).unwrap() == Some(InvoiceState::Held)).await;
        let left = Membership {
            active: false,
            ..world.journal.membership(&PAYEE).unwrap().unwrap()
        };
        world.journal.put_membership(&PAYEE, &left).unwrap();
        world.node.tell(held(2));
        until(|| world.node.state.lock().failed == [hash(2)]).await;
        until(|| gateway.invoice_state(hash(1)).unwrap() == Some(InvoiceState::Settled)).await;
        assert!(gateway.invoice(order(3)).await.is_err());
    });
}

#[test]
fn there_are_only_so_many_invoices_that_nobody_pays() {
    let world = World::new();
    world.life(async |gateway| {
        let long = |n| InvoiceOrder {
            expiry_seconds: 3_600,
            ..order(n)
        };
        let mut made = 0;
        let refused = loop {
            match gateway.invoice(long(made + 1)).await {
                Ok(_) => made += 1,
                Err(refused) => break refused,
            }
        };
        assert!(made > 10, "{refused}");
        assert!(refused.to_string().contains("wait to be paid"), "{refused}");
        // While there are many, new ones live for ten minutes.
        let lives = |n| {
            let row = world.journal.incoming(hash(n)).unwrap().unwrap();
            row.expires - row.created
        };
        assert!(lives(1) >= 3_600 && lives(made) <= 601, "{}", lives(made));
        // The same again is no other.
        gateway.invoice(long(1)).await.unwrap();
        // Those that have ended leave their places at once.
        let row = world.journal.incoming(hash(2)).unwrap().unwrap();
        let ended = now() - 1;
        world
            .journal
            .put_invoice(hash(2), &row.invoice, ended)
            .unwrap();
        gateway.invoice(order(made + 1)).await.unwrap();
    });
}

#[test]
fn what_may_be_under_way_without_a_record_is_never_said_to_have_failed() {
    let world = World::new();
    world.fate(1, Fate::Vanishes);
    world.life(async |gateway| {
        in_vain(gateway.pay(PAYER, request(1))).await;
    });
    // It took all there was: a second try finds no route, and says so.
    world.fate(1, Fate::NoRoute);
    world.life(async |gateway| {
        in_vain(gateway.pay(PAYER, request(1))).await;
        assert_eq!(world.node.sent(hash(1)), Some(Sent::Failed));
        world.node.arrives(hash(1), preimage(1));
        let answer = soon(gateway.pay(PAYER, request(1))).await.unwrap();
        assert_eq!(answer.unwrap().preimage, preimage(1));
    });
    assert_eq!(world.left(1), 1);
}

#[test]
fn what_may_be_under_way_has_failed_once_it_must_have_timed_out() {
    let world = World::new();
    world.fate(1, Fate::Vanishes);
    world.life(async |gateway| {
        in_vain(gateway.pay(PAYER, request(1))).await;
    });
    world.fate(1, Fate::NoRoute);
    world.node.state.lock().height = 400 + RESOLVED_BLOCKS;
    world.life(async |gateway| {
        in_vain(gateway.pay(PAYER, request(1))).await;
        world.node.state.lock().height += 1;
        let answer = soon(gateway.pay(PAYER, request(1))).await.unwrap();
        assert_eq!(answer.unwrap_err().code, PAYMENT_FAILED);
    });
}

#[test]
fn what_the_node_says_is_under_way_and_has_lost_has_failed_once_it_must_have_timed_out() {
    let world = World::new();
    world.fate(1, Fate::Stays);
    world.life(async |gateway| {
        in_vain(gateway.pay(PAYER, request(1))).await;
        assert_eq!(world.node.sent(hash(1)), Some(Sent::Pending));
        world.node.state.lock().height = 401 + RESOLVED_BLOCKS;
        let answer = soon(gateway.pay(PAYER, request(1))).await.unwrap();
        assert_eq!(answer.unwrap_err().code, PAYMENT_FAILED);
    });
}

/// A life that ends when the library has sent what it has no record of; the next one finds
/// that it came back.
fn vanished_and_came_back() -> World {
    let world = World::new();
    world.fate(1, Fate::Vanishes);
    world.life(async |gateway| {
        in_vain(gateway.pay(PAYER, request(1))).await;
    });
    world.node.comes_back(hash(1));
    // If it is sent once more, that is under way for long.
    world.fate(1, Fate::Stays);
    world
}

#[test]
fn nothing_is_sent_again_before_the_node_has_told_what_became_of_it() {
    let world = vanished_and_came_back();
    world.node.tells_of_failure(hash(1));
    world.life(async |gateway| {
        // As the wallet that resumes: before anybody takes the node's events.
        let answer = soon(gateway.pay(PAYER, request(1))).await.unwrap();
        assert_eq!(answer.unwrap_err().code, PAYMENT_FAILED);
    });
    assert_eq!(world.left(1), 1);
    // That it arrived would have been told in the same way.
    let world = vanished_and_came_back();
    world.node.arrives(hash(1), preimage(1));
    world.life(async |gateway| {
        let answer = soon(gateway.pay(PAYER, request(1))).await.unwrap();
        assert_eq!(answer.unwrap().preimage, preimage(1));
    });
    assert_eq!(world.left(1), 1);
}

#[test]
fn a_failure_that_is_told_late_does_not_end_what_was_sent_again() {
    let world = vanished_and_came_back();
    world.life(async |gateway| {
        in_vain(gateway.pay(PAYER, request(1))).await;
        assert_eq!(world.left(1), 2);
        world.node.tells_of_failure(hash(1));
        in_vain(gateway.pay(PAYER, request(1))).await;
    });
    // Nor in another life, in which it is told once more.
    world.node.tells_of_failure(hash(1));
    world.life(async |gateway| {
        in_vain(gateway.pay(PAYER, request(1))).await;
        world.node.arrives(hash(1), preimage(1));
        let answer = soon(gateway.pay(PAYER, request(1))).await.unwrap();
        assert_eq!(answer.unwrap().preimage, preimage(1));
    });
    assert_eq!(world.left(1), 2);
}

#[test]
fn killed_at_each_write_what_is_sent_again_is_never_said_to_have_failed() {
    let mut sent_again = 0;
    // The first write is that of the start.
    for writes in 1..4 {
        for told in 0..3 {
            let world = vanished_and_came_back();
            let tell = |life| {
                if told == life {
                    world.node.tells_of_failure(hash(1));
                }
            };
            tell(0);
            world.journal.lives.store(writes, Ordering::SeqCst);
            world.life(async |gateway| {
                let paying = gateway.pay(PAYER, request(1));
                let _ = tokio::time::timeout(Duration::from_millis(100), paying).await;
                tell(1);
                tokio::time::sleep(Duration::from_millis(50)).await;
            });
            world.journal.lives.store(u64::MAX, Ordering::SeqCst);
            tell(2);
            world.life(async |gateway| {
                let paying = gateway.pay(PAYER, request(1));
                let answer = tokio::time::timeout(Duration::from_millis(200), paying).await;
                let under_way = world.node.state.lock().known.contains(&hash(1));
                if under_way {
                    assert!(answer.is_err(), "{writes} {told}: {answer:?}");
                    sent_again += 1;
                    world.node.arrives(hash(1), preimage(1));
                    let answer = soon(gateway.pay(PAYER, request(1))).await.unwrap();
                    assert_eq!(answer.unwrap().preimage, preimage(1));
                } else {
                    assert!(matches!(answer, Ok(Err(_))), "{writes} {told}: {answer:?}");
                }
            });
        }
    }
    assert!(sent_again >= 4, "{sent_again}");
}

#[test]
fn what_arrives_after_it_was_said_to_have_failed_is_lost_and_counts_as_given() {
    let world = World::new();
    world.fate(1, Fate::Comes);
    world.life(async |gateway| {
        gateway.pay(PAYER, request(1)).await.unwrap_err();
        world.node.arrives(hash(1), preimage(1));
        let lost = OutgoingState::Lost {
            preimage: preimage(1),
            fee_msat: 3,
        };
        until(|| world.journal.outgoing(hash(1)).unwrap().unwrap().state == lost).await;
        assert_eq!(world.journal.given_msat(&PAYER).unwrap(), AMOUNT + 3);
        gateway.check_ledger().await.unwrap();
        let books = gateway.ledger().last().federations;
        let book = books.iter().find(|book| book.id == PAYER);
        assert_eq!(book.unwrap().missing_msat, AMOUNT + 3);
        // Of its contract something may be left.
        let answer = gateway.pay(PAYER, request(1)).await.unwrap();
        assert_eq!(answer.preimage, preimage(1));
        gateway.pay(PAYER, again(1)).await.unwrap_err();
    });
    assert_eq!(world.left(1), 1);
}

#[test]
fn what_cannot_be_paid_is_refused_before_anything_is_promised() {
    let world = World::new();
    world.life(async |gateway| {
        let invoice = |invoice: String| PayRequest {
            invoice,
            ..request(1)
        };
        let mut other_network = invoice_of(9, hash(1), Some(AMOUNT), 600);
        other_network.replace_range(..6, "lnbc1");
        for (what, asked) in [
            ("no invoice", invoice("lnbcrt1".into())),
            ("another network", invoice(other_network)),
            ("no amount", invoice(invoice_of(9, hash(1), None, 600))),
            (
                "another hash",
                invoice(invoice_of(9, hash(2), Some(AMOUNT), 600)),
            ),
            ("too late", invoice(invoice_of(9, hash(1), Some(AMOUNT), 5))),
            (
                "too much at once",
                invoice(invoice_of(9, hash(1), Some(u64::MAX / 1_000_000), 600)),
            ),
            (
                "more than is risked",
                invoice(invoice_of(9, hash(1), Some(10 * AMOUNT), 600)),
            ),
        ] {
            let refused = gateway.pay(PAYER, asked).await;
            assert_eq!(refused.expect_err(what).code, PAYMENT_FAILED, "{what}");
        }
        let stranger = FederationId([8; 32]);
        gateway.pay(stranger, request(1)).await.unwrap_err();
        let halts = |book: &mut crate::journal::Book| book.halted = true;
        world.journal.update_book(None, halts).unwrap();
        gateway.pay(PAYER, request(1)).await.unwrap_err();
        assert!(world.journal.outgoing(hash(1)).unwrap().is_none());
        assert!(gateway.invoice(order(2)).await.is_err());
    });
    assert_eq!(world.left(1), 0);
}

#[test]
fn payments_under_way_count_against_what_is_risked() {
    let world = World::new();
    world.life(async |gateway| {
        for n in 1..=9 {
            let (gateway, request) = (gateway.clone(), request(n));
            tokio::spawn(async move { gateway.pay(PAYER, request).await });
        }
        until(|| world.journal.unfinished_outgoing().unwrap().len() == 9).await;
        let refused = soon(gateway.pay(PAYER, request(10))).await.unwrap();
        assert!(refused.unwrap_err().message.contains("at most"));
    });
}

#[test]
fn an_invoice_is_paid_bought_and_settled() {
    let world = World::new();
    world.life(async |gateway| {
        let invoice = gateway.invoice(order(1)).await.unwrap();
        assert_eq!(gateway.invoice(order(1)).await.unwrap(), invoice);
        let again = InvoiceOrder {
            offer: vec![1],
            ..order(1)
        };
        assert!(matches!(
            gateway.invoice(again).await,
            Err(InvoiceError::Refused(refusal)) if refusal.code == "hash-used"
        ));
        let state = || gateway.invoice_state(hash(1)).unwrap();
        assert_eq!(state(), Some(InvoiceState::Waiting));
        world.node.tell(NodeEvent::Held {
            payment_hash: hash(1),
            amount_msat: AMOUNT,
            deadline: 140,
        });
        until(|| state() == Some(InvoiceState::Settled)).await;
        until(|| world.journal.unfinished_incoming().unwrap().is_empty()).await;
        // Who pays a second time has it back.
        world.node.tell(NodeEvent::Held {
            payment_hash: hash(2),
            amount_msat: AMOUNT,
            deadline: 140,
        });
        until(|| world.node.state.lock().failed == [hash(2)]).await;
    });
    let state = world.node.state.lock();
    assert_eq!(state.settled.get(&hash(1)), Some(&preimage(1)));
}

#[test]
fn the_fee_is_of_what_is_paid_whatever_the_order_said_of_the_offer() {
    let world = World::new();
    world.life(async |gateway| {
        for (n, contract_msat) in [(1, AMOUNT - 1_000), (2, 1)] {
            let order = InvoiceOrder {
                contract_msat,
                ..order(n)
            };
            gateway.invoice(order).await.unwrap();
            world.node.tell(NodeEvent::Held {
                payment_hash: hash(n),
                amount_msat: AMOUNT,
                deadline: 140,
            });
            until(|| world.federations.fees.lock().contains_key(&hash(n))).await;
        }
    });
    // 1000 parts per million of 99,900.
    let fees = world.federations.fees.lock();
    assert_eq!((fees[&hash(1)], fees[&hash(2)]), (Amount(100), Amount(100)));
}

#[test]
fn what_goes_back_soon_or_is_refused_or_is_junk_is_given_back() {
    for (what, deadline, refuses, junk) in [
        ("soon", 101, false, false),
        ("refused", 140, true, false),
        ("junk", 140, false, true),
    ] {
        let world = World::new();
        *world.federations.refuses.lock() = refuses;
        *world.federations.junk.lock() = junk;
        world.life(async |gateway| {
            gateway.invoice(order(1)).await.unwrap();
            world.node.tell(NodeEvent::Held {
                payment_hash: hash(1),
                amount_msat: AMOUNT,
                deadline,
            });
            until(|| gateway.invoice_state(hash(1)).unwrap() == Some(InvoiceState::Failed)).await;
        });
        let state = world.node.state.lock();
        assert!(state.failed.contains(&hash(1)), "{what}");
        assert!(state.settled.is_empty(), "{what}");
        let bought = world.federations.bought.lock().get(&hash(1)).copied();
        assert_eq!(bought, junk.then_some(Bought::Refused), "{what}");
    }
}

#[test]
fn a_module_settles_and_fails_for_its_own_federation_alone() {
    let world = World::new();
    world.life(async |gateway| {
        gateway.invoice(order(1)).await.unwrap();
        let held = |_: &Incoming| {
            Some(IncomingState::Held {
                received_msat: AMOUNT,
                deadline: 140,
            })
        };
        world.journal.update_incoming(hash(1), held).unwrap();
        for refused in [
            gateway.settle(PAYER, hash(1), preimage(1)).await,
            gateway.fail(PAYER, hash(1)).await,
        ] {
            assert_eq!(refused.unwrap_err().code, "not-held");
        }
        let wrong = gateway.settle(PAYEE, hash(1), preimage(2)).await;
        assert_eq!(wrong.unwrap_err().code, "wrong-preimage");
        gateway.settle(PAYEE, hash(1), preimage(1)).await.unwrap();
        gateway.settle(PAYEE, hash(1), preimage(1)).await.unwrap();
        assert_eq!(
            gateway.fail(PAYEE, hash(1)).await.unwrap_err().code,
            "not-held"
        );
    });
    assert!(world.node.state.lock().failed.is_empty());
}

/// Pays the invoice of `order(1)` through the same gateway.
async fn swap(gateway: &Gateway) -> Option<Result<PayAnswer, Refusal>> {
    let invoice = gateway.invoice(order(1)).await.ok()?;
    let request = PayRequest {
        invoice,
        ..request(1)
    };
    soon(gateway.pay(PAYER, request)).await
}

#[test]
fn users_of_one_gateway_pay_each_other_without_its_node() {
    let world = World::new();
    world.life(async |gateway| {
        let answer = swap(&gateway).await.unwrap().unwrap();
        assert_eq!((answer.preimage, answer.fee_msat), (preimage(1), 0));
        // A payment over Lightning comes too late.
        world.node.tell(NodeEvent::Held {
            payment_hash: hash(1),
            amount_msat: AMOUNT,
            deadline: 140,
        });
        until(|| world.node.state.lock().events.is_empty()).await;
    });
    assert_eq!(world.left(1), 0);
    assert!(world.node.state.lock().settled.is_empty());
}

#[test]
fn a_swap_that_the_payee_s_federation_refuses_fails() {
    for junk in [true, false] {
        let world = World::new();
        *world.federations.junk.lock() = junk;
        *world.federations.refuses.lock() = !junk;
        world.life(async |gateway| {
            let refusal = swap(&gateway).await.unwrap().unwrap_err();
            assert_eq!(refusal.code, PAYMENT_FAILED);
        });
        assert_eq!(world.left(1), 0);
    }
}

/// A life that ends behind each write in turn, then one that goes on. Returns how many
/// writes a whole life takes.
fn killed_at_each_write(
    first: impl AsyncFn(&World, Gateway),
    second: impl AsyncFn(&World, Gateway),
    proof: impl Fn(&World),
) -> u64 {
    for writes in 0.. {
        let world = World::new();
        world.journal.lives.store(writes, Ordering::SeqCst);
        world.life(async |gateway| {
            let dead = async {
                while world.journal.lives.load(Ordering::SeqCst) > 0 {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                // What does not write may go on for a moment.
                tokio::time::sleep(Duration::from_millis(50)).await;
            };
            tokio::select! {
                () = first(&world, gateway) => {}
                () = dead => {}
            }
        });
        let whole = world.journal.lives.swap(u64::MAX, Ordering::SeqCst) > 0;
        world.life(async |gateway| second(&world, gateway).await);
        proof(&world);
        if whole {
            return writes;
        }
        assert!(writes < 50, "it never ends");
    }
    unreachable!("the numbers do not end")
}

#[test]
fn killed_at_each_write_a_payment_is_made_once_and_its_preimage_is_known() {
    let pays = async |world: &World, gateway: Gateway| {
        world.fate(1, Fate::Arrives(preimage(1)));
        gateway.pay(PAYER, request(1)).await.unwrap();
    };
    let writes = killed_at_each_write(pays, pays, |world| assert_eq!(world.left(1), 1));
    assert!(writes >= 2, "{writes}");
}

#[test]
fn killed_at_each_write_a_held_payment_is_bought_once_and_settled() {
    let receives = async |world: &World, gateway: Gateway| {
        let told = world.node.received(hash(1)).is_some();
        gateway.invoice(order(1)).await.ok();
        if !told && world.journal.incoming(hash(1)).unwrap().is_some() {
            world.node.tell(NodeEvent::Held {
                payment_hash: hash(1),
                amount_msat: AMOUNT,
                deadline: 140,
            });
        }
        until(|| {
            let row = world.journal.incoming(hash(1)).unwrap();
            row.is_some_and(|row| matches!(row.state, IncomingState::Settled { .. }))
        })
        .await;
    };
    let writes = killed_at_each_write(receives, receives, |world| {
        let state = world.node.state.lock();
        let Some(row) = world.journal.incoming(hash(1)).unwrap() else {
            panic!("the invoice was made in the second life at the latest");
        };
        let preimage = preimage(1);
        assert_eq!(row.state, IncomingState::Settled { preimage });
        assert_eq!(state.settled.get(&hash(1)), Some(&preimage));
        assert!(state.failed.is_empty());
        assert_eq!(world.federations.bought.lock()[&hash(1)], Bought::Settled);
    });
    assert!(writes >= 4, "{writes}");
}

#[test]
fn killed_at_each_write_a_swap_ends_the_same_on_both_sides() {
    for junk in [false, true] {
        let swaps = async |world: &World, gateway: Gateway| {
            *world.federations.junk.lock() = junk;
            let row = world.journal.incoming(hash(1)).unwrap();
            match row.filter(|row| row.state != IncomingState::Waiting) {
                None => {
                    swap(&gateway).await;
                }
                Some(row) => {
                    let request = PayRequest {
                        invoice: row.invoice,
                        ..request(1)
                    };
                    let _ = gateway.pay(PAYER, request).await;
                }
            }
        };
        killed_at_each_write(swaps, swaps, |world| {
            let paid = world.journal.outgoing(hash(1)).unwrap().unwrap().state;
            let received = world.journal.incoming(hash(1)).unwrap().unwrap().state;
            let bought = world.federations.bought.lock()[&hash(1)];
            match junk {
                false => {
                    assert!(matches!(paid, OutgoingState::Paid { .. }), "{paid:?}");
                    assert!(matches!(received, IncomingState::Settled { .. }));
                    assert_eq!(bought, Bought::Settled);
                }
                true => {
                    assert!(matches!(paid, OutgoingState::Failed { .. }), "{paid:?}");
                    assert!(matches!(received, IncomingState::Failed { .. }));
                    assert_eq!(bought, Bought::Refused);
                }
            }
            assert_eq!(world.left(1), 0);
        });
    }
}
