//! A receiver of webhooks, as bots have them. In: what it answers. Out: the requests that it was sent, in order.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

use super::SOON;

/// A request that the bot was sent.
#[derive(Clone, Debug)]
pub struct Post {
    /// The `webhook-id`.
    pub id: String,
    pub headers: HeaderMap,
    pub text: String,
    pub body: Value,
    /// When it had arrived.
    pub at: Instant,
}

impl Post {
    /// The changes that it tells, as (bug, when, number).
    pub fn changes(&self) -> Vec<(u64, String, u64)> {
        let of = |change: &Value| {
            let bug = change["bug"].as_u64().unwrap_or_else(|| panic!("{}", self.text));
            (bug, change["when"].as_str().unwrap().to_owned(), number(&change["cursor"]))
        };
        match self.command() {
            "update" => vec![of(&self.body)],
            "updates" => self.body["changes"].as_array().unwrap().iter().map(of).collect(),
            _ => Vec::new(),
        }
    }

    pub fn command(&self) -> &str {
        self.body["command"].as_str().unwrap_or_default()
    }

    /// The number in its cursor.
    pub fn number(&self) -> u64 {
        number(&self.body["cursor"])
    }
}

/// The number in a cursor.
pub fn number(cursor: &Value) -> u64 {
    let cursor = cursor.as_str().unwrap_or_else(|| panic!("no cursor: {cursor}"));
    cursor.split('.').nth(1).and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("{cursor}"))
}

#[derive(Clone)]
struct Shared {
    posts: mpsc::UnboundedSender<Post>,
    /// The status of answers; `None`: requests wait.
    status: watch::Receiver<Option<u16>>,
}

/// A running bot.
pub struct Bot {
    pub address: SocketAddr,
    posts: mpsc::UnboundedReceiver<Post>,
    status: watch::Sender<Option<u16>>,
    serving: AbortHandle,
    /// The date of the newest change of each bug that it was told.
    pub newest: BTreeMap<u64, String>,
    /// The highest number that it was told.
    pub highest: u64,
    /// Nothing below this number may be told any more.
    pub floor: u64,
    /// How often it was told a gap.
    pub gaps: usize,
}

impl Bot {
    /// Starts one, which answers 204.
    pub async fn start() -> Bot {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, posts) = mpsc::unbounded_channel();
        let status = watch::Sender::new(Some(204));
        let shared = Shared { posts: sender, status: status.subscribe() };
        let router = Router::new().fallback(take).with_state(Arc::new(shared));
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() }).abort_handle();
        let (newest, highest, floor, gaps) = (BTreeMap::new(), 0, 0, 0);
        Bot { address, posts, status, serving, newest, highest, floor, gaps }
    }

    pub fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    /// From now on it answers with this status.
    pub fn answer(&self, status: u16) {
        self.status.send_replace(Some(status));
    }

    /// From now on requests are taken, and not answered until [`Bot::answer`].
    pub fn hang(&self) {
        self.status.send_replace(None);
    }

    /// The next request.
    pub async fn next(&mut self) -> Post {
        self.next_within(SOON).await
    }

    pub async fn next_within(&mut self, limit: Duration) -> Post {
        let post = tokio::time::timeout(limit, self.posts.recv()).await.expect("a webhook in time");
        self.note(post.expect("it listens"))
    }

    /// The next request, if there is one already.
    pub fn waiting(&mut self) -> Option<Post> {
        let post = self.posts.try_recv().ok()?;
        Some(self.note(post))
    }

    /// Takes requests until it has all of this: the dates of the newest changes, by bug. After a gap nothing older is owed.
    pub async fn until(&mut self, want: &BTreeMap<u64, String>, limit: Duration) {
        let (end, gaps) = (Instant::now() + limit, self.gaps);
        while self.gaps == gaps && !want.iter().all(|(bug, when)| self.newest.get(bug).is_some_and(|has| has >= when)) {
            let left = end.saturating_duration_since(Instant::now());
            match tokio::time::timeout(left, self.posts.recv()).await {
                Ok(post) => drop(self.note(post.expect("it listens"))),
                Err(_) => panic!("not all has come: {:?} of {want:?}", self.newest),
            }
        }
    }

    /// Notes what a request says.
    fn note(&mut self, post: Post) -> Post {
        // What a chat is sent has no command.
        if !matches!(post.command(), "test" | "") {
            let number = post.number();
            assert!(number >= self.floor, "below {}: {}", self.floor, post.text);
            self.highest = self.highest.max(number);
        }
        self.gaps += usize::from(post.command() == "gap");
        for (bug, when, _) in post.changes() {
            let has = self.newest.entry(bug).or_default();
            *has = has.clone().max(when);
        }
        post
    }
}

impl Drop for Bot {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn take(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let mut status = shared.status.clone();
    let text = String::from_utf8(body.to_vec()).unwrap();
    let id = headers.get("webhook-id").and_then(|id| id.to_str().ok()).unwrap_or_default().to_owned();
    let post = Post { id, headers, body: serde_json::from_str(&text).unwrap_or_default(), text, at: Instant::now() };
    // A test that has ended hears no more.
    let _ = shared.posts.send(post);
    let answer = status.wait_for(Option::is_some).await.map_or(503, |status| status.unwrap_or(503));
    StatusCode::from_u16(answer).unwrap()
}
