//! Tokens of this API: made, listed, removed. A token is shown once, in the answer that makes it.

use rand::random;
use serde::Deserialize;
use serde_json::{Value, json};

use super::call::{Call, Name, answer, created};
use super::error::{Answer, ApiError};
use super::keys::check_name;
use super::shapes::{at, maybe_at, page};
use crate::store::tokens::{NewToken, RANDOM_BYTES, Scope, StoredToken, Token};

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct TokenBody {
    name: Option<String>,
    scopes: Option<Vec<String>>,
}

pub(super) async fn list(call: Call) -> Answer {
    let params = call.params(&["after", "limit"])?;
    let limit = params.limit()?;
    let mut tokens = call.store().tokens().await?;
    tokens.sort_by(|a, b| (b.created_us, &b.id).cmp(&(a.created_us, &a.id)));
    let (tokens, next) = page(tokens, params.text("after"), limit, |token| &token.id);
    let tokens: Vec<Value> = tokens.iter().map(|token| shape(token, &call.caller.id)).collect();
    answer(json!({ "tokens": tokens, "next": next }))
}

pub(super) async fn create(call: Call) -> Answer {
    let body: TokenBody = call.json()?;
    let name = body
        .name
        .as_deref()
        .ok_or_else(|| ApiError::bad("the token has no name", "add \"name\": who uses it, such as \"dashboard\""))?;
    let name = check_name("name", name)?;
    let scopes = check_scopes(&body.scopes.unwrap_or_default())?;
    if let Some(scope) = scopes.iter().find(|scope| !call.caller.has(**scope)) {
        return Err(ApiError::forbidden(
            format!("this token has not the scope {}, so it cannot grant it", scope.as_str()),
            "ask somebody whose token has it",
        ));
    }
    let token = Token::generate(&random::<[u8; RANDOM_BYTES]>());
    let names: Vec<&str> = scopes.iter().map(|scope| scope.as_str()).collect();
    call.audit("tokens.create", token.id(), &json!({ "name": name, "scopes": names })).await?;
    let new = NewToken { token, name, scopes: scopes.clone(), created_us: call.now_us };
    call.store().add_token(&new).await?;
    let stored = StoredToken {
        id: new.token.id().to_owned(),
        hash: new.token.hash(),
        name: new.name.clone(),
        scopes,
        created_us: call.now_us,
        used_us: None,
    };
    let mut shape = shape(&stored, &call.caller.id);
    shape["token"] = json!(new.token.expose());
    created(shape)
}

pub(super) async fn remove(Name(id): Name, call: Call) -> Answer {
    call.nothing()?;
    let tokens = call.store().tokens().await?;
    let Some(token) = tokens.iter().find(|token| token.id == id) else {
        let id: String = id.chars().take(60).collect();
        return Err(ApiError::missing(format!("there is no token {id}"), "`bugfeed tokens list` has all of them"));
    };
    let writes = |token: &&StoredToken| token.scopes.contains(&Scope::Write);
    if writes(&token) && tokens.iter().filter(writes).count() == 1 {
        let fix = "make another one with the scope write first";
        return Err(ApiError::conflict(
            "this is the last token with the scope write: nobody could change anything",
            fix,
        ));
    }
    call.audit("tokens.remove", &id, &json!({ "name": token.name })).await?;
    call.store().remove_token(&id).await?;
    answer(shape(token, &call.caller.id))
}

fn check_scopes(names: &[String]) -> Result<Vec<Scope>, ApiError> {
    let fix = "name some of read, raw, write";
    if names.is_empty() {
        return Err(ApiError::bad("the token has no scopes, so it could do nothing", fix));
    }
    let mut scopes = Vec::new();
    for name in names {
        let scope = Scope::parse(name).ok_or_else(|| super::params::wrong("scopes", name, fix))?;
        scopes.push(scope);
    }
    scopes.sort_unstable();
    scopes.dedup();
    Ok(scopes)
}

fn shape(token: &StoredToken, own: &str) -> Value {
    json!({
        "id": token.id,
        "name": token.name,
        "scopes": token.scopes.iter().map(|scope| scope.as_str()).collect::<Vec<_>>(),
        "created": at(token.created_us),
        "last_used": maybe_at(token.used_us),
        "own": token.id == own,
    })
}
