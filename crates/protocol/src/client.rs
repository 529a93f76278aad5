//! Commands as clients send them: one JSON text frame in, one [`Command`] or one [`Refusal`] out.

use serde_json::Value;

use crate::change::{BugId, When};
use crate::cursor::Cursor;
use crate::incoming::{Bugs, Members};
use crate::token::Token;

/// A command that was understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Use the modern protocol from now on.
    Hello {
        /// How often the client wants a heartbeat, in seconds; limited to [`HEARTBEAT_S`].
        heartbeat_s: u64,
        /// What the client shows in order to be let in. Where no token is needed, nobody looks at it.
        token: Option<Token>,
    },
    /// Send the changes of these bugs from now on, and first those since `since` (inclusive).
    Subscribe {
        /// Which bugs.
        bugs: WhichBugs,
        /// From which time on to catch up.
        since: Option<When>,
        /// The cursor after which to catch up. Only the modern protocol has it; in the classic one it is an unknown
        /// member.
        resume: Option<Resume>,
    },
    /// Stop sending the changes of these bugs.
    Unsubscribe {
        /// Which bugs.
        bugs: WhichBugs,
    },
    /// List the session's bugs.
    Subscriptions,
    /// Say which version runs.
    Version,
}

/// The bugs that a command is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WhichBugs {
    /// All bugs of the feed, also those that change for the first time later. Only the modern protocol has it; in the
    /// classic one it is an invalid bug. It is a subscription of its own, beside those to single bugs.
    All,
    /// These, ascending, each once.
    These(Vec<BugId>),
}

impl WhichBugs {
    /// How many subscriptions that is.
    pub fn count(&self) -> usize {
        match self {
            WhichBugs::All => 1,
            WhichBugs::These(bugs) => bugs.len(),
        }
    }

    /// Whether it is all bugs.
    pub fn is_all(&self) -> bool {
        matches!(self, WhichBugs::All)
    }
}

impl Default for WhichBugs {
    /// No bugs.
    fn default() -> WhichBugs {
        WhichBugs::These(Vec::new())
    }
}

impl From<Vec<BugId>> for WhichBugs {
    /// These bugs, which must be ascending, each once.
    fn from(bugs: Vec<BugId>) -> WhichBugs {
        WhichBugs::These(bugs)
    }
}

/// The seconds between heartbeats that a client may ask for. A client that does not say gets one every 30 s.
pub const HEARTBEAT_S: std::ops::RangeInclusive<u64> = 1..=300;
const DEFAULT_HEARTBEAT_S: u64 = 30;

/// The cursor a client resumes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resume {
    /// A cursor of any epoch.
    From(Cursor),
    /// A text that is no cursor. It is answered with `gap`, because a gap repairs a client whose stored cursor is
    /// damaged; an error would repeat for ever.
    Unreadable,
}

impl Command {
    /// The command's name, which the reply repeats.
    pub const fn name(&self) -> &'static str {
        match self {
            Command::Hello { .. } => "hello",
            Command::Subscribe { .. } => "subscribe",
            Command::Unsubscribe { .. } => "unsubscribe",
            Command::Subscriptions => "subscriptions",
            Command::Version => "version",
        }
    }
}

/// Why a frame was refused; becomes an error reply on a connection that stays open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The command as the client wrote it (cut to 64 characters); `None` if there was none.
    pub command: Option<String>,
    /// What was wrong.
    pub error: &'static str,
}

/// The error texts. Those of the original server stay the same, because clients may compare them; the others are for
/// faults that the original server did not answer.
pub mod errors {
    /// An unknown command.
    pub const INVALID_COMMAND: &str = "invalid command";
    /// No `bugs` in subscribe or unsubscribe.
    pub const MISSING_BUGS: &str = "missing mandatory arg: 'bugs'";
    /// An element of `bugs` that is no bug number.
    pub const INVALID_BUG: &str = "invalid bug id; must be integer";
    /// Not JSON.
    pub const NOT_JSON: &str = "invalid message; must be JSON";
    /// JSON, but no object.
    pub const NOT_AN_OBJECT: &str = "invalid message; must be a JSON object";
    /// No `command`.
    pub const MISSING_COMMAND: &str = "missing mandatory arg: 'command'";
    /// A `since` that is no date.
    pub const INVALID_SINCE: &str = "invalid since; must be a UTC date from 1970 to 2199 such as 2014-04-03T21:13:45";
    /// A `cursor` that is no text.
    pub const INVALID_CURSOR: &str = "invalid cursor; must be a text as the gateway sent it";
    /// A `heartbeat` that is no number.
    pub const INVALID_HEARTBEAT: &str = "invalid heartbeat; must be a number of seconds from 1 to 300";
    /// All bugs, on a gateway that does not serve them together.
    pub const ALL_NOT_ALLOWED: &str =
        "this gateway does not serve \"all\"; the operator allows it with the option --allow-all";
    /// More subscriptions than a session may have.
    pub const TOO_MANY: &str = "too many subscriptions";
    /// A command of a client that has shown no token, on a gateway that wants one.
    pub const TOKEN_NEEDED: &str = "a token is needed: send it in hello, or as Authorization: Bearer";
}

