//! The maths of the ceremony that makes threshold keys.
//!
//! For each key each guardian, as a *dealer*, draws a polynomial f over the
//! numbers modulo r of degree threshold − 1. In public he commits to it
//! (Feldman: the points a_k·g for its coefficients a_k); guardian i gets the share
//! f(i + 1) in private. Who has found his shares to fit the commitments signs an
//! *ack*. With an ack or a *reveal* (the plain shares, which everybody checks) for
//! each guardian a dealing is pinned: nobody can lack his share, and no dealer
//! could have made his polynomial from the others' commitments without knowing it.
//! The key is the sum of the dealings; nobody ever holds its secret.
//!
//! Threshold keys need n − f shares, which is why complaints do not do: all
//! honest guardians need their share, not just enough of them. A coalition of f
//! that sees f reveals knows 2f shares of the 2f + 1 that are needed.

use modmint_core::{KeyKind, config::HexBytes, tagged_hash};

use crate::{
    points::{G1, G2, Group},
    scalar::{Scalar, point_of},
    secp,
    share::SecretShare,
};

/// The kinds of keys that are dealt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ThresholdKind {
    /// Group key in G2, 96 bytes.
    BlindSignature,
    /// Group key in G1, 48 bytes.
    Decryption,
}

impl ThresholdKind {
    /// None for `multisig`, of which each guardian makes his own.
    pub const fn of(kind: KeyKind) -> Option<Self> {
        match kind {
            KeyKind::BlindSignature => Some(Self::BlindSignature),
            KeyKind::Decryption => Some(Self::Decryption),
            KeyKind::Multisig => None,
        }
    }

    const fn point_bytes(self) -> usize {
        match self {
            Self::BlindSignature => G2::LENGTH,
            Self::Decryption => G1::LENGTH,
        }
    }
}

/// What a dealer keeps to himself: a polynomial for each key. Erased when dropped.
pub struct Dealer {
    polynomials: Vec<(ThresholdKind, Vec<Scalar>)>,
}

impl Dealer {
    /// The polynomials that follow from `seed`, 32 bytes that nobody else knows
    /// and that are used for one ceremony alone. The same seed, the same
    /// polynomials: a dealer that was interrupted goes on with what he has sent.
    ///
    /// # Panics
    /// If `threshold` is zero.
    pub fn from_seed(seed: &[u8; 32], kinds: &[ThresholdKind], threshold: usize) -> Self {
        assert!(threshold > 0, "a key needs a share at least");
        let coefficient = |key: usize, power: usize| {
            let place = [(key as u64).to_be_bytes(), (power as u64).to_be_bytes()].concat();
            Scalar::hash("modmint/dealing", &[seed, &place])
        };
        let polynomial = |key| {
            (0..threshold)
                .map(|power| coefficient(key, power))
                .collect()
        };
        let polynomials = kinds
            .iter()
            .enumerate()
            .map(|(key, kind)| (*kind, polynomial(key)))
            .collect();
        Self { polynomials }
    }

    /// What everybody may see.
    pub fn dealing(&self) -> Dealing {
        let commitment = |(kind, coefficients): &(ThresholdKind, Vec<Scalar>)| match kind {
            ThresholdKind::BlindSignature => Commitment::BlindSignature(commit(coefficients)),
            ThresholdKind::Decryption => Commitment::Decryption(commit(coefficients)),
        };
        Dealing(self.polynomials.iter().map(commitment).collect())
    }

    /// What guardian `guardian` alone may see: his share of each key.
    pub fn shares(&self, guardian: u16) -> Vec<SecretShare> {
        let x = point_of(guardian);
        let evaluate = |coefficients: &[Scalar]| {
            coefficients
                .iter()
                .rev()
                .cloned()
                .reduce(|sum, coefficient| {
                    sum.mul(&x)
                        .add(&coefficient)
                        .expect("a random polynomial is zero there once in 2^255 times")
                })
                .expect("a polynomial has a coefficient")
        };
        self.polynomials
            .iter()
            .map(|(_, coefficients)| SecretShare(evaluate(coefficients)))
            .collect()
    }
}

fn commit<G: Group>(coefficients: &[Scalar]) -> Vec<G> {
    coefficients.iter().map(|a| G::generator().mul(a)).collect()
}

#[derive(Clone, PartialEq, Eq)]
enum Commitment {
    BlindSignature(Vec<G2>),
    Decryption(Vec<G1>),
}

impl Commitment {
    fn encode(&self) -> Vec<u8> {
        match self {
            Self::BlindSignature(points) => points.iter().flat_map(Group::to_vec).collect(),
            Self::Decryption(points) => points.iter().flat_map(Group::to_vec).collect(),
        }
    }

