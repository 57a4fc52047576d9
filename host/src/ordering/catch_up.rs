//! How a guardian that is far behind inside a session catches up.
//!
//! AlephBFT asks for what it lacks coordinate by coordinate, a round trip a round,
//! which is slower than rounds are made. So whoever is far behind takes the units
//! that it lacks from a peer's log, where parents stand before their children, and
//! gives them to AlephBFT as if they had been sent one by one: every one goes
//! through the filter and has its signature checked, and a peer can do no more harm
//! than by sending the same units itself. The next part is asked for when the last
//! unit of the one before is in the own log, so memory holds one part at a time.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use modmint_core::PeerId;

use super::format::Coord;

/// So many rounds behind, units are taken from a peer's log.
pub(super) const FAR_BEHIND: u16 = 100;
/// About so many bytes of units in one answer.
pub(super) const PART_BYTES: usize = 1 << 20;
/// A peer from which nothing comes for so long is given up.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is known of how far the others are, and the transfer that goes on.
#[derive(Default)]
pub(super) struct CatchUp {
    /// The highest round of a unit that each peer has sent.
    heard: HashMap<PeerId, u16>,
    /// Where each peer's log goes on.
    logs: HashMap<PeerId, u64>,
    transfer: Option<Transfer>,
    /// Whom to try last: nothing came of it.
    failed: Option<PeerId>,
    #[cfg(test)]
    pub parts: usize,
}

struct Transfer {
    from: PeerId,
    last_heard: Instant,
    /// The next part is asked for when this unit is saved.
    awaited: Option<Coord>,
}

impl CatchUp {
    /// A peer has sent a unit of this round.
    pub fn hear(&mut self, from: PeerId, round: u16) {
        let heard = self.heard.entry(from).or_default();
        *heard = round.max(*heard);
    }

    /// Whom to ask for units, and from where in its log, if this guardian, whose
    /// newest unit is of round `top`, is far behind what f + 1 peers have sent.
    pub fn begin(&mut self, top: u16, max_faulty: usize) -> Option<(PeerId, u64)> {
        if let Some(transfer) = &self.transfer {
            if transfer.last_heard.elapsed() < PATIENCE {
                return None;
            }
            self.failed = Some(transfer.from);
            self.transfer = None;
        }
        let mut rounds: Vec<(u16, PeerId)> = self
            .heard
            .iter()
            .map(|(peer, round)| (*round, *peer))
            .collect();
        rounds.sort_unstable_by(|one, other| other.cmp(one));
        let (sure, _) = rounds.get(max_faulty)?;
        if sure.saturating_sub(top) < FAR_BEHIND {
            return None;
        }
        let ahead = rounds.iter().take_while(|(round, _)| round >= sure);
        let candidates: Vec<PeerId> = ahead.map(|(_, peer)| *peer).collect();
        let untried = candidates.iter().find(|peer| Some(**peer) != self.failed);
        let from = *untried.or(candidates.first())?;
        self.transfer = Some(Transfer {
            from,
            last_heard: Instant::now(),
            awaited: None,
        });
        Some((from, self.logs.get(&from).copied().unwrap_or(0)))
    }

    /// A part has come; `awaited` is the last unit in it that is new. False if it
    /// was not asked for. A part without anything new ends the transfer.
    pub fn take(&mut self, from: PeerId, next: u64, awaited: Option<Coord>) -> bool {
        let Some(transfer) = self.transfer.as_mut().filter(|t| t.from == from) else {
            return false;
        };
        self.logs.insert(from, next);
        #[cfg(test)]
        {
            self.parts += 1;
        }
        if awaited.is_none() {
            self.transfer = None;
            self.failed = None;
            return true;
        }
        transfer.awaited = awaited;
        transfer.last_heard = Instant::now();
        true
    }

    /// A unit is in the log. Whom to ask for the next part, if it was the last of
    /// one.
    pub fn saved(&mut self, coord: Coord) -> Option<(PeerId, u64)> {
        let transfer = self.transfer.as_mut()?;
        if transfer.awaited != Some(coord) {
            return None;
        }
        transfer.awaited = None;
        transfer.last_heard = Instant::now();
        Some((
            transfer.from,
            self.logs.get(&transfer.from).copied().unwrap_or(0),
        ))
    }

    /// What came from this peer is no unit of this session.
    pub fn fail(&mut self, from: PeerId) {
        if self.transfer.as_ref().is_some_and(|t| t.from == from) {
            self.transfer = None;
            self.failed = Some(from);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn coord(round: u16) -> Coord {
        Coord { round, creator: 1 }
    }

    #[test]
    fn one_peer_alone_cannot_make_a_guardian_believe_that_it_is_behind() {
        let mut catch_up = CatchUp::default();
        catch_up.hear(PeerId(1), 60_000);
        catch_up.hear(PeerId(2), FAR_BEHIND - 1);
        assert_eq!(catch_up.begin(0, 1), None);
        catch_up.hear(PeerId(2), FAR_BEHIND);
        assert_eq!(catch_up.begin(0, 1), Some((PeerId(1), 0)));
        assert_eq!(catch_up.begin(0, 1), None, "one at a time");
    }

    #[test]
    fn the_next_part_is_asked_for_once_the_last_one_is_saved_and_the_end_ends_it() {
        let mut catch_up = CatchUp::default();
        catch_up.hear(PeerId(1), 500);
        catch_up.hear(PeerId(2), 400);
        let (from, _) = catch_up.begin(0, 1).expect("it is behind");
        assert!(!catch_up.take(PeerId(3), 7, Some(coord(1))), "not asked");
        assert!(catch_up.take(from, 1000, Some(coord(90))));
        assert_eq!(catch_up.saved(coord(89)), None);
        assert_eq!(catch_up.saved(coord(90)), Some((from, 1000)));
        assert_eq!(catch_up.saved(coord(90)), None);
        assert!(catch_up.take(from, 1000, None));
        assert_eq!(catch_up.begin(450, 1), None);
        assert_eq!(catch_up.begin(90, 1), Some((from, 1000)), "where it was");
    }

    #[test]
    fn a_peer_whose_units_are_none_is_not_the_next_to_be_asked() {
        let mut catch_up = CatchUp::default();
        catch_up.hear(PeerId(1), 500);
        catch_up.hear(PeerId(2), 500);
        let (first, _) = catch_up.begin(0, 1).expect("it is behind");
        catch_up.fail(first);
        let (second, _) = catch_up.begin(0, 1).expect("it is behind");
        assert_ne!(first, second);
    }
}
