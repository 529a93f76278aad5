//! What a gateway does with its bus: which changes are taken in, acknowledged, and told to its shards, and what the broker is
//! asked.
//!
//! Goes in: what happens ([`Event`]). Comes out: what is to be done, in order ([`Bus::next_action`]), and what people should know
//! ([`Bus::stopped`], [`Bus::notes`]). Never touches a broker, a shard or a clock: a transport hands events in and carries
//! actions out, and decides nothing. There are three: AMQP (`bus/carry.rs`), the ledger in the same process
//! (`compose/in_process_bus.rs`), and the one of the simulation.
//!
//! The one way of a change:
//!
//! 1. The transport decodes a delivery and hands it in: [`Event::Change`] or [`Event::Batch`] from the queue,
//!    [`Event::Read`] from history. Each change of a batch goes the rest of the way by itself, in order.
//! 2. The [`Sequencer`] records it in the replay cache, or drops it as known, or finds that others are missing before it.
//! 3. The plan ([`plan`]) hears what became of it, and says what follows for the feed.
//! 4. The actions go to whoever carries them out: [`Tell`] to every shard, [`Ask`] to the broker, [`Say`] to the log.
//!
//! A change before which others are missing is *held* after step 2, and with it all that comes behind it in the queue
//! ([`Bus::takes_deliveries`]): history is read, each message of it goes the same way, and when that has ended, the held
//! change is offered again, and taken in whatever is missing still. Then the rest of its batch follows, and the delivery is
//! acknowledged.

mod acks;
mod changes;
mod history;
pub mod offsets;
mod older;
pub mod plan;
pub mod publishers;
pub mod steps;
mod words;

use std::collections::VecDeque;

use bugfeed_protocol::Cursor;
use bugfeed_protocol::bus::Head;

use self::acks::Acks;
use self::history::{End, History};
use self::offsets::Met;
use self::older::Older;
use self::plan::BusPlan;
pub use self::plan::GRACE_MS;
pub use self::publishers::Publisher;
use self::steps::{Happened, Step};
pub use self::words::{Action, Arrival, Ask, Cause, Event, Item, Note, Now, Queue, Say, Stopped, Tell, Why};
use super::replay::Replay;
use super::sequencer::{HeadStands, Sequencer};

/// What is known of a transport.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// Whether it keeps history that can be read.
    pub history: bool,
    /// How long it may be away before clients are told, in milliseconds.
    pub grace_ms: u64,
    /// Deliveries that it sends without an acknowledgement.
    pub prefetch: u16,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup { history: false, grace_ms: GRACE_MS, prefetch: u16::MAX }
    }
}

/// A change before which others are missing.
#[derive(Debug)]
struct Held {
    arrival: Arrival,
    tag: Option<u64>,
    /// How many are missing; none where another history or another ledger begins.
    missing: Option<u64>,
}

/// One feed's bus.
#[derive(Debug)]
pub struct Bus {
    sequencer: Sequencer,
    plan: BusPlan,
    history: History,
    acks: Acks,
    held: Option<Held>,
    /// What is left of the delivery in hand, and its tag. More than one change only while one of them is held.
    in_hand: VecDeque<Arrival>,
    in_hand_tag: Option<u64>,
    /// So many changes still come that had waited in the queue, and whether they lie before what is known.
    backlog: u64,
    older: Older,
    current: bool,
    /// The feed was current once, so that somebody may have been told something.
    begun: bool,
    /// What [`Bus::stopped`] and [`Bus::notes`] say may have changed.
    news: bool,
    out: VecDeque<Action>,
}

impl Bus {
    /// The bus of a feed that has no connection yet, over a transport without history.
    pub fn new(sequencer: Sequencer) -> Bus {
        let Setup { history, grace_ms, prefetch } = Setup::default();
        Bus {
            sequencer,
            plan: BusPlan::new(0, history, grace_ms),
            history: History::default(),
            acks: Acks::new(prefetch),
            held: None,
            in_hand: VecDeque::new(),
            in_hand_tag: None,
            backlog: 0,
            older: Older::default(),
            current: false,
            begun: false,
            news: false,
            out: VecDeque::new(),
        }
    }

    /// Says what transport it is. To be called before the first event.
    pub fn set_up(&mut self, now_ms: u64, setup: Setup) {
        self.plan = BusPlan::new(now_ms, setup.history, setup.grace_ms);
        self.acks = Acks::new(setup.prefetch);
    }

