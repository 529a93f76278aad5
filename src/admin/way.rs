//! `bugfeed bug`: the way of a bug's changes.

use serde_json::Value;

use super::table::{cell, text, time};
use super::{AdminError, Outcome, Screen, Session};
use crate::cli::hooks::BugArgs;

pub(super) async fn bug(args: BugArgs, screen: &mut Screen<'_>) -> Result<Outcome, AdminError> {
    let mut session = Session::new(&args.admin, screen)?;
    let limit = args.limit.to_string();
    let mut query = vec![("limit", limit.as_str())];
    query.extend(args.feed.as_deref().map(|feed| ("feed", feed)));
    let told = session.api.get(&format!("bugs/{}", args.bug), &query).await?;
    let steps = told["steps"].as_array().map(Vec::as_slice).unwrap_or_default();
    if session.is_json {
        return session.print(&told, |_| String::new());
    }
    let none = format!("nothing of bug {} was received", args.bug);
    session.list(steps, &none, |steps| steps.iter().map(show).collect())
}

/// One change: where it came from, and how far it is.
fn show(step: &Value) -> String {
    let came = &step["came_with"];
    let by = match (came["address"].as_str(), came["key"].as_str()) {
        (Some(_), Some(_)) => format!(" from {} with key {}", text(&came["address"]), text(&came["key"])),
        (Some(_), None) => format!(" from {}", text(&came["address"])),
        (None, _) => String::new(),
    };
    let mut shown = format!(
        "bug {} changed {} UTC ({}{})\n",
        cell(step, "bug"),
        time(&step["when"]),
        cell(step, "kind"),
        if step["feed"] == "default" { String::new() } else { format!(", feed {}", cell(step, "feed")) },
    );
    shown.push_str(&format!("  {}  received by {}{by}\n", time(&step["received"]), cell(step, "source")));
    for line in step["lines"].as_array().into_iter().flatten() {
        let from = if line["before"].is_null() { "new".to_owned() } else { cell(line, "before") };
        shown.push_str(&format!(
            "  {}  {from} → {} ({})\n",
            time(&line["at"]),
            cell(line, "after"),
            cell(line, "cause")
        ));
    }
    let at = if step["ended"].is_string() { time(&step["ended"]) } else { " ".repeat(19) };
    shown.push_str(&format!("  {at}  {}: {}\n", cell(step, "state"), cell(step, "says")));
    if step["fix"].is_string() {
        shown.push_str(&format!("  {}  fix: {}\n", " ".repeat(19), cell(step, "fix")));
    }
    shown.push_str(&format!("  {}  event {}\n", " ".repeat(19), cell(step, "id")));
    shown
}
