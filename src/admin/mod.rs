//! The commands about webhooks: what people ask and order, over the API of a running process.
//!
//! Goes in: the structs of [`crate::cli::hooks`]. Comes out: tables for people, or with `--json` one object a line, on
//! standard output; remarks on standard error. Nothing that a sender wrote reaches a terminal as a control character. A key
//! or token that was just made is printed alone, so that `$(…)` takes it.

mod audit;
mod connection;
mod endpoint_bodies;
mod endpoints;
mod events;
mod keys;
mod requests;
mod sources;
mod spoken;
mod table;
mod times;
mod tools;
mod way;

use std::io::{self, Write};

use bugfeed_hooks::api::client::CallError;
use serde_json::Value;

use crate::cli::Command;
use crate::cli::hooks::{
    AdminArgs, AuditArgs, BugArgs, DeadLettersArgs, EndpointsArgs, EventsArgs, HooksCommand, KeysArgs, RequestsArgs,
    SourcesArgs, TokensArgs,
};
use crate::listen::ListenError;
use connection::Connection;

/// A command.
#[derive(Clone, Debug)]
pub enum AdminCommand {
    /// `keys`
    Keys(KeysArgs),
    /// `tokens`
    Tokens(TokensArgs),
    /// `endpoints`
    Endpoints(EndpointsArgs),
    /// `events`
    Events(EventsArgs),
    /// `requests`
    Requests(RequestsArgs),
    /// `sources`
    Sources(SourcesArgs),
    /// `dead-letters`
    DeadLetters(DeadLettersArgs),
    /// `bug`
    Bug(BugArgs),
    /// `audit`
    Audit(AuditArgs),
    /// `hooks test`, `hooks token`, `hooks listen`
    Hooks(HooksCommand),
}

impl AdminCommand {
    /// The command of a command line.
    ///
    /// # Errors
    /// If it is another command, that one.
    pub fn of(command: Command) -> Result<AdminCommand, Command> {
        Ok(match command {
            Command::Keys(args) => AdminCommand::Keys(*args),
            Command::Tokens(args) => AdminCommand::Tokens(*args),
            Command::Endpoints(args) => AdminCommand::Endpoints(*args),
            Command::Events(args) => AdminCommand::Events(*args),
            Command::Requests(args) => AdminCommand::Requests(*args),
            Command::Sources(args) => AdminCommand::Sources(*args),
            Command::DeadLetters(args) => AdminCommand::DeadLetters(*args),
            Command::Bug(args) => AdminCommand::Bug(*args),
            Command::Audit(args) => AdminCommand::Audit(*args),
            Command::Hooks(mut args) => match args.command.take() {
                Some(command) => AdminCommand::Hooks(command),
                None => return Err(Command::Hooks(args)),
            },
            other => return Err(other),
        })
    }
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// There is no token.
    #[error("{0}")]
    Token(String),
    /// The API does not answer, or refuses.
    #[error(transparent)]
    Call(#[from] CallError),
    /// None of the usual ports has the API.
    #[error("no process with webhooks was found: {0}; start `bugfeed`, or name the admin port with --admin-url")]
    Nowhere(String),
    /// A value is wrong.
    #[error("{0}")]
    Value(String),
    /// A file cannot be read or written.
    #[error("{path}: {error}")]
    File {
        /// Which file.
        path: String,
        /// What the system says.
        error: io::Error,
    },
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] bugfeed_hooks::store::StoreError),
    /// The configuration is wrong, or cannot be read.
    #[error(transparent)]
    Config(#[from] crate::hooks_config::ConfigFileError),
    /// Listening has failed.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The output cannot be written.
    #[error("cannot write: {0}")]
    Output(#[from] io::Error),
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Well.
    Good,
    /// It did its work, and what it looked at is not good.
    NotGood,
    /// Ctrl-C ended it.
    Interrupted,
}

/// Where a command prints.
pub struct Screen<'a> {
    /// Standard output.
    pub out: &'a mut (dyn Write + Send),
    /// Standard error.
    pub remarks: &'a mut (dyn Write + Send),
}

impl std::fmt::Debug for Screen<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Screen")
    }
}

/// Carries a command out.
///
/// # Errors
/// When it cannot be done; the text says what to do.
pub async fn run(command: AdminCommand, screen: &mut Screen<'_>) -> Result<Outcome, AdminError> {
    match command {
        AdminCommand::Keys(args) => keys::keys(args, screen).await,
        AdminCommand::Tokens(args) => keys::tokens(args, screen).await,
        AdminCommand::Endpoints(args) => endpoints::endpoints(args, screen).await,
        AdminCommand::Events(args) => events::events(args, screen).await,
        AdminCommand::Requests(args) => requests::requests(args, screen).await,
        AdminCommand::Sources(args) => sources::sources(args, screen).await,
        AdminCommand::DeadLetters(args) => events::dead_letters(args, screen).await,
        AdminCommand::Bug(args) => way::bug(args, screen).await,
        AdminCommand::Audit(args) => audit::audit(args, screen).await,
        AdminCommand::Hooks(args) => tools::hooks(args, screen).await,
    }
}

/// A running command: the API, and where it prints.
struct Session<'a, 'b> {
    api: Connection,
    is_json: bool,
    screen: &'a mut Screen<'b>,
}

impl<'a, 'b> Session<'a, 'b> {
    fn new(args: &AdminArgs, screen: &'a mut Screen<'b>) -> Result<Session<'a, 'b>, AdminError> {
        let api = Connection::new(args)?;
        if let Some(url) = args.admin_url.as_ref().filter(|url| url.is_open()) {
            writeln!(screen.remarks, "warning: the token goes over the network without encryption, to {url}")?;
        }
        Ok(Session { api, is_json: args.json, screen })
    }

    /// Prints an object, or for people what `show` makes of it.
    fn print(&mut self, object: &Value, show: impl FnOnce(&Value) -> String) -> Result<Outcome, AdminError> {
        if self.is_json {
            writeln!(self.screen.out, "{object}")?;
        } else {
            write!(self.screen.out, "{}", show(object))?;
        }
        Ok(Outcome::Good)
    }

    /// Prints a list: one object a line, or a table.
    fn list(
        &mut self,
        rows: &[Value],
        none: &str,
        table: impl FnOnce(&[Value]) -> String,
    ) -> Result<Outcome, AdminError> {
        if self.is_json {
            for row in rows {
                writeln!(self.screen.out, "{row}")?;
            }
        } else if rows.is_empty() {
            writeln!(self.screen.remarks, "{none}")?;
        } else {
            write!(self.screen.out, "{}", table(rows))?;
        }
        Ok(Outcome::Good)
    }

    /// Reads pages of a list until there are so many rows; tells if there are more.
    async fn pages(
        &mut self,
        path: &str,
        member: &str,
        query: &[(&str, &str)],
        limit: u64,
    ) -> Result<Vec<Value>, AdminError> {
        let (mut rows, mut after) = (Vec::new(), None::<String>);
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        loop {
            let wanted = (limit - rows.len()).min(1000).to_string();
            let mut query = query.to_vec();
            query.push(("limit", &wanted));
            query.extend(after.as_deref().map(|after| ("after", after)));
            let mut page = self.api.get(path, &query).await?;
            if let Value::Array(more) = page[member].take() {
                rows.extend(more);
            }
            after = page["next"].as_str().map(str::to_owned);
            if after.is_none() {
                return Ok(rows);
            }
            if rows.len() >= limit {
                writeln!(self.screen.remarks, "(there are more; --limit N shows more of them)")?;
                return Ok(rows);
            }
        }
    }
}
