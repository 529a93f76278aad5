//! What a client may hear: every frame is held against the truth and against what its pod has taken in.
//!
//! Goes in: one text. Comes out: the client's new memory, or the promise that was broken.

use bugfeed_core::replay::Pos;
use bugfeed_protocol::{BugId, Cursor, When};
use serde_json::Value;

use crate::client::{Client, Pending, Session};
use crate::shadow::{Fact, Shadow, Told, Truth};
use crate::wire::Asked;

type Checked<T = ()> = Result<T, String>;

macro_rules! promise {
    ($holds:expr, $($text:tt)*) => {
        if !$holds {
            return Err(format!($($text)*));
        }
    };
}

fn cursor_of(value: &Value) -> Checked<Option<Cursor>> {
    match value.get("cursor") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Cursor::parse(text).map(Some).ok_or_else(|| "a cursor that is none".to_owned()),
        Some(_) => Err("a cursor that is no text".to_owned()),
    }
}

impl Client {
    pub fn hear(&mut self, text: &str, truth: &Truth) -> Checked {
        let value: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let cursor = cursor_of(&value)?;
        let session = self.session.as_mut().expect("who hears is connected");
        let command = value["command"].as_str().unwrap_or_default();
        promise!(value["result"] != "error", "refused");
        match command {
            "update" => self.update(&value, cursor, truth),
            "heartbeat" => {
                session.paused = value["state"] == "paused";
                self.moved(cursor, truth)
            }
            "feed" => {
                promise!(session.greeted, "who did not say hello is told of the feed's state");
                let paused = value["state"] == "paused";
                promise!(paused || value["state"] == "live", "a state that is none");
                session.paused = paused;
                Ok(())
            }
            "gap" => self.gap(cursor),
            "goaway" => {
                session.over = true;
                self.moved(cursor, truth)
            }
            _ => {
                let pending = session.pending.pop_front().ok_or("an answer to nothing")?;
                self.answer(command, pending, &value, cursor, truth)
            }
        }
    }

    fn answer(
        &mut self,
        command: &str,
        pending: Pending,
        value: &Value,
        cursor: Option<Cursor>,
        truth: &Truth,
    ) -> Checked {
        match (command, pending) {
            ("hello", Pending::Hello) => {
                if let Some(session) = &mut self.session {
                    session.greeted = true;
                }
                let waits = self.session.as_ref().is_some_and(|session| session.pending.is_empty());
                if waits && !self.bugs.is_empty() {
                    // It asks the tracker now, and for what follows the gateway.
                    self.sync();
                    self.cursor = cursor;
                    self.subscribe();
                }
                Ok(())
            }
            ("subscribe", Pending::All(asked)) => {
                promise!(value.get("all").is_some() == self.all, "told that it has all bugs, or not told");
                let could_tell = self.begins(&self.bugs.iter().copied().collect::<Vec<_>>());
                self.subscribed(asked, could_tell, value["replay"].as_str(), cursor, truth)
            }
            ("subscribe", Pending::More(bugs)) => {
                promise!(value.get("replay").is_none(), "a verdict on nothing");
                self.begins(&bugs);
                self.moved(cursor, truth)?;
                self.bugs.extend(bugs);
                Ok(())
            }
            ("subscribe", Pending::Whole(bugs)) => {
                promise!(value["all"] == true, "not told that it has all bugs");
                self.begins(&bugs);
                self.moved(cursor, truth)?;
                self.has_all();
                Ok(())
            }
            ("unsubscribe", Pending::Fewer(_)) => self.moved(cursor, truth),
            (_, pending) => Err(format!("an answer to something else than {pending:?}")),
        }
    }

    /// From here on nothing of these bugs is sent that the gateway was told to be known, or that came before they were
    /// asked for. Whether it could tell what was not known.
    fn begins(&mut self, bugs: &[BugId]) -> bool {
        let session = self.session.as_mut().expect("who hears is connected");
        let Asked { can_tell, sent, loses } = session.wire.asked.borrow_mut().pop_front().unwrap_or_default();
        session.last.extend(bugs.iter().map(|&bug| (bug, sent)));
        can_tell && loses == session.shadow.borrow().loses
    }

