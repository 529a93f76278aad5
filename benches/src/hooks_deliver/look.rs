//! What the store takes to be read, as a process reads it that takes endpoints over: while the program works on it.
//!
//! Goes in: the file. Comes out: figures. It looks, and writes nothing.

use std::time::Instant;

use anyhow::Result;
use bugfeed_core::endpoints::partitions::PARTITIONS;
use bugfeed_hooks::store::{Options, Store};
use bugfeed_sql::DbUrl;

use crate::figures::{Figures, ms};

/// Rows of a page.
const PAGE: usize = 1000;
/// Looks for what people have changed.
const LOOKS: u32 = 1000;

/// Reads all endpoints, and looks for changes.
pub(super) async fn measure(store: &DbUrl, figures: &mut Figures) -> Result<()> {
    let look = Options { create: false, works: false, ..Options::default() };
    let store = Store::open(store, look).await?.store;
    let partitions: Vec<u16> = (0..PARTITIONS).collect();
    let (begin, mut after, mut count) = (Instant::now(), None, 0);
    loop {
        let page = store.endpoints_of(&partitions, after.as_ref(), PAGE).await?;
        let Some(last) = page.last() else { break };
        (after, count) = (Some(last.id.clone()), count + page.len());
    }
    figures.add("endpoints read by who takes them over", "endpoints/s", count as f64 / begin.elapsed().as_secs_f64());
    let (_, mark) = store.endpoints_changed(0).await?;
    let begin = Instant::now();
    for _ in 0..LOOKS {
        store.endpoints_changed(mark).await?;
    }
    figures.add("a look for endpoints that people changed", "ms", ms(begin.elapsed() / LOOKS));
    store.close().await;
    Ok(())
}
