//! Rows on their way to and from the database.
//!
//! Goes in: numbers and texts. Comes out: lists of literals and parameters for statements of many rows; and, of rows
//! that were read, columns one after another. A number is written into the statement, a text is a parameter; where the
//! database translates a text once that is sent again ([`Dialect::keeps_statements`]), numbers are parameters, too, and
//! there are only a few numbers of rows in a statement.

use std::fmt::Write as _;

use bugfeed_sql::{Dialect, Tx, Value};

use super::StoreError;

/// The most rows of one statement that writes. SQLite takes 32,766 parameters.
pub(super) const CHUNK: usize = 256;
/// How many rows a statement has whose text is kept.
const KEPT: [usize; 9] = [256, 128, 64, 32, 16, 8, 4, 2, 1];

/// Rows for `VALUES` or for [`bugfeed_sql::Dialect::rows_as_table`].
#[derive(Default)]
pub(super) struct Rows {
    /// Each row's cells, joined by commas.
    pub(super) rows: Vec<String>,
    /// The parameters of all rows, in order.
    pub(super) args: Vec<Value>,
    /// Numbers are parameters, too.
    is_kept: bool,
}

/// Some of the rows, for one statement.
pub(super) struct Piece<'r> {
    pub(super) rows: &'r [String],
    pub(super) args: &'r [Value],
}

impl Rows {
    /// Rows that this database gets again and again, in statements of the same text where that helps. All must have the same
    /// columns.
    pub(super) fn again(dialect: &dyn Dialect) -> Rows {
        Rows { is_kept: dialect.keeps_statements(), ..Rows::default() }
    }

    /// Takes out all rows.
    pub(super) fn take(&mut self) -> Rows {
        let empty = Rows { is_kept: self.is_kept, ..Rows::default() };
        std::mem::replace(self, empty)
    }

    /// Adds a row.
    pub(super) fn row(&mut self) -> Row<'_> {
        // Rows are about as long as each other.
        self.rows.push(String::with_capacity(self.rows.last().map_or(0, String::len)));
        let at = self.rows.len() - 1;
        Row { text: &mut self.rows[at], args: &mut self.args, is_kept: self.is_kept }
    }

    /// The rows as they go into statements.
    pub(super) fn pieces(&self) -> Vec<Piece<'_>> {
        if !self.is_kept || self.rows.is_empty() {
            return vec![Piece { rows: &self.rows, args: &self.args }];
        }
        let columns = self.args.len() / self.rows.len();
        let (mut pieces, mut at) = (Vec::new(), 0);
        for size in KEPT {
            while self.rows.len() - at >= size {
                let args = &self.args[at * columns..(at + size) * columns];
                pieces.push(Piece { rows: &self.rows[at..at + size], args });
                at += size;
            }
        }
        pieces
    }

    /// Inserts all rows.
    pub(super) async fn insert_into(&self, tx: &mut Tx, into: &str) -> Result<(), StoreError> {
        for piece in self.pieces() {
            let sql = format!("INSERT INTO {into} VALUES ({})", piece.rows.join("),("));
            self.execute(tx, &sql, piece.args).await?;
        }
        Ok(())
    }

    /// Sends a statement with one of the pieces.
    pub(super) async fn execute(&self, tx: &mut Tx, sql: &str, args: &[Value]) -> Result<u64, StoreError> {
        Ok(if self.is_kept { tx.execute_kept(sql, args).await? } else { tx.execute(sql, args).await? })
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// `INSERT INTO into VALUES …` with all rows.
    pub(super) fn insert(&self, into: &str) -> String {
        format!("INSERT INTO {into} VALUES ({})", self.rows.join("),("))
    }
}

/// A row being written.
pub(super) struct Row<'a> {
    text: &'a mut String,
    args: &'a mut Vec<Value>,
    is_kept: bool,
}

