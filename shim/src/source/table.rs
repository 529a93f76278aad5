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

/// Up to this many different dates, a delete has one parameter for each date; beyond that, one for each row.
const DATES: usize = 16;
/// How much of a date's text is kept; every real one is shorter.
const KEY_TEXT_MAX: usize = 200;
/// How much of what should be a bug's number is kept; every real one is shorter.
const BUG_TEXT_MAX: usize = 40;

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
    /// Finds a row that `select` leaves out, because it has no usable id.
    pub(crate) strays: String,
    columns: String,
    table: String,
    id: String,
    key: String,
    when: String,
}

impl TableSql {
    pub(crate) fn new(dialect: &dyn Dialect, spec: &TableSpec) -> TableSql {
        let when = dialect.key_text(&dialect.quote(spec.when.as_str()), KEY_TEXT_MAX);
        TableSql::with(dialect, spec, when)
    }

    /// For a table whose dates are instants, if the database would otherwise return them in the session's time zone. `None`
    /// if the text of an instant names its zone.
    pub(crate) fn of_instants(dialect: &dyn Dialect, spec: &TableSpec) -> Option<TableSql> {
        let when = dialect.instant_text(&dialect.quote(spec.when.as_str()))?;
        Some(TableSql::with(dialect, spec, when))
    }

    /// `when`: the SQL of a date's text.
    fn with(dialect: &dyn Dialect, spec: &TableSpec, when: String) -> TableSql {
        let [table, id, bug] = [&spec.table, &spec.id, &spec.bug].map(|n| dialect.quote(n.as_str()));
        let key = dialect.row_key(&id, &when);
        // A row whose id is no number cannot be deleted. It would be read again and again, and take the place of others.
        let (only, strays) = dialect.has_id(&id);
        let strays = format!("SELECT 1 FROM {table} WHERE {strays} LIMIT 1");
        let columns = format!("{}, {}, {when}", dialect.integer(&id), dialect.text(&bug, BUG_TEXT_MAX));
        let select = format!("SELECT {columns} FROM {table} WHERE {only} ORDER BY {id} LIMIT ");
        TableSql { select, strays, columns, table, id, key, when }
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

    /// Deletes rows. Their ids are in the text, so that the primary key is used; their dates are parameters. Rows of one burst
    /// share their dates, so each date is one parameter; if there are many dates, each row has one.
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
    use bugfeed_sql::DbUrl;

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
        let url: DbUrl = "sqlite://x.db".parse().unwrap();
        assert!(TableSql::new(url.dialect(), &spec).select.contains("FROM `bugs`.`push_notify`"));
    }

    /// `tests/sql_golden` shows the same statements as a server gets them; this test needs no server.
    #[test]
    fn the_statements_of_each_database() {
        let spec = TableSpec::named("s.t").unwrap();
        let keys = [key(1, Some("x")), key(2, None)];
        let check = |url: &str, select: &str, delete: &str| {
            let sql = TableSql::new(url.parse::<DbUrl>().unwrap().dialect(), &spec);
            assert_eq!((sql.select.as_str(), sql.delete(&keys).0.as_str()), (select, delete));
        };
        if cfg!(feature = "mysql") {
            check(
                "mysql://h/d",
                "SELECT CAST(`id` AS SIGNED), LEFT(CAST(`bug_id` AS CHAR), 40), LEFT(REPLACE(CAST(`delta_ts` AS CHAR), \
                 CHAR(0), X'3F'), 200) FROM `s`.`t` WHERE `id` IS NOT NULL ORDER BY `id` LIMIT ",
                "DELETE FROM `s`.`t` WHERE `id` IN (1,2) AND CONCAT(`id`, '/', COALESCE(CONCAT('t', \
                 LEFT(REPLACE(CAST(`delta_ts` AS CHAR), CHAR(0), X'3F'), 200)), 'n')) IN (?,?)",
            );
        }
        if cfg!(feature = "postgres") {
            check(
                "postgres://h/d",
                "SELECT \"id\"::bigint, left(\"bug_id\"::text, 40), left(\"delta_ts\"::text, 200) FROM \"s\".\"t\" WHERE \
                 \"id\" IS NOT NULL ORDER BY \"id\" LIMIT ",
                "DELETE FROM \"s\".\"t\" WHERE \"id\" IN (1,2) AND (\"id\"::bigint::text || '/' || COALESCE('t' || \
                 left(\"delta_ts\"::text, 200), 'n')) IN (?,?)",
            );
        }
    }
}
