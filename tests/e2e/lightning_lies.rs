//! A gateway that lies: it has a key, signs what it likes, and never pays. Guardians and
//! wallets are the real ones; the gateway is this test.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crate::common::{
    Fixture,
    raw::{federation_id, submit, transaction},
    until,
};
use axum::{
    Json, Router,
    extract::State,
    routing::{get, post},
};
use bitcoin::{
    hashes::{Hash as _, sha256 as bitcoin_sha256},
    secp256k1::{Secp256k1, SecretKey},
};
use lightning_invoice::{Currency, InvoiceBuilder, PaymentSecret};
use modmint::{
    federation::Options,
    tour::{balanced, refused},
    wallet::Wallet,
};
use modmint_core::{
    Amount, Argument, Input, InstanceId, Output, Value as ArgumentValue, sha256, tagged_hash,
};
use modmint_crypto::secp;
use modmint_ln::{
    Announcement, CancelOutgoing, ContractInput, ContractOrOfferOutput, Gateway, GatewayFee,
};
use modmint_sdk::to_hex;
use serde_json::{Value, json};

const SAT: u64 = 1000;
/// Behind the mint and the wallet.
const LN: InstanceId = InstanceId(2);
/// The liar's key, and somebody else's.
const SECRET: [u8; 32] = [5; 32];
const STRANGER: [u8; 32] = [6; 32];
/// What it wants; a wallet adds twelve blocks.
const TIMELOCK: u32 = 3;

/// What the liar has been told.
#[derive(Default)]
struct Told {
    contracts: Mutex<VecDeque<[u8; 32]>>,
}

async fn routing() -> Json<Value> {
    Json(json!({
        "gateway_key": to_hex(&secp::public_key(&SECRET)),
        "node_key": to_hex(&[2; 33]),
        "alias": "liar",
        "network": "regtest",
        "pay_base_msat": 1000,
        "pay_parts_per_million": 0,
        "receive_base_msat": 1000,
        "receive_parts_per_million": 0,
        "minimum_timelock_blocks": TIMELOCK,
        "maximum_invoice_msat": 1_000_000_000,
    }))
}

async fn payments(State(told): State<Arc<Told>>, Json(body): Json<Value>) -> Json<Value> {
    let contract = body["contract"].as_str().expect("a contract");
    let contract = modmint_core::decode_hex(contract).expect("hexadecimal");
    let contract = contract.try_into().expect("32 bytes");
    let mut contracts = told
        .contracts
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    if !contracts.contains(&contract) {
        contracts.push_back(contract);
    }
    Json(json!({ "payment_hash": "", "state": "pending" }))
}

/// An invoice of its own instead of the user's: it would keep what is paid for it.
async fn invoices(Json(body): Json<Value>) -> Json<Value> {
    let amount = body["amount_msat"].as_u64().expect("an amount");
    Json(json!({ "invoice": invoice(9, amount) }))
}

/// Of somebody whom nobody can reach; the preimage is `[number; 32]`.
fn invoice(number: u8, msat: u64) -> String {
    let secp = Secp256k1::new();
    let key = SecretKey::from_slice(&[41; 32]).expect("a key");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("later");
    InvoiceBuilder::new(Currency::Regtest)
        .description("a test".into())
        .payment_hash(bitcoin_sha256::Hash::from_byte_array(sha256(&[number; 32])))
        .payment_secret(PaymentSecret([3; 32]))
        .amount_milli_satoshis(msat)
        .duration_since_epoch(Duration::from_secs(now.as_secs()))
        .expiry_time(Duration::from_secs(3600))
        .min_final_cltv_expiry_delta(18)
        .build_signed(|message| secp.sign_ecdsa_recoverable(message, &key))
        .expect("an invoice")
        .to_string()
}

struct Liar {
    federation: Fixture,
    user: Wallet,
    told: Arc<Told>,
}

