//! Where the store is: for the role, and for what works on the store itself.

use bugfeed_runtime::secret::{in_file, secret};
use bugfeed_sql::DbUrl;
use clap::Args;

/// The store of the role.
#[derive(Clone, Debug, Args)]
pub struct StoreArgs {
    /// The database of received events, change tables and ledgers: sqlite:// for one process, mysql:// or postgres:// for
    /// several that share it. @FILE reads it from a file, and {@FILE} in place of a password that
    #[arg(
        long,
        env = "BUGFEED_STORE",
        hide_env_values = true,
        default_value = "sqlite://data/hooks.db",
        value_name = "URL",
        value_parser = secret(str::parse::<DbUrl>)
    )]
    store: DbUrl,
    /// File with the URL of --store, such as a secret of a container
    #[arg(long, env = "BUGFEED_STORE_FILE", value_name = "FILE", value_parser = in_file(str::parse::<DbUrl>), conflicts_with = "store", hide_short_help = true)]
    store_file: Option<DbUrl>,
}

impl StoreArgs {
    /// Its address.
    pub fn url(&self) -> DbUrl {
        self.store_file.as_ref().unwrap_or(&self.store).clone()
    }
}

/// A store that must be named.
#[derive(Clone, Debug, Args)]
pub struct NamedStoreArgs {
    /// The store: sqlite://, mysql:// or postgres://. @FILE reads it from a file, and {@FILE} in place of a password that
    #[arg(
        long,
        env = "BUGFEED_STORE",
        hide_env_values = true,
        value_name = "URL",
        value_parser = secret(str::parse::<DbUrl>),
        required_unless_present = "store_file"
    )]
    store: Option<DbUrl>,
    /// File with the URL of --store
    #[arg(long, env = "BUGFEED_STORE_FILE", value_name = "FILE", value_parser = in_file(str::parse::<DbUrl>), conflicts_with = "store")]
    store_file: Option<DbUrl>,
}

impl NamedStoreArgs {
    /// Its address.
    ///
    /// # Panics
    /// If neither option was given, which the command line does not allow.
    pub fn url(&self) -> DbUrl {
        self.store_file.as_ref().or(self.store.as_ref()).cloned().expect("one of them is required")
    }
}
