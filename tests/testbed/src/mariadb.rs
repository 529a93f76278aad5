//! MariaDB. In: Debian's mariadb-server. Out: how its data is made and how it is started. It never reads a configuration
//! file of the machine.

use std::path::Path;

use anyhow::Result;

use crate::Run;
use crate::database::{Database, Engine};
use crate::find::{is_root, tool};
use crate::signal::Signal;
use crate::sql::SqlKind;

/// A private MariaDB server; killed and removed when dropped.
pub type MariaDb = Database<Maria>;

/// MariaDB, for [`Database`].
#[derive(Debug)]
pub enum Maria {}

impl Engine for Maria {
    const KIND: SqlKind = SqlKind::MySql;
    const NAME: &'static str = "MariaDB";
    const PACKAGE: &'static str = "mariadb-server";
    const USER: (&'static str, &'static str) = ("bugfeed", "bugfeed");
    const FIRST: &'static str = "";
    const STOP: Signal = Signal::TERM;

    fn installed() -> bool {
        tool("mariadbd").is_ok() && tool("mariadb-install-db").is_ok() && tool("mariadb").is_ok()
    }

    fn install(dir: &Path) -> Result<Run> {
        // Each statement must be on one line: an init file allows nothing else.
        let users = "CREATE USER IF NOT EXISTS bugfeed@'%' IDENTIFIED BY 'bugfeed';\n\
             GRANT ALL ON *.* TO bugfeed@'%' WITH GRANT OPTION;\n";
        std::fs::write(dir.join("init.sql"), users)?;
        let install = Run::new("mariadb-install-db")
            .args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"])
            .args(["--innodb-log-file-size=8M", "--innodb-buffer-pool-size=16M"])
            .arg(format!("--datadir={}", dir.join("data").display()))
            // The server removes temporary files of other servers when it starts, so each has a folder of its own for
            // them.
            .env("TMPDIR", dir);
        Ok(as_root(install))
    }

    fn with_certificate(dir: &Path, certificate: &Path, key: &Path) -> Result<Vec<String>> {
        let [own, own_key] = ["cert.pem", "key.pem"].map(|name| dir.join(name));
        std::fs::copy(certificate, &own)?;
        std::fs::copy(key, &own_key)?;
        let files = [format!("--ssl-cert={}", own.display()), format!("--ssl-key={}", own_key.display())];
        Ok([vec!["--skip-log-bin".to_owned()], files.to_vec()].concat())
    }

    fn run(dir: &Path, port: u16, options: &[String]) -> Result<Run> {
        let path = |name: &str| dir.join(name).display().to_string();
        let run = Run::new("mariadbd").arg("--no-defaults").args([
            format!("--datadir={}", path("data")),
            format!("--socket={}", path("socket")),
            format!("--pid-file={}", path("pid")),
            format!("--tmpdir={}", path("")),
            format!("--init-file={}", path("init.sql")),
            format!("--port={port}"),
        ]);
        let run = run.args([
            "--bind-address=127.0.0.1",
            "--skip-name-resolve",
            "--performance-schema=OFF",
            "--innodb-buffer-pool-size=16M",
            "--innodb-log-file-size=8M",
            "--innodb-flush-log-at-trx-commit=2",
            "--key-buffer-size=1M",
            "--aria-pagecache-buffer-size=1M",
            "--thread-cache-size=4",
        ]);
        Ok(as_root(if options.is_empty() { run.arg("--skip-log-bin") } else { run.args(options) }))
    }
}

/// MariaDB runs as root only if it is told so explicitly.
fn as_root(run: Run) -> Run {
    if is_root() { run.arg("--user=root") } else { run }
}
