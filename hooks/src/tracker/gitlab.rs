//! GitLab's REST API.

use bugfeed_core::hooks::reconcile::{Paging, Question};
use bugfeed_protocol::BugId;
use serde::Deserialize;
use serde_json::Value;

use super::api::{Api, Item, List, Listed, Look, has_next, listed, path_part, query};
use super::trouble::{Trouble, json, object};
use crate::client::Response;

/// Issues on a page: the most that it gives.
const LIMIT: usize = 100;

/// GitLab.
pub(super) struct GitLab;

/// An issue. Its `id` is that of the whole installation, which nobody sees: `iid` is the number.
#[derive(Deserialize)]
struct Issue {
    #[serde(default)]
    iid: Value,
    #[serde(default)]
    updated_at: Value,
    /// Without it, an issue is not known to be public.
    #[serde(default)]
    confidential: Option<bool>,
}

impl Issue {
    fn item(&self) -> Item<'_> {
        Item::new(&self.iid, &self.updated_at)
    }

    fn is_private(&self) -> bool {
        self.confidential != Some(false)
    }
}

impl Api for GitLab {
    fn paging(&self) -> Paging {
        Paging::ByTime
    }

    fn key_header(&self, key: &str) -> (&'static str, String) {
        ("private-token", key.to_owned())
    }

    fn look_path(&self, project: &str, bug: BugId) -> String {
        format!("/projects/{}/issues/{bug}", path_part(project))
    }

    fn read_look(&self, bug: BugId, response: &Response, now_us: i64) -> Result<Look, Trouble> {
        match response.status.as_u16() {
            200 => {
                let issue: Issue = json(response)?;
                issue.item().look(bug, issue.is_private())
            }
            404 if says_not_found(response) => Ok(Look::NotVisible),
            _ => Err(Trouble::of_response(response, now_us)),
        }
    }

    fn list_path(&self, project: &str, question: &Question) -> String {
        // With its fraction, because GitLab compares fractions.
        let since = question.since.map(|since| format!("{since}Z")).unwrap_or_default();
        let (page, limit) = (question.page.to_string(), LIMIT.to_string());
        let pairs = [
            ("updated_after", since.as_str()),
            ("order_by", "updated_at"),
            ("sort", "asc"),
            ("per_page", &limit),
            ("page", &page),
        ];
        format!("/projects/{}/issues?{}", path_part(project), query(&pairs))
    }

    fn read_list(&self, question: &Question, response: &Response, now_us: i64) -> Result<List, Trouble> {
        match response.status.as_u16() {
            200 => {}
            404 if says_not_found(response) => {
                return Err(Trouble::fault("the tracker shows no such project to anybody"));
            }
            _ => return Err(Trouble::of_response(response, now_us)),
        }
        let issues: Vec<Issue> = json(response)?;
        let bug = |issue: &Issue| {
            let item = issue.item();
            Some(Listed { bug: item.bug()?, changed: item.changed()?, project: None, private: issue.is_private() })
        };
        let bugs = listed(&issues, bug, question, LIMIT, self.paging())?;
        Ok(List { bugs, more: issues.len() >= LIMIT || has_next(response) })
    }

    fn privacy_path(&self, project: &str) -> Option<String> {
        Some(format!("/projects/{}", path_part(project)))
    }
}

/// `{"message":"404 Project Not Found"}` is about what was asked for; `{"error":"404 Not Found"}` about the path.
fn says_not_found(response: &Response) -> bool {
    object(response).is_some_and(|object| object.get("message").is_some_and(Value::is_string))
}
