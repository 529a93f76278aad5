//! Variables, signals, and what the programs say about mistakes of a newcomer.

use std::net::SocketAddr;
use std::path::Path;

use bugfeed_protocol::log_event::LogEvent;
use bugfeed_testbed::signal::Signal;
use bugfeed_testbed::{Run, bin, eventually};
use tokio::net::TcpListener;

use crate::commands::{bugfeed, start};
use crate::support::{Client, SOON, connected, free_address, get, goes_on_trying};

fn shim() -> Run {
    Run::new(bin("bugfeed-shim").unwrap())
}

async fn ended(run: Run) -> (i32, String) {
    let mut proc = run.spawn().unwrap();
    let status = proc.wait(SOON).await.unwrap();
    (status.code().unwrap_or(-1), proc.output())
}

/// A change table in a file.
async fn table(dir: &Path, name: &str) -> String {
    let url = format!("sqlite://{}", dir.join(name).display());
    let (code, output) = ended(shim().args(["init", "--source", &url])).await;
    assert_eq!(code, 0, "{output}");
    url
}

fn rows(dir: &Path, name: &str) -> usize {
    let bytes = std::fs::read(dir.join(name)).unwrap_or_default();
    bytes.windows(19).filter(|bytes| *bytes == b"2014-04-03 21:13:45").count()
}

#[tokio::test]
async fn a_variable_that_nobody_reads_is_named_with_the_one_that_was_meant() {
    let dir = tempfile::tempdir().unwrap();
    let url = table(dir.path(), "table.db").await;
    let misspelt =
        ("BUGFEED_LISTN", "the environment variable BUGFEED_LISTN is not known", "did you mean BUGFEED_LISTEN?");
    let of_shim = ("BUGFEED_SHIM_SORCE", "BUGFEED_SHIM_SORCE is not known", "did you mean BUGFEED_SHIM_SOURCE?");
    let touch = || Run::new(bugfeed()).args(["touch", "1", "--source", &url]);
    let status = || shim().args(["status", "--ledger", "sqlite://none.db"]).dir(dir.path());
    for (run, (name, want, meant)) in [(touch(), misspelt), (touch(), of_shim), (status(), of_shim)] {
        let (_, output) = ended(run.env(name, "x")).await;
        assert!(output.contains(want) && output.contains(meant), "{output}");
    }
    let known = [("BUGFEED_SHIM_AMQP", "amqp://h"), ("BUGFEED_SERVICE_HOST", "h"), ("BUGFEED_BUG", "1")];
    let (_, output) = ended(touch().envs(known)).await;
    assert!(!output.contains("not known"), "{output}");
    // Programs that keep running log it.
    let dir = tempfile::tempdir().unwrap();
    let mut serve = Run::new(bugfeed())
        .dir(dir.path())
        .envs([("BUGFEED_LISTEN", "127.0.0.1:0"), ("BUGFEED_ADMIN_LISTEN", "127.0.0.1:0"), ("BUGFEED_DEMOO", "0")])
        .spawn()
        .unwrap();
    let line = serve.wait_for_line("BUGFEED_DEMOO", SOON).await.unwrap();
    assert!(line.contains("WARN") && line.contains("did you mean BUGFEED_DEMO?"), "{line}");
    let mut shim =
        shim().args(["run", "--source", &url]).dir(dir.path()).env("BUGFEED_SHIM_BACH", "1").spawn().unwrap();
    shim.wait_for_line("did you mean BUGFEED_SHIM_BATCH?", SOON).await.unwrap();
}

#[tokio::test]
async fn an_error_names_the_variable_that_the_value_came_from() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let listener = TcpListener::bind(taken).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let taken = listener.local_addr().unwrap().to_string();
    for (run, name, value) in [
        (Run::new(bugfeed()), "BUGFEED_LISTEN", "nowhere"),
        (Run::new(bugfeed()), "BUGFEED_LISTEN", &taken),
        (Run::new(bugfeed()), "BUGFEED_IDLE_TIMEOUT_MS", "10"),
        (Run::new(bugfeed()).arg("gateway"), "BUGFEED_AMQP", "rabbit"),
        (Run::new(bugfeed()).arg("gateway"), "BUGFEED_HISTORY", "maybe"),
        (Run::new(bugfeed()).args(["watch", "1"]), "BUGFEED_URL", "ftp://x"),
        (shim(), "BUGFEED_SHIM_SOURCE", "x.db"),
        (shim().args(["run", "--source", "sqlite://x"]), "BUGFEED_SHIM_HISTORY", "maybe"),
    ] {
        let (code, output) = ended(run.dir(dir.path()).env(name, value)).await;
        let want = format!("was given by the environment variable {name}");
        assert!(code > 0 && output.contains(&want) && output.contains(value), "{name}={value}: {code} {output}");
    }
    let (_, output) =
        ended(Run::new(bugfeed()).args(["--listen", "nowhere"]).env("BUGFEED_LISTEN", "127.0.0.1:1")).await;
    assert!(!output.contains("environment variable"), "it was not: {output}");
}

