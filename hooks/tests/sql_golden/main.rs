//! Every SQL text that the store sends to a database, compared with a file: `golden/{sqlite,mysql,postgres}.txt`. A
//! text that changes shows here as a changed line, whatever was moved in the code.
//!
//! One scenario does everything once that the store does. The driver tells of each statement as it sends it.
//! `BUGFEED_GOLDEN=write` writes the files anew.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test")]

mod endpoints;
mod recorder;

use std::path::Path;
use std::time::Duration;

use bugfeed_core::hooks::action::Action;
use bugfeed_core::hooks::arrival::Mapping;
use bugfeed_core::hooks::event::{ErrorClass, Event, EventId, Trigger};
use bugfeed_core::hooks::lane::{Gate, LaneKey, Settings, World};
use bugfeed_core::hooks::orders::Order;
use bugfeed_core::hooks::outcome::{Outcome, conclude};
use bugfeed_core::hooks::processor::plan_lane;
use bugfeed_hooks::receive::identity::Sha256;
use bugfeed_hooks::receive::key::{Key, RANDOM_BYTES};
use bugfeed_hooks::receive::mapped::Kept;
use bugfeed_hooks::receive::received::{
    Envelope, Failure, Proof, QuarantinedRequest, ReceivedItem, ReceivedRequest, RequestId, Share,
};
use bugfeed_hooks::store::apply::Plan;
use bugfeed_hooks::store::audit::Deed;
use bugfeed_hooks::store::events::{EventFilter, Range};
use bugfeed_hooks::store::keys::{KeyChange, KeyScopes, StoredKey};
use bugfeed_hooks::store::leases::Watch;
use bugfeed_hooks::store::notes::Switch;
use bugfeed_hooks::store::prune::{PruneCount, PruneFilter, PruneRun};
use bugfeed_hooks::store::requests::{RequestFilter, RequestState};
use bugfeed_hooks::store::retention::Keep;
use bugfeed_hooks::store::tokens::{self, NewToken, Scope, Token};
use bugfeed_hooks::store::{Bounds, Look, Options, Store};
use bugfeed_protocol::{BugId, Change, Cursor, Epoch, Numbered, When};
use bugfeed_sql::DbUrl;
use bugfeed_testbed::shared;
use recorder::Recorder;

/// 2026-11-26T12:00:00.
const NOON_US: i64 = 1_795_694_400_000_000;
const SECOND_US: i64 = 1_000_000;
const DAY_US: i64 = 86_400 * SECOND_US;
const LOOK: Look = Look { now_us: NOON_US + SECOND_US, lease_us: 60 * SECOND_US, with_done: true };
const VERIFY: Settings = Settings { verify: true, ..Settings::DEFAULT };

fn item(bug: u64, delivery: &str) -> ReceivedItem {
    ReceivedItem {
        index: 0,
        mapping: Mapping::Fits,
        failure: None,
        feed: "f".to_owned(),
        bug: BugId::new(bug),
        when_us: NOON_US,
        is_dated: true,
        has_wrong_clock: false,
        kind: "edit".to_owned(),
        project: None,
        delivery: Some(delivery.to_owned()),
        hash: Sha256::of(delivery.as_bytes()),
        is_private: false,
        kept: None,
    }
}

fn failed(delivery: &str) -> ReceivedItem {
    ReceivedItem {
        mapping: Mapping::Failed,
        failure: Some(Failure { error: "no bug".to_owned(), fix: "name it".to_owned() }),
        bug: None,
        kept: Some(Kept { item: "{}".to_owned(), headers: Vec::new() }),
        ..item(1, delivery)
    }
}

fn envelope(number: u8) -> Envelope {
    Envelope {
        id: RequestId::new(NOON_US, [number; 10]),
        source: "s".to_owned(),
        received_us: NOON_US,
        address: "192.0.2.1".parse().unwrap(),
        key_id: Some("abcdef".to_owned()),
        path: "/hooks/s".to_owned(),
        headers: Vec::new(),
        size: 2,
        body_hash: None,
        body: Some("{}".to_owned().into()),
        status: 200,
    }
}

