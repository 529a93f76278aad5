//! The testbed itself: each server starts, answers, survives being killed with its data kept, and leaves nothing.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use bugfeed_testbed::{Proc, bin, eventually, free_port, signal, unique};

const SOON: Duration = Duration::from_secs(10);

/// The running processes that have this text in their command line or environment.
fn with_text(text: &str) -> Vec<u32> {
    let mentions = |pid: u32, file: &str| {
        fs::read(format!("/proc/{pid}/{file}")).is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains(text))
    };
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| *pid != std::process::id() && !signal::is_gone(*pid))
        .filter(|pid| mentions(*pid, "cmdline") || mentions(*pid, "environ"))
        .collect()
}

async fn nothing_left(dir: &Path) {
    let text = dir.file_name().unwrap().to_str().unwrap();
    let none = async || {
        let left = with_text(text);
        if left.is_empty() { Ok(()) } else { Err(left) }
    };
    eventually(SOON, "no process of a dropped server", none).await.unwrap();
    assert!(!dir.exists(), "{} is still there", dir.display());
}

#[tokio::test]
async fn a_process_is_watched_and_signalled() {
    let script = "trap 'echo ending; exit 3' TERM; echo ready $WORD; echo grumble >&2; while :; do sleep 0.01; done";
    let mut proc = Proc::spawn("sh", &["-c", script], &[("WORD", "steady")]).unwrap();
    assert_eq!(proc.wait_for_line("ready", SOON).await.unwrap(), "ready steady");
    proc.wait_for_line(|line: &str| line == "grumble", SOON).await.unwrap();
    proc.sigstop();
    let state = || fs::read_to_string(format!("/proc/{}/stat", proc.pid())).unwrap();
    eventually(SOON, "a frozen process", async || state().contains(") T ")).await.unwrap();
    proc.sigcont();
    let mark = proc.lines();
    proc.sigterm();
    assert_eq!(proc.wait(SOON).await.unwrap().code(), Some(3));
    proc.wait_for_line_after(mark, "ending", SOON).await.unwrap();
    let error = proc.wait_for_line("never", SOON).await.unwrap_err().to_string();
    assert!(error.contains("exit status: 3") && error.contains("grumble"), "{error}");
}

#[tokio::test]
async fn a_dropped_process_takes_its_children_along() {
    let mut proc = Proc::spawn("sh", &["-c", "setsid sleep 1000 & echo child $!; wait"], &[]).unwrap();
    let line = proc.wait_for_line("child", SOON).await.unwrap();
    let child: u32 = line.strip_prefix("child ").unwrap().parse().unwrap();
    assert!(!signal::is_gone(child));
    drop(proc);
    assert!(signal::is_gone(child));
}

#[tokio::test]
async fn waiting_gives_up_with_the_reason() {
    let limit = Duration::from_millis(30);
    let error = eventually(limit, "the moon", async || Err::<(), _>("it is day")).await.unwrap_err().to_string();
    assert!(error.contains("the moon") && error.contains("it is day"), "{error}");
    let hung = eventually(limit, "an answer", async || std::future::pending::<bool>().await).await;
    assert!(hung.unwrap_err().to_string().contains("hung"));
    let mut proc = Proc::spawn("sleep", &["1000"], &[]).unwrap();
    let error = proc.wait_for_line("anything", limit).await.unwrap_err().to_string();
    assert!(error.contains("waited 30ms"), "{error}");
    assert!(proc.wait(limit).await.is_err());
}

/// A test that waits in vain shows what came instead.
#[tokio::test]
async fn waiting_for_a_process_ends_with_its_last_lines() {
    let script = "for i in $(seq 150); do echo line $i; done; echo tired event=nap; sleep 1000";
    let mut proc = Proc::spawn("sh", &["-c", script], &[]).unwrap();
    let line = proc.wait_for_event("nap", SOON).await.unwrap();
    assert_eq!((line.as_str(), proc.events("nap"), proc.events("tired")), ("tired event=nap", 1, 0));
    let limit = Duration::from_millis(30);
    let admin = std::net::SocketAddr::from(([127, 0, 0, 1], free_port().unwrap()));
    let never = format!("{:?}", proc.wait_for_event("dinner", limit).await.unwrap_err());
    let unready = format!("{:?}", proc.wait_ready(admin, limit).await.unwrap_err());
    assert!(never.contains("a log line with event=dinner"), "{never}");
    assert!(unready.contains("nobody listens on 127.0.0.1"), "{unready}");
    for error in [never, unready] {
        assert!(
            error.contains("line 150\ntired event=nap\n--- end of output") && !error.contains("line 1\n"),
            "{error}"
        );
        assert!(error.contains("(51 lines before these)"), "{error}");
    }
    proc.kill9();
    let ended = format!("{:?}", proc.wait_ready(admin, SOON).await.unwrap_err());
    assert!(ended.contains("ended with signal: 9") && ended.contains("tired"), "{ended}");
}

