//! `bugfeed keys`, `bugfeed tokens`.

use bugfeed_hooks::api::client::part;
use serde_json::{Map, Value, json};

use super::table::{cell, table, text, time};
use super::{AdminError, Outcome, Screen, Session, times};
use crate::cli::hooks::{
    ChangeKeyArgs, CreateKeyArgs, CreateTokenArgs, KeysArgs, KeysCommand, TokensArgs, TokensCommand,
};

pub(super) async fn keys(args: KeysArgs, screen: &mut Screen<'_>) -> Result<Outcome, AdminError> {
    let mut session = Session::new(&args.admin, screen)?;
    match args.command {
        KeysCommand::Create(args) => create(&mut session, args).await,
        KeysCommand::List { state, limit } => {
            let state = state.map(|state| ("state", state.as_str()));
            let query: Vec<_> = state.into_iter().collect();
            let rows = session.pages("keys", "keys", &query, limit.limit).await?;
            let none = "there are no keys; make one: bugfeed keys create --name NAME --source NAME";
            session.list(&rows, none, key_table)
        }
        KeysCommand::Change(args) => change(&mut session, args).await,
        KeysCommand::Rotate { id, overlap_hours, expires } => {
            let mut body = json!({ "overlap_hours": overlap_hours });
            if let Some(expires) = expires.as_deref() {
                body["expires"] = expiry(expires)?;
            }
            let key = session.api.post(&format!("keys/{}/rotate", part(&id)), &body).await?;
            let old = match key["old_until"].as_str() {
                Some(_) => format!("the old key goes on until {} UTC", time(&key["old_until"])),
                None => "the old key is refused from now on".to_owned(),
            };
            secret(
                &mut session,
                &key,
                "key",
                &format!("key {} has another secret, which is shown only now; {old}", cell(&key, "id")),
            )
        }
        KeysCommand::Revoke { id } => {
            let key = session.api.delete(&format!("keys/{}", part(&id))).await?;
            session.print(&key, |key| format!("key {} ({}) is revoked\n", cell(key, "id"), cell(key, "name")))
        }
    }
}

async fn create(session: &mut Session<'_, '_>, args: CreateKeyArgs) -> Result<Outcome, AdminError> {
    let mut body = Map::from_iter([("name".to_owned(), json!(args.name))]);
    if let Some(owner) = args.owner {
        body.insert("owner".to_owned(), json!(owner));
    }
    let lists = [("sources", args.source), ("feeds", args.feed)];
    let scopes: Map<String, Value> = lists
        .into_iter()
        .filter(|(_, names)| !names.is_empty())
        .map(|(member, names)| (member.to_owned(), json!(names)))
        .collect();
    body.insert("scopes".to_owned(), Value::Object(scopes));
    if let Some(expires) = args.expires.filter(|expires| expires != "never") {
        body.insert("expires".to_owned(), json!(times::ahead("expires", &expires)?));
    }
    let key = session.api.post("keys", &Value::Object(body)).await?;
    let said = format!("key {} ({}) is made; it is shown only now", cell(&key, "id"), cell(&key, "name"));
    secret(session, &key, "key", &said)
}

/// Prints what was just made: alone, so that a script can take it.
fn secret(session: &mut Session<'_, '_>, object: &Value, member: &str, said: &str) -> Result<Outcome, AdminError> {
    writeln!(session.screen.remarks, "{said}")?;
    session.print(object, |object| format!("{}\n", object[member].as_str().unwrap_or_default()))
}

