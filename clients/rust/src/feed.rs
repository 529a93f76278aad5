//! The feed as an application sees it: a builder, a stream of events, and handles that other tasks may hold.
//!
//! In: an address, bugs, a place for the cursor. Out: [`Event`]s. Never leaves a task running: the task behind a feed
//! ends with it.

use std::collections::BTreeSet;
use std::fmt;
use std::future::poll_fn;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bugfeed_protocol::server::{FeedState, Verdict};
use bugfeed_protocol::token::Token;
use bugfeed_protocol::{BugId, When};
use futures::Stream;
use tokio::task::JoinHandle;

use crate::core::{Core, SINCE};
use crate::cursor_saver::CursorSaver;
use crate::driver::{Shared, drive, heartbeat_s};
use crate::store::{FileStore, Store};
use crate::token::Tokens;
use crate::{Error, Event, Protocol, State, link, words};

/// The settings of a feed.
pub struct Builder {
    url: String,
    bugs: Result<BTreeSet<BugId>, Error>,
    all: bool,
    store: Option<Box<dyn Store>>,
    since: Option<When>,
    heartbeat: Duration,
    classic: bool,
    tokens: Tokens,
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("url", &words::shown(&self.url))
            .field("bugs", &self.bugs)
            .finish_non_exhaustive()
    }
}

impl Builder {
    /// Watches these bugs in addition to those named before. A number that is not a bug number (0, or above 2^63 − 1)
    /// becomes the stream's first and final item, [`Error::Bug`].
    #[must_use]
    pub fn bugs(mut self, bugs: impl IntoIterator<Item = u64>) -> Builder {
        if let Ok(known) = &mut self.bugs {
            match numbers(bugs) {
                Ok(bugs) => known.extend(bugs),
                Err(error) => self.bugs = Err(error),
            }
        }
        self
    }

    /// Watches all bugs of the feed, where the operator allows it (`--allow-all`; otherwise the stream's first item is
    /// [`Error::Refused`]). A gap is told as [`Event::GapOfAll`]. Single bugs make no difference then.
    #[must_use]
    pub fn all(mut self) -> Builder {
        self.all = true;
        self
    }

    /// Keeps the cursor in this file, so that the next run goes on where this one ends. See [`FileStore`].
    #[must_use]
    pub fn state_file(self, path: impl Into<PathBuf>) -> Builder {
        self.store(FileStore::new(path))
    }

    /// Keeps the cursor in this store, for example a row of a database.
    #[must_use]
    pub fn store(mut self, store: impl Store) -> Builder {
        self.store = Some(Box::new(store));
        self
    }

    /// Begins with the changes from this time on, as far as the gateway has them. It has no effect if a cursor is
    /// stored.
    #[must_use]
    pub fn since(mut self, since: When) -> Builder {
        self.since = Some(since);
        self
    }

    /// How often the gateway should send a heartbeat, in whole seconds from 1 to 300; the default is 30 s. A connection
    /// that is silent for 2.5 times as long is treated as dead.
    #[must_use]
    pub fn heartbeat(mut self, heartbeat: Duration) -> Builder {
        self.heartbeat = heartbeat;
        self
    }

    /// Speaks only the protocol of 2014: no hello, dates instead of cursors. Without this option, a gateway that knows
    /// only that protocol is recognised automatically.
    #[must_use]
    pub fn classic(mut self, classic: bool) -> Builder {
        self.classic = classic;
        self
    }

    /// Shows this token, where the gateway wants one. Once it is refused, or has expired, the feed ends with
    /// [`Error::Token`]; [`Builder::token_from`] goes on with new ones.
    #[must_use]
    pub fn token(mut self, token: &str) -> Builder {
        self.tokens = Tokens::Fixed(Token::new(token));
        self
    }

    /// Asks `give` for a token before each connection. When the gateway refuses one, or it expires, the next connection
    /// begins at once, and with the usual delays if that is refused as well; the feed does not end. An error of `give` counts
    /// as a connection that failed; its text is told in [`State::Waiting`], so it should hold no secret.
    ///
    /// ```no_run
    /// # async fn fresh_token() -> Result<String, std::io::Error> { Ok(String::new()) }
    /// # fn feed() -> Result<bugfeed_client::Feed, bugfeed_client::Error> {
    /// let feed = bugfeed_client::Feed::builder("wss://bugfeed.example.org/")?
    ///     .bugs([1234])
    ///     .token_from(|| async { fresh_token().await })
    ///     .connect();
    /// # Ok(feed)
    /// # }
    /// ```
    #[must_use]
    pub fn token_from<F, T, E>(mut self, give: F) -> Builder
    where
        F: Fn() -> T + Send + Sync + 'static,
        T: Future<Output = Result<String, E>> + Send + 'static,
        E: fmt::Display,
    {
        self.tokens = Tokens::given(give);
        self
    }

