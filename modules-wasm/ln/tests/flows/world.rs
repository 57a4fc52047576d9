//! A federation, a gateway, and what its node and its REST routes answer.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc, time::Duration};

use bitcoin::{
    hashes::{Hash, sha256},
    secp256k1::{Secp256k1, SecretKey},
};
use lightning_invoice::{Currency, InvoiceBuilder, PaymentSecret};
use modmint_ln::*;
use modmint_sdk::{
    Amount, Argument, HttpRequest, HttpResponse, OutPoint, Refusal, Server, borsh,
    mock::{Bundle, Federation, OperationId, Phase, Wallet},
    to_hex, wallet,
};
use serde_json::{Value, json};

pub const SAT: u64 = 1000;
/// Seconds.
pub const DAY: u64 = 24 * 3600;
pub const LN: u16 = 1;
/// What the federation asks for a contract.
pub const CONTRACT_FEE: u64 = SAT;
/// What the gateway asks, whatever the amount.
pub const PAY_FEE: u64 = 20 * SAT;
pub const RECEIVE_FEE: u64 = 10 * SAT;
/// How far away the gateway wants timelocks.
pub const BLOCKS: u32 = 100;
pub const API: &str = "https://gateway.example";
/// What the gateway begins with.
const CAPITAL: u64 = 100_000;

pub fn preimage_of(number: u8) -> Preimage {
    [number; 32]
}

pub fn hash_of(number: u8) -> PaymentHash {
    modmint_core::sha256(&preimage_of(number))
}

/// The node, and what the daemon has been told.
#[derive(Default)]
pub struct Node {
    pub gateway_key: String,
    pub time: u64,
    /// What paying a hash comes to.
    pub answers: BTreeMap<PaymentHash, Result<Preimage, &'static str>>,
    /// Payments asked for: the invoice, the contract, its payer's signature.
    pub posted: Vec<(String, ContractId, Vec<u8>)>,
    /// By when it was to have paid what it was asked for.
    pub latest_heights: Vec<u64>,
    /// What other gateways' addresses answer to whoever asks for a quote.
    pub others: BTreeMap<String, Value>,
    /// Offers for which invoices were made.
    pub offers: Vec<Offer>,
    pub settled: Vec<(PaymentHash, Preimage)>,
    pub failed: Vec<PaymentHash>,
    /// It answers nobody.
    pub down: bool,
    /// What becomes of the invoices that it makes.
    pub spoils: Option<fn(&mut PaymentHash, &mut u64)>,
}

impl Node {
    pub fn knows(&mut self, number: u8) {
        self.answers
            .insert(hash_of(number), Ok(preimage_of(number)));
    }
    pub fn cannot_pay(&mut self, number: u8) {
        self.answers.insert(hash_of(number), Err("payment-failed"));
    }

    pub fn answer(&mut self, request: &HttpRequest) -> Result<HttpResponse, Refusal> {
        let other = |(api, _): &(&String, &Value)| request.url.starts_with(*api);
        if let Some((_, answer)) = self.others.iter().find(other) {
            return Ok(HttpResponse {
                status: 200,
                body: answer.to_string().into_bytes(),
            });
        }
        if self.down || !request.url.starts_with(API) {
            return Err(Refusal::new("unreachable", "nobody is there"));
        }
        let route = request.url.rsplit('/').next().unwrap();
        let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        let hex = |name: &str| modmint_core::decode_hex(body[name].as_str().unwrap()).unwrap();
        let answer = match route {
            "routing" => json!({
                "gateway_key": self.gateway_key,
                "node_key": to_hex(&[2; 33]),
                "alias": "gateway",
                "network": "regtest",
                "pay_base_msat": PAY_FEE,
                "pay_parts_per_million": 0,
                "receive_base_msat": RECEIVE_FEE,
                "receive_parts_per_million": 0,
                "minimum_timelock_blocks": BLOCKS,
                "maximum_invoice_msat": 1_000_000 * SAT,
            }),
            "payments" => {
                let invoice = body["invoice"].as_str().unwrap().to_owned();
                let contract = hex("contract").try_into().unwrap();
                let posted = (invoice, contract, hex("signature"));
                if !self.posted.contains(&posted) {
                    self.posted.push(posted);
                }
                json!({ "payment_hash": "", "state": "pending" })
            }
            "invoices" => {
                let offer: Offer = borsh::from_slice(&hex("offer")).unwrap();
                assert_eq!(hex("payment_hash"), offer.payment_hash);
                assert_eq!(body["contract_msat"], offer.amount);
                let mut amount = body["amount_msat"].as_u64().unwrap();
                assert!(amount >= offer.amount + RECEIVE_FEE);
                let mut hash = offer.payment_hash;
                if let Some(spoil) = self.spoils {
                    spoil(&mut hash, &mut amount);
                }
                let expiry = body["expiry_seconds"].as_u64().unwrap();
                if !self.offers.contains(&offer) {
                    self.offers.push(offer);
                }
                json!({ "invoice": invoice(Currency::Regtest, hash, amount, self.time, expiry) })
            }
            _ => panic!("no such route: {}", request.url),
        };
        Ok(HttpResponse {
            status: 200,
            body: answer.to_string().into_bytes(),
        })
    }
}

