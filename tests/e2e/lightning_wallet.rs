//! Lightning as programs around a wallet and people with a wallet use it: quotes,
//! addresses, types, and a gateway that is not there.

use std::{net::SocketAddr, time::SystemTime};

use axum::{Json, Router, routing::get};
use bitcoin::{
    hashes::{Hash, sha256},
    secp256k1::{Secp256k1, SecretKey},
};
use lightning_invoice::{Currency, InvoiceBuilder, PaymentSecret};
use modmint::{
    lightning::Lightning,
    tour::{deposit, refused},
    wallet::Wallet as Folder,
};
use modmint_client::{Allowance, LnClient, OperationStatus, Wallet, WalletClient, WalletError};
use modmint_core::Amount;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::common::Fixture;

const SAT: u64 = 1000;

fn code(error: WalletError) -> String {
    match error {
        WalletError::Refused(refusal) => refusal.code,
        other => panic!("{other:?}"),
    }
}

/// A web server at whose Lightning address something else is sold than is said. Ends with
/// the test.
async fn liar() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("it is bound");
    let terms = json!({
        "tag": "payRequest",
        "callback": format!("http://{address}/invoice"),
        "minSendable": 1_000,
        "maxSendable": 10_000 * SAT,
        "metadata": r#"[["text/plain","a book"]]"#,
    });
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let key = SecretKey::from_slice(&[41; 32]).expect("a key");
    let invoice = InvoiceBuilder::new(Currency::Regtest)
        .description_hash(sha256::Hash::hash(br#"[["text/plain","a film"]]"#))
        .payment_hash(sha256::Hash::hash(&[7; 32]))
        .payment_secret(PaymentSecret([3; 32]))
        .amount_milli_satoshis(3_000 * SAT)
        .duration_since_epoch(now.expect("it is after 1970"))
        .min_final_cltv_expiry_delta(42)
        .build_signed(|message| Secp256k1::new().sign_ecdsa_recoverable(message, &key))
        .expect("an invoice");
    let invoice = json!({ "pr": invoice.to_string(), "routes": [] });
    let routes = Router::new()
        .route("/.well-known/lnurlp/liar", get(async || Json(terms)))
        .route("/invoice", get(async || Json(invoice)));
    tokio::spawn(async { axum::serve(listener, routes).await });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_and_a_person_pay_what_they_were_quoted_and_nothing_else() {
    let federation = Fixture::standard().await;
    let folder = federation.folder().join("lightning");
    let lightning = Lightning::start(&folder, &federation.bitcoind).await;
    let lightning = lightning.expect("a gateway and a node");
    let served = lightning.serve(&federation, 500_000).await;
    served.expect("the gateway serves");
    let peer = &lightning.peer;

    // A program: types.
    let folder = federation.folder().join("program");
    let person = Folder::join(&folder, &federation.invite).await;
    let person = person.expect("a wallet joins");
    deposit(&federation, &person, 400_000)
        .await
        .expect("it is rich");
    let wallet = Wallet::open(&folder).expect("nobody else has it open");
    let joined = wallet.federation(None).expect("it has joined one");
    let ln = LnClient::new(joined.clone()).expect("there is Lightning");

    let gateways = ln.gateways().await.expect("guardians know them");
    let [gateway] = &gateways[..] else {
        panic!("{gateways:?}")
    };
    assert_eq!(gateway.api, lightning.gateway.api_url());
    assert!(!gateway.vetted);

    let invoice = peer.invoice(10_000 * SAT).await.expect("an invoice");
    let before = joined.balance().await.expect("a balance");
    let quoted = ln.quote(&invoice, None).await.expect("a gateway does it");
    let fees: u64 = quoted.quote.fees.iter().map(|fee| fee.amount.msat()).sum();
    let of_gateway = gateway.pay_base_msat + 10_000 * gateway.pay_parts_per_million / SAT;
    assert_eq!(fees, of_gateway);
    let total = quoted.quote.total;
    assert_eq!(
        total.msat(),
        10_000 * SAT + fees + quoted.quote.federation_fee.msat()
    );
    quoted.decline().await.expect("it is given up");
    let narrow = Allowance::UpTo(Amount(total.msat() - 1));
    match ln.pay(&invoice, None, narrow).await {
        Err(WalletError::ConfirmationNeeded(quote)) => assert_eq!(quote.total, total),
        other => panic!("{other:?}"),
    }
    assert_eq!(joined.balance().await.expect("a balance"), before);
    let paid = ln.pay(&invoice, None, Allowance::UpTo(total)).await;
    let paid = paid.expect("that suffices");
    assert_eq!(paid.fee.msat(), fees);
    joined
        .wait(paid.operation, |view| !view.settling)
        .await
        .expect("change comes");
    let after = joined.balance().await.expect("a balance");
    assert_eq!(before.checked_sub(after), Some(total));
    assert_eq!(
        code(ln.quote(&invoice, None).await.expect_err("paid already")),
        "already-paid"
    );

    let invoiced = ln.invoice(Amount(5_000 * SAT), "tea").await;
    let invoiced = invoiced.expect("a gateway gives one");
    let preimage = peer.pay(&invoiced.invoice).await.expect("the node pays");
    let received = ln.received(invoiced.operation).await.expect("it arrives");
    assert_eq!(-received.took_msat, received.took_msat.abs());
    assert!(invoiced.receives.msat() >= received.took_msat.unsigned_abs());
    let details = received.details.expect("a result");
    assert_eq!(
        details["payment_hash"],
        json!(modmint_core::Hash32(modmint_core::sha256(&preimage.0)))
    );

    // Bitcoin out, as it was quoted.
    let onchain = WalletClient::new(joined.clone()).expect("there is one");
    let address: String = federation
        .bitcoind
        .call("getnewaddress", json!([]))
        .await
        .expect("an address");
    let quoted = onchain.quote(&address, 20_000).await.expect("a quote");
    let total = quoted.quote.total;
    quoted.decline().await.expect("it is given up");
    let view = onchain
        .withdraw(&address, 20_000, Allowance::UpTo(total))
        .await
        .expect("guardians accept it");
    federation.bury().await.expect("blocks");
    let bury = async {
        loop {
            federation.bitcoind.mine(1).await.expect("a block");
            tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        }
    };
    let buried = joined.wait(view.operation, |view| {
        view.status != OperationStatus::Running
    });
    let view = tokio::select! {
        view = buried => view.expect("it is known"),
        () = bury => unreachable!(),
    };
    assert_eq!(view.status, OperationStatus::Done, "{view:?}");
    assert_eq!(
        federation.bitcoind.received(&address).await.expect("it"),
        20_000
    );
    drop((ln, onchain, joined));
    wallet.close().await;

    // A person: an address and an LNURL, for which a node's web server stands.
    let address = peer.lightning_address();
    let lnurl = peer.lnurl().expect("it can be encoded");
    for to in [address.as_str(), lnurl.as_str()] {
        let paid = person.run(&["ln", "pay", to, "--amount", "3000 sat"]).await;
        let paid = paid.expect("it is paid");
        assert_eq!(paid["details"]["amount_msat"], json!(3_000 * SAT), "{paid}");
    }
    let unquoted = person.try_run(&["ln", "pay", &address], &[]).await;
    assert_eq!(
        refused(unquoted.expect("it runs")).expect("it is"),
        "no-amount"
    );
    let before = person.run(&["balance"]).await.expect("a balance");
    let address = format!("liar@{}", liar().await);
    let lied = ["ln", "pay", &address, "--amount", "3000 sat"];
    let lied = person.try_run(&lied, &[]).await.expect("it runs");
    assert_eq!(refused(lied).expect("it is"), "bad-lnurl");
    let after = person.run(&["balance"]).await.expect("a balance");
    assert_eq!(before, after);

    let address = peer.lightning_address();
    let much = ["ln", "pay", &address, "--amount", "300000 sat"];
    let much = person.try_run(&much, &[]).await.expect("it runs");
    assert_eq!(refused(much).expect("it is"), "bad-amount");

    // What is to be scanned is the invoice, in capitals.
    let (waiting, invoice) = modmint::tour::invoice(&person, 1_000).await.expect("one");
    waiting.kill().await.expect("it ends");
    let all = person.run(&["operations"]).await.expect("a list");
    let listed = all["operations"].as_array().expect("a list");
    let scan = listed
        .iter()
        .find_map(|view: &Value| view["details"]["scan"].as_str())
        .expect("there is something to scan");
    assert_eq!(scan.to_lowercase(), format!("lightning:{invoice}"));

    lightning.stop().await.expect("both end");
}
