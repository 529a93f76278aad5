//! Events, dead letters, requests, sources, the way of a bug.

use bugfeed::admin::Outcome;
use bugfeed_core::hooks::arrival::Mapping;
use bugfeed_core::hooks::event::State;
use bugfeed_hooks::receive::received::ReceivedItem;

use crate::support::{Rig, failed, item};

#[tokio::test]
async fn events_are_listed_shown_and_ordered_about() {
    let rig = Rig::start().await;
    let done = rig.event(item(1234, "a")).await.to_string();
    rig.work().await;
    let dead = rig.event(failed("b")).await.to_string();
    let more = rig.event(failed("c")).await.to_string();
    let table = rig.run(&["events", "list"]).await.good();
    assert!(table.starts_with("ID ") && table.contains(&done) && table.contains("row 1"), "{table}");
    assert!(!table.contains('\u{1b}'), "a sender's word is no order to the terminal");
    let listed = rig.json(&["events", "list", "--state", "errored", "--from", "2h"]).await;
    assert_eq!(listed.len(), 2);
    let one = rig.run(&["events", "list", "--limit", "1"]).await;
    assert!(one.remarks.contains("there are more") && one.good().contains(&more));
    let shown = rig.run(&["events", "show", &dead]).await.good();
    assert!(shown.contains("there is no number of a bug") && shown.contains("mapping_failed"), "{shown}");
    let told = rig.run(&["dead-letters"]).await.good();
    assert!(told.contains("BEHIND IT") && told.contains(&dead), "{told}");
    let counted = rig.run(&["events", "retry", "--source", "plain", "--dry-run"]).await.good();
    assert_eq!(counted, "2 events will be tried again now (a dry run: nothing was done)\n");
    assert!(rig.run(&["events", "retry", &dead]).await.good().contains("will be tried again"));
    assert!(rig.run(&["events", "release", &more]).await.good().contains("released"));
    rig.run(&["events", "drop", &done]).await.error(&["the event is completed", "replay"]);
    let both = rig.run(&["events", "drop", &done, &dead]).await;
    assert_eq!(both.outcome, Ok(Outcome::NotGood));
    assert!(both.remarks.contains(&done) && both.out.contains(&dead), "{both:?}");
    assert_eq!(rig.run(&["events", "drop", "--state", "errored"]).await.good(), "1 event dropped\n");
    rig.run(&["events", "retry"]).await.error(&["which events", "--state errored"]);
    rig.run(&["events", "list", "--state", "good"]).await.error(&["state: 'good'", "queued"]);
    rig.run(&["events", "list", "--from", "soon"]).await.error(&["--from", "2h"]);
}

#[tokio::test]
async fn what_can_never_be_tried_says_so() {
    let rig = Rig::start().await;
    let lost = rig.event(ReceivedItem { kept: None, ..failed("lost") }).await.to_string();
    let told = rig.run(&["dead-letters"]).await.good();
    assert!(told.lines().any(|line| line.contains(&lost) && line.contains("  never  ")), "{told}");
    assert!(rig.run(&["events", "list"]).await.good().contains("mapping, not tried again by itself"));
    let said = rig.run(&["events", "retry", "--source", "plain"]).await.good();
    assert!(said.starts_with("0 events will be tried again now; 1 cannot be, as they are\n"), "{said}");
    assert!(said.lines().any(|line| line.contains(&lost) && line.contains("requests replay")), "{said}");
}

#[tokio::test]
async fn pruning_counts_until_it_is_confirmed() {
    let rig = Rig::start().await;
    let waiting = rig.event(item(1, "a")).await;
    for args in [&["events", "prune", "--key", "abcdef"][..], &["events", "prune", "--key", "abcdef", "--dry-run"]] {
        let counted = rig.run(args).await.good();
        assert_eq!(counted, "concerned: 1 request; events: 1 queued\nnothing was done; with --yes it is\n");
    }
    assert_eq!(rig.store.event(waiting).await.unwrap().unwrap().progress.state, State::Queued);
    let pruned = rig.run(&["events", "prune", "--key", "abcdef", "--yes"]).await.good();
    assert_eq!(pruned, "1 event canceled, of 0 the log erased\n");
    assert_eq!(rig.store.event(waiting).await.unwrap().unwrap().progress.state, State::Canceled);
}

#[tokio::test]
async fn dead_letters_become_files() {
    let rig = Rig::start().await;
    let dead = rig.event(failed("b")).await;
    let folder = rig.dir.path().join("failed");
    let told = rig.run(&["dead-letters", "--export", folder.to_str().unwrap()]).await.good();
    assert!(told.starts_with("1 dead letter written into "), "{told}");
    let text = std::fs::read_to_string(folder.join(format!("without-bug/{dead}.json"))).unwrap();
    assert!(text.contains("\"kept_item\"") && text.contains("title"), "{text}");
}

