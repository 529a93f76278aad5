//! The first token: made in the transaction that creates the store, and kept in a file that only its owner can read.
//!
//! The file is written beside its place before the store is made, and renamed once it is known that the store is new. So a
//! process that is killed in between leaves either no token, or one that the next start finds.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rand::random;

use crate::store::tokens::{NewToken, RANDOM_BYTES, Scope, Token};
use crate::store::{Store, StoreError};

/// The name of the file in the data directory.
pub const FILE_NAME: &str = "admin.token";

/// A first token that is not yet known to be one.
#[derive(Debug)]
pub struct FirstToken {
    path: PathBuf,
    beside: PathBuf,
    token: Token,
    is_new: bool,
}

/// Why there is no file with the token.
#[derive(Debug, thiserror::Error)]
pub enum FirstTokenError {
    /// The file cannot be written.
    #[error(
        "the file of the first token, {path}, cannot be written: {error}; give this user write permission on the folder"
    )]
    File {
        /// Which file.
        path: String,
        /// What the system said.
        error: io::Error,
    },
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl FirstToken {
    /// Makes a token, or takes the one that an earlier process has left, and writes it beside its place.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn prepare(path: &Path) -> Result<FirstToken, FirstTokenError> {
        let beside = PathBuf::from(format!("{}.new", path.display()));
        let left = fs::read_to_string(&beside).ok().and_then(|text| Token::parse(text.trim()));
        let is_new = left.is_none();
        let token = match left {
            Some(token) => token,
            None => {
                let token = Token::generate(&random::<[u8; RANDOM_BYTES]>());
                write(&beside, &token).map_err(|error| file_error(&beside, error))?;
                token
            }
        };
        Ok(FirstToken { path: path.to_owned(), beside, token, is_new })
    }

    /// What the store is to write if it is made: [`crate::store::Options::first_token`].
    pub fn to_store(&self, now_us: i64) -> NewToken {
        let (token, scopes) = (self.token.clone(), Scope::ALL.to_vec());
        NewToken { token, name: "first".to_owned(), scopes, created_us: now_us }
    }

    /// Removes what this process has prepared: another one has the store, which was not opened.
    pub fn discard(self) {
        if self.is_new {
            // A file that is left is removed by the next start.
            let _ = fs::remove_file(&self.beside);
        }
    }

    /// Puts the file in its place if the store has the token, and removes it otherwise. Returns the path if it is there
    /// now, to be logged.
    ///
    /// # Errors
    /// When the store cannot be read, or the file cannot be renamed.
    pub async fn settle(self, store: &Store) -> Result<Option<PathBuf>, FirstTokenError> {
        let hash = self.token.hash();
        let is_known = store.tokens().await?.iter().any(|stored| stored.hash == hash);
        if is_known {
            fs::rename(&self.beside, &self.path).map_err(|error| file_error(&self.path, error))?;
            return Ok(Some(self.path));
        }
        match fs::remove_file(&self.beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(file_error(&self.beside, error)),
            _ => Ok(None),
        }
    }
}

/// Makes one more token with all scopes, for whoever has the store: when the others were lost. It is in the audit log.
///
/// # Errors
/// When the store cannot be written.
pub async fn another(store: &Store, name: &str, now_us: i64) -> Result<Token, StoreError> {
    let token = Token::generate(&random::<[u8; RANDOM_BYTES]>());
    let new = NewToken { token: token.clone(), name: name.to_owned(), scopes: Scope::ALL.to_vec(), created_us: now_us };
    let detail = serde_json::json!({ "name": name, "scopes": ["read", "raw", "write"] }).to_string();
    let deed = crate::store::audit::Deed::new(now_us, "command on the store", "tokens.create", token.id(), detail);
    store.audit(&deed).await?;
    store.add_token(&new).await?;
    Ok(token)
}

/// Writes a file that only its owner can read.
///
/// # Errors
/// When it cannot be written.
pub fn write(path: &Path, token: &Token) -> io::Result<()> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::create_dir_all(folder)?;
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file: File = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    writeln!(file, "{}", token.expose())?;
    file.sync_all()
}

fn file_error(path: &Path, error: io::Error) -> FirstTokenError {
    FirstTokenError::File { path: path.display().to_string(), error }
}
