//! Which tracker a source has: its kind, the addresses of its API, and the projects it is asked about.
//!
//! Goes in: a source of the configuration. Comes out: a [`Tracker`], or [`CannotAsk`] with what to change. Pure.

use std::sync::Arc;

use bugfeed_core::hooks::SECOND_US;
use bugfeed_core::hooks::breaker;
use bugfeed_core::hooks::reconcile::Settings;

use super::api::Api;
use super::bugzilla::Bugzilla;
use super::forge::Forge;
use super::gitlab::GitLab;
use super::redmine::Redmine;
use crate::client::Address;
use crate::config::feed::{DEFAULT_FEED, FeedRule};
use crate::config::mapping::Members;
use crate::config::source::{Private, Source};

/// A kind of tracker that can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Bugzilla 5.0 or newer, or bugzilla.mozilla.org.
    Bugzilla,
    /// GitHub, or GitHub Enterprise Server.
    GitHub,
    /// GitLab.
    GitLab,
    /// Gitea or Forgejo.
    Gitea,
    /// Redmine, whose webhooks come from its core or from the plugin.
    Redmine {
        /// From the plugin, which calls projects by their identifiers.
        is_plugin: bool,
    },
}

impl Kind {
    /// Whether bugs are numbered anew in each project.
    fn numbers_by_project(self) -> bool {
        matches!(self, Kind::GitHub | Kind::GitLab | Kind::Gitea)
    }
}

/// Why a source's tracker cannot be asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("source {source_name}: {problem}; {fix}")]
pub struct CannotAsk {
    /// The source.
    pub source_name: String,
    /// What is wrong.
    pub problem: String,
    /// What to do.
    pub fix: String,
}

/// A part of a tracker that has a list of changed bugs of its own: a project where numbers are given by project, otherwise
/// the whole tracker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// The project; empty for the whole tracker. With the source's name it identifies the scope.
    pub project: String,
    /// The feed of its bugs. `None`: it depends on each bug's project.
    pub feed: Option<Arc<str>>,
}

/// A source's tracker.
#[derive(Clone)]
pub struct Tracker {
    pub(super) source: Arc<str>,
    pub(super) kind: Kind,
    /// Asks as anybody.
    pub(super) api: Arc<dyn Api>,
    /// Asks for lists: with a key, if the configuration says so.
    pub(super) list_api: Arc<dyn Api>,
    pub(super) as_key: bool,
    /// The address of the API, without `/` at the end.
    pub(super) base: String,
    scopes: Vec<Scope>,
    pub(super) feed: FeedRule,
    announces_private: bool,
    every_us: Option<i64>,
}

impl Tracker {
    /// The tracker of a source.
    ///
    /// # Errors
    /// If it has none, is of another kind, or nothing says which projects to ask about.
    pub fn of(source: &Source) -> Result<Tracker, CannotAsk> {
        let refuse =
            |problem: String, fix: &str| CannotAsk { source_name: source.name.clone(), problem, fix: fix.to_owned() };
        let Some(url) = &source.tracker else {
            return Err(refuse("the tracker's address is not known".to_owned(), "add tracker = \"https://…\""));
        };
        let Some(kind) = kind_of(source.preset) else {
            let problem = match source.preset {
                Some("jira" | "launchpad") => {
                    format!("trackers of preset {} are not asked", source.preset.unwrap_or_default())
                }
                _ => "a tracker without a preset cannot be asked".to_owned(),
            };
            let fix =
                "leave verify and reconcile out; trackers of bugzilla, github, gitlab, gitea and redmine can be asked";
            return Err(refuse(problem, fix));
        };
        let address = Address::parse(url).map_err(|error| refuse(error.to_string(), "mend tracker"))?;
        let (base, project) = base_and_project(kind, url, &address.origin().host);
        let feed = feed_of(kind, source).map_err(|(problem, fix)| refuse(problem, fix))?;
        let scopes = scopes(kind, project.as_deref(), &feed).map_err(|(problem, fix)| refuse(problem, fix))?;
        Ok(Tracker {
            source: source.name.as_str().into(),
            kind,
            api: api(kind, false),
            list_api: api(kind, source.reconcile_as_key),
            as_key: source.reconcile_as_key,
            base,
            scopes,
            feed,
            announces_private: source.private == Private::Announce,
            every_us: source.reconcile.map(|every| i64::try_from(every.as_micros()).unwrap_or(i64::MAX)),
        })
    }

