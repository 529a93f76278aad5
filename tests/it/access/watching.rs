//! Programs and the Rust library with tokens.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bugfeed_client::{Error, Event, Feed, State};
use bugfeed_protocol::log_event::LogEvent;
use bugfeed_testbed::Run;
use tokio::time::timeout;

use super::{ALL, T, TOKEN, ask, bearer, file, serve, soon};
use crate::commands::bugfeed;
use crate::support::{Client, SOON, Serve, connected, free_address};

/// A token is made, put into the file, and shown: by a file, by the environment, and a wrong one.
#[tokio::test]
async fn a_new_token_is_made_and_watched_with() {
    let dir = tempfile::tempdir().unwrap();
    let script = "(umask 077; \"$0\" token new --name dashboard --bugs 7,1 2>>tokens.toml >dash.token)";
    let made = std::process::Command::new("sh").current_dir(dir.path()).arg("-c").arg(script).arg(bugfeed()).status();
    assert!(made.unwrap().success());
    let tokens = std::fs::read_to_string(dir.path().join("tokens.toml")).unwrap();
    let token = std::fs::read_to_string(dir.path().join("dash.token")).unwrap();
    assert!(token.starts_with("bft_") && token.trim().len() == 68 && !tokens.contains(token.trim()), "{tokens}");
    let path = dir.path().join("tokens.toml");
    let serve = Serve::start(&["--tokens", path.to_str().unwrap()]).await;
    let url = serve.url();
    let watch = |bug: &'static str| Run::new(bugfeed()).dir(dir.path()).args(["watch", bug, "--url", &url]);
    let mut by_file = watch("7").args(["--token-file", "dash.token", "--count", "1"]).spawn().unwrap();
    let mut by_variable = watch("7").args(["--count", "1"]).env("BUGFEED_TOKEN", token.trim()).spawn().unwrap();
    for proc in [&mut by_file, &mut by_variable] {
        connected(proc).await;
    }
    serve.touch(7, T).await;
    for proc in [&mut by_file, &mut by_variable] {
        proc.succeeds(SOON).await.unwrap();
    }
    let mut wrong = watch("7").env("BUGFEED_TOKEN", "not-the-right-token").spawn().unwrap();
    assert_eq!(wrong.wait(SOON).await.unwrap().code(), Some(1));
    let said = wrong.output();
    assert!(said.contains("invalid token") && !said.contains("not-the-right-token"), "{said}");
    let mut other = watch("8").args(["--token-file", "dash.token"]).spawn().unwrap();
    assert_eq!(other.wait(SOON).await.unwrap().code(), Some(1));
    assert!(other.output().contains("this token is not for bug 8"), "{}", other.output());
}

/// Whatever is logged, and however a token comes: it is in no line.
#[tokio::test]
async fn no_log_line_shows_a_token() {
    let dir = tempfile::tempdir().unwrap();
    let path = file(dir.path(), &[(TOKEN, ALL)]);
    let [clients, admin] = [(); 2].map(|()| free_address());
    let (listen, admin_listen) = (clients.to_string(), admin.to_string());
    let args = ["--listen", &listen, "--admin-listen", &admin_listen, "--tokens", path.to_str().unwrap()];
    let mut proc = Run::new(bugfeed()).dir(dir.path()).args(args).env("RUST_LOG", "trace").spawn().unwrap();
    proc.wait_ready(admin, SOON).await.unwrap();
    const WRONG: &str = "a-wrong-token-that-nobody-gave";
    for token in [TOKEN, WRONG] {
        for (line, headers) in [
            ("GET /changes?bugs=1".to_owned(), bearer(token)),
            (format!("GET /changes?bugs=1&token={token}"), String::new()),
            ("POST /ticket".to_owned(), bearer(token)),
        ] {
            ask(clients, &line, &headers).await;
        }
        let mut client = Client::connect(&format!("ws://{clients}/")).await;
        client.ask(format!(r#"{{"command":"hello","token":"{token}"}}"#)).await;
    }
    proc.wait_for_event(LogEvent::AccessRefused, SOON).await.unwrap();
    proc.stop(SOON).await.unwrap();
    let said = proc.output();
    assert!(said.contains("TRACE") && said.contains("127.0.0.1"), "{said}");
    for token in [TOKEN, WRONG] {
        assert!(!said.contains(token), "{}", said.lines().find(|line| line.contains(token)).unwrap());
    }
}

/// The next event of the feed that is wanted.
async fn wait_for(feed: &mut Feed, wanted: impl Fn(&Event) -> bool) {
    loop {
        let event = timeout(SOON, feed.next()).await.expect("an event in time").expect("an event").unwrap();
        assert!(!matches!(event, Event::Gap(_)), "{event:?}");
        if wanted(&event) {
            return;
        }
    }
}

#[tokio::test]
async fn the_rust_library_gets_a_new_token_when_the_old_one_expires() {
    let first = format!("{ALL}\n{}", soon(Duration::from_millis(1500)));
    let serve = serve(&[(TOKEN, &first), ("the-next-token-for-it", ALL)], &[]).await;
    let asked = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&asked);
    let give = move || {
        let count = count.fetch_add(1, Ordering::Relaxed);
        async move { Ok::<_, std::io::Error>(if count == 0 { TOKEN } else { "the-next-token-for-it" }.to_owned()) }
    };
    let mut feed = Feed::builder(&serve.url()).unwrap().bugs([1]).token_from(give).connect();
    wait_for(&mut feed, |event| matches!(event, Event::Subscribed { .. })).await;
    wait_for(&mut feed, |event| matches!(event, Event::State(State::Waiting { delay, .. }) if delay.is_zero())).await;
    serve.touch(1, T).await;
    wait_for(&mut feed, |event| matches!(event, Event::Change(change) if change.bug.get() == 1)).await;
    assert_eq!(asked.load(Ordering::Relaxed), 2);
    feed.finish().await.unwrap();

    // Without a function, the end of the token is the end.
    let expires = format!("{ALL}\n{}", soon(Duration::from_millis(2500)));
    file(serve.dir.path(), &[("a-token-that-ends-soon", &expires)]);
    let mut feed = loop {
        let mut feed = Feed::builder(&serve.url()).unwrap().bugs([1]).token("a-token-that-ends-soon").connect();
        // Until the file was read again, it is not known.
        match timeout(SOON, feed.next()).await.unwrap() {
            Some(Ok(Event::State(State::Connecting))) => {}
            other => panic!("{other:?}"),
        }
        match timeout(SOON, feed.next()).await.unwrap() {
            Some(Err(Error::Token { .. })) => {}
            _ => break feed,
        }
    };
    let error = loop {
        match timeout(SOON, feed.next()).await.expect("an end in time") {
            Some(Err(error)) => break error,
            Some(Ok(_)) => {}
            None => panic!("an end without a reason"),
        }
    };
    assert!(matches!(&error, Error::Token { text, .. } if text.contains("expired")), "{error:?}");
}
