//! The way out of the spool: hands the store what is spooled, oldest first, whenever it can be reached.
//!
//! A request that the store refuses again and again while it takes others is set aside for a person, so that those behind
//! it are not held up. Requests whose key was not checked are checked here, as of when they came.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bugfeed_core::hooks::arrival::Mapping;
use futures::future::join_all;

use super::access::of_key;
use super::desk::Desk;
use super::intake::StoreAway;
use super::items::restrict;
use crate::config::source::Bodies;
use crate::receive::received::{QuarantinedRequest, ReceivedRequest};
use crate::receive::spool::{Reader, Record, Segment};

/// A request must fail so often before it is set aside.
const PATIENCE: u32 = 8;
/// And the last so many times, the store must have taken others right afterwards. One time proves nothing: the store may
/// have come back just then.
const PROOFS: u32 = 2;

impl Desk {
    /// Hands the store what is spooled, oldest first, whenever it can be reached. Never ends by itself.
    pub(super) async fn replay(&self) {
        let mut count = 0;
        loop {
            self.spool.filled().await;
            let Some(segment) = self.spool.oldest().await else {
                // The spool's thread has ended, which only a bug of ours can do. No busy loop.
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            };
            match self.replay_segment(&segment).await {
                Ok(done) => {
                    count += done;
                    if let Err(error) = self.spool.remove(&segment) {
                        self.events.spool_unreadable(&error);
                    }
                }
                Err(error) => {
                    // What cannot be read now may be read after a restart; what is behind it must not wait for that.
                    self.events.spool_unreadable(&error);
                    self.spool.leave(&segment);
                }
            }
            self.events.spool_is(&self.spool);
            if self.spool.is_empty() {
                self.is_back();
                self.events.store_back(std::mem::take(&mut count));
            }
        }
    }

    async fn replay_segment(&self, segment: &Segment) -> io::Result<u64> {
        let (mut count, mut reader) = (0, segment.open()?);
        loop {
            let read;
            (reader, read) = read_piece(reader).await;
            let (records, damaged) = read?;
            self.events.spool_damaged(damaged);
            if records.is_empty() {
                return Ok(count);
            }
            let number = records.len() as u64;
            count += number;
            self.hand_over(records).await?;
            self.events.replayed(number, &self.spool);
        }
    }

    /// Hands these records over, until the store has all of them. After a failure, one other request may ask the store in
    /// each pause, so that it shows whether it is these records or the store. Fails if a record cannot be set aside.
    async fn hand_over(&self, unchecked: Vec<Record>) -> io::Result<()> {
        let mut records = Vec::with_capacity(unchecked.len());
        for record in unchecked {
            records.push(self.check(record).await);
        }
        let (mut backoff, mut proofs) = (self.backoff.clone(), 0);
        loop {
            let before = self.stored();
            let handed = join_all(records.iter().map(|record| self.hand(record))).await;
            let mut results = handed.iter();
            records.retain(|_| results.next().is_some_and(Result::is_err));
            let Some(Err(away)) = handed.into_iter().find(Result::is_err) else {
                self.is_back();
                return Ok(());
            };
            if proofs == 0 {
                self.is_away_now(&away.0);
            }
            if backoff.failures() > 0 {
                self.probe();
            }
            tokio::time::sleep(backoff.next(rand::random())).await;
            if self.stored() > before {
                self.is_back();
                proofs += 1;
            } else {
                proofs = 0;
            }
            if proofs >= PROOFS && backoff.failures() >= PATIENCE {
                return self.set_aside(&records, &away);
            }
        }
    }

    fn set_aside(&self, records: &[Record], why: &StoreAway) -> io::Result<()> {
        for record in records {
            let written = self.spool.set_aside(record);
            self.events.set_aside(&record.envelope().source, why, written.as_deref());
            written?;
        }
        Ok(())
    }

    async fn hand(&self, record: &Record) -> Result<(), StoreAway> {
        match record {
            Record::Received { request } | Record::Unchecked { request, .. } => {
                self.store(self.intake.accept(Arc::new(request.clone()))).await.map(|_| ())
            }
            Record::Quarantined { request } => {
                self.store(self.intake.quarantine(Arc::new(request.clone()))).await.map(|_| ())
            }
        }
    }

    /// Checks the key of a request that came before keys were read, as of when it came.
    async fn check(&self, record: Record) -> Record {
        let Record::Unchecked { mut request, proof } = record else { return record };
        self.keys.read().await;
        let envelope = &request.envelope;
        let (id, now_us) = (envelope.key_id.clone().unwrap_or_default(), envelope.received_us);
        // One without a hash fits no key.
        let hash = proof.key.unwrap_or(crate::receive::identity::Sha256([0; 32]));
        match self.keys.check_hash(&id, &hash, &envelope.source, now_us) {
            Ok(key) => {
                request.items.iter_mut().for_each(|item| restrict(item, &key));
                self.forget_body(&mut request);
                Record::Received { request }
            }
            Err(error) => {
                let refusal = of_key(error, &envelope.source, &id, proof);
                let (share, failure, proof) = (refusal.share, refusal.failure, refusal.proof);
                let request = QuarantinedRequest { envelope: request.envelope, share, failure, proof };
                self.events.refused(&request, true);
                Record::Quarantined { request }
            }
        }
    }

    /// The body was spooled in case that the request goes to quarantine.
    fn forget_body(&self, request: &mut ReceivedRequest) {
        let config = self.config();
        let keeps_all = config.source(&request.envelope.source).is_some_and(|source| source.bodies == Bodies::All);
        if !keeps_all && !request.items.iter().any(|item| item.mapping == Mapping::Failed) {
            request.envelope.body = None;
        }
    }
}

async fn read_piece(mut reader: Reader) -> (Reader, io::Result<(Vec<Record>, u64)>) {
    let reading = tokio::task::spawn_blocking(move || {
        let piece = reader.next_piece();
        (reader, piece)
    });
    match reading.await {
        Ok(read) => read,
        // The closure does not panic, and its runtime is running.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
