//! A private RabbitMQ node. In: Debian's rabbitmq-server. Out: an AMQP URL, and functions to stop, kill and start the
//! node. It never touches the machine's own node: name, ports, cookie, data and even the port mapper are private.

use std::ffi::OsString;
use std::io::Read as _;
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::time::timeout;

use crate::find::{tool, versioned};
use crate::server::{Server, listens, server_access};
use crate::signal::Signal;
use crate::{Proc, Run, eventually, free_port, skip};

/// Makes a node's first stream, removes it, and writes all small tables to the disk. Why: RabbitMQ has one process
/// behind all streams, and for half a second keeps the record of it only in memory. A node that is killed in that time
/// has a stream that is "down" for ever. Without this, that could happen in every test that declares a stream and soon
/// kills its node.
const FIRST_STREAM: &str = r#"
    {new, Queue} = rabbit_amqqueue:declare(rabbit_misc:r(<<"/">>, queue, <<"bugfeed.first">>), true, false,
        [{<<"x-queue-type">>, longstr, <<"stream">>}], none, <<"guest">>),
    {ok, _} = rabbit_amqqueue:delete(Queue, false, false, <<"guest">>),
    [ok = dets:sync(Table) || Table <- dets:all()],
    ok."#;

/// A private RabbitMQ node; killed and removed when dropped.
#[derive(Debug)]
pub struct RabbitMq {
    // Dropped in this order: the node, then the port mapper that it uses.
    server: Server,
    _epmd: Proc,
    port: u16,
    dist_port: u16,
    epmd_port: u16,
}

impl RabbitMq {
    /// Whether the Debian package is installed.
    #[must_use]
    pub fn installed() -> bool {
        scripts().is_ok()
    }

    /// Starts a node, or skips the test when the package is missing.
    ///
    /// # Panics
    /// When the node does not start, or nothing may be skipped.
    pub async fn start_or_skip() -> Option<Self> {
        skip::unless(Self::installed(), "rabbitmq-server", Self::start()).await
    }

    /// Starts a new, empty node.
    ///
    /// # Errors
    /// When it is not installed or does not start; the message has its output.
    pub async fn start() -> Result<Self> {
        let server = Server::new("RabbitMQ")?;
        let (port, dist_port, epmd_port) = (free_port()?, free_port()?, free_port()?);
        let config = "log.console = true\nlog.console.level = info\nlog.file = false\n\
             vm_memory_high_watermark.absolute = 1GB\ndisk_free_limit.absolute = 10MB\n";
        let files =
            [("rabbitmq.conf", config), ("advanced.config", "[].\n"), ("enabled_plugins", "[].\n"), ("env.conf", "")];
        for (name, text) in files {
            std::fs::write(server.path(name), text)?;
        }
        // A node needs a port mapper, and would start one that outlives it. So the test starts one first, which the
        // node finds.
        let epmd = Run::new("epmd")
            .args(["-port", &epmd_port.to_string(), "-address", "127.0.0.1"])
            .dir(server.dir())
            .spawn()?;
        eventually(Duration::from_secs(20), "epmd", async || listens(epmd_port).await).await?;
        let mut node = Self { server, _epmd: epmd, port, dist_port, epmd_port };
        node.start_again().await?;
        node.ctl(&["eval", FIRST_STREAM]).await.context("the node has no streams")?;
        Ok(node)
    }

    /// Starts it again after [`RabbitMq::kill9`] or [`RabbitMq::stop`], with the same data and the same ports.
    ///
    /// # Errors
    /// When it is running, or does not start; the message has its output.
    pub async fn start_again(&mut self) -> Result<()> {
        let run = Run::new(scripts()?.join("rabbitmq-server")).env_clear().envs(self.env());
        let port = self.port;
        self.server.start(run, async || tokio::task::spawn_blocking(move || greets(port)).await?).await
    }

