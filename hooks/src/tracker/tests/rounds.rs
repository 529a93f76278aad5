//! Rounds of the reconciler against each tracker.

use std::collections::BTreeSet;
use std::sync::Arc;

use bugfeed_protocol::When;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::fake::{Fake, KEY, Memory};
use super::looks::path_of;
use super::{SECOND_US, TestClock, asker, source};
use crate::tracker::reconcile::{Hint, run};

/// A tracker that is reconciled.
struct Scene {
    clock: TestClock,
    fake: Fake,
    desk: Arc<Memory>,
    members: String,
    task: Option<(mpsc::Sender<Hint>, JoinHandle<()>)>,
}

impl Scene {
    async fn start(preset: &'static str, members: &str, project_is_public: bool) -> Scene {
        let clock = TestClock::noon();
        let fake = Fake::start(preset, &clock, project_is_public).await;
        let members = format!("tracker = \"{}\"\n{members}", fake.server.url(path_of(preset)));
        let mut scene = Scene { clock, fake, desk: Arc::default(), members, task: None };
        scene.go(preset);
        scene
    }

    fn go(&mut self, preset: &str) {
        let asker = Arc::new(asker(&source(preset, &self.members), &self.clock));
        let scope = asker.tracker().scopes()[0].clone();
        let (sender, receiver) = mpsc::channel(10);
        self.task = Some((sender, tokio::spawn(run(asker, scope, Arc::clone(&self.desk), receiver))));
    }

    /// Time passes, and whatever is due then is done.
    async fn pass(&self, seconds: i64) {
        self.clock.advance(seconds);
        self.task.as_ref().unwrap().0.send(Hint::Hurry).await.unwrap();
    }

    async fn rounds(&self, number: usize) {
        self.desk.until(&format!("round {number}"), |state| state.rounds >= number).await;
    }

    async fn end(&mut self) {
        let (sender, task) = self.task.take().unwrap();
        drop(sender);
        task.await.unwrap();
    }

    fn inserted(&self) -> BTreeSet<u64> {
        self.desk.state.lock().unwrap().inserted.iter().map(|seen| seen.bug.get()).collect()
    }
}

/// Everything changes, in many seconds and most of it in one; no webhook comes.
async fn all_is_found(preset: &'static str, bugs: u64) {
    let mut scene = Scene::start(preset, "", true).await;
    scene.rounds(1).await;
    scene.clock.advance(200);
    let now_us = scene.fake.world.tracker_us();
    for number in 1..=bugs {
        let back = if number % 2 == 0 { 50 } else { i64::try_from(number % 97).unwrap() };
        scene.fake.world.change(number, now_us - back * SECOND_US, number == 7);
    }
    let public: BTreeSet<u64> = (1..=bugs).filter(|number| *number != 7).collect();
    scene.pass(100).await;
    scene.rounds(2).await;
    assert_eq!(scene.inserted(), public, "{preset}");
    assert_eq!(scene.desk.state.lock().unwrap().inserted.len(), public.len(), "{preset}: each once");

    // A webhook comes late for one of them. The others count as missed.
    let brought = When::from_micros(now_us).unwrap();
    scene.desk.state.lock().unwrap().known.get_mut(&bugfeed_protocol::BugId::new(1).unwrap()).unwrap().by_webhook =
        Some(brought);
    scene.pass(121).await;
    let missed = public.len() - 1;
    scene.desk.until("missed", |state| state.missed.len() >= missed).await;
    assert!(scene.desk.state.lock().unwrap().missed.iter().all(|seen| seen.bug.get() != 1));

    // A restart a day later.
    scene.end().await;
    scene.fake.world.change(3, scene.fake.world.tracker_us() + SECOND_US, false);
    scene.clock.advance(86_400);
    scene.desk.state.lock().unwrap().inserted.clear();
    let rounds = scene.desk.state.lock().unwrap().rounds;
    scene.go(preset);
    scene.rounds(rounds + 1).await;
    assert_eq!(scene.inserted(), [3].into(), "{preset}");
    assert_eq!(scene.desk.state.lock().unwrap().troubles, [] as [String; 0], "{preset}");
    scene.end().await;
}

#[tokio::test]
async fn bugzilla() {
    all_is_found("bugzilla", 2500).await;
}

#[tokio::test]
async fn github() {
    all_is_found("github", 320).await;
}

#[tokio::test]
async fn gitlab() {
    all_is_found("gitlab", 320).await;
}

#[tokio::test]
async fn gitea() {
    all_is_found("gitea", 200).await;
}

#[tokio::test]
async fn redmine() {
    all_is_found("redmine", 320).await;
}

/// With a key, which sees private bugs too: they are passed over, unless the source announces private ones.
async fn with_key(preset: &'static str, members: &str, project_is_public: bool) -> BTreeSet<u64> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    std::fs::write(&file, format!("{KEY}\n")).unwrap();
    let members = format!("tracker_key_file = {file:?}\nreconcile = \"5m\"\nreconcile_as_key = true\n{members}");
    let mut scene = Scene::start(preset, &members, project_is_public).await;
    scene.rounds(1).await;
    scene.clock.advance(200);
    scene.fake.world.change(1, scene.fake.world.tracker_us(), false);
    scene.fake.world.change(2, scene.fake.world.tracker_us(), true);
    scene.pass(100).await;
    scene.rounds(2).await;
    scene.end().await;
    scene.inserted()
}

#[tokio::test]
async fn a_key_does_not_make_private_bugs_public() {
    for preset in ["bugzilla", "gitlab", "redmine"] {
        assert_eq!(with_key(preset, "", true).await, [1].into(), "{preset}");
        assert_eq!(with_key(preset, "private = \"announce\"", true).await, [1, 2].into(), "{preset}");
    }
    for preset in ["github", "gitlab", "gitea", "redmine"] {
        assert_eq!(with_key(preset, "", false).await, BTreeSet::new(), "{preset}: a private project");
    }
}

#[tokio::test]
async fn a_store_that_is_away_moves_no_mark() {
    let mut scene = Scene::start("bugzilla", "", true).await;
    scene.rounds(1).await;
    let mark = scene.desk.state.lock().unwrap().marks[""];
    scene.clock.advance(100);
    scene.fake.world.change(1, scene.fake.world.tracker_us(), false);
    scene.desk.state.lock().unwrap().away = true;
    scene.pass(200).await;
    scene.desk.until("trouble", |state| !state.troubles.is_empty()).await;
    {
        let mut state = scene.desk.state.lock().unwrap();
        assert_eq!((state.marks[""], state.inserted.len()), (mark, 0));
        state.away = false;
    }
    scene.pass(60).await;
    scene.rounds(2).await;
    assert_eq!(scene.inserted(), [1].into());
    scene.end().await;
}
