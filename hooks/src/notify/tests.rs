//! Messages that really go somewhere: a web server, a program, a mail server.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::{Alert, Notifier, Undelivered};
use crate::client::{Client, Options};
use crate::config::{HooksConfig, Notify};
use crate::test_server::{Reply, Server};
use crate::tracker::Clock;

fn config(members: &str) -> Vec<Notify> {
    let text = format!("[[notify]]\non = \"all\"\n{members}\n");
    HooksConfig::read("hooks.toml", &text, &|_| Err("no file".to_owned()))
        .unwrap_or_else(|error| panic!("{error}"))
        .notify
}

/// A notifier without pauses, and what it could not deliver.
fn start(notify: &[Notify]) -> (Notifier, mpsc::UnboundedReceiver<Undelivered>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let on_failure = Arc::new(move |failure| drop(sender.send(failure)));
    let clock: Clock = Arc::new(|| 1_795_694_400_000_000);
    let pauses = [Duration::ZERO; 3];
    let client = Client::new(Options::default());
    (Notifier::with_pauses(notify, &client, clock, on_failure, None, pauses), receiver)
}

fn alert(cause: &str, text: &str) -> Alert {
    Alert { subject: "errored", source: Some("kde".into()), cause: cause.to_owned(), text: text.to_owned() }
}

async fn failure(failures: &mut mpsc::UnboundedReceiver<Undelivered>) -> Undelivered {
    tokio::time::timeout(Duration::from_secs(20), failures.recv()).await.expect("in time").expect("a failure")
}

