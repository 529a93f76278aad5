//! Who is told: once a day of all, and at once of what arrives.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use super::rig::{PLAIN, Place, changes, read, until};
use crate::test_server::{Reply, Server};

/// A chat, and what was posted to it.
pub(super) async fn chat() -> (Server, Arc<Mutex<Vec<String>>>) {
    let said = Arc::<Mutex<Vec<String>>>::default();
    let all = Arc::clone(&said);
    let server = Server::start(move |got| {
        let body: serde_json::Value = serde_json::from_str(&got.body).unwrap();
        all.lock().unwrap().push(body["text"].as_str().unwrap().to_owned());
        Reply::full(200, "", "ok")
    })
    .await;
    (server, said)
}

fn config(server: &Server, on: &str) -> String {
    let own = "[[source]]\nname = \"own\"\nitems = \"/changes\"\nbug = \"/ticket\"\nwhen = \"/when\"\n";
    format!("{own}{PLAIN}\n[[notify]]\non = [{on}]\nurl = \"{}\"\n", server.url("/"))
}

pub(super) async fn until_said(said: &Mutex<Vec<String>>, count: usize) -> Vec<String> {
    until(&format!("{count} messages"), async || {
        let said = said.lock().unwrap().clone();
        if said.len() >= count { Ok(said) } else { Err(format!("{said:?}")) }
    })
    .await
}

#[tokio::test]
async fn erroneous_data_is_told_when_it_arrives() {
    let (server, said) = chat().await;
    let service = Place::sqlite().await.start(&config(&server, "\"errored\"")).await;
    assert_eq!(service.post("own", &changes(&[1, 2], 1)).await, ["errored", "errored"]);
    let first = until_said(&said, 1).await;
    assert!(first[0].starts_with("bugfeed: errored (own)\nevent ") && first[0].contains("failed: "), "{first:?}");
    service.stop().await;
}

#[tokio::test]
async fn a_reload_changes_who_is_told() {
    let ((before, heard), (after, said)) = (chat().await, chat().await);
    let service = Place::sqlite().await.start(&config(&before, "\"errored\"")).await;
    service.hooks.reload(read(&config(&after, "\"errored\""))).unwrap();
    assert_eq!(service.post("own", &changes(&[1], 1)).await, ["errored"]);
    assert_eq!(until_said(&said, 1).await.len(), 1);
    assert!(heard.lock().unwrap().is_empty());
    service.stop().await;
}

#[tokio::test]
async fn what_expires_is_told() {
    let (server, said) = chat().await;
    let service = Place::sqlite().await.start(&config(&server, "\"expired\"")).await;
    service.post("own", &changes(&[1], 1)).await;
    service.ahead(8 * 86_400);
    let told = until("it is told", async || {
        service.hooks.wake();
        said.lock().unwrap().first().cloned().ok_or_else(|| "nothing".to_owned())
    })
    .await;
    assert!(told.contains("expired (own)") && told.contains("failed until it expired"), "{told}");
    service.stop().await;
}

#[tokio::test]
async fn the_digest_comes_once_a_day_and_counts_what_all_processes_have_told() {
    let (server, said) = chat().await;
    let (config, place) = (config(&server, "\"digest\""), Place::sqlite().await);
    let service = place.start(&config).await;
    let store = service.hooks.opened().await.0;
    // From now on, a digest is due each day.
    let day = async || store.note("digest day").await.unwrap().ok_or_else(|| "no digest yet".to_owned());
    until("a process that leads", day).await;
    let noted = async || store.note("silence own").await.unwrap().ok_or_else(|| "nothing yet".to_owned());
    let silence = until("it has looked at silences", noted).await;
    assert!(store.change_note("silence own", Some(&silence), None).await.unwrap());
    // As long as there is a handle, the file is in use.
    drop(store);
    assert_eq!(service.post("own", &changes(&[1, 2, 3], 1)).await, ["errored"; 3]);
    service.stop().await;
    // Another one leads the next day, a third one on the same day, and a fourth one the day after.
    for (days, count) in [(1, 1), (0, 1), (1, 2)] {
        place.ahead_us.fetch_add(days * 86_400_000_000, Ordering::SeqCst);
        let service = place.start(&config).await;
        let store = service.hooks.opened().await.0;
        // A process that leads sends the digest, and then notes what it knows of silences.
        let noted = async || store.note("silence own").await.unwrap().ok_or_else(|| "nothing yet".to_owned());
        let silence = until("it has led", noted).await;
        let said = until_said(&said, count).await;
        assert_eq!(said.len(), count, "{said:?}");
        assert!(said[0].contains("errored (own): 3"), "{said:?}");
        assert!(store.change_note("silence own", Some(&silence), None).await.unwrap());
        service.stop().await;
    }
}
