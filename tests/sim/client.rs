//! A client: what it keeps when it is disconnected, what it says, and what it does with what it hears.
//!
//! Goes in: bytes from its socket. Comes out: commands. Everything it hears is compared with the truth by `check.rs`.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use bugfeed_core::replay::{Pos, Replay};
use bugfeed_protocol::{BugId, Cursor, When};
use rand::RngExt as _;
use rand::rngs::SmallRng;

use crate::pod::Life;
use crate::quiet::UNNAMED;
use crate::shadow::{Fact, Shadow, Truth};
use crate::swarm::Swarm;
use crate::wire::{Frame, Wire, take_frame};

/// What a client waits for an answer to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pending {
    Hello,
    /// To all of its bugs; the cursor it asked from.
    All(Option<Cursor>),
    /// To these bugs more.
    More(Vec<BugId>),
    /// To all bugs as one subscription, of which these are new.
    Whole(Vec<BugId>),
    Fewer(Vec<BugId>),
}

/// One connection.
pub struct Session {
    pub pod: usize,
    pub wire: Rc<Wire>,
    pub shadow: Rc<RefCell<Shadow>>,
    pub cache: Arc<Replay>,
    pub bytes: VecDeque<u8>,
    pub pending: VecDeque<Pending>,
    /// Its bugs have been answered for.
    pub subscribed: bool,
    /// Some changes may be replaced by newer ones of the same bug.
    pub conflated: bool,
    /// The cursor that was asked from and granted.
    pub asked: Option<Cursor>,
    /// The last cursor received.
    pub cursor: Option<Cursor>,
    /// The position of the last change of each bug.
    pub last: BTreeMap<BugId, Pos>,
    pub breaks: u32,
    pub over: bool,
    /// Its hello was answered.
    pub greeted: bool,
    /// It was told that nothing can arrive just now.
    pub paused: bool,
    /// It asked for what comes from now on, and for nothing that was.
    pub fresh: bool,
    /// It came while resumes waited, for the how-manieth time.
    pub held_in: Option<u32>,
}

/// What it knows for good.
#[derive(Default)]
pub struct Client {
    pub name: usize,
    pub modern: bool,
    /// It starts from the cursor of the reply to hello.
    pub by_hello: bool,
    /// It stores dates without the fraction.
    pub whole_seconds: bool,
    pub phantom: bool,
    /// How many changes a catch-up sends one by one.
    pub catch_up: usize,
    pub bugs: BTreeSet<BugId>,
    /// All bugs that there are.
    every: BTreeSet<BugId>,
    /// It may watch all bugs as one subscription.
    may_have_all: bool,
    /// It watches all bugs as one subscription.
    pub all: bool,
    /// Beside that, it watches these by name in this session.
    named: BTreeSet<BugId>,
    pub cursor: Option<Cursor>,
    pub since: Option<When>,
    /// It has asked the tracker, at least once.
    pub synced: bool,
    /// Changes of its bugs that it has not been told of.
    pub missing: BTreeSet<Fact>,
    /// Those of them that have no number: owed in this session only.
    foreign: BTreeSet<Fact>,
    pub session: Option<Session>,
    pub stalled_until: usize,
    /// The pod that it was on last.
    left: Option<usize>,
    /// What it was told while it watched all bugs.
    pub told_all: ToldAll,
}

/// What clients that watch all bugs were told, counted.
#[derive(Clone, Copy, Debug, Default)]
pub struct ToldAll {
    pub updates: u64,
    pub complete: u64,
    pub latest: u64,
    pub gaps: u64,
    /// Resumes that were granted by another pod than the one that they come from.
    pub elsewhere: u64,
    /// Updates with another cursor than their own.
    pub held: u64,
    /// They began to watch all bugs beside some that they name, or stopped.
    pub begun: u64,
    pub ended: u64,
}

type Checked<T = ()> = Result<T, String>;

fn list(bugs: &BTreeSet<BugId>) -> String {
    bugs.iter().map(BugId::to_string).collect::<Vec<_>>().join(",")
}

