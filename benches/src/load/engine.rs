//! All clients of one load process, served by one loop over their sockets.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use mio::event::Event;
use mio::{Events, Interest, Poll, Token, Waker};

use super::conn::{Conn, Got, State};
use super::tally::Tally;
use super::{Answer, Clients, Order};
use crate::clock::{Stamps, now_ns};
use crate::dialect::Message;
use crate::plan::{Index, Phase};

/// Size of the read buffer, in bytes; all clients share it.
const BUFFER: usize = 256 * 1024;
const WAKE: Token = Token(usize::MAX);
/// How often slow clients read.
const SLOW_TICK: Duration = Duration::from_millis(50);

/// The phase that is being counted.
#[derive(Debug)]
struct Counting {
    phase: Phase,
    stamps: Stamps,
    /// When each update was sent; filled in when it is looked up first.
    sent_ns: Vec<u64>,
    /// The newest update of each bug, counted from the phase's lowest bug; 0 for none.
    newest: Vec<Index>,
    late_ns: u64,
    /// Pairs of client and bug whose newest update has not arrived.
    waiting: u64,
    tally: Tally,
}

#[derive(Debug)]
enum Activity {
    Connecting { next: u32, began: Instant },
    Subscribing { next: usize, began: Instant },
    Finishing { until: Instant },
}

/// The clients, and what they are doing.
#[derive(Debug)]
pub struct Engine {
    poll: Poll,
    clients: Option<Clients>,
    conns: Vec<Conn>,
    /// How many clients are opening or subscribing.
    busy: u32,
    activity: Option<Activity>,
    counting: Option<Counting>,
    slow: Option<u32>,
    closed: u64,
    buffer: Vec<u8>,
    answers: VecDeque<Answer>,
}

