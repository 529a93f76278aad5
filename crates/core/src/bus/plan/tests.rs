//! The plan: what is said to each row of events, second by second.

use bugfeed_protocol::bus::Head;
use bugfeed_protocol::{Cursor, Epoch, When};

use super::*;
use crate::bus::publishers::Publisher;
use crate::sequencer::HeadStands::{self, Behind, Even, Forked, OtherEpoch, Within};

const OWN: Queue = Queue::New;
const KEPT: Queue = Queue::Durable { kept: true };
const WAITS: Option<&str> = Some("change table");

/// What happens in a row of a test. `Waiting`: a connection to a queue in which so many messages wait.
#[derive(Clone, Copy, Debug)]
enum Ev {
    Up(Queue),
    Waiting(Queue, u64),
    Lost,
    Read(bool),
    Failed(bool),
    Hole,
    Next(&'static str),
    Other(&'static str),
    Head(&'static str, HeadStands),
    Waits(&'static str),
    Judged(HeadStands),
    HeadsBound(bool),
    Tick,
}

/// An action in a word.
fn word(action: &Step) -> String {
    match action {
        Step::ReadHistory { .. } => "read".to_owned(),
        Step::Judge => "judge".to_owned(),
        Step::Rebind => "rebind".to_owned(),
        Step::TakeWithGap => "anyway".to_owned(),
        Step::Hold(held) => if *held { "hold" } else { "release" }.to_owned(),
        Step::Lose => "lose".to_owned(),
        Step::GoOnAfter(cursor, why) => format!("after {cursor} {why:?}"),
        Step::Current(current) => if *current { "current" } else { "not current" }.to_owned(),
        Step::Feed { paused, since_ms } => format!("{} {since_ms}", if *paused { "paused" } else { "live" }),
    }
}

/// A change that is alone in its message.
fn taken(epoch: &Epoch, next: bool) -> Happened<'_> {
    Happened::Taken { epoch: Some(epoch), next, last: true }
}

/// Runs events at their times (ms) and compares what each gives rise to. Returns the plan and the last time.
fn check(history: bool, rows: &[(u64, Ev, &[&str])]) -> (BusPlan, u64) {
    let mut plan = BusPlan::new(0, history, GRACE_MS);
    let mut now_ms = 0;
    for (at, (time, event, want)) in rows.iter().enumerate() {
        now_ms = *time;
        let head = |number: &str, paused: Option<&str>| {
            let (cursor, paused) = (Cursor::parse(number).unwrap(), paused.map(ToOwned::to_owned));
            Head { cursor, interval_ms: 2000, paused, sent: None }
        };
        let epoch = |number: &str| Cursor::parse(number).unwrap().epoch;
        let said = match *event {
            Ev::Up(queue) => plan.on(now_ms, Happened::Connected { queue, waiting: 0 }),
            Ev::Waiting(queue, waiting) => plan.on(now_ms, Happened::Connected { queue, waiting }),
            Ev::Lost => plan.on(now_ms, Happened::Lost),
            Ev::Read(proven) => plan.on(now_ms, Happened::HistoryRead { proven }),
            Ev::Failed(for_good) => plan.on(now_ms, Happened::HistoryFailed { for_good }),
            Ev::Hole => plan.on(now_ms, Happened::Hole),
            Ev::Next(number) => plan.on(now_ms, taken(&epoch(number), true)),
            Ev::Other(number) => plan.on(now_ms, taken(&epoch(number), false)),
            Ev::Head(number, stands) => plan.on(now_ms, Happened::Head { head: &head(number, None), stands }),
            Ev::Waits(number) => plan.on(now_ms, Happened::Head { head: &head(number, WAITS), stands: Even }),
            Ev::Judged(stands) => plan.on(now_ms, Happened::Judged(stands)),
            Ev::HeadsBound(bound) => plan.on(now_ms, Happened::HeadsBound(bound)),
            Ev::Tick => plan.on(now_ms, Happened::Tick),
        };
        let said: Vec<String> = said.iter().map(word).collect();
        assert_eq!(said, *want, "row {at}, {event:?} at {now_ms}");
    }
    (plan, now_ms)
}

#[test]
fn at_first_nobody_was_told_anything_so_nothing_can_be_broken() {
    check(true, &[(0, Ev::Up(OWN), &["read"]), (9, Ev::Read(false), &["current"])]);
    check(true, &[(0, Ev::Up(OWN), &["read"]), (1, Ev::Failed(true), &["current"])]);
    check(false, &[(0, Ev::Up(OWN), &["current"])]);
    // Clients are told of a start that takes long, and of its end.
    let slow: &[(u64, Ev, &[&str])] = &[
        (100, Ev::Up(OWN), &["read"]),
        (2100, Ev::Tick, &["paused 0"]),
        (3000, Ev::Read(false), &["current", "live 3000"]),
    ];
    check(true, slow);
}

#[test]
fn after_a_reconnect_continuity_is_proven_or_broken() {
    let begin: &[(u64, Ev, &[&str])] = &[(0, Ev::Up(OWN), &["current"])];
    let with_heads = [begin, &[(10, Ev::Head("E.5", Even), &[]), (20, Ev::Lost, &["not current"])]].concat();
    let without = [begin, &[(10, Ev::Next("E.5"), &[]), (20, Ev::Lost, &["not current"])]].concat();
    let run = |before: &[(u64, Ev, &'static [&'static str])], after: &[(u64, Ev, &'static [&'static str])]| {
        check(false, &[before, after].concat())
    };
    // A publisher that says no heads: at once.
    run(&without, &[(30, Ev::Up(OWN), &["lose", "current"])]);
    // The head is even.
    run(
        &with_heads,
        &[(30, Ev::Up(OWN), &["hold", "current"]), (1000, Ev::Tick, &[]), (2000, Ev::Head("E.5", Even), &["release"])],
    );
    // It is not.
    run(
        &with_heads,
        &[
            (30, Ev::Up(OWN), &["hold", "current"]),
            (2000, Ev::Head("E.7", Behind { missing: 2 }), &["not current", "rebind", "judge"]),
            (2001, Ev::Judged(Behind { missing: 2 }), &["after E.7 Missing", "release", "current"]),
        ],
    );
    // The next number comes first, or a hole.
    run(&with_heads, &[(30, Ev::Up(OWN), &["hold", "current"]), (40, Ev::Next("E.6"), &["release"])]);
    run(&with_heads, &[(30, Ev::Up(OWN), &["hold", "current"]), (40, Ev::Hole, &["anyway", "release"])]);
    // A repeat proves nothing, and no head comes any more.
    run(
        &with_heads,
        &[
            (30, Ev::Up(OWN), &["hold", "current"]),
            (40, Ev::Other("E.5"), &[]),
            (5029, Ev::Tick, &[]),
            (5030, Ev::Tick, &["lose", "release"]),
        ],
    );
    // The connection is lost once more before anything was proven.
    run(
        &with_heads,
        &[
            (30, Ev::Up(OWN), &["hold", "current"]),
            (40, Ev::Lost, &["lose", "release", "not current"]),
            (50, Ev::Up(OWN), &["hold", "current"]),
        ],
    );
    // A durable queue that was there, and one that was deleted meanwhile.
    run(&without, &[(30, Ev::Up(KEPT), &["current"])]);
    run(&without, &[(30, Ev::Up(Queue::Durable { kept: false }), &["lose", "current"])]);
    run(&with_heads, &[(30, Ev::Up(KEPT), &["hold", "current"])]);
}

#[test]
fn history_proves_continuity_only_where_it_meets_what_is_known() {
    let begin: &[(u64, Ev, &[&str])] = &[
        (0, Ev::Up(OWN), &["read"]),
        (1, Ev::Read(false), &["current"]),
        (10, Ev::Lost, &["not current"]),
        (20, Ev::Up(OWN), &["read"]),
    ];
    check(true, &[begin, &[(30, Ev::Read(true), &["current"])]].concat());
    // The stream was made anew, or cannot be read.
    check(true, &[begin, &[(30, Ev::Read(false), &["lose", "current"])]].concat());
    check(true, &[begin, &[(30, Ev::Failed(false), &["lose", "current"])]].concat());
}

#[test]
fn a_hole_is_filled_and_history_that_does_not_answer_is_left_alone() {
    let begin: &[(u64, Ev, &[&str])] = &[(0, Ev::Up(OWN), &["read"]), (1, Ev::Read(false), &["current"])];
    let failed = |for_good| {
        let rows: &[(u64, Ev, &[&str])] = &[
            (10, Ev::Hole, &["not current", "read"]),
            (20, Ev::Failed(for_good), &["anyway", "current"]),
            (30, Ev::Hole, &["anyway"]),
            (59_000, Ev::Hole, &["anyway"]),
        ];
        [begin, rows].concat()
    };
    let (plan, now_ms) = check(true, &failed(true));
    assert!(plan.notes(now_ms).contains(&Note::HistoryAway { since_ms: 20 }));
    check(true, &[&failed(false)[..], &[(61_000, Ev::Hole, &["not current", "read"])]].concat());
    check(true, &[&failed(true)[..], &[(61_000, Ev::Hole, &["anyway"])]].concat());
    // It is asked again after a reconnect.
    let again: &[(u64, Ev, &[&str])] = &[
        (60_000, Ev::Lost, &["not current"]),
        (60_001, Ev::Up(OWN), &["read"]),
        (60_002, Ev::Read(true), &["current"]),
    ];
    let (plan, now_ms) = check(true, &[&failed(true)[..], again].concat());
    assert_eq!(plan.notes(now_ms), []);
}

/// Its binding is gone: the publisher's head says so.
#[test]
fn a_head_beyond_what_came_binds_anew_and_fills() {
    let begin: &[(u64, Ev, &[&str])] = &[(0, Ev::Up(OWN), &["read"]), (1, Ev::Read(false), &["current"])];
    let behind: &[(u64, Ev, &[&str])] = &[
        (2000, Ev::Head("E.3", Even), &[]),
        (4000, Ev::Head("E.5", Behind { missing: 2 }), &["not current", "rebind", "read"]),
        (4100, Ev::Read(true), &["judge"]),
    ];
    check(true, &[begin, behind, &[(4101, Ev::Judged(Even), &["current"])]].concat());
    check(true, &[begin, behind, &[(4101, Ev::Judged(Within), &["current"])]].concat());
    let gap: &[(u64, Ev, &[&str])] = &[(4101, Ev::Judged(Behind { missing: 1 }), &["after E.5 Missing", "current"])];
    check(true, &[begin, behind, gap].concat());
    // Another history of the same ledger needs no looking into.
    check(true, &[begin, &[(2000, Ev::Head("E.3", Forked), &["after E.3 Forked"])]].concat());
}

/// Heads come beside a durable queue, and overtake what waits in it.
#[test]
fn what_still_waits_in_a_durable_queue_is_not_missing() {
    let behind = Behind { missing: 2 };
    check(
        false,
        &[
            (0, Ev::Up(KEPT), &["current"]),
            (2000, Ev::Head("E.5", behind), &[]),
            (2001, Ev::Next("E.4"), &[]),
            (4000, Ev::Head("E.6", behind), &[]),
            (6000, Ev::Head("E.6", behind), &["not current", "rebind", "judge"]),
        ],
    );
}

#[test]
fn silence_of_heads_says_something_only_where_there_were_any() {
    let begin: &[(u64, Ev, &[&str])] = &[(0, Ev::Up(OWN), &["current"])];
    // Bindings may go all the same, and cost little.
    let idle: &[(u64, Ev, &[&str])] = &[
        (5, Ev::Next("E.1"), &[]),
        (10_004, Ev::Tick, &[]),
        (10_005, Ev::Tick, &["rebind"]),
        (20_004, Ev::Tick, &[]),
        (20_005, Ev::Tick, &["rebind"]),
    ];
    check(false, &[begin, idle].concat());
    check(false, &[begin, &[(9_999, Ev::Tick, &[]), (10_000, Ev::Tick, &["rebind"])]].concat());
    let silent: &[(u64, Ev, &[&str])] = &[
        (1000, Ev::Head("E.5", Even), &[]),
        (8000, Ev::Tick, &[]),
        (8001, Ev::Tick, &["paused 1000", "rebind"]),
        (9000, Ev::Tick, &[]),
        (18_001, Ev::Tick, &["rebind"]),
    ];
    let (plan, now_ms) = check(false, &[begin, silent].concat());
    assert_eq!(plan.stopped(now_ms), Some((Stopped::Silent, 1000)));
    // It is back.
    check(false, &[begin, silent, &[(19_000, Ev::Head("E.5", Even), &["live 19000"])]].concat());
    // A publisher that says none any more: changes show that the way is open.
    let older: &[(u64, Ev, &[&str])] = &[(19_000, Ev::Next("E.6"), &["live 19000"]), (29_000, Ev::Tick, &["rebind"])];
    let (plan, now_ms) = check(false, &[begin, silent, older].concat());
    assert_eq!(plan.stopped(now_ms), None);
}

/// Where only the exchange of changes was deleted, heads come and say that nothing is missing: what is published is returned.
/// Where only the stream was, changes come, and are kept nowhere.
#[test]
fn what_heads_cannot_tell_is_made_anew_all_the_same() {
    let begin: &[(u64, Ev, &[&str])] = &[(0, Ev::Up(OWN), &["current"]), (1000, Ev::Next("E.5"), &[])];
    let heads: &[(u64, Ev, &[&str])] = &[
        (9000, Ev::Head("E.5", Even), &[]),
        (10_999, Ev::Tick, &[]),
        (11_000, Ev::Tick, &["rebind"]),
        (19_000, Ev::Head("E.5", Even), &[]),
        (21_000, Ev::Tick, &["rebind"]),
    ];
    check(false, &[begin, heads].concat());
    let changes: &[(u64, Ev, &[&str])] = &[
        (10_000, Ev::Next("E.6"), &[]),
        (19_999, Ev::Tick, &[]),
        (19_999, Ev::Next("E.7"), &[]),
        (29_998, Ev::Next("E.8"), &[]),
        (29_999, Ev::Tick, &[]),
        (30_000, Ev::Tick, &["rebind"]),
        (39_000, Ev::Next("E.9"), &[]),
        (40_000, Ev::Tick, &[]),
    ];
    check(false, &[begin, changes].concat());
}

#[test]
fn a_publisher_that_waits_pauses_the_feed() {
    let rows: &[(u64, Ev, &[&str])] =
        &[(0, Ev::Up(OWN), &["current"]), (1000, Ev::Waits("E.5"), &["paused 1000"]), (3000, Ev::Waits("E.5"), &[])];
    let (plan, now_ms) = check(false, rows);
    assert_eq!(plan.stopped(now_ms), Some((Stopped::Publisher("change table".to_owned()), 1000)));
    check(false, &[rows, &[(5000, Ev::Head("E.5", Even), &["live 5000"])]].concat());
}

/// What waited in a durable queue over night is not sent to those who come in the morning as if it had just happened.
#[test]
fn a_gateway_that_starts_is_not_current_before_its_backlog_is_through() {
    let begin: &[(u64, Ev, &[&str])] = &[(0, Ev::Waiting(KEPT, 2), &[]), (10, Ev::Other("E.1"), &[])];
    check(false, &[begin, &[(20, Ev::Next("E.2"), &["current"])]].concat());
    // Something of it was dropped meanwhile.
    check(false, &[begin, &[(1000, Ev::Tick, &[]), (2010, Ev::Tick, &["current"])]].concat());
    let lost: &[(u64, Ev, &[&str])] = &[(20, Ev::Lost, &["not current"]), (30, Ev::Waiting(KEPT, 0), &["current"])];
    check(false, &[begin, lost].concat());
    // Later on, what waited is news.
    let later: &[(u64, Ev, &[&str])] =
        &[(0, Ev::Up(KEPT), &["current"]), (10, Ev::Lost, &["not current"]), (20, Ev::Waiting(KEPT, 9), &["current"])];
    check(false, later);
}

#[test]
fn a_connection_that_is_back_at_once_is_no_news() {
    let begin: &[(u64, Ev, &[&str])] =
        &[(0, Ev::Up(OWN), &["current"]), (1000, Ev::Lost, &["not current"]), (2000, Ev::Tick, &[])];
    check(false, &[begin, &[(2500, Ev::Up(OWN), &["lose", "current"])]].concat());
    let long: &[(u64, Ev, &[&str])] = &[
        (3000, Ev::Tick, &["paused 1000"]),
        (4000, Ev::Lost, &["not current"]),
        (9000, Ev::Up(OWN), &["lose", "current", "live 9000"]),
    ];
    check(false, &[begin, long].concat());
}

#[test]
fn another_ledger_follows_only_when_the_old_one_is_silent() {
    let begin: &[(u64, Ev, &[&str])] = &[(0, Ev::Up(OWN), &["current"]), (1000, Ev::Head("E.5", Even), &[])];
    let replaced: &[(u64, Ev, &[&str])] = &[
        (2000, Ev::Head("F.0", OtherEpoch), &[]),
        (8000, Ev::Head("F.0", OtherEpoch), &[]),
        (8001, Ev::Head("F.0", OtherEpoch), &["not current", "rebind", "judge"]),
        (8002, Ev::Judged(OtherEpoch), &["after F.0 OtherLedger", "current"]),
    ];
    let (plan, now_ms) = check(false, &[begin, replaced].concat());
    assert_eq!(plan.notes(now_ms), [], "one after the other is no fault");
    let beside: &[(u64, Ev, &[&str])] = &[
        (2000, Ev::Head("F.9", OtherEpoch), &[]),
        (3000, Ev::Head("E.5", Even), &[]),
        (50_000, Ev::Head("F.9", OtherEpoch), &[]),
    ];
    let (plan, now_ms) = check(false, &[begin, beside].concat());
    let ledger = |text| Publisher { epoch: Epoch::parse(text).unwrap(), tag: None };
    assert_eq!(plan.notes(now_ms), [Note::TwoPublishers(ledger("E"), ledger("F"))]);
    assert_eq!(plan.notes(now_ms + 61_000), [], "it is over");
    // Their turns are not worth a reading each.
    let turns: &[(u64, Ev, &[&str])] = &[
        (0, Ev::Up(OWN), &["read"]),
        (1, Ev::Read(false), &["current"]),
        (10, Ev::Next("E.5"), &[]),
        (20, Ev::Other("F.5"), &[]),
        (21, Ev::Hole, &["not current", "read"]),
        (22, Ev::Read(false), &["anyway", "current"]),
        (30, Ev::Other("E.6"), &[]),
        (31, Ev::Hole, &["anyway"]),
    ];
    check(true, turns);
}

/// Two shims that work with copies of one ledger: their changes have one epoch.
#[test]
fn copies_of_one_ledger_are_named_by_their_tags() {
    let rows: &[(u64, Ev, &[&str])] = &[
        (0, Ev::Up(OWN), &["read"]),
        (1, Ev::Read(false), &["current"]),
        (1000, Ev::Head("E.5.b", Even), &[]),
        (1500, Ev::Next("E.6.b"), &[]),
        (2000, Ev::Head("E.5.c", Forked), &["after E.5.0000000c Forked"]),
    ];
    let (plan, now_ms) = check(true, rows);
    assert_eq!(plan.notes(now_ms), []);
    let turns: &[(u64, Ev, &[&str])] =
        &[(3000, Ev::Head("E.6.b", Forked), &["after E.6.0000000b Forked"]), (3001, Ev::Hole, &["anyway"])];
    let (plan, now_ms) = check(true, &[rows, turns].concat());
    let copy = |tag| Publisher { epoch: Epoch::parse("E").unwrap(), tag: bugfeed_protocol::Tag::parse(tag) };
    assert_eq!(plan.notes(now_ms), [Note::TwoPublishers(copy("b"), copy("c"))]);
    let text = plan.notes(now_ms)[0].text("bugs", |_| When::MIN);
    assert!(text.contains("two copies of one ledger") && text.contains("0000000b and 0000000c"), "{text}");
}

/// Who may not bind to the exchange of heads would hear of a missed change with the next one only.
#[test]
fn where_heads_cannot_be_heard_history_is_read_in_a_silence() {
    let begin: &[(u64, Ev, &[&str])] = &[
        (0, Ev::HeadsBound(false), &[]),
        (0, Ev::Up(OWN), &["read"]),
        (1000, Ev::Read(false), &["current"]),
        (20_000, Ev::Next("E.1"), &[]),
        (30_000, Ev::Next("E.2"), &[]),
    ];
    let rows: &[(u64, Ev, &[&str])] = &[
        (59_999, Ev::Tick, &["rebind"]),
        (60_000, Ev::Tick, &["read"]),
        (60_001, Ev::Tick, &[]),
        (60_100, Ev::Read(true), &[]),
        (90_099, Ev::Tick, &["rebind"]),
        (90_100, Ev::Tick, &["read"]),
        // What does not answer is left alone for a minute.
        (94_000, Ev::Failed(false), &[]),
        (153_999, Ev::Tick, &["rebind"]),
        (154_000, Ev::Tick, &["read"]),
    ];
    check(true, &[begin, rows].concat());
    // Heads that can be heard say more, and without history there is nothing to read.
    let heard: &[(u64, Ev, &[&str])] = &[(40_000, Ev::HeadsBound(true), &[]), (70_000, Ev::Tick, &["rebind"])];
    check(true, &[begin, heard].concat());
    let none: &[(u64, Ev, &[&str])] =
        &[(0, Ev::HeadsBound(false), &[]), (0, Ev::Up(OWN), &["current"]), (70_000, Ev::Tick, &["rebind"])];
    check(false, none);
}

#[test]
fn who_never_heard_anybody_says_so() {
    let (plan, _) = check(false, &[(100, Ev::Up(OWN), &["current"])]);
    assert_eq!(plan.notes(10_099), []);
    assert_eq!(plan.notes(10_100), [Note::NoPublisher { since_ms: 100 }]);
    assert!(plan.notes(10_100)[0].text("bugs", |_| When::MIN).contains("'bugs'"));
    let (plan, _) = check(false, &[(100, Ev::Up(OWN), &["current"]), (200, Ev::Other("E.1"), &[])]);
    assert_eq!(plan.notes(60_000), []);
}

/// What random events must never bring about.
#[derive(Default)]
struct Watch {
    held_since: Option<u64>,
    paused: bool,
    holes: u32,
}

impl Watch {
    fn see(&mut self, now_ms: u64, action: &Step) {
        match action {
            Step::Hold(true) => {
                assert!(self.held_since.replace(now_ms).is_none(), "held twice");
            }
            Step::Hold(false) => {
                let since = self.held_since.take().expect("released once");
                assert!(now_ms <= since + 2 * 2000 + SLACK_MS + 1000, "resumes wait from {since} to {now_ms}");
            }
            Step::Feed { paused, .. } => {
                assert_ne!(self.paused, *paused, "said twice");
                self.paused = *paused;
            }
            Step::TakeWithGap => self.holes -= 1,
            _ => {}
        }
    }
}

#[test]
fn whatever_happens_nobody_is_left_in_the_dark() {
    use rand::{RngExt as _, SeedableRng as _};
    let stands = [Even, Within, Forked, OtherEpoch, Behind { missing: 1 }];
    for seed in 0..2000 {
        let mut random = rand::rngs::SmallRng::seed_from_u64(seed);
        let history = random.random();
        let (mut plan, mut watch, mut now_ms) = (BusPlan::new(0, history, GRACE_MS), Watch::default(), 0);
        let (mut up, mut live_before) = (false, false);
        let epochs = ["E", "F"].map(|text| Epoch::parse(text).unwrap());
        let head = Head { cursor: Cursor::new(epochs[0].clone(), 5), interval_ms: 2000, paused: None, sent: None };
        for _ in 0..300 {
            now_ms += random.random_range(1..1000);
            let mut todo = plan.on(now_ms, Happened::Tick);
            let event = match random.random_range(0..10) {
                0 if up => Happened::Lost,
                0..3 if !up => {
                    let kept = random.random();
                    let queue = if random.random() { OWN } else { Queue::Durable { kept } };
                    Happened::Connected { queue, waiting: random.random_range(0..3) }
                }
                3..5 if up => Happened::Head { head: &head, stands: stands[random.random_range(0..stands.len())] },
                5..7 if up => taken(&epochs[random.random_range(0..2)], random.random()),
                7 if up => Happened::Hole,
                _ => Happened::Tick,
            };
            let was_live = live_before;
            watch.holes += u32::from(event == Happened::Hole);
            up = matches!(event, Happened::Connected { .. }) || up && event != Happened::Lost;
            todo.extend(plan.on(now_ms, event));
            let mut proven = matches!(event, Happened::Taken { next: true, .. });
            let mut at = 0;
            while let Some(action) = todo.get(at).cloned() {
                at += 1;
                watch.see(now_ms, &action);
                let answer = match action {
                    Step::ReadHistory { .. } if random.random_bool(0.7) => {
                        proven = random.random();
                        Happened::HistoryRead { proven }
                    }
                    Step::ReadHistory { .. } => Happened::HistoryFailed { for_good: random.random() },
                    Step::Judge => Happened::Judged(stands[random.random_range(0..stands.len())]),
                    Step::Current(true) => {
                        live_before = true;
                        continue;
                    }
                    _ => continue,
                };
                now_ms += random.random_range(0..50);
                todo.extend(plan.on(now_ms, answer));
            }
            // A durable queue that was there is trusted where nobody says heads.
            if was_live && matches!(event, Happened::Connected { queue: Queue::New, .. }) {
                let said = |action: &Step| matches!(action, Step::Hold(true) | Step::Lose);
                assert!(proven || todo.iter().any(said), "seed {seed}: open at {now_ms}");
            }
            assert_eq!(watch.holes, 0, "seed {seed}: what showed a hole goes on");
        }
    }
}
