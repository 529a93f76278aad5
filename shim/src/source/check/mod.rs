//! Looks at a change table and its database as a shim would use them, and changes nothing.
//!
//! Goes in: the options of a shim. Comes out: findings, with what to do about each. What each database's catalogue is asked is in
//! a file for each; what a catalogue does not tell is said to be unknown.

mod mysql;
mod postgres;
mod sqlite;

use bugfeed_protocol::Numbered;
use bugfeed_runtime::findings::Findings;
use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::clock::{Dates, zone_hint};
use super::{Source, SourceError, TableSpec, advice, clock_hint, next_steps};
use bugfeed_sql::{Db, DbUrl, Fault, Use, Value};

const AREA: &str = "change table";

/// The clocks of two machines that are kept by NTP differ by less.
const SKEW_S: i64 = 5;

/// What one database's catalogue is asked. Each question has the table's name as its parameters, as often as `names` says.
struct Catalogue {
    /// The name of the dialect.
    database: &'static str,
    /// Rows of (privilege) that this user has on the table.
    privileges: Option<&'static str>,
    /// A row of (count, name of one): tables besides this one that this user may read or write.
    others: Option<&'static str>,
    /// Rows of (name, table): triggers that write into the table.
    triggers: &'static str,
    /// What to say if there are none that this user can see.
    no_trigger: &'static str,
    /// A row of (seconds since 1970): the server's clock. `None` if it is this machine's.
    clock: Option<&'static str>,
    /// How an administrator takes this privilege away.
    revoke: fn(&str, &str) -> String,
}

const CATALOGUES: [&Catalogue; 3] = [&mysql::CATALOGUE, &postgres::CATALOGUE, &sqlite::CATALOGUE];

/// Looks at the table. `recent` are the changes that were recorded last, for a look at their dates.
pub async fn check(url: &DbUrl, spec: &TableSpec, zone: &TimeZone, recent: &[Numbered]) -> Findings {
    let mut found = Findings::default();
    let source = match Source::open(url, spec, zone.clone()).await {
        Ok(source) => source,
        Err(error) => {
            let SourceError::Sql { source, .. } = &error;
            let fix = match source.fault {
                Fault::Missing => {
                    "make it: bugfeed-shim init --source URL; then it prints what the tracker and the user need"
                        .to_owned()
                }
                Fault::Denied => next_steps(url, spec),
                _ => String::new(),
            };
            found.bad(AREA, format!("{error} ({url})"), fix);
            return found;
        }
    };
    found.good(AREA, format!("{} in {url}: this user reads and deletes rows", spec.table));
    if source.in_place() {
        found.good(AREA, "one row for each bug, which the tracker changes in place: read with that in mind");
    }
    if source.has_strays() {
        let fix = "delete them, or give each an id: they stay in the table and are never announced";
        found.warning(AREA, "some rows have no id that can be used", fix);
    }
    let db = Db::new(url, Use::Setup { create: false }).advising(advice::advice);
    if let Some(catalogue) = CATALOGUES.iter().find(|known| known.database == url.dialect().name()) {
        rights(&mut found, &db, spec, catalogue).await;
        triggers(&mut found, &db, spec, catalogue).await;
        clock(&mut found, &db, catalogue).await;
    }
    db.close().await;
    dates(&mut found, &clock_hint(url, spec).await, &source, zone, recent);
    source.close().await;
    found
}

/// What the user may do besides reading and deleting.
async fn rights(found: &mut Findings, db: &Db, spec: &TableSpec, catalogue: &Catalogue) {
    let table = spec.table.as_str();
    if let Some(sql) = catalogue.privileges {
        match db.fetch(sql, &names(sql, spec)).await {
            Ok(rows) => {
                let more: Vec<String> = rows
                    .into_iter()
                    .filter_map(|row| row.into_iter().next()?.into_text())
                    .filter(|right| !["SELECT", "DELETE", "USAGE"].contains(&right.as_str()))
                    .collect();
                if more.is_empty() {
                    found.good(AREA, "this user may do nothing else with it");
                } else {
                    let more = more.join(", ");
                    let fix = (catalogue.revoke)(&more, table);
                    found.warning(AREA, format!("this user may do more with it than is needed: {more}"), fix);
                }
            }
            Err(error) => found.skipped(AREA, format!("what else this user may do is not known: {error}"), ""),
        }
    }
    if let Some(sql) = catalogue.others
        && let Ok(rows) = db.fetch(sql, &names(sql, spec)).await
        && let Some([count, name]) = rows.into_iter().next().and_then(|row| <[Value; 2]>::try_from(row).ok())
    {
        match (count.int().unwrap_or(0), name.into_text()) {
            (0, _) | (_, None) => {}
            (1, Some(name)) => found.warning(AREA, format!("this user also sees the table {name}"), OWN_USER),
            (count, Some(name)) => {
                found.warning(AREA, format!("this user also sees {count} other tables, such as {name}"), OWN_USER);
            }
        }
    }
}

