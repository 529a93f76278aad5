//! What goes along with each statement, because nothing may be set on a session.
//!
//! Goes in: a statement and its parameters. Comes out: one text with the settings that hold for this statement, or for its
//! transaction, and no longer. A server may be reached through a pooler that gives each transaction to another session
//! (PgBouncer, ProxySQL): what is set on a session would then be found by the tracker, and a prepared statement would not
//! be found at all. So on servers all goes as plain text, in one message, and parameters are written into it. Pure.

use std::fmt::Write as _;

use super::{ANSWER_TIMEOUT, Dialect, Use, Value};

/// The longest wait for a table that is being altered, or locked as a whole (MariaDB, MySQL).
const TABLE_WAIT_S: u32 = 5;

/// Which kind of server speaks the MySQL protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flavour {
    /// Knows `SET STATEMENT`.
    MariaDb,
    /// Knows hints for some settings, and none for the wait for a row.
    Oracle,
}

/// What a statement does, as far as settings matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Does {
    /// It only reads.
    Read,
    /// It may wait for rows that others hold.
    Write,
}

/// The settings of one pool.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) dialect: Dialect,
    pub(crate) purpose: Use,
    pub(crate) flavour: Flavour,
}

impl Settings {
    /// A statement that is its own transaction.
    pub(crate) fn alone(&self, sql: &str, does: Does) -> String {
        match self.dialect {
            Dialect::Sqlite => sql.to_owned(),
            // Several statements in one message are one transaction, and SET LOCAL ends with it.
            Dialect::Postgres => format!("{}; {sql}", self.local()),
            Dialect::MySql if matches!(self.purpose, Use::Setup { .. }) => sql.to_owned(),
            // READ COMMITTED: no gap locks in the way of the tracker's inserts. It holds for the next transaction only.
            Dialect::MySql if does == Does::Write => {
                format!("SET TRANSACTION ISOLATION LEVEL READ COMMITTED; {}", self.inside(sql, does))
            }
            Dialect::MySql => self.inside(sql, does),
        }
    }

    /// The beginning of a transaction of several statements.
    pub(crate) fn begin(&self) -> String {
        match self.dialect {
            // Takes the write lock at once: a later upgrade could fail without waiting.
            Dialect::Sqlite => "BEGIN IMMEDIATE".to_owned(),
            Dialect::Postgres => format!("BEGIN; {}", self.local()),
            Dialect::MySql => "SET TRANSACTION ISOLATION LEVEL READ COMMITTED; START TRANSACTION".to_owned(),
        }
    }

    /// A statement within a transaction.
    pub(crate) fn inside(&self, sql: &str, does: Does) -> String {
        if self.dialect != Dialect::MySql || matches!(self.purpose, Use::Setup { .. }) {
            return sql.to_owned();
        }
        let row_wait_s = self.row_wait_s();
        match (self.flavour, does) {
            (Flavour::MariaDb, Does::Read) => format!("SET STATEMENT lock_wait_timeout = {TABLE_WAIT_S} FOR {sql}"),
            (Flavour::MariaDb, Does::Write) => format!(
                "SET STATEMENT lock_wait_timeout = {TABLE_WAIT_S}, innodb_lock_wait_timeout = {row_wait_s} FOR {sql}"
            ),
            (Flavour::Oracle, Does::Read) => hinted(sql),
            // There is no hint for the wait for a row: it is set and set back in one message.
            (Flavour::Oracle, Does::Write) => format!(
                "SET @bugfeed_wait = @@SESSION.innodb_lock_wait_timeout; SET SESSION innodb_lock_wait_timeout = {}; {}; \
                 {SET_BACK}",
                row_wait_s.max(1),
                hinted(sql)
            ),
        }
    }

    /// What sets back what [`Settings::inside`] had set, when the statement failed and the rest of the message with it.
    pub(crate) fn set_back(&self, does: Does) -> Option<&'static str> {
        let oracle = self.dialect == Dialect::MySql && self.flavour == Flavour::Oracle;
        (oracle && does == Does::Write && !matches!(self.purpose, Use::Setup { .. })).then_some(SET_BACK)
    }

    /// How long a row that somebody holds is waited for. The tracker's: not at all. Such a row is simply deleted later,
    /// and the feed must not wait for it.
    fn row_wait_s(&self) -> u32 {
        if self.purpose == Use::Source { 0 } else { 5 }
    }

    fn local(&self) -> String {
        let lock_timeout_ms = if self.purpose == Use::Source { 20 } else { 5000 };
        format!(
            "SET LOCAL transaction_isolation = 'read committed'; SET LOCAL DateStyle = 'ISO'; SET LOCAL TimeZone = \
             'UTC'; SET LOCAL lock_timeout = {lock_timeout_ms}; SET LOCAL statement_timeout = {}; SET LOCAL \
             synchronous_commit = on",
            ANSWER_TIMEOUT.as_millis() - 1000
        )
    }

    /// The statement with its parameters written in where its `?` are. No statement here has a `?` in a text.
    pub(crate) fn with(&self, sql: &str, args: &[Value]) -> String {
        let mut parts = sql.split('?');
        let mut out = String::with_capacity(sql.len() + 32 * args.len());
        out.push_str(parts.next().unwrap_or_default());
        for (part, arg) in parts.zip(args) {
            self.literal(&mut out, arg);
            out.push_str(part);
        }
        out
    }

    fn literal(&self, out: &mut String, value: &Value) {
        // Writing to a String cannot fail.
        let _ = match value {
            Value::Null => write!(out, "NULL"),
            Value::Int(int) => write!(out, "{int}"),
            Value::Text(text) if self.dialect == Dialect::MySql => mysql_text(out, text),
            Value::Text(text) => postgres_text(out, text),
        };
    }
}

