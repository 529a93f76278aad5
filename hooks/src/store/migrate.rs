//! Brings the tables to the version that this program knows.
//!
//! Goes in: a database. Comes out: tables of the current version, or why not. Two processes do not migrate at once: the
//! one that has the meta row locked does it, and the other one waits, and then finds nothing to do. A process may die
//! at any moment: each statement may be run again, and the version is counted after all statements of a migration.

use std::time::Duration;

use bugfeed_sql::{Db, Fault, SqlError, Tx, Value};

use super::cells::only_number;
use super::schema::{self, MIGRATIONS, Migration};
use super::{Options, StoreError, tokens};

/// How often a process that waits for another one's migration looks, and how many times.
const LOOKS: u32 = 24;

/// Checks the tables, and makes or migrates them if the options allow it. Returns whether they are new.
pub(super) async fn prepare(db: &Db, options: &Options) -> Result<bool, StoreError> {
    with(db, MIGRATIONS, options).await
}

/// The same with any list of migrations.
pub(super) async fn with(db: &Db, migrations: &[Migration], options: &Options) -> Result<bool, StoreError> {
    let known = i64::try_from(migrations.len()).unwrap_or(i64::MAX);
    let place = || db.place().to_owned();
    match version(db).await {
        Ok(found) if found == known => return Ok(false),
        Ok(found) if found > known => return Err(StoreError::Newer { place: place(), found, known }),
        Ok(found) if !options.create => return Err(StoreError::Older { place: place(), found, known }),
        Err(error) if error.fault == Fault::Missing && options.create => make_meta(db).await?,
        Err(error) => return Err(error.into()),
        Ok(_) => {}
    }
    for look in 1.. {
        match migrate(db, migrations, options).await {
            Err(StoreError::Sql(error)) if error.fault == Fault::Locked && look < LOOKS => {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            done => return done,
        }
    }
    Err(StoreError::Contended)
}

async fn version(db: &Db) -> Result<i64, SqlError> {
    let rows = db.fetch("SELECT version FROM hooks_meta WHERE one = 1", &[]).await?;
    Ok(rows.first().and_then(|row| row.first()).and_then(Value::int).unwrap_or(0))
}

async fn make_meta(db: &Db) -> Result<(), StoreError> {
    let create = schema::meta(db.dialect());
    // In PostgreSQL, IF NOT EXISTS can fail when two processes create the same table at once. At the second try the
    // table exists.
    if db.execute(&create, &[]).await.is_err() {
        db.execute(&create, &[]).await?;
    }
    let row = db.dialect().insert_or_ignore("hooks_meta (one, version) VALUES (1, 0)");
    db.execute(&row, &[]).await?;
    Ok(())
}

async fn migrate(db: &Db, migrations: &[Migration], options: &Options) -> Result<bool, StoreError> {
    let known = i64::try_from(migrations.len()).unwrap_or(i64::MAX);
    // This transaction holds the lock until all is done.
    let mut tx = db.begin().await?;
    tx.execute("UPDATE hooks_meta SET version = version WHERE one = 1", &[]).await?;
    let found = only_number(tx.fetch("SELECT version FROM hooks_meta WHERE one = 1", &[]).await?)?;
    if found > known {
        return Err(StoreError::Newer { place: db.place().to_owned(), found, known });
    }
    let from = usize::try_from(found).unwrap_or(0);
    for migration in migrations.iter().skip(from) {
        for statement in migration(db.dialect()) {
            run(db, &mut tx, &statement).await?;
        }
    }
    let is_new = found == 0 && known > 0;
    if let Some(token) = options.first_token.as_ref().filter(|_| is_new) {
        tokens::insert(&mut tx, token).await?;
    }
    tx.execute("UPDATE hooks_meta SET version = ? WHERE one = 1", &[Value::Int(known)]).await?;
    tx.commit().await?;
    Ok(is_new)
}

/// Runs a statement that makes or changes a table. Where there is one writer, that is the transaction; elsewhere
/// another connection runs it, because in MySQL such a statement would end the transaction.
async fn run(db: &Db, tx: &mut Tx, statement: &str) -> Result<(), StoreError> {
    if db.dialect().has_one_writer() {
        return existed(tx.execute(statement, &[]).await);
    }
    existed(db.execute(statement, &[]).await)
}

/// That it is there already is no error: an index has no `IF NOT EXISTS` in every database.
fn existed(done: Result<u64, SqlError>) -> Result<(), StoreError> {
    match done {
        Ok(_) => Ok(()),
        Err(error) => {
            let text = error.to_string().to_lowercase();
            let is_there = ["already exists", "duplicate key name", "duplicate column"];
            if is_there.iter().any(|words| text.contains(words)) { Ok(()) } else { Err(error.into()) }
        }
    }
}
