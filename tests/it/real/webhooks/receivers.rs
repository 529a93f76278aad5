//! Receivers of webhooks out: endpoints deliver both feeds to them. Two take everything at once; two fail at random.
//!
//! Goes in: a seed, and the store in which their endpoints are made. Comes out: what each took, or which changes it was not
//! told of, and what no sender may do: the same identifier with another body, a wrong signature, a cursor that falls.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path as UrlPath, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use bugfeed_core::endpoints::orders::{Order, carry_out};
use bugfeed_core::endpoints::policy::Policy;
use bugfeed_core::endpoints::question::{Since, Watch};
use bugfeed_core::endpoints::row::Row;
use bugfeed_hooks::deliver::headers::UserHeaders;
use bugfeed_hooks::deliver::sign::{Secrets, SigningSecret};
use bugfeed_hooks::store::Store;
use bugfeed_hooks::store::endpoints::{EndpointId, FeedChoice, Settings};
use bugfeed_protocol::{BugId, Change, Cursor, Numbered, When};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

use super::listener::Heard;
use crate::real::soak::pause;

/// A receiver that fails leaves a request without an answer for so long, at most.
const LONGEST_HANG_MS: u64 = 4000;

/// What one receiver was sent.
#[derive(Debug, Default)]
struct Notes {
    heard: Heard,
    /// What each identifier stood for.
    bodies: HashMap<String, Bytes>,
    cursor: Option<Cursor>,
    /// The cursor of its last gap.
    gap: Option<Cursor>,
    requests: u64,
    failed: u64,
    repeats: u64,
    wrong: Vec<String>,
    /// Each request with its answer, in words.
    journal: Vec<String>,
}

/// One receiver, and its endpoint.
struct Receiver {
    name: String,
    feed: &'static str,
    watch: Watch,
    policy: Policy,
    id: EndpointId,
    secret: SigningSecret,
    /// It fails at random as long as this is there.
    moods: Option<Mutex<SmallRng>>,
    notes: Mutex<Notes>,
}

/// What it does with a request.
enum Mood {
    Take,
    TakeLate(Duration),
    Refuse(StatusCode),
}

/// All receivers; they end when this is dropped.
pub struct Receivers {
    all: Arc<Vec<Arc<Receiver>>>,
    address: SocketAddr,
    calm: Arc<AtomicBool>,
    serving: AbortHandle,
}

impl Drop for Receivers {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

#[derive(Clone)]
struct Serving {
    all: Arc<Vec<Arc<Receiver>>>,
    calm: Arc<AtomicBool>,
}

impl Receivers {
    /// Starts two receivers for each feed, whose bugs are 1 to `bugs`: one that takes everything and watches all bugs, one
    /// that fails and names them.
    pub async fn start(feeds: [(&'static str, u64); 2], seed: u64) -> Receivers {
        let mut random = SmallRng::seed_from_u64(seed + 50);
        let mut all = Vec::new();
        for (feed, bugs) in feeds {
            for fails in [false, true] {
                let named = Watch::Bugs((1..=bugs).filter_map(BugId::new).collect());
                let (mut id, mut secret) = ([0; 13], [0; 32]);
                random.fill(&mut id);
                random.fill(&mut secret);
                all.push(Arc::new(Receiver {
                    name: format!("{feed}-{}", if fails { "fails" } else { "takes" }),
                    feed,
                    watch: if fails { named } else { Watch::All },
                    policy: if fails { Policy::Off } else { Policy::Current },
                    id: EndpointId::new(id),
                    secret: SigningSecret::generate(&secret),
                    moods: fails.then(|| Mutex::new(SmallRng::seed_from_u64(random.random()))),
                    notes: Mutex::default(),
                }));
            }
        }
        let (all, calm) = (Arc::new(all), Arc::new(AtomicBool::new(false)));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Serving { all: Arc::clone(&all), calm: Arc::clone(&calm) };
        let router = Router::new().route("/{name}", post(take)).with_state(state);
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() }).abort_handle();
        Receivers { all, address, calm, serving }
    }

