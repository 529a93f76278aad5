//! No token, another server, nobody.

use axum::Router;
use axum::http::StatusCode;
use axum::response::IntoResponse as _;
use bugfeed::cli::Cli;
use tokio::net::TcpListener;

use crate::support::{Rig, run};

#[tokio::test]
async fn there_is_no_good_token() {
    let rig = Rig::start().await;
    let url = format!("http://{}", rig.address);
    let missing = rig.dir.path().join("none").display().to_string();
    let with = async |file: &str| run(&["keys", "list", "--admin-url", &url, "--admin-token-file", file]).await;
    with(&missing).await.error(&["no token", &missing, "first time", "bugfeed hooks token"]);
    let odd = rig.dir.path().join("odd");
    std::fs::write(&odd, "secret-word\n").unwrap();
    let said = with(odd.to_str().unwrap()).await;
    assert!(!format!("{said:?}").contains("secret-word"));
    said.error(&["holds no token", "bt_ID_SECRET"]);
    std::fs::write(&odd, "bt_abcdef_ghijkmnpqrstuvwxyz23456789abcdef\n").unwrap();
    with(odd.to_str().unwrap()).await.error(&["refuses the token", "not known", "--admin-token-file"]);
}

#[tokio::test]
async fn somebody_else_or_nobody_is_there() {
    let rig = Rig::start().await;
    let file = rig.token_file().display().to_string();
    let answers = |status: StatusCode, text: &'static str| async move {
        let router =
            Router::new().fallback(move || async move { (status, [("bugfeed-version", "1")], text).into_response() });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        format!("http://{address}")
    };
    let admin = answers(StatusCode::NOT_FOUND, "This is the admin port: /livez, /readyz, /metrics\n").await;
    let clients = answers(StatusCode::NOT_FOUND, "{\"error\":\"no such feed\"}").await;
    for url in [admin, clients] {
        let said = run(&["events", "list", "--admin-url", &url, "--admin-token-file", &file]).await;
        said.error(&[&url, "another port of bugfeed", "admin port"]);
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let said = run(&["events", "list", "--admin-url", &url, "--admin-token-file", &file]).await;
    said.error(&["cannot connect", &url, "--admin-url"]);
}

#[test]
fn command_lines() {
    let read = |line: &str| {
        let args = std::iter::once("bugfeed").chain(line.split(' ')).map(Into::into);
        Cli::read(args).map(|_| ()).map_err(|error| error.to_string())
    };
    for line in [
        "keys create --name try --source plain --source ci --feed kde --expires 90d --owner me --json",
        "keys --json list --state active --limit 5",
        "keys change h4k7np --all-sources --expires never",
        "events list --state errored --source a --feed b --bug 1 --from 2h --to 1h",
        "events prune --source flood --from 2026-11-26T12:00:00 --yes",
        "bug 1234 --feed kde --admin-url http://127.0.0.1:8847",
        "sources disable --feed kde",
        "requests replay x --trust",
        "dead-letters --export failed/",
        "tokens create --name d --scope read --scope write",
        "hooks test issue.json --source tickets --config hooks.toml",
        "hooks token --store sqlite://data/hooks.db",
    ] {
        read(line).unwrap_or_else(|error| panic!("{line}: {error}"));
    }
    for (line, want) in [
        ("keys create", "--name"),
        ("keys change h4k7np", "--expires"),
        ("keys change h4k7np --source a --all-sources", "--all-sources"),
        ("keys list --state good", "active"),
        ("events prune", "--request"),
        ("events retry x --source a", "--source"),
        ("events release", "ID"),
        ("bug x", "x"),
        ("bug 1 --limit 101", "101"),
        ("sources disable", "NAME"),
        ("sources disable a --feed b", "--feed"),
        ("tokens create --name x", "--scope"),
        ("keys list --admin-url 8845", "http://"),
        ("hooks --store x token --store sqlite://x", "token"),
    ] {
        let error = read(line).expect_err(line);
        assert!(error.contains(want), "{line}: no '{want}' in: {error}");
    }
}
