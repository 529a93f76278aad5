//! Keys: what a sender proves itself with that signs nothing.
//!
//! Goes in: random bytes, or a request. Comes out: a key, or where one was found. A key is `bf_ID_SECRET`, 32 characters
//! long; the part ID names it in lists and logs, the whole is known to its owner only. Keys are stored as hashes. A key
//! never shows in `Debug`.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use subtle::ConstantTimeEq;

use super::identity::Sha256;
use super::lookup::Headers;
use crate::config::auth::KeyPlace;

/// How many random bytes a key is made of.
pub const RANDOM_BYTES: usize = ID_LENGTH + SECRET_LENGTH;
/// The longest key that is looked at: what fits, after `Bearer `, into the 64 characters that Bugzilla can send.
pub const LONGEST: usize = 57;

const ID_LENGTH: usize = 6;
const SECRET_LENGTH: usize = 22;
/// 32 characters, so that five bits of a random byte choose one; without those that look like another.
const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";

/// A key.
#[derive(Clone, PartialEq, Eq)]
pub struct Key {
    text: String,
    id_end: usize,
}

impl Key {
    /// Makes a key of random bytes. Its secret has 110 random bits.
    pub fn generate(random: &[u8; RANDOM_BYTES]) -> Key {
        let mut letters = random.iter().map(|byte| char::from(ALPHABET[usize::from(byte % 32)]));
        let id: String = letters.by_ref().take(ID_LENGTH).collect();
        let secret: String = letters.collect();
        Key { text: format!("bf_{id}_{secret}"), id_end: "bf_".len() + ID_LENGTH }
    }

    /// Reads a key. `None`: it has not the form of one.
    pub fn parse(text: &str) -> Option<Key> {
        let (id, secret) = text.strip_prefix("bf_")?.split_once('_')?;
        let plain = |part: &str| part.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let good = (1..=16).contains(&id.len()) && secret.len() >= 16 && plain(id) && plain(secret);
        (good && text.len() <= LONGEST).then(|| Key { text: text.to_owned(), id_end: "bf_".len() + id.len() })
    }

    /// The part that names it.
    pub fn id(&self) -> &str {
        &self.text["bf_".len()..self.id_end]
    }

    /// The whole key, to be shown once, when it is made.
    pub fn expose(&self) -> &str {
        &self.text
    }

    /// What is stored of it.
    pub fn hash(&self) -> Sha256 {
        Sha256::of(self.text.as_bytes())
    }

    /// Whether this is the key of a stored hash. Takes the same time for every key.
    pub fn is(&self, stored: &Sha256) -> bool {
        self.hash().0.ct_eq(&stored.0).into()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bf_{}_…", self.id())
    }
}

/// What was found where keys may stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FoundKey {
    /// A key, and where.
    Key(Key, KeyPlace),
    /// Something that has not the form of a key, and where.
    NoKey(KeyPlace),
    /// Nothing.
    Missing,
}

/// Looks for a key in the places in which the source takes one ([`crate::config::Source::keys`]), in their order. Of
/// several, the first that has the form of a key counts. `path_end` is what [`path_end`] finds; it counts only where
/// the source says `path_key = true`.
pub fn find(places: &[KeyPlace], headers: &dyn Headers, path_end: Option<&str>) -> FoundKey {
    let mut best = FoundKey::Missing;
    for place in places {
        let text = match place {
            KeyPlace::Bearer => credentials(headers, "bearer").map(str::to_owned),
            KeyPlace::Basic => credentials(headers, "basic").map(password),
            KeyPlace::Header(name) => headers.get(name).map(str::to_owned),
            KeyPlace::Path => path_end.map(str::to_owned),
        };
        let Some(text) = text.filter(|text| !text.trim().is_empty()) else { continue };
        match Key::parse(text.trim()) {
            Some(key) => return FoundKey::Key(key, place.clone()),
            None if best == FoundKey::Missing => best = FoundKey::NoKey(place.clone()),
            None => {}
        }
    }
    best
}

/// The paths at which requests come in; a source's name follows, then perhaps a key.
const PATHS: [&str; 3] = ["/hooks/", "/h/", "/public/webhook/"];

/// What follows the source's name in a path such as `/h/NAME/KEY`, if it is one part. A query does not count.
pub fn path_end(path: &str) -> Option<&str> {
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let rest = PATHS.iter().find_map(|start| path.strip_prefix(start))?;
    rest.split_once('/').map(|(_, end)| end).filter(|end| !end.is_empty() && !end.contains('/'))
}

/// The path without what may be a key, for logs and the store. Below a source nothing is shown but its name.
pub fn redact_path(path: &str) -> String {
    let is_open = |text: &str| !text.contains("bf_");
    let Some(start) = PATHS.iter().find(|start| path.starts_with(**start)) else {
        return if is_open(path) && !path.contains('?') { path.to_owned() } else { "/…".to_owned() };
    };
    let rest = &path[start.len()..];
    let name = rest.split(['/', '?', '#']).next().unwrap_or_default();
    match (is_open(name), name.len() == rest.len()) {
        (true, true) => path.to_owned(),
        (true, false) => format!("{start}{name}/…"),
        (false, _) => format!("{start}…"),
    }
}

