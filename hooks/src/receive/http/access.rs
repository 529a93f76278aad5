//! Who sent a request, and whether they may.
//!
//! Goes in: a source, the head of a request, and, where the source has a secret, the body. Comes out: that the sender may
//! send, or in which share of the quarantine the request goes, and why. A source with a secret accepts signatures only.

use std::sync::Arc;

use bugfeed_protocol::When;

use super::head::{Head, signature_header};
use super::keys::{KeyError, KeyRow, KeyTable};
use super::places::Standing;
use crate::config::Source;
use crate::config::auth::{KeyPlace, Signature, any_key};
use crate::receive::identity::Sha256;
use crate::receive::key::{FoundKey, Key, find};
use crate::receive::lookup::Headers;
use crate::receive::received::{Failure, Proof, Share};
use crate::receive::signature::{SignatureError, verify};

/// What the head says about the sender.
#[derive(Clone, Debug)]
pub(super) enum Access {
    /// May send. The key, where there is one.
    Vouched(Option<Arc<KeyRow>>),
    /// Has a key, and keys were not read yet.
    Unchecked { key_id: String, proof: Proof },
    /// The body must be read first: the source has a secret.
    Signed,
    /// May not send.
    Refused(Box<Refusal>),
}

impl Access {
    /// What is known of the sender while the body is read.
    pub(super) fn standing(&self) -> Standing {
        match self {
            Access::Vouched(_) => Standing::Vouched,
            Access::Unchecked { .. } | Access::Signed | Access::Refused(_) => Standing::Open,
        }
    }
}

/// Why somebody may not send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) share: Share,
    pub(super) failure: Failure,
    pub(super) key_id: Option<String>,
    pub(super) proof: Proof,
}

/// Judges by the head.
pub(super) fn by_head(source: &Source, keys: &KeyTable, head: &Head) -> Access {
    if !source.secrets.is_empty() {
        return Access::Signed;
    }
    let refuse = |error: String, fix: String| {
        let failure = Failure { error, fix };
        Access::Refused(Box::new(Refusal { share: Share::KnownSource, failure, key_id: None, proof: Proof::default() }))
    };
    match find(&source.keys, &head.headers, head.path_end.as_deref()) {
        FoundKey::Key(key, _) => by_key(source, keys, &key, head.received_us),
        FoundKey::NoKey(place) => refuse(
            format!("what stands {} is no key", at(&place)),
            format!("a key looks like bf_ID_SECRET; {}", KeyError::Unknown.fix(&source.name)),
        ),
        FoundKey::Missing if source.lacks_secret() || is_signed(source, head) => refuse(
            "there is no key, and the source has no secret by which a signature could be checked".to_owned(),
            source.secret_advice(),
        ),
        FoundKey::Missing => {
            let places: Vec<String> = source.keys.iter().map(at).collect();
            let fix = format!("send a key {}; {}", places.join(", or "), KeyError::Unknown.fix(&source.name));
            refuse(format!("there is no key{}", misplaced(source, head)), fix)
        }
    }
}

/// Where a key probably stands that does not count there.
fn misplaced(source: &Source, head: &Head) -> &'static str {
    let authorization = head.headers.get("authorization").map(str::trim).filter(|value| !value.is_empty());
    let bears = source.keys.contains(&KeyPlace::Bearer);
    match authorization {
        _ if head.path_end.is_some() && !source.keys.contains(&KeyPlace::Path) => {
            " (a key in the path counts only with path_key = true)"
        }
        Some(value) if bears && !value.contains(' ') && !value.eq_ignore_ascii_case("bearer") => {
            " (Authorization needs the word Bearer before the key)"
        }
        Some(value) if bears && !value.to_ascii_lowercase().starts_with("basic ") => {
            " (of Authorization, only Bearer and Basic count)"
        }
        _ if head.has_query_key => " (a key in the query, after the ?, does not count: queries stand in logs)",
        _ => "",
    }
}

/// Whether the request has a signature of the form that the source's sender makes.
fn is_signed(source: &Source, head: &Head) -> bool {
    let is_there = |form| head.headers.get(signature_header(form)).is_some_and(|value| !value.trim().is_empty());
    source.signatures.iter().any(is_there)
}

fn by_key(source: &Source, keys: &KeyTable, key: &Key, now_us: i64) -> Access {
    let proof = Proof { key: Some(key.hash()), signature: Vec::new() };
    if !keys.is_read() {
        return Access::Unchecked { key_id: key.id().to_owned(), proof };
    }
    match keys.check(key, &source.name, now_us) {
        Ok(row) => Access::Vouched(Some(row)),
        Err(error) => Access::Refused(Box::new(of_key(error, &source.name, key.id(), proof))),
    }
}

