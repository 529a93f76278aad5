//! The AMQP publisher against a real RabbitMQ.

use std::sync::Arc;
use std::time::Duration;

use bugfeed_amqp::{AmqpError, HistoryBounds, parse_url};
use bugfeed_protocol::bus::Format;
use bugfeed_protocol::log_event::LogEvent;
use bugfeed_protocol::{Change, Cursor, Epoch, Numbered, When};
use bugfeed_shim::publish::amqp::{AmqpOptions, AmqpPublisher, BatchOptions};
use bugfeed_shim::publish::{Publish as _, PublishFault};
use bugfeed_testbed::{Run, event, eventually, shared, unique};
use lapin::ExchangeKind;
use lapin::options::{ExchangeDeclareOptions, QueueDeleteOptions};
use lapin::types::FieldTable;

use super::queue::{Queue, check_stream};
use crate::binary::{ledger_url, shim};
use crate::rig::Rig;
use crate::support::{Place, T1, bug, when};

const LIMIT: Duration = Duration::from_secs(20);

fn options(url: &str, exchange: &str) -> AmqpOptions {
    AmqpOptions {
        url: parse_url(url).unwrap(),
        exchange: exchange.to_owned(),
        format: Format::Native,
        batch: BatchOptions::default(),
        history: None,
    }
}

async fn publisher(url: &str, exchange: &str) -> AmqpPublisher {
    AmqpPublisher::open(options(url, exchange), Arc::default()).await.unwrap()
}

fn numbered(seq: u64, bug_id: u64) -> Numbered {
    Numbered {
        change: Change { bug: bug(bug_id), when: when(T1) },
        cursor: Cursor::new(Epoch::from_random(7), seq),
        after: None,
        recorded: When::from_micros(1_396_559_625_000_001).unwrap(),
    }
}

#[tokio::test]
async fn an_unroutable_change_is_not_published_until_a_queue_is_bound() {
    let Some(broker) = shared::rabbitmq().await else { return };
    let exchange = unique("exchange");
    let mut publisher = publisher(&broker.url, &exchange).await;
    let batch: Vec<Numbered> = (1..=3).map(|seq| numbered(seq, 100 + seq)).collect();
    let error = publisher.publish(&batch).await.unwrap_err();
    assert_eq!((error.published, error.fault), (0, PublishFault::Unroutable), "{error}");
    assert!(error.reason.contains(&exchange) && error.reason.contains("no queue is bound"), "{error}");
    let queue = Queue::declare(&broker.url, &exchange).await;
    queue.bind("#").await;
    assert_eq!(publisher.publish(&batch).await, Ok(3));
    let first = eventually(LIMIT, "a message", async || queue.get().await).await.unwrap();
    let properties = &first.properties;
    assert_eq!(first.routing_key.as_str(), "101");
    assert_eq!(*properties.delivery_mode(), Some(2));
    assert_eq!(properties.content_type().as_ref().unwrap().as_str(), "application/json");
    assert_eq!(properties.message_id().as_ref().unwrap().as_str(), "0000000000000007.1");
    assert_eq!(*properties.timestamp(), Some(1_396_559_626), "rounded up");
    assert_eq!(properties.app_id().as_ref().unwrap().as_str(), "bugfeed");
    let body = r#"{"bug":101,"when":"2014-04-03T21:13:45","seq":1,"epoch":"0000000000000007"}"#;
    assert_eq!(String::from_utf8_lossy(&first.data), body);
    assert_eq!(queue.collect(2, LIMIT).await.len(), 2, "nothing of the first attempt was delivered");
}