impl Client {
    pub fn new(name: usize, swarm: &Swarm, random: &mut SmallRng) -> Client {
        let mut bugs = BTreeSet::new();
        while bugs.is_empty() {
            bugs = (1..=swarm.bugs).filter(|_| random.random_bool(0.6)).filter_map(BugId::new).collect();
        }
        let every: BTreeSet<BugId> = (1..=swarm.bugs).chain([UNNAMED]).filter_map(BugId::new).collect();
        let modern = random.random_bool(0.7);
        // It is drawn whether or not it counts, so that the rest of the world does not depend on it.
        let all = random.random_bool(0.35) && swarm.with_all && modern;
        if all {
            bugs.clone_from(&every);
        }
        Client {
            name,
            modern,
            every,
            may_have_all: swarm.with_all,
            all,
            by_hello: random.random_bool(0.4),
            whole_seconds: random.random_bool(0.5),
            catch_up: swarm.limits.catch_up,
            bugs,
            ..Client::default()
        }
    }

    /// Another client with the same memory, to see whether what is stored holds.
    pub fn phantom(&self, name: usize) -> Client {
        Client {
            name,
            modern: self.modern,
            by_hello: self.by_hello,
            whole_seconds: self.whole_seconds,
            phantom: true,
            catch_up: self.catch_up,
            bugs: self.bugs.clone(),
            every: self.every.clone(),
            may_have_all: self.may_have_all,
            all: self.all,
            named: BTreeSet::new(),
            cursor: self.cursor.clone(),
            since: self.since,
            synced: self.synced,
            missing: self.missing.difference(&self.foreign).copied().collect(),
            foreign: BTreeSet::new(),
            session: None,
            stalled_until: 0,
            left: None,
            told_all: ToldAll::default(),
        }
    }

    /// It asked the tracker for its bugs: all that was committed by now is known.
    pub fn sync(&mut self) {
        self.missing.clear();
        self.synced = true;
    }

    /// The tracker committed a change of some bug.
    pub fn committed(&mut self, bug: BugId, fact: Fact) {
        if self.synced && self.bugs.contains(&bug) {
            self.missing.insert(fact);
        }
    }

    /// A pod has these changes without a number: who is on it is told.
    pub fn recorded(&mut self, foreign: &[Fact], shadow: &Rc<RefCell<Shadow>>, truth: &Truth) {
        let here = |session: &Session| session.subscribed && Rc::ptr_eq(&session.shadow, shadow);
        if self.session.as_ref().is_some_and(here) {
            let mine: Vec<Fact> =
                foreign.iter().copied().filter(|&fact| self.bugs.contains(&truth.all[fact].change.bug)).collect();
            self.missing.extend(&mine);
            self.foreign.extend(mine);
        }
    }

