//! Options of `bugfeed touch`, and the table that follows from them.

use bugfeed_protocol::{BugId, When};
use bugfeed_runtime::secret::{in_file, secret};
use bugfeed_runtime::values::zone;
use bugfeed_shim::cli::TableArgs;
use bugfeed_shim::source::TableSpec;
use bugfeed_sql::{DbUrl, Name};
use clap::{Args, FromArgMatches as _};
use jiff::tz::TimeZone;

use super::{BugList, all_bugs};

/// The variables that tell a shim the address of the table, or the file that holds it.
const SHIM_SOURCE: [&str; 2] = ["BUGFEED_SHIM_SOURCE", "BUGFEED_SHIM_SOURCE_FILE"];

/// Options of `touch`.
#[derive(Clone, Debug, Args)]
pub struct TouchArgs {
    /// The bugs that change
    #[arg(required = true, value_name = "BUG")]
    bugs: Vec<BugList>,
    /// The database of the change table: sqlite://, mysql:// or postgres:// [default: that of BUGFEED_SHIM_SOURCE, with the
    /// shim's other variables, if it is set; otherwise sqlite://data/bugfeed.db]. @FILE reads it from a file, and {@FILE} in
    /// place of a password that
    #[arg(long, env = "BUGFEED_SOURCE", value_name = "URL", value_parser = secret(str::parse::<DbUrl>))]
    source: Option<DbUrl>,
    /// File with the URL of --source
    #[arg(long, env = "BUGFEED_SOURCE_FILE", value_name = "FILE", value_parser = in_file(str::parse::<DbUrl>), conflicts_with = "source", hide_short_help = true)]
    source_file: Option<DbUrl>,
    /// The change table's name [default: push_notify]
    #[arg(long, env = "BUGFEED_TABLE", value_name = "NAME")]
    table: Option<Name>,
    /// When the bugs changed, in UTC [default: now]
    #[arg(long, env = "BUGFEED_WHEN", value_name = "WHEN")]
    pub when: Option<When>,
    /// The zone of the times in the change table, as an IANA name [default: UTC]
    #[arg(long, env = "BUGFEED_TIMEZONE", value_name = "ZONE", value_parser = zone)]
    timezone: Option<TimeZone>,
}

/// The table to write into.
#[derive(Debug)]
pub struct Target {
    /// Its database.
    pub source: DbUrl,
    /// The names of the table and its columns.
    pub spec: TableSpec,
    /// The zone of its times.
    pub timezone: TimeZone,
    /// The variable that named the shim's database; `None` if the values came from this command's options.
    pub variable: Option<&'static str>,
}

impl TouchArgs {
    /// The bugs that change.
    pub fn bugs(&self) -> Vec<BugId> {
        all_bugs(&self.bugs)
    }

    /// The table to write into. If a shim is configured in this environment, it is the shim's table.
    ///
    /// # Errors
    /// If a variable of the shim is wrong; the error names it.
    pub fn target(&self) -> Result<Target, String> {
        let own = TableSpec::default();
        let own_source = self.source_file.as_ref().or(self.source.as_ref());
        let is_set = |variable: &&str| std::env::var_os(variable).is_some_and(|value| !value.is_empty());
        let of_shim = SHIM_SOURCE.into_iter().find(is_set).filter(|_| own_source.is_none());
        let (source, spec, timezone, variable) = if let Some(variable) = of_shim {
            let command = TableArgs::augment_args(clap::Command::new("touch").no_binary_name(true));
            let read = command.try_get_matches_from([""; 0]).and_then(|matches| TableArgs::from_arg_matches(&matches));
            let table = read.map_err(|error| format!("the shim's variables: {error}"))?;
            let timezone = std::env::var("BUGFEED_SHIM_TIMEZONE").ok().map(|name| zone(&name)).transpose();
            let timezone = timezone.map_err(|error| format!("BUGFEED_SHIM_TIMEZONE: {error}"))?;
            (table.source.url(), table.spec(), timezone, Some(variable))
        } else {
            let source = own_source.cloned().unwrap_or_else(|| DbUrl::sqlite_file("data/bugfeed.db"));
            (source, own, None, None)
        };
        Ok(Target {
            source,
            spec: TableSpec { table: self.table.clone().unwrap_or(spec.table), ..spec },
            timezone: self.timezone.clone().or(timezone).unwrap_or(TimeZone::UTC),
            variable,
        })
    }
}
