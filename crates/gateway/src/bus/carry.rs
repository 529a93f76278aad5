//! Carries what a feed's bus does to the broker, over the connection that there is.
//!
//! Goes in: deliveries, and the end of connections. Comes out: what the broker is asked, and what people are shown. Decides
//! nothing: that is [`core::bus`](bugfeed_core::bus), which also says what way a change goes.

use std::pin::Pin;
use std::time::Duration;

use bugfeed_amqp::AmqpError;
use bugfeed_amqp::consuming::{BODY_MAX, Delivery, PREFETCH_MAX};
use bugfeed_protocol::bus::{BadMessage, Message};
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

use super::alarm::Alarm;
use super::connection::{self, Came, QueueConnection, Source};
use super::history::{History, HistoryError, Reader, recorded};
use super::options::AmqpOptions;
use crate::feed::Ingest;
use bugfeed_core::bus::{Arrival, Ask, Event, Item, Setup, Stopped};
use bugfeed_runtime::health::{FeedHealth, FeedState};

/// Deliveries that are handed in before anything else is looked at.
const TURN: usize = 200;
/// From one [`Event::Tick`] to the next, in milliseconds.
const TICK_MS: u64 = 1000;

/// What a connection needs beside itself.
pub(super) struct Carrier<'a> {
    options: &'a AmqpOptions,
    pub(super) ingest: Ingest,
    health: FeedHealth,
    history: Option<History>,
    /// History is being read.
    reader: Option<Reader>,
    alarm: Alarm,
    /// When the next [`Event::Tick`] is due, in milliseconds of [`Ingest::now_ms`].
    tick_ms: u64,
    /// Why there is no connection, for people.
    lost: Option<String>,
    /// Heads cannot be had, and it was said.
    no_heads: bool,
    /// The queue was made by others, in another way, and it was said.
    queue_differs: bool,
    /// What people were shown last.
    shown: Option<Shown>,
    /// That the feed flows is shown once clients are let in.
    unshown: bool,
}

