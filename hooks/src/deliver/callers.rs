//! Receivers that call us: `POST /endpoints/ID/ready` and `GET /endpoints/ID/changes`, signed by the endpoint's secret.
//!
//! Goes in: a request, the secrets of the endpoint that it names, and the time. Comes out: whether it may. The signed content
//! is `ID.TIMESTAMP.METHOD PATH?QUERY.BODY`, the headers are those of Standard Webhooks. An id counts once. An endpoint that
//! does not exist and a signature that does not fit get the same answer, and take the same time. The memory of ids is
//! bounded, and is this process's own.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bugfeed_protocol::When;
use ring::hmac;

use super::sign::Secrets;
use crate::receive::identity::Sha256;
use crate::receive::lookup::Headers;
use crate::receive::signature::{SignatureError, Stamped};

/// An id is refused again for so long.
pub const REMEMBERED: Duration = Duration::from_secs(600);
/// So many calls of one endpoint are remembered; more within ten minutes are refused.
const MOST_OF_ONE: u32 = 1_000;
/// So many calls are remembered in all.
const MOST: usize = 100_000;
/// The longest id, in bytes.
const LONGEST_ID: usize = 256;

/// Why a call is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The headers are missing, malformed or stale. This says nothing about the endpoint. Status 401.
    #[error("{0}")]
    Headers(#[from] SignatureError),
    /// The id cannot be one. Status 401.
    #[error("webhook-id is 1 to {LONGEST_ID} visible characters without a dot")]
    Id,
    /// No such endpoint, or the signature does not fit. Status 401.
    #[error("there is no such endpoint, or the signature does not fit")]
    Unauthorized,
    /// The id was used before. Status 401.
    #[error("this webhook-id was used within the last ten minutes; each call needs its own")]
    Repeated,
    /// Too many calls in ten minutes. Status 429.
    #[error("too many calls; at most {MOST_OF_ONE} of an endpoint are taken in ten minutes")]
    TooMany,
}

impl Refused {
    /// The status of the answer.
    pub fn status(&self) -> u16 {
        if *self == Refused::TooMany { 429 } else { 401 }
    }
}

/// A request of somebody who says to be an endpoint.
#[derive(Clone, Copy)]
pub struct Call<'a> {
    /// The headers.
    pub headers: &'a dyn Headers,
    /// `GET` or `POST`.
    pub method: &'a str,
    /// Path and query, as they stand in the request.
    pub target: &'a str,
    /// The body; often empty.
    pub body: &'a [u8],
}

impl fmt::Debug for Call<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Call({} {}, {} bytes)", self.method, self.target, self.body.len())
    }
}

/// The time, in both forms that count: neither a jump of the clock nor an hour's sleep makes an id forgotten too early.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// What the clock says.
    pub clock: When,
    /// How long this process has been running.
    pub uptime: Duration,
}

/// Checks calls, and remembers their ids.
pub struct Callers {
    /// Checked where there is no endpoint, so that this takes the same time.
    nobody: hmac::Key,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    of: HashSet<Sha256>,
    by_endpoint: HashMap<Box<str>, u32>,
    in_order: VecDeque<(Moment, Sha256, Box<str>)>,
}

impl Callers {
    /// `random`: 32 random bytes.
    pub fn new(random: &[u8; 32]) -> Callers {
        Callers { nobody: hmac::Key::new(hmac::HMAC_SHA256, random), seen: Mutex::default() }
    }

    /// Whether the endpoint of this id made the call. `secrets`: of the endpoint, if there is such an endpoint.
    ///
    /// # Errors
    /// If it did not, or may not now.
    pub fn check(
        &self,
        endpoint: &str,
        secrets: Option<&Secrets>,
        call: &Call<'_>,
        now: Moment,
    ) -> Result<(), Refused> {
        let stamped = Stamped::read(call.headers, now.clock)?;
        let is_visible = stamped.id.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'.');
        if !is_visible || stamped.id.len() > LONGEST_ID {
            return Err(Refused::Id);
        }
        let signed: [&[u8]; 5] = [call.method.as_bytes(), b" ", call.target.as_bytes(), b".", call.body];
        // Two keys in all cases.
        let mut keys = secrets.into_iter().flat_map(|secrets| secrets.at(now.clock)).map(|secret| secret.key());
        let keys = [keys.next(), keys.next()];
        let mut fits = false;
        for key in keys {
            let it_fits = stamped.fits(key.unwrap_or(&self.nobody), &signed);
            fits |= it_fits & key.is_some();
        }
        if !fits {
            return Err(Refused::Unauthorized);
        }
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).remember(endpoint, stamped.id, now)
    }
}

impl Seen {
    fn remember(&mut self, endpoint: &str, id: &str, now: Moment) -> Result<(), Refused> {
        self.forget_old(now);
        let hash = Sha256::of([endpoint.as_bytes(), b"\0", id.as_bytes()].concat().as_slice());
        if self.of.contains(&hash) {
            return Err(Refused::Repeated);
        }
        let number = self.by_endpoint.get(endpoint).copied().unwrap_or(0);
        if number >= MOST_OF_ONE || self.in_order.len() >= MOST {
            return Err(Refused::TooMany);
        }
        self.of.insert(hash);
        self.by_endpoint.insert(endpoint.into(), number + 1);
        self.in_order.push_back((now, hash, endpoint.into()));
        Ok(())
    }

    /// An id is forgotten when both clocks say so: then its timestamp is stale.
    fn forget_old(&mut self, now: Moment) {
        let age_us = i64::try_from(REMEMBERED.as_micros()).unwrap_or(i64::MAX);
        let is_old = |then: &Moment| {
            now.uptime.saturating_sub(then.uptime) > REMEMBERED
                && now.clock.as_micros() - then.clock.as_micros() > age_us
        };
        while let Some((_, hash, endpoint)) = self.in_order.pop_front_if(|(then, ..)| is_old(then)) {
            self.of.remove(&hash);
            if let Some(number) = self.by_endpoint.get_mut(&endpoint) {
                *number -= 1;
                if *number == 0 {
                    self.by_endpoint.remove(&endpoint);
                }
            }
        }
    }
}

impl fmt::Debug for Callers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Callers(…)")
    }
}

#[cfg(test)]
mod tests;
