//! Carries out what the plan of a feed's bus says, on the connection that there is.
//!
//! Goes in: deliveries, and the end of connections. Comes out: the same changes in the feed, what its shards are told, and
//! what people are shown. Decides nothing: that is `core::bus_plan`.

use std::collections::VecDeque;
use std::time::Duration;

use bugfeed_amqp::AmqpError;
use bugfeed_protocol::backoff::Backoff;
use bugfeed_protocol::bus::{self, BusMessage};
use bugfeed_protocol::{Cursor, When};
use tokio::time::{Instant, Interval};

use super::amqp::AmqpOptions;
use super::history::{History, HistoryError, Item, recorded};
use super::link::{self, Link};
use crate::feed::{Came, Hole, Ingest};
use crate::health::{FeedHealth, FeedState};
use bugfeed_core::bus_plan::{Action, BusPlan, Event, Stopped};
use bugfeed_core::intake::HeadStands;
use bugfeed_core::places::{Met, Reading, Start};

/// The plan, and what it needs to be carried out.
pub(super) struct Carrier<'a> {
    options: &'a AmqpOptions,
    pub(super) ingest: Ingest,
    health: FeedHealth,
    history: Option<History>,
    plan: BusPlan,
    begun: Instant,
    /// When that was, by the wall clock.
    begun_at: When,
    ticks: Interval,
    /// Why there is no connection, for people.
    lost: Option<String>,
    /// Heads cannot be had, and it was said.
    no_heads: bool,
    /// What people were shown last.
    shown: Option<(Option<String>, Vec<String>)>,
    /// The message whose hole is looked into.
    hole: Option<Hole>,
    /// The head that is looked into.
    head: Option<Cursor>,
}

