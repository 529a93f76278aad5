//! What an endpoint is sent, and what follows from the outcome.

use std::sync::Arc;

use super::{Action, Attempt, Endpoint, Event, Flight, Live, QUIET_US, REQUEST_US, SLOW_US, Send, View, What};
use crate::endpoints::batch::{Batch, Kind};
use crate::endpoints::policy::{Health, LONGEST_US, Outcome, Tidings};
use crate::endpoints::question::{self, Answer, Ask, Bound, Since};
use crate::endpoints::row::{Asked, Effect};
use crate::endpoints::sent::Sent;
use crate::hooks::event::Trigger;
use crate::input::AHEAD_MS;

/// [`AHEAD_MS`] in microseconds.
const AHEAD_US: i64 = AHEAD_MS as i64 * 1000;

impl Live {
    /// When to look at this feed again although nothing happens.
    pub(super) fn look_us(&self) -> i64 {
        let ahead_us = self.ahead_since_us.filter(|_| !self.news).map(|since_us| since_us + AHEAD_US);
        ahead_us.map_or(self.quiet_us, |ahead_us| self.quiet_us.min(ahead_us))
    }

    /// Other bugs are watched from now on. A place may lie behind changes of theirs that the cursor does not claim, so the
    /// cursor alone says what is owed.
    pub(super) fn forget_place(&mut self, since: &Since) {
        if matches!(since, Since::Cursor(_)) {
            self.place = None;
        }
        if let Some(frozen) = &mut self.frozen {
            Arc::make_mut(frozen).place = None;
        }
    }
}

impl Endpoint {
    /// The cursors of quiet feeds are moved. Where the receiver was ahead for too long, or something shows that was not
    /// announced, there is news.
    pub(super) fn tick(&mut self, view: &View<'_>) {
        let now_us = view.now_us;
        let mut health: Health = self.row.health.clone();
        if health.mend(now_us) {
            self.effect(Effect::Mended { now_us });
        }
        for at in 0..self.lives.len() {
            let live = &mut self.lives[at];
            // One that lies too far ahead is of a clock that was set back.
            if live.look_us() > now_us && live.quiet_us <= now_us + QUIET_US {
                continue;
            }
            live.quiet_us = now_us + QUIET_US - self.offset_us;
            if live.news || live.frozen.is_some() || self.flight.is_some() {
                // It is asked when it is sent to the next time.
                live.news |= live.ahead_since_us.is_some();
                continue;
            }
            let answer = self.ask(at, self.bound, view);
            self.lives[at].news = !self.settle(at, answer, now_us, true);
        }
    }

    fn ask(&self, at: usize, bound: Bound, view: &View<'_>) -> Answer {
        let (line, live) = (&self.row.lines[at], &self.lives[at]);
        let ask = |since, place| view.feeds.ask(&line.feed, &Ask { watch: &self.row.watch, since, place, bound });
        let overdue = live.ahead_since_us.is_some_and(|since_us| view.now_us >= since_us + AHEAD_US);
        match ask(&line.since, live.place) {
            Answer::Ahead(_) if overdue => ask(&Since::Unknown, None),
            answer => answer,
        }
    }

    /// Notes an answer that brings nothing to send. Returns false for one that does. `store`: the cursor is to be stored.
    fn settle(&mut self, at: usize, answer: Answer, now_us: i64, store: bool) -> bool {
        let line = &self.row.lines[at];
        let (feed, turns) = (Arc::clone(&line.feed), (self.row.turn, line.turn));
        let live = &mut self.lives[at];
        match answer {
            Answer::NotYet(place) => {
                live.place = place.or(live.place);
                live.ahead_since_us = None;
                // The feed is current, and has no number: what comes from now on is owed.
                if place.is_some() && line.since == Since::Head {
                    self.effect(Effect::Moved { feed, turns, since: Since::Unknown, left_out: false });
                }
            }
            Answer::Ahead(place) => {
                // A clock that was set back begins anew.
                let since_us = live.ahead_since_us.filter(|&since_us| since_us <= now_us).unwrap_or(now_us);
                (live.place, live.ahead_since_us) = (Some(place), Some(since_us));
            }
            Answer::Changes(batch) if batch.changes.is_empty() => {
                (live.place, live.live, live.ahead_since_us) = (Some(batch.place), true, None);
                live.frozen = None;
                let since = Since::Cursor(batch.cursor);
                let told = line.left_out || line.sent.is_some();
                let first = !matches!(line.since, Since::Cursor(_)) || told;
                if (store || first) && (line.since != since || told) {
                    self.effect(Effect::Moved { feed, turns, since, left_out: false });
                }
            }
            Answer::Gap(..) | Answer::Changes(_) => return false,
        }
        true
    }

