//! The hot path, driven as a feed drives it: the same inputs every time, and peers that only count.

use std::cell::Cell;
use std::io;
use std::rc::Rc;

use anyhow::{Result, bail};
use bugfeed_core::input::{About, Input, SessionLimits, Work};
use bugfeed_core::replay::{ReplayLimits, replay};
use bugfeed_core::sequencer::{Sequencer, Taken};
use bugfeed_core::shard::{Peer, Shard};
use bugfeed_core::subscriptions::Slot;
use bugfeed_protocol::bus::{self, BusMessage, Format};
use bugfeed_protocol::client;
use bugfeed_protocol::{BugId, Change, Cursor, Epoch, Numbered, When};

/// The acts that are counted: the name, how often the act is done (at least), and by how many the instructions of one act
/// are divided. Example: an update with 1000 watchers is 1000 frames, and the count is for one frame.
pub(crate) const ACTS: [(&str, u32, u32); 7] = [
    ("decode a message of the bus", 2000, 1),
    ("update that nobody watches", 2000, 1),
    ("update with two watchers", 2000, 1),
    ("frame of an update with 1000 watchers", 20, 1000),
    ("frame of 16 updates together, 1000 watchers", 4, 16_000),
    ("subscribe to 200 bugs", 50, 1),
    ("resume of 200 bugs, 20 changed", 50, 1),
];

const WATCHERS: u32 = 1000;
/// 2026-01-01, in microseconds.
const BASE: i64 = 1_767_225_600_000_000;

/// A socket that takes everything.
#[derive(Clone, Debug, Default)]
struct Counter(Rc<Cell<usize>>);

impl Peer for Counter {
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.0.set(self.0.get() + bytes.len());
        Ok(bytes.len())
    }
    fn attached(&self, _: Slot) {}
    fn want_writable(&self) {}
    fn ready(&self) {}
    fn end(&self) {}
    fn heard_ms(&self) -> u64 {
        0
    }
}

struct Bed {
    sequencer: Sequencer,
    shard: Shard<Counter>,
    written: Counter,
    epoch: Epoch,
    seq: u64,
    sessions: Slot,
}

impl Bed {
    fn new() -> Result<Bed> {
        let Some(epoch) = Epoch::parse("epoch") else { bail!("an epoch") };
        let (recorder, cache) = replay(ReplayLimits::default());
        let about = About { version: "1".into(), feed: "default".into() };
        let shard = Shard::new(cache, SessionLimits::default(), about);
        let sequencer = Sequencer::new(recorder, epoch.clone());
        Ok(Bed { sequencer, shard, written: Counter::default(), epoch, seq: 0, sessions: 0 })
    }

    fn message(&mut self, bug: u64) -> Result<BusMessage> {
        self.seq += 1;
        let cursor = Some(Cursor::new(self.epoch.clone(), self.seq));
        Ok(BusMessage { change: change(bug, self.seq)?, cursor, after: None })
    }

    /// Takes a change in; its frames are written by the next [`Bed::flush`].
    fn update(&mut self, bug: u64) -> Result<()> {
        let message = self.message(bug)?;
        match self.sequencer.offer(&message, None, message.change.when) {
            Taken::New(new) => self.shard.take(Input::Update(new.update)),
            other => bail!("not taken in: {other:?}"),
        }
        Ok(())
    }

    fn flush(&mut self) {
        self.shard.flush(usize::MAX);
    }

    /// A new session that sends this text.
    fn session(&mut self, texts: &[&str]) -> Slot {
        let slot = self.sessions;
        self.sessions += 1;
        self.shard.handle(Input::Attach(self.written.clone()));
        for text in texts {
            self.shard.handle(Input::Work(slot, Work::Command(client::parse(text))));
        }
        slot
    }
}

fn change(bug: u64, number: u64) -> Result<Change> {
    let when = When::from_micros(BASE + i64::try_from(number)? * 1_000_000);
    match (BugId::new(bug), when) {
        (Some(bug), Some(when)) => Ok(Change { bug, when }),
        _ => bail!("not a change"),
    }
}

fn subscribe(bugs: impl Iterator<Item = u64>, more: &str) -> String {
    let bugs: Vec<String> = bugs.map(|bug| bug.to_string()).collect();
    format!(r#"{{"command":"subscribe","bugs":[{}]{more}}}"#, bugs.join(","))
}

/// Does one act `count` times. The work before and after it is the same for every count.
///
/// # Errors
/// When the core does not do what it should.
pub(crate) fn run(act: &str, count: u32) -> Result<()> {
    let mut bed = Bed::new()?;
    let bed = &mut bed;
    match act {
        "decode a message of the bus" => {
            let cursor = Cursor::new(bed.epoch.clone(), 123_456);
            let numbered = Numbered { change: change(1_234_567, 1)?, cursor, after: None, recorded: When::MIN };
            let body = bus::encode(&numbered, Format::Native, "");
            for _ in 0..count {
                std::hint::black_box(bus::decode(std::hint::black_box(&body))?);
            }
        }
        "update that nobody watches" => {
            bed.session(&[&subscribe(1..=20, "")]);
            for number in 0..count {
                bed.update(100 + u64::from(number % 1000))?;
                bed.flush();
            }
        }
        "update with two watchers" => {
            for client in 0..u64::from(WATCHERS) {
                bed.session(&[&subscribe((0..20).map(|at| 1 + (client * 10 + at) % 10_000), "")]);
            }
            for number in 0..count {
                bed.update(1 + u64::from(number * 7 % 10_000))?;
                bed.flush();
            }
        }
        "frame of an update with 1000 watchers" => {
            for _ in 0..WATCHERS {
                bed.session(&[&subscribe(1..=1, "")]);
            }
            for _ in 0..count {
                bed.update(1)?;
                bed.flush();
            }
        }
        "frame of 16 updates together, 1000 watchers" => {
            for _ in 0..WATCHERS {
                bed.session(&[&subscribe(1..=16, "")]);
            }
            for _ in 0..count {
                for bug in 1..=16 {
                    bed.update(bug)?;
                }
                bed.flush();
            }
        }
        "subscribe to 200 bugs" => {
            // The texts are written beforehand, because writing them is the client's work.
            let text = |number: u64| subscribe((0..200).map(|at| 1 + (number * 100 + at * 7) % 50_000), "");
            let texts: Vec<String> = (0..500).map(text).collect();
            for text in texts.iter().cycle().take(count as usize) {
                bed.session(&[text]);
            }
        }
        "resume of 200 bugs, 20 changed" => resume(bed, count)?,
        other => bail!("no act is called '{other}'"),
    }
    std::hint::black_box(bed.written.0.get());
    Ok(())
}

/// Clients that resume from a cursor, after some of their bugs have changed.
fn resume(bed: &mut Bed, count: u32) -> Result<()> {
    for number in 0..5000 {
        bed.update(1 + number % 2000)?;
    }
    bed.flush();
    let from = format!(r#","cursor":"{}""#, Cursor::new(bed.epoch.clone(), 4800));
    let text = subscribe((0..200).map(|at| 1 + at * 10), &from);
    for _ in 0..count {
        bed.session(&[r#"{"command":"hello"}"#, &text]);
    }
    Ok(())
}
