//! Looks at a ledger as a shim would use it, and changes nothing.
//!
//! Goes in: where it is, and what the feed's history at the broker ends with. Comes out: findings, and the changes that were
//! recorded last.

use bugfeed_protocol::{Cursor, Numbered};
use bugfeed_runtime::findings::Findings;
use bugfeed_sql::{DbUrl, Fault};

use super::{Holds, Ledger, LedgerError, Meta, Prefix};

const AREA: &str = "ledger";

/// How many of the latest changes are returned.
const RECENT: u64 = 200;

/// More changes than this that wait to be published are worth a look: a shim publishes thousands a second.
const BACKLOG: u64 = 1000;

/// A ledger that was looked at.
#[derive(Clone, Debug)]
pub struct Looked {
    /// What was found.
    pub found: Findings,
    /// Its head; `None` if there is no ledger yet, or it cannot be read.
    pub head: Option<Cursor>,
    /// Where its changes were last published to, in words.
    pub published_to: Option<String>,
    /// The changes that were recorded last, oldest first.
    pub recent: Vec<Numbered>,
}

/// Looks at the ledger. `history` are the numbers at the end of the feed's history, where it could be read.
pub async fn check(url: &DbUrl, prefix: &Prefix, history: &[Cursor]) -> Looked {
    let mut looked = Looked { found: Findings::default(), head: None, published_to: None, recent: Vec::new() };
    let ledger = match Ledger::open_existing(url, prefix).await {
        Ok(ledger) => ledger,
        Err(error) if is_missing(&error) => {
            let text = format!("there is none yet in {url}");
            match history.last() {
                None => looked.found.skipped(AREA, text, "the shim makes it when it starts"),
                Some(end) => {
                    let text =
                        format!("{text}, and the broker's history has changes of another one (epoch {})", end.epoch);
                    looked.found.warning(
                        AREA,
                        text,
                        "is --ledger the one that the shim has? A new one means a 'gap' for all clients",
                    );
                }
            }
            return looked;
        }
        Err(error) => {
            looked.found.bad(AREA, format!("{error} ({url})"), "");
            return looked;
        }
    };
    if let Err(error) = look(&ledger, history, &mut looked).await {
        looked.found.bad(AREA, error.to_string(), "");
    }
    ledger.close().await;
    looked
}

fn is_missing(error: &LedgerError) -> bool {
    match error {
        LedgerError::Empty { .. } => true,
        LedgerError::Sql(error) => matches!(error.fault, Fault::Missing | Fault::Gone),
        _ => false,
    }
}

async fn look(ledger: &Ledger, history: &[Cursor], looked: &mut Looked) -> Result<(), LedgerError> {
    let found = &mut looked.found;
    let meta = ledger.meta().await?;
    found.good(AREA, format!("{}: epoch {}, head {}", ledger.place(), meta.epoch, meta.head));
    match ledger.may_write().await {
        Ok(()) => found.good(AREA, "this user writes into it"),
        Err(error) => found.bad(
            AREA,
            format!("it cannot be written: {error}"),
            "the shim's user needs all rights on these tables",
        ),
    }
    work(&meta, found);
    for end in history {
        match ledger.holds(end).await? {
            Holds::Same | Holds::Former => {}
            Holds::OtherLedger => found.warning(
                AREA,
                format!("the broker's history has changes of another ledger (epoch {})", end.epoch),
                "two shims must not publish to one exchange from two ledgers; if this ledger was made anew, this passes with time",
            ),
            Holds::Beyond(head) => found.bad(
                AREA,
                format!("it was set back: the broker's history goes to {end}, the ledger to {head}"),
                "was it restored from a copy? The shim notices this when it starts, and begins a new epoch; clients are told 'gap'",
            ),
            Holds::OtherTag(_) => found.bad(
                AREA,
                format!("it was set back, and has given numbers again: the broker's history has {end} from another run"),
                "stop one of two shims that work on copies of the ledger; bugfeed-shim new-epoch --yes begins anew",
            ),
        }
    }
    if !history.is_empty() && found.worst() <= bugfeed_runtime::findings::Verdict::Skipped {
        found.good(AREA, "it was not set back: the broker's history ends with its numbers");
    }
    looked.recent = ledger.history(meta.head.saturating_sub(RECENT), usize::try_from(RECENT).unwrap_or(200)).await?;
    looked.head = Some(meta.cursor());
    looked.published_to = meta.published_to;
    Ok(())
}

/// Whether somebody works on it, and gets on.
fn work(meta: &Meta, found: &mut Findings) {
    match &meta.holder {
        Some(holder) => found.good(AREA, format!("{holder} works on it")),
        None => {
            found.warning(AREA, "no shim works on it", "start bugfeed-shim; until then, rows wait in the change table")
        }
    }
    let waiting = meta.head.saturating_sub(meta.published);
    if waiting > BACKLOG {
        let fix = "is the broker there, and is a queue or the history bound to the exchange? The shim's log says what it waits for";
        found.warning(AREA, format!("{waiting} recorded changes wait to be published"), fix);
    } else {
        found.good(AREA, format!("{waiting} recorded changes wait to be published"));
    }
    if meta.set_aside > 0 {
        let fix = "bugfeed-shim status shows the latest, with reasons";
        found.warning(
            AREA,
            format!("{} rows were set aside, because no change could be read from them", meta.set_aside),
            fix,
        );
    }
}
