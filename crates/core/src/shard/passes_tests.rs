//! Sessions on a gateway that wants tokens.

use std::collections::BTreeSet;
use std::rc::Rc;

use super::tests::{Bed, Wire, bed, bug, change};
use super::*;
use crate::access::{BugScope, FeedScope, Grant, TokenId};

const NEEDED: &str = r#""result":"error","error":"a token is needed: send it in hello, or as Authorization: Bearer"}"#;

fn grant(bugs: &[u64]) -> Grant {
    let bugs = BugScope::These(bugs.iter().copied().map(bug).collect());
    Grant { feeds: FeedScope::All, bugs, max_subscriptions: None, expires: None, ends: None, id: None }
}

fn pass(grant: Grant) -> Pass {
    Pass { grant: Some(Arc::new(grant)), ends_ms: u64::MAX }
}

fn enter(bed: &mut Bed, pass: Pass) -> Rc<Wire> {
    let wire = Rc::new(Wire::default());
    wire.room.set(usize::MAX);
    bed.shard.handle(Input::Enter(Rc::clone(&wire), pass));
    wire
}

fn renew(bed: &mut Bed, wire: &Rc<Wire>, pass: Pass) -> String {
    bed.shard.handle(Input::Work(wire.slot.get(), Work::Renew { heartbeat_s: 30, pass }));
    let mut said = wire.take();
    assert_eq!(said.len(), 1, "{said:?}");
    said.remove(0)
}

