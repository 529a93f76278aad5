//! Database addresses: which database, and how it is named in logs.
//!
//! Goes in: the text of `--source` or `--ledger`. Comes out: a checked address whose `Display` never shows a password.
//! Never connects.

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use bugfeed_protocol::redact::{redact, unescaped};

use crate::Dialect;
use crate::databases::{allowed, with_scheme};
use crate::driver::{Address, Notifier};

/// A checked database URL. `Debug` and `Display` leave the password out.
#[derive(Clone)]
pub struct DbUrl {
    pub(crate) address: Arc<dyn Address>,
    pub(crate) shown: String,
}

/// The text is no database URL this program knows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadUrl {
    /// Another scheme, or none.
    #[error("'{0}' is no database this program knows; use {allowed}", allowed = allowed())]
    Scheme(String),
    /// This program was built without that database.
    #[error("'{url}': this program was built without {feature}; build it with `--features {feature}`, or use {allowed}", allowed = allowed())]
    LeftOut {
        /// The URL without its password.
        url: String,
        /// The feature of Cargo that is off.
        feature: &'static str,
    },
    /// The rest of the URL is malformed.
    #[error("'{url}': {reason}; use {allowed}", allowed = allowed())]
    Malformed {
        /// The URL without its password.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// A server without a database name.
    #[error("'{0}' names no database; add it after the host, as in {allowed}", allowed = allowed())]
    NoDatabase(String),
    /// `sqlite::memory:`, which would be empty in every connection and forgotten at exit.
    #[error("'{0}' is kept in memory only and would be lost; name a file, as in sqlite://bugfeed.db")]
    InMemory(String),
}

/// The text of a URL while it is being read.
pub(crate) struct UrlText<'a> {
    /// All of it.
    pub(crate) text: &'a str,
    /// The text before the first colon.
    scheme: &'a str,
    /// The text without a password.
    pub(crate) shown: &'a str,
}

// Not used if the databases that need it are left out.
#[cfg_attr(not(all(feature = "mysql", feature = "postgres", feature = "sqlite")), allow(dead_code))]
impl<'a> UrlText<'a> {
    /// Checks the rules for the URLs of all servers, and returns what follows the scheme.
    pub(crate) fn of_server(&self) -> Result<&'a str, BadUrl> {
        let (scheme, rest) = (self.scheme, &self.text[self.scheme.len()..]);
        if !rest.starts_with("://") {
            return Err(self.wrong(format!("two slashes are missing after {scheme}:")));
        }
        unescaped(self.text).map_or(Ok(rest), |reason| Err(self.wrong(reason.to_owned())))
    }

    /// An error: the driver cannot read the URL.
    pub(crate) fn malformed(&self, error: sqlx::Error) -> BadUrl {
        self.wrong(match error {
            sqlx::Error::Configuration(inner) => inner.to_string(),
            other => other.to_string(),
        })
    }

    /// An error: something else is wrong with the URL.
    pub(crate) fn wrong(&self, reason: String) -> BadUrl {
        BadUrl::Malformed { url: self.shown.to_owned(), reason }
    }

    /// An error: the URL names a server, but none of its databases.
    pub(crate) fn names_no_database(&self) -> BadUrl {
        BadUrl::NoDatabase(self.shown.to_owned())
    }
}

impl FromStr for DbUrl {
    type Err = BadUrl;

    fn from_str(text: &str) -> Result<DbUrl, BadUrl> {
        let text = text.trim();
        let shown = redact(text);
        let scheme = text.split(':').next().unwrap_or_default();
        let Some(database) = with_scheme(scheme) else { return Err(BadUrl::Scheme(shown)) };
        let address = database.read(&UrlText { text, scheme, shown: &shown })?;
        Ok(DbUrl { address, shown })
    }
}

impl DbUrl {
    /// The SQL dialect of this database.
    pub fn dialect(&self) -> &'static dyn Dialect {
        self.address.dialect()
    }

    /// The database's name on its server.
    pub fn database(&self) -> Option<&str> {
        self.address.database()
    }

    /// The path of the file, if the database is a file.
    pub fn file_path(&self) -> Option<&Path> {
        self.address.file()
    }

    /// The address with another login, to be shown as an example.
    pub fn with_login(&self, user: &str, password: &str) -> String {
        let (scheme, rest) = self.shown.split_once("://").unwrap_or(("", &self.shown));
        let place = rest.rsplit_once('@').map_or(rest, |(_, place)| place);
        format!("{scheme}://{user}:{password}@{place}")
    }

    /// What is to be said in the log about connections to it.
    #[cfg(any(feature = "mysql", feature = "postgres"))]
    pub(crate) fn note(&self) -> Option<crate::tls::Note> {
        self.address.note()
    }

    /// The database's notifications that something happened; `None` if it has none.
    pub fn notifier(&self) -> Option<Box<dyn Notifier>> {
        self.address.notifier(&self.shown)
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

#[cfg(all(test, feature = "mysql", feature = "postgres", feature = "sqlite"))]
mod tests {
    use super::*;
    use crate::databases::Database;

    #[test]
    fn a_database_that_was_left_out_names_its_feature() {
        let database = Database { parse: None, ..*with_scheme("postgresql").unwrap() };
        let (text, shown) = ("postgresql://u:secret@h/db", "postgresql://u:***@h/db");
        let error = database.read(&UrlText { text, scheme: "postgresql", shown }).err().unwrap().to_string();
        assert!(error.starts_with("'postgresql://u:***@h/db': this program was built without postgres;"), "{error}");
        assert!(error.contains("`--features postgres`") && !error.contains("secret"), "{error}");
    }

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
