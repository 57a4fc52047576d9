//! Transactions made by hand, for what no honest wallet does.

use modmint::federation::Guardian;
use modmint_core::{
    FederationId, Input, Output, Transaction, TransactionBody, TxId,
    config::HexBytes,
    consensus::TransactionStatus,
    rest::{FederationResponse, Problem, SubmitRequest, SubmitResponse, TransactionResponse},
};
use modmint_crypto::secp;
use reqwest::Client;

/// A transaction of these; each input with the secret key that signs for it.
pub async fn transaction(
    guardian: &Guardian,
    inputs: Vec<(Input, [u8; 32])>,
    outputs: Vec<Output>,
) -> Transaction {
    let id = federation_id(guardian).await;
    let now = guardian.status().await.expect("it answers").unix_time;
    let (inputs, secrets): (Vec<_>, Vec<_>) = inputs.into_iter().unzip();
    let body = TransactionBody {
        expires: now + 3600,
        inputs,
        outputs,
    };
    let hash = body.signature_hash(&id);
    let signatures = secrets
        .iter()
        .map(|secret| secp::sign_schnorr(secret, &hash));
    Transaction {
        signatures: signatures.collect(),
        body,
    }
}

pub async fn federation_id(guardian: &Guardian) -> FederationId {
    let federation = guardian.get::<FederationResponse>("/v1/federation").await;
    federation.expect("it answers").id
}

/// Gives a transaction to a guardian and waits until it is decided; the code, if
/// it is refused then or at once.
pub async fn submit(guardian: &Guardian, transaction: &Transaction) -> Result<(), String> {
    let http = Client::builder().no_proxy().build().expect("a client");
    let request = SubmitRequest {
        transaction: HexBytes(transaction.encode()),
    };
    let url = format!("{}/v1/transactions", guardian.api_url());
    let answer = http.post(url).json(&request).send().await;
    let answer = answer.expect("the guardian answers");
    let (status, body) = (answer.status(), answer.text().await.expect("with a body"));
    if !status.is_success() {
        assert!(status.is_client_error(), "{status} {body}");
        let problem: Problem = serde_json::from_str(&body).expect("a problem");
        return Err(problem.code);
    }
    let accepted: SubmitResponse = serde_json::from_str(&body).expect("as described");
    match fate(guardian, &accepted.txid, 60).await {
        TransactionStatus::Accepted { .. } => Ok(()),
        TransactionStatus::Rejected { code, .. } => Err(code),
        undecided => panic!("{undecided:?} after a minute"),
    }
}

/// What a guardian says of a transaction, waiting so many seconds for a decision.
pub async fn fate(guardian: &Guardian, txid: &TxId, wait: u64) -> TransactionStatus {
    let path = format!("/v1/transactions/{txid}?wait={wait}");
    let answer = guardian.get::<TransactionResponse>(&path).await;
    answer.expect("it answers").status
}
