//! The attacks: for each its name, and what its connections do. They are data; [`super::attacker`] carries them out.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::bytes::{cut_short, form, frame, get, in_single_bytes, numbers, text, tiled, unfinished};
use crate::ws::{self, opcode};

/// Where attackers are, and how many of them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Field {
    /// The host that requests name.
    pub host: String,
    /// Bugs 1 to this one change all the time.
    pub busy: u32,
    /// A twentieth of the attackers.
    pub quick: bool,
}

/// Which port is attacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// That for clients.
    Clients,
    /// The admin port.
    Admin,
}

/// What a connection does in the end, until it is closed.
#[derive(Clone, Debug)]
pub enum Then {
    /// Nothing.
    Nothing,
    /// It sends this over and over, as fast as it is taken.
    Repeat(Vec<u8>),
    /// It sends one byte each time.
    Drip(u8, Duration),
    /// It is closed as soon as it was answered, and opened anew.
    Leave,
}

/// Connections that all do the same.
#[derive(Clone, Debug)]
pub struct Group {
    /// How many there are at a time.
    pub count: u32,
    /// Where they connect.
    pub port: Port,
    /// What each sends first. Where there are several, they take turns.
    pub opening: Vec<Vec<u8>>,
    /// Whether the answer to that must be a WebSocket, for which it waits.
    pub handshake: bool,
    /// What it sends once after that.
    pub first: Vec<u8>,
    /// What it does then.
    pub then: Then,
    /// Whether it reads what it is sent. The receive buffer of those who do not is small.
    pub reads: bool,
    /// Whether a connection that the server closes is opened anew.
    pub again: bool,
}

/// One attack.
#[derive(Clone, Copy, Debug)]
pub struct Attack {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it does, in a few words.
    pub what: &'static str,
    groups: fn(&Field) -> Vec<Group>,
}

impl Attack {
    /// The attack of this name.
    pub fn named(name: &str) -> Option<&'static Attack> {
        ATTACKS.iter().find(|attack| attack.name == name)
    }

    /// What its connections do.
    pub fn groups(&self, field: &Field) -> Vec<Group> {
        (self.groups)(field)
    }
}

/// Bytes of a message that comes, and bytes that are promised. A server takes messages of 262,144 bytes.
const MOST: usize = 262_000;
const NEARLY: usize = 250_000;
/// Bugs that one client may watch.
const SUBSCRIPTIONS: u64 = 10_000;
/// Frames of a message that a server takes.
const FRAMES: usize = 1000;
const SECOND: Duration = Duration::from_secs(1);

/// All attacks.
pub const ATTACKS: &[Attack] = &[
    Attack { name: "silent", what: "5,000 TCP connections that send nothing", groups: silent },
    Attack { name: "slow-handshakes", what: "5,000 requests, a byte a second", groups: slow_handshakes },
    Attack { name: "bad-handshakes", what: "refused requests, as fast as possible", groups: bad_handshakes },
    Attack { name: "churn", what: "connect, subscribe, leave, as fast as possible", groups: churn },
    Attack { name: "fragments", what: "2 connections: messages in frames of one byte", groups: fragments },
    Attack { name: "empty-frames", what: "2 connections: 1,000 empty frames in each message", groups: empty_frames },
    Attack { name: "empty-continuations", what: "2 connections: empty frames without an end", groups: continuations },
    Attack { name: "pings", what: "4 connections: pings", groups: pings },
    Attack { name: "pongs", what: "4 connections: pongs", groups: pongs },
    Attack { name: "bad-json", what: "4 connections: short messages that are no JSON", groups: bad_json },
    Attack { name: "bad-json-large", what: "4 connections: 250 KB that are no JSON", groups: bad_json_large },
    Attack { name: "subscribe-storm", what: "20 connections: 10,000 bugs on and off", groups: subscribe_storm },
    Attack { name: "subscriptions", what: "4 connections: 34 bytes ask for 200 KB", groups: subscriptions },
    Attack { name: "resumes", what: "50 connections: everything again and again", groups: resumes },
    Attack { name: "resumes-unknown", what: "50 connections: resumes with no valid cursor", groups: unknown },
    Attack { name: "never-reading", what: "1,000 clients of all busy bugs never read", groups: never_reading },
    Attack { name: "stalled-sse", what: "5,000 SSE clients ask for everything, never read", groups: stalled_sse },
    Attack { name: "waiting-polls", what: "5,000 requests to /changes that wait", groups: waiting_polls },
    Attack { name: "unfinished-messages", what: "2,000 messages, all but 12 KB of 262", groups: unfinished_messages },
    Attack { name: "slow-posts", what: "2,000 POSTs: 250 KB, then a byte a second", groups: slow_posts },
    Attack { name: "posts", what: "8 connections: POSTs of 262 KB", groups: posts },
    Attack { name: "admin", what: "the admin port: 64 idle connections, 4 that ask for /metrics", groups: admin },
];

