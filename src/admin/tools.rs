//! `bugfeed hooks test`, `bugfeed hooks token`, `bugfeed hooks listen`: what needs no API.

use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::time::SystemTime;

use bugfeed_hooks::api::first_token;
use bugfeed_hooks::config::{HooksConfig, Source};
use bugfeed_hooks::receive::capture;
use bugfeed_hooks::receive::explain::explain;
use bugfeed_hooks::store::{Options, Store};
use bugfeed_protocol::When;

use super::table::harmless;
use super::{AdminError, Outcome, Screen};
use crate::cli::hooks::{HooksCommand, ListenArgs, TestArgs, TokenArgs};
use crate::hooks_config;
use crate::listen::{self, Output};
use crate::watch::{Signals, Stop};

pub(super) async fn hooks(command: HooksCommand, screen: &mut Screen<'_>) -> Result<Outcome, AdminError> {
    match command {
        HooksCommand::Test(args) => test(&args, screen),
        HooksCommand::Token(args) => token(args, screen).await,
        HooksCommand::Listen(args) => listen(&args, screen).await,
    }
}

async fn listen(args: &ListenArgs, screen: &mut Screen<'_>) -> Result<Outcome, AdminError> {
    let options = args.options(&rand::random());
    let mut signals = Signals::listen()?;
    let mut output = Output { out: &mut *screen.out, remarks: &mut *screen.remarks };
    match listen::run(&options, &mut output, &mut signals).await? {
        Stop::Interrupt => Ok(Outcome::Interrupted),
        Stop::Terminate => Ok(Outcome::Good),
    }
}

fn test(args: &TestArgs, screen: &mut Screen<'_>) -> Result<Outcome, AdminError> {
    let config = hooks_config::read(args.config.as_deref())?;
    let source = choose(&config, args.source.as_deref())?;
    let captured = capture::read(&read(&args.file)?);
    let explained = explain(source, &captured, now());
    for line in explained.to_string().lines() {
        writeln!(screen.out, "{}", harmless(line))?;
    }
    Ok(if explained.is_good() { Outcome::Good } else { Outcome::NotGood })
}

fn choose<'a>(config: &'a HooksConfig, name: Option<&str>) -> Result<&'a Source, AdminError> {
    let names: Vec<&str> = config.sources.iter().map(|source| source.name.as_str()).collect();
    let all = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    match (name, &config.sources[..]) {
        (Some(name), _) => config.source(name).ok_or_else(|| {
            AdminError::Value(format!("--source: there is no source '{name}'; the configuration has: {all}"))
        }),
        (None, [only]) => Ok(only),
        (None, _) => Err(AdminError::Value(format!("say which source with --source; the configuration has: {all}"))),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, AdminError> {
    let mut bytes = Vec::new();
    let done = if path == Path::new("-") {
        std::io::stdin().lock().read_to_end(&mut bytes).map(|_| ())
    } else {
        fs::read(path).map(|read| bytes = read)
    };
    done.map_err(|error| AdminError::File { path: path.display().to_string(), error })?;
    Ok(bytes)
}

fn now() -> When {
    When::from_system_time(SystemTime::now())
}

async fn token(args: TokenArgs, screen: &mut Screen<'_>) -> Result<Outcome, AdminError> {
    let options = Options { create: false, works: false, ..Options::default() };
    let store = Store::open(&args.store.url(), options).await?.store;
    let made = first_token::another(&store, &args.name, now().as_micros()).await;
    store.close().await;
    let token = made?;
    match &args.file {
        None => writeln!(screen.out, "{}", token.expose())?,
        Some(path) => {
            let failed = |error| AdminError::File { path: path.display().to_string(), error };
            first_token::write(path, &token).map_err(failed)?;
            writeln!(screen.remarks, "token {} with all scopes is in {}", token.id(), path.display())?;
        }
    }
    Ok(Outcome::Good)
}
