//! What can happen next.

use std::sync::Arc;

use bugfeed_core::endpoints::SECOND_US;
use bugfeed_core::endpoints::batch::Kind;
use bugfeed_core::endpoints::endpoint::{Action, Event, Input, Send, What};
use bugfeed_core::endpoints::orders::{Order, Recovery};
use bugfeed_core::endpoints::policy::{Outcome, Policy};
use bugfeed_core::endpoints::question::Since;
use bugfeed_core::endpoints::row::Row;
use bugfeed_protocol::When;
use rand::RngExt as _;

use super::receiver::Mood;
use super::{Checked, Happens, NODES, Request, SILENCE_US, World};

impl World {
    pub(super) fn act(&mut self) -> Checked {
        let total: u32 = self.weights.iter().sum();
        let mut at = self.random.random_range(0..total);
        let act = self.weights.iter().position(|weight| {
            let here = at < *weight;
            at = at.saturating_sub(*weight);
            here
        });
        let node = self.random.random_range(0..NODES);
        let endpoint = self.random.random_range(0..self.rows.len());
        match act.unwrap_or(0) {
            0 => self.commit(),
            1 => self.pump(node),
            2 => return self.step(node, endpoint),
            3 => return self.resolve(),
            4 => {
                let us = self.random.random_range(1..2_000_000);
                return self.pass(us);
            }
            5 => {
                let us = self.random.random_range(0..30 * 3600) * SECOND_US;
                return self.long_pass(us);
            }
            6 => self.crash(node),
            7 => match self.nodes[node] {
                None => self.start(node),
                Some(_) => self.leases(node),
            },
            8 => self.by_hand(endpoint),
            9 => self.turn_mood(endpoint),
            10 => self.trouble(node),
            11 => self.due(node),
            12 => self.permit(node),
            _ => match self.random.random_range(0..2) {
                0 => self.give_back(node, endpoint),
                _ => self.stall(node),
            },
        }
        Ok(())
    }

    fn stall(&mut self, node: usize) {
        let until_us = self.now_us + self.random.random_range(0..30) * SECOND_US;
        if let Some(on) = &mut self.nodes[node] {
            on.stalled_until_us = until_us;
        }
    }

    /// A replica's feed gets its next messages.
    pub(super) fn pump(&mut self, node: usize) {
        let feed = self.random.random_range(0..self.ledgers.len());
        let (holes, now) = (self.holes, self.when());
        let (hole, late) = (self.random.random_bool(holes), self.random.random_bool(0.3));
        let Some(on) = &mut self.nodes[node] else { return };
        let (ledger, local) = (&self.ledgers[feed], &mut on.feeds[feed]);
        local.tick(now);
        if late && let Some(number) = local.held.pop_first() {
            let taken = local.take(ledger, number, now);
            on.announce(&ledger.clone(), taken.map(|(bug, _)| bug));
            return self.happens(Happens::Late);
        }
        if local.next > ledger.head() {
            return;
        }
        let number = local.next;
        local.next += 1;
        if hole {
            local.held.insert(number);
            return;
        }
        let taken = local.take(ledger, number, now);
        if let Some((bug, broke)) = taken {
            on.announce(&ledger.clone(), (!broke).then_some(bug));
        }
    }

    /// A planner of a replica gets its next input, or its next action is carried out.
    pub(super) fn step(&mut self, node: usize, at: usize) -> Checked {
        let now_us = self.now_us;
        let acts = self.random.random_bool(0.6);
        let Some(on) = self.nodes[node].as_mut().filter(|on| on.stalled_until_us <= now_us) else { return Ok(()) };
        let Some(served) = on.served.get_mut(&at) else { return Ok(()) };
        if let Some(action) = if acts { served.outbox.pop_front() } else { None } {
            return self.carry_out(node, at, action);
        }
        if let Some(input) = served.inbox.pop_front() {
            self.hear(node, at, input);
        }
        Ok(())
    }

