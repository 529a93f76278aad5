//! The keys that senders may use, in memory, so that a request is judged while the store is away.
//!
//! Goes in: all keys as the store has them, whenever they are read anew. Comes out: whether a key may send to a source,
//! and to which feeds. It holds hashes only, and never asks the store.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use tokio::sync::watch;

use crate::receive::identity::Sha256;
use crate::receive::key::Key;

/// A key as the store has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRow {
    /// The part ID, which names it.
    pub id: String,
    /// The hash of the whole key.
    pub hash: Sha256,
    /// The hash before the last rotation, and until when it is valid, in microseconds since 1970.
    pub previous: Option<(Sha256, i64)>,
    /// The sources to which it may send. `None`: all.
    pub sources: Option<Vec<String>>,
    /// The feeds to which its items may go. `None`: all.
    pub feeds: Option<Vec<String>>,
    /// From when on it is not valid, in microseconds since 1970.
    pub expires_us: Option<i64>,
    /// It was revoked.
    pub is_revoked: bool,
}

/// Why a key may not send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// There is no such key.
    #[error("the key is not known")]
    Unknown,
    /// Its identifier is that of a key, but the rest is not. Who has no key may learn by this that an identifier exists; it
    /// is no secret, stands in logs and lists, and is worth nothing without the other 110 bits.
    #[error("the key's identifier is known, but the rest of the key is wrong")]
    WrongSecret,
    /// It was valid until a time that has passed.
    #[error("the key has expired")]
    Expired,
    /// It was rotated, and the time of the old one is over.
    #[error("the key was rotated, and the old one is refused now")]
    Rotated,
    /// A person revoked it.
    #[error("the key was revoked")]
    Revoked,
    /// It is for other sources.
    #[error("the key is for another source")]
    OtherSource,
}

impl KeyError {
    /// How to mend it.
    pub fn fix(self, source: &str) -> String {
        match self {
            KeyError::Unknown | KeyError::Revoked => {
                format!(
                    "make a key with `bugfeed keys create --name NAME --source {source}`, and enter it at the sender"
                )
            }
            KeyError::WrongSecret => {
                "enter the whole key again, as it was printed when it was made; if it was lost, `bugfeed keys rotate ID` makes \
                 another. ID is what stands between bf_ and the next _"
                    .to_owned()
            }
            KeyError::Expired => {
                "let it go on with `bugfeed keys change ID --expires 90d`; or give it another secret with `bugfeed keys \
                 rotate ID --expires 90d`, and enter the new key at the sender. ID is what stands between bf_ and the next _"
                    .to_owned()
            }
            KeyError::Rotated => {
                "enter the new key at the sender; if it was lost, make another with `bugfeed keys rotate ID`".to_owned()
            }
            KeyError::OtherSource => {
                format!(
                    "let the key send to source '{source}' with `bugfeed keys change`, or use the key of that source"
                )
            }
        }
    }
}

/// All keys. A clone shares the same table.
#[derive(Clone, Debug, Default)]
pub struct KeyTable(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    keys: RwLock<HashMap<String, Arc<KeyRow>>>,
    /// When each key was last used, since the store was last told.
    used: Mutex<HashMap<String, i64>>,
    is_read: watch::Sender<bool>,
}

impl KeyTable {
    /// A table that was not read yet.
    pub fn new() -> KeyTable {
        KeyTable::default()
    }

    /// Takes what the store has: all keys, also expired and revoked ones, so that their senders are told what is wrong.
    pub fn replace(&self, rows: Vec<KeyRow>) {
        let rows = rows.into_iter().map(|row| (row.id.clone(), Arc::new(row))).collect();
        *self.0.keys.write().unwrap_or_else(PoisonError::into_inner) = rows;
        self.0.is_read.send_replace(true);
    }

    /// Whether it was ever read.
    pub fn is_read(&self) -> bool {
        *self.0.is_read.borrow()
    }

    /// Waits until it was read.
    pub async fn read(&self) {
        // The sender lives as long as this table, so this cannot fail.
        let _ = self.0.is_read.subscribe().wait_for(|is_read| *is_read).await;
    }

