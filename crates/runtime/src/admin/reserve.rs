//! Descriptors that the admin port keeps for the time when the process has no others.
//!
//! Goes in: the wish for a descriptor. Comes out: one that is free. Each is `/dev/null`, opened at the start; closing it makes
//! room for a connection. When that connection ends, the reserve takes its place again.

use std::fs::File;
use std::sync::{Mutex, PoisonError};

use rustix::io::Errno;

/// How many descriptors are kept: for a few scrapers and probes at a time.
pub(super) const SPARE: usize = 16;

/// The descriptors.
#[derive(Debug, Default)]
pub(super) struct Reserve(Mutex<Vec<File>>);

impl Reserve {
    /// Takes descriptors until the reserve is full, or there are no more.
    pub(super) fn refill(&self) {
        let mut spare = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while spare.len() < SPARE {
            let Ok(file) = File::open("/dev/null") else { return };
            spare.push(file);
        }
    }

    /// Lets go of one. Whether there was one.
    pub(super) fn release(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().is_some()
    }
}

/// Whether the process, or the system, has no descriptors left.
pub(super) fn is_out_of_files(error: &std::io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_refilled() {
        let reserve = Reserve::default();
        assert!(!reserve.release());
        reserve.refill();
        assert!((0..SPARE).all(|_| reserve.release()) && !reserve.release());
        reserve.refill();
        assert!(reserve.release());
        assert!(is_out_of_files(&std::io::Error::from(Errno::MFILE)));
        assert!(!is_out_of_files(&std::io::Error::other("no")));
    }
}
