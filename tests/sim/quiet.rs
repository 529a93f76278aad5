//! What must be told though nothing is published: that a change was missed, and that nothing can arrive.
//!
//! Goes in: a world at rest. Comes out: a world at rest, in which clients were told in time, and nobody was told that all
//! is well when it was not.

use bugfeed_protocol::{BugId, Cursor};
use rand::RngExt as _;

use crate::client::Client;
use crate::publishers::INTERVAL_MS;
use crate::shim::Shim;
use crate::world::World;

type Checked<T = ()> = Result<T, String>;

/// How long history that does not answer is asked after a connection was made.
const PATIENCE_MS: u64 = 20_000;
/// From the end of history on: two heads, what they may be late, and the ticks of a plan.
const BOUND_MS: u64 = 2 * INTERVAL_MS + 2500;
/// As long as nothing is said about a broker that is away, and the ticks of a plan.
const GRACE_MS: u64 = 3500;

/// So many seconds after its connection was made or its bindings were, a pod has made them anew.
const UPKEEP_S: usize = 32;

/// A bug that nobody watches by name; whoever watches all bugs hears of it.
pub const UNNAMED: u64 = 1_000_000;

impl World {
    /// A pod without readable history is cut off, one change is missed meanwhile, and nothing else is published.
    pub fn quiet(&mut self) -> Checked {
        let pod = self.random.random_range(0..self.pods.len());
        let Some(bug) = self.clients.iter().flat_map(|client| client.bugs.iter().copied()).next() else {
            return Ok(());
        };
        self.stats.quiet += 1;
        self.say(|| format!("quiet: pod {pod} misses a change of {bug}"));
        self.stream_up_at = usize::MAX;
        self.broker.stream_up = false;
        self.on_bus(pod, crate::pod::Life::lose_link)?;
        // A durable queue would have kept it.
        self.broker.queues[pod] = None;
        let id = self.tracker.table.id();
        let second = self.now().as_micros() / 1_000_000;
        let fact = self.truth.all.len();
        self.commit((id, bug, second));
        // Somebody comes back, perhaps before anything is known.
        let leaver = self.random.random_range(0..self.clients.len());
        self.clients[leaver].disconnect(true);
        for _ in 0..4000 {
            self.step += 1;
            self.shim_step();
            if self.at_rest_but_pods() {
                break;
            }
        }
        let begin_ms = self.now_ms;
        let mut bound_ms = begin_ms + BOUND_MS;
        loop {
            self.advance(200)?;
            let Some(life) = &self.pods[pod] else { break };
            let had = life.shadow.borrow().place(fact, 0).is_some();
            let current = life.bus.is_current();
            if !current && self.now_ms < begin_ms + PATIENCE_MS + 2000 {
                // History is still asked.
                bound_ms = self.now_ms + BOUND_MS;
            }
            if life.bus.hold && self.clients[leaver].session.as_ref().is_some_and(|session| session.pod == pod) {
                self.stats.quiet_resumes += 1;
            }
            // One that has seen what its pod has not is told in its own time.
            let beyond = |client: &Client| {
                let head = client.session.as_ref().and_then(|session| session.shadow.borrow().head.clone());
                let ahead = |(cursor, head): (&Cursor, &Cursor)| cursor.epoch == head.epoch && cursor.seq > head.seq;
                client.cursor.as_ref().zip(head.as_ref()).is_some_and(ahead)
            };
            // A pod whose binding went, that hears no heads, and whose history does not answer cannot know of it: it makes
            // its bindings anew, and the next change shows the hole. `check_end` looks at its clients once that has come.
            let blind = !self.swarm.has_heads() && self.stats.unbound > 0;
            let elsewhere = |client: &Client| client.session.as_ref().is_none_or(|session| session.pod != pod);
            let told = |client: &Client| {
                !client.modern || beyond(client) || blind && elsewhere(client) || !client.missing.contains(&fact)
            };
            if self.clients.iter().all(told) {
                break;
            }
            // Another pod whose bindings went misses the change, too, and finds out in its own time.
            let unbound = self.stats.unbound > 0 && self.now_ms < begin_ms + UPKEEP_S as u64 * 1000;
            let overdue = |client: &&Client| !(told(client) || unbound && elsewhere(client));
            if let Some(client) = self.clients.iter().find(overdue).filter(|_| self.now_ms > bound_ms) {
                let client = client.name;
                return Err(format!("client {client} was told nothing of what pod {pod} missed (has it: {had})"));
            }
        }
        self.settle()
    }

