//! The client protocol as a state machine: PROTOCOL.md, "A client, state by state".
//!
//! In: method calls for what the connection, the clock and the application do, with the time and chance given in
//! [`Now`]. Out: [`Action`]s to perform in order, [`Delivery`]s for the application, and when [`Core::alarm`] is due.
//! Knows no socket, no clock, no task; never fails, whatever a gateway sends.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use bugfeed_protocol::backoff::Backoff;
use bugfeed_protocol::client::errors::INVALID_COMMAND;
use bugfeed_protocol::server::{FeedState, Verdict};
use bugfeed_protocol::{BugId, When};
use serde_json::{Value, json};

use crate::connection_end::ConnectionEnd;
use crate::words::shown;
use crate::{Error, Event, Protocol, State};

mod ended;
mod said;

use said::Pending;

/// How long a connection attempt may take.
const CONNECT: Duration = Duration::from_secs(15);
/// The client never waits longer than this before it reconnects, whatever a gateway asks for, and never delays a gap
/// longer.
const MAX_WAIT: Duration = Duration::from_secs(300);
/// After this many attempts in a row that fail in the same way, the application is told.
const TROUBLE_AFTER: u32 = 3;
/// Prefix of a cursor that is a date, for classic gateways, which know no cursors.
pub(crate) const SINCE: &str = "since:";
/// The cursor of a client that was given none. No gateway ever made it, so resuming from it is answered with a gap.
const UNKNOWN: &str = "unknown";

/// The time and chance that a call of the core may use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    /// Monotonic time since some fixed moment.
    pub(crate) clock: Duration,
    /// The date and time of the system's clock.
    pub(crate) date: When,
    /// Random, uniform in 0..1.
    pub(crate) chance: f64,
}

/// An order to the driver about the connection. There is one connection at a time.
#[derive(Debug, PartialEq)]
pub(crate) enum Action {
    /// Begin a connection.
    Connect,
    /// Send this text on the connection; only given while it is open.
    Send(String),
    /// End the connection. Whatever it still reports is ignored.
    Disconnect,
}

/// An item for the application, a cursor that may be stored once the item is dealt with, or both. At least one of them
/// is present.
#[derive(Debug)]
pub(crate) struct Delivery {
    pub(crate) item: Option<Result<Event, Error>>,
    pub(crate) cursor: Option<String>,
}

/// What happens at the alarm.
#[derive(Clone, Copy, Debug)]
enum Due {
    /// The wait is over: the next connection begins.
    Connect,
    /// A classic gateway is asked for a sign of life.
    Probe,
    /// The connection is treated as dead.
    GiveUp,
}