    fn subscribed(
        &mut self,
        asked: Option<Cursor>,
        could_tell: bool,
        verdict: Option<&str>,
        cursor: Option<Cursor>,
        truth: &Truth,
    ) -> Checked {
        let session = self.session.as_mut().expect("who hears is connected");
        session.subscribed = true;
        let Some(asked) = asked else {
            promise!(verdict.is_none(), "a verdict on nothing");
            if self.modern || self.since.is_none() {
                self.sync();
                self.cursor = cursor.clone();
            } else {
                self.give_up(truth);
            }
            let session = self.session.as_mut().expect("who hears is connected");
            session.conflated = self.since.is_some();
            session.cursor = cursor;
            return Ok(());
        };
        let position = session.shadow.borrow().position(&asked).filter(|&pos| pos >= session.cache.floor());
        match verdict {
            Some("complete" | "latest") => {
                let waits = |shadow: &Shadow| shadow.held && session.held_in == Some(shadow.holds);
                promise!(!waits(&session.shadow.borrow()), "a resume was answered before it is known what was missed");
                promise!(cursor.as_ref() == Some(&asked), "the answer to a resume repeats the cursor, {asked}");
                session.conflated = verdict == Some("latest");
                if let (true, Some(pos)) = (session.conflated, position.filter(|&pos| pos < Pos::MAX)) {
                    let more = session.shadow.borrow().changes_after(pos) > self.catch_up;
                    promise!(more || pos + 1 < session.cache.start(), "latest, though the ring has all since {asked}");
                }
                session.cursor = cursor;
                session.asked = Some(asked);
                self.resumes(verdict == Some("latest"));
            }
            Some("gap") => {
                self.told_all.gaps += u64::from(self.all);
                promise!(!could_tell || position.is_none(), "gap, but {asked} is known: position {position:?}");
                session.cursor.clone_from(&cursor);
                self.sync();
                self.cursor = cursor;
            }
            other => return Err(format!("verdict {other:?}")),
        }
        Ok(())
    }

    /// A word that continuity was lost.
    fn gap(&mut self, cursor: Option<Cursor>) -> Checked {
        let session = self.session.as_mut().expect("who hears is connected");
        promise!(self.modern, "a gap told to a classic client");
        let forgot = session.wire.lagged.get() && session.cache.floor() > 0;
        let lost = session.shadow.borrow().breaks > session.breaks;
        promise!(forgot || lost || session.wire.may_gap.get(), "gap without a reason");
        self.told_all.gaps += u64::from(self.all);
        session.asked = None;
        session.cursor.clone_from(&cursor);
        self.sync();
        self.cursor = cursor;
        Ok(())
    }

    fn update(&mut self, value: &Value, cursor: Option<Cursor>, truth: &Truth) -> Checked {
        let bug = value["bug"].as_u64().and_then(BugId::new).ok_or("an update without a bug")?;
        let when = value["when"].as_str().and_then(|when| When::parse_utc(when).ok()).ok_or("no date")?;
        let fact = truth.of(when).filter(|&fact| truth.all[fact].change.bug == bug).ok_or("a change that never was")?;
        promise!(cursor.is_some() == self.modern, "a cursor belongs to the modern protocol");
        let leaves = |pending: &Pending| matches!(pending, Pending::Fewer(bugs) if bugs.contains(&bug));
        let session = self.session.as_mut().expect("who hears is connected");
        promise!(self.bugs.contains(&bug) || session.pending.iter().any(leaves), "not a bug of this client");
        promise!(session.subscribed, "an update before the answer");
        let last = session.last.get(&bug).copied().unwrap_or(0);
        let place = session.shadow.borrow().told(fact, last, cursor.as_ref());
        let place = place.ok_or_else(|| format!("bug {bug}: not after position {last}, or never taken in"))?;
        if session.fresh {
            let begun = session.shadow.borrow().begun;
            promise!(begun.is_some_and(|begun| place > begun), "news from before the pod was current ({begun:?})");
        }
        session.last.insert(bug, place);
        let held = session.sent(place, cursor.as_ref())?;
        self.told_all.updates += u64::from(self.all);
        self.told_all.held += u64::from(self.all && held);
        self.received(bug, fact, place, truth)?;
        if self.modern {
            self.moved(cursor, truth)
        } else {
            if !truth.all[fact].foreign {
                self.since = self.since.max(Some(when));
            }
            Ok(())
        }
    }