    /// The schedule has a place for a request.
    pub(super) fn permitted(&mut self, view: &View<'_>, out: &mut Vec<Action>) {
        let now_us = view.now_us;
        self.wanted = false;
        let blocked = self.flight.is_some() || !self.unsaved.is_empty() || self.is_fenced(now_us);
        let flight = match blocked {
            true => None,
            false => self.next_wish(now_us).or_else(|| self.next_batch(view)),
        };
        let Some(flight) = flight else { return out.push(Action::Release) };
        self.pacing.take(now_us);
        out.push(Action::Send(flight.send.clone()));
        self.flight = Some(Box::new(flight));
    }

    fn next_wish(&self, now_us: i64) -> Option<Flight> {
        let wish = self.row.wishes.iter().find(|wish| wish.what != Asked::Ready)?;
        let (what, trigger) = match wish.what {
            Asked::Ready => return None,
            Asked::Redeliver { attempt } => (What::Redelivery { attempt }, Trigger::Replay),
            Asked::Test { generation } => {
                let line = self.row.lines.first();
                let feed = line.map(|line| Arc::clone(&line.feed));
                let cursor = line.and_then(|line| self.row.cursor(&line.feed).cloned());
                (What::Test { feed, cursor, generation }, Trigger::Manual)
            }
        };
        let send = Send { what, trigger, until_us: now_us + REQUEST_US, most: 1 };
        let (turns, wish) = ((self.row.turn, 0), Some(wish.id));
        Some(Flight { send, turns, wish, probe: false, more: false, taken: false, begun_us: now_us })
    }

    /// What is sent of the next feed that has something.
    fn next_batch(&mut self, view: &View<'_>) -> Option<Flight> {
        let now_us = view.now_us;
        self.batch_from_us(now_us).filter(|&from_us| from_us <= now_us)?;
        let (count, first) = (self.lives.len(), self.turn);
        for at in (0..count).map(|step| (first + step) % count) {
            if !std::mem::take(&mut self.lives[at].news) {
                continue;
            }
            let answer = self.ask(at, self.bound, view);
            let found = match &answer {
                Answer::Changes(found) => found.changes.len() + usize::from(found.more),
                _ => 0,
            };
            let Some(batch) = self.batch(at, answer, view) else {
                // What the answer has changed of the row is stored before anything is sent.
                if self.unsaved.is_empty() {
                    continue;
                }
                return None;
            };
            self.turn = (at + 1) % count;
            let clean = self.row.health.is_clean();
            let again = match &self.lives[at].frozen {
                Some(frozen) => *frozen == batch,
                None => self.row.lines[at].sent.as_ref().is_some_and(|sent| *sent == Sent::of(&batch)),
            };
            // The rest of what was taken in part is no retry.
            let again = !std::mem::take(&mut self.lives[at].partly) && again;
            let trigger = match () {
                () if again || !clean => Trigger::Retry,
                () if self.lives[at].live => Trigger::Live,
                () => Trigger::Drain,
            };
            self.lives[at].frozen = Some(Arc::clone(&batch));
            self.fresh = false;
            let turns = (self.row.turn, self.row.lines[at].turn);
            // What has come since a batch was frozen follows it.
            let more = batch.more || found > batch.changes.len();
            let wish = self.row.wishes.iter().find(|wish| wish.what == Asked::Ready).map(|wish| wish.id);
            let probe = self.row.health.disabled_until_us.is_some();
            // A receiver that may still be ill is tried with one message.
            let most = if clean { self.pacing.permits(now_us) } else { 1 };
            let send = Send { what: What::Batch(batch), trigger, until_us: now_us + REQUEST_US, most };
            return Some(Flight { send, turns, wish, probe, more, taken: false, begun_us: now_us });
        }
        None
    }

