//! What a client does when its token is refused, or expires.

use std::collections::BTreeSet;
use std::time::Duration;

use bugfeed_protocol::{BugId, When};

use crate::connection_end::ConnectionEnd;
use crate::core::{Action, Core, Now};
use crate::token::Tokens;
use crate::{Error, State};

fn now(clock_s: u64) -> Now {
    Now { clock: Duration::from_secs(clock_s), date: When::from_micros(0).unwrap(), chance: 0.0 }
}

fn core() -> Core {
    let bugs = BTreeSet::from([BugId::new(1).unwrap()]);
    let mut core = Core::new("ws://127.0.0.1:1/".to_owned(), bugs, 30, false);
    core.start(None, now(0));
    core
}

fn refused(status: u16, by_gateway: bool) -> ConnectionEnd {
    ConnectionEnd::Refused { status, text: "invalid token: it has expired".to_owned(), retry_after: None, by_gateway }
}

fn closed(code: u16) -> ConnectionEnd {
    ConnectionEnd::Closed { code, text: "token expired; reconnect with a new one".to_owned() }
}

/// The delay until the next connection; `None` if there is none.
fn delay(core: &Core) -> Option<Duration> {
    match core.state() {
        State::Waiting { delay, .. } => Some(*delay),
        _ => None,
    }
}

fn end(core: &mut Core) -> Error {
    assert_eq!(*core.state(), State::Closed);
    std::iter::from_fn(|| core.delivery()).find_map(|delivery| delivery.item?.err()).expect("an error is delivered")
}

#[test]
fn a_token_that_is_always_the_same_is_refused_once() {
    for ending in [refused(401, true), closed(4401)] {
        let mut core = core();
        core.connection_ended(ending, now(1));
        let error = end(&mut core);
        assert!(matches!(error, Error::Token { .. }) && error.is_final(), "{error:?}");
        assert!(error.to_string().contains("expired"), "{error}");
    }
}

#[test]
fn who_gets_new_tokens_comes_at_once_and_then_with_delays() {
    for ending in [|| refused(401, true), || closed(4401)] {
        let mut core = core();
        core.gets_new_tokens();
        core.connection_ended(ending(), now(1));
        assert_eq!(delay(&core), Some(Duration::ZERO));
        for clock in 2..20 {
            core.alarm(now(clock * 100));
            core.connection_ended(ending(), now(clock * 100));
            assert!(delay(&core).is_some_and(|delay| delay >= Duration::from_millis(500)), "{:?}", core.state());
        }
        core.alarm(now(5000));
        core.opened(now(5000));
        core.received(r#"{"command":"hello","result":"ok","cursor":null}"#, now(5000));
        core.connection_ended(ending(), now(5001));
        assert_ne!(delay(&core), Some(Duration::ZERO), "hello is answered to everybody");
        core.alarm(now(6000));
        core.opened(now(6000));
        core.received(r#"{"command":"heartbeat","cursor":null}"#, now(6000));
        core.connection_ended(closed(4401), now(6001));
        assert_eq!(delay(&core), Some(Duration::ZERO), "a message has come in between");
    }
}

#[test]
fn what_no_new_token_mends_is_final() {
    for ending in [|| refused(403, true), || closed(4403)] {
        let mut core = core();
        core.gets_new_tokens();
        core.connection_ended(ending(), now(1));
        assert!(end(&mut core).is_final());
    }
    // A proxy in between has its own idea of who may pass.
    let mut core = core();
    core.connection_ended(refused(401, false), now(1));
    assert!(delay(&core).is_some());
}

#[test]
fn the_application_that_gives_no_token_is_asked_again() {
    let mut core = core();
    core.gets_new_tokens();
    core.connection_ended(ConnectionEnd::Broken("no token could be got: it is night".to_owned()), now(1));
    assert!(delay(&core).is_some_and(|delay| !delay.is_zero()));
    while core.action().is_some() {}
    core.alarm(now(100));
    assert_eq!(core.action(), Some(Action::Connect));
}

#[tokio::test]
async fn tokens_are_given_for_each_connection_and_never_shown() {
    let count = std::sync::atomic::AtomicU32::new(0);
    let tokens = Tokens::given(move || {
        let count = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        async move { if count == 2 { Err("it is night") } else { Ok(format!(" secret-{count}\n")) } }
    });
    for want in ["secret-0", "secret-1"] {
        assert_eq!(tokens.next().await.unwrap().unwrap().secret(), want);
    }
    let error = tokens.next().await.unwrap_err();
    assert!(matches!(&error, ConnectionEnd::Broken(text) if text.contains("it is night")), "{error:?}");
    let builder = crate::Feed::builder("ws://127.0.0.1:1/").unwrap().token("secret");
    assert!(!format!("{builder:?} {tokens:?}").contains("secret"));
    let wrong = Tokens::given(|| async { Ok::<_, String>("two\r\nsecrets".to_owned()) });
    let error = wrong.next().await.unwrap_err();
    assert!(error.about_token().is_some() && !format!("{error:?}").contains("secrets"), "{error:?}");
}
