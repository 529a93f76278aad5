//! `[[source]]`: a sender, and what is done with what it sends.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::auth::{KeyPlace, Signature, any_key, read_auth};
use super::error::ConfigError;
use super::feed::{DEFAULT_FEED, FeedRule};
use super::mapping::Mapping;
use super::notify::{check_http_url, read_path};
use super::presets;
use super::reader::{Fields, Node};
use super::secret::Secret;

/// A sender: how it proves who it is, how its requests become changes, and what is done with them.
#[derive(Clone, Debug)]
pub struct Source {
    /// The name, as in `POST /hooks/NAME`.
    pub name: String,
    /// The preset that it begins with.
    pub preset: Option<&'static str>,
    /// Secrets that a signature may fit; several while one is being replaced. If there is any, a request is accepted
    /// only with a signature that fits one, and a key is no replacement. If there is none, a key is needed.
    pub secrets: Vec<Secret>,
    /// The forms of signature of which one must fit.
    pub signatures: Vec<Signature>,
    /// Where a key may stand.
    pub keys: Vec<KeyPlace>,
    /// How requests become changes.
    pub mapping: Mapping,
    /// How requests are answered.
    pub answers: Answers,
    /// What a duplicate is.
    pub duplicates: Duplicates,
    /// What happens to events that are older than another of the same bug.
    pub older: Older,
    /// What happens to private bugs.
    pub private: Private,
    /// What happens to the events behind a dead letter.
    pub dead_letters: DeadLetters,
    /// When a dead letter is tried again.
    pub retry: Retry,
    /// Which bodies are kept.
    pub bodies: Bodies,
    /// The tracker's address, for asking it.
    pub tracker: Option<String>,
    /// A file with a key for the tracker's API.
    pub tracker_key_file: Option<PathBuf>,
    /// The reconciler asks with that key, not anonymously.
    pub reconcile_as_key: bool,
    /// The tracker is asked whether a bug is visible before it is announced.
    pub verify: bool,
    /// How often the tracker is asked what changed.
    pub reconcile: Option<Duration>,
}

/// How requests are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answers {
    /// 200 in all cases.
    Always200,
    /// 401, 413, 429, 503 where they fit.
    Honest,
}

/// What a duplicate is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duplicates {
    /// An event with the same content.
    ByContent,
    /// An event with the same time.
    ByTime,
}

/// What happens to events that are older than another of the same bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Older {
    /// They are announced.
    Announce,
    /// They are dropped.
    Drop,
}

/// What happens to private bugs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Private {
    /// They are dropped.
    Drop,
    /// Their number and time are announced.
    Announce,
}

/// What happens to the events behind a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeadLetters {
    /// They wait.
    Hold,
    /// A newer one that completes cancels the older ones.
    Supersede,
}

/// When a dead letter is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// After 1, 5, 30 min, 2 h, then every 12 h.
    Current,
    /// Every 12 h.
    Classic,
}

/// Which bodies are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bodies {
    /// Of errored and quarantined requests.
    Errors,
    /// All.
    All,
    /// None.
    None,
}

/// Reads a file that a configuration names. The error says why it cannot be read, in a few words.
pub type ReadFile<'a> = &'a dyn Fn(&Path) -> Result<String, String>;

/// The shortest time between two questions to a tracker.
const SHORTEST_RECONCILE: Duration = Duration::from_secs(60);
/// The same for Bugzilla, whose administrators ask for it.
const SHORTEST_RECONCILE_BUGZILLA: Duration = Duration::from_secs(300);
/// Presets whose trackers can be asked what changed.
const CAN_RECONCILE: [&str; 6] = ["bugzilla", "gitea", "github", "gitlab", "redmine", "redmine-plugin"];

/// The presets whose senders have no field for a header or a key.
const SIGN_ONLY: [&str; 4] = ["github", "jira", "launchpad", "redmine"];

