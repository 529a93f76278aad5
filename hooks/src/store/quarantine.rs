//! The quarantine: requests that nobody vouches for, in three shares that never evict one another.
//!
//! Goes in: a request with the reason and what is needed to check it again. Comes out: whether it was kept; later, the
//! request again. A full share keeps the oldest, so that somebody who floods it cannot hide what he did first. Age is
//! the business of [`super::retention`].

use std::collections::HashMap;

use bugfeed_sql::{Tx, Value};

use super::cells::{Columns, Rows, text_value};
use super::requests::{self, failure};
use super::row::needed_id;
use super::{Store, StoreError, bodies};
use crate::receive::received::{Failure, Quarantined, QuarantinedRequest, RequestId, Share};

/// What a share holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Which share.
    pub share: Share,
    /// How many requests.
    pub requests: u64,
    /// How many bytes.
    pub bytes: u64,
}

impl Store {
    /// Puts a request into the quarantine, if its share and its sender's part of it have room.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn quarantine(&self, request: &QuarantinedRequest) -> Result<Quarantined, StoreError> {
        let mut last = StoreError::Contended;
        for _ in 0..3 {
            match self.try_quarantine(request).await {
                Err(error) if error.is_conflict() => last = error,
                done => return done,
            }
        }
        Err(last)
    }

    async fn try_quarantine(&self, request: &QuarantinedRequest) -> Result<Quarantined, StoreError> {
        let envelope = &request.envelope;
        let mut tx = self.db.begin().await?;
        let id = Value::Text(envelope.id.to_string());
        let sql = "SELECT 1 FROM hooks_requests WHERE id = ?";
        if !tx.fetch(sql, std::slice::from_ref(&id)).await?.is_empty() {
            tx.commit().await?;
            return Ok(Quarantined::Kept);
        }
        let head: usize = envelope.headers.iter().map(|(name, value)| name.len() + value.len() + 6).sum();
        let size = head + envelope.path.len() + envelope.body.as_ref().map_or(0, |body| body.len());
        let size = i64::try_from(size).unwrap_or(i64::MAX);
        if !self.has_room(&mut tx, request, size).await? {
            tx.commit().await?;
            return Ok(Quarantined::Full);
        }
        requests::insert_quarantined(&mut tx, envelope).await?;
        let proof = serde_json::to_string(&request.proof).unwrap_or_default();
        let mut rows = Rows::default();
        let mut row = rows.row();
        row.text(&envelope.id.to_string()).text(request.share.as_str()).short(&envelope.source, 64);
        row.text(&envelope.address.to_string()).int(envelope.received_us).int(size);
        row.short(&request.failure.error, 1000).short(&request.failure.fix, 1000).text(&proof);
        let into = "hooks_quarantine (request, share, source, address, received_us, bytes, error, fix, proof)";
        tx.execute(&rows.insert(into), &rows.args).await?;
        if let Some(body) = &envelope.body {
            bodies::insert(self, &mut tx, envelope.id, body).await?;
        }
        tx.commit().await?;
        Ok(Quarantined::Kept)
    }

    async fn has_room(&self, tx: &mut Tx, request: &QuarantinedRequest, size: i64) -> Result<bool, StoreError> {
        let bounds = &self.shared.bounds;
        let share = Value::Text(request.share.as_str().to_owned());
        let sql = "SELECT COUNT(*), SUM(bytes) FROM hooks_quarantine WHERE share = ?";
        let row = tx.fetch(sql, std::slice::from_ref(&share)).await?.pop().unwrap_or_default();
        let mut row = Columns::of(row);
        let (held, bytes) = (row.int()?, row.maybe_int()?.unwrap_or(0));
        if held >= bounds.quarantined || bytes.saturating_add(size) > bounds.quarantined_bytes {
            return Ok(false);
        }
        let sql = "SELECT COUNT(*), SUM(bytes) FROM hooks_quarantine WHERE share = ? AND source = ? AND address = ?";
        let source: String = request.envelope.source.chars().take(64).collect();
        let args = [share, text_value(&source), Value::Text(request.envelope.address.to_string())];
        let mut row = Columns::of(tx.fetch(sql, &args).await?.pop().unwrap_or_default());
        let (held, bytes) = (row.int()?, row.maybe_int()?.unwrap_or(0));
        // One sender gets at most a quarter of a share's bytes.
        Ok(held < bounds.quarantined_of_sender && bytes.saturating_add(size) <= bounds.quarantined_bytes / 4)
    }

    /// A request in quarantine, with its body if that is kept; `None` if it is not there. To be checked again, or to be
    /// trusted by an administrator; [`Store::leave_quarantine`] follows.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn quarantined(&self, id: RequestId) -> Result<Option<QuarantinedRequest>, StoreError> {
        let sql = "SELECT share, proof, error, fix FROM hooks_quarantine WHERE request = ?";
        let Some(row) = self.reader.fetch(sql, &[Value::Text(id.to_string())]).await?.pop() else { return Ok(None) };
        let Some(request) = self.request(id).await? else { return Ok(None) };
        let mut row = Columns::of(row);
        let (share, proof) = (row.text()?, row.text()?);
        let share = Share::ALL.into_iter().find(|one| one.as_str() == share);
        let mut envelope = request.envelope;
        envelope.body = self.body(id).await?.map(Into::into);
        Ok(Some(QuarantinedRequest {
            envelope,
            share: share.ok_or(StoreError::Broken("a request is in an unknown share of the quarantine"))?,
            failure: failure(&mut row)?,
            proof: serde_json::from_str(&proof).unwrap_or_default(),
        }))
    }

    /// Why these requests are in quarantine; those that are not there are passed over.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn why_quarantined(&self, ids: &[RequestId]) -> Result<HashMap<RequestId, Failure>, StoreError> {
        let mut why = HashMap::new();
        for chunk in ids.chunks(500) {
            let args: Vec<Value> = chunk.iter().map(|id| Value::Text(id.to_string())).collect();
            let list = super::cells::marks(args.len());
            let sql = format!("SELECT request, error, fix FROM hooks_quarantine WHERE request IN ({list})");
            for row in self.reader.fetch(&sql, &args).await? {
                let mut row = Columns::of(row);
                why.insert(RequestId(needed_id(&mut row)?.0), failure(&mut row)?);
            }
        }
        Ok(why)
    }

    /// Removes a request from the quarantine, with its body, because it was received again or is not wanted. Returns
    /// whether it was there.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn leave_quarantine(&self, id: RequestId) -> Result<bool, StoreError> {
        let mut tx = self.db.begin().await?;
        let gone = remove(&mut tx, &[Value::Text(id.to_string())]).await?;
        tx.commit().await?;
        self.count_bodies().await?;
        Ok(gone > 0)
    }

    /// What the shares hold.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn quarantine_held(&self) -> Result<Vec<Held>, StoreError> {
        let sql = "SELECT share, COUNT(*), SUM(bytes) FROM hooks_quarantine GROUP BY share ORDER BY share";
        let mut held = Vec::new();
        for row in self.reader.fetch(sql, &[]).await? {
            let mut row = Columns::of(row);
            let name = row.text()?;
            let Some(share) = Share::ALL.into_iter().find(|share| share.as_str() == name) else { continue };
            held.push(Held { share, requests: row.count()?, bytes: row.count()? });
        }
        Ok(held)
    }
}

/// Removes requests from the quarantine, and all that is known of them.
pub(super) async fn remove(tx: &mut Tx, ids: &[Value]) -> Result<u64, StoreError> {
    let list = super::cells::marks(ids.len());
    let gone = tx.execute(&format!("DELETE FROM hooks_quarantine WHERE request IN ({list})"), ids).await?;
    tx.execute(&format!("DELETE FROM hooks_bodies WHERE request IN ({list})"), ids).await?;
    tx.execute(&format!("DELETE FROM hooks_requests WHERE id IN ({list})"), ids).await?;
    Ok(gone)
}
