//! Heads: the shim says how far it has published.

use std::time::Duration;

use bugfeed_protocol::bus::{HEAD_TYPE, Head, decode_head};
use bugfeed_protocol::log_event::LogEvent;
use bugfeed_testbed::{event, eventually, shared};
use lapin::ExchangeKind;
use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::FieldTable;

use super::queue::Queue;
use crate::rig::Rig;
use crate::support::{Place, T1};

const LIMIT: Duration = Duration::from_secs(20);

/// A queue that is bound to the heads of an exchange.
async fn heads_of(url: &str, exchange: &str) -> Queue {
    let name = format!("{exchange}.head");
    let queue = Queue::connect(url, &name).await;
    let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    let none = FieldTable::default;
    queue.channel.exchange_declare(name.as_str().into(), ExchangeKind::Fanout, durable, none()).await.unwrap();
    let own = QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
    queue.channel.queue_declare(name.as_str().into(), own, none()).await.unwrap();
    let (to, from) = (name.as_str().into(), name.as_str().into());
    queue.channel.queue_bind(to, from, "".into(), QueueBindOptions::default(), none()).await.unwrap();
    queue
}

/// The next heads, until one is as wanted.
async fn until(queue: &Queue, what: &str, mut wanted: impl FnMut(&Head) -> bool) -> Head {
    let mut last = None;
    eventually(LIMIT, what.to_owned(), async || {
        while let Some(message) = queue.get().await {
            let properties = &message.properties;
            assert_eq!(properties.kind().as_ref().unwrap().as_str(), HEAD_TYPE);
            assert_eq!(*properties.delivery_mode(), Some(1));
            let head = decode_head(&message.data).unwrap();
            assert_eq!(head.interval_ms, 2000);
            last = Some(head.clone());
            if wanted(&head) {
                return Ok(head);
            }
        }
        Err(format!("{last:?}"))
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn the_holder_of_the_lease_says_the_confirmed_head() {
    let Some(broker) = shared::rabbitmq().await else { return };
    let place = Place::sqlite();
    let rig = Rig::new(place, &broker.url).await;
    let heads = heads_of(&broker.url, &rig.exchange).await;
    let mut proc = rig.run().spawn().unwrap();
    let first = until(&heads, "a first head", |_| true).await;
    assert_eq!((first.cursor.seq, first.cursor.tag, &first.paused), (0, None, &None));
    // No queue takes changes, so they are numbered but not confirmed.
    let mut tracker = rig.place.session().await;
    tracker.insert(&[(1, T1), (2, T1), (3, T1)]).await;
    proc.wait_for_line(event(LogEvent::PartDown).with("part", "bus"), LIMIT).await.unwrap();
    let mut more = 0;
    until(&heads, "two more heads", |head| {
        assert_eq!(head.cursor, first.cursor);
        more += 1;
        more == 2
    })
    .await;
    let queue = rig.queue().await;
    let head = until(&heads, "a head of 3", |head| head.cursor.seq == 3).await;
    let all = queue.collect(3, LIMIT).await;
    assert_eq!(Some(head.cursor.clone()), all.last().unwrap().cursor, "the number and its tag");
    // A shim that waits for its turn says no heads.
    let mut standby = rig.run().spawn().unwrap();
    standby.wait_for_event(LogEvent::LeaseWaiting, LIMIT).await.unwrap();
    // The table is away, so no change can come, and the heads say so.
    tracker.exec("ALTER TABLE push_notify RENAME TO elsewhere").await;
    let head = until(&heads, "a pause", |head| head.paused.is_some()).await;
    assert_eq!((head.cursor.seq, head.paused.as_deref()), (3, Some("change table")));
    tracker.exec("ALTER TABLE elsewhere RENAME TO push_notify").await;
    until(&heads, "an end of the pause", |head| head.paused.is_none()).await;
    proc.kill9();
    proc.wait(LIMIT).await.unwrap();
    tracker.insert(&[(4, T1)]).await;
    let head = until(&heads, "a head of the other one", |head| head.cursor.seq == 4).await;
    assert_eq!(head.cursor, queue.collect(1, LIMIT).await[0].cursor.clone().unwrap());
    standby.stop(LIMIT).await.unwrap();
}

/// An exchange of that name with another type: no heads, and changes flow.
#[tokio::test]
async fn without_their_exchange_changes_flow() {
    let Some(broker) = shared::rabbitmq().await else { return };
    let place = Place::sqlite();
    let rig = Rig::new(place, &broker.url).await;
    let queue = rig.queue().await;
    let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    let name = format!("{}.head", rig.exchange);
    let none = FieldTable::default();
    queue.channel.exchange_declare(name.as_str().into(), ExchangeKind::Direct, durable, none).await.unwrap();
    let mut proc = rig.run().spawn().unwrap();
    let line = proc.wait_for_event(LogEvent::HeadsNotSent, LIMIT).await.unwrap();
    assert!(line.contains(&name) && line.contains("fanout"), "{line}");
    rig.insert(&[(1, T1), (2, T1)]).await;
    queue.collect(2, LIMIT).await;
    proc.stop(LIMIT).await.unwrap();
    assert_eq!(proc.events(LogEvent::HeadsNotSent), 1, "{}", proc.output());
}
