//! Clients of a feed, who resume by cursor after each loss, and write down when they were told what.
//!
//! Goes in: the gateway's address, a feed, its bugs. Comes out: what each was told, or which changes it was not told of. Of
//! two clients of a feed one stays; the other ends now and then, and comes back with the cursor in its file.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bugfeed_client::{Change, Event, Feed, Verdict, When};
use bugfeed_testbed::eventually;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::tracker::Edit;
use crate::real::soak::chaos::CATCH_UP;
use crate::support::SOON;

/// What a client was told.
#[derive(Debug, Default)]
pub struct Heard {
    /// Of each bug: the dates of its changes, and when they came, in this order.
    updates: HashMap<u64, Vec<(When, Instant)>>,
    count: u64,
    gaps: Vec<Instant>,
    complete: u32,
    latest: u32,
    subscribed: bool,
    wrong: Vec<String>,
}

/// How a change was announced.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Announced {
    /// After so long.
    After(Duration),
    /// It is as old as a change that was announced before it was made, to the second: nobody can tell them apart.
    Before,
    /// The client was told of a gap.
    Gap,
    Never,
}

impl Heard {
    fn take(&mut self, event: &Event) {
        match event {
            Event::Change(Change { bug, when }) => self.change(bug.get(), *when),
            Event::Gap(_) => self.gap(),
            Event::Subscribed { replay, .. } => {
                self.subscribed = true;
                if let Some(verdict) = replay {
                    self.verdict(*verdict == Verdict::Complete);
                }
            }
            _ => {}
        }
    }

    /// It was told of a change.
    pub fn change(&mut self, bug: u64, when: When) {
        self.count += 1;
        self.updates.entry(bug).or_default().push((when, Instant::now()));
    }

    /// It was told of a gap.
    pub fn gap(&mut self) {
        self.gaps.push(Instant::now());
    }

    /// It was told whether it got each change of its backlog, or the newest of each bug.
    pub fn verdict(&mut self, is_complete: bool) {
        *(if is_complete { &mut self.complete } else { &mut self.latest }) += 1;
    }

    /// How many changes it was told of.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Whether it was told of a change with this date.
    pub fn has(&self, Change { bug, when }: Change) -> bool {
        self.updates.get(&bug.get()).is_some_and(|told| told.iter().any(|(told, _)| *told == when))
    }

    /// How a change was announced.
    pub fn announced(&self, edit: &Edit) -> Announced {
        let fitting = || self.updates.get(&edit.bug).into_iter().flatten().filter(|(when, _)| *when >= edit.when);
        if let Some((_, at)) = fitting().find(|(_, at)| *at >= edit.at) {
            return Announced::After(*at - edit.at);
        }
        if fitting().next().is_some() {
            return Announced::Before;
        }
        if self.gaps.iter().any(|at| *at >= edit.at) { Announced::Gap } else { Announced::Never }
    }

    /// How many updates of the same bug and date came beyond those for which there was a message.
    pub fn repeats(&self, messages: impl Fn(u64, When) -> u32) -> u64 {
        let mut repeats = 0;
        for (bug, updates) in &self.updates {
            let mut counts: HashMap<When, u32> = HashMap::new();
            updates.iter().for_each(|(when, _)| *counts.entry(*when).or_default() += 1);
            let beyond = |(when, count): (&When, &u32)| u64::from(count.saturating_sub(messages(*bug, *when).max(1)));
            repeats += counts.iter().map(beyond).sum::<u64>();
        }
        repeats
    }

    /// In words.
    pub fn line(&self) -> String {
        let (gaps, count) = (self.gaps.len(), self.count);
        format!("{count} updates, {gaps} gaps, resumes: {} complete, {} latest", self.complete, self.latest)
    }
}

/// One client.
pub struct Listener {
    pub name: String,
    heard: Arc<Mutex<Heard>>,
}

impl Listener {
    pub fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap()
    }
}

