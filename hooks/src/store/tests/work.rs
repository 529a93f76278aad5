//! Plans of the core are carried out.

use std::collections::BTreeSet;

use bugfeed_core::hooks::action::{Action, Mapped};
use bugfeed_core::hooks::event::{AT_ONCE, ContentHash, ErrorClass, State, WhenOrigin};
use bugfeed_core::hooks::lane::{DeadLetters, Gate, Lane, LaneKey, Older, Settings, World};
use bugfeed_core::hooks::outcome::{Outcome, conclude};
use bugfeed_protocol::{BugId, When};
use bugfeed_sql::Value;

use super::rig::{LEASE_US, NOON_US, Rig, SECOND_US, failed, item, lane_of, look, plan, request_at, work};
use crate::receive::identity::Sha256;
use crate::receive::received::{Failure, ReceivedItem};
use crate::store::apply::{Applied, Plan};
use crate::store::{lanes, paced};

const VERIFY: Settings = Settings { verify: true, ..Settings::DEFAULT };

/// What follows from an answer about the event that this plan has claimed.
async fn answer(rig: &Rig, claim: &Plan, outcome: &Outcome, settings: Settings) -> Plan {
    let asked = claim.actions.iter().find_map(|action| match action {
        Action::Ask { id, version, .. } => Some((*id, *version)),
        _ => None,
    });
    let (id, version) = asked.expect("a question");
    let event = rig.store.event(id).await.unwrap().unwrap();
    let lane = rig.store.lane(&LaneKey::of(&event), &look(claim.now_us)).await.unwrap();
    let source = move |_: &_| (settings, Gate::OPEN);
    let world = World { now_us: claim.now_us, lease_us: LEASE_US, batch: 32, source: &source };
    let failure = Failure { error: "the tracker is away".to_owned(), fix: "wait".to_owned() };
    Plan { now_us: claim.now_us, actions: conclude(&lane, id, version, outcome, &world), reasons: vec![(id, failure)] }
}

pub(super) async fn ordinary_events_are_completed_together(rig: &Rig) {
    let items: Vec<ReceivedItem> = (0..400).map(|n| item(1 + n % 100, (n / 100).cast_signed(), "d")).collect();
    rig.store.accept(&[&rig.request(items)]).await.unwrap();
    let now_us = NOON_US + 60 * SECOND_US;
    let due = rig.store.due_lanes(&look(now_us), false, 1000).await.unwrap();
    assert_eq!(due.len(), 100);
    let keys: Vec<LaneKey> = due.into_iter().map(|due| due.key).collect();
    let lanes = rig.store.lanes(&keys, &look(NOON_US + SECOND_US)).await.unwrap();
    let source = |_: &_| (Settings::DEFAULT, Gate::OPEN);
    let world = World { now_us, lease_us: LEASE_US, batch: 32, source: &source };
    let plan =
        |lane| Plan { now_us, actions: bugfeed_core::hooks::processor::plan_lane(lane, &world), reasons: vec![] };
    let plans: Vec<Plan> = lanes.iter().map(plan).collect();
    let applied = rig.store.apply_many(&plans).await.unwrap();
    assert!(applied.iter().all(|applied| *applied == Applied::Done));
    let rows = rig.rows().await;
    assert_eq!(rows.len(), 400);
    let mut seen = BTreeSet::new();
    for stored in rig.all().await {
        let (event, progress) = (&stored.event, &stored.event.progress);
        assert_eq!((progress.state, progress.due_us, progress.ended_us), (State::Completed, None, Some(now_us)));
        let row = stored.row.unwrap();
        assert!(rows.contains(&(row, event.bug.unwrap().get().cast_signed())), "row {row} is of another bug");
        assert!(seen.insert(row));
    }
    // The change table has what the tracker said, to the second.
    let table = rig.store.change_table("f").unwrap();
    let sql = format!(
        "SELECT {} FROM {table} WHERE bug_id = 7 ORDER BY id LIMIT 1",
        rig.store.db.dialect().text("delta_ts", 30)
    );
    let text = super::rig::texts(&rig.store, &sql).await;
    assert!(text[0].starts_with("2026-11-26 12:00:00"), "{text:?}");
    assert_eq!(rig.store.due_lanes(&look(now_us), false, 10).await.unwrap(), []);
    assert_eq!(rig.count("hooks_lines").await, 0, "the ordinary way is in the row");
    let detail = rig.store.detail(rig.all().await[0].event.id).await.unwrap().unwrap();
    let lines: Vec<_> = detail.lines.iter().map(|line| (line.at_us, line.before, line.after.unwrap())).collect();
    let (queued, processing) = (Some(State::Queued), Some(State::Processing));
    let received_us = detail.stored.event.received_us;
    let want = [
        (received_us, None, State::Queued),
        (now_us, queued, State::Processing),
        (now_us, processing, State::Completed),
    ];
    assert_eq!(lines, want, "people read it as lines all the same");
    // All plans are stale now.
    let applied = rig.store.apply_many(&plans[..3]).await.unwrap();
    assert_eq!(applied, [Applied::Stale; 3]);
    assert_eq!(rig.rows().await.len(), 400);
}

