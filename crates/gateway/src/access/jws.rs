//! Signed tokens: a compact JWS (RFC 7515) whose payload is JSON.
//!
//! Goes in: a token, and keys. Comes out: its payload, once one of the keys has verified it, or why not. The key decides which
//! algorithms are possible, never the token: an RSA key cannot be taken for a secret, and `none` is no algorithm. It knows no
//! clock and no claim.
//!
//! ring does the cryptography, because it is linked for TLS anyway. `docs/decisions/0030-signed-tokens.md` says why no library for JWTs
//! stands between.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bugfeed_core::access::Refused;
use ring::hmac;
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm};
use serde::Deserialize;
use serde::de::IgnoredAny;

/// A token without a key's name is tried with at most so many keys.
const MOST_TRIED: usize = 16;

/// What a key can be. It never shows itself.
pub(super) enum Material {
    /// A modulus and an exponent.
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// A point on P-256, uncompressed.
    P256(Vec<u8>),
    /// A point on P-384, uncompressed.
    P384(Vec<u8>),
    Ed25519(Vec<u8>),
    /// A secret that issuer and gateway share.
    Secret(Vec<u8>),
}

/// An algorithm of RFC 7518 or RFC 8037.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Algorithm {
    Hs256,
    Hs384,
    Hs512,
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    EdDsa,
}

impl Algorithm {
    /// The algorithm with this name, if it is one of those that are verified here.
    pub(super) fn named(name: &str) -> Option<Algorithm> {
        Some(match name {
            "HS256" => Algorithm::Hs256,
            "HS384" => Algorithm::Hs384,
            "HS512" => Algorithm::Hs512,
            "RS256" => Algorithm::Rs256,
            "RS384" => Algorithm::Rs384,
            "RS512" => Algorithm::Rs512,
            "PS256" => Algorithm::Ps256,
            "PS384" => Algorithm::Ps384,
            "PS512" => Algorithm::Ps512,
            "ES256" => Algorithm::Es256,
            "ES384" => Algorithm::Es384,
            // RFC 9864 gives the same signature a name of its own.
            "EdDSA" | "Ed25519" => Algorithm::EdDsa,
            _ => return None,
        })
    }
}

/// A key that verifies tokens.
pub(super) struct Key {
    /// By which tokens name it.
    pub(super) id: Option<String>,
    pub(super) material: Material,
    /// The one algorithm that it is for, if whoever published it says so.
    pub(super) only: Option<Algorithm>,
}

impl Key {
    /// Whether a signature by this algorithm could be this key's.
    pub(super) fn allows(&self, algorithm: Algorithm) -> bool {
        use Algorithm::{EdDsa, Es256, Es384, Hs256, Hs384, Hs512, Ps256, Ps384, Ps512, Rs256, Rs384, Rs512};
        let fits = match &self.material {
            Material::Rsa { .. } => matches!(algorithm, Rs256 | Rs384 | Rs512 | Ps256 | Ps384 | Ps512),
            Material::P256(_) => algorithm == Es256,
            Material::P384(_) => algorithm == Es384,
            Material::Ed25519(_) => algorithm == EdDsa,
            // RFC 7518 §3.2: a secret is at least as long as the hash.
            Material::Secret(secret) => match algorithm {
                Hs256 => secret.len() >= 32,
                Hs384 => secret.len() >= 48,
                Hs512 => secret.len() >= 64,
                _ => false,
            },
        };
        fits && self.only.is_none_or(|only| only == algorithm)
    }

    /// Whether this key has signed the message by this algorithm, which must be one that the key allows.
    fn has_signed(&self, algorithm: Algorithm, message: &[u8], signed: &[u8]) -> bool {
        match &self.material {
            Material::Secret(secret) => {
                let hash = match algorithm {
                    Algorithm::Hs384 => hmac::HMAC_SHA384,
                    Algorithm::Hs512 => hmac::HMAC_SHA512,
                    _ => hmac::HMAC_SHA256,
                };
                // The comparison takes the same time wherever the difference is.
                hmac::verify(&hmac::Key::new(hash, secret), message, signed).is_ok()
            }
            Material::Rsa { n, e } => {
                let padding = match algorithm {
                    Algorithm::Rs384 => &signature::RSA_PKCS1_2048_8192_SHA384,
                    Algorithm::Rs512 => &signature::RSA_PKCS1_2048_8192_SHA512,
                    Algorithm::Ps256 => &signature::RSA_PSS_2048_8192_SHA256,
                    Algorithm::Ps384 => &signature::RSA_PSS_2048_8192_SHA384,
                    Algorithm::Ps512 => &signature::RSA_PSS_2048_8192_SHA512,
                    _ => &signature::RSA_PKCS1_2048_8192_SHA256,
                };
                RsaPublicKeyComponents { n, e }.verify(padding, message, signed).is_ok()
            }
            Material::P256(point) => is_of(&signature::ECDSA_P256_SHA256_FIXED, point, message, signed),
            Material::P384(point) => is_of(&signature::ECDSA_P384_SHA384_FIXED, point, message, signed),
            Material::Ed25519(key) => is_of(&signature::ED25519, key, message, signed),
        }
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key").field("id", &self.id).finish_non_exhaustive()
    }
}