pub fn invoice(currency: Currency, hash: PaymentHash, msat: u64, time: u64, expiry: u64) -> String {
    let key = SecretKey::from_slice(&[41; 32]).unwrap();
    let secp = Secp256k1::new();
    InvoiceBuilder::new(currency)
        .description("a test".into())
        .payment_hash(sha256::Hash::from_byte_array(hash))
        .payment_secret(PaymentSecret([3; 32]))
        .amount_milli_satoshis(msat)
        .duration_since_epoch(Duration::from_secs(time))
        .expiry_time(Duration::from_secs(expiry))
        .min_final_cltv_expiry_delta(42)
        .build_signed(|message| secp.sign_ecdsa_recoverable(message, &key))
        .unwrap()
        .to_string()
}

pub struct World {
    pub federation: Federation,
    pub node: Rc<RefCell<Node>>,
    pub gateway: Wallet,
    /// Satoshi, by everybody.
    endowed: RefCell<u64>,
}

/// Somebody.
pub struct Person {
    pub wallet: Wallet,
}

/// Goes on after a kill, as often as there is one.
pub fn carry_on(wallet: &mut Wallet) {
    wallet.run();
    while wallet.is_dead() {
        wallet.resume();
        wallet.run();
    }
}

fn serve_node(wallet: &mut Wallet, node: &Rc<RefCell<Node>>) {
    let read = |request: &[u8]| -> (Value, PaymentHash) {
        let request: Value = serde_json::from_slice(request).unwrap();
        let hash = modmint_core::decode_hex(request["payment_hash"].as_str().unwrap()).unwrap();
        (request, hash.try_into().unwrap())
    };
    let at = Rc::clone(node);
    wallet.offer_service("lightning.pay", move |request| {
        let (request, hash) = read(request);
        let latest = request["latest_height"].as_u64().unwrap();
        at.borrow_mut().latest_heights.push(latest);
        match at.borrow().answers.get(&hash) {
            Some(Ok(preimage)) => {
                let answer = json!({ "preimage": to_hex(preimage), "fee_msat": 3 });
                Ok(answer.to_string().into_bytes())
            }
            Some(Err(code)) => Err(Refusal::new(code, "no route")),
            None => Err(Refusal::new("not-known", "it is on its way")),
        }
    });
    let at = Rc::clone(node);
    wallet.offer_service("lightning.settle", move |request| {
        let (request, hash) = read(request);
        let preimage = modmint_core::decode_hex(request["preimage"].as_str().unwrap()).unwrap();
        let settled = (hash, preimage.try_into().unwrap());
        let mut node = at.borrow_mut();
        if !node.settled.contains(&settled) {
            node.settled.push(settled);
        }
        Ok(b"{}".to_vec())
    });
    let at = Rc::clone(node);
    wallet.offer_service("lightning.fail", move |request| {
        let (_, hash) = read(request);
        let mut node = at.borrow_mut();
        if !node.failed.contains(&hash) {
            node.failed.push(hash);
        }
        Ok(b"{}".to_vec())
    });
}

impl World {
    /// With a gateway that has announced itself.
    pub fn new(guardians: usize) -> Self {
        Self::of(Bundle::federation_module::<Ln>(), guardians)
    }

    /// Of a module that runs in whatever way.
    pub fn of(bundle: Bundle, guardians: usize) -> Self {
        let federation = Federation::with_cash(guardians);
        let free = Configuration {
            contract_fee: Amount(SAT),
            offer_fee: Amount(SAT),
            announcement_fee: Amount(0),
        };
        let ln = federation.found(bundle, free.arguments());
        assert_eq!(ln, LN);
        let node = Rc::new(RefCell::new(Node {
            time: federation.time(),
            ..Node::default()
        }));
        let mut gateway = Wallet::new(&federation, "gateway");
        serve_node(&mut gateway, &node);
        gateway.endow(CAPITAL);
        let mut world = Self {
            federation,
            node,
            gateway,
            endowed: RefCell::new(CAPITAL),
        };
        world.announce(24 * 3600);
        let key = to_hex(&world.gateway_key());
        world.node.borrow_mut().gateway_key = key;
        world
    }

