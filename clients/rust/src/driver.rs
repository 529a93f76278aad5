//! The one task of a feed: performs the core's actions, and tells the core what happens.
//!
//! In: the connection, the clock, the application's calls. Out: the core's actions performed, its deliveries in the
//! delivery queue, cursors given to the cursor saver. Decides nothing; never holds the lock across an await.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::{Duration, SystemTime};

use bugfeed_protocol::When;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::core::{Action, Core, Now};
use crate::cursor_saver::CursorSaver;
use crate::delivery_queue::DeliveryQueue;
use crate::link::{Heard, Link};
use crate::token::Tokens;
use crate::{Error, State};

/// What the task and the application share; each locks it only for a moment.
pub(crate) struct Inner {
    pub(crate) core: Core,
    pub(crate) delivery_queue: DeliveryQueue,
    /// The waker of the reader that waits for an item.
    pub(crate) reader: Option<Waker>,
    /// Whether [`Feed::finish`](crate::Feed::finish) was called.
    pub(crate) finishing: bool,
}

impl Inner {
    fn wake(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

pub(crate) struct Shared {
    inner: Mutex<Inner>,
    /// Wakes the task: there is something to do.
    pub(crate) work: Notify,
    /// The feed's state; updated with every delivery.
    pub(crate) state: watch::Sender<State>,
    origin: Instant,
}

impl Shared {
    pub(crate) fn new(core: Core) -> Shared {
        let inner = Inner { core, delivery_queue: DeliveryQueue::default(), reader: None, finishing: false };
        let state = watch::Sender::new(State::Connecting);
        Shared { inner: Mutex::new(inner), work: Notify::new(), state, origin: Instant::now() }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Now {
        let date = When::from_system_time(SystemTime::now());
        Now { clock: self.origin.elapsed(), date, chance: rand::random() }
    }

    /// Tells the core something, and hands its deliveries to the application.
    pub(crate) fn tell(&self, what: impl FnOnce(&mut Core, Now)) {
        let mut inner = self.lock();
        what(&mut inner.core, self.now());
        self.deliver(&mut inner);
    }

    /// Moves the core's deliveries into the queue.
    pub(crate) fn deliver(&self, inner: &mut Inner) {
        let bugs = inner.core.bugs().len();
        let mut has_news = false;
        while let Some(delivery) = inner.core.delivery() {
            inner.delivery_queue.put(delivery, bugs);
            has_news = true;
        }
        if has_news {
            inner.wake();
            // The state is sent even if it is the same, because a cursor may have been loaded.
            self.state.send_replace(inner.core.state().clone());
        }
    }
}

/// Runs until the feed is finished, or for ever; dropping the future ends everything. `gateway` is its address, and where tokens
/// for it come from; `beginning` is the cursor to use if none is stored.
///
/// # Errors
/// When the last cursor could not be stored.
pub(crate) async fn drive(
    shared: Arc<Shared>,
    gateway: (String, Tokens),
    mut cursor_saver: CursorSaver,
    beginning: Option<String>,
) -> Result<(), Error> {
    let loaded = cursor_saver.load().await;
    shared.tell(|core, now| match loaded {
        Ok(cursor) => core.start(cursor.or(beginning), now),
        Err(error) => core.fail(Error::Load(error)),
    });
    let mut link = Link::None;
    loop {
        let closed = perform(&shared, &mut link, &gateway).await;
        let (deadline, finishing, to_store) = {
            let mut inner = shared.lock();
            let to_store = if cursor_saver.is_idle() { inner.delivery_queue.take_dealt() } else { None };
            (inner.core.deadline(), inner.finishing, to_store)
        };
        if let Some(cursor) = to_store {
            cursor_saver.save(cursor);
        }
        if finishing && closed {
            return finish(&shared, cursor_saver).await;
        }
        tokio::select! {
            heard = link.next() => match heard {
                Heard::Opened => shared.tell(Core::opened),
                Heard::Text(text) => shared.tell(|core, now| core.received(&text, now)),
                Heard::Ended(end) => shared.tell(|core, now| core.connection_ended(end, now)),
            },
            () = until(deadline.map(|deadline| shared.origin + deadline)) => shared.tell(Core::alarm),
            saved = cursor_saver.saved() => if let Err(error) = saved {
                let mut inner = shared.lock();
                inner.delivery_queue.put_save_error(Error::Save(error));
                inner.wake();
            },
            () = shared.work.notified() => {}
        }
    }
}

/// Performs the core's actions. Returns whether the core is closed and everything is done.
async fn perform(shared: &Shared, link: &mut Link, (url, tokens): &(String, Tokens)) -> bool {
    loop {
        let action = {
            let mut inner = shared.lock();
            // Only when earlier commands are sent: changes of the subscriptions during that time go into one command,
            // so at most one command waits.
            if link.is_idle() {
                inner.core.flush();
            }
            let action = inner.core.action();
            match action {
                None => return *inner.core.state() == State::Closed,
                Some(Action::Disconnect) if *inner.core.state() == State::Closed => None,
                other => other,
            }
        };
        match action {
            Some(Action::Connect) => link.connect(url, tokens),
            Some(Action::Send(text)) => link.send(text),
            Some(Action::Disconnect) => *link = Link::None,
            None => link.close().await,
        }
    }
}

/// Stores the last cursor, if it is not stored yet.
async fn finish(shared: &Shared, mut cursor_saver: CursorSaver) -> Result<(), Error> {
    let mut outcome = if cursor_saver.is_idle() { Ok(()) } else { cursor_saver.saved().await };
    let last = shared.lock().delivery_queue.take_dealt().or_else(|| cursor_saver.take_unsaved());
    if let Some(last) = last {
        cursor_saver.save(last);
        outcome = if cursor_saver.is_idle() { Ok(()) } else { cursor_saver.saved().await };
    }
    outcome.map_err(Error::Save)
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// The heartbeat for the protocol: whole seconds, 1 to 300.
pub(crate) fn heartbeat_s(heartbeat: Duration) -> u64 {
    let allowed = bugfeed_protocol::client::HEARTBEAT_S;
    heartbeat.as_secs().clamp(*allowed.start(), *allowed.end())
}
