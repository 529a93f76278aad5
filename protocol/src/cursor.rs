//! A position in a feed: the ledger's epoch and a sequence number, opaque text to clients.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A ledger's random identifier, made when the ledger is created. Numbers of different epochs say nothing about each
/// other. 1 to [`Epoch::MAX_LEN`] letters, digits, `_` or `-`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Epoch(Arc<str>);

impl Epoch {
    /// The longest epoch that is accepted, in bytes.
    pub const MAX_LEN: usize = 64;

    /// Makes an epoch of 64 random bits, given by the caller.
    pub fn from_random(bits: u64) -> Epoch {
        Epoch(format!("{bits:016x}").into())
    }

    /// Checks a text.
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

/// "Everything up to and including number `seq` of ledger `epoch`." Written `EPOCH.SEQ`; `seq` 0 is before the first
/// change.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Cursor {
    /// Whose numbering.
    pub epoch: Epoch,
    /// The last number included.
    pub seq: u64,
}

impl Cursor {
    /// Reads `EPOCH.SEQ`.
    pub fn parse(text: &str) -> Option<Cursor> {
        let (epoch, seq) = text.split_once('.')?;
        let digits = !seq.is_empty() && seq.bytes().all(|b| b.is_ascii_digit());
        let seq = if digits { seq.parse().ok()? } else { return None };
        Some(Cursor { epoch: Epoch::parse(epoch)?, seq })
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.seq)
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
        let cursor = Cursor { epoch: Epoch::from_random(0xfeed), seq: 88 };
        assert_eq!(cursor.to_string(), "000000000000feed.88");
        assert_eq!(Cursor::parse("000000000000feed.88"), Some(cursor));
        for text in ["", ".", "E", "E.", ".8", "E.-1", "E.+1", "E.1.2", "É.1", "E.18446744073709551616", "a b.1"] {
            assert_eq!(Cursor::parse(text), None, "{text}");
        }
    }
}
