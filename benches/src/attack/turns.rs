//! The turns of one attack: which server is attacked, what is measured meanwhile and afterwards.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};

use super::AttackArgs;
use super::attacker::Order as AttackOrder;
use super::catalogue::{Attack, Field};
use super::figures::{Both, Figures, Strength, Turn};
use super::probe::{Look, look};
use crate::load::tally::Tally;
use crate::load::worker::{Worker, order_all};
use crate::load::{Answer, Order};
use crate::measure::{LATE_MS, Source as _};
use crate::plan::{Phase, Watch};
use crate::procfs::{Cpu, resident};
use crate::publish::Pace;
use crate::scenario::{Bench, Twins};
use crate::target::Target;

/// So many good clients watch each bug.
const WATCHERS: u32 = 10;
/// Changes that there are before the first attack, so that there is something to resume.
const EARLIER: u32 = 4000;
/// How long the last updates of a turn may take. Those that have not come by then count as if they took as long.
const FINISH: Duration = Duration::from_secs(30);
/// How long a server may take to end.
const EXIT: Duration = Duration::from_secs(60);
/// How long attackers are at work when the server is told to end.
const BEFORE_EXIT: Duration = Duration::from_secs(2);
/// A server that uses less than this of a processor is quiet, in nanoseconds for each [`QUIET_TURN`].
const QUIET_NS: u64 = 20_000_000;
const QUIET_TURN: Duration = Duration::from_millis(200);
/// How often it is looked whether the servers are quiet.
const QUIET_TURNS: u32 = 50;
const MIB: f64 = 1_048_576.0;

/// All attacks of a run.
pub(super) struct Siege {
    bench: Bench,
    options: AttackArgs,
    done: Vec<Figures>,
    settling: Vec<Settling>,
}

/// A server whose attackers have gone, with its clients.
struct Settling {
    due: Instant,
    server: Target,
    _clients: Worker,
    /// Which attack it had.
    attack: usize,
}

impl Siege {
    pub(super) fn new(bench: Bench, options: AttackArgs) -> Siege {
        Siege { bench, options, done: Vec::new(), settling: Vec::new() }
    }

    /// Makes one attack, on two new servers. What fails stands among the figures, and the next attack has its turn.
    pub(super) fn attack(&mut self, attack: &Attack) {
        let mut figures = Figures { attack: attack.name.to_owned(), ..Figures::default() };
        if let Err(error) = self.attack_twins(attack, &mut figures) {
            figures.failed = Some(format!("{error:#}"));
        }
        self.done.push(figures);
    }

    fn attack_twins(&mut self, attack: &Attack, figures: &mut Figures) -> Result<()> {
        let bugs = (self.options.clients * self.options.subscriptions / WATCHERS).max(self.options.subscriptions);
        let twins = self.bench.twins(Watch { each: self.options.subscriptions, bugs })?;
        let mut round = Round { siege: self, attack, twins, bugs };
        round.all(figures)?;
        let Twins { servers: [server, _], clients: [_clients, _] } = round.twins;
        let due = Instant::now() + Duration::from_secs(self.options.settle);
        self.settling.push(Settling { due, server, _clients, attack: self.done.len() });
        Ok(())
    }

    /// The figures of the last attack; memory afterwards is not among them yet.
    pub(super) fn last(&self) -> Option<&Figures> {
        self.done.last()
    }

    /// Looks at the memory of those servers for which it is time.
    fn look_at_settled(&mut self) {
        let now = Instant::now();
        for Settling { server, attack, .. } in self.settling.extract_if(.., |settling| settling.due <= now) {
            if let (Ok(rss), Some(figures)) = (resident(server.pid()), self.done.get_mut(attack)) {
                figures.rss_after_mib = Some(rss as f64 / MIB);
            }
        }
    }

    /// The figures, once the last server has had its time.
    pub(super) fn end(mut self) -> Result<Vec<Figures>> {
        while let Some(last) = self.settling.iter().map(|settling| settling.due).max() {
            std::thread::sleep(last.saturating_duration_since(Instant::now()));
            self.look_at_settled();
        }
        Ok(self.done)
    }
}

/// One attack on two servers.
struct Round<'a> {
    siege: &'a mut Siege,
    attack: &'a Attack,
    twins: Twins,
    bugs: u32,
}

