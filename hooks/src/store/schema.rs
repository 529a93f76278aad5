//! The tables of the store, and their numbered migrations.
//!
//! Goes in: a dialect. Comes out: the statements of each migration. Each statement may be run again, because a process
//! may die between two of them. Connects to nothing.
//!
//! # How the table of events is made
//!
//! A row has at most 300 bytes without its indexes. Enums are numbers ([`super::codes`]). An event's request is not
//! stored: its identifier is the event's minus `item` minus 1. What only few events have (a kept item, a reason, links,
//! lines of the history) is in tables of its own. Indexes contain only the rows that are looked for, as far as the
//! database can do that:
//!
//! | column | meaning | index |
//! |---|---|---|
//! | `dedup`, `generation` | number of the dedup key; NULL where the event repeats nothing | unique |
//! | `lane` | number of the lane: (feed, bug), or the event alone | with `when_us`: same time, the list of a bug |
//! | `open_lane` | the lane, while it is queued or errored, and not blocked | with `state`, and `when_us` or `due_us` |
//! | `busy` | the lane, while the event is processing | unique: one at a time |
//! | `due_us`, `paced` | when its lane must be looked at; NULL if never for its sake | `paced`, `due_us`, `id`; of paced ones also `source`, `due_us`, `id` |
//! | `blocked_by` | the dead letter behind which it waits | itself |
//! | `repeat_of` | the errored event that it repeats | itself |
//! | `shelf` | the state; NULL while it is completed, which most are | with `id`: the list of a state |
//! | `source` | | with `id`: the list of a source |
//!
//! Numbers of keys and lanes are hashes. Two keys with one number only skip generations. Two lanes with one number would
//! only be processed one after the other; whoever reads a lane compares feed and bug as well.

use bugfeed_sql::Dialect;

use super::endpoints;

/// One migration: the statements that lead from the version before to this one.
pub(super) type Migration = fn(&dyn Dialect) -> Vec<String>;

/// All migrations, in order. The version of a store is how many of them it has. One that was released is never changed.
pub(super) const MIGRATIONS: &[Migration] = &[first, endpoints::schema::tables];

/// The meta row: the version of the tables.
pub(super) fn meta(dialect: &dyn Dialect) -> String {
    let (key, end) = (dialect.key_type(), dialect.exact_table_options());
    format!("CREATE TABLE IF NOT EXISTS hooks_meta (one {key} NOT NULL PRIMARY KEY, version BIGINT NOT NULL){end}")
}

/// The columns of an event, in the order in which they are written and read. [`super::row`] knows the meaning of each.
pub(super) const EVENT: &[&str] = &[
    "id",
    "item",
    "source",
    "feed",
    "bug",
    "when_us",
    "origin",
    "received_us",
    "kind",
    "delivery",
    "delivery_item",
    "hash",
    "is_private",
    "retryable",
    "expires_us",
    "repeat_of",
    "state",
    "version",
    "class",
    "drop_reason",
    "attempts",
    "step",
    "leases_lost",
    "cause_of_try",
    "due_us",
    "blocked_by",
    "released",
    "unseen_us",
    "drained_us",
    "began_us",
    "ended_us",
    "row_id",
    "epoch",
    "seq",
    "dedup",
    "generation",
    "lane",
    "open_lane",
    "busy",
    "paced",
    "shelf",
];

fn first(dialect: &dyn Dialect) -> Vec<String> {
    let mut statements = events(dialect);
    statements.extend(requests(dialect));
    statements.extend(access(dialect));
    statements
}

/// The paced rows of each source, in the order in which they are due: so that a source with a long backlog costs the others
/// nothing when they are looked for. Live rows are never in it, where the database can leave them out.
fn paced_index(dialect: &dyn Dialect) -> String {
    let mut statement = index(dialect, "events_pace", "paced, source, due_us, id", Some("due_us"));
    if !dialect.where_set("due_us").is_empty() {
        statement.push_str(" AND paced = 1");
    }
    statement
}

pub(super) fn table(dialect: &dyn Dialect, name: &str, columns: &str) -> String {
    format!("CREATE TABLE IF NOT EXISTS hooks_{name} ({columns}){}", dialect.exact_table_options())
}

/// An index; with `only`, where the database can do that, of the rows in which this column is set.
pub(super) fn index(dialect: &dyn Dialect, name: &str, on: &str, only: Option<&str>) -> String {
    let (unique, name) = name.strip_prefix("unique ").map_or(("", name), |name| ("UNIQUE ", name));
    let table = name.split('_').next().unwrap_or(name);
    let filter = only.map(|column| dialect.where_set(column)).unwrap_or_default();
    format!("CREATE {unique}INDEX hooks_{name} ON hooks_{table} ({on}){filter}")
}

