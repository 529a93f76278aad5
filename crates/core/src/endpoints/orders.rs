//! What people order of an endpoint.
//!
//! Goes in: an order and the row as the store has it. Comes out: the row afterwards, to be written by a compare-and-set on
//! its version (if that does not hold, read it again and carry the order out again), or why it is refused. Whoever serves
//! the endpoint is told that the row has changed. So an order may be given on any replica, and no crash loses it.

use std::fmt;
use std::sync::Arc;

use bugfeed_protocol::{Cursor, When};

use super::policy::{Health, Policy};
use super::question::{Since, Watch};
use super::row::{Asked, Line, MAX_WISHES, Row, Wish};

/// An order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// No requests until [`Order::Resume`], except by hand.
    Pause,
    /// Goes on; what came meanwhile is its backlog.
    Resume,
    /// Counters 0, and no longer disabled for whatever reason.
    Enable,
    /// Counters 0. One that answered 410, or whose address is forbidden, stays disabled.
    Reset,
    /// Send a test.
    Test,
    /// The receiver says that it is ready: an attempt at once.
    Ready,
    /// Send again what an attempt sent.
    Redeliver {
        /// The attempt.
        attempt: u128,
    },
    /// Send again what changed since.
    Recover {
        /// Of this feed; may be left out where there is one.
        feed: Option<Arc<str>>,
        /// Since when.
        to: Recovery,
    },
    /// Other bugs.
    Watch(Watch),
    /// Other feeds. Those that are new begin at their head.
    Feeds(Vec<Arc<str>>),
    /// Another URL. Failures of the old one do not count any more.
    Url,
    /// Another policy. Counters 0, because they mean something else there.
    Policy(Policy),
    /// Another rate.
    Rate(Option<u32>),
    /// Deletes it.
    Delete,
}

/// From where on a recovery sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recovery {
    /// What comes after this cursor.
    Cursor(Cursor),
    /// What was recorded from this time on.
    Since(When),
}

/// Why an order is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// There is no such endpoint any more.
    Deleted,
    /// It has no such feed.
    NoSuchFeed,
    /// It has several feeds, and the order does not say which one.
    WhichFeed,
    /// Too many wishes wait already.
    TooMany,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refused::Deleted => "there is no such endpoint",
            Refused::NoSuchFeed => "the endpoint has no such feed",
            Refused::WhichFeed => "the endpoint has several feeds: say which one",
            Refused::TooMany => "too many orders wait for this endpoint: try again when it has answered",
        })
    }
}

/// Carries an order out on a row. An order that changes nothing leaves the version as it is, and need not be written.
///
/// # Errors
/// Why it is refused; the row is as it was.
pub fn carry_out(row: &mut Row, order: &Order) -> Result<(), Refused> {
    if row.deleted {
        return Err(Refused::Deleted);
    }
    let mut after = row.clone();
    change(&mut after, order)?;
    if after != *row {
        after.version += 1;
        *row = after;
    }
    Ok(())
}

fn change(row: &mut Row, order: &Order) -> Result<(), Refused> {
    match order {
        Order::Pause => row.paused = true,
        Order::Resume => row.paused = false,
        Order::Enable => row.health = Health::default(),
        Order::Reset => row.health = Health { bar: row.health.bar, ..Health::default() },
        Order::Test => {
            row.generation += 1;
            let generation = row.generation;
            wish(row, Asked::Test { generation })?;
        }
        Order::Ready if row.wishes.iter().any(|wish| wish.what == Asked::Ready) => {}
        Order::Ready => wish(row, Asked::Ready)?,
        Order::Redeliver { attempt } => wish(row, Asked::Redeliver { attempt: *attempt })?,
        Order::Recover { feed, to } => {
            let generation = row.generation + 1;
            let line = line(row, feed.as_deref())?;
            line.since = match to {
                Recovery::Cursor(cursor) => Since::Cursor(cursor.clone()),
                Recovery::Since(when) => Since::Time(*when),
            };
            (line.left_out, line.sent, line.turn) = (false, None, generation);
            row.generation = generation;
        }
        Order::Watch(watch) => row.watch = watch.clone().sorted(),
        Order::Feeds(feeds) => {
            let old = std::mem::take(&mut row.lines);
            for feed in feeds {
                if row.lines.iter().any(|line| line.feed == *feed) {
                    continue;
                }
                let kept = old.iter().find(|line| line.feed == *feed).cloned();
                row.lines.push(kept.unwrap_or_else(|| {
                    row.generation += 1;
                    Line { turn: row.generation, ..Line::new(Arc::clone(feed)) }
                }));
            }
        }
        Order::Url => {
            row.turn += 1;
            row.health = Health::default();
            row.lines.iter_mut().for_each(|line| line.sent = None);
        }
        Order::Policy(policy) if row.policy == *policy => {}
        Order::Policy(policy) => {
            row.policy = *policy;
            row.health = Health { bar: row.health.bar, ..Health::default() };
        }
        Order::Rate(rate) => row.rate = *rate,
        Order::Delete => row.deleted = true,
    }
    Ok(())
}

