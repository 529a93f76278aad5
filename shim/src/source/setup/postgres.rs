//! What the administrator of a PostgreSQL server does next.

use bugfeed_sql::DbUrl;

use super::{PASSWORD, USER};
use crate::source::TableSpec;

pub(super) fn next_steps(url: &DbUrl, spec: &TableSpec) -> String {
    let TableSpec { table, bug, when, .. } = spec;
    let quote = |name: &str| url.dialect().quote(name);
    let full = quote(table.as_str());
    let usage = table.parts().0.map(|schema| format!("  GRANT USAGE ON SCHEMA {} TO {USER};\n", quote(schema)));
    format!(
        "Let the shim read and delete, and nothing else (choose another password):\n  CREATE ROLE {USER} LOGIN \
         PASSWORD '{PASSWORD}';\n{usage}  GRANT SELECT, DELETE ON {full} TO {USER};\nLet the tracker write a row \
         with each change, in the same transaction:\n  INSERT INTO {full} ({bug}, {when}) VALUES (1234, \
         LOCALTIMESTAMP(0));\nThen start the shim:\n  bugfeed-shim --source '{source}'\nWith --listen bugfeed, a \
         NOTIFY bugfeed; in the same transaction wakes the shim at once (it polls anyway).",
        usage = usage.unwrap_or_default(),
        source = url.with_login(USER, PASSWORD),
    )
}
