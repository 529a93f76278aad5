//! What must be true in the end, and what it was like. Goes in: what trackers changed, what senders were told, what the
//! store has, what clients heard. Comes out: everything that is wrong, in words, and a few lines of figures.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use bugfeed_core::hooks::event::State;
use bugfeed_hooks::store::known::RECONCILED;
use bugfeed_hooks::store::{Store, StoredEvent};
use bugfeed_protocol::When;

use super::journal::Journal;
use super::listener::{Announced, Listeners};
use super::store::{events, requests};
use super::tracker::Edit;

/// States in which nothing may be for long.
const OPEN: [State; 4] = [State::Queued, State::Processing, State::Errored, State::Disabled];

/// How many events are in a state in which nothing may be for long.
pub async fn open(store: &Store) -> Result<(), String> {
    let mut open = Vec::new();
    for state in OPEN {
        let found = store.in_state(state, None, None, None, 1000).await.map_err(|error| error.to_string())?;
        if let Some(first) = found.first() {
            open.push(format!("{} {state}, for example {first}", found.len()));
        }
    }
    if open.is_empty() { Ok(()) } else { Err(open.join("; ")) }
}

/// What the store has.
pub struct Stored {
    events: HashMap<String, StoredEvent>,
    requests: HashSet<String>,
}

/// The newest dates of a source's events of each bug.
#[derive(Default)]
struct Newest {
    announced: HashMap<u64, When>,
    by_webhook: HashMap<u64, When>,
}

impl Stored {
    pub async fn read(store: &Store) -> anyhow::Result<Stored> {
        Ok(Stored { events: events(store).await?, requests: requests(store).await? })
    }

    fn of<'a>(&'a self, source: &'a str) -> impl Iterator<Item = (u64, &'a StoredEvent)> {
        let of_source = self.events.values().filter(move |stored| &*stored.event.source == source);
        of_source.filter_map(|stored| Some((stored.event.bug?.get(), stored)))
    }

    fn newest(&self, source: &str) -> Newest {
        let mut newest = Newest::default();
        for (bug, stored) in self.of(source) {
            let when = stored.event.when;
            let raise = |of: &mut HashMap<u64, When>| {
                of.entry(bug).and_modify(|known| *known = when.max(*known)).or_insert(when);
            };
            if stored.event.progress.state == State::Completed {
                raise(&mut newest.announced);
            }
            if &*stored.event.kind != RECONCILED {
                raise(&mut newest.by_webhook);
            }
        }
        newest
    }

    /// What is wrong with what is stored of a source.
    pub fn judge(&self, source: &str, edits: &[Edit], journal: &Journal) -> Vec<String> {
        let mut wrong = journal.wrong();
        for taken in journal.taken() {
            let (bug, when) = (taken.bug, taken.when);
            if !self.requests.contains(&taken.request) {
                wrong.push(format!("request {} was answered with 200 (bug {bug}, {when}) and is lost", taken.request));
            }
            match self.events.get(&taken.event) {
                None => wrong.push(format!("event {} was taken (bug {bug}, {when}) and is lost", taken.event)),
                Some(StoredEvent { event, .. })
                    if event.bug.map(|bug| bug.get()) == Some(bug) && event.when == when => {}
                Some(other) => wrong.push(format!("event {} of bug {bug}, {when} became {other:?}", taken.event)),
            }
        }
        for (bug, stored) in self.of(source).filter(|(_, stored)| !stored.event.progress.state.is_terminal()) {
            let event = &stored.event;
            wrong.push(format!("event {} of bug {bug}, {} is {:?}", event.id, event.when, event.progress));
        }
        let newest = self.newest(source);
        let is_lost = |edit: &&Edit| newest.announced.get(&edit.bug).is_none_or(|when| *when < edit.when);
        let lost = edits.iter().filter(is_lost);
        wrong.extend(
            lost.map(|edit| format!("bug {} of {source}, {}: the store never heard of it", edit.bug, edit.when)),
        );
        wrong
    }

    /// How many events the reconciler brought.
    pub fn reconciled(&self, source: &str) -> u64 {
        self.of(source).filter(|(_, stored)| &*stored.event.kind == RECONCILED).count() as u64
    }

    /// What webhooks alone have brought and lost, in words.
    pub fn line(&self, source: &str, edits: &[Edit]) -> String {
        let by_webhook = self.of(source).filter(|(_, stored)| &*stored.event.kind != RECONCILED);
        let brought: HashSet<(u64, When)> = by_webhook.map(|(bug, stored)| (bug, stored.event.when)).collect();
        let newest = self.newest(source).by_webhook;
        let not_brought = edits.iter().filter(|edit| !brought.contains(&(edit.bug, edit.when))).count();
        let lost = edits.iter().filter(|edit| newest.get(&edit.bug).is_none_or(|when| *when < edit.when)).count();
        let mut states: HashMap<&str, u32> = HashMap::new();
        for (_, stored) in self.of(source) {
            *states.entry(stored.event.progress.state.as_str()).or_default() += 1;
        }
        let mut states: Vec<String> = states.iter().map(|(state, count)| format!("{count} {state}")).collect();
        states.sort();
        format!(
            "{} changes, {not_brought} not brought by a webhook, {lost} of them not by a later one either; brought by the \
             reconciler: {}; events: {}",
            edits.len(),
            self.reconciled(source),
            states.join(", "),
        )
    }
}

/// How changes were announced, in words.
pub fn announced(listeners: &Listeners, edits: &[Edit], journal: &Journal) -> String {
    let mut lines = Vec::new();
    for listener in &listeners.all {
        let heard = listener.heard();
        let (mut times, mut before, mut gaps): (Vec<Duration>, u32, u32) = Default::default();
        for edit in edits {
            match heard.announced(edit) {
                Announced::After(time) => times.push(time),
                Announced::Before => before += 1,
                Announced::Gap => gaps += 1,
                Announced::Never => {}
            }
        }
        times.sort_unstable();
        let at = |part: f64| {
            let last = times.len().saturating_sub(1);
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index")]
            let index = (f64::from(u32::try_from(last).unwrap()) * part) as usize;
            times.get(index).map_or(0.0, Duration::as_secs_f64)
        };
        // One that leaves is sent some changes again, because it did not say that it has them.
        let repeats = heard.repeats(|bug, when| journal.messages(bug, when));
        lines.push(format!(
            "  {}: {}; repeats: {repeats}; announced after {:.2} s (median), {:.1} s (99 of 100), {:.1} s (longest); \
             {before} as old as one before, {gaps} by a gap",
            listener.name,
            heard.line(),
            at(0.5),
            at(0.99),
            at(1.0),
        ));
    }
    lines.join("\n")
}
