//! What an administrator should do about an error of the change table's database.

use bugfeed_sql::Fault;

/// The advice for this kind of error. `None` if the general advice for databases is enough.
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