impl<'a> Carrier<'a> {
    pub(super) fn new(options: &'a AmqpOptions, ingest: Ingest, health: FeedHealth) -> Carrier<'a> {
        let history = options.history.clone().map(|bounds| History::new(&options.exchange, bounds));
        Carrier {
            options,
            ingest,
            health,
            plan: BusPlan::new(0, history.is_some()),
            history,
            begun: Instant::now(),
            begun_at: When::from_system_time(std::time::SystemTime::now()),
            ticks: crate::feed::ticks(),
            lost: None,
            no_heads: false,
            shown: None,
            hole: None,
            head: None,
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// A moment of the plan's clock, by the wall clock.
    fn when(&self, at_ms: u64) -> When {
        // From the beginning, so that one moment is always told as the same second: what is told anew counts as news.
        let at_us = i64::try_from(at_ms).unwrap_or(0).saturating_mul(1000).saturating_add(self.begun_at.as_micros());
        When::from_micros(at_us / 1_000_000 * 1_000_000).unwrap_or(self.begun_at)
    }

    /// What the plan says. People see how things are before clients hear of it.
    fn ask(&mut self, event: Event<'_>) -> Vec<Action> {
        let now_ms = self.now_ms();
        let tick = matches!(event, Event::Tick);
        let actions = self.plan.on(now_ms, event);
        if tick || !actions.is_empty() {
            self.show();
        }
        actions
    }

    /// Does something that takes its time, and what is due meanwhile.
    pub(super) async fn while_ticking<T>(&mut self, work: impl Future<Output = T>) -> T {
        tokio::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                _ = self.ticks.tick() => self.tick_aside().await,
            }
        }
    }

    /// A tick while something else goes on. What needs the connection is not due then.
    async fn tick_aside(&mut self) {
        self.ingest.tick();
        for action in self.ask(Event::Tick) {
            self.tell(action).await;
        }
    }

    /// Waits for the next tick, and does what is due.
    pub(super) async fn tick(&mut self, link: &mut Link) -> Result<(), AmqpError> {
        self.ingest.tick();
        self.drive(link, Event::Tick).await
    }

    pub(super) async fn next_tick(&mut self) {
        self.ticks.tick().await;
    }

    /// The queue is bound. Heads are bound to, and what came before is looked for.
    pub(super) async fn connected(&mut self, link: &mut Link) -> Result<(), AmqpError> {
        self.lost = None;
        self.bind_heads(link).await?;
        self.drive(link, Event::Connected { queue: link.queue, waiting: link.waiting }).await
    }

    /// The connection is lost, or could not be made.
    pub(super) async fn lost(&mut self, reason: &AmqpError) {
        self.lost = Some(reason.to_string());
        (self.hole, self.head) = (None, None);
        let actions = self.ask(Event::Lost);
        self.show();
        for action in actions {
            self.tell(action).await;
        }
    }

    async fn bind_heads(&mut self, link: &mut Link) -> Result<(), AmqpError> {
        match link.bind_heads(self.options).await {
            Ok(()) => {
                self.no_heads = false;
                Ok(())
            }
            Err(error) if !link.connection.status().connected() => Err(error),
            Err(error) => {
                if !self.no_heads {
                    self.ingest.events.no_heads(&self.ingest.feed, &error);
                }
                self.no_heads = true;
                self.plan.expect_no_heads();
                Ok(())
            }
        }
    }

    /// Makes the stream, should it be gone. What refuses it now is told by the next reading.
    async fn keep_history(&self, link: &Link) -> Result<(), AmqpError> {
        let Some(history) = self.history.as_ref().filter(|_| self.plan.has_history(self.now_ms())) else {
            return Ok(());
        };
        let kept = history.keep(&self.options.url, &link.connection).await;
        match kept {
            Err(error) if !link.connection.status().connected() => Err(error),
            _ => Ok(()),
        }
    }

    /// Takes a delivery in.
    pub(super) async fn take(&mut self, link: &mut Link, came: &link::Came) -> Result<(), AmqpError> {
        let delivery = &came.delivery;
        if delivery.properties.kind().as_ref().is_some_and(|kind| kind.as_str() == bus::HEAD_TYPE) {
            return self.take_head(link, &delivery.data).await;
        }
        let Some(message) = self.ingest.read(&delivery.data) else { return Ok(()) };
        let epoch = message.cursor.as_ref().map(|cursor| cursor.epoch.clone());
        let came = self.ingest.take(message, recorded(delivery)).await;
        let next = matches!(came, Came::Next);
        self.drive(link, Event::Taken { epoch: epoch.as_ref(), next }).await?;
        if let Came::Hole(hole) = came {
            self.ingest.events.hole(&self.ingest.feed, hole.missing, &hole.before);
            self.hole = Some(hole);
            self.drive(link, Event::Hole).await?;
        }
        Ok(())
    }

    async fn take_head(&mut self, link: &mut Link, body: &[u8]) -> Result<(), AmqpError> {
        let head = match bus::decode_head(body) {
            Ok(head) => head,
            Err(reason) => {
                self.ingest.poison(body, &reason);
                return Ok(());
            }
        };
        self.ingest.events.head_heard(&self.ingest.feed);
        let stands = self.ingest.judge_head(&head.cursor);
        self.head = Some(head.cursor.clone());
        self.drive(link, Event::Head { head: &head, stands }).await
    }

    /// Hands an event to the plan, and carries out what comes of it.
    async fn drive(&mut self, link: &mut Link, event: Event<'_>) -> Result<(), AmqpError> {
        let tick = matches!(event, Event::Tick);
        let mut actions = VecDeque::from(self.ask(event));
        while let Some(action) = actions.pop_front() {
            let event = match action {
                Action::ReadHistory { patience_ms } => {
                    self.read_history(link, Duration::from_millis(patience_ms)).await?
                }
                Action::Judge => {
                    let stands = self.head.as_ref().map(|head| self.ingest.judge_head(head));
                    Event::Judged(stands.unwrap_or(HeadStands::Even))
                }
                Action::Rebind => {
                    if let Some(head) = self.head.as_ref().filter(|_| !tick) {
                        self.ingest.events.head_differs(&self.ingest.feed, head);
                    }
                    link.rebind(self.options).await?;
                    self.bind_heads(link).await?;
                    self.keep_history(link).await?;
                    continue;
                }
                other => {
                    self.tell(other).await;
                    continue;
                }
            };
            actions.extend(self.ask(event));
        }
        Ok(())
    }

    /// Carries out what needs no connection.
    async fn tell(&mut self, action: Action) {
        match action {
            Action::TakeAnyway => {
                if let Some(hole) = self.hole.take() {
                    self.ingest.take_anyway(&hole.message, hole.recorded).await;
                }
            }
            Action::Hold(held) => self.ingest.hold(held).await,
            Action::Lose => self.ingest.lose().await,
            Action::GoOnAfter(cursor, why) => self.ingest.go_on_after(&cursor, why).await,
            Action::Current(current) => self.ingest.current(current).await,
            Action::Feed { paused, since_ms } => self.ingest.feed_state(paused, self.when(since_ms)).await,
            Action::ReadHistory { .. } | Action::Judge | Action::Rebind => {
                debug_assert!(false, "{action:?} is not due without a connection");
            }
        }
    }

    /// Shows people how things are, where that has changed.
    fn show(&mut self) {
        let now_ms = self.now_ms();
        let exchange = &self.options.exchange;
        let stopped = self.plan.stopped(now_ms);
        let known = matches!(stopped, Some((Stopped::NotConnected | Stopped::ReadingHistory, _)));
        let stopped = stopped.map(|(reason, since_ms)| match reason {
            Stopped::NotConnected => self.lost.clone().unwrap_or_else(|| "not yet connected to the broker".to_owned()),
            Stopped::ReadingHistory => "reading history".to_owned(),
            Stopped::Silent => format!(
                "no publisher heard on exchange '{exchange}' since {}; is the shim running, and connected to this broker?",
                self.when(since_ms)
            ),
            Stopped::Publisher(reason) => format!("the shim waits for its {reason}, since {}", self.when(since_ms)),
        });
        let notes: Vec<String> =
            self.plan.notes(now_ms).iter().map(|note| note.text(exchange, |at_ms| self.when(at_ms))).collect();
        let shown = (stopped, notes);
        if self.shown.as_ref() == Some(&shown) {
            return;
        }
        let (old, old_notes) = self.shown.take().unwrap_or_default();
        let (events, feed) = (&self.ingest.events, &self.ingest.feed);
        events.feed_is_up(feed, shown.0.is_none());
        match &shown.0 {
            Some(reason) if old.as_ref() != Some(reason) => events.feed_stopped(feed, reason, known),
            None if old.is_some() => events.feed_flows(feed),
            _ => {}
        }
        shown.1.iter().filter(|note| !old_notes.contains(note)).for_each(|note| events.feed_note(feed, note));
        let state = match &shown.0 {
            None => FeedState::Up,
            Some(reason) if !self.plan.was_live() && self.lost.is_none() => FeedState::Starting(reason.clone()),
            Some(reason) => FeedState::Down(reason.clone()),
        };
        self.health.set(state, shown.1.clone());
        self.shown = Some(shown);
    }

    /// Reads history from where the ingest stands. A connection that is lost is an error; a broker that has no history to
    /// give is not: the gateway then works without.
    async fn read_history(&mut self, link: &Link, patience: Duration) -> Result<Event<'static>, AmqpError> {
        let deadline = Instant::now() + patience;
        let mut backoff = Backoff::SERVER;
        loop {
            let error = match self.read_once(link).await {
                Ok((read, proven)) => {
                    self.ingest.events.history_read(&self.ingest.feed, read);
                    return Ok(Event::HistoryRead { proven });
                }
                Err(error) if !link.connection.status().connected() => {
                    return Err(match error {
                        HistoryError::Amqp(error) => *error,
                        HistoryError::Silent(_) => AmqpError::Timeout(self.options.url.clone()),
                    });
                }
                Err(error) => error,
            };
            let for_good = error.is_for_good();
            let delay = backoff.next(rand::random());
            if for_good || Instant::now() + delay >= deadline {
                self.ingest.events.no_history(&self.ingest.feed, &error);
                return Ok(Event::HistoryFailed { for_good });
            }
            self.while_ticking(tokio::time::sleep(delay)).await;
        }
    }