pub(super) async fn one_stale_plan_does_not_stop_the_others(rig: &Rig) {
    for bug in 1..=3 {
        rig.arrive(item(bug, 0, "d")).await;
    }
    let now_us = NOON_US + SECOND_US;
    let mut plans = Vec::new();
    for bug in 1..=3 {
        plans.push(plan(&rig.store, &lane_of(bug), now_us, Settings::DEFAULT).await);
    }
    assert_eq!(rig.store.apply(&plans[1]).await.unwrap(), Applied::Done);
    let applied = rig.store.apply_many(&plans).await.unwrap();
    assert_eq!(applied, [Applied::Done, Applied::Stale, Applied::Done]);
    assert_eq!(rig.rows().await.len(), 3);
    // A feed without a table.
    rig.arrive(ReceivedItem { feed: "nowhere".to_owned(), ..item(8, 0, "x") }).await;
    rig.arrive(item(9, 0, "x")).await;
    let nowhere = LaneKey::Bug("nowhere".into(), BugId::new(8).unwrap());
    let plans = [
        plan(&rig.store, &nowhere, now_us, Settings::DEFAULT).await,
        plan(&rig.store, &lane_of(9), now_us, Settings::DEFAULT).await,
    ];
    assert_eq!(rig.store.apply_many(&plans).await.unwrap(), [Applied::Refused, Applied::Done]);
    assert!(rig.store.apply(&plans[0]).await.is_err());
}

pub(super) async fn a_dead_letter_holds_its_chain_and_lets_it_go(rig: &Rig) {
    let head = rig.arrive(item(1, 0, "d")).await;
    let now_us = NOON_US + SECOND_US;
    let claim = plan(&rig.store, &lane_of(1), now_us, VERIFY).await;
    assert_eq!(rig.store.apply(&claim).await.unwrap(), Applied::Done);
    assert_eq!(rig.state(head).await, State::Processing);
    let failed = answer(rig, &claim, &Outcome::Failed(ErrorClass::Tracker), VERIFY).await;
    assert_eq!(rig.store.apply(&failed).await.unwrap(), Applied::Done);
    assert_eq!(rig.store.apply(&failed).await.unwrap(), Applied::Stale);
    let behind: Vec<_> = [rig.arrive(item(1, 5, "e")).await, rig.arrive(item(1, 6, "f")).await].into();
    // The new events try the head at once, and wait behind it.
    let claim = plan(&rig.store, &lane_of(1), now_us + SECOND_US, VERIFY).await;
    assert_eq!(rig.store.apply(&claim).await.unwrap(), Applied::Done);
    for id in &behind {
        assert_eq!(rig.stored(*id).await.event.progress.blocked_by, Some(head));
    }
    let dead = rig.store.dead_letters(None, None, 10).await.unwrap();
    assert_eq!(dead.len(), 0, "it is being tried");
    let failed = answer(rig, &claim, &Outcome::Failed(ErrorClass::Tracker), VERIFY).await;
    rig.store.apply(&failed).await.unwrap();
    let dead = rig.store.dead_letters(Some("s"), None, 10).await.unwrap();
    assert_eq!((dead.len(), dead[0].head.event.id, dead[0].waiting), (1, head, 2));
    assert_eq!(dead[0].reason.as_ref().unwrap().error, "the tracker is away");
    assert_eq!(rig.store.count_dead_letters().await.unwrap(), 1);
    // It succeeds at last, and the others follow in order.
    let late_us = now_us + 3600 * SECOND_US;
    let claim = plan(&rig.store, &lane_of(1), late_us, VERIFY).await;
    rig.store.apply(&claim).await.unwrap();
    let done = answer(rig, &claim, &Outcome::Visible, VERIFY).await;
    assert_eq!(rig.store.apply(&done).await.unwrap(), Applied::Done);
    for id in &behind {
        let progress = rig.stored(*id).await.event.progress;
        assert_eq!((progress.blocked_by, progress.due_us), (None, Some(AT_ONCE)));
    }
    work(&rig.store, late_us, Settings::DEFAULT).await;
    assert_eq!(rig.rows().await.len(), 3);
    let detail = rig.store.detail(head).await.unwrap().unwrap();
    let causes: Vec<String> = detail.lines.iter().map(|line| line.cause.unwrap().to_string()).collect();
    assert_eq!(causes, ["accepted", "failed", "claimed", "failed", "claimed", "announced"]);
    assert!(detail.lines.is_sorted_by_key(|line| line.at_us));
    let stored: Vec<u32> = detail.lines.iter().filter_map(|line| line.version).collect();
    assert!(stored.len() == 4 && stored.is_sorted(), "{stored:?}");
}

