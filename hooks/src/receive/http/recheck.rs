//! The way out of quarantine: a request is checked again, by the keys, secrets and mapping of now, or trusted by a person.
//!
//! Goes in: a request from quarantine with its body. Comes out: what is given to [`super::Intake::accept`], or why not.
//! It is pure.

use std::sync::Arc;

use bugfeed_core::hooks::event::Trigger;
use bugfeed_protocol::When;
use bytes::Bytes;
use subtle::ConstantTimeEq as _;

use super::decode::{decode, encoding};
use super::items::Items;
use super::keys::{KeyRow, KeyTable};
use crate::config::Source;
use crate::config::auth::Signature;
use crate::config::source::Bodies;
use crate::receive::identity::Sha256;
use crate::receive::lookup::Headers as _;
use crate::receive::mapped::Request;
use crate::receive::mapping::map;
use crate::receive::received::{Envelope, Failure, Proof, QuarantinedRequest, ReceivedRequest, RequestId};
use crate::receive::signature::{SignatureError, verify};

/// The most bytes of a body after decompression.
const LONGEST_BODY: usize = 25 * 1024 * 1024;

/// On whose word a request leaves quarantine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Its key or signature must be good now. For what is bound to time, the time of its receipt counts.
    Check,
    /// A person vouches for it.
    Person,
}

/// Checks and maps a request from quarantine. `source` is the one to whose name it was sent, `id` the new request's
/// identifier, made now.
///
/// # Errors
/// It is still not good, or its body was not kept.
pub fn recheck(
    source: &Source,
    keys: &KeyTable,
    quarantined: &QuarantinedRequest,
    id: RequestId,
    now_us: i64,
    trust: Trust,
) -> Result<ReceivedRequest, Failure> {
    let old = &quarantined.envelope;
    let body = old.body.as_ref().ok_or_else(|| Failure {
        error: "the body was not kept, so the request cannot be received again".to_owned(),
        fix: "let the sender send it again".to_owned(),
    })?;
    let received = When::from_micros(old.received_us).unwrap_or_else(|| When::from_system_time(std::time::UNIX_EPOCH));
    let key = match trust {
        Trust::Person => None,
        Trust::Check if source.secrets.is_empty() => Some(check_key(source, keys, quarantined, now_us)?),
        Trust::Check => {
            check_signature(source, quarantined, body, received)?;
            None
        }
    };
    let body = plain(old, body);
    let mapped = map(source, Request { headers: &old.headers, body: &body, arrived: received });
    let items = match mapped {
        Ok(mapped) => Items::of(source, mapped, key.as_deref()),
        Err(error) => Items::failed(source, error.into(), received, Sha256::of(&body)),
    };
    let mut envelope = old.clone();
    envelope.id = id;
    envelope.source.clone_from(&source.name);
    (envelope.body_hash, envelope.body) = (Some(Sha256::of(&body)), Some(body));
    if source.bodies != Bodies::All && !items.has_errors() {
        envelope.body = None;
    }
    let Items { failure, items, answered } = items;
    Ok(ReceivedRequest { envelope, trigger: Trigger::Replay, replays: None, failure, items, answered })
}

/// The body after decompression. A request that was refused because of its head was kept as it came; one whose body was
/// looked at is kept decompressed, and is no compressed text then.
fn plain(old: &Envelope, body: &Bytes) -> Bytes {
    let decoded = match encoding(old.headers.get("content-encoding")) {
        Ok(Some(encoding)) => decode(encoding, body, LONGEST_BODY).ok(),
        Ok(None) | Err(_) => None,
    };
    decoded.map_or_else(|| body.clone(), Bytes::from)
}

fn check_key(
    source: &Source,
    keys: &KeyTable,
    quarantined: &QuarantinedRequest,
    now_us: i64,
) -> Result<Arc<KeyRow>, Failure> {
    let (Some(id), Some(hash)) = (&quarantined.envelope.key_id, &quarantined.proof.key) else {
        return Err(quarantined.failure.clone());
    };
    let checked = keys.check_hash(id, hash, &source.name, now_us);
    checked.map_err(|error| Failure { error: error.to_string(), fix: error.fix(&source.name) })
}

fn check_signature(
    source: &Source,
    quarantined: &QuarantinedRequest,
    body: &[u8],
    received: When,
) -> Result<(), Failure> {
    let Proof { signature, .. } = &quarantined.proof;
    if has_token(source, signature) {
        return Ok(());
    }
    // Headers of signatures are not among the others, and a body that was compressed is kept as it was before.
    let headers: Vec<(String, String)> = signature.iter().chain(&quarantined.envelope.headers).cloned().collect();
    let mut signed_only = source.clone();
    signed_only.signatures.retain(|form| !matches!(form, Signature::Token { .. }));
    let refused = |error: SignatureError| Failure { error: error.to_string(), fix: error.fix().to_owned() };
    match verify(&signed_only, &headers, body, received) {
        Ok(()) => Ok(()),
        Err(SignatureError::Missing(others)) => Err(refused(no_token(source, signature, others))),
        Err(error) => Err(refused(error)),
    }
}

/// The error of a request of which no signature was kept but, perhaps, the hash of a token that does not fit. `others`: the
/// headers of the other forms, which are missing.
fn no_token(source: &Source, kept: &[(String, String)], others: String) -> SignatureError {
    let headers = source.signatures.iter().filter_map(|form| match form {
        Signature::Token { header } => Some(header.clone()),
        Signature::Hmac { .. } | Signature::StandardWebhooks => None,
    });
    let headers: Vec<String> = headers.collect();
    let sent = headers.iter().find(|header| kept.iter().any(|(name, _)| name.eq_ignore_ascii_case(header)));
    match sent {
        Some(header) => SignatureError::WrongToken(header.clone()),
        None => {
            let all: Vec<String> = headers.into_iter().chain((!others.is_empty()).then_some(others)).collect();
            SignatureError::Missing(all.join(" or "))
        }
    }
}

/// Whether a token, of which the hash was kept, is one of the source's secrets.
fn has_token(source: &Source, kept: &[(String, String)]) -> bool {
    let tokens = source.signatures.iter().filter_map(|form| match form {
        Signature::Token { header } => kept.iter().find(|(name, _)| name.eq_ignore_ascii_case(header)),
        Signature::Hmac { .. } | Signature::StandardWebhooks => None,
    });
    let fits = |hash: &Sha256| {
        let equal = |secret: &crate::config::Secret| Sha256::of(secret.expose().as_bytes()).0.ct_eq(&hash.0).into();
        source.secrets.iter().any(equal)
    };
    tokens.filter_map(|(_, hash)| Sha256::parse(hash)).any(|hash| fits(&hash))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::HooksConfig;

    #[test]
    fn a_missing_token_is_named_and_a_wrong_one_is_wrong() {
        let error = |auth: &str, kept: &[(&str, &str)]| {
            let text = format!("[[source]]\nname = \"x\"\nbug = \"/bug\"\nsecret = \"s\"\nauth = {auth}\n");
            let source = HooksConfig::read("x", &text, &|_| Err(String::new())).unwrap().sources.remove(0);
            let kept: Vec<_> = kept.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            no_token(&source, &kept, String::new()).to_string()
        };
        let token = "{ token = \"X-T\" }";
        assert_eq!(error(token, &[]), "the request is not signed: X-T is missing or empty");
        assert_eq!(error(token, &[("x-t", "00")]), "the token in X-T is not the source's secret");
    }
}
