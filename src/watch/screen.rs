//! What `bugfeed watch` shows: changes on one stream, and the state of the connection on another, as lines or, on a
//! terminal, as one line that is overwritten.
//!
//! In: changes, gaps, states. Out: text. Never writes a colour into JSON, nor a status to the stream of changes. A
//! status that cannot be written is dropped.

use std::ffi::OsStr;
use std::io::{self, Write};

use bugfeed_protocol::Change;
use bugfeed_protocol::client::WhichBugs;

const BOLD: &str = "\x1b[1m";
const DIM: &str = "\x1b[2m";
const YELLOW: &str = "\x1b[33m";
const RESET: &str = "\x1b[0m";
/// Moves to the beginning of the line, and clears it.
const CLEAR: &str = "\r\x1b[2K";
/// Switches line wrapping off, so that a long line is cut off (a wrapped line could not be overwritten); [`WRAP`]
/// switches it on again.
const NO_WRAP: &str = "\x1b[?7l";
const WRAP: &str = "\x1b[?7h";

/// When output is coloured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ColorChoice {
    /// On a terminal, unless NO_COLOR is set.
    Auto,
    /// Also in pipes and files.
    Always,
    /// Not at all.
    Never,
}

/// Whether to colour what goes to a terminal, or to something else. `no_color` is the variable `NO_COLOR`, `term` the
/// variable `TERM`.
pub fn use_color(choice: ColorChoice, is_terminal: bool, no_color: Option<&OsStr>, term: Option<&OsStr>) -> bool {
    match choice {
        ColorChoice::Always => true,
        ColorChoice::Never => false,
        ColorChoice::Auto => {
            is_terminal && no_color.is_none_or(OsStr::is_empty) && term.is_none_or(|term| term != "dumb")
        }
    }
}

/// Both output streams.
#[derive(Debug)]
pub struct Screen<O, S> {
    out: O,
    status: S,
    color: bool,
    quiet: bool,
    /// Whether the status is one line of a terminal.
    live: bool,
    /// The text of the status line.
    line: String,
    changes: u64,
}

impl<O: Write, S: Write> Screen<O, S> {
    /// Changes go to `out`, coloured if `color` is set. States go to `status`: as one line that is overwritten if
    /// `live` is set, and not at all if `quiet` is set.
    pub fn new(out: O, status: S, color: bool, live: bool, quiet: bool) -> Screen<O, S> {
        Screen { out, status, color, quiet, live, line: String::new(), changes: 0 }
    }

    /// Prints a change and flushes it at once.
    ///
    /// # Errors
    /// When the stream of changes cannot be written to.
    pub fn change(&mut self, change: Change, json: bool) -> io::Result<()> {
        let Change { bug, when } = change;
        self.changes += 1;
        if json {
            return self.print(&serde_json::to_string(&change)?);
        }
        let (dim, bold, reset) = if self.color { (DIM, BOLD, RESET) } else { ("", "", "") };
        self.print(&format!("{dim}{when}{reset}  bug {bold}{bug}{reset} changed"))
    }

    /// Prints a gap: these bugs may have changed.
    ///
    /// # Errors
    /// When the stream of changes cannot be written to.
    pub fn gap(&mut self, bugs: &WhichBugs, json: bool) -> io::Result<()> {
        if json {
            let bugs = match bugs {
                WhichBugs::All => serde_json::json!(super::ALL),
                WhichBugs::These(bugs) => serde_json::json!(bugs),
            };
            return self.print(&serde_json::json!({ "gap": true, "bugs": bugs }).to_string());
        }
        let (yellow, reset) = if self.color { (YELLOW, RESET) } else { ("", "") };
        let which = match bugs {
            WhichBugs::All => "bugs".to_owned(),
            WhichBugs::These(bugs) => {
                let list: Vec<String> = bugs.iter().map(ToString::to_string).collect();
                format!("of these bugs: {}", list.join(", "))
            }
        };
        self.print(&format!("{yellow}gap{reset}: changes may have been missed; look at all {which}"))
    }

    /// Shows the state of the connection.
    pub fn status(&mut self, text: &str) {
        if self.live {
            self.line = text.to_owned();
            self.show();
        } else if !self.quiet {
            self.say(text);
        }
    }

    /// Shows a state that is of interest only for a moment, so only on a terminal's live line.
    pub fn progress(&mut self, text: &str) {
        if self.live {
            self.status(text);
        }
    }

    /// Shows a failure, even if `quiet` is set.
    pub fn warn(&mut self, text: &str) {
        self.hide();
        self.say(text);
        self.show();
    }

    /// Clears the status line, so that something else can be written to the terminal.
    pub fn hide(&mut self) {
        if self.is_shown() {
            let _ = write!(self.status, "{CLEAR}").and_then(|()| self.status.flush());
        }
    }