pub(super) async fn one_event_of_a_lane_is_processed_at_a_time(rig: &Rig) {
    rig.arrive(item(1, 0, "d")).await;
    rig.arrive(item(1, 1, "e")).await;
    let now_us = NOON_US + SECOND_US;
    let whole = rig.store.lane(&lane_of(1), &look(NOON_US + SECOND_US)).await.unwrap();
    let claim = |index: usize| {
        let lane = Lane { open: vec![whole.open[index].clone()], ..Lane::default() };
        let source = |_: &_| (VERIFY, Gate::OPEN);
        let world = World { now_us, lease_us: LEASE_US, batch: 1, source: &source };
        Plan { now_us, actions: bugfeed_core::hooks::processor::plan_lane(&lane, &world), reasons: vec![] }
    };
    assert_eq!(rig.store.apply(&claim(0)).await.unwrap(), Applied::Done);
    assert_eq!(rig.store.apply(&claim(1)).await.unwrap(), Applied::Stale, "the unique index");
    // A lane in which an event is processed is due when the lease ends.
    assert_eq!(rig.store.due_lanes(&look(now_us), false, 10).await.unwrap(), []);
    assert_eq!(rig.store.next_due(now_us).await.unwrap(), Some(now_us + 60 * SECOND_US));
    let due = rig.store.due_lanes(&look(now_us + 61 * SECOND_US), false, 10).await.unwrap();
    assert_eq!(due.len(), 1);
}

pub(super) async fn a_repeated_mapping_moves_an_event_to_its_lane(rig: &Rig) {
    let id = rig.arrive(failed("d", Some("{\"x\":1}"))).await;
    let now_us = NOON_US + 120 * SECOND_US;
    let due = rig.store.due_lanes(&look(now_us), true, 10).await.unwrap();
    assert_eq!(due[0].key, LaneKey::Alone(id));
    let claim = plan(&rig.store, &LaneKey::Alone(id), now_us, Settings::DEFAULT).await;
    assert_eq!(rig.store.apply(&claim).await.unwrap(), Applied::Done);
    let mapped = Mapped {
        feed: "f".into(),
        bug: BugId::new(77).unwrap(),
        when: When::from_micros(NOON_US - SECOND_US).unwrap(),
        origin: WhenOrigin::Tracker,
        private: false,
        hash: ContentHash([3; 32]),
    };
    let moved = answer(rig, &claim, &Outcome::Mapped(mapped), Settings::DEFAULT).await;
    let moved = Plan { reasons: Vec::new(), ..moved };
    assert_eq!(rig.store.apply(&moved).await.unwrap(), Applied::Done);
    assert!(rig.store.kept(id).await.unwrap().is_none(), "its mapping is done");
    let lane = rig.store.lane(&lane_of(77), &look(NOON_US + SECOND_US)).await.unwrap();
    assert_eq!(lane.open.len(), 1);
    rig.work(now_us + SECOND_US).await;
    assert_eq!(rig.state(id).await, State::Completed);
    assert_eq!(rig.rows().await[0].1, 77);
    assert_eq!(rig.stored(id).await.event.hash, ContentHash([3; 32]), "a repeat of it is recognised by what it says");
    let repeat = ReceivedItem { hash: Sha256([3; 32]), ..item(77, 0, "d") };
    let repeat = rig.arrive(repeat).await;
    assert_eq!(rig.state(repeat).await, State::Duplicate);
}