async fn change(session: &mut Session<'_, '_>, args: ChangeKeyArgs) -> Result<Outcome, AdminError> {
    let path = format!("keys/{}", part(&args.id));
    let mut body = Map::new();
    for (member, value) in [("name", args.name), ("owner", args.owner)] {
        if let Some(value) = value {
            body.insert(member.to_owned(), json!(value));
        }
    }
    let lists = [("sources", args.source, args.all_sources), ("feeds", args.feed, args.all_feeds)];
    if lists.iter().any(|(_, names, is_all)| *is_all || !names.is_empty()) {
        body.insert("scopes".to_owned(), new_scopes(session, &args.id, lists).await?);
    }
    if let Some(expires) = args.expires.as_deref() {
        body.insert("expires".to_owned(), expiry(expires)?);
    }
    let key = session.api.patch(&path, &Value::Object(body)).await?;
    session.print(&key, |key| key_table(std::slice::from_ref(key)))
}

/// A time to come, or null for never.
fn expiry(text: &str) -> Result<Value, AdminError> {
    Ok(if text == "never" { Value::Null } else { json!(times::ahead("expires", text)?) })
}

/// The API takes both lists together, so the one that is not to be changed is read first.
async fn new_scopes(
    session: &mut Session<'_, '_>,
    id: &str,
    lists: [(&str, Vec<String>, bool); 2],
) -> Result<Value, AdminError> {
    let keys = session.pages("keys", "keys", &[], 100_000).await?;
    let known = keys.into_iter().find(|key| key["id"] == id).unwrap_or_default();
    let mut scopes = Map::new();
    for (member, names, is_all) in lists {
        if !names.is_empty() {
            scopes.insert(member.to_owned(), json!(names));
        } else if !is_all && known["scopes"][member].is_array() {
            scopes.insert(member.to_owned(), known["scopes"][member].clone());
        }
    }
    Ok(Value::Object(scopes))
}

fn key_table(keys: &[Value]) -> String {
    let all = |value: &Value| if value.is_null() { "all".to_owned() } else { text(value) };
    let expires = |value: &Value| if value.is_null() { "never".to_owned() } else { time(value) };
    let row = |key: &Value| {
        vec![
            cell(key, "id"),
            cell(key, "name"),
            cell(key, "state"),
            all(&key["scopes"]["sources"]),
            all(&key["scopes"]["feeds"]),
            cell(key, "owner"),
            time(&key["created"]),
            expires(&key["expires"]),
            time(&key["last_used"]),
        ]
    };
    let rows: Vec<_> = keys.iter().map(row).collect();
    table(&["ID", "NAME", "STATE", "SOURCES", "FEEDS", "OWNER", "MADE", "EXPIRES", "LAST USED"], &rows)
}

pub(super) async fn tokens(args: TokensArgs, screen: &mut Screen<'_>) -> Result<Outcome, AdminError> {
    let mut session = Session::new(&args.admin, screen)?;
    match args.command {
        TokensCommand::Create(CreateTokenArgs { name, scope }) => {
            let scopes: Vec<&str> = scope.iter().flat_map(|scopes| scopes.split(',')).collect();
            let token = session.api.post("tokens", &json!({ "name": name, "scopes": scopes })).await?;
            let said = format!("token {} ({}) is made; it is shown only now", cell(&token, "id"), cell(&token, "name"));
            secret(&mut session, &token, "token", &said)
        }
        TokensCommand::List { limit } => {
            let rows = session.pages("tokens", "tokens", &[], limit.limit).await?;
            session.list(&rows, "there are no tokens", token_table)
        }
        TokensCommand::Remove { id } => {
            let token = session.api.delete(&format!("tokens/{}", part(&id))).await?;
            session.print(&token, |token| format!("token {} ({}) is removed\n", cell(token, "id"), cell(token, "name")))
        }
    }
}

fn token_table(tokens: &[Value]) -> String {
    let own = |token: &Value| if token["own"] == true { "this one".to_owned() } else { String::new() };
    let row = |token: &Value| {
        vec![
            cell(token, "id"),
            cell(token, "name"),
            cell(token, "scopes"),
            time(&token["created"]),
            time(&token["last_used"]),
            own(token),
        ]
    };
    let rows: Vec<_> = tokens.iter().map(row).collect();
    table(&["ID", "NAME", "SCOPES", "MADE", "LAST USED", ""], &rows)
}