    fn decode(kind: ThresholdKind, bytes: &[u8]) -> Option<Self> {
        match kind {
            ThresholdKind::BlindSignature => decode_points(bytes).map(Self::BlindSignature),
            ThresholdKind::Decryption => decode_points(bytes).map(Self::Decryption),
        }
    }

    /// The key of guardian `guardian`'s share.
    fn share_key(&self, guardian: u16) -> Option<Vec<u8>> {
        match self {
            Self::BlindSignature(points) => evaluate(points, guardian).map(|key| key.to_vec()),
            Self::Decryption(points) => evaluate(points, guardian).map(|key| key.to_vec()),
        }
    }

    fn accepts(&self, guardian: u16, share: &SecretShare) -> bool {
        match self {
            Self::BlindSignature(points) => fits(points, guardian, share),
            Self::Decryption(points) => fits(points, guardian, share),
        }
    }

    /// The commitment to the sum of two polynomials of one kind and degree.
    fn plus(&self, other: &Self) -> Option<Self> {
        match (self, other) {
            (Self::BlindSignature(a), Self::BlindSignature(b)) => {
                add_all(a, b).map(Self::BlindSignature)
            }
            (Self::Decryption(a), Self::Decryption(b)) => add_all(a, b).map(Self::Decryption),
            _ => None,
        }
    }

    fn group_key(&self) -> Option<Vec<u8>> {
        match self {
            Self::BlindSignature(points) => points.first().map(Group::to_vec),
            Self::Decryption(points) => points.first().map(Group::to_vec),
        }
    }
}

fn decode_points<G: Group>(bytes: &[u8]) -> Option<Vec<G>> {
    bytes.chunks(G::LENGTH).map(G::from_bytes).collect()
}

/// Σ (guardian + 1)^k · point_k.
fn evaluate<G: Group>(points: &[G], guardian: u16) -> Option<G> {
    let x = point_of(guardian);
    let powers: Vec<Scalar> =
        std::iter::successors(Some(Scalar::from_index(1)), |power| Some(power.mul(&x)))
            .take(points.len())
            .collect();
    G::combine_scalars(points, &powers)
}

fn fits<G: Group>(points: &[G], guardian: u16, share: &SecretShare) -> bool {
    evaluate(points, guardian).is_some_and(|key| key == G::generator().mul(&share.0))
}

fn add_all<G: Group>(a: &[G], b: &[G]) -> Option<Vec<G>> {
    let pairs = a.iter().zip(b);
    (a.len() == b.len())
        .then(|| pairs.map(|(a, b)| G::sum(&[*a, *b])).collect())
        .flatten()
}

/// A dealer's commitments, for all keys of a ceremony.
#[derive(Clone, PartialEq, Eq)]
pub struct Dealing(Vec<Commitment>);

impl Dealing {
    /// All points, key after key, each from the constant term upwards.
    pub fn encode(&self) -> Vec<u8> {
        self.0.iter().flat_map(Commitment::encode).collect()
    }

    /// The length of [`Self::encode`], in bytes.
    pub fn encoded_len(kinds: &[ThresholdKind], threshold: usize) -> usize {
        kinds
            .iter()
            .map(|kind| kind.point_bytes() * threshold)
            .sum()
    }

    /// From [`Self::encode`]; none unless there are `threshold` valid points for
    /// each key and nothing else.
    pub fn decode(bytes: &[u8], kinds: &[ThresholdKind], threshold: usize) -> Option<Self> {
        if threshold == 0 || bytes.len() != Self::encoded_len(kinds, threshold) {
            return None;
        }
        let mut rest = bytes;
        let mut next = |kind: &ThresholdKind| {
            let (points, behind) = rest.split_at_checked(kind.point_bytes() * threshold)?;
            rest = behind;
            Commitment::decode(*kind, points)
        };
        kinds.iter().map(&mut next).collect::<Option<_>>().map(Self)
    }

    /// Whether these are guardian `guardian`'s shares, one for each key.
    pub fn accepts(&self, guardian: u16, shares: &[SecretShare]) -> bool {
        self.0.len() == shares.len()
            && self
                .0
                .iter()
                .zip(shares)
                .all(|(commitment, share)| commitment.accepts(guardian, share))
    }
}

/// The public part of a threshold key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupKey {
    /// The group's key: 96 bytes for blind signatures, 48 for decryption.
    pub public_key: HexBytes,
    /// The key of each guardian's share, in their order.
    pub share_keys: Vec<HexBytes>,
}

