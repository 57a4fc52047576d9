//! What guardians take and refuse, whatever wallets do: who wins each race, what is
//! bounded, what is forgotten.

use modmint_ln::*;
use modmint_sdk::{
    Answer, InputEffect, Refusal, Server, borsh, crypto,
    mock::{Phase, Wallet},
    to_hex, wallet,
};

use crate::world::*;

/// Keys that tests sign with.
pub struct Signer(Wallet);

impl Signer {
    pub fn new(world: &World, name: &str) -> Self {
        Self(Wallet::new(&world.federation, name))
    }
    pub fn key(&self) -> PublicKey {
        let key = || wallet::derive_public_key(&[0]);
        self.0.call(LN, Phase::Look, key)
    }
    fn sign(&self, message: impl FnOnce() -> [u8; 32]) -> [u8; 64] {
        let sign = || wallet::sign_schnorr(&[0], None, &message());
        self.0.call(LN, Phase::Look, sign)
    }
    pub fn cancels(&self, contract: ContractId) -> ContractOrOfferOutput {
        ContractOrOfferOutput::CancelOutgoing(CancelOutgoing {
            contract,
            signature: self.sign(|| cancels(&contract)),
        })
    }
    fn announces(&self, expires: u64) -> ContractOrOfferOutput {
        let gateway = Gateway {
            gateway_key: self.key(),
            node_key: [2; 33],
            api: API.into(),
            alias: "test".into(),
            pay_fee: GatewayFee::default(),
            receive_fee: GatewayFee::default(),
            expires,
        };
        let signature = self.sign(|| announces(&gateway));
        ContractOrOfferOutput::Announcement(Announcement { gateway, signature })
    }
    /// For anybody or one gateway; the preimage is the honest one.
    fn offers(&self, world: &World, number: u8, to: Option<PublicKey>) -> Offer {
        let mut offer = Offer {
            payment_hash: hash_of(number),
            amount: 2_000 * SAT,
            claim_key: self.key(),
            gateway_key: to,
            expiry: world.federation.time() + 3600,
            nonce: [number; 16],
            ciphertext: [0; CIPHERTEXT],
        };
        self.encrypt(&mut offer, &preimage_of(number));
        offer
    }
    pub fn encrypt(&self, offer: &mut Offer, preimage: &Preimage) {
        let ciphertext = self.0.call(LN, Phase::Look, || {
            wallet::tpe_encrypt(KEY, preimage, &offer.terms(), &[1; 32])
        });
        offer.ciphertext = ciphertext.try_into().unwrap();
    }
}

fn outgoing(gateway: &Signer, user: &Signer, timelock: u32) -> ContractOrOfferOutput {
    ContractOrOfferOutput::Contract(Contract::Outgoing(OutgoingContract {
        payment_hash: hash_of(1),
        amount: 2_000 * SAT,
        gateway_key: gateway.key(),
        user_key: user.key(),
        timelock,
        nonce: [0; 16],
    }))
}

pub fn buys(offer: &Offer, gateway_key: PublicKey) -> ContractOrOfferOutput {
    let offer = offer.clone();
    ContractOrOfferOutput::Contract(Contract::Incoming(IncomingContract { offer, gateway_key }))
}

pub fn take(world: &World, input: ContractInput) -> Result<InputEffect, Refusal> {
    world
        .federation
        .consensus(LN, || Ln::process_input(input.clone()))
}

pub fn id_of(world: &World, offer: &Offer) -> OfferId {
    world
        .federation
        .call(LN, Phase::Stateless, None, || offer.id())
}

fn ask<T: borsh::BorshDeserialize>(
    world: &World,
    name: &str,
    arguments: Vec<modmint_sdk::Argument>,
) -> Option<T> {
    match world.federation.query(0, LN, name, arguments).unwrap() {
        Ok(Answer::Ready(bytes)) => Some(borsh::from_slice(&bytes).unwrap()),
        Ok(Answer::Wait(wakes)) => {
            assert!(!wakes.is_empty());
            None
        }
        Err(refusal) => panic!("{refusal:?}"),
    }
}

fn gateways(world: &World) -> Vec<KnownGateway> {
    ask(world, "gateways", GatewaysQuery {}.arguments()).unwrap()
}

