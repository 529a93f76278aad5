//! The commands that do one thing and end: create the change table, show a ledger, begin a new epoch.
//!
//! Goes in: which table or ledger. Comes out: text on standard output.

use std::io::Write as _;

use bugfeed_sql::DbUrl;
use tokio_util::sync::CancellationToken;

use crate::compose::LedgerPlace;
use crate::ledger::Ledger;
use crate::source::{self, Setup, TableSpec};

/// Creates the change table and says what to do next.
///
/// # Errors
/// When the database says no.
pub async fn init(url: &DbUrl, spec: &TableSpec) -> anyhow::Result<()> {
    let what = match source::init(url, spec).await? {
        Setup::Created => "created",
        Setup::Existed => "exists already, with the columns that are needed; nothing was changed",
    };
    let (steps, clock) = (source::next_steps(url, spec), source::clock_hint(url, spec).await);
    writeln!(std::io::stdout(), "Table {} in {}: {what}.\n\n{steps}", spec.table, url)?;
    if !clock.is_empty() {
        writeln!(std::io::stdout(), "\n{clock}")?;
    }
    Ok(())
}

/// Shows how far a ledger is.
///
/// # Errors
/// When there is none, or it cannot be read.
pub async fn status(place: &LedgerPlace) -> anyhow::Result<()> {
    let ledger = Ledger::open_existing(&place.url, &place.prefix).await?;
    let meta = ledger.meta().await?;
    let oldest = ledger.oldest().await?;
    let tag = ledger.latest_tag().await?;
    let set_aside = ledger.set_aside(20).await?;
    ledger.close().await;
    let mut out = std::io::stdout().lock();
    writeln!(out, "ledger       {}", ledger.place())?;
    writeln!(out, "publishes to {}", meta.published_to.as_deref().unwrap_or("(nowhere yet)"))?;
    match &meta.former_epoch {
        Some(former) => writeln!(out, "epoch        {} (before: {former})", meta.epoch)?,
        None => writeln!(out, "epoch        {}", meta.epoch)?,
    }
    match tag {
        Some((tag, since)) => writeln!(out, "tag          {tag} since {since}")?,
        None => writeln!(out, "tag          (none yet)")?,
    }
    writeln!(out, "head         {}", meta.head)?;
    writeln!(out, "published    {}", meta.published)?;
    writeln!(out, "unpublished  {}", meta.head - meta.published)?;
    match oldest {
        Some(oldest) => writeln!(out, "kept from    {oldest}")?,
        None => writeln!(out, "kept from    (nothing kept)")?,
    }
    writeln!(out, "held by      {}", meta.holder.as_deref().unwrap_or("(nobody)"))?;
    writeln!(out, "set aside    {}", meta.set_aside)?;
    for row in set_aside {
        let at = row.at.map(|at| at.to_string()).unwrap_or_default();
        writeln!(out, "  {at}  row {}  bug {}: {}", row.row, row.bug.as_deref().unwrap_or("NULL"), row.reason)?;
    }
    Ok(())
}

/// Begins a new epoch in a ledger that nobody works on; without `yes`, says what that would do.
///
/// # Errors
/// When there is no ledger, or somebody works on it.
pub async fn new_epoch(place: &LedgerPlace, yes: bool) -> anyhow::Result<()> {
    let ledger = Ledger::open_existing(&place.url, &place.prefix).await?;
    let meta = ledger.meta().await?;
    let mut out = std::io::stdout().lock();
    let unpublished = meta.head - meta.published;
    writeln!(
        out,
        "Ledger {}, epoch {}, head {}, {unpublished} unpublished.\n\
         A new epoch: the {unpublished} changes that are not published stay, with the numbers from 1; at the next start of\n\
         the shim every client is told 'gap', and asks the tracker again for what it watches.",
        ledger.place(),
        meta.epoch,
        meta.head
    )?;
    if !yes {
        // This is an error, so that a script does not go on as if the epoch had begun.
        anyhow::bail!("nothing was changed; do it with --yes");
    }
    let holder = std::sync::Mutex::new(String::new());
    let waiting = |name: &str| name.clone_into(&mut holder.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    let stop = CancellationToken::new();
    let acquired = tokio::time::timeout(ledger.longest_silence(), ledger.acquire(&stop, waiting)).await;
    let Some(lease) = acquired.ok().transpose()?.flatten() else {
        let holder = holder.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        anyhow::bail!("ledger {}: {holder} works on it; stop that first. Nothing was changed", ledger.place());
    };
    let done = lease.new_epoch(bugfeed_protocol::When::from_system_time(std::time::SystemTime::now())).await;
    lease.release().await?;
    ledger.close().await;
    writeln!(out, "Done: epoch {}.", done?.epoch)?;
    Ok(())
}