#[tokio::test]
async fn a_process_is_ready_when_it_says_so() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let admin = listener.local_addr().unwrap();
    tokio::spawn(async move {
        for answer in ["503 Service Unavailable\r\n\r\nstarting", "200 OK\r\n\r\nready"] {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 1024]).await.unwrap();
            stream.write_all(format!("HTTP/1.1 {answer}\n").as_bytes()).await.unwrap();
        }
    });
    let mut proc = Proc::spawn("sleep", &["1000"], &[]).unwrap();
    assert_eq!(proc.wait_ready(admin, SOON).await.unwrap(), "ready\n");
}

#[test]
fn mistakes_are_told_plainly() {
    let error = format!("{:?}", Proc::spawn("no-such-program", &[], &[]).unwrap_err());
    assert!(error.contains("no-such-program is not installed"), "{error}");
    let error = format!("{:?}", bin("no-such-binary").unwrap_err());
    assert!(error.contains("cargo build"), "{error}");
}

#[test]
fn ports_are_never_given_twice() {
    let mut ports: Vec<u16> = (0..50).map(|_| free_port().unwrap()).collect();
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), 50);
}

/// With real servers.
mod real {
    use super::*;
    use bugfeed_testbed::{ChromeDriver, Database, Engine, MariaDb, Postgres, RabbitMq, shared};

    /// Each starts its own servers.
    mod chaos {
        use super::*;

        #[tokio::test]
        async fn rabbitmq() {
            let Some(mut node) = RabbitMq::start_or_skip().await else { return };
            let dir = node.dir().to_owned();
            assert!(node.url().starts_with("amqp://guest:guest@127.0.0.1:"));
            node.ctl(&["add_vhost", "kept"]).await.unwrap();
            let stream = r#"{new, _} = rabbit_amqqueue:declare(rabbit_misc:r(<<"/">>, queue, <<"history">>), true, false,
                [{<<"x-queue-type">>, longstr, <<"stream">>}], none, <<"guest">>)."#;
            node.ctl(&["eval", stream]).await.unwrap();
            let first = node.pid().unwrap();
            node.kill9().await;
            assert!(signal::is_gone(first) && node.pid().is_none());
            node.start_again().await.unwrap();
            assert!(node.start_again().await.is_err(), "started twice");
            assert!(node.ctl(&["list_vhosts"]).await.unwrap().contains("kept"));
            assert!(node.ctl(&["no_such_command"]).await.is_err());
            let stream_runs = async || {
                let queues = node.ctl(&["list_queues", "name", "type", "state"]).await?;
                anyhow::ensure!(queues.contains("history\tstream\trunning"), "{queues}");
                Ok(())
            };
            eventually(SOON, "the stream", stream_runs).await.unwrap();
            node.stop().await.unwrap();
            node.start_again().await.unwrap();
            assert!(node.ctl(&["list_vhosts"]).await.unwrap().contains("kept"));
            drop(node);
            nothing_left(&dir).await;
        }

