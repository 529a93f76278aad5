//! Keys, tokens, the audit log, notes, leases.

use crate::receive::key::{Key, RANDOM_BYTES};
use crate::store::audit::Deed;
use crate::store::keys::{KeyChange, KeyScopes, StoredKey, with_id};
use crate::store::leases::Watch;
use crate::store::notes::{Switch, SwitchedOff};
use crate::store::tokens::{self, NewToken, Scope, Token};

use super::rig::{NOON_US, Rig, SECOND_US};

fn stored(key: &Key) -> StoredKey {
    StoredKey {
        id: key.id().to_owned(),
        hash: key.hash(),
        previous: None,
        name: "build é".to_owned(),
        owner: String::new(),
        scopes: KeyScopes { sources: Some(vec!["s".to_owned()]), feeds: None },
        created_us: NOON_US,
        expires_us: Some(NOON_US + SECOND_US),
        used_us: None,
        revoked_us: None,
    }
}

pub(super) async fn keys(rig: &Rig) {
    let store = &rig.store;
    let key = Key::generate(&[7; RANDOM_BYTES]);
    let mut want = stored(&key);
    store.add_key(&want).await.unwrap();
    assert!(store.add_key(&want).await.is_err(), "an ID names one key");
    assert_eq!(store.keys().await.unwrap(), [want.clone()]);
    let change = KeyChange {
        name: Some("other".to_owned()),
        scopes: Some(KeyScopes { sources: None, feeds: Some(vec!["a".to_owned(), "b".to_owned()]) }),
        expires_us: Some(None),
        ..KeyChange::default()
    };
    assert!(store.change_key(&want.id, &change).await.unwrap());
    want.name = "other".to_owned();
    want.scopes = change.scopes.unwrap();
    want.expires_us = None;
    assert_eq!(store.key(&want.id).await.unwrap(), Some(want.clone()));
    let fresh = with_id(&want.id, &Key::generate(&[9; RANDOM_BYTES])).unwrap();
    assert_eq!((fresh.id(), fresh.expose().len()), (key.id(), 32));
    assert!(store.rotate_key(&fresh, NOON_US + 9, None).await.unwrap());
    (want.hash, want.previous) = (fresh.hash(), Some((key.hash(), NOON_US + 9)));
    store.note_key_uses(&[(want.id.clone(), 50), (want.id.clone(), 40), ("none".to_owned(), 1)]).await.unwrap();
    want.used_us = Some(50);
    assert_eq!(store.key(&want.id).await.unwrap(), Some(want.clone()));
    assert!(store.revoke_key(&want.id, NOON_US + 1).await.unwrap());
    assert!(!store.revoke_key(&want.id, NOON_US + 2).await.unwrap(), "once");
    assert!(!store.change_key(&want.id, &KeyChange::default()).await.unwrap());
    assert!(!store.rotate_key(&fresh, NOON_US, None).await.unwrap());
    assert_eq!(store.key(&want.id).await.unwrap().unwrap().revoked_us, Some(NOON_US + 1));
    assert!(!store.revoke_key("none", 1).await.unwrap());
}

pub(super) async fn tokens(rig: &Rig) {
    let store = &rig.store;
    let token = Token::generate(&[3; tokens::RANDOM_BYTES]);
    assert_eq!(Token::parse(token.expose()), Some(token.clone()));
    assert!(!format!("{token:?}").contains(&token.expose()[10..]));
    for bad in ["", "bt_", "bt_abcdef_short", "bf_abcdef_ghijkmnpqrstuvwxyz2345"] {
        assert_eq!(Token::parse(bad), None);
    }
    let scopes = vec![Scope::Read, Scope::Write];
    let new = NewToken { token: token.clone(), name: "first".to_owned(), scopes, created_us: NOON_US };
    store.add_token(&new).await.unwrap();
    store.note_token_use(token.id(), NOON_US + 1).await.unwrap();
    let found = store.tokens().await.unwrap();
    assert_eq!((found.len(), found[0].hash, found[0].used_us), (1, token.hash(), Some(NOON_US + 1)));
    assert_eq!(found[0].scopes, new.scopes);
    assert!(store.remove_token(token.id()).await.unwrap());
    assert!(!store.remove_token(token.id()).await.unwrap());
}

pub(super) async fn the_audit_log(rig: &Rig) {
    let mut want = Vec::new();
    for n in 0..5 {
        let deed = Deed::new(NOON_US + n * 1000, "first", "keys.create", "abcdef", format!("{{\"n\":{n}}}"));
        rig.store.audit(&deed).await.unwrap();
        want.insert(0, deed);
    }
    let first = rig.store.audited(None, 3).await.unwrap();
    assert_eq!(first, want[..3]);
    assert_eq!(rig.store.audited(Some(first[2].id), 3).await.unwrap(), want[3..]);
}

pub(super) async fn notes_and_switches(rig: &Rig) {
    let store = &rig.store;
    assert_eq!(store.note("reconciled s").await.unwrap(), None);
    for value in ["1", "2", "2"] {
        store.set_note("reconciled s", value).await.unwrap();
        assert_eq!(store.note("reconciled s").await.unwrap().as_deref(), Some(value));
    }
    // Of several that change a note at once, one succeeds.
    for (from, to, changed) in [
        (None, Some("1"), true),
        (None, Some("2"), false),
        (Some("2"), Some("3"), false),
        (Some("1"), Some("2"), true),
        (Some("1"), None, false),
    ] {
        assert_eq!(store.change_note("told errored s", from, to).await.unwrap(), changed, "{from:?} {to:?}");
    }
    assert_eq!(store.notes_like("told ").await.unwrap(), [("told errored s".to_owned(), "2".to_owned())]);
    assert!(store.change_note("told errored s", Some("2"), None).await.unwrap());
    assert_eq!(store.notes_like("told ").await.unwrap(), []);
    store.set_switch(Switch::Source, "s", Some(5)).await.unwrap();
    store.set_switch(Switch::Source, "s", Some(6)).await.unwrap();
    store.set_switch(Switch::Feed, "s", Some(7)).await.unwrap();
    let off = |what, since_us| SwitchedOff { what, name: "s".to_owned(), since_us };
    assert_eq!(store.switched_off().await.unwrap(), [off(Switch::Feed, 7), off(Switch::Source, 5)]);
    store.set_switch(Switch::Source, "s", None).await.unwrap();
    assert_eq!(store.switched_off().await.unwrap(), [off(Switch::Feed, 7)]);
}

pub(super) async fn leases(rig: &Rig) {
    let other = rig.other().await;
    let (mut one, mut two) = (Watch::default(), Watch::default());
    let mut first = None;
    for _ in 0..2 {
        first = rig.store.try_lease("reconcile s", &mut one).await.unwrap();
    }
    let first = first.expect("it was free");
    assert!(other.try_lease("reconcile s", &mut two).await.unwrap().is_none());
    assert!(first.beat().await.unwrap());
    let term = first.term();
    first.release().await.unwrap();
    let second = other.try_lease("reconcile s", &mut two).await.unwrap().expect("it was released");
    assert!(second.term() > term);
    assert!(rig.store.try_lease("reconcile s", &mut one).await.unwrap().is_none());
    // Somebody has taken over from one who was only asleep.
    rig.store.db.execute("UPDATE hooks_leases SET term = term + 1", &[]).await.unwrap();
    assert!(!second.beat().await.unwrap(), "fenced");
    other.close().await;
}
