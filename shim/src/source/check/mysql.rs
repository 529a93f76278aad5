//! What the catalogue of MySQL and MariaDB is asked.

use super::Catalogue;

/// The views of privileges name a user as 'user'@'host', and CURRENT_USER() without the quotes. A pattern in the name of a schema
/// is written with `\_`.
pub(super) const CATALOGUE: Catalogue = Catalogue {
    database: "mysql",
    privileges: Some(
        "SELECT privilege_type FROM information_schema.table_privileges WHERE table_schema = DATABASE() AND table_name = ? \
         AND grantee = CONCAT('''', REPLACE(CURRENT_USER(), '@', '''@'''), '''') \
         UNION SELECT privilege_type FROM information_schema.schema_privileges WHERE DATABASE() LIKE table_schema \
         AND grantee = CONCAT('''', REPLACE(CURRENT_USER(), '@', '''@'''), '''') \
         UNION SELECT privilege_type FROM information_schema.user_privileges \
         WHERE grantee = CONCAT('''', REPLACE(CURRENT_USER(), '@', '''@'''), '''')",
    ),
    others: Some(
        "SELECT COUNT(*), MIN(table_name) FROM information_schema.tables WHERE table_schema = DATABASE() \
         AND table_name <> ? AND table_name NOT LIKE 'bugfeed%'",
    ),
    triggers: "SELECT trigger_name, event_object_table FROM information_schema.triggers \
               WHERE trigger_schema = DATABASE() AND action_statement LIKE CONCAT('%', ?, '%')",
    no_trigger: "a user sees triggers only with the privilege TRIGGER, which the shim does not need: ask as an administrator \
                 (SHOW TRIGGERS). Where the tracker itself writes the rows (an extension), there is none",
    clock: Some("SELECT UNIX_TIMESTAMP()"),
    revoke: |more, table| format!("as an administrator: REVOKE {more} ON {table} FROM the user of --source"),
};
