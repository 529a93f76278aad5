//! The parts of SQL in which the databases differ.
//!
//! Goes in: names that are checked and quoted. Comes out: pieces of SQL, and facts about how the database behaves.
//! Pure: a dialect connects to nothing. The callers put the statements together.

use std::fmt;

use crate::{Name, Value};

/// The SQL of one database.
pub trait Dialect: fmt::Debug + Send + Sync {
    /// The name of the database, which is also the name of its feature.
    fn name(&self) -> &'static str;

    /// Quotes an already validated name; `schema.table` is quoted part by part.
    fn quote(&self, name: &str) -> String;

    /// SQL for a column's value as an integer of 64 bits.
    fn integer(&self, column: &str) -> String;

    /// SQL for the first `max` characters of a column's text.
    fn text(&self, column: &str, max: usize) -> String;

    /// SQL for the first `max` characters of a date's text, as row keys use it. The text is the same for reading and
    /// for deleting, whatever the column holds.
    fn key_text(&self, column: &str, max: usize) -> String;

    /// SQL for the text in UTC of a column of instants. `None` if the database's own text of an instant contains the
    /// offset to UTC. (Other databases give the text in the session's time zone.)
    fn instant_text(&self, column: &str) -> Option<String> {
        let _ = column;
        None
    }

    /// SQL for the key of a row as one text: its id, then `/t` and the text of its date, or `/n` for NULL.
    fn row_key(&self, id: &str, key_text: &str) -> String;

    /// Two conditions: that a row's id is a number, and that it is not.
    fn has_id(&self, id: &str) -> (String, String) {
        (format!("{id} IS NOT NULL"), format!("{id} IS NULL"))
    }

    /// The type of a primary key that the database counts up by itself.
    fn counting_key(&self) -> &'static str;

    /// The type of a number that may be a key.
    fn key_type(&self) -> &'static str {
        "BIGINT"
    }

    /// The type of a date without a zone.
    fn date_type(&self) -> &'static str;

    /// The type of a date without a zone, to the microsecond.
    fn fine_date_type(&self) -> &'static str;

    /// The type of a text of any length.
    fn long_text_type(&self) -> &'static str {
        "TEXT"
    }

    /// The end of a `CREATE INDEX` that leaves out the rows in which this column is NULL; empty where there is no such
    /// index.
    fn where_set(&self, column: &str) -> String {
        format!(" WHERE {column} IS NOT NULL")
    }

    /// A table of these rows, for a `FROM`. Each row is a list of literals and parameters; the columns are called
    /// `column1`, `column2` and so on. In some databases the first row is one of NULLs only, which makes the types known.
    fn rows_as_table(&self, kinds: &[CellKind], rows: &[String]) -> String;

    /// An `UPDATE` of the rows of `table` that fit the rows of `values` ([`Dialect::rows_as_table`]). In `on` and `set`, the
    /// table is called `e` and the values are called `v`; `set` names a column of the table, and what it becomes.
    fn update_from(&self, table: &str, values: &str, on: &str, set: &[(&str, String)]) -> String {
        format!("UPDATE {table} AS e SET {} FROM {values} v WHERE {on}", assignments("", set))
    }

    /// How to learn the ids that an `INSERT` of several rows has given by a [counting key](Dialect::counting_key).
    fn counted_ids(&self) -> CountedIds {
        CountedIds::Returning
    }

    /// Whether a statement with parameters is translated once if it is sent again ([`crate::Tx::execute_kept`]). Then it is
    /// worth sending few texts, with all numbers as parameters.
    fn keeps_statements(&self) -> bool {
        false
    }

    /// The end of a `SELECT` in a transaction, after which nobody changes the rows that were read before the transaction
    /// ends. Empty where nobody else writes anyway.
    fn shared_lock(&self) -> &'static str {
        ""
    }

    /// A statement at the beginning of a transaction whose commit need not be on the disk when it is reported: it may be
    /// lost when the machine of the database fails, and not when a process does. `None` where there is no such
    /// statement for one transaction.
    fn commit_without_waiting(&self) -> Option<&'static str> {
        None
    }

    /// The end of a `CREATE TABLE`, which makes sure that the table has transactions.
    fn table_options(&self) -> &'static str {
        ""
    }

    /// The end of a `CREATE TABLE` whose table must also compare texts exactly: two texts that differ in case or
    /// accents are two keys.
    fn exact_table_options(&self) -> &'static str {
        ""
    }

    /// An `INSERT` that does nothing if a row with this key exists. `into` is the table and everything after it.
    fn insert_or_ignore(&self, into: &str) -> String;

    /// The query for the unique indexes of a table, and its parameters. It gives a row for each column of each index,
    /// with the index and the column's name, which is empty for an expression.
    fn unique_indexes(&self, table: &Name) -> (&'static str, Vec<Value>);

    /// How the type of a column is read; `None` if the type says nothing.
    fn column_kind(&self) -> Option<ColumnKind>;

    /// How the server's clock is read; `None` if there is no server with a time zone of its own.
    fn server_clock(&self) -> Option<ServerClock>;

    /// Whether a literal date should contain its offset to UTC. A column with a time zone then stores the right
    /// instant, and a column without one ignores the offset.
    fn dates_say_their_offset(&self) -> bool {
        false
    }

    /// Whether a writer locks all other writers out of the whole database.
    fn has_one_writer(&self) -> bool {
        false
    }

    /// Whether the id of a deleted row may be given to a new row at once.
    fn gives_ids_again(&self) -> bool {
        false
    }

    /// Why a read may have to wait, for people. A read waits for no locked row, so the reason is another one.
    fn why_reading_waits(&self) -> &'static str {
        "the whole table is locked: by an ALTER TABLE that runs or waits for a transaction, by LOCK TABLE, or by a backup"
    }
}

/// `a = x, b = y`.
pub(crate) fn assignments(prefix: &str, set: &[(&str, String)]) -> String {
    set.iter().map(|(column, to)| format!("{prefix}{column} = {to}")).collect::<Vec<_>>().join(", ")
}

/// What a column of [`Dialect::rows_as_table`] holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CellKind {
    /// Whole numbers.
    Int,
    /// Texts.
    Text,
}

/// How ids that the database has counted are learnt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CountedIds {
    /// By `RETURNING` at the end of the `INSERT`.
    Returning,
    /// By this query after the `INSERT`, in the same transaction. It gives the first id, and the distance of two ids.
    Query(&'static str),
}

/// How a column's type is read.
#[derive(Clone, Copy, Debug)]
pub struct ColumnKind {
    /// The query. Its parameters are the schema or NULL, the table and the column; it gives one text.
    pub sql: &'static str,
    /// The text that the query gives, in small or capital letters, for a type that holds instants.
    pub instants: &'static str,
}

/// How to read the clock from which a tracker on this server takes its local time.
#[derive(Clone, Copy, Debug)]
pub struct ServerClock {
    /// The SQL expression for that time.
    pub now: &'static str,
    /// How to ask for its distance from UTC.
    pub ask: AskClock,
}

/// What a server can tell about its local time, and the statements that ask for it.
#[derive(Clone, Copy, Debug)]
pub enum AskClock {
    /// The number of seconds by which it is ahead of UTC now.
    SecondsAhead(&'static str),
    /// The name of its time zone: the first of these statements that gives one counts.
    ZoneName(&'static [&'static str]),
}