/// The refusal of a key that has the form of one.
pub(super) fn of_key(error: KeyError, source: &str, id: &str, proof: Proof) -> Refusal {
    let failure = Failure { error: error.to_string(), fix: error.fix(source) };
    // Identifiers are no secret, so one alone must not give room in the share of those who have a key.
    let is_stranger = matches!(error, KeyError::Unknown | KeyError::WrongSecret);
    let share = if is_stranger { Share::KnownSource } else { Share::KnownSender };
    Refusal { share, failure, key_id: Some(id.to_owned()), proof }
}

/// Judges by the signature. `raw` is the body as it came, `body` the same after decompression: senders that compress sign
/// the one or the other.
///
/// # Errors
/// Why the sender may not send.
pub(super) fn by_signature(
    source: &Source,
    headers: &dyn Headers,
    raw: &[u8],
    body: &[u8],
    now: When,
) -> Result<(), Box<Refusal>> {
    let verified = verify(source, headers, raw, now);
    let verified = match verified {
        Err(_) if raw != body => verify(source, headers, body, now),
        verified => verified,
    };
    verified.map_err(|error| Box::new(unsigned(source, headers, &error)))
}

/// The refusal of a request whose signature does not fit, or that has none.
pub(super) fn unsigned(source: &Source, headers: &dyn Headers, error: &SignatureError) -> Refusal {
    let mut failure = Failure { error: error.to_string(), fix: error.fix().to_owned() };
    let is_unsigned = matches!(error, SignatureError::Missing(_));
    if is_unsigned && matches!(find(&any_key(), headers, None), FoundKey::Key(..)) {
        failure.error.push_str(" (there is a key, but a source with a secret takes no key)");
    }
    let share = match error {
        SignatureError::Wrong(_) | SignatureError::WrongToken(_) | SignatureError::Stale(_) => Share::KnownSender,
        SignatureError::Missing(_) | SignatureError::Malformed(_) | SignatureError::NoSecret => Share::KnownSource,
    };
    Refusal { share, failure, key_id: None, proof: Proof { key: None, signature: kept_signature(source, headers) } }
}

/// The longest signature that is kept.
const LONGEST_SIGNATURE: usize = 1024;

/// What is needed to check a signature again.
fn kept_signature(source: &Source, headers: &dyn Headers) -> Vec<(String, String)> {
    let mut kept = Vec::new();
    let mut keep = |name: &str, value: String| {
        if value.len() <= LONGEST_SIGNATURE && !kept.iter().any(|(known, _)| known == name) {
            kept.push((name.to_owned(), value));
        }
    };
    for form in &source.signatures {
        let header = signature_header(form);
        let Some(value) = headers.get(header).map(str::trim).filter(|value| !value.is_empty()) else { continue };
        match form {
            Signature::Token { .. } => keep(header, Sha256::of(value.as_bytes()).to_string()),
            Signature::Hmac { .. } => keep(header, value.to_owned()),
            Signature::StandardWebhooks => {
                keep(header, value.to_owned());
                for name in ["webhook-id", "webhook-timestamp"] {
                    headers.get(name).into_iter().for_each(|value| keep(name, value.to_owned()));
                }
            }
        }
    }
    kept
}

fn at(place: &KeyPlace) -> String {
    match place {
        KeyPlace::Bearer => "as Authorization: Bearer KEY".to_owned(),
        KeyPlace::Basic => "as the password of Authorization: Basic".to_owned(),
        KeyPlace::Header(name) => format!("in the header {name}"),
        KeyPlace::Path => "as the last part of the path".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;
    use crate::config::HooksConfig;

    #[test]
    fn a_key_in_the_wrong_place_has_words_of_its_own() {
        let config = HooksConfig::plain().unwrap();
        let error = |path: &str, authorization: &str| {
            let mut request = Request::post(path);
            if !authorization.is_empty() {
                request = request.header("authorization", authorization);
            }
            let head = Head::read(request.body(()).unwrap().into_parts().0, 5);
            match by_head(&config.sources[0], &KeyTable::new(), &head) {
                Access::Refused(refusal) => refusal.failure.error,
                other => panic!("{other:?}"),
            }
        };
        let key = "bf_bbbbbb_bbbbbbbbbbbbbbbbbbbbbb";
        assert_eq!(error("/hooks/plain", ""), "there is no key");
        assert!(error("/hooks/plain", key).contains("needs the word Bearer"));
        assert!(error("/hooks/plain", "hidden").contains("needs the word Bearer"));
        assert!(error("/hooks/plain", &format!("Token {key}")).contains("only Bearer and Basic"));
        assert!(error(&format!("/hooks/plain?x={key}"), "").contains("in the query"));
        assert!(error("/hooks/plain?api_key=hidden", "").contains("in the query"));
        assert!(error(&format!("/hooks/plain/{key}"), "").contains("path_key = true"));
        for said in [error("/hooks/plain", "hidden"), error("/hooks/plain?key=hidden", "")] {
            assert!(!said.contains("hidden"), "{said}");
        }
    }
}
