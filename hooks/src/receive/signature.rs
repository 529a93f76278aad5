//! Whether a request was signed by somebody who has the source's secret.
//!
//! Goes in: a source with secrets, the request's headers and body, and the time. Comes out: yes, or why not. Signatures
//! and secrets are compared in constant time; no error shows either.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bugfeed_protocol::When;
use ring::hmac;
use subtle::ConstantTimeEq;

use super::body;
use super::identity::Sha256;
use super::lookup::Headers;
use crate::config::auth::{Encoding, Hash, Over, Signature};
use crate::config::{Secret, Source};

/// How far the timestamp of Standard Webhooks may be from now, in either direction, in seconds.
pub const TOLERANCE_S: i64 = 300;

/// Why a request is not accepted as signed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// The source has no secret, so nothing can be signed with it; a key is needed.
    #[error("the source has no secret")]
    NoSecret,
    /// None of the headers is there, or all are empty.
    #[error("the request is not signed: {0} is missing or empty")]
    Missing(String),
    /// A signature has not the form that it should have.
    #[error("the signature in {0} has not the expected form")]
    Malformed(String),
    /// A signature fits none of the secrets.
    #[error("the signature in {0} does not fit")]
    Wrong(String),
    /// A token is none of the secrets.
    #[error("the token in {0} is not the source's secret")]
    WrongToken(String),
    /// The timestamp of Standard Webhooks is too old, or in the future.
    #[error("webhook-timestamp is {0} s away from our clock, and at most 300 s are allowed")]
    Stale(u64),
}

impl SignatureError {
    /// How to mend it.
    pub fn fix(&self) -> &'static str {
        match self {
            SignatureError::NoSecret => "give the source a secret, or send a key",
            SignatureError::Missing(_) => "enter the source's secret in the sender's webhook",
            SignatureError::Malformed(_) => {
                "see that the sender signs as the source's `auth` says: header, prefix, encoding"
            }
            SignatureError::Wrong(_) => {
                "enter the same secret at both ends; a proxy between them must leave the body as it is"
            }
            SignatureError::WrongToken(_) => "enter the same secret at both ends, without blanks or line ends",
            SignatureError::Stale(_) => {
                "set the clocks of both machines; a captured request cannot be sent again later"
            }
        }
    }
}

/// Checks a request's signature. It is accepted if one of the source's forms fits one of its secrets.
///
/// # Errors
/// The source has no secret, the request is not signed, or its signature does not fit. Of several forms, the error is
/// about the one whose header is there.
pub fn verify(source: &Source, headers: &dyn Headers, body: &[u8], now: When) -> Result<(), SignatureError> {
    let secrets: Vec<&Secret> = source.secrets.iter().filter(|secret| !secret.expose().is_empty()).collect();
    if secrets.is_empty() {
        return Err(SignatureError::NoSecret);
    }
    let mut missing = Vec::new();
    let mut refused = None;
    for form in &source.signatures {
        let checked = match form {
            Signature::Token { header } => token(header, headers, &secrets),
            Signature::StandardWebhooks => standard_webhooks(headers, body, &secrets, now),
            Signature::Hmac { hash, header, prefix, encoding, over } => {
                let signed = match over {
                    Over::Body => Ok(Cow::Borrowed(body)),
                    Over::Payload => body::payload(&source.mapping, headers, body),
                };
                let signed = signed.map_err(|_| SignatureError::Malformed(header.clone()));
                signed.and_then(|signed| hmac_of(*hash, header, prefix, *encoding, headers, &signed, &secrets))
            }
        };
        match checked {
            Ok(()) => return Ok(()),
            Err(SignatureError::Missing(header)) => missing.push(header),
            Err(error) => refused = refused.or(Some(error)),
        }
    }
    Err(refused.unwrap_or_else(|| SignatureError::Missing(missing.join(" or "))))
}

/// A header that is there and not empty.
fn present<'a>(headers: &'a dyn Headers, name: &str) -> Result<&'a str, SignatureError> {
    let value = headers.get(name).map(str::trim).unwrap_or_default();
    if value.is_empty() { Err(SignatureError::Missing(name.to_owned())) } else { Ok(value) }
}

/// The secret itself in a header. Hashes are compared, so that not even the length shows in the time.
fn token(header: &str, headers: &dyn Headers, secrets: &[&Secret]) -> Result<(), SignatureError> {
    let given = Sha256::of(present(headers, header)?.as_bytes());
    let fits = |secret: &&Secret| bool::from(Sha256::of(secret.expose().as_bytes()).0.ct_eq(&given.0));
    accept(secrets, fits, header).map_err(|_| SignatureError::WrongToken(header.to_owned()))
}

