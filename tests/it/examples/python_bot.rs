//! The bot that tells a chat: killed, refused, resumed; nothing is lost.

use std::path::{Path, PathBuf};

use axum::Json;
use axum::Router;
use axum::http::StatusCode;
use axum::routing::{get, post};
use bugfeed_testbed::{Proc, eventually};
use serde_json::Value;

use super::site::{Mood, Site};
use super::tools::Python;
use crate::browser::servers::Server;
use crate::support::SOON;

/// A chat with an incoming webhook. "At once", it says to who shall come again: that is no reason to take it for a yes.
async fn chat(mood: &Mood) -> Site {
    let mood = mood.clone();
    let hook = async move |Json(message): Json<Value>| {
        let headers = [("retry-after", "0"), ("location", "/login")];
        (mood.ask(message["text"].as_str().unwrap()), headers)
    };
    let login = get(async || "Who are you?");
    Site::start(Router::new().route("/hooks/KEY", post(hook)).route("/login", login)).await
}

struct Bot {
    python: Python,
    state: PathBuf,
    webhook: String,
    feed: String,
}

impl Bot {
    /// Returns once it listens: then it has a cursor.
    async fn start(&self) -> Proc {
        let bot = self.spawn();
        eventually(SOON, "a cursor", async || self.state.exists()).await.unwrap();
        bot
    }

    fn spawn(&self) -> Proc {
        self.python
            .run("python-bot/bot.py")
            .args(["--feed", &self.feed, "--webhook", &self.webhook])
            .arg("--state")
            .arg(&self.state)
            .args(["1", "2", "3"])
            .spawn()
            .unwrap()
    }
}

fn changed(bug: u32) -> String {
    format!("200 Bug {bug} changed: https://bugs.example.org/show_bug.cgi?id={bug}")
}

async fn is_told(mood: &Mood, wanted: &[String]) {
    eventually(SOON, format!("the chat is told {wanted:?}"), async || {
        let told: Vec<String> = mood.asked().into_iter().filter(|asked| !asked.starts_with("500")).collect();
        if told == wanted { Ok(()) } else { Err(told) }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn tells_the_chat_of_every_change_whoever_dies() {
    let Some(python) = Python::find_or_skip() else { return };
    let server = Server::start(&[]).await;
    let mood = Mood::good();
    let chat = chat(&mood).await;
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("cursor");
    let bot = Bot { python, state, webhook: chat.url("/hooks/KEY"), feed: server.url("/") };
    let mut first = bot.start().await;
    mood.once(StatusCode::INTERNAL_SERVER_ERROR);
    server.touch(&["1"]).await;
    is_told(&mood, &[changed(1)]).await;
    assert_eq!(mood.asked().len(), 2, "refused once, asked again: {:?}", mood.asked());

    // Killed while the chat is away; the next change comes while the bot is.
    mood.always(StatusCode::INTERNAL_SERVER_ERROR);
    server.touch(&["2"]).await;
    eventually(SOON, "it tries", async || mood.asked().len() > 2).await.unwrap();
    first.kill9();
    server.touch(&["3"]).await;
    mood.always(StatusCode::OK);
    let mut second = bot.start().await;
    let mut told = vec![changed(1), changed(2), changed(3)];
    is_told(&mood, &told).await;

    // A proxy says that for a moment while the chat restarts; and a page that a redirect leads to is no yes.
    mood.once(StatusCode::NOT_FOUND);
    mood.once(StatusCode::FOUND);
    server.touch(&["1"]).await;
    told.extend([changed(1).replace("200", "404"), changed(1).replace("200", "302"), changed(1)]);
    is_told(&mood, &told).await;

    // A webhook that is gone is for a person to mend; the change waits.
    mood.always(StatusCode::NOT_FOUND);
    server.touch(&["2"]).await;
    assert_eq!(second.wait(SOON).await.unwrap().code(), Some(1), "{}", second.output());
    assert!(second.output().contains("is its address right?"), "{}", second.output());
    mood.always(StatusCode::OK);
    let mut third = bot.start().await;
    told.extend(std::iter::repeat_n(changed(2).replace("200", "404"), 3));
    told.push(changed(2));
    is_told(&mood, &told).await;
    third.kill9();

    one_message_after_a_gap(&bot, &mood, &told, dir.path()).await;
}

#[tokio::test]
async fn no_complaint_shows_the_webhook() {
    let Some(python) = Python::find_or_skip() else { return };
    let mut bot =
        python.run("python-bot/bot.py").args(["1"]).env("BUGFEED_WEBHOOK", "chat.example/hooks/KEY").spawn().unwrap();
    assert_eq!(bot.wait(SOON).await.unwrap().code(), Some(2));
    assert!(bot.output().contains("begins with https://") && !bot.output().contains("KEY"), "{}", bot.output());
}

async fn one_message_after_a_gap(bot: &Bot, mood: &Mood, told: &[String], dir: &Path) {
    std::fs::write(dir.join("cursor"), "of-another-ledger.5").unwrap();
    let _fourth = bot.start().await;
    let links = [1, 2, 3].map(|bug| format!("https://bugs.example.org/show_bug.cgi?id={bug}")).join(" ");
    let mut told = told.to_vec();
    told.push(format!("200 Some changes were missed. Look at these again: {links}"));
    is_told(mood, &told).await;
}