impl Field {
    /// So many, or fewer if it is to be quick.
    fn of(&self, count: u32) -> u32 {
        if self.quick { (count / 20).max(count.min(2)) } else { count }
    }

    /// Connections to the port for clients which send nothing, read, and come again.
    fn group(&self, count: u32) -> Group {
        Group {
            count: self.of(count),
            port: Port::Clients,
            opening: vec![Vec::new()],
            handshake: false,
            first: Vec::new(),
            then: Then::Nothing,
            reads: true,
            again: true,
        }
    }

    /// WebSockets that send `first` once, and do something then.
    fn sockets(&self, count: u32, first: Vec<u8>, then: Then) -> Vec<Group> {
        let opening = vec![ws::request(&self.host, "/", None)];
        vec![Group { opening, handshake: true, first, then, ..self.group(count) }]
    }

    /// WebSockets that send messages over and over.
    fn flood(&self, count: u32, first: &[u8], messages: &[u8]) -> Vec<Group> {
        self.sockets(count, first.to_vec(), Then::Repeat(tiled(messages)))
    }

    /// The bugs that change all the time.
    fn busy(&self) -> String {
        numbers(1, u64::from(self.busy))
    }

    fn resume(&self, cursor: &str) -> Vec<Group> {
        let command = format!(r#"{{"command":"subscribe","bugs":[{}],"cursor":"{cursor}"}}"#, self.busy());
        self.flood(50, &text(HELLO), &text(command.as_bytes()))
    }
}

const HELLO: &[u8] = br#"{"command":"hello"}"#;

fn silent(field: &Field) -> Vec<Group> {
    vec![field.group(5000)]
}

fn slow_handshakes(field: &Field) -> Vec<Group> {
    let mut opening = ws::request(&field.host, "/", None);
    opening.truncate(opening.len() - 2);
    opening.extend(b"X-Slow: ");
    vec![Group { opening: vec![opening], then: Then::Drip(b'a', SECOND), ..field.group(5000) }]
}

fn bad_handshakes(field: &Field) -> Vec<Group> {
    let good = String::from_utf8_lossy(&ws::request(&field.host, "/", None)).into_owned();
    let without = |name: &str| {
        let lines = good.split_inclusive("\r\n").filter(|line| !line.starts_with(name));
        lines.collect::<String>().into_bytes()
    };
    let opening = vec![
        without("Sec-WebSocket-Key"),
        without("Host"),
        good.replace("Version: 13", "Version: 12").into_bytes(),
        good.replace("GET / ", "GET /no/such/path ").into_bytes(),
        good.replace("GET", "POST").into_bytes(),
        good.replace("Upgrade: websocket", &format!("X-Long: {}", "x".repeat(20_000))).into_bytes(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 this is TLS\r\n\r\n".to_vec(),
    ];
    vec![Group { opening, then: Then::Leave, ..field.group(64) }]
}

fn churn(field: &Field) -> Vec<Group> {
    field.sockets(64, text(br#"{"command":"subscribe","bugs":[1,2,3]}"#), Then::Leave)
}

fn fragments(field: &Field) -> Vec<Group> {
    let mut message = br#"{"command":"version""#.to_vec();
    message.resize(FRAMES - 1, b' ');
    message.push(b'}');
    field.flood(2, b"", &in_single_bytes(&message))
}

fn empty_frames(field: &Field) -> Vec<Group> {
    let mut message = unfinished(opcode::TEXT, br#"{"command":"#);
    message.extend(unfinished(opcode::CONTINUATION, b"").repeat(FRAMES));
    message.extend(frame(opcode::CONTINUATION, br#""version"}"#));
    field.flood(2, b"", &message)
}

fn continuations(field: &Field) -> Vec<Group> {
    field.flood(2, &unfinished(opcode::TEXT, b"{"), &unfinished(opcode::CONTINUATION, b""))
}

fn pings(field: &Field) -> Vec<Group> {
    field.flood(4, b"", &frame(opcode::PING, b""))
}

fn pongs(field: &Field) -> Vec<Group> {
    field.flood(4, b"", &frame(opcode::PONG, b""))
}

fn bad_json(field: &Field) -> Vec<Group> {
    field.flood(4, b"", &text(b"{"))
}

fn bad_json_large(field: &Field) -> Vec<Group> {
    let mut message = br#"{"command":"subscribe","bugs":["#.to_vec();
    message.extend(b"1,".iter().cycle().take(NEARLY));
    field.flood(4, b"", &text(&message))
}

fn subscribe_storm(field: &Field) -> Vec<Group> {
    let bugs = numbers(1_000_000, SUBSCRIPTIONS);
    let command = |name: &str| text(format!(r#"{{"command":"{name}","bugs":[{bugs}]}}"#).as_bytes());
    field.flood(20, &text(HELLO), &[command("subscribe"), command("unsubscribe")].concat())
}

fn subscriptions(field: &Field) -> Vec<Group> {
    let bugs = numbers(9_000_000_000_000_000_000, SUBSCRIPTIONS);
    let first = text(format!(r#"{{"command":"subscribe","bugs":[{bugs}]}}"#).as_bytes());
    field.flood(4, &first, &text(br#"{"command":"subscriptions"}"#))
}

fn resumes(field: &Field) -> Vec<Group> {
    // Publishers of benchmarks begin an epoch of this name.
    field.resume("bench.1")
}

fn unknown(field: &Field) -> Vec<Group> {
    field.resume("unknown")
}

fn never_reading(field: &Field) -> Vec<Group> {
    let first = text(format!(r#"{{"command":"subscribe","bugs":[{}]}}"#, field.busy()).as_bytes());
    field.sockets(1000, first, Then::Nothing).into_iter().map(|group| Group { reads: false, ..group }).collect()
}

fn stalled_sse(field: &Field) -> Vec<Group> {
    let opening = vec![get(&field.host, format!("/sse?since=2025-01-01&bugs={}", field.busy()))];
    vec![Group { opening, reads: false, ..field.group(5000) }]
}

fn waiting_polls(field: &Field) -> Vec<Group> {
    let opening = vec![get(&field.host, format!("/changes?wait=60&bugs={}", field.busy + 1))];
    vec![Group { opening, then: Then::Leave, ..field.group(5000) }]
}

fn unfinished_messages(field: &Field) -> Vec<Group> {
    field.sockets(2000, cut_short(MOST, NEARLY), Then::Nothing)
}

fn slow_posts(field: &Field) -> Vec<Group> {
    let opening = vec![form(&field.host, MOST, NEARLY)];
    vec![Group { opening, then: Then::Drip(b'1', SECOND), ..field.group(2000) }]
}

fn posts(field: &Field) -> Vec<Group> {
    vec![Group { then: Then::Repeat(form(&field.host, MOST, MOST)), ..field.group(8) }]
}

fn admin(field: &Field) -> Vec<Group> {
    let asking = Then::Repeat(get(&field.host, "/metrics").repeat(10));
    // All of them, also when it is to be quick: that many places there are.
    let idle = Group { count: 64, port: Port::Admin, ..field.group(64) };
    vec![idle, Group { then: asking, port: Port::Admin, ..field.group(4) }]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Files that the attacking process may open.
    const FILES: u32 = 20_000;

    #[test]
    fn attacks_have_names_and_bounds() {
        let names: BTreeSet<&str> = ATTACKS.iter().map(|attack| attack.name).collect();
        assert_eq!(names.len(), ATTACKS.len());
        for quick in [false, true] {
            let field = Field { host: "localhost".to_owned(), busy: 400, quick };
            for attack in ATTACKS {
                let groups = attack.groups(&field);
                let count: u32 = groups.iter().map(|group| group.count).sum();
                assert!(count > 0 && count < FILES / 2, "{}: {count}", attack.name);
                for group in groups {
                    assert!(!group.opening.is_empty(), "{}", attack.name);
                    assert!(!matches!(&group.then, Then::Repeat(block) if block.is_empty()), "{}", attack.name);
                    // A request's head may have 16 KiB; one bad handshake has more.
                    let get = group.opening.iter().filter(|opening| opening.starts_with(b"GET"));
                    assert!(attack.name == "bad-handshakes" || get.clone().all(|get| get.len() < 16_384));
                }
            }
        }
    }

    #[test]
    fn quick_attacks_have_fewer_connections() {
        let field = |quick| Field { host: String::new(), busy: 1, quick };
        let of = |quick| Attack::named("silent").unwrap().groups(&field(quick))[0].count;
        assert_eq!((of(false), of(true)), (5000, 250));
        assert_eq!(field(true).of(4), 2);
        assert!(Attack::named("none").is_none());
    }
}