#[tokio::test]
async fn a_chat_gets_its_one_member() {
    let (sender, mut got) = mpsc::unbounded_channel();
    let server = Server::start(move |request| {
        sender.send(request.clone()).unwrap();
        Reply::full(200, "", "ok")
    })
    .await;
    let (notifier, mut failures) = start(&config(&format!("url = \"{}\"", server.url("/hook/SECRET"))));
    notifier.raise(alert("mapping", "bug \"1\" of <kde>"));
    notifier.raise(alert("mapping", "the same again"));
    let request = got.recv().await.unwrap();
    assert_eq!((request.method.as_str(), request.target.as_str()), ("POST", "/hook/SECRET"));
    assert_eq!(request.header("content-type"), Some("application/json"));
    assert_eq!(request.body, r#"{"text":"bugfeed: errored (kde)\nbug \"1\" of ‹kde›"}"#);
    notifier.raise(alert("tracker", "another"));
    assert!(got.recv().await.unwrap().body.contains("another"), "the second one was held back");
    assert!(failures.try_recv().is_err());
    assert!(!format!("{notifier:?}").contains("SECRET"));
}

#[tokio::test]
async fn what_waits_for_a_target_is_delivered_after_a_reload() {
    let (sender, mut got) = mpsc::unbounded_channel();
    let server = Server::start(move |request| {
        sender.send(request.body.clone()).unwrap();
        Reply::full(200, "", "ok")
    })
    .await;
    let (notifier, _failures) = start(&config(&format!("url = \"{}\"", server.url("/"))));
    for number in 0..3 {
        notifier.raise(alert(&number.to_string(), &format!("no. {number}")));
    }
    // Nothing was sent yet: this task has not waited.
    notifier.retire();
    drop(notifier);
    for number in 0..3 {
        let body = tokio::time::timeout(Duration::from_secs(20), got.recv()).await.expect("in time").unwrap();
        assert!(body.contains(&format!("no. {number}")), "{body}");
    }
}

#[tokio::test]
async fn a_target_that_fails_is_tried_again_and_given_up() {
    let server = Server::start(|_| Reply::html(500)).await;
    let (notifier, mut failures) = start(&config(&format!("url = \"{}\"", server.url("/SECRET"))));
    notifier.raise(alert("mapping", "x"));
    let mut finals = Vec::new();
    for _ in 0..4 {
        let failure = failure(&mut failures).await;
        assert_eq!((failure.reason.as_str(), failure.target), ("it answered 500", server.url("")));
        finals.push(failure.is_final);
    }
    assert_eq!(finals, [false, false, false, true]);
    assert_eq!(server.got().len(), 4);
}

#[tokio::test]
async fn one_target_that_hangs_delays_no_other() {
    let hanging = Server::start(|_| Reply::Hang(Vec::new())).await;
    let (sender, mut got) = mpsc::unbounded_channel();
    let working = Server::start(move |request| {
        sender.send(request.body.clone()).unwrap();
        Reply::full(204, "", "")
    })
    .await;
    let text = format!("url = \"{}\"\n[[notify]]\non = \"all\"\nurl = \"{}\"", hanging.url("/"), working.url("/"));
    let (notifier, _failures) = start(&config(&text));
    for number in 0..5 {
        notifier.raise(alert(&number.to_string(), &format!("no. {number}")));
    }
    for number in 0..5 {
        assert!(got.recv().await.unwrap().contains(&format!("no. {number}")));
    }
}

#[tokio::test]
async fn a_program_gets_the_text_without_a_shell() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let fifo = folder.path().join("fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    // The program says when it has ended writing: reading the pipe ends then.
    let script = format!(
        "{{ echo \"$0|$BUGFEED_SUBJECT|$BUGFEED_SOURCE\"; cat; }} > {}; echo done > {}",
        out.display(),
        fifo.display()
    );
    let (notifier, mut failures) = start(&config(&format!("command = [\"/bin/sh\", \"-c\", {script:?}, \"$(a) ;b\"]")));
    notifier.raise(alert("mapping", "two\nlines"));
    let read = tokio::task::spawn_blocking(move || std::fs::read_to_string(fifo));
    let done = tokio::time::timeout(Duration::from_secs(20), read).await.unwrap().unwrap().unwrap();
    assert_eq!(done, "done\n");
    assert_eq!(std::fs::read_to_string(out).unwrap(), "$(a) ;b|errored|kde\ntwo\nlines");
    assert!(failures.try_recv().is_err());
}

#[tokio::test]
async fn a_program_that_fails_says_why() {
    let script = r#"["/bin/sh", "-c", "head -c 200000 /dev/zero >&2; exit 3"]"#;
    let (notifier, mut failures) = start(&config(&format!("command = {script}")));
    notifier.raise(alert("mapping", &"x".repeat(1900)));
    let failed = failure(&mut failures).await;
    assert!(failed.reason.starts_with("it failed: exit status: 3"), "{}", failed.reason);
    assert!(failed.reason.len() < 400);
    let (notifier, mut failures) = start(&config("command = [\"/nonexistent/program\"]"));
    notifier.raise(alert("mapping", "x"));
    assert!(failure(&mut failures).await.reason.starts_with("it cannot be started"));
}

/// A mail server that answers each line by its first word, and what was said to it.
async fn mail_server(answers: &'static [(&'static str, &'static str)]) -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let heard = Arc::<Mutex<Vec<String>>>::default();
    let all = Arc::clone(&heard);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let mut stream = BufReader::new(stream);
            stream.get_mut().write_all(b"220 mail.example.org ESMTP\r\n").await.unwrap();
            let mut is_data = false;
            let mut line = String::new();
            while stream.read_line(&mut line).await.is_ok_and(|read| read > 0) {
                let said = std::mem::take(&mut line).trim_end().to_owned();
                let word = if is_data && said == "." { "." } else { said.split(' ').next().unwrap_or_default() };
                let answer = answers.iter().find(|(wanted, _)| *wanted == word).map(|(_, answer)| *answer);
                all.lock().unwrap().push(said.clone());
                if is_data && word != "." {
                    continue;
                }
                is_data = word == "DATA";
                let answer = format!("{}\r\n", answer.unwrap_or("250 fine"));
                if stream.get_mut().write_all(answer.as_bytes()).await.is_err() {
                    break;
                }
            }
        }
    });
    (port, heard)
}

fn smtp(server: &str) -> Vec<Notify> {
    config(&format!(
        "smtp = {{ server = \"{server}\", from = \"bugfeed@example.org\", to = [\"a@example.org\", \"b@example.org\"] }}"
    ))
}

const EHLO: (&str, &str) = ("EHLO", "250-mail.example.org\r\n250-SIZE 1000\r\n250 AUTH PLAIN LOGIN");
const DATA: (&str, &str) = ("DATA", "354 go on");

