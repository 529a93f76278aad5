//! What a table's unique indexes say about how the tracker writes into it.
//!
//! Goes in: the names of the columns of each unique index. Comes out: whether rows are updated in place, and whether an id
//! means one row. Pure, except for [`shape`], which asks the database.

use std::collections::BTreeMap;

use super::table::TableSpec;
use bugfeed_sql::{Db, SqlError, Value};

/// How rows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// A later change of a bug may be written into the row of an earlier one, because a unique index allows a bug only one
    /// row. Also true if there are no indexes to judge by: treating a table in this way is right for every table.
    pub(super) in_place: bool,
    /// No two rows have the same id, as far as can be found out.
    pub(super) id_is_unique: bool,
}

/// Asks the database for the table's unique indexes, and judges by them.
pub(super) async fn shape(db: &Db, spec: &TableSpec) -> Result<Shape, SqlError> {
    let (sql, args) = db.dialect().unique_indexes(&spec.table);
    let rows = db.fetch(sql, &args).await?;
    let mut indexes: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for mut row in rows {
        let column = row.pop().and_then(Value::into_text).unwrap_or_default();
        let index = row.pop().and_then(Value::into_text).unwrap_or_default();
        indexes.entry(index).or_default().push(column);
    }
    Ok(judge(indexes.values().map(Vec::as_slice), spec.id.as_str(), spec.bug.as_str()))
}

/// Judges by the columns of each unique index. An empty name stands for an expression, which may be the bug's number in
/// another form.
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
