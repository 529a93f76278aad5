//! The live page as a person sees it. In: addresses, clicks, keys. Out: its state, its chips and its list of changes,
//! waited for. It never sleeps, and it keeps what is needed to understand a failure.

use std::fmt::Display;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::time::Duration;

use bugfeed_testbed::eventually;
use futures::FutureExt as _;
use serde_json::{Value, json};

use super::webdriver::{ENTER, WebDriver};
use crate::support::SOON;

/// Runs before the page's own script: remembers every socket it opens and every command it sends.
const SPY: &str = "
    window.spy = { sockets: [], sent: [] };
    window.WebSocket = class extends WebSocket {
        constructor(url) { super(url); spy.sockets.push(url); }
        send(text) { spy.sent.push(text); super.send(text); }
    };";

/// Each WebSocket breaks before it opens.
const BLOCKED: &str = "window.WebSocket = class {
    constructor() { setTimeout(() => this.onclose({ code: 1006, reason: '' })); }
    close() {}
};";

/// One line of the list of changes; of a gap, without a bug.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub bug: u64,
    pub when: String,
    pub kind: String,
}

/// A row that arrived live.
pub fn live(bug: u64, when: &str) -> Row {
    Row { bug, when: when.to_owned(), kind: "live".to_owned() }
}

/// A row that was caught up on.
pub fn catch_up(bug: u64, when: &str) -> Row {
    Row { bug, when: when.to_owned(), kind: "catchup".to_owned() }
}

/// A tab with the live page.
pub struct Page {
    pub driver: WebDriver,
}

impl Page {
    /// Starts a browser, or skips the test.
    pub async fn start_or_skip() -> Option<Page> {
        let driver = WebDriver::start_or_skip().await?;
        driver.devtools("Page.addScriptToEvaluateOnNewDocument", json!({ "source": SPY })).await;
        Some(Page { driver })
    }

    /// From the next document on, WebSocket does not pass.
    pub async fn block_websocket(&self) {
        self.driver.devtools("Page.addScriptToEvaluateOnNewDocument", json!({ "source": BLOCKED })).await;
    }

    /// Plays a scenario, then asks the console for complaints other than the expected ones. When something fails,
    /// leaves a screenshot behind, taken while the scenario's servers still run, and says where it is.
    pub async fn play(&self, name: &str, expected: &[&str], scenario: impl AsyncFnOnce()) {
        let checked = async {
            scenario().await;
            let complaints = self.driver.console().await;
            let strange = |line: &&String| !expected.iter().any(|part| line.contains(part));
            let strange: Vec<_> = complaints.iter().filter(strange).collect();
            assert!(strange.is_empty(), "in the console: {strange:#?}");
        };
        if let Err(panic) = AssertUnwindSafe(checked).catch_unwind().await {
            let evidence = AssertUnwindSafe(self.evidence(name)).catch_unwind().await;
            println!("{}", evidence.unwrap_or_else(|_| "the browser is gone".to_owned()));
            resume_unwind(panic);
        }
    }

