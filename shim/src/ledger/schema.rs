//! The ledger's tables, and creating them.
//!
//! Goes in: a database and a name prefix. Comes out: tables of the current version, with one meta row. Safe when several
//! shims do it at the same time, and when one dies in the middle of it. Tables of version 1 are brought to this version;
//! nothing in them is lost.

use std::fmt;
use std::str::FromStr;

use super::LedgerError;
use bugfeed_sql::{Db, Dialect, Fault, SqlError, Value};

/// The version of the tables below.
pub(super) const VERSION: i64 = 2;
/// The version before: no tags, no second epoch in one ledger.
const WITHOUT_TAGS: i64 = 1;
/// The columns that version 2 added to the meta row. Numbers in the tables are never reset: the number that a change has in
/// its epoch is its number in the tables minus `epoch_base`.
const ADDED: [(&str, &str); 4] = [
    ("epoch_base", "BIGINT NOT NULL DEFAULT 0"),
    ("last_tag", "VARCHAR(16) NOT NULL DEFAULT ''"),
    ("former_epoch", "VARCHAR(64)"),
    ("published_to", "VARCHAR(600)"),
];

/// What the names of a ledger's tables begin with, so that several feeds can share a database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prefix(String);

/// The text is no prefix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no table name prefix; use a letter and then up to 39 letters, digits and '_', as in bugfeed_")]
pub struct BadPrefix(String);

impl Default for Prefix {
    fn default() -> Prefix {
        Prefix("bugfeed_".to_owned())
    }
}

impl FromStr for Prefix {
    type Err = BadPrefix;

