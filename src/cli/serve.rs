//! Options of `bugfeed serve`.

use std::path::PathBuf;
use std::time::Duration;

use bugfeed_runtime::values::zone;
use bugfeed_shim::source::TableSpec;
use bugfeed_sql::Name;
use clap::Args;

use super::endpoints::EndpointArgs;
use super::millis;
use super::serving::{ListenArgs, LogArgs};
use crate::compose::all_in_one::AllInOneOptions;
use crate::compose::hooks::ConfigFile;

/// Options of `serve`.
#[derive(Clone, Debug, Args)]
pub struct ServeArgs {
    /// Ports and limits.
    #[command(flatten)]
    pub listen: ListenArgs,
    /// Where the change table and received webhooks (bugfeed.db) and the ledger (ledger.db) are kept
    #[arg(long, env = "BUGFEED_DATA_DIR", default_value = "./data", value_name = "DIR")]
    pub data_dir: PathBuf,
    /// The file with the sources of webhooks: who sends, and what becomes of it; SIGHUP reads it again [default: the one
    /// source plain, at /hooks/plain]
    #[arg(long, env = "BUGFEED_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Read the configuration, say what it would do, and end: with 0 if it can be used, with 1 if not
    #[arg(long)]
    pub check: bool,
    /// Takes webhooks while the change table's file cannot be written [default: the folder spool in --data-dir]
    #[arg(long, env = "BUGFEED_SPOOL_DIR", value_name = "DIR", hide_short_help = true)]
    pub spool_dir: Option<PathBuf>,
    /// Where webhooks may be sent.
    #[command(flatten)]
    pub endpoints: EndpointArgs,
    /// The change table's name; made if it is not there
    #[arg(long, env = "BUGFEED_TABLE", default_value = "push_notify", value_name = "NAME")]
    pub table: Name,
    /// The zone of the times in the change table, as an IANA name
    #[arg(long, env = "BUGFEED_TIMEZONE", default_value = "UTC", value_name = "ZONE", value_parser = zone)]
    pub timezone: jiff::tz::TimeZone,
    /// Longest pause between two looks at an idle change table, in ms; 20 ms or less while a look takes a millisecond
    #[arg(long, env = "BUGFEED_POLL_INTERVAL_MS", default_value_t = 50, value_parser = millis())]
    pub poll_interval_ms: u64,
    /// Whether the live page has a button that changes a bug [default: only if --listen is a loopback address]
    #[arg(long, env = "BUGFEED_DEMO", value_name = "true|false", value_parser = clap::builder::BoolishValueParser::new(), num_args = 0..=1, default_missing_value = "true")]
    pub demo: Option<bool>,
    /// Log lines.
    #[command(flatten)]
    pub log: LogArgs,
}

impl ServeArgs {
    /// The options of the composition.
    ///
    /// # Errors
    /// If options contradict each other; the error names them.
    pub fn options(&self) -> Result<AllInOneOptions, String> {
        Ok(AllInOneOptions {
            serving: self.listen.serving()?,
            data_dir: self.data_dir.clone(),
            table: TableSpec { table: self.table.clone(), ..TableSpec::default() },
            timezone: self.timezone.clone(),
            poll_interval: Duration::from_millis(self.poll_interval_ms),
            demo: self.demo,
            config: ConfigFile { path: self.config.clone(), ..ConfigFile::default() },
            spool_dir: self.spool_dir.clone(),
            rules: self.endpoints.rules(),
        })
    }
}