#[tokio::test]
async fn the_way_of_a_bug_is_told() {
    let rig = Rig::start().await;
    rig.event(item(1234, "a")).await;
    rig.work().await;
    let told = rig.run(&["bug", "1234"]).await.good();
    for want in [
        "bug 1234 changed 2026-11-26 12:00:00 UTC",
        "received by plain from 192.0.2.1 with key abcdef",
        "new → queued (accepted)\n",
        "queued → processing (claimed)\n",
        "processing → completed (announced)\n",
        "completed: written as row 1",
        "  request 0",
        "  row 1\n",
    ] {
        assert!(told.contains(want), "no '{want}' in: {told}");
    }
    assert!(!told.contains("  number "), "it is not known yet: {told}");
    rig.event(ReceivedItem { mapping: Mapping::NotMapped, kind: String::new(), ..item(5, "b") }).await;
    let told = rig.run(&["bug", "5"]).await.good();
    assert!(told.starts_with("bug 5 changed 2026-11-26 12:00:00 UTC\n"), "no kind, no feed: {told}");
    assert!(told.contains("  dropped: not_mapped\n"), "{told}");
    let none = rig.run(&["bug", "99", "--feed", "kde"]).await;
    assert!(none.remarks.contains("no webhook brought a change of bug 99"));
    assert_eq!(rig.json(&["bug", "1234"]).await[0]["steps"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn requests_are_shown_and_received_again() {
    let rig = Rig::start().await;
    let request = rig.arrive(vec![item(7, "a")]).await;
    let id = request.envelope.id.to_string();
    let table = rig.run(&["requests", "list", "--source", "plain", "--key", "abcdef", "--from", "1d"]).await.good();
    assert!(table.contains(&id) && table.contains("192.0.2.1"), "{table}");
    let shown = rig.run(&["requests", "show", &id, "--body"]).await.good();
    assert!(shown.contains("{\"changes\":[{\"bug\":7}]}") && !shown.contains('\u{1b}'), "{shown}");
    let told = rig.run(&["requests", "replay", &id]).await.good();
    assert!(told.starts_with("received again as ") && told.contains("queued"), "{told}");
    rig.refuse("plain").await;
    rig.refuse("misspelt").await;
    let table = rig.run(&["requests", "list", "--state", "quarantined"]).await.good();
    assert!(table.contains("NOTE") && table.contains("  the key is not known\n"), "{table}");
    assert_eq!(rig.json(&["requests", "list", "--state", "quarantined"]).await[0]["error"], "the key is not known");
    let table = rig.run(&["sources", "list"]).await.good();
    assert!(table.contains("  1 in 24 h, 1 kept  ") && table.contains("not configured, 1 request came"), "{table}");
    rig.run(&["requests", "list", "--state", "x"]).await.error(&["state: 'x'", "quarantined"]);
}

#[tokio::test]
async fn sources_are_listed_switched_and_tested() {
    let rig = Rig::start().await;
    let table = rig.run(&["sources", "list"]).await.good();
    assert!(table.contains("/hooks/tracked") && table.contains("bugzilla"), "{table}");
    for head in ["LAST REQUEST", "LAST TAKEN", "CONNECTED", "REFUSED"] {
        assert!(table.contains(head), "{table}");
    }
    let row = |table: &str, name: &str| table.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    assert!(row(&table, "gitlab").contains("  token or signature  "), "{table}");
    assert!(rig.run(&["sources", "disable", "plain"]).await.good().contains("switched off since"));
    assert!(rig.run(&["sources", "disable", "--feed", "kde"]).await.good().contains("kde is switched off"));
    let table = rig.run(&["sources", "list"]).await.good();
    assert!(table.contains("off since") && table.contains("feed kde is switched off since"), "{table}");
    assert_eq!(rig.run(&["sources", "enable", "plain"]).await.good(), "plain is switched on\n");
    assert!(rig.run(&["sources", "reconcile", "tracked"]).await.good().contains("is being asked"));
    rig.run(&["sources", "reconcile", "plain"]).await.error(&["is not reconciled", "tracker = "]);
    let test = rig.run(&["sources", "test", "plain"]).await;
    assert_eq!(test.outcome, Ok(Outcome::NotGood));
    assert!(test.out.contains("NOT  access     no key may send"), "{test:?}");
}