    /// Nothing can arrive for a while: clients are told, and told again when it is over.
    pub fn outage(&mut self) -> Checked {
        let kind = self.random.random_range(0..if self.swarm.has_heads() { 3 } else { 1 });
        self.say(|| format!("outage {kind}"));
        // Silence says something only where heads were heard.
        let begun_ms = self.now_ms;
        for _ in 0..2 {
            self.advance(INTERVAL_MS)?;
        }
        let until_ms = self.now_ms
            + match kind {
                0 => {
                    self.restart_broker(usize::MAX / 4)?;
                    GRACE_MS
                }
                1 => {
                    self.table_back_at = usize::MAX;
                    BOUND_MS
                }
                _ => {
                    self.tracker.shims.iter_mut().for_each(Shim::crash);
                    self.asleep = true;
                    4 * INTERVAL_MS + 2500
                }
            };
        while self.now_ms < until_ms {
            self.advance(500)?;
        }
        // A pod whose bindings had gone before, unnoticed as yet, has heard none.
        let heard = |world: &World, pod: usize| {
            let heard_ms = world.pods[pod].as_ref().and_then(|life| life.bus.heard_ms);
            kind == 0 || heard_ms.is_some_and(|heard_ms| heard_ms >= begun_ms)
        };
        self.told_paused(true, heard)?;
        self.stats.paused += 1;
        (self.table_back_at, self.asleep) = (0, false);
        self.settle()?;
        for _ in 0..10 {
            self.advance(500)?;
        }
        self.settle()?;
        self.told_paused(false, |_, _| true)
    }

    /// Every modern client that is connected, to one of these pods, knows whether something can arrive.
    pub fn told_paused(&self, paused: bool, of_pod: impl Fn(&World, usize) -> bool) -> Checked {
        for client in self.clients.iter().filter(|client| client.modern) {
            let Some(session) = client.session.as_ref().filter(|session| of_pod(self, session.pod)) else { continue };
            let gone = session.wire.cut.get() || session.over || !session.wire.bytes.borrow().is_empty();
            if !gone && session.greeted && session.paused != paused {
                return Err(format!("client {} was told paused: {}", client.name, session.paused));
            }
        }
        Ok(())
    }

    /// Time passes, and everybody works.
    fn advance(&mut self, ms: u64) -> Checked {
        self.now_ms += ms;
        self.tick()?;
        for _ in 0..4 {
            self.step += 1;
            self.round()?;
        }
        Ok(())
    }

    /// Time passes until every pod is where its publisher is.
    pub fn wait_for_heads(&mut self) -> Checked {
        // A ledger beside which another one was heard is believed a minute later; a pod that never heard anybody before its
        // bindings went makes them anew after half a minute. Who hears no heads looks into history every half a minute, and a
        // minute later where that did not answer.
        let two = self.epochs > 0 || self.stats.renumbered > 0;
        let slow = self.swarm.looks() && !self.pods_are_even();
        let bound_ms = self.now_ms + if slow || two || self.stats.unbound > 0 { 80_000 } else { BOUND_MS };
        while self.now_ms < bound_ms && !self.pods_are_even() {
            self.now_ms += 1000;
            self.tick()?;
            self.settle()?;
        }
        Ok(())
    }

    /// Where bindings went, time passes until every pod has made its own anew: what is published before that it never gets.
    pub fn wait_for_bindings(&mut self) -> Checked {
        let seconds = if self.stats.unbound > 0 { UPKEEP_S } else { 0 };
        for _ in 0..seconds {
            self.now_ms += 1000;
            self.tick()?;
            self.settle()?;
        }
        Ok(())
    }

    fn pods_are_even(&self) -> bool {
        let head = self.ledger_head();
        self.pods.iter().flatten().all(|life| life.shadow.borrow().head.as_ref() == Some(&head))
    }

    /// One more change, of a bug that nobody watches by name: where no heads are said, that is what shows a hole.
    pub fn last_change(&mut self) {
        let last = BugId::new(UNNAMED).unwrap();
        let id = self.tracker.table.id();
        self.commit((id, last, crate::world::BEGIN_S));
    }
}
