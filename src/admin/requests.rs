//! `bugfeed requests`.

use bugfeed_hooks::api::client::part;
use serde_json::{Value, json};

use super::events::event_table;
use super::table::{cell, harmless, pairs, table, text, time};
use super::{AdminError, Outcome, Screen, Session, times};
use crate::cli::hooks::{ListRequestsArgs, RequestsArgs, RequestsCommand};

pub(super) async fn requests(args: RequestsArgs, screen: &mut Screen<'_>) -> Result<Outcome, AdminError> {
    let mut session = Session::new(&args.admin, screen)?;
    match args.command {
        RequestsCommand::List(args) => list(&mut session, args).await,
        RequestsCommand::Show { id, body } => {
            let query: &[(&str, &str)] = if body { &[("body", "true")] } else { &[] };
            let request = session.api.get(&format!("requests/{}", part(&id)), query).await?;
            session.print(&request, |request| show(request, body))
        }
        RequestsCommand::Replay { id, trust } => {
            let told = session.api.post(&format!("requests/{}/replay", part(&id)), &json!({ "trust": trust })).await?;
            session.print(&told, show_replay)
        }
    }
}

async fn list(session: &mut Session<'_, '_>, args: ListRequestsArgs) -> Result<Outcome, AdminError> {
    let from = args.from.as_deref().map(|from| times::ago("from", from)).transpose()?;
    let to = args.to.as_deref().map(|to| times::ago("to", to)).transpose()?;
    let query = [("state", &args.state), ("source", &args.source), ("key", &args.key), ("from", &from), ("to", &to)];
    let query: Vec<(&str, &str)> = query.iter().filter_map(|(name, value)| Some((*name, value.as_deref()?))).collect();
    let rows = session.pages("requests", "requests", &query, args.limit.limit).await?;
    session.list(&rows, "there are no such requests", |rows| {
        let row = |request: &Value| {
            vec![
                cell(request, "id"),
                time(&request["received"]),
                cell(request, "source"),
                cell(request, "address"),
                cell(request, "key"),
                cell(request, "size"),
                cell(request, "items"),
                cell(request, "status"),
                cell(request, "state"),
                note(request),
            ]
        };
        let rows: Vec<_> = rows.iter().map(row).collect();
        table(&["ID", "RECEIVED", "SOURCE", "FROM", "KEY", "BYTES", "EVENTS", "ANSWER", "STATE", "NOTE"], &rows)
    })
}

/// Why it is in quarantine, or what it brought besides events.
fn note(request: &Value) -> String {
    if request["error"].is_string() {
        return cell(request, "error");
    }
    let others = [("connected", "connected"), ("ignored", "ignored")].map(|(member, word)| {
        let count = request[member].as_u64().unwrap_or(0);
        if count > 1 { Some(format!("{count} {word}")) } else { (count == 1).then(|| word.to_owned()) }
    });
    others.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// How many items of a request were pings and tests, or no change of a bug; nothing where there were none.
fn count(request: &Value, member: &str) -> String {
    match request[member].as_u64() {
        None | Some(0) => String::new(),
        Some(1) => "1 item".to_owned(),
        Some(count) => format!("{count} items"),
    }
}

fn show(request: &Value, with_body: bool) -> String {
    let mut shown = pairs(&[
        ("request", cell(request, "id")),
        ("received", time(&request["received"])),
        ("source", cell(request, "source")),
        ("path", cell(request, "path")),
        ("from", cell(request, "address")),
        ("key", cell(request, "key")),
        ("size", cell(request, "size")),
        ("sha256", cell(request, "hash")),
        ("answer", cell(request, "status")),
        ("state", cell(request, "state")),
        ("share", cell(request, "share")),
        ("error", cell(request, "error")),
        ("fix", cell(request, "fix")),
        ("replays", cell(request, "replays")),
        ("connected", count(request, "connected")),
        ("ignored", count(request, "ignored")),
    ]);
    for header in request["headers"].as_array().into_iter().flatten() {
        shown.push_str(&format!("  {}: {}\n", text(&header[0]), text(&header[1])));
    }
    let events = request["events"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !events.is_empty() {
        shown.push('\n');
        shown.push_str(&event_table(events));
    }
    if with_body {
        shown.push_str(&match (request["body"].as_str(), request["body_base64"].as_str()) {
            (Some(body), _) => {
                let lines: Vec<String> = body.lines().map(harmless).collect();
                format!("\n{}\n", lines.join("\n"))
            }
            (None, Some(base64)) => format!("\nthe body is no text; in Base64:\n{base64}\n"),
            (None, None) => "\nthe body was not kept\n".to_owned(),
        });
    }
    shown
}

fn show_replay(told: &Value) -> String {
    let mut shown = format!("received again as {}\n", cell(told, "request"));
    if told["error"].is_string() {
        shown.push_str(&format!("error: {}\nfix: {}\n", cell(told, "error"), cell(told, "fix")));
    }
    for event in told["events"].as_array().into_iter().flatten() {
        let links = event["links"].as_array().into_iter().flatten();
        let links: Vec<String> =
            links.map(|link| format!("  {} {}", cell(link, "kind"), cell(link, "event"))).collect();
        let reason = if event["reason"].is_string() { format!(": {}", cell(event, "reason")) } else { String::new() };
        shown.push_str(&format!("{}  {}{reason}{}\n", cell(event, "event"), cell(event, "state"), links.concat()));
    }
    shown
}
