//! The SQL of MySQL and MariaDB.

use crate::dialect::{AskClock, CellKind, ColumnKind, CountedIds, Dialect, ServerClock, assignments};
use crate::{Name, Value};

#[derive(Debug)]
pub(super) struct MySqlDialect;

impl Dialect for MySqlDialect {
    fn name(&self) -> &'static str {
        "mysql"
    }

    fn quote(&self, name: &str) -> String {
        name.split('.').map(|part| format!("`{part}`")).collect::<Vec<_>>().join(".")
    }

    fn integer(&self, column: &str) -> String {
        format!("CAST({column} AS SIGNED)")
    }

    fn text(&self, column: &str, max: usize) -> String {
        format!("LEFT(CAST({column} AS CHAR), {max})")
    }

    fn key_text(&self, column: &str, max: usize) -> String {
        // X'3F' is a question mark; one in a text would be taken for a parameter.
        format!("LEFT(REPLACE(CAST({column} AS CHAR), CHAR(0), X'3F'), {max})")
    }

    fn instant_text(&self, column: &str) -> Option<String> {
        Some(format!(
            "IF(UNIX_TIMESTAMP({column}) = 0, '0000-00-00 00:00:00', CAST(TIMESTAMP'1970-01-01 00:00:00' + INTERVAL \
             UNIX_TIMESTAMP({column}) SECOND AS CHAR))"
        ))
    }

    fn row_key(&self, id: &str, key_text: &str) -> String {
        format!("CONCAT({id}, '/', COALESCE(CONCAT('t', {key_text}), 'n'))")
    }

    fn counting_key(&self) -> &'static str {
        "BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY"
    }

    fn date_type(&self) -> &'static str {
        "DATETIME"
    }

    fn fine_date_type(&self) -> &'static str {
        "DATETIME(6)"
    }

    fn long_text_type(&self) -> &'static str {
        "LONGTEXT"
    }

    fn where_set(&self, _: &str) -> String {
        String::new()
    }

    fn rows_as_table(&self, kinds: &[CellKind], rows: &[String]) -> String {
        // The first row names the columns; the others give them their types.
        let names: Vec<String> = (1..=kinds.len()).map(|n| format!("NULL AS column{n}")).collect();
        format!("(SELECT {} UNION ALL SELECT {})", names.join(","), rows.join(" UNION ALL SELECT "))
    }

    fn update_from(&self, table: &str, values: &str, on: &str, set: &[(&str, String)]) -> String {
        format!("UPDATE {table} e JOIN {values} v ON {on} SET {}", assignments("e.", set))
    }

    fn counted_ids(&self) -> CountedIds {
        CountedIds::Query("SELECT LAST_INSERT_ID(), @@auto_increment_increment")
    }

    fn shared_lock(&self) -> &'static str {
        " LOCK IN SHARE MODE"
    }

    fn table_options(&self) -> &'static str {
        " ENGINE=InnoDB"
    }

    fn exact_table_options(&self) -> &'static str {
        " ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
    }

    fn insert_or_ignore(&self, into: &str) -> String {
        format!("INSERT IGNORE INTO {into}")
    }

    fn unique_indexes(&self, table: &Name) -> (&'static str, Vec<Value>) {
        let (schema, table) = table.parts();
        (
            "SELECT CAST(index_name AS CHAR), CAST(COALESCE(column_name, '') AS CHAR) FROM information_schema.statistics \
             WHERE non_unique = 0 AND table_schema = COALESCE(?, DATABASE()) AND table_name = ?",
            vec![schema.map(str::to_owned).into(), Value::Text(table.to_owned())],
        )
    }

    fn column_kind(&self) -> Option<ColumnKind> {
        Some(ColumnKind {
            sql: "SELECT CAST(data_type AS CHAR) FROM information_schema.columns WHERE table_schema = COALESCE(?, \
                  DATABASE()) AND table_name = ? AND column_name = ?",
            instants: "timestamp",
        })
    }

    fn server_clock(&self) -> Option<ServerClock> {
        let sql = "SELECT CAST(TIMESTAMPDIFF(SECOND, UTC_TIMESTAMP(), NOW()) AS CHAR)";
        Some(ServerClock { now: "NOW()", ask: AskClock::SecondsAhead(sql) })
    }
}
