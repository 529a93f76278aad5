//! Reads numbered changes, with their lineage tags.
//!
//! Goes in: a number. Comes out: the changes after it. The ledger does not store a tag for each number. It stores *runs*:
//! from which number on a tag is valid. With the runs (1, `a`) and (57, `b`), the numbers 1 to 56 have the tag `a`.

use bugfeed_protocol::{BugId, Change, Cursor, Epoch, Numbered, Tag, When};

use super::{Ledger, LedgerError};
use bugfeed_sql::Value;

impl Ledger {
    /// Up to `limit` changes after number `after_seq`, in order: published or not, as far as they are kept.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn history(&self, after_seq: u64, limit: usize) -> Result<Vec<Numbered>, LedgerError> {
        // One statement reads everything, so that numbers, tags and epoch are of the same moment. It also reads the row
        // before the first one, if there is one, for the tag of that row.
        let sql = format!(
            "SELECT c.seq - m.epoch_base, c.bug, c.when_us, c.recorded_us, m.epoch, {} FROM {} m JOIN {} c ON c.seq >= \
             m.epoch_base + ? WHERE m.one = 1 ORDER BY c.seq LIMIT {}",
            self.tag_of("c.seq"),
            self.tables.meta,
            self.tables.changes,
            limit.saturating_add(1)
        );
        let rows =
            self.db.fetch(&sql, &[Value::Int(after_seq.max(1).cast_signed())]).await.map_err(|e| self.gone(e))?;
        let mut page = Vec::with_capacity(rows.len());
        let mut before: Option<Numbered> = None;
        for row in rows {
            let mut numbered = self.read_row(row, before.as_ref().map(|before| &before.cursor))?;
            if page.is_empty() && before.is_none() && numbered.cursor.seq > after_seq {
                numbered.after = self.tag_before(&numbered.cursor).await?;
            }
            if numbered.cursor.seq > after_seq {
                page.push(numbered.clone());
            }
            before = Some(numbered);
        }
        page.truncate(limit);
        Ok(page)
    }

    /// SQL that finds the tag of a number of the tables. `seq` is an SQL expression; the query around it must call the meta
    /// row `m`.
    pub(super) fn tag_of(&self, seq: &str) -> String {
        format!(
            "(SELECT r.tag FROM {} r WHERE r.first_seq > m.epoch_base AND r.first_seq <= {seq} ORDER BY r.first_seq DESC \
             LIMIT 1)",
            self.tables.runs
        )
    }

    /// The tag of the number before this one, if it is another tag. (The change with that number may have been pruned.)
    async fn tag_before(&self, cursor: &Cursor) -> Result<Option<Tag>, LedgerError> {
        let before = cursor.seq.saturating_sub(1);
        if before == 0 {
            return Ok(None);
        }
        let sql = format!("SELECT {} FROM {} m WHERE m.one = 1", self.tag_of("m.epoch_base + ?"), self.tables.meta);
        let rows = self.db.fetch(&sql, &[Value::Int(before.cast_signed())]).await?;
        let tag = rows.into_iter().next().and_then(|mut row| row.pop()).and_then(Value::into_text);
        Ok(tag.as_deref().and_then(Tag::parse).filter(|tag| cursor.tag != Some(*tag)))
    }

    fn read_row(&self, mut row: Vec<Value>, before: Option<&Cursor>) -> Result<Numbered, LedgerError> {
        let tag = row.pop().and_then(Value::into_text);
        let epoch = row.pop().and_then(Value::into_text);
        let read = || {
            let mut ints = row.iter().map(Value::int);
            let mut int = || ints.next().flatten();
            let (seq, bug, when, recorded) = (int()?, int()?, int()?, int()?);
            // The rows of a page have the same epoch, so it is parsed once and shared.
            let epoch = match before {
                Some(before) if epoch.as_deref() == Some(before.epoch.as_str()) => before.epoch.clone(),
                _ => Epoch::parse(&epoch?)?,
            };
            let tag = tag.as_deref().and_then(Tag::parse);
            Some(Numbered {
                change: Change { bug: BugId::new(bug.unsigned_abs())?, when: When::from_micros(when)? },
                cursor: Cursor::new(epoch, u64::try_from(seq).ok()?).tagged(tag),
                after: before.and_then(|before| before.tag).filter(|before| tag != Some(*before)),
                recorded: When::from_micros(recorded)?,
            })
        };
        read().ok_or_else(|| LedgerError::Broken {
            place: self.place().to_owned(),
            what: "a recorded change holds values this program never writes",
        })
    }
}
