//! Keys of senders: made, listed, changed, rotated, revoked. A key is shown once, in the answer that makes it.

use std::collections::BTreeSet;

use rand::random;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use super::Api;
use super::call::{Call, Name, answer, created};
use super::error::{Answer, ApiError};
use super::params::time;
use super::shapes::{at, maybe_at, page};
use crate::receive::key::{Key, RANDOM_BYTES};
use crate::store::keys::{KeyChange, KeyScopes, StoredKey, with_id};

/// The longest name, in characters.
const LONGEST_NAME: usize = 200;
/// For how many hours a rotated key may go on.
const LONGEST_OVERLAP: u64 = 168;
const HOUR_US: i64 = 3_600_000_000;

/// What a person writes of a key.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct KeyBody {
    name: Option<String>,
    owner: Option<String>,
    scopes: Option<ScopesBody>,
    #[serde(deserialize_with = "given")]
    expires: Option<Option<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ScopesBody {
    sources: Option<Vec<String>>,
    feeds: Option<Vec<String>>,
}

/// Tells a member that is null from one that is absent.
fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<String>>, D::Error> {
    Option::<String>::deserialize(deserializer).map(Some)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RotateBody {
    overlap_hours: u64,
    #[serde(deserialize_with = "given")]
    expires: Option<Option<String>>,
}

impl Default for RotateBody {
    fn default() -> RotateBody {
        RotateBody { overlap_hours: 24, expires: None }
    }
}

pub(super) async fn list(call: Call) -> Answer {
    let params = call.params(&["after", "limit", "state"])?;
    let (limit, state) = (params.limit()?, params.text("state"));
    if let Some(text) = state.filter(|text| !STATES.contains(text)) {
        return Err(super::params::wrong("state", text, "the states of a key are active, expired, revoked"));
    }
    let mut keys = call.store().keys().await?;
    keys.retain(|key| state.is_none_or(|state| state_of(key, call.now_us) == state));
    keys.sort_by(|a, b| (b.created_us, &b.id).cmp(&(a.created_us, &a.id)));
    let (keys, next) = page(keys, params.text("after"), limit, |key| &key.id);
    let keys: Vec<Value> = keys.iter().map(|key| shape(key, call.now_us)).collect();
    answer(json!({ "keys": keys, "next": next }))
}

pub(super) async fn create(call: Call) -> Answer {
    let body: KeyBody = call.json()?;
    let name = body.name.as_deref().ok_or_else(|| {
        ApiError::bad("the key has no name", "add \"name\": what it is for, such as \"bugzilla.example.org\"")
    })?;
    let name = check_name("name", name)?;
    let owner = body.owner.as_deref().map(check_owner).transpose()?.unwrap_or_default();
    let scopes = body.scopes.map_or(Ok(KeyScopes::default()), |scopes| check_scopes(&call.api, scopes))?;
    let expires_us = check_expiry(body.expires.flatten().as_deref(), call.now_us)?;
    let key = unused(&call).await?;
    let stored = StoredKey {
        id: key.id().to_owned(),
        hash: key.hash(),
        previous: None,
        name,
        owner,
        scopes,
        created_us: call.now_us,
        expires_us,
        used_us: None,
        revoked_us: None,
    };
    let mut shape = shape(&stored, call.now_us);
    call.audit("keys.create", &stored.id, &audited(&shape)).await?;
    call.store().add_key(&stored).await?;
    call.api.service().keys_changed();
    shape["key"] = json!(key.expose());
    created(shape)
}

/// A new key whose identifier no other key has.
async fn unused(call: &Call) -> Result<Key, ApiError> {
    loop {
        let key = Key::generate(&random::<[u8; RANDOM_BYTES]>());
        if call.store().key(key.id()).await?.is_none() {
            return Ok(key);
        }
    }
}

pub(super) async fn change(Name(id): Name, call: Call) -> Answer {
    let body: KeyBody = call.json()?;
    let key = usable(&call, &id).await?;
    let change = KeyChange {
        name: body.name.as_deref().map(|name| check_name("name", name)).transpose()?,
        owner: body.owner.as_deref().map(check_owner).transpose()?,
        scopes: body.scopes.map(|scopes| check_scopes(&call.api, scopes)).transpose()?,
        expires_us: match &body.expires {
            None => None,
            Some(text) => Some(check_expiry(text.as_deref(), call.now_us)?),
        },
    };
    let mut changed = key.clone();
    changed.name = change.name.clone().unwrap_or(changed.name);
    changed.owner = change.owner.clone().unwrap_or(changed.owner);
    changed.scopes = change.scopes.clone().unwrap_or(changed.scopes);
    changed.expires_us = change.expires_us.unwrap_or(changed.expires_us);
    if changed == key {
        let fix = "give one of: name, owner, scopes, expires";
        return Err(ApiError::bad("nothing is to be changed", fix));
    }
    let shape = shape(&changed, call.now_us);
    call.audit("keys.change", &id, &audited(&shape)).await?;
    if !call.store().change_key(&id, &change).await? {
        return Err(revoked(&id));
    }
    call.api.service().keys_changed();
    answer(shape)
}

pub(super) async fn rotate(Name(id): Name, call: Call) -> Answer {
    let body: RotateBody = call.json()?;
    if body.overlap_hours > LONGEST_OVERLAP {
        let error = format!("overlap_hours: {} is too much", body.overlap_hours);
        return Err(ApiError::bad(error, "the old key may go on for 0 to 168 hours"));
    }
    let mut stored = usable(&call, &id).await?;
    let is_expired = state_of(&stored, call.now_us) == "expired";
    let expires = match &body.expires {
        None if is_expired => return Err(expired(&id)),
        None => None,
        Some(text) => Some(check_expiry(text.as_deref(), call.now_us)?),
    };
    let hours = i64::try_from(body.overlap_hours).unwrap_or(0);
    // What has expired does not come to life again beside the new one.
    let until_us = if is_expired { call.now_us } else { call.now_us.saturating_add(hours * HOUR_US) };
    let fresh = with_id(&id, &Key::generate(&random::<[u8; RANDOM_BYTES]>()))
        .ok_or_else(|| ApiError::conflict("the identifier of this key is none", "make a new key"))?;
    stored.expires_us = expires.unwrap_or(stored.expires_us);
    let detail = json!({ "old_until": at(until_us), "expires": maybe_at(stored.expires_us) });
    call.audit("keys.rotate", &id, &detail).await?;
    if !call.store().rotate_key(&fresh, until_us, stored.expires_us).await? {
        return Err(revoked(&id));
    }
    call.api.service().keys_changed();
    stored.previous = Some((stored.hash, until_us));
    let mut shape = shape(&stored, call.now_us);
    shape["key"] = json!(fresh.expose());
    answer(shape)
}

pub(super) async fn revoke(Name(id): Name, call: Call) -> Answer {
    call.nothing()?;
    let mut key = call.store().key(&id).await?.ok_or_else(|| unknown(&id))?;
    if key.revoked_us.is_none() {
        call.audit("keys.revoke", &id, &json!({ "name": key.name })).await?;
        call.store().revoke_key(&id, call.now_us).await?;
        call.api.service().keys_changed();
        key.revoked_us = Some(call.now_us);
    }
    answer(shape(&key, call.now_us))
}

/// A key that is not revoked.
async fn usable(call: &Call, id: &str) -> Result<StoredKey, ApiError> {
    let key = call.store().key(id).await?.ok_or_else(|| unknown(id))?;
    if key.revoked_us.is_some() { Err(revoked(id)) } else { Ok(key) }
}

fn unknown(id: &str) -> ApiError {
    let fix = "the identifier is the part between bf_ and the next _; `bugfeed keys list` has all of them";
    ApiError::missing(format!("there is no key {}", id.chars().take(60).collect::<String>()), fix)
}

fn expired(id: &str) -> ApiError {
    let fix = format!(
        "say until when the new one is valid: `bugfeed keys rotate {id} --expires 90d`, in the API \"expires\"; or let the \
         old one go on with `bugfeed keys change {id} --expires 90d`"
    );
    ApiError::conflict(format!("the key {id} has expired, and with another secret it would still be refused"), fix)
}

fn revoked(id: &str) -> ApiError {
    ApiError::conflict(format!("the key {id} was revoked"), "make a new one; a revoked key stays revoked")
}

const STATES: [&str; 3] = ["active", "expired", "revoked"];

fn state_of(key: &StoredKey, now_us: i64) -> &'static str {
    match key {
        key if key.revoked_us.is_some() => "revoked",
        key if key.expires_us.is_some_and(|expires_us| expires_us <= now_us) => "expired",
        _ => "active",
    }
}

