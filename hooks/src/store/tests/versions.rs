//! Tables are made and migrated.

use bugfeed_sql::{Db, Dialect, Use};

use super::rig::{NOON_US, Rig, count, item};
use crate::store::schema::{MIGRATIONS, Migration};
use crate::store::tokens::{self, NewToken, Scope, Token};
use crate::store::{Options, Store, StoreError, migrate};

/// A migration as a later version may have it.
fn third(_: &dyn Dialect) -> Vec<String> {
    vec![
        "ALTER TABLE hooks_events ADD COLUMN later BIGINT".to_owned(),
        "CREATE INDEX hooks_events_later ON hooks_events (later)".to_owned(),
    ]
}

const LATER: &[Migration] = &[MIGRATIONS[0], MIGRATIONS[1], third];

fn token() -> NewToken {
    let token = Token::generate(&[1; tokens::RANDOM_BYTES]);
    NewToken { token, name: "first".to_owned(), scopes: Scope::ALL.to_vec(), created_us: NOON_US }
}

pub(super) async fn a_store_is_made_once(rig: &Rig) {
    let options = Options { works: false, first_token: Some(token()), ..Options::default() };
    let opened = Store::open(&rig.url, options).await.unwrap();
    assert!(!opened.is_new);
    assert_eq!(opened.store.tokens().await.unwrap(), [], "the store was there");
    opened.store.close().await;
    if rig.url.file_path().is_none() {
        return;
    }
    let url = format!("sqlite://{}", rig.dir.path().join("other.db").display()).parse().unwrap();
    let look = Options { create: false, works: false, ..Options::default() };
    assert!(Store::open(&url, look.clone()).await.is_err(), "nothing is made");
    let make = Options { first_token: Some(token()), ..Options::default() };
    let opened = Store::open(&url, make.clone()).await.unwrap();
    assert!(opened.is_new && opened.store.tokens().await.unwrap().len() == 1);
    let refused = Store::open(&url, make).await.unwrap_err();
    assert!(matches!(refused, StoreError::InUse { .. }), "{refused}");
    assert!(refused.to_string().contains(&format!("pid {} on", std::process::id())), "{refused}");
    // A command may look at it.
    Store::open(&url, look).await.unwrap().store.close().await;
}

pub(super) async fn an_older_version_is_migrated(rig: &Rig) {
    let id = rig.arrive(item(1, 0, "d")).await;
    let db = Db::new(&rig.url, Use::Ledger { create: true });
    let look = Options { create: false, ..Options::default() };
    let refused = migrate::with(&db, LATER, &look).await.unwrap_err();
    assert!(matches!(refused, StoreError::Older { found: 2, known: 3, .. }), "{refused}");
    // A process died after the first statement.
    rig.store.db.execute(&third(rig.store.db.dialect())[0], &[]).await.unwrap();
    let is_new = migrate::with(&db, LATER, &Options::default()).await.unwrap();
    assert!(!is_new);
    assert!(!migrate::with(&db, LATER, &Options::default()).await.unwrap(), "nothing is left to do");
    assert_eq!(count(&rig.store, "hooks_events WHERE later IS NULL").await, 1);
    assert_eq!(rig.stored(id).await.event.bug.unwrap().get(), 1);
    db.close().await;
}

/// A store that was made before there were endpoints, with what was in it.
pub(super) async fn endpoints_come_to_a_store_of_the_version_before(rig: &Rig) {
    let id = rig.arrive(item(1, 0, "d")).await;
    let run = async |sql: &str| rig.store.db.execute(sql, &[]).await.unwrap();
    for table in ["hooks_endpoints", "hooks_attempts", "hooks_counters"] {
        run(&format!("DROP TABLE {table}")).await;
    }
    run("DELETE FROM hooks_leases").await;
    run("INSERT INTO hooks_leases (name, term, beat, holder) VALUES ('retention', 5, 6, 'somebody')").await;
    run("UPDATE hooks_meta SET version = 1").await;
    let look = Options { create: false, works: false, ..Options::default() };
    let refused = Store::open(&rig.url, look).await.unwrap_err();
    assert!(matches!(refused, StoreError::Older { found: 1, known: 2, .. }), "{refused}");
    // A process died in the middle of the migration.
    for statement in &MIGRATIONS[1](rig.store.db.dialect())[..4] {
        run(statement).await;
    }
    let store = rig.other().await;
    assert_eq!(rig.stored(id).await.event.bug.unwrap().get(), 1);
    assert_eq!(count(&store, "hooks_leases WHERE name = 'retention' AND term = 5").await, 1);
    assert_eq!(count(&store, "hooks_leases WHERE name LIKE 'endpoints-%' AND holder IS NULL").await, 32);
    assert_eq!(store.endpoints_mark().await.unwrap(), 0);
    let made = super::endpoints::create(&store, 1).await;
    assert_eq!(store.endpoint(&made.id).await.unwrap().unwrap().row, made.row);
    store.close().await;
}

pub(super) async fn a_newer_version_is_refused(rig: &Rig) {
    rig.store.db.execute("UPDATE hooks_meta SET version = 7", &[]).await.unwrap();
    let options = Options { works: false, ..Options::default() };
    let refused = Store::open(&rig.url, options).await.unwrap_err();
    let known = MIGRATIONS.len();
    assert!(refused.to_string().contains("version 7"), "{refused}");
    assert!(refused.to_string().contains(&format!("versions up to {known}")), "{refused}");
}

pub(super) async fn two_processes_migrate_at_once(rig: &Rig) {
    let open = async || {
        let db = Db::new(&rig.url, Use::Ledger { create: true });
        let done = migrate::with(&db, LATER, &Options::default()).await;
        db.close().await;
        done
    };
    let (one, two, three) = tokio::join!(open(), open(), open());
    assert_eq!([one.unwrap(), two.unwrap(), three.unwrap()], [false; 3]);
    assert_eq!(count(&rig.store, "hooks_meta WHERE version = 3").await, 1);
}