/// Reads one text frame.
///
/// Unknown members are ignored; `since` may be absent, null, empty, 0 or false. One bad element of `bugs` refuses the
/// whole command.
///
/// # Errors
/// If the command is refused; the error is what to answer.
pub fn parse(text: &str) -> Result<Command, Refusal> {
    let refuse = |command: Option<&str>, error| Refusal { command: command.map(shorten), error };
    let Ok(members) = serde_json::from_str::<Members>(text) else {
        let json = serde_json::from_str::<Value>(text).is_ok();
        return Err(refuse(None, if json { errors::NOT_AN_OBJECT } else { errors::NOT_JSON }));
    };
    let Members { command, bugs, since, cursor, heartbeat, token } = members;
    let command = match command {
        None | Some(Value::Null) => return Err(refuse(None, errors::MISSING_COMMAND)),
        Some(Value::String(command)) => command,
        Some(other) => return Err(refuse(Some(&other.to_string()), errors::INVALID_COMMAND)),
    };
    let parsed = match command.as_str() {
        "hello" => {
            take_heartbeat(heartbeat).map(|heartbeat_s| Command::Hello { heartbeat_s, token: take_token(token) })
        }
        "subscribe" => take_bugs(bugs).and_then(|bugs| {
            let since = take_since(since)?;
            Ok(Command::Subscribe { bugs, since, resume: take_resume(cursor)? })
        }),
        "unsubscribe" => take_bugs(bugs).map(|bugs| Command::Unsubscribe { bugs }),
        "subscriptions" => Ok(Command::Subscriptions),
        "version" => Ok(Command::Version),
        _ => Err(errors::INVALID_COMMAND),
    };
    parsed.map_err(|error| refuse(Some(&command), error))
}

/// The part of an unknown command that the reply repeats: enough to recognise it, but short, so that nobody gains by
/// sending a long one.
fn shorten(command: &str) -> String {
    command.chars().take(64).collect()
}

fn take_bugs(bugs: Option<Bugs>) -> Result<WhichBugs, &'static str> {
    let mut which = bugs.ok_or(errors::MISSING_BUGS)?.0.ok_or(errors::INVALID_BUG)?;
    if let WhichBugs::These(bugs) = &mut which {
        bugs.sort_unstable();
        bugs.dedup();
        // The list may wait in memory for a slow client.
        bugs.shrink_to_fit();
    }
    Ok(which)
}

fn take_heartbeat(value: Option<Value>) -> Result<u64, &'static str> {
    match value {
        None | Some(Value::Null) => Ok(DEFAULT_HEARTBEAT_S),
        Some(value) => {
            let seconds = value.as_u64().ok_or(errors::INVALID_HEARTBEAT)?;
            Ok(seconds.clamp(*HEARTBEAT_S.start(), *HEARTBEAT_S.end()))
        }
    }
}

/// What is no text is no token, and stands for one that nobody knows.
fn take_token(value: Option<Value>) -> Option<Token> {
    match value {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(Token::new(&text)),
        Some(_) => Some(Token::new("")),
    }
}

fn take_resume(value: Option<Value>) -> Result<Option<Resume>, &'static str> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(Cursor::parse(&text).map_or(Resume::Unreadable, Resume::From))),
        Some(_) => Err(errors::INVALID_CURSOR),
    }
}

