//! When a failing endpoint is tried again, and when no more.
//!
//! Goes in: the policy, the endpoint's counters, the outcome of an attempt, and the time. Comes out: the counters
//! afterwards, and what people are told. There is no jitter, so the schedule is exact to the microsecond.
//!
//! | outcome | `classic` | `current` | `off` |
//! |---|---|---|---|
//! | 2xx, also of a part of a batch's messages | both counters 0, no cool-down | the same | the same |
//! | 408, 425, 429 | as 5xx | as any failure | as any failure |
//! | 410 | disables | disables | as any failure |
//! | other 4xx | `recent_failures` + 1; the fourth disables; sent again with the next change or after an hour | as any failure | as any failure |
//! | 5xx, 3xx, network | `backoff_count` + 1; cools down 10 min, × 2 up to 24 h | as any failure | as any failure |
//! | any failure | | `recent_failures` + 1; three are free (with the next change or after a minute), then 1 min, × 2 up to 24 h; the 40th disables | both counters + 1; cools down 10 s, × 2 up to 1 min |
//! | a forbidden literal address | disables | disables | disables |
//! | a name without a permitted address | as network; final after 24 h | as any failure; final after 24 h | as any failure |

use std::fmt;

use super::SECOND_US;
use crate::hooks::event::words;

/// A minute, in microseconds.
const MINUTE_US: i64 = 60 * SECOND_US;
/// The longest cool-down, also if the receiver asks for more. A stored time that lies further ahead than this is from a
/// clock that was wrong.
pub const LONGEST_US: i64 = 24 * 60 * MINUTE_US;
/// A name that has had no permitted address for so long disables its endpoint.
pub const NAMELESS_US: i64 = 24 * 60 * MINUTE_US;
/// Under `classic`, what a 4xx refused is sent again after so long.
const REFUSED_AGAIN_US: i64 = 60 * MINUTE_US;
/// Under `current`, what a free failure left is sent again after so long.
const FREE_AGAIN_US: i64 = MINUTE_US;
/// Under `current`, so many failures in a row are free.
const FREE: u32 = 3;

words! {
    /// How an endpoint's failures are answered.
    Policy {
        /// The rule of the project's sources: 4xx and faults are counted apart, and faults cool down from 10 min on.
        Classic = "classic",
        /// Three failures are free, the 40th disables.
        Current = "current",
        /// Nothing disables; cool-downs last a minute at most.
        Off = "off",
    }
}

words! {
    /// Why an endpoint is disabled for good, until a person enables it.
    Bar {
        /// It answered 410.
        Gone = "gone",
        /// Its URL names an address to which nothing may be sent.
        Forbidden = "forbidden_address",
        /// Its name has had no permitted address for 24 h.
        Nameless = "no_address",
        /// It failed too often.
        Failures = "failures",
    }
}

words! {
    /// What people see of an endpoint.
    State {
        /// It is delivered to.
        Active = "active",
        /// It failed, and is tried again later.
        Cooling = "cooling",
        /// It is not tried again until a person, or a successful test, enables it.
        Disabled = "disabled",
        /// A person paused it.
        Paused = "paused",
    }
}

/// What came of an attempt, by what it means. `retry_after_us`: how long the receiver asks us to wait, in microseconds
/// from the answer, both forms of `Retry-After` already read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// 2xx.
    Success,
    /// All that was sent of a batch's messages was answered 2xx; the pace did not allow the others yet.
    Partly,
    /// 4xx, except those below.
    Refused,
    /// 408, 425 or 429.
    Busy {
        /// See above.
        retry_after_us: Option<i64>,
    },
    /// 410.
    Gone,
    /// 5xx; only a 503 may ask for time.
    Server {
        /// See above.
        retry_after_us: Option<i64>,
    },
    /// 3xx.
    Redirect,
    /// The network, TLS, a time limit, or an answer that is none.
    Fault,
    /// The URL's literal address is forbidden.
    Forbidden,
    /// Its name has no permitted address, or none at all.
    Nameless,
    /// This machine could not send it (no file descriptors, no ports, what is to be sent cannot be read). It says nothing about
    /// the receiver, so it counts nothing under any policy; it is tried again after [`OURS_AGAIN_US`].
    Ours,
}

/// After a fault of this machine, an endpoint is tried again so much later, in microseconds.
pub const OURS_AGAIN_US: i64 = 10 * SECOND_US;

