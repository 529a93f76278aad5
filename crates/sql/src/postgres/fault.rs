//! What the codes of PostgreSQL's errors mean.

use crate::Fault;

/// What kind of trouble this is.
pub(super) fn fault(code: &str) -> Fault {
    match code {
        "55P03" | "40P01" | "40001" => Fault::Locked,
        "28000" | "28P01" | "42501" => Fault::Denied,
        "3D000" | "3F000" | "42P01" | "42703" => Fault::Missing,
        "23505" => Fault::Duplicate,
        "53100" | "58030" => Fault::Full,
        "25006" => Fault::Moved,
        "P0001" | "23001" | "23503" => Fault::Refused,
        "XX001" | "XX002" => Fault::Corrupt,
        "53300" | "57014" | "57P01" | "57P02" | "57P03" => Fault::Away,
        _ if code.starts_with("08") => Fault::Away,
        _ => Fault::Other,
    }
}
