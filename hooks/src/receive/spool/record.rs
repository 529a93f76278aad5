//! A record of the spool, as bytes: a frame around JSON and the body.
//!
//! | bytes | |
//! |---|---|
//! | 4 | `BFS1` |
//! | 4 | length of the JSON, little-endian |
//! | 4 | length of the body |
//! | 16 | the first half of the SHA-256 of both lengths, JSON and body |
//! | | the JSON, then the body |

use bytes::Bytes;
use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};

use crate::receive::received::{Envelope, Proof, QuarantinedRequest, ReceivedRequest};

/// What begins each record.
pub(super) const MAGIC: [u8; 4] = *b"BFS1";
/// The length of a frame without JSON and body.
pub(super) const FRAME_BYTES: usize = 28;
/// No record is longer: 500 items with what is kept of each, and a body.
const LONGEST_PART: usize = 256 * 1024 * 1024;

/// A request that waits for the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
pub enum Record {
    /// From somebody who may send.
    Received {
        /// The request.
        request: ReceivedRequest,
    },
    /// From somebody whose key could not be checked, because the keys were not read yet.
    Unchecked {
        /// The request, as it is if the key is valid for all of its feeds.
        request: ReceivedRequest,
        /// The key.
        proof: Proof,
    },
    /// For quarantine.
    Quarantined {
        /// The request.
        request: QuarantinedRequest,
    },
}

impl Record {
    /// What is known of the request as a whole.
    pub fn envelope(&self) -> &Envelope {
        match self {
            Record::Received { request } | Record::Unchecked { request, .. } => &request.envelope,
            Record::Quarantined { request } => &request.envelope,
        }
    }

    fn envelope_mut(&mut self) -> &mut Envelope {
        match self {
            Record::Received { request } | Record::Unchecked { request, .. } => &mut request.envelope,
            Record::Quarantined { request } => &mut request.envelope,
        }
    }

    /// The bytes of the record. `None`: it is too long for the spool.
    pub fn encode(&self) -> Option<Vec<u8>> {
        let json = serde_json::to_vec(self).ok()?;
        let body = self.envelope().body.as_deref();
        let (json_bytes, body_bytes) = (length(json.len())?, body.map_or(Some(u32::MAX), |body| length(body.len()))?);
        let body = body.unwrap_or_default();
        let mut bytes = Vec::with_capacity(FRAME_BYTES + json.len() + body.len());
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&json_bytes.to_le_bytes());
        bytes.extend_from_slice(&body_bytes.to_le_bytes());
        bytes.extend_from_slice(&checksum(json_bytes, body_bytes, &json, body));
        bytes.extend_from_slice(&json);
        bytes.extend_from_slice(body);
        Some(bytes)
    }
}

fn length(bytes: usize) -> Option<u32> {
    u32::try_from(bytes).ok().filter(|_| bytes <= LONGEST_PART)
}

fn checksum(json_bytes: u32, body_bytes: u32, json: &[u8], body: &[u8]) -> [u8; 16] {
    let mut context = Context::new(&SHA256);
    context.update(&json_bytes.to_le_bytes());
    context.update(&body_bytes.to_le_bytes());
    context.update(json);
    context.update(body);
    let mut half = [0; 16];
    half.iter_mut().zip(context.finish().as_ref()).for_each(|(to, from)| *to = *from);
    half
}

/// A frame without its contents.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame {
    json_bytes: u32,
    body_bytes: u32,
    checksum: [u8; 16],
}

impl Frame {
    /// Reads a frame. `None`: these bytes do not begin a record.
    pub(super) fn read(bytes: &[u8; FRAME_BYTES]) -> Option<Frame> {
        let (magic, rest) = bytes.split_first_chunk::<4>()?;
        let (json_bytes, rest) = rest.split_first_chunk::<4>()?;
        let (body_bytes, rest) = rest.split_first_chunk::<4>()?;
        let frame = Frame {
            json_bytes: u32::from_le_bytes(*json_bytes),
            body_bytes: u32::from_le_bytes(*body_bytes),
            checksum: *rest.first_chunk()?,
        };
        let is_short = frame.contents_bytes() <= 2 * LONGEST_PART as u64;
        (*magic == MAGIC && is_short).then_some(frame)
    }

    /// How many bytes follow the frame.
    pub(super) fn contents_bytes(self) -> u64 {
        u64::from(self.json_bytes) + if self.body_bytes == u32::MAX { 0 } else { u64::from(self.body_bytes) }
    }

    /// Reads what follows the frame. `None`: it is not what was written.
    pub(super) fn decode(self, contents: &[u8]) -> Option<Record> {
        let (json, body) = contents.split_at_checked(self.json_bytes as usize)?;
        if checksum(self.json_bytes, self.body_bytes, json, body) != self.checksum {
            return None;
        }
        let mut record: Record = serde_json::from_slice(json).ok()?;
        record.envelope_mut().body = (self.body_bytes != u32::MAX).then(|| Bytes::copy_from_slice(body));
        Some(record)
    }
}
