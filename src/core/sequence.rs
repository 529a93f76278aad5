//! Which of the numbers that arrive on a bus are new.
//!
//! Goes in: the cursor of each message, in order of arrival. Comes out: whether it was seen before, and whether numbers
//! before it are missing. A shim that crashed or lost its broker publishes again with the same numbers; a message may
//! also come after later ones, when its first publication was refused and those behind it were not.

use bugfeed_protocol::{Cursor, Epoch};

/// What a number means, given those seen before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admit {
    /// The next one, or the first ever.
    Next,
    /// Another epoch than the last one's, also where it is one from before that goes on: the ledger was made anew, or
    /// there are two producers. How their numbers lie between each other may differ from gateway to gateway.
    NewEpoch,
    /// Later than the next one; this many between have not come (yet).
    Ahead {
        /// How many.
        missing: u64,
    },
    /// Earlier than the newest one, but not seen before.
    Late,
    /// Seen before: drop it.
    Known,
}

impl Admit {
    /// Whether the number is newer than all of its epoch.
    fn goes_on(self) -> bool {
        matches!(self, Admit::Next | Admit::Ahead { .. })
    }
}

/// The runs of consecutive numbers seen, of the epochs seen last.
#[derive(Debug, Default)]
pub struct Sequence {
    /// The one that went on last is last.
    epochs: Vec<(Epoch, Runs)>,
}

/// How many epochs are remembered. More than one only where a ledger was made anew or producers share an exchange.
const MAX_EPOCHS: usize = 8;
/// How many separate runs of an epoch are remembered; beyond it the oldest two are taken as one, so that what was
/// missing between them would be dropped if it still came.
const MAX_RUNS: usize = 1024;

/// Ascending, disjoint, never adjacent runs of numbers.
#[derive(Debug, Default)]
struct Runs(Vec<(u64, u64)>);

impl Sequence {
    /// Judges a number and remembers it.
    pub fn admit(&mut self, cursor: &Cursor) -> Admit {
        let first_ever = self.epochs.is_empty();
        if let Some(at) = self.epochs.iter().position(|(epoch, _)| *epoch == cursor.epoch) {
            let admit = self.epochs[at].1.admit(cursor.seq);
            if at + 1 == self.epochs.len() || !admit.goes_on() {
                return admit;
            }
            self.epochs[at..].rotate_left(1);
            return Admit::NewEpoch;
        }
        if self.epochs.len() == MAX_EPOCHS {
            self.epochs.remove(0);
        }
        let mut runs = Runs::default();
        let admit = runs.admit(cursor.seq);
        self.epochs.push((cursor.epoch.clone(), runs));
        if first_ever { admit } else { Admit::NewEpoch }
    }

    /// Judges a number without remembering it.
    pub fn judge(&self, cursor: &Cursor) -> Admit {
        let Some(at) = self.epochs.iter().position(|(epoch, _)| *epoch == cursor.epoch) else {
            return if self.epochs.is_empty() { Admit::Next } else { Admit::NewEpoch };
        };
        let admit = self.epochs[at].1.judge(cursor.seq);
        if at + 1 < self.epochs.len() && admit.goes_on() { Admit::NewEpoch } else { admit }
    }

    /// The newest number of the epoch that was used last.
    pub fn head(&self) -> Option<Cursor> {
        let (epoch, runs) = self.epochs.last()?;
        Some(Cursor::new(epoch.clone(), runs.0.last()?.1))
    }
}

impl Runs {
    fn judge(&self, seq: u64) -> Admit {
        let Some(&(_, head)) = self.0.last() else { return Admit::Next };
        if seq > head {
            return match seq - head - 1 {
                0 => Admit::Next,
                missing => Admit::Ahead { missing },
            };
        }
        let at = self.0.partition_point(|&(_, end)| end < seq);
        if self.0[at].0 <= seq { Admit::Known } else { Admit::Late }
    }