#[test]
fn at_the_timelocks_block_whoever_is_ordered_first_has_the_money() {
    for claims_first in [true, false] {
        let world = World::new(1);
        let (gateway, user) = (Signer::new(&world, "g"), Signer::new(&world, "u"));
        let timelock = world.federation.height() + 10;
        let contract = world.put(outgoing(&gateway, &user, timelock)).unwrap();
        let claim = ContractInput::Claim {
            contract,
            preimage: preimage_of(1),
        };
        let refund = ContractInput::RefundTimeout { contract };
        world.federation.mine_blocks(9);
        assert_eq!(world.refused_input(refund.clone()), "too-early");
        world.federation.mine_blocks(1);
        let (first, second, key) = match claims_first {
            true => (claim, refund, gateway.key()),
            false => (refund, claim, user.key()),
        };
        let effect = take(&world, first).unwrap();
        assert_eq!(
            (effect.value, effect.spend_key),
            (2_000 * SAT, key.to_vec())
        );
        assert_eq!(world.refused_input(second), "no-such-contract");
        assert_eq!(world.held(), 0);
    }
}

#[test]
fn a_contract_is_cancelled_or_claimed_and_never_both() {
    let world = World::new(1);
    let (gateway, user) = (Signer::new(&world, "g"), Signer::new(&world, "u"));
    let timelock = world.federation.height() + 10;
    let fund = || world.put(outgoing(&gateway, &user, timelock)).unwrap();
    let claim = |contract| ContractInput::Claim {
        contract,
        preimage: preimage_of(1),
    };
    // Cancelled: the preimage does not help any more.
    let contract = fund();
    let refund = ContractInput::RefundCancelled { contract };
    assert_eq!(world.refused_input(refund.clone()), "not-cancelled");
    assert_eq!(
        world.refused_output(user.cancels(contract)),
        "bad-signature"
    );
    world.put(gateway.cancels(contract)).unwrap();
    assert_eq!(
        world.refused_output(gateway.cancels(contract)),
        "contract-cancelled"
    );
    assert_eq!(world.refused_input(claim(contract)), "contract-cancelled");
    assert_eq!(take(&world, refund).unwrap().spend_key, user.key());
    // Claimed: there is nothing left to cancel.
    let contract = fund();
    take(&world, claim(contract)).unwrap();
    assert_eq!(
        world.refused_output(gateway.cancels(contract)),
        "no-such-contract"
    );
    let refund = ContractInput::RefundCancelled { contract };
    assert_eq!(world.refused_input(refund), "no-such-contract");
    // The preimage is there for the payer.
    let query = PreimageQuery {
        contract: contract.to_vec(),
    };
    let preimage: Option<Preimage> = ask(&world, "preimage", query.arguments());
    assert_eq!(preimage, Some(preimage_of(1)));
}

#[test]
fn an_old_cancellation_fits_no_other_contract() {
    let world = World::new(1);
    let (gateway, user) = (Signer::new(&world, "g"), Signer::new(&world, "u"));
    let timelock = world.federation.height() + 10;
    let first = world.put(outgoing(&gateway, &user, timelock)).unwrap();
    let ContractOrOfferOutput::CancelOutgoing(cancel) = gateway.cancels(first) else {
        panic!("it cancels");
    };
    world.put(gateway.cancels(first)).unwrap();
    take(&world, ContractInput::RefundCancelled { contract: first }).unwrap();
    // The very same terms once more.
    let second = world.put(outgoing(&gateway, &user, timelock)).unwrap();
    let replayed = ContractOrOfferOutput::CancelOutgoing(CancelOutgoing {
        contract: second,
        ..cancel
    });
    assert_eq!(world.refused_output(replayed), "bad-signature");
}

#[test]
fn timelocks_and_amounts_have_bounds() {
    let world = World::new(1);
    let (gateway, user) = (Signer::new(&world, "g"), Signer::new(&world, "u"));
    let height = world.federation.height();
    for (timelock, fits) in [
        (height, false),
        (height + 1, true),
        (height + MOST_TIMELOCK_BLOCKS, true),
        (height + MOST_TIMELOCK_BLOCKS + 1, false),
    ] {
        let put = world.put(outgoing(&gateway, &user, timelock));
        assert_eq!(put.is_ok(), fits, "{timelock}");
        if let Err(refusal) = put {
            assert_eq!(refusal.code, "bad-timelock");
        }
    }
    for (amount, code) in [(999, "too-little"), (u64::MAX, "too-much")] {
        let ContractOrOfferOutput::Contract(Contract::Outgoing(mut contract)) =
            outgoing(&gateway, &user, height + 1)
        else {
            panic!("it is outgoing");
        };
        contract.amount = amount;
        let output = ContractOrOfferOutput::Contract(Contract::Outgoing(contract));
        assert_eq!(world.refused_output(output), code);
    }
}

