//! Bugzilla's REST API, of 5.0 and of bugzilla.mozilla.org.

use bugfeed_core::hooks::reconcile::{Paging, Question};
use bugfeed_protocol::{BugId, When};
use jiff::tz::TimeZone;
use serde::Deserialize;
use serde_json::Value;

use super::api::{Api, Item, List, Listed, Look, listed, query, stamp};
use super::trouble::{Trouble, json, object};
use crate::client::Response;
use crate::receive::date;

/// Bugs on a page: bugzilla.mozilla.org asks for at most 10,000, and for a limit.
const LIMIT: usize = 1000;

/// Errors of Bugzilla (`Bugzilla::WebService::Constants`): no such alias, no such bug, not allowed to see it.
const NOT_VISIBLE: [i64; 3] = [100, 101, 102];
/// The whole installation needs a login.
const LOGIN_REQUIRED: i64 = 410;

/// Bugzilla.
pub(super) struct Bugzilla {
    /// Whether a key is sent, so that private bugs may be seen.
    pub(super) as_key: bool,
}

#[derive(Deserialize)]
struct Bugs {
    bugs: Vec<Bug>,
    #[serde(default)]
    faults: Vec<Value>,
}

#[derive(Deserialize)]
struct Bug {
    #[serde(default)]
    id: Value,
    #[serde(default)]
    last_change_time: Value,
    #[serde(default)]
    product: Value,
    #[serde(default)]
    groups: Value,
}

impl Bug {
    fn item(&self) -> Item<'_> {
        Item::new(&self.id, &self.last_change_time)
    }
}

impl Bugzilla {
    fn fields(&self) -> &'static str {
        if self.as_key { "id,last_change_time,product,groups" } else { "id,last_change_time,product" }
    }

    /// With a key: a bug is public only if it says that it is in no group.
    fn is_private(&self, bug: &Bug) -> bool {
        self.as_key && bug.groups.as_array().is_none_or(|groups| !groups.is_empty())
    }
}

impl Api for Bugzilla {
    fn paging(&self) -> Paging {
        Paging::ByNumber
    }

    fn key_header(&self, key: &str) -> (&'static str, String) {
        ("x-bugzilla-api-key", key.to_owned())
    }

    fn look_path(&self, _: &str, bug: BugId) -> String {
        format!("/rest/bug/{bug}?include_fields={}", self.fields())
    }

    fn read_look(&self, bug: BugId, response: &Response, now_us: i64) -> Result<Look, Trouble> {
        // Versions differ in the status of an error, not in its code.
        if let Some(code) = object(response).and_then(|object| error_code(&object)) {
            return if NOT_VISIBLE.contains(&code) { Ok(Look::NotVisible) } else { Err(error(code, response, now_us)) };
        }
        if response.status.as_u16() != 200 {
            return Err(Trouble::of_response(response, now_us));
        }
        let answer: Bugs = json(response)?;
        let is_fault = |fault: &Value| fault["faultCode"].as_i64().is_some_and(|code| NOT_VISIBLE.contains(&code));
        match &answer.bugs[..] {
            [found] => found.item().look(bug, self.is_private(found)),
            [] if answer.faults.iter().any(is_fault) => Ok(Look::NotVisible),
            _ => Err(Trouble::fault(format!("the tracker was asked for bug {bug} and sent {}", answer.bugs.len()))),
        }
    }

    fn list_path(&self, _: &str, question: &Question) -> String {
        let since = stamp(question.since);
        let limit = LIMIT.to_string();
        let mut pairs = vec![
            ("last_change_time", since.as_str()),
            ("order", "bug_id"),
            ("limit", &limit),
            ("include_fields", self.fields()),
        ];
        let after = question.after.map(|after| after.to_string());
        if let Some(after) = &after {
            pairs.extend([("f1", "bug_id"), ("o1", "greaterthan"), ("v1", after.as_str())]);
        }
        format!("/rest/bug?{}", query(&pairs))
    }

    fn read_list(&self, question: &Question, response: &Response, now_us: i64) -> Result<List, Trouble> {
        if let Some(code) = object(response).and_then(|object| error_code(&object)) {
            return Err(error(code, response, now_us));
        }
        if response.status.as_u16() != 200 {
            return Err(Trouble::of_response(response, now_us));
        }
        let answer: Bugs = json(response)?;
        let bug = |bug: &Bug| {
            let project = bug.product.as_str().map(str::to_owned);
            let private = self.is_private(bug);
            let item = bug.item();
            Some(Listed { bug: item.bug()?, changed: item.changed()?, project, private })
        };
        let bugs = listed(&answer.bugs, bug, question, LIMIT, self.paging())?;
        Ok(List { more: answer.bugs.len() >= LIMIT, bugs })
    }

    fn time_path(&self) -> Option<&'static str> {
        Some("/rest/time")
    }
}

/// The code of an answer that explains an error.
pub(super) fn error_code(object: &Value) -> Option<i64> {
    let is_error = matches!(object.get("error"), Some(Value::Bool(true)) | Some(Value::Number(_)));
    let code = object.get("code")?;
    let code = code.as_i64().or_else(|| code.as_str()?.parse().ok())?;
    is_error.then_some(code)
}

fn error(code: i64, response: &Response, now_us: i64) -> Trouble {
    if code == LOGIN_REQUIRED {
        return Trouble::fault("this Bugzilla shows nothing without a login");
    }
    let trouble = Trouble::of_response(response, now_us);
    match response.status.as_u16() {
        // Some versions send errors with 200.
        200 => Trouble::fault(format!("the tracker says error {code}")),
        _ => trouble,
    }
}

/// Reads the answer to [`Api::time_path`]: the database's time, by which bugs are dated.
pub(super) fn read_time(response: &Response, now_us: i64) -> Result<When, Trouble> {
    #[derive(Deserialize)]
    struct Time {
        #[serde(default)]
        db_time: String,
    }
    if response.status.as_u16() != 200 {
        return Err(Trouble::of_response(response, now_us));
    }
    let time: Time = json(response)?;
    date::read_text(&time.db_time, &TimeZone::UTC).map_err(|_| Trouble::fault("the tracker does not tell its time"))
}
