//! Starts a process that cannot outlive the test. In: a program, its arguments and environment. Out: a running [`Proc`]
//! in its own process group. It never leaves a child behind, however the test ends.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{OnceLock, mpsc};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::Proc;
use crate::find::{User, tool};

/// A process about to be started.
#[derive(Debug)]
pub struct Run {
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    unset: Vec<OsString>,
    clear_env: bool,
    dir: Option<PathBuf>,
    user: Option<User>,
}

impl Run {
    /// A process that will run this program: a path, or a name to be found in the PATH.
    #[must_use]
    pub fn new(program: impl AsRef<Path>) -> Self {
        Self {
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            env: Vec::new(),
            unset: Vec::new(),
            clear_env: false,
            dir: None,
            user: None,
        }
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds several arguments.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets one environment variable.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Sets several environment variables.
    #[must_use]
    pub fn envs(mut self, vars: impl IntoIterator<Item = (impl AsRef<OsStr>, impl AsRef<OsStr>)>) -> Self {
        self.env.extend(vars.into_iter().map(|(name, value)| (name.as_ref().to_owned(), value.as_ref().to_owned())));
        self
    }

    /// Does not pass on this inherited variable.
    #[must_use]
    pub fn env_remove(mut self, name: impl AsRef<OsStr>) -> Self {
        self.unset.push(name.as_ref().to_owned());
        self
    }

    /// Inherits no environment: passes only what [`Run::env`] sets.
    #[must_use]
    pub fn env_clear(mut self) -> Self {
        self.clear_env = true;
        self
    }

    /// Runs in this folder.
    #[must_use]
    pub fn dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.dir = Some(dir.as_ref().to_owned());
        self
    }

    /// Runs as another user, which only root can.
    pub(crate) fn user(mut self, user: Option<User>) -> Self {
        self.user = user;
        self
    }

    /// Starts it, with its output captured and its standard input empty.
    ///
    /// # Errors
    /// When there is no such program, or it cannot be started.
    pub fn spawn(self) -> Result<Proc> {
        let name = self.program.display().to_string();
        let command = self.command()?;
        let child = spawn(command).with_context(|| format!("cannot start {name}"))?;
        Ok(Proc::new(name, child))
    }

    /// Runs it to its end, which must be a success, and returns what it printed.
    ///
    /// # Errors
    /// When it cannot be started, time is up, or it ends with an error; the message shows the end of the output.
    pub async fn succeeds(self, limit: Duration) -> Result<String> {
        let mut proc = self.spawn()?;
        proc.succeeds(limit).await?;
        Ok(proc.output())
    }

    fn command(self) -> Result<Command> {
        let program = if self.program.components().count() == 1 {
            tool(&self.program.to_string_lossy())?
        } else {
            self.program.canonicalize().with_context(|| format!("no program {}", self.program.display()))?
        };
        // The kernel kills it when this process dies, even by SIGKILL. Only `unsafe` code or this tool can set that up.
        let mut command = Command::new(tool("setpriv")?);
        command.args(["--pdeathsig", "KILL"]);
        if let Some(user) = &self.user {
            command.arg(format!("--reuid={}", user.uid)).arg(format!("--regid={}", user.gid)).arg("--clear-groups");
        }
        command.arg("--").arg(program).args(self.args);
        if self.clear_env {
            command.env_clear();
        }
        for name in self.unset {
            command.env_remove(name);
        }
        command.envs(self.env);
        if let Some(dir) = self.dir {
            command.current_dir(dir);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        Ok(command)
    }
}

type Job = (Command, mpsc::Sender<io::Result<Child>>);

/// Starts a child from a thread that lives as long as this process. The kernel sends the "parent died" signal when
/// the *thread* that started the child ends, and threads of tests and of tokio end early.
fn spawn(command: Command) -> io::Result<Child> {
    static SPAWNER: OnceLock<mpsc::Sender<Job>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (jobs, inbox) = mpsc::channel::<Job>();
        std::thread::spawn(move || {
            for (mut command, reply) in inbox {
                let _caller_gone = reply.send(command.spawn());
            }
        });
        jobs
    });
    let (reply, answer) = mpsc::channel();
    let gone = |_| io::Error::other("the thread that starts processes is gone");
    spawner.send((command, reply)).map_err(|_| io::Error::other("the thread that starts processes is gone"))?;
    answer.recv().map_err(gone)?
}