impl Round<'_> {
    fn all(&mut self, figures: &mut Figures) -> Result<()> {
        let (rate, runs) = (self.siege.options.rate, self.siege.options.runs);
        let warm = self.siege.bench.phase(EARLIER, 1, self.bugs);
        self.published(&warm, Pace::per_second(EARLIER))?;
        let quiet = self.siege.bench.phase(rate, 1, self.bugs);
        self.published(&quiet, Pace::per_second(rate))?;
        figures.rss_before_mib = resident(self.twins.servers[0].pid())? as f64 / MIB;
        for run in 0..runs {
            // The one that begins alternates too.
            for turn in 0..2 {
                let which = (run as usize + turn) % 2;
                let both = self.turn(which).map_err(|error| {
                    let output = self.twins.servers[which].output();
                    anyhow!("{error:#}\nThe server printed:\n{output}")
                })?;
                figures.turns.push(both);
                self.siege.look_at_settled();
            }
        }
        figures.exit_s = self.exit()?;
        self.siege.look_at_settled();
        Ok(())
    }

    /// Publishes a phase, and waits until all clients have it.
    fn published(&mut self, phase: &Phase, pace: Pace) -> Result<[Tally; 2]> {
        self.begin(phase)?;
        self.twins.servers[0].go(phase, pace, self.siege.bench.stamps())?;
        self.finish()
    }

    fn begin(&mut self, phase: &Phase) -> Result<()> {
        let stamps = self.siege.bench.stamps().path().to_owned();
        let begin = Order::Begin { phase: *phase, stamps, late_ms: LATE_MS };
        order_all(&mut self.twins.clients, |_| begin.clone()).map(|_| ())
    }

    fn finish(&mut self) -> Result<[Tally; 2]> {
        let timeout_ms = u64::try_from(FINISH.as_millis())?;
        for worker in &mut self.twins.clients {
            worker.order(&Order::Finish { timeout_ms })?;
        }
        let [first, second] = &mut self.twins.clients;
        Ok([counted(first)?, counted(second)?])
    }

    /// Attacks one of the servers while both serve their clients.
    fn turn(&mut self, which: usize) -> Result<Both> {
        self.quiet()?;
        let options = &self.siege.options;
        let (rate, seconds) = (options.rate, options.seconds);
        let phase = self.siege.bench.phase(rate * seconds, 1, self.bugs);
        self.begin(&phase)?;
        let mut attacker = Attackers::start(self, which)?;
        let pids = self.twins.servers.each_ref().map(Target::pid);
        let admins = self.admins()?;
        let (stop, began, before) = (AtomicBool::new(false), Instant::now(), [Cpu::of(pids[0])?, Cpu::of(pids[1])?]);
        attacker.go()?;
        let (tallies, looks) = std::thread::scope(|scope| {
            let stop = &stop;
            let looking = [0, 1].map(|at| scope.spawn(move || look(pids[at], admins[at], stop)));
            let pace = Pace::per_second(rate);
            let sent = self.twins.servers[0].go(&phase, pace, self.siege.bench.stamps());
            let tallies = sent.and_then(|()| self.finish());
            stop.store(true, Ordering::Release);
            (tallies, looking.map(|looking| looking.join().unwrap_or_default()))
        });
        let (tallies, took_ns) = (tallies?, began.elapsed().as_nanos() as f64);
        let strength = attacker.stop()?;
        let side = |at: usize| -> Result<Turn> {
            let cpu = Cpu::of(pids[at])?.since(before[at]);
            Ok(turn(&tallies[at], &looks[at], cpu.ns as f64 * 100.0 / took_ns))
        };
        Ok(Both { which, attacked: side(which)?, other: side(1 - which)?, strength })
    }

    fn admins(&self) -> Result<[SocketAddr; 2]> {
        let admin = |at: usize| self.twins.servers[at].admin.context("the server has no admin port");
        Ok([admin(0)?, admin(1)?])
    }

    /// Waits until neither server has anything to do, but not for ever.
    fn quiet(&self) -> Result<()> {
        let used = || -> Result<u64> { self.twins.servers.iter().map(|server| Ok(Cpu::of(server.pid())?.ns)).sum() };
        for _ in 0..QUIET_TURNS {
            let before = used()?;
            std::thread::sleep(QUIET_TURN);
            if used()?.saturating_sub(before) < QUIET_NS {
                break;
            }
        }
        Ok(())
    }

    /// How long the second server takes to end while it is attacked, in seconds; `None` if it does not.
    fn exit(&mut self) -> Result<Option<f64>> {
        self.quiet()?;
        let mut attackers = Attackers::start(self, 1)?;
        attackers.go()?;
        std::thread::sleep(BEFORE_EXIT);
        let took = self.twins.servers[1].end(EXIT)?;
        attackers.stop()?;
        Ok(took.map(|took| took.as_secs_f64()))
    }
}

fn counted(worker: &mut Worker) -> Result<Tally> {
    match worker.answer()? {
        Answer::Counted(tally) => Ok(*tally),
        other => bail!("a load process answered out of turn: {other:?}"),
    }
}

/// The figures of one server.
fn turn(tally: &Tally, look: &Look, cpu_percent: f64) -> Turn {
    let mut latencies = tally.latencies.clone();
    for _ in 0..tally.stale {
        latencies.record(u64::try_from(FINISH.as_nanos()).unwrap_or(u64::MAX));
    }
    let ms = |quantile: f64| latencies.quantile_us(quantile) / 1000.0;
    Turn {
        p50_ms: ms(0.5),
        p99_ms: ms(0.99),
        max_ms: ms(1.0),
        cpu_percent,
        livez_ms: look.livez.longest(),
        readyz_ms: look.readyz.longest(),
        not_ok: look.livez.bad + look.readyz.bad,
        rss_mib: look.rss as f64 / MIB,
        lost: tally.stale,
        closed: tally.closed,
    }
}

/// The attacking process.
struct Attackers {
    process: Worker,
    order: AttackOrder,
}

impl Attackers {
    /// Starts the process; it does nothing yet.
    fn start(round: &Round<'_>, which: usize) -> Result<Attackers> {
        let server = &round.twins.servers[which];
        let order = AttackOrder::Go {
            attack: round.attack.name.to_owned(),
            field: Field { host: server.address.to_string(), busy: round.bugs, quick: round.siege.options.quick },
            clients: server.address,
            admin: round.admins()?[which],
            most_ms: u64::from(round.siege.options.seconds) * 1000 + u64::try_from((FINISH + EXIT).as_millis())?,
        };
        Ok(Attackers { process: Worker::start_as(["attacker"])?, order })
    }

    fn go(&mut self) -> Result<()> {
        self.process.order(&self.order)
    }

    /// Stops. The connections are closed when this is done.
    fn stop(mut self) -> Result<Strength> {
        let cpu = Cpu::of(self.process.pid())?;
        self.process.order(&AttackOrder::Stop)?;
        match self.process.answer()? {
            Answer::Attacked(strength) => Ok(Strength { cpu_ns: cpu.ns, ..strength }),
            other => bail!("an attacker answered out of turn: {other:?}"),
        }
    }
}