fn request(number: u8, items: Vec<ReceivedItem>) -> ReceivedRequest {
    let items = (0..).zip(items).map(|(index, item)| ReceivedItem { index, ..item }).collect();
    let (replays, failure) = (None, None);
    ReceivedRequest { envelope: envelope(number), trigger: Trigger::Live, replays, failure, items, answered: vec![] }
}

fn lane(bug: u64) -> LaneKey {
    LaneKey::Bug("f".into(), BugId::new(bug).unwrap())
}

/// Plans a lane and carries the plan out; returns what was asked.
async fn work(store: &Store, bug: u64, settings: Settings) -> Option<(EventId, u32)> {
    let read = store.lane(&lane(bug), &LOOK).await.unwrap();
    let source = move |_: &Event| (settings, Gate::OPEN);
    let now_us = NOON_US + SECOND_US;
    let world = World { now_us, lease_us: 60 * SECOND_US, batch: 8, source: &source };
    let plan = Plan { now_us, actions: plan_lane(&read, &world), reasons: Vec::new() };
    store.apply_many(std::slice::from_ref(&plan)).await.unwrap();
    plan.actions.iter().find_map(|action| match action {
        Action::Ask { id, version, .. } => Some((*id, *version)),
        _ => None,
    })
}

async fn arrives(store: &Store, told: &Recorder) {
    told.section("requests arrive");
    let first = request(1, vec![item(1, "a"), item(2, "b"), item(3, "c")]);
    store.accept(&[&first, &request(2, vec![failed("d"), item(1, "e")])]).await.unwrap();
    told.section("one is handed over again");
    store.accept(&[&first]).await.unwrap();
    told.section("a repeat of an errored one");
    store.accept(&[&request(3, vec![failed("d")])]).await.unwrap();
    told.section("one goes to the quarantine");
    let failure = Failure { error: "no key".to_owned(), fix: "send one".to_owned() };
    let (envelope, share, proof) = (envelope(4), Share::KnownSource, Proof::default());
    store.quarantine(&QuarantinedRequest { envelope, share, failure, proof }).await.unwrap();
    told.section("the quarantine is looked at, and left");
    store.quarantine_held().await.unwrap();
    store.quarantined(RequestId::new(NOON_US, [4; 10])).await.unwrap().unwrap();
    assert!(store.leave_quarantine(RequestId::new(NOON_US, [4; 10])).await.unwrap());
}

async fn processed(store: &Store, told: &Recorder) {
    told.section("what is due");
    store.due_lanes(&LOOK, false, 10).await.unwrap();
    store.next_due(NOON_US).await.unwrap();
    store.backlog(NOON_US).await.unwrap();
    told.section("lanes together");
    store.lanes(&[lane(1), lane(2)], &LOOK).await.unwrap();
    told.section("an event goes its ordinary way");
    assert_eq!(work(store, 1, Settings::DEFAULT).await, None);
    told.section("one is asked about");
    let (id, version) = work(store, 2, VERIFY).await.unwrap();
    told.section("and fails");
    let read = store.lane(&lane(2), &LOOK).await.unwrap();
    let source = move |_: &Event| (VERIFY, Gate::OPEN);
    let now_us = NOON_US + 2 * SECOND_US;
    let world = World { now_us, lease_us: 60 * SECOND_US, batch: 8, source: &source };
    let actions = conclude(&read, id, version, &Outcome::Failed(ErrorClass::Tracker), &world);
    let reasons = vec![(id, Failure { error: "away".to_owned(), fix: "wait".to_owned() })];
    store.apply(&Plan { now_us, actions, reasons }).await.unwrap();
    told.section("an order");
    store.order(id, Order::Release, now_us).await.unwrap();
    store.order_all(&[id], Order::Drop, now_us).await.unwrap();
    told.section("numbers become known");
    let change = Change { bug: BugId::new(1).unwrap(), when: When::from_micros(NOON_US).unwrap() };
    let cursor = Cursor::new(Epoch::parse("e").unwrap(), 1);
    let numbered = Numbered { change, cursor, after: None, recorded: change.when };
    assert_eq!(store.match_changes("f", &[numbered]).await.unwrap(), 1);
    store.matched_to("f").await.unwrap();
}

