//! How much one credential, and one address, may ask for. Memory is bounded, whoever calls.

use std::{
    collections::HashMap,
    fmt,
    hash::Hash,
    net::IpAddr,
    num::NonZeroU32,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use governor::{
    Quota, RateLimiter,
    clock::{Clock as _, DefaultClock},
    middleware::StateInformationMiddleware,
    state::keyed::HashMapStateStore,
};

use crate::Problem;

/// What is allowed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// Requests of one credential in a minute, in the long run.
    pub requests_per_minute: NonZeroU32,
    /// Requests of one credential at once.
    pub burst: NonZeroU32,
    /// Requests of one address in a minute that may fail for want of a valid credential.
    pub failures_per_minute: NonZeroU32,
    /// Requests of one credential that wait for events at the same time.
    pub streams: u32,
}

impl Default for Limits {
    fn default() -> Self {
        let number = |number| NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN);
        Self { requests_per_minute: number(6000), burst: number(1000), failures_per_minute: number(60), streams: 100 }
    }
}

/// Credentials, or addresses, that are told apart at the same time. Those beyond share one account.
const MOST: usize = 10_000;

/// How often room is made at most.
const SWEEP: Duration = Duration::from_secs(1);

/// What has been asked for.
pub(crate) struct Meters {
    limits: Limits,
    requests: Meter<String>,
    failures: Meter<Address>,
    /// Addresses whose requests have failed too often, until when.
    blocked: Mutex<HashMap<Address, Instant>>,
    seats: Arc<Mutex<HashMap<String, u32>>>,
}

impl fmt::Debug for Meters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Meters").field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// An address, or what one subscriber has of them: of IPv6 a network of 64 bits.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct Address(Option<IpAddr>);

impl Address {
    pub(crate) fn of(ip: Option<IpAddr>) -> Self {
        Self(ip.map(|ip| match ip {
            IpAddr::V6(ip) => IpAddr::V6((u128::from(ip) >> 64 << 64).into()),
            ip @ IpAddr::V4(_) => ip,
        }))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(IpAddr::V6(ip)) => write!(f, "{ip}/64"),
            Some(ip) => write!(f, "{ip}"),
            None => f.write_str("unknown"),
        }
    }
}

struct Meter<K: Clone + Eq + Hash> {
    limiter: RateLimiter<K, HashMapStateStore<K>, DefaultClock, StateInformationMiddleware>,
    swept: Mutex<Option<Instant>>,
    others: K,
}

impl<K: Clone + Eq + Hash> Meter<K> {
    fn new(quota: Quota, others: K) -> Self {
        let limiter = RateLimiter::hashmap(quota).with_middleware::<StateInformationMiddleware>();
        Self { limiter, swept: Mutex::default(), others }
    }

    /// Takes one request of `who`. Returns how many more may come at once, or how long to wait.
    fn take(&self, who: &K) -> Result<u32, Duration> {
        let who = if self.has_room() { who } else { &self.others };
        let taken = self.limiter.check_key(who).map(|left| left.remaining_burst_capacity());
        taken.map_err(|not_yet| not_yet.wait_time_from(DefaultClock::default().now()))
    }