    /// Reads from where the next number should lie, and, where that is of no use, from the beginning. How many messages, and
    /// whether the newest number known was met.
    async fn read_once(&mut self, link: &Link) -> Result<(u64, bool), HistoryError> {
        let Some(history) = &self.history else { return Ok((0, false)) };
        let head = self.ingest.head();
        let start = history.places.start(head.as_ref());
        if start != Start::First {
            let read = self.read_from(link, start, head.clone()).await?;
            if read.is_none()
                && let Some(history) = &mut self.history
            {
                history.places.forget();
            }
            // What shows another history of the same ledger is no hole: nothing that could be read fills it.
            let fork = self.hole.as_ref().is_some_and(|hole| {
                hole.missing.is_none() && head.as_ref().is_some_and(|head| head.epoch == hole.before.epoch)
            });
            if let Some(read) = read.filter(|_| fork || self.is_found()) {
                return Ok(read);
            }
        }
        Ok(self.read_from(link, Start::First, head).await?.unwrap_or_default())
    }

    /// Whether what history was read for has come.
    fn is_found(&self) -> bool {
        let head = |head: &Cursor| matches!(self.ingest.judge_head(head), HeadStands::Even | HeadStands::Within);
        match (&self.hole, &self.head) {
            (Some(hole), _) => self.ingest.continues(&hole.message),
            (None, Some(cursor)) => head(cursor),
            (None, None) => true,
        }
    }

