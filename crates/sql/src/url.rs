//! Database addresses: which database, and how it is named in logs.
//!
//! Goes in: the text of `--source` or `--ledger`. Comes out: a checked address whose `Display` never shows a password.
//! Never connects.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use bugfeed_protocol::redact::{redact, unescaped};
use sqlx::mysql::MySqlConnectOptions;
use sqlx::postgres::PgConnectOptions;
use sqlx::sqlite::SqliteConnectOptions;

use super::Dialect;

/// A checked database URL. `Debug` and `Display` leave the password out.
#[derive(Clone)]
pub struct DbUrl {
    pub(crate) options: DbOptions,
    shown: String,
}

#[derive(Clone)]
pub(crate) enum DbOptions {
    MySql(Box<MySqlConnectOptions>),
    Postgres(Box<PgConnectOptions>),
    Sqlite(Box<SqliteConnectOptions>),
}

/// What a database URL may look like, for error messages and help.
pub const ALLOWED: &str = "mysql://user:password@host:3306/database, mariadb://…, \
                           postgres://user:password@host:5432/database, postgresql://… or sqlite://path/to/file.db";

/// The text is no database URL this program knows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadUrl {
    /// Another scheme, or none.
    #[error("'{0}' is no database this program knows; use {ALLOWED}")]
    Scheme(String),
    /// The rest of the URL is malformed.
    #[error("'{url}': {reason}; use {ALLOWED}")]
    Malformed {
        /// The URL without its password.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// A server without a database name.
    #[error("'{0}' names no database; add it after the host, as in {ALLOWED}")]
    NoDatabase(String),
    /// `sqlite::memory:`, which would be empty in every connection and forgotten at exit.
    #[error("'{0}' is kept in memory only and would be lost; name a file, as in sqlite://bugfeed.db")]
    InMemory(String),
}

impl FromStr for DbUrl {
    type Err = BadUrl;

    fn from_str(text: &str) -> Result<DbUrl, BadUrl> {
        let text = text.trim();
        let shown = redact(text);
        let malformed = |e: sqlx::Error| {
            let reason = match e {
                sqlx::Error::Configuration(inner) => inner.to_string(),
                other => other.to_string(),
            };
            BadUrl::Malformed { url: shown.clone(), reason }
        };
        let scheme = text.split(':').next().unwrap_or_default();
        let server = matches!(scheme, "mysql" | "mariadb" | "postgres" | "postgresql");
        if server && !text[scheme.len()..].starts_with("://") {
            return Err(BadUrl::Malformed { url: shown, reason: format!("two slashes are missing after {scheme}:") });
        }
        if let Some(reason) = unescaped(text).filter(|_| server) {
            return Err(BadUrl::Malformed { url: shown, reason: reason.to_owned() });
        }
        let options = match scheme {
            "mysql" | "mariadb" => {
                let rest = &text[scheme.len()..];
                let options: MySqlConnectOptions = format!("mysql{rest}").parse().map_err(malformed)?;
                if options.get_database().is_none_or(str::is_empty) {
                    return Err(BadUrl::NoDatabase(shown));
                }
                DbOptions::MySql(Box::new(options))
            }
            "postgres" | "postgresql" => {
                let options: PgConnectOptions = text.parse().map_err(malformed)?;
                if options.get_database().is_none_or(str::is_empty) {
                    return Err(BadUrl::NoDatabase(shown));
                }
                DbOptions::Postgres(Box::new(options))
            }
            "sqlite" => {
                if text.contains(":memory:") || text.contains("mode=memory") {
                    return Err(BadUrl::InMemory(shown));
                }
                let options: SqliteConnectOptions = text.parse().map_err(malformed)?;
                if options.get_filename().as_os_str().is_empty() {
                    return Err(BadUrl::Malformed { url: shown, reason: "no file is named".to_owned() });
                }
                DbOptions::Sqlite(Box::new(options))
            }
            _ => return Err(BadUrl::Scheme(shown)),
        };
        Ok(DbUrl { options, shown })
    }
}

impl DbUrl {
    /// The URL of an SQLite file.
    pub fn sqlite_file(path: impl AsRef<std::path::Path>) -> DbUrl {
        let path = path.as_ref();
        DbUrl {
            options: DbOptions::Sqlite(Box::new(SqliteConnectOptions::new().filename(path))),
            shown: format!("sqlite://{}", path.display()),
        }
    }

    /// Which SQL is spoken there, and the database's name.
    pub fn dialect_and_database(&self) -> (Dialect, Option<&str>) {
        match &self.options {
            DbOptions::MySql(options) => (Dialect::MySql, options.get_database()),
            DbOptions::Postgres(options) => (Dialect::Postgres, options.get_database()),
            DbOptions::Sqlite(_) => (Dialect::Sqlite, None),
        }
    }

    /// The address with another login, to be shown as an example.
    pub fn with_login(&self, user: &str, password: &str) -> String {
        let (scheme, rest) = self.shown.split_once("://").unwrap_or(("", &self.shown));
        let place = rest.rsplit_once('@').map_or(rest, |(_, place)| place);
        format!("{scheme}://{user}:{password}@{place}")
    }

    /// Whether it is a PostgreSQL server's.
    pub fn is_postgres(&self) -> bool {
        matches!(self.options, DbOptions::Postgres(_))
    }

    /// The file of an SQLite URL.
    pub fn sqlite_path(&self) -> Option<PathBuf> {
        match &self.options {
            DbOptions::Sqlite(options) => Some(options.get_filename().to_owned()),
            _ => None,
        }
    }
}

impl fmt::Display for DbUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for DbUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DbUrl({})", self.shown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_never_shown() {
        for url in [
            "mysql://u:secret@h/db",
            "mysql://u:se%23cret@h:1/db?socket=/x",
            "postgres://h/db?password=secret",
            "sqlite://a/b.db?key=secret",
        ] {
            let shown = url.parse::<DbUrl>().map_or_else(|error| error.to_string(), |url| format!("{url} {url:?}"));
            assert!(!shown.contains("secret") && !shown.contains("cret@"), "{shown}");
        }
    }

    #[test]
    fn an_at_sign_elsewhere_is_no_password() {
        for url in ["postgres://u:p@h/db?options=a@b", "mysql://u:p@h:1/db", "postgres://h:5432/db?user=a@b"] {
            assert!(url.parse::<DbUrl>().is_ok(), "{url}");
        }
    }

    #[test]
    fn what_is_no_database_is_refused_and_told_what_is() {
        for (url, want) in [
            ("", "no database this program knows"),
            ("push_notify.db", "no database this program knows"),
            ("oracle://u:secret@h/db", "mysql://user:password@host:3306/database"),
            ("mysql://h", "names no database"),
            ("mysql://h:port/db", "port"),
            ("postgres://h", "names no database"),
            ("sqlite://", "no file is named"),
            ("sqlite::memory:", "in memory"),
            ("sqlite://x?mode=sideways", "mode"),
            ("mysql:/u:secret@h/db", "two slashes"),
            ("postgres:u:secret@h/db", "two slashes"),
            ("mysql://u:secret#1@h/db", "write %23 for '#'"),
            ("mysql://u:12#secret@h/db", "write %23 for '#'"),
            ("mysql://u:12/secret@h/db", "write %2F for '/'"),
            ("postgres://u:secret?x@h/db", "write %3F for '?'"),
        ] {
            let error = url.parse::<DbUrl>().expect_err(url).to_string();
            assert!(error.contains(want), "{url}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
