//! Webhooks out of the all-in-one: what is written into the table is POSTed to endpoints, whatever dies meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use bugfeed_protocol::log_event::LogEvent;
use bugfeed_testbed::signal::Signal;
use bugfeed_testbed::{Run, eventually};
use serde_json::Value;

use super::Receiver;
use crate::commands::bugfeed;
use crate::support::bot::{Bot, number};
use crate::support::{SOON, get, request, touch};

/// Allows receivers on this machine.
const LOCAL: [&str; 3] = ["serve", "--allow-network", "127.0.0.0/8"];

/// Makes an endpoint at a bot; its identifier.
pub async fn create(receiver: &Receiver, dir: &Path, url: &str, options: &[&str]) -> String {
    create_with_secret(receiver, dir, url, options).await.0
}

/// Makes an endpoint; its identifier, and its secret.
pub async fn create_with_secret(receiver: &Receiver, dir: &Path, url: &str, options: &[&str]) -> (String, String) {
    let args = [&["endpoints", "create", "--json", "--url", url], options].concat();
    let told = receiver.command(dir, &args).await;
    let line = told.lines().find(|line| line.starts_with('{')).unwrap_or_else(|| panic!("no JSON: {told}"));
    let endpoint: Value = serde_json::from_str(line).unwrap();
    let secret = endpoint["secret"].as_str().filter(|secret| secret.starts_with("whsec_"));
    let secret = secret.unwrap_or_else(|| panic!("{endpoint}"));
    (endpoint["id"].as_str().unwrap().to_owned(), secret.to_owned())
}

/// An endpoint as the API shows it.
pub async fn shown(receiver: &Receiver, dir: &Path, id: &str) -> Value {
    let told = receiver.command(dir, &["endpoints", "show", id, "--json"]).await;
    serde_json::from_str(told.trim()).unwrap_or_else(|_| panic!("{told}"))
}

/// Writes a change of each of these bugs, so many seconds after a date.
async fn change(dir: &Path, bugs: &[u64], second: u64) -> String {
    let when = format!("2014-04-03T{:02}:{:02}:{:02}", 10 + second / 3600, second / 60 % 60, second % 60);
    let bugs: Vec<String> = bugs.iter().map(u64::to_string).collect();
    let mut args: Vec<&str> = bugs.iter().map(String::as_str).collect();
    args.extend(["--when", &when]);
    touch(dir, &args).await;
    when
}

