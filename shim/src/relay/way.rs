//! The way to the bus, looked at before it is used: does what was published there belong to this ledger's history?
//!
//! Goes in: a publisher and the ledger. Comes out: an open way, or the reason why there is none, or a new epoch. A ledger
//! that was set back (a copy was restored, a replica that is behind took over) would give numbers out twice. What the bus
//! keeps shows it: at every new connection, and before the first batch of a term, the numbers that history ends with are
//! compared with the ledger's own, tag by tag. Where history cannot be read, gateways decide, by the tags.

use std::sync::{Mutex, PoisonError};

use bugfeed_protocol::Cursor;
use tokio::sync::Notify;

use super::now;
use crate::events::Telemetry;
use crate::ledger::{Holds, Lease, LedgerError};
use crate::publish::{Publish, PublishError, PublishFault};

/// How often history is asked before changes go on without having been compared.
const ATTEMPTS: u32 = 3;

/// How far everything is confirmed; for the heads.
#[derive(Debug, Default)]
pub(super) struct Confirmed {
    cursor: Mutex<Option<Cursor>>,
    /// Say it now.
    pub(super) news: Notify,
}

impl Confirmed {
    pub(super) fn get(&self) -> Option<Cursor> {
        self.cursor.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set(&self, cursor: Option<Cursor>) {
        *self.cursor.lock().unwrap_or_else(PoisonError::into_inner) = cursor;
    }
}

/// What became of a look at the way.
pub(super) enum Opened {
    /// It is open.
    Yes,
    /// It is not; why.
    No(PublishError),
    /// The ledger begins a new epoch: everything in memory is of the one before.
    NewEpoch,
}

/// A publisher, in one term.
pub(super) struct Way<'a, P> {
    pub(super) publisher: &'a mut P,
    pub(super) confirmed: &'a Confirmed,
    /// What lies there was compared with the ledger.
    checked: bool,
    failures: u32,
    /// Where the ledger says that it publishes to.
    noted: Option<String>,
}

impl<'a, P: Publish> Way<'a, P> {
    pub(super) fn new(publisher: &'a mut P, confirmed: &'a Confirmed) -> Way<'a, P> {
        Way { publisher, confirmed, checked: false, failures: 0, noted: None }
    }

    /// Makes sure that there is a way, and that it may be used. `published` is the watermark.
    pub(super) async fn open(
        &mut self,
        lease: &Lease,
        telemetry: &Telemetry,
        published: &Cursor,
    ) -> Result<Opened, LedgerError> {
        match self.publisher.connect().await {
            Ok(false) => {}
            Ok(true) => {
                self.checked = false;
                self.confirmed.set(None);
            }
            Err(e) => return Ok(Opened::No(e)),
        }
        if !self.checked {
            let end = match self.publisher.end().await {
                Ok(end) => end,
                // Nothing could be published either: no reason to go on without.
                Err(e) if e.fault == PublishFault::Blocked => return Ok(Opened::No(e)),
                Err(e) => {
                    self.failures += 1;
                    if self.failures < ATTEMPTS {
                        return Ok(Opened::No(e));
                    }
                    telemetry.not_compared(&e);
                    None
                }
            };
            self.failures = 0;
            let place = self.publisher.place();
            if compare(end.as_deref().unwrap_or_default(), lease, telemetry, place.as_deref()).await? {
                self.confirmed.set(None);
                return Ok(Opened::NewEpoch);
            }
            if let Some(place) = place {
                telemetry.connected(&place, end.as_deref().map(|end| end.last()));
                if self.noted.as_ref() != Some(&place) {
                    lease.publishes_to(&place).await?;
                    self.noted = Some(place);
                }
            }
            self.checked = true;
        }
        if self.confirmed.get().is_none() {
            self.confirmed.set(Some(published.clone()));
            self.confirmed.news.notify_one();
        }
        Ok(Opened::Yes)
    }
}

/// Whether what lies at the end made a new epoch necessary.
async fn compare(
    end: &[Cursor],
    lease: &Lease,
    telemetry: &Telemetry,
    place: Option<&str>,
) -> Result<bool, LedgerError> {
    let mut last = None;
    for found in end {
        let holds = lease.ledger().holds(found).await?;
        let why = match &holds {
            Holds::OtherTag(own) => {
                let own = own.map_or_else(|| "without a tag".to_owned(), |own| format!("under tag {own}"));
                format!("history has {found}, which this ledger gave {own}")
            }
            Holds::Beyond(head) => format!("history has {found}, and this ledger ends at {head}"),
            Holds::Same | Holds::Former | Holds::OtherLedger => {
                last = Some((found, holds));
                continue;
            }
        };
        anew(lease, telemetry, &why).await?;
        return Ok(true);
    }
    if let Some((found, Holds::OtherLedger)) = last {
        telemetry.other_ledger(found, place.unwrap_or_default());
    }
    Ok(false)
}

/// Begins a new epoch, because the ledger was set back; says so, loudly.
pub(super) async fn anew(lease: &Lease, telemetry: &Telemetry, why: &str) -> Result<(), LedgerError> {
    let done = lease.new_epoch(now()).await?;
    telemetry.new_epoch(lease.ledger().place(), why, &done);
    Ok(())
}