    fn admit(&mut self, seq: u64) -> Admit {
        let runs = &mut self.0;
        let Some(&(_, head)) = runs.last() else {
            runs.push((seq, seq));
            return Admit::Next;
        };
        if seq > head {
            let missing = seq - head - 1;
            if missing == 0 {
                runs.last_mut().expect("not empty").1 = seq;
                return Admit::Next;
            }
            runs.push((seq, seq));
            self.bound();
            return Admit::Ahead { missing };
        }
        // The first run that ends at or after seq.
        let at = runs.partition_point(|&(_, end)| end < seq);
        if runs[at].0 <= seq {
            return Admit::Known;
        }
        let joins_left = at > 0 && runs[at - 1].1 + 1 == seq;
        let joins_right = runs[at].0 == seq + 1;
        match (joins_left, joins_right) {
            (true, true) => {
                runs[at].0 = runs[at - 1].0;
                runs.remove(at - 1);
            }
            (true, false) => runs[at - 1].1 = seq,
            (false, true) => runs[at].0 = seq,
            (false, false) => runs.insert(at, (seq, seq)),
        }
        self.bound();
        Admit::Late
    }

    fn bound(&mut self) {
        if self.0.len() > MAX_RUNS {
            let (start, _) = self.0.remove(0);
            self.0[0].0 = start;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admit_all(cursors: &[(&str, u64)]) -> Vec<Admit> {
        let mut sequence = Sequence::default();
        let cursor = |&(epoch, seq): &(&str, u64)| Cursor::new(Epoch::parse(epoch).unwrap(), seq);
        cursors.iter().map(|c| sequence.admit(&cursor(c))).collect()
    }

    #[test]
    fn numbers_in_every_order() {
        use Admit::*;
        for (cursors, want) in [
            (&[("E", 1), ("E", 2), ("E", 3)][..], &[Next, Next, Next][..]),
            (&[("E", 88), ("E", 88), ("E", 87), ("E", 89)], &[Next, Known, Late, Next]),
            (
                &[("E", 1), ("E", 4), ("E", 2), ("E", 3), ("E", 3), ("E", 5)],
                &[Next, Ahead { missing: 2 }, Late, Late, Known, Next],
            ),
            // 50 was refused, 51 and 52 were not; the shim starts over from 50.
            (
                &[("E", 51), ("E", 52), ("E", 50), ("E", 51), ("E", 52), ("E", 53)],
                &[Next, Next, Late, Known, Known, Next],
            ),
            (&[("E", 9), ("F", 1), ("E", 9), ("E", 10), ("F", 1)], &[Next, NewEpoch, Known, NewEpoch, Known]),
            (&[("E", u64::MAX), ("E", 1), ("E", u64::MAX)], &[Next, Late, Known]),
        ] {
            assert_eq!(admit_all(cursors), want, "{cursors:?}");
        }
    }

    #[test]
    fn against_a_set_of_all_numbers_seen() {
        use rand::{Rng as _, SeedableRng as _};
        for seed in 0..200 {
            let mut random = rand::rngs::SmallRng::seed_from_u64(seed);
            let (mut runs, mut seen) = (Runs::default(), std::collections::BTreeSet::new());
            for _ in 0..300 {
                let seq = random.random_range(1..120);
                let judged = runs.judge(seq);
                let admitted = runs.admit(seq);
                assert_eq!(judged, admitted, "seed {seed}, number {seq}");
                let known = admitted == Admit::Known;
                assert_eq!(known, !seen.insert(seq), "seed {seed}, number {seq}");
                assert!(runs.0.windows(2).all(|w| w[0].1 + 1 < w[1].0), "seed {seed}: {runs:?}");
            }
        }
    }

    #[test]
    fn memory_is_bounded() {
        let mut runs = Runs::default();
        for seq in 0..10_000 {
            runs.admit(seq * 2 + 1);
        }
        assert!(runs.0.len() <= MAX_RUNS);
        let mut sequence = Sequence::default();
        for bits in 0..1000 {
            sequence.admit(&Cursor::new(Epoch::from_random(bits), 1));
        }
        assert_eq!(sequence.epochs.len(), MAX_EPOCHS);
    }
}
