//! The real binary between a change table of its own and an exchange of its own, with its ledger in an SQLite file.

use std::time::Duration;

use bugfeed_protocol::log_event::LogEvent;
use bugfeed_testbed::{Proc, Run, eventually, unique};

use crate::binary::{NO_BROKER, ledger_url, shim};
use crate::real::queue::Queue;
use crate::support::Place;

const LIMIT: Duration = Duration::from_secs(60);

/// What one shim works on.
pub(crate) struct Rig {
    pub(crate) place: Place,
    pub(crate) amqp: String,
    pub(crate) exchange: String,
}

impl Rig {
    /// Makes the table. Nothing runs yet.
    pub(crate) async fn new(place: Place, amqp: &str) -> Rig {
        Rig::on(place, amqp, &unique("exchange")).await
    }

    /// With an exchange that others use, too.
    pub(crate) async fn on(place: Place, amqp: &str, exchange: &str) -> Rig {
        place.table().await;
        Rig { place, amqp: amqp.to_owned(), exchange: exchange.to_owned() }
    }

    /// On an SQLite file, with a broker that is not there.
    pub(crate) async fn without_broker() -> Rig {
        Rig::new(Place::sqlite(), NO_BROKER).await
    }

    /// A new durable queue that gets everything from the exchange.
    pub(crate) async fn queue(&self) -> Queue {
        let queue = Queue::declare(&self.amqp, &self.exchange).await;
        queue.bind("#").await;
        queue
    }

    pub(crate) fn ledger(&self) -> String {
        ledger_url(self.place.dir.path())
    }

    /// The shim, to be started.
    pub(crate) fn run(&self) -> Run {
        self.with_ledger(&self.ledger())
    }

    /// The shim, with its ledger elsewhere.
    pub(crate) fn with_ledger(&self, ledger: &str) -> Run {
        self.with(ledger, &self.amqp)
    }

    /// The shim, with a broker that is not there.
    pub(crate) fn cut_off(&self) -> Run {
        self.with(&self.ledger(), NO_BROKER)
    }

    fn with(&self, ledger: &str, amqp: &str) -> Run {
        shim(&["--source", &self.place.url, "--ledger", ledger, "--amqp", amqp, "--exchange", &self.exchange])
    }

    /// A shim that works on the ledger.
    pub(crate) async fn start(&self) -> Proc {
        works(self.run()).await
    }

    pub(crate) async fn insert(&self, rows: &[(u64, &str)]) {
        self.place.session().await.insert(rows).await;
    }

    /// Waits until all rows are recorded and deleted.
    pub(crate) async fn emptied(&self) {
        let mut tracker = self.place.session().await;
        eventually(LIMIT, "an empty table", async || tracker.count("push_notify").await == 0).await.unwrap();
    }
}

/// Starts a shim and waits until it works on its ledger.
pub(crate) async fn works(run: Run) -> Proc {
    let mut proc = run.spawn().unwrap();
    proc.wait_for_event(LogEvent::LeaseTaken, LIMIT).await.unwrap();
    proc
}

/// Starts a shim and waits until it says that it waits for the one that works.
pub(crate) async fn waits_for(run: Run, working: &Proc) -> Proc {
    let mut proc = run.spawn().unwrap();
    let line = proc.wait_for_event(LogEvent::LeaseWaiting, LIMIT).await.unwrap();
    assert!(line.contains(&format!("held by pid {}", working.pid())), "{line}");
    proc
}
