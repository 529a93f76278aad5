//! Keys and tokens.

use bugfeed_hooks::receive::key::Key;
use bugfeed_hooks::store::keys::KeyChange;
use bugfeed_hooks::store::tokens::Token;

use crate::support::{Rig, run};

#[tokio::test]
async fn a_key_is_printed_alone_and_never_again() {
    let rig = Rig::start().await;
    let said = rig.run(&["keys", "create", "--name", "try", "--source", "plain", "--expires", "90d"]).await;
    assert!(said.remarks.contains("shown only now"), "{said:?}");
    let text = said.good();
    let key = Key::parse(text.strip_suffix('\n').unwrap()).unwrap();
    let id = key.id();
    assert!(key.is(&rig.store.key(id).await.unwrap().unwrap().hash));
    let table = rig.run(&["keys", "list"]).await.good();
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].starts_with("ID      NAME  STATE   SOURCES  FEEDS"), "{table}");
    assert!(lines[1].starts_with(&format!("{id}  try   active  plain    all")), "{table}");
    assert!(!table.contains(key.expose()));
    // What is not named is as it was.
    rig.run(&["keys", "change", id, "--feed", "kde", "--expires", "never"]).await.good();
    let stored = rig.store.key(id).await.unwrap().unwrap();
    assert_eq!((stored.scopes.sources, stored.scopes.feeds), (Some(vec!["plain".into()]), Some(vec!["kde".into()])));
    assert_eq!(stored.expires_us, None);
    rig.run(&["keys", "change", id, "--all-sources"]).await.good();
    assert_eq!(rig.store.key(id).await.unwrap().unwrap().scopes.sources, None);
    let said = rig.run(&["keys", "rotate", id, "--overlap-hours", "0"]).await;
    assert!(said.remarks.contains("refused from now on"), "{said:?}");
    let fresh = Key::parse(said.good().trim()).unwrap();
    assert!(fresh.is(&rig.store.key(id).await.unwrap().unwrap().hash));
    assert_eq!(rig.run(&["keys", "revoke", id]).await.good(), format!("key {id} (try) is revoked\n"));
    let listed = rig.json(&["keys", "list", "--state", "revoked"]).await;
    assert_eq!((listed.len(), listed[0]["id"].as_str()), (1, Some(id)));
    assert_eq!(rig.run(&["keys", "list", "--state", "active"]).await.good(), "");
    let said = rig.json(&["keys", "create", "--name", "json"]).await;
    assert!(Key::parse(said[0]["key"].as_str().unwrap()).is_some());
}

#[tokio::test]
async fn a_key_that_has_expired_needs_another_time() {
    let rig = Rig::start().await;
    let text = rig.run(&["keys", "create", "--name", "try"]).await.good();
    let key = Key::parse(text.trim()).unwrap();
    let id = key.id();
    let past = KeyChange { expires_us: Some(Some(1)), ..KeyChange::default() };
    assert!(rig.store.change_key(id, &past).await.unwrap());
    rig.run(&["keys", "rotate", id]).await.error(&["has expired", "keys rotate", "--expires", "keys change"]);
    let said = rig.run(&["keys", "rotate", id, "--expires", "90d"]).await;
    assert!(said.remarks.contains("the old key is refused from now on"), "{said:?}");
    assert!(rig.run(&["keys", "list"]).await.good().contains("active"));
}

#[tokio::test]
async fn refusals_say_what_to_do() {
    let rig = Rig::start().await;
    rig.run(&["keys", "create", "--name", "x", "--source", "plian"])
        .await
        .error(&["no source 'plian'", "plain, tracked"]);
    rig.run(&["keys", "create", "--name", "x", "--expires", "soon"]).await.error(&["--expires", "'soon'", "90d"]);
    rig.run(&["keys", "revoke", "no/ne"]).await.error(&["no key no/ne", "bugfeed keys list"]);
    rig.run(&["keys", "rotate", "x", "--overlap-hours", "999"]).await.error(&["999 is too much", "168"]);
}

#[tokio::test]
async fn tokens_are_made_for_others() {
    let rig = Rig::start().await;
    let text = rig.run(&["tokens", "create", "--name", "dashboard", "--scope", "read"]).await.good();
    let token = Token::parse(text.trim()).unwrap();
    let file = rig.dir.path().join("read.token");
    std::fs::write(&file, &text).unwrap();
    let (url, file) = (format!("http://{}", rig.address), file.display().to_string());
    let with = async |args: &[&str]| {
        let mut all = args.to_vec();
        all.extend(["--admin-url", &url, "--admin-token-file", &file]);
        run(&all).await
    };
    let table = with(&["tokens", "list"]).await.good();
    let own = table.lines().find(|line| line.contains("dashboard")).unwrap();
    assert!(own.ends_with("this one") && own.starts_with(token.id()), "{table}");
    with(&["keys", "create", "--name", "x"]).await.error(&["scope write", "bugfeed tokens create"]);
    rig.run(&["tokens", "create", "--name", "x", "--scope", "all"]).await.error(&["scopes: 'all'", "read, raw, write"]);
    rig.run(&["tokens", "remove", token.id()]).await.good();
    with(&["tokens", "list"]).await.error(&["refuses the token", "was removed", "--admin-token-file"]);
}
