//! Asking a tracker: requests, rate limit, circuit breaker, cached looks.
//!
//! Goes in: a bug, or a question of the reconciler. Comes out: what the tracker says, or a [`Trouble`]. Looks are always
//! anonymous; lists are, unless the configuration says `reconcile_as_key`. The decisions are in
//! [`bugfeed_core::hooks::breaker`]; what is asked and how answers are read, in [`super::api`].

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bugfeed_core::hooks::SECOND_US;
use bugfeed_core::hooks::breaker::{Answer, Breaker, Heard};
use bugfeed_core::hooks::outcome::Outcome;
use bugfeed_core::hooks::reconcile::{Page, Question, Seen};
use bugfeed_protocol::{BugId, When};
use hyper::header::{HeaderName, HeaderValue};
use tokio::sync::{Notify, Semaphore};

use super::api::{self, Listed, Look};
use super::bugzilla;
use super::cache::{Cache, Looked};
use super::kind::{Kind, Scope, Tracker};
use super::redmine;
use super::sender::{self, SenderHook};
use super::trouble::Trouble;
use crate::client::{Address, Client, Request, Response};

/// The time, in microseconds since 1970.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// So many questions are under way at once.
const AT_ONCE: usize = 4;
/// The answer about one bug is not longer.
const LONGEST_LOOK: usize = 4 * 1024 * 1024;
/// A page of a list is not longer: trackers send descriptions too.
const LONGEST_LIST: usize = 32 * 1024 * 1024;
/// A page of a list takes at most this long.
const LIST_WITHIN: Duration = Duration::from_secs(60);
/// A page waits for the rate limit at most this long.
const LONGEST_PAUSE_US: i64 = 30 * SECOND_US;
/// What is known of a project is used for so long.
const PROJECT_FRESH_US: i64 = 300 * SECOND_US;
/// What is known of so many projects is kept.
const MOST_PROJECTS: usize = 1000;
/// A file with a key is not longer.
const LONGEST_KEY: usize = 4096;

/// What a look found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// For [`conclude`](bugfeed_core::hooks::outcome::conclude).
    pub outcome: Outcome,
    /// When the bug last changed, if it was shown.
    pub changed: Option<When>,
    /// Why nothing was found out, for people.
    pub reason: Option<String>,
    /// The circuit breaker has just opened because of this: one line in the log.
    pub opened: bool,
}

/// Whose eyes a question has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Eyes {
    Anybody,
    Key,
}

/// Asks the tracker of one source.
pub struct Asker {
    tracker: Tracker,
    client: Client,
    key_file: Option<PathBuf>,
    clock: Clock,
    breaker: Mutex<Breaker>,
    at_once: Semaphore,
    recovered: Notify,
    cache: Cache,
    /// Of projects: when it was asked, and the answer.
    public: Mutex<HashMap<String, (i64, bool)>>,
    identifiers: Mutex<HashMap<String, (i64, String)>>,
}

impl std::fmt::Debug for Asker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Asker({:?})", self.tracker)
    }
}

impl Asker {
    /// `key_file` is the source's `tracker_key_file`.
    pub fn new(tracker: Tracker, client: Client, key_file: Option<PathBuf>, clock: Clock) -> Asker {
        let breaker = Mutex::new(Breaker::new(tracker.limits()));
        Asker {
            tracker,
            client,
            key_file,
            clock,
            breaker,
            at_once: Semaphore::new(AT_ONCE),
            recovered: Notify::new(),
            cache: Cache::default(),
            public: Mutex::default(),
            identifiers: Mutex::default(),
        }
    }

    /// The tracker.
    pub fn tracker(&self) -> &Tracker {
        &self.tracker
    }

    pub(super) fn now_us(&self) -> i64 {
        (self.clock)()
    }

