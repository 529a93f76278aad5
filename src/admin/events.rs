//! `bugfeed events`, `bugfeed dead-letters`.

use std::fs;
use std::path::{Component, Path};

use bugfeed_hooks::api::client::part;
use serde_json::{Map, Value, json};

use super::table::{cell, count as number, pairs, table, text, time};
use super::{AdminError, Outcome, Screen, Session, times};
use crate::cli::hooks::{BulkArgs, DeadLettersArgs, EventFilterArgs, EventsArgs, EventsCommand, PruneArgs};

pub(super) async fn events(args: EventsArgs, screen: &mut Screen<'_>) -> Result<Outcome, AdminError> {
    let mut session = Session::new(&args.admin, screen)?;
    match args.command {
        EventsCommand::List(args) => {
            let members = filter(&args.filter)?;
            let query: Vec<(&str, String)> =
                members.iter().map(|(name, value)| (name.as_str(), plain(value))).collect();
            let query: Vec<(&str, &str)> = query.iter().map(|(name, value)| (*name, value.as_str())).collect();
            let rows = session.pages("events", "events", &query, args.limit.limit).await?;
            session.list(&rows, "there are no such events", event_table)
        }
        EventsCommand::Show { id } => {
            let event = session.api.get(&format!("events/{}", part(&id)), &[]).await?;
            session.print(&event, show_event)
        }
        EventsCommand::Retry(args) => many(&mut session, "retry", "will be tried again now", args).await,
        EventsCommand::Drop(args) => many(&mut session, "drop", "dropped", args).await,
        EventsCommand::Release { ids } => each(&mut session, "release", "released: those behind it go on", &ids).await,
        EventsCommand::Prune(args) => prune(&mut session, args).await,
    }
}

/// The filter as members of a body, or parameters.
fn filter(args: &EventFilterArgs) -> Result<Map<String, Value>, AdminError> {
    let mut members = Map::new();
    for (name, value) in [("state", &args.state), ("source", &args.source), ("feed", &args.feed)] {
        if let Some(value) = value {
            members.insert(name.to_owned(), json!(value));
        }
    }
    if let Some(bug) = args.bug {
        members.insert("bug".to_owned(), json!(bug.get()));
    }
    range(&mut members, args.from.as_deref(), args.to.as_deref())?;
    Ok(members)
}

