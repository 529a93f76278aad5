//! The protocols of different servers: what a client sends to get the updates of its bugs, and how an update is found
//! in the answer. The update itself is the same text everywhere, `{"command":"update","bug":N,"when":"…"}`, so that
//! every server carries the same bytes.

mod mqtt;
mod nats;
mod stomp;

use anyhow::Result;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::plan::{Index, digits, index_of};
use crate::ws::{self, opcode};

/// The protocol of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Dialect {
    /// bugfeed's classic protocol, over WebSocket
    Classic,
    /// The classic protocol too, of a small gateway (benches/compare.d) that takes updates as lines of text, `BUG UPDATE`
    Lines,
    /// No protocol: the client sends its number in 4 bytes, and frames come (the floor)
    Raw,
    /// nchan: topics in the path, and bare messages
    Nchan,
    /// MQTT 3.1.1 over WebSocket
    Mqtt,
    /// NATS over WebSocket
    Nats,
    /// STOMP 1.2 over WebSocket
    Stomp,
}

/// What a server said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// A bug changed.
    Update(u32, Index),
    /// The client is known, and may subscribe.
    Welcome,
    /// A subscription is in force.
    Subscribed,
    /// The server asks for a sign of life, to be answered with [`Dialect::pong`].
    Ping,
    /// The server refused something.
    Refused,
    /// Nothing that is counted.
    Other,
}

impl Dialect {
    /// The first bytes a client sends.
    pub fn opening(self, host: &str, path: &str, client: u32, bugs: &[u32]) -> Vec<u8> {
        match self {
            Dialect::Classic | Dialect::Lines | Dialect::Nats => ws::request(host, path, None),
            Dialect::Raw => client.to_be_bytes().to_vec(),
            Dialect::Nchan => ws::request(host, &format!("{path}{}", joined(bugs)), None),
            Dialect::Mqtt => ws::request(host, path, Some("mqtt")),
            Dialect::Stomp => ws::request(host, path, Some("v12.stomp")),
        }
    }

    /// Whether the server answers the first bytes with an HTTP response.
    pub fn has_handshake(self) -> bool {
        self != Dialect::Raw
    }

    /// What a client sends when the connection is open; the server answers with [`Message::Welcome`]. `None` if the
    /// protocol has no greeting.
    pub fn greeting(self) -> Option<Vec<u8>> {
        self.hello().map(|hello| self.framed(&hello))
    }

    /// The greeting without a WebSocket frame around it.
    pub fn hello(self) -> Option<Vec<u8>> {
        match self {
            Dialect::Classic | Dialect::Lines | Dialect::Raw | Dialect::Nchan => None,
            Dialect::Mqtt => Some(mqtt::connect()),
            Dialect::Nats => Some(nats::connect()),
            Dialect::Stomp => Some(stomp::connect()),
        }
    }

    /// What a client sends to subscribe to these bugs. `None` if they come without asking.
    pub fn subscribe(self, bugs: &[u32]) -> Option<Vec<u8>> {
        match self {
            Dialect::Classic | Dialect::Lines => {
                Some(self.framed(serde_json::json!({ "command": "subscribe", "bugs": bugs }).to_string().as_bytes()))
            }
            Dialect::Raw | Dialect::Nchan => None,
            Dialect::Mqtt => Some(self.framed(&mqtt::subscribe(bugs))),
            Dialect::Nats => Some(self.framed(&nats::subscribe(bugs))),
            // One STOMP frame in each WebSocket message, as STOMP's clients do.
            Dialect::Stomp => Some(stomp::subscribe(bugs).iter().flat_map(|frame| self.framed(frame)).collect()),
        }
    }

    /// The answer to [`Message::Ping`].
    pub fn pong(self) -> Vec<u8> {
        self.framed(nats::PONG)
    }

    fn framed(self, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(payload.len() + 14);
        let opcode = if matches!(self, Dialect::Mqtt | Dialect::Nats) { opcode::BINARY } else { opcode::TEXT };
        ws::push_masked(&mut out, opcode, payload);
        out
    }

    /// Appends what a publisher sends so that the watchers of a bug get this text, without WebSocket.
    pub fn publish(self, out: &mut Vec<u8>, host: &str, bug: u64, text: &[u8]) {
        match self {
            Dialect::Classic | Dialect::Raw => out.extend_from_slice(text),
            Dialect::Lines => {
                out.extend_from_slice(format!("{bug} ").as_bytes());
                out.extend_from_slice(text);
                out.push(b'\n');
            }
            Dialect::Nchan => {
                let head =
                    format!("POST /pub/{bug} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {}\r\n\r\n", text.len());
                out.extend_from_slice(head.as_bytes());
                out.extend_from_slice(text);
            }
            Dialect::Mqtt => mqtt::publish(out, bug, text),
            Dialect::Nats => nats::publish(out, bug, text),
            Dialect::Stomp => stomp::publish(out, bug, text),
        }
    }

