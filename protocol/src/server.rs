//! Messages as the gateway sends them, one JSON text frame each.

use std::io::Write as _;

use serde::Serialize;

use crate::change::{BugId, Change};
use crate::client::Refusal;

/// A reply to a command.
#[derive(Clone, Debug)]
pub enum Reply<'a> {
    /// To subscribe, unsubscribe and subscriptions: all bugs the session now has.
    Bugs {
        /// The command answered.
        command: &'a str,
        /// All current subscriptions, ascending.
        bugs: &'a [BugId],
    },
    /// To version.
    Version(&'a str),
    /// To whatever was refused.
    Refused(&'a Refusal),
}

#[derive(Serialize)]
struct Fields<'a> {
    command: Option<&'a str>,
    result: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    bugs: Option<&'a [BugId]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

impl Reply<'_> {
    /// The JSON text.
    pub fn encode(&self) -> Vec<u8> {
        let empty = Fields { command: None, result: "ok", bugs: None, version: None, error: None };
        let fields = match *self {
            Reply::Bugs { command, bugs } => Fields { command: Some(command), bugs: Some(bugs), ..empty },
            Reply::Version(version) => Fields { command: Some("version"), version: Some(version), ..empty },
            Reply::Refused(refusal) => {
                Fields { command: refusal.command.as_deref(), result: "error", error: Some(refusal.error), ..empty }
            }
        };
        serde_json::to_vec(&fields).expect("plain structs of numbers and texts always serialise")
    }
}

/// Appends the classic update message: `{"command":"update","bug":1234,"when":"2014-04-03T21:13:45"}`.
pub fn write_update(out: &mut Vec<u8>, change: Change) {
    write!(out, r#"{{"command":"update","bug":{},"when":"{}"}}"#, change.bug, change.when)
        .expect("writing to a Vec cannot fail");
}
