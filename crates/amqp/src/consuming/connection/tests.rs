use amq_protocol::protocol::{basic, channel};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

use super::super::wire::write_frame;
use super::*;

/// The broker's side of a conversation.
struct Broker(DuplexStream);

impl Broker {
    async fn send(&mut self, channel: u16, method: AMQPClass) {
        let mut bytes = Vec::new();
        write_frame(&mut bytes, &AMQPFrame::Method(channel, method)).unwrap();
        self.0.write_all(&bytes).await.unwrap();
    }

    /// The next frame of a method: its class and method.
    async fn method(&mut self) -> (u16, u16) {
        let mut head = [0; 7];
        self.0.read_exact(&mut head).await.unwrap();
        let mut rest = vec![0; usize::try_from(u32::from_be_bytes([head[3], head[4], head[5], head[6]])).unwrap() + 1];
        self.0.read_exact(&mut rest).await.unwrap();
        assert_eq!(head[0], 1, "a method");
        (u16::from_be_bytes([rest[0], rest[1]]), u16::from_be_bytes([rest[2], rest[3]]))
    }

    async fn greet(&mut self) {
        let mut header = [0; 8];
        self.0.read_exact(&mut header).await.unwrap();
        assert_eq!(&header, b"AMQP\0\0\x09\x01");
        let start = connection::Start { version_minor: 9, mechanisms: "PLAIN".into(), ..Default::default() };
        self.send(0, AMQPClass::Connection(connection::AMQPMethod::Start(start))).await;
        assert_eq!(self.method().await, (10, 11));
    }

    async fn welcome(&mut self, heartbeat: u16) {
        self.greet().await;
        let tune = connection::Tune { channel_max: 100, frame_max: 8192, heartbeat };
        self.send(0, AMQPClass::Connection(connection::AMQPMethod::Tune(tune))).await;
        assert_eq!((self.method().await, self.method().await), ((10, 31), (10, 40)));
        self.send(0, AMQPClass::Connection(connection::AMQPMethod::OpenOk(connection::OpenOk {}))).await;
    }

    async fn close(&mut self, reply_code: u16) {
        let close = connection::Close { reply_code, reply_text: "no".into(), class_id: 0, method_id: 0 };
        self.send(0, AMQPClass::Connection(connection::AMQPMethod::Close(close))).await;
    }
}

fn pair() -> (Broker, Box<dyn Duplex>) {
    let (broker, client) = duplex(1 << 16);
    (Broker(broker), Box::new(client))
}

fn uri() -> AMQPUri {
    "amqp://me:secret@rabbit/v".parse().unwrap()
}

async fn connected(heartbeat: u16) -> (Broker, Connection) {
    let (mut broker, client) = pair();
    let uri = uri();
    let (connection, ()) = tokio::join!(Connection::log_in(client, &uri, "test"), broker.welcome(heartbeat));
    (broker, connection.unwrap())
}

#[tokio::test]
async fn both_sides_agree() {
    let (mut broker, mut connection) = connected(0).await;
    assert_eq!((connection.state.frame_max, connection.state.channel_max), (8192, 100));
    assert!(connection.beats.is_none() && connection.is_connected());
    let opened = async {
        assert_eq!(broker.method().await, (20, 10));
        broker.send(1, AMQPClass::Channel(channel::AMQPMethod::OpenOk(channel::OpenOk {}))).await;
    };
    assert_eq!(tokio::join!(connection.open_channel(), opened).0.unwrap(), 1);
    let closed = async {
        assert_eq!(broker.method().await, (10, 50));
        broker.send(0, AMQPClass::Connection(connection::AMQPMethod::CloseOk(connection::CloseOk {}))).await;
    };
    tokio::join!(connection.close("done"), closed).0.unwrap();
    assert!(!connection.is_connected());
}

#[tokio::test]
async fn a_refused_login_says_why() {
    let (mut broker, client) = pair();
    let refusing = async {
        broker.greet().await;
        broker.close(403).await;
    };
    let uri = uri();
    let (refused, ()) = tokio::join!(Connection::log_in(client, &uri, "test"), refusing);
    assert_eq!(refused.unwrap_err().to_string(), "protocol error: AMQP soft error: ACCESS-REFUSED: no");
}

#[tokio::test]
async fn a_broker_that_hangs_up_is_noticed_and_its_reason_is_kept() {
    let (broker, mut connection) = connected(0).await;
    drop(broker);
    let lost = connection.open_channel().await.unwrap_err();
    assert!(lost.to_string().contains("hung up"), "{lost}");
    let (mut broker, mut connection) = connected(0).await;
    broker.close(320).await;
    drop(broker);
    connection.acknowledge(1, 1);
    let lost = connection.next(&[1]).await.unwrap_err();
    assert_eq!(lost.to_string(), "protocol error: AMQP hard error: CONNECTION-FORCED: no");
    assert!(connection.next_read(&[1]).is_none() && !connection.is_connected());
}