impl<'a> Carrier<'a> {
    pub(super) fn new(options: &'a AmqpOptions, mut ingest: Ingest, health: FeedHealth) -> Carrier<'a> {
        let history = options.history.clone().map(|bounds| History::new(&options.exchange, bounds));
        ingest.set_up(Setup {
            history: history.is_some(),
            prefetch: options.prefetch.min(PREFETCH_MAX),
            ..Setup::default()
        });
        Carrier {
            options,
            ingest,
            health,
            history,
            reader: None,
            alarm: Alarm::new(),
            tick_ms: 0,
            lost: None,
            no_heads: false,
            queue_differs: false,
            shown: None,
            unshown: false,
        }
    }

    /// Hands an event in. People see how things are before clients hear of it.
    fn hear(&mut self, event: Event<'_>) {
        self.ingest.hear(event);
        if self.ingest.bus.take_news() {
            self.show(false);
        }
    }

    /// Does something that takes its time, and what is due meanwhile.
    pub(super) async fn while_ticking<T>(&mut self, work: impl Future<Output = T>) -> T {
        tokio::pin!(work);
        loop {
            let tick = self.ingest.instant(self.tick_ms);
            tokio::select! {
                done = &mut work => return done,
                () = self.alarm.at(tick) => {
                    self.tick(self.ingest.now_ms());
                    self.ingest.tell_aside().await;
                }
            }
        }
    }

    /// Hands in a tick, if one is due; returns whether it was.
    fn tick(&mut self, now_ms: u64) -> bool {
        let is_due = now_ms >= self.tick_ms;
        if is_due {
            self.tick_ms = now_ms + TICK_MS;
            self.health.pulse().beat();
            self.hear(Event::Tick);
        }
        is_due
    }

    /// Hands in what is due; returns whether something was.
    fn be_on_time(&mut self) -> bool {
        let now_ms = self.ingest.now_ms();
        let ticked = self.tick(now_ms);
        let is_due = self.ingest.bus.due_ms().is_some_and(|due_ms| now_ms >= due_ms);
        if is_due {
            self.hear(Event::Due);
        }
        ticked || is_due
    }

    /// The queue is bound. Heads are bound to, and what came before is looked for.
    pub(super) async fn connected(&mut self, link: &mut QueueConnection) -> Result<(), AmqpError> {
        let health = self.health.clone();
        health.pulse().alive_while(self.begin(link)).await
    }

    async fn begin(&mut self, link: &mut QueueConnection) -> Result<(), AmqpError> {
        self.lost = None;
        if let Some(reason) = link.differs.take().filter(|_| !self.queue_differs) {
            self.ingest.events.queue_differs(&self.ingest.feed, &reason);
            self.queue_differs = true;
        }
        self.bind_heads(link).await?;
        self.hear(Event::Connected { queue: link.queue, waiting: link.waiting });
        Ok(())
    }

    /// The connection is lost, or could not be made.
    pub(super) async fn lost(&mut self, reason: &AmqpError) {
        self.lost = Some(reason.to_string());
        self.reader = None;
        self.unshown = false;
        self.hear(Event::Lost);
        self.show(false);
        self.ingest.tell_aside().await;
    }

    async fn bind_heads(&mut self, link: &mut QueueConnection) -> Result<(), AmqpError> {
        match link.bind_heads(self.options).await {
            Ok(()) => {
                self.no_heads = false;
                self.hear(Event::HeadsBound(true));
                Ok(())
            }
            Err(error) if !link.connection.is_connected() => Err(error),
            Err(error) => {
                if !self.no_heads {
                    self.ingest.events.no_heads(&self.ingest.feed, &error);
                }
                self.no_heads = true;
                self.hear(Event::HeadsBound(false));
                Ok(())
            }
        }
    }

    /// Makes the stream, should it be gone. What refuses it now is told by the next reading.
    async fn keep_history(&self, link: &mut QueueConnection) -> Result<(), AmqpError> {
        let Some(history) = self.history.as_ref().filter(|_| self.ingest.bus.has_history(self.ingest.now_ms())) else {
            return Ok(());
        };
        let kept = history.keep(&self.options.url, &mut link.connection).await;
        match kept {
            Err(error) if !link.connection.is_connected() => Err(error),
            _ => Ok(()),
        }
    }

    /// Waits for what happens next, hands it in, and carries out what comes of it. `stopped` is done once `stop` is.
    pub(super) async fn turn(
        &mut self,
        link: &mut QueueConnection,
        stop: &CancellationToken,
        stopped: Pin<&mut WaitForCancellationFuture<'_>>,
    ) -> Result<(), AmqpError> {
        if self.be_on_time() {
            self.carry_out(link, stop).await?;
        }
        let due_ms = self.ingest.bus.due_ms().unwrap_or(u64::MAX).min(self.tick_ms);
        let due = self.ingest.instant(due_ms);
        let takes = self.ingest.bus.takes_deliveries();
        tokio::select! {
            // First, so that nothing else is asked while deliveries come. Each turn begins with what is due.
            biased;
            came = link.next(&self.options.url, takes, self.reader.as_ref()) => self.take_turn(link, came?, stop).await,
            () = self.alarm.at(due) => Ok(()),
            () = stopped => Ok(()),
        }
    }

    /// Hands in what came, and then what has been read already.
    async fn take_turn(
        &mut self,
        link: &mut QueueConnection,
        mut came: Came,
        stop: &CancellationToken,
    ) -> Result<(), AmqpError> {
        for _ in 0..TURN {
            self.came(link, came)?;
            self.ingest.is_alone = !link.connection.has_read_more();
            self.carry_out(link, stop).await?;
            if stop.is_cancelled() {
                return Ok(());
            }
            let takes = self.ingest.bus.takes_deliveries();
            let Some(next) = link.next_read(&self.options.url, takes, self.reader.as_ref())? else { return Ok(()) };
            came = next;
        }
        self.came(link, came)?;
        self.carry_out(link, stop).await?;
        // However much has come: the other tasks of this thread have their turn.
        tokio::task::yield_now().await;
        Ok(())
    }

    fn came(&mut self, link: &mut QueueConnection, (from, came): Came) -> Result<(), AmqpError> {
        let url = &self.options.url;
        match (from, came) {
            (Source::Queue, Ok(delivery)) => self.take(&delivery, Some(delivery.tag())),
            // It is acknowledged already.
            (Source::Heads, Ok(delivery)) => self.take(&delivery, None),
            (Source::History, Ok(delivery)) => self.read(&delivery),
            (Source::History, Err(ended)) => {
                let error = HistoryError::from(connection::ended(url, ended));
                return self.failed(link, error).map_or(Ok(()), Err);
            }
            (_, Err(ended)) => return Err(connection::ended(url, ended)),
        }
        Ok(())
    }

    /// Reads a delivery. One that cannot be read is logged and counted.
    fn message(&mut self, delivery: &Delivery) -> Option<Message> {
        if let Some(size) = delivery.too_large() {
            self.ingest.poison(&[], &BadMessage::TooLarge { size, max: BODY_MAX });
            return None;
        }
        self.ingest.read(delivery.kind(), delivery.body())
    }

    fn take(&mut self, delivery: &Delivery, tag: Option<u64>) {
        match self.message(delivery) {
            Some(Message::Change(message)) => {
                self.hear(Event::Change(Arrival { message, recorded: recorded(delivery) }, tag));
            }
            Some(Message::Batch(elements)) => {
                let changes = self.ingest.changes(elements, recorded(delivery), delivery.body());
                self.hear(Event::Batch(changes, tag));
            }
            Some(Message::Head(head)) => self.hear(Event::Head(&head, tag)),
            Some(Message::Marker) | None => self.hear(Event::Unreadable(tag)),
        }
    }

    fn read(&mut self, delivery: &Delivery) {
        if let Some(reader) = &mut self.reader {
            reader.last = delivery.tag();
        }
        let recorded = recorded(delivery);
        let item = match self.message(delivery) {
            Some(Message::Change(message)) => Item::Changes(vec![Arrival { message, recorded }]),
            Some(Message::Batch(elements)) => Item::Changes(self.ingest.changes(elements, recorded, delivery.body())),
            Some(Message::Marker) => Item::Marker(delivery.message_id().to_owned()),
            Some(Message::Head(_)) | None => Item::Unreadable,
        };
        self.hear(Event::Read(item, delivery.stream_offset().unwrap_or(0)));
    }

    /// A reading has failed: with the connection (the loss), or because the broker has no history to give (none): the gateway
    /// then works without.
    fn failed(&mut self, link: &mut QueueConnection, error: HistoryError) -> Option<AmqpError> {
        if let Some(reader) = self.reader.take() {
            link.connection.abandon_channel(reader.channel);
        }
        if !link.connection.is_connected() {
            return Some(error.into_amqp(&self.options.url));
        }
        self.ingest.refusal = error.to_string();
        self.hear(Event::ReadingFailed { for_good: error.is_for_good(), random: rand::random() });
        None
    }

    /// Does all that is to be done.
    pub(super) async fn carry_out(
        &mut self,
        link: &mut QueueConnection,
        stop: &CancellationToken,
    ) -> Result<(), AmqpError> {
        while let Some(ask) = self.next_ask(link).await {
            match ask {
                Ask::Acknowledge(tag) => link.acknowledge(tag),
                Ask::Rebind => {
                    let health = self.health.clone();
                    health.pulse().alive_while(self.rebind(link)).await?;
                }
                Ask::Mark => tokio::select! {
                    marked = self.mark(link) => marked?,
                    () = stop.cancelled() => return Ok(()),
                },
                Ask::Consume(from) => self.consume(link, from).await?,
                Ask::AcknowledgeRead => {
                    if let Some(reader) = &self.reader {
                        reader.acknowledge(&mut link.connection);
                    }
                }
                Ask::Cancel => self.cancel(link).await?,
            }
        }
        if std::mem::take(&mut self.unshown) {
            self.ingest.opened().await;
            self.show(true);
        }
        Ok(())
    }

    /// The next question to the broker. Shards may be slow to take what they are told: the broker must not think meanwhile
    /// that nobody is here.
    async fn next_ask(&mut self, link: &mut QueueConnection) -> Option<Ask> {
        let asking = self.ingest.next_ask();
        tokio::pin!(asking);
        tokio::select! {
            biased;
            ask = &mut asking => return ask,
            // Told by the next wait for deliveries. What shards are being told is told to all of them first.
            _lost = link.connection.keep_alive() => {}
        }
        asking.await
    }

    async fn rebind(&mut self, link: &mut QueueConnection) -> Result<(), AmqpError> {
        link.rebind(self.options).await?;
        self.bind_heads(link).await?;
        self.keep_history(link).await
    }

    async fn mark(&mut self, link: &mut QueueConnection) -> Result<(), AmqpError> {
        let Some(history) = self.history.clone() else { return Ok(()) };
        match self.while_ticking(history.mark(&self.options.url, &mut link.connection)).await {
            Ok(reader) => {
                self.hear(Event::Marked(reader.marker.clone()));
                self.reader = Some(reader);
                Ok(())
            }
            Err(error) => self.failed(link, error).map_or(Ok(()), Err),
        }
    }

    /// Asks the stream to deliver. One that does not answer is told of as one that refuses.
    async fn consume(&mut self, link: &mut QueueConnection, from: Option<i64>) -> Result<(), AmqpError> {
        let Some(reader) = self.reader.take() else { return Ok(()) };
        let asked = self.while_ticking(reader.consume(&mut link.connection, from)).await;
        self.reader = Some(reader);
        match asked {
            Ok(()) => Ok(()),
            Err(error) => self.failed(link, error).map_or(Ok(()), Err),
        }
    }

    async fn cancel(&mut self, link: &mut QueueConnection) -> Result<(), AmqpError> {
        let Some(reader) = self.reader.take() else { return Ok(()) };
        match self.while_ticking(reader.close(&mut link.connection)).await {
            Err(error) if !link.connection.is_connected() => Err(error.into_amqp(&self.options.url)),
            // Nothing is wanted of it any more.
            _ => Ok(()),
        }
    }

    /// Shows people how things are, where that has changed.
    fn show(&mut self, anyway: bool) {
        let now_ms = self.ingest.now_ms();
        let exchange = &self.options.exchange;
        let (bus, when) = (&self.ingest.bus, |at_ms| self.ingest.when(at_ms));
        let stopped = bus.stopped(now_ms);
        let known = matches!(stopped, Some((Stopped::NotConnected | Stopped::ReadingHistory, _)));
        let stopped = stopped.map(|(reason, since_ms)| match reason {
            Stopped::NotConnected => self.lost.clone().unwrap_or_else(|| "not yet connected to the broker".to_owned()),
            Stopped::ReadingHistory => "reading history".to_owned(),
            Stopped::Silent => format!(
                "no publisher heard on exchange '{exchange}' since {}; is the shim running, and connected to this broker?",
                when(since_ms)
            ),
            Stopped::Publisher(reason) => format!("the shim waits for its {reason}, since {}", when(since_ms)),
        });
        let notes = bus.notes(now_ms);
        let texts = notes.iter().map(|note| note.text(exchange, when)).collect();
        let shown = Shown { stopped, notes: texts, read: bus.read_so_far() };
        if shown.stopped.is_none() && !self.ingest.is_open() && !anyway {
            self.unshown = true;
            return;
        }
        if self.shown.as_ref() == Some(&shown) {
            return;
        }
        let old = self.shown.take().unwrap_or_default();
        let (events, feed) = (&self.ingest.events, &self.ingest.feed);
        events.feed_is_up(feed, shown.stopped.is_none());
        match &shown.stopped {
            Some(reason) if old.stopped.as_ref() != Some(reason) => events.feed_stopped(feed, reason, known),
            None if old.stopped.is_some() => events.feed_flows(feed),
            _ => {}
        }
        for (note, text) in notes.iter().zip(&shown.notes).filter(|(_, text)| !old.notes.contains(text)) {
            events.feed_note(feed, note, text);
        }
        let reason = shown.stopped.as_ref().map(|reason| match shown.read {
            Some(read) if read > 0 => format!("{reason}: {read} changes so far"),
            _ => reason.clone(),
        });
        let state = match reason {
            None => FeedState::Up,
            Some(reason) if !self.ingest.bus.was_live() && self.lost.is_none() => FeedState::Starting(reason),
            Some(reason) => FeedState::Down(reason),
        };
        self.health.set(state, shown.notes.clone());
        self.shown = Some(shown);
    }

    /// The gateway stops: says goodbye to the broker, which notices by itself, too.
    pub(super) async fn leave(&mut self, mut link: QueueConnection) {
        if let Some(tag) = self.ingest.bus.take_unacknowledged() {
            link.acknowledge(tag);
        }
        // What was not acknowledged goes to whoever comes next.
        let _ = tokio::time::timeout(Duration::from_secs(2), link.connection.close("gateway stops")).await;
    }
}

/// What people are shown of a feed.
#[derive(Debug, Default, PartialEq, Eq)]
struct Shown {
    /// Why nothing can arrive, if so.
    stopped: Option<String>,
    notes: Vec<String>,
    /// How many changes the reading of history under way has brought. Only `/readyz` says it: it changes all the time.
    read: Option<u64>,
}
