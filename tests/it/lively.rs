//! A process that is stuck, out of descriptors, or does not end: what the admin port says, and that it ends all the same.

use std::net::SocketAddr;
use std::time::Duration;

use bugfeed_protocol::log_event::LogEvent;
use bugfeed_testbed::{Proc, Run, eventually};
use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::commands::bugfeed;
use crate::support::{SOON, counted, free_address, get};

/// `bugfeed serve` in a folder of its own, with these variables.
async fn serve(variables: &[(&str, &str)]) -> (Proc, SocketAddr, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let admin = free_address();
    let run = Run::new(bugfeed()).dir(dir.path()).arg("serve");
    let run = run.args(["--listen", "127.0.0.1:0", "--admin-listen", &admin.to_string()]);
    let run = variables.iter().fold(run, |run, (name, value)| run.env(name, value));
    let mut proc = run.spawn().unwrap();
    proc.wait_ready(admin, SOON).await.unwrap();
    (proc, admin, dir)
}

#[tokio::test]
async fn a_wedged_part_turns_livez_red_and_green_again() {
    let wedge = ("BUGFEED_TEST_WEDGE", "relay of feed default=6000");
    let (mut proc, admin, _dir) = serve(&[wedge, ("BUGFEED_STUCK_AFTER_MS", "3000")]).await;
    let is = async |wanted: u16| get(admin, "/livez").await.0 == wanted;
    assert!(is(200).await);
    // A part that blocks its thread may take along others that were about to run there.
    let said = async |path: &str, want: &str| {
        let (status, text) = get(admin, path).await;
        if status == 503 && text.contains(want) { Ok(()) } else { Err(text) }
    };
    let is_stuck = async || said("/livez?format=json", "\"part\":\"relay of feed default\"").await;
    eventually(SOON, "a part that is stuck", is_stuck).await.unwrap();
    said("/livez", "relay of feed default: stuck: no sign of life for ").await.unwrap();
    assert!(counted(&get(admin, "/metrics").await.1, "bugfeed_watchdog_stuck ") > 0);
    proc.wait_for_event(LogEvent::PartStuck, SOON).await.unwrap();
    eventually(SOON, "a part that lives again", async || is(200).await).await.unwrap();
    proc.wait_for_event(LogEvent::PartLives, SOON).await.unwrap();
    let (_, page) = get(admin, "/metrics").await;
    assert!(counted(&page, "bugfeed_watchdog_alarms_total ") > 0 && page.contains("\nbugfeed_watchdog_stuck 0\n"));
    proc.stop(SOON).await.unwrap();
}

/// It was stopped for longer than a part may be silent: no part could give a sign of life meanwhile.
#[tokio::test]
async fn a_process_that_was_stopped_and_goes_on_is_alive() {
    let (mut proc, admin, _dir) = serve(&[("BUGFEED_STUCK_AFTER_MS", "3000")]).await;
    proc.sigstop();
    tokio::time::sleep(Duration::from_secs(5)).await;
    proc.sigcont();
    for _ in 0..20 {
        let (status, said) = get(admin, "/livez").await;
        assert_eq!(status, 200, "{said}");
    }
    proc.stop(SOON).await.unwrap();
    assert_eq!(proc.events(LogEvent::PartStuck), 0, "{}", proc.output());
}

/// Connections of clients have taken all descriptors that the process may have.
#[tokio::test]
async fn the_admin_port_answers_when_descriptors_have_run_out() {
    let dir = tempfile::tempdir().unwrap();
    let [clients, admin] = [(); 2].map(|()| free_address().to_string());
    let program = bugfeed();
    let command = format!("ulimit -n 120; exec {} serve --listen {clients} --admin-listen {admin}", program.display());
    let mut proc = Run::new("sh").dir(dir.path()).args(["-c", &command]).spawn().unwrap();
    let admin: SocketAddr = admin.parse().unwrap();
    proc.wait_ready(admin, SOON).await.unwrap();
    let clients: SocketAddr = clients.parse().unwrap();
    let mut silent = Vec::new();
    for _ in 0..150 {
        silent.push(TcpStream::connect(clients).await.unwrap());
    }
    proc.wait_for_event(LogEvent::AcceptFailed, SOON).await.unwrap();
    for path in ["/livez", "/readyz", "/status", "/metrics"].repeat(20) {
        let (status, said) = tokio::time::timeout(SOON, get(admin, path)).await.unwrap();
        assert_eq!(status, 200, "{path}: {said}");
    }
    drop(silent);
    proc.stop(SOON).await.unwrap();
}

/// A part that never comes back holds the end up, and is not waited for.
#[tokio::test]
async fn a_process_that_does_not_end_is_ended() {
    let [clients, admin, broker] = [(); 3].map(|()| free_address().to_string());
    let broker = format!("amqp://{broker}/%2f");
    let ports = ["--listen", &clients, "--admin-listen", &admin, "--amqp", &broker];
    let mut run = Run::new(bugfeed()).arg("gateway").args(ports).args(["--stuck-after-ms", "3000"]);
    for (name, value) in [
        ("BUGFEED_TEST_WEDGE", "accept loop=600000"),
        ("BUGFEED_DRAIN_WINDOW_MS", "50"),
        ("BUGFEED_SHUTDOWN_TIMEOUT_MS", "500"),
    ] {
        run = run.env(name, value);
    }
    let mut proc = run.spawn().unwrap();
    proc.wait_for_event(LogEvent::PartStuck, SOON).await.unwrap();
    proc.sigterm();
    let ended = proc.wait(Duration::from_secs(10)).await.unwrap();
    assert_eq!(ended.code(), Some(124), "{}", proc.output());
    assert_eq!(proc.events(LogEvent::StopForced), 1, "{}", proc.output());
}