impl Source {
    /// A source of which only the name is known.
    fn named(name: &str) -> Source {
        Source {
            name: name.to_owned(),
            preset: None,
            secrets: Vec::new(),
            signatures: Vec::new(),
            keys: any_key(),
            mapping: Mapping::default(),
            answers: Answers::Always200,
            duplicates: Duplicates::ByContent,
            older: Older::Announce,
            private: Private::Drop,
            dead_letters: DeadLetters::Hold,
            retry: Retry::Current,
            bodies: Bodies::Errors,
            tracker: None,
            tracker_key_file: None,
            reconcile_as_key: false,
            verify: false,
            reconcile: None,
        }
    }

    /// A source that is a preset and nothing else.
    pub(crate) fn of_preset(preset: &'static str, name: &str) -> Result<Source, ConfigError> {
        let mut source = Source::named(name);
        source.preset = Some(preset);
        presets::read(preset, |fields| {
            source.read_layer(fields, Layer::Preset)?;
            source.mapping.finish(fields)
        })?;
        source.mapping.own.clear();
        Ok(source)
    }

    /// Reads one `[[source]]` of a user.
    pub(crate) fn read(fields: &mut Fields<'_>, read_file: ReadFile<'_>) -> Result<Source, ConfigError> {
        let name = fields.get("name").ok_or_else(|| {
            fields.error("this source has no name", "add name = \"NAME\"; it is received at /hooks/NAME")
        })?;
        let mut source = Source::named(read_name(&name)?);
        fields.key = format!("source.{}", source.name);
        if let Some(node) = fields.get("preset") {
            if let Some(advice) = node.text().ok().and_then(presets::instead_of) {
                return Err(node.error(format!("there is no preset \"{}\"", node.text()?), advice));
            }
            let names: Vec<_> = presets::NAMES.iter().map(|name| (*name, *name)).collect();
            let preset = node.one_of(&names)?;
            source.preset = Some(preset);
            presets::read(preset, |fields| source.read_layer(fields, Layer::Preset))?;
            source.mapping.own.clear();
        }
        source.read_layer(fields, Layer::User(read_file))?;
        fields.finish()?;
        source.mapping.finish(fields)?;
        source.check(fields)?;
        Ok(source)
    }

    fn read_layer(&mut self, fields: &mut Fields<'_>, layer: Layer<'_>) -> Result<(), ConfigError> {
        self.read_access(fields, layer)?;
        self.mapping.read(fields)?;
        self.read_policies(fields)?;
        self.read_tracker(fields)
    }

    /// `auth`, `path_key`, `secret`, `secret_file`.
    fn read_access(&mut self, fields: &mut Fields<'_>, layer: Layer<'_>) -> Result<(), ConfigError> {
        let auth_node = fields.get("auth");
        let is_preset = matches!(layer, Layer::Preset);
        let auth = auth_node.as_ref().map(|node| read_auth(node, is_preset)).transpose()?.unwrap_or_default();
        let (says_keys, says_signatures) = (auth.keys.is_some(), auth.signatures.is_some());
        self.keys = auth.keys.unwrap_or_else(|| self.keys.clone());
        self.signatures = auth.signatures.unwrap_or_else(|| self.signatures.clone());
        if let Some(node) = fields.get("path_key") {
            self.keys.retain(|place| *place != KeyPlace::Path);
            if node.boolean()? {
                self.keys.push(KeyPlace::Path);
            }
        }
        let Layer::User(read_file) = layer else { return Ok(()) };
        if let Some(node) = fields.get("secret") {
            for node in node.list() {
                self.secrets.push(check_secret(node.text()?, &node)?);
            }
            self.check_secrets(&node)?;
        }
        if let Some(node) = fields.get("secret_file") {
            for node in node.list() {
                let text = read_file(read_path(&node)?).map_err(|why| {
                    node.error(format!("the file cannot be read: {why}"), "it holds the secret alone")
                })?;
                self.secrets.push(check_secret(text.trim_end_matches(['\n', '\r']), &node)?);
            }
            self.check_secrets(&node)?;
        }
        match auth_node {
            Some(node) if says_keys && !self.secrets.is_empty() => Err(node.error(
                "a source with a secret accepts signatures only, so no key is looked for",
                "leave out either the secret or the way of the key",
            )),
            Some(node) if says_signatures && !says_keys && self.secrets.is_empty() => Err(node.error(
                "the source has no secret by which this could be checked",
                "add secret_file = \"FILE\"; or, if a header is to carry a key, write auth = { header = \"X-My-Key\" }",
            )),
            _ => Ok(()),
        }
    }

