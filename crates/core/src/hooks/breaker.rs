//! When a tracker's API may be asked: a rate limit and a circuit breaker.
//!
//! Goes in: which questions begin and how they end. Comes out: whether one may begin, or from when on, and whether the
//! tracker has just recovered. A tracker that fails is asked ever more rarely, at most every minute, so its recovery is
//! noticed within a minute of it. Asks nothing by itself, and knows no event.
//!
//! | state | may ask | until |
//! |---|---|---|
//! | closed | yes, at the rate | [`Options::faults`] faults in a row, or a wish of the tracker (`Retry-After`): open |
//! | open | no | 10, 20, 40, 60, 60 … seconds have passed, or the time that the tracker wished: half open |
//! | half open | one question | it succeeds: closed; it fails or does not end: open, for longer |

use super::SECOND_US;
use super::pace::Bucket;

/// How long the breaker is open the first time, in microseconds. It doubles with each failure.
const FIRST_US: i64 = 10 * SECOND_US;
/// How long it is open at most, unless the tracker wishes more.
const LONGEST_US: i64 = 60 * SECOND_US;
/// What a tracker may wish at most.
const LONGEST_WISH_US: i64 = 3600 * SECOND_US;
/// The errored events of a source are tried again for a recovery of its tracker at most so often. Otherwise a tracker that
/// fails for one bug only would cause that with each success for another.
const RECOVERY_EVERY_US: i64 = 30 * SECOND_US;

/// How a tracker may be asked.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Questions in a second.
    pub per_second: u32,
    /// Questions at once after a pause.
    pub burst: u32,
    /// After so many faults in a row the breaker opens.
    pub faults: u32,
    /// How long a question may take, in microseconds. A half open breaker waits so long for its one question.
    pub patience_us: i64,
}

impl Default for Options {
    fn default() -> Options {
        Options { per_second: 10, burst: 20, faults: 5, patience_us: 15 * SECOND_US }
    }
}

/// How a question ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The tracker works. (It may have said that there is no such bug.)
    Fine,
    /// It did not answer in time, or with an error of its own.
    Fault,
    /// It wishes not to be asked for so long, in microseconds (429, 503 with `Retry-After`).
    Later(i64),
}

/// What an answer means for the source's events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// It is the first success after a fault, or after the start of the process: dead letters of class `tracker` are to be
    /// tried ([`Order::Mended`](super::orders::Order::Mended)).
    pub recovered: bool,
    /// The breaker has just opened: one line in the log.
    pub opened: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed,
    Open { from_us: i64, until_us: i64 },
    HalfOpen { since_us: i64 },
}

/// The breaker of one tracker.
#[derive(Clone, Debug)]
pub struct Breaker {
    options: Options,
    rate: Bucket,
    state: State,
    /// Faults since the last success.
    faults: u32,
    /// How long it was open the last time.
    open_us: i64,
    /// Whether there may be dead letters that its next success should try.
    owes_recovery: bool,
    recovered_us: Option<i64>,
    /// When it last failed.
    fault_us: Option<i64>,
}

impl Breaker {
    /// A closed breaker that owes a recovery, because nothing is known of the time before.
    pub fn new(options: Options) -> Breaker {
        Breaker {
            options,
            rate: Bucket::new(options.per_second, options.burst),
            state: State::Closed,
            faults: 0,
            open_us: 0,
            owes_recovery: true,
            recovered_us: None,
            fault_us: None,
        }
    }

    /// From when on the tracker may be asked: not later than now if it may be asked now.
    pub fn ask_from(&self, now_us: i64) -> i64 {
        let from_us = match self.state {
            State::Closed => now_us,
            // A clock that was set back would keep it open for as long as it was set back.
            State::Open { from_us, until_us } if now_us >= from_us => until_us,
            State::Open { .. } => now_us,
            State::HalfOpen { since_us } if now_us >= since_us => since_us + self.options.patience_us,
            State::HalfOpen { .. } => now_us,
        };
        from_us.max(self.rate.next_us(now_us))
    }

    /// Whether the breaker is not closed: chains are not drained.
    pub fn is_open(&self) -> bool {
        self.state != State::Closed
    }

    /// A question begins, if it may. Each question that begins ends, with [`Breaker::end`], or is forgotten.
    pub fn begin(&mut self, now_us: i64) -> bool {
        if self.ask_from(now_us) > now_us || !self.rate.take(now_us) {
            return false;
        }
        if self.is_open() {
            self.state = State::HalfOpen { since_us: now_us };
        }
        true
    }

    /// A question ended.
    pub fn end(&mut self, now_us: i64, answer: Answer) -> Heard {
        match answer {
            Answer::Fine => self.succeeded(now_us),
            Answer::Fault => self.failed(now_us, None),
            Answer::Later(wish_us) => self.failed(now_us, Some(wish_us.clamp(0, LONGEST_WISH_US))),
        }
    }

    fn succeeded(&mut self, now_us: i64) -> Heard {
        (self.state, self.faults, self.open_us, self.fault_us) = (State::Closed, 0, 0, None);
        let too_soon = self.recovered_us.is_some_and(|last| last <= now_us && now_us - last < RECOVERY_EVERY_US);
        let recovered = self.owes_recovery && !too_soon;
        if recovered {
            (self.owes_recovery, self.recovered_us) = (false, Some(now_us));
        }
        Heard { recovered, opened: false }
    }

