//! Redmine, a tracker with a REST API. In: Debian's packages `redmine`, `redmine-sqlite` and `puma`. Out: a port on
//! which it answers, with a copy of the database that the packages made, and a key of its administrator. It never touches
//! the machine's own instance.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::find::tool;
use crate::server::{Server, listens};
use crate::{Run, free_port};

/// Where Debian puts the program.
const PROGRAM: &str = "/usr/share/redmine";
/// The database that the packages made. Nobody has changed it on a machine that has them for tests only.
const DATABASE: &str = "/var/lib/dbconfig-common/sqlite3/redmine/instances/default/redmine_default";
/// How long preparing may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);

/// What every test finds: a public project `pub`, and one that is not, `sec`.
const PREPARE: &str = r"
    admin = User.find_by_login('admin')
    User.current = admin
    Setting.rest_api_enabled = '1'
    Setting.notified_events = []
    status = IssueStatus.first || IssueStatus.create!(name: 'New')
    tracker = Tracker.first || Tracker.create!(name: 'Bug', default_status: status)
    priority = IssuePriority.first || IssuePriority.create!(name: 'Normal', is_default: true)
    Project.where(identifier: %w[pub sec]).destroy_all
    project = ->(name, open) { Project.create!(name: name, identifier: name, is_public: open, trackers: [tracker]) }
    open, closed = project.('pub', true), project.('sec', false)
    make = ->(project, secret) do
      issue = Issue.new(project: project, tracker: tracker, status: status, priority: priority, author: admin,
                        subject: 'one', is_private: secret)
      issue.save!
      issue.id
    end
    puts 'NUMBERS=' + [make.(open, false), make.(open, true), make.(closed, false)].join(',')
    puts 'KEY=' + admin.api_key
";

/// A private Redmine; killed when dropped.
#[derive(Debug)]
pub struct Redmine {
    _server: Server,
    port: u16,
    key: String,
    numbers: [u64; 3],
}

impl Redmine {
    /// Whether the Debian packages are installed.
    #[must_use]
    pub fn installed() -> bool {
        tool("puma").is_ok() && Path::new(PROGRAM).is_dir() && Path::new(DATABASE).is_file()
    }

    /// Starts it. This takes about 15 seconds.
    ///
    /// # Errors
    /// When it is not installed, or does not start; the message has its output.
    pub async fn start() -> Result<Self> {
        let (mut server, port) = (Server::new("redmine")?, free_port()?);
        std::fs::copy(DATABASE, server.path("redmine.db")).context("the database of the package cannot be read")?;
        let script = server.path("prepare.rb");
        std::fs::write(&script, PREPARE)?;
        let database = format!("sqlite3:{}", server.path("redmine.db"));
        let with_database = |run: Run| {
            run.env("RAILS_ENV", "production").env("DATABASE_URL", &database).env("RAILS_LOG_TO_STDOUT", "1")
        };
        let rails = Run::new(tool("ruby")?).arg(format!("{PROGRAM}/bin/rails")).arg("runner").arg(&script);
        let output = with_database(rails).dir(PROGRAM).succeeds(LIMIT).await?;
        let find = |name: &str| {
            let line = output.lines().find_map(|line| line.trim().strip_prefix(name));
            line.map(str::to_owned).with_context(|| format!("{name} is missing in: {output}"))
        };
        let numbers = find("NUMBERS=")?.split(',').map(str::parse).collect::<Result<Vec<u64>, _>>()?;
        let numbers = numbers.try_into().map_err(|numbers| anyhow::anyhow!("not three: {numbers:?}"))?;
        let key = find("KEY=")?;
        let bind = format!("tcp://127.0.0.1:{port}");
        let puma = Run::new(tool("puma")?).args(["--dir", PROGRAM, "--bind", &bind, "config.ru"]);
        server.start(with_database(puma), async || listens(port).await).await?;
        Ok(Self { _server: server, port, key, numbers })
    }

    /// Where it listens, on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The administrator's key for the REST API.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The numbers of three issues: one that everybody sees, a private one in the same project, one in a project that is
    /// not public.
    #[must_use]
    pub fn numbers(&self) -> [u64; 3] {
        self.numbers
    }
}