impl Outcome {
    /// What a final status means.
    pub fn of_status(status: u16, retry_after_us: Option<i64>) -> Outcome {
        match status {
            200..=299 => Outcome::Success,
            300..=399 => Outcome::Redirect,
            408 | 425 | 429 => Outcome::Busy { retry_after_us },
            410 => Outcome::Gone,
            400..=499 => Outcome::Refused,
            503 => Outcome::Server { retry_after_us },
            500..=599 => Outcome::Server { retry_after_us: None },
            _ => Outcome::Fault,
        }
    }

    /// Whether the receiver took all that it was sent.
    pub fn is_good(self) -> bool {
        matches!(self, Outcome::Success | Outcome::Partly)
    }

    fn retry_after_us(self) -> Option<i64> {
        match self {
            Outcome::Busy { retry_after_us } | Outcome::Server { retry_after_us } => retry_after_us,
            _ => None,
        }
    }
}

/// The counters of an endpoint, as the store has them. What people see follows from them and the policy, so that a change
/// of the policy changes it too.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Health {
    /// Under `classic`: refusals since the last success. Otherwise: failures since then.
    pub recent_failures: u32,
    /// Which cool-down this is.
    pub backoff_count: u32,
    /// It cools down until then.
    pub disabled_until_us: Option<i64>,
    /// Why it is disabled, except for the number of its failures.
    pub bar: Option<Bar>,
    /// Since when its name has had no permitted address.
    pub nameless_since_us: Option<i64>,
    /// What failed is sent again then, or with the next change before that.
    pub again_us: Option<i64>,
}

/// What people are told of an attempt's outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tidings {
    /// It was failing, and has just succeeded.
    pub recovered: bool,
    /// It cools down until then.
    pub cooling_until_us: Option<i64>,
    /// So much of the way to being disabled is done, in percent: 50, 75 or 100, when it is reached. 100 says that it is
    /// disabled.
    pub warning: Option<u8>,
}

impl Policy {
    /// The number of `recent_failures` that disables; none under `off`.
    pub const fn limit(self) -> Option<u32> {
        match self {
            Policy::Classic => Some(4),
            Policy::Current => Some(40),
            Policy::Off => None,
        }
    }

    /// How long the cool-down with this number (from 1) lasts, in microseconds.
    pub const fn cool_down_us(self, count: u32) -> i64 {
        let (first_us, longest_us) = match self {
            Policy::Classic => (10 * MINUTE_US, LONGEST_US),
            Policy::Current => (MINUTE_US, LONGEST_US),
            Policy::Off => (10 * SECOND_US, MINUTE_US),
        };
        let doublings = if count > 20 { 19 } else { count.saturating_sub(1) };
        let step_us = first_us << doublings;
        if step_us < longest_us { step_us } else { longest_us }
    }
}

impl Health {
    /// Whether a request may be sent, apart from pausing: not disabled, and no cool-down that lasts up to now or longer.
    pub fn is_executable(&self, policy: Policy, now_us: i64) -> bool {
        self.disabled(policy).is_none() && self.disabled_until_us.is_none_or(|until_us| until_us < now_us)
    }

    /// Why it is disabled, if it is.
    pub fn disabled(&self, policy: Policy) -> Option<Bar> {
        let failures = policy.limit().is_some_and(|limit| self.recent_failures >= limit).then_some(Bar::Failures);
        self.bar.or(failures)
    }

    /// What people see.
    pub fn state(&self, policy: Policy, paused: bool, now_us: i64) -> State {
        match () {
            () if paused => State::Paused,
            () if self.disabled(policy).is_some() => State::Disabled,
            () if !self.is_executable(policy, now_us) => State::Cooling,
            () => State::Active,
        }
    }

    /// Whether the last attempt succeeded, or there was none.
    pub fn is_clean(&self) -> bool {
        *self == Health::default()
    }

    /// From when on a request may be sent without any news; none while disabled. `news`: something has changed since the
    /// last failure, so that one that cost no cool-down need not wait.
    pub fn from_us(&self, policy: Policy, news: bool) -> Option<i64> {
        if self.disabled(policy).is_some() {
            return None;
        }
        let cooled_us = self.disabled_until_us.map_or(i64::MIN, |until_us| until_us + 1);
        let again_us = self.again_us.filter(|_| !news).unwrap_or(i64::MIN);
        Some(cooled_us.max(again_us))
    }

