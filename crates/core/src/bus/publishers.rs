//! Who publishes on a feed's exchange: one ledger, or two that should not.
//!
//! Goes in: each head, and the epoch of each change that came live. Comes out: whether two publishers take turns. A ledger that
//! replaces another does not: the old one is not heard again.
//!
//! Two copies of one ledger have one epoch, and only the tags of their numbers tell them apart. A single ledger has many
//! tags, too: one for each tenure of its shim. But a tag's numbers follow one another without a gap, and a ledger goes from
//! one tag to the next and never back. So two tags are of two copies where they *take turns* in heads (first one, then the
//! other, then the first again) and, besides, cannot be of one history: the numbers heard under them overlap. Example of one ledger whose heads go back all the same: a shim
//! says 9 under tag b, and dies; the next one has only saved that 5, under tag a, is published, says that, publishes 6
//! to 9 again, and says 9 under tag b. Taking turns alone is therefore no proof.

use bugfeed_protocol::{Cursor, Epoch, Tag};

/// How long it is remembered that somebody was heard, and that two were.
const MEMORY_MS: u64 = 60_000;
/// How many are remembered.
const MAX: usize = 8;

/// Somebody who publishes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publisher {
    /// Its ledger.
    pub epoch: Epoch,
    /// The tag of its numbers, where it takes another one to tell it from a copy.
    pub tag: Option<Tag>,
}

impl Publisher {
    /// Its tag, for people.
    pub fn tag_text(&self) -> String {
        self.tag.map_or_else(|| "none".to_owned(), |tag| tag.to_string())
    }
}

/// The numbers of one tag, as far as heads said them.
#[derive(Clone, Debug)]
struct Tagged {
    epoch: Epoch,
    tag: Tag,
    first: u64,
    last: u64,
    heard_ms: u64,
}

impl Tagged {
    /// Whether two tags cannot be of one history.
    fn contradicts(&self, other: &Tagged) -> bool {
        let overlap = self.first <= other.last && other.first <= self.last;
        self.epoch == other.epoch && self.tag != other.tag && overlap
    }
}

/// The ledgers heard lately.
#[derive(Clone, Debug, Default)]
pub struct Publishers {
    /// With the time they were last heard; the last one is last.
    heard: Vec<(Epoch, u64)>,
    /// The tags of heads; the last one is last.
    tags: Vec<Tagged>,
    /// Two that took turns, and when they last did.
    two: Option<(Publisher, Publisher, u64)>,
}

impl Publishers {
    /// A ledger's change came.
    pub fn heard(&mut self, epoch: &Epoch, now_ms: u64) {
        if let Some((last, at_ms)) = self.heard.last_mut()
            && last == epoch
        {
            *at_ms = now_ms;
            return;
        }
        if let Some(at) = self.heard.iter().position(|(heard, _)| heard == epoch) {
            let (epoch, at_ms) = self.heard.remove(at);
            if let Some((between, _)) = self.heard.last().filter(|_| now_ms <= at_ms + MEMORY_MS) {
                let (one, two) = if between.as_str() < epoch.as_str() { (between, &epoch) } else { (&epoch, between) };
                let publisher = |epoch: &Epoch| Publisher { epoch: epoch.clone(), tag: None };
                self.two = Some((publisher(one), publisher(two), now_ms));
            }
        } else if self.heard.len() == MAX {
            self.heard.remove(0);
        }
        self.heard.push((epoch.clone(), now_ms));
    }

    /// A head was heard.
    pub fn heard_head(&mut self, head: &Cursor, now_ms: u64) {
        self.heard(&head.epoch, now_ms);
        let Some(tag) = head.tag else { return };
        let at = self.tags.iter().position(|tagged| tagged.epoch == head.epoch && tagged.tag == tag);
        let mut new = Tagged { epoch: head.epoch.clone(), tag, first: head.seq, last: head.seq, heard_ms: now_ms };
        let recent = at.map(|at| {
            let old = self.tags.remove(at);
            (new.first, new.last) = (old.first.min(head.seq), old.last.max(head.seq));
            (at, old.heard_ms)
        });
        // Whoever was heard since then, and is of another history, took its turn.
        if let Some((at, _)) = recent.filter(|(_, heard_ms)| now_ms <= heard_ms + MEMORY_MS)
            && let Some(between) = self.tags[at..].iter().find(|between| between.contradicts(&new))
        {
            let publisher = |tag: Tag| Publisher { epoch: head.epoch.clone(), tag: Some(tag) };
            let (one, two) = (tag.min(between.tag), tag.max(between.tag));
            self.two = Some((publisher(one), publisher(two), now_ms));
        }
        self.tags.push(new);
        let over = self.tags.len().saturating_sub(MAX);
        self.tags.drain(..over);
    }

