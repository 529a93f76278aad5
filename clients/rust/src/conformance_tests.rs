//! Plays the scripted conversations of clients/conformance against the core, with a simulated clock and a simulated
//! connection.

use std::fs;
use std::path::Path;
use std::time::Duration;

use bugfeed_protocol::{BugId, When};
use serde_json::{Value, json};

use crate::connection_end::ConnectionEnd;
use crate::core::{Action, Core, Now};
use crate::{Error, Event, Protocol, State};

/// The connection that the script is about.
#[derive(Default)]
struct Link {
    sent: Vec<Value>,
    ended: bool,
    /// The token that it was begun with.
    token: Value,
}

struct Script {
    client: Value,
    core: Core,
    clock: Duration,
    /// Connections that the client has begun, and that the script has not mentioned yet.
    begun: Vec<Link>,
    link: Option<Link>,
    events: Vec<Value>,
    stored: Option<String>,
    /// How often a token was asked for.
    asked: usize,
}

fn numbers(value: &Value) -> Vec<BugId> {
    value.as_array().into_iter().flatten().map(|bug| BugId::new(bug.as_u64().unwrap()).unwrap()).collect()
}

fn new_core(client: &Value) -> Core {
    let heartbeat_s = client["heartbeat"].as_u64().unwrap_or(30);
    let bugs = numbers(&client["bugs"]).into_iter().collect();
    let mut core = Core::new("ws://gateway.test/".to_owned(), bugs, heartbeat_s, false);
    if client["bugs"] == "all" {
        core.watch_all();
    }
    if client["tokens"].is_array() {
        core.gets_new_tokens();
    }
    core
}

impl Script {
    fn new(client: &Value) -> Script {
        let stored = client["cursor"].as_str().map(str::to_owned);
        let mut script = Script {
            core: new_core(client),
            client: client.clone(),
            clock: Duration::ZERO,
            begun: Vec::new(),
            link: None,
            events: Vec::new(),
            stored,
            asked: 0,
        };
        script.core.start(script.stored.clone(), script.now());
        script.pump();
        script
    }

    fn now(&self) -> Now {
        let date = When::parse_utc("2026-01-01").unwrap();
        Now { clock: self.clock, date, chance: self.client["random"].as_f64().unwrap_or(0.5) }
    }

    /// Performs the actions of the core.
    fn pump(&mut self) {
        self.core.flush();
        while let Some(action) = self.core.action() {
            match action {
                Action::Connect => {
                    let token = self.next_token();
                    self.begun.push(Link { token, ..Link::default() });
                }
                Action::Send(text) => {
                    let link = self.link.as_mut().expect("nothing is sent before the connection is open");
                    link.sent.push(serde_json::from_str(&text).unwrap());
                }
                Action::Disconnect => {
                    if let Some(link) = self.begun.last_mut().or(self.link.as_mut()) {
                        link.ended = true;
                    }
                }
            }
        }
        while let Some(delivery) = self.core.delivery() {
            self.events.extend(delivery.item.and_then(shown));
            self.stored = delivery.cursor.or(self.stored.take());
        }
    }

    /// The token for the next connection, as the driver would get it.
    fn next_token(&mut self) -> Value {
        let Some(tokens) = self.client["tokens"].as_array() else { return self.client["token"].clone() };
        self.asked += 1;
        tokens[self.asked.min(tokens.len()) - 1].clone()
    }

    /// Fails if something happened that the script does not mention.
    fn quiet(&self) {
        assert!(self.begun.is_empty(), "the client has connected");
        let Some(link) = &self.link else { return };
        assert!(link.sent.is_empty(), "the client has sent {:?}", link.sent);
        assert!(!link.ended, "the client has ended the connection");
    }

    fn begin(&mut self, token: &Value) {
        assert!(!self.begun.is_empty(), "the client has not connected");
        let link = self.begun.remove(0);
        assert_eq!(link.token, *token);
        self.link = Some(link);
    }

    fn end(&mut self, end: ConnectionEnd) {
        assert!(self.link.is_some(), "there is a connection");
        self.core.connection_ended(end, self.now());
        self.pump();
        self.link = None;
    }

    fn advance(&mut self, ms: u64) {
        let until = self.clock + Duration::from_millis(ms);
        while let Some(at) = self.core.deadline().filter(|at| *at <= until) {
            self.clock = at;
            self.core.alarm(self.now());
            self.pump();
        }
        self.clock = until;
    }

