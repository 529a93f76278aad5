//! What an endpoint is sent: the JSON of a batch, and the id of a request.
//!
//! Goes in: a batch, as the planner made it. Comes out: its body, how many changes fit into one, and its id. Golden files:
//! `hooks/golden/deliver`. It decides nothing about batches.
//!
//! The id names the content: it holds a hash of the body, so equal ids never have different bodies. A batch that was sent is
//! frozen: its retry has the same body, and so the same id. Where the same content is to be taken once more, because
//! somebody asked for it, the batch gets another generation, which is a part of the id.

use std::fmt::Write as _;

use bugfeed_protocol::server::write_update_with_cursor;
use bugfeed_protocol::{Change, Cursor, Epoch};
use ring::digest::{SHA256, digest};

/// The longest body, in bytes.
pub const LONGEST_BODY: usize = 20_000;

/// A change that is told, and the cursor that it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Which bug, and when.
    pub change: Change,
    /// Its cursor.
    pub cursor: Cursor,
}

/// What is known about the changes of a backlog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replay {
    /// None was left out in any batch of the backlog.
    Complete,
    /// Each bug's newest change is there.
    Latest,
}

impl Replay {
    /// The word in a body.
    pub fn word(self) -> &'static str {
        match self {
            Replay::Complete => "complete",
            Replay::Latest => "latest",
        }
    }
}

/// What a request says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content<'a> {
    /// One change, as it comes.
    Update(&'a Item),
    /// A backlog or a part of one, in order of cursors.
    Updates {
        /// The verdict on the whole backlog.
        replay: Replay,
        /// The changes; not empty.
        items: &'a [Item],
    },
    /// Changes may be missing: treat all bugs as changed.
    Gap,
    /// Somebody tries the endpoint out.
    Test,
}

/// One request's worth of a feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch<'a> {
    /// The feed's name.
    pub feed: &'a str,
    /// What it says.
    pub content: Content<'a>,
    /// Where the receiver is once it has this: not before the cursor of the last change in it.
    pub cursor: &'a Cursor,
    /// How often the same content was to be taken anew; 0 at first.
    pub generation: u32,
}

impl Batch<'_> {
    /// The body.
    pub fn body(&self) -> Vec<u8> {
        match &self.content {
            Content::Update(item) => update(self.feed, item),
            Content::Updates { replay, items } => updates(self.feed, *replay, items, self.cursor),
            Content::Gap => word("gap", self.feed, self.cursor),
            Content::Test => word("test", self.feed, self.cursor),
        }
    }

    /// The id of a request of this endpoint with this body: `ENDPOINT-EPOCH-FIRST-LAST-HASH`, and `-gN` where the generation
    /// is not 0. FIRST and LAST are sequence numbers; of a gap and a test, FIRST is that word.
    pub fn id(&self, endpoint: &str, body: &[u8]) -> String {
        let (first, last) = match &self.content {
            Content::Update(item) => (First::Seq(item.cursor.seq), item.cursor.seq),
            Content::Updates { items, .. } => {
                (First::Seq(items.first().map_or(self.cursor.seq, |item| item.cursor.seq)), self.cursor.seq)
            }
            Content::Gap => (First::Word("gap"), self.cursor.seq),
            Content::Test => (First::Word("test"), self.cursor.seq),
        };
        id(&Span { endpoint, epoch: &self.cursor.epoch, first, last, generation: self.generation }, body)
    }
}

/// What stands for the first sequence number in an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum First<'a> {
    /// The number.
    Seq(u64),
    /// `gap` or `test`.
    Word(&'a str),
}

/// What an id says about where a body's changes are from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span<'a> {
    /// The endpoint's id.
    pub endpoint: &'a str,
    /// The epoch of the numbers.
    pub epoch: &'a Epoch,
    /// The number of the first change.
    pub first: First<'a>,
    /// The number of the last one, or of the cursor after it.
    pub last: u64,
    /// How often the same content was to be taken anew.
    pub generation: u32,
}

