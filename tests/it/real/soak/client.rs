//! One client, modern or classic, that lives as clients do: it comes, resumes where it was, reads, leaves, goes to
//! another gateway, and sometimes does not read for a while. It writes down all that it is sent.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bugfeed_protocol::{Cursor, When};
use futures::{SinkExt as _, StreamExt as _};
use rand::RngExt as _;
use rand::rngs::SmallRng;
use serde::Deserialize;
use serde_json::json;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;

use super::pause;
use super::pods::{Choice, Pods};
use super::tracker::Tracker;

/// How long connecting may take.
const HANDSHAKE: Duration = Duration::from_secs(3);
/// A gateway from which nothing came for this long is dead: it sends heartbeats and pings each second.
const DEAD: Duration = Duration::from_secs(4);

/// What a client is like.
#[derive(Clone, Debug)]
pub struct Plan {
    pub number: usize,
    pub modern: bool,
    pub bugs: Vec<u64>,
    /// Now and then it does not read for some seconds.
    pub stalls: bool,
    /// It also goes to the gateway that sends little at a time, where slow clients lag.
    pub narrow: bool,
    /// It leaves when all that do so are sent away, and comes back when they are let in again.
    pub leaves: bool,
}

impl Plan {
    /// Whether nothing may ever be conflated for it.
    pub fn exact(&self) -> bool {
        !self.stalls && !self.narrow
    }
}

/// One update as it came.
#[derive(Clone, Copy, Debug)]
pub struct Update {
    /// Within one of these a bug's changes come in order, each once: a connection of a classic client; with cursors,
    /// all connections up to a gap.
    pub era: u32,
    pub bug: u64,
    pub when: When,
    /// The cursor's number, in the modern protocol.
    pub seq: Option<u64>,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug)]
pub struct Closing {
    pub at: Instant,
    /// None where it broke.
    pub code: Option<u16>,
    /// After how long to come back, where goaway said so.
    pub delay: Option<Duration>,
}

/// All that a client has been sent.
#[derive(Debug, Default)]
pub struct Seen {
    pub updates: Vec<Update>,
    pub whens: HashSet<When>,
    /// What it learnt from the tracker after a gap.
    pub refetched: HashSet<When>,
    pub connections: u32,
    pub subscribed: bool,
    /// It was sent away, and has gone.
    pub away: bool,
    pub complete: u32,
    pub latest: u32,
    /// Resumes that were answered with a gap.
    pub resumed_with_gap: u32,
    /// Gaps told by a gateway that knew less than the client: its broker was away for longer than it believed that the
    /// rest would come.
    pub behind: u32,
    /// All other gaps.
    pub gaps: u32,
    pub goaways: u32,
    /// How often it was told that nothing can arrive just now.
    pub paused: u32,
    /// What ended its connections, except where it left by itself.
    pub closings: Vec<Closing>,
    pub stalls: u32,
    /// What no gateway may say.
    pub wrong: Vec<String>,
}

impl Seen {
    pub fn has(&self, when: When) -> bool {
        self.whens.contains(&when) || self.refetched.contains(&when)
    }
}

#[derive(Deserialize)]
struct Frame {
    command: String,
    result: Option<String>,
    bug: Option<u64>,
    when: Option<When>,
    cursor: Option<String>,
    replay: Option<String>,
    retry_after_ms: Option<u64>,
    state: Option<String>,
}

pub struct Client {
    pub plan: Plan,
    pub seen: Arc<Mutex<Seen>>,
    pub random: SmallRng,
    pub pods: Arc<Pods>,
    pub tracker: Arc<Tracker>,
    /// From then on it neither leaves nor stalls.
    pub calm: CancellationToken,
    /// Whether those who leave are sent away.
    pub away: watch::Receiver<bool>,
    /// Where it is: a cursor, or for a classic one the newest date it has seen.
    pub cursor: Option<Cursor>,
    pub since: When,
    /// What goaway said.
    pub retry_after: Option<Duration>,
}

type Socket = WebSocketStream<TcpStream>;

