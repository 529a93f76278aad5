//! The change table's names, and the SQL that reads and deletes its rows in each dialect.
//!
//! Goes in: checked names. Comes out: SQL text. Never connects.
//!
//! A row is known by its id and the text of its date ("key text"): a row that the tracker updates in place is then
//! another row. The database computes the key text, both when reading and when deleting, so that the two agree
//! whatever the column's type holds: `0000-00-00`, `infinity`, NULL, or rubbish in an SQLite text column.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use bugfeed_sql::{BadName, Dialect, Name, Value};

use super::RowKey;

/// So many different dates in one delete are parameters of their own.
const DATES: usize = 16;
/// How much of a date's text is kept; every real one is shorter.
const KEY_TEXT_MAX: usize = 200;

/// Which table, and what its columns are called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableSpec {
    /// The table, perhaps with its schema.
    pub table: Name,
    /// The auto-increment primary key.
    pub id: Name,
    /// The bug's number.
    pub bug: Name,
    /// When it changed, in the tracker's local time.
    pub when: Name,
}

impl Default for TableSpec {
    /// The schema of Bugzilla's push extension: `push_notify(id, bug_id, delta_ts)`.
    fn default() -> TableSpec {
        let name = |text: &str| text.parse().expect("a table or column name");
        TableSpec { table: name("push_notify"), id: name("id"), bug: name("bug_id"), when: name("delta_ts") }
    }
}

impl TableSpec {
    /// The default columns in another table.
    ///
    /// # Errors
    /// When the text is no table name.
    pub fn named(table: &str) -> Result<TableSpec, BadName> {
        Ok(TableSpec { table: table.parse()?, ..TableSpec::default() })
    }
}

/// The statements for one table in one dialect.
#[derive(Clone, Debug)]
pub(crate) struct TableSql {
    pub(crate) select: String,
    /// Finds a row that `select` passes over.
    pub(crate) strays: String,
    columns: String,
    table: String,
    id: String,
    key: String,
    when: String,
}

impl TableSql {
    pub(crate) fn new(dialect: Dialect, spec: &TableSpec) -> TableSql {
        TableSql::with(dialect, spec, false)
    }

    /// `instants`: the date's column is a MySQL TIMESTAMP, which the server would give in the session's time zone.
    pub(crate) fn with(dialect: Dialect, spec: &TableSpec, instants: bool) -> TableSql {
        let [table, id, bug, when] = [&spec.table, &spec.id, &spec.bug, &spec.when].map(|n| dialect.quote(n.as_str()));
        let (id_int, bug_text) = match dialect {
            Dialect::MySql => (format!("CAST({id} AS SIGNED)"), format!("LEFT(CAST({bug} AS CHAR), 40)")),
            Dialect::Postgres => (format!("{id}::bigint"), format!("left({bug}::text, 40)")),
            Dialect::Sqlite => (id.clone(), format!("substr(CAST({bug} AS TEXT), 1, 40)")),
        };
        let when_text = match dialect {
            Dialect::MySql if instants => format!(
                "IF(UNIX_TIMESTAMP({when}) = 0, '0000-00-00 00:00:00', CAST(TIMESTAMP'1970-01-01 00:00:00' + INTERVAL \
                 UNIX_TIMESTAMP({when}) SECOND AS CHAR))"
            ),
            // X'3F' is a question mark; one in a text would be taken for a parameter.
            Dialect::MySql => format!("LEFT(REPLACE(CAST({when} AS CHAR), CHAR(0), X'3F'), {KEY_TEXT_MAX})"),
            Dialect::Postgres => format!("left({when}::text, {KEY_TEXT_MAX})"),
            // SQLite columns hold anything; what is not plain text gets an unambiguous one.
            Dialect::Sqlite => format!(
                "CASE WHEN {when} IS NULL THEN NULL \
                 WHEN typeof({when}) = 'blob' OR instr({when}, char(0)) > 0 OR {when} GLOB '*[^ -~]*' \
                 THEN 'x' || hex(substr(CAST({when} AS BLOB), 1, 90)) \
                 ELSE substr(CAST({when} AS TEXT), 1, {KEY_TEXT_MAX}) END"
            ),
        };
        let key = match dialect {
            Dialect::MySql => format!("CONCAT({id}, '/', COALESCE(CONCAT('t', {when_text}), 'n'))"),
            Dialect::Postgres => format!("({id}::bigint::text || '/' || COALESCE('t' || {when_text}, 'n'))"),
            Dialect::Sqlite => format!("({id} || '/' || COALESCE('t' || ({when_text}), 'n'))"),
        };
        // A row without a number cannot be deleted by it; it would come back for ever, and take the place of others.
        let (only, strays) = match dialect {
            Dialect::Sqlite => (format!("typeof({id}) = 'integer'"), format!("typeof({id}) <> 'integer'")),
            _ => (format!("{id} IS NOT NULL"), format!("{id} IS NULL")),
        };
        let strays = format!("SELECT 1 FROM {table} WHERE {strays} LIMIT 1");
        let columns = format!("{id_int}, {bug_text}, {when_text}");
        let select = format!("SELECT {columns} FROM {table} WHERE {only} ORDER BY {id} LIMIT ");
        TableSql { select, strays, columns, table, id, key, when: when_text }
    }

