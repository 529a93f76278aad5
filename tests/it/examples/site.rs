//! Web servers that the tests play: a chat, a tracker. In: routes. Out: an address. Gone when dropped.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// A web server on a port of its own.
pub struct Site {
    pub address: SocketAddr,
    serving: JoinHandle<()>,
}

impl Site {
    pub async fn start(routes: Router) -> Site {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        // Browsers ask every site for it, and complain in the console.
        let routes = routes.route("/favicon.ico", get(async || StatusCode::NO_CONTENT));
        let serving = tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        Site { address, serving }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// How a server behaves, and what it was asked.
#[derive(Clone)]
pub struct Mood(Arc<Mutex<Answers>>);

struct Answers {
    /// What it answers next, each once…
    once: VecDeque<StatusCode>,
    /// …and what then.
    always: StatusCode,
    asked: Vec<String>,
}

impl Mood {
    pub fn good() -> Mood {
        let answers = Answers { once: VecDeque::new(), always: StatusCode::OK, asked: Vec::new() };
        Mood(Arc::new(Mutex::new(answers)))
    }

    /// Answers this once.
    pub fn once(&self, status: StatusCode) {
        self.0.lock().unwrap().once.push_back(status);
    }

    /// Answers this from now on.
    pub fn always(&self, status: StatusCode) {
        self.0.lock().unwrap().always = status;
    }

    /// Takes note of a question; returns what is to be answered.
    pub fn ask(&self, question: &str) -> StatusCode {
        let mut answers = self.0.lock().unwrap();
        let status = answers.once.pop_front().unwrap_or(answers.always);
        answers.asked.push(format!("{} {question}", status.as_u16()));
        status
    }

    /// What was asked, each with the status it was answered with.
    pub fn asked(&self) -> Vec<String> {
        self.0.lock().unwrap().asked.clone()
    }
}
