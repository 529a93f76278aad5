//! Signatures of what is sent, as Standard Webhooks has it: <https://www.standardwebhooks.com>.
//!
//! Goes in: an endpoint's secrets, an id, a time and a body. Comes out: the three headers. While a secret is being replaced,
//! both sign, so that the receiver may change to the new one at any moment. No secret shows in `Debug` or in an error.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bugfeed_protocol::When;
use hyper::header::{HeaderName, HeaderValue};
use ring::hmac;

use crate::config::Secret;

/// What a secret begins with.
const PREFIX: &str = "whsec_";
/// A secret has so many bytes, at least and at most.
pub const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;
/// A secret is made of so many random bytes.
pub const RANDOM_BYTES: usize = 32;

/// A text that is no secret. It is not repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSecret {
    /// Something else at the beginning.
    #[error("a secret begins with whsec_; leave it out, and one is made")]
    Prefix,
    /// No Base64 after it.
    #[error("after whsec_ comes Base64 (A-Z, a-z, 0-9, + and /, filled up with = to a multiple of four characters)")]
    Base64,
    /// Too few or too many bytes.
    #[error("a secret has 24 to 64 bytes, this one has {0}; 32 random bytes are a good one")]
    Length(usize),
}

/// A secret with which requests are signed.
#[derive(Clone)]
pub struct SigningSecret {
    text: Secret,
    key: hmac::Key,
}

impl SigningSecret {
    /// Makes a secret of random bytes.
    pub fn generate(random: &[u8; RANDOM_BYTES]) -> SigningSecret {
        SigningSecret::of(&format!("{PREFIX}{}", STANDARD.encode(random)), random)
    }

    /// Reads `whsec_` and Base64.
    ///
    /// # Errors
    /// If it has not this form, or not 24 to 64 bytes.
    pub fn parse(text: &str) -> Result<SigningSecret, BadSecret> {
        let encoded = text.strip_prefix(PREFIX).ok_or(BadSecret::Prefix)?;
        let bytes = STANDARD.decode(encoded).map_err(|_| BadSecret::Base64)?;
        if !SECRET_BYTES.contains(&bytes.len()) {
            return Err(BadSecret::Length(bytes.len()));
        }
        Ok(SigningSecret::of(text, &bytes))
    }

    fn of(text: &str, bytes: &[u8]) -> SigningSecret {
        SigningSecret { text: Secret::new(text), key: hmac::Key::new(hmac::HMAC_SHA256, bytes) }
    }

    /// The text, to be stored, or shown once.
    pub fn expose(&self) -> &str {
        self.text.expose()
    }

    pub(crate) fn key(&self) -> &hmac::Key {
        &self.key
    }
}

impl fmt::Debug for SigningSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("whsec_…")
    }
}

/// An endpoint's secret, and the one before it while that still counts.
#[derive(Clone, Debug)]
pub struct Secrets {
    current: SigningSecret,
    previous: Option<(SigningSecret, When)>,
}

impl Secrets {
    /// One secret.
    pub fn new(current: SigningSecret) -> Secrets {
        Secrets { current, previous: None }
    }

    /// The secret, and the one before it, which counts before `until`.
    pub fn rotating(current: SigningSecret, previous: SigningSecret, until: When) -> Secrets {
        Secrets { current, previous: Some((previous, until)) }
    }

    /// Those that count now, the newest first.
    pub(super) fn at(&self, now: When) -> impl Iterator<Item = &SigningSecret> {
        let previous = self.previous.as_ref().filter(|(_, until)| now < *until).map(|(secret, _)| secret);
        std::iter::once(&self.current).chain(previous)
    }

