//! `bugfeed watch`: a client for terminals, scripts and bots.
//!
//! In: bug numbers and a gateway's address. Out: one line for each change, flushed at once; one line where changes may
//! have been missed; and a command that is run for each. `bugfeed_client` holds the connection. Never goes on to the next
//! change before the last one is printed and its command has ended.

mod exec;
mod screen;
mod signals;
pub(crate) mod state;

use std::fmt;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use bugfeed_client::{Builder, Error as ClientError, Event, Feed, FeedState, Protocol, State, Verdict, shown};
use bugfeed_protocol::When;
use bugfeed_protocol::client::WhichBugs;

pub use self::exec::{Template, parse_template};
pub use self::screen::{ColorChoice, Screen, use_color};
pub use self::signals::{Signals, Stop};
use self::state::StateFile;
use crate::token::ShownToken;

/// What stands for the bugs where all of them are meant.
const ALL: &str = "all";

/// How often the gateway is asked for a heartbeat.
const HEARTBEAT: Duration = Duration::from_secs(20);

/// A checked `ws://` or `wss://` address. It is shown without its secrets.
#[derive(Clone, PartialEq, Eq)]
pub struct GatewayUrl(String);

impl GatewayUrl {
    /// The address with its secrets, to connect to.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for GatewayUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&shown(&self.0))
    }
}

impl fmt::Debug for GatewayUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Reads a gateway's address. `http` and `https`, as in the address of the live page, are accepted for `ws` and `wss`.
///
/// # Errors
/// If the text is no such address; the error says what one looks like.
pub fn parse_url(text: &str) -> Result<GatewayUrl, String> {
    bugfeed_client::address(text).map(GatewayUrl).map_err(|error| error.to_string())
}

