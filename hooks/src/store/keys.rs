//! Keys of senders: hashes, scopes, expiry, rotation.
//!
//! Goes in: a key that was made, and what is changed of it. Comes out: all keys, for the table in memory that judges
//! requests, and for people. A key itself is never stored. A revoked key stays, marked, so that its sender is told.

use bugfeed_sql::Value;

use super::cells::{Columns, Rows, text_value};
use super::{Store, StoreError};
use crate::receive::http::KeyRow;
use crate::receive::identity::Sha256;
use crate::receive::key::Key;

/// What a key may do. `None` means all; an empty list is refused by whoever reads it from people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyScopes {
    /// The sources to which it may send.
    pub sources: Option<Vec<String>>,
    /// The feeds to which its items may go.
    pub feeds: Option<Vec<String>>,
}

/// A key as the store has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredKey {
    /// The part ID, which names it.
    pub id: String,
    /// The hash of the whole key.
    pub hash: Sha256,
    /// The hash before the last rotation, and until when it is valid.
    pub previous: Option<(Sha256, i64)>,
    /// Its name.
    pub name: String,
    /// Whose it is.
    pub owner: String,
    /// What it may do.
    pub scopes: KeyScopes,
    /// When it was made.
    pub created_us: i64,
    /// From when on it is not valid.
    pub expires_us: Option<i64>,
    /// When it was last used, to the minute or so.
    pub used_us: Option<i64>,
    /// When it was revoked.
    pub revoked_us: Option<i64>,
}

impl From<StoredKey> for KeyRow {
    /// What the table in memory needs.
    fn from(key: StoredKey) -> KeyRow {
        let StoredKey { id, hash, previous, scopes, expires_us, revoked_us, .. } = key;
        let KeyScopes { sources, feeds } = scopes;
        KeyRow { id, hash, previous, sources, feeds, expires_us, is_revoked: revoked_us.is_some() }
    }
}

/// What people change of a key. `None`: as it is.
#[derive(Clone, Debug, Default)]
pub struct KeyChange {
    /// Its name.
    pub name: Option<String>,
    /// Whose it is.
    pub owner: Option<String>,
    /// What it may do.
    pub scopes: Option<KeyScopes>,
    /// From when on it is not valid; `Some(None)`: it does not expire.
    pub expires_us: Option<Option<i64>>,
}

const COLUMNS: &str =
    "id, hash, name, owner, sources, feeds, created_us, expires_us, used_us, revoked_us, old_hash, old_until_us";

impl Store {
    /// Writes a new key. Its name and owner have at most 200 characters.
    ///
    /// # Errors
    /// When the database cannot be written, or another key has this ID: make another one then.
    pub async fn add_key(&self, key: &StoredKey) -> Result<(), StoreError> {
        let mut rows = Rows::default();
        let (old_hash, old_until_us) = key.previous.unzip();
        let mut row = rows.row();
        row.text(&key.id).text(&key.hash.to_string()).short(&key.name, 200).short(&key.owner, 200);
        row.maybe_text(list(key.scopes.sources.as_ref()).as_deref());
        row.maybe_text(list(key.scopes.feeds.as_ref()).as_deref());
        row.int(key.created_us).maybe_int(key.expires_us).maybe_int(key.used_us).maybe_int(key.revoked_us);
        row.maybe_text(old_hash.map(|hash| hash.to_string()).as_deref()).maybe_int(old_until_us);
        self.db.execute(&rows.insert(&format!("hooks_keys ({COLUMNS})")), &rows.args).await?;
        Ok(())
    }

