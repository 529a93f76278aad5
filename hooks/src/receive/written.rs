//! Places as they are written in the configuration: TOML that can be pasted, and is read as the same places.
//!
//! Goes in: what was read. Comes out: TOML. ([`Lookup`]'s `Display` is for sentences, and is no TOML.)

use std::fmt::Write as _;

use super::lookup::{Lookup, Place};

/// A text in quotes: with `"` where nothing in it must be escaped, otherwise with `'` where that is possible.
pub(crate) fn text(text: &str) -> String {
    let needs_escape = |c: char| c == '"' || c == '\\' || c.is_control();
    if !text.contains(needs_escape) {
        return format!("\"{text}\"");
    }
    if !text.contains(|c: char| c == '\'' || c.is_control()) {
        return format!("'{text}'");
    }
    let mut written = "\"".to_owned();
    for c in text.chars() {
        match c {
            '"' | '\\' => written.extend(['\\', c]),
            // Writing to a text does not fail.
            c if c.is_control() => drop(write!(written, "\\u{:04X}", u32::from(c))),
            c => written.push(c),
        }
    }
    written.push('"');
    written
}

/// One place.
pub(crate) fn place(place: &Place) -> String {
    match place {
        // Its `Display` has words for the item itself.
        Place::Pointer(pointer) => text(pointer),
        place => text(&place.to_string()),
    }
}

/// A place with its pattern and its form of dates.
pub(crate) fn lookup(lookup: &Lookup) -> String {
    let from = place(&lookup.place);
    let mut members = Vec::new();
    members.extend(lookup.pattern.as_ref().map(|pattern| format!("match = {}", text(pattern.as_str()))));
    if let Some(format) = &lookup.format {
        members.push(format!("format = {}", text(&format.to_string())));
        members.extend(format.zone().map(|zone| format!("timezone = {}", text(zone))));
    }
    if members.is_empty() && lookup.place.is_clear() { from } else { table(&from, &members) }
}

fn table(from: &str, members: &[String]) -> String {
    let mut all = vec![format!("from = {from}")];
    all.extend_from_slice(members);
    format!("{{ {} }}", all.join(", "))
}

/// A member of the configuration, as in `bug = ["/number", "/nr"]`.
pub(crate) fn member(name: &str, lookups: &[Lookup]) -> String {
    match lookups {
        [only] => format!("{name} = {}", lookup(only)),
        lookups => format!("{name} = [{}]", lookups.iter().map(lookup).collect::<Vec<_>>().join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::HooksConfig;

    /// What is read of a member.
    fn read(line: &str) -> Vec<Lookup> {
        let text = format!("[[source]]\nname = \"x\"\nbug = \"/bug\"\n{line}\n");
        let mut config =
            HooksConfig::read("x", &text, &|_| Err(String::new())).unwrap_or_else(|e| panic!("{line}: {e}"));
        let members = config.sources.remove(0).mapping.rules.remove(0).members;
        if line.starts_with("when") { members.when } else { members.is_private }.unwrap()
    }

    #[test]
    fn what_is_written_is_read_as_the_same_places() {
        for line in [
            "is_private = \"/p\"",
            "is_private = \"\"",
            "is_private = []",
            "is_private = [\"/hidden\", { from = \"/issue/visibility\", match = \"^(staff|owner)$\" }, \"public\"]",
            "is_private = { from = [\"header:X-A\", \"root:/~0~1/é\"], match = '^\"\\w+\"$' }",
            "is_private = { from = \"/Type (old)\" }",
            "is_private = { from = \"/a'\\\"b\\\\\", match = \"'\\\"\\t\\u007f\" }",
            "when = [\"/at\", { from = \"/at\", match = \"on (.*)$\", format = \"%d.%m.%Y %H:%M\", timezone = \"Europe/Berlin\" }, \"now\"]",
            "when = { from = \"/at\", format = \"%d.%m.%Y %H:%M:%S %z\" }",
        ] {
            let name = line.split(' ').next().unwrap();
            let lookups = read(line);
            let written = member(name, &lookups);
            assert_eq!(format!("{:?}", read(&written)), format!("{lookups:?}"), "{written}");
        }
    }
}
