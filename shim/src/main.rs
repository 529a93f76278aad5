//! `bugfeed-shim`: a tracker's change table, published to AMQP.

use std::io::Write as _;
use std::process::ExitCode;

use bugfeed_shim::app;
use bugfeed_shim::cli::{Cli, usage_error};

fn main() -> ExitCode {
    let cli = Cli::read(std::env::args_os()).unwrap_or_else(|e| usage_error(&e));
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return failed(&e),
    };
    match runtime.block_on(app::main(cli)) {
        Ok(()) => ExitCode::SUCCESS,
        // Every error's own text is complete: its sources would only say it again.
        Err(e) => failed(&e),
    }
}

fn failed(error: &dyn std::fmt::Display) -> ExitCode {
    // Nothing can be done about a stderr that is closed.
    let _ = writeln!(std::io::stderr(), "error: {error}");
    ExitCode::FAILURE
}
