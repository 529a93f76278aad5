//! The words in which the SQL of the databases differs.
//!
//! Goes in: names that are checked and quoted. Comes out: pieces of SQL, and what is to be known of how the database
//! behaves. Pure: a dialect connects to nothing. Statements themselves are put together by whoever runs them.

use std::fmt;

use crate::{Name, Value};

/// The SQL of one database.
pub trait Dialect: fmt::Debug + Send + Sync {
    /// Which database this is, in one word: that of its feature.
    fn name(&self) -> &'static str;

    /// Quotes an already validated name; `schema.table` is quoted part by part.
    fn quote(&self, name: &str) -> String;

    /// A column's value as a whole number of 64 bits.
    fn integer(&self, column: &str) -> String;

    /// The first `max` characters of a column's text.
    fn text(&self, column: &str, max: usize) -> String;

    /// The text of a date, the same for reading and for deleting, whatever the column holds; `max` characters of it.
    fn key_text(&self, column: &str, max: usize) -> String;

    /// The same for a column of instants, where the database would give these in the session's time zone: the text in UTC.
    /// None where the text of an instant says its zone.
    fn instant_text(&self, column: &str) -> Option<String> {
        let _ = column;
        None
    }

    /// One text for a row: its id, then `/t` and the text of its date, or `/n` for NULL.
    fn row_key(&self, id: &str, key_text: &str) -> String;

    /// The conditions that a row has a number for its id, and that it has none.
    fn has_id(&self, id: &str) -> (String, String) {
        (format!("{id} IS NOT NULL"), format!("{id} IS NULL"))
    }

    /// The type of a key that the database counts up by itself.
    fn counting_key(&self) -> &'static str;

    /// The type of a number that may be a key.
    fn key_type(&self) -> &'static str {
        "BIGINT"
    }

    /// The type of a date without a zone.
    fn date_type(&self) -> &'static str;

    /// What ends a `CREATE TABLE`, so that the table has transactions.
    fn table_options(&self) -> &'static str {
        ""
    }

    /// What ends a `CREATE TABLE`, so that it also compares texts exactly: two that differ in case or accents are two keys.
    fn exact_table_options(&self) -> &'static str {
        ""
    }

    /// An `INSERT` that does nothing where a row with this key is there: `into` is the table, and all that follows.
    fn insert_or_ignore(&self, into: &str) -> String;

    /// Reads the unique indexes of a table: a row for each column of each, with the index and the column's name, which is
    /// empty for an expression.
    fn unique_indexes(&self, table: &Name) -> (&'static str, Vec<Value>);

    /// Reads the type of a column; none where the type says nothing.
    fn column_kind(&self) -> Option<ColumnKind>;

    /// How the server's clock is read; none where there is no server with a time zone of its own.
    fn server_clock(&self) -> Option<ServerClock>;

    /// Whether a literal date should say its offset to UTC: a column with a time zone then takes it for what it is, and one
    /// without ignores it.
    fn dates_say_their_offset(&self) -> bool {
        false
    }

    /// Whether whoever writes keeps all other writers out, of the whole database.
    fn has_one_writer(&self) -> bool {
        false
    }

    /// Whether an id may be given to another row as soon as its row is deleted.
    fn gives_ids_again(&self) -> bool {
        false
    }

    /// Why reading can be kept waiting, for people. Reading waits for no row, so it is not a row that is locked.
    fn why_reading_waits(&self) -> &'static str {
        "the whole table is locked: by an ALTER TABLE that runs or waits for a transaction, by LOCK TABLE, or by a backup"
    }
}

/// How a column's type is read.
#[derive(Clone, Copy, Debug)]
pub struct ColumnKind {
    /// Takes the schema or NULL, the table and the column; gives one text.
    pub sql: &'static str,
    /// What it gives, in small or capital letters, for a type that holds instants.
    pub instants: &'static str,
}

/// How the clock is read from which a tracker on this server takes its local time.
#[derive(Clone, Copy, Debug)]
pub struct ServerClock {
    /// The word for that time.
    pub now: &'static str,
    /// What is asked.
    pub ask: AskClock,
}

/// What a server can tell of its local time.
#[derive(Clone, Copy, Debug)]
pub enum AskClock {
    /// By how many seconds it is ahead of UTC now.
    SecondsAhead(&'static str),
    /// The name of its time zone: the first of these statements that gives one counts.
    ZoneName(&'static [&'static str]),
}