    /// The breaker, for the planner's gate and for metrics. Do not hold it while waiting.
    pub fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the tracker works after it has failed, or for the first time: the source's dead letters of class
    /// `tracker` are to be tried then ([`Order::Mended`](bugfeed_core::hooks::orders::Order::Mended)). For one caller, who
    /// may give up waiting and come back without missing it.
    pub async fn recovered(&self) {
        self.recovered.notified().await;
    }

    /// Whether anybody can see a bug of a feed. `received_us` is when the event was received for which this is asked: a look
    /// that began before that does not count. `within` bounds the whole, waiting for other questions included.
    pub async fn look(&self, feed: &str, bug: BugId, received_us: i64, within: Duration) -> Found {
        let looked = tokio::time::timeout(within, self.look_once(feed, bug, received_us));
        let (look, heard) = match looked.await {
            Ok(found) => found,
            Err(_) => {
                let reason = format!("nothing was found out within {} s", within.as_secs_f32());
                (Err(Trouble::refused(reason)), Heard::default())
            }
        };
        let (outcome, changed, reason) = match look {
            Ok(Look::Visible { changed }) => (Outcome::Visible, Some(changed), None),
            Ok(Look::Private) => (Outcome::Private, None, None),
            Ok(Look::NotVisible) => (Outcome::NotVisible, None, None),
            Err(trouble) => (Outcome::Failed(trouble.class), None, Some(trouble.reason)),
        };
        Found { outcome, changed, reason, opened: heard.opened }
    }

    async fn look_once(&self, feed: &str, bug: BugId, received_us: i64) -> (Result<Look, Trouble>, Heard) {
        let Some(project) = self.tracker.project_of(feed) else {
            let reason = format!("nothing says which project of the tracker feeds {feed}");
            return (Err(Trouble::ours(reason)), Heard::default());
        };
        let place = self.cache.place(project, bug, self.now_us());
        let mut last = place.lock().await;
        if let Some(looked) = &*last
            && looked.is_usable(received_us, self.now_us())
        {
            return (Ok(looked.look), Heard::default());
        }
        let began_us = self.now_us();
        let api = Arc::clone(&self.tracker.api);
        let path = api.look_path(project, bug);
        let read = |response: &Response, now_us: i64| api.read_look(bug, response, now_us);
        let (look, heard) = self.question(&path, Eyes::Anybody, LONGEST_LOOK, read).await;
        *last = look.as_ref().ok().map(|look| Looked { began_us, look: *look });
        (look, heard)
    }

    /// A page of what changed in a scope. Waits for the rate limit.
    ///
    /// # Errors
    /// If the tracker gives none.
    pub async fn changed(&self, scope: &Scope, question: &Question) -> Result<Page, Trouble> {
        let mut clock = None;
        if let Some(path) = self.tracker.list_api.time_path().filter(|_| question.page == 1 && question.after.is_none())
        {
            clock = Some(self.patient(path, self.eyes(), LONGEST_LOOK, bugzilla::read_time).await?);
            if question.since.is_none() {
                return Ok(Page { clock, ..Page::default() });
            }
        }
        // Where only the time is asked for, the header of a short list tells it.
        let since = question.since.or_else(|| When::from_micros(self.now_us()));
        let asked = Question { since, ..*question };
        let api = Arc::clone(&self.tracker.list_api);
        let path = api.list_path(&scope.project, &asked);
        let read = |response: &Response, now_us: i64| Ok((api.read_list(&asked, response, now_us)?, response.date()));
        let (list, date) = self.patient(&path, self.eyes(), LONGEST_LIST, read).await?;
        let clock = clock.or(date);
        if question.since.is_none() {
            return Ok(Page { clock, ..Page::default() });
        }
        let last = list.bugs.last().map(|last| (last.bug, last.changed));
        let mut seen = Vec::with_capacity(list.bugs.len());
        for listed in list.bugs {
            seen.extend(self.seen(scope, listed).await?);
        }
        Ok(Page { seen, last, more: list.more, clock })
    }

