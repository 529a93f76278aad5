//! Parameters written into a statement: on servers nothing is prepared.

// Not used where all servers are left out.
#![cfg_attr(not(all(feature = "mysql", feature = "postgres")), allow(dead_code))]

use std::fmt::{self, Write as _};

use crate::Value;

/// Writes a text as a literal that means the same whatever the session's settings are.
pub(crate) type WriteText = fn(&mut String, &str) -> fmt::Result;

/// The statement with its parameters written in where its `?` are. No statement here has a `?` in a text.
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
