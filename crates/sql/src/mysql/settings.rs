//! The settings that go along with each statement to MySQL and MariaDB. Nothing may stay set on a session.
//!
//! Goes in: a statement. Comes out: one text with the settings that hold for this statement, or for its transaction,
//! and no longer. Why: a pooler (ProxySQL) may give each transaction to another session of the server. A setting that
//! stays on a session would then affect the tracker, and a prepared statement would not be found. So everything is sent
//! as plain text, in one message, and the parameters are written into it. Pure.

use std::fmt::{self, Write as _};

use crate::Use;
use crate::literal::is_plain;

/// The longest wait for a table that is being altered, or locked as a whole.
const TABLE_WAIT_S: u32 = 5;

/// Which kind of server speaks the MySQL protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flavour {
    /// Knows `SET STATEMENT`.
    MariaDb,
    /// Knows hints for some settings, but none for the wait for a locked row.
    Oracle,
}

/// What a statement does, as far as it matters for the settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Does {
    /// It only reads.
    Read,
    /// It may wait for rows that others hold.
    Write,
}

/// The settings of one pool.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    pub(super) purpose: Use,
    pub(super) flavour: Flavour,
}

/// The beginning of a transaction of several statements.
pub(super) const BEGIN: &str = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED; START TRANSACTION";

const RESTORE_WAIT: &str = "SET SESSION innodb_lock_wait_timeout = @bugfeed_wait";

impl Settings {
    /// A statement that is its own transaction.
    pub(super) fn alone(&self, sql: &str, does: Does) -> String {
        let inside = self.inside(sql, does);
        // With READ COMMITTED, no gap locks are in the way of the tracker's inserts. The setting holds for the next
        // transaction only.
        if does == Does::Write && !self.is_setup() {
            format!("SET TRANSACTION ISOLATION LEVEL READ COMMITTED; {inside}")
        } else {
            inside
        }
    }

    /// A statement within a transaction.
    pub(super) fn inside(&self, sql: &str, does: Does) -> String {
        if self.is_setup() {
            return sql.to_owned();
        }
        let row_wait_s = self.row_wait_s();
        match (self.flavour, does) {
            (Flavour::MariaDb, Does::Read) => format!("SET STATEMENT lock_wait_timeout = {TABLE_WAIT_S} FOR {sql}"),
            (Flavour::MariaDb, Does::Write) => format!(
                "SET STATEMENT lock_wait_timeout = {TABLE_WAIT_S}, innodb_lock_wait_timeout = {row_wait_s} FOR {sql}"
            ),
            (Flavour::Oracle, Does::Read) => hinted(sql),
            // There is no hint for the wait for a locked row, so the setting is changed and restored in one message.
            (Flavour::Oracle, Does::Write) => format!(
                "SET @bugfeed_wait = @@SESSION.innodb_lock_wait_timeout; SET SESSION innodb_lock_wait_timeout = {}; {}; \
                 {RESTORE_WAIT}",
                row_wait_s.max(1),
                hinted(sql)
            ),
        }
    }

    /// The statement that restores what [`Settings::inside`] had set for a write, for the case that the write failed
    /// and the rest of the message was not run.
    pub(super) fn restore(&self) -> Option<&'static str> {
        (self.flavour == Flavour::Oracle && !self.is_setup()).then_some(RESTORE_WAIT)
    }

    /// How long to wait for a locked row, in seconds. For a row of the tracker: not at all. It is deleted later, and
    /// the feed must not wait for it.
    fn row_wait_s(&self) -> u32 {
        if self.purpose == Use::Source { 0 } else { 5 }
    }

    fn is_setup(&self) -> bool {
        matches!(self.purpose, Use::Setup { .. })
    }
}

/// MySQL's hint behind the statement's first word.
fn hinted(sql: &str) -> String {
    match sql.split_once(' ') {
        Some((verb @ ("SELECT" | "DELETE" | "UPDATE" | "INSERT"), rest)) => {
            format!("{verb} /*+ SET_VAR(lock_wait_timeout = {TABLE_WAIT_S}) */ {rest}")
        }
        _ => sql.to_owned(),
    }
}

/// Writes a text as a literal that means the same whatever the session's character set and SQL mode are: ASCII only,
/// and no character that a mode could read in two ways.
pub(super) fn write_text(out: &mut String, text: &str) -> fmt::Result {
    if is_plain(text) {
        write!(out, "_utf8mb4'{text}'")?;
    } else {
        write!(out, "_utf8mb4 X'")?;
        text.bytes().try_for_each(|byte| write!(out, "{byte:02X}"))?;
        write!(out, "'")?;
    }
    // The text is compared byte by byte, and never by the session's collation.
    write!(out, " COLLATE utf8mb4_bin")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Value;
    use crate::literal::with;

    #[test]
    fn parameters_become_literals_that_mean_the_same_everywhere() {
        let text = |text: &str| Value::Text(text.to_owned());
        let check = |args: &[Value], want: &str| assert_eq!(with("a ? b ?", args, write_text), want);
        check(&[Value::Int(-3), Value::Null], "a -3 b NULL");
        check(
            &[text("7/t2014-04-03 21:13:45"), text("")],
            "a _utf8mb4'7/t2014-04-03 21:13:45' COLLATE utf8mb4_bin b _utf8mb4'' COLLATE utf8mb4_bin",
        );
        check(
            &[text("it's \\ ?"), text("é\n😀")],
            "a _utf8mb4 X'69742773205C203F' COLLATE utf8mb4_bin b _utf8mb4 X'C3A90AF09F9880' COLLATE utf8mb4_bin",
        );
    }

    #[test]
    fn nothing_is_set_that_outlives_the_statement() {
        for purpose in [Use::Source, Use::Ledger { create: true }] {
            let settings = Settings { purpose, flavour: Flavour::MariaDb };
            let inside = settings.inside("DELETE x", Does::Write);
            let alone = [settings.alone("DELETE x", Does::Write), settings.alone("SELECT x", Does::Read)];
            for text in alone.into_iter().chain([BEGIN.to_owned(), inside]) {
                for one in text.split("; ").filter(|one| one.starts_with("SET ")) {
                    let ends = ["SET TRANSACTION ", "SET STATEMENT "];
                    assert!(ends.iter().any(|begin| one.starts_with(begin)), "{one}");
                }
            }
        }
        // MySQL has no setting of this kind for the wait for a locked row: it is set, used and restored in one message.
        let mysql = Settings { purpose: Use::Source, flavour: Flavour::Oracle };
        let text = mysql.alone("DELETE FROM t", Does::Write);
        assert_eq!(
            text,
            "SET TRANSACTION ISOLATION LEVEL READ COMMITTED; SET @bugfeed_wait = @@SESSION.innodb_lock_wait_timeout; SET \
             SESSION innodb_lock_wait_timeout = 1; DELETE /*+ SET_VAR(lock_wait_timeout = 5) */ FROM t; SET SESSION \
             innodb_lock_wait_timeout = @bugfeed_wait"
        );
        assert_eq!(mysql.restore(), Some(RESTORE_WAIT));
        assert_eq!(mysql.alone("SELECT 1", Does::Read), "SELECT /*+ SET_VAR(lock_wait_timeout = 5) */ 1");
        let setup = Settings { purpose: Use::Setup { create: true }, flavour: Flavour::Oracle };
        assert_eq!((setup.alone("DELETE x", Does::Write), setup.restore()), ("DELETE x".to_owned(), None));
    }
}