impl Engine {
    /// An engine without clients, and the waker to use when there is an order for it.
    ///
    /// # Errors
    /// When the system has no epoll to give.
    pub fn new() -> Result<(Engine, Waker)> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), WAKE)?;
        let engine = Engine {
            poll,
            clients: None,
            conns: Vec::new(),
            busy: 0,
            activity: None,
            counting: None,
            slow: None,
            closed: 0,
            buffer: vec![0; BUFFER],
            answers: VecDeque::new(),
        };
        Ok((engine, waker))
    }

    /// Begins to carry out an order.
    ///
    /// # Errors
    /// When the order cannot be carried out.
    pub fn order(&mut self, order: Order) -> Result<()> {
        match order {
            Order::Connect(clients) => {
                self.close();
                self.conns.reserve(clients.count as usize);
                self.clients = Some(clients);
                self.activity = Some(Activity::Connecting { next: 0, began: Instant::now() });
            }
            Order::Subscribe => {
                self.activity = Some(Activity::Subscribing { next: 0, began: Instant::now() });
            }
            Order::Slow { every, bytes_per_s } => {
                self.slow_down(every, bytes_per_s)?;
                self.done(Instant::now());
            }
            Order::Begin { phase, stamps, late_ms } => {
                self.begin(phase, Stamps::open(&stamps)?, late_ms);
                self.done(Instant::now());
            }
            Order::Finish { timeout_ms } => {
                let until = Instant::now() + Duration::from_millis(timeout_ms);
                self.activity = Some(Activity::Finishing { until });
            }
            Order::Close => {
                self.close();
                self.done(Instant::now());
            }
        }
        Ok(())
    }

    fn done(&mut self, began: Instant) {
        self.answers.push_back(Answer::Done { seconds: began.elapsed().as_secs_f64() });
    }

    fn close(&mut self) {
        self.conns.clear();
        (self.busy, self.closed, self.slow, self.counting) = (0, 0, None, None);
    }

    /// Does one round: waits for sockets, reads, goes on with the orders. Returns the answers that are due.
    ///
    /// # Errors
    /// When the server does not keep to the protocol.
    pub fn turn(&mut self, events: &mut Events) -> Result<Vec<Answer>> {
        let timeout = match (&self.activity, self.slow) {
            _ if !self.answers.is_empty() => Some(Duration::ZERO),
            (None, None) => None,
            _ => Some(Duration::from_millis(5)),
        };
        match self.poll.poll(events, timeout) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            other => other.context("epoll")?,
        }
        for event in &*events {
            if event.token() != WAKE {
                self.event(event)?;
            }
        }
        self.advance()?;
        Ok(self.answers.drain(..).collect())
    }

    fn event(&mut self, event: &Event) -> Result<()> {
        let slot = event.token().0;
        if event.is_writable() && self.conns.get(slot).is_some_and(|conn| !conn.opened()) {
            self.flush(slot)?;
        }
        if event.is_readable() {
            self.read(slot, BUFFER)?;
        }
        Ok(())
    }

    fn flush(&mut self, slot: usize) -> Result<()> {
        let raw = !self.dialect()?.has_handshake();
        let Some(conn) = self.conns.get_mut(slot) else { return Ok(()) };
        if conn.flush().is_err() {
            self.lose(slot);
        } else if raw && conn.state == State::Opening && conn.opened() {
            conn.state = State::Ready;
            self.busy -= 1;
        }
        Ok(())
    }

    fn dialect(&self) -> Result<crate::dialect::Dialect> {
        self.clients.as_ref().map(|clients| clients.dialect).context("no clients yet")
    }

    fn lose(&mut self, slot: usize) {
        let conn = &mut self.conns[slot];
        if matches!(conn.state, State::Opening | State::Greeting | State::Subscribing) {
            self.busy -= 1;
        }
        if conn.state != State::Closed {
            conn.state = State::Closed;
            self.closed += 1;
        }
    }

    /// Reads up to `most` bytes from a client's socket, until it has no more.
    fn read(&mut self, slot: usize, most: usize) -> Result<()> {
        let dialect = self.dialect()?;
        let most = most.min(BUFFER);
        loop {
            let Some(conn) = self.conns.get_mut(slot).filter(|conn| conn.state != State::Closed) else {
                return Ok(());
            };
            let (before, now) = (conn.state, now_ns());
            let (counting, busy) = (&mut self.counting, &mut self.busy);
            let mut refused = false;
            let Got { bytes, closed } =
                conn.read(dialect, &mut self.buffer[..most], |conn, message| match message {
                    Message::Update(bug, index) => {
                        if let Some(counting) = counting {
                            counting.update(conn, bug, index, now);
                        }
                    }
                    Message::Subscribed if conn.state == State::Subscribing => {
                        conn.state = State::Ready;
                        *busy -= 1;
                    }
                    Message::Refused => refused = true,
                    Message::Welcome | Message::Subscribed | Message::Ping | Message::Other => {}
                })?;
            if refused {
                bail!("the server refuses the subscription of client {slot}");
            }
            if matches!(before, State::Opening | State::Greeting) && conn.state == State::Ready {
                self.busy -= 1;
            }
            if bytes > 0
                && let Some(counting) = &mut self.counting
            {
                counting.tally.reads += 1;
            }
            if closed {
                self.lose(slot);
            }
            // The read returned less than there was room for, so the socket is empty, and the next event will come
            // (epoll(7), question 9).
            if bytes < most || most < BUFFER {
                return Ok(());
            }
        }
    }

    /// Goes on with the current order.
    fn advance(&mut self) -> Result<()> {
        match self.activity.take() {
            None => {}
            Some(Activity::Connecting { next, began }) => self.connect(next, began)?,
            Some(Activity::Subscribing { next, began }) => self.subscribe(next, began)?,
            Some(Activity::Finishing { until }) => {
                let counting = self.counting.as_ref().context("no phase was begun")?;
                if counting.waiting == 0 || Instant::now() >= until {
                    let mut tally = counting.tally.clone();
                    tally.stale = counting.waiting;
                    tally.closed = self.closed;
                    self.answers.push_back(Answer::Counted(Box::new(tally)));
                } else {
                    self.activity = Some(Activity::Finishing { until });
                }
            }
        }
        Ok(())
    }

    fn connect(&mut self, mut next: u32, began: Instant) -> Result<()> {
        let clients = self.clients.clone().context("no clients yet")?;
        let host = clients.server.to_string();
        while next < clients.count && self.busy < clients.window {
            let number = clients.first + next;
            let bugs = clients.watch.of(number);
            let opening = clients.dialect.opening(&host, &clients.path, number, &bugs);
            let mut conn = Conn::open(clients.server, clients.source, opening, bugs)?;
            let token = Token(self.conns.len());
            self.poll.registry().register(&mut conn.stream, token, Interest::READABLE | Interest::WRITABLE)?;
            self.conns.push(conn);
            self.busy += 1;
            next += 1;
        }
        if self.closed > 0 {
            bail!("{} of {next} connections were closed by the server while connecting", self.closed);
        }
        if next == clients.count && self.busy == 0 {
            self.done(began);
        } else {
            self.activity = Some(Activity::Connecting { next, began });
        }
        Ok(())
    }

    fn subscribe(&mut self, mut next: usize, began: Instant) -> Result<()> {
        let clients = self.clients.as_ref().context("no clients yet")?;
        while next < self.conns.len() && self.busy < clients.window {
            let conn = &mut self.conns[next];
            if let Some(frame) = clients.dialect.subscribe(&conn.bugs) {
                conn.state = State::Subscribing;
                self.busy += 1;
                conn.write(&frame).context("a connection failed while subscribing")?;
            }
            next += 1;
        }
        if self.closed > 0 {
            bail!("{} connections were closed by the server while subscribing", self.closed);
        }
        if next == self.conns.len() && self.busy == 0 {
            self.done(began);
        } else {
            self.activity = Some(Activity::Subscribing { next, began });
        }
        Ok(())
    }

    fn slow_down(&mut self, every: u32, bytes_per_s: u32) -> Result<()> {
        let first = self.clients.as_ref().context("no clients yet")?.first as usize;
        for (slot, conn) in self.conns.iter_mut().enumerate() {
            if every > 0 && (first + slot).is_multiple_of(every as usize) && !conn.slow {
                self.poll.registry().deregister(&mut conn.stream)?;
                // Otherwise the kernel's receive buffer would go on reading for the slow client.
                socket2::SockRef::from(&conn.stream).set_recv_buffer_size(4096)?;
                conn.slow = true;
            }
        }
        self.slow = Some(bytes_per_s);
        Ok(())
    }

    /// Lets slow clients read their share of one tick.
    ///
    /// # Errors
    /// When the server does not keep to the protocol.
    pub fn slow_tick(&mut self) -> Result<()> {
        let Some(bytes_per_s) = self.slow else { return Ok(()) };
        let most = bytes_per_s as usize * SLOW_TICK.subsec_millis() as usize / 1000;
        for slot in 0..self.conns.len() {
            if self.conns[slot].slow {
                self.read(slot, most.max(1))?;
            }
        }
        Ok(())
    }

    /// The interval of [`Engine::slow_tick`]; `None` if no client is slow.
    pub fn slow_every(&self) -> Option<Duration> {
        self.slow.map(|_| SLOW_TICK)
    }

    fn begin(&mut self, phase: Phase, stamps: Stamps, late_ms: u64) {
        let last_bug = phase.last_bug.unwrap_or(0);
        let bugs = (phase.from_bug + phase.bugs).max(last_bug + 1) as usize;
        let (mut newest, mut counts) = (vec![0; bugs], vec![0_u32; bugs]);
        for index in phase.indices() {
            newest[phase.bug(index) as usize] = index;
            counts[phase.bug(index) as usize] += 1;
        }
        let mut tally = Tally::default();
        let mut waiting = 0;
        for conn in self.conns.iter().filter(|conn| !conn.slow) {
            for &bug in conn.bugs.iter().take_while(|&&bug| (bug as usize) < bugs) {
                waiting += u64::from(newest[bug as usize] > 0);
                tally.expected += u64::from(counts[bug as usize]);
            }
        }
        let sent_ns = vec![0; phase.count as usize];
        self.counting = Some(Counting { phase, stamps, sent_ns, newest, late_ns: late_ms * 1_000_000, waiting, tally });
    }
}