    /// Makes their endpoints.
    pub async fn create(&self, store: &Store) {
        for receiver in &*self.all {
            let feed: Arc<str> = receiver.feed.into();
            let settings = Settings {
                url: format!("http://{}/{}", self.address, receiver.name),
                secret: receiver.secret.clone(),
                previous: None,
                headers: UserHeaders::default(),
                description: receiver.name.clone(),
                feeds: FeedChoice::Named(vec![Arc::clone(&feed)]),
                template: None,
                created_us: When::from_system_time(SystemTime::now()).as_micros(),
            };
            let mut row = Row::new(receiver.policy, receiver.watch.clone(), [feed]);
            // As the API has it where the feed's head is not known: what is recorded from now on. `Since::Head` would begin
            // anew wherever a process dies before the row is stored.
            let now = When::from_system_time(SystemTime::now());
            row.lines.iter_mut().for_each(|line| line.since = Since::Time(now));
            store.create_endpoint(&receiver.id, &settings, &row, None).await.unwrap();
        }
    }

    /// From now on each takes everything, and none waits for the end of a cool-down.
    pub async fn calm(&self, store: &Store) {
        self.calm.store(true, Ordering::Relaxed);
        for receiver in &*self.all {
            let order = |_: &mut Settings, row: &mut Row| carry_out(row, &Order::Enable);
            store.change_endpoint(&receiver.id, None, order).await.unwrap();
        }
    }

    /// Whether each has taken something.
    pub fn have_heard(&self) -> bool {
        self.all.iter().all(|receiver| receiver.notes.lock().unwrap().heard.count() > 0)
    }

    /// The newest change of each bug of a feed, as its ledger numbered them, if a receiver has not taken it and was not told
    /// of a gap since; in words. The newest number may have an older date than one before it: webhooks come in any order, and
    /// whoever asks the tracker after the last of them gets everything.
    pub fn missing(&self, feed: &str, numbered: &[Numbered]) -> Vec<String> {
        let newest: HashMap<BugId, &Numbered> = numbered.iter().map(|change| (change.change.bug, change)).collect();
        let mut missing = Vec::new();
        for receiver in self.all.iter().filter(|receiver| receiver.feed == feed) {
            let notes = receiver.notes.lock().unwrap();
            let lost = newest.values().filter(|newest| !notes.has(newest));
            let said = |Numbered { change: Change { bug, when }, cursor, .. }: &&Numbered| {
                format!("receiver {}: neither told of bug {bug}, {when} ({cursor}), nor of a gap", receiver.name)
            };
            missing.extend(lost.map(said));
        }
        missing
    }

    /// Writes down what each was sent, and what it answered.
    pub fn keep_journals(&self, folder: &Path) {
        for receiver in &*self.all {
            let lines = receiver.notes.lock().unwrap().journal.join("\n");
            std::fs::write(folder.join(format!("receiver-{}.txt", receiver.name)), lines).unwrap();
        }
    }

    /// What no sender may do, in words.
    pub fn wrong(&self) -> Vec<String> {
        let of = |receiver: &Arc<Receiver>| {
            let notes = receiver.notes.lock().unwrap();
            notes.wrong.iter().map(|wrong| format!("receiver {}: {wrong}", receiver.name)).collect::<Vec<_>>()
        };
        self.all.iter().flat_map(of).collect()
    }

    /// What each took, in words.
    pub fn lines(&self) -> String {
        let line = |receiver: &Arc<Receiver>| {
            let notes = receiver.notes.lock().unwrap();
            format!(
                "  receiver {}: {} requests, {} not taken, {} the same once more; {}",
                receiver.name,
                notes.requests,
                notes.failed,
                notes.repeats,
                notes.heard.line()
            )
        };
        self.all.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}

impl Receiver {
    fn mood(&self) -> Mood {
        let Some(moods) = &self.moods else { return Mood::Take };
        let mut random = moods.lock().unwrap();
        match random.random_range(0..12) {
            0 => Mood::Refuse(StatusCode::INTERNAL_SERVER_ERROR),
            1 => Mood::Refuse(StatusCode::NOT_FOUND),
            2 => Mood::TakeLate(Duration::from_millis(random.random_range(0..LONGEST_HANG_MS))),
            _ => Mood::Take,
        }
    }
}

impl Notes {
    fn has(&self, numbered: &Numbered) -> bool {
        let in_gap = |gap: &Cursor| gap.epoch == numbered.cursor.epoch && gap.seq >= numbered.cursor.seq;
        self.heard.has(numbered.change) || self.gap.as_ref().is_some_and(in_gap)
    }

