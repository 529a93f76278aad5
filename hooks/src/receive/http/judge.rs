//! The work on a whole body: is it signed, is it compressed, and what are its items. Pure, but for the CPU that it takes.

use axum::http::StatusCode;
use bytes::Bytes;

use super::access::{Access, Refusal, by_signature};
use super::decode::{Encoding, decode};
use super::head::Head;
use super::items::Items;
use crate::config::Source;
use crate::config::source::{Answers, Bodies};
use crate::receive::identity::Sha256;
use crate::receive::mapped::Request;
use crate::receive::mapping::map;
use crate::receive::received::Failure;

/// A body longer than this is not kept in quarantine.
pub(super) const LONGEST_QUARANTINED: usize = 1024 * 1024;

/// What the body says.
pub(super) struct Judged {
    /// The items, or why the sender may not send.
    pub(super) items: Result<Items, Box<Refusal>>,
    /// The hash of the body, after decompression.
    pub(super) hash: Sha256,
    /// The body, where it is to be kept.
    pub(super) kept: Option<Bytes>,
    /// The status of an answer that tells of the items.
    pub(super) status: StatusCode,
}

/// How a body came.
pub(super) struct Raw {
    pub(super) bytes: Bytes,
    /// How it is compressed; or why it cannot be decompressed.
    pub(super) encoding: Result<Option<Encoding>, Failure>,
    /// The most bytes after decompression.
    pub(super) most: usize,
}

/// Judges a body.
pub(super) fn judge(source: &Source, head: &Head, access: &Access, raw: &Raw) -> Judged {
    let plain = match &raw.encoding {
        Ok(None) => Ok(raw.bytes.clone()),
        Ok(Some(encoding)) => decode(*encoding, &raw.bytes, raw.most).map(Bytes::from),
        Err(failure) => Err(failure.clone()),
    };
    let body = plain.as_ref().unwrap_or(&raw.bytes).clone();
    let hash = Sha256::of(&body);
    let arrived = head.arrived();
    let is_honest = source.answers == Answers::Honest;
    if matches!(access, Access::Signed)
        && let Err(refusal) = by_signature(source, &head.headers, &raw.bytes, &body, arrived)
    {
        let kept = may_quarantine(source, &body).then_some(body);
        return Judged { items: Err(refusal), hash, kept, status: StatusCode::OK };
    }
    let key = match access {
        Access::Vouched(Some(key)) => Some(&**key),
        _ => None,
    };
    let (mut status, mut is_too_much) = (StatusCode::OK, false);
    let mapped = plain.map(|body| map(source, Request { headers: &head.headers, body: &body, arrived }));
    let mut items = match mapped {
        Ok(Ok(mapped)) => Items::of(source, mapped, key),
        Ok(Err(error)) => {
            is_too_much = error.is_too_much;
            if is_too_much && is_honest {
                status = StatusCode::PAYLOAD_TOO_LARGE;
            }
            Items::failed(source, error.into(), arrived, hash)
        }
        Err(failure) => Items::failed(source, failure, arrived, hash),
    };
    let keeps = match source.bodies {
        Bodies::All => true,
        Bodies::Errors => items.has_errors(),
        Bodies::None => false,
    };
    if items.failure.is_some() {
        items.advise(head.id, keeps, is_too_much);
    }
    // One that was not checked may have to go to quarantine.
    let may_be_refused = matches!(access, Access::Unchecked { .. }) && may_quarantine(source, &body);
    let kept = (keeps || may_be_refused).then_some(body);
    Judged { items: Ok(items), hash, kept, status }
}

/// Whether a body may be kept in quarantine.
fn may_quarantine(source: &Source, body: &[u8]) -> bool {
    source.bodies != Bodies::None && body.len() <= LONGEST_QUARANTINED
}