    /// The headers of a request: `webhook-id`, `webhook-timestamp`, `webhook-signature`. `None`: the id cannot stand in a
    /// header.
    pub fn headers(&self, id: &str, body: &[u8], now: When) -> Option<[(HeaderName, HeaderValue); 3]> {
        let timestamp = now.as_micros().div_euclid(1_000_000).to_string();
        let mut signatures = String::with_capacity(2 * (3 + 44) + 1);
        for secret in self.at(now) {
            signatures.push_str(if signatures.is_empty() { "v1," } else { " v1," });
            let signed: [&[u8]; 5] = [id.as_bytes(), b".", timestamp.as_bytes(), b".", body];
            STANDARD.encode_string(sign(secret.key(), &signed), &mut signatures);
        }
        Some([
            (HeaderName::from_static("webhook-id"), HeaderValue::from_str(id).ok()?),
            (HeaderName::from_static("webhook-timestamp"), HeaderValue::try_from(timestamp).ok()?),
            (HeaderName::from_static("webhook-signature"), HeaderValue::try_from(signatures).ok()?),
        ])
    }
}

fn sign(key: &hmac::Key, parts: &[&[u8]]) -> hmac::Tag {
    let mut context = hmac::Context::with_key(key);
    parts.iter().for_each(|part| context.update(part));
    context.sign()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::receive::signature::Stamped;

    fn at(seconds: i64) -> When {
        When::from_micros(seconds * 1_000_000 + 999_999).unwrap()
    }

    #[test]
    fn published_vectors() {
        for (secret, id, timestamp, body, signature) in [
            (
                "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
                "msg_p5jXN8AQM9LWM0D4loKWxJek",
                1_614_265_330,
                r#"{"test": 2432232314}"#,
                "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
            ),
            (
                "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
                "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk",
                1_649_367_553,
                r#"{"email":"test@example.com","username":"test_user"}"#,
                "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=",
            ),
        ] {
            let secrets = Secrets::new(SigningSecret::parse(secret).unwrap());
            let headers = secrets.headers(id, body.as_bytes(), at(timestamp)).unwrap();
            let values = headers.each_ref().map(|(_, value)| value.to_str().unwrap());
            assert_eq!(values, [id, &timestamp.to_string(), signature]);
        }
    }

    #[test]
    fn both_secrets_sign_while_one_is_replaced() {
        let [old, new] = [1, 2].map(|byte| SigningSecret::generate(&[byte; RANDOM_BYTES]));
        let secrets = Secrets::rotating(new.clone(), old.clone(), at(100));
        for (now, want) in [(at(99), [true, true]), (at(100), [true, false])] {
            let headers = secrets.headers("id", b"{}", now).unwrap();
            let list: Vec<(String, String)> =
                headers.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect();
            let stamped = Stamped::read(&list, now).unwrap();
            assert_eq!([&new, &old].map(|secret| stamped.fits(secret.key(), &[b"{}"])), want);
            assert!(!stamped.fits(new.key(), &[b"{ }"]));
        }
        assert!(secrets.headers("a\nb", b"", at(0)).is_none());
    }

    #[test]
    fn secrets_are_made_read_and_not_shown() {
        let made = SigningSecret::generate(&[7; RANDOM_BYTES]);
        let read = SigningSecret::parse(made.expose()).unwrap();
        assert_eq!(read.expose(), "whsec_BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=");
        let shown = format!("{:?}", Secrets::rotating(made, read, at(0)));
        assert!(!shown.contains("Bwc") && !shown.contains('7'), "{shown}");
        let of = |bytes: usize| SigningSecret::parse(&format!("whsec_{}", STANDARD.encode(vec![0; bytes]))).err();
        assert_eq!([of(24), of(64)], [None, None]);
        assert_eq!([of(23), of(65), of(0)], [23, 65, 0].map(|length| Some(BadSecret::Length(length))));
        for (text, want) in [
            ("", BadSecret::Prefix),
            ("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", BadSecret::Prefix),
            ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS", BadSecret::Base64),
            ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLa-_", BadSecret::Base64),
            ("whsec_ MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", BadSecret::Base64),
        ] {
            assert_eq!(SigningSecret::parse(text).unwrap_err(), want, "{text}");
        }
    }
}
