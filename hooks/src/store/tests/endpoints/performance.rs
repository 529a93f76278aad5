//! Figures on SQLite: `cargo test --release -p bugfeed-hooks -- --ignored --nocapture figures_of_endpoints`.

use std::time::Instant;

use bugfeed_core::endpoints::row::Row;
use futures::stream::{self, StreamExt as _};

use super::super::rig::Rig;
use super::{attempt, hold_all, id, moved, row, save, settings};
use crate::store::endpoints::columns;
use crate::store::endpoints::{EndpointId, SaveQueue, Saved};

const ENDPOINTS: u32 = 10_000;
const SAVES: u64 = 50_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it measures"]
async fn figures_of_endpoints() {
    let rig = Rig::sqlite().await;
    let store = &rig.store;
    let mut tx = store.db.begin().await.unwrap();
    for n in 0..ENDPOINTS {
        let cells = columns::cells(&id(n), &settings(n), &row(&[1, 2, 3]), 1);
        let marks = vec!["?"; cells.len()].join(",");
        let sql = format!("INSERT INTO hooks_endpoints ({}) VALUES ({marks})", columns::COLUMNS.join(","));
        tx.execute_kept(&sql, &cells).await.unwrap();
    }
    tx.commit().await.unwrap();
    hold_all(store, 1).await;
    let partitions: Vec<u16> = (0..32).collect();
    let (begin, mut after, mut rows) = (Instant::now(), None, Vec::<(EndpointId, Row)>::new());
    loop {
        let page = store.endpoints_of(&partitions, after.as_ref(), 1000).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.id.clone());
        rows.extend(page.into_iter().map(|stored| (stored.id, stored.row)));
    }
    eprintln!("{} endpoints read in {:?}", rows.len(), begin.elapsed());
    let begin = Instant::now();
    for _ in 0..1000 {
        store.endpoints_changed(0).await.unwrap();
    }
    eprintln!("a look for changes: {:?}", begin.elapsed() / 1000);
    let queue = SaveQueue::start(store.clone());
    for in_flight in [1, 10, 100, 500, 2000] {
        let (begin, count) = (Instant::now(), if in_flight == 1 { 1000 } else { SAVES });
        let saves = stream::iter(0..count).map(|n| {
            let (id, row) = &mut rows[usize::try_from(n).unwrap() % ENDPOINTS as usize];
            *row = moved(row, 1, n);
            queue.save(save(id, row, vec![attempt(id, n.cast_signed())]))
        });
        let saved = saves.buffer_unordered(in_flight).filter(|saved| {
            let stored = matches!(saved, Ok(Saved::Stored));
            async move { stored }
        });
        assert_eq!(saved.count().await as u64, count);
        let per_second = count as f64 / begin.elapsed().as_secs_f64();
        eprintln!(
            "{in_flight} at once: {per_second:.0} saves with attempts a second; log {} bytes",
            store.attempt_bytes()
        );
    }
    let begin = Instant::now();
    store.count_attempts().await.unwrap();
    eprintln!("the log counted in {:?}", begin.elapsed());
}
