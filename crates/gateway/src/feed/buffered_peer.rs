//! The in-memory peer of a client of the HTTP fallback (SSE, long-poll): the shard writes into a buffer, and a task of
//! this process takes the messages out, one by one.
//!
//! Goes in: commands, as a WebSocket client would send them. Comes out: the messages that such a client would be sent,
//! at the pace at which they are taken (backpressure). The shard treats this peer like a socket: it takes some
//! kilobytes, and the session lags while nobody takes messages out.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};

use bugfeed_protocol::client::Command;
use futures::task::AtomicWaker;
use tokio::sync::mpsc;

use super::connection::Common;
use super::{ClientPeer, ShardInput};
use bugfeed_core::access::Pass;
use bugfeed_core::frame;
use bugfeed_core::input::{Input, Work};
use bugfeed_core::shard::Peer;
use bugfeed_core::subscriptions::Slot;

/// How many bytes the shard may write before a message is taken. It is as much as a socket's buffer holds, so that a
/// client that reads at once does not count as slow when many changes come together. An empty buffer takes no memory.
const ROOM: usize = 64 * 1024;

/// State shared by the shard, the client's task (`serve`), and the reader of the messages ([`Messages`]).
#[derive(Debug, Default)]
pub struct BufferedPeer {
    /// The lock is held only while a few kilobytes are copied. Two tasks use it, and they seldom run at the same
    /// moment.
    inner: Mutex<Inner>,
    /// Wakes the client's task, which sends inputs to the shard.
    sender: AtomicWaker,
    /// Wakes the reader of the messages.
    reader: AtomicWaker,
}

#[derive(Debug, Default)]
struct Inner {
    /// WebSocket frames that were not taken yet. The last one may be incomplete.
    written: Vec<u8>,
    commands: VecDeque<Command>,
    /// The session's slot in the shard. `None` until the shard has attached the session; before that, nothing is sent
    /// to the shard, and there is no session to end.
    slot: Option<Slot>,
    /// The shard has finished the last command, so the next one may be sent to it.
    ready: bool,
    wants_writable: bool,
    /// The shard has ended the session, or has stopped itself.
    ended: bool,
    /// [`Messages`] was dropped: nobody takes messages any more.
    left: bool,
}

impl BufferedPeer {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("nobody panics holding it")
    }
}

impl Peer for BufferedPeer {
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
        self.reader.wake();
        Ok(taken)
    }

    fn attached(&self, slot: Slot) {
        self.inner().slot = Some(slot);
        self.ready();
    }

    fn want_writable(&self) {
        self.inner().wants_writable = true;
        self.sender.wake();
    }

    fn ready(&self) {
        self.inner().ready = true;
        self.sender.wake();
    }

    fn end(&self) {
        self.inner().ended = true;
        self.sender.wake();
    }

    /// Always "now". Only the client's HTTP connection can find out that the client is dead; its task then drops
    /// [`Messages`].
    fn heard_ms(&self) -> u64 {
        u64::MAX
    }

    fn is_buffered(&self) -> bool {
        true
    }
}

/// The client's task: passes its commands to the shard until either side ends the session.
pub(super) async fn serve(
    peer: Arc<BufferedPeer>,
    pass: Option<Pass>,
    shard: mpsc::Sender<ShardInput>,
    common: Arc<Common>,
) {
    common.events.connected();
    let client = ClientPeer::Buffered(Arc::clone(&peer));
    let enters = match pass {
        Some(pass) => Input::Enter(client, pass),
        None => Input::Attach(client),
    };
    if shard.send(enters).await.is_ok() {
        let mut over = false;
        while !over {
            let input = poll_fn(|cx| next(&peer, cx)).await;
            over = matches!(input, Input::Detach(_));
            // A shard that is gone means that the process shuts down.
            over |= shard.send(input).await.is_err();
        }
    }
    peer.inner().ended = true;
    peer.reader.wake();
    common.events.disconnected();
}

/// The next input of the client for its shard. The last input is [`Input::Detach`].
fn next(peer: &BufferedPeer, cx: &mut Context<'_>) -> Poll<ShardInput> {
    peer.sender.register(cx.waker());
    let mut inner = peer.inner();
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
    peer: Arc<BufferedPeer>,
    /// Bytes taken from the peer. Those from `next` on were not yet returned as messages.
    taken: Vec<u8>,
    next: usize,
}

impl Messages {
    pub(super) fn new(peer: &Arc<BufferedPeer>) -> Messages {
        Messages { peer: Arc::clone(peer), taken: Vec::new(), next: 0 }
    }

    /// Sends a command to the shard. Its reply is one of the messages, after everything that was written before it.
    pub fn ask(&self, command: Command) {
        self.peer.inner().commands.push_back(command);
        self.peer.sender.wake();
    }

    /// The next message, as JSON text. `None` when the session has ended.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Vec<u8>>> {
        loop {
            while let Some((frame, len)) = frame::split(&self.taken[self.next..]) {
                self.next += len;
                // Pings and close frames are skipped: the reader learns from `None` that the session has ended.
                if let Some(text) = frame {
                    return Poll::Ready(Some(text.to_vec()));
                }
            }
            // An idle session keeps no buffer.
            self.taken = self.taken[self.next..].to_vec();
            self.next = 0;
            self.peer.reader.register(cx.waker());
            let mut inner = self.peer.inner();
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
                self.peer.sender.wake();
            }
        }
    }

    /// Whether the session has ended. Messages of it may still be waiting. If it has not ended, its end wakes the task
    /// of `cx`.
    pub fn is_over(&self, cx: &mut Context<'_>) -> bool {
        self.peer.reader.register(cx.waker());
        self.peer.inner().ended
    }

    /// The next message; see [`Messages::poll_next`].
    pub async fn next(&mut self) -> Option<Vec<u8>> {
        poll_fn(|cx| self.poll_next(cx)).await
    }
}

impl Drop for Messages {
    fn drop(&mut self) {
        self.peer.inner().left = true;
        self.peer.sender.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio_util::sync::CancellationToken;
    use tokio_util::task::TaskTracker;

    use crate::events::Events;
    use crate::feed::{Clock, FeedOptions, SHARD_QUEUE, feed};

    use super::*;

    /// The client leaves before its shard has processed the attach.
    #[tokio::test]
    async fn who_leaves_at_once_takes_nobody_else_along() {
        let options = FeedOptions::with_shards(1);
        let parts = feed("default", &options, Clock::start(), &Arc::new(Events::new()));
        let tracker = TaskTracker::new();
        let mut stays = parts.feed.open([Command::Version], &tracker);
        drop(parts.feed.open([Command::Version], &tracker));
        // No shard runs yet, so the inputs of both clients stay in its queue.
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