    /// The batch that this answer gives: the frozen one where it still holds.
    fn batch(&mut self, at: usize, answer: Answer, view: &View<'_>) -> Option<Arc<Batch>> {
        let frozen = self.lives[at].frozen.clone().or_else(|| self.restored(at, &answer, view));
        match (&frozen, &answer) {
            (Some(frozen), Answer::Changes(found)) if frozen.kind != Kind::Gap && frozen.begins(&found.changes) => {
                return Some(Arc::clone(frozen));
            }
            // A gap that was sent still holds if the feed can go on from it.
            (Some(frozen), Answer::Gap(..)) if frozen.kind == Kind::Gap => {
                let (watch, since) = (&self.row.watch, &Since::Cursor(frozen.cursor.clone()));
                let ask = Ask { watch, since, place: frozen.place, bound: self.bound };
                match view.feeds.ask(&frozen.feed, &ask) {
                    Answer::Gap(..) => {}
                    _ => return Some(Arc::clone(frozen)),
                }
            }
            _ => {}
        }
        let generation = self.row.lines[at].turn;
        let feed = Arc::clone(&self.row.lines[at].feed);
        match answer {
            Answer::Gap(cursor, place) => {
                let (kind, changes, place) = (Kind::Gap, Vec::new(), Some(place));
                Some(Arc::new(Batch { feed, kind, changes, cursor, generation, more: false, place }))
            }
            Answer::Changes(question::Batch { changes, more, left_out, cursor, place }) if !changes.is_empty() => {
                let left_out = left_out || self.row.lines[at].left_out;
                let single = self.lives[at].live && changes.len() == 1 && !more && !left_out;
                let kind = if single { Kind::Update } else { Kind::Updates { complete: !left_out } };
                Some(Arc::new(Batch { feed, kind, changes, cursor, generation, more, place: Some(place) }))
            }
            answer => {
                self.settle(at, answer, view.now_us, false);
                None
            }
        }
    }

    /// The batch that was sent in another process, and failed there, if it still holds.
    fn restored(&self, at: usize, answer: &Answer, view: &View<'_>) -> Option<Arc<Batch>> {
        let line = &self.row.lines[at];
        let sent = line.sent.as_ref()?;
        let (changes, cursor, more, place) = match answer {
            Answer::Gap(..) if sent.kind == Kind::Gap => (Vec::new(), sent.cursor.clone(), false, None),
            Answer::Changes(found) if sent.kind != Kind::Gap && sent.begins(&found.changes) => {
                // Asked for these alone, the feed says where the endpoint stands once it has them.
                let bound = Bound { entries: usize::try_from(sent.count).ok()?, bytes: usize::MAX };
                match self.ask(at, bound, view) {
                    Answer::Changes(found) if found.changes.len() == bound.entries && sent.begins(&found.changes) => {
                        (found.changes, found.cursor, found.more, Some(found.place))
                    }
                    _ => return None,
                }
            }
            _ => return None,
        };
        let (feed, kind, generation) = (Arc::clone(&line.feed), sent.kind, line.turn);
        Some(Arc::new(Batch { feed, kind, changes, cursor, generation, more, place }))
    }

    /// The batch in flight was sent as several messages.
    pub(super) fn posted(&mut self, sent: u32, taken: u32, now_us: i64) {
        let Some(flight) = &mut self.flight else { return };
        flight.taken = taken > 0;
        self.pacing.take_more(sent.saturating_sub(1), now_us);
    }

