//! Reads what the gateway says: messages, or any nonsense, go in; deliveries come out.

use std::collections::BTreeSet;
use std::time::Duration;

use bugfeed_protocol::client::errors::INVALID_COMMAND;
use bugfeed_protocol::server::{FeedState, Verdict};
use bugfeed_protocol::{BugId, Change, When};
use serde_json::{Map, Value};

use super::{Asked, Connection, Core, Delivery, MAX_WAIT, Now, SINCE, UNKNOWN};
use crate::connection_end::ConnectionEnd;
use crate::{Error, Event, Protocol, State};

/// A gap that is told later. Changes that arrive before it are told at once, but their cursor waits here. Otherwise an
/// application that stored the cursor and died would never hear of the gap.
pub(super) struct Pending {
    pub(super) bugs: BTreeSet<BugId>,
    /// It is a gap of all bugs.
    pub(super) all: bool,
    pub(super) cursor: Option<String>,
    pub(super) at: Duration,
}

/// Whether a command is refused because the session has shown no token.
fn needs_token(message: &Map<String, Value>) -> bool {
    let error = message.get("error").and_then(Value::as_str);
    error.is_some_and(|error| error.starts_with("a token is needed"))
}

impl Core {
    /// A text message was received.
    pub(crate) fn received(&mut self, text: &str, now: Now) {
        if self.connection.is_none() {
            return;
        }
        self.heard(now);
        let message = match serde_json::from_str(text) {
            Ok(Value::Object(message)) => message,
            _ => Map::new(),
        };
        let command = message.get("command").and_then(Value::as_str);
        // The reply to hello is given to those without a good token, too.
        if !self.token_refused || (command != Some("hello") && !needs_token(&message)) {
            self.backoff.reset();
            self.token_refused = false;
        }
        // Messages that this version does not understand are meant for newer ones, and ignored.
        if message.is_empty() {
            return;
        }
        let cursor = message.get("cursor").and_then(Value::as_str).map(str::to_owned);
        // A gateway with a paused feed says so directly after the reply to hello, or in a heartbeat. Any other first
        // message means that the feed is not paused.
        let is_first = self.connection.as_mut().is_some_and(|connection| std::mem::take(&mut connection.is_new));
        match command {
            Some("feed" | "heartbeat") => self.flows(message.get("state"), message.get("since")),
            _ if is_first => self.flows(None, None),
            _ => {}
        }
        match command {
            Some("update") => self.updated(&message, cursor, now),
            Some("gap") => self.lost_continuity(message.get("spread_ms"), cursor, now),
            Some("goaway") => {
                let delay_ms = message.get("retry_after_ms").and_then(Value::as_f64).filter(|ms| *ms >= 0.0);
                if let Some(connection) = &mut self.connection {
                    let delay = delay_ms.map(|ms| Duration::try_from_secs_f64(ms / 1000.0).unwrap_or(MAX_WAIT));
                    connection.retry_after = delay.map(|delay| delay.min(MAX_WAIT)).or(connection.retry_after);
                }
                self.tell(None, cursor);
            }
            Some("heartbeat") => self.tell(None, cursor),
            Some("feed") => {}
            Some(command) => self.answered(command, &message, cursor, now),
            None => {}
        }
    }

    fn updated(&mut self, message: &Map<String, Value>, cursor: Option<String>, now: Now) {
        let Some(bug) = message.get("bug").and_then(Value::as_u64).and_then(BugId::new) else { return };
        let Some(when) = message.get("when").and_then(Value::as_str) else { return };
        let (event, cursor) = match When::parse_utc(when) {
            Ok(when) => (Event::Change(Change { bug, when }), cursor.or_else(|| self.since(when, now.date))),
            // The bug changed, but the date cannot be read. That is told as a gap: look at this bug.
            Err(_) => (Event::Gap(vec![bug]), cursor),
        };
        self.tell(Some(event).filter(|_| self.all || self.bugs.contains(&bug)), cursor);
    }

    /// Reads from a message whether changes can arrive. An absent or unknown state means that they can.
    fn flows(&mut self, state: Option<&Value>, since: Option<&Value>) {
        let state = if state.and_then(Value::as_str) == Some("paused") { FeedState::Paused } else { FeedState::Live };
        if state != self.feed_state {
            self.feed_state = state;
            let since = since.and_then(Value::as_str).and_then(|since| When::parse_utc(since).ok());
            self.tell(Some(Event::Feed { state, since }), None);
        }
    }

    /// The gateway lost continuity, and tells all its clients. Each client delays the gap by a random part of
    /// `spread_ms`, so that they do not all ask the tracker at the same moment (thundering herd).
    fn lost_continuity(&mut self, spread_ms: Option<&Value>, cursor: Option<String>, now: Now) {
        let sent = |connection: &Connection| (connection.sent.clone(), connection.sent_all);
        let (sent, all) = self.connection.as_ref().map(sent).unwrap_or_default();
        let spread_ms = spread_ms.and_then(Value::as_f64).filter(|ms| *ms >= 0.0).unwrap_or(0.0);
        let spread = Duration::try_from_secs_f64(spread_ms / 1000.0).unwrap_or(MAX_WAIT).min(MAX_WAIT);
        self.schedule_gap(sent, all, cursor, now.clock + spread.mul_f64(now.chance), now);
    }