    /// All keys, also expired and revoked ones, in the order of their IDs. At most 100,000.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn keys(&self) -> Result<Vec<StoredKey>, StoreError> {
        let sql = format!("SELECT {COLUMNS} FROM hooks_keys ORDER BY id LIMIT 100000");
        self.reader.fetch(&sql, &[]).await?.into_iter().map(read).collect()
    }

    /// A key; `None` if there is none of this ID.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn key(&self, id: &str) -> Result<Option<StoredKey>, StoreError> {
        let sql = format!("SELECT {COLUMNS} FROM hooks_keys WHERE id = ?");
        self.reader.fetch(&sql, &[text_value(id)]).await?.pop().map(read).transpose()
    }

    /// Changes a key that is not revoked; returns whether there is one.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn change_key(&self, id: &str, change: &KeyChange) -> Result<bool, StoreError> {
        let (mut set, mut args) = (Vec::new(), Vec::new());
        let mut to = |column: &str, value: Value| {
            set.push(format!("{column} = ?"));
            args.push(value);
        };
        let cut = |text: &String| text_value(&text.chars().take(200).collect::<String>());
        if let Some(name) = &change.name {
            to("name", cut(name));
        }
        if let Some(owner) = &change.owner {
            to("owner", cut(owner));
        }
        if let Some(scopes) = &change.scopes {
            to("sources", list(scopes.sources.as_ref()).into());
            to("feeds", list(scopes.feeds.as_ref()).into());
        }
        if let Some(expires_us) = change.expires_us {
            to("expires_us", expires_us.map_or(Value::Null, Value::Int));
        }
        if set.is_empty() {
            return Ok(self.key(id).await?.is_some_and(|key| key.revoked_us.is_none()));
        }
        args.push(text_value(id));
        let sql = format!("UPDATE hooks_keys SET {} WHERE id = ? AND revoked_us IS NULL", set.join(", "));
        Ok(self.db.execute(&sql, &args).await? > 0)
    }

    /// Gives a key another secret; the old one is valid until then, and both expire with the key. The new key must have the
    /// same ID ([`with_id`]). Returns whether there is such a key that is not revoked.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn rotate_key(&self, new: &Key, old_until_us: i64, expires_us: Option<i64>) -> Result<bool, StoreError> {
        let sql = "UPDATE hooks_keys SET old_hash = hash, old_until_us = ?, hash = ?, expires_us = ? WHERE id = ? AND \
                   revoked_us IS NULL";
        let expires = expires_us.map_or(Value::Null, Value::Int);
        let args = [Value::Int(old_until_us), Value::Text(new.hash().to_string()), expires, text_value(new.id())];
        Ok(self.db.execute(sql, &args).await? > 0)
    }

    /// Revokes a key: it stays, marked. Returns whether it was valid before.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn revoke_key(&self, id: &str, at_us: i64) -> Result<bool, StoreError> {
        let sql = "UPDATE hooks_keys SET revoked_us = ? WHERE id = ? AND revoked_us IS NULL";
        Ok(self.db.execute(sql, &[Value::Int(at_us), text_value(id)]).await? > 0)
    }

    /// Notes when keys were last used.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn note_key_uses(&self, uses: &[(String, i64)]) -> Result<(), StoreError> {
        if uses.is_empty() {
            return Ok(());
        }
        let mut tx = self.db.begin().await?;
        for (id, at_us) in uses {
            let sql = "UPDATE hooks_keys SET used_us = ? WHERE id = ? AND (used_us IS NULL OR used_us < ?)";
            tx.execute(sql, &[Value::Int(*at_us), text_value(id), Value::Int(*at_us)]).await?;
        }
        Ok(tx.commit().await?)
    }
}

/// A key with the secret of `fresh` and another ID: what a rotation makes. `None` if the ID is none.
pub fn with_id(id: &str, fresh: &Key) -> Option<Key> {
    let secret = fresh.expose().rsplit('_').next()?;
    Key::parse(&format!("bf_{id}_{secret}"))
}

/// A list of names as JSON.
fn list(names: Option<&Vec<String>>) -> Option<String> {
    names.map(|names| serde_json::to_string(names).unwrap_or_default())
}

fn read(row: Vec<Value>) -> Result<StoredKey, StoreError> {
    let mut row = Columns::of(row);
    let hash = |text: &str| Sha256::parse(text).ok_or(StoreError::Broken("a key has no hash"));
    // A list that cannot be read must not become "all".
    let names = |text: Option<String>| text.map(|text| serde_json::from_str(&text).unwrap_or_default());
    let (id, now) = (row.text()?, hash(&row.text()?)?);
    let (name, owner) = (row.text()?, row.text()?);
    let scopes = KeyScopes { sources: names(row.maybe_text()?), feeds: names(row.maybe_text()?) };
    let (created_us, expires_us) = (row.int()?, row.maybe_int()?);
    let (used_us, revoked_us) = (row.maybe_int()?, row.maybe_int()?);
    let previous = row.maybe_text()?.as_deref().map(hash).transpose()?.zip(row.maybe_int()?);
    Ok(StoredKey { id, hash: now, previous, name, owner, scopes, created_us, expires_us, used_us, revoked_us })
}
