//! Tables and pairs for people.

use serde_json::Value;

/// Rows of columns, aligned to the left, two blanks apart.
pub(super) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = head.iter().map(|name| name.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let head: Vec<String> = head.iter().map(|name| (*name).to_owned()).collect();
    let mut text = String::new();
    for row in std::iter::once(&head).chain(rows) {
        let mut line = String::new();
        for (width, cell) in widths.iter().zip(row) {
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', width + 2 - cell.chars().count()));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Names and values, one pair a line; without those that say nothing.
pub(super) fn pairs(pairs: &[(&str, String)]) -> String {
    let told: Vec<_> = pairs.iter().filter(|(_, value)| !value.is_empty() && value != "-").collect();
    let width = told.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    told.iter().map(|(name, value)| format!("{name:width$}  {value}\n")).collect()
}

/// A member as text: `-` for null.
pub(super) fn cell(object: &Value, member: &str) -> String {
    text(&object[member])
}

/// A value as text, without characters that a terminal would obey.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) if text.is_empty() => "-".to_owned(),
        Value::String(text) => harmless(text),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::Array(values) if values.is_empty() => "-".to_owned(),
        Value::Array(values) => values.iter().map(self::text).collect::<Vec<_>>().join(", "),
        other => harmless(&other.to_string()),
    }
}

/// So many of something: `1 event`, `2 events`.
pub(super) fn count(number: u64, one: &str) -> String {
    if number == 1 { format!("1 {one}") } else { format!("{number} {one}s") }
}

/// A time to the second.
pub(super) fn time(value: &Value) -> String {
    match value.as_str() {
        Some(text) => harmless(text.split('.').next().unwrap_or_default()).replace('T', " "),
        None => "-".to_owned(),
    }
}

/// A text of somebody else for a terminal: control characters, and those that change the direction, are replaced.
pub(super) fn harmless(text: &str) -> String {
    let is_odd = |c: char| {
        c.is_control() || matches!(c, '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().map(|c| if is_odd(c) { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn columns_are_aligned() {
        let rows = [vec!["a".to_owned(), "é".to_owned()], vec!["long".to_owned(), "x".to_owned()]];
        assert_eq!(table(&["ID", "NAME"], &rows), "ID    NAME\na     é\nlong  x\n");
        assert_eq!(pairs(&[("id", "1".to_owned()), ("gone", "-".to_owned()), ("x", "2".to_owned())]), "id  1\nx   2\n");
    }

    #[test]
    fn nothing_of_a_sender_reaches_the_terminal_as_an_order() {
        let value = json!({ "kind": "a\u{1b}[31mb\r\n\u{202e}c" });
        assert_eq!(cell(&value, "kind"), "a\u{fffd}[31mb\u{fffd}\u{fffd}\u{fffd}c");
        assert_eq!(
            (cell(&value, "none"), time(&json!("2026-11-26T12:00:00.5"))),
            ("-".into(), "2026-11-26 12:00:00".into())
        );
    }
}
