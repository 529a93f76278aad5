//! A store in memory, which decides about arriving items as the real one does. It can be told to be away.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bugfeed_core::hooks::action::Action;
use bugfeed_core::hooks::arrival::{DedupKey, Duplicates, Known, receive};
use bugfeed_core::hooks::event::{Event, EventId, Link, WhenOrigin};
use bugfeed_core::hooks::lane::Settings;
use bugfeed_hooks::receive::http::{Answering, Intake, StoreAway};
use bugfeed_hooks::receive::received::{
    Accepted, AcceptedItem, Quarantined, QuarantinedRequest, ReceivedRequest, RequestId,
};
use tokio::sync::watch;

/// What the store does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Up,
    Away,
    /// It never answers.
    Hangs,
    /// It takes everything but requests with this bug.
    Refuses(u64),
}

#[derive(Default)]
pub(crate) struct Rows {
    pub(crate) requests: Vec<Arc<ReceivedRequest>>,
    pub(crate) events: Vec<Event>,
    pub(crate) links: Vec<(EventId, Link)>,
    pub(crate) quarantine: Vec<Arc<QuarantinedRequest>>,
    known: HashSet<RequestId>,
}

pub(crate) struct FakeStore {
    mode: watch::Sender<Mode>,
    rows: Mutex<Rows>,
    /// The number of rows, so that tests can wait for one.
    changed: watch::Sender<usize>,
    /// How many wait for a store that never answers.
    asked: watch::Sender<usize>,
    /// The most rows in quarantine.
    quarantine_room: usize,
}

impl FakeStore {
    pub(crate) fn new(mode: Mode, quarantine_room: usize) -> FakeStore {
        let (mode, changed) = (watch::Sender::new(mode), watch::Sender::new(0));
        FakeStore { mode, rows: Mutex::default(), changed, asked: watch::Sender::new(0), quarantine_room }
    }

    pub(crate) fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    pub(crate) fn rows<T>(&self, read: impl FnOnce(&Rows) -> T) -> T {
        read(&self.rows.lock().unwrap())
    }

    /// Waits until somebody waits for the store that never answers.
    pub(crate) async fn is_asked(&self) {
        let mut asked = self.asked.subscribe();
        let waiting = asked.wait_for(|count| *count > 0);
        tokio::time::timeout(Duration::from_secs(20), waiting).await.expect("nobody asks").unwrap();
    }

    /// Waits until the rows are as wanted.
    pub(crate) async fn wait_for(&self, wanted: impl Fn(&Rows) -> bool) {
        let mut changed = self.changed.subscribe();
        let waiting = async {
            while !self.rows(&wanted) {
                changed.changed().await.unwrap();
            }
        };
        tokio::time::timeout(Duration::from_secs(20), waiting).await.expect("the rows never came");
    }

    async fn is_there(&self) -> Result<Mode, StoreAway> {
        let mode = self.mode.borrow().clone();
        match mode {
            Mode::Away => Err(StoreAway("connection refused".to_owned())),
            Mode::Hangs => {
                self.asked.send_modify(|count| *count += 1);
                std::future::pending().await
            }
            mode => Ok(mode),
        }
    }

    fn told(&self) {
        self.changed.send_modify(|count| *count += 1);
    }
}

impl Rows {
    fn insert(&mut self, request: &ReceivedRequest) -> Accepted {
        let items = request.items.iter().map(|item| {
            let event = request.event(item, true);
            let (id, is_retryable) = (event.id, event.retryable);
            let same_key: Vec<Event> = {
                let key = DedupKey::of(&event);
                let same = |other: &&Event| other.source == event.source && DedupKey::of(other) == key;
                self.events.iter().rev().filter(same).cloned().collect()
            };
            let same_time = |other: &&Event| {
                (&other.source, &other.feed, other.bug, other.when)
                    == (&event.source, &event.feed, event.bug, event.when)
                    && other.origin == WhenOrigin::Tracker
            };
            let same_time = self.events.iter().rev().filter(same_time).cloned().collect();
            let generation = u32::try_from(same_key.len()).unwrap();
            let known = Known { same_key, generation, same_time };
            let replays = request.replayed(item);
            let actions = receive(event, item.mapping, &known, &Settings::DEFAULT, Duplicates::ByContent, replays);
            for action in actions {
                match action {
                    Action::Insert { event, .. } => self.events.push(*event),
                    Action::Link { of, link } => self.links.push((of, link)),
                    Action::Step(step) => {
                        let _ = self.events.iter_mut().any(|event| step.apply(event));
                    }
                    other => panic!("{other:?}"),
                }
            }
            self.accepted(id, is_retryable)
        });
        let items = items.collect::<Vec<_>>();
        Accepted { items }
    }

    fn accepted(&self, id: EventId, is_retryable: bool) -> AcceptedItem {
        let event = self.events.iter().find(|event| event.id == id).unwrap();
        let links = self.links.iter().filter(|(of, _)| *of == id).map(|(_, link)| *link).collect();
        AcceptedItem { event: id, state: event.progress.state, dropped: event.progress.drop, is_retryable, links }
    }
}

impl Intake for FakeStore {
    fn accept(&self, request: Arc<ReceivedRequest>) -> Answering<'_, Accepted> {
        Box::pin(async move {
            if let Mode::Refuses(bug) = self.is_there().await?
                && request.items.iter().any(|item| item.bug.is_some_and(|found| found.get() == bug))
            {
                return Err(StoreAway("a bug of ours".to_owned()));
            }
            let accepted = {
                let mut rows = self.rows.lock().unwrap();
                if rows.known.insert(request.envelope.id) {
                    let accepted = rows.insert(&request);
                    rows.requests.push(request);
                    accepted
                } else {
                    let ids = request.items.iter().map(|item| (request.event(item, true).id, item.kept.is_some()));
                    Accepted { items: ids.map(|(id, is_kept)| rows.accepted(id, is_kept)).collect() }
                }
            };
            self.told();
            Ok(accepted)
        })
    }

    fn quarantine(&self, request: Arc<QuarantinedRequest>) -> Answering<'_, Quarantined> {
        Box::pin(async move {
            self.is_there().await?;
            let kept = {
                let mut rows = self.rows.lock().unwrap();
                if rows.quarantine.len() >= self.quarantine_room {
                    Quarantined::Full
                } else {
                    rows.quarantine.push(request);
                    Quarantined::Kept
                }
            };
            self.told();
            Ok(kept)
        })
    }
}
