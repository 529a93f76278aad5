//! What goes wrong in a run, and how it ends: everything heals, comes to rest, and is looked at.
//!
//! Goes in: a world. Comes out: a world in which something is broken, or one at rest in which nothing may be.

use bugfeed_protocol::{Cursor, Epoch};
use rand::Rng as _;

use crate::pod::Life;
use crate::shim::{Ledger, Shim};
use crate::swarm::Act;
use crate::world::World;

type Checked<T = ()> = Result<T, String>;

/// How many rounds coming to rest may take.
const ROUNDS: usize = 20_000;

/// How often a ledger is made anew; a gateway remembers the numbers of eight.
const EPOCHS: usize = 6;

impl World {
    pub fn fault(&mut self, fault: Act) {
        self.say(|| format!("{fault:?}"));
        self.stats.faults += 1;
        let away = self.random.random_range(10..300);
        let pod = self.random.random_range(0..self.pods.len());
        let at = self.random.random_range(0..self.clients.len());
        match fault {
            Act::ShimCrash => self.shims[at % 2].crash(),
            Act::ShimPause => {
                let shim = &mut self.shims[at % 2];
                shim.asleep = !shim.asleep;
            }
            Act::BrokerRestart => self.restart_broker(away),
            Act::StreamAway => {
                self.broker.stream_up = false;
                self.stream_up_at = self.step + away;
            }
            Act::Retention => {
                let count = self.random.random_range(1..20);
                self.broker.cut(count);
            }
            Act::NewEpoch => self.new_epoch(),
            Act::Backup => self.backup = Some(self.ledger.clone()),
            Act::SetBack => self.set_back(),
            Act::PodCrash => self.end_pod(pod, true),
            Act::PodLink => {
                // Losing a link breaks no promise by itself.
                let _ = self.on_bus(pod, |life, around| {
                    life.lose_link(around);
                    Ok(())
                });
            }
            Act::Drain => {
                let (now_ms, window_ms) = (self.now_ms, self.random.random_range(0..2000));
                if let Some(life) = self.pods[pod].as_mut().filter(|life| life.drains_until_ms.is_none()) {
                    life.drain(now_ms, window_ms);
                }
            }
            Act::ClientDrop => {
                let reset = self.random.random_bool(0.5);
                self.clients[at].disconnect(reset);
            }
            Act::ClientStall => self.clients[at].stalled_until = self.step + away,
            Act::Phantom => self.phantom(at),
            // These happen where they belong.
            _ => {}
        }
    }

    fn restart_broker(&mut self, away: usize) {
        for pod in 0..self.pods.len() {
            let _ = self.on_bus(pod, |life, around| {
                life.lose_link(around);
                Ok(())
            });
        }
        self.shims.iter_mut().for_each(Shim::reconnects);
        self.broker.up = false;
        self.broker.stream_up = false;
        self.broker_up_at = self.step + away;
        self.stream_up_at = self.broker_up_at + self.random.random_range(0..200);
    }

    /// The process dies, or (not `crash`) has drained.
    pub fn end_pod(&mut self, pod: usize, crash: bool) {
        let Some(mut life) = self.pods[pod].take() else { return };
        self.say(|| format!("pod {pod} ends, crash {crash}"));
        life.die();
        for lane in &mut life.lanes {
            let tally = lane.shard.take_tally();
            self.stats.complete += tally.complete;
            self.stats.latest += tally.latest;
            self.stats.gaps += tally.gaps;
            self.stats.lagged += tally.lagged;
            self.stats.caught_up += tally.caught_up;
        }
        let shadow = life.shadow.borrow();
        self.stats.breaks += u64::from(shadow.breaks);
        self.stats.forks += u64::from(shadow.forks);
        self.broker.disconnect(pod, self.swarm.durable);
        // Its queue must then give the next life all that this one had not recorded.
        let keeps =
            self.swarm.durable && !self.swarm.history && !self.swarm.has(Act::Refuse) && self.broker.dropped == 0;
        // One that was only given what was published again is behind those before it.
        let before = |head: &Cursor| life.expects.clone().filter(|at| at.epoch == head.epoch && at.seq > head.seq);
        let expects = match shadow.head.clone() {
            Some(head) => Some(before(&head).unwrap_or(head)),
            None => life.expects.clone(),
        };
        self.expects[pod] = expects.filter(|_| keeps);
    }

