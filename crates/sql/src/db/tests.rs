use std::sync::atomic::{AtomicUsize, Ordering};

use futures::FutureExt as _;
use sqlx::error::DatabaseError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::*;
use crate::driver::BoxFuture;

/// A pool of one connection that counts how often it was asked for it.
#[derive(Debug)]
struct OneConnection {
    asked: Arc<AtomicUsize>,
    free: Arc<Semaphore>,
}

struct Fake(OwnedSemaphorePermit);

impl Pool for OneConnection {
    fn connect(&self) -> Answer<'_, Box<dyn Session>> {
        Box::pin(async {
            self.asked.fetch_add(1, Ordering::Relaxed);
            let permit = Arc::clone(&self.free).acquire_owned().await.expect("it is never closed");
            let session: Box<dyn Session> = Box::new(Fake(permit));
            Ok(session)
        })
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async { drop(self.free.acquire().await) })
    }

    fn fault(&self, _: &dyn DatabaseError) -> Fault {
        Fault::Other
    }
}

impl Session for Fake {
    fn execute<'a>(&'a mut self, statement: Statement<'a>) -> Answer<'a, u64> {
        let done =
            if statement.sql == "fail" { Err(sqlx::Error::WorkerCrashed) } else { Ok(self.0.num_permits() as u64) };
        Box::pin(std::future::ready(done))
    }

    fn fetch<'a>(&'a mut self, _: Statement<'a>) -> Answer<'a, Vec<Vec<Value>>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }

    fn run(&mut self, _: String) -> Answer<'_, u64> {
        Box::pin(std::future::ready(Ok(0)))
    }

    fn begin(&self) -> String {
        "BEGIN".to_owned()
    }

    fn detach(self: Box<Self>) {}
}

fn db() -> (Db, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let pool = OneConnection { asked: Arc::clone(&asked), free: Arc::new(Semaphore::new(1)) };
    let url = DbUrl::sqlite_file(std::path::Path::new("fake.db"));
    (Db::over(Arc::new(pool), &url, Use::Setup { create: false }, Stale::default()), asked)
}

#[tokio::test]
async fn one_after_another_uses_one_connection_without_asking_the_pool() {
    let (db, asked) = db();
    for _ in 0..3 {
        db.execute("", &[]).await.unwrap();
        db.fetch("", &[]).await.unwrap();
        db.begin().await.unwrap().commit().await.unwrap();
    }
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    db.close().await;
    assert!(lock(&db.kept).session.is_none());
}

#[tokio::test]
async fn a_connection_in_doubt_is_not_kept() {
    let (db, asked) = db();
    db.execute("fail", &[]).await.unwrap_err();
    db.execute("", &[]).await.unwrap();
    assert_eq!(asked.load(Ordering::Relaxed), 2);
    db.stale.invalidate_all();
    db.execute("", &[]).await.unwrap();
    assert_eq!(asked.load(Ordering::Relaxed), 3, "it may lead to the wrong server");
    // A transaction that was not ended.
    drop(db.begin().await.unwrap());
    db.execute("", &[]).await.unwrap();
    assert_eq!(asked.load(Ordering::Relaxed), 4);
}

#[tokio::test]
async fn who_waits_for_the_pool_is_not_kept_waiting() {
    let (db, _) = db();
    let first = db.begin().await.unwrap();
    let mut second = Box::pin(db.begin());
    assert!(second.as_mut().now_or_never().is_none());
    first.commit().await.unwrap();
    second.now_or_never().expect("it was given back to the pool").unwrap();
    // Who gave up waiting does not count any more.
    let third = db.begin().await.unwrap();
    drop(Box::pin(db.begin()).now_or_never());
    third.commit().await.unwrap();
    assert!(lock(&db.kept).session.is_some());
}

#[test]
fn a_connection_that_is_kept_needs_no_runtime_to_be_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let url = DbUrl::sqlite_file(dir.path().join("kept.db"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let db = runtime.block_on(async {
        let db = Db::new(&url, Use::Ledger { create: true });
        db.execute("CREATE TABLE t (id INTEGER)", &[]).await.unwrap();
        db
    });
    assert!(lock(&db.kept).session.is_some());
    drop(runtime);
    drop(db);
}
