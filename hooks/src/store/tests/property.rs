//! Random arrivals, workers, answers, orders and crashes over the real store: the promises of the simulation
//! (`tests/sim/hooks`) hold for what is in the tables after each step. A failure names its seed; `BUGFEED_STORE_SEED`
//! runs that one alone, `BUGFEED_STORE_SEEDS` so many.

use std::collections::{BTreeMap, BTreeSet};

use bugfeed_core::hooks::action::{Action, Question};
use bugfeed_core::hooks::event::{ErrorClass, Event, EventId, Link, LinkKind, State};
use bugfeed_core::hooks::lane::{DeadLetters, Gate, Lane, LaneKey, Older, Settings, World};
use bugfeed_core::hooks::orders::Order;
use bugfeed_core::hooks::outcome::{Outcome, conclude};
use bugfeed_core::hooks::processor::plan_lane;
use bugfeed_core::hooks::states::{Cause, is_allowed};
use bugfeed_sql::Value;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::rig::{LEASE_US, NOON_US, Rig, SECOND_US, failed, item, look, request_at};
use crate::receive::received::ReceivedItem;
use crate::store::Rule;
use crate::store::apply::{Applied, Plan};
use crate::store::row::{Derived, StoredEvent};

const STEPS: usize = 60;

/// What a worker knows just now. It may be out of date.
#[derive(Default)]
enum Job {
    #[default]
    Idle,
    Read(LaneKey, Lane, i64),
    Asks(Claim),
    Concludes(Claim, Outcome, Lane, i64),
}

#[derive(Clone)]
struct Claim {
    key: LaneKey,
    id: EventId,
    version: u32,
    what: Question,
}

struct Run<'r> {
    rig: &'r Rig,
    random: StdRng,
    settings: Settings,
    now_us: i64,
    jobs: [Job; 2],
    before: BTreeMap<EventId, StoredEvent>,
    arrived: u64,
}

