//! Which deliveries are acknowledged, and when.
//!
//! Goes in: the tag of each delivery whose change is in the replay cache, or needs not be. Comes out: the tag up to which the
//! broker is told so, together for many: each acknowledgement is a write, and wakes the broker. What is lost with a
//! connection comes again, and is dropped.

/// Deliveries that one acknowledgement covers at most; fewer where fewer may be on their way.
const EVERY: u16 = 200;
/// How long a delivery waits for others to be acknowledged with.
const AFTER_MS: u64 = 50;

/// The deliveries that are taken in and not acknowledged.
#[derive(Debug)]
pub(super) struct Acks {
    every: u16,
    count: u16,
    last: u64,
    due_ms: u64,
}

impl Acks {
    /// `prefetch`: how many the broker sends without an acknowledgement.
    pub(super) fn new(prefetch: u16) -> Acks {
        Acks { every: EVERY.min(prefetch / 2).max(1), count: 0, last: 0, due_ms: 0 }
    }

    /// A delivery is done with. The tag to acknowledge, where enough have come together.
    pub(super) fn done(&mut self, now_ms: u64, tag: Option<u64>) -> Option<u64> {
        self.last = tag?;
        if self.count == 0 {
            self.due_ms = now_ms + AFTER_MS;
        }
        self.count += 1;
        if self.count < self.every { None } else { self.take() }
    }

    /// The tag to acknowledge, where that is due.
    pub(super) fn due(&mut self, now_ms: u64) -> Option<u64> {
        self.due_ms().filter(|due_ms| now_ms >= *due_ms).and_then(|_| self.take())
    }

    /// When the next acknowledgement is due.
    pub(super) fn due_ms(&self) -> Option<u64> {
        (self.count > 0).then_some(self.due_ms)
    }

    /// The tag to acknowledge, where there is one; it is taken for acknowledged.
    pub(super) fn take(&mut self) -> Option<u64> {
        (std::mem::take(&mut self.count) > 0).then_some(self.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_at_once_or_after_a_while() {
        let mut acks = Acks::new(6);
        assert_eq!((acks.due_ms(), acks.take()), (None, None));
        assert_eq!(acks.done(10, Some(1)), None);
        assert_eq!(acks.done(20, None), None, "it came beside the queue");
        assert_eq!((acks.due_ms(), acks.due(59)), (Some(60), None));
        assert_eq!((acks.due(60), acks.due(60)), (Some(1), None));
        let acked: Vec<_> = (2..9).map(|tag| acks.done(70, Some(tag))).collect();
        assert_eq!(acked, [None, None, Some(4), None, None, Some(7), None]);
        assert_eq!((acks.take(), acks.due_ms()), (Some(8), None));
        // However few may be on their way: the broker must not wait for an acknowledgement that waits for it.
        assert_eq!(Acks::new(1).done(0, Some(1)), Some(1));
    }
}