    /// Shows the status again.
    pub fn show(&mut self) {
        if self.is_shown() {
            let (line, changes) = (&self.line, self.changes);
            let plural = if changes == 1 { "" } else { "s" };
            let _ = write!(self.status, "{CLEAR}{NO_WRAP}{line} ({changes} change{plural}){WRAP}")
                .and_then(|()| self.status.flush());
        }
    }

    fn is_shown(&self) -> bool {
        self.live && !self.quiet && !self.line.is_empty()
    }

    fn say(&mut self, text: &str) {
        let _ = writeln!(self.status, "bugfeed watch: {text}");
    }

    fn print(&mut self, line: &str) -> io::Result<()> {
        self.hide();
        // The line is written in one call, because other programs may write into the same pipe.
        self.out.write_all(format!("{line}\n").as_bytes())?;
        self.out.flush()?;
        self.show();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bugfeed_protocol::{BugId, When};

    use super::*;

    fn change() -> Change {
        let when = When::parse_utc("2014-04-03T21:13:45").unwrap();
        Change { bug: BugId::new(1234).unwrap(), when }
    }

    /// Runs a test's calls on a screen, and returns what it wrote to both streams.
    fn shown(
        color: bool,
        live: bool,
        quiet: bool,
        write: impl FnOnce(&mut Screen<&mut Vec<u8>, &mut Vec<u8>>),
    ) -> (String, String) {
        let (mut out, mut status) = (Vec::new(), Vec::new());
        write(&mut Screen::new(&mut out, &mut status, color, live, quiet));
        (String::from_utf8(out).unwrap(), String::from_utf8(status).unwrap())
    }

    #[test]
    fn lines_for_people_and_for_programs() {
        let both = WhichBugs::These(vec![BugId::new(1).unwrap(), BugId::new(2).unwrap()]);
        for (color, json, want) in [
            (
                false,
                false,
                "2014-04-03T21:13:45  bug 1234 changed\n\
                 gap: changes may have been missed; look at all of these bugs: 1, 2\n",
            ),
            (true, true, "{\"bug\":1234,\"when\":\"2014-04-03T21:13:45\"}\n{\"bugs\":[1,2],\"gap\":true}\n"),
            (
                true,
                false,
                "\x1b[2m2014-04-03T21:13:45\x1b[0m  bug \x1b[1m1234\x1b[0m changed\n\
                 \x1b[33mgap\x1b[0m: changes may have been missed; look at all of these bugs: 1, 2\n",
            ),
        ] {
            let (out, status) = shown(color, false, false, |screen| {
                screen.change(change(), json).unwrap();
                screen.gap(&both, json).unwrap();
            });
            assert_eq!((&*out, &*status), (want, ""));
        }
    }

    #[test]
    fn a_gap_of_all_bugs() {
        let (out, _) = shown(false, false, false, |screen| {
            screen.gap(&WhichBugs::All, false).unwrap();
            screen.gap(&WhichBugs::All, true).unwrap();
        });
        assert_eq!(out, "gap: changes may have been missed; look at all bugs\n{\"bugs\":\"all\",\"gap\":true}\n");
    }

    #[test]
    fn the_status_is_lines_or_one_line_or_nothing() {
        let speak = |screen: &mut Screen<&mut Vec<u8>, &mut Vec<u8>>| {
            screen.progress("connecting");
            screen.status("connected");
            screen.change(change(), true).unwrap();
            screen.warn("it fails");
        };
        let (_, lines) = shown(false, false, false, speak);
        assert_eq!(lines, "bugfeed watch: connected\nbugfeed watch: it fails\n");
        for live in [false, true] {
            let (_, quiet) = shown(false, live, true, speak);
            assert_eq!(quiet, "bugfeed watch: it fails\n");
        }
        let (_, live) = shown(false, true, false, speak);
        let line = |text| format!("{CLEAR}{NO_WRAP}{text}{WRAP}");
        let before = line("connecting (0 changes)") + &line("connected (0 changes)");
        let after = format!("{CLEAR}{}", line("connected (1 change)"));
        assert_eq!(live, format!("{before}{after}{CLEAR}bugfeed watch: it fails\n{}", line("connected (1 change)")));
    }

    #[test]
    fn colours_where_they_are_wanted() {
        let (set, unset, empty, dumb) = (Some(OsStr::new("1")), None, Some(OsStr::new("")), Some(OsStr::new("dumb")));
        for (choice, is_terminal, no_color, term, want) in [
            (ColorChoice::Auto, true, unset, unset, true),
            (ColorChoice::Auto, true, empty, unset, true),
            (ColorChoice::Auto, true, set, unset, false),
            (ColorChoice::Auto, true, unset, dumb, false),
            (ColorChoice::Auto, false, unset, unset, false),
            (ColorChoice::Always, false, set, dumb, true),
            (ColorChoice::Never, true, unset, unset, false),
        ] {
            assert_eq!(use_color(choice, is_terminal, no_color, term), want, "{choice:?} {is_terminal} {no_color:?}");
        }
    }
}