fn is_of(algorithm: &'static dyn VerificationAlgorithm, key: &[u8], message: &[u8], signed: &[u8]) -> bool {
    UnparsedPublicKey::new(algorithm, key).verify(message, signed).is_ok()
}

/// The members of a token's head that decide something. A member that is there twice makes it unreadable.
#[derive(Deserialize)]
struct Head {
    alg: String,
    #[serde(default)]
    kid: Option<String>,
    #[serde(default)]
    typ: Option<String>,
    /// Extensions that the reader must understand; none is.
    #[serde(default, deserialize_with = "is_there")]
    crit: bool,
}

/// Whatever the value is, also null.
fn is_there<'de, D: serde::Deserializer<'de>>(value: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(value).map(|_| true)
}

/// A token in its parts. Nothing of it is verified yet.
pub(super) struct Jws<'a> {
    algorithm: Algorithm,
    key_id: Option<String>,
    /// What is signed: head and payload, as they came.
    message: &'a str,
    payload: Vec<u8>,
    signed: Vec<u8>,
}

impl<'a> Jws<'a> {
    /// Takes a token apart.
    ///
    /// # Errors
    /// If it is none, or one that is not understood.
    pub(super) fn read(token: &'a str) -> Result<Jws<'a>, Refused> {
        let part = |text: &str| URL_SAFE_NO_PAD.decode(text).map_err(|_| Refused::Malformed);
        let (message, signed) = token.rsplit_once('.').ok_or(Refused::Malformed)?;
        let (head, payload) = message.split_once('.').ok_or(Refused::Malformed)?;
        // A payload with a dot in it (a token of five parts is encrypted) is no base64.
        let (head, payload, signed) = (part(head)?, part(payload)?, part(signed)?);
        let head: Head = serde_json::from_slice(&head).map_err(|_| Refused::Malformed)?;
        if head.crit {
            return Err(Refused::Critical);
        }
        if !head.typ.as_deref().is_none_or(is_access) {
            return Err(Refused::Type);
        }
        let algorithm = Algorithm::named(&head.alg).ok_or(Refused::Algorithm)?;
        Ok(Jws { algorithm, key_id: head.kid, message, payload, signed })
    }

    /// The payload, if one of these keys has signed it: the one that the token names, or any if it names none.
    ///
    /// # Errors
    /// Why it is not verified. [`Refused::UnknownKey`] may pass when other keys are had.
    pub(super) fn verify<'k>(&self, keys: impl Iterator<Item = &'k Key>) -> Result<&[u8], Refused> {
        let named: Vec<&Key> = match &self.key_id {
            // A secret has no name, so a name says nothing against it.
            Some(id) => keys.filter(|key| key.id.as_ref().is_none_or(|known| known == id)).collect(),
            None => keys.collect(),
        };
        let able: Vec<&Key> = named.iter().copied().filter(|key| key.allows(self.algorithm)).collect();
        if able.is_empty() {
            let is_known = named.iter().any(|key| key.id.is_some() && key.id == self.key_id);
            let is_key_at_fault = is_known || (self.key_id.is_none() && !named.is_empty());
            return Err(if is_key_at_fault { Refused::Algorithm } else { Refused::UnknownKey });
        }
        let message = self.message.as_bytes();
        let mut tried = able.iter().take(MOST_TRIED);
        match tried.any(|key| key.has_signed(self.algorithm, message, &self.signed)) {
            true => Ok(&self.payload),
            false => Err(Refused::Signature),
        }
    }
}

/// Whether a token of this type may be an access token. Others (an ID token of a logout, a proof of possession) are signed
/// with the same keys, and mean something else.
fn is_access(typ: &str) -> bool {
    let typ = typ.to_ascii_lowercase();
    matches!(typ.strip_prefix("application/").unwrap_or(&typ), "jwt" | "at+jwt")
}

#[cfg(test)]
mod tests;