fn hmac_of(
    hash: Hash,
    header: &str,
    prefix: &str,
    encoding: Encoding,
    headers: &dyn Headers,
    signed: &[u8],
    secrets: &[&Secret],
) -> Result<(), SignatureError> {
    let malformed = || SignatureError::Malformed(header.to_owned());
    let given = present(headers, header)?.strip_prefix(prefix).ok_or_else(malformed)?;
    let tag = match encoding {
        Encoding::Hex => from_hex(given),
        Encoding::Base64 => STANDARD.decode(given).ok(),
    };
    let tag = tag.filter(|tag| !tag.is_empty()).ok_or_else(malformed)?;
    let algorithm = match hash {
        Hash::Sha256 => hmac::HMAC_SHA256,
        Hash::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
    };
    let fits =
        |secret: &&Secret| hmac::verify(&hmac::Key::new(algorithm, secret.expose().as_bytes()), signed, &tag).is_ok();
    accept(secrets, fits, header)
}

/// <https://www.standardwebhooks.com>: HMAC-SHA256 over `id.timestamp.body`.
fn standard_webhooks(headers: &dyn Headers, body: &[u8], secrets: &[&Secret], now: When) -> Result<(), SignatureError> {
    let stamped = Stamped::read(headers, now)?;
    let fits = |secret: &&Secret| stamped.fits(&hmac::Key::new(hmac::HMAC_SHA256, &standard_secret(secret)), &[body]);
    accept(secrets, fits, "webhook-signature")
}

/// The headers of Standard Webhooks, as far as they can be judged without a secret.
pub(crate) struct Stamped<'a> {
    /// `webhook-id`.
    pub(crate) id: &'a str,
    timestamp: &'a str,
    tags: Vec<Vec<u8>>,
}

impl<'a> Stamped<'a> {
    /// Reads them. The header lists signatures, each with its version; other versions are passed over.
    ///
    /// # Errors
    /// If one is missing, has not the form, or the timestamp is too far from now.
    pub(crate) fn read(headers: &'a dyn Headers, now: When) -> Result<Stamped<'a>, SignatureError> {
        let signatures = present(headers, "webhook-signature")?;
        let id = present(headers, "webhook-id")?;
        let timestamp = present(headers, "webhook-timestamp")?;
        let sent: i64 = timestamp.parse().map_err(|_| SignatureError::Malformed("webhook-timestamp".to_owned()))?;
        let away = (now.as_micros().div_euclid(1_000_000)).abs_diff(sent);
        if away > TOLERANCE_S.unsigned_abs() {
            return Err(SignatureError::Stale(away));
        }
        let tags: Vec<Vec<u8>> = signatures
            .split(' ')
            .filter_map(|signature| signature.strip_prefix("v1,"))
            .filter_map(|tag| STANDARD.decode(tag).ok())
            .filter(|tag| !tag.is_empty())
            .collect();
        if tags.is_empty() {
            return Err(SignatureError::Malformed("webhook-signature".to_owned()));
        }
        Ok(Stamped { id, timestamp, tags })
    }

    /// Whether a signature is that of `id.timestamp.content` with this key; the content is that of all parts together.
    pub(crate) fn fits(&self, key: &hmac::Key, content: &[&[u8]]) -> bool {
        let mut context = hmac::Context::with_key(key);
        let begin: [&[u8]; 4] = [self.id.as_bytes(), b".", self.timestamp.as_bytes(), b"."];
        begin.iter().chain(content).for_each(|part| context.update(part));
        let tag = context.sign();
        self.tags.iter().any(|given| bool::from(given.as_slice().ct_eq(tag.as_ref())))
    }
}

/// The bytes of a secret of Standard Webhooks: Base64 after `whsec_`. What is no Base64 counts as it is.
fn standard_secret(secret: &Secret) -> Vec<u8> {
    let text = secret.expose();
    let encoded = text.strip_prefix("whsec_").unwrap_or(text);
    match STANDARD.decode(encoded) {
        Ok(bytes) if !bytes.is_empty() => bytes,
        _ => text.as_bytes().to_vec(),
    }
}

/// Tries all secrets, also after one that fits.
fn accept(secrets: &[&Secret], fits: impl Fn(&&Secret) -> bool, header: &str) -> Result<(), SignatureError> {
    let number = secrets.iter().filter(|secret| fits(secret)).count();
    if number > 0 { Ok(()) } else { Err(SignatureError::Wrong(header.to_owned())) }
}

/// The bytes that hexadecimal digits of either case stand for.
fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let bytes = pairs.iter().map(|[high, low]| Some(digit(*high)? * 16 + digit(*low)?)).collect();
    if rest.is_empty() { bytes } else { None }
}

#[cfg(test)]
mod tests;