    /// Hears what happened. What is to be done about it comes out of [`Bus::next_action`]. The clock of `now.ms` never falls.
    pub fn on(&mut self, now: Now, event: Event<'_>) {
        match event {
            Event::HeadsBound(bound) => self.decide(now, Happened::HeadsBound(bound)),
            Event::Connected { queue, waiting } => {
                // Whatever history brings before them is newer.
                (self.backlog, self.older) = (waiting, Older::new(waiting > 0));
                self.decide(now, Happened::Connected { queue, waiting });
            }
            Event::Lost => self.lost(now),
            Event::Change(arrival, tag) => self.change(now, arrival, tag),
            Event::Batch(changes, tag) if changes.is_empty() => self.unreadable(now, tag),
            Event::Batch(changes, tag) => (self.in_hand, self.in_hand_tag) = (changes.into(), tag),
            Event::Unreadable(tag) => self.unreadable(now, tag),
            Event::Head(head, tag) => self.head_came(now, head, tag),
            Event::Waits(reason) => self.decide(now, Happened::Waits(reason)),
            Event::Begins(epoch) => {
                let start = self.sequencer.begin(epoch);
                self.tell(Tell::Gap(Some(start), Cause::Begins));
            }
            Event::Marked(marker) => self.read(|history, out| history.marked(now.ms, marker, out)),
            Event::Read(item, offset) => self.met(now, item, offset),
            Event::ReadingFailed { for_good, random } => {
                let end = self.history.failed(now.ms, for_good, random, false);
                self.ended(now, end);
            }
            Event::Due => self.due(now),
            Event::Tick => {
                self.sequencer.tick(now.wall);
                self.due(now);
                self.decide(now, Happened::Tick);
                self.news = true;
            }
        }
        self.work_off(now);
    }

    /// What is to be done next.
    pub fn next_action(&mut self) -> Option<Action> {
        self.out.pop_front()
    }

    /// The same while the broker is busy with what it was asked: what it is to be asked next is left for later.
    pub fn next_aside(&mut self) -> Option<Action> {
        let at = self.out.iter().position(|action| !matches!(action, Action::Ask(_)))?;
        self.out.remove(at)
    }

    /// When [`Event::Due`] is to be handed in.
    pub fn due_ms(&self) -> Option<u64> {
        let (acks, history) = (self.acks.due_ms(), self.history.due_ms());
        acks.into_iter().chain(history).min()
    }

    /// Whether deliveries are to be taken from the queue. Not while history is read: what it holds comes before them.
    pub fn takes_deliveries(&self) -> bool {
        self.history.reading().is_none()
    }

    /// The tag up to which deliveries are to be acknowledged before the transport is left.
    pub fn take_unacknowledged(&mut self) -> Option<u64> {
        self.acks.take()
    }