/// The keys that the sum of `dealings` makes for `guardians` guardians, in the
/// order of the ceremony's keys. None for no dealings, dealings that do not match,
/// or a sum that is the identity (which nobody can bring about whose dealing was
/// pinned by acks).
pub fn group_keys(dealings: &[&Dealing], guardians: u16) -> Option<Vec<GroupKey>> {
    let (first, rest) = dealings.split_first()?;
    let mut sum = first.0.clone();
    for dealing in rest {
        if dealing.0.len() != sum.len() {
            return None;
        }
        for (sum, commitment) in sum.iter_mut().zip(&dealing.0) {
            *sum = sum.plus(commitment)?;
        }
    }
    let key = |commitment: &Commitment| {
        let share_key = |guardian| commitment.share_key(guardian).map(HexBytes);
        Some(GroupKey {
            public_key: HexBytes(commitment.group_key()?),
            share_keys: (0..guardians).map(share_key).collect::<Option<_>>()?,
        })
    };
    sum.iter().map(key).collect()
}

/// A guardian's shares of the keys: the sums of what the dealers gave him, one
/// list for each dealer. None for no dealers, lists of different lengths, or a
/// sum of zero.
pub fn sum_shares(dealt: &[Vec<SecretShare>]) -> Option<Vec<SecretShare>> {
    let (first, rest) = dealt.split_first()?;
    let mut sum = first.clone();
    for shares in rest {
        if shares.len() != sum.len() {
            return None;
        }
        for (sum, share) in sum.iter_mut().zip(shares) {
            *sum = SecretShare(sum.0.add(&share.0)?);
        }
    }
    Some(sum)
}

/// What a guardian signs (BIP 340, by his consensus key) once his shares are safe:
/// the ceremony, the dealer, the hash of all that the dealer made public.
pub fn ack_hash(ceremony: &[u8; 32], dealer: u16, public: &[u8; 32]) -> [u8; 32] {
    tagged_hash(
        "modmint/dealing/ack",
        &[ceremony, &dealer.to_be_bytes(), public],
    )
}

/// Why a dealing is not pinned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PinError {
    /// For this guardian there is neither ack nor reveal.
    #[error("guardian {0} has not acknowledged its shares")]
    Missing(u16),
    /// This guardian's ack is not his signature over this dealing.
    #[error("guardian {0}'s acknowledgement is not signed by it, or is of another dealing")]
    Ack(u16),
    /// What was revealed for this guardian does not fit the commitments.
    #[error("the shares revealed for guardian {0} do not fit the commitments")]
    Reveal(u16),
    /// More shares than those of the guardians that may be faulty.
    #[error("{found} guardians' shares are revealed, at most {most} may be")]
    TooManyReveals {
        /// How many there are.
        found: usize,
        /// How many there may be.
        most: usize,
    },
}

/// A dealing as its dealer posts it for everybody to check.
pub struct Posting<'a> {
    /// The ceremony's name.
    pub ceremony: &'a [u8; 32],
    /// Whose dealing it is.
    pub dealer: u16,
    /// The hash of all that the dealer made public, `dealing` among it.
    pub public: &'a [u8; 32],
    /// The commitments.
    pub dealing: &'a Dealing,
    /// BIP 340 signatures (64 bytes) over [`ack_hash`], with their guardians.
    pub acks: &'a [(u16, [u8; 64])],
    /// The shares of guardians who did not acknowledge.
    pub reveals: &'a [(u16, Vec<SecretShare>)],
}

impl Posting<'_> {
    /// Checks that every guardian has acknowledged his shares, or that they are
    /// revealed and right; of at most `most_reveals` guardians (f, and none when a
    /// federation is founded). `keys` are the guardians' consensus keys, 33 bytes.
    ///
    /// # Errors
    /// [`PinError`], naming the first guardian for whom that is not so.
    pub fn check<K: AsRef<[u8]>>(&self, keys: &[K], most_reveals: usize) -> Result<(), PinError> {
        if self.reveals.len() > most_reveals {
            return Err(PinError::TooManyReveals {
                found: self.reveals.len(),
                most: most_reveals,
            });
        }
        let hash = ack_hash(self.ceremony, self.dealer, self.public);
        for (guardian, key) in (0u16..).zip(keys) {
            if let Some((_, ack)) = self.acks.iter().find(|(by, _)| *by == guardian) {
                if !secp::verify_schnorr(key.as_ref(), &hash, ack) {
                    return Err(PinError::Ack(guardian));
                }
            } else if let Some((_, shares)) = self.reveals.iter().find(|(of, _)| *of == guardian) {
                if !self.dealing.accepts(guardian, shares) {
                    return Err(PinError::Reveal(guardian));
                }
            } else {
                return Err(PinError::Missing(guardian));
            }
        }
        Ok(())
    }
}