        /// Its data survives both ends; nothing of it is left when it is dropped.
        async fn is_killed_stopped_and_started_again<E: Engine>(mut server: Database<E>, rows: &str) {
            let dir = server.dir().to_owned();
            let name = server.create_database().await.unwrap();
            server
                .sql(&name, "CREATE TABLE t (a INT, b TEXT); INSERT INTO t VALUES (1, 'x'), (2, NULL)")
                .await
                .unwrap();
            let first = server.pid().unwrap();
            server.kill9().await;
            assert!(signal::is_gone(first) && server.sql(&name, "SELECT 1").await.is_err());
            server.start_again().await.unwrap();
            assert!(server.start_again().await.unwrap_err().to_string().contains("stop it first"));
            assert_eq!(server.sql(&name, "SELECT * FROM t ORDER BY a").await.unwrap(), rows);
            assert!(server.sql(&name, "SELECT nonsense").await.unwrap_err().to_string().contains("nonsense"));
            server.stop().await.unwrap();
            server.start_again().await.unwrap();
            assert_eq!(server.sql(&name, "SELECT count(*) FROM t").await.unwrap(), "2");
            drop(server);
            nothing_left(&dir).await;
        }

        #[tokio::test]
        async fn mariadb() {
            let Some(server) = MariaDb::start_or_skip().await else { return };
            is_killed_stopped_and_started_again(server, "1\tx\n2\tNULL").await;
        }

        #[tokio::test]
        async fn postgres() {
            let Some(server) = Postgres::start_or_skip().await else { return };
            is_killed_stopped_and_started_again(server, "1|x\n2|").await;
        }

        #[tokio::test]
        async fn chromedriver() {
            let Some(driver) = ChromeDriver::start_or_skip().await else { return };
            let dir = driver.dir().to_owned();
            let place = driver.url().strip_prefix("http://").unwrap();
            let body =
                r#"{"capabilities":{"alwaysMatch":{"goog:chromeOptions":{"args":["--headless","--no-sandbox"]}}}}"#;
            let head = format!("POST /session HTTP/1.1\r\nHost: {place}\r\nContent-Length: {}\r\n\r\n", body.len());
            let mut socket = tokio::net::TcpStream::connect(place).await.unwrap();
            socket.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
            let mut answer = [0; 12];
            socket.read_exact(&mut answer).await.unwrap();
            assert_eq!(String::from_utf8_lossy(&answer), "HTTP/1.1 200");
            assert!(with_text(dir.to_str().unwrap()).len() > 2, "the driver and a browser's processes");
            drop(driver);
            nothing_left(&dir).await;
        }

        /// A test that is killed leaves nothing running.
        #[tokio::test]
        async fn killed_owner() {
            if !MariaDb::installed() || !Postgres::installed() || !RabbitMq::installed() {
                bugfeed_testbed::skipped("a server is not installed; run tests/run");
                return;
            }
            let dir = tempfile::Builder::new().prefix("bugfeed-owner-").tempdir().unwrap();
            std::os::unix::fs::chown(dir.path(), None, None).unwrap();
            let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            fs::set_permissions(dir.path(), open).unwrap();
            let text = dir.path().file_name().unwrap().to_str().unwrap();
            let mut owner = std::process::Command::new(bin("testbed").unwrap())
                .arg("up")
                .env("TMPDIR", dir.path())
                .env_remove(shared::AMQP)
                .env_remove(shared::MYSQL)
                .env_remove(shared::POSTGRES)
                .stdout(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            let lines = std::io::BufRead::lines(std::io::BufReader::new(owner.stdout.take().unwrap()));
            assert_eq!(lines.take(3).filter(|line| line.as_ref().unwrap().starts_with("export")).count(), 3);
            assert!(with_text(text).len() >= 4, "the owner, RabbitMQ, MariaDB, PostgreSQL");
            owner.kill().unwrap();
            owner.wait().unwrap();
            eventually(SOON, "no process of a killed test", async || with_text(text).is_empty()).await.unwrap();
        }
    }

    #[tokio::test]
    async fn shared_databases() {
        let (Some(mariadb), Some(postgres)) = (shared::mariadb().await, shared::postgres().await) else { return };
        for server in [mariadb, postgres] {
            let name = server.create_database().await.unwrap();
            assert!(server.url(&name).ends_with(&name));
            assert_eq!(server.sql(&name, "SELECT 1").await.unwrap(), "1");
            server.drop_database(&name).await.unwrap();
            assert!(server.sql(&name, "SELECT 1").await.is_err());
        }
    }

    #[tokio::test]
    async fn shared_broker() {
        let Some(broker) = shared::rabbitmq().await else { return };
        assert!(broker.url.starts_with("amqp://"), "{}", unique("x"));
    }
}