/// Events, and what some of them have.
fn events(dialect: &dyn Dialect) -> Vec<String> {
    let long = dialect.long_text_type();
    let event = "id VARCHAR(36) NOT NULL PRIMARY KEY, item INTEGER NOT NULL, source VARCHAR(64) NOT NULL, \
                 feed VARCHAR(64) NOT NULL, bug BIGINT, when_us BIGINT NOT NULL, origin SMALLINT NOT NULL, received_us \
                 BIGINT NOT NULL, kind VARCHAR(200) NOT NULL, delivery VARCHAR(200), delivery_item INTEGER, hash \
                 VARCHAR(43) NOT NULL, is_private SMALLINT NOT NULL, retryable SMALLINT NOT NULL, expires_us BIGINT \
                 NOT NULL, repeat_of VARCHAR(36), state SMALLINT NOT NULL, version BIGINT NOT NULL, class SMALLINT, \
                 drop_reason SMALLINT, attempts INTEGER NOT NULL, step INTEGER NOT NULL, leases_lost SMALLINT NOT \
                 NULL, cause_of_try SMALLINT NOT NULL, due_us BIGINT, blocked_by VARCHAR(36), released SMALLINT NOT \
                 NULL, unseen_us BIGINT, drained_us BIGINT, began_us BIGINT, ended_us BIGINT, row_id BIGINT, epoch \
                 VARCHAR(64), seq BIGINT, dedup BIGINT, generation BIGINT NOT NULL, lane BIGINT NOT NULL, open_lane \
                 BIGINT, busy BIGINT, paced SMALLINT NOT NULL, shelf SMALLINT";
    vec![
        table(dialect, "events", event),
        index(dialect, "unique events_dedup", "dedup, generation", Some("dedup")),
        index(dialect, "events_lane", "lane, when_us", None),
        index(dialect, "events_open", "open_lane, state, when_us", Some("open_lane")),
        index(dialect, "unique events_busy", "busy", Some("busy")),
        index(dialect, "events_tries", "open_lane, state, due_us", Some("open_lane")),
        index(dialect, "events_due", "paced, due_us, id", Some("due_us")),
        paced_index(dialect),
        index(dialect, "events_blocked", "blocked_by", Some("blocked_by")),
        index(dialect, "events_repeats", "repeat_of", Some("repeat_of")),
        index(dialect, "events_shelf", "shelf, id", Some("shelf")),
        index(dialect, "events_source", "source, id", None),
        table(
            dialect,
            "lines",
            "event VARCHAR(36) NOT NULL, version BIGINT NOT NULL, at_us BIGINT NOT NULL, before_state VARCHAR(16), \
             cause VARCHAR(32) NOT NULL, after_state VARCHAR(16) NOT NULL, PRIMARY KEY (event, version)",
        ),
        table(
            dialect,
            "links",
            "event VARCHAR(36) NOT NULL, kind VARCHAR(32) NOT NULL, other VARCHAR(36) NOT NULL, PRIMARY KEY (event, \
             kind, other)",
        ),
        index(dialect, "links_other", "other", None),
        table(
            dialect,
            "reasons",
            "event VARCHAR(36) NOT NULL PRIMARY KEY, at_us BIGINT NOT NULL, error VARCHAR(1000) NOT NULL, fix \
             VARCHAR(1000) NOT NULL",
        ),
        table(
            dialect,
            "kept",
            &format!(
                "event VARCHAR(36) NOT NULL PRIMARY KEY, source VARCHAR(64) NOT NULL, until_us BIGINT NOT NULL, bytes \
                 BIGINT NOT NULL, item {long} NOT NULL, headers {long} NOT NULL"
            ),
        ),
        index(dialect, "kept_source", "source, bytes", None),
        index(dialect, "kept_until", "until_us", None),
    ]
}

