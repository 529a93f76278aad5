//! `bugfeed endpoints`.

use bugfeed_hooks::api::client::part;
use serde_json::{Value, json};

use super::endpoint_bodies as bodies;
use super::spoken::spoken;
use super::table::{cell, pairs, table, text, time};
use super::{AdminError, Outcome, Screen, Session, times};
use crate::cli::hooks::{
    ChangeEndpointArgs, CreateEndpointArgs, EndpointsArgs, EndpointsCommand, ListEndpointsArgs, RecoverArgs,
};

pub(super) async fn endpoints(args: EndpointsArgs, screen: &mut Screen<'_>) -> Result<Outcome, AdminError> {
    carry_out(args, screen).await.map_err(spoken)
}

async fn carry_out(args: EndpointsArgs, screen: &mut Screen<'_>) -> Result<Outcome, AdminError> {
    let mut session = Session::new(&args.admin, screen)?;
    let session = &mut session;
    match args.command {
        EndpointsCommand::Create(args) => create(session, &args).await,
        EndpointsCommand::Preview(args) => {
            let told = session.api.post("endpoints/preview", &bodies::create(&args)?).await?;
            warn(session, &told)?;
            session.print(&told, show_preview)
        }
        EndpointsCommand::List(args) => list(session, &args).await,
        EndpointsCommand::Show { id } => {
            let endpoint = session.api.get(&path(&id), &[]).await?;
            session.print(&endpoint, show)
        }
        EndpointsCommand::Change(args) => change(session, &args).await,
        EndpointsCommand::Delete(args) => each(session, Deed::Delete, &args.ids).await,
        EndpointsCommand::Test { id, wait } => {
            let told = session.api.post(&format!("{}/test", path(&id)), &json!({ "wait": wait })).await?;
            sent(session, &told)
        }
        EndpointsCommand::Enable(args) => each(session, Deed::Order("enable"), &args.ids).await,
        EndpointsCommand::Reset(args) => each(session, Deed::Order("reset"), &args.ids).await,
        EndpointsCommand::Pause(args) => each(session, Deed::Order("pause"), &args.ids).await,
        EndpointsCommand::Resume(args) => each(session, Deed::Order("resume"), &args.ids).await,
        EndpointsCommand::Rotate { id, overlap_hours, secret_file } => {
            let mut body = json!({ "overlap_hours": overlap_hours });
            if let Some(secret) = bodies::secret(secret_file.as_deref())? {
                body["secret"] = json!(secret);
            }
            let endpoint = session.api.post(&format!("{}/rotate", path(&id)), &body).await?;
            rotated(session, &endpoint)
        }
        EndpointsCommand::Recover(args) => recover(session, &args).await,
        EndpointsCommand::Attempts { id, failed, from, bug, limit } => {
            let from = from.map(|from| times::ago("from", &from)).transpose()?;
            let failed = failed.then(|| "true".to_owned());
            let filter = [("failed", &failed), ("from", &from), ("bug", &bug)];
            let query: Vec<(&str, &str)> =
                filter.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?))).collect();
            let rows = session.pages(&format!("{}/attempts", path(&id)), "attempts", &query, limit.limit).await?;
            let none = match query.is_empty() {
                true => "nothing was sent yet, or it is kept no longer",
                false => "there are no such attempts, or they are kept no longer",
            };
            session.list(&rows, none, attempt_table)
        }
        EndpointsCommand::Attempt { id } => {
            let attempt = session.api.get(&format!("attempts/{}", part(&id)), &[]).await?;
            session.print(&attempt, show_attempt)
        }
        EndpointsCommand::Redeliver { id, wait } => {
            let told = session.api.post(&format!("attempts/{}/redeliver", part(&id)), &json!({ "wait": wait })).await?;
            sent(session, &told)
        }
    }
}

fn path(id: &str) -> String {
    format!("endpoints/{}", part(id))
}

async fn create(session: &mut Session<'_, '_>, args: &CreateEndpointArgs) -> Result<Outcome, AdminError> {
    let endpoint = session.api.post("endpoints", &bodies::create(args)?).await?;
    let id = cell(&endpoint, "id");
    writeln!(
        session.screen.remarks,
        "endpoint {id} is made: changes from now on go to it; its secret is shown only now; try it: bugfeed endpoints test \
         {id}"
    )?;
    warn(session, &endpoint)?;
    secret(session, &endpoint)
}

/// Tells what a person may not expect.
fn warn(session: &mut Session<'_, '_>, told: &Value) -> Result<(), AdminError> {
    for warning in told["warnings"].as_array().into_iter().flatten() {
        writeln!(session.screen.remarks, "warning: {}", text(warning))?;
    }
    Ok(())
}

fn rotated(session: &mut Session<'_, '_>, endpoint: &Value) -> Result<Outcome, AdminError> {
    let old = match endpoint["old_secret_until"].as_str() {
        Some(_) => format!("the old one signs too, until {} UTC", time(&endpoint["old_secret_until"])),
        None => "the old one signs no more".to_owned(),
    };
    let id = cell(endpoint, "id");
    writeln!(session.screen.remarks, "endpoint {id} has another secret, which is shown only now; {old}")?;
    secret(session, endpoint)
}

