//! A session whose client is served over plain HTTP: what its shard writes is taken in this process, message by message.
//!
//! Goes in: commands, as a WebSocket client would send them. Comes out: the messages that such a client would be sent, at
//! the pace at which they are taken. To its shard it is a peer like any other: one that takes a few kilobytes, and lags
//! when nobody takes them from it.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};

use bugfeed_protocol::client::Command;
use futures::task::AtomicWaker;
use tokio::sync::mpsc;

use super::conn::Common;
use super::{Link, ShardInput};
use bugfeed_core::frame;
use bugfeed_core::input::{Input, Work};
use bugfeed_core::shard::Peer;
use bugfeed_core::subscriptions::Slot;

/// What the shard may write before something is taken, in bytes: as much as a socket's buffer, so that a client that reads
/// at once is not taken for a slow one when many changes come together. Nothing is kept while it is empty.
const ROOM: usize = 64 * 1024;

/// What a shard, the task that speaks for the client, and whoever takes the messages share.
#[derive(Debug, Default)]
pub struct Line {
    /// Held for a copy of a few kilobytes, by one of two tasks that seldom run at the same moment.
    inner: Mutex<Inner>,
    speaker: AtomicWaker,
    taker: AtomicWaker,
}

#[derive(Debug, Default)]
struct Inner {
    /// WebSocket frames, the last one perhaps in part.
    written: Vec<u8>,
    commands: VecDeque<Command>,
    /// Where the shard has the session; none as long as it does not have it, when there is nothing to speak of yet, nor
    /// to end.
    slot: Option<Slot>,
    /// The shard is done with the last command.
    ready: bool,
    wants_writable: bool,
    /// The shard has ended the session, or is gone.
    ended: bool,
    /// Nobody takes messages any more.
    left: bool,
}

impl Line {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("nobody panics holding it")
    }
}

impl Peer for Line {
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut inner = self.inner();
        if inner.left {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let taken = bytes.len().min(ROOM.saturating_sub(inner.written.len()));
        if taken == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        inner.written.extend_from_slice(&bytes[..taken]);
        drop(inner);
        self.taker.wake();
        Ok(taken)
    }

    fn attached(&self, slot: Slot) {
        self.inner().slot = Some(slot);
        self.ready();
    }

    fn want_writable(&self) {
        self.inner().wants_writable = true;
        self.speaker.wake();
    }

    fn ready(&self) {
        self.inner().ready = true;
        self.speaker.wake();
    }

    fn end(&self) {
        self.inner().ended = true;
        self.speaker.wake();
    }

    /// Always now: whether the client lives, only its connection can tell, which then lets go of [`Messages`].
    fn heard_ms(&self) -> u64 {
        u64::MAX
    }
}

/// Speaks for the client until either side ends.
pub(super) async fn serve(line: Arc<Line>, shard: mpsc::Sender<ShardInput>, common: Arc<Common>) {
    common.events.connected();
    if shard.send(Input::Attach(Link::Line(Arc::clone(&line)))).await.is_ok() {
        let mut over = false;
        while !over {
            let input = poll_fn(|cx| next(&line, cx)).await;
            over = matches!(input, Input::Detach(_));
            // A shard that is gone means that the process shuts down.
            over |= shard.send(input).await.is_err();
        }
    }
    line.inner().ended = true;
    line.taker.wake();
    common.events.disconnected();
}

/// What the client has for its shard next, that it leaves last of all.
fn next(line: &Line, cx: &mut Context<'_>) -> Poll<ShardInput> {
    line.speaker.register(cx.waker());
    let mut inner = line.inner();
    let Some(slot) = inner.slot else { return Poll::Pending };
    if inner.ended || inner.left {
        return Poll::Ready(Input::Detach(slot));
    }
    if inner.wants_writable && inner.written.len() < ROOM {
        inner.wants_writable = false;
        return Poll::Ready(Input::Writable(slot));
    }
    if inner.ready
        && let Some(command) = inner.commands.pop_front()
    {
        inner.ready = false;
        return Poll::Ready(Input::Work(slot, Work::Command(Ok(command))));
    }
    Poll::Pending
}

