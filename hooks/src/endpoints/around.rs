//! What the desk does not do itself: leases, reading rows, and what changes rows by the way of people.
//!
//! Goes in: the store, what the desk says. Comes out: news for the desk. A store that does not answer makes all of it wait,
//! and the desk goes on with what it has, as long as its leases hold.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bugfeed_core::endpoints::orders::{Order, Refused, carry_out};
use bugfeed_core::endpoints::question::Since;
use bugfeed_core::endpoints::row::Row;
use bugfeed_protocol::backoff::Backoff;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::EndpointsParts;
use super::desk::{News, Word};
use crate::store::endpoints::leases::{Leases, Round};
use crate::store::endpoints::{ChangeError, EndpointFilter, EndpointId, FeedChoice, Settings};
use crate::store::{Store, StoreError};

/// Leases are looked after so often.
const ROUND: Duration = Duration::from_secs(1);
/// So many rows are read at a time.
const PAGE: usize = 500;
/// Giving leases back may take so long at an orderly stop.
const LEAVING: Duration = Duration::from_secs(2);

/// What all of these share.
#[derive(Clone)]
pub(super) struct Around {
    pub(super) store: Store,
    pub(super) parts: EndpointsParts,
    pub(super) news: mpsc::Sender<News>,
    /// Rows were changed in this process.
    pub(super) nudged: Arc<Notify>,
    /// The store has an endpoint.
    pub(super) any: watch::Sender<bool>,
}

impl Around {
    /// Works until the desk has ended, which says so by dropping its end of `words`.
    pub(super) async fn run(self, words: mpsc::UnboundedReceiver<Word>, stop: CancellationToken) {
        let (to_leases, given) = mpsc::unbounded_channel();
        let (to_store, orders) = mpsc::unbounded_channel();
        // Changes are counted from before the first row is read, so none is missed.
        let Some(mark) = stop.run_until_cancelled(self.mark()).await else { return };
        let ended = CancellationToken::new();
        let listening = async {
            listen(words, to_leases, to_store).await;
            ended.cancel();
        };
        tokio::join!(
            ended.run_until_cancelled(self.poll(mark)),
            ended.run_until_cancelled(self.order(orders)),
            self.leases(given, stop),
            listening,
        );
    }

    async fn mark(&self) -> u64 {
        let mut backoff = Backoff::SERVER;
        loop {
            let read = async {
                let mark = self.store.endpoints_mark().await?;
                let first = self.store.endpoints(&EndpointFilter::default(), None, 1).await?;
                self.see(first.is_some_and(|first| !first.is_empty()));
                Ok(mark)
            };
            match read.await {
                Ok(mark) => return mark,
                Err(error) => self.failed(&error, &mut backoff).await,
            }
        }
    }

    fn see(&self, any: bool) {
        if any {
            self.any.send_if_modified(|known| !std::mem::replace(known, true));
        }
    }

    async fn failed(&self, error: &StoreError, backoff: &mut Backoff) {
        self.parts.events.store_failed(error);
        tokio::time::sleep(backoff.next(rand::random())).await;
    }

    /// Reads what people have changed.
    async fn poll(&self, mut mark: u64) {
        let mut backoff = Backoff::SERVER;
        loop {
            match self.store.endpoints_changed(mark).await {
                Ok((rows, now)) => {
                    backoff.reset();
                    mark = now;
                    if !rows.is_empty() {
                        self.see(true);
                        if self.news.send(News::Changed(rows)).await.is_err() {
                            return;
                        }
                        continue;
                    }
                }
                Err(error) => {
                    self.failed(&error, &mut backoff).await;
                    continue;
                }
            }
            tokio::select! {
                () = self.nudged.notified() => {}
                () = tokio::time::sleep(self.parts.options.poll) => {}
            }
        }
    }

