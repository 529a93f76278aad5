//! Tokens that another program has signed (`vectors.json`), and examples of the RFCs.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

use super::*;
use crate::access::jwks;

#[derive(Deserialize)]
struct Vectors {
    secret: String,
    keys: Vec<Value>,
    passed_over: Vec<Value>,
    good: BTreeMap<String, String>,
    /// The token, and why it is refused.
    bad: BTreeMap<String, (String, String)>,
}

fn vectors() -> Vectors {
    serde_json::from_str(include_str!("vectors.json")).unwrap()
}

fn set(keys: &[Value]) -> Result<Vec<Key>, String> {
    jwks::read(json!({ "keys": keys }).to_string().as_bytes())
}

fn keys(vectors: &Vectors) -> Vec<Key> {
    let mut keys = set(&[&vectors.passed_over[..], &vectors.keys].concat()).unwrap();
    assert_eq!(keys.len(), vectors.keys.len(), "{keys:?}");
    keys.push(Key { id: None, material: Material::Secret(vectors.secret.clone().into_bytes()), only: None });
    keys
}

fn verify(token: &str, keys: &[Key]) -> Result<Vec<u8>, Refused> {
    Jws::read(token).and_then(|jws| jws.verify(keys.iter()).map(<[u8]>::to_vec))
}

#[test]
fn signatures_of_every_algorithm() {
    let vectors = vectors();
    let keys = keys(&vectors);
    for (name, token) in &vectors.good {
        let payload = verify(token, &keys).unwrap_or_else(|refused| panic!("{name}: {refused:?}"));
        assert!(payload.starts_with(br#"{"exp":4102444800"#), "{name}");
    }
    assert_eq!(vectors.good.len(), 17);
}

#[test]
fn what_is_forged_or_for_something_else_is_refused() {
    let vectors = vectors();
    let keys = keys(&vectors);
    for (name, (token, kind)) in &vectors.bad {
        assert_eq!(verify(token, &keys).unwrap_err().kind(), kind, "{name}");
    }
    assert!(vectors.bad.len() > 20);
}

/// Every single bit counts.
#[test]
fn a_token_that_was_changed_anywhere_is_refused() {
    let vectors = vectors();
    let keys = keys(&vectors);
    for name in ["EdDSA", "HS256", "RS256"] {
        let token = &vectors.good[name];
        for at in 0..token.len() {
            for other in ['A', 'B', '_', '.', '='] {
                let mut changed = token.clone();
                changed.replace_range(at..=at, &other.to_string());
                assert!(changed == *token || verify(&changed, &keys).is_err(), "{name} {at} {other}: {changed}");
            }
        }
    }
}

#[test]
fn what_is_no_token_is_refused() {
    let vectors = vectors();
    let (keys, good) = (keys(&vectors), &vectors.good["ES256"]);
    let [head, payload, signed] = good.split('.').collect::<Vec<_>>()[..] else { panic!("{good}") };
    for text in [
        "",
        ".",
        "..",
        "...",
        "a.b.c",
        &format!("{head}.{payload}"),
        &format!("{head}.{payload}."),
        &format!("{head}.{payload}.{signed}."),
        &format!("{head}.{payload}.{signed}.{signed}.{signed}"),
        &format!(".{payload}.{signed}"),
        &format!("{head}=.{payload}.{signed}"),
        &format!("{head}.{payload}.{signed}=="),
        &format!("bnVsbA.{payload}.{signed}"),
        &format!("W10.{payload}.{signed}"),
    ] {
        assert!(verify(text, &keys).is_err(), "{text}");
    }
}

/// RFC 7515 A.1 and A.3, RFC 8037 A.4.
#[test]
fn examples_of_the_rfcs() {
    const JOE: &str = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
    let secret = "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";
    let mut keys = set(&[
        json!({"kty": "EC", "crv": "P-256", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
               "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}),
        json!({"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}),
    ])
    .unwrap();
    keys.push(Key { id: None, material: Material::Secret(URL_SAFE_NO_PAD.decode(secret).unwrap()), only: None });
    let hs256 = format!("eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.{JOE}.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk");
    let es256 = format!(
        "eyJhbGciOiJFUzI1NiJ9.{JOE}.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q"
    );
    for token in [&hs256, &es256] {
        assert!(verify(token, &keys).unwrap().starts_with(br#"{"iss":"joe""#), "{token}");
    }
    let ed25519 = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.\
                   hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
    assert_eq!(verify(ed25519, &keys).unwrap(), b"Example of Ed25519 signing");
}

/// RFC 7518 §3.2: a secret that is shorter than the hash is none for that algorithm.
#[test]
fn a_short_secret_is_for_short_hashes_only() {
    let vectors = vectors();
    let keys = |len: usize| {
        vec![Key { id: None, material: Material::Secret(vectors.secret.as_bytes()[..len].to_vec()), only: None }]
    };
    for (len, able) in [(31, 0), (32, 1), (47, 1), (48, 2), (64, 3)] {
        let algorithms = [Algorithm::Hs256, Algorithm::Hs384, Algorithm::Hs512];
        assert_eq!(algorithms.iter().filter(|&&algorithm| keys(len)[0].allows(algorithm)).count(), able, "{len}");
    }
    assert_eq!(verify(&vectors.good["HS512"], &keys(32)), Err(Refused::Algorithm));
}

#[test]
fn sets_without_a_key_are_errors_and_show_nothing() {
    let vectors = vectors();
    assert!(set(&vectors.passed_over).unwrap_err().contains("no key for signatures"));
    for text in ["", "[]", "{}", r#"{"keys":{"kty":"oct","k":"secret"}}"#] {
        let error = jwks::read(text.as_bytes()).unwrap_err();
        assert!(error.contains("no JWKS") && !error.contains("secret"), "{error}");
    }
    assert!(jwks::read(" ".repeat(jwks::LONGEST + 1).as_bytes()).unwrap_err().contains("at most"));
    assert!(!format!("{:?}", keys(&vectors)).contains(&vectors.secret));
}