    /// Ticks off a change, and those that it stands for.
    fn received(&mut self, bug: BugId, fact: Fact, place: u64, truth: &Truth) -> Checked {
        self.missing.remove(&fact);
        let session = self.session.as_ref().expect("who hears is connected");
        let shadow = session.shadow.borrow();
        let older = |other: &Fact, place: u64| {
            let told = &truth.all[*other];
            // What this pod never had, because it began later, it can only have passed over.
            let here = shadow.number(place);
            // A history that was set back and has these numbers once more is not yet as far.
            let beyond = |other: Fact| truth.number_in(other, here).is_some_and(|number| number > here.seq);
            let comes_again = |other: Fact| !shadow.is_late(place) && beyond(other);
            // What was taken in once more has yet to come.
            let earlier = match shadow.last_place(*other) {
                Some(earlier) => earlier < place && !comes_again(*other),
                None => truth.number_in(*other, here).is_some_and(|number| number < here.seq),
            };
            told.change.bug == bug && earlier
        };
        // What lies before the cursor asked from was conflated in an earlier session.
        let earlier = |other: &Fact| {
            let asked = session.asked.as_ref();
            asked.is_some_and(|asked| truth.number_in(*other, asked).is_some_and(|number| number <= asked.seq))
        };
        // Where ledgers alternate, the way back to the newer one is a gap.
        let counts = |other: &Fact| {
            let here = |at| truth.all[*other].foreign || truth.number_in(*other, at).is_some();
            session.cursor.as_ref().is_none_or(here)
        };
        let all = !session.conflated && !session.wire.lagged.get();
        let skips = |other: &&Fact| all && older(other, place) && !earlier(other) && counts(other);
        if let Some(skipped) = self.missing.iter().find(skips) {
            return Err(format!("every change was promised, but not {:?}", truth.all[*skipped]));
        }
        // One without a number may have been taken in from history, and once more from a queue: the newest change of its bug
        // is then where it lies last. Where every change is sent, each of its places is told by itself.
        let newest = shadow.last_place(fact).filter(|_| !all).map_or(place, |last| last.max(place));
        self.missing.retain(|other| !older(other, newest));
        Ok(())
    }

    /// A cursor was received: it grows, and claims nothing that was not sent.
    fn moved(&mut self, cursor: Option<Cursor>, truth: &Truth) -> Checked {
        let session = self.session.as_mut().expect("who hears is connected");
        let Some(cursor) = cursor else { return Ok(()) };
        promise!(session.subscribed, "a cursor that a client about to resume must not store");
        if let Some(last) = &session.cursor {
            promise!(truth.is_one_history(last, &cursor), "another history than that of {last}, and no gap");
            promise!(cursor.seq >= last.seq, "the cursor was {last}");
        }
        // What a client that is ahead asked from is its own word.
        let own = |asked: &Cursor| asked.epoch == cursor.epoch && asked.seq >= cursor.seq;
        if !session.asked.as_ref().is_some_and(own) {
            claims(&cursor, session, &self.missing, truth)?;
        }
        session.cursor = Some(cursor.clone());
        self.cursor = Some(cursor);
        Ok(())
    }

