//! Writes parameters into the text of a statement. On servers no statement is prepared, because prepared statements do
//! not work through a pooler.

// Not used if both servers are left out.
#![cfg_attr(not(all(feature = "mysql", feature = "postgres")), allow(dead_code))]

use std::fmt::{self, Write as _};

use crate::Value;

/// Writes a text as a literal whose meaning does not depend on the settings of the session.
pub(crate) type WriteText = fn(&mut String, &str) -> fmt::Result;

/// The statement with a literal in the place of each `?`. No statement of this program has a `?` inside a text.
pub(crate) fn with(sql: &str, args: &[Value], text: WriteText) -> String {
    let mut parts = sql.split('?');
    let mut out = String::with_capacity(sql.len() + 32 * args.len());
    out.push_str(parts.next().unwrap_or_default());
    for (part, arg) in parts.zip(args) {
        // Writing to a String cannot fail.
        let _ = match arg {
            Value::Null => write!(out, "NULL"),
            Value::Int(int) => write!(out, "{int}"),
            Value::Text(value) => text(&mut out, value),
        };
        out.push_str(part);
    }
    out
}

/// Whether the text means the same in every character set and every SQL mode.
pub(crate) fn is_plain(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_alphanumeric() || b" -_:./+,()".contains(&b))
}
