//! What is to be done when the change table's database says no.

use bugfeed_sql::Fault;

/// What is to be done, where it is more than for any other table.
pub(super) fn advice(fault: Fault) -> Option<&'static str> {
    match fault {
        Fault::Corrupt => Some("what is in the file cannot be trusted; mend or replace the tracker's database"),
        Fault::Denied => Some(
            "check user and password; on the change table SELECT and DELETE are needed (`bugfeed-shim init` prints the \
             GRANT)",
        ),
        Fault::Missing => Some("check the name, or create it (`bugfeed-shim init` creates the change table)"),
        _ => None,
    }
}