/// The messages of one session, and the way to ask for more. Dropping it ends the session.
#[derive(Debug)]
pub struct Messages {
    line: Arc<Line>,
    /// Taken from the line, not yet given out from `next` on.
    taken: Vec<u8>,
    next: usize,
}

impl Messages {
    pub(super) fn new(line: &Arc<Line>) -> Messages {
        Messages { line: Arc::clone(line), taken: Vec::new(), next: 0 }
    }

    /// Asks for something; the reply is one of the messages, behind everything that came before it.
    pub fn ask(&self, command: Command) {
        self.line.inner().commands.push_back(command);
        self.line.speaker.wake();
    }

    /// The next message, as JSON text; none where the session is over.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Vec<u8>>> {
        loop {
            while let Some((frame, len)) = frame::split(&self.taken[self.next..]) {
                self.next += len;
                // Pings and the close frame say nothing here: the end of the session does.
                if let Some(text) = frame {
                    return Poll::Ready(Some(text.to_vec()));
                }
            }
            // What is idle keeps no buffer.
            self.taken = self.taken[self.next..].to_vec();
            self.next = 0;
            self.line.taker.register(cx.waker());
            let mut inner = self.line.inner();
            if inner.written.is_empty() {
                return if inner.ended { Poll::Ready(None) } else { Poll::Pending };
            }
            let written = std::mem::take(&mut inner.written);
            let lagging = inner.wants_writable;
            drop(inner);
            if self.taken.is_empty() {
                self.taken = written;
            } else {
                self.taken.extend(written);
            }
            if lagging {
                self.line.speaker.wake();
            }
        }
    }

    /// Whether the session has ended, though there may be messages of it yet; where it has not, its end wakes the task.
    pub fn is_over(&self, cx: &mut Context<'_>) -> bool {
        self.line.taker.register(cx.waker());
        self.line.inner().ended
    }

    /// The next message; see [`Messages::poll_next`].
    pub async fn next(&mut self) -> Option<Vec<u8>> {
        poll_fn(|cx| self.poll_next(cx)).await
    }
}

impl Drop for Messages {
    fn drop(&mut self) {
        self.line.inner().left = true;
        self.line.speaker.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio_util::sync::CancellationToken;
    use tokio_util::task::TaskTracker;

    use crate::events::Events;
    use crate::feed::{Clock, FeedOptions, SHARD_QUEUE, feed};
    use bugfeed_core::budget::Budgets;
    use bugfeed_core::input::SessionLimits;
    use bugfeed_core::replay::ReplayLimits;

    use super::*;

    /// Its shard has other things to do first, and does not know it yet.
    #[tokio::test]
    async fn who_leaves_at_once_takes_nobody_else_along() {
        let options = FeedOptions {
            shards: 1,
            replay: ReplayLimits::default(),
            session: SessionLimits::default(),
            budgets: Budgets::default(),
        };
        let parts = feed("default", &options, Clock::start(), &Arc::new(Events::new()));
        let tracker = TaskTracker::new();
        let mut stays = parts.feed.open([Command::Version], &tracker);
        drop(parts.feed.open([Command::Version], &tracker));
        // Without a shard, they come no further than its queue.
        while parts.feed.shards[0].capacity() > SHARD_QUEUE - 2 {
            tokio::task::yield_now().await;
        }
        for shard in parts.shards {
            tokio::spawn(shard.run(CancellationToken::new()));
        }
        for _ in 0..3 {
            let reply = tokio::time::timeout(Duration::from_secs(20), stays.next()).await.expect("it is served");
            assert!(reply.is_some());
            stays.ask(Command::Version);
        }
        drop(stays);
        tracker.close();
        tracker.wait().await;
    }
}