/// In which way an attempt failed, for failures that are likely to come again at the next attempt.
#[derive(Clone, Copy, PartialEq)]
enum FailureKind {
    /// The handshake was answered with this HTTP status.
    Status(u16),
    /// There was no answer, because of this fault.
    Fault(&'static str),
}

/// A command that was sent and is not answered yet.
struct Asked {
    command: &'static str,
    bugs: Vec<BugId>,
    /// It is about all bugs; then `bugs` is empty.
    all: bool,
    /// The cursor that it resumes from. A classic gateway is not sent it; the client only remembers it.
    cursor: Option<String>,
    /// Whether this is the first subscribe of the connection, the one that resumes.
    first: bool,
}

struct Connection {
    is_open: bool,
    /// Whether the reply to hello was the last message received.
    is_new: bool,
    /// Whether the first subscribe was sent, the one that resumes.
    resumed: bool,
    /// The bugs that the gateway was asked for.
    sent: BTreeSet<BugId>,
    /// Whether it was asked for all.
    sent_all: bool,
    /// The commands that are not answered yet, oldest first.
    asked: VecDeque<Asked>,
    /// The time from one heartbeat to the next.
    interval: Duration,
    /// The delay that the gateway asked for when it said that it goes away.
    retry_after: Option<Duration>,
}

/// The state machine of one feed. Its state is [`State::Connecting`], but nothing happens until [`Core::start`].
pub(crate) struct Core {
    url: String,
    heartbeat_s: u64,
    /// Whether only the classic protocol is spoken, without hello.
    classic: bool,
    state: State,
    protocol: Option<Protocol>,
    /// The feed's name, as the gateway said it.
    feed_name: Option<String>,
    feed_state: FeedState,
    /// The last verdict on a resume.
    replay: Option<Verdict>,
    /// The feed's newest cursor at the last hello.
    head: Option<String>,
    /// The cursor up to which everything was received.
    cursor: Option<String>,
    /// The bugs that the application watches.
    bugs: BTreeSet<BugId>,
    /// Whether it watches all bugs of the feed; then `bugs` says nothing.
    all: bool,
    /// Whether `bugs` may differ from what the gateway was asked for. (Comparing ten thousand bugs for each message
    /// would be too slow.)
    bugs_changed: bool,
    connection: Option<Connection>,
    /// What happens next, and when.
    timer: Option<(Duration, Due)>,
    backoff: Backoff,
    /// Whether each connection may have another token.
    new_tokens: bool,
    /// Whether the last connection ended because of its token, and no message has come since.
    token_refused: bool,
    /// In which way the last attempts failed, and how many of them in a row; `None` if the last one did not fail, or in
    /// a way that is not likely to come again.
    failure_streak: Option<(FailureKind, u32)>,
    pending: Option<Pending>,
    actions: VecDeque<Action>,
    deliveries: VecDeque<Delivery>,
}

impl Core {
    pub(crate) fn new(url: String, bugs: BTreeSet<BugId>, heartbeat_s: u64, classic: bool) -> Core {
        Core {
            url,
            heartbeat_s,
            classic,
            state: State::Connecting,
            protocol: None,
            feed_name: None,
            feed_state: FeedState::Live,
            replay: None,
            head: None,
            cursor: None,
            bugs,
            all: false,
            bugs_changed: false,
            connection: None,
            timer: None,
            backoff: Backoff::CLIENT,
            new_tokens: false,
            token_refused: false,
            failure_streak: None,
            pending: None,
            actions: VecDeque::new(),
            deliveries: VecDeque::new(),
        }
    }

    /// Each connection may have another token, so a refused one is no end.
    pub(crate) fn gets_new_tokens(&mut self) {
        self.new_tokens = true;
    }

    /// Makes it a feed of all bugs. [`Core::flush`] asks the gateway for them.
    pub(crate) fn watch_all(&mut self) {
        self.all = true;
        self.bugs_changed = true;
    }

    pub(crate) fn watches_all(&self) -> bool {
        self.all
    }

    pub(crate) fn state(&self) -> &State {
        &self.state
    }

    pub(crate) fn protocol(&self) -> Option<Protocol> {
        self.protocol
    }

    pub(crate) fn feed_name(&self) -> Option<&str> {
        self.feed_name.as_deref()
    }

    pub(crate) fn feed_state(&self) -> FeedState {
        self.feed_state
    }

    pub(crate) fn replay(&self) -> Option<Verdict> {
        self.replay
    }

    pub(crate) fn head(&self) -> Option<&str> {
        self.head.as_deref()
    }

    pub(crate) fn cursor(&self) -> Option<&str> {
        self.cursor.as_deref()
    }

    pub(crate) fn bugs(&self) -> &BTreeSet<BugId> {
        &self.bugs
    }

    /// The next action to perform.
    pub(crate) fn action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// The next delivery for the application.
    pub(crate) fn delivery(&mut self) -> Option<Delivery> {
        self.deliveries.pop_front()
    }

    /// When [`Core::alarm`] is due, on the clock of [`Now`].
    pub(crate) fn deadline(&self) -> Option<Duration> {
        let gap = self.pending.as_ref().map(|pending| pending.at);
        self.timer.map(|(at, _)| at).into_iter().chain(gap).min()
    }

