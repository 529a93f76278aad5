//! The Rust client library (clients/rust) against the real gateway, killed in the middle, and its example.

use std::net::SocketAddr;
use std::time::Duration;

use bugfeed_client::{Event, Feed, Protocol, State, Verdict};
use bugfeed_testbed::{Proc, Run, bin, eventually};
use tokio::time::timeout;

use crate::commands::bugfeed;
use crate::support::{SOON, Serve, free_address, touch};

/// The all-in-one as a process, always on the same ports.
struct Gateway {
    dir: tempfile::TempDir,
    clients: SocketAddr,
    admin: SocketAddr,
    proc: Option<Proc>,
}

impl Gateway {
    async fn start() -> Gateway {
        let [clients, admin] = [(); 2].map(|()| free_address());
        let mut gateway = Gateway { dir: tempfile::tempdir().unwrap(), clients, admin, proc: None };
        gateway.restart().await;
        gateway
    }

    fn url(&self) -> String {
        format!("ws://{}/", self.clients)
    }

    async fn restart(&mut self) {
        let (clients, admin) = (self.clients.to_string(), self.admin.to_string());
        let args = ["serve", "--listen", &clients, "--admin-listen", &admin, "--drain-window-ms", "50"];
        let mut proc = Run::new(bugfeed()).dir(self.dir.path()).args(args).spawn().unwrap();
        proc.wait_ready(self.admin, SOON).await.unwrap();
        self.proc = Some(proc);
    }

    fn kill(&mut self) {
        self.proc.take().unwrap().kill9();
    }

    /// Commits changes as the tracker would, whether or not the gateway runs.
    async fn touch(&self, bugs: &[&str]) {
        touch(self.dir.path(), bugs).await;
    }
}

/// The next event of a kind.
async fn wait_for<T>(feed: &mut Feed, wanted: impl Fn(&Event) -> Option<T>) -> T {
    loop {
        let event = timeout(SOON, feed.next()).await.expect("an event in time").expect("an event").unwrap();
        if let Some(found) = wanted(&event) {
            return found;
        }
    }
}

async fn subscribed(feed: &mut Feed) -> Option<Verdict> {
    wait_for(feed, |event| if let Event::Subscribed { replay, .. } = event { Some(*replay) } else { None }).await
}

/// The bugs of the next changes.
async fn changes(feed: &mut Feed, count: usize) -> Vec<u64> {
    let mut bugs = Vec::new();
    while bugs.len() < count {
        bugs.push(
            wait_for(feed, |event| match event {
                Event::Change(change) => Some(change.bug.get()),
                Event::Gap(bugs) => panic!("a gap of {bugs:?}"),
                _ => None,
            })
            .await,
        );
    }
    bugs
}

#[tokio::test]
async fn killed_restarted_and_resumed_none_missed_none_twice() {
    let mut gateway = Gateway::start().await;
    let file = gateway.dir.path().join("bot.cursor");
    let url = gateway.url();
    let open = |bugs: [u64; 3]| {
        Feed::builder(&url).unwrap().bugs(bugs).state_file(&file).heartbeat(Duration::from_secs(1)).connect()
    };
    let mut feed = open([1, 2, 3]);
    assert_eq!(subscribed(&mut feed).await, None, "a fresh start");
    gateway.touch(&["1", "2", "9"]).await;
    assert_eq!(changes(&mut feed, 2).await, [1, 2]);
    assert_eq!(feed.handle().protocol(), Some(Protocol::Modern));

    gateway.kill();
    wait_for(&mut feed, |event| matches!(event, Event::State(State::Waiting { .. })).then_some(())).await;
    gateway.touch(&["3", "1"]).await; // In the table, where the shim finds them.
    gateway.restart().await;
    assert_eq!(changes(&mut feed, 2).await, [3, 1]);
    assert_eq!(feed.handle().replay(), Some(Verdict::Complete));
    let before = feed.handle().cursor().unwrap();
    gateway.touch(&["2"]).await;
    assert_eq!(changes(&mut feed, 1).await, [2]);
    // It dies with that one in hand, but not before what came before is stored.
    let stored = async || std::fs::read_to_string(&file).is_ok_and(|stored| stored.trim_end() == before);
    eventually(SOON, "the cursor of the one before", stored).await.unwrap();
    drop(feed);
    gateway.touch(&["3"]).await;

    let mut feed = open([1, 2, 3]);
    assert_eq!(changes(&mut feed, 2).await, [2, 3], "what was in hand comes again, and what was missed");
    feed.handle().unsubscribe([1, 2]).unwrap();
    gateway.touch(&["1", "3"]).await;
    assert_eq!(changes(&mut feed, 1).await, [3]);
    feed.finish().await.unwrap();
    let mut feed = open([1, 2, 3]);
    assert_eq!(subscribed(&mut feed).await, Some(Verdict::Complete));
    gateway.touch(&["2"]).await;
    assert_eq!(changes(&mut feed, 1).await, [2], "finished: nothing comes again");
}

