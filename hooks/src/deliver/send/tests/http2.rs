//! HTTP/2: shared connections, and servers that end them.

use std::sync::atomic::{AtomicUsize, Ordering};

use h2::Reason;
use h2::server::SendResponse;

use super::*;

/// What a server does with a request.
#[derive(Clone, Copy, Debug)]
enum Act {
    /// Answers 200.
    Answer,
    /// Never answers.
    Hang,
    /// Answers 200, then says that it takes no more requests.
    AnswerAndLeave,
    /// Says that it takes no more requests, and that it has not begun with this one.
    Leave,
    /// Ends the connection with an error.
    Fail,
    /// Ends the stream.
    Reset(Reason),
    /// Answers with far too much.
    Flood,
}

/// A server of HTTP/2 for whose requests, by number over all connections, `act` says what is done.
struct H2 {
    url: String,
    sender: Sender,
    connections: Arc<AtomicUsize>,
}

impl H2 {
    async fn start(act: impl Fn(usize) -> Act + Send + Sync + Copy + 'static) -> Option<H2> {
        let tls = Tls::made(false).await?;
        let acceptor = tls.acceptor(&["h2", "http/1.1"]);
        let connections = Arc::new(AtomicUsize::new(0));
        let (counted, requests) = (Arc::clone(&connections), Arc::new(AtomicUsize::new(0)));
        let address = listen(move |stream| {
            let (acceptor, requests) = (acceptor.clone(), Arc::clone(&requests));
            counted.fetch_add(1, Ordering::SeqCst);
            async move {
                let stream = acceptor.accept(stream).await.unwrap();
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((request, respond))) = connection.accept().await {
                    assert_eq!(request.uri().scheme_str(), Some("https"));
                    assert!(request.headers().get("host").is_none());
                    match act(requests.fetch_add(1, Ordering::SeqCst)) {
                        Act::Fail => connection.abrupt_shutdown(Reason::INTERNAL_ERROR),
                        Act::Leave => connection.abrupt_shutdown(Reason::NO_ERROR),
                        Act::AnswerAndLeave => {
                            answer(respond, false);
                            connection.graceful_shutdown();
                        }
                        Act::Answer => answer(respond, false),
                        Act::Flood => answer(respond, true),
                        Act::Reset(reason) => {
                            let mut respond = respond;
                            respond.send_reset(reason);
                        }
                        Act::Hang => {
                            tokio::spawn(async move {
                                let mut respond = respond;
                                std::future::poll_fn(|context| respond.poll_reset(context)).await.ok();
                            });
                        }
                    }
                }
            }
        })
        .await;
        let sender = Sender::with_resolver(tls.trusting(), rules(), Arc::new(names::Fixed::loopback()));
        Some(H2 { url: format!("https://localhost:{}/", address.port()), sender, connections })
    }

    async fn deliver(&self) -> Attempt {
        deliver(&self.sender, &self.url).await
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

fn answer(mut respond: SendResponse<Bytes>, is_flood: bool) {
    let head = hyper::Response::builder().status(200).body(()).unwrap();
    let Ok(mut body) = respond.send_response(head, false) else { return };
    let length = if is_flood { 10_000_000 } else { 2 };
    let _ = body.send_data(Bytes::from(vec![b'x'; length]), true);
}

#[tokio::test]
async fn requests_share_a_connection() {
    let Some(server) = H2::start(|_| Act::Answer).await else { return };
    for _ in 0..10 {
        let attempt = server.deliver().await;
        assert_eq!((status(&attempt), attempt.response.as_str()), (Some(200), "xx"), "{attempt:?}");
    }
    let together = futures::future::join_all((0..30).map(|_| server.deliver())).await;
    assert!(together.iter().all(|attempt| status(attempt) == Some(200)), "{together:?}");
    assert_eq!(server.connections(), 1);
    let more = futures::future::join_all((0..60).map(|_| server.deliver())).await;
    assert!(more.iter().all(|attempt| status(attempt) == Some(200)));
    assert!(server.connections() > 1, "those that hang must not be in the way of others");
}

#[tokio::test]
async fn a_server_that_leaves_costs_no_failure() {
    for act in [Act::AnswerAndLeave, Act::Leave] {
        let Some(server) = H2::start(match act {
            Act::Leave => |number: usize| if number % 2 == 1 { Act::Leave } else { Act::Answer },
            _ => |_| Act::AnswerAndLeave,
        } as fn(usize) -> Act)
        .await
        else {
            return;
        };
        for number in 0..5 {
            let attempt = server.deliver().await;
            assert_eq!(status(&attempt), Some(200), "{act:?} {number}: {attempt:?}");
        }
        assert!(server.connections() > 2, "{act:?}");
    }
}

#[tokio::test]
async fn what_a_server_does_to_the_first_request() {
    for (what, act, want) in [
        ("leaves", (|_| Act::Leave) as fn(usize) -> Act, FaultClass::Closed),
        ("refuses", |_| Act::Reset(Reason::REFUSED_STREAM), FaultClass::Closed),
        ("resets", |_| Act::Reset(Reason::INTERNAL_ERROR), FaultClass::Protocol),
        ("fails", |_| Act::Fail, FaultClass::Closed),
    ] {
        let Some(server) = H2::start(act).await else { return };
        let attempt = server.deliver().await;
        assert_eq!(class(&attempt), Some(want), "{what}: {attempt:?}");
    }
}

#[tokio::test]
async fn a_connection_that_does_not_answer_is_not_used_again() {
    let Some(server) = H2::start(|number| if number == 1 { Act::Hang } else { Act::Answer }).await else { return };
    assert_eq!(status(&server.deliver().await), Some(200));
    let impatient = server.sender.clone().within(Duration::from_millis(200));
    assert_eq!(class(&deliver(&impatient, &server.url).await), Some(FaultClass::TimeoutBeforeHead));
    assert_eq!(status(&server.deliver().await), Some(200));
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn of_a_flood_the_beginning_is_read_and_the_connection_goes_on() {
    let Some(server) = H2::start(|number| if number == 0 { Act::Flood } else { Act::Answer }).await else { return };
    let attempt = server.deliver().await;
    assert_eq!(status(&attempt), Some(200), "{attempt:?}");
    assert_eq!(attempt.response.len(), LONGEST_KEPT + "…".len());
    for _ in 0..5 {
        assert_eq!(status(&server.deliver().await), Some(200));
    }
    assert_eq!(server.connections(), 1);
}