    // What the application does.

    /// Begins to connect; resumes from a cursor of an earlier run if there is one.
    pub(crate) fn start(&mut self, cursor: Option<String>, now: Now) {
        if self.state == State::Closed {
            return;
        }
        self.cursor = cursor;
        self.connect(now);
    }

    /// Starts at the head of the feed, the cursor in hello's reply, unless there is a cursor already.
    pub(crate) fn start_from_head(&mut self) {
        if self.cursor.is_none() {
            self.cursor.clone_from(&self.head);
        }
    }

    /// Adds bugs. [`Core::flush`] asks the gateway for them.
    pub(crate) fn subscribe(&mut self, bugs: impl IntoIterator<Item = BugId>) {
        self.bugs.extend(bugs);
        self.bugs_changed = true;
    }

    /// Removes bugs. [`Core::flush`] tells the gateway.
    pub(crate) fn unsubscribe(&mut self, bugs: impl IntoIterator<Item = BugId>) {
        for bug in bugs {
            self.bugs.remove(&bug);
        }
        self.bugs_changed = true;
    }

    /// Tells the gateway which bugs were added and removed, if any, in one command of each kind.
    pub(crate) fn flush(&mut self) {
        let Some(connection) = self.connection.as_mut().filter(|connection| connection.is_open) else { return };
        if !std::mem::take(&mut self.bugs_changed) {
            return;
        }
        if self.all {
            if !std::mem::replace(&mut connection.sent_all, true) {
                self.ask_for(Vec::new());
            }
            return;
        }
        let drop: Vec<BugId> = connection.sent.difference(&self.bugs).copied().collect();
        let add: Vec<BugId> = self.bugs.difference(&connection.sent).copied().collect();
        if drop.is_empty() && add.is_empty() {
            return;
        }
        connection.sent.clone_from(&self.bugs);
        if !drop.is_empty() {
            let message = json!({ "command": "unsubscribe", "bugs": drop });
            self.ask(Asked { command: "unsubscribe", bugs: drop, all: false, cursor: None, first: false }, &message);
        }
        if !add.is_empty() {
            self.ask_for(add);
        }
    }

    /// Ends for good.
    pub(crate) fn close(&mut self) {
        if self.state != State::Closed {
            self.timer = None;
            // The pending gap is not told. That is safe, because the stored cursor is from before it.
            self.pending = None;
            self.leave();
            self.become_state(State::Closed);
        }
    }

    /// Ends for good, and delivers the error.
    pub(crate) fn fail(&mut self, error: Error) {
        if self.state != State::Closed {
            self.deliveries.push_back(Delivery { item: Some(Err(error)), cursor: None });
            self.close();
        }
    }

    // What the clock and the connection do.

    /// To be called when the deadline is reached; an early call does nothing.
    pub(crate) fn alarm(&mut self, now: Now) {
        if self.pending.as_ref().is_some_and(|pending| pending.at <= now.clock) {
            self.tell_gap();
        }
        let Some((_, due)) = self.timer.take_if(|(at, _)| *at <= now.clock) else { return };
        match due {
            Due::Connect => self.connect(now),
            Due::GiveUp => {
                let reason = match self.state {
                    State::Connecting if !self.is_open() => {
                        format!("{} does not answer within {} s", shown(&self.url), CONNECT.as_secs())
                    }
                    _ => "the gateway is silent".to_owned(),
                };
                self.connection_ended(ConnectionEnd::Broken(reason), now);
            }
            Due::Probe => {
                self.actions.push_back(Action::Send(json!({ "command": "version" }).to_string()));
                let patience = self.interval().mul_f64(1.5);
                self.timer = Some((now.clock + patience, Due::GiveUp));
            }
        }
    }

