//! Whether a source is silent for longer than is usual at this hour of the week, and whether its dead letters grow: pure.
//!
//! Time is cut into slots of five minutes. For each hour of the week (in UTC) it is learned in which part of the slots
//! webhooks came, with a memory of about four weeks. A silence is unusual when its slots together would have stayed empty
//! by chance less than once in a thousand times, and it lasts for at least 15 minutes. Slots, not webhooks, are counted,
//! because a bulk change makes a thousand webhooks and says nothing about the next hour. Hours of which nothing is known
//! yet are never unusual.

use std::collections::VecDeque;

use bugfeed_core::hooks::SECOND_US;

const SLOT_US: i64 = 300 * SECOND_US;
const HOUR_US: i64 = 3600 * SECOND_US;
/// Hours in a week.
pub const HOURS: usize = 168;
/// 1970-01-01 was a Thursday; with this, the week begins on Monday.
const MONDAY_HOURS: i64 = 3 * 24;
/// How many slots of an hour of the week are remembered: 12 a week, of four weeks.
const MEMORY: f32 = 48.0;
/// -ln(1/1000).
const UNUSUAL: f32 = 6.9;
/// No silence is unusual before this.
const SHORTEST_US: i64 = 900 * SECOND_US;
/// After a pause of this length the process was away, not the source.
const AWAY_US: i64 = 900 * SECOND_US;

/// What was learned of an hour of the week: slots, and those in which webhooks came; both fade.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Hour {
    /// Slots.
    pub slots: f32,
    /// Slots with webhooks.
    pub busy: f32,
}

impl Hour {
    fn learn(&mut self, is_busy: bool) {
        let fade = 1.0 - 1.0 / MEMORY;
        self.slots = self.slots * fade + 1.0;
        self.busy = self.busy * fade + if is_busy { 1.0 } else { 0.0 };
    }

    /// How unusual an empty slot is: minus the logarithm of its probability.
    fn surprise(self) -> f32 {
        // One more slot than there were, an empty one: little is concluded from little.
        let busy = (self.busy / (self.slots + 1.0)).min(0.98);
        -(1.0 - busy).ln()
    }
}

/// The usual silences of a source, and the one of now.
#[derive(Clone, Debug)]
pub struct Silence {
    hours: Vec<Hour>,
    /// The beginning of the slot of now.
    slot_us: i64,
    is_busy: bool,
    heard_us: i64,
    seen_us: i64,
    surprise: f32,
    was_told: bool,
}

impl Silence {
    /// Begins with what was learned before ([`Silence::learned`]), or with nothing.
    pub fn new(learned: &[Hour], now_us: i64) -> Silence {
        let mut hours = learned.to_vec();
        hours.resize(HOURS, Hour::default());
        let slot_us = now_us.div_euclid(SLOT_US) * SLOT_US;
        Silence { hours, slot_us, is_busy: false, heard_us: now_us, seen_us: now_us, surprise: 0.0, was_told: false }
    }

    /// What was learned, of each hour of the week from Monday on.
    pub fn learned(&self) -> &[Hour] {
        &self.hours
    }

    /// A webhook came. Returns how long the silence was that this ends, in microseconds, if it was told.
    pub fn heard(&mut self, now_us: i64) -> Option<i64> {
        self.pass(now_us);
        let ended = self.was_told.then_some(now_us - self.heard_us);
        (self.is_busy, self.heard_us, self.surprise, self.was_told) = (true, now_us, 0.0, false);
        ended
    }

    /// Time has passed; to be called about every minute. Returns how long the source is silent, in microseconds, when that
    /// becomes unusual: once in each silence.
    pub fn tick(&mut self, now_us: i64) -> Option<i64> {
        self.pass(now_us);
        let silent_us = now_us - self.heard_us;
        let is_unusual = self.surprise >= UNUSUAL && silent_us >= SHORTEST_US && !self.was_told;
        self.was_told |= is_unusual;
        is_unusual.then_some(silent_us)
    }

    /// Ends the slots that have passed.
    fn pass(&mut self, now_us: i64) {
        let away = !(0..AWAY_US).contains(&(now_us - self.seen_us));
        self.seen_us = now_us;
        if away {
            // Nobody was listening, or a clock was set: begin anew, with what was learned.
            *self = Silence::new(&self.hours, now_us);
            return;
        }
        while now_us - self.slot_us >= SLOT_US {
            let hour = (self.slot_us.div_euclid(HOUR_US) + MONDAY_HOURS).rem_euclid(168);
            let hour = &mut self.hours[usize::try_from(hour).unwrap_or(0)];
            if !self.is_busy {
                self.surprise += hour.surprise();
            }
            hour.learn(self.is_busy);
            self.is_busy = false;
            self.slot_us += SLOT_US;
        }
    }
}

/// Whether a source's dead letters grow.
#[derive(Clone, Debug, Default)]
pub struct Growth {
    /// When and how many, of the last hour, about one a minute.
    samples: VecDeque<(i64, u64)>,
}