    fn check_secrets(&self, node: &Node<'_>) -> Result<(), ConfigError> {
        if self.secrets.is_empty() {
            return Err(node.error("the list is empty", "give a secret, or leave this out and use a key"));
        }
        if !self.signatures.is_empty() {
            return Ok(());
        }
        let problem = match self.preset {
            Some(preset) => format!("senders of preset \"{preset}\" sign nothing, so a secret would refuse all"),
            None => "nothing says how the sender signs".to_owned(),
        };
        let fix = "leave the secret out and give the sender a key, or say how it signs, as in auth = { hmac-sha256 = \"X-My-Signature\" }, or that it sends the secret itself, as in auth = { token = \"X-My-Token\" }";
        Err(node.error(problem, fix))
    }

    fn read_policies(&mut self, fields: &mut Fields<'_>) -> Result<(), ConfigError> {
        let answers = [("always-200", Answers::Always200), ("honest", Answers::Honest)];
        choose(fields, "answers", &answers, &mut self.answers)?;
        let duplicates = [("by-content", Duplicates::ByContent), ("by-time", Duplicates::ByTime)];
        choose(fields, "duplicates", &duplicates, &mut self.duplicates)?;
        choose(fields, "older", &[("announce", Older::Announce), ("drop", Older::Drop)], &mut self.older)?;
        choose(fields, "private", &[("drop", Private::Drop), ("announce", Private::Announce)], &mut self.private)?;
        let dead_letters = [("hold", DeadLetters::Hold), ("supersede", DeadLetters::Supersede)];
        choose(fields, "dead_letters", &dead_letters, &mut self.dead_letters)?;
        choose(fields, "retry", &[("current", Retry::Current), ("classic", Retry::Classic)], &mut self.retry)?;
        let bodies = [("errors", Bodies::Errors), ("all", Bodies::All), ("none", Bodies::None)];
        choose(fields, "bodies", &bodies, &mut self.bodies)
    }

    fn read_tracker(&mut self, fields: &mut Fields<'_>) -> Result<(), ConfigError> {
        if let Some(node) = fields.get("tracker") {
            let text = node.text()?;
            check_http_url(text).map_err(|fix| node.error("this is no address of a tracker", fix))?;
            if text.contains('@') {
                return Err(node.error("the address holds a name or password", "use tracker_key_file"));
            }
            self.tracker = Some(text.trim_end_matches('/').to_owned());
        }
        if let Some(node) = fields.get("tracker_key_file") {
            self.tracker_key_file = Some(read_path(&node)?.to_owned());
        }
        for (name, place) in [("reconcile_as_key", &mut self.reconcile_as_key), ("verify", &mut self.verify)] {
            if let Some(node) = fields.get(name) {
                *place = node.boolean()?;
            }
        }
        if let Some(node) = fields.get("reconcile") {
            self.reconcile = Some(read_duration(&node)?);
        }
        Ok(())
    }