/// The id of a request with this body. It has no dot, as signatures need it.
pub fn id(span: &Span<'_>, body: &[u8]) -> String {
    let mut id = String::with_capacity(span.endpoint.len() + span.epoch.as_str().len() + 64);
    let written = match span.first {
        First::Seq(first) => write!(id, "{}-{}-{first}-{}-", span.endpoint, span.epoch, span.last),
        First::Word(word) => write!(id, "{}-{}-{word}-{}-", span.endpoint, span.epoch, span.last),
    };
    let hash = digest(&SHA256, body);
    let written = written.and_then(|()| hash.as_ref()[..6].iter().try_for_each(|byte| write!(id, "{byte:02x}")));
    let generation = span.generation;
    let written = written.and_then(|()| if generation == 0 { Ok(()) } else { write!(id, "-g{generation}") });
    written.expect("writing to a String cannot fail");
    id
}

/// How many of these changes, from the first on, fit into one body of [`LONGEST_BODY`]; at least one, if there is any.
pub fn fits(feed: &str, items: &[Item]) -> usize {
    let Some(first) = items.first() else { return 0 };
    // The cursor at the end may have the longest number and tag that there are.
    let end = first.cursor.epoch.as_str().len() + 1 + 20 + 1 + 16;
    let empty = updates(feed, Replay::Complete, &[], &first.cursor).len() + end;
    let mut room = LONGEST_BODY.saturating_sub(empty);
    let mut element = Vec::with_capacity(192);
    let taken = items.iter().take_while(|item| {
        element.clear();
        write_element(&mut element, item);
        let length = element.len() + 1;
        let is_room = length <= room;
        room = room.saturating_sub(length);
        is_room
    });
    taken.count().max(1)
}

/// The message of the socket, and the feed.
fn update(feed: &str, item: &Item) -> Vec<u8> {
    let mut body = Vec::with_capacity(128 + item.cursor.epoch.as_str().len() + feed.len());
    write_update_with_cursor(&mut body, item.change, &item.cursor);
    body.pop();
    body.extend_from_slice(b",\"feed\":");
    write_text(&mut body, feed);
    body.push(b'}');
    body
}

fn updates(feed: &str, replay: Replay, items: &[Item], cursor: &Cursor) -> Vec<u8> {
    let longest = 80 + cursor.epoch.as_str().len();
    let mut body = Vec::with_capacity(128 + feed.len() + (items.len() + 1) * longest);
    body.extend_from_slice(br#"{"command":"updates","replay":""#);
    body.extend_from_slice(replay.word().as_bytes());
    body.extend_from_slice(br#"","changes":["#);
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            body.push(b',');
        }
        write_element(&mut body, item);
    }
    body.push(b']');
    write_end(&mut body, feed, cursor);
    body
}

fn word(command: &str, feed: &str, cursor: &Cursor) -> Vec<u8> {
    let mut body = Vec::with_capacity(128 + feed.len());
    body.extend_from_slice(br#"{"command":""#);
    body.extend_from_slice(command.as_bytes());
    body.push(b'"');
    write_end(&mut body, feed, cursor);
    body
}

/// The message of a socket without its command.
fn write_element(body: &mut Vec<u8>, item: &Item) {
    const COMMAND: &[u8] = br#""command":"update","#;
    let begin = body.len() + 1;
    write_update_with_cursor(body, item.change, &item.cursor);
    debug_assert!(body[begin..].starts_with(COMMAND));
    body.drain(begin..begin + COMMAND.len());
}

fn write_end(body: &mut Vec<u8>, feed: &str, cursor: &Cursor) {
    body.extend_from_slice(br#","cursor":""#);
    body.extend_from_slice(cursor.to_string().as_bytes());
    body.extend_from_slice(br#"","feed":"#);
    write_text(body, feed);
    body.push(b'}');
}

/// A text of JSON.
fn write_text(body: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(body, text).expect("a text always serialises, and writing to a Vec cannot fail");
}

#[cfg(test)]
mod tests;
