//! Recognises log lines by the name of their event. In: a name, and values of other fields. Out: whether a line has
//! them, in text or in JSON. It never looks at the words of a line.

use std::fmt::Display;

use crate::LinePattern;

/// A pattern of log lines with this event.
#[must_use]
pub fn event(name: impl Display) -> Event {
    Event { fields: vec![("event", name.to_string())] }
}

/// A pattern of log lines: see [`event`].
#[derive(Clone, Debug)]
pub struct Event {
    fields: Vec<(&'static str, String)>,
}

impl Event {
    /// Matches only lines in which this field also has this value.
    #[must_use]
    pub fn with(mut self, field: &'static str, value: impl Display) -> Event {
        self.fields.push((field, value.to_string()));
        self
    }

    /// How many lines of a text match.
    #[must_use]
    pub fn count(&self, text: &str) -> usize {
        text.lines().filter(|line| self.is_in(line)).count()
    }
}

impl LinePattern for Event {
    fn is_in(&self, line: &str) -> bool {
        self.fields.iter().all(|(name, value)| {
            has(line, &format!(" {name}={value}"))
                || line.contains(&format!(" {name}=\"{value}\""))
                || line.contains(&format!("\"{name}\":\"{value}\""))
        })
    }

    fn describe(&self) -> String {
        let fields: Vec<String> = self.fields.iter().map(|(name, value)| format!("{name}={value}")).collect();
        format!("a log line with {}", fields.join(" "))
    }
}

/// Whether the line contains the text, followed by a blank or the line's end.
fn has(line: &str, text: &str) -> bool {
    line.match_indices(text).any(|(at, _)| line[at + text.len()..].chars().next().is_none_or(|next| next == ' '))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_known_by_its_event_whatever_it_says() {
        let text = "2026-01-01T00:00:00Z  WARN trying again part=\"bus\" after_s=3 event=part_down";
        let json =
            r#"{"level":"WARN","fields":{"message":"trying again","part":"bus","after_s":3,"event":"part_down"}}"#;
        for line in [text, json] {
            assert!(event("part_down").is_in(line));
            assert!(event("part_down").with("part", "bus").is_in(line));
            assert!(!event("part_down").with("part", "ledger").is_in(line));
            assert!(!event("part").is_in(line));
        }
        assert!(!event("part_down").is_in("somebody says event=part_downright"));
        assert_eq!(event("part_down").count(&format!("{text}\n{json}\nsomething else\n")), 2);
        assert_eq!(event("part_down").with("part", "bus").describe(), "a log line with event=part_down part=bus");
    }
}
