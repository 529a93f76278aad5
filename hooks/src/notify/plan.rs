//! Who is told of what, and how often: pure.
//!
//! Goes in: alerts, and the time. Comes out: messages for targets. Of one cause, at most one message goes out in an hour;
//! what happened meanwhile is counted, and told at the end of that hour. A target gets at most 20 messages at once and then
//! one a minute; how many were left out is told with the next one. Once a day a digest says how often each thing happened:
//! each process hands over what it has counted ([`Planner::take_counts`]), and one of them makes the digest for all. What is
//! counted for the current hour is not kept over a restart.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bugfeed_core::hooks::SECOND_US;
use bugfeed_core::hooks::pace::Bucket;

use crate::config::Notify;

/// Of one cause, one message in this time.
pub const EVERY_US: i64 = 3600 * SECOND_US;
/// A day.
const DAY_US: i64 = 86_400 * SECOND_US;
/// The digest is sent at this time of the day, in UTC.
const DIGEST_AT_US: i64 = 6 * 3600 * SECOND_US;
/// So many causes are told apart. Further ones count as one cause for each subject and source.
const MOST_CAUSES: usize = 1000;
/// A target's messages at once, and the time from one to the next afterwards.
const BURST: u32 = 20;
const PACE_US: i64 = 60 * SECOND_US;
/// A text is cut after so many characters.
const LONGEST_TEXT: usize = 2000;

/// Something that people should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alert {
    /// One of [`SUBJECTS`](crate::config::notify::SUBJECTS).
    pub subject: &'static str,
    /// The source that it is about.
    pub source: Option<Arc<str>>,
    /// What tells it apart from others of this subject and source: one that happens again is told once an hour. For example
    /// a class of errors, a key's id, an endpoint's id; not an event's id.
    pub cause: String,
    /// One or a few sentences.
    pub text: String,
}

/// A message to a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The target's index in the configuration.
    pub target: usize,
    /// The subject.
    pub subject: &'static str,
    /// The source.
    pub source: Option<Arc<str>>,
    /// The text, in which nothing mentions anybody in a chat.
    pub text: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct CauseKey {
    subject: &'static str,
    source: Option<Arc<str>>,
    cause: String,
}

#[derive(Clone, Debug)]
struct Cause {
    told_us: i64,
    more: u64,
    /// The newest text that was not told.
    last: String,
}

#[derive(Clone, Debug)]
struct Route {
    on: Vec<&'static str>,
    sources: Vec<String>,
    pace: Bucket,
    left_out: u64,
}