/// The clients of one feed. They end when this is dropped.
pub struct Listeners {
    pub all: Vec<Listener>,
    running: JoinSet<()>,
    calm: CancellationToken,
}

impl Listeners {
    /// Starts them, and waits until they are subscribed to bugs 1 to `bugs`. Their files are in this folder.
    pub async fn start(gateway: SocketAddr, feed: &str, bugs: u64, seed: u64, folder: &Path) -> Listeners {
        let mut listeners = Listeners { all: Vec::new(), running: JoinSet::new(), calm: CancellationToken::new() };
        for stays in [true, false] {
            let name = format!("{feed}-{}", if stays { "stays" } else { "leaves" });
            let heard = Arc::new(Mutex::new(Heard::default()));
            let life = Life {
                url: format!("ws://{gateway}/{feed}/"),
                bugs,
                file: folder.join(format!("{name}.cursor")),
                heard: Arc::clone(&heard),
                calm: listeners.calm.clone(),
            };
            let random = (!stays).then(|| SmallRng::seed_from_u64(seed));
            listeners.running.spawn(life.run(random));
            listeners.all.push(Listener { name, heard });
        }
        let subscribed = async || listeners.all.iter().all(|listener| listener.heard().subscribed);
        eventually(SOON, "all clients are subscribed", subscribed).await.unwrap();
        listeners
    }

    /// Waits until each was told of a change.
    pub async fn hear(&self) {
        let told = async || self.all.iter().all(|listener| listener.heard().count > 0);
        eventually(CATCH_UP, "every client was told of a change", told).await.unwrap();
    }

    /// From now on nobody leaves.
    pub fn calm(&self) {
        self.calm.cancel();
    }

    /// Changes that a client was not told of, in words.
    pub fn missing(&self, edits: &[Edit]) -> Vec<String> {
        let mut missing = Vec::new();
        for listener in &self.all {
            let heard = listener.heard();
            let lost = edits.iter().filter(|edit| heard.announced(edit) == Announced::Never);
            let said = |edit: &Edit| {
                format!("{}: neither told of bug {}, {}, nor of a gap", listener.name, edit.bug, edit.when)
            };
            missing.extend(lost.map(said));
        }
        missing
    }

    /// What clients did not understand, in words.
    pub fn wrong(&self) -> Vec<String> {
        let of = |listener: &Listener| {
            let heard = listener.heard();
            heard.wrong.iter().map(|wrong| format!("{}: {wrong}", listener.name)).collect::<Vec<_>>()
        };
        self.all.iter().flat_map(of).collect()
    }
}

struct Life {
    url: String,
    bugs: u64,
    file: PathBuf,
    heard: Arc<Mutex<Heard>>,
    calm: CancellationToken,
}

impl Life {
    /// With `leaves`, it ends after some seconds, and begins again where it was.
    async fn run(self, mut leaves: Option<SmallRng>) {
        loop {
            let feed = Feed::builder(&self.url).unwrap().bugs(1..=self.bugs).state_file(&self.file);
            let mut feed = feed.heartbeat(Duration::from_secs(1)).connect();
            let mut end =
                leaves.as_mut().map(|random| Instant::now() + Duration::from_millis(random.random_range(1000..9000)));
            loop {
                let until = end.unwrap_or_else(far);
                let next = tokio::select! {
                    next = timeout_at(until, feed.next()) => next,
                    () = self.calm.cancelled(), if end.is_some() => {
                        end = None;
                        leaves = None;
                        continue;
                    }
                };
                match next {
                    Ok(Some(Ok(event))) => self.heard.lock().unwrap().take(&event),
                    Ok(Some(Err(error))) => self.heard.lock().unwrap().wrong.push(error.to_string()),
                    Ok(None) => return,
                    Err(_) => break,
                }
            }
            drop(feed);
        }
    }
}

fn far() -> Instant {
    Instant::now() + Duration::from_secs(86_400)
}
