//! Receives bugfeed's webhooks: a bot to start from. It answers once it has a change on the disk, and does the work
//! after that; so it may be killed at any moment, and misses nothing.
//!
//! ```sh
//! BUGFEED_SECRET=whsec_… cargo run --example webhook-receiver
//! ```
//!
//! In the environment: `BUGFEED_SECRET` (while it is being replaced: the new one and the old one, with a blank between
//! them), `LISTEN` (127.0.0.1:9000) and `STATE` (receiver.json). With `HOOKS` (http://127.0.0.1:8844/) and `ENDPOINT` (ep_…)
//! it asks at the start for what it missed, and says that it is ready. In a package of its own it needs `axum`, `base64`,
//! `form_urlencoded`, `rand`, `ring`, `tokio` (`full`), `serde` (`derive`) and `serde_json`.

#![allow(clippy::print_stdout, clippy::print_stderr, unreachable_pub)]

mod signature;
mod state;

use std::env;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use signature::Secrets;
use state::{Item, Message, Store};

/// bugfeed sends at most 20 kB.
const LONGEST_BODY: usize = 64 * 1024;
/// Work that failed is done again after this time.
const AGAIN: Duration = Duration::from_secs(5);

const NO_SECRET: &str =
    "set BUGFEED_SECRET to the endpoint's secret: whsec_ and Base64, as `bugfeed endpoints create` printed it";

type Failed = Box<dyn std::error::Error + Send + Sync>;

struct Bot {
    secrets: Secrets,
    store: Store,
}

/// The work: replace it by yours. It is called at least once for each change, and again where it fails.
async fn look(item: &Item) -> Result<(), Failed> {
    match item.bug {
        Some(bug) => println!("look at bug {bug} of {}, changed at {}", item.feed, item.when),
        None => println!("changes of {} may be missing: look at all its bugs", item.feed),
    }
    Ok(())
}

async fn receive(State(bot): State<Arc<Bot>>, headers: HeaderMap, body: Bytes) -> (StatusCode, &'static str) {
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
    if !bot.secrets.fit(header, &body, now_s()) {
        return (StatusCode::UNAUTHORIZED, "the signature does not fit, or is too old");
    }
    let Ok(message) = serde_json::from_slice::<Message>(&body) else {
        return (StatusCode::BAD_REQUEST, "no message of bugfeed");
    };
    println!("received {}", message.command);
    // Writing to the disk may block.
    match tokio::task::spawn_blocking(move || bot.store.take(message)).await {
        Ok(Ok(())) => (StatusCode::NO_CONTENT, ""),
        // It comes again.
        _ => (StatusCode::SERVICE_UNAVAILABLE, "cannot be stored just now"),
    }
}

/// Does the work, one thing after the other.
async fn work(bot: Arc<Bot>) {
    loop {
        let item = bot.store.next().await;
        let done = match look(&item).await {
            Ok(()) => bot.store.done(&item).map_err(Failed::from),
            Err(error) => Err(error),
        };
        if let Err(error) = done {
            eprintln!("{error}; again in {} s", AGAIN.as_secs());
            tokio::time::sleep(AGAIN).await;
        }
    }
}

/// Asks bugfeed, signed by the endpoint's secret. For an address with `https`, use a client such as reqwest.
async fn call(bot: &Bot, hooks: &str, method: &str, path: &str) -> Result<String, Failed> {
    let (id, now) = (format!("call_{:032x}", rand::random::<u128>()), now_s());
    // The body, which is empty, follows the dot.
    let signature = bot.secrets.sign(&id, now, format!("{method} {path}.").as_bytes());
    let request = format!(
        "{method} {path} HTTP/1.0\r\nHost: {hooks}\r\nContent-Length: 0\r\n\
         webhook-id: {id}\r\nwebhook-timestamp: {now}\r\nwebhook-signature: {signature}\r\n\r\n"
    );
    let unreachable = |error| format!("cannot reach http://{hooks}: {error}");
    let mut stream = TcpStream::connect(hooks).await.map_err(unreachable)?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    tokio::time::timeout(Duration::from_secs(15), stream.read_to_string(&mut answer)).await??;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("the answer broke off")?;
    match head.split(' ').nth(1) {
        Some(status) if status.starts_with('2') => Ok(body.to_owned()),
        status => Err(format!("{method}: {} {body}", status.unwrap_or_default()).into()),
    }
}

/// Takes what came of a feed while this program was away.
async fn missed(bot: &Bot, hooks: &str, endpoint: &str, feed: &str, mut cursor: String) -> Result<(), Failed> {
    loop {
        let query: String = form_urlencoded::Serializer::new(String::new())
            .extend_pairs([("feed", feed), ("cursor", &cursor)])
            .finish();
        let answer = call(bot, hooks, "GET", &format!("/endpoints/{endpoint}/changes?{query}")).await?;
        let mut answer: Value = serde_json::from_str(&answer)?;
        let more = answer["more"] == true;
        answer["command"] = if answer["replay"] == "gap" { "gap" } else { "updates" }.into();
        answer["feed"] = feed.into();
        let message: Message = serde_json::from_value(answer)?;
        cursor.clone_from(&message.cursor);
        bot.store.take(message)?;
        if !more {
            return Ok(());
        }
    }
}

/// Asks for what was missed, and has deliveries that wait begin again. Where this fails, bugfeed's own attempts go on.
async fn catch_up(bot: Arc<Bot>, hooks: String, endpoint: String) {
    for (feed, cursor) in bot.store.places() {
        if let Err(error) = missed(&bot, &hooks, &endpoint, &feed, cursor).await {
            eprintln!("{error}");
        }
    }
    match call(&bot, &hooks, "POST", &format!("/endpoints/{endpoint}/ready")).await {
        Ok(_) => println!("said that this is ready"),
        Err(error) => eprintln!("{error}"),
    }
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

async fn run() -> Result<(), Failed> {
    let or = |name: &str, default: &str| env::var(name).unwrap_or_else(|_| default.to_owned());
    let secrets = Secrets::read(&or("BUGFEED_SECRET", "")).ok_or(NO_SECRET)?;
    let bot = Arc::new(Bot { secrets, store: Store::open(or("STATE", "receiver.json"))? });
    let listener = TcpListener::bind(or("LISTEN", "127.0.0.1:9000")).await?;
    println!("listens on {}", listener.local_addr()?);
    tokio::spawn(work(Arc::clone(&bot)));
    let routes =
        Router::new().route("/", post(receive)).layer(DefaultBodyLimit::max(LONGEST_BODY)).with_state(Arc::clone(&bot));
    if let (Ok(hooks), Ok(endpoint)) = (env::var("HOOKS"), env::var("ENDPOINT")) {
        let hooks = hooks.trim_start_matches("http://").trim_end_matches('/').to_owned();
        tokio::spawn(catch_up(bot, hooks, endpoint));
    }
    axum::serve(listener, routes).await?;
    Ok(())
}

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}