/// So many more in an hour are worth an alert, and half as many again as there were.
const GROWN_BY: u64 = 10;
/// Samples of the last hour that are kept.
const MOST_SAMPLES: usize = 120;

impl Growth {
    /// There are so many dead letters now. Returns by how many they have grown within the last hour, if that is a lot.
    pub fn sample(&mut self, now_us: i64, count: u64) -> Option<u64> {
        self.samples.retain(|(at_us, _)| (0..HOUR_US).contains(&(now_us - at_us)));
        let least = self.samples.iter().map(|(_, count)| *count).min().unwrap_or(count);
        if self.samples.back().is_none_or(|(at_us, _)| now_us - at_us >= 30 * SECOND_US) {
            if self.samples.len() >= MOST_SAMPLES {
                self.samples.pop_front();
            }
            self.samples.push_back((now_us, count));
        }
        let grown = count.saturating_sub(least);
        (grown >= GROWN_BY && grown >= least / 2).then_some(grown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: i64 = 60 * SECOND_US;
    const WEEK: i64 = 168 * HOUR_US;
    /// A Monday, 00:00 UTC.
    const MONDAY: i64 = 1_700_438_400 * SECOND_US;

    /// A source that is busy from 8 to 18 h on weekdays, and sends something now and then at night.
    fn is_busy(minute: i64) -> bool {
        let hour = minute / 60 % 24;
        let day = minute / 60 / 24 % 7;
        if day < 5 && (8..18).contains(&hour) { minute % 4 == 0 } else { minute % 240 == 0 }
    }

    fn learn(weeks: i64) -> Silence {
        let mut silence = Silence::new(&[], MONDAY);
        for minute in 0..weeks * 7 * 24 * 60 {
            let now_us = MONDAY + minute * MINUTE;
            if is_busy(minute) {
                silence.heard(now_us);
            }
            assert_eq!(silence.tick(now_us), None, "minute {minute}: nothing is unusual");
        }
        silence
    }

    /// Nothing comes from this minute of the week on. Returns after how many minutes that is told.
    fn told_after(silence: &mut Silence, begin_us: i64, minutes: i64) -> Option<i64> {
        silence.heard(begin_us);
        let mut told = (0..minutes).filter(|minute| silence.tick(begin_us + minute * MINUTE).is_some());
        let first = told.next();
        assert_eq!(told.next(), None, "told once");
        first
    }

    /// The learned source, at this hour of its fourth week.
    fn at_hour(hour: i64) -> (Silence, i64) {
        let now_us = MONDAY + 3 * WEEK + hour * HOUR_US;
        (Silence::new(learn(3).learned(), now_us), now_us)
    }

    #[test]
    fn a_silence_in_office_hours_is_told_soon_and_at_night_late() {
        let (mut silence, now_us) = at_hour(10);
        let noon = told_after(&mut silence, now_us, 600).expect("told");
        assert!((15..40).contains(&noon), "{noon} minutes");
        let (mut silence, now_us) = at_hour(20);
        let night = told_after(&mut silence, now_us, 24 * 60).expect("told");
        assert!(night > 10 * 60, "{night} minutes: in the morning");
        let (mut silence, now_us) = at_hour(5 * 24 + 1);
        assert_eq!(told_after(&mut silence, now_us, 24 * 60), None, "a silent Saturday");
    }

    #[test]
    fn nothing_is_unusual_before_a_week_was_heard() {
        let mut silence = Silence::new(&[], MONDAY);
        assert_eq!(told_after(&mut silence, MONDAY, 7 * 24 * 60), None);
    }

    #[test]
    fn the_end_of_a_told_silence() {
        let (mut silence, now_us) = at_hour(10);
        assert!(told_after(&mut silence, now_us, 60).is_some());
        assert_eq!(silence.heard(now_us + 60 * MINUTE), Some(60 * MINUTE));
        assert_eq!(silence.heard(now_us + 61 * MINUTE), None);
    }

    #[test]
    fn a_process_that_was_away_blames_nobody() {
        let (mut silence, now_us) = at_hour(10);
        silence.heard(now_us);
        assert_eq!(silence.tick(now_us + 8 * HOUR_US), None);
        assert_eq!(silence.tick(now_us - 8 * HOUR_US), None, "the clock was set");
    }

    #[test]
    fn growth_is_judged_within_an_hour() {
        let mut growth = Growth::default();
        let mut sample = |minute: i64, count| growth.sample(minute * MINUTE, count);
        assert_eq!(sample(0, 100), None);
        assert_eq!(sample(10, 130), None, "less than half as many again");
        assert_eq!(sample(20, 150), Some(50));
        assert_eq!(sample(61, 160), None, "it was slower");
        assert_eq!(sample(200, 3), None);
        assert_eq!(sample(201, 12), None);
        assert_eq!(sample(202, 13), Some(10));
    }
}