/// Until when the key before the last rotation is valid.
fn old_until(key: &StoredKey) -> Option<i64> {
    let (_, until_us) = key.previous?;
    Some(key.expires_us.map_or(until_us, |expires_us| until_us.min(expires_us)))
}

fn shape(key: &StoredKey, now_us: i64) -> Value {
    json!({
        "id": key.id,
        "name": key.name,
        "owner": key.owner,
        "scopes": { "sources": key.scopes.sources, "feeds": key.scopes.feeds },
        "state": state_of(key, now_us),
        "created": at(key.created_us),
        "expires": maybe_at(key.expires_us),
        "last_used": maybe_at(key.used_us),
        "revoked": maybe_at(key.revoked_us),
        "old_until": maybe_at(old_until(key).filter(|until_us| *until_us > now_us)),
    })
}

/// What the audit log says of a key.
fn audited(shape: &Value) -> Value {
    json!({ "name": shape["name"], "owner": shape["owner"], "scopes": shape["scopes"], "expires": shape["expires"] })
}

/// Checks a name that a person gives.
pub(super) fn check_name(member: &str, name: &str) -> Result<String, ApiError> {
    let name = name.trim();
    let length = name.chars().count();
    if length == 0 || length > LONGEST_NAME || name.chars().any(char::is_control) {
        let fix = format!("it has 1 to {LONGEST_NAME} characters, all in one line");
        return Err(ApiError::bad(format!("{member}: this is no name"), fix));
    }
    Ok(name.to_owned())
}

