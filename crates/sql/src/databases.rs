//! The table of the databases that this program knows: one line for each.
//!
//! Goes in: the scheme of a URL. Comes out: the code that reads the URL, or the name of the feature without which this
//! program was built.

use std::sync::Arc;

use crate::driver::Address;
use crate::url::{BadUrl, UrlText};

/// One database.
pub(crate) struct Database {
    /// Its name, which is also the name of its feature, of its folder and of its [`Dialect`](crate::Dialect).
    pub(crate) name: &'static str,
    /// What its URLs begin with.
    pub(crate) schemes: &'static [&'static str],
    /// What its URLs look like, for error messages.
    pub(crate) example: &'static str,
    /// Reads its URLs; `None` if the database is not compiled in.
    pub(crate) parse: Option<Parse>,
}

impl Database {
    /// Reads a URL that begins with one of its schemes.
    pub(crate) fn read(&self, url: &UrlText<'_>) -> Result<Arc<dyn Address>, BadUrl> {
        match self.parse {
            Some(parse) => parse(url),
            None => Err(BadUrl::LeftOut { url: url.shown.to_owned(), feature: self.name }),
        }
    }
}

/// Reads a URL and connects to nothing.
pub(crate) type Parse = fn(&UrlText<'_>) -> Result<Arc<dyn Address>, BadUrl>;

/// The function if the feature is on, `None` if it is off.
macro_rules! with_feature {
    ($feature:literal, $parse:path) => {{
        #[cfg(feature = $feature)]
        let parse: Option<Parse> = Some($parse);
        #[cfg(not(feature = $feature))]
        let parse: Option<Parse> = None;
        parse
    }};
}

static DATABASES: &[Database] = &[
    Database {
        name: "mysql",
        schemes: &["mysql", "mariadb"],
        example: "mysql://user:password@host:3306/database, mariadb://…",
        parse: with_feature!("mysql", crate::mysql::parse),
    },
    Database {
        name: "postgres",
        schemes: &["postgres", "postgresql"],
        example: "postgres://user:password@host:5432/database, postgresql://…",
        parse: with_feature!("postgres", crate::postgres::parse),
    },
    Database {
        name: "sqlite",
        schemes: &["sqlite"],
        example: "sqlite://path/to/file.db",
        parse: with_feature!("sqlite", crate::sqlite::parse),
    },
];

/// The names of the databases that are compiled in, each the [name](crate::Dialect::name) of its dialect.
pub fn compiled_in() -> impl Iterator<Item = &'static str> {
    DATABASES.iter().filter(|database| database.parse.is_some()).map(|database| database.name)
}

/// The database whose URLs have this scheme, whether it is compiled in or not.
pub(crate) fn with_scheme(scheme: &str) -> Option<&'static Database> {
    DATABASES.iter().find(|database| database.schemes.contains(&scheme))
}

/// What a database URL may look like, for error messages.
pub(crate) fn allowed() -> String {
    let mut examples: Vec<&str> =
        DATABASES.iter().filter(|database| database.parse.is_some()).map(|database| database.example).collect();
    let last = examples.pop().unwrap_or("(no database is compiled in)");
    if examples.is_empty() { last.to_owned() } else { format!("{} or {last}", examples.join(", ")) }
}
