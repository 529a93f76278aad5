//! What the administrator of a MySQL or MariaDB server does next.

use bugfeed_sql::DbUrl;

use super::{PASSWORD, USER};
use crate::source::TableSpec;

pub(super) fn next_steps(url: &DbUrl, spec: &TableSpec) -> String {
    let TableSpec { table, bug, when, .. } = spec;
    // A session that has just logged in has no current database, so the name must include it.
    let full = match table.parts() {
        (Some(_), _) => url.dialect().quote(table.as_str()),
        (None, name) => url.dialect().quote(&format!("{}.{name}", url.database().unwrap_or_default())),
    };
    format!(
        "Let the shim read and delete, and nothing else (choose another password):\n  CREATE USER IF NOT EXISTS \
         '{USER}'@'%' IDENTIFIED BY '{PASSWORD}';\n  GRANT SELECT, DELETE ON {full} TO '{USER}'@'%';\nLet the tracker \
         write a row with each change, in the same transaction. For a Bugzilla without an extension:\n  CREATE TRIGGER \
         {table_name}_bugs AFTER UPDATE ON bugs FOR EACH ROW\n    INSERT INTO {table} ({bug}, {when}) VALUES \
         (NEW.bug_id, NEW.delta_ts);\nThen start the shim:\n  bugfeed-shim --source '{source}'",
        table_name = table.parts().1,
        source = url.with_login(USER, PASSWORD),
    )
}