/// An owner may be empty.
fn check_owner(owner: &str) -> Result<String, ApiError> {
    if owner.trim().is_empty() { Ok(String::new()) } else { check_name("owner", owner) }
}

fn check_scopes(api: &Api, scopes: ScopesBody) -> Result<KeyScopes, ApiError> {
    let config = api.service().config();
    let sources: BTreeSet<&str> = config.sources.iter().map(|source| source.name.as_str()).collect();
    Ok(KeyScopes {
        sources: check_list("sources", "source", scopes.sources, &sources)?,
        feeds: check_list("feeds", "feed", scopes.feeds, &config.feeds())?,
    })
}

fn check_list(
    member: &str,
    what: &str,
    names: Option<Vec<String>>,
    known: &BTreeSet<&str>,
) -> Result<Option<Vec<String>>, ApiError> {
    let Some(mut names) = names else { return Ok(None) };
    if names.is_empty() {
        let fix = format!("name at least one, or leave {member} out: that means all");
        return Err(ApiError::bad(format!("scopes.{member} is empty, so the key could do nothing"), fix));
    }
    if let Some(name) = names.iter().find(|name| !known.contains(name.as_str())) {
        let name: String = name.chars().take(60).collect();
        let all: Vec<&str> = known.iter().copied().take(50).collect();
        let fix = format!("the configuration has: {}", all.join(", "));
        return Err(ApiError::bad(format!("there is no {what} '{name}'"), fix));
    }
    names.sort_unstable();
    names.dedup();
    Ok(Some(names))
}

fn check_expiry(text: Option<&str>, now_us: i64) -> Result<Option<i64>, ApiError> {
    let Some(text) = text else { return Ok(None) };
    let expires_us = time("expires", text)?;
    if expires_us <= now_us {
        return Err(ApiError::bad(
            format!("expires: {text} has passed"),
            "give a time to come, or never (in JSON, null)",
        ));
    }
    Ok(Some(expires_us))
}
