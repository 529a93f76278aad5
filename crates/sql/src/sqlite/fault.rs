//! What the codes of SQLite's errors mean.

use crate::Fault;

/// What kind of trouble this is.
pub(super) fn fault(code: i32, message: &str) -> Fault {
    match code & 0xff {
        5 | 6 => Fault::Locked,
        8 => Fault::ReadOnly,
        10 | 13 => Fault::Full,
        11 | 26 => Fault::Corrupt,
        14 => Fault::Missing,
        // A trigger's RAISE, or a foreign key.
        19 if matches!(code, 787 | 1811) => Fault::Refused,
        3 | 23 => Fault::Denied,
        19 if matches!(code, 1555 | 2067 | 2579) => Fault::Duplicate,
        1 if message.contains("no such") => Fault::Missing,
        _ => Fault::Other,
    }
}
