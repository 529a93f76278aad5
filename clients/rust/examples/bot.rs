//! A bot that misses nothing: `cargo run -p bugfeed-client --example bot -- ws://127.0.0.1:8844/ bot.cursor 1234 5678`
//!
//! Stop it, change a bug, start it again: it tells what it missed. (tests/it/watch_client.rs does that.)

#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::process::ExitCode;

use bugfeed_client::{Error, Event, Feed};

/// Calls `look_at` for each bug that changes, or of which nobody knows.
async fn bot(url: &str, file: &str, bugs: Vec<u64>, look_at: impl AsyncFn(u64)) -> Result<(), Error> {
    let mut feed = Feed::builder(url)?.bugs(bugs).state_file(file).connect();
    // Asking for the next event says that the one before is dealt with; only then is its cursor stored.
    while let Some(event) = feed.next().await {
        let event = event?;
        match &event {
            Event::State(state) => eprintln!("{state}"),
            Event::Feed { state, .. } => eprintln!("the feed is {state:?}"),
            Event::Trouble { text, .. } => eprintln!("{text}"),
            _ => {}
        }
        for bug in event.bugs() {
            look_at(bug.get()).await;
        }
    }
    Ok(())
}

#[tokio::main]
async fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let (Some(url), Some(file)) = (args.next(), args.next()) else {
        eprintln!("usage: bot URL FILE BUG...");
        return ExitCode::from(2);
    };
    let bugs = args.filter_map(|bug| bug.parse().ok()).collect();
    // A real bot would ask the tracker's API what changed.
    match bot(&url, &file, bugs, async |bug| println!("look at bug {bug}")).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
