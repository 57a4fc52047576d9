//! What wallets, gateways and guardians say to each other about Lightning. All of it
//! is borsh.

use borsh::{BorshDeserialize, BorshSerialize};
use modmint_sdk::{OutPoint, Signable, crypto, federation};

/// A compressed secp256k1 point.
pub type PublicKey = [u8; 33];
/// SHA-256 of a [`Preimage`].
pub type PaymentHash = [u8; 32];
/// What a payer gets for the money.
pub type Preimage = [u8; 32];
/// An outgoing contract: the tagged hash of the output that funded it, so no two ever
/// have the same, and no signature over one fits another.
pub type ContractId = [u8; 32];
/// An offer: the tagged hash of all that is in it.
pub type OfferId = [u8; 32];

/// The length of an encrypted preimage, bytes.
pub const CIPHERTEXT: usize = 176;

/// The decryption key's label.
pub const KEY: &str = "preimages";

/// What an instance is configured with, millisatoshi.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct LnConfig {
    /// For each contract, paid by whoever funds it.
    pub contract_fee: u64,
    /// For each published offer.
    pub offer_fee: u64,
    /// For each announcement of a gateway.
    pub announcement_fee: u64,
}

/// An output.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum ContractOrOfferOutput {
    /// Money, for whoever does what the contract says.
    Contract(Contract),
    /// Published for any gateway that is named in it to buy.
    Offer(Offer),
    /// The gateway gives an outgoing contract back to its payer.
    CancelOutgoing(CancelOutgoing),
    /// A gateway says where it is and what it asks.
    Announcement(Announcement),
}

/// Money under a condition.
#[allow(
    clippy::large_enum_variant,
    reason = "one is looked at at a time, and 352 bytes are not worth an indirection"
)]
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Contract {
    /// A payer's, for the gateway that knows the preimage.
    Outgoing(OutgoingContract),
    /// A gateway's, for the receiver whose preimage it buys.
    Incoming(IncomingContract),
}

/// The gateway has it for the preimage; the payer has it back once the gateway says so,
/// or from a height on.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct OutgoingContract {
    /// Of the invoice.
    pub payment_hash: PaymentHash,
    /// Millisatoshi, the gateway's fee included.
    pub amount: u64,
    /// Who may claim.
    pub gateway_key: PublicKey,
    /// Who may refund.
    pub user_key: PublicKey,
    /// From this agreed height on the payer can have it back alone.
    pub timelock: u32,
    /// By which the payer, and nobody else, derives `user_key` from a seed again.
    pub nonce: [u8; 16],
}

/// A receiver's terms. The preimage in it is encrypted to the federation under exactly
/// these terms.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Offer {
    /// Of the preimage.
    pub payment_hash: PaymentHash,
    /// What the receiver gets, millisatoshi.
    pub amount: u64,
    /// Who gets it.
    pub claim_key: PublicKey,
    /// The one gateway that may buy; none: any.
    pub gateway_key: Option<PublicKey>,
    /// From this agreed time on nobody can buy it, seconds since 1970.
    pub expiry: u64,
    /// By which the receiver derives its secrets from a seed again.
    pub nonce: [u8; 16],
    /// The preimage, encrypted.
    pub ciphertext: [u8; CIPHERTEXT],
}

/// An offer, bought.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct IncomingContract {
    /// What was bought.
    pub offer: Offer,
    /// Who bought it, gets the guardians' decryption shares, and the money back if
    /// they show that it was sold junk.
    pub gateway_key: PublicKey,
}

/// The end of an outgoing contract that the gateway will not claim.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct CancelOutgoing {
    /// Which.
    pub contract: ContractId,
    /// The gateway's, BIP 340, over [`cancels`].
    pub signature: [u8; 64],
}

/// What a gateway says of itself.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Announcement {
    /// The gateway.
    pub gateway: Gateway,
    /// Its own, BIP 340, over [`announces`].
    pub signature: [u8; 64],
}

/// A gateway, as wallets see it before they ask it for a quote.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Gateway {
    /// Signs and claims.
    pub gateway_key: PublicKey,
    /// Of its Lightning node.
    pub node_key: PublicKey,
    /// Its API's address, without a slash at the end.
    pub api: String,
    /// What people call it.
    pub alias: String,
    /// What it asks for paying.
    pub pay_fee: GatewayFee,
    /// What it asks for receiving.
    pub receive_fee: GatewayFee,
    /// The announcement is over at this agreed time, seconds since 1970.
    pub expires: u64,
}

/// What a gateway asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct GatewayFee {
    /// For each payment, millisatoshi.
    pub base: u64,
    /// Of the amount.
    pub parts_per_million: u64,
}