    /// The connection is open.
    pub(crate) fn opened(&mut self, now: Now) {
        let Some(connection) = &mut self.connection else { return };
        connection.is_open = true;
        self.bugs_changed = true;
        if self.classic {
            self.welcomed(None, None, Some(INVALID_COMMAND.to_owned()), now);
        } else {
            self.heard(now);
            let message = json!({ "command": "hello", "heartbeat": self.heartbeat_s });
            self.ask(Asked { command: "hello", bugs: Vec::new(), all: false, cursor: None, first: false }, &message);
        }
        self.flush();
    }

    // Connecting, waiting, closed.

    fn connect(&mut self, now: Now) {
        self.connection = Some(Connection {
            is_open: false,
            is_new: false,
            resumed: false,
            sent: BTreeSet::new(),
            sent_all: false,
            asked: VecDeque::new(),
            interval: Duration::from_secs(self.heartbeat_s),
            retry_after: None,
        });
        self.protocol = None;
        self.timer = Some((now.clock + CONNECT, Due::GiveUp));
        self.actions.push_back(Action::Connect);
        self.become_state(State::Connecting);
    }

    /// Gives the connection up, if there is one.
    fn leave(&mut self) {
        if self.connection.take().is_some() {
            self.actions.push_back(Action::Disconnect);
        }
    }

    fn become_state(&mut self, state: State) {
        self.state = state.clone();
        self.tell(Some(Event::State(state)), None);
    }

    fn is_open(&self) -> bool {
        self.connection.as_ref().is_some_and(|connection| connection.is_open)
    }

    fn interval(&self) -> Duration {
        self.connection.as_ref().map_or(Duration::from_secs(self.heartbeat_s), |connection| connection.interval)
    }

    /// Something was received, so the timer for a silent connection starts again. Classic gateways send no heartbeat,
    /// so the client asks them for a sign of life.
    fn heard(&mut self, now: Now) {
        let interval = self.interval();
        self.timer = Some(match self.protocol {
            Some(Protocol::Classic) => (now.clock + interval, Due::Probe),
            _ => (now.clock + interval.mul_f64(2.5), Due::GiveUp),
        });
    }

    // What the gateway is asked for.

    /// Asks for these bugs; in a feed of all, for all.
    fn ask_for(&mut self, bugs: Vec<BugId>) {
        let all = self.all;
        let Some(connection) = &mut self.connection else { return };
        let first = !std::mem::replace(&mut connection.resumed, true);
        let which = if all { json!("all") } else { json!(bugs) };
        let mut message = json!({ "command": "subscribe", "bugs": which });
        let mut cursor = self.cursor.clone().filter(|_| first);
        if let Some(since) = cursor.as_deref().and_then(|cursor| cursor.strip_prefix(SINCE)) {
            message["since"] = since.into();
            cursor = None;
        } else if let Some(cursor) = cursor.as_deref().filter(|_| !self.classic) {
            message["cursor"] = cursor.into();
        }
        self.ask(Asked { command: "subscribe", bugs, all, cursor, first }, &message);
    }

    fn ask(&mut self, asked: Asked, message: &Value) {
        let Some(connection) = &mut self.connection else { return };
        connection.asked.push_back(asked);
        self.actions.push_back(Action::Send(message.to_string()));
    }

    /// Delivers an event, and a cursor that may be stored once the event is dealt with. While a gap is pending, the
    /// cursor waits for it.
    fn tell(&mut self, event: Option<Event>, cursor: Option<String>) {
        if let Some(cursor) = &cursor {
            self.cursor = Some(cursor.clone());
        }
        let cursor = match &mut self.pending {
            Some(pending) => {
                pending.cursor = cursor.or(pending.cursor.take());
                None
            }
            None => cursor,
        };
        if event.is_some() || cursor.is_some() {
            self.deliveries.push_back(Delivery { item: event.map(Ok), cursor });
        }
    }
}