    /// Whether the key may send to this source at this time.
    ///
    /// # Errors
    /// Why it may not.
    pub fn check(&self, key: &Key, source: &str, now_us: i64) -> Result<Arc<KeyRow>, KeyError> {
        let row = self.check_hash(key.id(), &key.hash(), source, now_us)?;
        self.0.used.lock().unwrap_or_else(PoisonError::into_inner).insert(row.id.clone(), now_us);
        Ok(row)
    }

    /// The same for a key of which the hash is known only.
    ///
    /// # Errors
    /// Why it may not.
    pub fn check_hash(&self, id: &str, hash: &Sha256, source: &str, now_us: i64) -> Result<Arc<KeyRow>, KeyError> {
        use subtle::ConstantTimeEq as _;
        let row = self.0.keys.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned();
        let row = row.ok_or(KeyError::Unknown)?;
        let is_current = bool::from(row.hash.0.ct_eq(&hash.0));
        let is_previous = row.previous.is_some_and(|(previous, _)| bool::from(previous.0.ct_eq(&hash.0)));
        let is_over = row.previous.is_some_and(|(_, until_us)| until_us <= now_us);
        match (is_current, is_previous) {
            (false, false) => Err(KeyError::WrongSecret),
            _ if row.is_revoked => Err(KeyError::Revoked),
            (false, true) if is_over => Err(KeyError::Rotated),
            _ if row.expires_us.is_some_and(|expires_us| expires_us <= now_us) => Err(KeyError::Expired),
            _ if !row.may_send_to(source) => Err(KeyError::OtherSource),
            _ => Ok(row),
        }
    }

    /// When keys were last used, since this was asked last: what the store is to be told, say once a minute.
    pub fn take_used(&self) -> Vec<(String, i64)> {
        std::mem::take(&mut *self.0.used.lock().unwrap_or_else(PoisonError::into_inner)).into_iter().collect()
    }
}

impl KeyRow {
    fn may_send_to(&self, source: &str) -> bool {
        self.sources.as_ref().is_none_or(|sources| sources.iter().any(|name| name == source))
    }

    /// Whether items of this feed may come with it.
    pub fn may_feed(&self, feed: &str) -> bool {
        self.feeds.as_ref().is_none_or(|feeds| feeds.iter().any(|name| name == feed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::receive::key::RANDOM_BYTES;

    fn row(key: &Key) -> KeyRow {
        let (id, hash) = (key.id().to_owned(), key.hash());
        KeyRow { id, hash, previous: None, sources: None, feeds: None, expires_us: None, is_revoked: false }
    }

    #[test]
    fn each_reason_to_refuse_a_key() {
        let key = Key::generate(&[1; RANDOM_BYTES]);
        let mut random = [1; RANDOM_BYTES];
        random[27] = 2;
        let other_secret = Key::generate(&random);
        let table = KeyTable::new();
        let check = |row: KeyRow, key: &Key, now_us| {
            table.replace(vec![row]);
            table.check(key, "kde", now_us).map(|row| row.id.clone())
        };
        assert!(!table.is_read());
        assert_eq!(check(row(&key), &key, 5), Ok("bbbbbb".to_owned()));
        assert!(table.is_read());
        assert_eq!((table.take_used(), table.take_used()), (vec![("bbbbbb".to_owned(), 5)], Vec::new()));
        assert_eq!(check(row(&key), &other_secret, 5), Err(KeyError::WrongSecret));
        assert_eq!(check(row(&key), &Key::generate(&[7; RANDOM_BYTES]), 5), Err(KeyError::Unknown));
        let expiring = KeyRow { expires_us: Some(5), ..row(&key) };
        assert_eq!(check(expiring.clone(), &key, 5), Err(KeyError::Expired));
        assert!(check(expiring, &key, 4).is_ok());
        assert_eq!(check(KeyRow { is_revoked: true, ..row(&key) }, &key, 5), Err(KeyError::Revoked));
        let of_another = KeyRow { sources: Some(vec!["gnome".to_owned()]), ..row(&key) };
        assert_eq!(check(of_another, &key, 5), Err(KeyError::OtherSource));
        let rotated = KeyRow { previous: Some((other_secret.hash(), 9)), ..row(&key) };
        assert!(check(rotated.clone(), &other_secret, 8).is_ok() && check(rotated.clone(), &key, 10).is_ok());
        assert_eq!(check(rotated, &other_secret, 9), Err(KeyError::Rotated));
    }
}
