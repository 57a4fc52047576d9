//! Which notes to take and which to make. Nothing but arithmetic.
//!
//! A wallet keeps a few notes of each denomination, so that it can usually pay
//! exactly without asking anybody; it makes no note that costs more to spend than
//! it is worth, and puts few enough into one transaction.

use crate::{DENOMINATIONS, value};

/// How many notes there are of each denomination.
pub type Counts = [u32; DENOMINATIONS as usize];

/// No notes.
pub const NONE: Counts = [0; DENOMINATIONS as usize];

/// How many notes of each denomination a wallet likes to have.
pub const TARGET: u32 = 3;
/// The smallest denomination of which it likes to have them: 1,000 msat, and so
/// every whole number of satoshi, is made of notes of 8 msat and more.
pub const SMALLEST_TARGETED: u8 = 3;
/// Above this many of one denomination, notes are exchanged for larger ones behind the
/// transaction that brought the last of them.
pub const CROWDED: u32 = 8;

/// The most notes that leave a wallet as one text, or are spent by one plan.
pub const MOST_SENT: u32 = 80;
/// The most notes that completing a transaction adds as inputs…
pub const MOST_INPUTS: u32 = 60;
/// …and as outputs. With all of these a transaction stays under 30 KiB: an input
/// takes 152 bytes with its signature, an output 71.
pub const MOST_OUTPUTS: u32 = 100;

/// Exponents, ascending.
pub fn exponents() -> impl DoubleEndedIterator<Item = u8> {
    0..DENOMINATIONS
}

fn worth(exponent: u8) -> u64 {
    value(exponent).expect("only exponents of denominations are counted")
}

fn at(counts: &Counts, exponent: u8) -> u32 {
    counts[usize::from(exponent)]
}

/// What these notes are worth together, saturating.
pub fn total(counts: &Counts) -> u64 {
    exponents()
        .map(|e| worth(e).saturating_mul(at(counts, e).into()))
        .fold(0, u64::saturating_add)
}

/// How many notes these are.
pub fn number(counts: &Counts) -> u32 {
    counts.iter().sum()
}

/// What a note brings when it is spent; none if that is nothing.
pub fn net(exponent: u8, fee: u64) -> Option<u64> {
    worth(exponent).checked_sub(fee).filter(|net| *net > 0)
}

/// What these notes bring together when they are spent, saturating.
pub fn brings(counts: &Counts, fee: u64) -> u64 {
    exponents()
        .filter_map(|e| Some(net(e, fee)?.saturating_mul(at(counts, e).into())))
        .fold(0, u64::saturating_add)
}

/// Notes of exactly this amount, at most `most` of them. Each denomination
/// divides the next, so taking the largest first finds them if there are any.
pub fn exact(stock: &Counts, amount: u64, most: u32) -> Option<Counts> {
    let mut chosen = NONE;
    let mut rest = amount;
    for e in exponents().rev() {
        let fit = u32::try_from(rest / worth(e)).unwrap_or(u32::MAX);
        let taken = fit.min(at(stock, e));
        chosen[usize::from(e)] = taken;
        rest -= worth(e) * u64::from(taken);
    }
    (rest == 0 && number(&chosen) <= most).then_some(chosen)
}

/// Notes that bring at least `need` when they are spent, at most `most` of them,
/// with as little left over as that allows.
pub fn cover(stock: &Counts, need: u64, fee: u64, most: u32) -> Option<Counts> {
    let close = cover_closely(stock, need, fee)?;
    if number(&close) <= most {
        return Some(close);
    }
    let mut chosen = NONE;
    let mut rest = need;
    for e in exponents().rev() {
        let Some(net) = net(e, fee) else { break };
        let wanted = u32::try_from(rest.div_ceil(net)).unwrap_or(u32::MAX);
        let taken = wanted.min(at(stock, e));
        chosen[usize::from(e)] = taken;
        rest = rest.saturating_sub(net.saturating_mul(taken.into()));
    }
    (rest == 0 && number(&chosen) <= most).then_some(chosen)
}

fn cover_closely(stock: &Counts, need: u64, fee: u64) -> Option<Counts> {
    let mut chosen = NONE;
    let mut rest = need;
    for e in exponents().rev() {
        let Some(net) = net(e, fee) else { break };
        let fit = u32::try_from(rest / net).unwrap_or(u32::MAX);
        let taken = fit.min(at(stock, e));
        chosen[usize::from(e)] = taken;
        rest -= net * u64::from(taken);
    }
    if rest == 0 {
        return Some(chosen);
    }
    // Every note that is left brings more than what is missing: the smallest of
    // them, and smaller ones back that it makes superfluous.
    let unused = |e: &u8| at(stock, *e) > at(&chosen, *e) && net(*e, fee).is_some();
    let last = exponents().find(unused)?;
    chosen[usize::from(last)] += 1;
    let mut spare = net(last, fee)?.checked_sub(rest)?;
    for e in exponents() {
        let Some(net) = net(e, fee) else { continue };
        while at(&chosen, e) > 0 && net <= spare {
            chosen[usize::from(e)] -= 1;
            spare -= net;
        }
    }
    Some(chosen)
}

/// Notes to exchange for larger ones: those of crowded denominations beyond the target,
/// at most `most`.
pub fn crowded(stock: &Counts, most: u32) -> Counts {
    let mut chosen = NONE;
    let mut room = most;
    for e in exponents() {
        if at(stock, e) > CROWDED {
            let taken = (at(stock, e) - TARGET).min(room);
            chosen[usize::from(e)] = taken;
            room -= taken;
        }
    }
    chosen
}

