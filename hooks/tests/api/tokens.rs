//! Tokens of the API.

use bugfeed_hooks::store::tokens::{Scope, Token};
use hyper::Method;
use serde_json::json;

use crate::support::Rig;

#[tokio::test]
async fn a_token_grants_only_scopes_it_has() {
    let rig = Rig::start().await;
    let made = rig.post("/tokens", json!({ "name": "dashboard", "scopes": ["read", "write", "read"] })).await;
    assert_eq!(made.status, 201);
    let token = Token::parse(made.body["token"].as_str().unwrap()).unwrap();
    assert_eq!((&made.body["scopes"], &made.body["own"]), (&json!(["read", "write"]), &json!(false)));
    let ask = async |scopes| {
        let body = json!({ "name": "x", "scopes": scopes });
        rig.call(&token, Method::POST, "/tokens", &body.to_string()).await
    };
    ask(json!(["read", "raw"])).await.refused(403, "has not the scope raw");
    assert_eq!(ask(json!(["read"])).await.status, 201);
    for (body, want) in [
        (json!({ "name": "x" }), "no scopes"),
        (json!({ "name": "x", "scopes": [] }), "no scopes"),
        (json!({ "name": "x", "scopes": ["all"] }), "scopes: 'all'"),
        (json!({ "scopes": ["read"] }), "no name"),
    ] {
        rig.post("/tokens", body).await.refused(400, want);
    }
    let listed = rig.call(&token, Method::GET, "/tokens?limit=2", "").await.good();
    assert_eq!(listed["tokens"].as_array().unwrap().len(), 2);
    let after = listed["next"].as_str().unwrap();
    let rest = rig.call(&token, Method::GET, &format!("/tokens?after={after}"), "").await.good();
    assert_eq!((&rest["tokens"][0]["name"], &rest["next"]), (&json!("first"), &json!(null)));
    assert!(!listed.to_string().contains(token.expose()));
    let deeds = rig.audited().await;
    assert_eq!(deeds[0], format!("{} first tokens.create {}", rig.token.id(), token.id()));
    assert!(deeds[1].starts_with(&format!("{} dashboard tokens.create ", token.id())), "{deeds:?}");
}

#[tokio::test]
async fn a_token_is_removed_but_not_the_last_one_that_can_write() {
    let rig = Rig::start().await;
    let read = rig.token_with(&[Scope::Read]).await;
    let remove =
        async |token: &Token| rig.call(&rig.token, Method::DELETE, &format!("/tokens/{}", token.id()), "").await;
    remove(&rig.token).await.refused(409, "last token with the scope write");
    assert_eq!(remove(&read).await.good()["name"], "less");
    remove(&read).await.refused(404, "no token");
    let write = rig.token_with(&[Scope::Write]).await;
    assert_eq!(remove(&rig.token).await.good()["own"], true);
    rig.get("/overview").await.refused(401, "was removed");
    assert_eq!(rig.call(&write, Method::POST, "/keys", "{\"name\":\"x\"}").await.status, 201);
}