    /// Asks whether deleting is allowed.
    pub(crate) fn delete_none(&self) -> String {
        format!("DELETE FROM {} WHERE 1 = 0", self.table)
    }

    /// Reads the rows with these ids, whatever their dates are now.
    pub(crate) fn find(&self, keys: &[RowKey]) -> String {
        let TableSql { table, id, columns, .. } = self;
        format!("SELECT {columns} FROM {table} WHERE {id} IN ({})", list(keys.iter().map(|key| key.id)))
    }

    /// Deletes rows: their ids in the text, so that the primary key is used, their dates as parameters. Rows of one burst
    /// share their dates, so there is a parameter for each date; with many dates there is one for each row.
    pub(crate) fn delete(&self, keys: &[RowKey]) -> (String, Vec<Value>) {
        let TableSql { table, id, key, when, .. } = self;
        let mut dates: BTreeMap<&str, Vec<i64>> = BTreeMap::new();
        for row in keys {
            if let Some(date) = &row.when {
                dates.entry(date).or_default().push(row.id);
            }
            if row.when.is_none() || dates.len() > DATES {
                let marks = vec!["?"; keys.len()].join(",");
                let list = list(keys.iter().map(|key| key.id));
                let args = keys.iter().map(|key| Value::Text(key.text())).collect();
                return (format!("DELETE FROM {table} WHERE {id} IN ({list}) AND {key} IN ({marks})"), args);
            }
        }
        let same = |ids: Vec<i64>| format!("({id} IN ({}) AND {when} = ?)", list(ids));
        let (args, conditions): (Vec<_>, Vec<_>) =
            dates.into_iter().map(|(date, ids)| (Value::Text(date.to_owned()), same(ids))).unzip();
        (format!("DELETE FROM {table} WHERE {}", conditions.join(" OR ")), args)
    }
}

fn list(ids: impl IntoIterator<Item = i64>) -> String {
    let mut text = String::new();
    for id in ids {
        let comma = if text.is_empty() { "" } else { "," };
        // Writing to a String cannot fail.
        let _ = write!(text, "{comma}{id}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: i64, when: Option<&str>) -> RowKey {
        RowKey { id, when: when.map(str::to_owned) }
    }

    #[test]
    fn a_delete_names_each_row_with_its_date() {
        let sql = TableSql {
            select: String::new(),
            strays: String::new(),
            columns: "c".into(),
            table: "t".into(),
            id: "i".into(),
            key: "k".into(),
            when: "w".into(),
        };
        let check = |keys: &[RowKey], want: &str, want_args: &[&str]| {
            let (text, args) = sql.delete(keys);
            let want_args: Vec<Value> = want_args.iter().map(|arg| Value::Text((*arg).to_owned())).collect();
            assert_eq!((text.strip_prefix("DELETE FROM t WHERE ").unwrap(), args), (want, want_args));
        };
        check(&[key(3, Some("a")), key(1, Some("a"))], "(i IN (3,1) AND w = ?)", &["a"]);
        let two = [key(1, Some("a")), key(2, Some("b")), key(3, Some("a"))];
        check(&two, "(i IN (1,3) AND w = ?) OR (i IN (2) AND w = ?)", &["a", "b"]);
        check(&[key(1, Some("a")), key(2, None)], "i IN (1,2) AND k IN (?,?)", &["1/ta", "2/n"]);
        let many: Vec<RowKey> = (0..20).map(|id| key(id, Some(&format!("{id:02}")))).collect();
        assert!(sql.delete(&many[..DATES]).0.contains("w = ?"));
        assert!(sql.delete(&many).0.contains(" AND k IN (?,"));
    }

    #[test]
    fn names_are_quoted_part_by_part() {
        let spec = TableSpec::named("bugs.push_notify").unwrap();
        assert!(TableSql::new(Dialect::MySql, &spec).select.contains("FROM `bugs`.`push_notify`"));
        assert!(
            TableSql::new(Dialect::Postgres, &spec)
                .delete(&[key(1, Some("x")), key(2, Some("x"))])
                .0
                .starts_with("DELETE FROM \"bugs\".\"push_notify\" WHERE (\"id\" IN (1,2) AND left(\"delta_ts\"")
        );
    }
}
