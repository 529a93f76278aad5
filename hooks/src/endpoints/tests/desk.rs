//! The desk alone: a test tells it of leases and rows, in an order that is rare otherwise.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bugfeed_core::endpoints::orders::{Order, carry_out};
use bugfeed_core::endpoints::question::Since;
use bugfeed_core::endpoints::row::Row;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::rig::{Place, bugs, told, until};
use crate::endpoints::EndpointsOptions;
use crate::endpoints::desk::{Desk, News, Word};
use crate::store::endpoints::leases::{Round, Taken};
use crate::store::endpoints::{EndpointId, Stored};
use crate::test_server::{Reply, Server};

/// So many pieces of news may wait.
const NEWS: usize = 16;

/// A desk that runs, and its two ends.
struct Told {
    news: mpsc::Sender<News>,
    words: mpsc::UnboundedReceiver<Word>,
    _running: AbortOnDropHandle<()>,
}

impl Told {
    /// It holds all partitions under this term. The store may have others.
    async fn start(place: &Place, term: u64) -> Told {
        let (news, heard) = mpsc::channel(NEWS);
        let (say, words) = mpsc::unbounded_channel();
        // Nothing here may end because a busy machine is slow.
        let options = EndpointsOptions { within: Duration::from_secs(60), ..place.options() };
        let desk = Desk::new(place.store.clone(), place.parts(options), say);
        let running = tokio::spawn(desk.run(heard, place.taps.subscribe(), CancellationToken::new()));
        let told = Told { news, words, _running: AbortOnDropHandle::new(running) };
        let taken = (0..32).map(|partition| Taken { partition, term, waits: false }).collect();
        told.tell(News::Leases(Round { taken, ..round(term) })).await;
        told
    }

    /// Returns once it has heard this.
    async fn tell(&self, news: News) {
        self.news.send(news).await.unwrap();
        until("it hears", async || (self.news.capacity() == NEWS).then_some(())).await;
    }

    /// These are all rows.
    async fn read(&self, term: u64, rows: Vec<Stored>) {
        let terms: Arc<BTreeMap<u16, u64>> = Arc::new((0..32).map(|partition| (partition, term)).collect());
        self.tell(News::Taken(Arc::clone(&terms), rows, false)).await;
        self.tell(News::Taken(terms, Vec::new(), true)).await;
    }
}

/// All is held under this term. It counts as shown for long.
fn round(term: u64) -> Round {
    let held = (0..32).map(|partition| (partition, term)).collect();
    let begun = Instant::now() + Duration::from_secs(60);
    Round { begun, held, taken: Vec::new(), lost: Vec::new(), give: Vec::new() }
}

/// Under this term the store takes what is written.
async fn hold(place: &Place, term: u64) {
    let db = place.db();
    let sql = format!("UPDATE hooks_leases SET term = {term}, holder = 'x' WHERE name LIKE 'endpoints-%'");
    db.execute(&sql, &[]).await.unwrap();
    db.close().await;
}

async fn stored(place: &Place, id: &EndpointId) -> Stored {
    place.store.endpoint(id).await.unwrap().unwrap()
}

/// Changes where an endpoint is, and returns its row of before.
async fn moved(place: &Place, id: &EndpointId, url: &str) -> Stored {
    let before = stored(place, id).await;
    let changed = place.store.change_endpoint(id, None, |settings, row| {
        url.clone_into(&mut settings.url);
        carry_out(row, &Order::Url)
    });
    changed.await.unwrap();
    before
}

fn paths(server: &Server) -> Vec<String> {
    let mut paths: Vec<String> = server.got().iter().map(|got| got.path().to_owned()).collect();
    paths.sort();
    paths
}

#[tokio::test]
async fn what_was_changed_while_rows_were_read_is_not_lost_and_not_undone() {
    let (place, server) = (Place::new().await, Server::start(|_| Reply::full(200, "", "")).await);
    hold(&place, 1).await;
    let one = place.endpoint(&server.url("/old"), bugs(&[1])).await;
    let before = moved(&place, &one, &server.url("/new")).await;
    let desk = Told::start(&place, 1).await;
    // People change one and make another, and both are heard of before the page that was read first.
    let another = place.endpoint(&server.url("/another"), bugs(&[1])).await;
    desk.tell(News::Changed(vec![stored(&place, &one).await, stored(&place, &another).await])).await;
    desk.read(1, vec![before.clone()]).await;
    for id in [&one, &another] {
        place.until_row(id, "it has begun", |row| row.cursor("kde").is_some()).await;
    }
    // The same page, once more.
    desk.tell(News::Changed(vec![before])).await;
    place.feed.change(1);
    for id in [&one, &another] {
        place.until_cursor(id, 1).await;
    }
    assert_eq!(paths(&server), ["/another", "/new"]);
}

