//! `bugfeed-shim`: a tracker's change table, published to AMQP.

use std::io::Write as _;
use std::process::ExitCode;

use bugfeed_runtime::usage::Usage;
use bugfeed_shim::app;
use bugfeed_shim::cli::Cli;

fn main() -> ExitCode {
    let usage = Usage::of_this_process(&Cli::definition());
    let cli = Cli::read(std::env::args_os()).unwrap_or_else(|e| usage.exit(&e));
    let failed = |error: &dyn std::fmt::Display| {
        // Nothing can be done about a stderr that is closed.
        let _ = writeln!(std::io::stderr(), "{}", usage.explain(&format!("error: {error}")));
        ExitCode::FAILURE
    };
    // One thread: all of the shim's work is waiting for others, and a second thread would only be woken for it (decision 28).
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return failed(&e),
    };
    match runtime.block_on(app::main(cli, &usage.strays("BUGFEED_SHIM_", None))) {
        Ok(()) => ExitCode::SUCCESS,
        // Every error's own text is complete: its sources would only say it again.
        Err(e) => failed(&e),
    }
}