    /// The ledger is lost, and made anew. What was recorded and not published is lost with it.
    fn new_epoch(&mut self) {
        self.epochs += 1;
        if self.epochs > EPOCHS {
            return;
        }
        let epoch = Epoch::from_random(self.random.random());
        let old = std::mem::replace(&mut self.ledger, Ledger::new(epoch));
        self.lose_unpublished(&old, 0);
        // Whatever a ledger before it was set back to, this one has another epoch.
        self.orphans.clear();
        for at in 0..2 {
            // One that sleeps, or is sending, has changes of the old ledger in hand.
            if self.random.random_bool(0.5) {
                self.shims[at].crash();
            }
        }
        // A pod that knows nothing cannot know either that there was another ledger.
        for client in &mut self.clients {
            if client.session.as_ref().is_some_and(|session| session.shadow.borrow().head.is_none()) {
                client.missing.clear();
            }
        }
    }

    /// What a ledger had numbered from here on and not published is lost with it.
    fn lose_unpublished(&mut self, old: &Ledger, from: usize) {
        let published = usize::try_from(old.published).unwrap().max(from);
        for numbered in old.changes.iter().skip(published) {
            if !self.table.rows.values().any(|row| row.when == numbered.change.when) {
                let fact = self.truth.of(numbered.change.when).unwrap();
                self.void(fact);
            }
        }
    }

    /// The ledger is restored from a backup. What it published since is with gateways and in history only, and what it
    /// numbers next has the same numbers.
    fn set_back(&mut self) {
        let Some(backup) = self.backup.clone().filter(|backup| backup.epoch == self.ledger.epoch) else { return };
        let old = std::mem::replace(&mut self.ledger, backup);
        self.ledger.term = old.term;
        self.shims.iter_mut().for_each(Shim::crash);
        let kept = self.ledger.changes.len();
        self.lose_unpublished(&old, kept);
        let published = usize::try_from(old.published).unwrap();
        for numbered in old.changes.iter().take(published).skip(kept) {
            self.orphans.push(self.truth.of(numbered.change.when).unwrap());
        }
    }

    /// The shim compares the end of history with its ledger, if it can.
    pub fn compare(&mut self, at: usize) {
        let fresh = Epoch::from_random(self.random.random());
        let end = self.broker.last().cloned().filter(|_| self.broker.streams);
        let renumbers = self.shims[at].compare(&mut self.ledger, end.as_ref(), fresh);
        self.say(|| format!("shim {at} compares {end:?}, renumbers: {renumbers}"));
        let orphans = std::mem::take(&mut self.orphans);
        if renumbers {
            self.stats.renumbered += 1;
            for numbered in self.ledger.changes.clone() {
                let fact = self.truth.of(numbered.change.when).unwrap();
                self.truth.number(fact, &numbered);
            }
        } else {
            // Nobody can tell: without history, only gateways that had them see that the numbers come again.
            orphans.into_iter().for_each(|fact| self.void(fact));
        }
    }

    /// Somebody with the same memory as a client comes along: what was stored must hold now, on any pod.
    fn phantom(&mut self, at: usize) {
        let phantoms = self.clients.iter().filter(|client| client.phantom).count();
        if phantoms >= 3 {
            let oldest = self.clients.iter().position(|client| client.phantom).unwrap();
            let mut gone = self.clients.remove(oldest);
            gone.disconnect(true);
            return;
        }
        let client = &self.clients[at];
        if client.synced && !client.phantom {
            let mut phantom = client.phantom(self.named);
            if let Some(cursor) = phantom.cursor.as_mut().filter(|_| self.random.random_bool(0.2)) {
                // One that has seen what will never come, of a ledger that was set back.
                cursor.seq += 1_000_000;
            }
            self.named += 1;
            self.clients.push(phantom);
            self.connect(self.clients.len() - 1);
        }
    }