    /// The request in flight has ended.
    pub(super) fn ended(&mut self, outcome: Outcome, now_us: i64, out: &mut Vec<Action>) {
        let Some(flight) = self.flight.take() else { return };
        let Flight { send, turns, wish, probe, more, taken, begun_us } = *flight;
        let (success, good) = (outcome == Outcome::Success, outcome.is_good());
        let ours = outcome == Outcome::Ours;
        let counts = matches!(send.what, What::Batch(_)) && turns.0 == self.row.turn && !ours;
        if ours {
            self.pacing.hold(now_us);
        }
        if let Some(wish) = wish {
            self.effect(Effect::Done { wish });
        }
        let tidings = match &send.what {
            What::Batch(batch) => {
                self.delivered(batch, turns, more, outcome);
                if taken && !good {
                    // What it took before that was a success, too. Nobody is told: it fails again at once.
                    self.effect(Effect::Attempted { turn: turns.0, outcome: Outcome::Partly, at_us: now_us });
                }
                self.effect(Effect::Attempted { turn: turns.0, outcome, at_us: now_us })
            }
            What::Test { .. } if success => self.effect(Effect::Healed { turn: turns.0 }),
            What::Test { .. } | What::Redelivery { .. } => Tidings::default(),
        };
        if counts {
            self.slow = good && now_us - begun_us > SLOW_US;
            self.proven |= good;
            match (good, probe) {
                (false, _) => self.pacing.end_ramp(),
                (true, _) if self.lives.iter().all(|live| live.live) => self.pacing.end_ramp(),
                (true, true) => self.pacing.begin_ramp(now_us),
                (true, false) => {}
            }
        }
        if let What::Batch(batch) = &send.what
            && batch.kind == Kind::Gap
            && success
        {
            out.push(Action::Event(Event::Gap));
        }
        out.push(Action::Attempt(Attempt { send, outcome, begun_us, ended_us: now_us, counts }));
        self.tell(tidings, out);
    }

    /// A batch was accepted, or not.
    fn delivered(&mut self, batch: &Arc<Batch>, turns: (u32, u32), more: bool, outcome: Outcome) {
        let of_feed = |line: &crate::endpoints::row::Line| line.feed == batch.feed && line.turn == turns.1;
        let Some(at) = self.row.lines.iter().position(of_feed) else { return };
        let live = &mut self.lives[at];
        if self.row.turn != turns.0 || outcome != Outcome::Success {
            // What another URL was sent is sent anew.
            (live.news, live.live, live.partly) = (true, false, outcome == Outcome::Partly);
            let (feed, sent) = (Arc::clone(&batch.feed), Sent::of(batch));
            if self.row.lines[at].sent.as_ref() != Some(&sent) {
                self.effect(Effect::Failed { feed, turns, sent });
            }
            return;
        }
        // A gap is the beginning of what comes after it.
        let more = more || batch.kind == Kind::Gap;
        live.news |= more;
        live.live = !more;
        // The frozen batch is this one, and knows whether other bugs are watched by now.
        live.place = live.frozen.take().and_then(|frozen| frozen.place);
        live.ahead_since_us = None;
        let left_out = more && batch.kind == Kind::Updates { complete: false };
        let since = Since::Cursor(batch.cursor.clone());
        let feed = Arc::clone(&batch.feed);
        self.effect(Effect::Moved { feed, turns, since, left_out });
    }

    fn tell(&self, tidings: Tidings, out: &mut Vec<Action>) {
        debug_assert!(tidings.cooling_until_us.is_none_or(|us| us < i64::MAX - LONGEST_US));
        let warning = tidings.warning.map(|percent| match self.row.health.disabled(self.row.policy) {
            Some(bar) => Event::Disabled(bar),
            None => Event::Warning(percent),
        });
        let cooling = tidings.cooling_until_us.map(Event::Cooling);
        let recovered = tidings.recovered.then_some(Event::Recovered);
        out.extend(warning.into_iter().chain(cooling).chain(recovered).map(Action::Event));
    }
}
