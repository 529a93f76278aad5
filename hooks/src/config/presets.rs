//! The presets: sources as a user would write them, compiled in.

use super::error::ConfigError;
use super::reader::{Fields, File};

/// The names of all presets.
pub const NAMES: [&str; 9] =
    ["bugzilla", "gitea", "github", "gitlab", "jira", "launchpad", "plain", "redmine", "redmine-plugin"];

/// The text of a preset, for people who want to copy it. It has the form of a `[[source]]`, without a name.
pub fn text(name: &str) -> Option<&'static str> {
    Some(match name {
        "bugzilla" => include_str!("../receive/presets/bugzilla.toml"),
        "gitea" => include_str!("../receive/presets/gitea.toml"),
        "github" => include_str!("../receive/presets/github.toml"),
        "gitlab" => include_str!("../receive/presets/gitlab.toml"),
        "jira" => include_str!("../receive/presets/jira.toml"),
        "launchpad" => include_str!("../receive/presets/launchpad.toml"),
        "plain" => include_str!("../receive/presets/plain.toml"),
        "redmine" => include_str!("../receive/presets/redmine.toml"),
        "redmine-plugin" => include_str!("../receive/presets/redmine-plugin.toml"),
        _ => return None,
    })
}

/// What to do for a tracker that has no preset of its own; a part of a sentence.
pub(crate) fn instead_of(name: &str) -> Option<&'static str> {
    Some(match name {
        "forgejo" | "gogs" => "Forgejo and Gogs send what Gitea sends: use preset = \"gitea\"",
        "phorge" | "phabricator" => "Herald's webhooks name no bug's number, so they cannot be mapped",
        "mantisbt" | "mantis" => {
            "MantisBT has no webhooks: write its changes into a table by a trigger, for bugfeed-shim"
        }
        "trac" => "Trac has no webhooks: let a script of yours POST to a source with preset = \"plain\"",
        "youtrack" => {
            "write the mapping without a preset; take the digits of the issue's id, as in bug = { from = \"/…\", match = \"-([0-9]+)$\" }"
        }
        _ => return None,
    })
}

/// Reads a preset's `[[source]]`.
pub(crate) fn read(
    name: &str,
    then: impl FnOnce(&mut Fields<'_>) -> Result<(), ConfigError>,
) -> Result<(), ConfigError> {
    let title = format!("preset {name}");
    let file = File { name: &title, text: text(name).unwrap_or_default() };
    let document = file.parse()?;
    let mut fields = Fields::new(file, "", 0, document.get_ref());
    let sources = fields.get("source").map(|node| node.list()).unwrap_or_default();
    fields.finish()?;
    match sources.first() {
        Some(source) => {
            let mut fields = source.table()?;
            then(&mut fields)?;
            fields.finish()
        }
        None => Err(fields.error("a preset has one [[source]]", "")),
    }
}
