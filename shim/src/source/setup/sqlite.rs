//! What the owner of an SQLite file does next. SQLite has no users, so there are no privileges to grant.

use bugfeed_sql::DbUrl;

use crate::source::TableSpec;

pub(super) fn next_steps(_: &DbUrl, spec: &TableSpec) -> String {
    let TableSpec { table, bug, when, .. } = spec;
    format!(
        "Let the tracker write a row with each change, in the same transaction:\n  INSERT INTO {table} ({bug}, \
         {when}) VALUES (1234, datetime('now'));"
    )
}
