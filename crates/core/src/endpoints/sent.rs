//! What the store keeps of a batch that was sent and failed, so that whoever serves the endpoint next sends the same again.
//!
//! Goes in: a batch, and later what a feed answers. Comes out: some sixty bytes, and whether the answer begins with the
//! changes of that batch. The changes themselves are not kept: the feed has them, or a newer change of one of their bugs has
//! dissolved the batch.

use std::fmt::{self, Write as _};

use bugfeed_protocol::Cursor;

use super::batch::{Batch, Kind};
use super::question::Told;

/// A batch that was sent and failed. Its text (`Display`, [`Sent::parse`]) is `KIND COUNT DIGEST CURSOR`, for the store.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Sent {
    /// Its kind.
    pub kind: Kind,
    /// How many changes it had; 0 of a gap.
    pub count: u32,
    /// A hash of the changes with their cursors. It is the same in every process.
    pub digest: u64,
    /// Its cursor.
    pub cursor: Cursor,
}

impl Sent {
    /// What is kept of a batch.
    pub(super) fn of(batch: &Batch) -> Sent {
        let count = u32::try_from(batch.changes.len()).unwrap_or(u32::MAX);
        Sent { kind: batch.kind, count, digest: digest(&batch.changes), cursor: batch.cursor.clone() }
    }

    /// Whether these changes begin with those of the batch.
    pub(super) fn begins(&self, found: &[Told]) -> bool {
        let begin = usize::try_from(self.count).ok().and_then(|count| found.get(..count));
        begin.is_some_and(|begin| digest(begin) == self.digest)
    }

    /// Reads its text.
    pub fn parse(text: &str) -> Option<Sent> {
        let mut words = text.split(' ');
        let kind = match words.next()? {
            "update" => Kind::Update,
            "complete" => Kind::Updates { complete: true },
            "latest" => Kind::Updates { complete: false },
            "gap" => Kind::Gap,
            _ => return None,
        };
        let count = words.next()?.parse().ok()?;
        let digest = u64::from_str_radix(words.next()?, 16).ok()?;
        let cursor = Cursor::parse(words.next()?)?;
        words.next().is_none().then_some(Sent { kind, count, digest, cursor })
    }
}

impl fmt::Display for Sent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Update => "update",
            Kind::Updates { complete: true } => "complete",
            Kind::Updates { complete: false } => "latest",
            Kind::Gap => "gap",
        };
        write!(f, "{kind} {} {:016x} {}", self.count, self.digest, self.cursor)
    }
}

/// FNV-1a of the changes' text. Nothing depends on it but whether a batch is sent again as it was: the identifier that a
/// receiver sees is made from the body.
fn digest(changes: &[Told]) -> u64 {
    struct Fnv(u64);
    impl fmt::Write for Fnv {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            for byte in text.bytes() {
                self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
            }
            Ok(())
        }
    }
    let mut fnv = Fnv(0xcbf2_9ce4_8422_2325);
    for Told { change, cursor } in changes {
        // A hash takes every text, so writing cannot fail.
        let _ = writeln!(fnv, "{} {} {cursor}", change.bug, change.when);
    }
    fnv.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_text_is_read_again() {
        for text in
            ["update 1 00000000000000ff E.7", "latest 20 cbf29ce484222325 E.7.0000002a", "gap 0 0000000000000000 E.9"]
        {
            assert_eq!(Sent::parse(text).unwrap().to_string(), text);
        }
        for text in [
            "",
            "update",
            "update 1 ff E.7 more",
            "updates 1 ff E.7",
            "update -1 ff E.7",
            "update 1 xy E.7",
            "gap 0 0 E",
        ] {
            assert_eq!(Sent::parse(text), None, "{text}");
        }
    }

    /// Rows outlive the program, so the digest must not change with it.
    #[test]
    fn the_digest_is_what_it_always_was() {
        assert_eq!(digest(&[]), 0xcbf2_9ce4_8422_2325);
    }
}