    fn carry_out(&mut self, node: usize, at: usize, action: Action) -> Checked {
        self.say(|| format!("replica {node}, endpoint {at}: {}", super::check::told(&action)));
        let on = self.nodes[node].as_mut().unwrap();
        let served = on.served.get_mut(&at).unwrap();
        match action {
            Action::Want(class) => on.schedule.want(served.slot, class),
            Action::Release => on.schedule.done(served.slot),
            Action::Send(send) => return self.send(node, at, send),
            Action::Store(row, fence) => return self.store(node, at, *row, fence.term),
            Action::Attempt(_) => on.schedule.done(served.slot),
            Action::Event(event) => self.told(at, event),
            Action::Gone => {
                on.drop_served(at);
                self.happens(Happens::Deleted);
            }
        }
        Ok(())
    }

    fn told(&mut self, _at: usize, event: Event) {
        self.happens(match event {
            Event::Cooling(_) => Happens::Cooling,
            Event::Disabled(_) => Happens::Disabled,
            Event::Recovered => Happens::Recovered,
            Event::Warning(_) => Happens::Warning,
            Event::Gap => Happens::Gap,
        });
    }

    fn send(&mut self, node: usize, at: usize, send: Send) -> Checked {
        let served = &self.nodes[node].as_ref().unwrap().served[&at];
        let (life, term) = (self.nodes[node].as_ref().unwrap().life, served.term);
        self.check_send(node, at, &send)?;
        if self.sender.insert(at, term) != Some(term) {
            for (feed, ledger) in self.ledgers.iter().enumerate() {
                let stored = self.rows[at].cursor(&ledger.name).map_or(0, |cursor| cursor.seq);
                self.receivers[at].begin_at(feed, stored);
            }
        }
        let turn = match &send.what {
            What::Batch(batch) => batch.generation,
            _ => 0,
        };
        self.requests.push(Request { endpoint: at, from: (node, life, term), send, turn, done: false });
        Ok(())
    }

    /// The store writes a row, if nobody else has.
    fn store(&mut self, node: usize, at: usize, row: Row, term: u64) -> Checked {
        let fault = self.faults;
        let (before, after) = (self.random.random_bool(fault), self.random.random_bool(fault));
        let holds = self.leases[at].term == term && self.rows[at].version + 1 == row.version;
        let input = if before {
            Input::NotStored(None)
        } else if holds {
            self.check_store(at, &row)?;
            self.rows[at] = row;
            if after { Input::NotStored(None) } else { Input::Stored(self.rows[at].version) }
        } else if self.leases[at].term != term {
            Input::Lost
        } else {
            self.happens(Happens::Conflict);
            Input::NotStored(Some(Box::new(self.rows[at].clone())))
        };
        if before || after {
            self.happens(Happens::Unknown);
        }
        self.nodes[node].as_mut().unwrap().served.get_mut(&at).unwrap().inbox.push_back(input);
        Ok(())
    }

    /// A receiver answers.
    pub(super) fn resolve(&mut self) -> Checked {
        if self.requests.is_empty() {
            return Ok(());
        }
        let place = self.random.random_range(0..self.requests.len());
        let receiver = &self.receivers[self.requests[place].endpoint];
        let Some((outcome, taken)) = receiver.answer(&mut self.random) else { return Ok(()) };
        self.end_request(place, outcome, taken)
    }

    fn end_request(&mut self, place: usize, outcome: Outcome, taken: bool) -> Checked {
        let request = self.requests.swap_remove(place);
        self.receive(&request, taken)?;
        let (node, life, term) = request.from;
        if matches!(request.send.what, What::Batch(_)) {
            self.receivers[request.endpoint].answered(outcome);
        }
        let at = request.endpoint;
        self.say(|| format!("endpoint {at} answers {outcome:?}, has taken it: {taken}"));
        let feed = self.feed_of(&request.send);
        if let (Some(feed), What::Batch(batch)) = (feed, &request.send.what)
            && outcome != Outcome::Success
        {
            self.failed.insert((at, feed), (Arc::clone(batch), self.rows[at].watch.clone()));
        }
        let Some(on) = self.nodes[node].as_mut().filter(|on| on.life == life) else { return Ok(()) };
        let Some(served) = on.served.get_mut(&at).filter(|served| served.term == term) else { return Ok(()) };
        if outcome == Outcome::Success
            && let Some(feed) = feed
        {
            served.unaccepted.remove(&feed);
        }
        served.inbox.push_back(Input::Ended(outcome));
        Ok(())
    }