#[tokio::test]
async fn a_change_is_posted_within_a_second() {
    let (dir, mut bot) = (tempfile::tempdir().unwrap(), Bot::start().await);
    let mut serve = Receiver::start(dir.path(), &LOCAL).await;
    let id = create(&serve, dir.path(), &bot.url(), &["--bugs", "1234"]).await;
    let mut fastest = Duration::MAX;
    for second in 1..=3 {
        let begun = Instant::now();
        let when = change(dir.path(), &[9, 1234], second).await;
        let post = bot.next().await;
        assert_eq!(post.command(), "update", "{}", post.text);
        assert_eq!((post.body["bug"].as_u64(), post.body["when"].as_str()), (Some(1234), Some(&*when)));
        assert_eq!(post.body["feed"], "default");
        assert!(post.id.starts_with(&format!("{id}-")) && post.headers.contains_key("webhook-timestamp"));
        let signed = post.headers["webhook-signature"].to_str().unwrap();
        assert!(signed.starts_with("v1,"), "{signed}");
        fastest = fastest.min(post.at - begun);
    }
    // A machine that is busy with other tests is slow at times, and not three times.
    assert!(fastest < Duration::from_secs(1), "{fastest:?}");
    // A test and what it says.
    let told = serve.command(dir.path(), &["endpoints", "test", &id]).await;
    assert!(told.contains("204"), "{told}");
    assert_eq!(bot.next().await.command(), "test");
    let (_, metrics) = get(serve.admin, "/metrics").await;
    assert!(metrics.contains("bugfeed_endpoint_attempts_total{result=\"success\"} "), "{metrics}");

    // What receivers call is on the clients' port, and says nothing to who has no signature.
    let asked = format!("GET /endpoints/{id}/changes HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert_eq!(request(serve.port, &asked).await.0, 401);
    // A reload of the configuration leaves endpoints alone.
    serve.proc.signal(Signal::HUP);
    change(dir.path(), &[1234], 4).await;
    assert_eq!(bot.next().await.changes()[0].0, 1234);
}

/// A chat is told where people read about the bug.
#[tokio::test]
async fn a_chat_gets_a_link() {
    let (dir, mut bot) = (tempfile::tempdir().unwrap(), Bot::start().await);
    let tracker = ["--tracker-url", "https://bugs.example.org/show_bug.cgi?id={bug}"];
    let serve = Receiver::start(dir.path(), &[&LOCAL[..], &tracker].concat()).await;
    create(&serve, dir.path(), &bot.url(), &["--bugs", "1234", "--template", "slack"]).await;
    change(dir.path(), &[1234], 1).await;
    let text = "Bug 1234 changed at 2014-04-03 10:00:01 UTC: https://bugs.example.org/show_bug.cgi?id=1234";
    assert_eq!(bot.next().await.body, serde_json::json!({ "text": text }));
}

/// Killed after any request, with changes before, meanwhile and afterwards: each bug's newest change arrives, and no cursor
/// falls below what was accepted.
#[tokio::test]
async fn kill_9_loses_nothing_and_repeats_nothing_that_is_stored() {
    let (dir, mut bot) = (tempfile::tempdir().unwrap(), Bot::start().await);
    let mut serve = Receiver::start(dir.path(), &LOCAL).await;
    let id = create(&serve, dir.path(), &bot.url(), &["--bugs", "all"]).await;
    let (mut want, mut second) = (BTreeMap::new(), 0);
    let mut touched = async |want: &mut BTreeMap<u64, String>, bugs: [u64; 2]| {
        second += 1;
        let when = change(dir.path(), &bugs, second).await;
        want.extend(bugs.map(|bug| (bug, when.clone())));
    };
    for round in 0..3_u64 {
        for step in 0..3 {
            touched(&mut want, [1 + step, 10 + round]).await;
            bot.until(&want, SOON).await;
        }
        // It dies while a request is on its way, or while what came of it is being stored.
        touched(&mut want, [5, 6]).await;
        bot.next().await;
        serve.proc.kill9();
        touched(&mut want, [1, 99]).await;
        serve = Receiver::start(dir.path(), &LOCAL).await;
        bot.until(&want, SOON).await;
        // The cursor comes to stand at the end; nothing below it is sent from then on.
        let stored = async || {
            let endpoint = shown(&serve, dir.path(), &id).await;
            if number(&endpoint["cursor"]) == bot.highest { Ok(()) } else { Err(endpoint.to_string()) }
        };
        eventually(SOON, "the cursor of what was accepted", stored).await.unwrap();
        bot.floor = bot.highest;
        assert_eq!(bot.gaps, 0);
        assert!(bot.waiting().is_none(), "nothing is sent again once it is stored");
    }
    // What is not running and not changed is sent nothing of at the next start.
    serve.proc.kill9();
    let serve = Receiver::start(dir.path(), &LOCAL).await;
    touched(&mut want, [7, 8]).await;
    let post = bot.next().await;
    assert!(post.changes().iter().all(|change| [7, 8].contains(&change.0)), "{}", post.text);
    drop(serve);
}

/// SIGTERM: the request in flight is answered and stored, and is not sent again.
#[tokio::test]
async fn a_request_in_flight_is_ended_before_the_process() {
    let (dir, mut bot) = (tempfile::tempdir().unwrap(), Bot::start().await);
    let mut serve = Receiver::start(dir.path(), &LOCAL).await;
    create(&serve, dir.path(), &bot.url(), &["--bugs", "1,2"]).await;
    bot.hang();
    change(dir.path(), &[1], 1).await;
    assert_eq!(bot.next().await.changes()[0].0, 1);
    serve.proc.sigterm();
    let stopping = async || get(serve.admin, "/readyz").await.0 == 503;
    eventually(SOON, "a process that stops", stopping).await.unwrap();
    bot.answer(204);
    serve.proc.succeeds(SOON).await.unwrap();
    assert_eq!(serve.proc.events(LogEvent::HooksStopped), 1, "{}", serve.proc.output());

    let _serve = Receiver::start(dir.path(), &LOCAL).await;
    change(dir.path(), &[2], 2).await;
    let post = bot.next().await;
    assert_eq!(post.changes().iter().map(|change| change.0).collect::<BTreeSet<_>>(), BTreeSet::from([2]));
}

/// An address that is not public is refused with the option that would allow it.
#[tokio::test]
async fn a_private_address_names_the_option() {
    let dir = tempfile::tempdir().unwrap();
    let serve = Receiver::start(dir.path(), &[]).await;
    for (url, option) in [
        ("http://127.0.0.1:9000/", "--allow-network 127.0.0.0/8"),
        ("http://[::1]:9000/", "--allow-network ::1/128"),
        ("http://10.1.2.3/", "--allow-network 10.1.2.3/32"),
    ] {
        let refused = serve.try_command(dir.path(), &["endpoints", "create", "--url", url, "--bugs", "1"]).await;
        let said = refused.expect_err("refused");
        assert!(said.contains(option), "{url}: {said}");
    }
    let other = tempfile::tempdir().unwrap();
    let https = Receiver::start(other.path(), &["serve", "--https-only"]).await;
    let args = ["endpoints", "create", "--url", "http://example.org/", "--bugs", "1"];
    let said = https.try_command(other.path(), &args).await.expect_err("refused");
    assert!(said.contains("--https-only"), "{said}");
    let wrong = Run::new(bugfeed()).dir(dir.path()).args(["serve", "--allow-network", "10.1.0.0/8"]);
    let mut wrong = wrong.spawn().unwrap();
    let status = wrong.wait(SOON).await.unwrap();
    let said = wrong.output();
    assert!(status.code() == Some(2) && said.contains("10.0.0.0/8") && said.contains("--allow-network"), "{said}");
}

/// Of two processes in a folder one delivers; the other one goes on from the stored cursor when that is gone.
#[tokio::test]
async fn a_standby_delivers_once_it_is_its_turn() {
    let (dir, mut bot) = (tempfile::tempdir().unwrap(), Bot::start().await);
    let mut first = Receiver::start(dir.path(), &LOCAL).await;
    create(&first, dir.path(), &bot.url(), &["--bugs", "1,2"]).await;
    let mut second = Receiver::start_unready(dir.path(), &LOCAL);
    change(dir.path(), &[1], 1).await;
    assert_eq!(bot.next().await.changes()[0].0, 1);
    first.proc.kill9();
    change(dir.path(), &[2], 2).await;
    second.proc.wait_ready(second.admin, SOON).await.unwrap();
    bot.until(&BTreeMap::from([(2, "2014-04-03T10:00:02".to_owned())]), SOON).await;
    assert_eq!(bot.gaps, 0);
}
