//! Whom a gateway lets in, where the operator wants tokens.
//!
//! Goes in: a token, as a client has sent it. Comes out: what it allows ([`Grant`]), or why it is refused ([`Refused`]).
//! `core/access` decides; here is what it needs to know for that: signatures (`jws`), keys (`keys`), the file of tokens
//! (`file`), tickets (`tickets`), and the clock. A token is never logged, and no error shows one.
//!
//! What is in files is read again when they change ([`Gatekeeper::watch`]). A file that is broken then leaves the one before in
//! place, and a warning on `/readyz`.

mod claims;
pub mod file;
mod jwks;
mod jws;
pub mod keys;
mod tickets;
mod watch;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bugfeed_core::access::{Grant, Policy, Refused};
use bugfeed_protocol::token::{LONGEST, Token};
use tokio::sync::Notify;

use self::file::Table;
use self::jws::Jws;
use self::keys::{Fetch, Keys, KeysOptions};
pub use self::tickets::LIFE_S as TICKET_LIFE_S;
use self::tickets::Tickets;

/// What is asked of clients.
#[derive(Clone, Debug)]
pub struct AccessOptions {
    /// The file with tokens.
    pub tokens: Option<PathBuf>,
    /// Where the keys of signed tokens come from, if those are taken.
    pub keys: Option<KeysOptions>,
    /// What is asked of signed tokens.
    pub policy: Policy,
    /// The key of tickets, in a file that gateways share.
    pub ticket_key: Option<PathBuf>,
    /// How long a client may take to show a token in `hello`.
    pub wait: Duration,
    /// Notified when files are to be read again at once.
    pub again: Arc<Notify>,
}

/// Checks tokens.
#[derive(Debug)]
pub struct Gatekeeper {
    tokens: Option<PathBuf>,
    table: RwLock<Arc<Table>>,
    signed: Option<Keys>,
    policy: Policy,
    tickets: Tickets,
    wait: Duration,
    again: Arc<Notify>,
    /// The files as they were when they were read first.
    read: Vec<watch::Look>,
}

impl Gatekeeper {
    /// Reads what is in files.
    ///
    /// # Errors
    /// If a file cannot be used; the text names the option.
    pub fn open(options: AccessOptions, fetch: Fetch) -> Result<Gatekeeper, String> {
        // Looked at before they are read: whoever changes one meanwhile has it read again.
        let files = options.tokens.iter().chain(options.keys.iter().flat_map(KeysOptions::files));
        let read = files.map(|path| watch::look(path)).collect();
        let table = options.tokens.as_deref().map(read_tokens).transpose()?.unwrap_or_default();
        Ok(Gatekeeper {
            tokens: options.tokens,
            table: RwLock::new(Arc::new(table)),
            signed: options.keys.map(|keys| Keys::open(keys, fetch)).transpose()?,
            policy: options.policy,
            tickets: Tickets::new(options.ticket_key.as_deref())?,
            wait: options.wait,
            again: options.again,
            read,
        })
    }

    /// How long a client may take to show a token in `hello`.
    pub fn wait(&self) -> Duration {
        self.wait
    }

    /// What a token allows. It may take a few seconds where it is signed with an unknown key, because the issuer is asked then.
    ///
    /// # Errors
    /// Why it is refused.
    pub async fn check(&self, token: &Token) -> Result<Arc<Grant>, Refused> {
        let secret = token.secret();
        if secret.len() > LONGEST {
            return Err(Refused::TooLong);
        }
        if !token.is_well_formed() {
            return Err(Refused::Malformed);
        }
        if let Some(grant) = self.table().get(&file::id_of(secret)).cloned() {
            let is_over = grant.ends.is_some_and(|ends| ends.as_micros() <= now_us());
            return if is_over { Err(Refused::Expired) } else { Ok(grant) };
        }
        let Some(keys) = &self.signed else { return Err(Refused::Unknown) };
        // What is not even three parts is no signed token, but one that stands in no file.
        if secret.matches('.').count() != 2 {
            return Err(Refused::Unknown);
        }
        let jws = Jws::read(secret)?;
        let claims = claims::read(keys.verify(&jws).await?)?;
        self.policy.grant(claims, now_us().div_euclid(1_000_000)).map(Arc::new)
    }

    /// A ticket for this feed, for somebody with this grant.
    ///
    /// # Errors
    /// Why there is none.
    pub fn give_ticket(&self, grant: &Grant, feed: &str) -> Result<String, String> {
        self.tickets.give(grant, feed, now_ms())
    }

    /// What a ticket for this feed allows. It is used up.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn take_ticket(&self, ticket: &str, feed: &str) -> Result<Arc<Grant>, Refused> {
        let grant = self.tickets.take(ticket, feed, &self.table(), now_ms())?;
        let is_over = grant.ends.is_some_and(|ends| ends.as_micros() <= now_us());
        if is_over { Err(Refused::Expired) } else { Ok(grant) }
    }

    /// The tokens that stand in the file.
    pub fn table(&self) -> Arc<Table> {
        Arc::clone(&self.table.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn replace_table(&self, table: Table) -> Arc<Table> {
        let table = Arc::new(table);
        *self.table.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&table);
        table
    }
}

fn read_tokens(path: &Path) -> Result<Table, String> {
    let told = |error: String| format!("--tokens {}: {error}", path.display());
    let text = fs::read_to_string(path).map_err(|error| told(error.to_string()))?;
    file::read(&text).map_err(told)
}

/// Microseconds since 1970.
fn now_us() -> i64 {
    bugfeed_protocol::When::from_system_time(SystemTime::now()).as_micros()
}

/// Milliseconds since 1970.
fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
