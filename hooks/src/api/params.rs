//! The parameters of a request's query: known by name, each at most once, and with a value that can be read.

use std::collections::BTreeMap;

use bugfeed_core::hooks::event::{EventId, State};
use bugfeed_protocol::{BugId, When};

use super::error::ApiError;
use crate::receive::received::RequestId;
use crate::store::events::Range;

/// How many rows a page has where nothing is said.
pub(super) const USUAL_PAGE: usize = 100;
/// The most rows of a page.
pub(super) const LONGEST_PAGE: usize = 1000;

/// The parameters.
#[derive(Debug, Default)]
pub(super) struct Params(BTreeMap<String, String>);

impl Params {
    /// Reads a query. Each parameter must be one of these.
    pub(super) fn read(query: &str, known: &[&str]) -> Result<Params, ApiError> {
        let mut params = BTreeMap::new();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            if !known.contains(&&*name) {
                return Err(unknown(&name, known));
            }
            if params.insert(name.clone().into_owned(), value.into_owned()).is_some() {
                return Err(ApiError::bad(format!("the parameter '{name}' is given twice"), "give it once"));
            }
        }
        Ok(Params(params))
    }

    /// A value that is not empty.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    pub(super) fn owned(&self, name: &str) -> Option<String> {
        self.text(name).map(str::to_owned)
    }

    /// How many rows are wanted.
    pub(super) fn limit(&self) -> Result<usize, ApiError> {
        let Some(text) = self.text("limit") else { return Ok(USUAL_PAGE) };
        let limit = text.parse::<usize>().ok().filter(|limit| (1..=LONGEST_PAGE).contains(limit));
        limit.ok_or_else(|| wrong("limit", text, "write a number from 1 to 1000"))
    }

    /// The row after which the page begins.
    pub(super) fn after(&self) -> Result<Option<RequestId>, ApiError> {
        self.text("after").map(|text| id("after", text)).transpose()
    }

    pub(super) fn after_event(&self) -> Result<Option<EventId>, ApiError> {
        Ok(self.after()?.map(|id| EventId(id.0)))
    }

    pub(super) fn flag(&self, name: &str) -> Result<bool, ApiError> {
        match self.text(name) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(text) => Err(wrong(name, text, "write true or false")),
        }
    }

    /// A number of a bug.
    pub(super) fn bug(&self) -> Result<Option<BugId>, ApiError> {
        self.text("bug").map(bug).transpose()
    }

    /// A state of an event.
    pub(super) fn state(&self) -> Result<Option<State>, ApiError> {
        self.text("state").map(state).transpose()
    }

    /// `from` and `to`.
    pub(super) fn range(&self) -> Result<Range, ApiError> {
        range(self.text("from"), self.text("to"))
    }
}

fn unknown(name: &str, known: &[&str]) -> ApiError {
    let likeness = |one: &&str| strsim::jaro(one, name);
    let nearest = known.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    let hint = match nearest {
        Some(nearest) if likeness(nearest) > 0.8 => format!("did you mean '{nearest}'?"),
        _ if known.is_empty() => "this path takes none".to_owned(),
        _ => format!("this path takes: {}", known.join(", ")),
    };
    ApiError::bad(format!("unknown parameter '{}'", shown(name)), hint)
}

/// A value that cannot be read.
pub(super) fn wrong(name: &str, text: &str, fix: &str) -> ApiError {
    ApiError::bad(format!("{name}: '{}' is wrong", shown(text)), fix)
}

/// A text of the caller, shortened, for an error.
fn shown(text: &str) -> String {
    text.chars().take(60).collect()
}

/// Reads an identifier.
pub(super) fn id(name: &str, text: &str) -> Result<RequestId, ApiError> {
    RequestId::parse(text).ok_or_else(|| {
        wrong(name, text, "an identifier has 36 characters, such as 01a1ee56-5e7b-7fff-bfff-ffff7fffffff")
    })
}

/// Reads the identifier of an event.
pub(super) fn event_id(text: &str) -> Result<EventId, ApiError> {
    Ok(EventId(id("id", text)?.0))
}

/// Reads the number of a bug.
pub(super) fn bug(text: &str) -> Result<BugId, ApiError> {
    text.parse().map_err(|_| wrong("bug", text, "write a whole number from 1 on"))
}

/// Reads the state of an event.
pub(super) fn state(text: &str) -> Result<State, ApiError> {
    let all: Vec<&str> = State::ALL.iter().map(|state| state.as_str()).collect();
    State::parse(text).ok_or_else(|| wrong("state", text, &format!("the states are {}", all.join(", "))))
}

/// Reads `from` and `to`.
pub(super) fn range(from: Option<&str>, to: Option<&str>) -> Result<Range, ApiError> {
    let range = Range {
        from_us: from.map(|text| time("from", text)).transpose()?,
        to_us: to.map(|text| time("to", text)).transpose()?,
    };
    match (range.from_us, range.to_us) {
        (Some(from_us), Some(to_us)) if from_us >= to_us => {
            Err(ApiError::bad("'from' is not before 'to'", "'from' is the earlier one; 'to' itself is not included"))
        }
        _ => Ok(range),
    }
}

/// Reads a time.
pub(super) fn time(name: &str, text: &str) -> Result<i64, ApiError> {
    let fix = "write a date such as 2026-11-26 or 2026-11-26T12:00:00, in UTC unless it says otherwise";
    When::parse_utc(text).map(When::as_micros).map_err(|_| wrong(name, text, fix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(query: &str) -> ApiError {
        let read = |params: &Params| {
            params.limit()?;
            params.after()?;
            params.range()?;
            params.flag("body")?;
            params.bug()?;
            params.state().map(|_| ())
        };
        let known = ["limit", "after", "from", "to", "body", "bug", "state"];
        Params::read(query, &known).and_then(|params| read(&params)).expect_err(query)
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (query, want) in [
            ("stat=queued", "unknown parameter 'stat'"),
            ("limit=1&limit=2", "'limit' is given twice"),
            ("limit=0", "limit: '0'"),
            ("limit=1001", "limit: '1001'"),
            ("limit=-1", "limit"),
            ("after=x", "after: 'x'"),
            ("from=soon", "from: 'soon'"),
            ("from=2026-11-26&to=2026-11-26", "'from' is not before 'to'"),
            ("body=yes", "body: 'yes'"),
            ("bug=0", "bug: '0'"),
            ("state=done", "state: 'done'"),
        ] {
            let error = refused(query);
            assert!(error.error.contains(want), "{query}: {}", error.error);
            assert!(!error.fix.is_empty());
        }
        assert_eq!(refused("stat=queued").fix, "did you mean 'state'?");
        assert!(Params::read("x=1", &[]).unwrap_err().fix.contains("none"));
    }

    #[test]
    fn an_empty_value_is_none() {
        let params = Params::read("from=&limit=", &["from", "limit"]).unwrap();
        assert_eq!((params.range().unwrap(), params.limit().unwrap()), (Range::default(), USUAL_PAGE));
    }
}
