//! The client protocol as a state machine: PROTOCOL.md, "A client, state by state".
//!
//! In: method calls for what the connection, the clock and the application do, with the time and chance given in
//! [`Now`]. Out: [`Action`]s to perform in order, [`Delivery`]s for the application, and when [`Core::alarm`] is due.
//! Knows no socket, no clock, no task; never fails, whatever a gateway sends.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use bugfeed_protocol::backoff::Backoff;
use bugfeed_protocol::client::errors::INVALID_COMMAND;
use bugfeed_protocol::close::Close;
use bugfeed_protocol::server::Verdict;
use bugfeed_protocol::{BugId, Change, When};
use serde_json::{Map, Value, json};

use crate::{Error, Event, Protocol, State};

/// How long opening a connection may take.
const CONNECT: Duration = Duration::from_secs(15);
/// No gateway is waited for longer than this, whatever it asks.
const MAX_WAIT: Duration = Duration::from_secs(300);
/// Marks a cursor that is a date, for gateways that know no cursors.
pub(crate) const SINCE: &str = "since:";
/// The cursor of those who were given none: no gateway made it, so that resuming from it is a gap.
const UNKNOWN: &str = "unknown";

/// The world at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    /// Since whatever moment, but always the same one; never goes back.
    pub(crate) clock: Duration,
    /// What the calendar says.
    pub(crate) date: When,
    /// Random, uniform in 0..1.
    pub(crate) chance: f64,
}

/// What is to be done about the connection. There is one at a time.
#[derive(Debug, PartialEq)]
pub(crate) enum Action {
    /// Begin one.
    Connect,
    /// Send this text on it. Only while it is open.
    Send(String),
    /// End it; nothing that it still reports counts.
    Disconnect,
}

/// How a connection ended, or why there was none.
#[derive(Debug)]
pub(crate) enum Lost {
    /// The handshake was answered by something else.
    Refused { status: u16, text: String, retry_after: Option<Duration> },
    /// A close frame came.
    Closed { code: u16, text: String },
    /// Anything else.
    Broken(String),
}

/// Something for the application, and the cursor that may be stored once it is dealt with. One of them at least.
#[derive(Debug)]
pub(crate) struct Delivery {
    pub(crate) item: Option<Result<Event, Error>>,
    pub(crate) cursor: Option<String>,
}

/// What is due at the alarm.
#[derive(Clone, Copy, Debug)]
enum Due {
    Connect,
    Probe,
    GiveUp,
}

/// A command that is not answered yet.
struct Asked {
    command: &'static str,
    bugs: Vec<BugId>,
    /// What it resumes from, sent or, to classic gateways, thought.
    cursor: Option<String>,
    /// Whether it is the one that resumes.
    first: bool,
}

struct Connection {
    is_open: bool,
    resumed: bool,
    sent: BTreeSet<BugId>,
    asked: VecDeque<Asked>,
    interval: Duration,
    retry_after: Option<Duration>,
}

