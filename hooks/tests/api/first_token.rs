//! The file of the first token.

use std::os::unix::fs::PermissionsExt as _;

use bugfeed_hooks::api::first_token::{self, FirstToken};
use bugfeed_hooks::store::tokens::{Scope, Token};
use bugfeed_hooks::store::{Options, Store};
use bugfeed_sql::DbUrl;
use tempfile::TempDir;

use crate::support::NOON_US;

async fn open(dir: &TempDir, token: &FirstToken) -> (Store, bool) {
    let url: DbUrl = format!("sqlite://{}", dir.path().join("hooks.db").display()).parse().unwrap();
    let options = Options { first_token: Some(token.to_store(NOON_US)), ..Options::default() };
    let opened = Store::open(&url, options).await.unwrap();
    (opened.store, opened.is_new)
}

#[tokio::test]
async fn the_first_token_is_made_once_and_only_its_owner_can_read_it() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("data").join(first_token::FILE_NAME);
    // A process that is killed after it made the store leaves the token beside its place, and the next one finds it.
    let killed = FirstToken::prepare(&path).unwrap();
    let (store, is_new) = open(&dir, &killed).await;
    assert!(is_new && !path.exists());
    store.close().await;
    drop((store, killed));
    let first = FirstToken::prepare(&path).unwrap();
    let (store, is_new) = open(&dir, &first).await;
    assert!(!is_new);
    assert_eq!(first.settle(&store).await.unwrap(), Some(path.clone()));
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let text = std::fs::read_to_string(&path).unwrap();
    let token = Token::parse(text.trim()).unwrap();
    let stored = store.tokens().await.unwrap();
    assert_eq!((stored.len(), stored[0].hash, stored[0].scopes.len()), (1, token.hash(), 3));
    store.close().await;
    drop(store);
    // A start later changes nothing, and leaves nothing behind.
    let later = FirstToken::prepare(&path).unwrap();
    let (store, _) = open(&dir, &later).await;
    assert_eq!(later.settle(&store).await.unwrap(), None);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
}

#[tokio::test]
async fn another_token_for_whoever_has_the_store() {
    let dir = TempDir::new().unwrap();
    let first = FirstToken::prepare(&dir.path().join("admin.token")).unwrap();
    let (store, _) = open(&dir, &first).await;
    let token = first_token::another(&store, "lost", NOON_US).await.unwrap();
    let stored = store.tokens().await.unwrap();
    let found = stored.iter().find(|stored| stored.hash == token.hash()).unwrap();
    assert_eq!((found.name.as_str(), &found.scopes[..]), ("lost", &Scope::ALL[..]));
    let deed = store.audited(None, 1).await.unwrap().pop().unwrap();
    assert_eq!((deed.deed.as_str(), deed.subject.as_str()), ("tokens.create", token.id()));
    assert!(!deed.detail.contains(token.expose()));
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = FirstToken::prepare(&file.join("admin.token")).unwrap_err().to_string();
    assert!(error.contains("admin.token") && error.contains("permission"), "{error}");
}

#[tokio::test]
async fn what_was_prepared_for_a_store_that_another_process_has_is_not_left_behind() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join(first_token::FILE_NAME);
    let beside = dir.path().join(format!("{}.new", first_token::FILE_NAME));
    FirstToken::prepare(&path).unwrap().discard();
    assert!(!beside.exists());
    // What an earlier process has left may be in the store.
    drop(FirstToken::prepare(&path).unwrap());
    FirstToken::prepare(&path).unwrap().discard();
    assert!(beside.exists());
}
