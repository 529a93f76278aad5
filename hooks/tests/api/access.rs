//! Who may ask, and what is refused before anything is looked at.

use bugfeed_hooks::store::tokens::{RANDOM_BYTES, Scope, Token};
use hyper::Method;
use hyper::header::AUTHORIZATION;

use crate::support::Rig;

#[tokio::test]
async fn without_a_good_token_nothing_is_told() {
    let rig = Rig::start().await;
    let other = Token::generate(&[6; RANDOM_BYTES]);
    let bearer = |text: &str| format!("Bearer {text}");
    for (value, want) in [
        (None, "no token"),
        (Some("Basic abc".to_owned()), "no bearer token"),
        (Some(bearer("x")), "form of a token"),
        (Some(bearer("bf_abcdef_ghijkmnpqrstuvwxyz2345")), "key of a sender"),
        (Some(bearer(other.expose())), "not known"),
        // The right identifier with another secret.
        (Some(bearer(&rig.token.expose().replace('f', "g"))), "not known"),
    ] {
        let headers: Vec<_> = value.iter().map(|value| (AUTHORIZATION, value.as_str())).collect();
        let answer = rig.send(Method::GET, "/overview", &headers, "").await;
        answer.refused(401, want);
        assert_eq!(answer.headers["www-authenticate"], "Bearer");
        assert!(!answer.body.to_string().contains(other.expose()), "no token is repeated");
    }
    let value = bearer(rig.token.expose());
    let twice = [(AUTHORIZATION, value.as_str()), (AUTHORIZATION, value.as_str())];
    rig.send(Method::GET, "/overview", &twice, "").await.refused(401, "two headers");
    assert_eq!(rig.get("/overview").await.status, 200);
    assert_eq!(rig.audited().await, [""; 0]);
}

#[tokio::test]
async fn a_token_is_good_for_its_scopes_only_and_until_it_is_removed() {
    let rig = Rig::start().await;
    let (read, write) = (rig.token_with(&[Scope::Read]).await, rig.token_with(&[Scope::Write]).await);
    let call = async |token: &Token, method: Method, path: &str| rig.call(token, method, path, "{}").await;
    assert_eq!(call(&read, Method::GET, "/keys").await.status, 200);
    call(&write, Method::GET, "/keys").await.refused(403, "scope read; this one has: write");
    call(&read, Method::POST, "/keys").await.refused(403, "scope write; this one has: read");
    call(&read, Method::DELETE, "/keys/abcdef").await.refused(403, "write");
    call(&read, Method::PATCH, "/keys/abcdef").await.refused(403, "write");
    call(&write, Method::POST, "/keys").await.refused(400, "no name");
    rig.store.remove_token(read.id()).await.unwrap();
    call(&read, Method::GET, "/keys").await.refused(401, "was removed");
    // That a token is used is noted.
    let used = rig.store.tokens().await.unwrap();
    assert!(used.iter().find(|token| token.id == write.id()).unwrap().used_us.is_some());
}

#[tokio::test]
async fn paths_methods_parameters_and_bodies_are_known() {
    let rig = Rig::start().await;
    rig.get("/nothing").await.refused(404, "no path /api/nothing");
    rig.get("/keys/abcdef/more/parts").await.refused(404, "no path");
    let answer = rig.call(&rig.token, Method::PUT, "/keys", "{}").await;
    answer.refused(405, "does not take PUT");
    let allowed = answer.headers["allow"].to_str().unwrap();
    assert!(allowed.contains("GET") && allowed.contains("POST"), "{allowed}");
    // Every path, with a parameter that it does not know. Those with a name in them refuse it before they look for it.
    let id = "01a1ee56-5e7b-7fff-bfff-ffff7fffffff";
    for path in bugfeed_hooks::api::paths() {
        let path = path.trim_start_matches("/api").replace("{id}", id).replace("{name}", "plain").replace("{bug}", "1");
        for method in [Method::GET, Method::POST, Method::PATCH, Method::DELETE] {
            let answer = rig.call(&rig.token, method.clone(), &format!("{path}?unheard=1"), "").await;
            if answer.status != 405 {
                answer.refused(400, "unknown parameter 'unheard'");
            }
        }
    }
    let long = format!("{{\"name\":\"{}\"}}", "x".repeat(1 << 20));
    rig.call(&rig.token, Method::POST, "/keys", &long).await.refused(413, "longer than");
    rig.call(&rig.token, Method::POST, "/keys", "{").await.refused(400, "no JSON");
    rig.call(&rig.token, Method::POST, "/keys", "[\"x\"]").await.refused(400, "no JSON object");
    rig.call(&rig.token, Method::POST, "/keys", "{\"nam\":1}").await.refused(400, "unknown member `nam`");
    rig.call(&rig.token, Method::POST, "/keys", "{\"name\":1}")
        .await
        .refused(400, "name: a number stands where a text is wanted");
    rig.get("/keys?limit=0").await.refused(400, "limit: '0'");
    rig.get("/events?limit=1001").await.refused(400, "limit: '1001'");
    rig.get("/events/x").await.refused(400, "id: 'x'");
    rig.get("/bugs/x").await.refused(400, "bug: 'x'");
    assert_eq!(rig.get("/overview").await.headers["cache-control"], "no-store");
    assert_eq!(rig.audited().await, [""; 0], "what is refused is no deed");
}

#[tokio::test]
async fn a_store_that_is_away_is_said() {
    let rig = Rig::start().await;
    rig.store.close().await;
    std::fs::remove_file(rig.dir.path().join("hooks.db")).unwrap();
    let answer = rig.get("/overview").await;
    assert!([500, 503].contains(&answer.status), "{answer:?}");
    assert!(answer.body["error"].as_str().unwrap().contains("store"));
}