/// Why watching failed.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// An error of the feed that trying again would not mend, or a refused subscription.
    #[error(transparent)]
    Feed(#[from] ClientError),
    /// Standard output failed.
    #[error("cannot write: {0}")]
    Output(#[from] io::Error),
    /// The shell of `--exec` cannot be started.
    #[error("cannot run the command of --exec: {0}; is sh in the PATH?")]
    Exec(#[source] io::Error),
    /// The state file cannot be written.
    #[error("cannot write the state file {0}; choose another one with --state")]
    StateWrite(#[source] io::Error),
    /// The state file cannot be read.
    #[error("cannot read the state file {path}: {error}; choose another one with --state")]
    StateRead {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// The file exists, and is not a state file.
    #[error("{0} is no state file of bugfeed; choose another one with --state, or remove it to start from now")]
    StateForeign(PathBuf),
}

/// Why watching ended in good order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// After `--count` changes.
    Enough,
    /// By a signal.
    Stopped(Stop),
}

/// What to watch, and what to do about it.
#[derive(Clone, Debug)]
pub struct WatchOptions {
    /// The bugs to watch.
    pub bugs: WhichBugs,
    /// The gateway.
    pub url: GatewayUrl,
    /// The token that the gateway wants, if it wants one.
    pub token: Option<ShownToken>,
    /// Changes since this time come first; only in the first run.
    pub since: Option<When>,
    /// End after this many changes.
    pub count: Option<u64>,
    /// The command that is run for each change.
    pub exec: Option<Template>,
    /// The file that keeps how far this run has got.
    pub state: Option<PathBuf>,
    /// Print JSON.
    pub json: bool,
    /// Speak the protocol of 2014 only.
    pub classic: bool,
}

/// Watches until enough changes have come, a signal comes, or `screen` cannot be written to.
///
/// # Errors
/// Only faults that trying again would not mend.
pub async fn run<O: Write, S: Write>(
    options: &WatchOptions,
    screen: &mut Screen<O, S>,
    signals: &mut Signals,
) -> Result<Ended, WatchError> {
    let mut watch = Watch { options, screen, signals, left: options.count, paused: None };
    let state = match &options.state {
        Some(path) => Some(StateFile::open(path, &options.url.to_string(), &options.bugs)?),
        None => None,
    };
    let feed = ShownToken::of(options.token.as_ref(), Feed::builder(&options.url.0)?);
    let mut feed = of(feed, &options.bugs).heartbeat(HEARTBEAT).classic(options.classic);
    if let Some(since) = options.since {
        feed = feed.since(since);
    }
    if let Some(state) = state {
        if let Some(other) = state.other_url() {
            watch
                .screen
                .warn(&format!("the state file was written with {other}; if that is another feed, expect a gap"));
        }
        // The gap of the new bugs is told before a newer cursor can be stored.
        if let Some(stop) = watch.gap(&state.new_bugs()).await? {
            return Ok(Ended::Stopped(stop));
        }
        state.adopt()?;
        feed = feed.store(state);
    }
    watch.all(feed.connect()).await
}

/// The feed of these bugs.
pub(crate) fn of(feed: Builder, bugs: &WhichBugs) -> Builder {
    match bugs {
        WhichBugs::All => feed.all(),
        WhichBugs::These(bugs) => feed.bugs(bugs.iter().map(|bug| bug.get())),
    }
}

struct Watch<'a, O, S> {
    options: &'a WatchOptions,
    screen: &'a mut Screen<O, S>,
    signals: &'a mut Signals,
    /// Changes that are left until `--count` is reached.
    left: Option<u64>,
    /// The text to show while the feed is paused; `None` while changes can arrive.
    paused: Option<String>,
}

impl<O: Write, S: Write> Watch<'_, O, S> {
    async fn all(&mut self, mut feed: Feed) -> Result<Ended, WatchError> {
        loop {
            // Asking for the next event tells the client library that the last one is handled.
            let event = tokio::select! {
                event = feed.next() => event,
                stop = self.signals.next() => {
                    feed.finish().await?;
                    return Ok(Ended::Stopped(stop));
                }
            };
            let stop = match event {
                None => return Err(ClientError::Ended.into()),
                Some(Err(error @ ClientError::Save(_))) => {
                    self.screen.warn(&error.to_string());
                    None
                }
                Some(Err(error)) => return Err(error.into()),
                Some(Ok(event)) => self.event(event, &feed).await?,
            };
            if let Some(stop) = stop {
                // The event was not handled, so it comes again in the next run.
                return Ok(Ended::Stopped(stop));
            }
            if self.left == Some(0) {
                feed.finish().await?;
                return Ok(Ended::Enough);
            }
        }
    }

    /// Handles one event. Returns the signal if one came meanwhile.
    async fn event(&mut self, event: Event, feed: &Feed) -> Result<Option<Stop>, WatchError> {
        match event {
            Event::Change(change) => {
                self.screen.change(change, self.options.json)?;
                let stop = self.exec(&change.bug.to_string(), Some(change.when)).await?;
                if stop.is_none() {
                    self.left = self.left.map(|left| left - 1);
                }
                return Ok(stop);
            }
            Event::Gap(bugs) => return self.gap(&WhichBugs::These(bugs)).await,
            Event::GapOfAll => return self.gap(&WhichBugs::All).await,
            Event::State(State::Connecting) => self.screen.progress(&format!("connecting to {}", self.options.url)),
            Event::State(state @ State::Waiting { .. }) => self.screen.status(&state.to_string()),
            Event::Subscribed { replay, .. } => {
                let text = connected(&self.options.url, replay, feed);
                // "Connected" alone would be misleading while the feed is paused.
                let paused = self.paused.as_ref().map(|paused| format!("; {paused}")).unwrap_or_default();
                self.screen.status(&format!("{text}{paused}"));
            }
            Event::Feed { state: FeedState::Paused, since } => {
                let since = since.map(|since| format!(" since {since}")).unwrap_or_default();
                let text = format!("updates are paused{since}: nothing can arrive just now");
                self.screen.status(&text);
                self.paused = Some(text);
            }
            Event::Feed { state: FeedState::Live, .. } => {
                self.paused = None;
                self.screen.status("updates flow again");
            }
            Event::Trouble { text, .. } => self.screen.warn(&text),
            _ => {}
        }
        Ok(None)
    }

    /// Prints a gap: changes of these bugs may be missing, so a program that acts on changes must look at all of them.
    async fn gap(&mut self, bugs: &WhichBugs) -> Result<Option<Stop>, WatchError> {
        if bugs.count() == 0 {
            return Ok(None);
        }
        self.screen.gap(bugs, self.options.json)?;
        let WhichBugs::These(bugs) = bugs else { return self.exec(ALL, None).await };
        for bug in bugs {
            if let Some(stop) = self.exec(&bug.to_string(), None).await? {
                return Ok(Some(stop));
            }
        }
        Ok(None)
    }

    /// Runs the command for a bug, or for [`ALL`].
    async fn exec(&mut self, bug: &str, when: Option<When>) -> Result<Option<Stop>, WatchError> {
        let Some(template) = &self.options.exec else { return Ok(None) };
        self.screen.hide();
        let outcome = template.run(bug, when, self.signals).await.map_err(WatchError::Exec)?;
        self.screen.show();
        match outcome {
            exec::Outcome::Stopped(stop) => Ok(Some(stop)),
            exec::Outcome::Ended(status) => {
                if !status.success() {
                    self.screen.warn(&format!("the command for bug {bug} failed: {status}"));
                }
                Ok(None)
            }
        }
    }
}

fn connected(url: &GatewayUrl, replay: Option<Verdict>, feed: &Feed) -> String {
    let about = match (replay, feed.handle().protocol()) {
        (_, Some(Protocol::Classic)) => ", with the protocol of 2014: it resumes by date, and cannot tell of every gap",
        (Some(Verdict::Complete), _) => "; what was missed comes first",
        (Some(Verdict::Latest), _) => "; of what was missed, the newest change of each bug comes first",
        _ => "",
    };
    format!("connected to {url}{about}")
}
