//! The way of one request through the receiver.
//!
//! Head, source, key → body → signature, decompression, mapping → store or spool → answer. What comes after the body is
//! a task of its own, so that it goes on when the sender hangs up.

use std::sync::Arc;

use axum::body::Body;
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::Response;
use bugfeed_core::hooks::arrival::Mapping;
use bugfeed_core::hooks::event::Trigger;

use super::Inner;
use super::access::{Access, Refusal, by_head, unsigned};
use super::answer::{Answer, closing, retry_after};
use super::decode::encoding;
use super::desk::Taken;
use super::head::Head;
use super::items::Items;
use super::judge::{Judged, LONGEST_QUARANTINED, Raw, judge};
use super::places::{Refused, Whole};
use crate::config::source::{Answers, Bodies};
use crate::config::{HooksConfig, Source};
use crate::receive::identity::Sha256;
use crate::receive::lookup::Headers as _;
use crate::receive::received::{Envelope, Failure, Proof, Quarantined, QuarantinedRequest, ReceivedRequest, Share};
use crate::receive::signature::SignatureError;

/// What is known of the body of a request that is refused.
struct BodyFacts {
    size: u64,
    hash: Option<Sha256>,
    body: Option<bytes::Bytes>,
}

impl Inner {
    /// Receives a request, and answers it.
    pub(super) async fn receive(self: Arc<Self>, parts: Parts, body: Body) -> Response {
        let head = Head::read(parts, (self.clock)());
        let config = self.desk.config();
        let Some(source) = config.source(&head.name) else { return self.unknown(&head, body).await };
        let access = by_head(source, &self.desk.keys, &head);
        if let Access::Refused(refusal) = access {
            return self.refused_by_head(&head, source, *refusal, body).await;
        }
        match self.places.read(head.declared, body, access.standing()).await {
            Ok(whole) => {
                let (id, name) = (head.id, head.name.clone());
                let work = Arc::clone(&self).work(Arc::clone(&config), head, access, whole);
                match self.tracker.spawn(work).await {
                    Ok(response) => response,
                    Err(_) => self.lost(id, &name),
                }
            }
            Err(Refused::TooLarge(size)) => self.too_large(&head, source, access, size).await,
            Err(refused) => self.unread(&head, &source.name, refused),
        }
    }

    async fn work(self: Arc<Self>, config: Arc<HooksConfig>, head: Head, access: Access, whole: Whole) -> Response {
        let Some(source) = config.source(&head.name) else { return self.lost(head.id, "") };
        let Whole { bytes, is_large, place: body_place } = whole;
        let size = bytes.len() as u64;
        let raw = Raw { encoding: encoding(head.headers.get("content-encoding")), bytes, most: self.limits.body_bytes };
        let is_compressed = matches!(raw.encoding, Ok(Some(_)));
        let mut places = vec![body_place];
        if is_compressed {
            match self.places.for_decompression(is_large).await {
                Ok(place) => places.push(place),
                Err(refused) => return self.unread(&head, &source.name, refused),
            }
        }
        let judged = if is_large || is_compressed {
            // This takes up to a second, for which the runtime's thread is not held up.
            let (config, head, access) = (Arc::clone(&config), head.clone(), access.clone());
            let judging = move || config.source(&head.name).map(|source| judge(source, &head, &access, &raw));
            tokio::task::spawn_blocking(judging).await.ok().flatten()
        } else {
            let judged = judge(source, &head, &access, &raw);
            drop(raw);
            Some(judged)
        };
        let Some(Judged { items, hash, kept, status }) = judged else { return self.lost(head.id, &source.name) };
        if kept.is_none() {
            // A body that is kept has its places until somebody has it.
            places.clear();
        }
        match items {
            Ok(items) => {
                let mut envelope = head.envelope(Some(source), status.as_u16());
                (envelope.size, envelope.body_hash, envelope.body) = (size, Some(hash), kept);
                self.hand_over(source, access, envelope, items).await
            }
            Err(refusal) => {
                let facts = BodyFacts { size, hash: Some(hash), body: kept };
                self.refuse(&head, Some(source), *refusal, facts).await
            }
        }
    }

