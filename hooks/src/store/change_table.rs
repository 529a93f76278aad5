//! The change tables: into which one the changes of a feed go, and writing into them.
//!
//! Goes in: a feed and the name of its table; rows, in the transaction that completes their events. Comes out: the ids
//! of the rows. It makes a table that is missing, and never changes or reads one that a shim reads.

use std::collections::BTreeMap;
use std::sync::PoisonError;

use bugfeed_protocol::{BugId, When};
use bugfeed_sql::{CountedIds, Dialect, Fault, Name, Tx, Value};
use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::cells::{Columns, text_value};
use super::row::bug_number;
use super::{Store, StoreError};

/// How long the part of a feed in the name of its table may be: PostgreSQL takes 63 characters.
const FEED_IN_NAME: usize = 51;

/// The name of the change table of a feed: `push_notify_FEED`, with `$` for a hyphen. The end of a long name is
/// replaced by a number that follows from it.
pub fn table_of(feed: &str) -> String {
    let plain = feed.replace('-', "$");
    if plain.len() <= FEED_IN_NAME {
        return format!("push_notify_{plain}");
    }
    let number = feed
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let begin: String = plain.chars().take(FEED_IN_NAME - 17).collect();
    format!("push_notify_{begin}${number:016x}")
}

impl Store {
    /// Says into which table the changes of a feed go: one of the default name, or this one. Makes it if it is missing,
    /// as `bugfeed-shim init` would, with dates in UTC to the microsecond.
    ///
    /// # Errors
    /// When the database says no, or the name is none.
    pub async fn serve_feed(&self, feed: &str, table: Option<&str>) -> Result<Name, StoreError> {
        let name = table.map_or_else(|| table_of(feed), str::to_owned);
        let name: Name = name.parse().map_err(|bad: bugfeed_sql::BadName| StoreError::BadTable(bad.to_string()))?;
        let dialect = self.db.dialect();
        let quoted = dialect.quote(name.as_str());
        let look = format!("SELECT id, bug_id, delta_ts FROM {quoted} WHERE 1 = 0");
        match self.db.fetch(&look, &[]).await {
            Ok(_) => {}
            Err(error) if error.fault == Fault::Missing => {
                let made = self.db.execute(&create(dialect, &quoted), &[]).await;
                // Somebody else may have been quicker.
                if let (Err(_), Err(error)) = (made, self.db.fetch(&look, &[]).await) {
                    return Err(error.into());
                }
            }
            Err(error) => return Err(error.into()),
        }
        let args = [text_value(feed), text_value(name.as_str())];
        let known = "SELECT 1 FROM hooks_feeds WHERE feed = ? AND change_table = ?";
        if self.db.fetch(known, &args).await?.is_empty() {
            let mut tx = self.db.begin().await?;
            tx.execute("DELETE FROM hooks_feeds WHERE feed = ?", &args[..1]).await?;
            let insert = dialect.insert_or_ignore("hooks_feeds (feed, change_table) VALUES (?, ?)");
            tx.execute(&insert, &args).await?;
            tx.commit().await?;
        }
        let mut tables = self.shared.tables.write().unwrap_or_else(PoisonError::into_inner);
        tables.insert(feed.to_owned(), quoted);
        Ok(name)
    }