    fn env(&self) -> Vec<(&'static str, OsString)> {
        let path = |name: &str| OsString::from(self.server.path(name));
        vec![
            ("PATH", OsString::from("/usr/sbin:/usr/bin:/sbin:/bin")),
            ("LANG", OsString::from("C.UTF-8")),
            ("HOME", path("")),
            ("ERL_EPMD_PORT", self.epmd_port.to_string().into()),
            ("ERL_EPMD_ADDRESS", OsString::from("127.0.0.1")),
            ("ERL_CRASH_DUMP_BYTES", OsString::from("0")),
            // These flags are for the node, and for the helper with which it would start its own port mapper.
            ("ERL_AFLAGS", OsString::from("-start_epmd false -kernel inet_dist_use_interface {127,0,0,1}")),
            // With this, the script replaces itself by the Erlang machine instead of watching it: one process, with the
            // known pid.
            ("RUNNING_UNDER_SYSTEMD", OsString::from("true")),
            ("RABBITMQ_NODENAME", self.node().into()),
            ("RABBITMQ_NODE_IP_ADDRESS", OsString::from("127.0.0.1")),
            ("RABBITMQ_NODE_PORT", self.port.to_string().into()),
            ("RABBITMQ_DIST_PORT", self.dist_port.to_string().into()),
            ("RABBITMQ_MNESIA_BASE", path("mnesia")),
            ("RABBITMQ_LOG_BASE", path("log")),
            ("RABBITMQ_LOGS", OsString::from("-")),
            ("RABBITMQ_PID_FILE", path("pid")),
            ("RABBITMQ_CONF_ENV_FILE", path("env.conf")),
            ("RABBITMQ_CONFIG_FILE", path("rabbitmq.conf")),
            ("RABBITMQ_ADVANCED_CONFIG_FILE", path("advanced.config")),
            ("RABBITMQ_ENABLED_PLUGINS_FILE", path("enabled_plugins")),
            ("RABBITMQ_GENERATED_CONFIG_DIR", path("generated")),
            // Small tables, two schedulers, and no busy waiting: tests share a small machine.
            (
                "RABBITMQ_SERVER_ERL_ARGS",
                OsString::from(
                    "+P 65536 +t 1048576 +stbt u +zdbbl 8192 +sbwt none +sbwtdcpu none +sbwtdio none +S 2:2",
                ),
            ),
            ("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", OsString::from("-noinput")),
        ]
    }

    fn node(&self) -> String {
        format!("bugfeed{}@localhost", self.port)
    }

    /// Where AMQP clients connect.
    #[must_use]
    pub fn url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.port)
    }

    /// The port in the URL.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    server_access!();

    /// Runs rabbitmqctl against this node and returns its output.
    ///
    /// # Errors
    /// When the command fails, or takes more than a minute.
    pub async fn ctl(&self, args: &[&str]) -> Result<String> {
        let mut command = tokio::process::Command::new(scripts()?.join("rabbitmqctl"));
        command.args(["--quiet", "--node", &self.node()]).args(args);
        command.env_clear().envs(self.env()).current_dir(self.server.dir()).kill_on_drop(true);
        command.stdin(std::process::Stdio::null());
        let limit = Duration::from_secs(60);
        let output =
            timeout(limit, command.output()).await.with_context(|| format!("rabbitmqctl {args:?} hangs"))??;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            bail!("rabbitmqctl {args:?} failed: {text}{}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(text)
    }

    /// Stops the node as an administrator would.
    ///
    /// # Errors
    /// When it does not end; it is killed then.
    pub async fn stop(&mut self) -> Result<()> {
        self.server.stop(Signal::TERM).await
    }
}

/// The folder of RabbitMQ's own scripts. The ones in the PATH are wrappers that switch to a system user.
fn scripts() -> Result<PathBuf> {
    tool("epmd").context("install the Debian package rabbitmq-server")?;
    let found = versioned(Path::new("/usr/lib/rabbitmq/lib"), "rabbitmq_server-", "sbin").pop();
    found.context("RabbitMQ is not installed: install the Debian package rabbitmq-server")
}

/// Checks that an AMQP server answers on the port: it answers the protocol header with a method frame (type 1).
fn greets(port: u16) -> Result<()> {
    let limit = Duration::from_secs(5);
    let mut socket = TcpStream::connect_timeout(&SocketAddr::from(([127, 0, 0, 1], port)), limit)?;
    socket.set_read_timeout(Some(limit))?;
    socket.write_all(b"AMQP\x00\x00\x09\x01")?;
    let mut kind = [0];
    socket.read_exact(&mut kind)?;
    if kind != [1] {
        bail!("port {port} does not speak AMQP 0-9-1");
    }
    Ok(())
}