    fn has_room(&self) -> bool {
        if self.limiter.len() < MOST {
            return true;
        }
        let mut swept = lock(&self.swept);
        if swept.is_none_or(|at| at.elapsed() >= SWEEP) {
            self.limiter.retain_recent();
            *swept = Some(Instant::now());
        }
        self.limiter.len() < MOST
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Meters {
    pub(crate) fn new(limits: Limits) -> Self {
        let requests = Quota::per_minute(limits.requests_per_minute).allow_burst(limits.burst);
        Self {
            limits,
            requests: Meter::new(requests, String::new()),
            failures: Meter::new(Quota::per_minute(limits.failures_per_minute), Address(None)),
            blocked: Mutex::default(),
            seats: Arc::default(),
        }
    }

    /// Takes a request of a credential.
    pub(crate) fn request(&self, who: &str) -> Result<Standing, Duration> {
        let period = 60.0 / f64::from(self.limits.requests_per_minute.get());
        let standing = |left: u32, reset: f64| Standing {
            quota: self.limits.burst.get(),
            window: (period * f64::from(self.limits.burst.get())).ceil() as u64,
            left,
            reset: reset.ceil() as u64,
        };
        let left = self.requests.take(&who.to_owned())?;
        Ok(standing(left, period * f64::from(self.limits.burst.get().saturating_sub(left))))
    }

    /// How a credential stands that has to wait.
    pub(crate) fn exhausted(&self, wait: Duration) -> Standing {
        let window = 60.0 / f64::from(self.limits.requests_per_minute.get()) * f64::from(self.limits.burst.get());
        Standing { quota: self.limits.burst.get(), window: window.ceil() as u64, left: 0, reset: wait.as_secs() + 1 }
    }

    /// Takes a request of an address that failed for want of a valid credential. An error when there were too many.
    pub(crate) fn failure(&self, address: Address) -> Result<(), Duration> {
        let Err(wait) = self.failures.take(&address) else { return Ok(()) };
        let mut blocked = lock(&self.blocked);
        let now = Instant::now();
        if blocked.len() >= MOST {
            blocked.retain(|_, until| *until > now);
        }
        if blocked.len() < MOST {
            blocked.insert(address, now + wait);
        }
        Err(wait)
    }

    /// How long nothing that may be guessed is taken from an address.
    pub(crate) fn blocked(&self, address: Address) -> Option<Duration> {
        let until = *lock(&self.blocked).get(&address)?;
        until.checked_duration_since(Instant::now()).filter(|wait| !wait.is_zero())
    }

    /// A place among those who wait for events, until it is dropped.
    pub(crate) fn seat(&self, who: String) -> Result<Seat, Problem> {
        let mut seats = lock(&self.seats);
        let taken = seats.entry(who.clone()).or_default();
        if *taken >= self.limits.streams {
            return Err(Problem::too_many_streams(self.limits.streams));
        }
        *taken += 1;
        drop(seats);
        Ok(Seat { seats: self.seats.clone(), who })
    }
}

/// A place among those who wait for events.
pub(crate) struct Seat {
    seats: Arc<Mutex<HashMap<String, u32>>>,
    who: String,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut seats = lock(&self.seats);
        let Some(taken) = seats.get_mut(&self.who) else { return };
        *taken -= 1;
        if *taken == 0 {
            seats.remove(&self.who);
        }
    }
}

/// How a credential stands to its limit, as `RateLimit` tells it (draft-ietf-httpapi-ratelimit-headers-10).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Standing {
    quota: u32,
    window: u64,
    left: u32,
    reset: u64,
}

impl Standing {
    pub(crate) fn tell(self, headers: &mut HeaderMap) {
        let mut set = |name: &'static str, text: String| {
            if let Ok(value) = HeaderValue::from_str(&text) {
                headers.insert(HeaderName::from_static(name), value);
            }
        };
        set("ratelimit-policy", format!("\"requests\";q={};w={}", self.quota, self.window));
        set("ratelimit", format!("\"requests\";r={};t={}", self.left, self.reset));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        let number = |number| NonZeroU32::new(number).unwrap();
        Limits { requests_per_minute: number(60), burst: number(3), failures_per_minute: number(2), streams: 2 }
    }

    #[test]
    fn a_credential_that_is_used_up_waits_and_others_do_not() {
        let meters = Meters::new(limits());
        let left: Vec<_> = (0..3).map(|_| meters.request("alice").unwrap().left).collect();
        assert_eq!(left, [2, 1, 0]);
        let wait = meters.request("alice").unwrap_err();
        assert!(wait > Duration::ZERO && wait <= Duration::from_secs(1), "{wait:?}");
        assert!(meters.request("bob").is_ok());
    }

    #[test]
    fn an_address_that_failed_too_often_is_blocked_with_all_of_its_network() {
        let meters = Meters::new(limits());
        let address = |text: &str| Address::of(Some(text.parse().unwrap()));
        let eve = address("2001:db8::1");
        assert!(meters.failure(eve).is_ok() && meters.failure(eve).is_ok());
        assert_eq!(meters.blocked(eve), None);
        assert!(meters.failure(address("2001:db8::2")).is_err());
        assert!(meters.blocked(address("2001:db8::3")).is_some());
        assert_eq!(meters.blocked(address("2001:db9::1")), None);
    }

    #[test]
    fn however_many_call_the_memory_is_bounded() {
        let meters = Meters::new(limits());
        for number in 0..u32::try_from(MOST).unwrap() + 50 {
            assert!(meters.request(&format!("token:{number}")).is_ok() || number >= 10_000);
            assert!(meters.failure(Address::of(Some(IpAddr::from(number.to_be_bytes())))).is_ok() || number >= 10_000);
        }
        assert!(meters.requests.limiter.len() <= MOST + 1 && meters.failures.limiter.len() <= MOST + 1);
        assert!(lock(&meters.blocked).len() <= MOST);
        assert!(meters.request("one more").is_err(), "those beyond share one account");
    }

    #[test]
    fn a_seat_is_free_again_when_it_is_left() {
        let meters = Meters::new(limits());
        let (first, _second) = (meters.seat("alice".to_owned()).unwrap(), meters.seat("alice".to_owned()).unwrap());
        assert!(meters.seat("alice".to_owned()).is_err());
        assert!(meters.seat("bob".to_owned()).is_ok());
        drop(first);
        assert!(meters.seat("alice".to_owned()).is_ok());
        assert_eq!(lock(&meters.seats).len(), 1, "nobody is remembered who waits for nothing");
    }
}
