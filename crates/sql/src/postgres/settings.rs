//! The settings that go along with each statement to PostgreSQL. Nothing may stay set on a session.
//!
//! Goes in: a statement. Comes out: one text with the settings that hold for its transaction, and no longer. Why: a
//! pooler (PgBouncer) may give each transaction to another session of the server. A setting that stays on a session
//! would then affect the tracker, and a prepared statement would not be found. So everything is sent as plain text, in
//! one message, and the parameters are written into it. Pure.

use std::fmt::{self, Write as _};

use crate::literal::is_plain;
use crate::{ANSWER_TIMEOUT, Use};

/// The settings of one pool.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    pub(super) purpose: Use,
}

impl Settings {
    /// A statement that is its own transaction.
    pub(super) fn alone(self, sql: &str) -> String {
        // Several statements in one message are one transaction, and SET LOCAL ends with it.
        format!("{}; {sql}", self.local())
    }

    /// The beginning of a transaction of several statements.
    pub(super) fn begin(self) -> String {
        format!("BEGIN; {}", self.local())
    }

    fn local(self) -> String {
        let lock_timeout_ms = if self.purpose == Use::Source { 20 } else { 5000 };
        format!(
            "SET LOCAL transaction_isolation = 'read committed'; SET LOCAL DateStyle = 'ISO'; SET LOCAL TimeZone = \
             'UTC'; SET LOCAL lock_timeout = {lock_timeout_ms}; SET LOCAL statement_timeout = {}; SET LOCAL \
             synchronous_commit = on",
            ANSWER_TIMEOUT.as_millis() - 1000
        )
    }
}

/// Writes a text as a literal of ASCII characters only.
pub(super) fn write_text(out: &mut String, text: &str) -> fmt::Result {
    if is_plain(text) {
        return write!(out, "'{text}'");
    }
    // With the prefix E, the escapes hold whatever the setting standard_conforming_strings is.
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
    use crate::Value;
    use crate::literal::with;

    #[test]
    fn parameters_become_literals_that_mean_the_same_everywhere() {
        let text = |text: &str| Value::Text(text.to_owned());
        let check = |args: &[Value], want: &str| assert_eq!(with("a ? b ?", args, write_text), want);
        check(&[Value::Int(-3), Value::Null], "a -3 b NULL");
        check(&[text("7/t2014-04-03 21:13:45"), text("")], "a '7/t2014-04-03 21:13:45' b ''");
        check(&[text("it's \\ ?"), text("é\n😀")], r"a E'it\u0027s \u005c ?' b E'\u00e9\u000a\U0001f600'");
    }

    #[test]
    fn nothing_is_set_that_outlives_the_transaction() {
        for purpose in [Use::Source, Use::Ledger { create: true }, Use::Setup { create: true }] {
            let settings = Settings { purpose };
            for text in [settings.alone("DELETE x"), settings.begin()] {
                for one in text.split("; ").filter(|one| one.starts_with("SET ")) {
                    assert!(one.starts_with("SET LOCAL "), "{one}");
                }
            }
        }
    }
}
