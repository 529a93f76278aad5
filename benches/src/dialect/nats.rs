//! The part of the NATS protocol that updates need. A bug is the subject `bug.N`.

use std::fmt::Write as _;

use anyhow::{Context as _, Result};

use super::{Message, carried};
use crate::plan::digits;

/// PING: either side may send it; a server answers it in order, after everything sent before.
pub(super) const PING: &[u8] = b"PING\r\n";
/// PONG: the answer.
pub(super) const PONG: &[u8] = b"PONG\r\n";

/// CONNECT. The server sends INFO by itself, before or after this.
pub(super) fn connect() -> Vec<u8> {
    br#"CONNECT {"verbose":false,"pedantic":false,"lang":"bench","version":"1","protocol":1}"#
        .iter()
        .chain(b"\r\n")
        .copied()
        .collect()
}

/// A subscription for each bug, then a PING; its answer shows that all of them are in force.
pub(super) fn subscribe(bugs: &[u32]) -> Vec<u8> {
    let mut out = String::new();
    for (at, bug) in bugs.iter().enumerate() {
        write!(out, "SUB bug.{bug} {}\r\n", at + 1).expect("writing to a String cannot fail");
    }
    [out.as_bytes(), PING].concat()
}

/// Appends a PUB command: a message for the watchers of a bug.
pub(super) fn publish(out: &mut Vec<u8>, bug: u64, payload: &[u8]) {
    out.extend(format!("PUB bug.{bug} {}\r\n", payload.len()).into_bytes());
    out.extend_from_slice(payload);
    out.extend_from_slice(b"\r\n");
}

/// The first line, with its payload if it is a message, and the length of both.
pub(super) fn next(bytes: &[u8]) -> Result<Option<(Message, usize)>> {
    let Some(end) = bytes.windows(2).position(|two| two == b"\r\n") else { return Ok(None) };
    let (line, start) = (&bytes[..end], end + 2);
    if line.starts_with(b"MSG ") {
        let len = line.rsplit(|&byte| byte == b' ').next().and_then(digits).context("not NATS: no length")?;
        let payload = start..start + usize::try_from(len)?;
        let end = payload.end + 2;
        return Ok((bytes.len() >= end).then(|| (carried(&bytes[payload]), end)));
    }
    let message = match line {
        b"PING" => Message::Ping,
        b"PONG" => Message::Subscribed,
        _ if line.starts_with(b"INFO ") => Message::Welcome,
        _ if line.starts_with(b"-ERR") => Message::Refused,
        _ => Message::Other,
    };
    Ok(Some((message, start)))
}