pub(super) async fn a_newer_event_supersedes_a_long_chain(rig: &Rig) {
    const SUPERSEDE: Settings = Settings { dead_letters: DeadLetters::Supersede, ..VERIFY };
    let last_us = NOON_US + 500 * SECOND_US;
    let mut claim = Plan::default();
    for n in 0..80_i64 {
        rig.arrive(item(1, n, &n.to_string())).await;
        let is_last = n == 79;
        claim =
            plan(&rig.store, &lane_of(1), if is_last { last_us } else { NOON_US + 80 * SECOND_US }, SUPERSEDE).await;
        if !is_last {
            assert_eq!(rig.store.apply(&claim).await.unwrap(), Applied::Done);
            let failed = answer(rig, &claim, &Outcome::Failed(ErrorClass::Tracker), SUPERSEDE).await;
            assert_eq!(rig.store.apply(&failed).await.unwrap(), Applied::Done);
        }
    }
    // All dead letters wait for their next try, but the newest event is new.
    rig.store.db.execute("UPDATE hooks_events SET due_us = due_us + 3600000000 WHERE state = 6", &[]).await.unwrap();
    claim = plan(&rig.store, &lane_of(1), claim.now_us, SUPERSEDE).await;
    assert_eq!(rig.store.apply(&claim).await.unwrap(), Applied::Done);
    let done = answer(rig, &claim, &Outcome::Visible, SUPERSEDE).await;
    assert_eq!(rig.store.apply(&done).await.unwrap(), Applied::Done);
    let states: Vec<State> = rig.all().await.into_iter().map(|stored| stored.event.progress.state).collect();
    let count = |state| states.iter().filter(|found| **found == state).count();
    assert_eq!((count(State::Canceled), count(State::Completed)), (79, 1));
}

pub(super) async fn a_feed_whose_table_is_gone_holds_up_no_other(rig: &Rig) {
    rig.store.serve_feed("g", None).await.unwrap();
    let table = rig.store.change_table("g").unwrap();
    rig.store.db.execute(&format!("DROP TABLE {table}"), &[]).await.unwrap();
    rig.arrive(ReceivedItem { feed: "g".to_owned(), ..item(8, 0, "x") }).await;
    rig.arrive(item(9, 0, "x")).await;
    let of_g = LaneKey::Bug("g".into(), BugId::new(8).unwrap());
    let now_us = NOON_US + SECOND_US;
    let plans = [
        plan(&rig.store, &of_g, now_us, Settings::DEFAULT).await,
        plan(&rig.store, &lane_of(9), now_us, Settings::DEFAULT).await,
    ];
    assert_eq!(rig.store.apply_many(&plans).await.unwrap(), [Applied::Refused, Applied::Done]);
    assert_eq!(rig.rows().await.len(), 1);
}

pub(super) async fn paced_lanes_of_each_source(rig: &Rig) {
    let from = |source: &str, delivery: &str| {
        let mut request = rig.request(vec![failed(delivery, Some("{}"))]);
        request.envelope.source = source.to_owned();
        request
    };
    let mut requests: Vec<_> = (0..50).map(|n| from("many", &n.to_string())).collect();
    requests.push(from("few", "x"));
    let all: Vec<&_> = requests.iter().collect();
    rig.store.accept(&all).await.unwrap();
    rig.arrive(item(1, 0, "live")).await;
    let look = look(NOON_US + 120 * SECOND_US);
    assert_eq!(rig.store.paced_sources().await.unwrap(), ["few", "many"]);
    assert_eq!(rig.store.due_paced("many", &look, 10).await.unwrap().len(), 10);
    let few = rig.store.due_paced("few", &look, 10).await.unwrap();
    assert_eq!(few, [LaneKey::Alone(requests[50].envelope.id.event(0))]);
    assert_eq!(rig.store.due_paced("other", &look, 10).await.unwrap(), []);
    assert_eq!(rig.store.to_probe("few").await.unwrap(), None, "no bug");
    // A dead letter of class tracker.
    let claim = plan(&rig.store, &lane_of(1), look.now_us, VERIFY).await;
    rig.store.apply(&claim).await.unwrap();
    assert_eq!(rig.store.to_probe("s").await.unwrap(), None, "it is asked about");
    rig.store.apply(&answer(rig, &claim, &Outcome::Failed(ErrorClass::Tracker), VERIFY).await).await.unwrap();
    assert_eq!(rig.store.to_probe("s").await.unwrap().unwrap().bug, BugId::new(1));
    assert_eq!(rig.store.to_probe("few").await.unwrap(), None);
}

