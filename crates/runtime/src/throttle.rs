//! Limits log lines that others can cause: the first few of each interval are written, the rest are only counted.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lets the first few events of each interval through. An interval begins with the first event after the end of the
/// last interval.
#[derive(Debug)]
pub struct Throttle {
    burst: u32,
    every: Duration,
    /// When the interval began, and how many events it has had.
    window: Mutex<Option<(Instant, u32)>>,
}

/// What to log of one event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admitted {
    /// Log it in full.
    Yes,
    /// It is the first one over the limit: log at most that there are more.
    FirstTooMany,
    /// Log nothing.
    No,
}

impl Throttle {
    /// Lets `burst` events through in each interval of length `every`.
    pub const fn new(burst: u32, every: Duration) -> Throttle {
        Throttle { burst, every, window: Mutex::new(None) }
    }

    /// Lets one event a minute through.
    pub const fn once_a_minute() -> Throttle {
        Throttle::new(1, Duration::from_secs(60))
    }

    /// Counts an event that happens now, and says what to log of it.
    pub fn admit(&self) -> Admitted {
        self.admit_at(Instant::now())
    }

    /// Counts an event that happens now; true if it must not be logged.
    pub fn is_quiet(&self) -> bool {
        self.admit() != Admitted::Yes
    }

    /// Begins afresh: the next event is logged, because what was throttled has ended.
    pub fn reset(&self) {
        *self.window.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn admit_at(&self, now: Instant) -> Admitted {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, count) = match *window {
            Some((since, count)) if now.saturating_duration_since(since) < self.every => {
                (since, count.saturating_add(1))
            }
            _ => (now, 1),
        };
        *window = Some((since, count));
        match count {
            count if count <= self.burst => Admitted::Yes,
            count if count == self.burst.saturating_add(1) => Admitted::FirstTooMany,
            _ => Admitted::No,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_few_of_each_interval() {
        let begin = Instant::now();
        let throttle = Throttle::new(2, Duration::from_secs(60));
        let at = |s| throttle.admit_at(begin + Duration::from_secs(s));
        use Admitted::{FirstTooMany, No, Yes};
        assert_eq!([at(0), at(1), at(2), at(3), at(59)], [Yes, Yes, FirstTooMany, No, No]);
        assert_eq!([at(60), at(61), at(119), at(120)], [Yes, Yes, FirstTooMany, Yes]);
        throttle.reset();
        assert_eq!(at(121), Yes);
    }
}