    fn failed(&mut self, now_us: i64, wish_us: Option<i64>) -> Heard {
        self.faults = self.faults.saturating_add(1);
        (self.owes_recovery, self.fault_us) = (true, Some(now_us));
        let opens = match self.state {
            State::Closed => self.faults >= self.options.faults || wish_us.is_some(),
            State::HalfOpen { .. } => true,
            // This question began before it opened. It says nothing new, unless it is a wish.
            State::Open { until_us, .. } => wish_us.is_some_and(|wish_us| now_us + wish_us > until_us),
        };
        if !opens {
            return Heard::default();
        }
        let opened = self.state == State::Closed;
        if !matches!(self.state, State::Open { .. }) {
            self.open_us = (self.open_us * 2).clamp(FIRST_US, LONGEST_US);
        }
        let until_us = now_us + self.open_us.max(wish_us.unwrap_or(0));
        self.state = State::Open { from_us: now_us, until_us };
        Heard { recovered: false, opened }
    }

    /// When to ask the tracker for the sake of its recovery, if nothing else asks: 30 s after its last fault, or when an open
    /// breaker lets a question through. `None`: nothing is owed. Ask for the bug of the source's oldest dead letter of
    /// class `tracker`, if there is one; the question is no try of that event.
    pub fn probe_from(&self, now_us: i64) -> Option<i64> {
        let earliest = match (self.fault_us, self.recovered_us) {
            (Some(fault_us), _) if !self.is_open() => fault_us.min(now_us) + RECOVERY_EVERY_US,
            (None, Some(last)) => last.min(now_us) + RECOVERY_EVERY_US,
            _ => now_us,
        };
        self.owes_recovery.then(|| self.ask_from(now_us).max(earliest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: Options = Options { per_second: 1000, burst: 1000, faults: 3, patience_us: 15 * SECOND_US };

    fn ask(breaker: &mut Breaker, second: i64, answer: Answer) -> Heard {
        assert!(breaker.begin(second * SECOND_US), "{second}");
        breaker.end(second * SECOND_US, answer)
    }

    #[test]
    fn opens_after_faults_in_a_row_and_asks_ever_more_rarely() {
        let mut breaker = Breaker::new(OPTIONS);
        for second in 0..2 {
            assert!(!ask(&mut breaker, second, Answer::Fault).opened);
        }
        assert!(ask(&mut breaker, 2, Answer::Fault).opened);
        let mut asked = Vec::new();
        for second in 3..300 {
            if breaker.begin(second * SECOND_US) {
                asked.push(second);
                assert!(!breaker.begin(second * SECOND_US), "one question while half open");
                breaker.end(second * SECOND_US, Answer::Fault);
            }
        }
        assert_eq!(asked, [12, 32, 72, 132, 192, 252]);
        assert_eq!(breaker.probe_from(300 * SECOND_US), Some(312 * SECOND_US));
    }

    #[test]
    fn the_first_success_after_a_fault_is_a_recovery() {
        let mut breaker = Breaker::new(OPTIONS);
        assert_eq!(breaker.probe_from(0), Some(0), "errors from before the start");
        assert!(ask(&mut breaker, 0, Answer::Fine).recovered);
        assert!(!ask(&mut breaker, 1, Answer::Fine).recovered);
        assert_eq!(breaker.probe_from(SECOND_US), None);
        ask(&mut breaker, 2, Answer::Fault);
        assert!(!ask(&mut breaker, 3, Answer::Fine).recovered, "too soon");
        assert_eq!(breaker.probe_from(3 * SECOND_US), Some(30 * SECOND_US));
        assert!(ask(&mut breaker, 30, Answer::Fine).recovered, "but not forgotten");
    }

    #[test]
    fn a_question_that_never_ends_is_followed_by_another() {
        let mut breaker = Breaker::new(OPTIONS);
        for second in 0..3 {
            ask(&mut breaker, second, Answer::Fault);
        }
        assert!(breaker.begin(12 * SECOND_US));
        assert!(!breaker.begin(26 * SECOND_US));
        assert!(breaker.begin(27 * SECOND_US));
    }

    #[test]
    fn a_wish_is_granted_up_to_an_hour() {
        let mut breaker = Breaker::new(OPTIONS);
        ask(&mut breaker, 0, Answer::Later(120 * SECOND_US));
        assert_eq!(breaker.ask_from(SECOND_US), 120 * SECOND_US);
        ask(&mut breaker, 120, Answer::Later(i64::MAX));
        assert_eq!(breaker.ask_from(121 * SECOND_US), (120 + 3600) * SECOND_US);
        assert_eq!(breaker.ask_from(119 * SECOND_US), 119 * SECOND_US, "the clock was set back");
    }

    #[test]
    fn a_late_answer_of_an_open_breaker_closes_it_or_says_nothing() {
        let mut breaker = Breaker::new(OPTIONS);
        for _ in 0..5 {
            assert!(breaker.begin(0));
        }
        for _ in 0..4 {
            breaker.end(0, Answer::Fault);
        }
        assert_eq!(breaker.ask_from(1), 10 * SECOND_US);
        breaker.end(1, Answer::Fine);
        assert!(!breaker.is_open());
    }
}
