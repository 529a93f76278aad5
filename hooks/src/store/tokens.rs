//! Tokens for the API: SHA-256 of them, names, scopes.
//!
//! Goes in: a token that was made, or one that a request has. Comes out: rows; which scopes a token grants. The token
//! itself is never stored.

use std::fmt;

use bugfeed_sql::{Tx, Value};

use super::cells::{Columns, Rows, text_value};
use super::{Store, StoreError};
use crate::receive::identity::Sha256;

/// How many random bytes a token is made of.
pub const RANDOM_BYTES: usize = 38;
/// 32 characters, so that five bits of a random byte choose one; without those that look like another.
const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";

/// What a token is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// To read.
    Read,
    /// To see bodies, and what is masked otherwise.
    Raw,
    /// To change.
    Write,
}

impl Scope {
    /// All of them.
    pub const ALL: [Scope; 3] = [Scope::Read, Scope::Raw, Scope::Write];

    /// The text that the API uses.
    pub const fn as_str(self) -> &'static str {
        match self {
            Scope::Read => "read",
            Scope::Raw => "raw",
            Scope::Write => "write",
        }
    }

    /// Reads that text.
    pub fn parse(text: &str) -> Option<Scope> {
        Scope::ALL.into_iter().find(|scope| scope.as_str() == text)
    }
}

/// A token, `bt_ID_SECRET`. Its secret has 160 random bits. It never shows in `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Makes a token of random bytes.
    pub fn generate(random: &[u8; RANDOM_BYTES]) -> Token {
        let letters: String = random.iter().map(|byte| char::from(ALPHABET[usize::from(byte % 32)])).collect();
        Token(format!("bt_{}_{}", &letters[..6], &letters[6..]))
    }

    /// Reads a token. `None`: it has not the form of one.
    pub fn parse(text: &str) -> Option<Token> {
        let (id, secret) = text.strip_prefix("bt_")?.split_once('_')?;
        let plain = |part: &str| part.bytes().all(|byte| byte.is_ascii_alphanumeric());
        (id.len() == 6 && secret.len() == 32 && plain(id) && plain(secret)).then(|| Token(text.to_owned()))
    }

    /// The part that names it.
    pub fn id(&self) -> &str {
        self.0.split('_').nth(1).unwrap_or_default()
    }

    /// The whole token, to be shown once, when it is made.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// What is stored of it.
    pub fn hash(&self) -> Sha256 {
        Sha256::of(self.0.as_bytes())
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bt_{}_…", self.id())
    }
}

/// A token that is to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewToken {
    /// The token.
    pub token: Token,
    /// Its name, at most 200 characters.
    pub name: String,
    /// What it is good for.
    pub scopes: Vec<Scope>,
    /// When it was made.
    pub created_us: i64,
}

/// A token as the store has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredToken {
    /// The part that names it.
    pub id: String,
    /// Its hash.
    pub hash: Sha256,
    /// Its name.
    pub name: String,
    /// What it is good for.
    pub scopes: Vec<Scope>,
    /// When it was made.
    pub created_us: i64,
    /// When it was last used, to the minute or so.
    pub used_us: Option<i64>,
}

impl Store {
    /// Writes a token.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn add_token(&self, token: &NewToken) -> Result<(), StoreError> {
        let mut tx = self.db.begin().await?;
        insert(&mut tx, token).await?;
        Ok(tx.commit().await?)
    }

    /// All tokens. There are few.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn tokens(&self) -> Result<Vec<StoredToken>, StoreError> {
        let sql = "SELECT id, hash, name, scopes, created_us, used_us FROM hooks_tokens ORDER BY id LIMIT 10000";
        let rows = self.reader.fetch(sql, &[]).await?;
        let read = |row| {
            let mut row = Columns::of(row);
            Ok(StoredToken {
                id: row.text()?,
                hash: Sha256::parse(&row.text()?).ok_or(StoreError::Broken("a token has no hash"))?,
                name: row.text()?,
                scopes: row.text()?.split(' ').filter_map(Scope::parse).collect(),
                created_us: row.int()?,
                used_us: row.maybe_int()?,
            })
        };
        rows.into_iter().map(read).collect()
    }

    /// Removes a token; returns whether it was there.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn remove_token(&self, id: &str) -> Result<bool, StoreError> {
        Ok(self.db.execute("DELETE FROM hooks_tokens WHERE id = ?", &[text_value(id)]).await? > 0)
    }

    /// Notes that a token was used.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn note_token_use(&self, id: &str, at_us: i64) -> Result<(), StoreError> {
        let sql = "UPDATE hooks_tokens SET used_us = ? WHERE id = ?";
        self.db.execute(sql, &[Value::Int(at_us), text_value(id)]).await?;
        Ok(())
    }
}

/// Writes a token, in the caller's transaction.
pub(super) async fn insert(tx: &mut Tx, new: &NewToken) -> Result<(), StoreError> {
    let scopes = new.scopes.iter().map(|scope| scope.as_str()).collect::<Vec<_>>().join(" ");
    let mut rows = Rows::default();
    let mut row = rows.row();
    row.text(new.token.id()).text(&new.token.hash().to_string()).short(&new.name, 200).text(&scopes);
    row.int(new.created_us);
    tx.execute(&rows.insert("hooks_tokens (id, hash, name, scopes, created_us)"), &rows.args).await?;
    Ok(())
}
