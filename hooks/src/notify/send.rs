//! One message to one target: a POST, a program, or a mail.
//!
//! Goes in: a [`Message`]. Comes out: that it was taken, or why not, without secrets. Bounded in time; never tries again.

use std::fmt;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

use super::plan::Message;
use super::smtp::{self, Mail, Server};
use crate::client::{Address, Client, Request};
use crate::config::Secret;
use crate::config::notify::Target;
use crate::tracker::Clock;

/// A program is ended after so long; a mail is given up.
const WITHIN: Duration = Duration::from_secs(30);
/// Of what a program says about its failure, so many bytes are repeated.
const LONGEST_COMPLAINT: u64 = 300;

/// Where messages go.
pub(super) struct Outlet {
    way: Way,
    client: Client,
    clock: Clock,
}

enum Way {
    Url(Secret),
    Command(Vec<String>),
    Mail { server: Result<Server, String>, from: String, to: Vec<String> },
}

impl fmt::Display for Outlet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.way {
            Way::Url(url) => match Address::parse(url.expose()) {
                Ok(address) => write!(f, "{}", address.origin()),
                Err(_) => f.write_str("a URL"),
            },
            Way::Command(words) => write!(f, "command {}", words.first().map_or("", String::as_str)),
            Way::Mail { to, .. } => write!(f, "mail to {}", to.join(", ")),
        }
    }
}

impl Outlet {
    pub(super) fn new(target: &Target, client: Client, clock: Clock) -> Outlet {
        let way = match target {
            Target::Url(url) => Way::Url(url.clone()),
            Target::Command(words) => Way::Command(words.clone()),
            Target::Smtp { server, from, to } => {
                Way::Mail { server: Server::parse(server), from: from.clone(), to: to.clone() }
            }
        };
        Outlet { way, client, clock }
    }

    /// The error is a sentence without secrets.
    pub(super) async fn send(&self, message: &Message) -> Result<(), String> {
        match &self.way {
            Way::Url(url) => self.post(url, message).await,
            Way::Command(words) => match tokio::time::timeout(WITHIN, run(words, message)).await {
                Ok(result) => result,
                Err(_) => Err(format!("the program did not end within {} s", WITHIN.as_secs())),
            },
            Way::Mail { server, from, to } => {
                let server = server.as_ref().map_err(Clone::clone)?;
                let mail = Mail { from, to, subject: subject(message), text: &message.text, at_us: (self.clock)() };
                match tokio::time::timeout(WITHIN, smtp::send(self.client.dialer(), server, &mail)).await {
                    Ok(result) => result,
                    Err(_) => Err(format!("the mail server did not take it within {} s", WITHIN.as_secs())),
                }
            }
        }
    }

    async fn post(&self, url: &Secret, message: &Message) -> Result<(), String> {
        let to = Address::parse(url.expose()).map_err(|error| error.to_string())?;
        // The one member that Slack, Mattermost and the bridges of Matrix have in common.
        let body = serde_json::json!({ "text": format!("{}\n{}", subject(message), message.text) });
        let response = self.client.send(Request::post_json(to, body.to_string())).await;
        match response.map_err(|fault| fault.to_string())?.status.as_u16() {
            200..=299 => Ok(()),
            status => Err(format!("it answered {status}")),
        }
    }
}

/// The first line of a message.
fn subject(message: &Message) -> String {
    match &message.source {
        Some(source) => format!("bugfeed: {} ({source})", message.subject),
        None => format!("bugfeed: {}", message.subject),
    }
}

/// Runs a program without a shell. It gets the text on its standard input, and the rest in its environment.
async fn run(words: &[String], message: &Message) -> Result<(), String> {
    let Some((program, arguments)) = words.split_first() else { return Err("there is no program".to_owned()) };
    let source = message.source.as_ref().map_or_else(|| Arc::from(""), Arc::clone);
    let mut child = Command::new(program)
        .args(arguments)
        .env("BUGFEED_SUBJECT", message.subject)
        .env("BUGFEED_SOURCE", &*source)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("it cannot be started: {error}"))?;
    let (stdin, stderr) = (child.stdin.take(), child.stderr.take());
    let write = async {
        if let Some(mut stdin) = stdin {
            // A program may end without reading all of it.
            let _ = stdin.write_all(message.text.as_bytes()).await;
        }
    };
    let read = async {
        let mut complaint = Vec::new();
        if let Some(stderr) = stderr {
            let mut stderr = stderr.take(LONGEST_COMPLAINT);
            let _ = stderr.read_to_end(&mut complaint).await;
            // The rest is thrown away, so that the program does not wait for a reader.
            let _ = tokio::io::copy(&mut stderr.into_inner(), &mut tokio::io::sink()).await;
        }
        complaint
    };
    let ((), complaint) = tokio::join!(write, read);
    let status = child.wait().await.map_err(|error| error.to_string())?;
    if status.success() {
        return Ok(());
    }
    let complaint = String::from_utf8_lossy(&complaint);
    let complaint: String = complaint.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    Err(if complaint.is_empty() { format!("it failed: {status}") } else { format!("it failed: {status}: {complaint}") })
}