pub(super) async fn what_is_due(rig: &Rig) {
    let now_us = NOON_US + SECOND_US;
    assert_eq!(rig.store.next_due(now_us).await.unwrap(), None);
    for bug in 1..=20 {
        rig.arrive(item(bug, 0, "d")).await;
        rig.arrive(item(bug, 1, "e")).await;
    }
    rig.arrive(failed("x", Some("{}"))).await;
    assert_eq!(rig.store.due_lanes(&look(now_us), false, 5).await.unwrap().len(), 5);
    assert_eq!(rig.store.due_lanes(&look(now_us), false, 100).await.unwrap().len(), 20);
    assert_eq!(rig.store.due_lanes(&look(now_us), true, 100).await.unwrap().len(), 0);
    assert_eq!(rig.store.backlog(now_us).await.unwrap(), 40);
    let paced = rig.store.due_lanes(&look(now_us + 61 * SECOND_US), true, 100).await.unwrap();
    assert!(paced.len() == 1 && paced[0].is_paced);
    // A time from a clock that was wrong does not keep anything for ever.
    rig.store.db.execute("UPDATE hooks_events SET due_us = due_us + 100000000000000 WHERE bug = 1", &[]).await.unwrap();
    let due = rig.store.due_lanes(&look(now_us), false, 100).await.unwrap();
    assert!(due.iter().any(|due| due.key == lane_of(1)));
}

pub(super) async fn lanes_together_are_as_lanes_alone(rig: &Rig) {
    let mut keys = vec![lane_of(999), LaneKey::Alone(rig.arrive(failed("x", Some("{}"))).await)];
    for n in 0..200_u64 {
        // The lane of bug 10 is too long to be read together with others.
        let bug = if n % 2 == 0 { 10 } else { n % 9 + 1 };
        rig.arrive(item(bug, n.cast_signed() % 5, &format!("d{n}"))).await;
    }
    keys.extend((1..=10).map(lane_of));
    // A lane with an event that is processed, and one that repeats an errored event.
    let claim = plan(&rig.store, &lane_of(1), NOON_US + SECOND_US, VERIFY).await;
    rig.store.apply(&claim).await.unwrap();
    let claim = plan(&rig.store, &lane_of(2), NOON_US + SECOND_US, VERIFY).await;
    rig.store.apply(&claim).await.unwrap();
    rig.store.apply(&answer(rig, &claim, &Outcome::Failed(ErrorClass::Tracker), VERIFY).await).await.unwrap();
    let errored = rig.store.lane(&lane_of(2), &look(NOON_US + SECOND_US)).await.unwrap();
    let errored = errored.open.iter().find(|event| event.progress.state == State::Errored).unwrap().clone();
    let received = item(2, (errored.when.as_micros() - NOON_US) / SECOND_US, &errored.delivery.unwrap().id);
    rig.arrive(received).await;
    // A completed event that is newer than open ones.
    work_one(rig, 3).await;
    let together = rig.store.lanes(&keys, &look(NOON_US + SECOND_US)).await.unwrap();
    let mut related = 0;
    for (key, mut lane) in keys.iter().zip(together) {
        let mut alone = rig.store.lane(key, &look(NOON_US + SECOND_US)).await.unwrap();
        for lane in [&mut lane, &mut alone] {
            lane.open.sort_by_key(|event| event.id);
            lane.related.sort_by_key(|event| event.id);
            related += lane.related.len();
        }
        assert_eq!(lane, alone, "{key:?}");
    }
    assert!(related > 0);
}

/// Completes the newest event of a bug only.
async fn work_one(rig: &Rig, bug: u64) {
    let mut lane = rig.store.lane(&lane_of(bug), &look(NOON_US + SECOND_US)).await.unwrap();
    lane.open.sort_by_key(|event| std::cmp::Reverse(event.when));
    lane.open.truncate(1);
    let settings = Settings { older: Older::Announce, ..Settings::DEFAULT };
    let source = move |_: &_| (settings, Gate::OPEN);
    let world = World { now_us: NOON_US + SECOND_US, lease_us: LEASE_US, batch: 1, source: &source };
    let actions = bugfeed_core::hooks::processor::plan_lane(&lane, &world);
    let plan = Plan { now_us: NOON_US + SECOND_US, actions, reasons: Vec::new() };
    assert_eq!(rig.store.apply(&plan).await.unwrap(), Applied::Done);
}