/// Requests, their bodies, and the quarantine.
fn requests(dialect: &dyn Dialect) -> Vec<String> {
    let long = dialect.long_text_type();
    vec![
        table(
            dialect,
            "requests",
            &format!(
                "id VARCHAR(36) NOT NULL PRIMARY KEY, source VARCHAR(64) NOT NULL, received_us BIGINT NOT NULL, \
                 address VARCHAR(45) NOT NULL, key_id VARCHAR(16), path VARCHAR(300) NOT NULL, headers {long} NOT \
                 NULL, size BIGINT NOT NULL, body_hash VARCHAR(64), status INTEGER NOT NULL, items INTEGER NOT NULL, \
                 connected INTEGER NOT NULL, ignored INTEGER NOT NULL, state SMALLINT NOT NULL, replays VARCHAR(36), \
                 program VARCHAR(20) NOT NULL, shelf SMALLINT"
            ),
        ),
        index(dialect, "requests_shelf", "shelf, id", Some("shelf")),
        index(dialect, "requests_source", "source, id", None),
        table(
            dialect,
            "bodies",
            &format!(
                "request VARCHAR(36) NOT NULL, part INTEGER NOT NULL, bytes BIGINT NOT NULL, body {long} NOT NULL, \
                 PRIMARY KEY (request, part)"
            ),
        ),
        table(
            dialect,
            "quarantine",
            &format!(
                "request VARCHAR(36) NOT NULL PRIMARY KEY, share VARCHAR(16) NOT NULL, source VARCHAR(64) NOT NULL, \
                 address VARCHAR(45) NOT NULL, received_us BIGINT NOT NULL, bytes BIGINT NOT NULL, error VARCHAR(1000) \
                 NOT NULL, fix VARCHAR(1000) NOT NULL, proof {long} NOT NULL"
            ),
        ),
        index(dialect, "quarantine_share", "share, source, address, bytes", None),
    ]
}

/// Keys, tokens, the audit log, and what the processes note for each other.
fn access(dialect: &dyn Dialect) -> Vec<String> {
    let long = dialect.long_text_type();
    vec![
        table(
            dialect,
            "keys",
            &format!(
                "id VARCHAR(16) NOT NULL PRIMARY KEY, hash VARCHAR(64) NOT NULL, name VARCHAR(200) NOT NULL, owner \
                 VARCHAR(200) NOT NULL, sources {long}, feeds {long}, created_us BIGINT NOT NULL, expires_us BIGINT, \
                 used_us BIGINT, revoked_us BIGINT, old_hash VARCHAR(64), old_until_us BIGINT"
            ),
        ),
        table(
            dialect,
            "tokens",
            "id VARCHAR(16) NOT NULL PRIMARY KEY, hash VARCHAR(64) NOT NULL, name VARCHAR(200) NOT NULL, scopes \
             VARCHAR(60) NOT NULL, created_us BIGINT NOT NULL, used_us BIGINT",
        ),
        table(
            dialect,
            "audit",
            &format!(
                "id VARCHAR(36) NOT NULL PRIMARY KEY, at_us BIGINT NOT NULL, who VARCHAR(200) NOT NULL, deed \
                 VARCHAR(64) NOT NULL, subject VARCHAR(200) NOT NULL, detail {long} NOT NULL"
            ),
        ),
        table(dialect, "feeds", "feed VARCHAR(64) NOT NULL PRIMARY KEY, change_table VARCHAR(130) NOT NULL"),
        table(
            dialect,
            "switches",
            "what VARCHAR(16) NOT NULL, name VARCHAR(64) NOT NULL, since_us BIGINT NOT NULL, PRIMARY KEY (what, name)",
        ),
        table(dialect, "notes", "name VARCHAR(100) NOT NULL PRIMARY KEY, value VARCHAR(1000) NOT NULL"),
        table(
            dialect,
            "leases",
            "name VARCHAR(100) NOT NULL PRIMARY KEY, term BIGINT NOT NULL, beat BIGINT NOT NULL, holder VARCHAR(255)",
        ),
    ]
}

#[cfg(test)]
mod tests {
    use bugfeed_protocol::feed_name::LONGEST;
    use bugfeed_sql::DbUrl;

    use super::*;

    /// The one rule for names of feeds is the protocol's: options, configuration and API go by it, and columns hold what it
    /// allows. A migration that was released is never changed, so a longer name needs another migration.
    #[test]
    fn the_columns_hold_the_longest_name_of_a_feed() {
        let url: DbUrl = "sqlite://x.db".parse().unwrap();
        let statements: Vec<String> = MIGRATIONS.iter().flat_map(|migration| migration(url.dialect())).collect();
        let switches = statements.iter().find(|statement| statement.contains("hooks_switches")).unwrap();
        assert!(switches.contains(&format!("name VARCHAR({LONGEST}) ")), "{switches}");
        let columns: Vec<&str> =
            statements.iter().flat_map(|statement| statement.split("feed VARCHAR(").skip(1)).collect();
        assert_eq!(columns.len(), 3, "events, feeds, attempts");
        for column in columns {
            assert!(column.starts_with(&format!("{LONGEST})")), "{column}");
        }
    }
}