    /// What a person wants to see; kept in target/tmp, because the run cleans its own folder up.
    async fn evidence(&self, name: &str) -> String {
        let folder =
            tempfile::Builder::new().prefix("browser-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap().keep();
        let file = folder.join(format!("{name}.png"));
        std::fs::write(&file, self.driver.screenshot().await).unwrap();
        let spied = self.driver.script("return JSON.stringify(spy)", json!([])).await;
        let console = self.driver.console().await;
        format!("screenshot: {}\nsockets and commands: {spied}\nconsole: {console:#?}", file.display())
    }

    /// Opens an address and waits for the connection. Where only what follows the `#` differs, the page is not loaded
    /// again; see [`Page::leave`].
    pub async fn open(&self, url: &str) {
        self.driver.goto(url).await;
        self.is_in_state(&["open"]).await;
    }

    /// Goes to another site, in the same tab.
    pub async fn leave(&self) {
        self.driver.goto("data:text/html,elsewhere").await;
    }

    /// An expression's value.
    pub async fn js(&self, expression: &str) -> Value {
        self.driver.script(&format!("return {expression}"), json!([])).await
    }

    /// The text of what a selector finds.
    pub async fn text(&self, css: &str) -> String {
        let text = self.driver.script("return document.querySelector(arguments[0])?.textContent", json!([css])).await;
        text.as_str().unwrap_or("(not there)").to_owned()
    }

    /// Whether a person can see what a selector finds.
    pub async fn shows(&self, css: &str) -> bool {
        let visible = "return document.querySelector(arguments[0]).checkVisibility()";
        self.driver.script(visible, json!([css])).await == true
    }

    /// Waits until the text of what a selector finds has a part.
    pub async fn says(&self, css: &str, part: &str) {
        self.says_within(SOON, css, part).await;
    }

    /// The same, where later would be wrong.
    pub async fn says_within(&self, limit: Duration, css: &str, part: &str) {
        let look = async || {
            let text = self.text(css).await;
            if text.contains(part) { Ok(()) } else { Err(text) }
        };
        eventually(limit, format!("'{part}' in {css}"), look).await.unwrap();
    }

    /// Waits until the connection is in one of these states.
    pub async fn is_in_state(&self, states: &[&str]) {
        self.waits(format!("the state {states:?}"), async || {
            let state = self.js("document.querySelector('#state').dataset.state").await;
            if states.iter().any(|wanted| state == *wanted) { Ok(()) } else { Err(state) }
        })
        .await;
    }

    /// Waits until exactly these bugs are watched, all confirmed by the server.
    pub async fn watches(&self, bugs: &[u64]) {
        let chips = "[...document.querySelectorAll('#subscriptions > li')]
            .map((chip) => [Number(chip.dataset.bug), chip.hasAttribute('data-pending')])";
        let wanted: Value = bugs.iter().map(|bug| json!([bug, false])).collect();
        self.waits(format!("the chips {bugs:?}"), async || {
            let chips = self.js(chips).await;
            if chips == wanted { Ok(()) } else { Err(chips) }
        })
        .await;
    }

    /// The list of changes, oldest first.
    pub async fn rows(&self) -> Vec<Row> {
        let rows = "[...document.querySelectorAll('#updates > li')].reverse()
            .map(({ dataset }) => [Number(dataset.bug ?? 0), dataset.when, dataset.kind])";
        let row = |row: &Value| Row {
            bug: row[0].as_u64().unwrap(),
            when: row[1].as_str().unwrap().to_owned(),
            kind: row[2].as_str().unwrap().to_owned(),
        };
        self.js(rows).await.as_array().unwrap().iter().map(row).collect()
    }

    /// Waits until the list is exactly this. What must not come is not waited for: let a change that must come follow.
    pub async fn lists(&self, wanted: &[Row]) {
        self.lists_within(SOON, wanted).await;
    }

    /// The same, for changes that somebody brings who has to recover first.
    pub async fn lists_within(&self, limit: Duration, wanted: &[Row]) {
        let look = async || {
            let rows = self.rows().await;
            if rows == wanted { Ok(()) } else { Err(rows) }
        };
        eventually(limit, format!("the changes {wanted:?}"), look).await.unwrap();
    }

    /// Waits for a number of changes, and returns them.
    pub async fn lists_as_many_as(&self, count: usize) -> Vec<Row> {
        self.waits(format!("{count} changes"), async || {
            let rows = self.rows().await;
            if rows.len() == count { Ok(rows) } else { Err(rows) }
        })
        .await
    }

    /// Types bug numbers and presses Enter.
    pub async fn subscribe(&self, bugs: &str) {
        self.driver.type_into("#bugs", &format!("{bugs}{ENTER}")).await;
    }

    /// The same, with the changes since a time.
    pub async fn subscribe_since(&self, bugs: &str, since: &str) {
        self.js("document.querySelector('#since-more').open = true").await;
        self.driver.type_into("#since", since).await;
        self.subscribe(bugs).await;
    }

    /// Waits until an expression's value is, as text, exactly this.
    pub async fn waits_for(&self, expression: &str, wanted: &str) {
        self.waits(format!("'{wanted}' from {expression}"), async || {
            let value = self.js(&format!("String({expression})")).await;
            if value == wanted { Ok(()) } else { Err(value) }
        })
        .await;
    }

    /// How many sockets the page has opened since it was loaded.
    pub async fn sockets(&self) -> u64 {
        self.js("spy.sockets.length").await.as_u64().unwrap()
    }

    async fn waits<T, E: std::fmt::Debug>(&self, what: impl Display, look: impl AsyncFnMut() -> Result<T, E>) -> T {
        eventually(SOON, what, look).await.unwrap()
    }
}
