//! How different servers are spoken to: what a client sends to get the updates of its bugs, and how an update is found
//! in what comes back. The update itself is the same text everywhere, `{"command":"update","bug":N,"when":"…"}`, so that
//! every server carries the same bytes.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::plan::{Index, digits, index_of};
use crate::ws::{self, opcode};

/// A way of speaking.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Dialect {
    /// bugfeed's classic protocol, over WebSocket
    Classic,
    /// No protocol: the client sends its number in 4 bytes, and frames come (the floor)
    Raw,
}

/// What a server said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// A bug changed.
    Update(u32, Index),
    /// A subscription is in force.
    Subscribed,
    /// The server refused something.
    Refused,
    /// Nothing that is counted.
    Other,
}

impl Dialect {
    /// The first bytes a client sends.
    pub fn opening(self, host: &str, path: &str, client: u32) -> Vec<u8> {
        match self {
            Dialect::Classic => ws::request(host, path, None),
            Dialect::Raw => client.to_be_bytes().to_vec(),
        }
    }

    /// Whether the server answers the first bytes with an HTTP response.
    pub fn has_handshake(self) -> bool {
        self != Dialect::Raw
    }

    /// What asks for these bugs; nothing where they come unasked.
    pub fn subscribe(self, bugs: &[u32]) -> Option<Vec<u8>> {
        match self {
            Dialect::Classic => {
                let text = serde_json::json!({ "command": "subscribe", "bugs": bugs }).to_string();
                let mut out = Vec::with_capacity(text.len() + 14);
                ws::push_masked(&mut out, opcode::TEXT, text.as_bytes());
                Some(out)
            }
            Dialect::Raw => None,
        }
    }

    /// Reads the payload of one message.
    pub fn read(self, payload: &[u8]) -> Message {
        if let Some((bug, index)) = update(payload) {
            return Message::Update(bug, index);
        }
        if payload.starts_with(br#"{"command":"subscribe","result":"ok""#) {
            return Message::Subscribed;
        }
        if payload.windows(16).any(|part| part == br#""result":"error""#) { Message::Refused } else { Message::Other }
    }
}

const UPDATE: &[u8] = br#"{"command":"update","bug":"#;
const WHEN: &[u8] = br#","when":""#;

/// The bug and the number of the update that begins this text.
pub fn update(text: &[u8]) -> Option<(u32, Index)> {
    let rest = text.strip_prefix(UPDATE)?;
    let (bug, rest) = rest.split_at(rest.iter().position(|&byte| byte == b',')?);
    let when = rest.strip_prefix(WHEN)?;
    let when = &when[..when.iter().position(|&byte| byte == b'"')?];
    Some((u32::try_from(digits(bug)?).ok()?, index_of(when)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::change;

    #[test]
    fn the_update_is_the_protocol_s() {
        let mut text = Vec::new();
        bugfeed_protocol::server::write_update(&mut text, change(70_000, 123_456));
        assert_eq!(update(&text), Some((70_000, 123_456)));
        assert_eq!(Dialect::Classic.read(br#"{"command":"subscribe","result":"ok","bugs":[1]}"#), Message::Subscribed);
        assert_eq!(Dialect::Classic.read(br#"{"command":"x","result":"error","error":"y"}"#), Message::Refused);
        assert_eq!(update(br#"{"command":"update","bug":1,"when":"2014-04-03T21:13:45"}"#), None);
    }
}
