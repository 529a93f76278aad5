//! What one attempt POSTs: one message, or several where a template makes a chat's messages of a backlog.
//!
//! Goes in: what the planner decided to send, and the endpoint's template. Comes out: bodies and ids. It decides nothing
//! about what is sent, except that a chat is not told again what it took of an attempt that failed at a later message.

use std::fmt::Write as _;
use std::sync::Arc;

use bugfeed_core::endpoints::batch::{Batch, Kind};
use bugfeed_core::endpoints::question::Told;
use bugfeed_protocol::Cursor;
use bytes::Bytes;

use crate::deliver::body::{self, Content, First, Item, Replay, Span};
use crate::deliver::template::{self, Link, Say, Template};

/// One POST.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    /// `webhook-id`.
    pub(super) id: String,
    /// The body.
    pub(super) body: Bytes,
    /// The change that is told, if it is told by itself and others follow: it is not told again.
    pub(super) tells: Option<Told>,
}

/// How an endpoint is talked to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Style<'a> {
    /// The endpoint's id.
    pub(super) endpoint: &'a str,
    /// Its template, if it has one.
    pub(super) template: Option<&'a Template>,
    /// Where people read about a bug of this feed.
    pub(super) link: Option<&'a Link>,
}

/// The messages of a batch. `told`: changes that its receiver took already as messages of their own.
pub(super) fn of_batch(style: &Style<'_>, batch: &Batch, told: &[Told]) -> Vec<Message> {
    match style.template {
        Some(template) => chat(style, template, batch, told),
        None => vec![golden(style.endpoint, batch)],
    }
}

fn golden(endpoint: &str, batch: &Batch) -> Message {
    let items: Vec<Item> =
        batch.changes.iter().map(|told| Item { change: told.change, cursor: told.cursor.clone() }).collect();
    let content = match (batch.kind, items.first()) {
        (Kind::Update, Some(item)) => Content::Update(item),
        (Kind::Gap, _) | (_, None) => Content::Gap,
        (Kind::Updates { complete: true }, _) => Content::Updates { replay: Replay::Complete, items: &items },
        (Kind::Updates { complete: false }, _) => Content::Updates { replay: Replay::Latest, items: &items },
    };
    let whole = body::Batch { feed: &batch.feed, content, cursor: &batch.cursor, generation: batch.generation };
    let body = whole.body();
    Message { id: whole.id(endpoint, &body), body: body.into(), tells: None }
}

fn chat(style: &Style<'_>, template: &Template, batch: &Batch, told: &[Told]) -> Vec<Message> {
    let (single, more) = template::split(batch.changes.len());
    let mut says: Vec<(Say, Option<&Told>)> =
        batch.changes.iter().take(single).map(|told| (Say::Change(told.change), Some(told))).collect();
    match () {
        () if says.is_empty() => says.push((Say::Gap, None)),
        () if more > 0 => says.push((Say::More(more), None)),
        () => {}
    }
    let first = batch.first().map_or(First::Word("gap"), First::Seq);
    let span = |first| Span {
        endpoint: style.endpoint,
        epoch: &batch.cursor.epoch,
        first,
        last: batch.last(),
        generation: batch.generation,
    };
    let number = says.len();
    let is_new = |tells: &Option<&Told>| tells.is_none_or(|tells| !told.contains(tells));
    // Something is sent in any case (the last message again), because only an answer shows that the receiver is well.
    let any_new = says.iter().any(|(_, tells)| is_new(tells));
    says.into_iter()
        .enumerate()
        .filter(|(at, (_, tells))| is_new(tells) || !any_new && at + 1 == number)
        .map(|(at, (say, tells))| {
            let body = template.body(&batch.feed, say, style.link);
            let mut id = body::id(&span(first), &body);
            if number > 1 {
                // Two messages of a backlog may have the same words.
                write!(id, "-{}", at + 1).expect("writing to a String cannot fail");
            }
            Message { id, body: body.into(), tells: tells.filter(|_| number > 1).cloned() }
        })
        .collect()
}

/// A test. `cursor`: where its receiver stands.
pub(super) fn of_test(style: &Style<'_>, feed: &Arc<str>, cursor: &Cursor, generation: u32) -> Message {
    let test = body::Batch { feed, content: Content::Test, cursor, generation };
    let body = match style.template {
        Some(template) => template.body(feed, Say::Test, style.link),
        None => test.body(),
    };
    Message { id: test.id(style.endpoint, &body), body: body.into(), tells: None }
}
