//! The part of MQTT 3.1.1 that updates with QoS 0 need. A bug is the topic `bug/N`.

use anyhow::{Result, bail};

use super::{Message, carried};

/// PINGREQ: a broker answers it in order, after everything sent before.
pub(super) const PINGREQ: [u8; 2] = [0xC0, 0];
/// PINGRESP: the answer.
pub(super) const PINGRESP: [u8; 2] = [0xD0, 0];

/// CONNECT with a clean session, no keep-alive, and a client name that the broker chooses.
pub(super) fn connect() -> Vec<u8> {
    let mut body = text(b"MQTT");
    body.extend([4, 2, 0, 0]);
    body.extend(text(b""));
    packet(0x10, &body)
}

/// SUBSCRIBE to all these at once.
pub(super) fn subscribe(bugs: &[u32]) -> Vec<u8> {
    let mut body = vec![0, 1];
    for bug in bugs {
        body.extend(text(format!("bug/{bug}").as_bytes()));
        body.push(0);
    }
    packet(0x82, &body)
}

/// PUBLISH with QoS 0.
pub(super) fn publish(out: &mut Vec<u8>, bug: u64, payload: &[u8]) {
    let mut body = text(format!("bug/{bug}").as_bytes());
    body.extend_from_slice(payload);
    out.extend(packet(0x30, &body));
}

fn text(bytes: &[u8]) -> Vec<u8> {
    let len = u16::try_from(bytes.len()).expect("topics are short");
    [&len.to_be_bytes()[..], bytes].concat()
}

fn packet(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![kind];
    let mut left = body.len();
    loop {
        let seven = u8::try_from(left & 0x7F).expect("seven bits");
        left >>= 7;
        out.push(if left > 0 { seven | 0x80 } else { seven });
        if left == 0 {
            break;
        }
    }
    out.extend_from_slice(body);
    out
}

/// The first packet, and its length.
pub(super) fn next(bytes: &[u8]) -> Result<Option<(Message, usize)>> {
    let (mut len, mut start) = (0, 1);
    loop {
        let Some(&byte) = bytes.get(start) else { return Ok(None) };
        len |= usize::from(byte & 0x7F) << (7 * (start - 1));
        start += 1;
        if byte & 0x80 == 0 {
            break;
        }
        if start > 4 {
            bail!("not MQTT: a length of more than four bytes");
        }
    }
    let end = start + len;
    let Some(body) = bytes.get(start..end) else { return Ok(None) };
    let message = match bytes[0] >> 4 {
        2 if body.get(1) == Some(&0) => Message::Welcome,
        2 => Message::Refused,
        3 => match body.first_chunk::<2>().map(|len| usize::from(u16::from_be_bytes(*len))) {
            Some(topic) if body.len() >= 2 + topic => carried(&body[2 + topic..]),
            _ => bail!("not MQTT: a message without a topic"),
        },
        9 if body.iter().skip(2).any(|&granted| granted == 0x80) => Message::Refused,
        9 => Message::Subscribed,
        _ => Message::Other,
    };
    Ok(Some((message, end)))
}