    /// Checks what no member can check alone.
    fn check(&self, fields: &mut Fields<'_>) -> Result<(), ConfigError> {
        let mut refuse = |name: &'static str, problem: String, fix: &str| match fields.get(name) {
            Some(node) => Err(node.error(problem, fix)),
            None => Err(fields.error(problem, fix)),
        };
        if self.keys.is_empty() && self.secrets.is_empty() {
            return refuse(
                "auth",
                "no request could be accepted".to_owned(),
                "say how a key comes in, as in auth = \"bearer\"",
            );
        }
        if self.verify && self.private == Private::Announce {
            let problem =
                "verify asks the tracker what everybody may see, and private = \"announce\" tells of what they may not";
            return refuse("private", problem.to_owned(), "leave one of them out");
        }
        for (name, is_on) in [("verify", self.verify), ("reconcile", self.reconcile.is_some())] {
            if is_on && self.tracker.is_none() {
                let fix = "add tracker = \"https://…\"";
                return refuse(name, "this needs the tracker's address".to_owned(), fix);
            }
            if is_on && !self.preset.is_some_and(|preset| CAN_RECONCILE.contains(&preset)) {
                let problem = format!("only trackers of these presets can be asked: {}", CAN_RECONCILE.join(", "));
                return refuse(name, problem, "leave it out");
            }
        }
        let shortest = if self.preset == Some("bugzilla") { SHORTEST_RECONCILE_BUGZILLA } else { SHORTEST_RECONCILE };
        if self.reconcile.is_some_and(|every| every < shortest) {
            let problem = format!("a tracker is asked at most every {} s", shortest.as_secs());
            return refuse("reconcile", problem, "use a longer time, such as \"5m\"");
        }
        if self.reconcile_as_key && (self.tracker_key_file.is_none() || self.reconcile.is_none()) {
            let problem = "this needs tracker_key_file and reconcile";
            return refuse("reconcile_as_key", problem.to_owned(), "add them, or leave it out");
        }
        Ok(())
    }

    /// Whether its sender, by its preset, can do nothing but sign, and there is no secret to check that with; nor does the
    /// user say how a key comes in instead.
    pub fn lacks_secret(&self) -> bool {
        let signs = self.preset.is_some_and(|preset| SIGN_ONLY.contains(&preset));
        signs && self.secrets.is_empty() && self.keys == any_key()
    }

    /// What to do about a source that lacks a secret.
    pub fn secret_advice(&self) -> String {
        let name = &self.name;
        format!(
            "add secret_file = \"{name}.secret\" to source '{name}', and enter the same secret at the sender; or add \
             path_key = true, and let the sender POST to /hooks/{name}/KEY"
        )
    }

    /// The feeds that this source names.
    pub fn feeds(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self
            .mapping
            .rules
            .iter()
            .filter(|rule| rule.answer.is_none())
            .flat_map(|rule| rule.members.feed.as_ref().map_or_else(|| vec![DEFAULT_FEED], FeedRule::names))
            .collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}

/// Whose members are read.
#[derive(Clone, Copy)]
enum Layer<'a> {
    Preset,
    User(ReadFile<'a>),
}

fn choose<T: Copy>(
    fields: &mut Fields<'_>,
    name: &'static str,
    words: &[(&str, T)],
    place: &mut T,
) -> Result<(), ConfigError> {
    if let Some(node) = fields.get(name) {
        *place = node.one_of(words)?;
    }
    Ok(())
}

fn read_name<'a>(node: &Node<'a>) -> Result<&'a str, ConfigError> {
    let name = node.text()?;
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    if name.is_empty() || name.len() > 64 || !name.chars().all(plain) {
        let fix = "a source's name is 1 to 64 of a-z, 0-9, '-' and '_', because it becomes a path: /hooks/NAME";
        return Err(node.error(format!("\"{name}\" cannot be the name of a source"), fix));
    }
    Ok(name)
}

fn check_secret(text: &str, node: &Node<'_>) -> Result<Secret, ConfigError> {
    if text.trim().is_empty() || text == "whsec_" {
        return Err(node.error("the secret is empty", "make one, for example with: openssl rand -hex 32"));
    }
    Ok(Secret::new(text))
}

/// Reads a time such as `30s`, `5m`, `2h`, `1d`.
fn read_duration(node: &Node<'_>) -> Result<Duration, ConfigError> {
    let text = node.text()?;
    let unit = match text.chars().next_back() {
        Some('s') => 1,
        Some('m') => 60,
        Some('h') => 3_600,
        Some('d') => 86_400,
        _ => 0,
    };
    let number = text.get(..text.len().saturating_sub(1)).and_then(|number| number.parse::<u32>().ok());
    match number {
        Some(number) if unit > 0 && number > 0 => Ok(Duration::from_secs(u64::from(number) * unit)),
        _ => Err(node.error("this is no length of time", "write a number and s, m, h or d, as in \"5m\"")),
    }
}