    /// Changes of these bugs, or of all, up to the cursor, may be missing: makes the gap pending, to be told at time `at`.
    /// If a gap is pending already, the two are joined and told at the earlier of their times.
    fn schedule_gap(
        &mut self,
        bugs: impl IntoIterator<Item = BugId>,
        all: bool,
        cursor: Option<String>,
        at: Duration,
        now: Now,
    ) {
        let affected: BTreeSet<BugId> = bugs.into_iter().filter(|bug| self.bugs.contains(bug)).collect();
        if affected.is_empty() && !all {
            return self.tell(None, cursor);
        }
        let pending = self.pending.get_or_insert(Pending { bugs: BTreeSet::new(), all: false, cursor: None, at });
        pending.bugs.extend(affected);
        pending.all |= all;
        pending.at = pending.at.min(at);
        let is_due = pending.at <= now.clock;
        self.tell(None, cursor);
        if is_due {
            self.tell_gap();
        }
    }

    /// Tells the pending gap, for those of its bugs that are still watched.
    pub(super) fn tell_gap(&mut self) {
        if let Some(Pending { bugs, all, cursor, .. }) = self.pending.take() {
            if all && self.all {
                return self.tell(Some(Event::GapOfAll), cursor);
            }
            let affected: Vec<BugId> = bugs.intersection(&self.bugs).copied().collect();
            self.tell(Some(Event::Gap(affected)).filter(|gap| !gap.bugs().is_empty()), cursor);
        }
    }

    fn answered(&mut self, command: &str, message: &Map<String, Value>, cursor: Option<String>, now: Now) {
        let Some(connection) = &mut self.connection else { return };
        let Some(place) = connection.asked.iter().position(|asked| asked.command == command) else { return };
        let Some(asked) = connection.asked.remove(place) else { return };
        let error = (message.get("result").and_then(Value::as_str) == Some("error"))
            .then(|| message.get("error").and_then(Value::as_str).unwrap_or("without saying why").to_owned());
        match (asked.command, error) {
            ("hello", error) => {
                self.feed_name = message.get("feed").and_then(Value::as_str).map(str::to_owned);
                self.welcomed(message.get("heartbeat").and_then(Value::as_f64), cursor, error, now);
            }
            // The gateway would end the session soon; it is of no use until then.
            (_, Some(error)) if needs_token(message) => self.connection_ended(ConnectionEnd::NoToken(error), now),
            (_, Some(error)) => self.refused(asked, error),
            ("subscribe", None) => {
                self.subscribed(asked, message.get("replay").and_then(Value::as_str), cursor, now);
            }
            (_, None) => self.tell(None, cursor),
        }
    }

    pub(super) fn welcomed(
        &mut self,
        heartbeat_s: Option<f64>,
        cursor: Option<String>,
        error: Option<String>,
        now: Now,
    ) {
        self.protocol = match error {
            None => Some(Protocol::Modern),
            Some(error) if error == INVALID_COMMAND => Some(Protocol::Classic),
            Some(error) => return self.fail(Error::NotWelcome(error)),
        };
        if let Some(connection) = &mut self.connection
            && let Some(granted) = heartbeat_s.filter(|seconds| (1.0..=300.0).contains(seconds))
        {
            connection.interval = Duration::from_secs_f64(granted);
        }
        // The head is for `start_from_head`; it is not this client's position.
        self.head = Some(cursor.unwrap_or_else(|| UNKNOWN.to_owned()));
        if let Some(connection) = &mut self.connection {
            connection.is_new = true;
        }
        self.heard(now);
        self.become_state(State::Open);
    }

    fn subscribed(&mut self, asked: Asked, replay: Option<&str>, cursor: Option<String>, now: Now) {
        self.replay = match replay {
            Some("complete") => Some(Verdict::Complete),
            Some("latest") => Some(Verdict::Latest),
            Some("gap") => Some(Verdict::Gap),
            _ => None,
        };
        self.tell(Some(Event::Subscribed { bugs: asked.bugs.clone(), replay: self.replay }), None);
        // Changes may be missing if the verdict is gap, or if a cursor got no verdict (classic gateways do not know
        // cursors).
        let kept = matches!(self.replay, Some(Verdict::Complete | Verdict::Latest));
        let is_gap = asked.cursor.is_some() && !kept;
        let affected = if is_gap { asked.bugs } else { Vec::new() };
        // From now on this client is no fresh start. Without any cursor it would resume silently after a lost
        // connection, so it gets one that is answered with a gap.
        let begun = self.cursor.is_none().then(|| UNKNOWN.to_owned());
        self.schedule_gap(affected, is_gap && asked.all, cursor.or(begun), now.clock, now);
    }

    fn refused(&mut self, asked: Asked, text: String) {
        self.unsubscribe(asked.bugs.iter().copied());
        if asked.all {
            // Single ones may be left.
            (self.all, self.bugs_changed) = (false, true);
        }
        if let Some(connection) = &mut self.connection {
            for bug in &asked.bugs {
                connection.sent.remove(bug);
            }
            connection.sent_all &= !asked.all;
            connection.resumed &= !asked.first;
        }
        let error = Error::Refused { command: asked.command, bugs: asked.bugs, text };
        self.deliveries.push_back(Delivery { item: Some(Err(error)), cursor: None });
    }

    /// The cursor for resuming on a classic gateway: the latest date received, but none in the future.
    fn since(&self, when: When, today: When) -> Option<String> {
        let before = self.cursor.as_deref().and_then(|cursor| cursor.strip_prefix(SINCE));
        let is_later = before.and_then(|since| When::parse_utc(since).ok()).is_none_or(|before| when > before);
        (self.protocol == Some(Protocol::Classic) && is_later && when < today).then(|| format!("{SINCE}{when}"))
    }
}