impl Liar {
    /// A federation that lists it, a user with money, and its routes.
    async fn new() -> Self {
        let mut options = Options::standard().expect("scripts/test builds the bundles");
        let ln = options
            .modules
            .iter_mut()
            .find(|module| module.kind == "ln");
        // So that it can be announced by a transaction of nothing else.
        ln.expect("a standard module").arguments.push(Argument {
            name: "announcement-fee".into(),
            value: ArgumentValue::Amount(Amount(0)),
        });
        let federation = Fixture::found(options).await;
        let user = federation.rich_wallet("user", 200_000).await;
        let told: Arc<Told> = Arc::default();
        let router = Router::new()
            .route("/v1/federations/{id}/routing", get(routing))
            .route("/v1/federations/{id}/payments", post(payments))
            .route("/v1/federations/{id}/invoices", post(invoices))
            .with_state(told.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("a port");
        let api = format!("http://{}", listener.local_addr().expect("an address"));
        tokio::spawn(async move { axum::serve(listener, router).await });
        let liar = Self {
            federation,
            user,
            told,
        };
        liar.announce(api).await;
        liar
    }

    async fn announce(&self, api: String) {
        let guardian = &self.federation.guardians[0];
        let now = guardian.status().await.expect("it answers").unix_time;
        let gateway = Gateway {
            gateway_key: secp::public_key(&SECRET),
            node_key: secp::public_key(&STRANGER),
            api,
            alias: "liar".into(),
            pay_fee: GatewayFee::default(),
            receive_fee: GatewayFee::default(),
            expires: now + 24 * 3600,
        };
        let id = federation_id(guardian).await;
        let encoded = borsh::to_vec(&gateway).expect("encodes");
        let message = tagged_hash("modmint/ln/announce", &[&id.0, &encoded]);
        let signature = secp::sign_schnorr(&SECRET, &message);
        let announcement = Announcement { gateway, signature };
        let output = ContractOrOfferOutput::Announcement(announcement);
        assert_eq!(self.outputs(output).await, Ok(()));
        until("users to know of it", || async {
            let known = self.user.run(&["ln", "gateways"]).await;
            known.is_ok_and(|known| known.to_string().contains("liar"))
        })
        .await;
    }

    /// A transaction of nothing but this.
    async fn outputs(&self, output: ContractOrOfferOutput) -> Result<(), String> {
        let guardian = &self.federation.guardians[0];
        let output = Output {
            instance: LN,
            bytes: borsh::to_vec(&output).expect("encodes"),
        };
        let made = transaction(guardian, Vec::new(), vec![output]).await;
        submit(guardian, &made).await
    }

    async fn takes(&self, input: ContractInput, secret: [u8; 32]) -> Result<(), String> {
        let guardian = &self.federation.guardians[1];
        let input = Input {
            instance: LN,
            bytes: borsh::to_vec(&input).expect("encodes"),
        };
        let made = transaction(guardian, vec![(input, secret)], Vec::new()).await;
        submit(guardian, &made).await
    }

    async fn claims(&self, contract: [u8; 32], number: u8) -> Result<(), String> {
        let preimage = [number; 32];
        let input = ContractInput::Claim { contract, preimage };
        self.takes(input, SECRET).await
    }

    async fn cancels(&self, contract: [u8; 32], secret: [u8; 32]) -> Result<(), String> {
        let id = federation_id(&self.federation.guardians[0]).await;
        let message = tagged_hash("modmint/ln/cancel", &[&id.0, &contract]);
        let cancel = CancelOutgoing {
            contract,
            signature: secp::sign_schnorr(&secret, &message),
        };
        self.outputs(ContractOrOfferOutput::CancelOutgoing(cancel))
            .await
    }

    /// The user pays the n-th invoice; returns when its money is locked for the liar.
    async fn lock(&self, number: u8) -> (modmint::wallet::Running, [u8; 32]) {
        let invoice = invoice(number, 10_000 * SAT);
        let paying = self.user.begin(&["ln", "pay", &invoice], &[]);
        let next = || {
            let mut contracts = self.told.contracts.lock();
            let contracts = contracts.as_mut().expect("nobody panics");
            contracts.pop_front()
        };
        let contract = modmint::wait_for("a contract", Duration::from_secs(60), || async {
            next().ok_or_else(|| anyhow::anyhow!("not yet"))
        });
        let contract = contract.await.expect("the liar is told");
        (paying.expect("it begins"), contract)
    }

    async fn balance(&self) -> u64 {
        self.user.balance().await.expect("a balance")
    }
}

fn err(code: &str) -> Result<(), String> {
    Err(code.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_lies_has_nothing_that_it_has_no_preimage_for() {
    let liar = Liar::new().await;
    let Liar {
        federation, user, ..
    } = &liar;

    // It takes the contract, tries what it can, and vanishes.
    let before = liar.balance().await;
    let (paying, contract) = liar.lock(1).await;
    assert_eq!(liar.claims(contract, 2).await, err("wrong-preimage"));
    let refund = ContractInput::RefundCancelled { contract };
    assert_eq!(liar.takes(refund, SECRET).await, err("not-cancelled"));
    let refund = ContractInput::RefundTimeout { contract };
    assert_eq!(liar.takes(refund, SECRET).await, err("too-early"));
    let preimage = [1; 32];
    let claim = ContractInput::Claim { contract, preimage };
    let stranger = liar.takes(claim, STRANGER).await;
    assert!(stranger.is_err(), "anybody who has the preimage can claim");
    assert_eq!(liar.cancels(contract, STRANGER).await, err("bad-signature"));
    let depth = federation.plan.finality_depth;
    let height = federation.bitcoind.tip().await.expect("a tip").height;
    federation
        .bitcoind
        .mine(TIMELOCK + 12 + depth)
        .await
        .expect("blocks");
    federation
        .agreed_height(height + TIMELOCK + 12)
        .await
        .expect("guardians agree");
    let outcome = paying.end().await.expect("it ends");
    assert_eq!(refused(outcome).expect("it fails"), "payment-failed");
    let cost = before - liar.balance().await;
    assert!(cost < 10 * SAT, "{cost}");
    // It comes back with the preimage: too late.
    assert_eq!(liar.claims(contract, 1).await, err("no-such-contract"));
    println!("vanished: {cost} msat of fees, the rest is back");

    // It gives the contract back, and claims it none the less.
    let before = liar.balance().await;
    let (paying, contract) = liar.lock(2).await;
    assert_eq!(liar.cancels(contract, SECRET).await, Ok(()));
    let claimed = liar.claims(contract, 2).await.expect_err("it is cancelled");
    assert!(
        ["contract-cancelled", "no-such-contract"].contains(&claimed.as_str()),
        "{claimed}"
    );
    let outcome = paying.end().await.expect("it ends");
    assert_eq!(refused(outcome).expect("it fails"), "payment-failed");
    let cost = before - liar.balance().await;
    assert!(cost < 10 * SAT, "{cost}");
    println!("cancelled and claimed: {cost} msat of fees, the rest is back");

    // What it can have it can have for the preimage alone, which the payer gets.
    let (paying, contract) = liar.lock(3).await;
    assert_eq!(liar.claims(contract, 3).await, Ok(()));
    let paid = paying.end().await.expect("it ends").succeeded();
    let paid = paid.expect("it is paid");
    assert_eq!(paid["details"]["preimage"], to_hex(&[3; 32]));
    let refund = ContractInput::RefundTimeout { contract };
    let again = liar.takes(refund, SECRET).await;
    assert_eq!(again, err("no-such-contract"));

    // An invoice of its own for a user's offer is not handed out.
    let outcome = user.try_run(&["ln", "invoice", "5000sat"], &[]).await;
    let outcome = outcome.expect("it runs");
    assert!(!outcome.messages.contains("lnbcrt"), "{}", outcome.messages);
    println!("another's invoice: {}", refused(outcome).expect("it fails"));

    until("guardians to have the same books", || async {
        balanced(federation).await.is_ok()
    })
    .await;
}
