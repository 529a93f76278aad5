//! What the store has of an endpoint, and what the planner changes of it.
//!
//! A row is written by two sides: by the planner that serves the endpoint, under a lease, and by people's orders, on any
//! replica. Every write is a compare-and-set on the version. What the planner changes is an effect, which can be
//! applied to whatever the row has become meanwhile. The row says up to which effect it includes ([`Row::applied`]), so an
//! effect is never applied twice, also where nobody knows whether a write succeeded.

use std::sync::Arc;

use bugfeed_protocol::Cursor;

use super::policy::{Health, Outcome, Policy, State, Tidings};
use super::question::{Since, Watch};
use super::sent::Sent;

/// The most wishes that wait for one endpoint.
pub const MAX_WISHES: usize = 16;

/// An endpoint's row. URL, secrets, headers and templates are the executor's, beside it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Row {
    /// Counts the writes.
    pub version: u64,
    /// The policy.
    pub policy: Policy,
    /// Requests in a second at most; none is no limit.
    pub rate: Option<u32>,
    /// Which bugs, of each of its feeds.
    pub watch: Watch,
    /// Its feeds.
    pub lines: Vec<Line>,
    /// A person paused it.
    pub paused: bool,
    /// It was deleted.
    pub deleted: bool,
    /// Its counters.
    pub health: Health,
    /// Part of identifiers: see [`Batch::generation`](super::batch::Batch::generation).
    pub generation: u32,
    /// Counts the changes of its URL. What was sent to another URL counts nothing and moves no cursor.
    pub turn: u32,
    /// What people asked for, oldest first.
    pub wishes: Vec<Wish>,
    /// Numbers the wishes.
    pub next_wish: u32,
    /// Up to which effect of which holder this row includes.
    pub applied: Applied,
}

/// A planner's effects are numbered from 1 in its term.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Applied {
    /// The fencing token of the holder that wrote last.
    pub term: u64,
    /// Its last effect.
    pub effect: u64,
}

/// One feed of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Line {
    /// The feed.
    pub feed: Arc<str>,
    /// Where its receiver stands.
    pub since: Since,
    /// In the backlog that is being sent, a change was left out.
    pub left_out: bool,
    /// The row's generation when this feed was recovered by hand the last time, or was added. What was sent before that
    /// moves no cursor.
    pub turn: u32,
    /// What was sent last, if it failed. It is sent again as it was, also by another process, unless something newer of
    /// its bugs has come.
    pub sent: Option<Sent>,
}

impl Line {
    /// A line that begins at the head of its feed.
    pub fn new(feed: Arc<str>) -> Line {
        Line { feed, since: Since::Head, left_out: false, turn: 0, sent: None }
    }
}

/// One thing that a person, or the receiver, asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Wish {
    /// Its number.
    pub id: u32,
    /// What.
    pub what: Asked,
}

/// What may be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Asked {
    /// A test, with this generation in its identifier.
    Test {
        /// The generation.
        generation: u32,
    },
    /// The same request again, with the same identifier and body. It counts nothing.
    Redeliver {
        /// The attempt.
        attempt: u128,
    },
    /// An attempt at once although it cools down.
    Ready,
}

/// What the planner changes of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// An attempt ended. `turn`: of the row when it began.
    Attempted { turn: u32, outcome: Outcome, at_us: i64 },
    /// A test succeeded.
    Healed { turn: u32 },
    /// The receiver has everything up to here, or nothing of its bugs changed up to here. `turns`: of row and line when
    /// that was asked for.
    Moved { feed: Arc<str>, turns: (u32, u32), since: Since, left_out: bool },
    /// What was sent last failed. `turns` as above.
    Failed { feed: Arc<str>, turns: (u32, u32), sent: Sent },
    /// A wish was fulfilled.
    Done { wish: u32 },
    /// The clock had been wrong.
    Mended { now_us: i64 },
}

impl Row {
    /// A new endpoint. Bugs are sorted here.
    pub fn new(policy: Policy, watch: Watch, feeds: impl IntoIterator<Item = Arc<str>>) -> Row {
        Row {
            version: 0,
            policy,
            rate: None,
            watch: watch.sorted(),
            lines: feeds.into_iter().map(Line::new).collect(),
            paused: false,
            deleted: false,
            health: Health::default(),
            generation: 0,
            turn: 0,
            wishes: Vec::new(),
            next_wish: 0,
            applied: Applied::default(),
        }
    }

    /// What people see.
    pub fn state(&self, now_us: i64) -> State {
        self.health.state(self.policy, self.paused, now_us)
    }

    /// The cursor of a feed, if its number is known.
    pub fn cursor(&self, feed: &str) -> Option<&Cursor> {
        self.lines.iter().find(|line| &*line.feed == feed).and_then(|line| match &line.since {
            Since::Cursor(cursor) => Some(cursor),
            _ => None,
        })
    }

    fn line_of(&mut self, feed: &str, turns: (u32, u32)) -> Option<&mut Line> {
        let turn = self.turn;
        self.lines.iter_mut().find(|line| &*line.feed == feed && (turn, line.turn) == turns)
    }

    /// Applies an effect. What it meant may be void by now; then nothing changes.
    pub(super) fn apply(&mut self, effect: &Effect) -> Tidings {
        match effect {
            Effect::Attempted { turn, outcome, at_us } if *turn == self.turn => {
                return self.health.count(self.policy, *outcome, *at_us);
            }
            Effect::Healed { turn } if *turn == self.turn => {
                let recovered = !std::mem::take(&mut self.health).is_clean();
                return Tidings { recovered, ..Tidings::default() };
            }
            Effect::Moved { feed, turns, since, left_out } => {
                if let Some(line) = self.line_of(feed, *turns) {
                    (line.since, line.left_out, line.sent) = (since.clone(), *left_out, None);
                }
            }
            Effect::Failed { feed, turns, sent } => {
                if let Some(line) = self.line_of(feed, *turns) {
                    line.sent = Some(sent.clone());
                }
            }
            Effect::Done { wish } => self.wishes.retain(|other| other.id != *wish),
            Effect::Mended { now_us } => {
                self.health.mend(*now_us);
            }
            Effect::Attempted { .. } | Effect::Healed { .. } => {}
        }
        Tidings::default()
    }
}

impl Watch {
    /// Ascending, each bug once.
    #[must_use]
    pub fn sorted(self) -> Watch {
        let Watch::Bugs(bugs) = self else { return Watch::All };
        let mut bugs = bugs.to_vec();
        bugs.sort_unstable();
        bugs.dedup();
        Watch::Bugs(bugs.into())
    }
}