    /// Whether something may have changed in what people should know, since this was asked last.
    pub fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.news)
    }

    /// Whether the feed was current once.
    pub fn was_live(&self) -> bool {
        self.plan.was_live()
    }

    /// Whether there is history, and it is not left alone for a while.
    pub fn has_history(&self, now_ms: u64) -> bool {
        self.plan.has_history(now_ms)
    }

    /// Why nothing can arrive just now, and since when.
    pub fn stopped(&self, now_ms: u64) -> Option<(Stopped, u64)> {
        self.plan.stopped(now_ms)
    }

    /// What people should know all the same.
    pub fn notes(&self, now_ms: u64) -> Vec<Note> {
        self.plan.notes(now_ms)
    }

    /// The newest number taken in.
    pub fn head(&self) -> Option<Cursor> {
        self.sequencer.head()
    }

    /// How many changes the reading of history under way has brought.
    pub fn read_so_far(&self) -> Option<u64> {
        self.history.reading().map(|reading| reading.read)
    }

    /// The newest number that was taken in when the reading under way began.
    pub fn reading_since(&self) -> Option<&Cursor> {
        self.history.reading()?.head()
    }

    /// Whether what history delivers now, or else the queue, lies before all that is known here.
    pub fn is_before(&self) -> bool {
        match self.history.reading() {
            Some(reading) => reading.older.is_before(),
            None => self.older.is_before() && self.sequencer.head().is_some(),
        }
    }

    /// The cache that is filled.
    pub fn replay(&self) -> &Replay {
        self.sequencer.replay()
    }

    fn tell(&mut self, tell: Tell) {
        self.out.push_back(Action::Tell(tell));
    }

    fn say(&mut self, say: Say) {
        self.out.push_back(Action::Say(say));
    }

    fn ask(&mut self, ask: Ask) {
        self.out.push_back(Action::Ask(ask));
    }

    /// Does something with history, and passes on what it asks for.
    fn read<T>(&mut self, act: impl FnOnce(&mut History, &mut Vec<Ask>) -> T) -> T {
        let mut asks = Vec::new();
        let done = act(&mut self.history, &mut asks);
        self.out.extend(asks.into_iter().map(Action::Ask));
        done
    }

    fn lost(&mut self, now: Now) {
        // What was to be asked was for the connection that there was.
        self.out.retain(|action| !matches!(action, Action::Ask(_)));
        self.held = None;
        self.in_hand.clear();
        self.history.lost();
        self.acks.take();
        self.decide(now, Happened::Lost);
    }

    fn due(&mut self, now: Now) {
        if let Some(tag) = self.acks.due(now.ms) {
            self.ask(Ask::Acknowledge(tag));
        }
        let mut asks = Vec::new();
        let end = self.history.due(now.ms, || self.sequencer.head(), &mut asks);
        // What clients are told does not wait for the broker.
        self.ended(now, end);
        self.out.extend(asks.into_iter().map(Action::Ask));
    }

    fn head_came(&mut self, now: Now, head: &Head, tag: Option<u64>) {
        self.say(Say::HeadHeard);
        let stands = self.sequencer.judge_head(&head.cursor);
        self.decide(now, Happened::Head { head, stands });
        self.done(now, tag);
    }

    /// Takes in what history holds.
    fn met(&mut self, now: Now, item: Item, offset: i64) {
        match item {
            Item::Changes(changes) => {
                self.read(|history, out| history.heard(now.ms, out));
                for arrival in &changes {
                    match self.read(|history, out| history.change(&arrival.message, offset, out)) {
                        Met::New => self.take_old(now, arrival),
                        Met::Old => {}
                        // The stream is read anew.
                        Met::Useless => break,
                    }
                }
            }
            Item::Unreadable => self.read(|history, out| history.heard(now.ms, out)),
            Item::Marker(name) => {
                let found = self.is_found();
                let nowhere = self.history.reading().and_then(|reading| reading.older.leads_nowhere().cloned());
                let mut asks = Vec::new();
                let end = self.history.marker(now.ms, &name, offset, found, &mut asks);
                let end = self.follow(nowhere, end);
                self.ended(now, end);
                self.out.extend(asks.into_iter().map(Action::Ask));
            }
        }
    }

    /// Whether what history is read for has come.
    fn is_found(&self) -> bool {
        if let Some(Held { arrival, missing, .. }) = &self.held {
            // What shows another history of the same ledger is no hole: nothing that could be read fills it.
            let epoch = arrival.message.cursor.as_ref().map(|cursor| &cursor.epoch);
            let fork = missing.is_none() && self.reading_since().is_some_and(|head| Some(&head.epoch) == epoch);
            return fork || self.sequencer.continues(&arrival.message);
        }
        let stands = self.plan.head_in_question().map(|head| self.sequencer.judge_head(head));
        stands.is_none_or(|stands| matches!(stands, HeadStands::Even | HeadStands::Within))
    }

    /// Where history ends with a number that leads to nothing known here, continuity cannot be proven: the feed goes on from
    /// there.
    fn follow(&mut self, nowhere: Option<Cursor>, end: Option<End>) -> Option<End> {
        let (Some(number), Some(End::Read { messages, .. })) = (nowhere, end) else { return end };
        self.go_on_after(&number, Why::Forked);
        Some(End::Read { messages, proven: true })
    }

    /// The reading has ended, if it has.
    fn ended(&mut self, now: Now, end: Option<End>) {
        match end {
            None => {}
            Some(End::Read { messages, proven }) => {
                self.say(Say::HistoryRead(messages));
                self.decide(now, Happened::HistoryRead { proven });
            }
            Some(End::Failed { for_good, silent }) => {
                self.say(Say::NoHistory { silent });
                self.decide(now, Happened::HistoryFailed { for_good });
            }
        }
    }

    fn go_on_after(&mut self, cursor: &Cursor, why: Why) {
        if why == Why::Forked {
            self.say(Say::Forked(cursor.clone(), self.begun));
        }
        let cursor = self.sequencer.go_on_after(cursor);
        self.gap(Some(cursor), Cause::Head(why));
    }

    /// Hands something to the plan, and does what it says, in the order in which it said so.
    fn decide(&mut self, now: Now, happened: Happened<'_>) {
        let mut steps = VecDeque::from(self.plan.on(now.ms, happened));
        self.news |= !steps.is_empty();
        while let Some(step) = steps.pop_front() {
            if step == Step::Judge {
                let stands = self.plan.head_in_question().map(|head| self.sequencer.judge_head(head));
                let judged = Happened::Judged(stands.unwrap_or(HeadStands::Even));
                steps.extend(self.plan.on(now.ms, judged));
            } else {
                self.carry(now, step);
            }
        }
    }

    fn carry(&mut self, now: Now, step: Step) {
        match step {
            Step::ReadHistory { patience_ms, from_mark } => {
                let head = self.sequencer.head();
                self.read(|history, out| history.begin(now.ms + patience_ms, from_mark, head, out));
            }
            Step::Judge => {}
            Step::Rebind => {
                if let Some(head) = self.plan.head_in_question().cloned() {
                    self.say(Say::HeadDiffers(head));
                }
                self.ask(Ask::Rebind);
            }
            Step::TakeWithGap => self.take_held(now),
            Step::Hold(held) => self.tell(Tell::Hold(held)),
            Step::Lose => {
                let cursor = self.sequencer.lose();
                self.gap(cursor, Cause::Unproven);
            }
            Step::GoOnAfter(cursor, why) => self.go_on_after(&cursor, why),
            Step::Current(current) => {
                if std::mem::replace(&mut self.current, current) != current {
                    self.begun |= current;
                    self.tell(Tell::Current(current));
                }
            }
            Step::Feed { paused, since_ms } => self.tell(Tell::Feed { paused, since_ms }),
        }
    }
}

#[cfg(test)]
mod tests;