/// A stream takes every message. If a message is returned, the stream was deleted, and the shim makes it anew, because
/// perhaps nobody else does.
#[tokio::test]
async fn a_history_that_was_deleted_is_made_anew() {
    let Some(broker) = shared::rabbitmq().await else { return };
    let exchange = unique("exchange");
    let options = AmqpOptions { history: Some(HistoryBounds::default()), ..options(&broker.url, &exchange) };
    let mut publisher = AmqpPublisher::open(options, Arc::default()).await.unwrap();
    assert_eq!(publisher.publish(&[numbered(1, 5)]).await, Ok(1));
    let history = format!("{exchange}.history");
    let queue = Queue::connect(&broker.url, &exchange).await;
    queue.channel.queue_delete(history.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
    let error = publisher.publish(&[numbered(2, 5)]).await.unwrap_err();
    assert_eq!((error.published, error.fault), (0, PublishFault::Unroutable), "{error}");
    publisher.connect().await.unwrap();
    assert_eq!(publisher.publish(&[numbered(2, 5)]).await, Ok(1));
    queue.channel.queue_delete(history.into(), QueueDeleteOptions::default()).await.unwrap();
}

/// A gateway's queue takes every message, so that nothing is returned: the shim looks for the history itself.
#[tokio::test]
async fn a_history_that_was_deleted_is_missed_although_messages_are_taken() {
    let Some(broker) = shared::rabbitmq().await else { return };
    let exchange = unique("exchange");
    let options = AmqpOptions { history: Some(HistoryBounds::default()), ..options(&broker.url, &exchange) };
    let mut publisher = AmqpPublisher::open(options, Arc::default()).await.unwrap();
    let queue = Queue::declare(&broker.url, &exchange).await;
    queue.bind("#").await;
    assert!(publisher.connect().await.unwrap(), "the connection is new");
    let history = format!("{exchange}.history");
    queue.channel.queue_delete(history.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
    assert_eq!(publisher.publish(&[numbered(1, 5), numbered(2, 6)]).await, Ok(2), "the queue has them");
    let compares = async || publisher.connect().await.unwrap().then_some(());
    eventually(LIMIT, "the end of history is looked at", compares).await.unwrap();
    assert_eq!(publisher.publish(&[numbered(3, 5), numbered(4, 6)]).await, Ok(2));
    assert_eq!(publisher.end().await.unwrap().unwrap().last().unwrap().seq, 4, "it is in the history");
    queue.channel.queue_delete(history.into(), QueueDeleteOptions::default()).await.unwrap();
}

/// Some of a batch routable, some not; one acknowledgement may cover several of them.
#[tokio::test]
async fn what_is_published_ends_before_the_first_unroutable_change() {
    let Some(broker) = shared::rabbitmq().await else { return };
    let exchange = unique("exchange");
    let mut publisher = publisher(&broker.url, &exchange).await;
    let queue = Queue::declare(&broker.url, &exchange).await;
    queue.bind("5").await;
    for unroutable in [1, 2, 117, 199, 200] {
        let batch: Vec<Numbered> = (1..=200).map(|seq| numbered(seq, if seq == unroutable { 6 } else { 5 })).collect();
        let error = publisher.publish(&batch).await.unwrap_err();
        assert_eq!((error.published as u64, error.fault), (unroutable - 1, PublishFault::Unroutable), "{error}");
    }
    let batch: Vec<Numbered> = (1..=200).map(|seq| numbered(seq, 5)).collect();
    assert_eq!(publisher.publish(&batch).await, Ok(200));
}

/// What follows goes in one message, which reaches each queue once, whichever of its bugs that is bound to.
#[tokio::test]
async fn several_changes_go_in_one_message() {
    let Some(broker) = shared::rabbitmq().await else { return };
    for keys in [true, false] {
        let exchange = unique("exchange");
        let batch = BatchOptions { keys, ..BatchOptions::default() };
        let history = Some(HistoryBounds::default());
        let options = AmqpOptions { batch, history, ..options(&broker.url, &exchange) };
        let mut publisher = AmqpPublisher::open(options, Arc::default()).await.unwrap();
        let queue = Queue::declare(&broker.url, &exchange).await;
        queue.bind("103").await;
        queue.bind("102").await;
        // 5 does not follow 3, and is alone.
        let changes: Vec<Numbered> = [1, 2, 3, 5].map(|seq| numbered(seq, 100 + seq)).into();
        assert_eq!(publisher.publish(&changes).await, Ok(4));
        queue.bind("#").await;
        assert_eq!(publisher.publish(&[numbered(6, 106), numbered(7, 107)]).await, Ok(2));
        if keys {
            let first = eventually(LIMIT, "a message", async || queue.get().await).await.unwrap();
            let properties = &first.properties;
            assert_eq!(first.routing_key.as_str(), "101");
            assert_eq!(properties.kind().as_ref().unwrap().as_str(), "bugfeed.batch");
            assert_eq!(properties.message_id().as_ref().unwrap().as_str(), "0000000000000007.3");
            let body = concat!(
                r#"{"epoch":"0000000000000007","seq":1,"changes":[{"bug":101,"when":"2014-04-03T21:13:45"},"#,
                r#"{"bug":102,"when":"2014-04-03T21:13:45"},{"bug":103,"when":"2014-04-03T21:13:45"}]}"#
            );
            assert_eq!(String::from_utf8_lossy(&first.data), body);
        }
        let last = eventually(LIMIT, "a message", async || queue.get().await).await.unwrap();
        assert_eq!(last.routing_key.as_str(), if keys { "106" } else { "batch" });
        assert!(queue.get().await.is_none(), "once, and without keys not where single bugs are bound");
        let history = format!("{exchange}.history");
        queue.channel.queue_delete(history.into(), QueueDeleteOptions::default()).await.unwrap();
    }
}

#[tokio::test]
async fn faults_that_waiting_cannot_heal_are_told_at_the_start() {
    let Some(broker) = shared::rabbitmq().await else { return };
    let exchange = unique("exchange");
    let queue = Queue::connect(&broker.url, "none").await;
    let fanout = ExchangeKind::Fanout;
    let (declare, none) = (ExchangeDeclareOptions::default(), FieldTable::default());
    queue.channel.exchange_declare(exchange.as_str().into(), fanout, declare, none).await.unwrap();
    let open = async |url: &str, exchange: &str| AmqpPublisher::open(options(url, exchange), Arc::default()).await;
    let error = open(&broker.url, &exchange).await.unwrap_err();
    assert!(matches!(error, AmqpError::Exchange { .. }) && error.to_string().contains(&exchange), "{error}");
    let (scheme, rest) = broker.url.split_once("://").unwrap();
    let host = rest.rsplit_once('@').unwrap().1;
    let wrong_password = format!("{scheme}://guest:wr0ng@{host}");
    let error = open(&wrong_password, "x").await.unwrap_err();
    assert!(matches!(error, AmqpError::Login { .. }) && !error.to_string().contains("wr0ng"), "{error}");
    let no_vhost = broker.url.rsplit_once('/').unwrap().0.to_owned() + "/nowhere";
    let error = open(&no_vhost, "x").await.unwrap_err();
    assert!(matches!(error, AmqpError::Login { .. }) && error.to_string().contains("nowhere"), "{error}");
    open("amqp://127.0.0.1:1", "x").await.expect("a broker that is not there is waited for");

    let place = Place::sqlite();
    place.table().await;
    for (url, part) in [(&wrong_password, "refuses the login"), (&broker.url, "durable topic exchange")] {
        let ledger = ledger_url(place.dir.path());
        let run: Run = shim(&["--source", &place.url, "--ledger", &ledger, "--amqp", url, "--exchange", &exchange]);
        let mut proc = run.spawn().unwrap();
        let line = proc.wait_for_line("error: ", LIMIT).await.unwrap();
        assert!(line.contains(part), "{line}");
        assert_eq!(proc.wait(LIMIT).await.unwrap().code(), Some(1));
        assert!(!proc.output().contains("wr0ng"), "{}", proc.output());
    }
}

#[tokio::test]
async fn once_drains_and_exits_in_either_format() {
    let Some(broker) = shared::rabbitmq().await else { return };
    for format in ["native", "pulse"] {
        let place = Place::sqlite();
        place.table().await;
        place.session().await.insert(&[(7, T1), (8, T1)]).await;
        let queue = Queue::declare(&broker.url, &unique("exchange")).await;
        queue.bind("#").await;
        let ledger = ledger_url(place.dir.path());
        let args = ["run", "--once", "--source", &place.url, "--ledger", &ledger, "--amqp", &broker.url];
        let run = shim(&args).args(["--exchange", &queue.name, "--format", format]);
        let mut proc = run.spawn().unwrap();
        let status = proc.wait(LIMIT).await.unwrap();
        assert!(status.success(), "{}", proc.output());
        let first = eventually(LIMIT, "a message", async || queue.get().await).await.unwrap();
        let text = String::from_utf8(first.data.clone()).unwrap();
        let envelope = text.starts_with(r#"{"payload":{"id":7,"delta_ts":"2014-04-03T21:13:45"},"_meta":{"#);
        assert_eq!(envelope, format == "pulse", "{text}");
        assert_eq!(first.routing_key.as_str(), "7");
        let second = queue.collect(1, LIMIT).await;
        assert_eq!(second[0].change.bug, bug(8));
    }
}

/// The binary says once that nobody is there, keeps everything, and delivers in order when somebody comes.
#[tokio::test]
async fn changes_wait_for_the_first_gateway() {
    let Some(broker) = shared::rabbitmq().await else { return };
    let place = Place::sqlite();
    let rig = Rig::new(place, &broker.url).await;
    let rows: Vec<(u64, &str)> = (1..=300).map(|bug| (bug, T1)).collect();
    rig.insert(&rows).await;
    let mut proc = rig.run().spawn().unwrap();
    let nobody = event(LogEvent::PartDown).with("part", "bus");
    let line = proc.wait_for_line(nobody.clone(), LIMIT).await.unwrap();
    assert!(line.contains("no queue is bound to exchange"), "{line}");
    rig.emptied().await;
    let queue = rig.queue().await;
    let all = queue.collect(300, LIMIT).await;
    assert_eq!(check_stream(&all, 300), (1..=300).collect::<Vec<_>>());
    proc.wait_for_line(event(LogEvent::PartUp).with("part", "bus"), LIMIT).await.unwrap();
    assert_eq!(nobody.count(&proc.output()), 1, "said once: {}", proc.output());
    proc.stop(LIMIT).await.unwrap();
}
