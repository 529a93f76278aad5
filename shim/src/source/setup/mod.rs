//! Creating a change table, and writing changes into one as a tracker would.
//!
//! Goes in: a database URL and the table's names. Comes out: a table, or rows in it, and what an administrator does next
//! (a file for each database). Never changes a table that exists.

mod mysql;
mod postgres;
mod sqlite;

use bugfeed_protocol::{BugId, When};
use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::advice::advice;
use super::table::{TableSpec, TableSql};
use bugfeed_sql::{AskClock, Db, DbUrl, Dialect, Fault, SqlError, Use, Value};

/// What [`init`] found or did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setup {
    /// The table was created.
    Created,
    /// The table was there, with the columns that are needed.
    Existed,
}

/// Why the table could not be created, or not be written.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The database said no.
    #[error("table {table}: {source}")]
    Sql {
        /// Which table.
        table: String,
        /// What the database said.
        source: SqlError,
    },
    /// A table of this name exists, but not with these columns.
    #[error(
        "table {table} exists, but not with the columns {columns}; name its columns with --id-column, --bug-column and --when-column, or choose another table ({source})"
    )]
    OtherColumns {
        /// Which table.
        table: String,
        /// What was looked for.
        columns: String,
        /// What the database said.
        source: SqlError,
    },
}

/// Creates the change table, unless it exists; checks the columns of one that does.
///
/// # Errors
/// When the database says no, or a table of this name has other columns.
pub async fn init(url: &DbUrl, spec: &TableSpec) -> Result<Setup, SetupError> {
    let db = open(url, true);
    let outcome = create(&db, spec).await;
    db.close().await;
    outcome
}

fn open(url: &DbUrl, create: bool) -> Db {
    Db::new(url, Use::Setup { create }).advising(advice)
}

async fn create(db: &Db, spec: &TableSpec) -> Result<Setup, SetupError> {
    let failed = |source| SetupError::Sql { table: spec.table.to_string(), source };
    let select = format!("{}0", TableSql::new(db.dialect(), spec).select);
    match db.fetch(&select, &[]).await {
        Ok(_) => return Ok(Setup::Existed),
        Err(source) if source.fault == Fault::Missing => {}
        Err(source) => return Err(failed(source)),
    }
    let words = db.dialect();
    let [table, id, bug, when] = [&spec.table, &spec.id, &spec.bug, &spec.when].map(|n| words.quote(n.as_str()));
    let (counting, number, date) = (words.counting_key(), words.key_type(), words.date_type());
    let statement = format!(
        "CREATE TABLE {table} ({id} {counting}, {bug} {number} NOT NULL, {when} {date} NOT NULL){}",
        words.table_options()
    );
    match db.execute(&statement, &[]).await {
        Ok(_) => Ok(Setup::Created),
        Err(e) => match db.fetch(&select, &[]).await {
            // Somebody else created it at the same time.
            Ok(_) => Ok(Setup::Existed),
            Err(source) if e.to_string().contains("already exists") => Err(SetupError::OtherColumns {
                table: spec.table.to_string(),
                columns: format!("{}, {}, {}", spec.id, spec.bug, spec.when),
                source,
            }),
            Err(_) => Err(failed(e)),
        },
    }
}

/// Whether the date column holds instants: points in time, which the database shows in the zone of each session. If the
/// catalogue may not be read, the answer is no, as in the reference schema.
pub(super) async fn holds_instants(db: &Db, spec: &TableSpec) -> bool {
    let Some(asked) = db.dialect().column_kind() else { return false };
    let (schema, table) = spec.table.parts();
    let args =
        [schema.map(str::to_owned).into(), Value::Text(table.to_owned()), Value::Text(spec.when.as_str().to_owned())];
    let kind = first_text(db.fetch(asked.sql, &args).await);
    kind.is_some_and(|kind| kind.eq_ignore_ascii_case(asked.instants))
}

fn first_text(rows: Result<Vec<Vec<Value>>, SqlError>) -> Option<String> {
    rows.ok()?.into_iter().next()?.into_iter().next()?.into_text()
}

/// What to give as `--timezone`, judging by the server's own clock: a tracker that writes `NOW()` writes the time of the
/// server's zone. Empty if nothing is known.
pub async fn clock_hint(url: &DbUrl, spec: &TableSpec) -> String {
    let db = open(url, false);
    let hint = hint(&db, spec).await;
    db.close().await;
    hint
}

async fn hint(db: &Db, spec: &TableSpec) -> String {
    if holds_instants(db, spec).await {
        return format!("The column {} holds instants, so the shim needs no --timezone.", spec.when);
    }
    let Some(clock) = db.dialect().server_clock() else { return String::new() };
    let asked = match clock.ask {
        AskClock::SecondsAhead(sql) => seconds_ahead(db, sql).await,
        AskClock::ZoneName(statements) => named_zone(db, statements).await,
    };
    let (what, Some((zone, ahead_s))) = (clock.now, asked) else { return String::new() };
    if ahead_s == 0 {
        return format!(
            "{what} is UTC on this server: the shim needs no --timezone, unless the tracker writes another local time."
        );
    }
    let (sign, hours, minutes) = (if ahead_s < 0 { '-' } else { '+' }, ahead_s.abs() / 3600, ahead_s.abs() / 60 % 60);
    format!(
        "{what} is UTC{sign}{hours:02}:{minutes:02} on this server just now: for a tracker that writes it, give the shim \
         --timezone {zone}."
    )
}