/// An input.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum ContractInput {
    /// The gateway takes an outgoing contract.
    Claim {
        /// Which.
        contract: ContractId,
        /// Which hashes to the contract's payment hash.
        preimage: Preimage,
    },
    /// The payer takes an outgoing contract back, from its timelock on.
    RefundTimeout {
        /// Which.
        contract: ContractId,
    },
    /// The payer takes an outgoing contract back that the gateway has cancelled.
    RefundCancelled {
        /// Which.
        contract: ContractId,
    },
    /// The receiver takes an incoming contract.
    ClaimIncoming {
        /// Which.
        offer: OfferId,
        /// Which hashes to the contract's payment hash; public from now on.
        preimage: Preimage,
    },
    /// The gateway takes an incoming contract back whose ciphertext is not the preimage.
    RefundJunk {
        /// Which.
        offer: OfferId,
        /// What the guardians' shares combine to.
        decryption_key: [u8; 48],
    },
}

/// What guardians say to each other.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum LnItem {
    /// A guardian has looked at a gateway and finds it good, or no longer.
    Vet {
        /// Which.
        gateway_key: PublicKey,
        /// Whether it is.
        good: bool,
    },
}

/// An outgoing contract as guardians keep it; the answer of the query `outgoing`.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Outgoing {
    /// The contract.
    pub contract: OutgoingContract,
    /// Whether its gateway has given it up.
    pub cancelled: bool,
}

/// Why a payer may have an outgoing contract back; the answer of the query `refundable`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Refundable {
    /// The gateway has given it up.
    Cancelled,
    /// Its height has come.
    TimedOut,
    /// It is not there: claimed, or refunded before.
    Gone,
}

/// What has become of an offer; the answer of the query `incoming`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Bought {
    /// It holds money for the receiver.
    Funded,
    /// It is over: claimed, or refunded.
    Over,
    /// Nobody has bought it in time.
    Expired,
}

/// An element of the answer of the query `gateways`.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct KnownGateway {
    /// What it says of itself.
    pub gateway: Gateway,
    /// Whether a threshold of guardians finds it good.
    pub vetted: bool,
}

/// An element of the answer of the query `contracts`.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct OpenContract {
    /// Its id: of an outgoing one, or of the offer that was bought.
    pub id: [u8; 32],
    /// What it says.
    pub contract: Contract,
    /// Whether it is an outgoing one that its gateway has given up.
    pub cancelled: bool,
}

/// SHA-256 as BIP 340 tags it: one purpose, one hash.
fn tagged(tag: &str, parts: &[&[u8]]) -> [u8; 32] {
    let tag = crypto::sha256(tag.as_bytes());
    let mut bytes = [tag, tag].concat();
    parts.iter().for_each(|part| bytes.extend_from_slice(part));
    crypto::sha256(&bytes)
}

fn encoded<T: BorshSerialize>(value: &T) -> Vec<u8> {
    borsh::to_vec(value).expect("writing to memory does not fail")
}

/// The id of the outgoing contract that this output funds.
pub fn contract_id(place: &OutPoint) -> ContractId {
    let index = place.index.to_be_bytes();
    tagged("modmint/ln/contract", &[&place.txid, &index])
}

/// What a gateway signs to give a contract up.
pub fn cancels(contract: &ContractId) -> [u8; 32] {
    tagged("modmint/ln/cancel", &[&federation::id(), contract])
}

/// What a payer signs, with the key that may refund the contract, to have this invoice
/// paid for it and no other.
pub fn asks_to_pay(contract: &ContractId, invoice: &str) -> [u8; 32] {
    tagged(
        "modmint/ln/pay",
        &[&federation::id(), contract, invoice.as_bytes()],
    )
}

/// What a gateway signs to announce itself.
pub fn announces(gateway: &Gateway) -> [u8; 32] {
    tagged(
        "modmint/ln/announce",
        &[&federation::id(), &encoded(gateway)],
    )
}

/// What a gateway signs to be given decryption shares for an offer that it bought.
pub fn asks_for_shares(offer: &OfferId) -> [u8; 32] {
    tagged("modmint/ln/shares", &[&federation::id(), offer])
}

impl Offer {
    /// What everybody calls it by.
    pub fn id(&self) -> OfferId {
        tagged("modmint/ln/offer", &[&encoded(self)])
    }

    /// What the ciphertext is bound to: all the other fields.
    pub fn terms(&self) -> Vec<u8> {
        let bare = Self {
            ciphertext: [0; CIPHERTEXT],
            ..self.clone()
        };
        tagged("modmint/ln/terms", &[&encoded(&bare)]).to_vec()
    }

    /// What guardians decrypt.
    pub fn signable(&self) -> Signable {
        Signable {
            label: KEY.into(),
            message: self.ciphertext.to_vec(),
            terms: self.terms(),
        }
    }
}

impl GatewayFee {
    /// Of a payment of so many millisatoshi, rounded up; none if there is not so much
    /// money.
    pub fn of(self, amount: u64) -> Option<u64> {
        let part = u128::from(amount) * u128::from(self.parts_per_million);
        let part = u64::try_from(part.div_ceil(1_000_000)).ok()?;
        self.base.checked_add(part)
    }
}