/// Prints a secret alone, so that a script can take it.
fn secret(session: &mut Session<'_, '_>, endpoint: &Value) -> Result<Outcome, AdminError> {
    session.print(endpoint, |endpoint| format!("{}\n", endpoint["secret"].as_str().unwrap_or_default()))
}

async fn list(session: &mut Session<'_, '_>, args: &ListEndpointsArgs) -> Result<Outcome, AdminError> {
    let filter = [("state", &args.state), ("feed", &args.feed), ("bug", &args.bug)];
    let query: Vec<(&str, &str)> =
        filter.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?))).collect();
    let rows = session.pages("endpoints", "endpoints", &query, args.limit.limit).await?;
    let none = match query.is_empty() {
        true => "there are no endpoints; make one: bugfeed endpoints create --url https://HOST/PATH --bugs 1234",
        false => "there are no such endpoints",
    };
    session.list(&rows, none, endpoint_table)
}

async fn change(session: &mut Session<'_, '_>, args: &ChangeEndpointArgs) -> Result<Outcome, AdminError> {
    let endpoint = session.api.patch(&path(&args.id), &bodies::change(args)?).await?;
    warn(session, &endpoint)?;
    session.print(&endpoint, show)
}

async fn recover(session: &mut Session<'_, '_>, args: &RecoverArgs) -> Result<Outcome, AdminError> {
    let mut body = json!({});
    if let Some(cursor) = &args.cursor {
        body["cursor"] = json!(cursor);
    }
    if let Some(since) = &args.since {
        body["since"] = json!(times::ago("since", since)?);
    }
    if let Some(feed) = &args.feed {
        body["feed"] = json!(feed);
    }
    let endpoint = session.api.post(&format!("{}/recover", path(&args.id)), &body).await?;
    warn(session, &endpoint)?;
    session.print(&endpoint, |endpoint| {
        let from = args.cursor.as_deref().or(body["since"].as_str()).unwrap_or_default();
        format!("{}  is sent again what has changed since {from}\n", cell(endpoint, "id"))
    })
}

