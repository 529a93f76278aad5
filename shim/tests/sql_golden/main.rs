//! Every SQL text that a database is sent, compared with a file: `golden/{sqlite,mysql,postgres}.txt`, and what `init`
//! prints, in `golden/init.txt`. A text that changes shows here as a changed line, whatever was moved in the code.
//!
//! One scenario does everything once that the shim does with a change table and a ledger. The driver tells of each
//! statement as it sends it; what is random is replaced by a word. `BUGFEED_GOLDEN=write` writes the files anew.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a helper of a test fails the test")]

mod recorder;

use std::path::Path;
use std::time::Duration;

use bugfeed_protocol::{BugId, Change, When};
use bugfeed_shim::ledger::{Keep, Ledger, Prefix};
use bugfeed_shim::source::{self, BadRow, Row, RowKey, Source, TableSpec};
use bugfeed_sql::{Db, DbUrl, Use};
use bugfeed_testbed::shared;
use jiff::tz::TimeZone;
use recorder::Recorder;
use tokio_util::sync::CancellationToken;

/// What differs between the databases in what the tracker does.
struct Tracker {
    /// A type of columns that hold instants.
    instants: &'static str,
    /// The schema that a table is in when none is named.
    schema: String,
}

fn when(text: &str) -> When {
    text.parse().unwrap()
}

fn bug(number: u64) -> BugId {
    BugId::new(number).unwrap()
}

fn key(id: i64, when: Option<&str>) -> RowKey {
    RowKey { id, when: when.map(str::to_owned) }
}

const T1: &str = "2014-04-03T21:13:45";
const T2: &str = "2014-07-03T21:13:46";

/// The change table: made, filled, read, emptied.
async fn table(url: &DbUrl, tracker: &Tracker, told: &Recorder) {
    let spec = TableSpec::default();
    told.section("a table is made");
    source::init(url, &spec).await.unwrap();
    told.section("a table is there");
    source::init(url, &spec).await.unwrap();
    told.section("a table has other columns");
    let other = TableSpec { id: "nr".parse().unwrap(), ..spec.clone() };
    told.note(&source::init(url, &other).await.unwrap_err().to_string());
    told.section("what the server's clock says");
    source::clock_hint(url, &spec).await;
    told.section("rows are written");
    let zone = TimeZone::get("America/Los_Angeles").unwrap();
    source::touch_many(url, &spec, &[(bug(7), when(T1)), (bug(8), when(T2))], &zone).await.unwrap();
    source::touch(url, &spec, &[bug(9)], when(T2), &TimeZone::UTC).await.unwrap();
    told.section("a table is opened");
    let source = Source::open(url, &spec, zone).await.unwrap();
    told.section("rows are read");
    let rows = source.read(10).await.unwrap();
    let keys: Vec<RowKey> = rows.iter().map(|row| row.key.clone()).collect();
    told.section("rows are found again");
    assert_eq!(source.find(&keys).await.unwrap(), rows);
    told.section("rows are deleted");
    assert_eq!(source.delete(&keys[..2]).await.unwrap().gone, keys[..2]);
    told.section("rows are deleted by their keys, and one is another one by now");
    source.delete(&[keys[2].clone(), key(11, None)]).await.unwrap();
    let moved = [key(1, Some("it's \\ ?")), key(2, Some("é\n😀"))];
    source.delete(&moved).await.unwrap();
    told.section("a look around");
    source.probe().await.unwrap();
    source.close().await;
    told.section("there is no table");
    let none = TableSpec::named("nothing").unwrap();
    told.note(&Source::open(url, &none, TimeZone::UTC).await.unwrap_err().to_string());

    told.section("columns that hold instants");
    let setup = Db::new(url, Use::Setup { create: false });
    let create = format!("CREATE TABLE instants (id BIGINT PRIMARY KEY, bug_id BIGINT, delta_ts {})", tracker.instants);
    setup.execute(&create, &[]).await.unwrap();
    setup.close().await;
    told.section("a table of instants is opened, in a schema");
    let spec = TableSpec::named(&format!("{}.instants", tracker.schema)).unwrap();
    let source = Source::open(url, &spec, TimeZone::UTC).await.unwrap();
    told.section("its rows are deleted");
    source.delete(&[key(1, Some("2014-04-03 21:13:45"))]).await.unwrap();
    source.delete(&[key(1, None)]).await.unwrap();
    source.close().await;
    told.section("what its clock says");
    source::clock_hint(url, &spec).await;
}

/// A good row and a bad one.
fn rows() -> [Row; 2] {
    let (one, two) = (key(1, Some("2014-04-03 21:13:45")), key(2, None));
    let change = Change { bug: bug(7), when: when(T1) };
    [
        Row { key: one, bug: Some("7".to_owned()), change: Ok(change) },
        Row { key: two, bug: Some("8".to_owned()), change: Err(BadRow::NoWhen) },
    ]
}

