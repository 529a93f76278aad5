//! `bugfeed hooks listen`: an endpoint on a developer's machine. The changes of some bugs come by a socket, and are POSTed
//! to an address of this machine, as an endpoint's requests would be: bodies, identifiers, signatures.
//!
//! In: bugs, a gateway, an address, a secret. Out: requests, and a line about each. What the receiver took (2xx) moves the
//! cursor in the state file. It never has two requests on their way, never gives up, and needs nothing of the server but
//! its feed.

mod pending;

use std::fmt;
use std::io::{self, Write};
use std::path::PathBuf;
use std::pin::Pin;
use std::time::{Duration, SystemTime};

use bugfeed_client::{Error as ClientError, Event, Feed, FeedState, Protocol, State, Store};
use bugfeed_hooks::client::{Address, Options};
use bugfeed_hooks::deliver::address::Rules;
use bugfeed_hooks::deliver::body::Item;
use bugfeed_hooks::deliver::headers::UserHeaders;
use bugfeed_hooks::deliver::send::{Attempt, Delivery, Outcome, Sender};
use bugfeed_hooks::deliver::sign::{Secrets, SigningSecret};
use bugfeed_protocol::backoff::Backoff;
use bugfeed_protocol::client::WhichBugs;
use bugfeed_protocol::{Cursor, When};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::token::ShownToken;
use crate::watch::state::StateFile;
use crate::watch::{GatewayUrl, Signals, Stop, WatchError};
use pending::{Pending, Request};

/// How often the gateway is asked for a heartbeat.
const HEARTBEAT: Duration = Duration::from_secs(20);
/// A receiver that says when it wants to be asked again is not waited for longer than this.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Why listening failed.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// An error of the feed that trying again would not mend, or a refused subscription.
    #[error(transparent)]
    Feed(#[from] ClientError),
    /// The state file.
    #[error(transparent)]
    State(#[from] WatchError),
    /// The output cannot be written.
    #[error("cannot write: {0}")]
    Output(#[from] io::Error),
    /// The gateway gives no cursors, which are a part of what is sent.
    #[error("{0} speaks the protocol of 2014 only, which has no cursors; listen at a gateway of bugfeed")]
    NoCursors(String),
}

/// What is listened to, and where it goes.
#[derive(Clone, Debug)]
pub struct ListenOptions {
    /// The bugs.
    pub bugs: WhichBugs,
    /// The gateway.
    pub url: GatewayUrl,
    /// The token that the gateway wants, if it wants one.
    pub token: Option<ShownToken>,
    /// Where requests go.
    pub forward: Address,
    /// What they are signed with.
    pub secret: SigningSecret,
    /// The secret was made for this run, so it is to be shown.
    pub is_new_secret: bool,
    /// The file that keeps how far the receiver is.
    pub state: Option<PathBuf>,
}

/// Where it prints: a line about each request that was taken, and everything else.
pub struct Output<'a> {
    /// Standard output.
    pub out: &'a mut (dyn Write + Send),
    /// Standard error.
    pub remarks: &'a mut (dyn Write + Send),
}

impl fmt::Debug for Output<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Output")
    }
}

impl Output<'_> {
    fn remark(&mut self, text: &str) {
        // A remark that cannot be written is of no importance to the receiver.
        let _ = writeln!(self.remarks, "bugfeed hooks listen: {text}").and_then(|()| self.remarks.flush());
    }
}

