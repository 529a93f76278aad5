//! What the catalogue of SQLite is asked. A file has no users, and the clock of its machine is this machine's.

use super::Catalogue;

pub(super) const CATALOGUE: Catalogue = Catalogue {
    database: "sqlite",
    privileges: None,
    others: None,
    triggers: "SELECT name, tbl_name FROM sqlite_master WHERE type = 'trigger' AND sql LIKE '%' || ? || '%'",
    no_trigger: "no trigger of this file names the table; where the tracker itself writes the rows, there is none",
    clock: None,
    revoke: |_, _| String::new(),
};