    /// The kind.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// What is reconciled, each by a reconciler of its own.
    pub fn scopes(&self) -> &[Scope] {
        &self.scopes
    }

    /// How a scope is reconciled.
    pub fn reconciling(&self) -> Settings {
        let mut settings = Settings::new(self.api.paging());
        settings.every_us = self.every_us.unwrap_or(settings.every_us);
        settings.private = self.announces_private;
        if self.kind == Kind::Bugzilla {
            // Its administrators ask for 5 minutes between two questions; a little is for our own clock.
            settings.least_us = 300 * SECOND_US;
        }
        settings
    }

    /// How it may be asked.
    pub fn limits(&self) -> breaker::Options {
        let usual = breaker::Options::default();
        match self.kind {
            // 60 questions an hour without a key; the answers say how many are left.
            Kind::GitHub => breaker::Options { per_second: 1, burst: 10, ..usual },
            Kind::Bugzilla => breaker::Options { per_second: 2, burst: 10, ..usual },
            _ => usual,
        }
    }

    /// The project of a feed's bugs; empty where numbers are those of the whole tracker.
    pub(super) fn project_of(&self, feed: &str) -> Option<&str> {
        match &self.scopes[..] {
            [only] if only.feed.is_none() => Some(&only.project),
            scopes => {
                let mut fit = scopes.iter().filter(|scope| scope.feed.as_deref() == Some(feed));
                fit.next().map(|scope| scope.project.as_str())
            }
        }
    }

    /// The URL of a path of the API.
    pub(super) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }
}

impl std::fmt::Debug for Tracker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tracker({}, {:?}, {})", self.source, self.kind, self.base)
    }
}

fn kind_of(preset: Option<&str>) -> Option<Kind> {
    match preset? {
        "bugzilla" => Some(Kind::Bugzilla),
        "github" => Some(Kind::GitHub),
        "gitlab" => Some(Kind::GitLab),
        "gitea" => Some(Kind::Gitea),
        "redmine" => Some(Kind::Redmine { is_plugin: false }),
        "redmine-plugin" => Some(Kind::Redmine { is_plugin: true }),
        _ => None,
    }
}

fn api(kind: Kind, as_key: bool) -> Arc<dyn Api> {
    match kind {
        Kind::Bugzilla => Arc::new(Bugzilla { as_key }),
        Kind::GitHub => Arc::new(Forge { is_github: true }),
        Kind::Gitea => Arc::new(Forge { is_github: false }),
        Kind::GitLab => Arc::new(GitLab),
        Kind::Redmine { .. } => Arc::new(Redmine),
    }
}

/// The address of the API, and the project, if `tracker` is the address of one (`https://github.com/OWNER/NAME`).
fn base_and_project(kind: Kind, url: &str, host: &str) -> (String, Option<String>) {
    let url = url.trim_end_matches('/');
    if !kind.numbers_by_project() {
        return (url.to_owned(), None);
    }
    let (scheme, rest) = url.split_once("://").unwrap_or(("https", url));
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let api = match kind {
        Kind::GitHub if host == "api.github.com" => "",
        Kind::GitHub => "api/v3",
        Kind::GitLab => "api/v4",
        _ => "api/v1",
    };
    // Where the API's own address is given, it may lie below a prefix.
    let (base, path) = match path.find(api).filter(|_| !api.is_empty()) {
        Some(at) => (format!("{scheme}://{authority}/{}", &path[..at + api.len()]), &path[at + api.len()..]),
        None if host == "github.com" || host == "www.github.com" => ("https://api.github.com".to_owned(), path),
        None => (format!("{scheme}://{authority}/{api}").trim_end_matches('/').to_owned(), path),
    };
    let project = path.trim_matches('/').trim_end_matches(".git");
    (base, project.contains('/').then(|| project.to_owned()))
}

