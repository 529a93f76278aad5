use bugfeed_protocol::{BugId, Change, Epoch, When};

use super::*;

fn cursor(seq: u64) -> Cursor {
    Cursor::new(Epoch::from_random(1), seq).tagged((seq > 0).then(|| Tag::from_random(1)))
}

fn changes(seqs: std::ops::RangeInclusive<u64>) -> Vec<Numbered> {
    let change = Change { bug: BugId::new(7).unwrap(), when: When::MIN };
    seqs.map(|seq| Numbered { change, cursor: cursor(seq), after: None, recorded: When::MIN }).collect()
}

/// An outlet, its outbox, and the time.
struct Bench {
    outlet: Outlet,
    outbox: Outbox,
    now_ms: u64,
}

impl Bench {
    /// A tenure has begun, and the way is open; `published` of `head` numbers are.
    fn open(head: u64, published: u64) -> Bench {
        let mut bench = Bench { outlet: Outlet::new(3), outbox: Outbox::default(), now_ms: 50_000 };
        bench.outbox.limit(u64::MAX);
        assert_eq!(bench.on(Event::Begin { head, saved: cursor(published) }), [Action::Connect]);
        assert_eq!(bench.on(Event::Connected { fresh: true }), [Action::ReadEnd]);
        bench
    }

    fn on(&mut self, event: Event) -> Vec<Action> {
        self.outlet.on(self.now_ms, event, &mut self.outbox)
    }

    fn publishes(&mut self, batch: Vec<Numbered>) -> Vec<Action> {
        self.outbox.put(batch);
        assert_eq!(self.on(Event::Woken), [Action::Connect]);
        self.on(Event::Connected { fresh: false })
    }

    /// Nothing is left to do.
    fn waits(&mut self, end: Option<Vec<Cursor>>) {
        assert_eq!(self.on(Event::End(end)).len(), 1);
        let [.., Action::Prune] = self.on(Event::Noted)[..] else { panic!("prunes when the way is open") };
        let [Action::ReadLedger { .. }] = self.on(Event::Pruned { count: 0 })[..] else { panic!("looks once") };
        assert_eq!(self.on(Event::Ledger(Vec::new())), [Action::Wait { ms: CHECK_MS }]);
    }
}

#[test]
fn the_watermark_is_saved_after_the_confirm_and_not_for_each_batch() {
    let mut bench = Bench::open(0, 0);
    bench.waits(None);
    let batch = changes(1..=3);
    assert_eq!(bench.publishes(batch.clone()), [Action::Publish(batch.into())]);
    let idle = [
        Action::Confirmed(Some(cursor(3))),
        Action::Works { published: 3 },
        Action::Save(cursor(3)),
        Action::Wait { ms: CHECK_MS },
    ];
    assert_eq!(bench.on(Event::Published { count: 3, fault: None }), idle, "nothing more to do");
    bench.outbox.put(changes(4..=9));
    bench.on(Event::Woken);
    bench.on(Event::Connected { fresh: false });
    let on = bench.on(Event::Published { count: 3, fault: None });
    assert!(!on.contains(&Action::Save(cursor(6))), "more is waiting: {on:?}");
    bench.now_ms += SAVE_MS;
    bench.on(Event::Connected { fresh: false });
    assert!(bench.on(Event::Published { count: 3, fault: None }).contains(&Action::Save(cursor(9))));
}

#[test]
fn what_is_not_safe_is_given_again() {
    for (count, fault, safe, next) in [
        (2, Some(Fault::Lost), 2, 3),
        (0, Some(Fault::Refused), 0, 3),
        (1, None, 1, 3),
        (1, Some(Fault::Unroutable), 1, 1),
    ] {
        let mut bench = Bench::open(0, 0);
        bench.waits(None);
        bench.publishes(changes(1..=3));
        let actions = bench.on(Event::Published { count, fault });
        assert_eq!(actions.contains(&Action::Save(cursor(safe))), safe > 0, "{actions:?}");
        let Some(Action::BackOff { longest_ms: 100 }) = actions.last() else { panic!("{actions:?}") };
        let after = bench.on(Event::Woken);
        assert_eq!(after, [Action::ReadLedger { after: safe, limit: next }], "one at a time while nobody is there");
    }
}

#[test]
fn a_history_that_the_ledger_does_not_have_begins_a_new_epoch() {
    let other = Some(Tag::from_random(9));
    for (holds, want) in [
        (Holds::Same, None),
        (Holds::Former, None),
        (Holds::OtherLedger, None),
        (Holds::OtherTag(other), Some(Holds::OtherTag(other))),
        (Holds::Beyond(cursor(3)), Some(Holds::Beyond(cursor(3)))),
    ] {
        let mut bench = Bench::open(5, 5);
        assert_eq!(bench.on(Event::End(Some(vec![cursor(4), cursor(5)]))), [Action::LookUp(cursor(4))]);
        assert_eq!(bench.on(Event::LookedUp(Holds::Same)), [Action::LookUp(cursor(5))]);
        let actions = bench.on(Event::LookedUp(holds));
        match want {
            Some(holds) => assert_eq!(actions, [Action::BeginEpoch { found: cursor(5), holds }]),
            None => assert_eq!(actions.last(), Some(&Action::NoteRoute(Some(Some(cursor(5)))))),
        }
    }
}

#[test]
fn history_that_does_not_answer_is_asked_three_times() {
    let mut bench = Bench::open(0, 0);
    for _ in 0..2 {
        let [Action::BackOff { .. }] = bench.on(Event::NoEnd(Fault::Refused))[..] else { panic!("waits") };
        bench.on(Event::Woken);
        if bench.on(Event::Ledger(Vec::new())) == [Action::Prune] {
            bench.on(Event::Pruned { count: 0 });
        }
        assert_eq!(bench.on(Event::Elapsed), [Action::Connect]);
        assert_eq!(bench.on(Event::Connected { fresh: false }), [Action::ReadEnd]);
    }
    assert_eq!(bench.on(Event::NoEnd(Fault::Refused)), [Action::NotCompared, Action::NoteRoute(None)]);
}

#[test]
fn what_does_not_follow_is_of_a_ledger_that_was_set_back() {
    let mut bench = Bench::open(0, 0);
    bench.waits(None);
    bench.outbox.head(2);
    assert_eq!(bench.on(Event::Woken), [Action::ReadLedger { after: 0, limit: 3 }]);
    assert_eq!(bench.on(Event::Ledger(changes(2..=2))), [Action::SetBack]);
}

#[test]
fn nothing_is_published_beyond_the_limit() {
    let mut bench = Bench::open(0, 0);
    bench.waits(None);
    bench.outbox.limit(2);
    assert_eq!(bench.publishes(changes(1..=2)), [Action::Publish(changes(1..=2).into())]);
    bench.on(Event::Published { count: 2, fault: None });
    bench.outbox.put(changes(3..=3));
    assert_eq!(bench.on(Event::Woken), [Action::Wait { ms: CHECK_MS }]);
    bench.outbox.limit(3);
    assert_eq!(bench.on(Event::Woken), [Action::Connect]);
}

#[test]
fn a_stop_lets_the_batch_in_hand_finish() {
    let mut bench = Bench::open(0, 0);
    bench.waits(None);
    bench.publishes(changes(1..=1));
    assert_eq!(bench.on(Event::Stop), []);
    let actions = bench.on(Event::Published { count: 1, fault: None });
    assert_eq!(actions[2..], [Action::SaveLast(cursor(1)), Action::End]);
}
