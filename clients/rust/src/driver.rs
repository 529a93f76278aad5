//! The one task of a feed: performs what the core asks for, and tells it what happens.
//!
//! In: the connection, the clock, what the application called. Out: the core's actions done, its deliveries in the
//! delivery_queue, cursors with the cursor saver. Decides nothing; holds the lock never across an await.

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
use crate::{Error, State};

/// What the task and the application both touch, each for a moment.
pub(crate) struct Inner {
    pub(crate) core: Core,
    pub(crate) delivery_queue: DeliveryQueue,
    /// Who waits for an item.
    pub(crate) reader: Option<Waker>,
    /// Whether the feed is to be ended in order.
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
    /// Something for the task to do.
    pub(crate) work: Notify,
    /// Moves with whatever the application is told.
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

    /// Tells the core something, and the application what the core has to say to that.
    pub(crate) fn tell(&self, what: impl FnOnce(&mut Core, Now)) {
        let mut inner = self.lock();
        what(&mut inner.core, self.now());
        self.deliver(&mut inner);
    }

    /// Hands on what the core delivers.
    pub(crate) fn deliver(&self, inner: &mut Inner) {
        let bugs = inner.core.bugs().len();
        let mut has_news = false;
        while let Some(delivery) = inner.core.delivery() {
            inner.delivery_queue.put(delivery, bugs);
            has_news = true;
        }
        if has_news {
            inner.wake();
            // Also where it is the same: a cursor may have been loaded.
            self.state.send_replace(inner.core.state().clone());
        }
    }
}

/// Runs until the feed is finished, or for ever: dropping it ends everything. `beginning` is the cursor where none is
/// stored.
///
/// # Errors
/// When the last cursor could not be stored.
pub(crate) async fn drive(
    shared: Arc<Shared>,
    url: String,
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
        let closed = perform(&shared, &mut link, &url).await;
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
                Heard::Lost(lost) => shared.tell(|core, now| core.lost(lost, now)),
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

/// Does what the core asks for. Says whether it is closed, and everything done.
async fn perform(shared: &Shared, link: &mut Link, url: &str) -> bool {
    loop {
        let action = {
            let mut inner = shared.lock();
            // Not while earlier commands wait: what changes meanwhile goes into one, so that no more than that waits.
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
            Some(Action::Connect) => link.connect(url),
            Some(Action::Send(text)) => link.send(text),
            Some(Action::Disconnect) => *link = Link::None,
            None => link.close().await,
        }
    }
}

/// Stores what is still to be stored.
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

/// A heartbeat as the protocol takes it: whole seconds, 1 to 300.
pub(crate) fn heartbeat_s(heartbeat: Duration) -> u64 {
    let allowed = bugfeed_protocol::client::HEARTBEAT_S;
    heartbeat.as_secs().clamp(*allowed.start(), *allowed.end())
}
