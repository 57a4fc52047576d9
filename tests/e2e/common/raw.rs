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

/// Gives bytes that should be a transaction to a guardian.
pub async fn give(guardian: &Guardian, bytes: Vec<u8>) -> Result<SubmitResponse, Problem> {
    let http = Client::builder().no_proxy().build().expect("a client");
    let request = SubmitRequest {
        transaction: HexBytes(bytes),
    };
    let url = format!("{}/v1/transactions", guardian.api_url());
    let answer = http.post(url).json(&request).send().await;
    let answer = answer.expect("the guardian answers");
    let (status, body) = (answer.status(), answer.text().await.expect("with a body"));
    match status.is_success() {
        true => Ok(serde_json::from_str(&body).expect("as described")),
        false => Err(serde_json::from_str(&body).expect("a problem")),
    }
}

/// Gives a transaction to a guardian and waits until it is decided; the code, if
/// it is refused then or at once.
pub async fn submit(guardian: &Guardian, transaction: &Transaction) -> Result<(), String> {
    let accepted = match give(guardian, transaction.encode()).await {
        Ok(accepted) => accepted,
        Err(problem) => {
            assert!(problem.status < 500, "{problem}");
            return Err(problem.code);
        }
    };
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