    fn eyes(&self) -> Eyes {
        if self.tracker.as_key { Eyes::Key } else { Eyes::Anybody }
    }

    /// What a listed bug means for a feed. `None`: its project goes to no feed.
    async fn seen(&self, scope: &Scope, listed: Listed) -> Result<Option<Seen>, Trouble> {
        let project = listed.project.as_deref().unwrap_or(&scope.project);
        let private = listed.private || (self.tracker.as_key && !self.is_public(project).await?);
        let feed = match (&scope.feed, self.tracker.kind) {
            (Some(feed), _) => Some(Arc::clone(feed)),
            (None, Kind::Redmine { is_plugin: true }) => {
                let identifier = self.identifier(project).await?;
                self.tracker.feed.choose(Some(&identifier)).map(Arc::from)
            }
            (None, _) => self.tracker.feed.choose(listed.project.as_deref()).map(Arc::from),
        };
        Ok(feed.map(|feed| Seen { feed, bug: listed.bug, changed: listed.changed, private }))
    }

    /// Whether everybody may see a project. Only asked with a key, which sees more than everybody.
    async fn is_public(&self, project: &str) -> Result<bool, Trouble> {
        let Some(path) = self.tracker.list_api.privacy_path(project) else { return Ok(true) };
        if let Some(public) = fresh(&self.public, project, self.now_us()) {
            return Ok(public);
        }
        let public = self.patient(&path, Eyes::Key, LONGEST_LOOK, api::read_privacy).await?;
        keep(&self.public, project, self.now_us(), public);
        Ok(public)
    }

    async fn identifier(&self, project: &str) -> Result<String, Trouble> {
        if let Some(identifier) = fresh(&self.identifiers, project, self.now_us()) {
            return Ok(identifier);
        }
        let path = format!("/projects/{project}.json");
        let identifier = self.patient(&path, self.eyes(), LONGEST_LOOK, redmine::read_identifier).await?;
        keep(&self.identifiers, project, self.now_us(), identifier.clone());
        Ok(identifier)
    }

    /// The webhooks that the sender has for this source. Only Bugzilla tells, and only to the owner of the key.
    ///
    /// # Errors
    /// If there is no key, or the tracker does not tell.
    pub async fn sender_hooks(&self) -> Result<Vec<SenderHook>, Trouble> {
        if self.tracker.kind != Kind::Bugzilla || self.key_file.is_none() {
            return Err(Trouble::ours("only a Bugzilla with tracker_key_file tells the state of its webhooks"));
        }
        let source = Arc::clone(&self.tracker.source);
        let read = |response: &Response, now_us: i64| sender::read_hooks(&source, response, now_us);
        self.patient(sender::HOOKS_PATH, Eyes::Key, LONGEST_LOOK, read).await
    }

    /// Asks when the rate limit lets it, but does not wait for an open breaker that is open for long.
    async fn patient<T>(
        &self,
        path: &str,
        eyes: Eyes,
        longest: usize,
        read: impl Fn(&Response, i64) -> Result<T, Trouble>,
    ) -> Result<T, Trouble> {
        let begin_us = self.now_us();
        loop {
            let now_us = self.now_us();
            let from_us = self.breaker().ask_from(now_us);
            if from_us <= now_us || from_us - begin_us > LONGEST_PAUSE_US {
                return self.question(path, eyes, longest, read).await.0;
            }
            tokio::time::sleep(Duration::from_micros(u64::try_from(from_us - now_us).unwrap_or(0))).await;
        }
    }