    fn from_str(text: &str) -> Result<Prefix, BadPrefix> {
        let letters = text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if letters && text.len() <= 40 && text.bytes().next().is_some_and(|b| b.is_ascii_alphabetic()) {
            Ok(Prefix(text.to_owned()))
        } else {
            Err(BadPrefix(text.chars().take(60).collect()))
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The quoted names of the tables.
#[derive(Clone, Debug)]
pub(super) struct Tables {
    /// One row: the epoch, the last number given, the last number published, and who works.
    pub(super) meta: String,
    /// Every numbered change, until it is published and old.
    pub(super) changes: String,
    /// The runs of lineage tags: from which number on a tag is valid, and since when. They are kept much longer than the
    /// changes.
    pub(super) runs: String,
    /// Source rows that are recorded and not yet known to be deleted.
    pub(super) marks: String,
    /// The latest rows that were set aside.
    pub(super) set_aside: String,
    /// Changes that were published before their rows were gone, and are published once more when they are.
    pub(super) owed: String,
}

impl Tables {
    pub(super) fn new(dialect: &dyn Dialect, prefix: &Prefix) -> Tables {
        let name = |table: &str| dialect.quote(&format!("{prefix}{table}"));
        Tables {
            meta: name("meta"),
            changes: name("changes"),
            runs: name("runs"),
            marks: name("marks"),
            set_aside: name("set_aside"),
            owed: name("owed"),
        }
    }
}

/// What [`prepare`] may create.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Make {
    /// Nothing: the tables are only checked.
    Nothing,
    /// Tables of an older version may be brought to this version.
    Newer,
    /// The same, and a new ledger if there is none.
    All,
}

/// Checks the version of the tables, and creates what is missing.
pub(super) async fn prepare(db: &Db, tables: &Tables, make: Make, epoch_bits: u64) -> Result<(), LedgerError> {
    let create = make == Make::All;
    match version(db, tables).await {
        Ok(Some(VERSION)) => return Ok(()),
        Ok(Some(WITHOUT_TAGS)) if make != Make::Nothing => return migrate(db, tables).await,
        Ok(Some(WITHOUT_TAGS)) => return Err(LedgerError::Older { place: db.place().to_owned() }),
        Ok(Some(found)) => return Err(LedgerError::Version { place: db.place().to_owned(), found, known: VERSION }),
        Ok(None) if create => {}
        Err(e) if e.fault == Fault::Missing && create => {}
        Ok(None) => return Err(LedgerError::Empty { place: db.place().to_owned() }),
        Err(e) if e.fault == Fault::Missing && !e.to_string().contains("unable to open") => {
            return Err(LedgerError::Empty { place: db.place().to_owned() });
        }
        Err(e) => return Err(e.into()),
    }
    for statement in statements(db.dialect(), tables) {
        make_table(db, &statement).await?;
    }
    let epoch = bugfeed_protocol::Epoch::from_random(epoch_bits);
    let sql = db.dialect().insert_or_ignore(&format!(
        "{} (one, version, epoch, last_seq, published_seq, set_aside_count, term, beat) VALUES (1, {VERSION}, ?, 0, 0, \
         0, 0, 0)",
        tables.meta
    ));
    db.execute(&sql, &[Value::Text(epoch.as_str().to_owned())]).await?;
    Ok(())
}

/// Runs a `CREATE TABLE IF NOT EXISTS`.
async fn make_table(db: &Db, statement: &str) -> Result<(), LedgerError> {
    // In PostgreSQL, IF NOT EXISTS can fail when two processes create the same table at once. At the second try the table
    // exists.
    if db.execute(statement, &[]).await.is_err() {
        db.execute(statement, &[]).await?;
    }
    Ok(())
}

/// Brings tables of version 1 to version 2. Each step is idempotent, because another shim may be doing the same, or may have
/// died in the middle of it. Numbers that version 1 gave have no tag.
async fn migrate(db: &Db, tables: &Tables) -> Result<(), LedgerError> {
    for statement in statements(db.dialect(), tables) {
        make_table(db, &statement).await?;
    }
    for (column, kind) in ADDED {
        let there = format!("SELECT {column} FROM {} WHERE one = 1", tables.meta);
        match db.fetch(&there, &[]).await {
            Ok(_) => continue,
            Err(e) if e.fault == Fault::Missing => {}
            Err(e) => return Err(e.into()),
        }
        if let Err(e) = db.execute(&format!("ALTER TABLE {} ADD COLUMN {column} {kind}", tables.meta), &[]).await {
            // Another shim was quicker, or the column cannot be added.
            db.fetch(&there, &[]).await.map_err(|_| e)?;
        }
    }
    let done = format!("UPDATE {} SET version = {VERSION} WHERE one = 1 AND version = {WITHOUT_TAGS}", tables.meta);
    db.execute(&done, &[]).await?;
    Ok(())
}

async fn version(db: &Db, tables: &Tables) -> Result<Option<i64>, SqlError> {
    let rows = db.fetch(&format!("SELECT version FROM {} WHERE one = 1", tables.meta), &[]).await?;
    Ok(rows.first().and_then(|row| row.first()).and_then(Value::int))
}

fn statements(dialect: &dyn Dialect, tables: &Tables) -> [String; 6] {
    let Tables { meta, changes, runs, marks, set_aside, owed } = tables;
    // Exact comparison: two texts that differ in case or accents are two keys.
    let (key, end) = (dialect.key_type(), dialect.exact_table_options());
    let added = ADDED.map(|(column, kind)| format!(", {column} {kind}")).concat();
    [
        format!(
            "CREATE TABLE IF NOT EXISTS {runs} (first_seq {key} NOT NULL PRIMARY KEY, tag VARCHAR(16) NOT NULL, since_us \
             BIGINT NOT NULL){end}"
        ),
        format!(
            "CREATE TABLE IF NOT EXISTS {changes} (seq {key} NOT NULL PRIMARY KEY, bug BIGINT NOT NULL, when_us BIGINT \
             NOT NULL, recorded_us BIGINT NOT NULL){end}"
        ),
        format!("CREATE TABLE IF NOT EXISTS {marks} (row_key VARCHAR(255) NOT NULL PRIMARY KEY){end}"),
        format!(
            "CREATE TABLE IF NOT EXISTS {owed} (row_key VARCHAR(255) NOT NULL PRIMARY KEY, bug BIGINT NOT NULL, when_us \
             BIGINT NOT NULL){end}"
        ),
        format!(
            "CREATE TABLE IF NOT EXISTS {set_aside} (n {key} NOT NULL PRIMARY KEY, row_key VARCHAR(255) NOT NULL, bug \
             VARCHAR(255), reason VARCHAR(500) NOT NULL, at_us BIGINT NOT NULL){end}"
        ),
        format!(
            "CREATE TABLE IF NOT EXISTS {meta} (one {key} NOT NULL PRIMARY KEY, version BIGINT NOT NULL, epoch \
             VARCHAR(64) NOT NULL, last_seq BIGINT NOT NULL, published_seq BIGINT NOT NULL, set_aside_count BIGINT NOT \
             NULL, term BIGINT NOT NULL, beat BIGINT NOT NULL, holder VARCHAR(255){added}){end}"
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes() {
        for good in ["bugfeed_", "b", "Feed2_"] {
            assert_eq!(good.parse::<Prefix>().map(|p| p.to_string()), Ok(good.to_owned()));
        }
        for bad in ["", "_x", "1x", "a.b", "a b", "a;b", &"x".repeat(41)] {
            assert!(bad.parse::<Prefix>().is_err(), "{bad}");
        }
    }
}