impl Run<'_> {
    fn plan(&self, lane: &Lane, now_us: i64, claim: Option<(&Claim, &Outcome)>) -> Vec<Action> {
        let settings = self.settings;
        let source = move |_: &Event| (settings, Gate::OPEN);
        let world = World { now_us, lease_us: LEASE_US, batch: 8, source: &source };
        match claim {
            None => plan_lane(lane, &world),
            Some((claim, outcome)) => conclude(lane, claim.id, claim.version, outcome, &world),
        }
    }

    async fn arrive(&mut self) {
        let count = self.random.random_range(1..4);
        let mut items: Vec<ReceivedItem> = Vec::new();
        for _ in 0..count {
            self.arrived += 1;
            let bug = self.random.random_range(1..4_u64);
            let repeated = self.random.random_range(0..self.arrived);
            let delivery = if self.random.random_bool(0.3) { repeated } else { self.arrived };
            items.push(match self.random.random_range(0..10) {
                0 => failed(&format!("m{delivery}"), Some("{}")),
                1 => item(bug, -(bug.cast_signed() % 3), ""),
                2 => item(delivery % 3 + 1, 1, &delivery.to_string()),
                _ => item(delivery % 3 + 1, -(delivery.cast_signed() * 7 % 5), &delivery.to_string()),
            });
        }
        let request = request_at(self.now_us, items);
        let told = self.rig.store.accept(&[&request]).await.unwrap();
        assert_eq!(told[0].items.len(), count);
        if self.random.random_bool(0.2) {
            assert_eq!(self.rig.store.accept(&[&request]).await.unwrap(), told, "handed over again");
        }
    }

    async fn work(&mut self, worker: usize) {
        self.jobs[worker] = match std::mem::take(&mut self.jobs[worker]) {
            Job::Idle => {
                let mut due = self.rig.store.due_lanes(&look(self.now_us), false, 10).await.unwrap();
                due.extend(self.rig.store.due_lanes(&look(self.now_us), true, 10).await.unwrap());
                if due.is_empty() {
                    return;
                }
                let key = due.swap_remove(self.random.random_range(0..due.len())).key;
                let lane = self.rig.store.lane(&key, &look(self.now_us)).await.unwrap();
                Job::Read(key, lane, self.now_us)
            }
            Job::Read(key, lane, at_us) => {
                let plan = Plan { now_us: at_us, actions: self.plan(&lane, at_us, None), reasons: Vec::new() };
                let applied = self.rig.store.apply(&plan).await.unwrap();
                let ask = plan.actions.iter().find_map(|action| match action {
                    Action::Ask { id, version, what, .. } => Some((*id, *version, *what)),
                    _ => None,
                });
                match ask.filter(|_| applied == Applied::Done) {
                    Some((id, version, what)) => Job::Asks(Claim { key, id, version, what }),
                    None => Job::Idle,
                }
            }
            Job::Asks(claim) => {
                let outcome = self.outcome(&claim);
                let lane = self.rig.store.lane(&claim.key, &look(self.now_us)).await.unwrap();
                Job::Concludes(claim, outcome, lane, self.now_us)
            }
            Job::Concludes(claim, outcome, lane, at_us) => {
                let actions = self.plan(&lane, at_us, Some((&claim, &outcome)));
                let plan = Plan { now_us: at_us, actions, reasons: Vec::new() };
                match self.rig.store.apply(&plan).await.unwrap() {
                    Applied::Done => Job::Idle,
                    Applied::Stale | Applied::Refused => Job::Asks(claim),
                }
            }
        };
    }

    fn outcome(&mut self, claim: &Claim) -> Outcome {
        let fails = self.random.random_bool(0.3);
        match claim.what {
            _ if self.random.random_bool(0.1) => Outcome::GivenBack,
            Question::Look if fails => Outcome::Failed(ErrorClass::Tracker),
            Question::Look => Outcome::Visible,
            Question::Map if fails => Outcome::Failed(ErrorClass::Mapping),
            Question::Map => Outcome::Mapped(bugfeed_core::hooks::action::Mapped {
                feed: "f".into(),
                bug: bugfeed_protocol::BugId::new(self.random.random_range(1..4)).unwrap(),
                when: bugfeed_protocol::When::from_micros(NOON_US).unwrap(),
                origin: bugfeed_core::hooks::event::WhenOrigin::Tracker,
                private: false,
                hash: bugfeed_core::hooks::event::ContentHash([9; 32]),
            }),
        }
    }

    async fn order(&mut self) {
        let open = self.rig.store.in_state(State::Errored, None, None, None, 100).await.unwrap();
        if open.is_empty() {
            return;
        }
        let id = open[self.random.random_range(0..open.len())];
        let order = match self.random.random_range(0..4) {
            0 => Order::Release,
            1 => Order::Drop,
            2 => Order::Retry,
            _ => Order::Mended(ErrorClass::Tracker),
        };
        self.rig.store.order(id, order, self.now_us).await.unwrap();
    }

    async fn step(&mut self) {
        match self.random.random_range(0..20) {
            0..5 => self.arrive().await,
            5..15 => {
                let worker = self.random.random_range(0..2);
                self.work(worker).await;
            }
            15 => self.order().await,
            16 => {
                let worker = self.random.random_range(0..2);
                self.jobs[worker] = Job::Idle;
            }
            _ => self.tick().await,
        }
    }

    async fn tick(&mut self) {
        self.now_us += self.random.random_range(0..3) * SECOND_US;
        if self.random.random_bool(0.3) {
            self.now_us = self.rig.store.next_due(self.now_us).await.unwrap().unwrap_or(self.now_us);
        }
    }

    /// What holds after each step.
    async fn check(&mut self) {
        let all: BTreeMap<EventId, StoredEvent> =
            self.rig.all().await.into_iter().map(|stored| (stored.event.id, stored)).collect();
        let mut busy = BTreeSet::new();
        for (id, stored) in &all {
            let (event, progress) = (&stored.event, &stored.event.progress);
            if let Some(old) = self.before.get(id).filter(|old| old.event.progress.state.is_terminal()) {
                assert_eq!(old, stored, "a terminal row has changed");
            }
            let waits = matches!(progress.state, State::Queued | State::Errored);
            assert!(!waits || progress.due_us.is_some() || progress.blocked_by.is_some(), "{id} is never due");
            assert_eq!(stored.row.is_some(), progress.state == State::Completed);
            if progress.state == State::Processing {
                assert!(busy.insert(LaneKey::of(event)), "two events of a lane are processed");
            }
            let Some(by) = progress.blocked_by else { continue };
            let head = &all[&by].event;
            assert!(!head.progress.state.is_terminal(), "{id} waits behind {by}, which is {}", head.progress.state);
            assert!(LaneKey::of(head) == LaneKey::of(event) && waits && progress.due_us.is_none());
        }
        self.check_rows(&all).await;
        self.check_columns(&all).await;
        self.before = all;
    }

    async fn check_rows(&self, all: &BTreeMap<EventId, StoredEvent>) {
        let mut rows: BTreeMap<i64, i64> = self.rig.rows().await.into_iter().collect();
        for stored in all.values().filter(|stored| stored.event.progress.state == State::Completed) {
            let bug = rows.remove(&stored.row.unwrap());
            assert_eq!(bug, stored.event.bug.map(|bug| bug.get().cast_signed()), "the row of {}", stored.event.id);
        }
        assert!(rows.is_empty(), "rows of no completed event: {rows:?}");
    }

    /// The columns that follow from others.
    async fn check_columns(&self, all: &BTreeMap<EventId, StoredEvent>) {
        let sql = "SELECT id, lane, open_lane, busy, paced, shelf FROM hooks_events ORDER BY id";
        let rows = self.rig.store.db.fetch(sql, &[]).await.unwrap();
        for (row, stored) in rows.into_iter().zip(all.values()) {
            let derived = Derived::of(&stored.event.progress);
            let lane = Value::Int(crate::store::codes::lane(&LaneKey::of(&stored.event)));
            let lane_if = |set: bool| if set { lane.clone() } else { Value::Null };
            let want = [
                Value::Text(stored.event.id.to_string()),
                lane.clone(),
                lane_if(derived.is_open),
                lane_if(derived.is_busy),
                Value::Int(derived.paced.into()),
                derived.shelf.map_or(Value::Null, Value::Int),
            ];
            assert_eq!(row, want);
        }
    }

    /// Nothing fails any more: everything must end.
    async fn end(&mut self) {
        self.settings.verify = false;
        for _ in 0..600 {
            let busy = self.jobs.iter().position(|job| !matches!(job, Job::Idle));
            if let Some(worker) = busy {
                self.work(worker).await;
                continue;
            }
            let due = self.rig.store.due_lanes(&look(self.now_us), false, 1).await.unwrap().len()
                + self.rig.store.due_lanes(&look(self.now_us), true, 1).await.unwrap().len();
            if due > 0 {
                self.work(0).await;
            } else if let Some(next_us) = self.rig.store.next_due(self.now_us).await.unwrap() {
                self.now_us = next_us;
            } else {
                break;
            }
        }
        self.check().await;
        let open: Vec<_> = self.before.values().filter(|stored| !stored.event.progress.state.is_terminal()).collect();
        assert!(open.is_empty(), "these never end: {open:?}");
    }

    /// At the end, no delivery was announced twice, and links say the truth.
    async fn announced(&self) {
        let mut announced: BTreeMap<_, usize> = BTreeMap::new();
        for stored in self.before.values() {
            let event = &stored.event;
            if let (State::Completed, Some(delivery)) = (event.progress.state, &event.delivery) {
                *announced.entry((delivery.id.clone(), delivery.item, event.hash)).or_default() += 1;
            }
        }
        assert!(announced.values().all(|count| *count == 1), "announced twice: {announced:?}");
        let ids: Vec<EventId> = self.before.keys().copied().collect();
        for (id, links) in self.rig.store.links(&ids).await.unwrap() {
            for Link { kind, to } in links {
                let (state, other) = (self.before[&id].event.progress.state, self.before[&to].event.progress.state);
                let fits = match kind {
                    LinkKind::DroppedFor => state == State::Dropped && other == State::Completed,
                    LinkKind::CanceledBy => state == State::Canceled && other == State::Completed,
                    LinkKind::DuplicateOf => state == State::Duplicate,
                    LinkKind::SameTimeAs | LinkKind::SameDeliveryAs => true,
                };
                assert!(fits, "{id} is {state} and has {kind} to {to}, which is {other}");
            }
        }
    }

    async fn check_lines(&self) {
        let sql = "SELECT event, version, before_state, cause, after_state FROM hooks_lines ORDER BY event, version";
        for row in self.rig.store.db.fetch(sql, &[]).await.unwrap() {
            let mut row = crate::store::cells::Columns::of(row);
            let (_, _) = (row.text().unwrap(), row.int().unwrap());
            let before = row.maybe_text().unwrap().map(|text| State::parse(&text).unwrap());
            let cause = Cause::parse(&row.text().unwrap()).unwrap();
            let after = State::parse(&row.text().unwrap()).unwrap();
            assert!(is_allowed(before, cause, after), "{before:?} {cause} {after}");
        }
    }
}