    /// One question, if the breaker lets it.
    async fn question<T>(
        &self,
        path: &str,
        eyes: Eyes,
        longest: usize,
        read: impl Fn(&Response, i64) -> Result<T, Trouble>,
    ) -> (Result<T, Trouble>, Heard) {
        let request = match self.request(path, eyes, longest).await {
            Ok(request) => request,
            Err(trouble) => return (Err(trouble), Heard::default()),
        };
        let Ok(_place) = self.at_once.acquire().await else {
            return (Err(Trouble::ours("the process ends")), Heard::default());
        };
        if !self.begin().await {
            let reason = "the tracker is not asked just now, because it failed or was asked often";
            return (Err(Trouble::refused(reason)), Heard::default());
        }
        let mut under_way = UnderWay { asker: self, ended: false };
        let response = self.client.send(request).await.map_err(|fault| Trouble::of_fault(&fault));
        let result = response.and_then(|response| read(&response, self.now_us()));
        let answer = result.as_ref().err().map_or(Answer::Fine, |trouble| trouble.answer);
        under_way.ended = true;
        let heard = self.breaker().end(self.now_us(), answer);
        if heard.recovered {
            self.recovered.notify_one();
        }
        (result, heard)
    }

    /// Begins a question. Waits for the rate, which is a moment, but not for an open breaker.
    async fn begin(&self) -> bool {
        loop {
            let now_us = self.now_us();
            let from_us = {
                let mut breaker = self.breaker();
                if breaker.begin(now_us) {
                    return true;
                }
                if breaker.is_open() {
                    return false;
                }
                breaker.ask_from(now_us)
            };
            let wait_us = from_us.saturating_sub(now_us).clamp(1000, SECOND_US);
            tokio::time::sleep(Duration::from_micros(wait_us.unsigned_abs())).await;
        }
    }

    async fn request(&self, path: &str, eyes: Eyes, longest: usize) -> Result<Request, Trouble> {
        let url = self.tracker.url(path);
        let to = Address::parse(&url).map_err(|error| Trouble::ours(error.to_string()))?;
        let mut request = Request { longest_body: longest, redirects: 3, ..Request::get(to) };
        if longest == LONGEST_LIST {
            request.within = LIST_WITHIN;
        }
        request.headers = self.tracker.api.headers();
        if eyes == Eyes::Key {
            request.headers.push(self.key().await?);
        }
        Ok(request)
    }

    /// The header with the key, which is read each time, so that another one counts at once.
    async fn key(&self) -> Result<(HeaderName, HeaderValue), Trouble> {
        let Some(path) = &self.key_file else { return Err(Trouble::ours("tracker_key_file is not set")) };
        let wrong = |why: &str| Trouble::ours(format!("the key in {} cannot be used: {why}", path.display()));
        let bytes = tokio::fs::read(path).await.map_err(|error| wrong(&error.to_string()))?;
        let text = str::from_utf8(&bytes).ok().map(str::trim).filter(|text| !text.is_empty());
        let Some(text) = text.filter(|_| bytes.len() <= LONGEST_KEY) else {
            return Err(wrong("the file must hold the key alone"));
        };
        let (name, value) = self.tracker.list_api.key_header(text);
        let mut value =
            HeaderValue::from_str(&value).map_err(|_| wrong("it has characters that no header can have"))?;
        value.set_sensitive(true);
        Ok((HeaderName::from_static(name), value))
    }
}

/// A question under way. One that is given up in between, because it takes too long, is a fault of the tracker.
struct UnderWay<'a> {
    asker: &'a Asker,
    ended: bool,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.asker.breaker().end(self.asker.now_us(), Answer::Fault);
        }
    }
}

/// What is known of a project, if that is young.
fn fresh<T: Clone>(known: &Mutex<HashMap<String, (i64, T)>>, project: &str, now_us: i64) -> Option<T> {
    let known = known.lock().unwrap_or_else(PoisonError::into_inner);
    let (at_us, value) = known.get(project)?;
    (0..PROJECT_FRESH_US).contains(&(now_us - at_us)).then(|| value.clone())
}

fn keep<T>(known: &Mutex<HashMap<String, (i64, T)>>, project: &str, now_us: i64, value: T) {
    let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
    if known.len() >= MOST_PROJECTS {
        known.clear();
    }
    known.insert(project.to_owned(), (now_us, value));
}