    /// The feeds that have a change table.
    pub fn feeds(&self) -> Vec<String> {
        self.shared.tables.read().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    /// Reads which feeds have a table.
    pub(super) async fn read_tables(&self) -> Result<(), StoreError> {
        let rows = self.db.fetch("SELECT feed, change_table FROM hooks_feeds", &[]).await?;
        let mut found = BTreeMap::new();
        for row in rows {
            let mut row = Columns::of(row);
            found.insert(row.text()?, self.db.dialect().quote(&row.text()?));
        }
        *self.shared.tables.write().unwrap_or_else(PoisonError::into_inner) = found;
        Ok(())
    }

    /// The zone of the dates in a feed's table.
    pub(super) fn zone_of(&self, feed: &str) -> &TimeZone {
        static UTC: TimeZone = TimeZone::UTC;
        self.shared.zones.get(feed).unwrap_or(&UTC)
    }

    /// The quoted name of a feed's table.
    pub(super) fn change_table(&self, feed: &str) -> Result<String, StoreError> {
        let tables = self.shared.tables.read().unwrap_or_else(PoisonError::into_inner);
        tables.get(feed).cloned().ok_or_else(|| StoreError::NoTable(feed.to_owned()))
    }
}

fn create(dialect: &dyn Dialect, quoted: &str) -> String {
    let (counting, number, date) = (dialect.counting_key(), dialect.key_type(), dialect.fine_date_type());
    format!(
        "CREATE TABLE {quoted} (id {counting}, bug_id {number} NOT NULL, delta_ts {date} NOT NULL){}",
        dialect.table_options()
    )
}

/// A date as it stands in the table: in the zone of the table, without saying which.
fn date(when: When, zone: &TimeZone) -> String {
    let instant = Timestamp::from_microsecond(when.as_micros()).unwrap_or(Timestamp::UNIX_EPOCH);
    zone.to_datetime(instant).to_string().replace('T', " ")
}

/// Inserts rows into a table; returns their ids in the order of the rows.
pub(super) async fn insert(
    dialect: &dyn Dialect,
    tx: &mut Tx,
    (table, zone): (&str, &TimeZone),
    rows: &[(BugId, When)],
) -> Result<Vec<i64>, StoreError> {
    // Numbers and dates only, both written here: nothing in the text comes from outside.
    let values: Vec<String> = rows.iter().map(|(bug, when)| format!("({bug},'{}')", date(*when, zone))).collect();
    let sql = format!("INSERT INTO {table} (bug_id, delta_ts) VALUES {}", values.join(","));
    match dialect.counted_ids() {
        CountedIds::Returning => {
            let back = tx.fetch(&format!("{sql} RETURNING id, bug_id"), &[]).await?;
            assign(rows, back)
        }
        CountedIds::Query(query) => {
            tx.execute(&sql, &[]).await?;
            let row = tx.fetch(query, &[]).await?.pop().unwrap_or_default();
            let mut row = Columns::of(row);
            let (first, distance) = (row.int()?, row.int()?);
            Ok((0..).map(|n| first + n * distance).take(rows.len()).collect())
        }
    }
}

/// Gives each row its id. The database does not promise an order, so the bug decides; rows of one bug are taken in the
/// order of their ids.
fn assign(rows: &[(BugId, When)], back: Vec<Vec<Value>>) -> Result<Vec<i64>, StoreError> {
    let mut of_bug: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
    for row in back {
        let mut row = Columns::of(row);
        let (id, bug) = (row.int()?, row.int()?);
        of_bug.entry(bug).or_default().push(id);
    }
    for ids in of_bug.values_mut() {
        ids.sort_unstable_by(|a, b| b.cmp(a));
    }
    let mut next = |bug: BugId| of_bug.get_mut(&bug_number(bug)).and_then(Vec::pop);
    let ids: Option<Vec<i64>> = rows.iter().map(|(bug, _)| next(*bug)).collect();
    ids.ok_or(StoreError::Broken("the change table gave no id for a row"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_in_the_tables_zone() {
        let when = When::parse_utc("2026-11-26T12:00:00.25").unwrap();
        assert_eq!(date(when, &TimeZone::UTC), "2026-11-26 12:00:00.25");
        assert_eq!(date(when, &TimeZone::get("Asia/Tokyo").unwrap()), "2026-11-26 21:00:00.25");
    }

    #[test]
    fn names_of_tables() {
        assert_eq!(table_of("default"), "push_notify_default");
        assert_eq!(table_of("a-b_c"), "push_notify_a$b_c");
        let long = table_of(&"x-".repeat(32));
        assert_eq!(long.len(), 63);
        assert!(long.parse::<Name>().is_ok());
        assert_ne!(long, table_of(&"x_".repeat(32)), "{long}");
    }
}
