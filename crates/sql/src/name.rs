//! Names of tables and columns that people choose.
//!
//! Goes in: a text. Comes out: a name that may be quoted and put into a statement, or what is allowed.

use std::fmt;
use std::str::FromStr;

/// A table or column name: letters, digits, `_`, `$`; a table may have its schema before a dot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name(String);

/// The text is no name this program accepts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' is not a table or column name; use letters, digits, '_' and '$', at most 64, as in push_notify or schema.push_notify"
)]
pub struct BadName(String);

impl FromStr for Name {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Name, BadName> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '$';
        let part_fits = |part: &str| !part.is_empty() && part.len() <= 64 && part.chars().all(allowed);
        if text.split('.').count() <= 2 && text.split('.').all(part_fits) {
            Ok(Name(text.to_owned()))
        } else {
            Err(BadName(text.chars().take(80).collect()))
        }
    }
}

impl Name {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Schema, if given, and the name within it.
    pub fn parts(&self) -> (Option<&str>, &str) {
        match self.0.split_once('.') {
            Some((schema, name)) => (Some(schema), name),
            None => (None, &self.0),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["push_notify", "bugs.push_notify", "a$1", "ID"] {
            assert_eq!(good.parse::<Name>().map(|n| n.to_string()), Ok(good.to_owned()));
        }
        for bad in ["", ".", "a.", "a.b.c", "a b", "a;b", "a`b", "a\"b", "tablé", &"x".repeat(65)] {
            assert!(bad.parse::<Name>().is_err(), "{bad}");
        }
    }
}