impl Row<'_> {
    fn cell(&mut self) {
        if !self.text.is_empty() {
            self.text.push(',');
        }
    }

    pub(super) fn int(&mut self, number: i64) -> &mut Self {
        if self.is_kept {
            return self.parameter(Value::Int(number));
        }
        self.cell();
        // Writing to a String cannot fail.
        let _ = write!(self.text, "{number}");
        self
    }

    pub(super) fn maybe_int(&mut self, number: Option<i64>) -> &mut Self {
        match number {
            Some(number) => self.int(number),
            None => self.null(),
        }
    }

    pub(super) fn flag(&mut self, flag: bool) -> &mut Self {
        self.int(i64::from(flag))
    }

    pub(super) fn text(&mut self, text: &str) -> &mut Self {
        self.parameter(text_value(text))
    }

    /// A cell that is made already.
    pub(super) fn value(&mut self, value: Value) -> &mut Self {
        match value {
            Value::Int(number) => self.int(number),
            Value::Text(_) => self.parameter(value),
            Value::Null => self.null(),
        }
    }

    /// Cells that are made already.
    pub(super) fn values(&mut self, values: impl IntoIterator<Item = Value>) -> &mut Self {
        values.into_iter().fold(self, Row::value)
    }

    fn parameter(&mut self, value: Value) -> &mut Self {
        self.cell();
        self.text.push('?');
        self.args.push(value);
        self
    }

    /// A text of at most so many characters; what is longer is cut off.
    pub(super) fn short(&mut self, text: &str, max: usize) -> &mut Self {
        let cut: String = text.chars().take(max).collect();
        self.text(&cut)
    }

    pub(super) fn maybe_text(&mut self, text: Option<&str>) -> &mut Self {
        match text {
            Some(text) => self.text(text),
            None => self.null(),
        }
    }

    fn null(&mut self) -> &mut Self {
        if self.is_kept {
            return self.parameter(Value::Null);
        }
        self.cell();
        self.text.push_str("NULL");
        self
    }
}

/// A parameter. PostgreSQL takes no NUL in a text.
pub(super) fn text_value(text: &str) -> Value {
    Value::Text(if text.contains('\0') { text.replace('\0', "\u{fffd}") } else { text.to_owned() })
}

/// `?,?,?` for so many parameters.
pub(super) fn marks(count: usize) -> String {
    vec!["?"; count].join(",")
}

/// The columns of a row that was read, one after another.
pub(super) struct Columns(std::vec::IntoIter<Value>);

impl Columns {
    pub(super) fn of(row: Vec<Value>) -> Columns {
        Columns(row.into_iter())
    }

    fn next(&mut self) -> Result<Value, StoreError> {
        self.0.next().ok_or(StoreError::Broken("a row has too few columns"))
    }

    pub(super) fn maybe_int(&mut self) -> Result<Option<i64>, StoreError> {
        match self.next()? {
            Value::Null => Ok(None),
            Value::Int(number) => Ok(Some(number)),
            // Small numbers and sums come as texts from some databases.
            Value::Text(text) => text.parse().map(Some).map_err(|_| StoreError::Broken("a number is none")),
        }
    }

    pub(super) fn int(&mut self) -> Result<i64, StoreError> {
        self.maybe_int()?.ok_or(StoreError::Broken("a number is missing"))
    }

    pub(super) fn flag(&mut self) -> Result<bool, StoreError> {
        Ok(self.int()? != 0)
    }

    pub(super) fn count(&mut self) -> Result<u64, StoreError> {
        Ok(self.maybe_int()?.unwrap_or(0).max(0).unsigned_abs())
    }

    pub(super) fn number32(&mut self) -> Result<u32, StoreError> {
        u32::try_from(self.int()?).map_err(|_| StoreError::Broken("a number is out of range"))
    }

    pub(super) fn maybe_text(&mut self) -> Result<Option<String>, StoreError> {
        Ok(self.next()?.into_text())
    }

    pub(super) fn text(&mut self) -> Result<String, StoreError> {
        self.maybe_text()?.ok_or(StoreError::Broken("a text is missing"))
    }
}

/// The one number of a query such as `SELECT COUNT(*)`; 0 for NULL or no row.
pub(super) fn only_number(rows: Vec<Vec<Value>>) -> Result<i64, StoreError> {
    match rows.into_iter().next() {
        Some(row) => Ok(Columns::of(row).maybe_int()?.unwrap_or(0)),
        None => Ok(0),
    }
}