    /// Begins to connect, in the background. Errors come through the stream.
    ///
    /// # Panics
    /// Outside of a tokio runtime whose clock and network are enabled.
    pub fn connect(self) -> Feed {
        let (bugs, fault) = match self.bugs {
            Ok(bugs) => (bugs, None),
            Err(error) => (BTreeSet::new(), Some(error)),
        };
        let mut core = Core::new(self.url.clone(), bugs, heartbeat_s(self.heartbeat), self.classic);
        if self.all {
            core.watch_all();
        }
        if self.tokens.may_change() {
            core.gets_new_tokens();
        }
        let shared = Arc::new(Shared::new(core));
        if let Some(error) = fault {
            shared.tell(|core, _| core.fail(error));
        }
        // Used only if no cursor is stored.
        let beginning = self.since.map(|since| format!("{SINCE}{since}"));
        let task =
            tokio::spawn(drive(Arc::clone(&shared), (self.url, self.tokens), CursorSaver::new(self.store), beginning));
        Feed { handle: Handle { shared }, task: Some(task) }
    }
}

/// A feed of changes: a [`Stream`] of events that reconnects by itself and resumes from its cursor.
///
/// The feed receives in the background, so that a slow reader does not lose the connection. The queue of events is
/// bounded: beyond some 10,000 events (and twice the bugs), only the newest change of each bug is kept (conflation). An
/// event counts as dealt with when the next one is asked for; only then is its cursor stored, soon and in the
/// background.
///
/// Dropping a feed ends everything at once; the event in hand comes again in the next run. [`Feed::finish`] ends the
/// feed in order.
#[derive(Debug)]
pub struct Feed {
    handle: Handle,
    task: Option<JoinHandle<Result<(), Error>>>,
}

impl Feed {
    /// A builder for a feed of the gateway at this address: `ws://HOST:PORT/`, or `wss://HOST/NAME/` for TLS and a feed
    /// other than the default. `http` and `https` are accepted for `ws` and `wss`.
    ///
    /// # Errors
    /// [`Error::Address`] if the text is not such an address.
    pub fn builder(url: &str) -> Result<Builder, Error> {
        Ok(Builder {
            url: link::address(url)?,
            bugs: Ok(BTreeSet::new()),
            all: false,
            store: None,
            since: None,
            heartbeat: Duration::from_secs(30),
            classic: false,
            tokens: Tokens::None,
        })
    }

    /// The next event. Asking for it says that the event before it is dealt with. `None` when the feed has ended: after
    /// a final error, or [`Handle::close`]. No event is lost if this future is dropped.
    ///
    /// # Errors
    /// After an error for which [`Error::is_final`] does not hold, the feed goes on.
    pub async fn next(&mut self) -> Option<Result<Event, Error>> {
        poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }

    /// The cursor of the event that was handed out last: what is stored once that event is dealt with. `None` if it has none,
    /// for example because a gap is about to be told, or if there is no event in hand.
    pub fn cursor_in_hand(&self) -> Option<String> {
        self.handle.shared.lock().delivery_queue.in_hand_cursor().map(str::to_owned)
    }

    /// A handle for other tasks: to subscribe, to read the state, to close.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// For a start that misses nothing: await this, ask the tracker which bugs exist, then subscribe to them; changes
    /// in between are then sent. It returns at once if a cursor was stored; otherwise it waits for the gateway.
    ///
    /// # Errors
    /// [`Error::Ended`] if the feed has ended; [`Feed::next`] tells why.
    pub async fn start_from_head(&mut self) -> Result<(), Error> {
        let shared = &self.handle.shared;
        let mut state = shared.state.subscribe();
        loop {
            {
                let mut inner = shared.lock();
                if *inner.core.state() == State::Closed {
                    return Err(Error::Ended);
                }
                if inner.core.cursor().is_some() || *inner.core.state() == State::Open {
                    inner.core.start_from_head();
                    return Ok(());
                }
            }
            // This cannot fail: the sender lives in `shared`.
            let _ = state.changed().await;
        }
    }

