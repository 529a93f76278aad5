//! The all-in-one that is measured: a process of its own, its change table, and its API.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use bugfeed_sql::{Db, DbUrl, Use, Value};
use bugfeed_testbed::{Proc, Run, free_port};

use crate::target::{get, wait};

/// Rows of an INSERT.
const ROWS: usize = 200;

/// The running program.
pub(super) struct Program {
    proc: Proc,
    api: Api,
    store: DbUrl,
    table: Db,
}

impl Program {
    /// Starts it in this folder, and waits until it is ready.
    pub(super) fn start(server: &Path, folder: &Path) -> Result<Program> {
        let address = || -> Result<SocketAddr> { Ok(SocketAddr::from(([127, 0, 0, 1], free_port()?))) };
        let (clients, admin, token) = (address()?, address()?, folder.join("data/admin.token"));
        let run = Run::new(server).args(["serve", "--allow-network", "127.0.0.0/8"]);
        let run = run.arg("--data-dir").arg(folder.join("data"));
        let run = run.args(["--listen", &clients.to_string(), "--admin-listen", &admin.to_string()]);
        let mut proc = run.spawn().with_context(|| format!("cannot start {}", server.display()))?;
        wait(&mut proc, || token.exists() && get(admin, "/readyz").is_ok_and(|page| page.starts_with("HTTP/1.1 200")))?;
        let token = std::fs::read_to_string(token)?.trim().to_owned();
        let store = DbUrl::sqlite_file(folder.join("data/bugfeed.db"));
        let table = Db::new(&store, Use::Ledger { create: false });
        Ok(Program { proc, api: Api { admin, token }, store, table })
    }

    /// Its process.
    pub(super) fn pid(&self) -> u32 {
        self.proc.pid()
    }

    /// The database of its change table and of its endpoints.
    pub(super) fn store(&self) -> &DbUrl {
        &self.store
    }

    /// Its API.
    pub(super) fn api(&self) -> &Api {
        &self.api
    }

    /// What it printed, to show when something went wrong.
    pub(super) fn output(&self) -> String {
        self.proc.output()
    }

    /// These bugs change, in one transaction. Returns when that was committed.
    pub(super) async fn change(&self, bugs: &[u64]) -> Result<Instant> {
        let mut tx = self.table.begin().await?;
        for bugs in bugs.chunks(ROWS) {
            let rows = vec!["(?, '2026-11-26 12:00:00')"; bugs.len()].join(", ");
            let sql = format!("INSERT INTO push_notify (bug_id, delta_ts) VALUES {rows}");
            let args: Vec<Value> = bugs.iter().map(|bug| Value::Int(i64::try_from(*bug).unwrap_or(i64::MAX))).collect();
            tx.execute(&sql, &args).await?;
        }
        tx.commit().await?;
        Ok(Instant::now())
    }
}

/// The API on the admin port.
#[derive(Clone)]
pub(super) struct Api {
    admin: SocketAddr,
    token: String,
}

impl Api {
    /// Makes so many endpoints for this URL, one bug each, from `first` on. Returns the last one's identifier.
    pub(super) fn endpoints(&self, url: &str, first: u64, count: u64) -> Result<String> {
        let mut connection = Connection::open(self)?;
        let mut id = String::new();
        for bug in first..first + count {
            id = connection.make(self, url, &format!("[{bug}]"), "current")?;
        }
        Ok(id)
    }

    /// Makes one endpoint.
    pub(super) fn endpoint(&self, url: &str, bugs: &[u64], policy: &str) -> Result<String> {
        let bugs: Vec<String> = bugs.iter().map(u64::to_string).collect();
        Connection::open(self)?.make(self, url, &format!("[{}]", bugs.join(",")), policy)
    }

    /// POSTs an order of an endpoint, such as `pause`.
    pub(super) fn order(&self, id: &str, order: &str) -> Result<()> {
        Connection::open(self)?.post(self, &format!("/api/endpoints/{id}/{order}"), "{}").map(|_| ())
    }
}

/// A kept connection to the admin port.
struct Connection(BufReader<TcpStream>);

impl Connection {
    fn open(api: &Api) -> Result<Connection> {
        let stream = TcpStream::connect(api.admin)?;
        stream.set_nodelay(true)?;
        Ok(Connection(BufReader::new(stream)))
    }

    fn make(&mut self, api: &Api, url: &str, bugs: &str, policy: &str) -> Result<String> {
        let body = format!(r#"{{"url":"{url}","bugs":{bugs},"policy":"{policy}"}}"#);
        let answer = self.post(api, "/api/endpoints", &body)?;
        let answer: serde_json::Value = serde_json::from_str(&answer)?;
        answer["id"].as_str().map(str::to_owned).with_context(|| format!("no id in {answer}"))
    }

    fn post(&mut self, api: &Api, path: &str, body: &str) -> Result<String> {
        let Api { admin, token } = api;
        let length = body.len();
        write!(
            self.0.get_mut(),
            "POST {path} HTTP/1.1\r\nHost: {admin}\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        )?;
        let (mut line, mut status, mut length) = (String::new(), String::new(), 0);
        loop {
            line.clear();
            if self.0.read_line(&mut line)? == 0 {
                bail!("the admin port hung up");
            }
            if status.is_empty() {
                status.clone_from(&line);
            }
            match line.trim().split_once(':') {
                Some((name, value)) if name.eq_ignore_ascii_case("content-length") => length = value.trim().parse()?,
                None if line.trim().is_empty() => break,
                _ => {}
            }
        }
        let mut answer = vec![0; length];
        self.0.read_exact(&mut answer)?;
        let answer = String::from_utf8(answer)?;
        match status.split(' ').nth(1) {
            Some(code) if code.starts_with('2') => Ok(answer),
            _ => bail!("{path}: {}: {answer}", status.trim()),
        }
    }
}