/// Listens until a signal comes.
///
/// # Errors
/// Only faults that trying again would not mend. A receiver that is away is none.
pub async fn run(options: &ListenOptions, output: &mut Output<'_>, signals: &mut Signals) -> Result<Stop, ListenError> {
    let mut pending = Pending::default();
    let (to_store, handed_out) = watch::channel(None);
    let feed = ShownToken::of(options.token.as_ref(), Feed::builder(options.url.expose())?);
    let mut feed = crate::watch::of(feed, &options.bugs).heartbeat(HEARTBEAT);
    let mut state = None;
    if let Some(path) = &options.state {
        let mut file = StateFile::open(path, &options.url.to_string(), &options.bugs)?;
        if let Some(other) = file.other_url() {
            output.remark(&format!("the state file was written with {other}; if that is another feed, expect a gap"));
        }
        let before = file.load().unwrap_or_default();
        let cursor = before.as_deref().and_then(Cursor::parse);
        if let Some(cursor) = cursor.clone() {
            pending.known(cursor);
        }
        if file.new_bugs().count() > 0 {
            // The cursor says nothing of them.
            pending.gap(cursor);
        }
        feed = feed.store(HandedOut { before, to_store });
        state = Some(file);
    }
    if options.is_new_secret {
        let secret = options.secret.expose();
        output.remark(&format!(
            "requests are signed with {secret}; the next run makes another, unless --secret names one"
        ));
    }
    let all =
        Rules { allowed: ["0.0.0.0/0", "::/0"].iter().filter_map(|all| all.parse().ok()).collect(), https_only: false };
    let listen = Listen {
        options,
        output,
        feed: feed.connect(),
        pending,
        state,
        stored: None,
        handed_out,
        sender: Sender::new(Options::default(), all),
        backoff: Backoff::CLIENT,
        in_flight: None,
        not_before: Instant::now(),
    };
    listen.until_stopped(signals).await
}

/// Stands for the state file towards the client library, which stores a cursor when the next event is asked for. Here an event
/// is dealt with later: when the receiver took it.
struct HandedOut {
    before: Option<String>,
    to_store: watch::Sender<Option<String>>,
}

impl Store for HandedOut {
    fn load(&mut self) -> io::Result<Option<String>> {
        Ok(self.before.clone())
    }

    fn save(&mut self, cursor: &str) -> io::Result<()> {
        self.to_store.send_replace(Some(cursor.to_owned()));
        Ok(())
    }
}

type InFlight = Pin<Box<dyn Future<Output = Attempt> + Send>>;

struct Listen<'a, 'b> {
    options: &'a ListenOptions,
    output: &'a mut Output<'b>,
    feed: Feed,
    pending: Pending,
    state: Option<StateFile>,
    /// What is in the state file, as far as this run has written it.
    stored: Option<Cursor>,
    /// The cursor up to which the library has handed everything out.
    handed_out: watch::Receiver<Option<String>>,
    sender: Sender,
    backoff: Backoff,
    in_flight: Option<(Request, InFlight)>,
    /// After a failure: when the next attempt is made.
    not_before: Instant,
}

impl Listen<'_, '_> {
    async fn until_stopped(mut self, signals: &mut Signals) -> Result<Stop, ListenError> {
        loop {
            self.take_what_is_there().await?;
            let is_idle = self.in_flight.is_none();
            let waits = is_idle && !self.pending.is_empty() && Instant::now() < self.not_before;
            if is_idle && !waits {
                self.send();
            }
            let is_settled = self.in_flight.is_none() && self.pending.is_settled();
            tokio::select! {
                stop = signals.next() => return Ok(stop),
                event = self.feed.next() => self.event(event)?,
                attempt = ended(&mut self.in_flight) => self.ended(&attempt)?,
                () = tokio::time::sleep_until(self.not_before), if waits => {}
                Ok(()) = self.handed_out.changed(), if is_settled => self.store_handed_out(),
            }
        }
    }

    /// Takes all events that need not be waited for, so that they go out together.
    async fn take_what_is_there(&mut self) -> Result<(), ListenError> {
        loop {
            let event = tokio::select! {
                biased;
                event = self.feed.next() => event,
                () = std::future::ready(()) => return Ok(()),
            };
            self.event(event)?;
        }
    }