fn range(members: &mut Map<String, Value>, from: Option<&str>, to: Option<&str>) -> Result<(), AdminError> {
    for (name, value) in [("from", from), ("to", to)] {
        if let Some(value) = value {
            members.insert(name.to_owned(), json!(times::ago(name, value)?));
        }
    }
    Ok(())
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

pub(super) fn event_table(events: &[Value]) -> String {
    let row = |event: &Value| {
        vec![
            cell(event, "id"),
            time(&event["received"]),
            cell(event, "source"),
            cell(event, "feed"),
            cell(event, "bug"),
            time(&event["when"]),
            cell(event, "kind"),
            cell(event, "state"),
            note(event),
        ]
    };
    let rows: Vec<_> = events.iter().map(row).collect();
    table(&["ID", "RECEIVED", "SOURCE", "FEED", "BUG", "CHANGED", "KIND", "STATE", "NOTE"], &rows)
}

/// Where an event's time is from.
pub(super) fn when_from(event: &Value) -> String {
    match (event["clock"] == true, event["when_from"] == "arrival") {
        (true, _) => "arrival; clock: the sender's time was more than 5 minutes ahead of it".to_owned(),
        (false, true) => "arrival".to_owned(),
        (false, false) => cell(event, "when_from"),
    }
}

/// The most important of what else is known, in a few words; and that an event is dated by its arrival.
fn note(event: &Value) -> String {
    let state = of_state(event);
    let dated = match (event["clock"] == true, event["when_from"] == "arrival") {
        (true, _) => "clock",
        (false, true) if event["bug"].is_u64() => "dated by arrival",
        _ => return state,
    };
    if state.is_empty() { dated.to_owned() } else { format!("{state}, {dated}") }
}

fn of_state(event: &Value) -> String {
    if event["blocked_by"].is_string() {
        return format!("behind {}", cell(event, "blocked_by"));
    }
    match event["state"].as_str() {
        Some("completed") if event["cursor"].is_string() => cell(event, "cursor"),
        Some("completed") => format!("row {}", cell(event, "row")),
        Some("errored") if event["retryable"] == false && event["class"] == "mapping" => {
            "mapping, not tried again by itself".to_owned()
        }
        Some("errored") => format!("{}, next try {}", cell(event, "class"), time(&event["next_try"])),
        Some("dropped") => cell(event, "reason"),
        _ => String::new(),
    }
}

fn show_event(event: &Value) -> String {
    let came = &event["came_with"];
    let mut shown = pairs(&[
        ("event", cell(event, "id")),
        ("request", format!("{} item {}", cell(event, "request"), cell(event, "item"))),
        ("from", text(&came["address"])),
        ("key", text(&came["key"])),
        ("source", cell(event, "source")),
        ("feed", cell(event, "feed")),
        ("bug", cell(event, "bug")),
        ("changed", format!("{} UTC ({})", time(&event["when"]), when_from(event))),
        ("received", time(&event["received"])),
        ("kind", cell(event, "kind")),
        ("delivery", cell(event, "delivery")),
        ("state", cell(event, "state")),
        ("reason", cell(event, "reason")),
        ("class", cell(event, "class")),
        ("error", cell(event, "error")),
        ("fix", cell(event, "fix")),
        ("note", text(&event["note"]["error"])),
        ("to mend it", text(&event["note"]["fix"])),
        ("trigger", cell(event, "trigger")),
        ("attempts", cell(event, "attempts")),
        ("blocked by", cell(event, "blocked_by")),
        ("next try", time(&event["next_try"])),
        ("expires", time(&event["expires"])),
        ("began", time(&event["began"])),
        ("ended", time(&event["ended"])),
        ("row", cell(event, "row")),
        ("number", cell(event, "cursor")),
    ]);
    for (member, word) in [("links", "is"), ("linked_by", "has, of")] {
        for link in event[member].as_array().into_iter().flatten() {
            shown.push_str(&format!("{word} {} {}\n", cell(link, "kind"), cell(link, "event")));
        }
    }
    let lines = event["lines"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !lines.is_empty() {
        let row =
            |line: &Value| vec![time(&line["at"]), cell(line, "before"), cell(line, "cause"), cell(line, "after")];
        let rows: Vec<_> = lines.iter().map(row).collect();
        shown.push('\n');
        shown.push_str(&table(&["AT", "FROM", "BECAUSE", "TO"], &rows));
    }
    shown
}

/// An order about each of these events.
async fn each(session: &mut Session<'_, '_>, order: &str, done: &str, ids: &[String]) -> Result<Outcome, AdminError> {
    let mut failed = None;
    for id in ids {
        match session.api.post(&format!("events/{}/{order}", part(id)), &json!({})).await {
            Ok(event) => {
                session.print(&event, |event| format!("{}  {done}\n", cell(event, "id")))?;
            }
            // The others may be fine.
            Err(error) if ids.len() > 1 => {
                writeln!(session.screen.remarks, "{id}: {error}")?;
                failed = Some(error);
            }
            Err(error) => return Err(error),
        }
    }
    match failed {
        None => Ok(Outcome::Good),
        Some(_) => Ok(Outcome::NotGood),
    }
}

/// How many events are named that an order cannot be carried out about.
const MOST_REFUSED: usize = 10;

async fn many(session: &mut Session<'_, '_>, order: &str, done: &str, args: BulkArgs) -> Result<Outcome, AdminError> {
    if !args.ids.is_empty() {
        return each(session, order, done, &args.ids).await;
    }
    if args.filter.is_empty() {
        let fix = "name events by their identifiers, or by a filter; --state errored means all dead letters";
        return Err(AdminError::Value(format!("nothing is said of which events; {fix}")));
    }
    let mut body = filter(&args.filter)?;
    body.insert("dry_run".to_owned(), json!(args.dry_run));
    let (mut count, mut skipped, mut refused) = (0, 0, Vec::new());
    loop {
        let told = session.api.post(&format!("events/{order}"), &Value::Object(body.clone())).await?;
        count += told["done"].as_u64().unwrap_or(0);
        skipped += told["skipped"].as_u64().unwrap_or(0);
        let room = MOST_REFUSED - refused.len();
        refused.extend(told["refused"].as_array().into_iter().flatten().take(room).cloned());
        if !told["next"].is_string() {
            break;
        }
        body.insert("after".to_owned(), told["next"].clone());
    }
    let total = json!({ "dry_run": args.dry_run, "done": count, "skipped": skipped, "refused": refused });
    session.print(&total, |_| {
        let would = if args.dry_run { " (a dry run: nothing was done)" } else { "" };
        let rest = if skipped > 0 { format!("; {skipped} cannot be, as they are") } else { String::new() };
        let mut said = format!("{} {done}{rest}{would}\n", number(count, "event"));
        for one in &refused {
            said.push_str(&format!("  {}  {}\n", cell(one, "event"), cell(one, "error")));
        }
        if skipped > refused.len() as u64 && !refused.is_empty() {
            said.push_str("  and others\n");
        }
        said
    })
}

async fn prune(session: &mut Session<'_, '_>, args: PruneArgs) -> Result<Outcome, AdminError> {
    let mut body = Map::new();
    for (name, value) in [("source", &args.source), ("key", &args.key), ("request", &args.request)] {
        if let Some(value) = value {
            body.insert(name.to_owned(), json!(value));
        }
    }
    range(&mut body, args.from.as_deref(), args.to.as_deref())?;
    body.insert("dry_run".to_owned(), json!(true));
    let counted = session.api.post("prune", &Value::Object(body.clone())).await?;
    if args.dry_run || !args.yes {
        return session.print(&counted, |counted| format!("{}nothing was done; with --yes it is\n", counts(counted)));
    }
    if !session.is_json {
        write!(session.screen.remarks, "{}", counts(&counted))?;
    }
    body.insert("dry_run".to_owned(), json!(false));
    let mut total = [("canceled", 0), ("erased", 0), ("left", 0)];
    // A run that is not complete goes through what is left once more.
    loop {
        let told = session.api.post("prune", &Value::Object(body.clone())).await?;
        for (member, sum) in &mut total {
            *sum += told[*member].as_u64().unwrap_or(0);
        }
        if told["complete"] != false {
            break;
        }
    }
    let [(_, canceled), (_, erased), (_, left)] = total;
    let told = json!({ "dry_run": false, "canceled": canceled, "erased": erased, "left": left });
    session.print(&told, |_| {
        let rest = if left > 0 { format!("; {left} were being processed: run it again") } else { String::new() };
        format!("{} canceled, of {erased} the log erased{rest}\n", number(canceled, "event"))
    })
}

fn counts(counted: &Value) -> String {
    let states = counted["events"].as_object().into_iter().flatten();
    let states: Vec<String> = states.map(|(state, count)| format!("{count} {state}")).collect();
    let states = if states.is_empty() { "none".to_owned() } else { states.join(", ") };
    let more = if counted["complete"] == false { " (and more: the count took too long)" } else { "" };
    let requests = number(counted["requests"].as_u64().unwrap_or(0), "request");
    format!("concerned: {requests}; events: {states}{more}\n")
}

pub(super) async fn dead_letters(args: DeadLettersArgs, screen: &mut Screen<'_>) -> Result<Outcome, AdminError> {
    let mut session = Session::new(&args.admin, screen)?;
    let query: Vec<_> = args.source.as_deref().map(|source| ("source", source)).into_iter().collect();
    if let Some(folder) = &args.export {
        return export(&mut session, folder, &query).await;
    }
    let rows = session.pages("dead-letters", "dead_letters", &query, args.limit.limit).await?;
    session.list(&rows, "there are no dead letters", |rows| {
        let row = |letter: &Value| {
            vec![
                cell(letter, "id"),
                cell(letter, "source"),
                cell(letter, "feed"),
                cell(letter, "bug"),
                cell(letter, "class"),
                cell(letter, "attempts"),
                if letter["next_try"].is_null() { "never".to_owned() } else { time(&letter["next_try"]) },
                time(&letter["expires"]),
                cell(letter, "waiting"),
                cell(letter, "error"),
            ]
        };
        let rows: Vec<_> = rows.iter().map(row).collect();
        let head = ["ID", "SOURCE", "FEED", "BUG", "CLASS", "TRIED", "NEXT TRY", "EXPIRES", "BEHIND IT", "ERROR"];
        table(&head, &rows)
    })
}

/// Writes all dead letters as files.
async fn export(session: &mut Session<'_, '_>, folder: &Path, query: &[(&str, &str)]) -> Result<Outcome, AdminError> {
    let files = session.pages("dead-letters/export", "files", query, u64::MAX).await?;
    for file in &files {
        let name = Path::new(file["path"].as_str().unwrap_or_default());
        // The API is trusted, but not with the rest of the disk.
        let is_plain = name.components().all(|part| matches!(part, Component::Normal(_)));
        if !is_plain || name.as_os_str().is_empty() {
            return Err(AdminError::Value(format!("the API gave an odd name of a file: {}", name.display())));
        }
        let path = folder.join(name);
        let failed = |error| AdminError::File { path: path.display().to_string(), error };
        let text = serde_json::to_string_pretty(&file["event"]).unwrap_or_default();
        fs::create_dir_all(path.parent().unwrap_or(folder)).map_err(failed)?;
        fs::write(&path, text + "\n").map_err(failed)?;
    }
    let told = json!({ "files": files.len(), "folder": folder.display().to_string() });
    session
        .print(&told, |_| format!("{} written into {}\n", number(files.len() as u64, "dead letter"), folder.display()))
}
