//! Trackers whose lists are filtered, sorted and paged as the real ones' are; and a store in memory.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bugfeed_core::hooks::reconcile::{Known, Mark, Missing, Seen};
use bugfeed_protocol::{BugId, When};
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::{SECOND_US, TestClock};
use crate::receive::date;
use crate::test_server::{Got, Reply, Server};
use crate::tracker::Trouble;
use crate::tracker::reconcile::{Away, Desk};

/// The only key.
pub(super) const KEY: &str = "the-key";

#[derive(Clone, Copy)]
pub(super) struct Bug {
    pub(super) changed_us: i64,
    pub(super) private: bool,
}

/// What a tracker has.
pub(super) struct World {
    preset: &'static str,
    clock: TestClock,
    /// Its clock is so far ahead of the test's.
    pub(super) ahead_us: i64,
    /// Whether its answers say what time it is.
    dates: bool,
    pub(super) bugs: Mutex<BTreeMap<u64, Bug>>,
    pub(super) project_is_public: bool,
}

pub(super) struct Fake {
    pub(super) world: Arc<World>,
    pub(super) server: Server,
}

impl Fake {
    pub(super) async fn start(preset: &'static str, clock: &TestClock, project_is_public: bool) -> Fake {
        // Redmine's own server sends no date.
        let dates = preset != "redmine";
        let ahead_us = if dates { 3 * 3600 * SECOND_US } else { 0 };
        let world = World { preset, clock: clock.clone(), ahead_us, dates, bugs: Mutex::default(), project_is_public };
        let world = Arc::new(world);
        let answering = Arc::clone(&world);
        Fake { world, server: Server::start(move |got| answering.answer(got)).await }
    }
}

impl World {
    pub(super) fn tracker_us(&self) -> i64 {
        self.clock.now_us() + self.ahead_us
    }

    pub(super) fn change(&self, number: u64, changed_us: i64, private: bool) {
        self.bugs.lock().unwrap().insert(number, Bug { changed_us, private });
    }

    fn answer(&self, got: &Got) -> Reply {
        let (status, body, link) = self.body(got);
        let date = Timestamp::from_microsecond(self.tracker_us()).unwrap();
        let date = DateTimePrinter::new().timestamp_to_rfc9110_string(&date).unwrap();
        let date = if self.dates { format!("Date: {date}\r\n") } else { String::new() };
        let link = if link { "Link: <http://x/?page=2>; rel=\"next\"\r\n" } else { "" };
        Reply::full(status, &format!("Content-Type: application/json\r\n{date}{link}"), &body.to_string())
    }

    /// The bugs that changed since then, in order of numbers, and whether the caller has the key.
    fn list(&self, got: &Got, since: &str, key_header: &str) -> (Vec<(u64, Bug)>, bool) {
        let since = got.query(since).expect("it asks since when");
        let since = since.trim_start_matches(">=");
        assert!(since.ends_with('Z'), "{since}");
        let since_us = date::read_text(since, &jiff::tz::TimeZone::UTC).unwrap().as_micros();
        let has_key = got.header(key_header).is_some_and(|value| value.ends_with(KEY));
        let bugs = self.bugs.lock().unwrap();
        // Trackers compare what they show: seconds, except GitLab.
        let bugs = bugs.iter().filter(|(_, bug)| bug.changed_us >= since_us && (has_key || !bug.private));
        (bugs.map(|(number, bug)| (*number, *bug)).collect(), has_key)
    }

    fn body(&self, got: &Got) -> (u16, Value, bool) {
        let number = |name: &str| got.query(name).map_or(0, |text| text.parse::<usize>().unwrap());
        let is = |name: &str, value: &str| assert_eq!(got.query(name).as_deref(), Some(value), "{}", got.target);
        match (self.preset, got.path()) {
            ("bugzilla", "/rest/time") => (200, json!({"db_time": stamp(self.tracker_us()), "web_time": "x"}), false),
            ("bugzilla", "/rest/bug") => (200, self.bugzilla(got), false),
            ("github", "/api/v3/repos/o/r/issues") => {
                let (mut bugs, _) = self.list(got, "since", "authorization");
                is("sort", "updated");
                is("direction", "asc");
                is("state", "all");
                bugs.sort_by_key(|(number, bug)| (bug.changed_us, *number));
                self.forge(&bugs, number("page"), number("per_page"))
            }
            ("gitea", "/api/v1/repos/o/r/issues") => {
                let (mut bugs, _) = self.list(got, "since", "authorization");
                is("state", "all");
                bugs.reverse();
                // It gives no more than its own limit, whatever is asked for.
                self.forge(&bugs, number("page"), number("limit").min(30))
            }
            ("gitlab", "/api/v4/projects/o%2Fr/issues") => {
                let (mut bugs, _) = self.list(got, "updated_after", "private-token");
                is("order_by", "updated_at");
                is("sort", "asc");
                bugs.sort_by_key(|(number, bug)| (bug.changed_us, *number));
                let page: Vec<_> = bugs.iter().skip(number("per_page") * (number("page") - 1)).take(100).collect();
                let issue = |(number, bug): &&(u64, Bug)| json!({"id": number + 1000, "iid": number, "updated_at": stamp(bug.changed_us), "confidential": bug.private});
                (200, page.iter().map(issue).collect(), false)
            }
            ("gitlab", "/api/v4/projects/o%2Fr") => {
                (200, json!({"visibility": if self.project_is_public { "public" } else { "internal" }}), false)
            }
            ("redmine", "/issues.json") => {
                let (mut bugs, _) = self.list(got, "updated_on", "x-redmine-api-key");
                is("status_id", "*");
                is("sort", "updated_on,id");
                bugs.sort_by_key(|(number, bug)| (bug.changed_us, *number));
                let page: Vec<_> = bugs.iter().skip(number("offset")).take(number("limit")).collect();
                let issue = |(number, bug): &&(u64, Bug)| json!({"id": number, "updated_on": stamp(bug.changed_us), "is_private": bug.private, "project": {"id": 1, "name": "Pub"}});
                let issues: Vec<_> = page.iter().map(issue).collect();
                (200, json!({"issues": issues, "total_count": bugs.len()}), false)
            }
            ("redmine", "/projects/1.json") => {
                (200, json!({"project": {"id": 1, "identifier": "pub", "is_public": self.project_is_public}}), false)
            }
            ("github", "/api/v3/repos/o/r") | ("gitea", "/api/v1/repos/o/r") => {
                (200, json!({"private": !self.project_is_public}), false)
            }
            (preset, path) => panic!("{preset}: {path}"),
        }
    }