const OWN_USER: &str = "give the shim a user of its own, with SELECT and DELETE on the change table and nothing else \
                        (`bugfeed-shim init` prints how)";

/// Whether something writes into the table.
async fn triggers(found: &mut Findings, db: &Db, spec: &TableSpec, catalogue: &Catalogue) {
    match db.fetch(catalogue.triggers, &names(catalogue.triggers, spec)).await {
        Ok(rows) if rows.is_empty() => {
            found.skipped(AREA, "no trigger that writes into it is seen", catalogue.no_trigger)
        }
        Ok(rows) => {
            for row in rows {
                let mut texts = row.into_iter().filter_map(Value::into_text);
                let (name, table) = (texts.next().unwrap_or_default(), texts.next().unwrap_or_default());
                found.good(AREA, format!("the trigger {name} of the table {table} writes into it"));
            }
        }
        Err(error) => found.skipped(AREA, format!("triggers cannot be seen: {error}"), catalogue.no_trigger),
    }
}

/// Whether the server's clock is ours.
async fn clock(found: &mut Findings, db: &Db, catalogue: &Catalogue) {
    let Some(sql) = catalogue.clock else { return };
    let before = Timestamp::now().as_second();
    let Ok(rows) = db.fetch(sql, &[]).await else { return };
    let after = Timestamp::now().as_second();
    let Some(theirs) = rows.first().and_then(|row| row.first()).and_then(Value::int) else { return };
    let skew_s = if theirs < before { theirs - before } else { (theirs - after).max(0) };
    if skew_s.abs() <= SKEW_S {
        found.good(AREA, format!("the server's clock is within {SKEW_S} s of this machine's"));
    } else {
        let side = if skew_s > 0 { "ahead of" } else { "behind" };
        let text = format!("the server's clock is {} s {side} this machine's", skew_s.abs());
        found.warning(
            AREA,
            text,
            "let NTP set both clocks: times in updates are the tracker's, and clients compare them",
        );
    }
}

/// Whether the zone that is given is the tracker's: by the server's own clock, and by the dates of what was recorded last.
fn dates(found: &mut Findings, hint: &str, source: &Source, zone: &TimeZone, recent: &[Numbered]) {
    let given = zone.iana_name().unwrap_or("UTC");
    if source.instants {
        found.good(AREA, "its dates are instants, so no --timezone is needed");
        return;
    }
    let mut known = Dates::default();
    let off = recent.iter().find_map(|change| known.note(change.recorded, [change.change.when], true));
    if let Some(off_s) = off {
        let now = Timestamp::now();
        let ours_s = i64::from(zone.to_offset(now).seconds());
        let side = if off_s > 0 { "in the future" } else { "in the past" };
        let text = format!(
            "the dates of recorded changes are {:.2} h {side}: --timezone {given} is not the tracker's",
            f64::from(i32::try_from(off_s.abs()).unwrap_or(i32::MAX)) / 3600.0
        );
        found.bad(AREA, text, format!("give the shim --timezone {}", zone_hint(ours_s + off_s)));
    } else if hint.contains("--timezone ") && !hint.contains("needs no") && !hint.contains(given) {
        found.warning(AREA, format!("--timezone is {given}"), hint);
    } else {
        let seen = if recent.is_empty() { "; nothing was recorded yet that could prove it" } else { "" };
        found.good(AREA, format!("dates are read as {given}{seen}"));
    }
}

/// The table's name, once for each parameter.
fn names(sql: &str, spec: &TableSpec) -> Vec<Value> {
    let name = Value::Text(spec.table.parts().1.to_owned());
    vec![name; sql.matches('?').count()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_database_has_its_catalogue() {
        for name in bugfeed_sql::compiled_in() {
            assert!(CATALOGUES.iter().any(|known| known.database == name), "{name}");
        }
    }
}