async fn read(store: &Store, told: &Recorder) {
    told.section("events are listed");
    let range = Range { from_us: Some(NOON_US), to_us: Some(NOON_US + SECOND_US) };
    let after = Some(EventId(u128::MAX));
    store.list_events(&EventFilter::default(), None, 10).await.unwrap();
    let state = Some(bugfeed_core::hooks::event::State::Errored);
    let (source, feed) = (Some("s".to_owned()), Some("f".to_owned()));
    let filter = EventFilter { state, source: source.clone(), feed, bug: None, range };
    store.list_events(&filter, after, 10).await.unwrap();
    store.list_events(&EventFilter { bug: BugId::new(1), ..filter }, after, 10).await.unwrap();
    told.section("an event is shown");
    let request = RequestId::new(NOON_US, [2; 10]);
    store.detail(request.event(0)).await.unwrap().unwrap();
    store.event(request.event(0)).await.unwrap().unwrap();
    store.kept(request.event(0)).await.unwrap().unwrap();
    store.kept_held().await.unwrap();
    told.section("requests are listed");
    let filter = RequestFilter { source, state: Some(RequestState::Partly), key_id: Some("abcdef".to_owned()), range };
    store.requests(&filter, None, 10).await.unwrap();
    store.request(request).await.unwrap().unwrap();
    store.events_of(request).await.unwrap();
    store.body(request).await.unwrap();
    store.last_request("s").await.unwrap();
    told.section("dead letters");
    store.dead_letters(Some("s"), None, 10).await.unwrap();
    store.count_dead_letters().await.unwrap();
    let errored = bugfeed_core::hooks::event::State::Errored;
    store.in_state(errored, Some("s"), Some("f"), None, 10).await.unwrap();
    told.section("the way of a bug");
    store.way(BugId::new(1).unwrap(), Some("f"), 10).await.unwrap();
    store.probe().await.unwrap();
}

async fn access(store: &Store, told: &Recorder) {
    told.section("keys");
    let key = Key::generate(&[1; RANDOM_BYTES]);
    let stored = StoredKey {
        id: key.id().to_owned(),
        hash: key.hash(),
        previous: None,
        name: "n".to_owned(),
        owner: "o".to_owned(),
        scopes: KeyScopes::default(),
        created_us: NOON_US,
        expires_us: None,
        used_us: None,
        revoked_us: None,
    };
    store.add_key(&stored).await.unwrap();
    store.keys().await.unwrap();
    store.change_key(key.id(), &KeyChange { name: Some("m".to_owned()), ..KeyChange::default() }).await.unwrap();
    store.rotate_key(&key, NOON_US, None).await.unwrap();
    store.note_key_uses(&[(key.id().to_owned(), NOON_US)]).await.unwrap();
    store.revoke_key(key.id(), NOON_US).await.unwrap();
    told.section("tokens");
    let token = Token::generate(&[1; tokens::RANDOM_BYTES]);
    let new = NewToken { token: token.clone(), name: "n".to_owned(), scopes: vec![Scope::Read], created_us: NOON_US };
    store.add_token(&new).await.unwrap();
    store.tokens().await.unwrap();
    store.note_token_use(token.id(), NOON_US).await.unwrap();
    store.remove_token(token.id()).await.unwrap();
    told.section("audit, notes, switches");
    let id = RequestId::new(NOON_US, [1; 10]);
    let text = |text: &str| text.to_owned();
    let (who, deed, subject, detail) = (text("w"), text("d"), text("s"), text("{}"));
    store.audit(&Deed { id, at_us: NOON_US, who, deed, subject, detail }).await.unwrap();
    store.audited(Some(id), 10).await.unwrap();
    store.set_note("n", "v").await.unwrap();
    store.set_switch(Switch::Source, "s", Some(NOON_US)).await.unwrap();
    store.switched_off().await.unwrap();
    store.set_switch(Switch::Source, "s", None).await.unwrap();
    told.section("a lease");
    let mut watch = Watch::default();
    assert!(store.try_lease("l", &mut watch).await.unwrap().is_none());
    let lease = store.try_lease("l", &mut watch).await.unwrap().unwrap();
    lease.beat().await.unwrap();
    lease.release().await.unwrap();
}

