//! A set of public keys, as issuers publish it (RFC 7517).
//!
//! Goes in: JSON. Comes out: the keys that verify signatures. Keys for other purposes and of other kinds are passed over, as
//! the RFC wants, and so are secrets: what everybody may read is none.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::Value;

use super::jws::{Algorithm, Key, Material};

/// The longest set, in bytes.
pub(super) const LONGEST: usize = 256 * 1024;

/// The most keys of a set that are looked at.
const MOST_KEYS: usize = 100;

#[derive(Deserialize)]
struct Set {
    keys: Vec<Value>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

/// Reads a set.
///
/// # Errors
/// If it is none, or has no key that verifies signatures. The text shows nothing of it.
pub(super) fn read(json: &[u8]) -> Result<Vec<Key>, String> {
    if json.len() > LONGEST {
        return Err(format!("a set of keys has at most {LONGEST} bytes"));
    }
    let set: Set = serde_json::from_slice(json)
        .map_err(|_| "this is no JWKS: an object with a list \"keys\" is expected".to_owned())?;
    let keys: Vec<Key> = set.keys.into_iter().take(MOST_KEYS).filter_map(key).collect();
    match keys.is_empty() {
        true => Err("it has no key for signatures (RSA of 2048 to 8192 bits, P-256, P-384, Ed25519)".to_owned()),
        false => Ok(keys),
    }
}

/// The key, if it verifies signatures.
fn key(value: Value) -> Option<Key> {
    let jwk: Jwk = serde_json::from_value(value).ok()?;
    let is_for_others = jwk.purpose.as_ref().is_some_and(|purpose| purpose != "sig")
        || jwk.key_ops.as_ref().is_some_and(|ops| !ops.iter().any(|op| op == "verify"));
    if is_for_others {
        return None;
    }
    let bytes = |text: &Option<String>| URL_SAFE_NO_PAD.decode(text.as_ref()?).ok();
    // Each coordinate has its full length (RFC 7518 §6.2.1.2).
    let point = |size: usize| {
        let (x, y) = (bytes(&jwk.x)?, bytes(&jwk.y)?);
        (x.len() == size && y.len() == size).then(|| [&[4][..], &x, &y].concat())
    };
    let material = match (jwk.kty.as_str(), jwk.crv.as_deref()) {
        ("RSA", _) => {
            let number = |text| bytes(text).map(|number| number.into_iter().skip_while(|&byte| byte == 0).collect());
            let (n, e): (Vec<u8>, Vec<u8>) = (number(&jwk.n)?, number(&jwk.e)?);
            // Others are refused by the verification, too.
            if !(256..=1024).contains(&n.len()) {
                return None;
            }
            Material::Rsa { n, e }
        }
        ("EC", Some("P-256")) => Material::P256(point(32)?),
        ("EC", Some("P-384")) => Material::P384(point(48)?),
        ("OKP", Some("Ed25519")) => Material::Ed25519(bytes(&jwk.x).filter(|key| key.len() == 32)?),
        _ => return None,
    };
    let only = match &jwk.alg {
        Some(name) => Some(Algorithm::named(name)?),
        None => None,
    };
    let key = Key { id: jwk.kid, material, only };
    key.only.is_none_or(|only| key.allows(only)).then_some(key)
}