fn take_since(value: Option<Value>) -> Result<Option<When>, &'static str> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.trim().is_empty() => Ok(None),
        // The original server took these values for "no date".
        Some(value) if value == Value::Bool(false) || value.as_u64() == Some(0) => Ok(None),
        Some(Value::String(text)) => When::parse_utc(&text).map(Some).map_err(|_| errors::INVALID_SINCE),
        Some(_) => Err(errors::INVALID_SINCE),
    }
}

#[cfg(test)]
mod tests {
    use super::errors::*;
    use super::*;

    fn bugs(numbers: &[u64]) -> WhichBugs {
        WhichBugs::These(numbers.iter().map(|n| BugId::new(*n).unwrap()).collect())
    }

    #[test]
    fn commands_that_are_understood() {
        let subscribe = |numbers: &[u64]| Command::Subscribe { bugs: bugs(numbers), since: None, resume: None };
        for (text, want) in [
            (r#"{"command":"subscribe","bugs":[1234,5678]}"#, subscribe(&[1234, 5678])),
            (r#"{"command":"subscribe","bugs":1234}"#, subscribe(&[1234])),
            (r#"{"command":"subscribe","bugs":" 1234 "}"#, subscribe(&[1234])),
            (r#"{"command":"subscribe","bugs":["1",2,2,"2"]}"#, subscribe(&[1, 2])),
            (r#"{"command":"subscribe","bugs":[]}"#, subscribe(&[])),
            (r#"{"command":"subscribe","bugs":1,"since":""}"#, subscribe(&[1])),
            (r#"{"command":"subscribe","bugs":1,"since":null,"x":{"y":[]}}"#, subscribe(&[1])),
            (r#"{"command":"subscribe","bugs":1,"since":0}"#, subscribe(&[1])),
            (r#"{"command":"subscribe","bugs":1,"since":false}"#, subscribe(&[1])),
            (r#"{"command":"unsubscribe","bugs":"7"}"#, Command::Unsubscribe { bugs: bugs(&[7]) }),
            (
                r#"{"command":"subscribe","bugs":" all "}"#,
                Command::Subscribe { bugs: WhichBugs::All, since: None, resume: None },
            ),
            (r#"{"command":"unsubscribe","bugs":"all"}"#, Command::Unsubscribe { bugs: WhichBugs::All }),
            (r#" {"command":"subscriptions"} "#, Command::Subscriptions),
            (r#"{"command":"version","bugs":"ignored"}"#, Command::Version),
        ] {
            assert_eq!(parse(text), Ok(want), "{text}");
        }
        let since = When::parse_utc("2014-04-03T21:13:45").unwrap();
        let text = r#"{"command":"subscribe","bugs":1,"since":"2014-04-03 21:13:45Z"}"#;
        assert_eq!(parse(text), Ok(Command::Subscribe { bugs: bugs(&[1]), since: Some(since), resume: None }));
    }

    #[test]
    fn a_list_of_repeats_keeps_no_memory() {
        let text = format!(r#"{{"command":"subscribe","bugs":[{}1]}}"#, "1,".repeat(100_000));
        let Ok(Command::Subscribe { bugs: WhichBugs::These(bugs), .. }) = parse(&text) else { panic!("refused") };
        assert!(bugs.len() == 1 && bugs.capacity() < 10, "{}", bugs.capacity());
    }

    #[test]
    fn modern_commands() {
        let resume = |text| match parse(text) {
            Ok(Command::Subscribe { resume, .. }) => resume,
            other => panic!("{text}: {other:?}"),
        };
        assert_eq!(resume(r#"{"command":"subscribe","bugs":1,"cursor":null}"#), None);
        assert_eq!(resume(r#"{"command":"subscribe","bugs":1,"cursor":""}"#), Some(Resume::Unreadable));
        let from = Resume::From(Cursor::parse("E.42").unwrap());
        assert_eq!(resume(r#"{"command":"subscribe","bugs":1,"cursor":"E.42"}"#), Some(from));
        assert_eq!(resume(r#"{"command":"subscribe","bugs":1,"cursor":"damaged"}"#), Some(Resume::Unreadable));
        for (text, want) in [
            (r#"{"command":"hello"}"#, 30),
            (r#"{"command":"hello","heartbeat":10}"#, 10),
            (r#"{"command":"hello","heartbeat":0}"#, 1),
            (r#"{"command":"hello","heartbeat":100000}"#, 300),
        ] {
            assert_eq!(parse(text), Ok(Command::Hello { heartbeat_s: want, token: None }), "{text}");
        }
        for (text, want) in [
            (r#"{"command":"hello","token":"a.b.c"}"#, Some("a.b.c")),
            (r#"{"command":"hello","token":null}"#, None),
            (r#"{"command":"hello","token":7}"#, Some("")),
        ] {
            let token = want.map(Token::new);
            assert_eq!(parse(text), Ok(Command::Hello { heartbeat_s: 30, token }), "{text}");
        }
    }

    #[test]
    fn refusals() {
        let long = format!(r#"{{"command":"{}"}}"#, "é".repeat(1000));
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        for (text, command, error) in [
            ("", None, NOT_JSON),
            ("hello", None, NOT_JSON),
            (r#"{"command":"subscribe""#, None, NOT_JSON),
            (&deep, None, NOT_JSON),
            ("[]", None, NOT_AN_OBJECT),
            ("null", None, NOT_AN_OBJECT),
            ("7", None, NOT_AN_OBJECT),
            ("{}", None, MISSING_COMMAND),
            (r#"{"command":null}"#, None, MISSING_COMMAND),
            (r#"{"command":7}"#, Some("7"), INVALID_COMMAND),
            (r#"{"command":"nonsense"}"#, Some("nonsense"), INVALID_COMMAND),
            (r#"{"command":"Subscribe","bugs":1}"#, Some("Subscribe"), INVALID_COMMAND),
            (&long, Some(&"é".repeat(64)), INVALID_COMMAND),
            (r#"{"command":"subscribe"}"#, Some("subscribe"), MISSING_BUGS),
            (r#"{"command":"unsubscribe"}"#, Some("unsubscribe"), MISSING_BUGS),
            (r#"{"command":"subscribe","bugs":null}"#, Some("subscribe"), INVALID_BUG),
            (r#"{"command":"subscribe","bugs":-1}"#, Some("subscribe"), INVALID_BUG),
            (r#"{"command":"subscribe","bugs":0}"#, Some("subscribe"), INVALID_BUG),
            (r#"{"command":"subscribe","bugs":9223372036854775808}"#, Some("subscribe"), INVALID_BUG),
            (r#"{"command":"subscribe","bugs":99999999999999999999}"#, Some("subscribe"), INVALID_BUG),
            (r#"{"command":"subscribe","bugs":1.5}"#, Some("subscribe"), INVALID_BUG),
            (r#"{"command":"subscribe","bugs":true}"#, Some("subscribe"), INVALID_BUG),
            (r#"{"command":"subscribe","bugs":""}"#, Some("subscribe"), INVALID_BUG),
            (r#"{"command":"subscribe","bugs":{"a":1}}"#, Some("subscribe"), INVALID_BUG),
            (r#"{"command":"subscribe","bugs":[[1]]}"#, Some("subscribe"), INVALID_BUG),
            (r#"{"command":"subscribe","bugs":[1,"x"]}"#, Some("subscribe"), INVALID_BUG),
            (r#"{"command":"unsubscribe","bugs":["x"]}"#, Some("unsubscribe"), INVALID_BUG),
            (r#"{"command":"subscribe","bugs":["all"]}"#, Some("subscribe"), INVALID_BUG),
            (r#"{"command":"subscribe","bugs":["all",1]}"#, Some("subscribe"), INVALID_BUG),
            (r#"{"command":"subscribe","bugs":"ALL"}"#, Some("subscribe"), INVALID_BUG),
            (r#"{"command":"subscribe","bugs":1,"cursor":42}"#, Some("subscribe"), INVALID_CURSOR),
            (r#"{"command":"hello","heartbeat":"often"}"#, Some("hello"), INVALID_HEARTBEAT),
            (r#"{"command":"subscribe","bugs":1,"since":"soon"}"#, Some("subscribe"), INVALID_SINCE),
            (r#"{"command":"subscribe","bugs":1,"since":7}"#, Some("subscribe"), INVALID_SINCE),
            (r#"{"command":"subscribe","bugs":1,"since":true}"#, Some("subscribe"), INVALID_SINCE),
            (r#"{"command":"subscribe","bugs":1,"since":"9999-01-01"}"#, Some("subscribe"), INVALID_SINCE),
        ] {
            let want = Refusal { command: command.map(str::to_owned), error };
            assert_eq!(parse(text), Err(want), "{}", &text[..text.len().min(80)]);
        }
    }
}