/// What is done with an endpoint.
#[derive(Clone, Copy)]
enum Deed {
    Delete,
    /// An order, by the last part of its path.
    Order(&'static str),
}

/// The same with each of these endpoints. What one refuses, the others may take.
async fn each(session: &mut Session<'_, '_>, deed: Deed, ids: &[String]) -> Result<Outcome, AdminError> {
    let mut ended = Outcome::Good;
    for id in ids {
        let answer = match deed {
            Deed::Delete => session.api.delete(&path(id)).await,
            Deed::Order(order) => session.api.post(&format!("{}/{order}", path(id)), &json!({})).await,
        };
        match answer {
            Ok(endpoint) => session.print(&endpoint, |endpoint| match deed {
                Deed::Delete => format!("{}  is deleted\n", cell(endpoint, "id")),
                Deed::Order(order) => after(order, endpoint),
            })?,
            Err(error) if ids.len() > 1 => {
                writeln!(session.screen.remarks, "{id}: {error}")?;
                ended = Outcome::NotGood;
                continue;
            }
            Err(error) => return Err(error),
        };
    }
    Ok(ended)
}

/// How an endpoint is after an order; and what else is to be done, if the order alone has not let it be delivered to.
fn after(order: &str, endpoint: &Value) -> String {
    let (id, state, says) = (cell(endpoint, "id"), cell(endpoint, "state"), cell(endpoint, "says"));
    let is_meant = matches!(order, "enable" | "reset");
    match state.as_str() {
        "paused" if is_meant => {
            format!("{id}  not changed: it stays paused; to go on with it: bugfeed endpoints resume {id}\n")
        }
        "disabled" if is_meant => {
            format!("{id}  not changed: it stays disabled: {says}; to enable it: bugfeed endpoints enable {id}\n")
        }
        "disabled" | "cooling" if order == "resume" => {
            format!("{id}  {state}: {says}; to end that: bugfeed endpoints enable {id}\n")
        }
        _ => format!("{id}  {state}: {says}\n"),
    }
}

/// What came of a request that a person asked for.
fn sent(session: &mut Session<'_, '_>, told: &Value) -> Result<Outcome, AdminError> {
    session.print(told, |told| {
        let response = text(&told["attempt"]["response"]);
        let response = if response == "-" { String::new() } else { format!("  {response}\n") };
        format!("{}\n{response}", cell(told, "says"))
    })?;
    Ok(if told["attempt"]["ok"] == true { Outcome::Good } else { Outcome::NotGood })
}

fn endpoint_table(endpoints: &[Value]) -> String {
    let row = |endpoint: &Value| {
        vec![
            cell(endpoint, "id"),
            cell(endpoint, "state"),
            cell(endpoint, "feeds"),
            bugs(endpoint, 3),
            cell(endpoint, "url"),
            cell(endpoint, "policy"),
            cell(endpoint, "description"),
            if endpoint["says"] == "all is well" { String::new() } else { cell(endpoint, "says") },
        ]
    };
    let rows: Vec<_> = endpoints.iter().map(row).collect();
    table(&["ID", "STATE", "FEEDS", "BUGS", "URL", "POLICY", "FOR", "NOTE"], &rows)
}

/// The bugs, or the first of them.
fn bugs(endpoint: &Value, most: usize) -> String {
    let Some(list) = endpoint["bugs"].as_array() else { return cell(endpoint, "bugs") };
    let count = endpoint["bug_count"].as_u64().unwrap_or(0);
    let shown: Vec<String> = list.iter().take(most).map(text).collect();
    let rest = count.saturating_sub(shown.len() as u64);
    if rest == 0 { shown.join(", ") } else { format!("{} and {rest} more", shown.join(", ")) }
}

fn show(endpoint: &Value) -> String {
    let template = &endpoint["template"];
    let rate = match endpoint["rate"].as_u64() {
        Some(rate) => format!("{rate} a second"),
        None => String::new(),
    };
    let mut shown = pairs(&[
        ("endpoint", cell(endpoint, "id")),
        ("url", cell(endpoint, "url")),
        ("for", cell(endpoint, "description")),
        ("feeds", cell(endpoint, "feeds")),
        ("bugs", bugs(endpoint, 50)),
        ("policy", cell(endpoint, "policy")),
        ("rate", rate),
        ("template", text(template)),
        ("state", format!("{}: {}", cell(endpoint, "state"), cell(endpoint, "says"))),
        ("recent failures", cell(endpoint, "recent_failures")),
        ("back-offs", cell(endpoint, "backoff_count")),
        ("next try", time(&endpoint["next_try"])),
        (
            "orders waiting",
            endpoint["orders"].as_u64().filter(|count| *count > 0).map_or(String::new(), |n| n.to_string()),
        ),
        ("old secret until", time(&endpoint["old_secret_until"])),
        ("made", time(&endpoint["created"])),
    ]);
    for (feed, cursor) in endpoint["cursors"].as_object().into_iter().flatten() {
        let cursor = if cursor.is_null() { "none yet".to_owned() } else { text(cursor) };
        shown.push_str(&format!("cursor of {}: {cursor}\n", text(&json!(feed))));
    }
    for (name, value) in endpoint["headers"].as_object().into_iter().flatten() {
        shown.push_str(&format!("  {}: {}\n", text(&json!(name)), text(value)));
    }
    shown
}

fn attempt_table(attempts: &[Value]) -> String {
    let row = |attempt: &Value| {
        vec![
            cell(attempt, "id"),
            time(&attempt["begun"]),
            cell(attempt, "feed"),
            cell(attempt, "trigger"),
            outcome(attempt),
            format!("{} ms", cell(attempt, "took_ms")),
            cell(attempt, "webhook_id"),
            cell(attempt, "error"),
        ]
    };
    let rows: Vec<_> = attempts.iter().map(row).collect();
    table(&["ID", "BEGUN", "FEED", "TRIGGER", "OUTCOME", "TOOK", "WEBHOOK-ID", "ERROR"], &rows)
}

/// The status, or what kind of fault there was.
fn outcome(attempt: &Value) -> String {
    if attempt["status"].is_null() { cell(attempt, "fault") } else { cell(attempt, "status") }
}

fn show_attempt(attempt: &Value) -> String {
    let counts = if attempt["counts"] == true { "yes" } else { "no" };
    let mut shown = pairs(&[
        ("attempt", cell(attempt, "id")),
        ("endpoint", cell(attempt, "endpoint")),
        ("feed", cell(attempt, "feed")),
        ("begun", time(&attempt["begun"])),
        ("took", format!("{} ms", cell(attempt, "took_ms"))),
        ("trigger", cell(attempt, "trigger")),
        ("outcome", outcome(attempt)),
        ("error", cell(attempt, "error")),
        ("counts", counts.to_owned()),
        ("webhook-id", cell(attempt, "webhook_id")),
        ("content-type", cell(attempt, "content_type")),
    ]);
    for (member, title) in [("request", "sent"), ("response", "answered")] {
        let said = match attempt[member].as_str() {
            None => "(not kept)".to_owned(),
            Some("") => "(nothing)".to_owned(),
            Some(_) => cell(attempt, member),
        };
        shown.push_str(&format!("\n{title}:\n{said}\n"));
    }
    shown
}

fn show_preview(told: &Value) -> String {
    let mut shown = String::new();
    for request in told["requests"].as_array().into_iter().flatten() {
        shown.push_str(&format!("{}\n", cell(request, "says")));
        shown.push_str(&format!("  POST {}\n", cell(told, "url")));
        for header in request["headers"].as_array().into_iter().flatten() {
            shown.push_str(&format!("  {}: {}\n", text(&header[0]), text(&header[1])));
        }
        shown.push_str(&format!("\n  {}\n\n", cell(request, "body")));
    }
    if told["sample_secret"].is_string() {
        let secret = cell(told, "sample_secret");
        shown.push_str(&format!("signed with a secret for samples, which everybody knows: {secret}\n"));
    }
    shown.push_str(&format!("{}\n", cell(told, "says")));
    shown
}
