//! The daily digest: what all processes have counted, sent by one of them, once a day.
//!
//! Goes in: counts of each process's alerts. Comes out: notes in the store, one for each subject and source, and at the time
//! of day for it a message made of them. The note of the day is changed before the message is sent, so that it is sent once,
//! whoever leads; a process that dies in between loses that day's digest, and nothing else.

use super::Shared;
use crate::notify::digest_day;
use crate::store::StoreError;

/// The note with the number of the day whose digest was sent last.
const DAY: &str = "digest day";
/// How the names of the notes with counts begin.
const TOLD: &str = "told ";
/// A note that others change at the same moment is tried so often.
const TRIES: u32 = 10;
/// A digest has at most so many lines of counts.
const MOST_LINES: usize = 100;

/// Hands over what this process has counted. What cannot be handed over is kept for the next time.
pub(super) async fn count(shared: &Shared) -> Result<(), StoreError> {
    let counts = shared.alerts.take_counts();
    let mut left = counts.clone();
    let mut result = Ok(());
    for ((subject, source), count) in counts {
        result = add(shared, &format!("{TOLD}{subject} {}", source.as_deref().unwrap_or_default()), count).await;
        if result.is_err() {
            break;
        }
        left.remove(&(subject, source));
    }
    shared.alerts.return_counts(left);
    result
}

async fn add(shared: &Shared, name: &str, count: u64) -> Result<(), StoreError> {
    for _ in 0..TRIES {
        let old = shared.store.note(name).await?;
        let before: u64 = old.as_deref().and_then(|text| text.parse().ok()).unwrap_or(0);
        let sum = before.saturating_add(count).to_string();
        if shared.store.change_note(name, old.as_deref(), Some(&sum)).await? {
            return Ok(());
        }
    }
    Err(StoreError::Contended)
}

/// Sends the digest, if it is due. For the process that leads.
pub(super) async fn send(shared: &Shared) -> Result<(), StoreError> {
    let day = digest_day(shared.now_us());
    let old = shared.store.note(DAY).await?;
    let sent: Option<i64> = old.as_deref().and_then(|text| text.parse().ok());
    // A day far ahead is from a clock that was wrong. The clock of another process may be a little ahead.
    if sent.is_some_and(|sent| day <= sent && sent <= day + 1) {
        return Ok(());
    }
    let is_mine = shared.store.change_note(DAY, old.as_deref(), Some(&day.to_string())).await?;
    // A store in which there never was a digest has no day to tell of.
    if is_mine && sent.is_some() {
        let mut lines = shared.events.digest();
        lines.extend(take(shared).await?);
        shared.alerts.digest(lines);
    }
    Ok(())
}

/// The counts of all processes, as lines. They begin at nothing again.
async fn take(shared: &Shared) -> Result<Vec<String>, StoreError> {
    let mut lines = Vec::new();
    for (name, count) in shared.store.notes_like(TOLD).await? {
        // One that was changed just now is for the next day.
        if !shared.store.change_note(&name, Some(&count), None).await? {
            continue;
        }
        let (subject, source) = name.strip_prefix(TOLD).and_then(|of| of.split_once(' ')).unwrap_or_default();
        let source = if source.is_empty() { String::new() } else { format!(" ({source})") };
        lines.push(format!("{subject}{source}: {count}"));
    }
    lines.sort();
    lines.truncate(MOST_LINES);
    Ok(lines)
}