#[tokio::test]
async fn a_silent_broker_is_noticed_and_is_sent_heartbeats() {
    let (mut broker, mut connection) = connected(1).await;
    let lost = connection.next(&[]).await.unwrap_err();
    assert!(matches!(lost.kind(), ErrorKind::MissingHeartbeatError), "{lost}");
    drop(connection);
    let mut sent = Vec::new();
    broker.0.read_to_end(&mut sent).await.unwrap();
    let beats = sent.chunks(8).filter(|chunk| *chunk == [8, 0, 0, 0, 0, 0, 0, 0xce]).count();
    assert_eq!((beats, sent.len()), (3, 24), "one for each half of the interval; the handshake was in the first");
}

#[tokio::test]
async fn one_that_sends_heartbeats_is_kept_and_nothing_is_read_while_held_up() {
    let (mut broker, mut connection) = connected(1).await;
    let deliver = AMQPClass::Basic(basic::AMQPMethod::Deliver(basic::Deliver::default()));
    broker.send(5, deliver).await;
    let held_up = tokio::time::timeout(Duration::from_millis(2600), connection.keep_alive()).await;
    assert!(held_up.is_err() && connection.is_connected(), "what it sent was not looked at");
    assert!(connection.open_channel().await.unwrap_err().to_string().contains("not open"), "now it is");
}

#[tokio::test]
async fn bytes_of_something_else_end_it() {
    for bytes in [&b"HTTP/1.1 400 Bad Request\r\n"[..], b"AMQP\0\0\x09\x01", &[1, 0, 0, 0xff, 0xff, 0xff, 0xff]] {
        let (mut broker, client) = pair();
        broker.0.write_all(bytes).await.unwrap();
        let error = Connection::log_in(client, &uri(), "test").await.unwrap_err().to_string();
        assert!(error.contains("not how AMQP 0-9-1 speaks"), "{error}");
    }
}

#[tokio::test]
async fn a_frame_that_is_larger_than_the_buffer_is_taken_and_one_that_is_far_too_large_is_not() {
    let (mut broker, mut connection) = connected(0).await;
    let channel = connection.state.new_channel().unwrap();
    broker.send(channel, AMQPClass::Basic(basic::AMQPMethod::Deliver(basic::Deliver::default()))).await;
    let body = vec![b'x'; 250_000];
    let mut bytes = Vec::new();
    let header =
        amq_protocol::frame::AMQPContentHeader { class_id: 60, body_size: 250_000, properties: Default::default() };
    write_frame(&mut bytes, &AMQPFrame::Header(channel, header)).unwrap();
    write_frame(&mut bytes, &AMQPFrame::Body(channel, body)).unwrap();
    let sending = async {
        broker.0.write_all(&bytes).await.unwrap();
        broker.0.write_all(&[3, 0, 1, 0, 0x20, 0, 0]).await.unwrap();
    };
    let ((_, delivery), ()) = tokio::join!(async { connection.next(&[channel]).await.unwrap() }, sending);
    assert_eq!(delivery.unwrap().body().len(), 250_000);
    assert!(connection.input.len() < 600_000, "{}", connection.input.len());
    let error = connection.next(&[channel]).await.unwrap_err().to_string();
    assert!(error.contains("larger than was agreed"), "{error}");
}

#[tokio::test]
async fn deliveries_come_whole_however_they_are_cut() {
    use rand::{RngExt as _, SeedableRng as _};
    let random = &mut rand::rngs::SmallRng::seed_from_u64(1);
    let (mut broker, mut connection) = connected(0).await;
    let channel = connection.state.new_channel().unwrap();
    let (mut bytes, mut want) = (Vec::new(), Vec::new());
    for tag in 1..=300 {
        let deliver = basic::Deliver { delivery_tag: tag, ..Default::default() };
        let method = AMQPClass::Basic(basic::AMQPMethod::Deliver(deliver));
        write_frame(&mut bytes, &AMQPFrame::Method(channel, method)).unwrap();
        let size = if random.random_bool(0.1) { random.random_range(0..90_000) } else { random.random_range(0..500) };
        let body = vec![u8::try_from(tag % 251).unwrap(); size];
        let (body_size, properties) = (size as u64, Default::default());
        let header = amq_protocol::frame::AMQPContentHeader { class_id: 60, body_size, properties };
        write_frame(&mut bytes, &AMQPFrame::Header(channel, header)).unwrap();
        for piece in body.chunks(random.random_range(1..70_000)) {
            write_frame(&mut bytes, &AMQPFrame::Body(channel, piece.to_vec())).unwrap();
        }
        want.push((tag, body));
    }
    let cuts: Vec<usize> = (0..2000).map(|_| random.random_range(1..2000)).collect();
    let sending = tokio::spawn(async move {
        let mut rest = &bytes[..];
        for cut in cuts.into_iter().cycle() {
            let (piece, more) = rest.split_at(cut.min(rest.len()));
            broker.0.write_all(piece).await.unwrap();
            rest = more;
            if rest.is_empty() {
                return broker;
            }
        }
        broker
    });
    for (tag, body) in want {
        let come = match connection.next_read(&[channel]) {
            Some(come) => come,
            None => connection.next(&[channel]).await,
        };
        let delivery = come.unwrap().1.unwrap();
        assert_eq!((delivery.tag(), delivery.body()), (tag, &body[..]));
    }
    drop(sending.await.unwrap());
    assert!(connection.next(&[channel]).await.is_err());
}
