//! A position in a feed: the ledger's epoch, a sequence number and a lineage tag, opaque text to clients.

use std::fmt;
use std::num::NonZeroU64;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A ledger's random identifier, made when the ledger is created. Numbers of different epochs cannot be compared. It
/// has 1 to [`Epoch::MAX_LEN`] letters, digits, `_` or `-`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Epoch(Arc<str>);

impl Epoch {
    /// The longest epoch that is accepted, in bytes.
    pub const MAX_LEN: usize = 64;

    /// Makes an epoch of 64 random bits, given by the caller.
    pub fn from_random(bits: u64) -> Epoch {
        Epoch(format!("{bits:016x}").into())
    }

    /// Checks a text; `None` if it is no epoch.
    pub fn parse(text: &str) -> Option<Epoch> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        let fits = !text.is_empty() && text.len() <= Epoch::MAX_LEN && text.bytes().all(allowed);
        fits.then(|| Epoch(text.into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for Epoch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Epoch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'_, str>>::deserialize(deserializer)?;
        Epoch::parse(&text).ok_or_else(|| serde::de::Error::custom("an epoch is 1 to 64 letters, digits, '_' or '-'"))
    }
}

/// A ledger's lineage tag. A shim draws it at random whenever it begins to write to a ledger, and stores it with each
/// number that it gives. Why: a ledger may be set back, copied, or failed over to an older state. Then two histories of
/// one epoch give the same numbers, but with different tags. So a number together with its tag identifies the whole
/// history up to it.
///
/// A tag is written as 1 to 16 lowercase hexadecimal digits. The shim draws 32 bits, so two tags are equal by chance
/// once in four billion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(NonZeroU64);

impl Tag {
    /// Makes a tag of random bits, given by the caller.
    pub fn from_random(bits: u32) -> Tag {
        Tag(NonZeroU64::new(u64::from(bits)).unwrap_or(NonZeroU64::MIN))
    }

    /// Reads what [`Tag`]'s `Display` writes.
    pub fn parse(text: &str) -> Option<Tag> {
        let digits = text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        let fits = digits && (1..=16).contains(&text.len());
        let bits = u64::from_str_radix(text, 16).ok().filter(|_| fits)?;
        NonZeroU64::new(bits).map(Tag)
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

impl Serialize for Tag {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// "Everything up to and including number `seq` of ledger `epoch`, in the history that gave that number under `tag`."
/// Written `EPOCH.SEQ.TAG`, or `EPOCH.SEQ` without a tag; `seq` 0 is before the first change, and has no tag.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Cursor {
    /// The ledger that gave the number.
    pub epoch: Epoch,
    /// The last number included.
    pub seq: u64,
    /// The tag with which that number was given; `None` if it is unknown. A cursor without a tag is compared by its
    /// number alone.
    pub tag: Option<Tag>,
}

impl Cursor {
    /// A cursor without a tag.
    pub fn new(epoch: Epoch, seq: u64) -> Cursor {
        Cursor { epoch, seq, tag: None }
    }

    /// The same epoch and number, with this tag.
    #[must_use]
    pub fn tagged(self, tag: Option<Tag>) -> Cursor {
        Cursor { tag, ..self }
    }

    /// Reads `EPOCH.SEQ` or `EPOCH.SEQ.TAG`.
    pub fn parse(text: &str) -> Option<Cursor> {
        let (epoch, rest) = text.split_once('.')?;
        let (seq, tag) = match rest.split_once('.') {
            Some((seq, tag)) => (seq, Some(Tag::parse(tag)?)),
            None => (rest, None),
        };
        let digits = !seq.is_empty() && seq.bytes().all(|b| b.is_ascii_digit());
        let seq = if digits { seq.parse().ok()? } else { return None };
        Some(Cursor { epoch: Epoch::parse(epoch)?, seq, tag })
    }

    /// The epoch and the number alone, `EPOCH.SEQ`: the id of a message on the bus.
    pub fn number(&self) -> String {
        format!("{}.{}", self.epoch, self.seq)
    }

    /// Whether both have the same epoch and number, and their tags, as far as they are known, do not differ.
    pub fn is_same(&self, other: &Cursor) -> bool {
        self.seq == other.seq && self.epoch == other.epoch && !self.contradicts(other)
    }

    /// Whether both cursors have a tag, and the tags differ. For two cursors with the same number, this means that they
    /// belong to two different histories.
    pub fn contradicts(&self, other: &Cursor) -> bool {
        self.tag.zip(other.tag).is_some_and(|(one, two)| one != two)
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.seq)?;
        self.tag.map_or(Ok(()), |tag| write!(f, ".{tag}"))
    }
}

impl Serialize for Cursor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_round_trip_and_bad_ones_are_refused() {
        let cursor = Cursor::new(Epoch::from_random(0xfeed), 88);
        let tagged = cursor.clone().tagged(Some(Tag::from_random(0xbeef)));
        assert_eq!([cursor.to_string(), tagged.to_string()], ["000000000000feed.88", "000000000000feed.88.0000beef"]);
        assert_eq!(tagged.number(), "000000000000feed.88");
        for cursor in [cursor, tagged] {
            assert_eq!(Cursor::parse(&cursor.to_string()), Some(cursor));
        }
        assert_eq!(Tag::parse("ffffffffffffffff").map(|tag| tag.to_string()).as_deref(), Some("ffffffffffffffff"));
        for text in [
            "",
            ".",
            "E",
            "E.",
            ".8",
            "E.-1",
            "E.+1",
            "E.1.",
            "E.1.0",
            "E.1.x",
            "E.1.AB",
            "E.1.+a",
            "E.1.12345678901234567",
            "E.1.2.3",
            "É.1",
            "E.18446744073709551616",
            "a b.1",
        ] {
            assert_eq!(Cursor::parse(text), None, "{text}");
        }
    }

    #[test]
    fn the_same_number_of_two_histories_is_told_by_its_tag() {
        let cursor = |text| Cursor::parse(text).unwrap();
        for (one, two, same, contradicts) in [
            ("E.1.a", "E.1.a", true, false),
            ("E.1.a", "E.1.b", false, true),
            ("E.1", "E.1.b", true, false),
            ("E.1.a", "E.2.a", false, false),
            ("E.1.a", "F.1.a", false, false),
        ] {
            assert_eq!(cursor(one).is_same(&cursor(two)), same, "{one} {two}");
            assert_eq!(cursor(two).contradicts(&cursor(one)), contradicts, "{one} {two}");
        }
    }
}