async fn removed(store: &Store, told: &Recorder) {
    told.section("pruning");
    let request = Some(RequestId::new(NOON_US, [2; 10]));
    let filter =
        PruneFilter { source: Some("s".to_owned()), key_id: Some("abcdef".to_owned()), request, ..Default::default() };
    store.count_prune(&mut PruneRun::new(filter.clone()), &mut PruneCount::default()).await.unwrap();
    store.prune(&mut PruneRun::new(filter), NOON_US).await.unwrap();
    told.section("retention");
    let mut run = store.begin_retention(Keep::default(), NOON_US + 1000 * DAY_US).await.unwrap();
    while !store.retain(&mut run).await.unwrap().is_done {}
}

/// Runs the scenario; what was sent, with words for what is another one each time.
async fn sent(told: &Recorder, url: &str) -> impl Fn() -> String {
    let url: DbUrl = url.parse().unwrap();
    told.section("a store is made");
    let token = Token::generate(&[2; tokens::RANDOM_BYTES]);
    let new = NewToken { token, name: "first".to_owned(), scopes: Scope::ALL.to_vec(), created_us: NOON_US };
    // So the log of attempts has always more than its bound.
    let bounds = Bounds { attempt_bytes: 0, ..Bounds::default() };
    let options = Options { first_token: Some(new), bounds, ..Options::default() };
    let opened = Store::open(&url, options).await.unwrap();
    assert!(opened.is_new);
    let store = opened.store;
    told.section("a feed is served");
    store.serve_feed("f", None).await.unwrap();
    arrives(&store, told).await;
    processed(&store, told).await;
    read(&store, told).await;
    access(&store, told).await;
    endpoints::endpoints(&store, told).await;
    removed(&store, told).await;
    store.close().await;
    let place = url.to_string();
    move || endpoints::without_names(&without_sizes(&told.text().replace(&place, "URL")))
}

/// How many rows a step of retention takes depends on how long the last one took.
fn without_sizes(text: &str) -> String {
    let mut parts = text.split(" LIMIT ");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        out.push_str(" LIMIT N");
        out.push_str(part.trim_start_matches(|c: char| c.is_ascii_digit()));
    }
    out
}

/// Compares the text with the file, or writes the file.
fn compare(file: &str, text: &str) -> Result<(), String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sql_golden/golden").join(file);
    if std::env::var_os("BUGFEED_GOLDEN").is_some_and(|mode| mode == "write") {
        std::fs::write(&path, text).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    for (n, (want, got)) in golden.lines().zip(text.lines()).enumerate() {
        if want != got {
            return Err(format!("{file}, line {}:\n  want {want}\n  got  {got}", n + 1));
        }
    }
    let (want, got) = (golden.lines().count(), text.lines().count());
    if want == got { Ok(()) } else { Err(format!("{file}: {got} lines instead of {want}")) }
}

#[tokio::test]
async fn sqlite() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", dir.path().join("hooks.db").display());
    let told = Recorder::begin().await;
    let text = sent(&told, &url).await;
    // The driver's thread may tell of a statement after its result is there, so the order is not known.
    let complete = async || compare("sqlite.txt", &recorder::sorted(&text()));
    bugfeed_testbed::eventually(Duration::from_secs(10), "all statements of the golden file", complete).await.unwrap();
}

mod real {
    use super::*;

    #[tokio::test]
    async fn mariadb() {
        let Some(server) = shared::mariadb().await else { return };
        let url = server.url(&server.create_database().await.unwrap());
        let told = Recorder::begin().await;
        let text = sent(&told, &url).await;
        compare("mysql.txt", &text()).unwrap();
    }

    #[tokio::test]
    async fn postgres() {
        let Some(server) = shared::postgres().await else { return };
        let url = server.url(&server.create_database().await.unwrap());
        let told = Recorder::begin().await;
        let text = sent(&told, &url).await;
        compare("postgres.txt", &text()).unwrap();
    }
}