    pub(super) fn feed_of(&self, send: &Send) -> Option<usize> {
        let What::Batch(batch) = &send.what else { return None };
        self.ledgers.iter().position(|ledger| ledger.name == batch.feed)
    }

    /// What a receiver does with what it was sent.
    pub(super) fn receive(&mut self, request: &Request, taken: bool) -> Checked {
        let receiver = &mut self.receivers[request.endpoint];
        match &request.send.what {
            What::Batch(batch) if taken => {
                let feed = self.ledgers.iter().position(|ledger| ledger.name == batch.feed).unwrap();
                receiver.take(feed, batch, request.turn, &self.ledgers[feed])?;
                match batch.kind {
                    Kind::Update => self.happens(Happens::Update),
                    Kind::Updates { complete: true } => self.happens(Happens::Complete),
                    Kind::Updates { complete: false } => self.happens(Happens::Latest),
                    Kind::Gap => {}
                }
            }
            What::Test { generation, .. } if taken => receiver.take_test(*generation)?,
            _ => {}
        }
        Ok(())
    }

    /// A little time passes. Requests that take too long are cut.
    pub(super) fn pass(&mut self, us: i64) -> Checked {
        self.now_us += us;
        while let Some(place) = self.requests.iter().position(|request| request.send.until_us <= self.now_us) {
            let taken = self.random.random_bool(0.3);
            self.end_request(place, Outcome::Fault, taken)?;
        }
        Ok(())
    }

    /// Much time passes; what everybody has to do meanwhile is done first, as far as it does not wait for time.
    fn long_pass(&mut self, us: i64) -> Checked {
        for node in 0..NODES {
            for _ in 0..self.ledgers.iter().map(|ledger| ledger.changes.len() * 2).sum() {
                self.pump(node);
            }
        }
        let end_us = self.now_us + us;
        while self.now_us < end_us {
            let next_us = self.nodes.iter().flatten().filter_map(|on| on.schedule.next_us()).min();
            let step_us = next_us.unwrap_or(end_us).max(self.now_us + SILENCE_US / 2).min(end_us);
            self.pass(step_us - self.now_us)?;
            for node in 0..NODES {
                self.leases(node);
                self.due(node);
            }
            for _ in 0..10 {
                let (node, endpoint) =
                    (self.random.random_range(0..NODES), self.random.random_range(0..self.rows.len()));
                self.step(node, endpoint)?;
                self.permit(node);
                self.resolve()?;
            }
        }
        Ok(())
    }

    /// Endpoints whose time has come look again.
    pub(super) fn due(&mut self, node: usize) {
        let now_us = self.now_us;
        let Some(on) = self.nodes[node].as_mut().filter(|on| on.stalled_until_us <= now_us) else { return };
        while let Some(slot) = on.schedule.due(now_us) {
            if let Some((_, served)) = on.served.iter_mut().find(|(_, served)| served.slot == slot) {
                served.inbox.push_back(Input::Tick);
            }
        }
    }

    /// The schedule of a replica gives a place.
    pub(super) fn permit(&mut self, node: usize) {
        let now_us = self.now_us;
        let Some(on) = self.nodes[node].as_mut().filter(|on| on.stalled_until_us <= now_us) else { return };
        let Some(slot) = on.schedule.next(now_us) else { return };
        if let Some((_, served)) = on.served.iter_mut().find(|(_, served)| served.slot == slot) {
            served.inbox.push_back(Input::Permit);
        }
    }