#[tokio::test]
async fn a_gateway_that_is_stopped_says_when_to_come_back() {
    let mut gateway = Gateway::start().await;
    let mut feed = Feed::builder(&gateway.url()).unwrap().bugs([1]).connect();
    subscribed(&mut feed).await;
    gateway.touch(&["1"]).await;
    assert_eq!(changes(&mut feed, 1).await, [1], "now there is a number to resume from");
    gateway.proc.as_mut().unwrap().sigterm();
    let waiting = |event: &Event| match event {
        Event::State(State::Waiting { reason, .. }) => Some(reason.clone()),
        _ => None,
    };
    let reason = wait_for(&mut feed, waiting).await;
    assert!(reason.contains("1012") && reason.contains("restarts"), "{reason}");
    gateway.proc.take().unwrap().wait(SOON).await.unwrap();
    gateway.touch(&["1"]).await;
    gateway.restart().await;
    assert_eq!(changes(&mut feed, 1).await, [1]);
}

#[tokio::test]
async fn a_full_gateway_is_tried_again_when_it_says() {
    let serve = Serve::start(&["--max-connections", "1"]).await;
    let first = serve.client().await;
    let mut feed = Feed::builder(&serve.url()).unwrap().bugs([1]).connect();
    let waiting = |event: &Event| match event {
        Event::State(State::Waiting { delay, reason }) => Some((*delay, reason.clone())),
        _ => None,
    };
    let (delay, reason) = wait_for(&mut feed, waiting).await;
    assert!(delay >= Duration::from_millis(5500) && reason.contains("503"), "{delay:?}: {reason}");
    drop(first);
    subscribed(&mut feed).await;
}

#[tokio::test]
async fn a_fresh_start_from_the_head_misses_nothing() {
    let serve = Serve::start(&[]).await;
    let mut other = Feed::builder(&serve.url()).unwrap().bugs([77]).connect();
    subscribed(&mut other).await;
    serve.touch(77, "2014-04-03T21:13:45").await;
    assert_eq!(changes(&mut other, 1).await, [77]);
    let mut feed = Feed::builder(&serve.url()).unwrap().connect();
    timeout(SOON, feed.start_from_head()).await.expect("in time").unwrap();
    serve.touch(78, "2014-04-03T21:13:45").await; // While the tracker is asked which bugs there are.
    feed.handle().subscribe([77, 78]).unwrap();
    assert_eq!(changes(&mut feed, 1).await, [78]);
}

#[tokio::test]
async fn refusals() {
    let serve = Serve::start(&[]).await;
    let mut feed = Feed::builder(&serve.url()).unwrap().bugs(1..=10_001).connect();
    let refusal = loop {
        if let Err(error) = timeout(SOON, feed.next()).await.expect("in time").expect("an event") {
            break error;
        }
    };
    assert!(!refusal.is_final() && refusal.to_string().contains("too many subscriptions"), "{refusal}");
    feed.handle().subscribe([7]).unwrap();
    subscribed(&mut feed).await;
    serve.touch(7, "2014-04-03T21:13:45").await;
    assert_eq!(changes(&mut feed, 1).await, [7], "it goes on with fewer");
}

/// The example of clients/rust, as its first lines say: stopped, and started again, it tells what it missed.
#[tokio::test]
async fn the_example_misses_nothing() {
    let mut gateway = Gateway::start().await;
    let (url, file) = (gateway.url(), gateway.dir.path().join("bot.cursor"));
    let run = || {
        let program = bin("examples/bot").expect("cargo builds it with the tests: cargo build --example bot");
        Run::new(program).args([url.as_str(), file.to_str().unwrap(), "1", "2"]).spawn().unwrap()
    };
    let stored = || std::fs::read_to_string(&file).unwrap_or_default();
    let mut bot = run();
    // Its subscription has been answered once there is a cursor.
    eventually(SOON, "the first cursor", async || file.exists()).await.unwrap();
    let first = stored();
    gateway.touch(&["1"]).await;
    bot.wait_for_line("look at bug 1", SOON).await.unwrap();
    eventually(SOON, "bug 1 is stored", async || stored() != first).await.unwrap();
    bot.kill9();
    gateway.kill();
    gateway.touch(&["2", "1"]).await;
    gateway.restart().await;
    let mut bot = run();
    bot.wait_for_line("look at bug 1", SOON).await.unwrap();
    let told: Vec<String> =
        bot.output().lines().filter(|line| line.starts_with("look at")).map(str::to_owned).collect();
    assert_eq!(told, ["look at bug 2", "look at bug 1"]);
}