    /// Stores a request from somebody who may send.
    async fn hand_over(&self, source: &Source, access: Access, mut envelope: Envelope, items: Items) -> Response {
        let proof = match access {
            Access::Unchecked { key_id, proof } => {
                envelope.key_id = Some(key_id);
                Some(proof)
            }
            Access::Vouched(key) => {
                envelope.key_id = key.map(|key| key.id.clone());
                None
            }
            Access::Signed | Access::Refused(_) => None,
        };
        let status = StatusCode::from_u16(envelope.status).unwrap_or(StatusCode::OK);
        let Items { failure, items, answered } = items;
        let request = ReceivedRequest { envelope, trigger: Trigger::Live, replays: None, failure, items, answered };
        let request = Arc::new(request);
        let taken = match proof {
            Some(proof) => self.desk.unchecked(&request, proof).await,
            None => self.desk.accept(&request).await,
        };
        let answer = match &taken {
            Taken::Stored(accepted) => Answer::of(&request, Some(accepted)),
            Taken::Spooled => Answer::of(&request, None),
            Taken::Lost => return self.lost(request.envelope.id, &source.name),
        };
        self.events.answered(&source.name, answer.result);
        for item in answer.items() {
            self.events.item(&source.name, item.state);
        }
        if request.failure.is_some() {
            self.events.item(&source.name, "errored");
        }
        for item in request.items.iter().filter(|item| item.mapping == Mapping::Failed) {
            self.events.errored(&request, item);
        }
        answer.with(status)
    }

    /// The source does not exist. Of the body, only the hash is kept.
    async fn unknown(&self, head: &Head, body: Body) -> Response {
        let failure = Failure {
            error: "there is no source of this name".to_owned(),
            fix: "POST to /hooks/NAME, where NAME is the `name` of a [[source]] in the configuration".to_owned(),
        };
        let refusal = Refusal { share: Share::UnknownSource, failure, key_id: None, proof: Proof::default() };
        match self.places.read_unvouched(head.declared, body, 0).await {
            Ok(read) => {
                let facts = BodyFacts { size: read.size, hash: Some(read.hash), body: None };
                self.refuse(head, None, refusal, facts).await
            }
            Err(Refused::TooLarge(size)) => {
                closing(self.refuse(head, None, refusal, BodyFacts { size, hash: None, body: None }).await)
            }
            Err(refused) => self.unread(head, "", refused),
        }
    }

    async fn refused_by_head(&self, head: &Head, source: &Source, refusal: Refusal, body: Body) -> Response {
        let keep = if source.bodies == Bodies::None { 0 } else { LONGEST_QUARANTINED };
        match self.places.read_unvouched(head.declared, body, keep).await {
            Ok(read) => {
                let facts = BodyFacts { size: read.size, hash: Some(read.hash), body: read.body };
                self.refuse(head, Some(source), refusal, facts).await
            }
            Err(Refused::TooLarge(size)) => {
                closing(self.refuse(head, Some(source), refusal, BodyFacts { size, hash: None, body: None }).await)
            }
            Err(refused) => self.unread(head, &source.name, refused),
        }
    }

    /// Puts a request into quarantine, if there is room, and answers it.
    async fn refuse(&self, head: &Head, source: Option<&Source>, refusal: Refusal, facts: BodyFacts) -> Response {
        let Refusal { share, failure, key_id, proof } = refusal;
        let name = source.map_or("", |source| source.name.as_str());
        let kept_bytes = facts.body.as_ref().map_or(0, |body| body.len() as u64);
        let is_admitted = self.rate.admit(share, name, head.address, kept_bytes, head.received_us);
        let is_honest = source.is_some_and(|source| source.answers == Answers::Honest);
        let status = match (is_honest, is_admitted) {
            (false, _) => StatusCode::OK,
            (true, true) => StatusCode::UNAUTHORIZED,
            (true, false) => StatusCode::TOO_MANY_REQUESTS,
        };
        let mut envelope = head.envelope(source, status.as_u16());
        (envelope.size, envelope.body_hash, envelope.body) = (facts.size, facts.hash, facts.body);
        envelope.key_id = key_id;
        let request = Arc::new(QuarantinedRequest { envelope, share, failure: failure.clone(), proof });
        let taken = if is_admitted { self.desk.quarantine(&request).await } else { Taken::Stored(Quarantined::Full) };
        let is_kept = matches!(taken, Taken::Stored(Quarantined::Kept) | Taken::Spooled);
        self.events.refused(&request, is_kept);
        if taken == Taken::Lost && share != Share::UnknownSource {
            return self.lost(head.id, name);
        }
        self.events.answered(name, "refused");
        let answer = Answer::error(head.id, failure, Some(is_kept)).with(status);
        if status == StatusCode::TOO_MANY_REQUESTS { retry_after(answer, 60) } else { answer }
    }