    /// Where two ledgers share an exchange, nobody can tell a client what the other ledger published while it was away, if its
    /// gateway took in nothing of that ledger from then on, and finds nothing of it in `history`. The client's cursor is a number of its
    /// own ledger, and the next number of that one follows: this proves that nothing of its own ledger is missing, and says
    /// nothing of another. One more change of the other ledger, or one of its heads, would be a gap. (A change that is in
    /// history or in a queue is taken in; one that was taken in has a place here.)
    ///
    /// The client's own number may have been published again later, so that here it lies behind what the other ledger
    /// published meanwhile. Example: E.8, F.1 to F.6, and E.8 once more are published; the beginning of history is cut off, up
    /// to F.3. A gateway that starts now reads F.4 to F.6 and then E.8, so to it a client with cursor E.8 has heard of F.
    pub fn give_up_unheard(&mut self, truth: &Truth, history: &[&Cursor]) {
        let Some(session) = &self.session else { return };
        let shadow = session.shadow.borrow();
        let Some(head) = &shadow.head else { return };
        let asked = session.asked.as_ref().and_then(|asked| shadow.position(asked)).filter(|&pos| pos < Pos::MAX);
        let unheard = |number: &Cursor, fact| {
            let behind = match (shadow.last_place(fact), asked) {
                (Some(place), Some(asked)) => place < asked,
                (None, Some(asked)) => shadow.has_passed(number, asked) && !history.contains(&number),
                (_, None) => false,
            };
            let nowhere = !shadow.has_from(number) && !history.contains(&number);
            number.epoch != head.epoch && (nowhere || behind)
        };
        self.missing.retain(|&fact| {
            let numbers = &truth.all[fact].numbers;
            numbers.is_empty() || !numbers.iter().all(|number| unheard(number, fact))
        });
    }

    /// A classic client cannot be told of a gap: what its pod can never send it is given up.
    pub fn give_up(&mut self, truth: &Truth) {
        let Some(session) = self.session.as_ref().filter(|_| !self.modern) else { return };
        let shadow = session.shadow.borrow();
        let Some(head) = &shadow.head else {
            // The pod knows nothing: what was before will not come.
            self.missing.retain(|&fact| truth.all[fact].numbers.is_empty());
            return;
        };
        self.missing.retain(|&fact| {
            let told = &truth.all[fact];
            if let Some(pos) = shadow.place(fact, 0) {
                return pos > session.cache.floor();
            }
            told.numbers.is_empty() || truth.number_in(fact, head).is_some_and(|number| number > head.seq)
        });
    }
}

impl Session {
    /// A change at this position was sent, with this cursor. One that came late the client may have already; it moves no
    /// cursor, and what is sent before it in the same catch-up may hold the cursor back for it. Whether it does.
    fn sent(&self, place: Pos, cursor: Option<&Cursor>) -> Checked<bool> {
        let shadow = self.shadow.borrow();
        let number = shadow.number(place);
        let Some(cursor) = cursor.filter(|_| !shadow.is_late(place)) else { return Ok(false) };
        if let Some(asked) = self.asked.as_ref().filter(|asked| asked.epoch == number.epoch) {
            promise!(number.seq > asked.seq, "sent again: the client asked from {asked}");
        }
        promise!(
            number == cursor || shadow.has_late_after(place),
            "number {number}, and nothing holds back the cursor"
        );
        Ok(number != cursor)
    }
}

/// Nothing up to the cursor is missing, but for what a newer change of the same bug, still to come, stands for.
fn claims(cursor: &Cursor, session: &Session, missing: &std::collections::BTreeSet<Fact>, truth: &Truth) -> Checked {
    let conflated = session.conflated || session.wire.lagged.get();
    for &fact in missing {
        let bug = truth.all[fact].change.bug;
        let Some(number) = truth.number_in(fact, cursor).filter(|&number| number <= cursor.seq) else { continue };
        // Or was in an earlier session, in which its newer one did not come any more.
        let earlier = |asked: &Cursor| asked.epoch == cursor.epoch && number <= asked.seq;
        let earlier = session.asked.as_ref().is_some_and(earlier);
        let shadow = session.shadow.borrow();
        let place = shadow.place(fact, 0).unwrap_or(0);
        // A newer one, of a later number; or of a later ledger, before which there is a gap. That of an earlier session
        // may have yet to come to this pod.
        let stands_in = |other: &Fact| {
            let Told { change, numbers, .. } = &truth.all[*other];
            let beyond = truth.number_in(*other, cursor).is_none_or(|number| number > cursor.seq);
            // Also one that the later ledger numbered anew.
            let again = || shadow.is_told_after(*other, place, &cursor.epoch);
            let comes = || earlier && !numbers.is_empty() || shadow.place(*other, place).is_some();
            change.bug == bug && (beyond && comes() || again())
        };
        promise!(
            (conflated || earlier) && (0..truth.all.len()).any(|other| stands_in(&other)),
            "the cursor claims {:?}, which was not sent",
            truth.all[fact]
        );
    }
    Ok(())
}