/// The ledger: everything that is ever written and read.
async fn ledger(url: &DbUrl, told: &Recorder) {
    let (prefix, now) = (Prefix::default(), when(T2));
    told.section("there is no ledger");
    told.note(&Ledger::open_existing(url, &prefix).await.unwrap_err().to_string());
    told.section("a ledger is made");
    let ledger = Ledger::open(url, &prefix).await.unwrap();
    told.section("a ledger is there");
    Ledger::open_existing(url, &prefix).await.unwrap().close().await;
    told.section("the lease");
    let lease = ledger.acquire(&CancellationToken::new(), |_| {}).await.unwrap().unwrap();
    lease.beat().await.unwrap();
    told.section("a tenure begins");
    let (_, cursor) = lease.begin().await.unwrap();
    ledger.holds(&cursor).await.unwrap();
    lease.publishes_to("amqp://h").await.unwrap();
    told.section("rows are recorded");
    let mut intake = lease.intake();
    let [good, bad] = rows();
    intake.record(&[good.clone(), bad.clone()], now).await.unwrap();
    told.section("they are published");
    let recorded = ledger.history(0, 10).await.unwrap();
    lease.published(&recorded[0].cursor).await.unwrap();
    ledger.holds(&recorded[0].cursor).await.unwrap();
    told.section("one cannot be deleted, and then can");
    let change = good.change.clone().unwrap();
    intake.owe(&[(good.key.clone(), change)]).await.unwrap();
    intake.settle(std::slice::from_ref(&good.key), now).await.unwrap();
    intake.forget(&[bad.key]).await.unwrap();
    told.section("what is old goes");
    lease.prune(Keep { age: Duration::ZERO, max: 1 }, now).await.unwrap();
    lease.prune_runs().await.unwrap();
    told.section("what is shown");
    ledger.oldest().await.unwrap();
    ledger.latest_tag().await.unwrap();
    ledger.set_aside(20).await.unwrap();
    told.section("a new epoch");
    lease.new_epoch(now).await.unwrap();
    told.section("the end");
    lease.release().await.unwrap();
    ledger.close().await;
}

/// Runs the scenario; what was sent, with words for what is another one each time.
async fn sent(told: &Recorder, url: &str, tracker: Tracker) -> impl Fn() -> String {
    let url: DbUrl = url.parse().unwrap();
    table(&url, &tracker, told).await;
    ledger(&url, told).await;
    let place = url.to_string();
    move || told.text().replace(&place, "URL").replace(&tracker.schema, "SCHEMA")
}

async fn check(file: &str, url: &str, tracker: Tracker) {
    let told = Recorder::begin().await;
    let text = sent(&told, url, tracker).await;
    compare(file, &text()).unwrap();
}

/// Compares the text with the file, or writes the file.
fn compare(file: &str, text: &str) -> Result<(), String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sql_golden/golden").join(file);
    if std::env::var_os("BUGFEED_GOLDEN").is_some_and(|mode| mode == "write") {
        std::fs::write(&path, text).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    for (n, (want, got)) in golden.lines().zip(text.lines()).enumerate() {
        if want != got {
            return Err(format!("{file}, line {}:\n  want {want}\n  got  {got}", n + 1));
        }
    }
    let (want, got) = (golden.lines().count(), text.lines().count());
    if want == got { Ok(()) } else { Err(format!("{file}: {got} lines instead of {want}")) }
}

#[tokio::test]
async fn sqlite() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", dir.path().join("tracker.db").display());
    let told = Recorder::begin().await;
    let text = sent(&told, &url, Tracker { instants: "TIMESTAMP", schema: "main".to_owned() }).await;
    // The driver's thread may tell of a statement after its result is there, so the order is not known.
    let complete = async || compare("sqlite.txt", &recorder::sorted(&text()));
    bugfeed_testbed::eventually(Duration::from_secs(10), "all statements of the golden file", complete).await.unwrap();
}

#[test]
fn what_init_prints() {
    let mut text = String::new();
    for url in ["mysql://root:p@db/bugs", "postgres://root:p@db/bugs", "sqlite://bugs.db"] {
        for table in ["push_notify", "tracker.push_notify"] {
            let steps = source::next_steps(&url.parse().unwrap(), &TableSpec::named(table).unwrap());
            text.push_str(&format!("-- {url} {table}\n{steps}\n"));
        }
    }
    compare("init.txt", &text).unwrap();
}

mod real {
    use super::*;

    #[tokio::test]
    async fn mariadb() {
        let Some(server) = shared::mariadb().await else { return };
        let schema = server.create_database().await.unwrap();
        check("mysql.txt", &server.url(&schema), Tracker { instants: "TIMESTAMP", schema }).await;
    }

    #[tokio::test]
    async fn postgres() {
        let Some(server) = shared::postgres().await else { return };
        let url = server.url(&server.create_database().await.unwrap());
        check("postgres.txt", &url, Tracker { instants: "TIMESTAMPTZ", schema: "public".to_owned() }).await;
    }
}