fn wish(row: &mut Row, what: Asked) -> Result<(), Refused> {
    if row.wishes.len() >= MAX_WISHES {
        return Err(Refused::TooMany);
    }
    row.wishes.push(Wish { id: row.next_wish, what });
    row.next_wish = row.next_wish.wrapping_add(1);
    Ok(())
}

fn line<'a>(row: &'a mut Row, feed: Option<&str>) -> Result<&'a mut Line, Refused> {
    match (feed, row.lines.len()) {
        (None, 1) => row.lines.first_mut().ok_or(Refused::NoSuchFeed),
        (None, 0) => Err(Refused::NoSuchFeed),
        (None, _) => Err(Refused::WhichFeed),
        (Some(feed), _) => row.lines.iter_mut().find(|line| &*line.feed == feed).ok_or(Refused::NoSuchFeed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Row {
        Row::new(Policy::Classic, Watch::All, ["a".into(), "b".into()])
    }

    #[test]
    fn orders_that_change_nothing_write_nothing() {
        let mut row = row();
        carry_out(&mut row, &Order::Resume).unwrap();
        assert_eq!(row.version, 0);
        carry_out(&mut row, &Order::Pause).unwrap();
        carry_out(&mut row, &Order::Pause).unwrap();
        assert_eq!(row.version, 1);
        carry_out(&mut row, &Order::Ready).unwrap();
        carry_out(&mut row, &Order::Ready).unwrap();
        assert_eq!((row.version, row.wishes.len()), (2, 1));
    }

    #[test]
    fn what_is_refused_changes_nothing() {
        let mut row = row();
        let recover = |feed: Option<&str>| Order::Recover {
            feed: feed.map(Arc::from),
            to: Recovery::Cursor(Cursor::parse("E.5").unwrap()),
        };
        assert_eq!(carry_out(&mut row, &recover(None)), Err(Refused::WhichFeed));
        assert_eq!(carry_out(&mut row, &recover(Some("c"))), Err(Refused::NoSuchFeed));
        assert_eq!(row.version, 0);
        carry_out(&mut row, &recover(Some("b"))).unwrap();
        assert_eq!((row.generation, row.lines[1].turn, row.lines[0].turn), (1, 1, 0));
        assert_eq!(row.cursor("b"), Cursor::parse("E.5").as_ref());
        for _ in 0..MAX_WISHES {
            carry_out(&mut row, &Order::Test).unwrap();
        }
        assert_eq!(carry_out(&mut row, &Order::Test), Err(Refused::TooMany));
        assert_eq!(row.generation as usize, MAX_WISHES + 1);
        carry_out(&mut row, &Order::Delete).unwrap();
        assert_eq!(carry_out(&mut row, &Order::Pause), Err(Refused::Deleted));
    }

    #[test]
    fn a_reset_leaves_what_answered_410_disabled_and_enabling_does_not() {
        use super::super::policy::{Bar, Outcome};
        let mut row = row();
        row.health.count(row.policy, Outcome::Gone, 0);
        carry_out(&mut row, &Order::Reset).unwrap();
        assert_eq!(row.health.disabled(row.policy), Some(Bar::Gone));
        carry_out(&mut row, &Order::Enable).unwrap();
        assert!(row.health.is_clean());
    }
}
