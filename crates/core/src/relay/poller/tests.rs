use bugfeed_protocol::{BugId, Cursor, Epoch, When};

use super::*;

fn key(id: i64) -> RowKey {
    RowKey { id, when: Some("2014-04-03 21:13:45".to_owned()) }
}

fn change(bug: u64) -> Change {
    Change { bug: BugId::new(bug).unwrap(), when: When::MIN }
}

fn row(id: i64) -> Row {
    Row { key: key(id), bug: None, change: Ok(change(7)) }
}

fn numbered(seq: u64) -> Numbered {
    Numbered { change: change(7), cursor: Cursor::new(Epoch::from_random(1), seq), after: None, recorded: When::MIN }
}

fn poller(in_place: bool, once: bool) -> Poller {
    let mut poller = Poller::new(PollerOptions { poll_interval_ms: 250, batch: 10, once });
    poller.on(0, Event::Begin { in_place });
    poller.on(0, Event::Looked { in_place });
    poller
}

/// Plays the first round up to the moment when these rows are recorded; no row was marked before.
fn reads(poller: &mut Poller, rows: &[Row]) -> Vec<Action> {
    poller.on(0, Event::Pending { rows: vec![], owed: vec![], head: 0, replaced: false });
    assert_eq!(poller.on(0, Event::Probed), [Action::Read { limit: 10 }]);
    assert_eq!(poller.on(0, Event::Rows(rows.to_vec())), [Action::Record(rows.into())]);
    let changes: Vec<Numbered> = (1..).zip(rows).map(|(seq, _)| numbered(seq)).collect();
    let head = changes.len() as u64;
    poller.on(0, Event::Recorded { changes, set_aside: 0, head })
}

#[test]
fn a_row_is_recorded_then_deleted_then_forgotten() {
    let mut poller = poller(false, false);
    let actions = reads(&mut poller, &[row(1)]);
    let hand = Action::Hand { changes: vec![numbered(1)], head: 1 };
    assert_eq!(actions, [hand, Action::Delete { keys: vec![key(1)], fresh: true }]);
    let gone = poller.on(0, Event::Deleted { gone: vec![key(1)], held: vec![], kept: vec![] });
    assert_eq!(gone, [Action::Settle(vec![key(1)])]);
    let end = poller.on(0, Event::Settled { changes: vec![], head: 1 });
    assert_eq!(end.last(), Some(&Action::Look), "at once while rows come");
}

#[test]
fn in_place_nothing_may_be_published_before_its_row_is_gone() {
    let mut poller = poller(true, false);
    let actions = reads(&mut poller, &[row(1)]);
    assert!(!actions.iter().any(|action| matches!(action, Action::Allow(_))), "{actions:?}");
    poller.on(0, Event::Deleted { gone: vec![key(1)], held: vec![], kept: vec![] });
    let end = poller.on(0, Event::Settled { changes: vec![], head: 1 });
    assert!(end.contains(&Action::Allow(1)), "{end:?}");
    assert_eq!(poller.on(0, Event::Looked { in_place: true })[0], Action::Hold);
}

#[test]
fn in_place_a_row_that_stays_is_owed_before_it_may_be_published() {
    for (held, kept) in [(vec![key(1)], vec![]), (vec![], vec![key(1)])] {
        let mut poller = poller(true, false);
        reads(&mut poller, &[row(1)]);
        let actions = poller.on(0, Event::Deleted { gone: vec![], held, kept });
        assert_eq!(actions, [Action::Owe(vec![(key(1), change(7))]), Action::Settle(vec![])]);
        assert!(poller.on(0, Event::Settled { changes: vec![], head: 1 }).contains(&Action::Allow(1)));
    }
    // Where rows are not updated in place, nothing is owed.
    let mut poller = poller(false, false);
    reads(&mut poller, &[row(1)]);
    let actions = poller.on(0, Event::Deleted { gone: vec![], held: vec![key(1)], kept: vec![] });
    assert_eq!(actions, [Action::Settle(vec![])]);
}

#[test]
fn what_a_former_holder_recorded_is_deleted_first_and_found_where_it_stays() {
    let mut poller = poller(true, false);
    let pending = Event::Pending { rows: vec![key(1), key(2)], owed: vec![key(2)], head: 2, replaced: false };
    assert_eq!(poller.on(0, pending.clone()), [Action::Delete { keys: vec![key(1), key(2)], fresh: false }]);
    let actions = poller.on(0, Event::Deleted { gone: vec![], held: vec![key(1), key(2)], kept: vec![] });
    assert_eq!(actions, [Action::Find(vec![key(1)])], "what is owed already is known");
    let actions = poller.on(0, Event::Found(vec![row(1)]));
    assert_eq!(actions, [Action::Owe(vec![(key(1), change(7))]), Action::Settle(vec![])]);
    // In a file that replaced the old one, they may be other rows: nothing is deleted.
    let mut poller = self::poller(true, false);
    let Event::Pending { rows, owed, head, .. } = pending else { return };
    let actions = poller.on(0, Event::Pending { rows, owed, head, replaced: true });
    assert_eq!(actions, [Action::Settle(vec![key(1), key(2)])]);
}

#[test]
fn held_rows_are_tried_again_later_and_forgotten_when_they_are_others() {
    let mut poller = poller(false, false);
    reads(&mut poller, &[row(1)]);
    poller.on(0, Event::Deleted { gone: vec![], held: vec![key(1)], kept: vec![] });
    poller.on(0, Event::Settled { changes: vec![], head: 1 });
    let again = |poller: &mut Poller, now_ms, row: Row| {
        poller.on(now_ms, Event::Looked { in_place: false });
        assert_eq!(poller.on(now_ms, Event::Probed), [Action::Read { limit: 11 }]);
        poller.on(now_ms, Event::Rows(vec![row]));
        poller.on(now_ms, Event::Recorded { changes: vec![], set_aside: 0, head: 1 })
    };
    let actions = again(&mut poller, HELD_RETRY_MS - 1, row(1));
    assert!(!actions.iter().any(|action| matches!(action, Action::Delete { .. })), "{actions:?}");
    let updated = Row { key: RowKey { id: 1, when: None }, bug: None, change: Ok(change(7)) };
    let actions = again(&mut poller.clone(), HELD_RETRY_MS, updated.clone());
    assert_eq!(actions[1..], [Action::Forget(vec![key(1)]), Action::Delete { keys: vec![updated.key], fresh: true }]);
    let actions = again(&mut poller, HELD_RETRY_MS, row(1));
    assert_eq!(actions[1..], [Action::Delete { keys: vec![key(1)], fresh: true }]);
}

#[test]
fn a_table_that_fails_is_settled_again() {
    let mut poller = poller(false, false);
    reads(&mut poller, &[row(1)]);
    assert_eq!(poller.on(0, Event::SourceFailed), [Action::BackOff { longest_ms: 100 }]);
    assert_eq!(poller.on(0, Event::Woken), [Action::Look]);
    assert_eq!(
        poller.on(0, Event::Looked { in_place: false }),
        [Action::ReadPending],
        "of marked rows nothing is known"
    );
}

#[test]
fn it_ends_when_it_is_stopped_and_once_when_the_table_is_drained() {
    let mut once = poller(false, true);
    assert_eq!(reads(&mut once, &[]).last(), Some(&Action::End));
    let mut stopped = poller(false, false);
    stopped.on(0, Event::Stop);
    assert_eq!(reads(&mut stopped, &[]).last(), Some(&Action::Wait { ms: 5 }));
    assert_eq!(stopped.on(0, Event::Woken), [Action::End]);
}