    /// Reads from a place to the end; none where what is read first shows that this place is of no use.
    async fn read_from(
        &mut self,
        link: &Link,
        start: Start,
        head: Option<Cursor>,
    ) -> Result<Option<(u64, bool)>, HistoryError> {
        let Some(history) = &self.history else { return Ok(None) };
        let opening = history.open(&self.options.url, &link.connection, &start);
        let mut reader = self.while_ticking(opening).await?;
        let mut reading = Reading::new(start, head);
        loop {
            let item = self.while_ticking(reader.next(reading.start())).await?;
            let Some(history) = &mut self.history else { return Ok(None) };
            let met = match item {
                // Beyond the end: another stream.
                None => Met::Useless,
                Some(Item::Marker(marker)) => reading.marker(&marker),
                Some(Item::End(offset)) => {
                    let end = reading.end(&reader.marker, offset, &mut history.places);
                    reader.close().await?;
                    return Ok((end != Met::Useless).then_some((reading.read, reading.proven)));
                }
                Some(Item::Message(delivery, offset)) => {
                    let Some(message) = self.ingest.read(&delivery.data) else { continue };
                    let met = reading.message(&message, offset, &mut history.places);
                    if met == Met::New {
                        self.take_old(message, recorded(&delivery), &mut reading).await;
                    }
                    met
                }
            };
            if met == Met::Useless {
                reader.close().await?;
                return Ok(None);
            }
        }
    }

    /// Takes in a message of history. Holes in the history itself are given up: they are gaps.
    async fn take_old(&mut self, message: BusMessage, recorded: Option<When>, reading: &mut Reading) {
        match self.ingest.take(message, recorded).await {
            Came::Next | Came::Other => {}
            Came::Broken => reading.gave_up(),
            Came::Hole(hole) => {
                reading.gave_up();
                self.ingest.take_anyway(&hole.message, hole.recorded).await;
            }
        }
    }

    /// The gateway stops: says goodbye to the broker, which notices by itself, too.
    pub(super) async fn leave(&self, link: Link, unacknowledged: Option<u64>) {
        let leaving = async {
            if let Some(tag) = unacknowledged {
                let _ = link.acknowledge(&self.options.url, tag).await;
            }
            let _ = link.connection.close(200, "gateway stops".into()).await;
        };
        // What was not acknowledged goes to whoever comes next.
        let _ = tokio::time::timeout(Duration::from_secs(2), leaving).await;
    }
}