    /// What a publisher sends to learn that everything before it was accepted. `None` if the server answers every
    /// update.
    pub fn mark(self) -> Option<Vec<u8>> {
        match self {
            Dialect::Classic | Dialect::Raw | Dialect::Nchan => None,
            // An empty line.
            Dialect::Lines => Some(b"\n".to_vec()),
            Dialect::Mqtt => Some(mqtt::PINGREQ.to_vec()),
            Dialect::Nats => Some(nats::PING.to_vec()),
            Dialect::Stomp => Some(stomp::mark()),
        }
    }

    /// The first bytes of the answer to [`Dialect::mark`], or to every update.
    pub fn answer(self) -> &'static [u8] {
        match self {
            Dialect::Classic | Dialect::Raw | Dialect::Nchan => b"HTTP/1.1 20",
            Dialect::Lines => b"ok\n",
            Dialect::Mqtt => &mqtt::PINGRESP,
            Dialect::Nats => nats::PONG,
            Dialect::Stomp => stomp::RECEIPT,
        }
    }

    /// The first message in these bytes, and its length; `None` while it is incomplete.
    ///
    /// # Errors
    /// When the bytes do not belong to this protocol.
    pub fn next(self, bytes: &[u8]) -> Result<Option<(Message, usize)>> {
        match self {
            _ if bytes.is_empty() => Ok(None),
            Dialect::Classic | Dialect::Lines | Dialect::Raw | Dialect::Nchan => {
                Ok(Some((classic(bytes), bytes.len())))
            }
            Dialect::Mqtt => mqtt::next(bytes),
            Dialect::Nats => nats::next(bytes),
            Dialect::Stomp => stomp::next(bytes),
        }
    }
}

fn joined(bugs: &[u32]) -> String {
    bugs.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}

/// Reads one message of the classic protocol.
fn classic(payload: &[u8]) -> Message {
    if let Some((bug, index)) = update(payload) {
        return Message::Update(bug, index);
    }
    if payload.starts_with(br#"{"command":"subscribe","result":"ok""#) {
        return Message::Subscribed;
    }
    if payload.windows(16).any(|part| part == br#""result":"error""#) { Message::Refused } else { Message::Other }
}

/// The update in the payload of another protocol's message.
fn carried(payload: &[u8]) -> Message {
    update(payload).map_or(Message::Other, |(bug, index)| Message::Update(bug, index))
}

const UPDATE: &[u8] = br#"{"command":"update","bug":"#;
const WHEN: &[u8] = br#","when":""#;

/// The bug and the number of the update at the beginning of this text.
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
        assert_eq!(classic(br#"{"command":"subscribe","result":"ok","bugs":[1]}"#), Message::Subscribed);
        assert_eq!(classic(br#"{"command":"x","result":"error","error":"y"}"#), Message::Refused);
        assert_eq!(update(br#"{"command":"update","bug":1,"when":"2014-04-03T21:13:45"}"#), None);
    }

    /// Every complete message is found, no incomplete one, and no byte of the next one is used.
    fn found(dialect: Dialect, stream: &[u8], want: &[Message]) {
        let mut rest = stream;
        for message in want {
            let (got, len) = dialect.next(rest).unwrap().unwrap();
            assert_eq!(got, *message);
            for cut in 0..len {
                assert_eq!(dialect.next(&rest[..cut]).unwrap(), None, "{dialect:?} {cut} of {len}");
            }
            rest = &rest[len..];
        }
        assert_eq!(dialect.next(rest).unwrap(), None);
    }

    #[test]
    fn other_protocols() {
        let mut text = Vec::new();
        bugfeed_protocol::server::write_update(&mut text, change(70_000, 123_456));
        let (update, len) = (Message::Update(70_000, 123_456), text.len());

        let mut mqtt = vec![0x20, 2, 0, 0, 0x90, 4, 0, 1, 0, 0, 0xD0, 0];
        Dialect::Mqtt.publish(&mut mqtt, "", 70_000, &text);
        let want = [Message::Welcome, Message::Subscribed, Message::Other, update];
        found(Dialect::Mqtt, &mqtt, &want);
        assert_eq!(Dialect::Mqtt.next(&[0x90, 3, 0, 1, 0x80]).unwrap(), Some((Message::Refused, 5)));

        let mut nats = b"INFO {\"server_id\":\"x\"}\r\nPING\r\nPONG\r\n".to_vec();
        nats.extend(format!("MSG bug.70000 1 {len}\r\n").bytes());
        nats.extend([&text[..], b"\r\n"].concat());
        found(Dialect::Nats, &nats, &[Message::Welcome, Message::Ping, Message::Subscribed, update]);
        assert_eq!(Dialect::Nats.next(b"-ERR 'no'\r\n").unwrap(), Some((Message::Refused, 11)));

        let mut stomp = b"CONNECTED\nversion:1.2\n\n\0\nRECEIPT\nreceipt-id:1\n\n\0\n".to_vec();
        stomp.extend(format!("MESSAGE\nsubscription:0\ncontent-length:{len}\n\n").bytes());
        stomp.extend([&text[..], b"\0"].concat());
        let want = [Message::Welcome, Message::Other, Message::Subscribed, Message::Other, update];
        found(Dialect::Stomp, &stomp, &want);
        assert_eq!(Dialect::Stomp.next(b"ERROR\n\nno\0").unwrap(), Some((Message::Refused, 10)));
    }
}
