//! What goes wrong in a run, and how it ends: everything heals, comes to rest, and is looked at.
//!
//! Goes in: a world. Comes out: a world in which something is broken, or one at rest in which nothing may be.

use bugfeed_protocol::{Cursor, Epoch};
use rand::RngExt as _;

use crate::broker::Item;
use crate::ledger::Ledger;
use crate::pod::Life;
use crate::publishers::EPOCHS;
use crate::shim::Shim;
use crate::swarm::Act;
use crate::world::World;

type Checked<T = ()> = Result<T, String>;

/// How many rounds coming to rest may take.
const ROUNDS: usize = 20_000;

impl World {
    pub fn fault(&mut self, fault: Act) -> Checked {
        self.say(|| format!("{fault:?}"));
        self.stats.faults += 1;
        let away = self.random.random_range(10..300);
        let pod = self.random.random_range(0..self.pods.len());
        let at = self.random.random_range(0..self.clients.len());
        match fault {
            Act::ShimCrash => self.tracker.shims[at % 2].crash(),
            Act::ShimPause => {
                let shim = &mut self.tracker.shims[at % 2];
                shim.asleep = !shim.asleep;
            }
            Act::BrokerRestart => self.restart_broker(away)?,
            Act::StreamAway => {
                self.broker.stream_up = false;
                self.stream_up_at = self.step + away;
            }
            Act::Retention => {
                let count = self.random.random_range(1..20);
                self.broker.cut(count);
            }
            Act::NewEpoch => self.new_epoch(),
            Act::Backup => self.backup = Some(self.tracker.ledger.clone()),
            Act::SetBack => self.set_back(),
            Act::PodCrash => self.end_pod(pod, true),
            Act::PodLink => self.on_bus(pod, Life::lose_link)?,
            Act::Wipe => self.wipe(away)?,
            Act::Unbind => self.unbind(),
            Act::Second => self.begin_second(false),
            Act::Copy => self.begin_second(true),
            Act::TableAway => {
                self.table_back_at = self.step + away;
                self.stats.waits += 1;
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
        Ok(())
    }

    pub fn restart_broker(&mut self, away: usize) -> Checked {
        for pod in 0..self.pods.len() {
            self.on_bus(pod, Life::lose_link)?;
        }
        self.tracker.shims.iter_mut().for_each(Shim::loses_connection);
        self.on_second(|world| world.tracker.shims.iter_mut().for_each(Shim::loses_connection));
        self.broker.up = false;
        self.broker.stream_up = false;
        self.broker_up_at = self.step + away;
        self.stream_up_at = self.broker_up_at + self.random.random_range(0..200);
        Ok(())
    }

    /// The broker comes back with nothing on its disk.
    fn wipe(&mut self, away: usize) -> Checked {
        self.restart_broker(away)?;
        self.broker.wipe();
        self.stats.wiped += 1;
        Ok(())
    }

    /// The exchange is deleted. Only heads tell those whose queues hang in the air.
    fn unbind(&mut self) {
        if !self.swarm.heads {
            return;
        }
        let heads = self.random.random_bool(0.3);
        self.broker.unbind(heads);
        if self.random.random_bool(0.3) {
            self.broker.delete_stream();
            self.pods.iter_mut().flatten().for_each(|life| life.bus.read_to = None);
        }
        self.stats.unbound += 1;
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
        self.stats.head_gaps += life.bus.head_gaps;
        self.stats.loses += life.bus.loses;
        self.stats.rebinds += life.bus.rebinds;
        self.stats.many_runs += u64::from(shadow.turns > 150);
        self.stats.begun_late += u64::from(shadow.begun.is_some_and(|begun| begun > 0));
        self.broker.disconnect(pod, self.swarm.durable);
        // Its queue must then give the next life all that this one had not recorded.
        let loses = [Act::Refuse, Act::Wipe, Act::Unbind].into_iter().any(|act| self.swarm.has(act));
        let keeps = self.swarm.durable && !self.swarm.history && !loses && self.broker.dropped == 0;
        self.recorded[pod] = if keeps { std::mem::take(&mut life.recorded) } else { Vec::new() };
    }

    /// The ledger is lost, and made anew. What was recorded and not published is lost with it.
    fn new_epoch(&mut self) {
        if self.epochs >= EPOCHS {
            return;
        }
        self.epochs += 1;
        let epoch = Epoch::from_random(self.random.random());
        let old = std::mem::replace(&mut self.tracker.ledger, Ledger::new(epoch));
        self.lose_unpublished(&old, 0);
        // Whatever a ledger before it was set back to, this one has another epoch.
        self.tracker.orphans.clear();
        for at in 0..2 {
            // One that sleeps, or is sending, has changes of the old ledger in hand.
            if self.random.random_bool(0.5) {
                self.tracker.shims[at].crash();
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
            if !self.tracker.table.rows.values().any(|row| row.when == numbered.change.when) {
                let fact = self.truth.of(numbered.change.when).unwrap();
                self.void(fact);
            }
        }
    }

    /// The ledger is restored from a backup. What it published since is with gateways and in history only, and what it
    /// numbers next has the same numbers.
    fn set_back(&mut self) {
        let epoch = &self.tracker.ledger.epoch;
        let Some(backup) = self.backup.clone().filter(|backup| backup.epoch == *epoch) else { return };
        if self.epochs >= EPOCHS {
            return;
        }
        self.epochs += 1;
        let old = std::mem::replace(&mut self.tracker.ledger, backup);
        self.tracker.ledger.term = old.term;
        self.tracker.shims.iter_mut().for_each(Shim::crash);
        let kept = self.tracker.ledger.changes.len();
        self.lose_unpublished(&old, kept);
        let published = usize::try_from(old.published).unwrap();
        for numbered in old.changes.iter().take(published).skip(kept) {
            self.tracker.orphans.push(self.truth.of(numbered.change.when).unwrap());
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
        (self.broker_up_at, self.stream_up_at, self.table_back_at) = (0, 0, 0);
        self.broker.up = true;
        self.broker.stream_up = self.broker.streams;
        for shim in &mut self.tracker.shims {
            shim.asleep = false;
        }
        for round in 0..ROUNDS {
            self.step += 1;
            self.now_ms += 1;
            if round % 8 == 7 {
                // Some things take their time.
                self.now_ms += 250;
                self.tick()?;
            }
            self.round()?;
            if self.at_rest() {
                return Ok(());
            }
        }
        Err("it does not come to rest".to_owned())
    }

    pub fn round(&mut self) -> Checked {
        for _ in 0..if self.asleep { 0 } else { 8 } {
            self.shim_step();
        }
        if self.second_is_done() {
            self.end_second();
        }
        self.recover();
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

    /// Nothing is left to publish.
    pub fn at_rest_but_pods(&self) -> bool {
        let ledger = &self.tracker.ledger;
        let busy = self.tracker.shims.iter().any(Shim::is_busy);
        let shims = self.tracker.table.rows.is_empty() && ledger.published == ledger.head() && !busy;
        shims && self.second.is_none()
    }

    fn at_rest(&self) -> bool {
        let pods = self.pods.iter().enumerate().all(|(pod, life)| {
            let rests = |life: &Life| life.bus.is_live() && life.idle();
            self.broker.is_drained(pod) && life.as_ref().is_some_and(rests)
        });
        let clients = self.clients.iter().all(|client| {
            let session = client.session.as_ref();
            session.is_some_and(|session| session.subscribed && session.wire.bytes.borrow().is_empty())
        });
        self.at_rest_but_pods() && pods && clients
    }

    /// Where the ledger is.
    pub fn ledger_head(&self) -> Cursor {
        let ledger = &self.tracker.ledger;
        Cursor::new(ledger.epoch.clone(), ledger.head()).tagged(ledger.tag_of(ledger.head()))
    }

    /// Nothing is lost.
    pub fn check_end(&mut self) -> Checked {
        for (at, told) in self.truth.all.iter().enumerate() {
            if told.numbers.is_empty() && !told.void {
                return Err(format!("change {at} was never numbered: {told:?}"));
            }
        }
        let head = self.ledger_head();
        for (pod, life) in self.pods.iter().enumerate() {
            let has = life.as_ref().and_then(|life| life.shadow.borrow().head.clone());
            // Where it hears no heads, nothing tells it of a ledger without changes beside those that have no number.
            let own = |has: &Cursor| life.as_ref().is_some_and(|life| life.shadow.borrow().is_own(has));
            let unheard = !self.swarm.has_heads() && has.as_ref().is_some_and(own);
            let nothing = (has.is_none() || unheard) && head.seq == 0;
            // What a copy gave that lies further on: the ledger's own numbers are stragglers to who has seen only those.
            let copied = |has: &Cursor| self.swarm.has(Act::Copy) && has.epoch == head.epoch && has.seq > head.seq;
            if has.as_ref() != Some(&head) && !nothing && !has.as_ref().is_some_and(copied) {
                return Err(format!("pod {pod} has {has:?}, the ledger {head}"));
            }
        }
        self.told_paused(false, |_, _| true)?;
        // What gateways can still read, where a hole in the numbers of a ledger is the only thing that they can have missed.
        let whole = self.broker.dropped == 0 && self.stats.unbound == 0;
        let reads = whole && self.swarm.history && self.swarm.asks_history;
        let history: Vec<_> = self.broker.stream.iter().filter(|_| reads).flat_map(Item::cursors).collect();
        for client in &mut self.clients {
            client.give_up(&self.truth);
            client.give_up_unheard(&self.truth, &history);
            if let Some(&fact) = client.missing.first() {
                let (name, pod) = (client.name, client.session.as_ref().map(|session| session.pod));
                return Err(format!("client {name} on pod {pod:?} was never told of {:?}", self.truth.all[fact]));
            }
            let has = client.session.as_ref().and_then(|session| session.shadow.borrow().head.clone());
            if client.modern && client.cursor != has {
                return Err(format!("client {} has cursor {:?}, not {has:?}", client.name, client.cursor));
            }
        }
        for pod in 0..self.pods.len() {
            self.end_pod(pod, false);
        }
        Ok(())
    }
}