fn subscribe(bed: &mut Bed, wire: &Rc<Wire>, bugs: &str) -> String {
    bed.send(wire, &format!(r#"{{"command":"subscribe","bugs":{bugs}}}"#));
    wire.take().concat()
}

#[test]
fn until_there_is_a_token_only_hello_and_version_are_answered() {
    let mut bed = bed();
    let wire = enter(&mut bed, Pass::awaited(10_000));
    for command in ["subscribe", "unsubscribe"] {
        bed.send(&wire, &format!(r#"{{"command":"{command}","bugs":[1]}}"#));
        assert_eq!(wire.take(), [format!(r#"{{"command":"{command}",{NEEDED}"#)]);
    }
    bed.send(&wire, r#"{"command":"subscriptions"}"#);
    assert_eq!(wire.take(), [format!(r#"{{"command":"subscriptions",{NEEDED}"#)]);
    for command in ["hello", "version"] {
        bed.send(&wire, &format!(r#"{{"command":"{command}"}}"#));
        assert!(wire.take().concat().contains(r#""result":"ok""#));
    }
    assert_eq!(subscribe(&mut bed, &wire, r#""all""#), format!(r#"{{"command":"subscribe",{NEEDED}"#));
    bed.publish(change(1, 7));
    assert_eq!(wire.take(), [""; 0]);
    assert!(renew(&mut bed, &wire, pass(grant(&[1]))).contains(r#""result":"ok""#));
    assert!(subscribe(&mut bed, &wire, "[1]").contains(r#""result":"ok","count":1"#));
    bed.publish(change(1, 8));
    assert_eq!(wire.take().len(), 1);
    assert_eq!(bed.shard.take_tally().denied, 4);
}

#[test]
fn who_shows_no_token_in_time_is_closed() {
    let mut bed = bed();
    let (wire, free) = (enter(&mut bed, Pass::awaited(10_000)), bed.connect(usize::MAX));
    bed.shard.tick(9_999);
    assert!(!wire.ended.get());
    bed.shard.tick(10_000);
    assert_eq!((wire.take(), wire.ended.get()), (vec!["close 4401".to_owned()], true));
    assert!(!free.ended.get(), "nobody asks for its token");
    bed.shard.tick(10_001);
    assert_eq!(bed.shard.take_tally().token_needed, 1, "once");
    bed.shard.handle(Input::Detach(wire.slot.get()));
    assert!(bed.shard.passes.is_empty());
}

#[test]
fn a_token_is_for_its_bugs_whatever_is_asked() {
    let mut bed = Bed::new(SessionLimits { all: true, ..SessionLimits::default() }, Default::default());
    bed.publish(change(7, 1));
    let wire = enter(&mut bed, pass(Grant { max_subscriptions: Some(2), ..grant(&[1, 2, 3]) }));
    bed.send(&wire, r#"{"command":"hello"}"#);
    wire.take();
    let not_7 = r#"{"command":"subscribe","result":"error","error":"this token is not for bug 7"}"#;
    assert_eq!(subscribe(&mut bed, &wire, "[1,7]"), not_7);
    for resume in [r#""cursor":"E.0""#, r#""cursor":"unknown""#, r#""since":"1970-01-01""#] {
        bed.send(&wire, &format!(r#"{{"command":"subscribe","bugs":7,{resume}}}"#));
        assert_eq!(wire.take(), [not_7], "{resume}");
    }
    assert!(subscribe(&mut bed, &wire, r#""all""#).contains("this token is not for all bugs"));
    assert!(subscribe(&mut bed, &wire, "[1,2]").contains(r#""count":2"#));
    let most = r#"{"command":"subscribe","result":"error","error":"this token may watch at most 2 bugs"}"#;
    assert_eq!(subscribe(&mut bed, &wire, "[3]"), most);
    bed.send(&wire, r#"{"command":"unsubscribe","bugs":[1]}"#);
    wire.take();
    assert!(subscribe(&mut bed, &wire, "[3]").contains(r#""count":2"#));
    bed.publish(change(7, 2));
    assert_eq!(wire.take(), [""; 0]);
    let all = enter(&mut bed, pass(Grant { bugs: BugScope::All, ..grant(&[]) }));
    bed.send(&all, r#"{"command":"hello"}"#);
    assert!(subscribe(&mut bed, &all, r#""all""#).contains(r#""all":true"#));
}

#[test]
fn a_token_that_expires_ends_its_session_and_a_new_one_goes_on() {
    let mut bed = bed();
    let until = |ends_ms| Pass { ends_ms, ..pass(grant(&[1])) };
    let (first, second) = (enter(&mut bed, until(5_000)), enter(&mut bed, until(5_000)));
    for wire in [&first, &second] {
        assert!(subscribe(&mut bed, wire, "[1]").contains("ok"));
    }
    assert!(renew(&mut bed, &second, until(9_000)).contains("ok"));
    bed.shard.tick(5_000);
    assert_eq!((first.take(), first.ended.get()), (vec!["close 4401".to_owned()], true));
    bed.publish(change(1, 7));
    assert_eq!((first.take().len(), second.take().len()), (0, 1), "nothing after the end");
    bed.shard.tick(9_000);
    assert_eq!(second.take(), ["close 4401"]);
    assert_eq!(bed.shard.take_tally().token_expired, 2);
}

/// A socket that takes nothing cannot be told why.
#[test]
fn a_token_that_expires_ends_a_lagging_session_too() {
    let mut bed = bed();
    let wire = enter(&mut bed, Pass { ends_ms: 5_000, ..pass(grant(&[1])) });
    assert!(subscribe(&mut bed, &wire, "[1]").contains("ok"));
    wire.room.set(10);
    bed.publish(change(1, 7));
    bed.shard.tick(5_000);
    assert!(wire.ended.get());
    bed.read(&wire, 10_000);
    assert_eq!(wire.received.borrow().len(), 10, "nothing after the end");
}

/// A token that does not cover what the session watches is refused, and the session goes on with the one that it has.
#[test]
fn a_new_token_must_cover_what_is_watched() {
    let mut bed = bed();
    let wire = enter(&mut bed, pass(grant(&[1, 2])));
    assert!(subscribe(&mut bed, &wire, "[1,2]").contains("ok"));
    let refusal = r#"{"command":"hello","result":"error","error":"this token is not for bug 2"}"#;
    assert_eq!(renew(&mut bed, &wire, pass(grant(&[1]))), refusal);
    bed.publish(change(2, 7));
    assert_eq!(wire.take().len(), 1);
    let elsewhere = Grant { feeds: FeedScope::These(BTreeSet::from(["kde".to_owned()])), ..grant(&[1, 2]) };
    assert!(renew(&mut bed, &wire, pass(elsewhere)).contains("this token is not for this feed"));
    bed.send(&wire, r#"{"command":"unsubscribe","bugs":[2]}"#);
    wire.take();
    assert!(renew(&mut bed, &wire, pass(grant(&[1]))).contains("ok"));
    assert!(subscribe(&mut bed, &wire, "[2]").contains("not for bug 2"));
}

#[test]
fn the_reply_to_hello_says_when_the_token_expires() {
    let mut bed = bed();
    let wire = enter(&mut bed, Pass::awaited(10_000));
    let expires = When::parse_utc("2026-11-27T12:00:00").ok();
    let reply = renew(&mut bed, &wire, pass(Grant { expires, ..grant(&[1]) }));
    assert!(reply.ends_with(r#","expires":"2026-11-27T12:00:00"}"#), "{reply}");
}

#[test]
fn a_token_that_is_taken_away_ends_its_sessions() {
    const KEPT: TokenId = [1; 32];
    const GONE: TokenId = [2; 32];
    const LESS: TokenId = [3; 32];
    let mut bed = bed();
    let of = |id, bugs: &[u64]| pass(Grant { id: Some(id), ..grant(bugs) });
    let [kept, gone, less] = [KEPT, GONE, LESS].map(|id| enter(&mut bed, of(id, &[1, 2])));
    let signed = enter(&mut bed, pass(grant(&[1, 2])));
    for wire in [&kept, &gone, &less, &signed] {
        assert!(subscribe(&mut bed, wire, "[2]").contains("ok"));
    }
    let file: Tokens = [(KEPT, of(KEPT, &[2])), (LESS, of(LESS, &[1]))].into();
    bed.shard.handle(Input::Tokens(Arc::new(file)));
    assert_eq!(gone.take(), ["close 4403"]);
    assert_eq!(less.take(), ["close 1012"], "it comes again, and is told what the token allows");
    assert!(!kept.ended.get() && !signed.ended.get());
    assert!(subscribe(&mut bed, &kept, "[1]").contains("not for bug 1"), "what it allows now holds at once");
    // Who was let in by the file as it was before.
    let late = enter(&mut bed, of(GONE, &[1]));
    assert_eq!(late.take(), ["close 4403"]);
    let wire = enter(&mut bed, Pass::awaited(10_000));
    assert_eq!(renew(&mut bed, &wire, of(GONE, &[1])), "close 4403");
    assert_eq!(bed.shard.take_tally().token_revoked, 4);
}
