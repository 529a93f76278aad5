//! `bugfeed watch` as scripts, bots and people use it.

use std::path::{Path, PathBuf};

use bugfeed_testbed::signal::Signal;
use bugfeed_testbed::{Proc, Run, eventually, skipped, tool};
use serde_json::{Value, json};

use crate::commands::{bugfeed, start};
use crate::support::{self, SOON, Serve, connected};

const T: &str = "2014-04-03T21:13:45";

/// A gateway in this process that knows a number: a change of bug 9 has passed, so that its cursors mean something.
async fn serve() -> Serve {
    let serve = Serve::start(&[]).await;
    let mut client = serve.client().await;
    client.subscribe(&[9]).await;
    serve.touch(9, T).await;
    client.update().await;
    serve
}

/// `bugfeed watch` of an in-process gateway.
fn watch(serve: &Serve, args: &[&str]) -> Proc {
    let url = format!("http://{}/", serve.clients);
    Run::new(bugfeed()).dir(serve.dir.path()).args(["watch", "--url", &url]).args(args).spawn().unwrap()
}

fn file(serve: &Serve, name: &str) -> PathBuf {
    serve.dir.path().join(name)
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// The changes and gaps among the lines of a process.
fn printed(proc: &Proc) -> Vec<Value> {
    proc.output().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// Its exit code, once it has ended.
async fn code(mut proc: Proc) -> (Option<i32>, String) {
    let status = proc.wait(SOON).await.unwrap();
    (status.code(), proc.output())
}

#[tokio::test]
async fn a_command_is_run_for_each_change_one_after_the_other() {
    let serve = serve().await;
    let log = file(&serve, "log");
    // The first takes longest, and fails.
    let exec = "test {bug} = 1 && sleep 0.3; echo {bug} {when} $BUGFEED_BUG $BUGFEED_WHEN >>log; test {bug} != 1";
    let mut proc = watch(&serve, &["1", "2", "--exec", exec, "--count", "2"]);
    connected(&mut proc).await;
    serve.touch(1, T).await;
    serve.touch(2, "2014-04-03T21:13:46.5").await;
    let (code, output) = code(proc).await;
    assert_eq!(code, Some(0), "{output}");
    assert_eq!(
        text(&log),
        "1 2014-04-03T21:13:45 1 2014-04-03T21:13:45\n2 2014-04-03T21:13:46.5 2 2014-04-03T21:13:46.5\n"
    );
    assert!(output.contains("the command for bug 1 failed: exit status: 1"), "{output}");
    assert!(!output.contains("bug 2 failed") && output.contains("bug 2 changed"), "{output}");
}

#[tokio::test]
async fn ctrl_c_ends_the_command_too_and_its_change_comes_again() {
    let serve = serve().await;
    let (pids, state) = (file(&serve, "pids"), file(&serve, "state"));
    // A shell, and a child of it.
    let exec = "sleep 1000 & echo $$ $! >pids; wait";
    let mut proc = watch(&serve, &["1", "--json", "--exec", exec, "--state", "state"]);
    connected(&mut proc).await;
    // The subscription's cursor is stored, so that the next run knows from where on.
    eventually(SOON, "a cursor", async || text(&state).contains("\"cursor\":\"")).await.unwrap();
    serve.touch(1, T).await;
    eventually(SOON, "it runs", async || text(&pids).ends_with('\n')).await.unwrap();
    proc.signal(Signal::INT);
    let (interrupted, output) = code(proc).await;
    assert_eq!(interrupted, Some(130), "{output}");
    for pid in text(&pids).split_whitespace() {
        let gone = async || !Path::new("/proc").join(pid).join("exe").exists();
        eventually(SOON, format!("process {pid} is gone"), gone).await.unwrap();
    }
    let mut proc = watch(&serve, &["1", "--json", "--exec", "true", "--state", "state", "--count", "1"]);
    proc.wait_for_line("\"bug\":1", SOON).await.unwrap();
    assert_eq!(code(proc).await.0, Some(0));
    // Now its command has ended.
    serve.touch(1, "2014-04-03T21:13:50").await;
    let mut proc = watch(&serve, &["1", "--json", "--state", "state", "--count", "1"]);
    assert!(proc.wait_for_line("\"bug\":1", SOON).await.unwrap().contains("21:13:50"));
}

#[tokio::test]
async fn a_stubborn_command_is_killed() {
    let serve = serve().await;
    let said = file(&serve, "said");
    let exec = "trap 'echo no >>said' TERM; echo $$ >>said; while :; do sleep 0.1; done";
    let mut proc = watch(&serve, &["1", "--exec", exec]);
    connected(&mut proc).await;
    serve.touch(1, T).await;
    eventually(SOON, "it runs", async || text(&said).ends_with('\n')).await.unwrap();
    proc.sigterm();
    eventually(SOON, "it is asked", async || text(&said).ends_with("no\n")).await.unwrap();
    // A second signal does not wait for the two seconds, and leaves nothing behind either.
    proc.signal(Signal::INT);
    assert_eq!(code(proc).await.0, Some(0), "ended by the first, SIGTERM");
    let exe = Path::new("/proc").join(text(&said).lines().next().unwrap()).join("exe");
    eventually(SOON, "the command is gone", async || !exe.exists()).await.unwrap();
}

#[tokio::test]
async fn a_bot_with_a_state_file_misses_nothing_and_is_told_nothing_twice() {
    let dir = tempfile::tempdir().unwrap();
    let (mut serve, port) = start(dir.path()).await;
    let url = format!("ws://127.0.0.1:{port}/");
    let watch = |bugs: &[&str]| {
        let args = ["watch", "--json", "--state", "bot.state", "--url", &url];
        Run::new(bugfeed()).dir(dir.path()).args(args).args(bugs).spawn().unwrap()
    };
    let touch = async |bugs: &[&str]| {
        support::touch(dir.path(), &[&["--when", T], bugs].concat()).await;
    };
    let mut first = watch(&["1", "2"]);
    connected(&mut first).await;
    touch(&["1"]).await;
    first.wait_for_line("\"bug\":1", SOON).await.unwrap();
    first.stop(SOON).await.unwrap();
    // Both are away, one of them killed.
    serve.kill9();
    touch(&["2", "1"]).await;
    let (clients, admin) = (format!("127.0.0.1:{port}"), "127.0.0.1:0");
    let args = ["serve", "--listen", &clients, "--admin-listen", admin];
    let _serve = Run::new(bugfeed()).dir(dir.path()).args(args).spawn().unwrap();
    let mut second = watch(&["1", "2"]);
    second.wait_for_line("\"bug\":1", SOON).await.unwrap();
    assert_eq!(printed(&second), [json!({ "bug": 2, "when": T }), json!({ "bug": 1, "when": T })]);
    let said = connected(&mut second).await;
    assert!(said.contains("what was missed comes first"), "{said}");
    second.stop(SOON).await.unwrap();
    // One more bug, of which the cursor says nothing; one less, which is forgotten.
    touch(&["3", "1"]).await;
    let mut third = watch(&["1", "3"]);
    third.wait_for_line("\"bug\":1", SOON).await.unwrap();
    let change = |bug: u64| json!({ "bug": bug, "when": T });
    assert_eq!(printed(&third), [json!({ "gap": true, "bugs": [3] }), change(3), change(1)]);
    third.stop(SOON).await.unwrap();
    let mut fourth = watch(&["1", "2", "3"]);
    connected(&mut fourth).await;
    assert_eq!(printed(&fourth), [json!({ "gap": true, "bugs": [2] })], "not watched meanwhile");
    fourth.stop(SOON).await.unwrap();
    let mut fifth = watch(&["1", "2", "3"]);
    connected(&mut fifth).await;
    assert_eq!(printed(&fifth), Vec::<Value>::new(), "told once");
}

#[tokio::test]
async fn a_gap_runs_the_command_for_each_bug_without_a_date() {
    let serve = serve().await;
    let (state, log) = (file(&serve, "state"), file(&serve, "log"));
    let before = json!({ "url": "ws://elsewhere/", "bugs": [1, 2], "cursor": "another.5" });
    std::fs::write(&state, before.to_string()).unwrap();
    let exec = "echo {bug} [{when}] ${BUGFEED_WHEN-unset} >>log";
    let mut proc = watch(&serve, &["2", "1", "--exec", exec, "--state", "state"]);
    proc.wait_for_line("gap: changes may have been missed; look at all of these bugs: 1, 2", SOON).await.unwrap();
    eventually(SOON, "both", async || text(&log) == "1 [] unset\n2 [] unset\n").await.unwrap();
    assert!(proc.output().contains("written with ws://elsewhere/"), "{}", proc.output());
    // Dealt with: the file says so.
    let url = format!("ws://{}/", serve.clients);
    eventually(SOON, "stored", async || text(&state).starts_with(&format!("{{\"url\":\"{url}\""))).await.unwrap();
}

#[tokio::test]
async fn faults_of_the_state_file_are_told_before_anything_is_done() {
    let serve = serve().await;
    std::fs::write(file(&serve, "notes"), "my notes\n").unwrap();
    for (path, want) in [("no/such/state", "cannot write the state file"), ("notes", "notes is no state file")] {
        let (code, output) = code(watch(&serve, &["1", "--state", path])).await;
        assert_eq!(code, Some(1), "{output}");
        assert!(output.contains("error: ") && output.contains(want) && output.contains("--state"), "{output}");
        assert!(!output.contains("connected"), "{output}");
    }
    assert_eq!(text(&file(&serve, "notes")), "my notes\n");
}

#[tokio::test]
async fn exit_codes() {
    let serve = serve().await;
    for (signal, want) in [(Signal::INT, 130), (Signal::TERM, 0), (Signal::HUP, 0)] {
        let mut proc = watch(&serve, &["1"]);
        connected(&mut proc).await;
        proc.signal(signal);
        let (code, output) = code(proc).await;
        assert_eq!(code, Some(want), "{signal:?}: {output}");
    }
    let url = format!("http://{}/nonsense/", serve.clients);
    let (ended, output) = code(Proc::spawn(bugfeed(), &["watch", "1", "--url", &url], &[]).unwrap()).await;
    assert_eq!(ended, Some(1), "{output}");
    assert!(output.contains("error: ws://") && output.contains("is no feed: 404"), "{output}");
    let many: Vec<String> = (1..=10_001).map(|bug: u32| bug.to_string()).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let (ended, output) = code(watch(&serve, &many)).await;
    assert_eq!(ended, Some(1), "{output}");
    assert!(output.contains("too many subscriptions"), "{output}");
}

#[tokio::test]
async fn nobody_reads_any_more() {
    let serve = serve().await;
    serve.touch(1, T).await;
    let shell = format!(
        "{{ '{}' watch 1 --since 2014-01-01 --url ws://{}/; echo code $? >&2; }} | head -n 1",
        bugfeed().display(),
        serve.clients
    );
    let mut proc = Proc::spawn("sh", &["-c", &shell], &[]).unwrap();
    proc.wait_for_line("bug 1 changed", SOON).await.unwrap();
    eventually(SOON, "it ends with the next change", async || {
        serve.touch(1, T).await;
        if proc.output().contains("code 0") { Ok(()) } else { Err(proc.output()) }
    })
    .await
    .unwrap();
    assert!(!proc.output().contains("error"), "{}", proc.output());
}

#[tokio::test]
async fn the_classic_protocol_only() {
    let serve = serve().await;
    let mut proc = watch(&serve, &["1", "--classic", "--json", "--state", "state"]);
    proc.wait_for_line("with the protocol of 2014", SOON).await.unwrap();
    serve.touch(1, T).await;
    proc.wait_for_line("\"bug\":1", SOON).await.unwrap();
    let state = file(&serve, "state");
    let since = "\"cursor\":\"since:2014-04-03T21:13:45\"";
    eventually(SOON, "a date is the cursor", async || text(&state).contains(since)).await.unwrap();
    proc.sigterm();
    proc.wait(SOON).await.unwrap();
    serve.touch(1, "2014-04-03T21:13:50").await;
    let mut proc = watch(&serve, &["1", "--classic", "--json", "--state", "state"]);
    proc.wait_for_line("21:13:50", SOON).await.unwrap();
    assert_eq!(printed(&proc).len(), 2, "the last one again, as the classic protocol has it");
}

#[tokio::test]
async fn colours_and_quiet() {
    let serve = serve().await;
    serve.touch(1, T).await;
    let since = ["1", "--since", "2014-01-01", "--count", "1"];
    let (_, plain) = code(watch(&serve, &since)).await;
    assert!(plain.lines().any(|line| line == "2014-04-03T21:13:45  bug 1 changed"), "no colours in a pipe: {plain:?}");
    let (_, colored) = code(watch(&serve, &[&since[..], &["--color", "always", "--quiet"]].concat())).await;
    assert_eq!(colored, "\x1b[2m2014-04-03T21:13:45\x1b[0m  bug \x1b[1m1\x1b[0m changed\n");
}

/// On a terminal: colours, and one line of status that is written over.
#[tokio::test]
async fn on_a_terminal() {
    let Ok(script) = tool("script") else {
        return skipped("the program `script` is not installed; install the Debian package bsdutils");
    };
    let serve = serve().await;
    serve.touch(1, T).await;
    let command =
        format!("'{}' watch 1 --since 2014-01-01 --count 1 --url ws://{}/", bugfeed().display(), serve.clients);
    let run = |env: &[(&str, &str)]| {
        Run::new(&script)
            .env("TERM", "xterm")
            .env_remove("NO_COLOR")
            .envs(env.iter().copied())
            .args(["-q", "-e", "-c", &command, "/dev/null"])
            .spawn()
            .unwrap()
    };
    let (ended, output) = code(run(&[])).await;
    assert_eq!(ended, Some(0), "{output}");
    assert!(output.contains("bug \x1b[1m1\x1b[0m changed"), "{output:?}");
    assert!(output.contains("\r\x1b[2K") && output.contains("connected to ws://"), "{output:?}");
    assert!(!output.contains("bugfeed watch: "), "no lines of status: {output:?}");
    let (_, output) = code(run(&[("NO_COLOR", "1")])).await;
    assert!(output.contains("bug 1 changed"), "{output:?}");
}