async fn seconds_ahead(db: &Db, sql: &str) -> Option<(String, i64)> {
    let ahead_s: i64 = first_text(db.fetch(sql, &[]).await)?.parse().ok()?;
    // The two clocks are read one after the other, so the difference is rounded to whole minutes.
    let ahead_s = (ahead_s + 30).div_euclid(60) * 60;
    Some((super::clock::zone_hint(ahead_s), ahead_s))
}

async fn named_zone(db: &Db, statements: &[&str]) -> Option<(String, i64)> {
    let mut name = None;
    for sql in statements {
        name = name.or(first_text(db.fetch(sql, &[]).await));
    }
    let name = name?;
    let ahead_s = TimeZone::get(&name).ok()?.to_offset(Timestamp::now()).seconds();
    Some((name, i64::from(ahead_s)))
}

type NextSteps = fn(&DbUrl, &TableSpec) -> String;

/// What each database's administrator does next, by the name of its dialect.
const NEXT_STEPS: [(&str, NextSteps); 3] =
    [("mysql", mysql::next_steps), ("postgres", postgres::next_steps), ("sqlite", sqlite::next_steps)];

/// What a database administrator does next, for the given table: a user, privileges, and an example of a trigger. The
/// statements can be run as they are printed.
pub fn next_steps(url: &DbUrl, spec: &TableSpec) -> String {
    let steps = NEXT_STEPS.iter().find(|(name, _)| *name == url.dialect().name());
    steps.map(|(_, steps)| steps(url, spec)).unwrap_or_default()
}

/// The user that `init` proposes.
const USER: &str = "bugfeed_shim";
/// The password that `init` prints; everybody sees that it is an example.
const PASSWORD: &str = "choose-a-password";

/// Writes one row per bug into a change table, as a tracker would: all in one statement, the date in local time of
/// `zone`. Used by `bugfeed touch`, demonstrations and tests.
///
/// # Errors
/// When the database says no.
pub async fn touch(
    url: &DbUrl,
    spec: &TableSpec,
    bugs: &[BugId],
    when: When,
    zone: &TimeZone,
) -> Result<(), SetupError> {
    let rows: Vec<(BugId, When)> = bugs.iter().map(|bug| (*bug, when)).collect();
    touch_many(url, spec, &rows, zone).await
}

/// Like [`touch`], with a date for each bug.
///
/// # Errors
/// When the database says no.
pub async fn touch_many(
    url: &DbUrl,
    spec: &TableSpec,
    rows: &[(BugId, When)],
    zone: &TimeZone,
) -> Result<(), SetupError> {
    let db = open(url, false);
    let outcome = insert(&db, spec, rows, zone).await;
    db.close().await;
    outcome.map_err(|source| SetupError::Sql { table: spec.table.to_string(), source })
}

async fn insert(db: &Db, spec: &TableSpec, rows: &[(BugId, When)], zone: &TimeZone) -> Result<(), SqlError> {
    let [table, bug, when] = [&spec.table, &spec.bug, &spec.when].map(|n| db.dialect().quote(n.as_str()));
    for chunk in rows.chunks(1000) {
        // The text holds only numbers and dates that are written here. Nothing in it comes from outside, so it needs no
        // parameters.
        let values: Vec<String> =
            chunk.iter().map(|(bug, when)| format!("({bug}, '{}')", literal(db.dialect(), *when, zone))).collect();
        let sql = format!("INSERT INTO {table} ({bug}, {when}) VALUES {}", values.join(","));
        db.execute(&sql, &[] as &[Value]).await?;
    }
    Ok(())
}

fn literal(dialect: &dyn Dialect, when: When, zone: &TimeZone) -> String {
    let local = local_text(when, zone);
    if dialect.dates_say_their_offset() { format!("{local}{}", zone.to_offset(instant(when))) } else { local }
}

fn instant(when: When) -> Timestamp {
    Timestamp::from_microsecond(when.as_micros()).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// An instant as a tracker in that zone writes it into its table.
fn local_text(when: When, zone: &TimeZone) -> String {
    zone.to_datetime(instant(when)).to_string().replace('T', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_database_has_its_next_steps() {
        for name in bugfeed_sql::compiled_in() {
            assert!(NEXT_STEPS.iter().any(|(known, _)| *known == name), "{name}");
        }
    }

    #[test]
    fn local_time_of_both_halves_of_the_year() {
        let zone = TimeZone::get("America/Los_Angeles").unwrap();
        for (utc, want) in [
            ("2014-01-03T21:13:45", "2014-01-03 13:13:45"),
            ("2014-07-03T21:13:45.5", "2014-07-03 14:13:45.5"),
            ("2014-11-02T08:30:00", "2014-11-02 01:30:00"),
            ("2014-11-02T09:30:00", "2014-11-02 01:30:00"),
        ] {
            assert_eq!(local_text(When::parse_utc(utc).unwrap(), &zone), want);
        }
    }
}