    /// A clock that was set back must not lengthen a cool-down. Returns whether that was so.
    pub fn mend(&mut self, now_us: i64) -> bool {
        let latest_us = now_us.saturating_add(LONGEST_US);
        let too_late = |at_us: Option<i64>| at_us.is_some_and(|at_us| at_us > latest_us);
        let wrong = too_late(self.disabled_until_us) || too_late(self.again_us) || too_late(self.nameless_since_us);
        self.disabled_until_us = self.disabled_until_us.map(|at_us| at_us.min(latest_us));
        self.again_us = self.again_us.map(|at_us| at_us.min(latest_us));
        self.nameless_since_us = self.nameless_since_us.map(|at_us| at_us.min(latest_us));
        wrong
    }

    /// Counts the outcome of an attempt that ended at this time.
    pub fn count(&mut self, policy: Policy, outcome: Outcome, now_us: i64) -> Tidings {
        if outcome == Outcome::Ours {
            return Tidings::default();
        }
        let before = self.way(policy, now_us);
        if outcome.is_good() {
            let recovered = !std::mem::take(self).is_clean();
            return Tidings { recovered, ..Tidings::default() };
        }
        self.again_us = None;
        self.nameless_since_us = self.nameless_since_us.filter(|_| outcome == Outcome::Nameless);
        match outcome {
            Outcome::Forbidden => self.bar = Some(Bar::Forbidden),
            Outcome::Gone if policy != Policy::Off => self.bar = Some(Bar::Gone),
            Outcome::Nameless => {
                let since_us = *self.nameless_since_us.get_or_insert(now_us);
                if policy != Policy::Off && now_us.saturating_sub(since_us) >= NAMELESS_US {
                    self.bar = Some(Bar::Nameless);
                }
            }
            _ => {}
        }
        if self.bar.is_none() {
            self.step(policy, outcome, now_us);
        }
        let after = self.way(policy, now_us);
        let warning = [100, 75, 50].into_iter().find(|&mark| before < mark && after >= mark);
        let cooling_until_us = self.disabled_until_us.filter(|&until_us| until_us >= now_us && after < 100);
        Tidings { recovered: false, cooling_until_us, warning }
    }

    /// The counters, and the time of the next attempt.
    fn step(&mut self, policy: Policy, outcome: Outcome, now_us: i64) {
        let refused = policy == Policy::Classic && matches!(outcome, Outcome::Refused | Outcome::Gone);
        let (free_us, cools) = match policy {
            Policy::Classic if refused => {
                self.recent_failures = self.recent_failures.saturating_add(1);
                (REFUSED_AGAIN_US, false)
            }
            Policy::Classic => {
                self.backoff_count = self.backoff_count.saturating_add(1);
                (0, true)
            }
            Policy::Current => {
                self.recent_failures = self.recent_failures.saturating_add(1);
                self.backoff_count = self.recent_failures.saturating_sub(FREE);
                (FREE_AGAIN_US, self.backoff_count > 0)
            }
            Policy::Off => {
                self.recent_failures = self.recent_failures.saturating_add(1);
                self.backoff_count = self.backoff_count.saturating_add(1);
                (0, true)
            }
        };
        if self.disabled(policy).is_some() {
            return;
        }
        let step_us = if cools { policy.cool_down_us(self.backoff_count) } else { 0 };
        let wish_us = outcome.retry_after_us().unwrap_or(0).clamp(0, LONGEST_US);
        let wait_us = step_us.max(wish_us);
        // An attempt before the end of a cool-down, because the receiver asked for it, never shortens the cool-down.
        if wait_us > 0 {
            self.disabled_until_us = self.disabled_until_us.max(Some(now_us.saturating_add(wait_us)));
        } else {
            self.again_us = Some(now_us.saturating_add(free_us));
        }
    }

    /// How much of the way to being disabled is done, in percent.
    fn way(&self, policy: Policy, now_us: i64) -> u8 {
        if self.disabled(policy).is_some() {
            return 100;
        }
        let Some(limit) = policy.limit() else { return 0 };
        let failures = u64::from(self.recent_failures) * 100 / u64::from(limit);
        let nameless_us = self.nameless_since_us.map_or(0, |since_us| now_us.saturating_sub(since_us).max(0));
        let nameless = nameless_us.saturating_mul(100) / NAMELESS_US;
        u8::try_from(failures.max(nameless.cast_unsigned()).min(99)).unwrap_or(99)
    }
}

#[cfg(test)]
mod tests;