    /// Everything heals, and works until nothing is left to do.
    pub fn settle(&mut self) -> Checked {
        (self.broker_up_at, self.stream_up_at) = (0, 0);
        self.broker.up = true;
        self.broker.stream_up = self.broker.streams;
        for shim in &mut self.shims {
            shim.asleep = false;
        }
        for _ in 0..ROUNDS {
            self.step += 1;
            self.now_ms += 1;
            self.round()?;
            if self.at_rest() {
                return Ok(());
            }
        }
        Err("it does not come to rest".to_owned())
    }

    fn round(&mut self) -> Checked {
        for _ in 0..8 {
            self.shim_step();
        }
        for pod in 0..self.pods.len() {
            if self.pods[pod].as_ref().is_some_and(|life| life.drains_until_ms.is_some()) {
                self.end_pod(pod, false);
            }
            if self.pods[pod].is_none() {
                self.start_pod(pod);
            }
            for _ in 0..8 {
                self.on_bus(pod, Life::bus_step)?;
            }
            let Some(life) = &mut self.pods[pod] else { continue };
            for lane in 0..life.lanes.len() {
                for _ in 0..8 {
                    life.shard_step(lane, 3);
                }
            }
            for pick in 0..12 {
                life.conn_step(pick);
            }
        }
        for at in 0..self.clients.len() {
            match &self.clients[at].session {
                None => self.connect(at),
                Some(session) => session.wire.room.set(1 << 30),
            }
            self.client_reads(at, 1 << 30)?;
        }
        Ok(())
    }

    fn at_rest(&self) -> bool {
        let ledger = &self.ledger;
        let sending = self.shims.iter().any(Shim::is_sending);
        let shims = self.table.rows.is_empty() && ledger.published == ledger.head() && !sending;
        let pods = self.pods.iter().enumerate().all(|(pod, life)| {
            let queue = self.broker.queues[pod].as_ref();
            queue.is_some_and(|queue| queue.ready.is_empty() && queue.unacked.is_empty())
                && life.as_ref().is_some_and(|life| life.is_live() && life.idle())
        });
        let clients = self.clients.iter().all(|client| {
            let session = client.session.as_ref();
            session.is_some_and(|session| session.subscribed && session.wire.bytes.borrow().is_empty())
        });
        shims && pods && clients
    }

    /// Nothing is lost.
    pub fn check_end(&mut self) -> Checked {
        for (at, told) in self.truth.all.iter().enumerate() {
            if told.numbers.is_empty() && !told.void {
                return Err(format!("change {at} was never numbered: {told:?}"));
            }
        }
        let tag = self.ledger.changes.last().and_then(|last| last.cursor.tag);
        let head = Cursor::new(self.ledger.epoch.clone(), self.ledger.head()).tagged(tag);
        for (pod, life) in self.pods.iter().enumerate() {
            let has = life.as_ref().and_then(|life| life.shadow.borrow().head.clone());
            if has.as_ref() != Some(&head) {
                return Err(format!("pod {pod} has {has:?}, the ledger {head}"));
            }
        }
        for client in &mut self.clients {
            client.give_up(&self.truth);
            if let Some(&fact) = client.missing.first() {
                let (name, pod) = (client.name, client.session.as_ref().map(|session| session.pod));
                return Err(format!("client {name} on pod {pod:?} was never told of {:?}", self.truth.all[fact]));
            }
            if client.modern && client.cursor.as_ref() != Some(&head) {
                return Err(format!("client {} has cursor {:?}, not {head}", client.name, client.cursor));
            }
        }
        for pod in 0..self.pods.len() {
            self.end_pod(pod, false);
        }
        Ok(())
    }
}
