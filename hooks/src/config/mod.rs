//! The configuration of `bugfeed hooks`: who sends, and what becomes of it.
//!
//! Goes in: the text of a TOML file. Comes out: a [`HooksConfig`] in which everything was checked, or one
//! [`ConfigError`] that names file, line, member and what is allowed. It never opens a file (the caller passes a closure
//! that does), and no error and no `Debug` shows a secret.
//!
//! # Members of `[[source]]`
//!
//! | member | value | without it |
//! |---|---|---|
//! | `name` | the source's name: `POST /hooks/NAME` | refused |
//! | `preset` | one of [`presets::NAMES`]; what stands beside it replaces what the preset says | a mapping of its own |
//! | `auth` | `"any"`, `"bearer"`, `"basic"`, `"path"`, `{ header = "X-My-Key" }`: where a key stands; `"standard-webhooks"`, `{ token = "X-My-Token" }`, `{ hmac-sha256 = "X-My-Signature", prefix = "sha256=", encoding = "hex" or "base64", over = "body" or "payload" }`: how the sender signs; or a list | any key |
//! | `path_key` | `true`: a key may be the last part of the path | `false` |
//! | `secret`, `secret_file` | text, or a list while one is being replaced; then only signed requests are accepted | a key is needed |
//! | `unwrap` | `"form:FIELD"`: where the JSON is, if the body is a form | |
//! | `ndjson` | `true`: the body may be one JSON value a line | `false` |
//! | `items` | JSON Pointers to the list of items, tried in order | the body is the item |
//! | `timezone` | the zone of dates without one | `"UTC"` |
//! | `id`, `kind`, `action` | *places* of the delivery's id; of the kind of event; of what is added to the kind after a dot | none |
//! | `bug`, `when`, `project`, `is_private`, `identity`, `feed` | as in a rule; holds for the rules that do not say it | |
//! | `on."GLOB"` | a *rule* for events of these kinds; the first that fits counts | one rule for all |
//! | `answers` | `"always-200"`, `"honest"` | the first, as below |
//! | `duplicates` | `"by-content"`, `"by-time"` | |
//! | `older` | `"announce"`, `"drop"` | |
//! | `private` | `"drop"`, `"announce"` | |
//! | `dead_letters` | `"hold"`, `"supersede"` | |
//! | `retry` | `"current"`, `"classic"` | |
//! | `bodies` | `"errors"`, `"all"`, `"none"` | |
//! | `tracker`, `tracker_key_file`, `verify`, `reconcile`, `reconcile_as_key` | the tracker's address, a key for it, and what it is asked | it is not asked |
//!
//! # Members of a rule
//!
//! | member | value | without it |
//! |---|---|---|
//! | `if` | places of which one must be found, otherwise the next rule is tried | it holds |
//! | `answer` | `"ignored"`, `"connected"`: the event is no change | it is a change |
//! | `bug` | places of the number; the first usable one counts | refused |
//! | `when` | places of the time, or `"now"`; the first date counts | the time of arrival |
//! | `project` | places of the tracker's project | none |
//! | `is_private` | places that say that the bug is private; one is enough | public |
//! | `identity` | places that tell events apart which have no delivery id, beside bug, time and kind | the whole item |
//! | `feed` | a name, or `{ from = places of the project, map = { "PROJECT or GLOB" = "FEED" }, else = "FEED" or "drop" }` | `"default"` |
//!
//! A *place* is a JSON Pointer into the item (`"/issue/number"`), one into the whole body (`"root:/team"`), a header
//! (`"header:X-Kind"`), or one of these with a pattern, whose first group counts:
//! `{ from = "/key", match = "-([0-9]+)$" }`. Where several are allowed, a list may stand.
//!
//! # Members of `[[notify]]`
//!
//! `on`: some of [`notify::SUBJECTS`], `"endpoints"` or `"all"`; `sources`: of which sources (all); and one of `url`, `url_file`,
//! `command = ["PROGRAM", …]`, `smtp = { server or server_file, from, to }`.
//!
//! # Files
//!
//! How one source becomes rules: `source.rs` reads `[[source]]` over its preset (`presets.rs`), `mapping.rs` the
//! members that say where bug and time are, `feed.rs` which feed, `auth.rs` how the sender proves who it is. All of
//! them read through `reader.rs`, which knows the lines.

pub mod auth;
mod error;
pub mod feed;
pub mod mapping;
pub mod notify;
pub mod presets;
mod reader;
mod secret;
pub mod source;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

pub use error::ConfigError;
pub use notify::Notify;
pub use secret::Secret;
pub use source::{ReadFile, Source};

use self::reader::{Fields, File};

/// The whole configuration.
#[derive(Clone, Debug)]
pub struct HooksConfig {
    /// The sources, in the order of the file; their names differ.
    pub sources: Vec<Source>,
    /// Who is told of what.
    pub notify: Vec<Notify>,
}

impl HooksConfig {
    /// Reads and checks a file's text. `file` is its name, for errors; `read_file` reads the files of secrets.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn read(file: &str, text: &str, read_file: ReadFile<'_>) -> Result<HooksConfig, ConfigError> {
        let file = File { name: file, text };
        let document = file.parse()?;
        let mut fields = Fields::new(file, "", 0, document.get_ref());
        let (source_nodes, notify_nodes) = (fields.get("source"), fields.get("notify"));
        fields.finish()?;
        let mut sources: Vec<Source> = Vec::new();
        for node in source_nodes.map(|node| node.list()).unwrap_or_default() {
            let source = Source::read(&mut node.table()?, read_file)?;
            if sources.iter().any(|other| other.name == source.name) {
                let fix = "give each source a name of its own";
                return Err(node.error(format!("there are two sources of the name \"{}\"", source.name), fix));
            }
            sources.push(source);
        }
        let names: Vec<&str> = sources.iter().map(|source| source.name.as_str()).collect();
        let mut notify = Vec::new();
        for node in notify_nodes.map(|node| node.list()).unwrap_or_default() {
            notify.push(notify::read_notify(&mut node.table()?, &names, read_file)?);
        }
        Ok(HooksConfig { sources, notify })
    }

    /// What holds where there is no configuration: the one source `plain`, for the feed `default`.
    ///
    /// # Errors
    /// None, unless the program was built with a broken preset.
    pub fn plain() -> Result<HooksConfig, ConfigError> {
        Ok(HooksConfig { sources: vec![Source::of_preset("plain", "plain")?], notify: Vec::new() })
    }

    /// The source of this name.
    pub fn source(&self, name: &str) -> Option<&Source> {
        self.sources.iter().find(|source| source.name == name)
    }

    /// All feeds that the sources name.
    pub fn feeds(&self) -> BTreeSet<&str> {
        self.sources.iter().flat_map(Source::feeds).collect()
    }
}
