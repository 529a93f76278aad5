//! `bugfeed requests`.

use std::io::IsTerminal as _;

use bugfeed_hooks::api::client::{body_of, part};
use serde_json::{Value, json};

use super::events::event_table;
use super::table::{cell, harmless, pairs, table, text, time};
use super::{AdminError, Outcome, Screen, Session, times};
use crate::cli::hooks::{ListRequestsArgs, RequestsArgs, RequestsCommand};

pub(super) async fn requests(args: RequestsArgs, screen: &mut Screen<'_>) -> Result<Outcome, AdminError> {
    let mut session = Session::new(&args.admin, screen)?;
    match args.command {
        RequestsCommand::List(args) => list(&mut session, args).await,
        RequestsCommand::Show { id, body, http } => {
            let query: &[(&str, &str)] = if body || http { &[("body", "true")] } else { &[] };
            let request = session.api.get(&format!("requests/{}", part(&id)), query).await?;
            if session.is_json || query.is_empty() {
                return session.print(&request, show);
            }
            let Some(bytes) = body_of(&request) else {
                writeln!(session.screen.remarks, "the body of request {id} was not kept")?;
                return Ok(Outcome::NotGood);
            };
            let bytes = if http { as_http(&request, &bytes) } else { bytes };
            if std::io::stdout().is_terminal() {
                // A terminal would obey a sender's control characters.
                let lines: Vec<String> = String::from_utf8_lossy(&bytes).lines().map(harmless).collect();
                writeln!(session.screen.out, "{}", lines.join("\n"))?;
            } else {
                session.screen.out.write_all(&bytes)?;
            }
            Ok(Outcome::Good)
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

/// The request as HTTP/1.1. The body is kept decompressed and in one piece, so headers that say otherwise are left out.
fn as_http(request: &Value, body: &[u8]) -> Vec<u8> {
    let mut head = format!("POST {} HTTP/1.1\r\n", cell(request, "path"));
    for header in request["headers"].as_array().into_iter().flatten() {
        let [name, value] = [&header[0], &header[1]].map(|text| harmless(text.as_str().unwrap_or_default()));
        if !["content-length", "content-encoding", "transfer-encoding"].contains(&name.to_ascii_lowercase().as_str()) {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
    }
    head.push_str(&format!("content-length: {}\r\n\r\n", body.len()));
    [head.as_bytes(), body].concat()
}

fn show(request: &Value) -> String {
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

#[cfg(test)]
mod tests {
    use bugfeed_hooks::receive::capture;

    use super::*;

    #[test]
    fn what_is_shown_as_http_is_read_as_the_same_request() {
        let headers =
            json!([["content-type", "application/json"], ["content-length", "7"], ["Content-Encoding", "gzip"]]);
        for (member, shown, body) in
            [("body", "{\"a\":1}\n", &b"{\"a\":1}\n"[..]), ("body_base64", "/wAB", &[255, 0, 1])]
        {
            let request = json!({ "path": "/hooks/x", "headers": headers, member: shown });
            let captured = capture::read(&as_http(&request, &body_of(&request).unwrap()));
            assert_eq!((captured.path.as_deref(), captured.body.as_slice()), (Some("/hooks/x"), body));
            let kept = [("content-type", "application/json"), ("content-length", &body.len().to_string())];
            assert_eq!(captured.headers, kept.map(|(name, value)| (name.to_owned(), value.to_owned())));
            assert_eq!(captured.remarks, [""; 0]);
        }
        assert_eq!(body_of(&json!({ "body": null })), None);
    }
}
