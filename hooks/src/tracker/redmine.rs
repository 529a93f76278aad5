//! Redmine's REST API (seen with 5.0).

use bugfeed_core::hooks::reconcile::{Paging, Question};
use bugfeed_protocol::BugId;
use serde::Deserialize;
use serde_json::Value;

use super::api::{Api, Item, List, Listed, Look, listed, query, stamp};
use super::trouble::{Trouble, json};
use crate::client::Response;

/// Issues on a page: the most that it gives.
const LIMIT: usize = 100;

/// Redmine.
pub(super) struct Redmine;

#[derive(Deserialize)]
struct Issue {
    #[serde(default)]
    id: Value,
    #[serde(default)]
    updated_on: Value,
    #[serde(default)]
    is_private: Option<bool>,
    #[serde(default)]
    project: Value,
}

impl Issue {
    fn item(&self) -> Item<'_> {
        Item::new(&self.id, &self.updated_on)
    }
}

impl Api for Redmine {
    fn paging(&self) -> Paging {
        Paging::ByTime
    }

    fn key_header(&self, key: &str) -> (&'static str, String) {
        ("x-redmine-api-key", key.to_owned())
    }

    fn look_path(&self, _: &str, bug: BugId) -> String {
        format!("/issues/{bug}.json")
    }

    fn read_look(&self, bug: BugId, response: &Response, now_us: i64) -> Result<Look, Trouble> {
        #[derive(Deserialize)]
        struct Answer {
            issue: Issue,
        }
        match response.status.as_u16() {
            200 => {
                let issue = json::<Answer>(response)?.issue;
                issue.item().look(bug, issue.is_private == Some(true))
            }
            401 | 403 | 404 if is_bare(response) => Ok(Look::NotVisible),
            _ => Err(Trouble::of_response(response, now_us)),
        }
    }

    fn list_path(&self, _: &str, question: &Question) -> String {
        let since = format!(">={}", stamp(question.since));
        let (limit, offset) = (LIMIT.to_string(), (LIMIT * (question.page.max(1) as usize - 1)).to_string());
        let pairs = [
            ("updated_on", since.as_str()),
            ("status_id", "*"),
            ("sort", "updated_on,id"),
            ("limit", &limit),
            ("offset", &offset),
        ];
        format!("/issues.json?{}", query(&pairs))
    }

    fn read_list(&self, question: &Question, response: &Response, now_us: i64) -> Result<List, Trouble> {
        #[derive(Deserialize)]
        struct Answer {
            issues: Vec<Issue>,
        }
        if response.status.as_u16() != 200 {
            return Err(Trouble::of_response(response, now_us));
        }
        let answer: Answer = json(response)?;
        let bug = |issue: &Issue| {
            let project = issue.project["id"].as_u64().map(|id| id.to_string());
            let private = issue.is_private == Some(true);
            let item = issue.item();
            Some(Listed { bug: item.bug()?, changed: item.changed()?, project, private })
        };
        let bugs = listed(&answer.issues, bug, question, LIMIT, self.paging())?;
        Ok(List { bugs, more: answer.issues.len() >= LIMIT })
    }

    fn privacy_path(&self, project: &str) -> Option<String> {
        Some(format!("/projects/{project}.json"))
    }
}

/// Redmine's API says "no" without a body, and with the media type JSON. Its pages, and those of proxies, are HTML.
fn is_bare(response: &Response) -> bool {
    let is_json = response.header("content-type").is_some_and(|media| media.starts_with("application/json"));
    is_json && response.body.trim_ascii().is_empty()
}

/// Reads a project's identifier, by which the plugin's webhooks call it: its lists have only the number.
pub(super) fn read_identifier(response: &Response, now_us: i64) -> Result<String, Trouble> {
    #[derive(Deserialize)]
    struct Answer {
        project: Project,
    }
    #[derive(Deserialize)]
    struct Project {
        identifier: String,
    }
    if response.status.as_u16() != 200 {
        return Err(Trouble::of_response(response, now_us));
    }
    Ok(json::<Answer>(response)?.project.identifier)
}