/// Every variable takes the same words for yes and no.
#[tokio::test]
async fn yes_and_no_have_one_meaning() {
    let about = async |value: &str| {
        let dir = tempfile::tempdir().unwrap();
        let [clients, admin] = [(); 2].map(|()| free_address());
        let mut serve = Run::new(bugfeed())
            .dir(dir.path())
            .env("BUGFEED_LISTEN", clients.to_string())
            .env("BUGFEED_ADMIN_LISTEN", admin.to_string())
            .env("BUGFEED_DEMO", value)
            .spawn()
            .unwrap();
        serve.wait_ready(admin, SOON).await.unwrap();
        get(clients, "/page.json").await.1.contains("\"demo\":true")
    };
    let (yes, no) = (["yes", "on", "1", "true", "TRUE"], ["no", "off", "0", "false"]);
    for value in yes {
        assert!(about(value).await, "{value}");
    }
    for value in no {
        assert!(!about(value).await, "{value}");
    }
    let dir = tempfile::tempdir().unwrap();
    for value in yes.iter().chain(&no) {
        // Each command line has another mistake. The error must name that mistake, and not the variable.
        for (run, name) in [
            (Run::new(bugfeed()).args(["gateway", "--feed", "x"]), "BUGFEED_HISTORY"),
            (Run::new(bugfeed()).args(["watch", "x"]), "BUGFEED_JSON"),
            (Run::new(bugfeed()).args(["watch", "x"]), "BUGFEED_QUIET"),
            (Run::new(bugfeed()).args(["watch", "x"]), "BUGFEED_CLASSIC"),
            (shim().args(["run", "--source", "x"]), "BUGFEED_SHIM_HISTORY"),
            (shim().args(["run", "--source", "x"]), "BUGFEED_SHIM_ONCE"),
        ] {
            let (code, output) = ended(run.dir(dir.path()).env(name, value)).await;
            assert!(code == 2 && output.contains("'x'") && !output.contains(name), "{name}={value}: {output}");
        }
    }
}

#[tokio::test]
async fn touch_says_where_it_wrote_and_means_the_shims_table() {
    let dir = tempfile::tempdir().unwrap();
    let shims = table(dir.path(), "shim.db").await;
    std::fs::create_dir(dir.path().join("data")).unwrap();
    table(dir.path(), "data/bugfeed.db").await;
    let touch = || Run::new(bugfeed()).dir(dir.path()).args(["touch", "7", "--when", "2014-04-03T21:13:45"]);
    let (code, output) = ended(touch().env("BUGFEED_SHIM_SOURCE", &shims)).await;
    let want = format!("bug 7 touched in table push_notify of {shims} (BUGFEED_SHIM_SOURCE)");
    assert!(code == 0 && output.contains(&want), "{output}");
    assert_eq!((rows(dir.path(), "shim.db"), rows(dir.path(), "data/bugfeed.db")), (1, 0));
    // An option of touch, or touch's own variable, takes precedence over the shim's variable.
    let own = format!("sqlite://{}/data/bugfeed.db", dir.path().display());
    for run in [touch().args(["--source", &own]), touch().env("BUGFEED_SOURCE", &own)] {
        let (code, output) = ended(run.env("BUGFEED_SHIM_SOURCE", &shims)).await;
        assert!(code == 0 && output.contains(&format!("of {own}\n")), "{output}");
    }
    let (code, output) = ended(touch()).await;
    assert!(code == 0 && output.contains("of sqlite://data/bugfeed.db\n"), "{output}");
    assert_eq!((rows(dir.path(), "shim.db"), rows(dir.path(), "data/bugfeed.db")), (1, 3));
    // The shim's variables also give the names of the table and its columns.
    let (code, output) = ended(touch().env("BUGFEED_SHIM_SOURCE", &shims).env("BUGFEED_SHIM_TABLE", "other")).await;
    assert!(code == 1 && output.contains("other"), "{output}");
    let (code, output) = ended(touch().env("BUGFEED_SHIM_SOURCE", "nonsense")).await;
    assert!(code == 1 && output.contains("nonsense") && output.contains("--source"), "{output}");
}

#[tokio::test]
async fn bugs_may_have_commas_between_them_and_hosts_names() {
    let dir = tempfile::tempdir().unwrap();
    let [clients, admin] = [(); 2].map(|()| free_address());
    let named = |address: SocketAddr| format!("localhost:{}", address.port());
    let listen = ["--listen", &named(clients), "--admin-listen", &named(admin)];
    let mut serve = Run::new(bugfeed()).dir(dir.path()).args(listen).spawn().unwrap();
    serve.wait_ready(admin, SOON).await.unwrap();
    let url = format!("ws://{clients}/");
    let mut watch = Run::new(bugfeed())
        .args(["watch", "1234,5678,", "9", "--count", "3", "--json", "--url", &url])
        .spawn()
        .unwrap();
    connected(&mut watch).await;
    let (code, output) = ended(Run::new(bugfeed()).dir(dir.path()).args(["touch", "1234,", "5678,9"])).await;
    assert_eq!(code, 0, "{output}");
    watch.succeeds(SOON).await.unwrap();
    for bug in [1234, 5678, 9] {
        assert!(watch.output().contains(&format!("{{\"bug\":{bug},")), "{}", watch.output());
    }
    for wrong in ["", ",", "1,x", "0"] {
        assert_eq!(ended(Run::new(bugfeed()).args(["watch", wrong])).await.0, 2, "'{wrong}'");
    }
}

