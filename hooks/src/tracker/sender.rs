//! The sender's own state: the webhooks that Bugzilla has for a source, and what is wrong with them.
//!
//! Goes in: the answer to `/rest/webhooks/list`. Comes out: the webhooks whose URL leads to the source, and alerts about
//! those that are switched off or have a backlog. The URLs themselves, which may hold keys, are never kept.

use serde::Deserialize;
use serde_json::Value;

use super::bugzilla::error_code;
use super::trouble::{Trouble, json, object};
use crate::client::Response;
use crate::notify::Alert;

/// A webhook that Bugzilla has, as the owner of the key sees it. It does not show the URL, which may hold a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SenderHook {
    /// Its number.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// Whether Bugzilla sends with it. It switches one off after too many errors.
    pub enabled: bool,
    /// How many messages wait for being sent.
    pub backlog: u64,
}

/// The path of the list of webhooks.
pub(super) const HOOKS_PATH: &str = "/rest/webhooks/list";

/// Reads the list of webhooks, of those whose URL leads to this source.
pub(super) fn read_hooks(source: &str, response: &Response, now_us: i64) -> Result<Vec<SenderHook>, Trouble> {
    #[derive(Deserialize)]
    struct Hooks {
        webhooks: Vec<Hook>,
    }
    #[derive(Deserialize)]
    struct Hook {
        id: u64,
        #[serde(default)]
        name: String,
        #[serde(default)]
        url: String,
        enabled: Value,
        #[serde(default)]
        errors: Value,
    }
    if object(response).is_some_and(|object| error_code(&object).is_some()) || response.status.as_u16() == 401 {
        return Err(Trouble::refused("the tracker refuses the key in tracker_key_file, or has no webhooks"));
    }
    if response.status.as_u16() != 200 {
        return Err(Trouble::of_response(response, now_us));
    }
    let hooks: Hooks = json(response)?;
    let read = |hook: Hook| SenderHook {
        id: hook.id,
        name: hook.name.chars().filter(|c| !c.is_control()).take(100).collect(),
        enabled: hook.enabled.as_bool().unwrap_or_else(|| hook.enabled.as_u64() != Some(0)),
        backlog: hook.errors.as_u64().or_else(|| hook.errors.as_str()?.parse().ok()).unwrap_or(0),
    };
    Ok(hooks.webhooks.into_iter().filter(|hook| leads_to(&hook.url, source)).map(read).collect())
}

/// Whether a URL is one of those at which a source receives, below any prefix.
fn leads_to(url: &str, source: &str) -> bool {
    let path = url.split(['?', '#']).next().unwrap_or_default().trim_end_matches('/');
    let ends = [format!("/hooks/{source}"), format!("/public/webhook/{source}")];
    let with_key = [format!("/hooks/{source}/"), format!("/public/webhook/{source}/"), format!("/h/{source}/")];
    ends.iter().any(|end| path.ends_with(end)) || with_key.iter().any(|part| path.contains(part))
}

/// What people should know about the sender's webhooks. `before` is what was found the last time: a backlog is worth an
/// alert when it stays, because Bugzilla sends in bundles.
pub fn complaints(source: &str, before: &[SenderHook], now: &[SenderHook]) -> Vec<Alert> {
    let alert = |cause: String, text: String| Alert { subject: "sender", source: Some(source.into()), cause, text };
    if now.is_empty() {
        let text = "the owner of the key in tracker_key_file has no webhook at the tracker that leads here".to_owned();
        return vec![alert("none".to_owned(), text)];
    }
    let mut alerts = Vec::new();
    for hook in now {
        let (id, name, backlog) = (hook.id, &hook.name, hook.backlog);
        let had_backlog = before.iter().any(|old| old.id == id && old.backlog > 0);
        if !hook.enabled {
            let text = format!(
                "the tracker has switched off its webhook {id} ({name}), and {backlog} messages wait there: switch it on \
                 again in the tracker's preferences, under Webhooks"
            );
            alerts.push(alert(format!("disabled {id}"), text));
        } else if backlog > 0 && had_backlog {
            let text =
                format!("{backlog} messages wait at the tracker's webhook {id} ({name}), which cannot deliver them");
            alerts.push(alert(format!("backlog {id}"), text));
        }
    }
    alerts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_a_source() {
        for (url, leads) in [
            ("https://bf.example.org/hooks/kde", true),
            ("https://example.org/bugfeed/hooks/kde/", true),
            ("https://bf.example.org/public/webhook/kde?x", true),
            ("https://bf.example.org/h/kde/bf_a_b", true),
            ("https://bf.example.org/hooks/kde/bf_a_b", true),
            ("https://bf.example.org/hooks/kde2", false),
            ("https://other.example.org/?x=/hooks/kde", false),
            ("", false),
        ] {
            assert_eq!(leads_to(url, "kde"), leads, "{url}");
        }
    }

    #[test]
    fn what_is_worth_an_alert() {
        let hook = |id, enabled, backlog| SenderHook { id, name: "bugfeed".to_owned(), enabled, backlog };
        let causes = |before: &[SenderHook], now: &[SenderHook]| -> Vec<String> {
            complaints("kde", before, now).into_iter().map(|alert| alert.cause).collect()
        };
        assert_eq!(causes(&[], &[hook(1, true, 0)]), [] as [&str; 0]);
        assert_eq!(causes(&[], &[hook(1, true, 5)]), [] as [&str; 0], "perhaps it is just sending them");
        assert_eq!(causes(&[hook(1, true, 5)], &[hook(1, true, 7), hook(2, true, 7)]), ["backlog 1"]);
        assert_eq!(causes(&[], &[hook(1, false, 7)]), ["disabled 1"]);
        assert_eq!(causes(&[hook(1, true, 0)], &[]), ["none"]);
    }
}