pub(super) async fn two_workers_share_the_work(rig: &Rig) {
    for n in 0..60_u64 {
        rig.arrive(item(n % 6 + 1, n.cast_signed(), &n.to_string())).await;
    }
    let other = rig.other().await;
    let now_us = NOON_US + 60 * SECOND_US;
    let settings = Settings { dead_letters: DeadLetters::Hold, ..Settings::DEFAULT };
    tokio::join!(work(&rig.store, now_us, settings), work(&other, now_us, settings));
    let all = rig.all().await;
    let completed = all.iter().filter(|stored| stored.event.progress.state == State::Completed).count();
    assert!(all.iter().all(|stored| stored.event.progress.state.is_terminal()));
    assert_eq!(rig.rows().await.len(), completed, "each completed event has one row");
    other.close().await;
}

pub(super) async fn a_row_that_cannot_be_read_holds_up_no_other(rig: &Rig) {
    let broken = rig.arrive(item(1, 0, "broken")).await;
    let behind = rig.arrive(item(1, 1, "behind")).await;
    let other = rig.arrive(item(2, 0, "other")).await;
    let sql = "UPDATE hooks_events SET hash = 'none' WHERE id = ?";
    rig.store.db.execute(sql, &[bugfeed_sql::Value::Text(broken.to_string())]).await.unwrap();
    let now_us = NOON_US + 60 * SECOND_US;
    let due = rig.store.due_lanes(&look(now_us), false, 10).await.unwrap();
    assert_eq!(due.len(), 2);
    let mut plans = Vec::new();
    for due in due {
        plans.push(plan(&rig.store, &due.key, now_us, Settings::DEFAULT).await);
    }
    assert_eq!(rig.store.apply_many(&plans).await.unwrap(), [Applied::Done; 2]);
    assert_eq!((rig.state(behind).await, rig.state(other).await), (State::Completed, State::Completed));
    let page = rig.store.list_events(&crate::store::events::EventFilter::default(), None, 10).await.unwrap();
    assert_eq!(page.events.len(), 2, "people see the others");
    assert!(rig.store.detail(broken).await.is_err(), "and are told of this one");
    // A repeat of it is an event of its own.
    let again = rig.arrive(item(1, 0, "broken")).await;
    assert_eq!(rig.state(again).await, State::Queued);
}

pub(super) async fn a_clock_that_jumps_loses_nothing(rig: &Rig) {
    // A day ahead, then back, then two days back; the same bug, and a repeat on either side of the jump.
    const DAY_US: i64 = 86_400 * SECOND_US;
    let mut told = Vec::new();
    for (at_us, second, delivery) in [
        (NOON_US + DAY_US, 1, "a"),
        (NOON_US, 2, "b"),
        (NOON_US, 1, "a"),
        (NOON_US - 2 * DAY_US, 3, "c"),
        (NOON_US + DAY_US, 4, "d"),
    ] {
        let request = request_at(at_us, vec![item(1, second, delivery)]);
        told.push(rig.store.accept(&[&request]).await.unwrap().pop().unwrap().items[0].state);
        // The worker has the same clock.
        rig.work(at_us + SECOND_US).await;
    }
    assert_eq!(told, [State::Queued, State::Queued, State::Duplicate, State::Queued, State::Queued]);
    let states: Vec<State> = rig.all().await.iter().map(|stored| stored.event.progress.state).collect();
    assert_eq!(states.iter().filter(|state| **state == State::Completed).count(), 4, "{states:?}");
    assert_eq!(rig.rows().await.len(), 4);
}

/// 100,000 dead letters that wait for hours must not be read each time that somebody looks for a claim that is over.
#[tokio::test]
async fn claims_are_not_looked_for_among_all_that_waits() {
    let rig = Rig::sqlite().await;
    let plan = async |sql: String, args: &[Value]| {
        let rows = rig.store.lanes.fetch(&format!("EXPLAIN QUERY PLAN {sql}"), args).await.unwrap();
        rows.into_iter().filter_map(|row| row.into_iter().last()?.into_text()).collect::<Vec<_>>().join("\n")
    };
    let int = Value::Int;
    let told = plan(lanes::due_sql(lanes::CLAIMED, "", 100), &[int(1), int(2), int(3), int(4)]).await;
    assert!(told.starts_with("SEARCH e USING INDEX hooks_events_busy"), "{told}");
    let source = Value::Text("s".to_owned());
    let told = plan(paced::due_sql(paced::CLAIMED, 100), &[source, int(2), int(3), int(4)]).await;
    assert!(told.contains("SEARCH c USING INDEX hooks_events_busy"), "{told}");
    assert!(told.starts_with("SEARCH e USING INDEX hooks_events_source (source=? AND id=?)"), "{told}");
}
