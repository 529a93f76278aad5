//! PostgreSQL. In: Debian's postgresql. Out: how its data is made and how it is started. It never runs as root, which
//! PostgreSQL refuses, nor touches a cluster of the machine.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::Run;
use crate::database::{Database, Engine};
use crate::find::{User, is_root, tool, user, versioned};
use crate::signal::Signal;
use crate::sql::SqlKind;

/// A private PostgreSQL server; killed and removed when dropped.
pub type Postgres = Database<Pg>;

/// PostgreSQL, for [`Database`].
#[derive(Debug)]
pub enum Pg {}

impl Engine for Pg {
    const KIND: SqlKind = SqlKind::Postgres;
    const NAME: &'static str = "PostgreSQL";
    const PACKAGE: &'static str = "postgresql";
    const USER: (&'static str, &'static str) = ("postgres", "");
    const FIRST: &'static str = "postgres";
    const STOP: Signal = Signal::INT;

    fn installed() -> bool {
        programs().is_ok() && tool("psql").is_ok()
    }

    fn install(dir: &Path) -> Result<Run> {
        if let Some(user) = unprivileged()? {
            chown(dir, Some(user.uid), Some(user.gid))?;
            std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))?;
        }
        Ok(Run::new(programs()?.join("initdb"))
            .args(["-U", "postgres", "-A", "trust", "-N", "--no-instructions", "-E", "UTF8", "--locale=C", "-D"])
            .arg(dir.join("data"))
            .user(unprivileged()?))
    }

    fn with_certificate(dir: &Path, certificate: &Path, key: &Path) -> Result<Vec<String>> {
        let [own, own_key] = ["cert.pem", "key.pem"].map(|name| dir.join(name));
        for (from, to) in [(certificate, &own), (key, &own_key)] {
            std::fs::copy(from, to)?;
            std::fs::set_permissions(to, std::fs::Permissions::from_mode(0o600))?;
            if let Some(user) = unprivileged()? {
                chown(to, Some(user.uid), Some(user.gid))?;
            }
        }
        let files = [format!("ssl_cert_file={}", own.display()), format!("ssl_key_file={}", own_key.display())];
        let settings = ["ssl=on".to_owned()].into_iter().chain(files);
        Ok(settings.flat_map(|setting| ["-c".to_owned(), setting]).collect())
    }

    fn run(dir: &Path, port: u16, options: &[String]) -> Result<Run> {
        Ok(Run::new(programs()?.join("postgres"))
            .arg("-D")
            .arg(dir.join("data"))
            .args(["-p", &port.to_string(), "-k", ""])
            .args(["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-c", "shared_buffers=16MB"])
            .args(["-c", "max_connections=200", "-c", "timezone=UTC", "-c", "log_timezone=UTC"])
            .args(options)
            .user(unprivileged()?))
    }
}

/// The folder of the newest version's server programs. The PATH has only wrappers, or other programs.
fn programs() -> Result<PathBuf> {
    let mut folders = versioned(Path::new("/usr/lib/postgresql"), "", "bin");
    folders.reverse();
    let own = folders.into_iter().find(|folder| folder.join("initdb").is_file() && folder.join("postgres").is_file());
    if let Some(folder) = own {
        return Ok(folder);
    }
    let initdb = tool("initdb").context("PostgreSQL is not installed: install the Debian package postgresql")?;
    initdb.parent().map(Path::to_owned).context("initdb is in no folder")
}

/// The user to run as: `None` for the current user, another one if that is root.
pub(crate) fn unprivileged() -> Result<Option<User>> {
    if !is_root() {
        return Ok(None);
    }
    let found = user("postgres").or_else(|| user("nobody"));
    found.map(Some).context("PostgreSQL does not run as root, and there is no user postgres or nobody")
}