    fn turn_mood(&mut self, at: usize) {
        let moods = [Mood::Odd, Mood::Hangs, Mood::Refuses, Mood::Broken, Mood::Gone, Mood::Busy];
        let mood = match self.random.random_range(0..12) {
            at @ 0..6 => moods[at],
            _ => Mood::Well,
        };
        self.say(|| format!("receiver {at} is {mood:?}"));
        self.receivers[at].mood = mood;
    }

    /// Something is wrong with a feed of a replica.
    fn trouble(&mut self, node: usize) {
        let feed = self.random.random_range(0..self.ledgers.len());
        let kind = self.random.random_range(0..3);
        let Some(on) = &mut self.nodes[node] else { return };
        if kind == 0 {
            on.feeds[feed].lose();
        } else {
            on.feeds[feed].current ^= true;
        }
        let ledger = self.ledgers[feed].clone();
        on.announce(&ledger, None);
    }

    /// A person gives an order.
    fn by_hand(&mut self, at: usize) {
        let feed = self.random.random_range(0..self.ledgers.len());
        let name = Arc::clone(&self.ledgers[feed].name);
        let order = match self.random.random_range(0..24) {
            0..4 => Order::Enable,
            4 => Order::Reset,
            5..8 => Order::Ready,
            8 | 9 => Order::Test,
            10 => Order::Redeliver { attempt: self.random.random_range(0..9) },
            11 => Order::Pause,
            12..16 => Order::Resume,
            16 => Order::Watch(self.watch()),
            17 => Order::Feeds(self.ledgers[..=feed].iter().map(|ledger| Arc::clone(&ledger.name)).collect()),
            18 => Order::Url,
            19 => Order::Policy(Policy::ALL[self.random.random_range(0..3)]),
            20 => Order::Rate(Some(3).filter(|_| feed == 0)),
            21 if self.random.random_bool(0.1) => Order::Delete,
            _ => match self.recovery(at, feed) {
                Some(to) => Order::Recover { feed: Some(name), to },
                None => return,
            },
        };
        let recovers = matches!(order, Order::Recover { .. });
        if !self.order(at, &order) {
            return;
        }
        if recovers {
            self.happens(Happens::Recovery);
        }
        match order {
            Order::Watch(_) | Order::Feeds(_) | Order::Delete => self.forget_debts(at),
            Order::Policy(_) => self.receivers[at].mixed = true,
            _ => {}
        }
    }

    fn recovery(&mut self, at: usize, feed: usize) -> Option<Recovery> {
        let ledger = &self.ledgers[feed];
        let line = self.rows[at].lines.iter().find(|line| line.feed == ledger.name)?;
        let Since::Cursor(cursor) = &line.since else { return None };
        if self.random.random_bool(0.5) {
            return Some(Recovery::Cursor(ledger.cursor(self.random.random_range(0..=cursor.seq))));
        }
        // Of the last change that its receiver has, or one before.
        let number = self.random.random_range(0..=cursor.seq).checked_sub(1)?;
        let change = ledger.changes.get(usize::try_from(number).unwrap())?;
        Some(Recovery::Since(When::from_micros(change.when.as_micros()).unwrap()))
    }

    /// What an endpoint no longer watches is not owed to it.
    fn forget_debts(&mut self, at: usize) {
        let row = &self.rows[at];
        let bugs = |bug| match &row.watch {
            bugfeed_core::endpoints::question::Watch::All => true,
            bugfeed_core::endpoints::question::Watch::Bugs(bugs) => bugs.contains(&bug),
        };
        let feeds: Vec<usize> = (0..self.ledgers.len())
            .filter(|&feed| row.lines.iter().any(|line| line.feed == self.ledgers[feed].name))
            .collect();
        let deleted = row.deleted;
        self.owed.retain(|(of, feed, bug), _| *of != at || !deleted && bugs(*bug) && feeds.contains(feed));
    }
}
