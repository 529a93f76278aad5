//! What is cut off in the middle: futures that are dropped, processes that are killed.

use std::io::{BufRead as _, BufReader, Write as _};
use std::pin::pin;
use std::process::{Command, Stdio};
use std::task::{Context, Waker};
use std::time::Duration;

use bugfeed_core::hooks::event::State;
use bugfeed_core::hooks::lane::Settings;

use super::rig::{NOON_US, Rig, SECOND_US, item, lane_of, plan, request_at};
use crate::receive::received::RequestId;
use crate::store::{Options, Store};

/// The variable that makes the test below the child: the URL of its store.
const CHILD: &str = "BUGFEED_HOOKS_STORE_CHILD";

/// Runs a future for about so long, and then drops it wherever it is.
pub(super) async fn cut<T>(future: impl Future<Output = T>, turns: u32) {
    let mut future = pin!(future);
    for _ in 0..turns {
        let mut context = Context::from_waker(Waker::noop());
        if future.as_mut().poll(&mut context).is_ready() {
            return;
        }
        tokio::time::sleep(Duration::from_micros(300)).await;
    }
}

pub(super) async fn a_commit_that_is_cut_off_happens_as_a_whole_or_not_at_all(rig: &Rig) {
    let now_us = NOON_US + 3600 * SECOND_US;
    for turns in 1..40 {
        let bug = 1000 + u64::from(turns);
        let request = rig.request(vec![item(bug, 0, "a"), item(bug, 1, "b"), item(bug, 1, "c")]);
        cut(rig.store.accept(&[&request]), turns).await;
        // It is handed over again, as the spool does.
        let told = rig.store.accept(&[&request]).await.unwrap().pop().unwrap();
        assert!(told.items.iter().all(|item| item.state == State::Queued));
        let planned = plan(&rig.store, &lane_of(bug), now_us, Settings::DEFAULT).await;
        cut(rig.store.apply(&planned), turns).await;
        let again = plan(&rig.store, &lane_of(bug), now_us, Settings::DEFAULT).await;
        rig.store.apply(&again).await.unwrap();
    }
    rig.work(now_us).await;
    let all = rig.all().await;
    assert_eq!(all.len(), 3 * 39);
    let completed = all.iter().filter(|stored| stored.event.progress.state == State::Completed).count();
    assert!(all.iter().all(|stored| stored.event.progress.state.is_terminal()));
    assert_eq!(rig.rows().await.len(), completed, "a row for each completed event, and no other");
}

pub(super) async fn a_killed_process_loses_nothing_that_it_has_answered(rig: &Rig) {
    let mut answered = Vec::new();
    for round in 0..3_u64 {
        let program = std::env::current_exe().unwrap();
        let mut command = Command::new(program);
        command.args(["--exact", "store::tests::crash::child", "--nocapture"]);
        command.env(CHILD, &rig.url_text).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let before = answered.len();
        for line in stdout.lines() {
            let Ok(line) = line else { break };
            answered.extend(line.split("stored ").nth(1).and_then(RequestId::parse));
            if answered.len() == before + 25 + usize::try_from(7 * round).unwrap() {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(answered.len() > before, "the child has stored nothing");
    }
    for id in &answered {
        let events = rig.store.events_of(*id).await.unwrap();
        assert_eq!(events.len(), 2, "{id}");
    }
    rig.work(NOON_US + 90_000 * SECOND_US).await;
    let all = rig.all().await;
    assert_eq!(all.len() as i64, 2 * rig.count("hooks_requests").await, "no request without its events");
    let completed = all.iter().filter(|stored| stored.event.progress.state == State::Completed).count();
    assert_eq!(rig.rows().await.len(), completed);
}

/// Not a test of its own: the process that is killed.
#[tokio::test]
async fn child() {
    let Ok(url) = std::env::var(CHILD) else { return };
    let options = Options { works: false, ..Options::default() };
    let store = Store::open(&url.parse().unwrap(), options).await.unwrap().store;
    for n in 0..100_000_u64 {
        let at_us = NOON_US + 1000 * n.cast_signed();
        let salt = rand::random::<u64>();
        let items = vec![item(n % 5 + 1, n.cast_signed(), &format!("{salt}")), item(n % 5 + 1, 0, &format!("x{salt}"))];
        let request = request_at(at_us, items);
        store.accept(&[&request]).await.unwrap();
        writeln!(std::io::stdout(), "\nstored {}", request.envelope.id).unwrap();
        super::rig::work(&store, at_us, Settings::DEFAULT).await;
    }
}
