//! What every tracker's API is asked, and in which form the answers come: one [`Api`] for each kind of tracker.
//!
//! Pure: goes in a question, comes out the path of a request; goes in a response, comes out what it says. Whatever does not
//! fit is a [`Trouble`]: another bug's number, a time that is none, another form.

use bugfeed_core::hooks::reconcile::{Paging, Question};
use bugfeed_protocol::{BugId, When};
use hyper::header::{HeaderName, HeaderValue};
use jiff::tz::TimeZone;
use serde::Deserialize;
use serde_json::Value;

use super::trouble::{Trouble, json};
use crate::client::Response;
use crate::receive::date;

/// What the tracker says about a bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// It was shown.
    Visible {
        /// When it last changed.
        changed: When,
    },
    /// It was shown, and is marked as private.
    Private,
    /// There is no such bug, or it is not visible: the tracker does not tell which.
    NotVisible,
}

/// A bug in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) bug: BugId,
    pub(super) changed: When,
    /// The project, as the mapping of the tracker's webhooks finds it; where a list is of one project, `None`.
    pub(super) project: Option<String>,
    pub(super) private: bool,
}

/// A page of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct List {
    pub(super) bugs: Vec<Listed>,
    pub(super) more: bool,
}

/// A kind of tracker.
pub(super) trait Api: Send + Sync {
    /// How its list is paged.
    fn paging(&self) -> Paging;

    /// Headers of each request.
    fn headers(&self) -> Vec<(HeaderName, HeaderValue)> {
        vec![(hyper::header::ACCEPT, HeaderValue::from_static("application/json"))]
    }

    /// The name and the value of the header that holds a key.
    fn key_header(&self, key: &str) -> (&'static str, String);

    /// The path of a question for one bug.
    fn look_path(&self, project: &str, bug: BugId) -> String;

    /// What the answer says.
    fn read_look(&self, bug: BugId, response: &Response, now_us: i64) -> Result<Look, Trouble>;

    /// The path of a question for a list.
    fn list_path(&self, project: &str, question: &Question) -> String;

    /// What the answer says.
    fn read_list(&self, question: &Question, response: &Response, now_us: i64) -> Result<List, Trouble>;

    /// The path of a question for the tracker's time, where it has one; otherwise the header `Date` of an answer counts.
    fn time_path(&self) -> Option<&'static str> {
        None
    }

    /// The path of a question whether a project is public. `None`: lists tell of each bug.
    fn privacy_path(&self, _project: &str) -> Option<String> {
        None
    }
}

/// A bug in an answer: the two members that matter, whatever they are called in that tracker, and whatever they are.
#[derive(Debug)]
pub(super) struct Item<'a> {
    id: &'a Value,
    changed: &'a Value,
}

impl<'a> Item<'a> {
    pub(super) fn new(id: &'a Value, changed: &'a Value) -> Item<'a> {
        Item { id, changed }
    }

    pub(super) fn bug(&self) -> Option<BugId> {
        self.id.as_u64().and_then(BugId::new)
    }

    pub(super) fn changed(&self) -> Option<When> {
        date::read_text(self.changed.as_str()?, &TimeZone::UTC).ok()
    }

    /// What a question for one bug is answered with.
    pub(super) fn look(&self, asked: BugId, is_private: bool) -> Result<Look, Trouble> {
        if self.bug() != Some(asked) {
            return Err(Trouble::fault(format!("the tracker was asked for bug {asked} and answered with another one")));
        }
        match self.changed() {
            _ if is_private => Ok(Look::Private),
            Some(changed) => Ok(Look::Visible { changed }),
            None => Err(Trouble::fault(format!("the tracker does not say when bug {asked} last changed"))),
        }
    }
}

/// The bugs of a list. Those that cannot be read are passed over, so that a broken one does not hide the others; if all of
/// them are broken, the list is none.
pub(super) fn listed<T>(
    items: &[T],
    bug: impl Fn(&T) -> Option<Listed>,
    question: &Question,
    most: usize,
    paging: Paging,
) -> Result<Vec<Listed>, Trouble> {
    if items.len() > most {
        return Err(Trouble::fault(format!("the tracker was asked for {most} bugs and sent {}", items.len())));
    }
    let bugs: Vec<Listed> = items.iter().filter_map(bug).collect();
    if bugs.is_empty() && !items.is_empty() {
        return Err(Trouble::fault("no bug of the tracker's list has a number and a time"));
    }
    let since_us = question.since.map_or(0, When::as_micros);
    // Whole seconds count, because trackers cut fractions; a second is for those that round.
    if let Some(old) = bugs.iter().find(|listed| listed.changed.as_micros() < since_us - 2_000_000) {
        let reason =
            format!("the tracker was asked for what changed lately, and sent bug {} of {}", old.bug, old.changed);
        return Err(Trouble::fault(reason));
    }
    let is_sorted = match paging {
        Paging::ByNumber => bugs.is_sorted_by(|one, other| one.bug < other.bug),
        Paging::ByTime => bugs.is_sorted_by_key(|listed| listed.changed),
        Paging::ByPage => true,
    };
    if !is_sorted {
        return Err(Trouble::fault("the tracker's list is not sorted as it was asked for"));
    }
    Ok(bugs)
}

/// A time as RFC 3339 in UTC, without a fraction.
pub(super) fn stamp(when: Option<When>) -> String {
    let text = when.map(|when| when.to_string()).unwrap_or_default();
    format!("{}Z", text.split('.').next().unwrap_or_default())
}

/// Whether the response's `Link` header names a next page.
pub(super) fn has_next(response: &Response) -> bool {
    response.headers.get_all("link").iter().any(|value| value.to_str().is_ok_and(|text| text.contains("rel=\"next\"")))
}

/// A query, encoded.
pub(super) fn query(pairs: &[(&str, &str)]) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
}

/// A part of a path, encoded, `/` included.
pub(super) fn path_part(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>().replace('+', "%20")
}

/// Whether a project is public, as it says itself: the `private` and `internal` of GitHub and Gitea, the `visibility` of
/// GitLab and GitHub, the `is_public` of Redmine. In doubt it is not.
pub(super) fn read_privacy(response: &Response, now_us: i64) -> Result<bool, Trouble> {
    #[derive(Deserialize)]
    struct Project {
        private: Option<bool>,
        internal: Option<bool>,
        visibility: Option<String>,
        project: Option<Redmine>,
    }
    #[derive(Deserialize)]
    struct Redmine {
        is_public: Option<bool>,
    }
    if response.status.as_u16() != 200 {
        return Err(Trouble::of_response(response, now_us));
    }
    let project: Project = json(response)?;
    let hidden = project.private == Some(true) || project.internal == Some(true);
    let public = project.private == Some(false)
        || project.visibility.as_deref() == Some("public")
        || project.project.and_then(|project| project.is_public) == Some(true);
    let other = project.visibility.is_some_and(|visibility| visibility != "public");
    Ok(public && !hidden && !other)
}