    /// Ends the feed in order: the event handed out last counts as dealt with, its cursor is stored, and the connection is
    /// closed (within about a second). Events that were not handed out come again in the next run.
    ///
    /// # Errors
    /// [`Error::Save`] if the cursor could not be stored.
    pub async fn finish(mut self) -> Result<(), Error> {
        {
            let mut inner = self.handle.shared.lock();
            inner.delivery_queue.clear();
            inner.delivery_queue.dealt_with();
            inner.core.close();
            inner.finishing = true;
            self.handle.shared.deliver(&mut inner);
        }
        self.handle.shared.work.notify_one();
        match self.task.as_mut() {
            Some(task) => task.await.expect("the task of a feed is neither aborted before it is dropped, nor panics"),
            None => Ok(()),
        }
    }
}

impl Stream for Feed {
    type Item = Result<Event, Error>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let shared = &self.handle.shared;
        let mut inner = shared.lock();
        let item = inner.delivery_queue.take();
        if inner.delivery_queue.has_dealt() {
            shared.work.notify_one();
        }
        match item {
            Some(item) => Poll::Ready(Some(item)),
            None if *inner.core.state() == State::Closed => Poll::Ready(None),
            None => {
                inner.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
        // The handles that are left see the feed closed.
        let mut inner = self.handle.shared.lock();
        inner.core.close();
        self.handle.shared.deliver(&mut inner);
    }
}

/// The controls of a feed. A handle does not keep the feed alive.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = self.shared.lock();
        f.debug_struct("Handle").field("state", inner.core.state()).field("bugs", &inner.core.bugs().len()).finish()
    }
}

impl Handle {
    /// Watches more bugs, connected or not. Bugs that are added before the feed's task runs next are asked for in one
    /// command. A feed of all bugs has them already.
    ///
    /// # Errors
    /// [`Error::Bug`] if one is no bug number; then nothing changes.
    pub fn subscribe(&self, bugs: impl IntoIterator<Item = u64>) -> Result<(), Error> {
        let bugs = numbers(bugs)?;
        self.shared.lock().core.subscribe(bugs);
        self.shared.work.notify_one();
        Ok(())
    }

    /// Watches all bugs of the feed, as [`Builder::all`] does.
    pub fn subscribe_to_all(&self) {
        self.shared.lock().core.watch_all();
        self.shared.work.notify_one();
    }

    /// Stops watching these bugs. Changes of them that are in the queue already may still come.
    ///
    /// # Errors
    /// [`Error::Bug`] if one is no bug number; then nothing changes.
    pub fn unsubscribe(&self, bugs: impl IntoIterator<Item = u64>) -> Result<(), Error> {
        let bugs = numbers(bugs)?;
        self.shared.lock().core.unsubscribe(bugs);
        self.shared.work.notify_one();
        Ok(())
    }

    /// Ends the feed for good: events in the queue are dropped, and the stream ends.
    pub fn close(&self) {
        let mut inner = self.shared.lock();
        inner.delivery_queue.clear();
        inner.core.close();
        self.shared.deliver(&mut inner);
        self.shared.work.notify_one();
    }

    /// The feed's state.
    pub fn state(&self) -> State {
        self.shared.lock().core.state().clone()
    }

    /// Which protocol the gateway speaks; `None` until it has answered.
    pub fn protocol(&self) -> Option<Protocol> {
        self.shared.lock().core.protocol()
    }

    /// The feed's name, as the gateway says it; `None` until it has answered, and if it speaks the protocol of 2014.
    pub fn feed_name(&self) -> Option<String> {
        self.shared.lock().core.feed_name().map(str::to_owned)
    }

    /// Whether changes can arrive, as the gateway said last. If it has said nothing, they can.
    pub fn feed_state(&self) -> FeedState {
        self.shared.lock().core.feed_state()
    }

    /// The last verdict on a resume.
    pub fn replay(&self) -> Option<Verdict> {
        self.shared.lock().core.replay()
    }

    /// The feed's newest cursor at the last hello; opaque text.
    pub fn head(&self) -> Option<String> {
        self.shared.lock().core.head().map(str::to_owned)
    }

    /// The cursor up to which everything was received; opaque text.
    pub fn cursor(&self) -> Option<String> {
        self.shared.lock().core.cursor().map(str::to_owned)
    }

    /// Whether all bugs of the feed are watched.
    pub fn watches_all(&self) -> bool {
        self.shared.lock().core.watches_all()
    }

    /// The bugs that are watched by name, also those not yet asked for because there is no connection; ascending.
    pub fn bugs(&self) -> Vec<BugId> {
        self.shared.lock().core.bugs().iter().copied().collect()
    }
}

fn numbers(bugs: impl IntoIterator<Item = u64>) -> Result<Vec<BugId>, Error> {
    bugs.into_iter().map(|bug| BugId::new(bug).ok_or(Error::Bug(bug))).collect()
}
