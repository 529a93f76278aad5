//! Heads: messages that tell gateways, every two seconds, how far the feed is published and whether changes can come.
//!
//! Goes in: the cursor up to which everything is confirmed, and what does not work. Comes out: heads, but only while
//! the route to the bus is checked (the end of history was compared with the ledger). A gateway learns three things
//! from a head: that messages reach it, whether it has everything, and who publishes.

use bugfeed_protocol::Cursor;
use bugfeed_protocol::bus::Head;

/// The time from one head to the next, in milliseconds.
pub const INTERVAL_MS: u64 = 2000;

/// Decides when a head is published, during one term of the lease.
#[derive(Clone, Debug, Default)]
pub struct Heads {
    confirmed: Option<Cursor>,
    /// The situation is better than the last head said, so the next head is due at once.
    news: bool,
    /// The last head said that no change can come.
    said_paused: bool,
    due_at_ms: u64,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// The broker has confirmed everything up to this cursor. `None`: the route to the bus must be checked first.
    Confirmed(Option<Cursor>),
    /// The bus takes changes. If the last head said that it does not, the next head is due at once, so that gateways do
    /// not believe the old one for another two seconds.
    Works,
    /// Time has passed.
    Tick {
        /// What does not work, in words, so that no change can come; `None` if everything works.
        paused: Option<String>,
    },
}

impl Heads {
    /// Takes an event in, and returns the head to publish, if one is due.
    pub fn on(&mut self, now_ms: u64, event: Event) -> Option<Head> {
        match event {
            Event::Confirmed(confirmed) => {
                self.news |= self.confirmed.is_none() && confirmed.is_some();
                self.confirmed = confirmed;
                None
            }
            Event::Works => {
                self.news |= self.said_paused;
                None
            }
            Event::Tick { paused } => {
                if now_ms >= self.due_at_ms {
                    self.due_at_ms = now_ms + INTERVAL_MS;
                } else if !self.news {
                    return None;
                }
                self.news = false;
                let cursor = self.confirmed.clone()?;
                self.said_paused = paused.is_some();
                Some(Head { cursor, interval_ms: INTERVAL_MS, paused, sent: None })
            }
        }
    }

    /// When the next [`Event::Tick`] is due.
    pub fn due_ms(&self) -> u64 {
        if self.news { 0 } else { self.due_at_ms }
    }
}

#[cfg(test)]
mod tests {
    use bugfeed_protocol::Epoch;

    use super::*;

    #[test]
    fn said_at_once_when_the_route_was_checked_and_every_two_seconds() {
        let mut heads = Heads::default();
        let cursor = |seq| Some(Cursor::new(Epoch::from_random(1), seq));
        let mut said = |now_ms, confirmed: Option<Option<Cursor>>| {
            if let Some(confirmed) = confirmed {
                assert_eq!(heads.on(now_ms, Event::Confirmed(confirmed)), None);
            }
            let due = now_ms >= heads.due_ms();
            let head = heads.on(now_ms, Event::Tick { paused: None });
            assert!(due || head.is_none(), "a caller that waits until a head is due misses none");
            head.map(|head| head.cursor.seq)
        };
        assert_eq!(said(0, None), None, "nothing is known");
        assert_eq!(said(100, None), None);
        assert_eq!(said(500, Some(cursor(7))), Some(7), "the route was checked");
        assert_eq!(said(600, None), None);
        assert_eq!(said(700, Some(cursor(9))), None, "not each batch");
        assert_eq!(said(2000, None), Some(9));
        assert_eq!(said(3999, None), None);
        assert_eq!(said(4000, Some(None)), None, "a new connection");
        assert_eq!(said(4100, Some(cursor(9))), Some(9));
        assert_eq!(said(6000, None), Some(9));
    }

    #[test]
    fn what_works_again_is_said_at_once() {
        let mut heads = Heads::default();
        heads.on(0, Event::Confirmed(Some(Cursor::new(Epoch::from_random(1), 7))));
        let paused = heads.on(0, Event::Tick { paused: Some("bus".to_owned()) });
        assert_eq!(paused.unwrap().paused.as_deref(), Some("bus"));
        assert_eq!(heads.on(100, Event::Works), None);
        assert_eq!(heads.due_ms(), 0);
        assert_eq!(heads.on(100, Event::Tick { paused: None }).unwrap().paused, None);
        heads.on(200, Event::Works);
        assert_eq!(heads.on(200, Event::Tick { paused: None }), None, "that is known already");
    }
}
