//! MySQL and MariaDB.

mod dialect;
mod fault;
mod settings;

use std::sync::{Arc, OnceLock};

use sqlx::error::DatabaseError;
use sqlx::mysql::{MySqlConnectOptions, MySqlDatabaseError, MySqlSslMode};
use sqlx::pool::PoolConnection;
use sqlx::{AssertSqlSafe, MySql, MySqlPool};

use crate::driver::{Address, Answer, BoxFuture, Pool, Session, Stale, Statement, server_pool};
use crate::row::values;
use crate::tls::{Asked, Names, Note, Parameters, Tls, Verify, bare, is_here};
use crate::url::{BadUrl, UrlText};
use crate::{Dialect, Fault, Use, Value, literal};
use dialect::MySqlDialect;
use settings::{Does, Flavour, Settings, write_text};

/// What the parameters of its URLs are called.
pub(crate) static NAMES: Names = Names {
    mode: &["sslmode", "ssl-mode"],
    modes: &["disabled", "preferred", "required", "verify_ca", "verify_identity"],
    modes_shown: "DISABLED, PREFERRED, REQUIRED, VERIFY_IDENTITY",
    required: "ssl-mode=REQUIRED",
    authorities: &["ssl-ca", "sslca"],
    certificate: &["ssl-cert", "sslcert"],
    key: &["ssl-key", "sslkey"],
    others: &["charset", "collation", "statement-cache-capacity", "socket", "timezone", "time-zone"],
};

const HINT: &str = "nothing proves that the right server answers, and the connection may be in clear text: add \
                    ssl-mode=REQUIRED to the URL, and ssl-ca=FILE if its authority is your own; or ssl-mode=PREFERRED to \
                    have it so";

/// Reads a URL.
pub(crate) fn parse(url: &UrlText<'_>) -> Result<Arc<dyn Address>, BadUrl> {
    let (rest, parameters) = Parameters::take(url.of_server()?, &NAMES).map_err(|reason| url.wrong(reason))?;
    let options: MySqlConnectOptions = format!("mysql{rest}").parse().map_err(|e| url.malformed(e))?;
    if options.get_database().is_none_or(str::is_empty) {
        return Err(url.names_no_database());
    }
    let host = bare(options.get_host()).to_owned();
    let is_here = options.get_socket().is_some() || is_here(&host);
    let asked = match options.get_ssl_mode() {
        MySqlSslMode::Disabled => Asked::Never,
        MySqlSslMode::Preferred => Asked::IfOffered,
        MySqlSslMode::Required | MySqlSslMode::VerifyCa | MySqlSslMode::VerifyIdentity => Asked::Always,
    };
    let tls = parameters.tls(asked, parameters.says_mode()).map_err(|reason| url.wrong(reason))?;
    let options = match tls {
        Tls::AsRead => options,
        Tls::Required(Verify::Full) => options.ssl_mode(MySqlSslMode::VerifyIdentity),
        Tls::Required(Verify::Authority) => options.ssl_mode(MySqlSslMode::VerifyCa),
        Tls::Required(Verify::Nothing) => options.ssl_mode(MySqlSslMode::Required),
    };
    let note = Note::of(tls, parameters.says_mode(), is_here, HINT);
    Ok(Arc::new(MySqlAddress { options: options.host(&host), note }))
}

struct MySqlAddress {
    options: MySqlConnectOptions,
    note: Option<Note>,
}

impl MySqlAddress {
    fn connections(&self, purpose: Use, stale: &Stale) -> MySqlConnections {
        // The driver must leave all settings of the session as they are.
        let options = self.options.clone().set_names(false).timezone(None).pipes_as_concat(false);
        let pool = server_pool(stale).connect_lazy_with(options.no_engine_substitution(false));
        MySqlConnections { pool, purpose, flavour: Arc::default() }
    }
}

impl Address for MySqlAddress {
    fn dialect(&self) -> &'static dyn Dialect {
        &MySqlDialect
    }

    fn open(&self, purpose: Use, stale: &Stale) -> Arc<dyn Pool> {
        Arc::new(self.connections(purpose, stale))
    }

    fn database(&self) -> Option<&str> {
        self.options.get_database()
    }

    fn note(&self) -> Option<Note> {
        self.note
    }
}

#[derive(Debug)]
struct MySqlConnections {
    pool: MySqlPool,
    purpose: Use,
    /// Found out at first use.
    flavour: Arc<OnceLock<Flavour>>,
}

impl Pool for MySqlConnections {
    fn connect(&self) -> Answer<'_, Box<dyn Session>> {
        Box::pin(async {
            let conn = self.pool.acquire().await?;
            let session: Box<dyn Session> =
                Box::new(MySqlSession { conn, purpose: self.purpose, flavour: self.flavour.clone() });
            Ok(session)
        })
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.pool.close())
    }

    fn fault(&self, error: &dyn DatabaseError) -> Fault {
        error.try_downcast_ref::<MySqlDatabaseError>().map_or(Fault::Other, |error| fault::fault(error.number()))
    }
}

