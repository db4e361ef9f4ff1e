//! Wrong credentials, counted for each address they come from: who guesses is answered late, and nobody else is.
//!
//! What was sent is looked at first, and only a refusal may be held back. So whoever holds a good token passes at once, whatever
//! others behind the same address do: a factory of devices behind one NAT isn't locked out by one of them that guesses.
//!
//! Counted are tokens, secrets, signatures and links that are not known or wrong, over HTTP and MQTT. One that has expired, or that opens
//! something else, was no guess.
//!
//! Invariants:
//!   - No more than [`ADDRESSES_MAX`] addresses are remembered. Where all of them are busy a further one isn't slowed down.
//!   - No more than [`HELD_MAX`] refusals are held back at once. Beyond them they go out at once.

use crate::dialect::common::limiter::Limiter;
use crate::metrics::Metrics;
use governor::clock::MonotonicClock;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Some 3 MB when all are there.
const ADDRESSES_MAX: usize = 65_536;
/// Each is a connection, or a request of HTTP/2, that is kept waiting.
const HELD_MAX: usize = 2_000;
/// For so long: 300 guesses a minute cost as many connections as they hold up, and a good device that has a wrong token hardly notices.
const HELD_FOR: Duration = Duration::from_secs(1);

/// On a reply: its caller showed credentials that open nothing. Never sent.
#[derive(Clone, Copy, Debug)]
pub struct WrongCredentials;

#[derive(Debug)]
pub struct Guesses {
    failures: Limiter,
    held: AtomicUsize,
    metrics: Arc<Metrics>,
}

impl Guesses {
    /// `failures_per_minute`: of each address before it is slowed down; 0: any number.
    pub fn new(failures_per_minute: u32, metrics: Arc<Metrics>) -> Self {
        let failures = Limiter::with_clock(failures_per_minute, ADDRESSES_MAX, MonotonicClock);
        Self { failures, held: AtomicUsize::new(0), metrics }
    }

    /// Counts wrong credentials from this address, and returns when the refusal may go out.
    pub async fn refused(&self, address: IpAddr) {
        self.metrics.credentials_wrong();
        if self.failures.check(&network(address)).is_err()
            && let Some(_held) = Held::take(&self.held)
        {
            self.metrics.refusal_held_back();
            tokio::time::sleep(HELD_FOR).await;
        }
    }

    pub fn forget_resting(&self) {
        self.failures.forget_resting();
    }
}

/// One of the refusals that may be held back at once; also where its connection breaks meanwhile.
struct Held<'a>(&'a AtomicUsize);

impl<'a> Held<'a> {
    fn take(held: &'a AtomicUsize) -> Option<Self> {
        let taken = held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| (held < HELD_MAX).then_some(held + 1));
        taken.ok().map(|_| Self(held))
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
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
    fn no_more_than_the_bound_are_held() {
        let count = AtomicUsize::new(0);
        let held: Vec<_> = (0..HELD_MAX).map(|_| Held::take(&count)).collect();
        assert!(held.iter().all(Option::is_some) && Held::take(&count).is_none());
        drop(held);
        assert_eq!(count.into_inner(), 0);
    }
}
