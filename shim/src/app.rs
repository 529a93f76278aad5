//! The program: does what the command line says.
//!
//! Goes in: checked options. Comes out: success, or the error that ends the program.

use std::io::Write as _;

use bugfeed_protocol::log_event::LogEvent;
use bugfeed_runtime::logging::init_logging;
use bugfeed_runtime::signals::{self, Orders};
use tokio_util::sync::CancellationToken;

use crate::cli::{self, RunArgs};
use crate::compose::ShimOptions;
use crate::{commands, compose};

/// Writes these warnings, then does what the command line says.
///
/// # Errors
/// The error of the command.
pub async fn main(cli: cli::Cli, warnings: &[String]) -> anyhow::Result<()> {
    if !matches!(cli.command, cli::Command::Run(_)) {
        for warning in warnings {
            writeln!(std::io::stderr(), "warning: {warning}")?;
        }
    }
    match cli.command {
        cli::Command::Init(args) => commands::init(&args.source, &args.spec()).await,
        cli::Command::Status(args) => commands::status(&args.place()).await,
        cli::Command::NewEpoch(args) => commands::new_epoch(&args.ledger.place(), args.yes).await,
        cli::Command::Run(args) => run_until_signal(&args, warnings).await,
    }
}

async fn run_until_signal(args: &RunArgs, warnings: &[String]) -> anyhow::Result<()> {
    init_logging(args.log_format);
    for warning in warnings {
        tracing::warn!(event = %LogEvent::VariableUnknown, "{warning}");
    }
    let stop = CancellationToken::new();
    let on_stop = || tracing::info!(event = %LogEvent::ShimStopping, "stopping: finishing the batch in hand");
    signals::obey(Orders { stop: stop.clone(), within: ShimOptions::ENDS_WITHIN, again: Vec::new(), on_stop })?;
    compose::run(&args.options(), stop).await
}
