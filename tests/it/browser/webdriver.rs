//! As much of the WebDriver protocol as the tests need: JSON over HTTP. In: what to do in the browser. Out: its answers.
//! It never waits for anything on the page. (The usual crates for this come with a licence that deny.toml does not
//! allow, for less than these few lines do.)

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use bugfeed_testbed::ChromeDriver;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// One answer may need a browser to be started on a busy machine.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// Headless Chromium with an empty profile, talking to nobody but the page's server.
const ARGUMENTS: [&str; 9] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1200,900",
];

pub const ENTER: char = '\u{E007}';
pub const TAB: char = '\u{E004}';
const RELEASE: char = '\u{E000}';
const BACKSPACE: char = '\u{E003}';
const CONTROL: char = '\u{E009}';
pub const UP: char = '\u{E013}';
pub const RIGHT: char = '\u{E014}';
pub const SHIFT: char = '\u{E008}';

/// A browser with one tab.
pub struct WebDriver {
    address: String,
    session: String,
    _driver: ChromeDriver,
}

impl WebDriver {
    /// Starts a browser, or skips the test.
    pub async fn start_or_skip() -> Option<WebDriver> {
        let driver = ChromeDriver::start_or_skip().await?;
        let address = driver.url().trim_start_matches("http://").to_owned();
        let profile = format!("--user-data-dir={}", driver.dir().join("profile").display());
        let args: Vec<&str> = ARGUMENTS.into_iter().chain([profile.as_str()]).collect();
        let wanted = json!({
            "browserName": "chrome",
            "goog:loggingPrefs": { "browser": "ALL" },
            "goog:chromeOptions": { "binary": bugfeed_testbed::tool("chromium").unwrap(), "args": args },
        });
        let mut browser = WebDriver { address, session: "/session".to_owned(), _driver: driver };
        let session = browser.post("", json!({ "capabilities": { "alwaysMatch": wanted } })).await.unwrap();
        browser.session = format!("/session/{}", session["sessionId"].as_str().unwrap());
        Some(browser)
    }

    /// Sends a command of the session.
    pub async fn post(&self, command: &str, body: Value) -> Result<Value> {
        let (path, body) = (format!("{}{command}", self.session), body.to_string());
        let asked = tokio::time::timeout(ANSWER_LIMIT, exchange(&self.address, &path, &body)).await;
        let (status, answer) = asked.context("no answer in time").and_then(|done| done).context(path.clone())?;
        let mut answer: Value = serde_json::from_slice(&answer).with_context(|| path.clone())?;
        if status != 200 {
            bail!("{path} {body}: {}", answer["value"]["message"].as_str().unwrap_or("no reason given"));
        }
        Ok(answer["value"].take())
    }

    /// Opens an address; returns when the page is loaded.
    pub async fn goto(&self, url: &str) {
        self.post("/url", json!({ "url": url })).await.unwrap();
    }

    /// Loads the page again.
    pub async fn reload(&self) {
        self.post("/refresh", json!({})).await.unwrap();
    }

    /// Runs the body of a JavaScript function in the page, and returns what it returns.
    pub async fn script(&self, body: &str, args: Value) -> Value {
        self.post("/execute/sync", json!({ "script": body, "args": args })).await.unwrap()
    }

    async fn element(&self, css: &str) -> String {
        let found = self.post("/element", json!({ "using": "css selector", "value": css })).await.unwrap();
        found.as_object().and_then(|found| found.values().next()).and_then(Value::as_str).unwrap().to_owned()
    }

    /// Clicks what a selector finds, as a mouse would: fails when it is hidden.
    pub async fn click(&self, css: &str) {
        self.post(&format!("/element/{}/click", self.element(css).await), json!({})).await.unwrap();
    }

    /// Types into what a selector finds.
    pub async fn type_into(&self, css: &str, text: &str) {
        self.post(&format!("/element/{}/value", self.element(css).await), json!({ "text": text })).await.unwrap();
    }

    /// Empties a field, as a person would: the driver's own way tells the page too little.
    pub async fn clear(&self, css: &str) {
        self.type_into(css, &format!("{CONTROL}a{RELEASE}{BACKSPACE}")).await;
    }

    /// Opens another tab of the same browser, and goes on in it.
    pub async fn new_tab(&self) {
        let tab = self.post("/window/new", json!({ "type": "tab" })).await.unwrap();
        self.post("/window", json!({ "handle": tab["handle"] })).await.unwrap();
    }

    /// Presses keys together, wherever the focus is.
    pub async fn press(&self, keys: &[char]) {
        let down = keys.iter().map(|key| json!({ "type": "keyDown", "value": key }));
        let up = keys.iter().rev().map(|key| json!({ "type": "keyUp", "value": key }));
        let actions: Vec<Value> = down.chain(up).collect();
        let keyboard = json!({ "actions": [{ "type": "key", "id": "keyboard", "actions": actions }] });
        self.post("/actions", keyboard).await.unwrap();
    }

    /// A command of the DevTools protocol.
    pub async fn devtools(&self, command: &str, params: Value) -> Value {
        self.post("/goog/cdp/execute", json!({ "cmd": command, "params": params })).await.unwrap()
    }

    /// What came into the console since the last look: script errors, refused resources, violated policies.
    pub async fn console(&self) -> Vec<String> {
        let log = self.post("/se/log", json!({ "type": "browser" })).await.unwrap();
        let line = |entry: &Value| format!("{} {} {}", entry["level"], entry["source"], entry["message"]);
        log.as_array().unwrap().iter().map(line).collect()
    }

    /// The page as a PNG file.
    pub async fn screenshot(&self) -> Vec<u8> {
        let shot = self.devtools("Page.captureScreenshot", json!({ "format": "png" })).await;
        base64(shot["data"].as_str().unwrap())
    }
}

/// One request; status and body of its answer. The driver says how long the answer is, and leaves closing to us.
async fn exchange(address: &str, path: &str, body: &str) -> Result<(u16, Vec<u8>)> {
    let mut stream = TcpStream::connect(address).await?;
    let length = body.len();
    let head = format!("POST {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {length}");
    stream.write_all(format!("{head}\r\nContent-Type: application/json\r\n\r\n{body}").as_bytes()).await?;
    let mut bytes = Vec::new();
    let head_end = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            bail!("the driver hung up");
        }
    };
    let head = String::from_utf8_lossy(&bytes[..head_end]).to_lowercase();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).context("no status")?;
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")).context("no length")?;
    let mut answer = bytes.split_off(head_end);
    let missing = length.trim().parse::<u64>()?.saturating_sub(answer.len() as u64);
    stream.take(missing).read_to_end(&mut answer).await?;
    Ok((status, answer))
}

/// Decodes base64, which this test trusts the browser to have written correctly.
fn base64(text: &str) -> Vec<u8> {
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digit = |byte| alphabet.iter().position(|letter| *letter == byte).map(|at| u32::try_from(at).unwrap());
    let digits: Vec<u32> = text.bytes().filter_map(digit).collect();
    let group = |four: &[u32]| {
        let bits = four.iter().enumerate().fold(0, |bits, (at, digit)| bits | digit << (18 - 6 * at));
        bits.to_be_bytes()[1..four.len()].to_vec()
    };
    digits.chunks(4).flat_map(group).collect()
}
