use amq_protocol::frame::AMQPContentHeader;
use lapin::BasicProperties;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

use super::super::delivery::BODY_MAX;
use super::super::wire::first_frame;
use super::*;

const FRAME_MAX: usize = 4096;

fn state(channels: u16) -> State {
    let mut state = State::new(FRAME_MAX);
    for id in 1..=channels {
        assert_eq!(state.new_channel().unwrap(), id);
    }
    state
}

/// Hands in what is complete, and returns how much that was.
fn feed(state: &mut State, bytes: &[u8]) -> Result<usize, Error> {
    let mut begin = 0;
    while let Some((frame, size)) = first_frame(&bytes[begin..], FRAME_MAX)? {
        state.take(frame)?;
        begin += size;
    }
    Ok(begin)
}

fn method(channel: u16, method: AMQPClass) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_frame(&mut bytes, &AMQPFrame::Method(channel, method)).unwrap();
    bytes
}

fn delivery(channel: u16, tag: u64, body: &[u8]) -> Vec<u8> {
    let deliver = basic::Deliver { consumer_tag: "c".into(), delivery_tag: tag, ..basic::Deliver::default() };
    let mut bytes = method(channel, AMQPClass::Basic(basic::AMQPMethod::Deliver(deliver)));
    let properties = BasicProperties::default().with_type("t".into()).with_message_id("E.1".into()).with_timestamp(9);
    let header = AMQPContentHeader { class_id: 60, body_size: body.len() as u64, properties };
    write_frame(&mut bytes, &AMQPFrame::Header(channel, header)).unwrap();
    for piece in body.chunks(100) {
        write_frame(&mut bytes, &AMQPFrame::Body(channel, piece.to_vec())).unwrap();
    }
    bytes
}

fn bound(channel: u16) -> Vec<u8> {
    method(channel, AMQPClass::Queue(queue::AMQPMethod::BindOk(queue::BindOk {})))
}

fn bind() -> AMQPClass {
    AMQPClass::Queue(queue::AMQPMethod::Bind(queue::Bind::default()))
}

fn close(channel: u16, reply_code: u16) -> Vec<u8> {
    let close = channel::Close { reply_code, reply_text: "NOT_FOUND - no".into(), class_id: 0, method_id: 0 };
    method(channel, AMQPClass::Channel(channel::AMQPMethod::Close(close)))
}

use amq_protocol::protocol::queue;

fn tags(state: &mut State, channel: u16) -> Vec<u64> {
    std::iter::from_fn(|| state.delivered(channel)?.ok()).map(|delivery| delivery.tag()).collect()
}

/// Frames of three channels, as a broker may mix them.
fn conversation(random: &mut SmallRng) -> Vec<u8> {
    let mut bytes = Vec::new();
    for tag in 1..20 {
        let body: Vec<u8> = (0..random.random_range(0..500)).map(|_| random.random()).collect();
        bytes.extend(delivery(random.random_range(1..4), tag, &body));
        match random.random_range(0..8) {
            0 => write_frame(&mut bytes, &AMQPFrame::Heartbeat).unwrap(),
            1 => bytes.extend(bound(random.random_range(1..4))),
            _ => {}
        }
    }
    bytes
}

#[test]
fn cut_anywhere_it_is_the_same() {
    for seed in 0..200 {
        let random = &mut SmallRng::seed_from_u64(seed);
        let bytes = conversation(random);
        let mut whole = state(3);
        assert_eq!(feed(&mut whole, &bytes).unwrap(), bytes.len());
        let mut cut = state(3);
        let (mut begin, mut end) = (0, 0);
        while begin < bytes.len() {
            end = (end + random.random_range(1..300)).min(bytes.len());
            begin += feed(&mut cut, &bytes[begin..end]).unwrap();
        }
        for channel in 1..4 {
            let all = |state: &mut State| -> Vec<Delivery> {
                std::iter::from_fn(|| state.delivered(channel)?.ok()).collect()
            };
            assert_eq!(all(&mut cut), all(&mut whole), "seed {seed}");
        }
        assert_eq!((whole.held_bytes, cut.held_bytes), (0, 0));
    }
}

/// Whatever comes: it ends, it does not panic, and what is kept is not more than what came.
#[test]
fn no_bytes_do_harm() {
    for seed in 0..3_000 {
        let random = &mut SmallRng::seed_from_u64(seed);
        let mut bytes = conversation(random);
        for _ in 0..random.random_range(1..6) {
            let at = random.random_range(0..bytes.len());
            match random.random_range(0..4) {
                0 => bytes[at] = random.random(),
                1 => bytes[at] ^= 1 << random.random_range(0..8),
                2 => drop(bytes.drain(at..(at + random.random_range(1..40)).min(bytes.len()))),
                _ => bytes.insert(at, random.random()),
            }
        }
        let mut state = state(3);
        if random.random_bool(0.3) {
            state.abandon(random.random_range(1..4));
        }
        if let Err(error) = feed(&mut state, &bytes) {
            assert!(error.to_string().contains("not how AMQP"), "seed {seed}: {error}");
        }
        assert!(state.held_bytes < 2 * bytes.len() + 20 * (200 << 10), "seed {seed}: {}", state.held_bytes);
        assert!(state.out.len() < 2 * bytes.len() + 200, "seed {seed}: {}", state.out.len());
        let held: usize = state.channels.values().flat_map(|channel| &channel.held).map(Delivery::bytes).sum();
        assert_eq!(held, state.held_bytes, "seed {seed}");
    }
}

