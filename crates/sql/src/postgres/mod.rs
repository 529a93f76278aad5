//! PostgreSQL.

mod dialect;
mod fault;
mod notify;
mod settings;

use std::sync::Arc;

use sqlx::error::DatabaseError;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgRow, PgSslMode};
use sqlx::{AssertSqlSafe, Decode, PgPool, Postgres, Row as _, Type, ValueRef as _};

use crate::driver::{Address, Answer, BoxFuture, Notifier, Pool, Session, Stale, Statement, server_pool};
use crate::tls::{Asked, Names, Note, Parameters, Tls, Verify, bare, is_here};
use crate::url::{BadUrl, UrlText};
use crate::{Dialect, Fault, Use, Value, literal};
use dialect::PostgresDialect;
use notify::PostgresNotifier;
use settings::{Settings, write_text};

/// What the parameters of its URLs are called.
pub(crate) static NAMES: Names = Names {
    mode: &["sslmode", "ssl-mode"],
    modes: &["disable", "allow", "prefer", "require", "verify-ca", "verify-full"],
    modes_shown: "disable, allow, prefer, require, verify-full",
    required: "sslmode=require",
    authorities: &["sslrootcert", "ssl-root-cert", "ssl-ca"],
    certificate: &["sslcert", "ssl-cert"],
    key: &["sslkey", "ssl-key"],
    others: &[
        "statement-cache-capacity",
        "host",
        "hostaddr",
        "port",
        "dbname",
        "user",
        "password",
        "application_name",
        "options",
        "options[",
    ],
};

const HINT: &str = "nothing proves that the right server answers, and the connection may be in clear text: add \
                    sslmode=require to the URL, and sslrootcert=FILE if its authority is your own; or sslmode=prefer to have \
                    it so";

/// The variable by which PostgreSQL's programs, and the driver, are told the mode where the URL does not say it.
const MODE_VARIABLE: &str = "PGSSLMODE";

/// Reads a URL.
pub(crate) fn parse(url: &UrlText<'_>) -> Result<Arc<dyn Address>, BadUrl> {
    url.of_server()?;
    let (text, parameters) = Parameters::take(url.text, &NAMES).map_err(|reason| url.wrong(reason))?;
    let options: PgConnectOptions = text.parse().map_err(|e| url.malformed(e))?;
    if options.get_database().is_none_or(str::is_empty) {
        return Err(url.names_no_database());
    }
    let by_variable = std::env::var(MODE_VARIABLE).ok();
    // The driver takes a mode that it does not know for none.
    if by_variable.as_ref().is_some_and(|mode| !NAMES.modes.contains(&mode.to_lowercase().as_str())) {
        return Err(url.wrong(format!("the environment variable {MODE_VARIABLE} is one of {}", NAMES.modes_shown)));
    }
    let is_written = parameters.says_mode() || by_variable.is_some();
    let host = bare(options.get_host()).to_owned();
    let is_here = options.get_socket().is_some() || is_here(&host);
    let asked = match options.get_ssl_mode() {
        PgSslMode::Disable | PgSslMode::Allow => Asked::Never,
        PgSslMode::Prefer => Asked::IfOffered,
        PgSslMode::Require | PgSslMode::VerifyCa | PgSslMode::VerifyFull => Asked::Always,
    };
    let tls = parameters.tls(asked, is_written).map_err(|reason| url.wrong(reason))?;
    let options = match tls {
        Tls::AsRead => options,
        Tls::Required(Verify::Full) => options.ssl_mode(PgSslMode::VerifyFull),
        Tls::Required(Verify::Authority) => options.ssl_mode(PgSslMode::VerifyCa),
        Tls::Required(Verify::Nothing) => options.ssl_mode(PgSslMode::Require),
    };
    let note = Note::of(tls, is_written, is_here, HINT);
    Ok(Arc::new(PostgresAddress { options: options.host(&host), note }))
}

struct PostgresAddress {
    options: PgConnectOptions,
    note: Option<Note>,
}

impl PostgresAddress {
    fn options(&self, application_name: &str) -> PgConnectOptions {
        // PgBouncer refuses a start with extra_float_digits; nothing here has a fraction.
        self.options.clone().application_name(application_name).extra_float_digits(None)
    }
}

impl Address for PostgresAddress {
    fn dialect(&self) -> &'static dyn Dialect {
        &PostgresDialect
    }

    fn open(&self, purpose: Use, stale: &Stale) -> Arc<dyn Pool> {
        let pool = server_pool(stale).connect_lazy_with(self.options("bugfeed-shim"));
        Arc::new(PostgresConnections { pool, settings: Settings { purpose } })
    }

    fn database(&self) -> Option<&str> {
        self.options.get_database()
    }

    fn note(&self) -> Option<Note> {
        self.note
    }

    fn notifier(&self, shown: &str) -> Option<Box<dyn Notifier>> {
        let options = self.options("bugfeed-shim listen");
        Some(Box::new(PostgresNotifier { options, shown: shown.to_owned() }))
    }
}

#[derive(Debug)]
struct PostgresConnections {
    pool: PgPool,
    settings: Settings,
}

impl Pool for PostgresConnections {
    fn connect(&self) -> Answer<'_, Box<dyn Session>> {
        Box::pin(async {
            let conn = self.pool.acquire().await?;
            let session: Box<dyn Session> = Box::new(PostgresSession { conn, settings: self.settings });
            Ok(session)
        })
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.pool.close())
    }

    fn fault(&self, error: &dyn DatabaseError) -> Fault {
        fault::fault(&error.code().unwrap_or_default())
    }
}

struct PostgresSession {
    conn: PoolConnection<Postgres>,
    settings: Settings,
}

impl PostgresSession {
    fn text(&self, statement: Statement<'_>) -> String {
        let Statement { sql, args, inside, .. } = statement;
        let sql = if args.is_empty() { sql.to_owned() } else { literal::with(sql, args, write_text) };
        if inside { sql } else { self.settings.alone(&sql) }
    }
}

impl Session for PostgresSession {
    fn execute<'a>(&'a mut self, statement: Statement<'a>) -> Answer<'a, u64> {
        let text = self.text(statement);
        self.run(text)
    }

    fn fetch<'a>(&'a mut self, statement: Statement<'a>) -> Answer<'a, Vec<Vec<Value>>> {
        let text = self.text(statement);
        Box::pin(async {
            let rows = sqlx::raw_sql(AssertSqlSafe(text)).fetch_all(&mut *self.conn).await?;
            rows.iter().map(|row| (0..row.len()).map(|index| value(row, index)).collect()).collect()
        })
    }

    fn run(&mut self, text: String) -> Answer<'_, u64> {
        Box::pin(async { Ok(sqlx::raw_sql(AssertSqlSafe(text)).execute(&mut *self.conn).await?.rows_affected()) })
    }

    fn begin(&self) -> String {
        self.settings.begin()
    }

    fn detach(self: Box<Self>) {
        drop(self.conn.detach());
    }
}

/// A column of PostgreSQL's text format.
fn value(row: &PgRow, index: usize) -> Result<Value, sqlx::Error> {
    let raw = row.try_get_raw(index)?;
    if raw.is_null() {
        return Ok(Value::Null);
    }
    let decode = |source| sqlx::Error::ColumnDecode { index: index.to_string(), source };
    if <i64 as Type<Postgres>>::compatible(&raw.type_info()) {
        return <i64 as Decode<'_, Postgres>>::decode(raw).map(Value::Int).map_err(decode);
    }
    Ok(Value::Text(String::from_utf8_lossy(raw.as_bytes().map_err(decode)?).into_owned()))
}