#[test]
fn of_two_gateways_the_first_has_the_offer_and_it_is_bought_once() {
    let world = World::new(1);
    let bob = Signer::new(&world, "bob");
    let (first, second) = (Signer::new(&world, "g"), Signer::new(&world, "h"));
    let offer = bob.offers(&world, 1, None);
    world
        .put(ContractOrOfferOutput::Offer(offer.clone()))
        .unwrap();
    assert_eq!(
        world.refused_output(ContractOrOfferOutput::Offer(offer.clone())),
        "offer-known"
    );
    let listed: Vec<Offer> =
        ask(&world, "offers", OffersQuery { after: None }.arguments()).unwrap();
    assert_eq!(listed, std::slice::from_ref(&offer));
    world.put(buys(&offer, first.key())).unwrap();
    assert_eq!(
        world.refused_output(buys(&offer, second.key())),
        "offer-bought"
    );
    let listed: Vec<Offer> =
        ask(&world, "offers", OffersQuery { after: None }.arguments()).unwrap();
    assert_eq!(listed, []);
    let claim = ContractInput::ClaimIncoming {
        offer: id_of(&world, &offer),
        preimage: preimage_of(1),
    };
    assert_eq!(take(&world, claim.clone()).unwrap().spend_key, bob.key());
    assert_eq!(world.refused_input(claim), "no-such-contract");
    // Not even when it is over.
    assert_eq!(
        world.refused_output(buys(&offer, first.key())),
        "offer-bought"
    );
    let again = ContractOrOfferOutput::Offer(offer.clone());
    assert_eq!(world.refused_output(again), "offer-bought");
    world.federation.pass(3600);
    assert_eq!(
        world.refused_output(buys(&offer, first.key())),
        "offer-expired"
    );
}

#[test]
fn an_offer_is_bought_before_its_expiry_by_the_gateway_that_it_names() {
    let world = World::new(1);
    let bob = Signer::new(&world, "bob");
    let (named, other) = (Signer::new(&world, "g"), Signer::new(&world, "h"));
    let offer = bob.offers(&world, 1, Some(named.key()));
    assert_eq!(
        world.refused_output(buys(&offer, other.key())),
        "wrong-gateway"
    );
    let mut eternal = offer.clone();
    eternal.expiry = world.federation.time() + MOST_OFFER_SECONDS + 1;
    assert_eq!(
        world.refused_output(buys(&eternal, named.key())),
        "offer-too-long"
    );
    world.federation.pass(3599);
    let in_time = world.put(buys(&offer, named.key()));
    in_time.unwrap();
    let late = bob.offers(&world, 2, Some(named.key()));
    world.federation.pass(3600);
    assert_eq!(
        world.refused_output(buys(&late, named.key())),
        "offer-expired"
    );
    // What was bought is the receiver's, however late.
    let claim = ContractInput::ClaimIncoming {
        offer: id_of(&world, &offer),
        preimage: preimage_of(1),
    };
    take(&world, claim).unwrap();
}

/// What guardians say to a gateway that asks for a share.
fn share(world: &World, asks: &Signer, offer: &Offer) -> Result<Answer, Refusal> {
    let id = id_of(world, offer);
    let query = SharesQuery {
        offer: id.to_vec(),
        signature: asks.sign(|| asks_for_shares(&id)).to_vec(),
    };
    let answer = world
        .federation
        .query(0, LN, "decryption-share", query.arguments());
    answer.unwrap()
}

#[test]
fn shares_are_for_the_buyer_alone_from_the_moment_it_has_paid() {
    let world = World::new(1);
    let bob = Signer::new(&world, "bob");
    let (buyer, other) = (Signer::new(&world, "g"), Signer::new(&world, "h"));
    let offer = bob.offers(&world, 1, None);
    world
        .put(ContractOrOfferOutput::Offer(offer.clone()))
        .unwrap();
    assert!(matches!(share(&world, &buyer, &offer), Ok(Answer::Wait(_))));
    world.put(buys(&offer, buyer.key())).unwrap();
    assert!(matches!(
        share(&world, &buyer, &offer),
        Ok(Answer::Ready(_))
    ));
    for asks in [&other, &bob] {
        let refused = share(&world, asks, &offer).unwrap_err();
        assert_eq!(refused.code, "bad-signature");
    }
    let claim = ContractInput::ClaimIncoming {
        offer: id_of(&world, &offer),
        preimage: preimage_of(1),
    };
    take(&world, claim).unwrap();
    assert!(matches!(share(&world, &buyer, &offer), Ok(Answer::Wait(_))));
}

