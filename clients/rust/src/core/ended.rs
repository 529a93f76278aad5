//! What follows from the end of a connection: an end of the feed, or a wait, and how long.

use std::time::Duration;

use super::{Core, Due, FailureKind, MAX_WAIT, Now, TROUBLE_AFTER};
use crate::connection_end::{ConnectionEnd, is_final_code, is_final_status};
use crate::words::{advice, shown};
use crate::{Error, Event, State};

impl Core {
    /// The connection has ended, or could not be opened.
    pub(crate) fn connection_ended(&mut self, end: ConnectionEnd, now: Now) {
        let Some(goaway) = self.connection.as_ref().map(|connection| connection.retry_after) else { return };
        self.leave();
        let mut at_once = false;
        if let Some(text) = end.about_token() {
            if !self.new_tokens {
                let status = matches!(end, ConnectionEnd::Refused { .. }).then_some(401);
                return self.fail(Error::Token { url: shown(&self.url), status, text: text.to_owned() });
            }
            // A new token may do, but if that is refused as well, so may be the next one.
            at_once = !std::mem::replace(&mut self.token_refused, true);
        }
        let (reason, least, kind, advice) = match end {
            ConnectionEnd::NoToken(text) => (text, None, None, None),
            ConnectionEnd::Refused { status, text, by_gateway: true, .. }
                if status != 401 && is_final_status(status) =>
            {
                return self.fail(Error::NotAFeed { url: shown(&self.url), status, text });
            }
            ConnectionEnd::Closed { code, text } if is_final_code(code) => {
                return self.fail(Error::Closed { code, text });
            }
            ConnectionEnd::Refused { status, text, retry_after, by_gateway } => (
                format!("{} answers {status} {text}", shown(&self.url)),
                retry_after.filter(|_| matches!(status, 429 | 503)),
                Some(FailureKind::Status(status)),
                advice(status).filter(|_| !by_gateway),
            ),
            ConnectionEnd::Unreachable { reason, fault } => (reason, None, Some(FailureKind::Fault(fault)), None),
            ConnectionEnd::Closed { code, text } => (format!("closed ({code}): {text}"), None, None, None),
            ConnectionEnd::Broken(reason) => (reason, None, None, None),
        };
        let reason = reason.trim_end_matches([' ', ':']).to_owned();
        // A gateway that stops tells each client another time to come back. A gateway that is full tells all clients
        // the same time, so the jittered back-off is added to it: otherwise all would come back at once (thundering
        // herd).
        let delay = goaway.or(at_once.then_some(Duration::ZERO)).unwrap_or_else(|| {
            self.backoff.next(now.chance) + least.map_or(Duration::ZERO, |least| least.min(MAX_WAIT))
        });
        self.timer = Some((now.clock + delay, Due::Connect));
        self.become_state(State::Waiting { delay, reason: reason.clone() });
        self.count_failure(kind, &reason, advice);
    }

    /// Delivers [`Event::Trouble`], once, when three attempts in a row have failed in the same way, because such a
    /// fault may not pass by itself.
    fn count_failure(&mut self, kind: Option<FailureKind>, reason: &str, advice: Option<&str>) {
        let before = self.failure_streak.take();
        let Some(kind) = kind else { return };
        let times = before.filter(|(last, _)| *last == kind).map_or(1, |(_, times)| times.saturating_add(1));
        self.failure_streak = Some((kind, times));
        if times == TROUBLE_AFTER {
            let status = if let FailureKind::Status(status) = kind { Some(status) } else { None };
            let advice = advice.map(|advice| format!("{advice}; ")).unwrap_or_default();
            let text = format!("{reason}, {TROUBLE_AFTER} times in a row; {advice}this client goes on trying");
            self.tell(Some(Event::Trouble { status, text }), None);
        }
    }
}
