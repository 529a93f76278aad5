//! `EventSource` alone, on a page of another site: connects, comes back, resumes; no library.

use bugfeed_testbed::eventually;
use serde_json::{Value, json};

use super::servers::Server;
use super::webdriver::WebDriver;
use crate::support::SOON;

#[tokio::test]
async fn event_source_alone_misses_nothing_and_repeats_nothing() {
    let Some(driver) = WebDriver::start_or_skip().await else { return };
    let mut server = Server::start(&[]).await;
    // The admin port is another site, and its page has no policy of its own.
    driver.goto(&format!("http://{}/livez", server.admin)).await;
    let open = "
        window.seen = [];
        window.source = new EventSource(arguments[0]);
        source.onmessage = ({ data }) => seen.push(JSON.parse(data));";
    driver.script(open, json!([server.url("/sse?bugs=1,2")])).await;
    let has = async |what: &str, bugs: &[u64], verdicts: &[Value]| {
        eventually(SOON, what, async || {
            let seen = driver.script("return seen;", json!([])).await;
            let of = |command: &str, member: &str| -> Vec<Value> {
                let messages = seen.as_array().unwrap().iter().filter(|message| message["command"] == command);
                messages.map(|message| message[member].clone()).collect()
            };
            let as_wanted = of("update", "bug") == bugs && of("subscribe", "replay") == verdicts;
            if as_wanted { Ok(()) } else { Err(seen.to_string()) }
        })
        .await
        .unwrap();
    };
    let complete = json!("complete");
    has("the first connection", &[], &[Value::Null]).await;
    server.touch(&["1", "3"]).await;
    has("an update", &[1], &[Value::Null]).await;
    server.kill9();
    server.touch(&["2", "1"]).await;
    server.start_again().await;
    has("what came while the gateway was dead", &[1, 2, 1], &[Value::Null, complete.clone()]).await;
    // Told to come back.
    server.stop().await;
    server.touch(&["2"]).await;
    server.start_again().await;
    has("what came while it was stopped", &[1, 2, 1, 2], &[Value::Null, complete.clone(), complete]).await;
}
