//! Published vectors, recomputed elsewhere, and what must not be accepted.

use std::path::Path;

use super::*;
use crate::config::HooksConfig;

fn source(members: &str) -> Source {
    let text = format!("[[source]]\nname = \"x\"\n{members}\n");
    let none = |_: &Path| Err(String::new());
    HooksConfig::read("x", &text, &none).unwrap_or_else(|error| panic!("{error}")).sources.remove(0)
}

fn headers(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn at(seconds: i64) -> When {
    When::from_micros(seconds * 1_000_000).unwrap()
}

fn missing(header: &str) -> Result<(), SignatureError> {
    Err(SignatureError::Missing(header.to_owned()))
}

fn malformed(header: &str) -> Result<(), SignatureError> {
    Err(SignatureError::Malformed(header.to_owned()))
}

fn wrong(header: &str) -> Result<(), SignatureError> {
    Err(SignatureError::Wrong(header.to_owned()))
}

const FIRST: (&str, &str, i64, &str, &str) = (
    "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    "msg_p5jXN8AQM9LWM0D4loKWxJek",
    1_614_265_330,
    r#"{"test": 2432232314}"#,
    "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
);
const SECOND: (&str, &str, i64, &str, &str) = (
    "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
    "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk",
    1_649_367_553,
    r#"{"email":"test@example.com","username":"test_user"}"#,
    "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=",
);

/// Checks the first vector with another signature, as of `now`.
fn first_with(signature: &str, now: i64) -> Result<(), SignatureError> {
    let (secret, id, timestamp, body, _) = FIRST;
    let source = source(&format!("preset = \"plain\"\nsecret = \"{secret}\""));
    let timestamp = timestamp.to_string();
    let headers = headers(&[("webhook-id", id), ("webhook-timestamp", &timestamp), ("Webhook-Signature", signature)]);
    verify(&source, &headers, body.as_bytes(), at(now))
}

#[test]
fn standard_webhooks_vectors() {
    for (secret, id, timestamp, body, signature) in [FIRST, SECOND] {
        let source = source(&format!("preset = \"plain\"\nsecret = \"{secret}\""));
        let text = timestamp.to_string();
        let list = headers(&[("webhook-id", id), ("webhook-timestamp", &text), ("webhook-signature", signature)]);
        assert_eq!(verify(&source, &list, body.as_bytes(), at(timestamp)), Ok(()));
        let other = body.replace('t', "T");
        assert_eq!(verify(&source, &list, other.as_bytes(), at(timestamp)), wrong("webhook-signature"));
        let list = headers(&[("webhook-id", "x"), ("webhook-timestamp", &text), ("webhook-signature", signature)]);
        assert_eq!(verify(&source, &list, body.as_bytes(), at(timestamp)), wrong("webhook-signature"));
        let list = headers(&[("webhook-timestamp", &text), ("webhook-signature", signature)]);
        assert_eq!(verify(&source, &list, body.as_bytes(), at(timestamp)), missing("webhook-id"));
        let list = headers(&[("webhook-id", id), ("webhook-timestamp", "now"), ("webhook-signature", signature)]);
        assert_eq!(verify(&source, &list, body.as_bytes(), at(timestamp)), malformed("webhook-timestamp"));
    }
}

#[test]
fn standard_webhooks_signatures_that_do_not_count() {
    let (_, _, now, _, good) = FIRST;
    let other = SECOND.4;
    for (signature, want) in [
        (good.to_owned(), Ok(())),
        (format!("v2,{} {good}", "A".repeat(44)), Ok(())),
        (format!("v1a,{} {good}", "A".repeat(44)), Ok(())),
        (format!("{other} {good}"), Ok(())),
        (format!("v1, {good}"), Ok(())),
        (other.to_owned(), wrong("webhook-signature")),
        (String::new(), missing("webhook-signature")),
        ("v1,".to_owned(), malformed("webhook-signature")),
        ("v1".to_owned(), malformed("webhook-signature")),
        (good.replace("v1,", ""), malformed("webhook-signature")),
        (good.replace("v1,", "v2,"), malformed("webhook-signature")),
        // Truncated: the first within its Base64, the second as whole Base64 of fewer bytes.
        (good[..good.len() - 3].to_owned(), malformed("webhook-signature")),
        (good[..3 + 40].to_owned(), wrong("webhook-signature")),
        (good[..3 + 4].to_owned(), wrong("webhook-signature")),
        (format!("{good},"), malformed("webhook-signature")),
    ] {
        assert_eq!(first_with(&signature, now), want, "{signature}");
    }
}

#[test]
fn standard_webhooks_tolerance() {
    let (_, _, sent, _, good) = FIRST;
    for (away, want) in [
        (0, Ok(())),
        (300, Ok(())),
        (-300, Ok(())),
        (301, Err(SignatureError::Stale(301))),
        (-301, Err(SignatureError::Stale(301))),
    ] {
        assert_eq!(first_with(good, sent + away), want, "{away}");
    }
}

#[test]
fn an_empty_secret_accepts_nothing() {
    let mut source = source("preset = \"plain\"\nsecret = \"x\"");
    source.secrets = vec![Secret::new("")];
    let list = headers(&[("webhook-id", "a"), ("webhook-timestamp", "0"), ("webhook-signature", FIRST.4)]);
    assert_eq!(verify(&source, &list, b"", at(0)), Err(SignatureError::NoSecret));
    source.secrets.clear();
    assert_eq!(verify(&source, &list, b"", at(0)), Err(SignatureError::NoSecret));
}

#[test]
fn github_vector() {
    let source = source("preset = \"github\"\nsecret = [\"another\", \"It's a Secret to Everybody\"]");
    let tag = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
    let check =
        |value: &str, body: &str| verify(&source, &headers(&[("x-hub-signature-256", value)]), body.as_bytes(), at(0));
    let (name, body) = ("X-Hub-Signature-256", "Hello, World!");
    assert_eq!(check(&format!("sha256={tag}"), body), Ok(()), "the second secret, while one is being replaced");
    assert_eq!(check(&format!("sha256={}", tag.to_uppercase()), body), Ok(()));
    assert_eq!(check(&format!("sha256={tag}"), "Hello, World"), wrong(name));
    assert_eq!(check(tag, body), malformed(name));
    assert_eq!(check(&format!("sha1={tag}"), body), malformed(name));
    assert_eq!(check("sha256=", body), malformed(name));
    assert_eq!(check("sha256=zz", body), malformed(name));
    assert_eq!(check(&format!("sha256={}", &tag[..63]), body), malformed(name));
    assert_eq!(check(&format!("sha256={}", &tag[..62]), body), wrong(name), "truncated");
    assert_eq!(check(&format!("sha256={tag}00"), body), wrong(name));
    assert_eq!(check("", body), missing(name));
    // GitHub's old signature is not looked at.
    let old = headers(&[("X-Hub-Signature", "sha1=00")]);
    assert_eq!(verify(&source, &old, b"", at(0)), missing(name));
}

#[test]
fn gitlab_tokens_and_signatures() {
    let (secret, id, timestamp, body, signature) = FIRST;
    let source = source(&format!("preset = \"gitlab\"\nsecret = [\"token\", \"{secret}\"]"));
    let check = |list: &[(&str, &str)]| verify(&source, &headers(list), body.as_bytes(), at(timestamp));
    let text = timestamp.to_string();
    assert_eq!(check(&[("X-Gitlab-Token", "token")]), Ok(()));
    assert_eq!(check(&[("X-Gitlab-Token", "tokem")]), Err(SignatureError::WrongToken("X-Gitlab-Token".to_owned())));
    assert_eq!(check(&[("X-Gitlab-Token", "toke")]), Err(SignatureError::WrongToken("X-Gitlab-Token".to_owned())));
    assert_eq!(check(&[("X-Gitlab-Token", "")]), missing("X-Gitlab-Token or webhook-signature"));
    assert_eq!(check(&[]), missing("X-Gitlab-Token or webhook-signature"));
    let signed = [("webhook-id", id), ("webhook-timestamp", text.as_str()), ("webhook-signature", signature)];
    assert_eq!(check(&signed), Ok(()));
    assert_eq!(check(&[&signed[..], &[("X-Gitlab-Token", "wrong")]].concat()), Ok(()), "one that fits is enough");
}

#[test]
fn launchpad_has_sha1_only() {
    let source = source("preset = \"launchpad\"\nsecret = \"key\"");
    let body = b"The quick brown fox jumps over the lazy dog";
    let tag = "sha1=de7c9b85b8b78aa6bc8a7a36f70a90701c9db4d9";
    assert_eq!(verify(&source, &headers(&[("X-Hub-Signature", tag)]), body, at(0)), Ok(()));
    assert_eq!(verify(&source, &headers(&[("X-Hub-Signature", tag)]), b"", at(0)), wrong("X-Hub-Signature"));
}

#[test]
fn base64_and_a_form_without_its_field() {
    let source = source(
        "bug = \"/b\"\nunwrap = \"form:payload\"\nsecret = \"key\"\nauth = { hmac-sha256 = \"X-S\", encoding = \"base64\", over = \"payload\" }",
    );
    let tag = STANDARD.encode(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, b"key"), b"{}").as_ref());
    assert_eq!(verify(&source, &headers(&[("X-S", &tag)]), b"{}", at(0)), Ok(()));
    let form = ("content-type", "application/x-www-form-urlencoded; charset=utf-8");
    assert_eq!(verify(&source, &headers(&[("X-S", &tag), form]), b"payload=%7B%7D&x=y", at(0)), Ok(()));
    assert_eq!(verify(&source, &headers(&[("X-S", &tag), form]), b"x=y", at(0)), malformed("X-S"));
}