    /// What may not be, whatever the receiver answers.
    fn judge(&mut self, receiver: &Receiver, headers: &HeaderMap, body: &Bytes) {
        self.requests += 1;
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let (id, at) = (text("webhook-id"), text("webhook-timestamp"));
        let at = at.parse().ok().and_then(|seconds: i64| When::from_micros(seconds.saturating_mul(1_000_000)));
        let signed = at.and_then(|at| Secrets::new(receiver.secret.clone()).headers(id, body, at));
        if signed.is_none_or(|[_, _, (_, signature)]| headers.get("webhook-signature") != Some(&signature)) {
            self.wrong.push(format!("{id} is not signed by its secret"));
        }
        match self.bodies.insert(id.to_owned(), body.clone()) {
            Some(before) if before != *body => self.wrong.push(format!("{id} has two bodies: {before:?}, {body:?}")),
            Some(_) => self.repeats += 1,
            None => {}
        }
        let message: Value = serde_json::from_slice(body).unwrap_or_default();
        if message["feed"] != receiver.feed {
            self.wrong.push(format!("{id} is of feed {}", message["feed"]));
        }
        let Some(cursor) = message["cursor"].as_str().and_then(Cursor::parse) else {
            return self.wrong.push(format!("{id} has no cursor: {message}"));
        };
        let fallen = |before: &Cursor| before.epoch == cursor.epoch && before.seq > cursor.seq;
        if let Some(before) = self.cursor.as_ref().filter(|before| fallen(before)) {
            self.wrong.push(format!("{id} goes back from {before} to {cursor}"));
        }
        self.cursor = Some(cursor);
    }

    fn write(&mut self, came: When, status: StatusCode, headers: &HeaderMap, body: &Bytes) {
        let id = headers.get("webhook-id").and_then(|id| id.to_str().ok()).unwrap_or_default();
        self.journal.push(format!("{came} {} {id} {}", status.as_u16(), String::from_utf8_lossy(body)));
    }

    fn take(&mut self, body: &Bytes) {
        let message: Value = serde_json::from_slice(body).unwrap_or_default();
        let mut change = |change: &Value| {
            let when = change["when"].as_str().and_then(|when| When::parse_utc(when).ok());
            match (change["bug"].as_u64(), when) {
                (Some(bug), Some(when)) => self.heard.change(bug, when),
                _ => self.wrong.push(format!("no change: {change}")),
            }
        };
        match message["command"].as_str() {
            Some("update") => change(&message),
            Some("updates") => {
                message["changes"].as_array().into_iter().flatten().for_each(&mut change);
                self.heard.verdict(message["replay"] == "complete");
            }
            Some("gap") => {
                self.heard.gap();
                self.gap.clone_from(&self.cursor);
            }
            _ => self.wrong.push(format!("not understood: {message}")),
        }
    }
}

async fn take(
    State(serving): State<Serving>,
    UrlPath(name): UrlPath<String>,
    headers: HeaderMap,
    body: Bytes,
) -> StatusCode {
    let Some(receiver) = serving.all.iter().find(|receiver| receiver.name == name) else {
        return StatusCode::NOT_FOUND;
    };
    let came = When::from_system_time(SystemTime::now());
    receiver.notes.lock().unwrap().judge(receiver, &headers, &body);
    let mood = if serving.calm.load(Ordering::Relaxed) { Mood::Take } else { receiver.mood() };
    match mood {
        Mood::Take => {}
        Mood::TakeLate(after) => pause(after).await,
        Mood::Refuse(status) => {
            let mut notes = receiver.notes.lock().unwrap();
            notes.failed += 1;
            notes.write(came, status, &headers, &body);
            return status;
        }
    }
    let mut notes = receiver.notes.lock().unwrap();
    notes.take(&body);
    notes.write(came, StatusCode::NO_CONTENT, &headers, &body);
    StatusCode::NO_CONTENT
}
