//! A Bugzilla that the test plays: pages of its markup (`bug/edit.html.tmpl`, `list/table.html.tmpl`, the script element of
//! the extension's template hook), a strict Content-Security-Policy, and forms that are sent back. In: bugs. Out: pages.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::header;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use bugfeed_testbed::eventually;
use serde_json::json;
use tokio::sync::Notify;

use crate::browser::page::Page;
use crate::examples::site::Site;
use crate::examples::tools::example;
use crate::support::SOON;

/// Further attributes of the script element: a list is asked for again at once, and one text is a translation.
const MORE: &str = "data-refresh-ms=\"200\" data-text-dismiss=\"Schließen\"";

/// Keeps what the gateway says, as the page's script hears it.
const EAR: &str = "
    window.heard = [];
    window.WebSocket = class extends WebSocket {
        constructor(url) {
            super(url);
            this.addEventListener('message', ({ data }) => heard.push(JSON.parse(data)));
        }
    };";

/// How a page of BMO sends the form: without being loaded again.
const SAVES_IN_PLACE: &str = "
    const form = document.getElementById('changeform');
    form.addEventListener('submit', async (event) => {
        event.preventDefault();
        const answer = await fetch('process_bug.cgi', { method: 'POST', body: new URLSearchParams(new FormData(form)) });
        document.querySelector('input[name=delta_ts]').value = (await answer.text()).match(/delta_ts\" value=\"([^\"]*)/)[1];
    });";

/// What the tracker knows and does.
#[derive(Default)]
pub struct Knows {
    /// Of each bug its `delta_ts`, status and summary.
    pub bugs: BTreeMap<u64, (String, String, String)>,
    /// The time zone of its server.
    pub zone: String,
    /// Without the extension.
    pub plain: bool,
    pub saves_in_place: bool,
    /// Its lists are empty, as for readers who are not logged in.
    pub logged_out: bool,
    /// What its bug is dated when a form was sent.
    pub saved: String,
    /// Forms are answered only when the test says so.
    pub holds: bool,
    /// How many forms were sent.
    pub sent: usize,
    /// The queries of the lists that were asked for.
    pub lists: Vec<String>,
}

#[derive(Clone)]
pub struct Bugzilla {
    pub knows: Arc<Mutex<Knows>>,
    pub release: Arc<Notify>,
    gateway: String,
}

impl Bugzilla {
    /// With the address of a gateway's live page.
    pub async fn start(gateway: &str) -> (Bugzilla, Site) {
        let knows = Knows { zone: "UTC".to_owned(), ..Knows::default() };
        let bugzilla = Bugzilla {
            knows: Arc::new(Mutex::new(knows)),
            release: Arc::default(),
            gateway: gateway.trim_end_matches('/').to_owned(),
        };
        let script = || async {
            let script = std::fs::read_to_string(example("bugzilla/extensions/Bugfeed/web/bugfeed.js")).unwrap();
            ([(header::CONTENT_TYPE, "text/javascript")], script)
        };
        let modal = || async { ([(header::CONTENT_TYPE, "text/javascript")], SAVES_IN_PLACE) };
        let routes = Router::new()
            .route("/show_bug.cgi", get(show_bug))
            .route("/process_bug.cgi", post(process_bug))
            .route("/buglist.cgi", get(list))
            .route("/extensions/Bugfeed/web/bugfeed.js", get(script))
            .route("/modal.js", get(modal))
            .with_state(bugzilla.clone());
        (bugzilla, Site::start(routes).await)
    }

    /// Changes a bug, without telling anybody.
    pub fn set(&self, bug: u64, delta_ts: &str, status: &str, summary: &str) {
        let bug_is = (delta_ts.to_owned(), status.to_owned(), summary.to_owned());
        self.knows.lock().unwrap().bugs.insert(bug, bug_is);
    }

    pub fn knows<T>(&self, change: impl FnOnce(&mut Knows) -> T) -> T {
        change(&mut self.knows.lock().unwrap())
    }

    /// The script element, as the template hook writes it.
    fn script(&self) -> String {
        let knows = self.knows.lock().unwrap();
        if knows.plain {
            return String::new();
        }
        let hook = "bugzilla/extensions/Bugfeed/template/en/default/hook/global/header-additional_header.html.tmpl";
        let hook = std::fs::read_to_string(example(hook)).unwrap();
        let (_comment, script) = hook.split_once("#%]").unwrap();
        let script = script
            .replace("[% USE Bugzilla %]", "")
            .replace("[% basepath FILTER none %]", "/")
            .replace("[% Bugzilla.local_timezone.name FILTER html %]", &knows.zone)
            .replace("data-gateway=\"/bugfeed/\"", &format!("data-gateway=\"{}/\" {MORE}", self.gateway));
        assert!(!script.contains("[%") && script.contains(&self.gateway), "{script}");
        script
    }

    /// A page, with nothing allowed but what it needs. A list has style attributes of Bugzilla's own.
    fn page(&self, title: &str, body: &str, styles: &str) -> Response {
        // Behind the tracker's own name, the policy need not name it.
        let gateway = if self.gateway.starts_with('/') { "" } else { &self.gateway };
        let socket = gateway.replace("http", "ws");
        let policy = format!(
            "default-src 'none'; script-src 'self' {gateway}; connect-src 'self' {socket}; style-src 'self'{styles}; \
             img-src 'self'; form-action 'self'"
        );
        let page = format!(
            "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"UTF-8\"><title>{title}</title>{}</head>\n\
             <body class=\"yui-skin-sam\"><div id=\"bugzilla-body\">{body}</div></body></html>",
            self.script()
        );
        ([(header::CONTENT_SECURITY_POLICY, policy)], Html(page)).into_response()
    }

    fn bug_page(&self, bug: u64) -> Response {
        let (delta_ts, _status, summary) = self.knows.lock().unwrap().bugs[&bug].clone();
        let modal =
            if self.knows.lock().unwrap().saves_in_place { "<script src=\"/modal.js\" defer></script>" } else { "" };
        let body = format!(
            "<form name=\"changeform\" id=\"changeform\" method=\"post\" action=\"process_bug.cgi\">\n\
             <input type=\"hidden\" name=\"delta_ts\" value=\"{delta_ts}\">\n\
             <input type=\"hidden\" name=\"id\" value=\"{bug}\">\n\
             <h1 id=\"short_desc\">{summary}</h1><textarea name=\"comment\" id=\"comment\"></textarea>\n\
             <input type=\"submit\" value=\"Save Changes\" id=\"commit\"></form>{modal}"
        );
        self.page(&format!("{bug} – {summary}"), &body, "")
    }
}

fn parameter(query: &str, name: &str) -> Option<String> {
    query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')).map(str::to_owned)
}

async fn show_bug(State(bugzilla): State<Bugzilla>, RawQuery(query): RawQuery) -> Response {
    let bug = parameter(&query.unwrap_or_default(), "id").unwrap().parse().unwrap();
    bugzilla.bug_page(bug)
}

async fn process_bug(State(bugzilla): State<Bugzilla>, form: String) -> Response {
    let holds = bugzilla.knows(|knows| {
        knows.sent += 1;
        knows.holds
    });
    if holds {
        bugzilla.release.notified().await;
    }
    let bug = parameter(&form, "id").unwrap().parse().unwrap();
    bugzilla.knows(|knows| knows.bugs.get_mut(&bug).unwrap().0 = knows.saved.clone());
    bugzilla.bug_page(bug)
}

async fn list(State(bugzilla): State<Bugzilla>, RawQuery(query): RawQuery) -> Response {
    let bugs = bugzilla.knows(|knows| {
        knows.lists.push(query.unwrap_or_default());
        if knows.logged_out { BTreeMap::new() } else { knows.bugs.clone() }
    });
    let mut rows = String::new();
    for (row, (bug, (_delta_ts, status, summary))) in bugs.iter().enumerate() {
        let parity = ["odd", "even"][row % 2];
        write!(
            rows,
            "<tr id=\"b{bug}\" class=\"bz_bugitem bz_normal bz_P1 bz_{status} bz_row_{parity}\">\n\
             <td class=\"bz_checkbox_column\"><input type=\"checkbox\" name=\"id_{bug}\"></td>\n\
             <td class=\"first-child bz_id_column\"><a href=\"show_bug.cgi?id={bug}\">{bug}</a>\n\
             <span style=\"display: none\"></span></td>\n\
             <td style=\"white-space: nowrap\" class=\"bz_bug_status_column\"><span title=\"{status}\">{status}</span></td>\n\
             <td class=\"bz_short_desc_column\"><a href=\"show_bug.cgi?id={bug}\">{summary}</a></td></tr>\n"
        )
        .unwrap();
    }
    let body = format!(
        "<form name=\"changeform\" method=\"post\" action=\"process_bug.cgi\">\n\
         <table class=\"bz_buglist sortable\" cellspacing=\"0\" cellpadding=\"4\" width=\"100%\">\n\
         <tbody class=\"sorttable_body\">{rows}</tbody></table></form>"
    );
    bugzilla.page("Bug List", &body, " 'unsafe-inline'")
}

/// A browser that listens in.
pub async fn reader_or_skip() -> Option<Page> {
    let page = Page::start_or_skip().await?;
    page.driver.devtools("Page.addScriptToEvaluateOnNewDocument", json!({ "source": EAR })).await;
    Some(page)
}

/// Waits until the page's script has been told of something, and so has done what it does then.
pub async fn hears(page: &Page, what: &str) {
    eventually(SOON, format!("the page hears {what}"), async || {
        let heard = page.js(&format!("heard.some((message) => {what})")).await;
        if heard == true { Ok(()) } else { Err(page.js("heard").await) }
    })
    .await
    .unwrap();
}

pub async fn hears_of(page: &Page, bug: u64, when: &str) {
    hears(page, &format!("message.bug === {bug} && message.when === '{when}'")).await;
}

/// Waits until the page hears of what comes.
pub async fn listens(page: &Page) {
    hears(page, "message.command === 'subscribe' && message.result === 'ok'").await;
}
