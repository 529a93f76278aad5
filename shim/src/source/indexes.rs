//! What a table's unique indexes say about how the tracker writes into it.
//!
//! Goes in: the names of the columns of each unique index. Comes out: whether rows are updated in place, and whether an id
//! means one row. Pure, but for the question itself.

use std::collections::BTreeMap;

use super::table::TableSpec;
use bugfeed_sql::{Db, Dialect, SqlError, Value};

/// How rows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// A later change of a bug may be written into the row of an earlier one: a unique index keeps it from having a row
    /// of its own. Also where nothing can be found out, because what holds for such a table holds for every other.
    pub(super) in_place: bool,
    /// No two rows have the same id, as far as can be found out.
    pub(super) id_is_unique: bool,
}

/// Asks the database.
pub(super) async fn shape(db: &Db, spec: &TableSpec) -> Result<Shape, SqlError> {
    let (schema, table) = spec.table.parts();
    let text = |text: &str| Value::Text(text.to_owned());
    let schema = Value::from(schema.map(str::to_owned));
    let (sql, args) = match db.dialect() {
        Dialect::MySql => (
            "SELECT CAST(index_name AS CHAR), CAST(COALESCE(column_name, '') AS CHAR) FROM information_schema.statistics \
             WHERE non_unique = 0 AND table_schema = COALESCE(?, DATABASE()) AND table_name = ?",
            vec![schema, text(table)],
        ),
        Dialect::Postgres => (
            "SELECT i.indexrelid::bigint, COALESCE(a.attname::text, '') FROM pg_index i CROSS JOIN LATERAL \
             unnest(i.indkey::int2[]) WITH ORDINALITY AS k(att, n) LEFT JOIN pg_attribute a ON a.attrelid = i.indrelid \
             AND a.attnum = k.att AND k.att > 0 WHERE i.indrelid = to_regclass(?) AND i.indisunique AND k.n <= \
             i.indnkeyatts",
            vec![Value::Text(db.dialect().quote(spec.table.as_str()))],
        ),
        Dialect::Sqlite => (
            "SELECT 'i' || l.name, COALESCE(c.name, '') FROM pragma_index_list(?, ?) l JOIN pragma_index_info(l.name) c \
             WHERE l.\"unique\" = 1 UNION ALL SELECT 'p', name FROM pragma_table_info(?, ?) WHERE pk > 0",
            vec![text(table), schema.clone(), text(table), schema],
        ),
    };
    let rows = db.fetch(sql, &args).await?;
    let mut indexes: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for mut row in rows {
        let column = row.pop().and_then(Value::into_text).unwrap_or_default();
        let index = row.pop().and_then(Value::into_text).unwrap_or_default();
        indexes.entry(index).or_default().push(column);
    }
    Ok(judge(indexes.values().map(Vec::as_slice), spec.id.as_str(), spec.bug.as_str()))
}

/// An empty name is an expression, which may be the bug's number in another form.
fn judge<'a>(indexes: impl IntoIterator<Item = &'a [String]>, id: &str, bug: &str) -> Shape {
    let mut shape = Shape { in_place: false, id_is_unique: false };
    let mut any = false;
    for columns in indexes {
        any = true;
        let has = |name: &str| columns.iter().any(|column| column.eq_ignore_ascii_case(name));
        shape.id_is_unique |= columns.len() == 1 && has(id);
        shape.in_place |= (has(bug) || has("")) && (!has(id) || id.eq_ignore_ascii_case(bug));
    }
    // A view, for instance, has no indexes of its own.
    shape.in_place |= !any;
    shape
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_indexes_say() {
        let check = |indexes: &[&[&str]], id: &str, want: (bool, bool)| {
            let indexes: Vec<Vec<String>> =
                indexes.iter().map(|columns| columns.iter().map(|c| (*c).to_owned()).collect()).collect();
            let shape = judge(indexes.iter().map(Vec::as_slice), id, "bug_id");
            assert_eq!((shape.in_place, shape.id_is_unique), want, "{indexes:?}");
        };
        check(&[&["id"]], "id", (false, true));
        check(&[&["ID"], &["BUG_ID"]], "id", (true, true));
        check(&[&["id"], &["bug_id", "delta_ts"]], "id", (true, true));
        check(&[&["id"], &["bug_id", "id"]], "id", (false, true));
        check(&[&["id", "delta_ts"]], "id", (false, false));
        check(&[&["id"], &["other"]], "id", (false, true));
        check(&[&["id"], &[""]], "id", (true, true));
        check(&[&["bug_id"]], "bug_id", (true, true));
        check(&[], "id", (true, false));
    }
}
