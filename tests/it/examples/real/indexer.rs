//! The consumer of the exchange: it is killed, messages are taken from it, others come twice; its work list misses nothing.

use bugfeed_testbed::{Proc, eventually, shared, unique};
use lapin::options::{QueueDeclareOptions, QueuePurgeOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use sqlx::Row as _;

use crate::browser::servers::Shim;
use crate::examples::tools::Python;
use crate::support::SOON;

const T: &str = "2014-04-03T21:13:45";

struct Indexer {
    python: Python,
    amqp: String,
    exchange: String,
    queue: String,
    dir: tempfile::TempDir,
    connection: Connection,
    channel: Channel,
}

impl Indexer {
    async fn new_or_skip() -> Option<Indexer> {
        let rabbit = shared::rabbitmq().await?;
        let connection = Connection::connect(&rabbit.url, ConnectionProperties::default()).await.unwrap();
        Some(Indexer {
            python: Python::find_or_skip()?,
            amqp: rabbit.url,
            exchange: unique("indexed"),
            queue: unique("indexer"),
            dir: tempfile::tempdir().unwrap(),
            channel: connection.create_channel().await.unwrap(),
            connection,
        })
    }

    /// Starts it, and waits until it hears what is published.
    async fn start(&self) -> Proc {
        let mut indexer = self
            .python
            .run("amqp-indexer/indexer.py")
            .args(["--amqp", &self.amqp, "--exchange", &self.exchange, "--queue", &self.queue, "--idle", "0.2"])
            .arg("--database")
            .arg(self.dir.path().join("index.db"))
            .spawn()
            .unwrap();
        indexer.wait_for_line("is bound", SOON).await.unwrap();
        indexer
    }

    /// Waits until the queue holds so many.
    async fn queued(&self, count: u32) {
        eventually(SOON, format!("{count} in the queue"), async || {
            let look = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
            let queue = self.channel.queue_declare(self.queue.as_str().into(), look, FieldTable::default()).await;
            let waiting = queue.unwrap().message_count();
            if waiting == count { Ok(()) } else { Err(waiting) }
        })
        .await
        .unwrap();
    }

    async fn purge(&self) {
        self.channel.queue_purge(self.queue.as_str().into(), QueuePurgeOptions::default()).await.unwrap();
    }

    async fn publish(&self, body: &str) {
        let (exchange, properties) = (self.exchange.as_str().into(), BasicProperties::default());
        let sent = self.channel.basic_publish(exchange, "1".into(), Default::default(), body.as_bytes(), properties);
        sent.await.unwrap().await.unwrap();
    }

    async fn database(&self) -> sqlx::SqlitePool {
        sqlx::SqlitePool::connect(&format!("sqlite://{}/index.db", self.dir.path().display())).await.unwrap()
    }

    /// The work list, ascending: the numbers of stale bugs.
    async fn stale(&self) -> Vec<i64> {
        let pool = self.database().await;
        let rows = sqlx::query("SELECT bug FROM document WHERE stale ORDER BY bug").fetch_all(&pool).await.unwrap();
        pool.close().await;
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// Says that all bugs were indexed.
    async fn index_all(&self) {
        let pool = self.database().await;
        sqlx::query("UPDATE document SET stale = 0").execute(&pool).await.unwrap();
        pool.close().await;
    }

    async fn clean_up(self) {
        for queue in [self.queue, format!("{}.history", self.exchange)] {
            self.channel.queue_delete(queue.into(), Default::default()).await.unwrap();
        }
        self.channel.exchange_delete(self.exchange.into(), Default::default()).await.unwrap();
    }
}

#[tokio::test]
async fn every_change_gets_into_the_work_list_whoever_dies() {
    let Some(indexer) = Indexer::new_or_skip().await else { return };
    let mut first = indexer.start().await;
    let shim = Shim::start(&indexer.amqp, &indexer.exchange).await;
    shim.touch(&["1", "2"]).await;
    first.wait_for_line("reindex bug 1", SOON).await.unwrap();
    first.wait_for_line("reindex bug 2", SOON).await.unwrap();
    indexer.queued(0).await;
    indexer.index_all().await;

    first.kill9();
    shim.touch(&["3"]).await;
    let mut second = indexer.start().await;
    second.wait_for_line("reindex bug 3", SOON).await.unwrap();
    assert_eq!(indexer.stale().await, [3]);

    // A change that the database could not take was not acknowledged.
    let other = indexer.database().await;
    let mut writing = other.acquire().await.unwrap();
    sqlx::query("BEGIN IMMEDIATE").execute(&mut *writing).await.unwrap();
    shim.touch(&["1"]).await;
    second.wait_for_line("database is locked", SOON).await.unwrap();
    assert!(!second.wait(SOON).await.unwrap().success());
    sqlx::query("ROLLBACK").execute(&mut *writing).await.unwrap();
    drop(writing);
    other.close().await;
    let mut third = indexer.start().await;
    third.wait_for_line("reindex bug 1", SOON).await.unwrap();
    third.kill9();

    // Its queue loses messages while it is dead: their numbers are missed, and history has them.
    shim.touch(&["4"]).await;
    indexer.queued(1).await;
    // These go together.
    shim.touch(&["2", "6", "7"]).await;
    indexer.queued(2).await;
    indexer.purge().await;
    shim.touch(&["5"]).await;
    indexer.queued(1).await;
    let mut fourth = indexer.start().await;
    fourth.wait_for_line("reindex bug 5", SOON).await.unwrap();
    let told: Vec<String> = fourth.output().lines().skip(1).map(str::to_owned).collect();
    assert_eq!(told[0], "numbers 5 to 8 did not come: reading history");
    assert_eq!(told[1..], [4, 2, 6, 7, 5].map(|bug| format!("reindex bug {bug}")));
    assert_eq!(indexer.stale().await, [1, 2, 3, 4, 5, 6, 7]);
    fourth.stop(SOON).await.unwrap();
    drop(shim);
    indexer.clean_up().await;
}

#[tokio::test]
async fn what_cannot_be_known_is_said() {
    let Some(indexer) = Indexer::new_or_skip().await else { return };
    let mut running = indexer.start().await;
    let change =
        |bug: u64, seq: u64, epoch: &str| format!(r#"{{"bug":{bug},"when":"{T}","seq":{seq},"epoch":"{epoch}"}}"#);
    for body in [
        &change(1, 10, "e1"),
        &change(77, 10, "e1"), // Published again: the number counts.
        "poison",
        r#"{"bug":99999999999999999999,"when":"never"}"#,
        &change(2, 11, "e1"),
    ] {
        indexer.publish(body).await;
    }
    running.wait_for_line("reindex bug 2", SOON).await.unwrap();
    indexer.index_all().await;
    assert_eq!(running.output().matches("not a change").count(), 2, "{}", running.output());

    // No history here.
    indexer.publish(&change(3, 13, "e1")).await;
    running.wait_for_line("changes before number 13 are lost: reindex all bugs", SOON).await.unwrap();
    running.wait_for_line("reindex bug 3", SOON).await.unwrap();
    assert_eq!(indexer.stale().await, [1, 2, 3], "and nothing of bug 77");
    indexer.index_all().await;

    indexer.publish(&change(4, 5, "e2")).await;
    running.wait_for_line("a new ledger, e2: reindex all bugs", SOON).await.unwrap();
    running.wait_for_line("reindex bug 4", SOON).await.unwrap();
    assert_eq!(indexer.stale().await, [1, 2, 3, 4]);
    indexer.index_all().await;

    // The form of 2014, with the number and without.
    let pulse = |bug: u64, more: &str| {
        format!(r#"{{"payload":{{"id":{bug},"delta_ts":"{T}"}},"_meta":{{"serializer":"json"{more}}}}}"#)
    };
    for body in
        [pulse(5, r#","seq":6,"epoch":"e2""#), pulse(78, r#","seq":6,"epoch":"e2""#), pulse(6, ""), change(7, 7, "e2")]
    {
        indexer.publish(&body).await;
    }
    running.wait_for_line("reindex bug 7", SOON).await.unwrap();
    assert_eq!(indexer.stale().await, [5, 6, 7]);
    indexer.index_all().await;

    // Several in one message, of which one cannot be read: the others count, and its number is missing.
    let member = |bug: &str| format!(r#"{{"bug":{bug},"when":"{T}"}}"#);
    let members = [member("8"), member("0"), member("10")].join(",");
    indexer.publish(&format!(r#"{{"epoch":"e2","seq":8,"changes":[{members}]}}"#)).await;
    running.wait_for_line("changes before number 10 are lost: reindex all bugs", SOON).await.unwrap();
    running.wait_for_line("reindex bug 10", SOON).await.unwrap();
    assert!(running.output().contains("reindex bug 8"), "{}", running.output());
    drop(running);
    indexer.clean_up().await;
}

#[tokio::test]
async fn a_ledger_that_was_set_back_is_noticed_by_its_tags() {
    let Some(indexer) = Indexer::new_or_skip().await else { return };
    let mut running = indexer.start().await;
    let change = |bug: u64, seq: u64, tag: &str| {
        format!(r#"{{"bug":{bug},"when":"{T}","seq":{seq},"epoch":"e1","tag":"{tag}"}}"#)
    };
    for body in [
        change(1, 10, "a"),
        change(2, 11, "a"),
        change(3, 12, "b"), // The shim was started anew.
        change(77, 11, "a"),
        change(77, 12, "b"),
        change(4, 13, "b"),
    ] {
        indexer.publish(&body).await;
    }
    running.wait_for_line("reindex bug 4", SOON).await.unwrap();
    assert_eq!(indexer.stale().await, [1, 2, 3, 4], "{}", running.output());
    assert!(!running.output().contains("reindex all"), "{}", running.output());
    indexer.index_all().await;

    // Set back to 11: its numbers are given out again.
    indexer.publish(&change(5, 12, "c")).await;
    indexer.publish(&change(6, 13, "c")).await;
    running.wait_for_line("the ledger was set back to before number 12: reindex all bugs", SOON).await.unwrap();
    running.wait_for_line("reindex bug 6", SOON).await.unwrap();
    assert_eq!(indexer.stale().await, [1, 2, 3, 4, 5, 6]);
    assert_eq!(running.output().matches("set back").count(), 1, "{}", running.output());
    indexer.index_all().await;

    // What is lost may be of any history; what comes late of it is passed over, as ever.
    indexer.publish(&change(7, 20, "d")).await;
    running.wait_for_line("reindex bug 7", SOON).await.unwrap();
    indexer.index_all().await;
    indexer.publish(&change(77, 19, "d")).await;
    indexer.publish(&change(8, 21, "d")).await;
    running.wait_for_line("reindex bug 8", SOON).await.unwrap();
    assert_eq!(indexer.stale().await, [8]);
    drop(running);
    indexer.clean_up().await;
}

#[tokio::test]
async fn an_exchange_that_was_deleted_is_bound_anew() {
    let Some(indexer) = Indexer::new_or_skip().await else { return };
    let mut running = indexer.start().await;
    indexer.channel.exchange_delete(indexer.exchange.as_str().into(), Default::default()).await.unwrap();
    eventually(SOON, "it is there again", async || {
        // A channel that asked for what is not there is closed.
        let channel = indexer.connection.create_channel().await.unwrap();
        let look = lapin::options::ExchangeDeclareOptions { passive: true, ..Default::default() };
        let exchange = indexer.exchange.as_str().into();
        channel.exchange_declare(exchange, lapin::ExchangeKind::Topic, look, FieldTable::default()).await
    })
    .await
    .unwrap();
    eventually(SOON, "it hears", async || {
        indexer.publish(&format!(r#"{{"bug":1,"when":"{T}"}}"#)).await;
        if running.output().contains("reindex bug 1") { Ok(()) } else { Err(running.output()) }
    })
    .await
    .unwrap();
    running.kill9();
    indexer.clean_up().await;
}

#[tokio::test]
async fn no_complaint_shows_the_password() {
    let Some(python) = Python::find_or_skip() else { return };
    let args = ["--amqp", "amqp://user:se#cret@127.0.0.1/"];
    let mut wrong = python.run("amqp-indexer/indexer.py").args(args).spawn().unwrap();
    assert_eq!(wrong.wait(SOON).await.unwrap().code(), Some(2), "{}", wrong.output());
    assert!(wrong.output().contains("%23 for #") && !wrong.output().contains("se#"), "{}", wrong.output());
}
