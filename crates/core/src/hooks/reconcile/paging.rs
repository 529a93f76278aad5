//! How a tracker's list of changed bugs is read page by page, so that no bug is passed over while others change.

use bugfeed_protocol::When;

use super::{Page, Question, SLACK_US};

/// How a list is paged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Paging {
    /// In order of numbers; the next page has greater ones. A bug that changes meanwhile, or leaves the list, moves no
    /// other.
    ByNumber,
    /// In order of times, oldest first; the next page begins at the time of the last bug of this one. Where a whole page
    /// has one time, the second page of that time follows. A bug that changes meanwhile moves to the end.
    ByTime,
    /// By page number, in an order that no change disturbs (of creation).
    ByPage,
}

/// Why a round cannot go on: the tracker does not do what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stuck {
    /// A page does not begin where the last one ended.
    SamePage,
    /// A page holds bugs that are older than what was asked for.
    NotSorted,
    /// There are more pages than allowed.
    TooManyPages,
}

impl std::fmt::Display for Stuck {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Stuck::SamePage => "the tracker sends the same page again",
            Stuck::NotSorted => "the tracker does not sort its list by time",
            Stuck::TooManyPages => "the tracker has more pages than are read",
        })
    }
}

impl std::error::Error for Stuck {}

impl Paging {
    /// The question after this page. `None`: it was the last one.
    ///
    /// # Errors
    /// If the page does not follow from the question.
    pub(super) fn next(self, question: &Question, page: &Page) -> Result<Option<Question>, Stuck> {
        let (true, Some((bug, changed))) = (page.more, page.last) else { return Ok(None) };
        match self {
            Paging::ByNumber if question.after.is_some_and(|after| bug <= after) => Err(Stuck::SamePage),
            Paging::ByNumber => Ok(Some(Question { after: Some(bug), ..*question })),
            Paging::ByTime if question.since.is_some_and(|since| is_older(changed, since)) => Err(Stuck::NotSorted),
            Paging::ByTime if Some(changed) > question.since => {
                Ok(Some(Question { since: Some(changed), after: None, page: 1 }))
            }
            Paging::ByTime | Paging::ByPage => Ok(Some(Question { page: question.page + 1, ..*question })),
        }
    }
}

/// Whether a bug should not be on the page. Redmine's "from this second on" begins a second before, and all trackers cut
/// fractions.
fn is_older(changed: When, since: When) -> bool {
    changed.as_micros() < since.as_micros() - SLACK_US
}
