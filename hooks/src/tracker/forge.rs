//! The REST APIs of GitHub and of Gitea or Forgejo, which copied it.

use bugfeed_core::hooks::reconcile::{Paging, Question};
use bugfeed_protocol::BugId;
use hyper::header::{self, HeaderName, HeaderValue};
use serde::Deserialize;
use serde_json::Value;

use super::api::{Api, Item, List, Listed, Look, has_next, listed, query, stamp};
use super::trouble::{Trouble, json, object};
use crate::client::Response;

/// GitHub, or Gitea and Forgejo.
pub(super) struct Forge {
    pub(super) is_github: bool,
}

/// An issue. Its `id` is that of the whole installation, which nobody sees.
#[derive(Deserialize)]
struct Issue {
    #[serde(default)]
    number: Value,
    #[serde(default)]
    updated_at: Value,
}

impl Issue {
    fn item(&self) -> Item<'_> {
        Item::new(&self.number, &self.updated_at)
    }
}

impl Forge {
    /// Issues on a page: the most that each gives.
    fn limit(&self) -> usize {
        if self.is_github { 100 } else { 50 }
    }
}

impl Api for Forge {
    fn paging(&self) -> Paging {
        // Gitea sorts by creation.
        if self.is_github { Paging::ByTime } else { Paging::ByPage }
    }

    fn headers(&self) -> Vec<(HeaderName, HeaderValue)> {
        let media = if self.is_github { "application/vnd.github+json" } else { "application/json" };
        vec![(header::ACCEPT, HeaderValue::from_static(media))]
    }

    fn key_header(&self, key: &str) -> (&'static str, String) {
        ("authorization", format!("{} {key}", if self.is_github { "Bearer" } else { "token" }))
    }

    fn look_path(&self, project: &str, bug: BugId) -> String {
        format!("/repos/{project}/issues/{bug}")
    }

    fn read_look(&self, bug: BugId, response: &Response, now_us: i64) -> Result<Look, Trouble> {
        match response.status.as_u16() {
            200 => {
                let issue: Issue = json(response)?;
                let item = issue.item();
                // An issue that was transferred is somewhere else, under another number.
                if response.redirects > 0 && item.bug() != Some(bug) {
                    return Ok(Look::NotVisible);
                }
                item.look(bug, false)
            }
            404 | 410 if has_message(response) => Ok(Look::NotVisible),
            _ => Err(Trouble::of_response(response, now_us)),
        }
    }

    fn list_path(&self, project: &str, question: &Question) -> String {
        let (since, page, limit) = (stamp(question.since), question.page.to_string(), self.limit().to_string());
        let mut pairs = vec![("since", since.as_str()), ("state", "all"), ("page", &page)];
        if self.is_github {
            pairs.extend([("sort", "updated"), ("direction", "asc"), ("per_page", &limit)]);
        } else {
            pairs.push(("limit", &limit));
        }
        format!("/repos/{project}/issues?{}", query(&pairs))
    }

    fn read_list(&self, question: &Question, response: &Response, now_us: i64) -> Result<List, Trouble> {
        match response.status.as_u16() {
            200 => {}
            404 if has_message(response) => {
                return Err(Trouble::fault("the tracker shows no such repository to anybody"));
            }
            _ => return Err(Trouble::of_response(response, now_us)),
        }
        let issues: Vec<Issue> = json(response)?;
        let bug = |issue: &Issue| {
            let item = issue.item();
            Some(Listed { bug: item.bug()?, changed: item.changed()?, project: None, private: false })
        };
        let bugs = listed(&issues, bug, question, self.limit(), self.paging())?;
        Ok(List { bugs, more: issues.len() >= self.limit() || has_next(response) })
    }

    fn privacy_path(&self, project: &str) -> Option<String> {
        Some(format!("/repos/{project}"))
    }
}

/// Whether the tracker's API itself says that there is nothing: a proxy's or a wrong address' 404 has no `message`.
fn has_message(response: &Response) -> bool {
    object(response).is_some_and(|object| object.get("message").is_some_and(Value::is_string))
}
