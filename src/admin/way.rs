//! `bugfeed bug`: the way of a bug's changes.

use serde_json::Value;

use super::events::when_from;
use super::table::{cell, table, text, time};
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
    let newest = newest(&told, steps);
    write!(session.screen.out, "{newest}")?;
    let none = match newest.is_empty() {
        true => format!("no webhook brought a change of bug {}", args.bug),
        false => format!("no webhook brought a change of bug {}; the newest one came by another way", args.bug),
    };
    session.list(steps, &none, |steps| steps.iter().map(show).collect())?;
    write!(session.screen.out, "{}", endpoints(&told))?;
    Ok(Outcome::Good)
}

/// The newest change of each feed that none of these steps tells of: somebody else wrote it into the change table.
fn newest(told: &Value, steps: &[Value]) -> String {
    let number = |cursor: &Value| text(cursor).split('.').take(2).collect::<Vec<_>>().join(".");
    let mut shown = String::new();
    for newest in told["newest"].as_array().into_iter().flatten() {
        let is_of = |step: &&Value| step["feed"] == newest["feed"] && !step["cursor"].is_null();
        if steps.iter().filter(is_of).any(|step| number(&step["cursor"]) == number(&newest["cursor"])) {
            continue;
        }
        let when = time(&newest["when"]);
        let (feed, number) = (cell(newest, "feed"), number(&newest["cursor"]));
        shown.push_str(&format!("bug {} changed {when} UTC (feed {feed})\n", cell(told, "bug")));
        shown.push_str(&format!("  {}  is published as number {number}; no webhook brought it\n", " ".repeat(19)));
    }
    shown
}

/// The endpoints that are told of the bug.
fn endpoints(told: &Value) -> String {
    let watching = told["endpoints"].as_array().map(Vec::as_slice).unwrap_or_default();
    let row = |one: &Value| {
        vec![cell(one, "endpoint"), cell(one, "feed"), cell(one, "url"), cell(one, "state"), cell(one, "says")]
    };
    let rows: Vec<_> = watching.iter().map(row).collect();
    if rows.is_empty() { String::new() } else { table(&["ENDPOINT", "FEED", "URL", "STATE", "NEWEST CHANGE"], &rows) }
}

/// One change: where it came from, and how far it is.
fn show(step: &Value) -> String {
    let came = &step["came_with"];
    let by = match (came["address"].as_str(), came["key"].as_str()) {
        (Some(_), Some(_)) => format!(" from {} with key {}", text(&came["address"]), text(&came["key"])),
        (Some(_), None) => format!(" from {}", text(&came["address"])),
        (None, _) => String::new(),
    };
    let kind = step["kind"].as_str().filter(|kind| !kind.is_empty()).map(|_| cell(step, "kind"));
    let feed = (step["feed"] != "default").then(|| format!("feed {}", cell(step, "feed")));
    let more: Vec<String> = kind.into_iter().chain(feed).collect();
    let more = if more.is_empty() { String::new() } else { format!(" ({})", more.join(", ")) };
    let by_tracker = step["when_from"] == "tracker" && step["clock"] != true;
    let dated = if by_tracker { String::new() } else { format!(" ({})", when_from(step)) };
    let mut shown = format!("bug {} changed {} UTC{dated}{more}\n", cell(step, "bug"), time(&step["when"]));
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
    let (state, says) = (cell(step, "state"), cell(step, "says"));
    // A sentence that begins with the state does not need it twice.
    let says = if says.starts_with(&state) { says } else { format!("{state}: {says}") };
    shown.push_str(&format!("  {at}  {says}\n"));
    for (name, member) in
        [("fix: ", "fix"), ("request ", "request"), ("event ", "id"), ("row ", "row"), ("number ", "cursor")]
    {
        if !step[member].is_null() {
            shown.push_str(&format!("  {}  {name}{}\n", " ".repeat(19), cell(step, member)));
        }
    }
    shown
}