    /// The body was over the limit.
    async fn too_large(&self, head: &Head, source: &Source, access: Access, size: u64) -> Response {
        let most = self.limits.body_bytes;
        let failure = Failure {
            error: format!("the body has more than {most} bytes; nothing was taken"),
            fix: "send fewer items in a request".to_owned(),
        };
        let facts = BodyFacts { size, hash: None, body: None };
        let answer = match access {
            Access::Vouched(_) => {
                let is_honest = source.answers == Answers::Honest;
                let status = if is_honest { StatusCode::PAYLOAD_TOO_LARGE } else { StatusCode::OK };
                let mut envelope = head.envelope(Some(source), status.as_u16());
                envelope.size = size;
                // Nothing is known of the body by which another one could be told from it.
                let hash = Sha256::of(head.id.to_string().as_bytes());
                let items = Items::failed(source, failure, head.arrived(), hash);
                self.hand_over(source, access, envelope, items).await
            }
            Access::Refused(refusal) => self.refuse(head, Some(source), *refusal, facts).await,
            Access::Unchecked { key_id, proof } => {
                let refusal = Refusal { share: Share::KnownSource, failure, key_id: Some(key_id), proof };
                self.refuse(head, Some(source), refusal, facts).await
            }
            Access::Signed => {
                let mut refusal = unsigned(source, &head.headers, &SignatureError::NoSecret);
                refusal.failure = failure;
                self.refuse(head, Some(source), refusal, facts).await
            }
        };
        closing(answer)
    }

    /// The body could not be read.
    fn unread(&self, head: &Head, source: &str, refused: Refused) -> Response {
        let (status, result, error, fix) = match refused {
            Refused::Slow => (
                StatusCode::REQUEST_TIMEOUT,
                "slow",
                format!("the body did not arrive within {} s", self.limits.body_time.as_secs_f32()),
                "send it again; a proxy or the network may be slow",
            ),
            Refused::NoPlace => (
                StatusCode::SERVICE_UNAVAILABLE,
                "busy",
                "too many bodies arrive at this moment; nothing was taken".to_owned(),
                "send it again later",
            ),
            Refused::Stopping => (
                StatusCode::SERVICE_UNAVAILABLE,
                "stopping",
                "this process is stopping; nothing was taken".to_owned(),
                "send it again",
            ),
            Refused::Broken | Refused::TooLarge(_) => (
                StatusCode::BAD_REQUEST,
                "broken",
                "the body broke off, or its chunks cannot be read".to_owned(),
                "send it again",
            ),
        };
        self.events.answered(source, result);
        let failure = Failure { error, fix: fix.to_owned() };
        let answer = closing(Answer::error(head.id, failure, None).with(status));
        if status == StatusCode::SERVICE_UNAVAILABLE { retry_after(answer, 5) } else { answer }
    }

    /// Nobody has the request.
    fn lost(&self, id: crate::receive::received::RequestId, source: &str) -> Response {
        self.events.answered(source, "lost");
        let failure = Failure {
            error: "neither the store nor the spool took the request".to_owned(),
            fix: "send it again later; the receiver's log says why".to_owned(),
        };
        retry_after(Answer::error(id, failure, None).with(StatusCode::SERVICE_UNAVAILABLE), 30)
    }
}
