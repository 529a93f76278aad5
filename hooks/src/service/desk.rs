//! What the API needs of the process around it.
//!
//! Goes in: what a person has asked for or ordered. Comes out: the executor and the receiver hear of it; questions to
//! trackers. Everything durable is in the store before anything is said here, so what gets lost here is only a delay.

use std::future::ready;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use bugfeed_core::endpoints::question::{Since, Told};
use bugfeed_core::hooks::reconcile::Question;
use bugfeed_protocol::{BugId, Cursor, When};
use bugfeed_runtime::health::Health;
use serde_json::Value;
use tokio::sync::watch;

use super::Running;
use crate::api::service::Doing;
use crate::api::{Check, Service};
use crate::client::{Resolver as _, System};
use crate::config::{HooksConfig, Source};
use crate::deliver::address::Rules;
use crate::deliver::template::Link;
use crate::endpoints::{self, FeedTap, Taps};
use crate::receive::received::Failure;
use crate::store::endpoints::EndpointId;
use crate::store::notes::Switch;
use crate::tracker::{Asker, Scope};
use crate::work::{self, Parts, Shared};

/// The most projects of a tracker that a test asks for.
const SCOPES: usize = 5;

/// What delivers to endpoints in this process, as the API needs it.
pub(super) struct Sending {
    /// Has rows read at once that were changed here.
    pub(super) nudge: Box<dyn Fn() + Send + Sync>,
    /// Where endpoints may be.
    pub(super) rules: Rules,
    /// The feeds.
    pub(super) taps: Taps,
}

/// The process, as the API sees it.
pub(super) struct Desk {
    parts: Parts,
    /// Empty where nothing is delivered.
    sending: Arc<OnceLock<Sending>>,
    running: watch::Receiver<Option<Arc<Running>>>,
    health: Health,
    resolver: System,
}

impl Desk {
    pub(super) fn new(
        parts: Parts,
        sending: Arc<OnceLock<Sending>>,
        running: watch::Receiver<Option<Arc<Running>>>,
        health: Health,
    ) -> Desk {
        Desk { parts, sending, running, health, resolver: System::default() }
    }

    /// The executor; `None` once the process ends.
    fn shared(&self) -> Option<Arc<Shared>> {
        self.running.borrow().as_ref().map(|running| Arc::clone(&running.shared))
    }

    /// A feed, if it is here.
    fn tap(&self, feed: &str) -> Option<Arc<dyn FeedTap>> {
        let taps = self.sending.get()?.taps.borrow();
        taps.iter().find(|tap| &**tap.name() == feed).cloned()
    }
}

impl Service for Desk {
    fn config(&self) -> Arc<HooksConfig> {
        self.parts.sources.config()
    }

    fn keys_changed(&self) {
        if let Some(shared) = self.shared() {
            shared.refresh.notify_one();
        }
    }

    fn wake(&self) {
        if let Some(shared) = self.shared() {
            shared.wake.notify_one();
        }
    }

    fn switched(&self, what: Switch, name: &str, is_on: bool) {
        let Some(shared) = self.shared() else { return };
        shared.refresh.notify_one();
        if !is_on {
            return;
        }
        let name = name.to_owned();
        shared.questions.clone().spawn(async move {
            let stop = shared.stop.clone();
            stop.run_until_cancelled(switch_on(&shared, what, &name)).await;
        });
    }

    fn reconcile<'a>(&'a self, source: &'a str) -> Doing<'a, Result<(), Failure>> {
        let Some(shared) = self.shared() else { return Box::pin(ready(Err(ending()))) };
        Box::pin(async move {
            work::reconcile_soon(&shared, source).await.map_err(|error| Failure {
                error: format!("the process that asks trackers could not be told: {error}"),
                fix: "try again in a moment".to_owned(),
            })
        })
    }

    fn test<'a>(&'a self, source: &'a str) -> Doing<'a, Vec<Check>> {
        Box::pin(async move {
            let (config, asker) = (self.parts.sources.config(), self.parts.sources.asker(source));
            match (config.source(source), asker) {
                (Some(source), Some(asker)) => tracker(source, &asker).await,
                _ => Vec::new(),
            }
        })
    }