/// How often each subject of each source was raised.
pub type Counts = BTreeMap<(&'static str, Option<Arc<str>>), u64>;

/// Decides who is told.
#[derive(Clone, Debug)]
pub struct Planner {
    routes: Vec<Route>,
    causes: HashMap<CauseKey, Cause>,
    counts: Counts,
}

impl Planner {
    /// With the targets of the configuration.
    pub fn new(notify: &[Notify]) -> Planner {
        let route = |notify: &Notify| Route {
            on: notify.on.clone(),
            sources: notify.sources.clone(),
            pace: Bucket::every(PACE_US, BURST),
            left_out: 0,
        };
        Planner { routes: notify.iter().map(route).collect(), causes: HashMap::new(), counts: Counts::new() }
    }

    /// Takes over what another planner has told already, when the configuration was read again.
    #[must_use]
    pub fn succeed(self, other: Planner) -> Planner {
        Planner { causes: other.causes, counts: other.counts, ..self }
    }

    /// Something happened.
    pub fn raise(&mut self, now_us: i64, alert: Alert) -> Vec<Message> {
        *self.counts.entry((alert.subject, alert.source.clone())).or_default() += 1;
        let mut key = CauseKey { subject: alert.subject, source: alert.source, cause: alert.cause };
        if self.causes.len() >= MOST_CAUSES && !self.causes.contains_key(&key) {
            key.cause = "others".to_owned();
        }
        match self.causes.get_mut(&key) {
            // A clock that was set back must not silence a cause.
            Some(cause) if (0..EVERY_US).contains(&(now_us - cause.told_us)) => {
                cause.more += 1;
                cause.last = alert.text;
                Vec::new()
            }
            _ => {
                let told = Cause { told_us: now_us, more: 0, last: String::new() };
                // What was counted and not told, because nobody has called `tick` since the end of its hour.
                let more = self.causes.insert(key.clone(), told).map_or(0, |before| before.more);
                let before = if more > 0 { format!("\n({more} more before it)") } else { String::new() };
                self.tell(now_us, key.subject, key.source.as_ref(), &format!("{}{before}", alert.text))
            }
        }
    }

    /// When [`Planner::tick`] has something to do, at the latest.
    pub fn next_us(&self) -> i64 {
        self.causes.values().map(|cause| cause.told_us + EVERY_US).min().unwrap_or(i64::MAX)
    }

    /// Time has passed.
    pub fn tick(&mut self, now_us: i64) -> Vec<Message> {
        let mut out = Vec::new();
        let over = |cause: &Cause| !(0..EVERY_US).contains(&(now_us - cause.told_us));
        let ended: Vec<CauseKey> =
            self.causes.iter().filter(|(_, cause)| over(cause)).map(|(key, _)| key.clone()).collect();
        for key in ended {
            let Some(cause) = self.causes.remove(&key) else { continue };
            if cause.more == 0 {
                continue;
            }
            let text = format!("{} more in the last hour, the last one: {}", cause.more, cause.last);
            out.extend(self.tell(now_us, key.subject, key.source.as_ref(), &text));
            self.causes.insert(key, Cause { told_us: now_us, more: 0, last: String::new() });
        }
        out
    }

    /// What was counted since the last time.
    pub fn take_counts(&mut self) -> Counts {
        std::mem::take(&mut self.counts)
    }

    /// Takes counts back that could not be handed over.
    pub fn return_counts(&mut self, counts: Counts) {
        for (of, count) in counts {
            *self.counts.entry(of).or_default() += count;
        }
    }

    /// The daily digest: these lines.
    pub fn digest(&mut self, now_us: i64, lines: Vec<String>) -> Vec<Message> {
        let mut text = "bugfeed, the last day:".to_owned();
        for line in if lines.is_empty() { vec!["nothing to report".to_owned()] } else { lines } {
            text.push('\n');
            text.push_str(&line);
        }
        self.tell(now_us, "digest", None, &text)
    }

    fn tell(&mut self, now_us: i64, subject: &'static str, source: Option<&Arc<str>>, text: &str) -> Vec<Message> {
        let mut out = Vec::new();
        for (target, route) in self.routes.iter_mut().enumerate() {
            // What is about no source is for all targets of the subject.
            let fits = route.sources.is_empty()
                || source.is_none_or(|source| route.sources.iter().any(|wanted| **wanted == **source));
            if !route.on.contains(&subject) || !fits {
                continue;
            }
            if !route.pace.take(now_us) {
                route.left_out += 1;
                continue;
            }
            let left_out = std::mem::take(&mut route.left_out);
            let more =
                if left_out > 0 { format!("\n({left_out} further messages were left out)") } else { String::new() };
            let text = format!("{}{more}", plain(text));
            out.push(Message { target, subject, source: source.cloned(), text });
        }
        out
    }
}

/// The number of the day whose digest is due, or was due last: it changes at the time of day for digests.
pub fn digest_day(now_us: i64) -> i64 {
    (now_us - DIGEST_AT_US).div_euclid(DAY_US)
}

/// Without control characters, and without what would mention people or make links in a chat: a tracker's words may be
/// part of a text.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for c in text.chars().take(LONGEST_TEXT) {
        match c {
            '\n' => plain.push('\n'),
            '<' => plain.push('‹'),
            '>' => plain.push('›'),
            '@' => plain.push_str("@\u{200b}"),
            c if c.is_control() => plain.push(' '),
            c => plain.push(c),
        }
    }
    if text.chars().nth(LONGEST_TEXT).is_some() {
        plain.push('…');
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::HooksConfig;

    const HOUR: i64 = 3600;

    /// Two targets: all of one source; errors of all sources and the digest.
    fn planner() -> Planner {
        let text = r#"
            [[source]]
            name = "kde"
            preset = "plain"
            [[source]]
            name = "gnome"
            preset = "plain"
            [[notify]]
            on = "all"
            sources = "kde"
            url = "https://chat.example.org/hook"
            [[notify]]
            on = ["errored", "digest"]
            command = ["tell"]
        "#;
        let config = HooksConfig::read("hooks.toml", text, &|_| Err("no file".to_owned())).unwrap();
        Planner::new(&config.notify)
    }

    fn alert(subject: &'static str, source: &str, cause: &str, text: &str) -> Alert {
        let source = (!source.is_empty()).then(|| Arc::from(source));
        Alert { subject, source, cause: cause.to_owned(), text: text.to_owned() }
    }

    fn told(messages: &[Message]) -> Vec<(usize, &str)> {
        messages.iter().map(|message| (message.target, message.text.as_str())).collect()
    }

    fn at(second: i64) -> i64 {
        second * SECOND_US
    }

    #[test]
    fn routes() {
        let mut planner = planner();
        let mut raise = |subject, source, cause| {
            let messages = planner.raise(at(0), alert(subject, source, cause, "x"));
            messages.iter().map(|message| message.target).collect::<Vec<_>>()
        };
        assert_eq!(raise("errored", "kde", "mapping"), [0, 1]);
        assert_eq!(raise("errored", "gnome", "mapping"), [1]);
        assert_eq!(raise("silence", "gnome", ""), [] as [usize; 0]);
        assert_eq!(raise("silence", "kde", ""), [0]);
        assert_eq!(raise("quarantine", "", ""), [0], "about no source: all targets of the subject");
    }

    #[test]
    fn one_message_for_each_cause_and_hour() {
        let mut planner = planner();
        assert_eq!(planner.raise(at(0), alert("errored", "gnome", "mapping", "first")).len(), 1);
        for second in 1..13 {
            assert_eq!(planner.raise(at(second), alert("errored", "gnome", "mapping", &format!("no. {second}"))), []);
        }
        assert_eq!(planner.raise(at(13), alert("errored", "gnome", "tracker", "another cause")).len(), 1);
        assert_eq!(planner.next_us(), at(HOUR));
        assert_eq!(planner.tick(at(HOUR - 1)), []);
        let messages = planner.tick(at(HOUR));
        assert_eq!(told(&messages), [(1, "12 more in the last hour, the last one: no. 12")]);
        assert_eq!(planner.raise(at(HOUR + 1), alert("errored", "gnome", "mapping", "x")), [], "a new hour began");
        assert_eq!(planner.raise(at(HOUR + 20), alert("errored", "gnome", "tracker", "y")).len(), 1);
    }

    #[test]
    fn a_clock_that_was_set_back_silences_nothing() {
        let mut planner = planner();
        planner.raise(at(1_000_000), alert("errored", "gnome", "mapping", "x"));
        assert_eq!(planner.raise(at(0), alert("errored", "gnome", "mapping", "y")).len(), 1);
    }

    #[test]
    fn what_was_counted_is_told_with_the_next_one_if_nobody_ticks() {
        let mut planner = planner();
        for second in 0..5 {
            planner.raise(at(second), alert("errored", "gnome", "mapping", "x"));
        }
        let messages = planner.raise(at(HOUR + 10), alert("errored", "gnome", "mapping", "later"));
        assert_eq!(told(&messages), [(1, "later\n(4 more before it)")]);
        assert_eq!(planner.tick(at(3 * HOUR)), [], "nothing is told twice");
    }

    #[test]
    fn a_storm_of_causes_is_bounded() {
        let mut planner = planner();
        let mut count = 0;
        for number in 0..3000 {
            count += planner.raise(at(0), alert("errored", "gnome", &number.to_string(), "x")).len();
        }
        assert_eq!(count, 20);
        assert!(planner.causes.len() <= MOST_CAUSES + 1);
        let messages = planner.raise(at(60), alert("errored", "kde", "mapping", "later"));
        assert!(
            messages[1].text.starts_with("later\n(") && messages[1].text.ends_with(" further messages were left out)")
        );
        assert_eq!(messages[0].text, "later", "the other target was not in the storm");
    }

    #[test]
    fn a_digest_of_all_counts() {
        let mut planner = planner();
        planner.raise(at(0), alert("errored", "gnome", "mapping", "x"));
        planner.raise(at(0), alert("errored", "gnome", "mapping", "x"));
        let counts = planner.take_counts();
        planner.raise(at(0), alert("silence", "kde", "", "x"));
        planner.return_counts(counts);
        let counts: Vec<_> = planner.take_counts().into_iter().collect();
        assert_eq!(counts, [(("errored", Some("gnome".into())), 2), (("silence", Some("kde".into())), 1)]);
        assert!(planner.take_counts().is_empty());
        let messages = planner.digest(at(0), vec!["errored (gnome): 2".to_owned()]);
        let want = "bugfeed, the last day:\nerrored (gnome): 2";
        assert_eq!(told(&messages), [(0, want), (1, want)]);
        let messages = planner.digest(at(0), Vec::new());
        assert_eq!(told(&messages)[0].1, "bugfeed, the last day:\nnothing to report");
    }

    #[test]
    fn days_of_digests_begin_in_the_morning() {
        let day = |hour: i64| digest_day(at(hour * HOUR));
        assert_eq!([day(5), day(6), day(29), day(30)], [-1, 0, 0, 1]);
    }

    #[test]
    fn texts_mention_nobody() {
        assert_eq!(plain("a\r\nb <!channel> @all \u{7}"), "a \nb ‹!channel› @\u{200b}all  ");
        assert_eq!(plain(&"x".repeat(3000)).chars().count(), 2001);
    }
}
