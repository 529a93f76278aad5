//! The SQL of SQLite.

use crate::dialect::{CellKind, ColumnKind, CountedIds, Dialect, ServerClock};
use crate::{Name, Value};

#[derive(Debug)]
pub(super) struct SqliteDialect;

impl Dialect for SqliteDialect {
    fn name(&self) -> &'static str {
        "sqlite"
    }

    fn quote(&self, name: &str) -> String {
        // In double quotes, SQLite would take an unknown name for a text, and every row would be read as bad.
        name.split('.').map(|part| format!("`{part}`")).collect::<Vec<_>>().join(".")
    }

    fn integer(&self, column: &str) -> String {
        column.to_owned()
    }

    fn text(&self, column: &str, max: usize) -> String {
        format!("substr(CAST({column} AS TEXT), 1, {max})")
    }

    fn key_text(&self, column: &str, max: usize) -> String {
        // SQLite columns hold values of any type; a value that is not plain text gets an unambiguous one.
        format!(
            "CASE WHEN {column} IS NULL THEN NULL \
             WHEN typeof({column}) = 'blob' OR instr({column}, char(0)) > 0 OR {column} GLOB '*[^ -~]*' \
             THEN 'x' || hex(substr(CAST({column} AS BLOB), 1, 90)) \
             ELSE substr(CAST({column} AS TEXT), 1, {max}) END"
        )
    }

    fn row_key(&self, id: &str, key_text: &str) -> String {
        format!("({id} || '/' || COALESCE('t' || ({key_text}), 'n'))")
    }

    fn has_id(&self, id: &str) -> (String, String) {
        (format!("typeof({id}) = 'integer'"), format!("typeof({id}) <> 'integer'"))
    }

    fn counting_key(&self) -> &'static str {
        // AUTOINCREMENT: an id is never used again.
        "INTEGER PRIMARY KEY AUTOINCREMENT"
    }

    fn key_type(&self) -> &'static str {
        "INTEGER"
    }

    fn date_type(&self) -> &'static str {
        "DATETIME"
    }

    fn fine_date_type(&self) -> &'static str {
        // A column of SQLite takes what is written into it, fractions as well.
        "DATETIME"
    }

    fn rows_as_table(&self, _: &[CellKind], rows: &[String]) -> String {
        format!("(VALUES ({}))", rows.join("),("))
    }

    fn keeps_statements(&self) -> bool {
        true
    }

    fn counted_ids(&self) -> CountedIds {
        // Nobody else writes meanwhile, so the ids of one INSERT follow one another. To ask for the last one is quicker than
        // to read all of them.
        CountedIds::Query("SELECT last_insert_rowid() - changes() + 1, 1")
    }

    fn insert_or_ignore(&self, into: &str) -> String {
        format!("INSERT OR IGNORE INTO {into}")
    }

    fn unique_indexes(&self, table: &Name) -> (&'static str, Vec<Value>) {
        let (schema, table) = table.parts();
        let (schema, table) = (Value::from(schema.map(str::to_owned)), Value::Text(table.to_owned()));
        (
            "SELECT 'i' || l.name, COALESCE(c.name, '') FROM pragma_index_list(?, ?) l JOIN pragma_index_info(l.name) c \
             WHERE l.\"unique\" = 1 UNION ALL SELECT 'p', name FROM pragma_table_info(?, ?) WHERE pk > 0",
            vec![table.clone(), schema.clone(), table, schema],
        )
    }

    fn column_kind(&self) -> Option<ColumnKind> {
        None
    }

    fn server_clock(&self) -> Option<ServerClock> {
        // datetime('now') is UTC, and there is no server that has another time zone.
        None
    }

    fn has_one_writer(&self) -> bool {
        true
    }

    fn gives_ids_again(&self) -> bool {
        true
    }

    fn why_reading_waits(&self) -> &'static str {
        "somebody writes into the file, which keeps readers out; with PRAGMA journal_mode = WAL it does not"
    }
}