    pub fn announce(&mut self, lifetime_seconds: u64) {
        let announce = AnnounceAction {
            api: API.into(),
            node_key: vec![2; 33],
            alias: "gateway".into(),
            pay_base_msat: PAY_FEE,
            pay_parts_per_million: 0,
            receive_base_msat: RECEIVE_FEE,
            receive_parts_per_million: 0,
            lifetime_seconds,
        };
        let announced = self
            .gateway
            .perform(LN, "gateway-announce", announce.arguments());
        let end = self.gateway.operation(announced.unwrap()).finished();
        assert_eq!(end, Some(Ok(())));
    }

    pub fn gateway_key(&mut self) -> PublicKey {
        let shown = self.gateway.perform(LN, "gateway-key", Vec::new()).unwrap();
        let key = self.gateway.operation(shown).detail("gateway_key").unwrap();
        modmint_core::decode_hex(&key).unwrap().try_into().unwrap()
    }

    pub fn wallet(&self, name: &str, satoshi: u64) -> Person {
        let mut wallet = Wallet::new(&self.federation, name);
        if satoshi > 0 {
            wallet.endow(satoshi);
        }
        *self.endowed.borrow_mut() += satoshi;
        self.connect(wallet)
    }

    pub fn connect(&self, mut wallet: Wallet) -> Person {
        let node = Rc::clone(&self.node);
        wallet.offer_web(move |request| node.borrow_mut().answer(request));
        Person { wallet }
    }

    /// Of somebody whom the gateway's node can pay.
    pub fn outside_invoice(&self, number: u8, msat: u64) -> String {
        let time = self.federation.time();
        invoice(Currency::Regtest, hash_of(number), msat, time, 3600)
    }

    /// What the daemon does about payments that were asked for.
    pub fn serve_payments(&mut self) -> Vec<OperationId> {
        let posted = std::mem::take(&mut self.node.borrow_mut().posted);
        let mut operations = Vec::new();
        for (invoice, contract, signature) in &posted {
            let action = GatewayPayAction {
                invoice: invoice.clone(),
                contract: contract.to_vec(),
                signature: signature.clone(),
                maximum_routing_fee: Amount(PAY_FEE),
                minimum_fee: Amount(PAY_FEE),
            };
            let operation = self
                .gateway
                .start(LN, "gateway-pay", action.arguments())
                .unwrap();
            carry_on(&mut self.gateway);
            operations.push(operation);
        }
        operations
    }

    /// What the daemon does when the node holds a payment for the newest offer.
    pub fn receive(&mut self, msat: u64) -> OperationId {
        let deadline = self.federation.height() + 3;
        self.receive_by(msat, deadline)
    }

    pub fn receive_by(&mut self, msat: u64, deadline: u32) -> OperationId {
        let action = GatewayReceiveAction {
            offer: borsh::to_vec(&self.offer()).unwrap(),
            claim_deadline: deadline.into(),
            received: Amount(msat),
            minimum_fee: Amount(RECEIVE_FEE),
        };
        let operation = self
            .gateway
            .start(LN, "gateway-receive", action.arguments())
            .unwrap();
        carry_on(&mut self.gateway);
        operation
    }

    /// The newest one that an invoice was made for.
    pub fn offer(&self) -> Offer {
        self.node.borrow().offers.last().unwrap().clone()
    }

    /// An offer that no honest wallet makes: what is encrypted is spoiled.
    pub fn forge(
        &mut self,
        person: &mut Person,
        number: u8,
        spoil: impl FnOnce(&mut Preimage),
    ) -> Offer {
        let gateway_key = Some(self.gateway_key());
        let expiry = self.federation.time() + 3600;
        person.wallet.call(LN, Phase::Look, || {
            let mut offer = Offer {
                payment_hash: hash_of(number),
                amount: 3_000 * SAT - RECEIVE_FEE,
                claim_key: wallet::derive_public_key(&[9]),
                gateway_key,
                expiry,
                nonce: [9; 16],
                ciphertext: [0; CIPHERTEXT],
            };
            let mut preimage = preimage_of(number);
            spoil(&mut preimage);
            let ciphertext = wallet::tpe_encrypt(KEY, &preimage, &offer.terms(), &[4; 32]);
            offer.ciphertext = ciphertext.try_into().unwrap();
            offer
        })
    }