/// What the shares of these guardians combine to.
pub fn decryption_key(world: &World, buyer: &Signer, offer: &Offer) -> [u8; 48] {
    let Ok(Answer::Ready(share)) = share(world, buyer, offer) else {
        panic!("it is there");
    };
    let key = buyer.0.call(LN, Phase::Look, || {
        wallet::tpe_combine(KEY, &offer.ciphertext, &offer.terms(), &[(0, share)])
    });
    key.unwrap().try_into().unwrap()
}

#[test]
fn only_what_is_junk_is_paid_back() {
    let world = World::new(1);
    let bob = Signer::new(&world, "bob");
    let buyer = Signer::new(&world, "g");
    let refund = |offer: &Offer, decryption_key| ContractInput::RefundJunk {
        offer: id_of(&world, offer),
        decryption_key,
    };
    let good = bob.offers(&world, 1, None);
    let mut junk = bob.offers(&world, 2, None);
    bob.encrypt(&mut junk, &preimage_of(3));
    for offer in [&good, &junk] {
        world.put(buys(offer, buyer.key())).unwrap();
    }
    let good_key = decryption_key(&world, &buyer, &good);
    let junk_key = decryption_key(&world, &buyer, &junk);
    assert_eq!(world.refused_input(refund(&good, good_key)), "not-junk");
    assert_eq!(
        world.refused_input(refund(&good, junk_key)),
        "bad-decryption-key"
    );
    assert_eq!(
        world.refused_input(refund(&junk, good_key)),
        "bad-decryption-key"
    );
    assert_eq!(
        world.refused_input(refund(&junk, [0; 48])),
        "bad-decryption-key"
    );
    let effect = take(&world, refund(&junk, junk_key)).unwrap();
    assert_eq!(effect.spend_key, buyer.key());
    // The receiver comes too late with a preimage that it had after all.
    let claim = ContractInput::ClaimIncoming {
        offer: id_of(&world, &junk),
        preimage: preimage_of(2),
    };
    assert_eq!(world.refused_input(claim), "no-such-contract");
}

#[test]
fn a_gateway_announces_itself_alone_and_for_a_while() {
    let world = World::new(1);
    let gateway = Signer::new(&world, "g");
    let now = world.federation.time();
    let until = |seconds| gateway.announces(now + seconds);
    assert_eq!(world.refused_output(until(0)), "bad-lifetime");
    let eternal = until(MOST_LIFETIME_SECONDS + 1);
    assert_eq!(world.refused_output(eternal), "bad-lifetime");
    world.put(until(100)).unwrap();
    // The same once more, by whoever has seen it; an older one; one of somebody else.
    for seconds in [100, 99] {
        assert_eq!(world.refused_output(until(seconds)), "announced");
    }
    let ContractOrOfferOutput::Announcement(mut forged) = until(200) else {
        panic!("it announces");
    };
    forged.gateway.api = "https://evil.example".into();
    let mut two_lines = forged.clone();
    two_lines.gateway.alias = "bank\nand confirm".into();
    for (announcement, code) in [(forged, "bad-signature"), (two_lines, "bad-text")] {
        let output = ContractOrOfferOutput::Announcement(announcement);
        assert_eq!(world.refused_output(output), code);
    }
    world.put(until(200)).unwrap();
    let known = |world: &World| {
        let all = gateways(world).into_iter();
        all.filter(|known| known.gateway.alias == "test").count()
    };
    assert_eq!(known(&world), 1);
    world.federation.pass(200);
    assert_eq!(known(&world), 0);
}

#[test]
fn a_vetted_gateway_finds_room_among_those_that_are_not() {
    let world = World::new(4);
    let now = world.federation.time();
    // The world has one of its own.
    for number in 1..MOST_GATEWAYS {
        let gateway = Signer::new(&world, &format!("gateway {number}"));
        world
            .put(gateway.announces(now + 1000 + u64::from(number)))
            .unwrap();
    }
    let vetted = Signer::new(&world, "vetted");
    let announces = || vetted.announces(now + 500);
    assert_eq!(world.refused_output(announces()), "too-many-gateways");
    let vet = |guardian, withdraw| {
        let command = VetCommand {
            gateway_key: vetted.key().to_vec(),
            withdraw,
        };
        world
            .federation
            .command(guardian, LN, "vet", command.arguments())
    };
    vet(0, false).unwrap();
    vet(1, false).unwrap();
    assert_eq!(vet(1, false).unwrap_err().code, "nothing-changes");
    assert_eq!(world.refused_output(announces()), "too-many-gateways");
    vet(2, false).unwrap();
    world.put(announces()).unwrap();
    let all = gateways(&world);
    assert_eq!(all.len() as u32, MOST_GATEWAYS);
    let found: Vec<_> = all.iter().filter(|known| known.vetted).collect();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].gateway.gateway_key, vetted.key());
    vet(2, true).unwrap();
    assert!(gateways(&world).iter().all(|known| !known.vetted));
}

