//! The part of STOMP 1.2 that updates need. A bug is the destination `/topic/bug.N`: in RabbitMQ, the exchange
//! `amq.topic` and the routing key `bug.N`.

use anyhow::{Context as _, Result};

use super::{Message, carried};
use crate::plan::digits;

/// How a receipt begins.
pub(super) const RECEIPT: &[u8] = b"RECEIPT\n";

/// CONNECT without heartbeats, as RabbitMQ's guest.
pub(super) fn connect() -> Vec<u8> {
    b"CONNECT\naccept-version:1.2\nhost:/\nlogin:guest\npasscode:guest\nheart-beat:0,0\n\n\0".to_vec()
}

/// A SUBSCRIBE frame for each bug; the receipt of the last one shows that all of them are in force.
pub(super) fn subscribe(bugs: &[u32]) -> Vec<Vec<u8>> {
    let frame = |(at, bug): (usize, &u32)| {
        let receipt = if at + 1 == bugs.len() { "receipt:subscribed\n" } else { "" };
        format!("SUBSCRIBE\nid:{at}\ndestination:/topic/bug.{bug}\nack:auto\n{receipt}\n\0").into_bytes()
    };
    bugs.iter().enumerate().map(frame).collect()
}

/// Appends a SEND frame: a message for the watchers of a bug.
pub(super) fn publish(out: &mut Vec<u8>, bug: u64, payload: &[u8]) {
    let head = format!("SEND\ndestination:/topic/bug.{bug}\ncontent-length:{}\n\n", payload.len());
    out.extend_from_slice(head.as_bytes());
    out.extend_from_slice(payload);
    out.push(0);
}

/// A message without a receiver; its receipt shows that the broker has accepted everything before it.
pub(super) fn mark() -> Vec<u8> {
    b"SEND\ndestination:/topic/nobody\nreceipt:mark\n\n\0".to_vec()
}

/// The first frame, and its length; a line end between frames counts as a message.
pub(super) fn next(bytes: &[u8]) -> Result<Option<(Message, usize)>> {
    if bytes.first() == Some(&b'\n') {
        return Ok(Some((Message::Other, 1)));
    }
    let Some(blank) = bytes.windows(2).position(|two| two == b"\n\n") else { return Ok(None) };
    let (head, start) = (&bytes[..blank], blank + 2);
    let len = head.split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(b"content-length:"));
    let len = match len {
        Some(len) => usize::try_from(digits(len).context("not STOMP: no length")?)?,
        None => match bytes[start..].iter().position(|&byte| byte == 0) {
            Some(len) => len,
            None => return Ok(None),
        },
    };
    // The body is followed by a zero byte.
    if bytes.len() <= start + len {
        return Ok(None);
    }
    let message = match head.split(|&byte| byte == b'\n').next() {
        Some(b"MESSAGE") => carried(&bytes[start..start + len]),
        Some(b"CONNECTED") => Message::Welcome,
        Some(b"RECEIPT") => Message::Subscribed,
        Some(b"ERROR") => Message::Refused,
        _ => Message::Other,
    };
    Ok(Some((message, start + len + 1)))
}