    fn sender(&self, source: &str) -> Value {
        self.parts.events.sender_state(source)
    }

    fn warnings(&self) -> Vec<String> {
        self.health.report().lines
    }

    fn feeds(&self) -> Vec<String> {
        let Some(sending) = self.sending.get() else { return Vec::new() };
        sending.taps.borrow().iter().map(|tap| tap.name().to_string()).collect()
    }

    fn rules(&self) -> Rules {
        self.sending.get().map(|sending| sending.rules.clone()).unwrap_or_default()
    }

    fn addresses<'a>(&'a self, host: &'a str) -> Doing<'a, Result<Vec<IpAddr>, String>> {
        Box::pin(async move { self.resolver.addresses(host).await.map_err(|error| error.to_string()) })
    }

    fn link(&self, feed: &str) -> Option<Link> {
        self.tap(feed)?.link().cloned()
    }

    fn has_after(&self, feed: &str, bug: BugId, since: &Since) -> Option<bool> {
        endpoints::has_after(&*self.tap(feed)?, bug, since)
    }

    fn newest(&self, feed: &str, bug: BugId) -> Option<Told> {
        endpoints::newest(&*self.tap(feed)?, bug)
    }

    fn knows(&self, feed: &str, cursor: &Cursor) -> Option<bool> {
        endpoints::knows(&*self.tap(feed)?, cursor)
    }

    fn begin(&self, feed: &str, now_us: i64) -> Since {
        match (When::from_micros(now_us), self.tap(feed)) {
            (Some(now), Some(tap)) => endpoints::begin(&*tap, now),
            (Some(now), None) => Since::Time(now),
            // Of a clock that says what no date can be: nobody knows what is owed, so a gap is told.
            (None, _) => Since::Unknown,
        }
    }

    fn endpoint_changed(&self, _id: &EndpointId) {
        if let Some(sending) = self.sending.get() {
            (sending.nudge)();
        }
    }
}

fn ending() -> Failure {
    Failure { error: "this process is about to end".to_owned(), fix: "ask again once it runs again".to_owned() }
}

/// What was switched off is read anew first, because only what is on may go on.
async fn switch_on(shared: &Arc<Shared>, what: Switch, name: &str) {
    if let Err(error) = work::refresh_once(shared).await {
        shared.events.store_failed(&error);
    }
    let (source, feed) = match what {
        Switch::Source => (Some(name), None),
        Switch::Feed => (None, Some(name)),
    };
    work::switched_on(shared, source, feed).await;
}

/// Asks the tracker of a source for its time, and for its own list of webhooks where it tells that.
async fn tracker(source: &Source, asker: &Asker) -> Vec<Check> {
    let scopes = asker.tracker().scopes();
    let mut checks = Vec::new();
    for scope in scopes.iter().take(SCOPES) {
        checks.push(scope_answers(asker, scope).await);
    }
    if source.tracker_key_file.is_some() && source.preset == Some("bugzilla") {
        let what = "webhooks at the tracker".to_owned();
        checks.push(match asker.sender_hooks().await {
            Ok(hooks) => {
                let off = hooks.iter().filter(|hook| !hook.enabled).count();
                let is_good = off == 0 && !hooks.is_empty();
                Check { what, is_good, says: format!("{} lead here, {off} of them are switched off", hooks.len()) }
            }
            Err(trouble) => Check { what, is_good: false, says: trouble.reason },
        });
    }
    checks
}

async fn scope_answers(asker: &Asker, scope: &Scope) -> Check {
    let what = if scope.project.is_empty() { "tracker".to_owned() } else { format!("tracker, {}", scope.project) };
    match asker.changed(scope, &Question { since: None, after: None, page: 1 }).await {
        Ok(page) => {
            let clock = page.clock.map_or_else(String::new, |clock| format!("; its clock says {clock}"));
            Check { what, is_good: true, says: format!("it answers{clock}") }
        }
        Err(trouble) => Check { what, is_good: false, says: trouble.reason },
    }
}