/// The rule by which a bug's project chooses its feed. The error is a problem and its fix.
fn feed_of(kind: Kind, source: &Source) -> Result<FeedRule, (String, &'static str)> {
    let mut rules = source.mapping.rules.iter().filter(|rule| rule.answer.is_none());
    let feed = |members: &Members| members.feed.clone().unwrap_or_else(|| FeedRule::Fixed(DEFAULT_FEED.to_owned()));
    let Some(first) = rules.next() else {
        return Err(("no rule makes changes".to_owned(), "leave verify and reconcile out"));
    };
    let rule = feed(&first.members);
    if rules.clone().any(|other| feed(&other.members) != rule) {
        let problem = "the feed depends on the kind of event, which a list of changed bugs does not tell".to_owned();
        return Err((problem, "say feed once, for the whole source"));
    }
    let known = project_place(kind);
    let is_other = |members: &Members| {
        let places = members.project.iter().flatten().map(ToString::to_string);
        places.into_iter().any(|place| place != known)
    };
    let mut all = std::iter::once(first).chain(rules);
    if matches!(rule, FeedRule::Map { .. }) && all.any(|rule| is_other(&rule.members)) {
        let problem =
            format!("the feed depends on something else than {known}, which a list of changed bugs does not tell");
        return Err((problem, "leave verify and reconcile out, or map that"));
    }
    Ok(rule)
}

/// Where the webhooks of a tracker say what the lists of its API say, too: the project.
fn project_place(kind: Kind) -> &'static str {
    match kind {
        Kind::Bugzilla => "/bug/product",
        Kind::GitHub | Kind::Gitea => "/repository/full_name",
        Kind::GitLab => "/project/path_with_namespace",
        Kind::Redmine { is_plugin: false } => "/data/issue/project/id",
        Kind::Redmine { is_plugin: true } => "/payload/issue/project/identifier",
    }
}

/// What there is to ask about. The error is a problem and its fix.
fn scopes(kind: Kind, project: Option<&str>, feed: &FeedRule) -> Result<Vec<Scope>, (String, &'static str)> {
    let fixed = match feed {
        FeedRule::Fixed(name) => Some(Arc::from(name.as_str())),
        FeedRule::Map { .. } => None,
    };
    if !kind.numbers_by_project() {
        return Ok(vec![Scope { project: String::new(), feed: fixed }]);
    }
    let of_project =
        |project: &str| Scope { project: project.to_owned(), feed: feed.choose(Some(project)).map(Arc::from) };
    let scopes: Vec<Scope> = match (project, feed) {
        (Some(project), _) => vec![of_project(project)],
        (None, FeedRule::Map { map, .. }) => {
            map.iter().filter(|(glob, _)| glob.is_literal()).map(|(glob, _)| of_project(glob.as_str())).collect()
        }
        (None, FeedRule::Fixed(_)) => Vec::new(),
    };
    let scopes: Vec<Scope> = scopes.into_iter().filter(|scope| scope.feed.is_some()).collect();
    if scopes.is_empty() {
        let fix = "write tracker = \"https://HOST/OWNER/PROJECT\", or the projects in feed = { map = { \"OWNER/PROJECT\" = \"FEED\" } }; patterns are not enough";
        return Err(("nothing says which projects to ask about".to_owned(), fix));
    }
    let other = |scope: &Scope| scopes.iter().find(|other| other.feed == scope.feed && other.project != scope.project);
    if let Some((one, other)) = scopes.iter().find_map(|scope| Some((scope, other(scope)?))) {
        let feed = one.feed.as_deref().unwrap_or_default();
        let problem = format!(
            "the feed {feed} has several projects, each with numbers of its own: {}, {}",
            one.project, other.project
        );
        return Err((problem, "give each project a feed of its own"));
    }
    Ok(scopes)
}