    fn bugzilla(&self, got: &Got) -> Value {
        let (mut bugs, has_key) = self.list(got, "last_change_time", "x-bugzilla-api-key");
        assert_eq!(got.query("order").as_deref(), Some("bug_id"));
        if let Some(after) = got.query("v1") {
            assert_eq!(got.query("f1").as_deref(), Some("bug_id"));
            assert_eq!(got.query("o1").as_deref(), Some("greaterthan"));
            bugs.retain(|(number, _)| *number > after.parse().unwrap());
        }
        bugs.truncate(got.query("limit").unwrap().parse().unwrap());
        assert_eq!(got.query("include_fields").unwrap().contains("groups"), has_key);
        let groups = |bug: &Bug| if bug.private { json!(["security"]) } else { json!([]) };
        let bug = |(number, bug): &(u64, Bug)| {
            let changed = stamp(bug.changed_us);
            json!({"id": number, "last_change_time": changed, "product": "P", "groups": groups(bug)})
        };
        json!({"bugs": bugs.iter().map(bug).collect::<Vec<_>>()})
    }

    fn forge(&self, bugs: &[(u64, Bug)], page: usize, limit: usize) -> (u16, Value, bool) {
        let on_page: Vec<_> = bugs.iter().skip(limit * (page - 1)).take(limit).collect();
        let issue = |(number, bug): &&(u64, Bug)| json!({"id": number + 1000, "number": number, "updated_at": stamp(bug.changed_us)});
        (200, on_page.iter().map(issue).collect(), bugs.len() > limit * page)
    }
}

fn stamp(us: i64) -> String {
    format!("{}Z", When::from_micros(us).unwrap())
}

/// A store in memory.
#[derive(Default)]
pub(super) struct Memory {
    pub(super) state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) known: HashMap<BugId, Known>,
    pub(super) marks: HashMap<String, Mark>,
    pub(super) inserted: Vec<Missing>,
    pub(super) missed: Vec<Missing>,
    pub(super) rounds: usize,
    pub(super) troubles: Vec<String>,
    pub(super) away: bool,
}

impl Memory {
    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        let result = work(&mut self.state.lock().unwrap());
        self.changed.notify_waiters();
        result
    }

    fn here<T>(&self, work: impl FnOnce(&mut State) -> T) -> Result<T, Away> {
        self.with(|state| if state.away { Err(Away("the store is away".to_owned())) } else { Ok(work(state)) })
    }

    /// Waits until it is so.
    pub(super) async fn until(&self, what: &str, is_so: impl Fn(&State) -> bool) {
        let waiting = async {
            loop {
                let changed = self.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if is_so(&self.state.lock().unwrap()) {
                    return;
                }
                changed.await;
            }
        };
        let result = tokio::time::timeout(Duration::from_secs(20), waiting).await;
        assert!(result.is_ok(), "{what}: {:?}", self.state.lock().unwrap().troubles);
    }
}

impl Desk for Memory {
    async fn mark(&self, source: &str, project: &str) -> Result<Option<Mark>, Away> {
        assert_eq!(source, "s");
        self.here(|state| state.marks.get(project).copied())
    }

    async fn keep_mark(&self, _: &str, project: &str, mark: Mark) -> Result<(), Away> {
        self.here(|state| {
            state.marks.insert(project.to_owned(), mark);
        })
    }

    async fn known(&self, _: &str, bugs: &[Seen]) -> Result<Vec<Known>, Away> {
        self.here(|state| bugs.iter().map(|seen| state.known.get(&seen.bug).copied().unwrap_or_default()).collect())
    }

    async fn insert(&self, _: &str, missing: &[Missing]) -> Result<(), Away> {
        self.here(|state| {
            for seen in missing {
                let known = state.known.entry(seen.bug).or_default();
                known.newest = known.newest.max(Some(seen.changed));
            }
            state.inserted.extend(missing.iter().cloned());
        })
    }

    fn missed(&self, _: &str, missed: &[Missing], more: u64) {
        assert_eq!(more, 0);
        self.with(|state| state.missed.extend(missed.iter().cloned()));
    }

    fn troubled(&self, _: &str, _: &str, trouble: Option<&Trouble>) {
        self.with(|state| match trouble {
            Some(trouble) => state.troubles.push(trouble.to_string()),
            None => state.rounds += 1,
        });
    }
}