const SET_BACK: &str = "SET SESSION innodb_lock_wait_timeout = @bugfeed_wait";

/// MySQL's hint behind the statement's first word.
fn hinted(sql: &str) -> String {
    match sql.split_once(' ') {
        Some((verb @ ("SELECT" | "DELETE" | "UPDATE" | "INSERT"), rest)) => {
            format!("{verb} /*+ SET_VAR(lock_wait_timeout = {TABLE_WAIT_S}) */ {rest}")
        }
        _ => sql.to_owned(),
    }
}

/// Whether the text means the same in every character set and every SQL mode.
fn is_plain(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_alphanumeric() || b" -_:./+,()".contains(&b))
}

/// Only ASCII is sent, whatever the session's character set is, and no sign that a mode could read in two ways.
fn mysql_text(out: &mut String, text: &str) -> std::fmt::Result {
    if is_plain(text) {
        write!(out, "_utf8mb4'{text}'")?;
    } else {
        write!(out, "_utf8mb4 X'")?;
        text.bytes().try_for_each(|byte| write!(out, "{byte:02X}"))?;
        write!(out, "'")?;
    }
    // Compared byte by byte, and never mixed up with the session's collation.
    write!(out, " COLLATE utf8mb4_bin")
}

fn postgres_text(out: &mut String, text: &str) -> std::fmt::Result {
    if is_plain(text) {
        return write!(out, "'{text}'");
    }
    // The E makes the escapes hold whatever standard_conforming_strings is.
    write!(out, "E'")?;
    for c in text.chars() {
        match u32::from(c) {
            0x20..=0x7e if !matches!(c, '\'' | '\\') => write!(out, "{c}")?,
            code @ ..=0xffff => write!(out, "\\u{code:04x}")?,
            code => write!(out, "\\U{code:08x}")?,
        }
    }
    write!(out, "'")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(dialect: Dialect, flavour: Flavour) -> Settings {
        Settings { dialect, purpose: Use::Source, flavour }
    }

    #[test]
    fn parameters_become_literals_that_mean_the_same_everywhere() {
        let (maria, postgres) =
            (settings(Dialect::MySql, Flavour::MariaDb), settings(Dialect::Postgres, Flavour::MariaDb));
        let text = |text: &str| Value::Text(text.to_owned());
        let check = |args: &[Value], mysql: &str, pg: &str| {
            assert_eq!(maria.with("a ? b ?", args), mysql);
            assert_eq!(postgres.with("a ? b ?", args), pg);
        };
        check(&[Value::Int(-3), Value::Null], "a -3 b NULL", "a -3 b NULL");
        check(
            &[text("7/t2014-04-03 21:13:45"), text("")],
            "a _utf8mb4'7/t2014-04-03 21:13:45' COLLATE utf8mb4_bin b _utf8mb4'' COLLATE utf8mb4_bin",
            "a '7/t2014-04-03 21:13:45' b ''",
        );
        check(
            &[text("it's \\ ?"), text("é\n😀")],
            "a _utf8mb4 X'69742773205C203F' COLLATE utf8mb4_bin b _utf8mb4 X'C3A90AF09F9880' COLLATE utf8mb4_bin",
            r"a E'it\u0027s \u005c ?' b E'\u00e9\u000a\U0001f600'",
        );
    }

    #[test]
    fn nothing_is_set_that_outlives_the_statement() {
        for purpose in [Use::Source, Use::Ledger { create: true }] {
            for (dialect, flavour) in [(Dialect::Postgres, Flavour::MariaDb), (Dialect::MySql, Flavour::MariaDb)] {
                let settings = Settings { dialect, purpose, flavour };
                let texts =
                    [settings.alone("DELETE x", Does::Write), settings.alone("SELECT x", Does::Read), settings.begin()];
                for text in texts.into_iter().chain([settings.inside("DELETE x", Does::Write)]) {
                    for one in text.split("; ").filter(|one| one.starts_with("SET ")) {
                        let ends = ["SET LOCAL ", "SET TRANSACTION ", "SET STATEMENT "];
                        assert!(ends.iter().any(|begin| one.starts_with(begin)), "{one}");
                    }
                }
            }
        }
        // MySQL has nothing of the kind for the wait for a row: set, used and set back in one message.
        let mysql = settings(Dialect::MySql, Flavour::Oracle);
        let text = mysql.inside("DELETE FROM t", Does::Write);
        assert!(
            text.ends_with(SET_BACK) && text.contains("DELETE /*+ SET_VAR(lock_wait_timeout = 5) */ FROM t"),
            "{text}"
        );
        assert_eq!(mysql.set_back(Does::Write), Some(SET_BACK));
    }
}