    pub fn gateway_earned(&self) -> i64 {
        self.gateway.balance() as i64 - (CAPITAL * SAT) as i64
    }

    /// In contracts, as the module says.
    pub fn held(&self) -> u64 {
        let lines = self.federation.audit(LN);
        lines.iter().map(|line| (-line.msat) as u64).sum()
    }

    /// What everybody has and what is in contracts is what there was, but for fees.
    pub fn check(&self, people: &[&Person]) {
        let held: u64 = people.iter().map(|person| person.wallet.balance()).sum();
        let everybody = i128::from(held + self.gateway.balance());
        let (books, _) = self.federation.books(LN);
        assert_eq!(everybody + books, i128::from(*self.endowed.borrow() * SAT));
        let fees = books - i128::from(self.held());
        assert!(fees >= 0 && fees % i128::from(CONTRACT_FEE) == 0, "{fees}");
    }

    /// The code with which guardians refuse this.
    pub fn refused_input(&self, input: ContractInput) -> String {
        let done = self
            .federation
            .consensus(LN, || Ln::process_input(input.clone()));
        done.unwrap_err().code
    }

    pub fn put(&self, output: ContractOrOfferOutput) -> Result<ContractId, Refusal> {
        thread_local!(static NEXT: RefCell<u8> = const { RefCell::new(0) });
        let number = NEXT.with_borrow_mut(|next| {
            *next += 1;
            *next
        });
        let place = OutPoint {
            txid: vec![number; 32],
            index: 0,
        };
        let id = self
            .federation
            .call(LN, Phase::Query, Some(0), || contract_id(&place));
        self.federation
            .consensus(LN, || Ln::process_output(output, place))
            .map(|_| id)
    }

    pub fn refused_output(&self, output: ContractOrOfferOutput) -> String {
        self.put(output).unwrap_err().code
    }
}

impl Person {
    pub fn run(&mut self) {
        carry_on(&mut self.wallet);
    }

    fn perform(&mut self, action: &str, arguments: Vec<Argument>) -> Result<OperationId, Refusal> {
        let operation = self.wallet.start(LN, action, arguments)?;
        self.run();
        Ok(operation)
    }

    pub fn pay_with(&mut self, action: PayAction) -> Result<OperationId, Refusal> {
        self.perform("pay", action.arguments())
    }

    pub fn try_pay(&mut self, to: &str) -> Result<OperationId, Refusal> {
        self.pay_with(PayAction {
            to: to.into(),
            amount: None,
            gateway: None,
            maximum_fee: None,
        })
    }

    pub fn pay(&mut self, to: &str) -> OperationId {
        self.try_pay(to).unwrap()
    }

    /// The operation and the invoice.
    pub fn invoice(&mut self, msat: u64) -> (OperationId, String) {
        let (operation, _) = self.try_invoice(msat);
        (operation, self.detail(operation, "invoice"))
    }

    pub fn try_invoice(&mut self, msat: u64) -> (OperationId, Option<String>) {
        let action = InvoiceAction {
            amount: Amount(msat),
            description: Some("a test".into()),
            expiry: DAY,
            gateway: None,
            maximum_fee: None,
        };
        let operation = self.perform("invoice", action.arguments()).unwrap();
        let invoice = self.wallet.operation(operation).detail("invoice");
        (operation, invoice)
    }

    pub fn finished(&self, operation: OperationId) -> Option<Result<(), Refusal>> {
        self.wallet.operation(operation).finished()
    }

    pub fn stage(&self, operation: OperationId) -> String {
        let progress = &self.wallet.operation(operation).progress;
        progress
            .as_ref()
            .map_or_else(String::new, |p| p.stage.clone())
    }

    pub fn detail(&self, operation: OperationId, name: &str) -> String {
        let operation = self.wallet.operation(operation);
        operation.detail(name).unwrap_or_else(|| {
            let (shown, end) = (&operation.progress, operation.finished());
            panic!("no {name}: {shown:?} {end:?}")
        })
    }

    /// Of the only open outgoing contract.
    pub fn timelock(&self, world: &World) -> u32 {
        let ask = ContractsQuery {
            incoming: false,
            after: None,
        };
        let answer = world.federation.query(0, LN, "contracts", ask.arguments());
        let Some(Ok(modmint_sdk::Answer::Ready(bytes))) = answer else {
            panic!("{answer:?}");
        };
        let open: Vec<OpenContract> = borsh::from_slice(&bytes).unwrap();
        match &open[..] {
            [
                OpenContract {
                    contract: Contract::Outgoing(contract),
                    ..
                },
            ] => contract.timelock,
            other => panic!("{other:?}"),
        }
    }
}
