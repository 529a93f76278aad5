//! TLS to MariaDB and PostgreSQL: who is trusted, and what is said where a server cannot prove who it is.

use bugfeed_sql::{Db, DbUrl, Fault, SqlError, Use, Value};
use bugfeed_testbed::shared;

/// A statement whose answer says whether the connection is encrypted.
fn is_encrypted(url: &str) -> (&'static str, usize) {
    if url.starts_with("mysql") {
        ("SHOW STATUS LIKE 'Ssl_cipher'", 1)
    } else {
        ("SELECT CASE WHEN ssl THEN cipher ELSE '' END FROM pg_stat_ssl WHERE pid = pg_backend_pid()", 0)
    }
}

/// Asks the server of this URL for the cipher; empty where nothing is encrypted.
async fn cipher(url: &str) -> Result<String, SqlError> {
    let address: DbUrl = url.parse().unwrap_or_else(|error| panic!("{url}: {error}"));
    let (sql, column) = is_encrypted(url);
    let rows = Db::new(&address, Use::Source).fetch(sql, &[]).await?;
    Ok(rows[0][column].clone().into_text().unwrap_or_default())
}

/// What is said about a server that is not trusted.
async fn refused(url: &str) -> String {
    let error = cipher(url).await.expect_err(url);
    assert_eq!(error.fault, Fault::Untrusted, "{error}");
    assert!(!error.may_heal() && !error.to_string().contains("sekrit"), "{error}");
    error.to_string()
}

#[tokio::test]
async fn a_server_without_tls_is_refused_where_the_url_asks_for_tls() {
    let (mariadb, postgres) = (shared::mariadb().await, shared::postgres().await);
    for (server, database, asked) in
        [(mariadb, "mysql", "ssl-mode=REQUIRED"), (postgres, "postgres", "sslmode=require")]
    {
        let Some(url) = server.map(|server| server.url(database)) else { continue };
        for parameter in [asked, "tls-verify=full", "tls-verify=off"] {
            let said = refused(&format!("{url}?{parameter}")).await;
            assert!(said.contains("it offers no TLS") && said.contains("switch TLS on"), "{said}");
        }
        assert_eq!(cipher(&url).await.unwrap(), "", "the driver's default takes what there is");
    }
}

mod chaos {
    use std::sync::Arc;

    use bugfeed_testbed::{MariaDb, Postgres, Run, bin};
    use tokio::sync::Notify;
    use tokio_util::sync::CancellationToken;

    use super::{Db, DbUrl, Fault, Use, Value, cipher, refused};
    use crate::support::{SOON, tls};

    /// What must hold for each server; `url` leads to it by the name in its certificate, and has no parameters. `asked` asks for
    /// TLS in the words of this database.
    async fn only_a_server_that_proves_itself_is_trusted(url: &str, asked: &str, authority: &str) {
        let by_address = url.replace("@localhost:", "@127.0.0.1:");
        for parameters in
            [format!("{asked}&ssl-ca={authority}"), format!("ssl-ca={authority}"), "tls-verify=off".to_owned()]
        {
            assert_ne!(cipher(&format!("{url}?{parameters}")).await.unwrap(), "", "{parameters}");
        }
        let said = refused(&format!("{url}?{asked}")).await;
        assert!(said.contains("not trusted here") && said.contains("ssl-ca=FILE"), "{said}");
        let said = refused(&format!("{by_address}?{asked}&ssl-ca={authority}")).await;
        assert!(said.contains("for another name") && said.contains("tls-verify=ca"), "{said}");
        assert_ne!(cipher(&format!("{by_address}?ssl-ca={authority}&tls-verify=ca")).await.unwrap(), "");
        refused(&format!("{by_address}?tls-verify=ca")).await;
        // Nothing is asked, so what the server has is taken.
        assert_ne!(cipher(&by_address).await.unwrap(), "");
    }

    #[tokio::test]
    async fn mariadb() {
        let dir = tempfile::tempdir().unwrap();
        let Some(()) = tls::certificate(dir.path(), 2).await else { return };
        let (certificate, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
        let Some(server) = MariaDb::start_with_certificate_or_skip(&certificate, &key).await else { return };
        let url = server.url("mysql").replace("@127.0.0.1:", "@localhost:");
        let authority = certificate.display().to_string();
        only_a_server_that_proves_itself_is_trusted(&url, "ssl-mode=REQUIRED", &authority).await;

        // A password that would be refused is not even sent to a server that is not trusted.
        let wrong = url.replace("bugfeed:bugfeed@", "bugfeed:sekrit@");
        assert_ne!(wrong, url);
        refused(&format!("{wrong}?ssl-mode=REQUIRED")).await;
        let error = cipher(&format!("{wrong}?ssl-ca={authority}")).await.unwrap_err();
        assert_eq!(error.fault, Fault::Denied, "{error}");

        // A program says it in one line, and ends.
        let args = ["touch", "1", "--source", &format!("{wrong}?ssl-mode=REQUIRED")];
        let mut touch = Run::new(bin("bugfeed").unwrap()).args(args).spawn().unwrap();
        assert_eq!(touch.wait(SOON).await.unwrap().code(), Some(1));
        let said = touch.output();
        assert!(
            said.contains("not trusted here") && said.contains("ssl-ca=FILE") && !said.contains("sekrit"),
            "{said}"
        );
        // The machine's own trust counts where the URL names no file.
        let database = server.create_database().await.unwrap();
        let url = server.url(&database).replace("@127.0.0.1:", "@localhost:");
        let args = ["init", "--source", &format!("{url}?ssl-mode=REQUIRED")];
        let init = Run::new(bin("bugfeed-shim").unwrap()).args(args).env("SSL_CERT_FILE", &certificate);
        init.succeeds(SOON).await.unwrap();
    }

    #[tokio::test]
    async fn postgres() {
        let dir = tempfile::tempdir().unwrap();
        let Some(()) = tls::certificate(dir.path(), 2).await else { return };
        let (certificate, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
        let Some(server) = Postgres::start_with_certificate_or_skip(&certificate, &key).await else { return };
        let url = server.url("postgres").replace("@127.0.0.1:", "@localhost:");
        let authority = certificate.display().to_string();
        only_a_server_that_proves_itself_is_trusted(&url, "sslmode=require", &authority).await;

        // The connection that listens, too: it is encrypted, and only opened to a server that is trusted.
        let listening: DbUrl = format!("{url}?sslmode=require&sslrootcert={authority}").parse().unwrap();
        let (wake, stop) = (Arc::new(Notify::new()), CancellationToken::new());
        let (waker, stopped) = (wake.clone(), stop.clone());
        let task = tokio::spawn(async move {
            listening.notifier().unwrap().wake_on(&"bugs".parse().unwrap(), waker, stopped).await;
        });
        tokio::time::timeout(SOON, wake.notified()).await.expect("it listens");
        let db = Db::new(&url.parse().unwrap(), Use::Source);
        let sql = "SELECT s.ssl::text FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid) WHERE a.application_name = \
                   'bugfeed-shim listen'";
        assert_eq!(db.fetch(sql, &[]).await.unwrap(), [[Value::Text("true".to_owned())]]);
        stop.cancel();
        tokio::time::timeout(SOON, task).await.unwrap().unwrap();
    }
}