#[tokio::test]
async fn a_mail() {
    // The answer to QUIT comes last, so a failure would have been said before it.
    let (port, heard) = mail_server(&[EHLO, DATA, ("AUTH", "235 welcome"), ("QUIT", "221 bye")]).await;
    let server = format!("smtp://user:pass%20word@127.0.0.1:{port}");
    let client = Client::new(Options::default());
    let outlet = super::send::Outlet::new(&smtp(&server)[0].target, client, Arc::new(|| 0));
    let message = super::Message { target: 0, subject: "errored", source: None, text: "a text".to_owned() };
    outlet.send(&message).await.unwrap();
    let heard = heard.lock().unwrap().clone();
    let commands: Vec<&str> = heard.iter().filter(|line| !line.contains(": ")).map(String::as_str).collect();
    assert_eq!(commands[..2], ["EHLO example.org", "AUTH PLAIN AHVzZXIAcGFzcyB3b3Jk"]);
    assert_eq!(commands[2], "MAIL FROM:<bugfeed@example.org>");
    assert_eq!(commands[3..6], ["RCPT TO:<a@example.org>", "RCPT TO:<b@example.org>", "DATA"]);
    assert!(heard.contains(&"Subject: bugfeed: errored".to_owned()));
    assert_eq!(heard[heard.len() - 4..], ["", "YSB0ZXh0DQo=", ".", "QUIT"]);
    assert_eq!(outlet.to_string(), "mail to a@example.org, b@example.org");
}

#[tokio::test]
async fn mail_servers_that_refuse() {
    for (answers, want) in [
        (&[EHLO, DATA, ("AUTH", "535 5.7.8 pass%20word is wrong")][..], "refuses the login: 535"),
        (&[("EHLO", "250 mail.example.org"), DATA], "no way to log in"),
        (&[EHLO, DATA, ("AUTH", "235 ok"), ("RCPT", "550 no such user")], "refuses a recipient: 550 no such user"),
        (&[EHLO, DATA, ("AUTH", "235 ok"), (".", "552 too much")], "refuses the mail: 552"),
        (&[EHLO, ("AUTH", "what?")], "sends what is no SMTP"),
        (&[("EHLO", "421 not now")], "refuses EHLO: 421 not now"),
        (
            &[("EHLO", "250-mail\r\n250 STARTTLS"), ("STARTTLS", "220 go\r\n250 injected")],
            "sends on before it encrypts",
        ),
    ] {
        let (port, _) = mail_server(answers).await;
        let (notifier, mut failures) = start(&smtp(&format!("smtp://user:pass%20word@127.0.0.1:{port}")));
        notifier.raise(alert("mapping", "x"));
        let reason = failure(&mut failures).await.reason;
        assert!(reason.contains(want), "{reason}");
        assert!(!reason.contains("pass"), "{reason}");
    }
}

#[tokio::test]
async fn a_password_is_sent_encrypted() {
    let Some((acceptor, client)) = crate::test_tls::pair().await else { return };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let heard = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"220 mail\r\n").await.unwrap();
        let mut clear = BufReader::new(&mut stream);
        let mut in_clear = Vec::new();
        for answer in ["250-mail\r\n250 STARTTLS\r\n", "220 go\r\n"] {
            let mut line = String::new();
            clear.read_line(&mut line).await.unwrap();
            in_clear.push(line.trim_end().to_owned());
            clear.get_mut().write_all(answer.as_bytes()).await.unwrap();
        }
        let mut stream = BufReader::new(acceptor.accept(stream).await.unwrap());
        let mut encrypted = Vec::new();
        for answer in ["250-mail\r\n250 AUTH LOGIN\r\n", "334 VXNlcg==\r\n", "334 UGFzcw==\r\n", "535 no\r\n"] {
            let mut line = String::new();
            stream.read_line(&mut line).await.unwrap();
            encrypted.push(line.trim_end().to_owned());
            stream.get_mut().write_all(answer.as_bytes()).await.unwrap();
        }
        (in_clear, encrypted)
    });
    let target = &smtp(&format!("smtp://user:word@localhost:{port}"))[0].target;
    let outlet = super::send::Outlet::new(target, client, Arc::new(|| 0));
    let message = super::Message { target: 0, subject: "errored", source: None, text: "a text".to_owned() };
    assert_eq!(outlet.send(&message).await, Err("the mail server refuses the login: 535".to_owned()));
    let (in_clear, encrypted) = heard.await.unwrap();
    assert_eq!(in_clear, ["EHLO example.org", "STARTTLS"]);
    assert_eq!(encrypted, ["EHLO example.org", "AUTH LOGIN", "dXNlcg==", "d29yZA=="]);
}
