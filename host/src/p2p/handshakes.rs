//! Places for those who have connected and not shown yet which guardian they are.
//!
//! Anybody may take one, so nobody keeps one against others who come: a newcomer finds a
//! place always, and where all are taken one of those who are there yields, by lot. Who
//! waits for a reply for milliseconds seldom draws it, however fast strangers come.

use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use modmint_rest::network;
use parking_lot::Mutex;
use rand::seq::IteratorRandom as _;
use tokio::sync::Notify;

/// How many strangers may be in their handshakes at once.
pub(super) const MAX_HANDSHAKES: usize = 64;
/// How many of one client: an address, or a network of IPv6 (/64).
pub(super) const MAX_HANDSHAKES_PER_CLIENT: usize = 8;

/// All handshakes that are under way.
pub(super) struct Handshakes {
    /// The clients that guardians are known to be: strangers do not take their places.
    known: HashSet<IpAddr>,
    under_way: Mutex<Vec<Handshake>>,
}

struct Handshake {
    client: IpAddr,
    yields: Arc<Notify>,
}

/// The place of one handshake.
pub(super) struct Place {
    handshakes: Arc<Handshakes>,
    yields: Arc<Notify>,
}

impl Handshakes {
    /// Of guardians with these addresses. Names are not resolved: who is known by a name
    /// has its place among the strangers.
    pub fn new<'a>(guardians: impl Iterator<Item = &'a str>) -> Arc<Self> {
        let addresses = guardians.filter_map(|address| address.parse::<SocketAddr>().ok());
        Arc::new(Self {
            known: addresses.map(|address| network(address.ip())).collect(),
            under_way: Mutex::default(),
        })
    }

    /// A place for one who connects from this address.
    pub fn enter(self: &Arc<Self>, address: IpAddr) -> Place {
        let client = network(address);
        let yields = Arc::new(Notify::new());
        let place = Place {
            handshakes: Arc::clone(self),
            yields: Arc::clone(&yields),
        };
        let mut under_way = self.under_way.lock();
        let is_own = |handshake: &Handshake| handshake.client == client;
        let is_strange = |handshake: &Handshake| !self.known.contains(&handshake.client);
        let one = if under_way.iter().filter(|one| is_own(one)).count() >= MAX_HANDSHAKES_PER_CLIENT
        {
            by_lot(&under_way, is_own)
        } else if !self.known.contains(&client)
            && under_way.iter().filter(|one| is_strange(one)).count() >= MAX_HANDSHAKES
        {
            by_lot(&under_way, is_strange)
        } else {
            None
        };
        if let Some(one) = one {
            under_way.swap_remove(one).yields.notify_one();
        }
        under_way.push(Handshake { client, yields });
        place
    }
}

fn by_lot(handshakes: &[Handshake], among: impl Fn(&Handshake) -> bool) -> Option<usize> {
    let places = 0..handshakes.len();
    places
        .filter(|place| among(&handshakes[*place]))
        .choose(&mut rand::thread_rng())
}

impl Place {
    /// Waits until it has to yield.
    pub async fn yields(&self) {
        self.yields.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut under_way = self.handshakes.under_way.lock();
        under_way.retain(|handshake| !Arc::ptr_eq(&handshake.yields, &self.yields));
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn counts(places: &[Place]) -> usize {
        let stand = |place: &&Place| place.yields().now_or_never().is_none();
        places.iter().filter(stand).count()
    }

    fn strangers(count: u16) -> impl Iterator<Item = IpAddr> {
        (0..count).map(|number| {
            let [high, low] = number.to_be_bytes();
            IpAddr::from([10, 0, high, low])
        })
    }

    #[test]
    fn strangers_have_so_many_places_and_the_guardians_that_are_known_have_their_own() {
        let handshakes = Handshakes::new(["192.0.2.1:8173", "alice.example:8173"].into_iter());
        let known = handshakes.enter([192, 0, 2, 1].into());
        let others: Vec<Place> = strangers(300).map(|one| handshakes.enter(one)).collect();
        assert!(known.yields().now_or_never().is_none());
        assert_eq!(counts(&others), MAX_HANDSHAKES);
        let latest = others.last().expect("there are some");
        let newcomer = handshakes.enter([192, 0, 2, 1].into());
        assert!(latest.yields().now_or_never().is_none());
        drop((known, newcomer, others));
        assert!(handshakes.under_way.lock().is_empty());
    }

    #[test]
    fn one_client_has_few_places_and_takes_them_from_nobody_else() {
        let handshakes = Handshakes::new(["[2001:db8::1]:8173"].into_iter());
        let first: Vec<Place> = strangers(30).map(|one| handshakes.enter(one)).collect();
        for network in ["2001:db8:0:1::", "2001:db8::"] {
            let address = |number| format!("{network}{number:x}").parse().expect("an address");
            let many: Vec<Place> = (1..300).map(|n| handshakes.enter(address(n))).collect();
            assert_eq!(counts(&many), MAX_HANDSHAKES_PER_CLIENT);
            assert_eq!(counts(&first), 30);
        }
    }
}