#[test]
fn methods_with_tables_are_not_parsed() {
    // A table could be nested so deep that a parser which calls itself overflows its stack.
    let arguments = lapin::types::FieldTable::default();
    let declare = queue::Declare { arguments, ..queue::Declare::default() };
    let bytes = method(1, AMQPClass::Queue(queue::AMQPMethod::Declare(declare)));
    let error = feed(&mut state(1), &bytes).unwrap_err().to_string();
    assert!(error.contains("no broker sends"), "{error}");
    let greeting = connection::Start { version_minor: 9, mechanisms: "PLAIN".into(), ..connection::Start::default() };
    let bytes = method(0, AMQPClass::Connection(connection::AMQPMethod::Start(greeting)));
    let mut state = state(0);
    feed(&mut state, &bytes).unwrap();
    let Some(Ok(AMQPClass::Connection(connection::AMQPMethod::Start(start)))) = state.answer(0) else { panic!() };
    assert_eq!((start.version_minor, start.mechanisms), (9, "PLAIN".into()));
}

#[test]
fn answers_go_to_whoever_still_waits() {
    let mut state = state(2);
    state.ask(1, bind());
    assert!(state.answer(1).is_none());
    // Nobody waits for the first one any more.
    state.ask(1, bind());
    state.ask(2, bind());
    feed(&mut state, &bound(1)).unwrap();
    assert!(state.answer(1).is_none() && state.answer(2).is_none());
    feed(&mut state, &bound(1)).unwrap();
    assert!(matches!(state.answer(1), Some(Ok(_))) && state.answer(1).is_none());
}

#[test]
fn a_closed_channel_says_why_and_the_others_go_on() {
    let mut state = state(2);
    state.ask(1, bind());
    feed(&mut state, &[delivery(2, 1, b"x"), close(1, 404), delivery(2, 2, b"y")].concat()).unwrap();
    let error = state.answer(1).unwrap().unwrap_err();
    assert_eq!(error.to_string(), "protocol error: AMQP soft error: NOT-FOUND: NOT_FOUND - no");
    assert!(state.is_closed(1));
    assert!(state.answer(1).unwrap().is_err(), "it is no more");
    assert_eq!(tags(&mut state, 2), [1, 2]);
    // A code that AMQP does not have is told all the same.
    feed(&mut state, &close(2, 299)).unwrap();
    assert!(matches!(state.delivered(2), Some(Err(Ended::Lost(error))) if error.to_string().contains("code 299")));
}

#[test]
fn what_comes_for_an_abandoned_channel_is_dropped() {
    let mut state = state(2);
    let bytes = delivery(1, 1, &[b'x'; 300]);
    feed(&mut state, &bytes[..bytes.len() - 108]).unwrap();
    state.abandon(1);
    feed(&mut state, &bytes[bytes.len() - 108..]).unwrap();
    feed(&mut state, &[delivery(1, 2, b"y"), delivery(2, 1, b"z")].concat()).unwrap();
    assert_eq!((tags(&mut state, 1), tags(&mut state, 2)), (vec![], vec![1]));
    feed(&mut state, &method(1, AMQPClass::Channel(channel::AMQPMethod::CloseOk(channel::CloseOk {})))).unwrap();
    assert!(state.is_closed(1));
    // Both sides close at the same time.
    state.abandon(2);
    let close_ok = method(2, AMQPClass::Channel(channel::AMQPMethod::CloseOk(channel::CloseOk {})));
    feed(&mut state, &[close(2, 406), close_ok].concat()).unwrap();
    assert!(state.is_closed(2) && state.ended.is_none());
}

#[test]
fn a_cancelled_consumer_is_told_after_its_deliveries() {
    let mut state = state(1);
    let cancel = basic::AMQPMethod::Cancel(basic::Cancel { consumer_tag: "c".into(), nowait: true });
    feed(&mut state, &[delivery(1, 1, b"x"), method(1, AMQPClass::Basic(cancel))].concat()).unwrap();
    assert_eq!(state.delivered(1).unwrap().unwrap().tag(), 1);
    assert!(matches!(state.delivered(1), Some(Err(Ended::Cancelled))));
    assert!(state.out.is_empty());
}

#[test]
fn a_broker_that_floods_is_left() {
    let mut state = state(1);
    let body = vec![b'x'; usize::try_from(BODY_MAX).unwrap()];
    let bytes = delivery(1, 1, &body);
    let sent = (0..5000).find(|_| feed(&mut state, &bytes).is_err()).unwrap();
    assert!(sent >= 2 * usize::from(PREFETCH_MAX) && sent < 1030, "{sent}");
    assert!(state.held_bytes < HELD_MAX + 2 * body.len());
    // Requests that it makes of this side are bounded, too.
    let flow = channel::AMQPMethod::Flow(channel::Flow { active: true });
    let bytes = method(1, AMQPClass::Channel(flow));
    let mut state = self::state(1);
    for _ in 0..OUT_MAX / 5 {
        feed(&mut state, &bytes).unwrap();
        if state.ended.is_some() {
            break;
        }
    }
    assert!(state.ended.is_some() && state.out.len() < OUT_MAX + 100);
}

#[test]
fn channels_are_bounded_and_numbered_anew() {
    let mut state = state(3);
    state.channel_max = 3;
    assert!(matches!(state.new_channel().unwrap_err().kind(), ErrorKind::ChannelsLimitReached));
    state.forget(2);
    assert_eq!(state.new_channel().unwrap(), 2);
    let mut state = self::state(0);
    state.channel_max = 10;
    let used: Vec<u16> = (0..12)
        .map(|_| {
            let id = state.new_channel().unwrap();
            state.forget(id);
            id
        })
        .collect();
    assert_eq!(used, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 1, 2]);
}