async fn run(seed: u64) {
    let rig = Rig::sqlite().await;
    let mut random = StdRng::seed_from_u64(seed);
    let settings = Settings {
        verify: random.random_bool(0.6),
        dead_letters: if random.random_bool(0.5) { DeadLetters::Hold } else { DeadLetters::Supersede },
        older: if random.random_bool(0.3) { Older::Drop } else { Older::Announce },
        ..Settings::DEFAULT
    };
    let rule = Rule { settings, duplicates: bugfeed_core::hooks::arrival::Duplicates::ByContent };
    rig.store.set_rules(std::sync::Arc::new(move |_: &Event| rule));
    let mut world = Run {
        rig: &rig,
        random,
        settings,
        now_us: NOON_US,
        jobs: [Job::Idle, Job::Idle],
        before: BTreeMap::new(),
        arrived: 0,
    };
    for _ in 0..STEPS {
        world.step().await;
        world.check().await;
    }
    world.end().await;
    world.announced().await;
    world.check_lines().await;
    rig.store.close().await;
}

#[test]
fn random_arrivals_workers_and_crashes_keep_the_promises() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seeds = match number("BUGFEED_STORE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("BUGFEED_STORE_SEEDS").unwrap_or(30),
    };
    for seed in seeds {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| runtime.block_on(run(seed))));
        assert!(done.is_ok(), "seed {seed}");
    }
}