/// A feed. It is [`State::Connecting`] but at rest until [`Core::start`].
pub(crate) struct Core {
    url: String,
    heartbeat_s: u64,
    /// Whether hello is never said.
    classic: bool,
    state: State,
    protocol: Option<Protocol>,
    replay: Option<Verdict>,
    head: Option<String>,
    cursor: Option<String>,
    bugs: BTreeSet<BugId>,
    /// Whether these may be others than the gateway was asked for. Comparing ten thousand for each message would show.
    bugs_changed: bool,
    connection: Option<Connection>,
    timer: Option<(Duration, Due)>,
    backoff: Backoff,
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
            replay: None,
            head: None,
            cursor: None,
            bugs,
            bugs_changed: false,
            connection: None,
            timer: None,
            backoff: Backoff::CLIENT,
            actions: VecDeque::new(),
            deliveries: VecDeque::new(),
        }
    }

    pub(crate) fn state(&self) -> &State {
        &self.state
    }

    pub(crate) fn protocol(&self) -> Option<Protocol> {
        self.protocol
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

    /// What is to be done next.
    pub(crate) fn action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// What the application is told next.
    pub(crate) fn delivery(&mut self) -> Option<Delivery> {
        self.deliveries.pop_front()
    }

    /// When [`Core::alarm`] is due, on the clock of [`Now`].
    pub(crate) fn deadline(&self) -> Option<Duration> {
        self.timer.map(|(at, _)| at)
    }

    // What the application does.

    /// Begins, from a cursor of an earlier run if there is one.
    pub(crate) fn start(&mut self, cursor: Option<String>, now: Now) {
        if self.state == State::Closed {
            return;
        }
        self.cursor = cursor;
        self.connect(now);
    }

    /// Takes hello's cursor for its own, where there is none yet.
    pub(crate) fn start_from_head(&mut self) {
        if self.cursor.is_none() {
            self.cursor.clone_from(&self.head);
        }
    }

    /// Wants more bugs. [`Core::flush`] asks for them.
    pub(crate) fn subscribe(&mut self, bugs: impl IntoIterator<Item = BugId>) {
        self.bugs.extend(bugs);
        self.bugs_changed = true;
    }

    /// Wants fewer.
    pub(crate) fn unsubscribe(&mut self, bugs: impl IntoIterator<Item = BugId>) {
        for bug in bugs {
            self.bugs.remove(&bug);
        }
        self.bugs_changed = true;
    }

    /// Tells the gateway what changed in what is wanted, if anything did, in one command of each kind.
    pub(crate) fn flush(&mut self) {
        let Some(connection) = self.connection.as_mut().filter(|connection| connection.is_open) else { return };
        if !std::mem::take(&mut self.bugs_changed) {
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
            self.ask(Asked { command: "unsubscribe", bugs: drop, cursor: None, first: false }, &message);
        }
        if !add.is_empty() {
            self.ask_for(add);
        }
    }

    /// Ends for good.
    pub(crate) fn close(&mut self) {
        if self.state != State::Closed {
            self.timer = None;
            self.leave();
            self.become_state(State::Closed);
        }
    }

    /// Ends for good, saying why.
    pub(crate) fn fail(&mut self, error: Error) {
        if self.state != State::Closed {
            self.deliveries.push_back(Delivery { item: Some(Err(error)), cursor: None });
            self.close();
        }
    }

    // What the clock and the connection do.

    /// The deadline is reached. Nothing happens before it.
    pub(crate) fn alarm(&mut self, now: Now) {
        let Some((_, due)) = self.timer.take_if(|(at, _)| *at <= now.clock) else { return };
        match due {
            Due::Connect => self.connect(now),
            Due::GiveUp => self.lost(Lost::Broken("the gateway is silent".to_owned()), now),
            Due::Probe => {
                self.actions.push_back(Action::Send(json!({ "command": "version" }).to_string()));
                let patience = self.interval().mul_f64(1.5);
                self.timer = Some((now.clock + patience, Due::GiveUp));
            }
        }
    }

    /// The connection that was begun is made.
    pub(crate) fn opened(&mut self, now: Now) {
        let Some(connection) = &mut self.connection else { return };
        connection.is_open = true;
        self.bugs_changed = true;
        if self.classic {
            self.welcomed(None, None, Some(INVALID_COMMAND.to_owned()), now);
        } else {
            self.heard(now);
            let message = json!({ "command": "hello", "heartbeat": self.heartbeat_s });
            self.ask(Asked { command: "hello", bugs: Vec::new(), cursor: None, first: false }, &message);
        }
        self.flush();
    }

    /// The connection has ended, or could not be made.
    pub(crate) fn lost(&mut self, lost: Lost, now: Now) {
        let Some(goaway) = self.connection.as_ref().map(|connection| connection.retry_after) else { return };
        self.leave();
        let (reason, least) = match lost {
            Lost::Refused { status, text, .. } if is_final_status(status) => {
                return self.fail(Error::NotAFeed { url: self.url.clone(), status, text });
            }
            Lost::Closed { code, text } if is_final_code(code) => return self.fail(Error::Closed { code, text }),
            Lost::Refused { status, text, retry_after } => {
                (format!("{} answers {status} {text}", self.url), retry_after.filter(|_| matches!(status, 429 | 503)))
            }
            Lost::Closed { code, text } => (format!("closed ({code}): {text}"), None),
            Lost::Broken(reason) => (reason, None),
        };
        let reason = reason.trim_end_matches([' ', ':']).to_owned();
        // A gateway that goes away says when to come back, another time to each client. One that is full says the same to
        // all: the back-off comes on top, so that they do not come together.
        let delay = goaway.unwrap_or_else(|| {
            self.backoff.next(now.chance) + least.map_or(Duration::ZERO, |least| least.min(MAX_WAIT))
        });
        self.timer = Some((now.clock + delay, Due::Connect));
        self.become_state(State::Waiting { delay, reason });
    }

    /// A text came.
    pub(crate) fn received(&mut self, text: &str, now: Now) {
        if self.connection.is_none() {
            return;
        }
        self.backoff.reset();
        self.heard(now);
        // What this version does not understand is for newer ones.
        let Ok(Value::Object(message)) = serde_json::from_str(text) else { return };
        let cursor = message.get("cursor").and_then(Value::as_str).map(str::to_owned);
        match message.get("command").and_then(Value::as_str) {
            Some("update") => self.updated(&message, cursor, now),
            Some("gap") => self.lost_continuity(cursor),
            Some("goaway") => {
                let delay_ms = message.get("retry_after_ms").and_then(Value::as_f64).filter(|ms| *ms >= 0.0);
                if let Some(connection) = &mut self.connection {
                    let delay = delay_ms.map(|ms| Duration::try_from_secs_f64(ms / 1000.0).unwrap_or(MAX_WAIT));
                    connection.retry_after = delay.map(|delay| delay.min(MAX_WAIT)).or(connection.retry_after);
                }
                self.tell(None, cursor);
            }
            Some("heartbeat") => self.tell(None, cursor),
            Some(command) => self.answered(command, &message, cursor, now),
            None => {}
        }
    }

    // Connecting, waiting, closed.

    fn connect(&mut self, now: Now) {
        self.connection = Some(Connection {
            is_open: false,
            resumed: false,
            sent: BTreeSet::new(),
            asked: VecDeque::new(),
            interval: Duration::from_secs(self.heartbeat_s),
            retry_after: None,
        });
        self.protocol = None;
        self.timer = Some((now.clock + CONNECT, Due::GiveUp));
        self.actions.push_back(Action::Connect);
        self.become_state(State::Connecting);
    }

    fn leave(&mut self) {
        if self.connection.take().is_some() {
            self.actions.push_back(Action::Disconnect);
        }
    }

    fn become_state(&mut self, state: State) {
        self.state = state.clone();
        self.tell(Some(Event::State(state)), None);
    }

    fn interval(&self) -> Duration {
        self.connection.as_ref().map_or(Duration::from_secs(self.heartbeat_s), |connection| connection.interval)
    }

    /// Something came. Classic gateways send no heartbeat, so they are asked for a sign of life.
    fn heard(&mut self, now: Now) {
        let interval = self.interval();
        self.timer = Some(match self.protocol {
            Some(Protocol::Classic) => (now.clock + interval, Due::Probe),
            _ => (now.clock + interval.mul_f64(2.5), Due::GiveUp),
        });
    }

    // What the gateway is asked for.

    fn ask_for(&mut self, bugs: Vec<BugId>) {
        let Some(connection) = &mut self.connection else { return };
        let first = !std::mem::replace(&mut connection.resumed, true);
        let mut message = json!({ "command": "subscribe", "bugs": bugs });
        let mut cursor = self.cursor.clone().filter(|_| first);
        if let Some(since) = cursor.as_deref().and_then(|cursor| cursor.strip_prefix(SINCE)) {
            message["since"] = since.into();
            cursor = None;
        } else if let Some(cursor) = cursor.as_deref().filter(|_| !self.classic) {
            message["cursor"] = cursor.into();
        }
        self.ask(Asked { command: "subscribe", bugs, cursor, first }, &message);
    }

    fn ask(&mut self, asked: Asked, message: &Value) {
        let Some(connection) = &mut self.connection else { return };
        connection.asked.push_back(asked);
        self.actions.push_back(Action::Send(message.to_string()));
    }

    // What the gateway says.

    fn updated(&mut self, message: &Map<String, Value>, cursor: Option<String>, now: Now) {
        let Some(bug) = message.get("bug").and_then(Value::as_u64).and_then(BugId::new) else { return };
        let Some(when) = message.get("when").and_then(Value::as_str) else { return };
        let (event, cursor) = match When::parse_utc(when) {
            Ok(when) => (Event::Change(Change { bug, when }), cursor.or_else(|| self.since(when, now.date))),
            // It changed, but nobody can tell when: what is not known exactly is a gap.
            Err(_) => (Event::Gap(vec![bug]), cursor),
        };
        self.tell(Some(event).filter(|_| self.bugs.contains(&bug)), cursor);
    }

    fn lost_continuity(&mut self, cursor: Option<String>) {
        let sent = self.connection.as_ref().map(|connection| connection.sent.clone()).unwrap_or_default();
        let gap = self.gap(sent);
        self.tell(gap, cursor);
    }

    fn answered(&mut self, command: &str, message: &Map<String, Value>, cursor: Option<String>, now: Now) {
        let Some(connection) = &mut self.connection else { return };
        let Some(place) = connection.asked.iter().position(|asked| asked.command == command) else { return };
        let Some(asked) = connection.asked.remove(place) else { return };
        let error = (message.get("result").and_then(Value::as_str) == Some("error"))
            .then(|| message.get("error").and_then(Value::as_str).unwrap_or("without saying why").to_owned());
        match (asked.command, error) {
            ("hello", error) => self.welcomed(message.get("heartbeat").and_then(Value::as_f64), cursor, error, now),
            (_, Some(error)) => self.refused(asked, error),
            ("subscribe", None) => self.subscribed(asked, message.get("replay").and_then(Value::as_str), cursor),
            (_, None) => self.tell(None, cursor),
        }
    }

    fn welcomed(&mut self, heartbeat_s: Option<f64>, cursor: Option<String>, error: Option<String>, now: Now) {
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
        // For those who start afresh; it is no position of ours.
        self.head = Some(cursor.unwrap_or_else(|| UNKNOWN.to_owned()));
        self.heard(now);
        self.become_state(State::Open);
    }

    fn subscribed(&mut self, asked: Asked, replay: Option<&str>, cursor: Option<String>) {
        self.replay = match replay {
            Some("complete") => Some(Verdict::Complete),
            Some("latest") => Some(Verdict::Latest),
            Some("gap") => Some(Verdict::Gap),
            _ => None,
        };
        self.tell(Some(Event::Subscribed { bugs: asked.bugs.clone(), replay: self.replay }), None);
        // Verdict gap, or none on a cursor (classic gateways do not know cursors): nobody can tell what was missed.
        let kept = matches!(self.replay, Some(Verdict::Complete | Verdict::Latest));
        let gap = if asked.cursor.is_some() && !kept { self.gap(asked.bugs) } else { None };
        // Something has begun. Who comes back without a cursor must not begin anew silently.
        let begun = self.cursor.is_none().then(|| UNKNOWN.to_owned());
        self.tell(gap, cursor.or(begun));
    }

    fn refused(&mut self, asked: Asked, text: String) {
        self.unsubscribe(asked.bugs.iter().copied());
        if let Some(connection) = &mut self.connection {
            for bug in &asked.bugs {
                connection.sent.remove(bug);
            }
            connection.resumed &= !asked.first;
        }
        let error = Error::Refused { command: asked.command, bugs: asked.bugs, text };
        self.deliveries.push_back(Delivery { item: Some(Err(error)), cursor: None });
    }

    /// A gap of those that are still wanted, if any are.
    fn gap(&self, bugs: impl IntoIterator<Item = BugId>) -> Option<Event> {
        let bugs: Vec<BugId> = bugs.into_iter().filter(|bug| self.bugs.contains(bug)).collect();
        (!bugs.is_empty()).then_some(Event::Gap(bugs))
    }

    /// Where to resume on a classic gateway: the largest date received, but none that lies in the future.
    fn since(&self, when: When, today: When) -> Option<String> {
        let before = self.cursor.as_deref().and_then(|cursor| cursor.strip_prefix(SINCE));
        let is_later = before.and_then(|since| When::parse_utc(since).ok()).is_none_or(|before| when > before);
        (self.protocol == Some(Protocol::Classic) && is_later && when < today).then(|| format!("{SINCE}{when}"))
    }

    fn tell(&mut self, event: Option<Event>, cursor: Option<String>) {
        if let Some(cursor) = &cursor {
            self.cursor = Some(cursor.clone());
        }
        if event.is_some() || cursor.is_some() {
            self.deliveries.push_back(Delivery { item: event.map(Ok), cursor });
        }
    }
}

/// An answer to the handshake that trying again would not mend. The three others of the 400s mean "later".
fn is_final_status(status: u16) -> bool {
    (400..500).contains(&status) && !matches!(status, 408 | 425 | 429)
}

fn is_final_code(code: u16) -> bool {
    Close::ALL.iter().any(|close| close.code() == code && !close.reconnect())
}