    /// Two publishers that took turns within the last minute.
    pub fn two(&self, now_ms: u64) -> Option<(Publisher, Publisher)> {
        let (one, two, at_ms) = self.two.as_ref()?;
        (now_ms <= at_ms + MEMORY_MS).then(|| (one.clone(), two.clone()))
    }

    /// Whether another ledger than this one is alive: heard within so many milliseconds, or taking turns with it.
    pub fn others(&self, epoch: &Epoch, now_ms: u64, within_ms: u64) -> bool {
        let alive = |(heard, at_ms): &(Epoch, u64)| heard != epoch && now_ms <= at_ms + within_ms;
        let turns = self.two(now_ms).is_some_and(|(one, two)| one.epoch != two.epoch);
        turns || self.heard.iter().any(alive)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Heads two seconds apart. The tags that take turns.
    fn turns(heads: &[&str]) -> Option<String> {
        let mut publishers = Publishers::default();
        let mut now_ms = 0;
        for head in heads {
            now_ms += 2000;
            publishers.heard_head(&Cursor::parse(head).unwrap(), now_ms);
        }
        publishers.two(now_ms).map(|(one, two)| format!("{} {}", one.tag_text(), two.tag_text()))
    }

    #[test]
    fn copies_of_one_ledger_that_take_turns_are_two() {
        let named = Some("0000000b 0000000c".to_owned());
        for (heads, want) in [
            // Both publish: their numbers overlap.
            (&["E.6.b", "E.6.c", "E.7.b"][..], named.clone()),
            (&["E.9.b", "E.6.c", "E.9.b", "E.9.c", "E.9.b"], named.clone()),
            // It is not only the one before.
            (&["E.9.b", "E.9.c", "F.1.d", "E.9.b"], named),
            // A ledger that was set back, or whose shim began anew, goes on and does not come back.
            (&["E.9.b", "E.6.c", "E.7.c", "E.9.c"], None),
            (&["E.5.a", "E.6.b", "E.9.b", "E.10.c"], None),
            // The next shim had not saved how far the one before had published.
            (&["E.9.b", "E.5.a", "E.9.b", "E.10.c"], None),
            // So it looks, too, where one of two copies has nothing to publish; but then it takes nothing from the other.
            (&["E.9.b", "E.6.c", "E.9.b", "E.6.c", "E.9.b"], None),
            // Tags that are not told tell nothing.
            (&["E.9", "E.6", "E.9"], None),
        ] {
            assert_eq!(turns(heads), want, "{heads:?}");
        }
    }

    #[test]
    fn what_is_long_ago_is_forgotten() {
        let head = |text| Cursor::parse(text).unwrap();
        let mut publishers = Publishers::default();
        publishers.heard_head(&head("E.6.b"), 0);
        publishers.heard_head(&head("E.6.c"), 1);
        publishers.heard_head(&head("E.7.b"), MEMORY_MS + 1);
        assert_eq!(publishers.two(MEMORY_MS + 1), None);
        publishers.heard_head(&head("E.7.c"), MEMORY_MS + 1);
        assert!(publishers.two(2 * MEMORY_MS + 1).is_some());
        assert_eq!(publishers.two(2 * MEMORY_MS + 2), None);
        assert!(!publishers.others(&head("E.1").epoch, MEMORY_MS + 1, 7000), "copies are no other ledger");
        for tag in 1..100 {
            publishers.heard_head(&Cursor::new(head("E.1").epoch, 9).tagged(Some(Tag::from_random(tag))), 0);
        }
        assert!(publishers.tags.len() <= MAX);
    }
}