    pub fn connect(&mut self, pod: usize, life: &mut Life, room: usize, lane: usize) {
        self.named.clear();
        let wire = Rc::new(Wire::default());
        wire.room.set(room);
        life.connect(&wire, lane);
        let breaks = life.shadow.borrow().breaks;
        self.session = Some(Session {
            pod,
            shadow: Rc::clone(&life.shadow),
            cache: Arc::clone(&life.cache),
            wire,
            bytes: VecDeque::new(),
            pending: VecDeque::new(),
            subscribed: false,
            conflated: false,
            asked: None,
            cursor: None,
            last: BTreeMap::new(),
            breaks,
            over: false,
            greeted: false,
            paused: false,
            fresh: false,
            held_in: {
                let shadow = life.shadow.borrow();
                shadow.held.then_some(shadow.holds)
            },
        });
        if self.modern {
            self.say(r#"{"command":"hello","heartbeat":2}"#.to_owned(), Pending::Hello);
            if !self.by_hello || self.cursor.is_some() {
                self.subscribe();
            }
        } else {
            self.subscribe();
        }
    }

    /// Subscribes to all of its bugs, from what it has stored.
    pub fn subscribe(&mut self) {
        let bugs = if self.all { "\"all\"".to_owned() } else { format!("[{}]", list(&self.bugs)) };
        let from = match (&self.cursor, self.since) {
            (Some(cursor), _) if self.modern => format!(r#","cursor":"{cursor}""#),
            (_, Some(since)) if !self.modern => {
                let micros = since.as_micros();
                let cut = if self.whole_seconds { micros - micros % 1_000_000 } else { micros };
                format!(r#","since":"{}""#, When::from_micros(cut).unwrap())
            }
            _ => String::new(),
        };
        let asked = self.cursor.clone().filter(|_| self.modern);
        if let Some(session) = self.session.as_mut().filter(|_| from.is_empty()) {
            session.fresh = true;
        }
        self.say(format!(r#"{{"command":"subscribe","bugs":{bugs}{from}}}"#), Pending::All(asked));
    }

    fn say(&mut self, text: String, pending: Pending) {
        let session = self.session.as_mut().expect("who speaks is connected");
        session.wire.commands.borrow_mut().push_back(text);
        session.pending.push_back(pending);
    }

    /// Changes its mind about some bug.
    pub fn change_bugs(&mut self, bug: BugId, truth: &Truth) {
        let Some(session) = &self.session else { return };
        if !session.subscribed || !session.pending.is_empty() {
            return;
        }
        if self.all {
            return self.change_all(bug, truth);
        }
        let others: Vec<BugId> = self.every.difference(&self.bugs).copied().collect();
        // All but this one and the one that nobody names.
        if self.may_have_all && self.modern && others.len() == 2 && others.contains(&bug) {
            self.say(r#"{"command":"subscribe","bugs":"all"}"#.to_owned(), Pending::Whole(others));
        } else if !self.bugs.contains(&bug) {
            self.say(format!(r#"{{"command":"subscribe","bugs":{bug}}}"#), Pending::More(vec![bug]));
        } else if self.bugs.len() > 1 {
            // From now on it does not matter any more.
            self.bugs.remove(&bug);
            self.missing.retain(|&fact| truth.all[fact].change.bug != bug);
            self.say(format!(r#"{{"command":"unsubscribe","bugs":{bug}}}"#), Pending::Fewer(vec![bug]));
        }
    }

    /// It watches all bugs: it names one of them as well, which changes nothing, or from now on watches only those that it
    /// has named.
    fn change_all(&mut self, bug: BugId, truth: &Truth) {
        if self.named.insert(bug) {
            return self.say(format!(r#"{{"command":"subscribe","bugs":{bug}}}"#), Pending::More(Vec::new()));
        }
        self.all = false;
        self.told_all.ended += 1;
        self.bugs = std::mem::take(&mut self.named);
        self.missing.retain(|&fact| self.bugs.contains(&truth.all[fact].change.bug));
        let leaving = self.every.difference(&self.bugs).copied().collect();
        self.say(r#"{"command":"unsubscribe","bugs":"all"}"#.to_owned(), Pending::Fewer(leaving));
    }

    /// Everything that it watched by name it now also watches as one of all.
    pub fn has_all(&mut self) {
        self.named = std::mem::replace(&mut self.bugs, self.every.clone());
        self.all = true;
        self.told_all.begun += 1;
    }

    /// A resume was granted.
    pub fn resumes(&mut self, latest: bool) {
        if let Some(session) = self.session.as_ref().filter(|_| self.all) {
            self.told_all.complete += u64::from(!latest);
            self.told_all.latest += u64::from(latest);
            self.told_all.elsewhere += u64::from(self.left.is_some_and(|left| left != session.pod));
        }
    }

    /// Goes away; what has not been read is lost.
    pub fn disconnect(&mut self, reset: bool) {
        if let Some(session) = self.session.take() {
            self.left = Some(session.pod);
            session.wire.gone.set(true);
            session.wire.broken.set(reset);
            session.wire.commands.borrow_mut().clear();
            let foreign = std::mem::take(&mut self.foreign);
            self.missing.retain(|fact| !foreign.contains(fact));
            if !self.modern && session.subscribed {
                // Its memory is a date: what a gateway that had lost continuity took in after newer changes, and had yet
                // to send, it will not ask for. It cannot be told.
                let shadow = session.shadow.borrow();
                self.missing.retain(|&fact| shadow.place(fact, 0).is_none_or(|pos| !shadow.is_late(pos)));
            }
        }
    }

    /// Reads up to `bytes`, and understands what is whole.
    pub fn read(&mut self, bytes: usize, truth: &Truth) -> Checked {
        let Some(session) = &mut self.session else { return Ok(()) };
        {
            let mut waiting = session.wire.bytes.borrow_mut();
            let count = bytes.min(waiting.len());
            session.bytes.extend(waiting.drain(..count));
            session.wire.room.set(session.wire.room.get().saturating_add(count));
        }
        while let Some(session) = &mut self.session {
            match take_frame(&mut session.bytes) {
                None => break,
                Some(Frame::Ping) => {}
                Some(Frame::Close) => session.over = true,
                Some(Frame::Text(text)) => {
                    let name = self.name;
                    self.hear(&text, truth).map_err(|broken| format!("client {name}: {broken}; heard {text}"))?;
                }
            }
            if self.session.as_ref().is_some_and(|session| session.over) {
                self.disconnect(false);
            }
        }
        Ok(())
    }

    /// Whether the gateway has gone and nothing is left to read.
    pub fn is_cut(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.wire.cut.get())
    }
}
