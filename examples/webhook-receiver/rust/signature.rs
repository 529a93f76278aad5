//! Signatures of Standard Webhooks: <https://www.standardwebhooks.com>. In: secrets, headers, a body, the time. Out:
//! whether one of the signatures fits one of the secrets. It compares in constant time.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;

/// A request may be so old, or so far in the future.
const TOLERANCE_S: u64 = 300;

pub struct Secrets(Vec<hmac::Key>);

impl Secrets {
    /// Reads one secret, or two with a blank between them. `None`: there is none, or it cannot be read.
    pub fn read(text: &str) -> Option<Secrets> {
        let key = |secret: &str| {
            let bytes = STANDARD.decode(secret.strip_prefix("whsec_")?).ok()?;
            (!bytes.is_empty()).then(|| hmac::Key::new(hmac::HMAC_SHA256, &bytes))
        };
        let keys: Vec<_> = text.split_whitespace().map(key).collect::<Option<_>>()?;
        (!keys.is_empty()).then_some(Secrets(keys))
    }

    /// Whether a request is signed with one of the secrets, and recent.
    pub fn fit<'a>(&self, header: impl Fn(&'static str) -> Option<&'a str>, body: &[u8], now_s: u64) -> bool {
        let headers = ["webhook-id", "webhook-timestamp", "webhook-signature"].map(header);
        let [Some(id), Some(timestamp), Some(signatures)] = headers else { return false };
        if !timestamp.parse().is_ok_and(|sent: u64| now_s.abs_diff(sent) <= TOLERANCE_S) {
            return false;
        }
        let signed = [id.as_bytes(), b".", timestamp.as_bytes(), b".", body].concat();
        let decoded = |text: &str| STANDARD.decode(text.strip_prefix("v1,")?).ok();
        signatures
            .split(' ')
            .filter_map(decoded)
            .any(|signature| self.0.iter().any(|key| hmac::verify(key, &signed, &signature).is_ok()))
    }

    /// A signature with the first secret.
    pub fn sign(&self, id: &str, now_s: u64, content: &[u8]) -> String {
        let signed = [format!("{id}.{now_s}.").as_bytes(), content].concat();
        format!("v1,{}", STANDARD.encode(hmac::sign(&self.0[0], &signed)))
    }
}
