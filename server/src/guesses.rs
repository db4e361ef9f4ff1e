//! Wrong credentials, counted for each address they come from: who guesses is answered late, and nobody else is.
//!
//! What was sent is looked at first, and only a refusal may be held back. So whoever holds a good token passes at once, whatever
//! others behind the same address do: a factory of devices behind one NAT isn't locked out by one of them that guesses.
//!
//! Counted are tokens, secrets, signatures and links that are not known or wrong, over HTTP and MQTT. One that has expired, or that opens
//! something else, was no guess. Who doesn't wait for the refusal learns no less from its absence; what is lost is a second of a
//! connection's, or of one of its streams', for each guess. Against secrets that people choose this only buys time: they have to be long.
//!
//! Invariants:
//!   - No more than [`ADDRESSES_MAX`] addresses are remembered. Where all of them are busy a further one isn't slowed down.
//!   - No more than [`HELD_OF_ONE_MAX`] refusals to one address, and [`HELD_MAX`] in all, are held back at once. A further one goes out at
//!     once, and its connection ends with it.

use crate::dialect::common::limiter::Limiter;
use crate::metrics::Metrics;
use crate::noise::Noise;
use governor::clock::MonotonicClock;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Some 3 MB when all are there.
const ADDRESSES_MAX: usize = 65_536;
/// Each is a connection, or a request of HTTP/2, that is kept waiting.
const HELD_MAX: usize = 2_000;
/// So one address takes no more than a part of them.
const HELD_OF_ONE_MAX: usize = 100;
/// A good device that has a wrong token hardly notices.
const HELD_FOR: Duration = Duration::from_secs(1);

/// On a reply: its caller showed credentials that open nothing. Never sent.
#[derive(Clone, Copy, Debug)]
pub struct WrongCredentials;

/// How a refusal goes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answered {
    AtOnce,
    /// It has been held back for so long.
    Late(Duration),
    /// There was no place left to hold it back: its connection ends with it.
    AtOnceAndLast,
}

#[derive(Debug)]
pub struct Guesses {
    failures: Limiter,
    places: Places,
    noise: Noise,
    metrics: Arc<Metrics>,
}

impl Guesses {
    /// `failures_per_minute`: of each address before it is slowed down; 0: any number.
    pub fn new(failures_per_minute: u32, metrics: Arc<Metrics>) -> Self {
        let failures = Limiter::with_clock(failures_per_minute, ADDRESSES_MAX, MonotonicClock);
        Self { failures, places: Places::default(), noise: Noise::default(), metrics }
    }

    /// Counts wrong credentials from this address, and returns when the refusal may go out.
    pub async fn refused(&self, address: IpAddr) -> Answered {
        self.metrics.credentials_wrong();
        let network = network(address);
        if self.failures.check(&network).is_ok() {
            return Answered::AtOnce;
        }
        self.noise.tell("wrong_credentials", &address.to_string(), "wrong tokens, secrets or links come faster than allowed");
        let Some(_place) = self.places.take(network) else { return Answered::AtOnceAndLast };
        self.metrics.refusal_held_back();
        tokio::time::sleep(HELD_FOR).await;
        Answered::Late(HELD_FOR)
    }

    pub fn forget_resting(&self) {
        self.failures.forget_resting();
    }
}

/// The refusals that are held back now, by whose they are.
#[derive(Debug, Default)]
struct Places(Mutex<Taken>);

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    of: HashMap<IpAddr, usize>,
}

/// One of them; given back also where its connection breaks meanwhile.
struct Place<'a> {
    places: &'a Places,
    network: IpAddr,
}

impl Places {
    fn take(&self, network: IpAddr) -> Option<Place<'_>> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let own = taken.of.get(&network).copied().unwrap_or_default();
        if taken.all >= HELD_MAX || own >= HELD_OF_ONE_MAX {
            return None;
        }
        taken.all += 1;
        taken.of.insert(network, own + 1);
        Some(Place { places: self, network })
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut taken = self.places.0.lock().unwrap_or_else(PoisonError::into_inner);
        taken.all -= 1;
        match taken.of.get_mut(&self.network) {
            Some(own) if *own > 1 => *own -= 1,
            _ => drop(taken.of.remove(&self.network)),
        }
    }
}

/// Whose address it is: a subscriber of IPv6 has 2^64 of them.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_subscriber_counts_as_one_and_a_mapped_address_as_its_own() {
        let network = |text: &str| network(text.parse().unwrap()).to_string();
        assert_eq!(network("192.0.2.7"), "192.0.2.7");
        assert_eq!(network("::ffff:192.0.2.7"), "192.0.2.7");
        assert_eq!(network("2001:db8:1:2:aaaa::1"), network("2001:db8:1:2:bbbb::2"));
        assert_ne!(network("2001:db8:1:2::1"), network("2001:db8:1:3::1"));
    }

    #[test]
    fn one_address_holds_no_more_than_its_part_and_all_no_more_than_the_whole() {
        let places = Places::default();
        let address = |number: usize| IpAddr::from([10, 0, (number >> 8) as u8, number as u8]);
        let own: Vec<_> = (0..HELD_OF_ONE_MAX).map(|_| places.take(address(0))).collect();
        assert!(own.iter().all(Option::is_some) && places.take(address(0)).is_none());
        let others: Vec<_> = (HELD_OF_ONE_MAX..HELD_MAX).map(|number| places.take(address(number))).collect();
        assert!(others.iter().all(Option::is_some) && places.take(address(1)).is_none());
        drop(own);
        assert!(places.take(address(0)).is_some());
        drop(others);
        let taken = places.0.into_inner().unwrap();
        assert_eq!((taken.all, taken.of.len()), (0, 0));
    }
}