/// Notes beyond the target, smallest first, at most `most`.
pub fn beyond_target(stock: &Counts, fee: u64, most: u32) -> Counts {
    let mut chosen = NONE;
    let mut room = most;
    for e in exponents().filter(|e| net(*e, fee).is_some()) {
        let taken = at(stock, e).saturating_sub(TARGET).min(room);
        chosen[usize::from(e)] = taken;
        room -= taken;
    }
    chosen
}

/// The notes to make of `amount`, fees included, by a wallet that has `stock`:
/// first what it lacks, small ones first, then few and large ones. Where notes
/// cost something, it wants none of those that lose much of their worth. What is
/// left is less than the smallest note costs.
pub fn change(stock: &Counts, amount: u64, fee: u64) -> Counts {
    let mut made = NONE;
    let mut rest = amount;
    // Room for the remainder: one of each denomination, and of the largest as many as
    // there may be.
    let largest = amount / (worth(DENOMINATIONS - 1) + fee);
    let remainder =
        u32::from(DENOMINATIONS).saturating_add(u32::try_from(largest).unwrap_or(u32::MAX));
    let mut room = MOST_OUTPUTS.saturating_sub(remainder);
    let worthwhile = |e: &u8| net(*e, fee).is_some();
    let wanted = |e: &u8| *e >= SMALLEST_TARGETED && worth(*e) >= fee.saturating_mul(64);
    for e in exponents().filter(wanted) {
        let cost = worth(e) + fee;
        while at(stock, e) + at(&made, e) < TARGET && cost <= rest && room > 0 {
            made[usize::from(e)] += 1;
            rest -= cost;
            room -= 1;
        }
    }
    let mut room = MOST_OUTPUTS - number(&made);
    for e in exponents().filter(worthwhile).rev() {
        let cost = worth(e) + fee;
        let fit = u32::try_from(rest / cost).unwrap_or(u32::MAX).min(room);
        made[usize::from(e)] += fit;
        rest -= cost * u64::from(fit);
        room -= fit;
    }
    made
}

/// The fewest notes of exactly this amount; none if it takes more than `most`, or
/// notes that cost more to spend than they are worth.
pub fn represent(amount: u64, fee: u64, most: u32) -> Option<Counts> {
    let mut made = NONE;
    let mut rest = amount;
    for e in exponents().rev().filter(|e| net(*e, fee).is_some()) {
        let fit = u32::try_from(rest / worth(e)).ok()?;
        made[usize::from(e)] = fit;
        rest -= worth(e) * u64::from(fit);
    }
    (rest == 0 && number(&made) <= most).then_some(made)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stock() -> impl Strategy<Value = Counts> {
        proptest::collection::vec(0u32..5, DENOMINATIONS as usize).prop_map(|counts| {
            counts
                .try_into()
                .expect("as many as there are denominations")
        })
    }

    #[test]
    fn an_amount_is_paid_exactly_where_the_notes_allow_it() {
        let mut stock = NONE;
        stock[0] = 1;
        stock[1] = 3;
        stock[3] = 1;
        assert_eq!(exact(&stock, 14, 80).map(|c| number(&c)), Some(4));
        assert_eq!(exact(&stock, 16, 80), None);
        assert_eq!(exact(&stock, 14, 3), None);
    }

    #[test]
    fn change_of_a_full_wallet_is_few_notes() {
        let stock = [TARGET; DENOMINATIONS as usize];
        let made = change(&stock, 5_000_000, 0);
        assert_eq!(total(&made), 5_000_000);
        assert_eq!(number(&made), 5_000_000u64.count_ones());
    }

    #[test]
    fn a_satoshi_needs_no_note_below_the_smallest_targeted() {
        let made = represent(1000, 0, 80).expect("few notes");
        assert!((0..SMALLEST_TARGETED).all(|e| at(&made, e) == 0));
    }

    proptest! {
        #[test]
        fn what_is_covered_is_covered_by_notes_that_are_there(
            stock in stock(), need in 1u64..1 << 43, fee in 0u64..2000,
        ) {
            match cover(&stock, need, fee, 1000) {
                Some(chosen) => {
                    prop_assert!(exponents().all(|e| at(&chosen, e) <= at(&stock, e)));
                    prop_assert!(brings(&chosen, fee) >= need);
                }
                None => prop_assert!(brings(&stock, fee) < need),
            }
        }

        #[test]
        fn no_chosen_note_is_superfluous(stock in stock(), need in 1u64..1 << 30) {
            if let Some(chosen) = cover(&stock, need, 0, 1000) {
                for e in exponents().filter(|e| at(&chosen, *e) > 0) {
                    prop_assert!(total(&chosen) - worth(e) < need);
                }
            }
        }

        #[test]
        fn change_loses_less_than_the_smallest_note_costs(
            stock in stock(), amount in 0u64..1 << 46, fee in 0u64..2000,
        ) {
            let made = change(&stock, amount, fee);
            let cost = total(&made) + fee * u64::from(number(&made));
            let smallest = exponents().find(|e| net(*e, fee).is_some()).expect("one");
            prop_assert!(cost <= amount);
            prop_assert!(amount - cost < worth(smallest) + fee);
            prop_assert!(number(&made) <= MOST_OUTPUTS);
            prop_assert!(exponents().all(|e| at(&made, e) == 0 || worth(e) > fee));
        }

        #[test]
        fn an_amount_is_its_binary_digits(amount in 1u64..1 << 42) {
            let made = represent(amount, 0, 80).expect("at most 42 notes");
            prop_assert_eq!(total(&made), amount);
            prop_assert_eq!(number(&made), amount.count_ones());
        }
    }
}