impl Client {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap()
    }

    /// Lives until it is dropped.
    pub async fn run(mut self) {
        let mut before = None;
        loop {
            if self.is_away() {
                self.seen().away = true;
                let _till_the_end = self.away.wait_for(|away| !away).await;
            }
            // Another gateway than before, if there is one.
            if let Some(choice) = self.pods.choose(self.plan.narrow, before, &mut self.random) {
                before = Some(choice.index);
                self.session(choice).await;
            }
            let spread = Duration::from_millis(self.random.random_range(20..400));
            pause(spread + self.retry_after.take().unwrap_or_default()).await;
        }
    }

    fn is_away(&self) -> bool {
        self.plan.leaves && *self.away.borrow()
    }

    async fn session(&mut self, choice: Choice) -> Option<()> {
        let mut socket = timeout(HANDSHAKE, Box::pin(connect(choice.address, self.plan.stalls))).await.ok()??;
        if !self.pods.lives(choice) {
            // A load balancer would not have sent us to one that has yet to warm up.
            return None;
        }
        for text in self.opening() {
            timeout(HANDSHAKE, socket.send(Message::text(text))).await.ok()?.ok()?;
        }
        self.seen().connections += 1;
        let leave = Instant::now() + Duration::from_millis(self.random.random_range(1000..30_000));
        let mut stall = Instant::now() + Duration::from_millis(self.random.random_range(500..6000));
        loop {
            let calm = self.calm.is_cancelled();
            if self.plan.stalls && !calm && Instant::now() >= stall {
                self.seen().stalls += 1;
                pause(Duration::from_millis(self.random.random_range(1500..5000))).await;
                stall = Instant::now() + Duration::from_millis(self.random.random_range(2000..8000));
            }
            if !calm && Instant::now() >= leave || self.is_away() {
                if self.random.random() {
                    let _gone_already = timeout(HANDSHAKE, socket.close(None)).await;
                }
                return Some(());
            }
            match timeout(DEAD, socket.next()).await.ok()? {
                Some(Ok(Message::Text(text))) => self.take(&text).await,
                Some(Ok(Message::Close(frame))) => {
                    self.closed(frame.map(|frame| frame.code.into()));
                    return Some(());
                }
                Some(Err(_)) | None => {
                    self.closed(None);
                    return Some(());
                }
                Some(Ok(_)) => {}
            }
        }
    }

    fn closed(&self, code: Option<u16>) {
        self.seen().closings.push(Closing { at: Instant::now(), code, delay: self.retry_after });
    }

    fn opening(&self) -> Vec<String> {
        let bugs = &self.plan.bugs;
        if self.plan.modern {
            let cursor = self.cursor.as_ref().map(Cursor::to_string);
            let subscribe = json!({ "command": "subscribe", "bugs": bugs, "cursor": cursor });
            vec![r#"{"command":"hello","heartbeat":1}"#.to_owned(), subscribe.to_string()]
        } else {
            vec![json!({ "command": "subscribe", "bugs": bugs, "since": self.since.to_string() }).to_string()]
        }
    }

    async fn take(&mut self, text: &str) {
        let Ok(frame) = serde_json::from_str::<Frame>(text) else {
            self.seen().wrong.push(format!("not understood: {text}"));
            return;
        };
        let cursor = frame.cursor.as_deref().map(|cursor| Cursor::parse(cursor).unwrap());
        let mut gap = false;
        match frame.command.as_str() {
            "hello" => return,
            "update" => self.update(&frame, cursor.as_ref()),
            "subscribe" if frame.result.as_deref() == Some("ok") => gap = self.verdict(&frame, cursor.as_ref(), text),
            "gap" if self.plan.modern => gap = true,
            "goaway" if self.plan.modern => {
                self.seen().goaways += 1;
                self.retry_after = frame.retry_after_ms.map(Duration::from_millis);
            }
            "feed" if self.plan.modern => {
                self.seen().paused += u32::from(frame.state.as_deref() == Some("paused"));
            }
            "heartbeat" if self.plan.modern => {}
            _ => self.seen().wrong.push(format!("not to be sent: {text}")),
        }
        let mut behind = false;
        if let Some(cursor) = cursor {
            let falls = self.cursor.as_ref().is_some_and(|old| old.epoch != cursor.epoch || old.seq > cursor.seq);
            behind = falls && gap && frame.command == "gap";
            if falls && !gap {
                self.seen().wrong.push(format!("had cursor {}, then came {text}", self.cursor.as_ref().unwrap()));
            }
            self.cursor = Some(cursor);
        }
        if gap {
            let (was_behind, other) = if behind { (1, 0) } else { (0, 1) };
            self.seen().behind += was_behind;
            self.seen().gaps += other;
            let known = self.tracker.refetch(&self.plan.bugs).await;
            self.seen().refetched.extend(known);
        }
    }

    fn update(&mut self, frame: &Frame, cursor: Option<&Cursor>) {
        let (Some(bug), Some(when)) = (frame.bug, frame.when) else {
            return self.seen().wrong.push("an update without a bug or a date".to_owned());
        };
        let mut seen = self.seen();
        let era = if self.plan.modern { seen.gaps + seen.behind } else { seen.connections };
        seen.updates.push(Update { era, bug, when, seq: cursor.map(|cursor| cursor.seq) });
        seen.whens.insert(when);
        drop(seen);
        self.since = self.since.max(when);
    }

    /// The reply to the subscription; whether the verdict is a gap.
    fn verdict(&self, frame: &Frame, cursor: Option<&Cursor>, text: &str) -> bool {
        let mut seen = self.seen();
        seen.subscribed = true;
        match frame.replay.as_deref() {
            Some("complete") => seen.complete += 1,
            Some("latest") => seen.latest += 1,
            Some("gap") => {
                seen.resumed_with_gap += 1;
                return true;
            }
            None if !self.plan.modern => return false,
            None if self.cursor.is_none() && cursor.is_some() => return false,
            _ => seen.wrong.push(format!("no verdict on a resume: {text}")),
        }
        if cursor != self.cursor.as_ref() {
            seen.wrong.push(format!("resumed at {:?}, answered {text}", self.cursor));
        }
        false
    }
}

/// A client that stalls has little room for what it does not read.
async fn connect(address: SocketAddr, little_room: bool) -> Option<Socket> {
    let socket = TcpSocket::new_v4().ok()?;
    if little_room {
        socket.set_recv_buffer_size(4096).ok()?;
    }
    let stream = socket.connect(address).await.ok()?;
    let (socket, _) = tokio_tungstenite::client_async(format!("ws://{address}/"), stream).await.ok()?;
    Some(socket)
}