    fn step(&mut self, step: &Value) {
        let about = ["reason", "gateway", "token"];
        let (name, argument) =
            step.as_object().unwrap().iter().find(|(name, _)| !about.contains(&name.as_str())).unwrap();
        if matches!(&**name, "send" | "send_text" | "close" | "drop" | "client" | "advance_ms" | "waits_ms") {
            self.quiet();
        }
        match &**name {
            "accept" => {
                self.begin(&step["token"]);
                self.core.opened(self.now());
            }
            "ignore" => self.begin(&step["token"]),
            "refuse" => {
                self.begin(&step["token"]);
                let text = "refused".to_owned();
                self.end(match argument.as_u64() {
                    Some(status) => {
                        let (status, by_gateway) = (status.try_into().unwrap(), step["gateway"] == true);
                        ConnectionEnd::Refused { status, text, retry_after: None, by_gateway }
                    }
                    None => ConnectionEnd::Broken(text),
                });
            }
            "receive" => self.receive(argument),
            "send" => self.send(&argument.to_string()),
            "send_text" => self.send(argument.as_str().unwrap()),
            "close" => {
                let text = step["reason"].as_str().unwrap_or_default().to_owned();
                self.end(ConnectionEnd::Closed { code: argument.as_u64().unwrap().try_into().unwrap(), text });
            }
            "drop" => self.end(ConnectionEnd::Broken("connection lost".to_owned())),
            "abandoned" => {
                assert!(self.link.as_ref().is_some_and(|link| link.ended), "the client has not ended the connection");
                self.send(r#"{"command":"update","bug":1234,"when":"2014-04-03T21:13:45","cursor":"too.1"}"#);
                self.end(ConnectionEnd::Broken("too late".to_owned()));
            }
            "client" => self.application(argument),
            "advance_ms" => self.advance(argument.as_u64().unwrap()),
            "waits_ms" => {
                assert!(matches!(self.core.state(), State::Waiting { .. }), "{:?}", self.core.state());
                self.advance(argument.as_u64().unwrap() - 1);
                self.quiet();
                self.advance(1);
                assert_eq!(self.begun.len(), 1, "the client has not connected");
            }
            "events" => self.told(argument.as_array().unwrap()),
            "expect" => self.expect(argument),
            "restart" => {
                self.link = None;
                self.core = new_core(&self.client);
                self.core.start(self.stored.clone(), self.now());
            }
            other => panic!("no such step: {other}"),
        }
        self.pump();
    }

    fn receive(&mut self, message: &Value) {
        let link = self.link.as_mut().expect("a connection");
        assert!(!link.sent.is_empty(), "the client has sent nothing");
        assert_eq!(link.sent.remove(0), *message);
    }

    fn send(&mut self, text: &str) {
        assert!(self.link.is_some(), "there is a connection");
        self.core.received(text, self.now());
    }

    fn application(&mut self, action: &Value) {
        let (name, argument) = action.as_object().unwrap().iter().next().unwrap();
        match &**name {
            "subscribe" => self.core.subscribe(numbers(argument)),
            "unsubscribe" => self.core.unsubscribe(numbers(argument)),
            "start_from_head" => self.core.start_from_head(),
            "close" => self.core.close(),
            other => panic!("no such action: {other}"),
        }
    }

    fn told(&mut self, wanted: &[Value]) {
        let mut told = std::mem::take(&mut self.events);
        for (told, wanted) in told.iter_mut().zip(wanted) {
            // For an error, only the members that the script names are compared; its text is different in each library.
            let told = told.get_mut("error").and_then(Value::as_object_mut);
            if let (Some(told), Some(wanted)) = (told, wanted["error"].as_object()) {
                told.retain(|name, _| wanted.contains_key(name));
            }
        }
        assert_eq!(told, wanted);
    }

    fn expect(&self, about: &Value) {
        let state = match self.core.state() {
            State::Waiting { .. } => "waiting".to_owned(),
            other => other.to_string(),
        };
        let protocol = self.core.protocol().map(|protocol| match protocol {
            Protocol::Modern => "modern",
            Protocol::Classic => "classic",
        });
        let known = json!({
            "state": state,
            "protocol": protocol,
            "replay": self.core.replay(),
            "feed": self.core.feed_state(),
            "head": self.core.head(),
            "bugs": if self.core.watches_all() { json!("all") } else { json!(self.core.bugs()) },
            "cursor": self.stored,
        });
        for (name, wanted) in about.as_object().unwrap() {
            assert_eq!(known[name], *wanted, "{name}");
        }
    }
}

/// An event as the scripts write it, if they speak of its kind.
fn shown(item: Result<Event, Error>) -> Option<Value> {
    let error = match item {
        Ok(Event::Change(change)) => return Some(json!({ "change": change.bug, "when": change.when })),
        Ok(Event::Gap(bugs)) => return Some(json!({ "gap": bugs })),
        Ok(Event::GapOfAll) => return Some(json!({ "gap": "all" })),
        Ok(Event::Feed { state, .. }) => return Some(json!({ "feed": state })),
        Ok(Event::Trouble { status, .. }) => {
            return Some(json!({ "error": { "final": false, "bugs": [], "code": null, "status": status } }));
        }
        Ok(_) => return None,
        Err(error) => error,
    };
    let (bugs, code, status) = match &error {
        Error::Refused { bugs, .. } => (json!(bugs), Value::Null, Value::Null),
        Error::Closed { code, .. } => (json!([]), json!(code), Value::Null),
        Error::NotAFeed { status, .. } => (json!([]), Value::Null, json!(status)),
        Error::Token { status, .. } => (json!([]), Value::Null, json!(status)),
        _ => (json!([]), Value::Null, Value::Null),
    };
    Some(json!({ "error": { "final": error.is_final(), "bugs": bugs, "code": code, "status": status } }))
}

#[test]
fn every_conversation() {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("../conformance/cases");
    let mut paths: Vec<_> = fs::read_dir(cases).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(paths.len() > 60, "the conversations are there");
    for path in paths {
        let case: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let mut script = Script::new(&case["client"]);
        for (index, step) in case["steps"].as_array().unwrap().iter().enumerate() {
            let place = (path.file_stem().unwrap(), &case["why"], index + 1, step.to_string());
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| script.step(step)));
            assert!(done.is_ok(), "{place:?}");
        }
        assert_eq!(script.events, Vec::<Value>::new(), "{path:?}: events that the script does not speak of");
    }
}
