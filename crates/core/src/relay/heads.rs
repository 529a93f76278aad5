//! Heads: every two seconds, where the feed is and whether anything can come.
//!
//! Goes in: how far everything is confirmed, and what does not work. Comes out: heads, as long as the way to the bus was
//! looked at. A gateway learns from them that it hears, that it has everything, and who publishes.

use bugfeed_protocol::Cursor;
use bugfeed_protocol::bus::Head;

/// How often a head is said, in milliseconds.
pub const INTERVAL_MS: u64 = 2000;

/// Says heads, in one term.
#[derive(Clone, Debug, Default)]
pub struct Heads {
    confirmed: Option<Cursor>,
    /// Something is better than the last head said: say it now.
    news: bool,
    /// The last head said that nothing can come.
    said_paused: bool,
    due_at_ms: u64,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// Everything is confirmed up to here; `None` where the way to the bus has to be looked at first.
    Confirmed(Option<Cursor>),
    /// The bus takes changes. Where the last head said otherwise, gateways need not believe it until the next one is due.
    Works,
    /// Time has passed. `paused`: what does not work, so that nothing can come.
    Tick {
        /// In words.
        paused: Option<String>,
    },
}

impl Heads {
    /// What to say about an event, if anything.
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
                Some(Head { cursor, interval_ms: INTERVAL_MS, paused })
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
    fn said_at_once_when_the_way_was_looked_at_and_every_two_seconds() {
        let mut heads = Heads::default();
        let cursor = |seq| Some(Cursor::new(Epoch::from_random(1), seq));
        let mut said = |now_ms, confirmed: Option<Option<Cursor>>| {
            if let Some(confirmed) = confirmed {
                assert_eq!(heads.on(now_ms, Event::Confirmed(confirmed)), None);
            }
            let due = now_ms >= heads.due_ms();
            let head = heads.on(now_ms, Event::Tick { paused: None });
            assert!(due || head.is_none(), "who waits for it misses none");
            head.map(|head| head.cursor.seq)
        };
        assert_eq!(said(0, None), None, "nothing is known");
        assert_eq!(said(100, None), None);
        assert_eq!(said(500, Some(cursor(7))), Some(7), "the way was looked at");
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
