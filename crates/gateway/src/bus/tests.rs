mod real {
    use std::future::poll_fn;
    use std::sync::Arc;
    use std::task::Poll;
    use std::time::Duration;

    use bugfeed_runtime::health::Health;
    use bugfeed_testbed::shared;
    use tokio_util::sync::CancellationToken;

    use crate::bus::amqp::{AmqpOptions, run};
    use crate::events::Events;
    use crate::feed::{Clock, FeedOptions, FeedParts, feed};

    /// Whoever hears that a gateway is ready may send clients to it at once. The runtime has one thread, so the shards, which
    /// open the gate, do not run while this looks.
    #[tokio::test]
    async fn a_gateway_says_that_it_is_ready_after_it_lets_clients_in() {
        let Some(broker) = shared::rabbitmq().await else { return };
        let events = Arc::new(Events::new());
        let FeedParts { feed, ingest, shards } = feed("default", &FeedOptions::with_shards(2), Clock::start(), &events);
        let options = AmqpOptions {
            url: bugfeed_amqp::parse_url(&broker.url).unwrap(),
            exchange: format!("gate-{:016x}", rand::random::<u64>()),
            queue: None,
            queue_max: 1000,
            queue_max_bytes: 1_000_000,
            history: None,
            prefetch: 100,
            alone: true,
            patient: false,
        };
        let (health, stop) = (Health::new(), CancellationToken::new());
        let mut running = Box::pin(run(options, ingest, health.feed("default"), stop.clone()));
        let tasks: Vec<_> = shards.into_iter().map(|shard| tokio::spawn(shard.run(stop.clone()))).collect();
        let ready = poll_fn(|cx| {
            assert!(running.as_mut().poll(cx).is_pending(), "it runs until it is told to stop");
            if !health.report().ready {
                return Poll::Pending;
            }
            assert!(!feed.is_shut(), "it said that it was ready before");
            Poll::Ready(())
        });
        tokio::time::timeout(Duration::from_secs(20), ready).await.expect("it becomes ready");
        stop.cancel();
        running.await.unwrap();
        for task in tasks {
            task.await.unwrap();
        }
    }
}