#[test]
fn what_is_over_is_forgotten() {
    let world = World::new(1);
    let (gateway, bob) = (Signer::new(&world, "g"), Signer::new(&world, "bob"));
    let before = world.federation.store(LN).len();
    for round in 1..=20u64 {
        let height = world.federation.height();
        let contract = world.put(outgoing(&gateway, &bob, height + 10)).unwrap();
        let preimage = preimage_of(1);
        take(&world, ContractInput::Claim { contract, preimage }).unwrap();
        let offer = bob.offers(&world, 100 + round as u8, None);
        world
            .put(ContractOrOfferOutput::Offer(offer.clone()))
            .unwrap();
        world.put(buys(&offer, gateway.key())).unwrap();
        let claim = ContractInput::ClaimIncoming {
            offer: id_of(&world, &offer),
            preimage: preimage_of(100 + round as u8),
        };
        take(&world, claim).unwrap();
        world
            .put(gateway.announces(world.federation.time() + 100))
            .unwrap();
        world.federation.pass(PREIMAGE_SECONDS);
    }
    assert_eq!(world.held(), 0);
    // The last round's: two preimages, an offer bought, and when each of them is over,
    // and an announcement and its; of the offer that it was published; two counters.
    let kept = world.federation.store(LN).len() - before;
    assert!(kept <= 12, "{kept} entries");
}

#[test]
fn people_are_shown_what_moves() {
    let world = World::new(1);
    let bob = Signer::new(&world, "bob");
    let shown = |item, bytes| world.federation.render(LN, item, bytes);
    let offer = bob.offers(&world, 1, None);
    let outputs = [
        (outgoing(&bob, &bob, 500), r#"{"type":"outgoing""#),
        (buys(&offer, bob.key()), r#"{"type":"incoming""#),
        (
            ContractOrOfferOutput::Offer(offer.clone()),
            r#"{"type":"offer""#,
        ),
        (bob.cancels([1; 32]), r#"{"type":"cancel-outgoing""#),
        (bob.announces(5), r#"{"type":"announcement""#),
    ];
    for (output, begins) in outputs {
        let bytes = borsh::to_vec(&output).unwrap();
        let text = shown(modmint_sdk::Item::Output, bytes.clone()).unwrap();
        assert!(text.starts_with(begins), "{text}");
        assert!(shown(modmint_sdk::Item::Output, bytes[1..].to_vec()).is_err());
    }
    let claim = ContractInput::ClaimIncoming {
        offer: [7; 32],
        preimage: [8; 32],
    };
    let text = shown(modmint_sdk::Item::Input, borsh::to_vec(&claim).unwrap()).unwrap();
    assert!(text.contains(&to_hex(&[8; 32])), "{text}");
    let known = borsh::to_vec(&gateways(&world)).unwrap();
    let text = shown(modmint_sdk::Item::Answer("gateways".into()), known).unwrap();
    assert!(
        text.contains(API) && text.contains(r#""vetted":false"#),
        "{text}"
    );
}

#[test]
fn an_offers_terms_are_all_that_is_in_it() {
    let world = World::new(1);
    let bob = Signer::new(&world, "bob");
    let offer = bob.offers(&world, 1, None);
    let valid = |offer: &Offer| {
        let check = || crypto::tpe_verify(KEY, &offer.ciphertext, &offer.terms());
        world.federation.call(LN, Phase::Query, Some(0), check)
    };
    assert!(valid(&offer));
    let changes: [fn(&mut Offer); 6] = [
        |offer| offer.payment_hash[0] ^= 1,
        |offer| offer.amount += 1,
        |offer| offer.claim_key[5] ^= 1,
        |offer| offer.gateway_key = Some([2; 33]),
        |offer| offer.expiry += 1,
        |offer| offer.nonce[0] ^= 1,
    ];
    for (place, change) in changes.into_iter().enumerate() {
        let mut changed = offer.clone();
        change(&mut changed);
        assert!(!valid(&changed), "{place}");
        assert_eq!(
            world.refused_output(buys(&changed, [2; 33])),
            "bad-ciphertext"
        );
    }
}