    fn event(&mut self, event: Option<Result<Event, ClientError>>) -> Result<(), ListenError> {
        let event = event.ok_or(ClientError::Ended)??;
        let cursor = self.feed.cursor_in_hand().as_deref().and_then(Cursor::parse);
        match event {
            Event::Change(change) => match cursor {
                Some(cursor) => self.pending.add(Item { change, cursor }),
                None if self.feed.handle().protocol() == Some(Protocol::Classic) => {
                    return Err(ListenError::NoCursors(self.options.url.to_string()));
                }
                // A gap is about to be told, and this change is in it.
                None => {}
            },
            Event::Gap(_) | Event::GapOfAll => self.pending.gap(cursor),
            Event::Subscribed { replay, .. } => {
                if let Some(verdict) = replay {
                    let head = self.feed.handle().head();
                    self.pending.resumed(verdict, head.as_deref().and_then(Cursor::parse));
                }
                let (url, to) = (&self.options.url, self.options.forward.origin());
                self.output.remark(&format!("connected to {url}; changes go to {to}"));
            }
            Event::State(state @ State::Waiting { .. }) => self.output.remark(&state.to_string()),
            Event::Feed { state: FeedState::Paused, .. } => {
                self.output.remark("updates are paused: nothing can arrive just now");
            }
            Event::Feed { state: FeedState::Live, .. } => self.output.remark("updates flow again"),
            Event::Trouble { text, .. } => self.output.remark(&text),
            _ => {}
        }
        Ok(())
    }

    /// Begins the next request, if there is something to send.
    fn send(&mut self) {
        // The gateway says the feed's name, which is a part of each body.
        let handle = self.feed.handle();
        let Some(feed) = handle.feed_name().or_else(|| handle.protocol().map(|_| "default".to_owned())) else { return };
        let Some(request) = self.pending.request(&feed) else { return };
        let (sender, to) = (self.sender.clone(), self.options.forward.clone());
        let secrets = Secrets::new(self.options.secret.clone());
        let (id, body) = (request.id.clone(), request.body.clone().into());
        let sending = async move {
            let now = When::from_system_time(SystemTime::now());
            let headers = UserHeaders::default();
            sender.deliver(&Delivery { to: &to, headers: &headers, id: &id, body: &body, secrets: &secrets, now }).await
        };
        self.in_flight = Some((request, Box::pin(sending)));
    }

    fn ended(&mut self, attempt: &Attempt) -> Result<(), ListenError> {
        let Some((request, _)) = self.in_flight.take() else { return Ok(()) };
        let ms = attempt.took.as_millis();
        if let Outcome::Answered { status: status @ 200..=299, .. } = attempt.outcome {
            self.backoff.reset();
            writeln!(self.output.out, "{status} in {ms} ms: {} ({})", request.about, request.id)?;
            self.output.out.flush()?;
            if let Some(cursor) = self.pending.taken() {
                self.store(&cursor.to_string());
                self.stored = Some(cursor);
            }
            return Ok(());
        }
        self.pending.failed();
        let mut delay = self.backoff.next(rand::random());
        let why = match &attempt.outcome {
            Outcome::Answered { status, retry_after_us } => {
                let asked = u64::try_from(retry_after_us.unwrap_or_default()).unwrap_or_default();
                delay = delay.max(Duration::from_micros(asked).min(LONGEST_WAIT));
                format!("the receiver answers {status} {}", attempt.response)
            }
            Outcome::Failed { why, .. } => why.clone(),
        };
        self.not_before = Instant::now() + delay;
        let why = why.trim_end();
        self.output.remark(&format!("{why}; {} again in {:.1} s", request.about, delay.as_secs_f64()));
        Ok(())
    }

    /// The receiver has everything that was handed out, so the cursor may move with the feed.
    fn store_handed_out(&mut self) {
        let Some(text) = self.handed_out.borrow_and_update().clone() else { return };
        let Some(cursor) = Cursor::parse(&text) else { return self.store(&text) };
        // What the library stores comes a little later than what the receiver took.
        let is_old = |stored: &Cursor| stored.epoch == cursor.epoch && cursor.seq <= stored.seq;
        self.pending.known(cursor.clone());
        if !self.stored.as_ref().is_some_and(is_old) && self.pending.is_empty() {
            self.store(&text);
            self.stored = Some(cursor);
        }
    }

    /// Writes the state file, if there is one. It is small, and nothing else is to be done meanwhile.
    fn store(&mut self, cursor: &str) {
        let Some(state) = &mut self.state else { return };
        // The receiver has it, whatever is stored: the worst is that it comes again.
        if let Err(error) = state.save(cursor) {
            self.output.remark(&format!("cannot write the state file: {error}"));
        }
    }
}

async fn ended(in_flight: &mut Option<(Request, InFlight)>) -> Attempt {
    match in_flight {
        Some((_, sending)) => sending.await,
        None => std::future::pending().await,
    }
}
