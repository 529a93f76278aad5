//! `hooks/golden/deliver/signed.json`: the golden bodies, signed; and calls of a receiver, signed as we expect it. The
//! libraries of standardwebhooks.com verify the first and make the second (`examples/webhook-receiver`).
//! `BUGFEED_GOLDEN=write` writes the file anew.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::callers::{Call, Callers, Moment};
use super::sign::{RANDOM_BYTES, Secrets, SigningSecret};
use bugfeed_protocol::When;

const NAMES: [&str; 6] = ["update", "update-again", "updates-complete", "updates-of-one", "gap", "test"];
const CALLS: [(&str, &str); 2] = [
    ("GET", "/endpoints/ep_1/changes?feed=kde&cursor=000000000000feed.88.0000beef"),
    ("POST", "/endpoints/ep_1/ready"),
];

fn folder() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/deliver")
}

fn now() -> When {
    "2026-11-26T12:00:00".parse().unwrap()
}

fn secret(byte: u8) -> SigningSecret {
    SigningSecret::generate(&[byte; RANDOM_BYTES])
}

fn headers(secrets: &Secrets, id: &str, content: &str) -> Value {
    let headers = secrets.headers(id, content.as_bytes(), now()).unwrap();
    let members = headers.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().into()));
    Value::Object(members.collect::<Map<_, _>>())
}

fn requests() -> Vec<Value> {
    let later = When::from_micros(now().as_micros() + 3_600_000_000).unwrap();
    let both = [
        (Secrets::new(secret(1)), vec![secret(1)]),
        (Secrets::rotating(secret(2), secret(1), later), vec![secret(2), secret(1)]),
    ];
    let request = |(secrets, texts): &(Secrets, Vec<SigningSecret>), name: &str| {
        let golden = fs::read_to_string(folder().join(name).with_extension("txt")).unwrap();
        let (id, body) = golden.trim_end().split_once('\n').unwrap();
        let texts: Vec<&str> = texts.iter().map(SigningSecret::expose).collect();
        json!({ "name": name, "secrets": texts, "headers": headers(secrets, id, body), "body": body })
    };
    both.iter().flat_map(|secrets| NAMES.map(|name| request(secrets, name))).collect()
}

fn calls() -> Vec<Value> {
    let secrets = Secrets::new(secret(1));
    let call = |(number, (method, target)): (usize, &(&str, &str))| {
        let headers = headers(&secrets, &format!("call_{number}"), &format!("{method} {target}."));
        json!({ "secret": secret(1).expose(), "method": method, "target": target, "headers": headers })
    };
    CALLS.iter().enumerate().map(call).collect()
}

#[test]
fn signed_requests_are_these() {
    let is = serde_json::to_string_pretty(&json!({ "requests": requests(), "calls": calls() })).unwrap() + "\n";
    let file = folder().join("signed.json");
    if std::env::var_os("BUGFEED_GOLDEN").is_some_and(|word| word == "write") {
        fs::write(&file, &is).unwrap();
    }
    assert!(fs::read_to_string(&file).unwrap_or_default() == is, "BUGFEED_GOLDEN=write writes {file:?} anew");
}

#[test]
fn the_calls_are_taken() {
    let callers = Callers::new(&[7; 32]);
    let moment = Moment { clock: now(), uptime: Duration::ZERO };
    let secrets = Secrets::new(secret(1));
    for call in calls() {
        let members = call["headers"].as_object().unwrap();
        let headers: Vec<(String, String)> =
            members.iter().map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned())).collect();
        let (method, target) = (call["method"].as_str().unwrap(), call["target"].as_str().unwrap());
        let call = Call { headers: &headers, method, target, body: b"" };
        assert_eq!(callers.check("ep_1", Some(&secrets), &call, moment), Ok(()), "{method}");
    }
}