    /// Holds the leases, until what is given back is all of them.
    async fn leases(&self, mut given: mpsc::UnboundedReceiver<Vec<u16>>, stop: CancellationToken) {
        let mut leases = Leases::new(&self.store);
        let mut loading = JoinSet::new();
        let mut rounds = tokio::time::interval(ROUND);
        rounds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = rounds.tick() => match leases.round().await {
                    Ok(round) => {
                        // The desk hears of a partition before it hears of its rows.
                        if self.news.send(News::Leases(round.clone())).await.is_err() {
                            break;
                        }
                        // Requests are to end in order, so what is held goes on to be held; but nothing is begun any more.
                        if !stop.is_cancelled() {
                            self.load(&round, &mut loading);
                        }
                    }
                    Err(error) => self.parts.events.store_failed(&error),
                },
                some = given.recv() => match some {
                    Some(partitions) => {
                        if let Err(error) = leases.release(&partitions).await {
                            self.parts.events.store_failed(&error);
                        }
                    }
                    None => break,
                },
                Some(_) = loading.join_next() => {}
            }
        }
        // If this fails, others wait a few seconds.
        let _ = tokio::time::timeout(LEAVING, leases.leave()).await;
    }

    /// Reads the rows of what was taken. Whoever had them writes nothing any more.
    fn load(&self, round: &Round, loading: &mut JoinSet<()>) {
        let terms: BTreeMap<u16, u64> = round.taken.iter().map(|taken| (taken.partition, taken.term)).collect();
        if !terms.is_empty() {
            let around = self.clone();
            loading.spawn(async move { around.read(terms).await });
        }
    }

    async fn read(&self, terms: BTreeMap<u16, u64>) {
        let (partitions, terms): (Vec<u16>, _) = (terms.keys().copied().collect(), Arc::new(terms));
        let (mut after, mut backoff): (Option<EndpointId>, _) = (None, Backoff::SERVER);
        loop {
            match self.store.endpoints_of(&partitions, after.as_ref(), PAGE).await {
                Ok(rows) => {
                    backoff.reset();
                    // A page may have fewer rows, because those that cannot be read are left out.
                    let is_last = rows.is_empty();
                    after = rows.last().map(|row| row.id.clone()).or(after);
                    let news = News::Taken(Arc::clone(&terms), rows, is_last);
                    if self.news.send(news).await.is_err() || is_last {
                        return;
                    }
                }
                Err(error) => self.failed(&error, &mut backoff).await,
            }
        }
    }

    /// Writes what the desk wishes, by the way of people.
    async fn order(&self, mut orders: mpsc::UnboundedReceiver<Word>) {
        while let Some(order) = orders.recv().await {
            match order {
                Word::Look => self.nudged.notify_one(),
                Word::Remove(id) => {
                    // Whoever takes the partition over next finds it again.
                    if let Err(error) = self.store.remove_endpoints(&[id]).await {
                        self.parts.events.store_failed(&error);
                    }
                }
                Word::Feeds(ids, feeds) => self.complete(&ids, &feeds).await,
                Word::Release(_) => {}
            }
        }
    }

    /// Endpoints of all feeds get lines for those that are new. A store that is away is waited for: nobody says it again.
    async fn complete(&self, ids: &[EndpointId], feeds: &[(Arc<str>, Since)]) {
        let mut backoff = Backoff::SERVER;
        for id in ids {
            let add = |settings: &mut Settings, row: &mut Row| add_feeds(settings, row, feeds);
            while let Err(ChangeError::Store(error)) = self.store.change_endpoint(id, None, add).await {
                self.failed(&error, &mut backoff).await;
                if !error.may_heal() {
                    break;
                }
            }
        }
        self.nudged.notify_one();
    }
}

/// Adds the feeds that an endpoint lacks, if it still wants all. They begin where they are said to.
pub(super) fn add_feeds(settings: &Settings, row: &mut Row, feeds: &[(Arc<str>, Since)]) -> Result<(), Refused> {
    let has = |row: &Row, feed: &Arc<str>| row.lines.iter().any(|line| line.feed == *feed);
    let lacking: Vec<&(Arc<str>, Since)> = feeds.iter().filter(|(feed, _)| !has(row, feed)).collect();
    if settings.feeds != FeedChoice::All || lacking.is_empty() {
        return Ok(());
    }
    let all = row.lines.iter().map(|line| &line.feed).chain(lacking.iter().map(|(feed, _)| feed));
    carry_out(row, &Order::Feeds(all.map(Arc::clone).collect()))?;
    for line in &mut row.lines {
        if let Some((_, since)) = lacking.iter().find(|(feed, _)| *feed == line.feed) {
            line.since.clone_from(since);
        }
    }
    Ok(())
}

/// Hands on what the desk says. Leases never wait for anything else.
async fn listen(
    mut words: mpsc::UnboundedReceiver<Word>,
    to_leases: mpsc::UnboundedSender<Vec<u16>>,
    to_store: mpsc::UnboundedSender<Word>,
) {
    while let Some(word) = words.recv().await {
        let _ = match word {
            Word::Release(partitions) => to_leases.send(partitions).is_ok(),
            other => to_store.send(other).is_ok(),
        };
    }
}
