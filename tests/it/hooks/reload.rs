//! SIGHUP: the configuration is read again.

use bugfeed_protocol::log_event::LogEvent;
use bugfeed_testbed::eventually;
use bugfeed_testbed::signal::Signal;

use super::Receiver;
use crate::support::{SOON, get};

const ONE: &str = "[[source]]\nname = \"one\"\npreset = \"plain\"\n";
const TWO: &str = "[[source]]\nname = \"two\"\npreset = \"plain\"\n";

#[tokio::test]
async fn a_broken_configuration_is_refused_and_a_good_one_holds() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("hooks.toml");
    std::fs::write(&file, ONE).unwrap();
    let mut serve = Receiver::start(dir.path(), &["serve", "--config", "hooks.toml"]).await;
    let key = serve.key(dir.path(), "one").await;

    std::fs::write(&file, format!("{ONE}ansers = \"honest\"\n")).unwrap();
    serve.proc.signal(Signal::HUP);
    let line = serve.proc.wait_for_event(LogEvent::HooksConfigRefused, SOON).await.unwrap();
    assert!(line.contains("hooks.toml:4: ") && line.contains("answers"), "{line}");
    serve.change("one", &key, 1).await;
    let (status, body) = get(serve.admin, "/readyz").await;
    assert!(
        status == 200 && body.contains("hooks configuration: refused") && body.contains("hooks.toml:4: "),
        "{body}"
    );

    std::fs::write(&file, format!("{ONE}{TWO}")).unwrap();
    serve.proc.signal(Signal::HUP);
    serve.proc.wait_for_event(LogEvent::HooksReloaded, SOON).await.unwrap();
    let calm = eventually(SOON, "no warning", async || {
        let (_, body) = get(serve.admin, "/readyz").await;
        if body.contains("hooks configuration") { Err(body) } else { Ok(()) }
    });
    calm.await.unwrap();
    let key = serve.key(dir.path(), "two").await;
    let mut client = serve.watch("/", &[2]).await;
    serve.change("two", &key, 2).await;
    assert_eq!(client.update().await.0, 2);
}

/// A gateway's feeds are those of its start. What comes for another one waits in its table.
#[tokio::test]
async fn a_feed_that_is_new_at_a_reload_is_served_after_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("hooks.toml");
    std::fs::write(&file, ONE).unwrap();
    let mut serve = Receiver::start(dir.path(), &["serve", "--config", "hooks.toml"]).await;
    std::fs::write(&file, format!("{ONE}{TWO}feed = \"kde\"\n")).unwrap();
    serve.proc.signal(Signal::HUP);
    let line = serve.proc.wait_for_event(LogEvent::HooksFeedLater, SOON).await.unwrap();
    assert!(line.contains("kde"), "{line}");
    let (status, body) = get(serve.admin, "/readyz").await;
    assert!(status == 200 && body.contains("kde: served after the next start"), "{status} {body}");
    let key = serve.key(dir.path(), "two").await;
    serve.change("two", &key, 5).await;
    serve.way(dir.path(), "5", |step| step["state"] == "completed" && step["cursor"].is_null()).await;
    serve.proc.stop(SOON).await.unwrap();

    let serve = Receiver::start(dir.path(), &["serve", "--config", "hooks.toml"]).await;
    serve.way(dir.path(), "5", |step| step["cursor"].is_string()).await;
    let shown = eventually(SOON, "the change at /kde/", async || {
        let (status, body) = get(serve.port, "/kde/changes?bugs=5&since=2014-01-01").await;
        if status == 200 && body.contains("\"bug\":5") { Ok(()) } else { Err(body) }
    });
    shown.await.unwrap();
}