#[tokio::test]
async fn a_closed_terminal_ends_no_server() {
    let dir = tempfile::tempdir().unwrap();
    let (mut serve, port) = start(dir.path()).await;
    serve.signal(Signal::HUP);
    serve.wait_for_event(LogEvent::HangupIgnored, SOON).await.unwrap();
    Client::connect(&format!("ws://127.0.0.1:{port}/")).await.subscribe(&[1]).await;
    let url = table(dir.path(), "shim.db").await;
    let mut shim =
        shim().args(["run", "--source", &url, "--amqp", "amqp://127.0.0.1:1"]).dir(dir.path()).spawn().unwrap();
    shim.wait_for_event(LogEvent::ShimStarted, SOON).await.unwrap();
    shim.signal(Signal::HUP);
    shim.wait_for_event(LogEvent::HangupIgnored, SOON).await.unwrap();
    for proc in [&mut serve, &mut shim] {
        proc.stop(SOON).await.unwrap();
    }
}

/// A load balancer sends clients until it notices that a gateway stops. Until then they are accepted.
#[tokio::test]
async fn clients_are_accepted_for_a_while_after_sigterm() {
    let dir = tempfile::tempdir().unwrap();
    let [clients, admin] = [(); 2].map(|()| free_address());
    let start = |delay_ms: &str| {
        Run::new(bugfeed())
            .dir(dir.path())
            .args(["--listen", &clients.to_string(), "--admin-listen", &admin.to_string()])
            .args(["--drain-delay-ms", delay_ms, "--drain-window-ms", "50"])
            .spawn()
            .unwrap()
    };
    let mut serve = start("3600000");
    serve.wait_ready(admin, SOON).await.unwrap();
    serve.sigterm();
    eventually(SOON, "not ready", async || get(admin, "/readyz").await.0 == 503).await.unwrap();
    let mut client = Client::connect(&format!("ws://{clients}/")).await;
    client.subscribe(&[1]).await;
    assert!(get(admin, "/readyz").await.1.contains("shutting down"));
    // A second signal ends the process at once.
    serve.sigterm();
    assert_eq!(serve.wait(SOON).await.unwrap().code(), Some(130));
    let mut serve = start("300");
    serve.wait_ready(admin, SOON).await.unwrap();
    serve.stop(SOON).await.unwrap();
}

#[tokio::test]
async fn watch_says_what_is_wrong_with_the_way_to_the_gateway() {
    let dir = tempfile::tempdir().unwrap();
    let (_serve, port) = start(dir.path()).await;
    // This server speaks TLS. It answers that it did not understand, as openssl does.
    let tls = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let tls_port = tls.local_addr().unwrap().port();
    tokio::spawn(async move {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        loop {
            let (mut stream, _) = tls.accept().await.unwrap();
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(&[21, 3, 1, 0, 2, 2, 70]).await;
        }
    });
    let plain = format!("wss://127.0.0.1:{port}/");
    let (secure, nobody) = (format!("ws://127.0.0.1:{tls_port}/"), "ws://127.0.0.1:1/".to_owned());
    for (url, want) in [(&plain, "write ws://"), (&secure, "write wss://"), (&nobody, "refused")] {
        let mut watch = Run::new(bugfeed()).args(["watch", "1", "--url", url]).spawn().unwrap();
        let line = goes_on_trying(&mut watch).await;
        assert!(line.contains(want) && !line.contains("InvalidContentType"), "{line}");
    }
    // A proxy variable that other programs use, and this one does not.
    let url = "ws://gateway.invalid/";
    let run = Run::new(bugfeed()).args(["watch", "1", "--url", url]).env("https_proxy", "http://u:secret@proxy:3128");
    let line = goes_on_trying(&mut run.spawn().unwrap()).await;
    assert!(line.contains("https_proxy is set; not used here") && !line.contains("secret"), "{line}");
}

/// The demo button is for trying it at home.
#[test]
fn nothing_is_deployed_with_the_demo_button() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy");
    let (mut folders, mut found) = (vec![root], 0);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            let starts = ["bin/bugfeed serve", "\"serve\"", "- serve", "[serve"];
            if path.extension().is_some_and(|end| end != "md") && starts.iter().any(|start| text.contains(start)) {
                found += 1;
                assert!(
                    text.contains("BUGFEED_DEMO=false") || text.contains("BUGFEED_DEMO: \"false\""),
                    "{}",
                    path.display()
                );
            }
        }
    }
    assert!(found >= 1, "{found}");
}