/// A row that people changed before the partition was taken is older than what the holder before wrote.
#[tokio::test]
async fn nothing_is_sent_before_all_rows_were_read() {
    let (place, server) = (Place::new().await, Server::start(|_| Reply::full(200, "", "")).await);
    hold(&place, 1).await;
    let id = place.endpoint(&server.url("/"), bugs(&[1])).await;
    let begins = async |seq: u64| {
        let since = Since::Cursor(place.feed.cursor(seq));
        let begin = |_: &mut _, row: &mut Row| {
            row.lines[0].since = since.clone();
            Ok::<(), ()>(())
        };
        place.store.change_endpoint(&id, None, begin).await.unwrap().0
    };
    place.feed.change(1);
    let (stale, now) = (begins(0).await, begins(1).await);
    let desk = Told::start(&place, 1).await;
    desk.tell(News::Changed(vec![stale])).await;
    desk.read(1, vec![now]).await;
    place.feed.change(1);
    place.until_cursor(&id, 2).await;
    assert_eq!(server.got().len(), 1, "the first change was accepted before: {:?}", server.got());
}

/// The store says that another process has the lease, and the round of the leases does not know it yet.
#[tokio::test]
async fn an_endpoint_whose_row_cannot_be_written_under_this_term_is_let_go() {
    let (place, server) = (Place::new().await, Server::start(|_| Reply::full(200, "", "")).await);
    hold(&place, 1).await;
    let one = place.endpoint(&server.url("/lost"), bugs(&[1])).await;
    let other = loop {
        let id = place.endpoint(&server.url("/held"), bugs(&[1])).await;
        if id.partition() != one.partition() {
            break id;
        }
        place.order(&id, Order::Delete).await;
    };
    let db = place.db();
    let taken = format!("UPDATE hooks_leases SET term = 2 WHERE name = 'endpoints-{}'", one.partition());
    db.execute(&taken, &[]).await.unwrap();
    db.close().await;
    let desk = Told::start(&place, 1).await;
    desk.read(1, vec![stored(&place, &one).await, stored(&place, &other).await]).await;
    place.until_row(&other, "it has begun", |row| row.cursor("kde").is_some()).await;
    for _ in 0..3 {
        let seq = place.feed.change(1);
        place.until_cursor(&other, seq).await;
    }
    assert_eq!(paths(&server), ["/held"; 3]);
    assert!(place.row(&one).await.cursor("kde").is_none());
}

#[tokio::test]
async fn a_partition_is_given_away_once_nothing_of_it_is_under_way() {
    let (place, server) = (Place::new().await, Server::start(|_| later()).await);
    hold(&place, 1).await;
    let id = place.endpoint(&server.url("/"), bugs(&[1])).await;
    let mut desk = Told::start(&place, 1).await;
    desk.read(1, vec![stored(&place, &id).await]).await;
    place.until_row(&id, "it has begun", |row| row.cursor("kde").is_some()).await;
    place.feed.change(1);
    until("a request", async || (server.got().len() == 1).then_some(())).await;
    desk.tell(News::Leases(Round { give: (0..32).collect(), ..round(1) })).await;
    // One that comes meanwhile is sent by the next holder.
    place.feed.change(1);
    let mut released = Vec::new();
    while released.len() < 32 {
        match desk.words.recv().await.unwrap() {
            Word::Release(partitions) => released.extend(partitions),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(released.last(), Some(&id.partition()), "all others were given at once");
    assert_eq!(place.row(&id).await.cursor("kde"), Some(&place.feed.cursor(1)), "what came of it is stored");
    assert_eq!(server.got().iter().map(told).collect::<Vec<_>>(), [[1]]);
}

fn later() -> Reply {
    Reply::Later(Duration::from_millis(300), b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec())
}