/// What follows the scheme in `Authorization`; the scheme's case does not count.
fn credentials<'a>(headers: &'a dyn Headers, scheme: &str) -> Option<&'a str> {
    let (found, rest) = headers.get("authorization")?.trim().split_once(' ')?;
    found.eq_ignore_ascii_case(scheme).then_some(rest.trim())
}

/// The password of `USER:PASSWORD` in Base64. Empty if there is none.
fn password(encoded: &str) -> String {
    let decoded = STANDARD.decode(encoded).unwrap_or_default();
    let text = String::from_utf8(decoded).unwrap_or_default();
    text.split_once(':').map_or(String::new(), |(_, password)| password.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::auth::any_key;

    const TEXT: &str = "bf_abcdef_ghijkmnpqrstuvwxyz2345";

    fn headers(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_key_is_made_read_and_compared() {
        let mut random = [0; RANDOM_BYTES];
        random.iter_mut().zip(0..).for_each(|(byte, number)| *byte = number);
        let key = Key::generate(&random);
        assert_eq!((key.expose(), key.id(), key.expose().len()), (TEXT, "abcdef", 32));
        assert_eq!(format!("{key:?}"), "bf_abcdef_…");
        let read = Key::parse(TEXT).unwrap();
        assert_eq!(read, key);
        assert!(read.is(&key.hash()));
        random[27] ^= 1;
        assert!(!Key::generate(&random).is(&key.hash()), "the last byte counts");
        assert_eq!(Key::generate(&[255; RANDOM_BYTES]).expose(), "bf_999999_9999999999999999999999");
    }

    #[test]
    fn what_is_no_key() {
        let long = format!("bf_abcdef_{}", "a".repeat(LONGEST - 9));
        for text in
            ["", "bf_", "bf__aaaaaaaaaaaaaaaaaaaaaa", "bf_abcdef_short", "xx_abcdef_ghijkmnpqrstuvwxyz2345", &long]
        {
            assert_eq!(Key::parse(text), None, "{text}");
        }
        assert!(Key::parse(&long[..LONGEST]).is_some());
        assert_eq!(Key::parse("bf_abcdef_ghijkmnpqrstuvwxyz234é"), None);
        assert_eq!(Key::parse("bf_abcdef_ghijkmnpqrst_vwxyz2345"), None);
    }

    #[test]
    fn keys_in_paths() {
        for (path, end, shown) in [
            ("/hooks/kde", None, "/hooks/kde"),
            ("/hooks/kde/", None, "/hooks/kde/…"),
            ("/hooks/kde/K?x=K", Some("K"), "/hooks/kde/…"),
            ("/h/kde/K", Some("K"), "/h/kde/…"),
            ("/public/webhook/kde/K", Some("K"), "/public/webhook/kde/…"),
            ("/hooks/kde/K/K", None, "/hooks/kde/…"),
            ("/hooks/kde?key=K", None, "/hooks/kde/…"),
            ("/hooks/bf_K", None, "/hooks/…"),
            ("/elsewhere/x", None, "/elsewhere/x"),
            ("/elsewhere/bf_K", None, "/…"),
            ("/elsewhere?key=K", None, "/…"),
            ("", None, ""),
        ] {
            assert_eq!((path_end(path), redact_path(path).as_str()), (end, shown), "{path}");
        }
    }

    #[test]
    fn each_place_where_a_key_may_stand() {
        let key = || Key::parse(TEXT).unwrap();
        let basic = format!("basic {}", STANDARD.encode(format!("anybody:{TEXT}")));
        let bearer = format!("BEARER  {TEXT}");
        for (list, want) in [
            (headers(&[("Authorization", &bearer)]), KeyPlace::Bearer),
            (headers(&[("authorization", &basic)]), KeyPlace::Basic),
            (headers(&[("X-API-KEY", TEXT)]), KeyPlace::Header("X-Api-Key".to_owned())),
            (headers(&[("x-secret-key", TEXT)]), KeyPlace::Header("X-Secret-Key".to_owned())),
            (headers(&[("x-secret-key", TEXT), ("x-api-key", "other")]), KeyPlace::Header("X-Secret-Key".to_owned())),
        ] {
            assert_eq!(find(&any_key(), &list, None), FoundKey::Key(key(), want));
        }
        assert_eq!(find(&any_key(), &headers(&[]), Some(TEXT)), FoundKey::Missing, "not by default");
        assert_eq!(find(&[KeyPlace::Path], &headers(&[]), Some(TEXT)), FoundKey::Key(key(), KeyPlace::Path));
        assert_eq!(find(&[KeyPlace::Basic], &headers(&[("Authorization", &bearer)]), None), FoundKey::Missing);
        for bad in ["Bearer x", "Bearer bf_abcdef_ghijkmnpqrstuvwxyz2345x_"] {
            assert_eq!(find(&any_key(), &headers(&[("authorization", bad)]), None), FoundKey::NoKey(KeyPlace::Bearer));
        }
        let both = headers(&[("x-api-key", "x"), ("authorization", "Bearer y")]);
        assert_eq!(find(&any_key(), &both, None), FoundKey::NoKey(KeyPlace::Bearer), "the first is told of");
        for bad in ["Bearer", "Bearer ", "", "Basic !!!", "Basic eA==", "Digest x"] {
            assert_eq!(find(&any_key(), &headers(&[("authorization", bad)]), None), FoundKey::Missing, "{bad}");
        }
    }
}
