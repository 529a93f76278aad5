//! Which log lines are written: reads `RUST_LOG`.
//!
//! Goes in: directives, `LEVEL` or `TARGET=LEVEL`, separated by commas. Comes out: a filter, and the directives that it
//! cannot follow. Never lets lines through of libraries that write what they send and receive.
//!
//! `tracing_subscriber::EnvFilter` would also filter by span and by field. There are no spans here, and it needs a
//! regular expression engine, which takes long to compile.

use std::fmt;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;

/// Log filter directives that silence libraries whose lines would repeat what bugfeed itself logs, once per attempt.
const QUIET_LIBRARIES: &str = "lapin=off,sqlx=error";

/// The targets that are never logged. At level `trace`, lapin would write the broker's login into the log, byte by byte, and
/// tungstenite the messages of clients, which may hold a token.
const NEVER: [&str; 2] = ["lapin", "tungstenite"];

/// The target of warnings about the directives themselves.
pub(crate) const TARGET: &str = "bugfeed::rust_log";

/// What was read from `RUST_LOG`.
#[derive(Debug)]
pub(crate) struct LogFilter {
    /// Decides whether a line is written.
    pub(crate) targets: Targets,
    /// The directives that were left out.
    pub(crate) left_out: LeftOut,
}

/// Directives that cannot be followed, in the user's words.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct LeftOut(Vec<String>);

impl LeftOut {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "RUST_LOG: left out '{}'; write LEVEL or TARGET=LEVEL, with commas between them, where LEVEL is off, error, \
             warn, info, debug or trace; spans and fields cannot be filtered by",
            self.0.join("', '")
        )
    }
}

impl LogFilter {
    /// Reads the value of `RUST_LOG`. If it is not set, or no directive in it can be followed, lines from `info` on are
    /// written. If it is empty, only errors are.
    pub(crate) fn new(rust_log: Option<&str>) -> LogFilter {
        let mut left_out = LeftOut::default();
        let mut targets = Targets::new();
        let mut found = false;
        for directive in rust_log.map(split).unwrap_or_default() {
            match parse(directive) {
                None => left_out.0.push(directive.to_owned()),
                Some(parsed) => {
                    found = true;
                    targets = match parsed {
                        (None, level) => targets.with_default(level),
                        (Some(target), _) if NEVER.iter().any(|never| target.starts_with(never)) => targets,
                        (Some(target), level) => targets.with_target(target, level),
                    };
                }
            }
        }
        if rust_log.is_none() || (!found && !left_out.is_empty()) {
            targets = format!("info,{QUIET_LIBRARIES}").parse().expect("directives");
        } else if !found {
            targets = targets.with_default(LevelFilter::ERROR);
        }
        if !left_out.is_empty() {
            targets = targets.with_target(TARGET, LevelFilter::WARN);
        }
        for never in NEVER {
            targets = targets.with_target(never, LevelFilter::OFF);
        }
        LogFilter { targets, left_out }
    }
}

/// The directives without empty ones. A comma within brackets is part of a directive.
fn split(text: &str) -> Vec<&str> {
    let mut depth = 0_u32;
    let directives = text.split(|c| {
        match c {
            '[' | '{' => depth += 1,
            ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    });
    directives.map(str::trim).filter(|directive| !directive.is_empty()).collect()
}

/// The target, if there is one, and the lowest level that is written. A target alone means that all its lines are
/// written.
fn parse(directive: &str) -> Option<(Option<&str>, LevelFilter)> {
    let (target, level) = match directive.split_once('=') {
        Some((target, level)) => (target.trim(), level.trim().parse().ok()?),
        None => match directive.parse() {
            Ok(level) => return Some((None, level)),
            Err(_) => (directive, LevelFilter::TRACE),
        },
    };
    let is_path = !target.is_empty() && target.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | ':' | '-'));
    is_path.then_some((Some(target), level))
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    /// From which level on a target's lines are written.
    fn from(rust_log: Option<&str>, target: &str) -> LevelFilter {
        let filter = LogFilter::new(rust_log);
        let levels = [Level::TRACE, Level::DEBUG, Level::INFO, Level::WARN, Level::ERROR];
        let written = |level: &Level| filter.targets.would_enable(target, level);
        levels.into_iter().find(written).map_or(LevelFilter::OFF, LevelFilter::from_level)
    }

    #[test]
    fn directives_that_people_write() {
        use LevelFilter as L;
        for (rust_log, levels) in [
            (None, [L::INFO, L::INFO, L::ERROR, L::INFO]),
            (Some("info"), [L::INFO, L::INFO, L::INFO, L::INFO]),
            (Some("debug"), [L::DEBUG; 4]),
            (Some("TRACE"), [L::TRACE; 4]),
            (Some("off"), [L::OFF; 4]),
            (Some("3"), [L::INFO; 4]),
            (Some(""), [L::ERROR; 4]),
            (Some(","), [L::ERROR; 4]),
            (Some("bugfeed=debug,lapin=warn"), [L::DEBUG, L::DEBUG, L::OFF, L::OFF]),
            (Some("info,bugfeed::events=debug"), [L::INFO, L::DEBUG, L::INFO, L::INFO]),
            (Some(" warn , bugfeed_shim = debug, hyper=off"), [L::WARN, L::WARN, L::WARN, L::OFF]),
            (Some("bugfeed"), [L::TRACE, L::TRACE, L::OFF, L::OFF]),
            (Some("info,bugfeed="), [L::ERROR, L::ERROR, L::INFO, L::INFO]),
        ] {
            let targets = ["bugfeed::app", "bugfeed::events", "sqlx::query", "hyper"];
            assert_eq!(targets.map(|target| from(rust_log, target)), levels, "{rust_log:?}");
        }
    }

    #[test]
    fn libraries_that_write_secrets_are_never_traced() {
        for rust_log in [
            None,
            Some("trace"),
            Some("lapin=trace"),
            Some("lapin::io_loop=trace,lapin_x"),
            Some("lapin"),
            Some("tungstenite=trace,tungstenite::protocol"),
        ] {
            for target in ["lapin", "lapin::io_loop", "tungstenite", "tungstenite::protocol"] {
                assert_eq!(from(rust_log, target), LevelFilter::OFF, "{rust_log:?} {target}");
            }
        }
    }

    #[test]
    fn what_cannot_be_followed_is_said() {
        for (rust_log, left_out, level) in [
            ("info,bugfeed[span{a=1,b}]=debug", "'bugfeed[span{a=1,b}]=debug'", LevelFilter::INFO),
            ("[x]=debug", "'[x]=debug'", LevelFilter::INFO),
            ("debug,bugfeed=loud,a b", "'bugfeed=loud', 'a b'", LevelFilter::DEBUG),
        ] {
            let filter = LogFilter::new(Some(rust_log));
            let text = filter.left_out.to_string();
            assert!(text.contains(left_out) && text.contains("TARGET=LEVEL"), "{text}");
            assert!(filter.targets.would_enable(TARGET, &Level::WARN), "{rust_log}");
            assert_eq!(from(Some(rust_log), "bugfeed::app"), level, "{rust_log}");
        }
        // The warning is written even if everything else is off.
        assert_eq!(from(Some("off,[x]=debug"), TARGET), LevelFilter::WARN);
        assert!(LogFilter::new(Some("info,bugfeed=debug")).left_out.is_empty());
    }
}
