//! `bugfeed sources`.

use bugfeed_hooks::api::client::part;
use serde_json::{Value, json};

use super::table::{cell, count as number, table, text, time};
use super::{AdminError, Outcome, Screen, Session};
use crate::cli::hooks::{SourcesArgs, SourcesCommand, SwitchArgs};

pub(super) async fn sources(args: SourcesArgs, screen: &mut Screen<'_>) -> Result<Outcome, AdminError> {
    let mut session = Session::new(&args.admin, screen)?;
    match args.command {
        SourcesCommand::List => list(&mut session).await,
        SourcesCommand::Disable(which) => switch(&mut session, which, "disable").await,
        SourcesCommand::Enable(which) => switch(&mut session, which, "enable").await,
        SourcesCommand::Reconcile { name } => {
            let told = session.api.post(&format!("sources/{}/reconcile", part(&name)), &json!({})).await?;
            session.print(&told, |told| {
                format!(
                    "the tracker of {} is being asked what has changed; `bugfeed events list` shows what was missing\n",
                    cell(told, "source")
                )
            })
        }
        SourcesCommand::Test { name } => {
            let told = session.api.post(&format!("sources/{}/test", part(&name)), &json!({})).await?;
            session.print(&told, show_test)?;
            Ok(if told["good"] == true { Outcome::Good } else { Outcome::NotGood })
        }
    }
}

async fn list(session: &mut Session<'_, '_>) -> Result<Outcome, AdminError> {
    let told = session.api.get("sources", &[]).await?;
    let rows = told["sources"].as_array().map(Vec::as_slice).unwrap_or_default();
    let off: Vec<String> = told["feeds"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|feed| feed["off_since"].is_string())
        .map(|feed| format!("feed {} is switched off since {}\n", cell(feed, "name"), time(&feed["off_since"])))
        .collect();
    let unknown = &told["unknown_sources"]["refused"];
    let unknown = if unknown["kept"].as_u64().unwrap_or(0) > 0 {
        format!(
            "to sources that are not configured, {} came in the last 24 h ({} kept): bugfeed requests list \
             --state quarantined\n",
            number(unknown["day"].as_u64().unwrap_or(0), "request"),
            cell(unknown, "kept")
        )
    } else {
        String::new()
    };
    session.list(rows, "there are no sources; name them in a file for --config", |rows| {
        let row = |source: &Value| {
            vec![
                cell(source, "name"),
                if source["preset"].is_null() { "own".to_owned() } else { cell(source, "preset") },
                cell(source, "path"),
                cell(source, "feeds"),
                access(source),
                cell(source, "answers"),
                silence(&source["silent_seconds"]),
                time(&source["last_taken"]),
                time(&source["connected"]),
                refused(&source["refused"]),
                errored(&source["errored"]),
                if source["off_since"].is_null() {
                    "on".to_owned()
                } else {
                    format!("off since {}", time(&source["off_since"]))
                },
            ]
        };
        let rows: Vec<_> = rows.iter().map(row).collect();
        let head = [
            "NAME",
            "PRESET",
            "PATH",
            "FEEDS",
            "ACCESS",
            "ANSWERS",
            "LAST REQUEST",
            "LAST TAKEN",
            "CONNECTED",
            "REFUSED",
            "ERRORED",
            "SWITCH",
        ];
        table(&head, &rows) + &off.concat() + &unknown
    })
}

/// What was refused in the last day, and how much of all that was is kept.
fn refused(refused: &Value) -> String {
    match (refused["day"].as_u64().unwrap_or(0), refused["kept"].as_u64().unwrap_or(0)) {
        (0, 0) => "-".to_owned(),
        (day, kept) => format!("{day} in 24 h, {kept} kept"),
    }
}

/// How many requests of the last day had errors, and how many dead letters wait.
fn errored(errored: &Value) -> String {
    match (errored["day"].as_u64().unwrap_or(0), errored["dead_letters"].as_u64().unwrap_or(0)) {
        (0, 0) => "-".to_owned(),
        (day, dead) => format!("{day} in 24 h, {dead} dead letters"),
    }
}

fn access(source: &Value) -> String {
    if source["secrets"].as_u64().unwrap_or(0) > 0 {
        let signatures = source["signatures"].as_array().map(Vec::as_slice).unwrap_or_default();
        let is_token = |signature: &Value| signature.as_str().is_some_and(|says| says.starts_with("token "));
        match (signatures.iter().any(is_token), signatures.iter().all(is_token)) {
            (true, true) => "token".to_owned(),
            (true, false) => "token or signature".to_owned(),
            (false, _) => "signature".to_owned(),
        }
    } else if source["lacks_secret"] == true {
        "no secret".to_owned()
    } else {
        format!("key: {}", text(&source["keys"]))
    }
}

/// How long ago something was, in the largest unit that fits.
fn silence(seconds: &Value) -> String {
    let Some(seconds) = seconds.as_u64() else { return "-".to_owned() };
    match seconds {
        0..=119 => format!("{seconds} s ago"),
        120..=7_199 => format!("{} min ago", seconds / 60),
        7_200..=172_799 => format!("{} h ago", seconds / 3_600),
        _ => format!("{} d ago", seconds / 86_400),
    }
}

async fn switch(session: &mut Session<'_, '_>, which: SwitchArgs, order: &str) -> Result<Outcome, AdminError> {
    let (kind, name) = match (which.name, which.feed) {
        (Some(name), _) => ("sources", name),
        (None, feed) => ("feeds", feed.unwrap_or_default()),
    };
    let told = session.api.post(&format!("{kind}/{}/{order}", part(&name)), &json!({})).await?;
    session.print(&told, |told| {
        if told["off_since"].is_string() {
            format!("{name} is switched off since {}: what comes is received, and waits\n", time(&told["off_since"]))
        } else {
            format!("{name} is switched on\n")
        }
    })
}

fn show_test(told: &Value) -> String {
    let checks = told["checks"].as_array().into_iter().flatten();
    let line = |check: &Value| {
        let mark = if check["good"] == true { "ok " } else { "NOT" };
        format!("{mark}  {:<10} {}\n", cell(check, "what"), cell(check, "says"))
    };
    checks.map(line).collect()
}