impl Counting {
    fn update(&mut self, conn: &mut Conn, bug: u32, index: Index, now: u64) {
        let tally = &mut self.tally;
        let Some(index) = self.phase.of_bug_dated_as(bug, index) else {
            tally.unexpected += 1;
            return;
        };
        let (Ok(at), true) = (conn.bugs.binary_search(&bug), index < self.phase.end()) else {
            tally.unexpected += 1;
            return;
        };
        let last = &mut conn.last[at];
        if conn.slow {
            tally.slow_delivered += 1;
        } else if index == *last {
            tally.repeated += 1;
        } else if index < *last {
            tally.out_of_order += 1;
        } else if index < self.phase.first {
            tally.strays += 1;
        } else {
            tally.delivered += 1;
            if tally.first_ns == 0 {
                tally.first_ns = now;
            }
            tally.last_ns = now;
            let sent = &mut self.sent_ns[(index - self.phase.first) as usize];
            if *sent == 0 {
                *sent = self.stamps.get(index);
            }
            // An update that the server generated itself has no time at which it was sent.
            if *sent > 0 {
                let latency = now.saturating_sub(*sent);
                tally.latencies.record(latency);
                tally.late += u64::from(latency > self.late_ns);
            }
            self.waiting -= u64::from(self.newest.get(bug as usize) == Some(&index));
        }
        *last = index.max(*last);
    }
}