struct MySqlSession {
    conn: PoolConnection<MySql>,
    purpose: Use,
    flavour: Arc<OnceLock<Flavour>>,
}

impl MySqlSession {
    fn settings(&self) -> Settings {
        Settings { purpose: self.purpose, flavour: self.flavour.get().copied().unwrap_or(Flavour::MariaDb) }
    }

    fn text(&self, statement: Statement<'_>, does: Does) -> String {
        let Statement { sql, args, inside, .. } = statement;
        let sql = if args.is_empty() { sql } else { &literal::with(sql, args, write_text) };
        if inside { self.settings().inside(sql, does) } else { self.settings().alone(sql, does) }
    }

    async fn read(&mut self, text: String) -> Result<Vec<Vec<Value>>, sqlx::Error> {
        let rows = sqlx::raw_sql(AssertSqlSafe(text)).fetch_all(&mut *self.conn).await?;
        rows.iter().map(values).collect()
    }
}

impl Session for MySqlSession {
    /// Which server this is, of those that speak the MySQL protocol.
    fn prepare(&mut self) -> Answer<'_, ()> {
        Box::pin(async {
            if self.flavour.get().is_some() {
                return Ok(());
            }
            let version = self.read("SELECT VERSION()".to_owned()).await?.pop().and_then(|mut row| row.pop());
            let version = version.and_then(Value::into_text).unwrap_or_default();
            // If two connections ask at the same time, both get the same answer.
            let _ = self.flavour.set(if version.contains("MariaDB") { Flavour::MariaDb } else { Flavour::Oracle });
            Ok(())
        })
    }

    fn execute<'a>(&'a mut self, statement: Statement<'a>) -> Answer<'a, u64> {
        let text = self.text(statement, Does::Write);
        self.run(text)
    }

    fn fetch<'a>(&'a mut self, statement: Statement<'a>) -> Answer<'a, Vec<Vec<Value>>> {
        let text = self.text(statement, Does::Read);
        Box::pin(self.read(text))
    }

    fn run(&mut self, text: String) -> Answer<'_, u64> {
        Box::pin(async { Ok(sqlx::raw_sql(AssertSqlSafe(text)).execute(&mut *self.conn).await?.rows_affected()) })
    }

    fn begin(&self) -> String {
        settings::BEGIN.to_owned()
    }

    fn restore_settings(&self) -> Option<&'static str> {
        self.settings().restore()
    }

    fn detach(self: Box<Self>) {
        drop(self.conn.detach());
    }
}

#[cfg(test)]
mod tests {
    mod real {
        use bugfeed_testbed::shared;

        use super::super::*;
        use crate::{Db, DbUrl};

        /// MariaDB understands what is sent to MySQL, too: a locked row is an error, and the session's settings are as
        /// before.
        #[tokio::test]
        async fn settings_sent_to_mysql_are_restored() {
            let Some(server) = shared::mariadb().await else { return };
            let url: DbUrl = server.url(&server.create_database().await.unwrap()).parse().unwrap();
            let setup = Db::new(&url, Use::Setup { create: true });
            setup.execute("CREATE TABLE t (id BIGINT PRIMARY KEY) ENGINE=InnoDB", &[]).await.unwrap();
            setup.execute("INSERT INTO t VALUES (1), (2)", &[]).await.unwrap();
            let (stale, options) = (Stale::default(), server.url(url.database().unwrap()).parse().unwrap());
            let pool = MySqlAddress { options, note: None }.connections(Use::Source, &stale);
            pool.flavour.set(Flavour::Oracle).unwrap();
            let db = Db::over(Arc::new(pool), &url, Use::Source, stale);
            let mut holder = setup.begin().await.unwrap();
            holder.execute("UPDATE t SET id = 3 WHERE id = 1", &[]).await.unwrap();
            let mut conn = db.connection().await.unwrap();
            let wait = "SELECT CAST(@@innodb_lock_wait_timeout AS SIGNED)";
            let before = conn.fetch(wait, &[], false).await.unwrap();
            let held = conn.execute("DELETE FROM t WHERE id = ?", &[Value::Int(1)], false).await.unwrap_err();
            assert_eq!(held.fault, Fault::Locked, "{held}");
            assert_eq!(conn.fetch(wait, &[], false).await.unwrap(), before);
            let gone = conn.execute("DELETE FROM t WHERE id IN (?, 7)", &[Value::Int(2)], false).await.unwrap();
            assert_eq!((gone, conn.fetch(wait, &[], false).await.unwrap()), (1, before));
        }
    }
}
