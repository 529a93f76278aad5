//! Whether sources are silent for longer than usual, and whether dead letters grow: what the pure parts need of the store.
//!
//! Goes in: when something of each source was last taken, and how many dead letters there are. Comes out: alerts. What was learned of
//! each source is kept in a note, so that a restart does not forget it.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use bugfeed_core::hooks::SECOND_US;

use super::Shared;
use crate::notify::silence::{Growth, HOURS, Hour, Silence};
use crate::store::StoreError;

/// What was learned is kept so often, in microseconds.
const KEEP_EVERY_US: i64 = 3600 * SECOND_US;
/// A number of slots is kept in steps of 1 / this.
const SCALE: f32 = 5.0;

/// What is known of the silences of all sources.
#[derive(Default)]
pub(super) struct Silences {
    sources: HashMap<String, Known>,
    growth: Growth,
    kept_us: i64,
}

struct Known {
    silence: Silence,
    heard_us: i64,
}

impl Silences {
    /// To be called about every minute.
    pub(super) async fn tick(&mut self, shared: &Shared) -> Result<(), StoreError> {
        let now_us = shared.now_us();
        let names: Vec<String> = shared.sources.table().sources.keys().cloned().collect();
        self.sources.retain(|name, _| names.contains(name));
        for name in names {
            self.look(shared, &name, now_us).await?;
        }
        let dead_letters = shared.store.count_dead_letters().await?;
        if let Some(grown) = self.growth.sample(now_us, dead_letters) {
            let text = format!("dead letters have grown by {grown} within an hour, to {dead_letters}");
            shared.alerts.raise("dead-letters", None, "growing", text);
        }
        if !(0..KEEP_EVERY_US).contains(&(now_us - self.kept_us)) {
            self.keep(shared).await?;
            self.kept_us = now_us;
        }
        Ok(())
    }

    async fn look(&mut self, shared: &Shared, name: &str, now_us: i64) -> Result<(), StoreError> {
        let last_us = shared.store.last_taken(name).await?.unwrap_or(0);
        if !self.sources.contains_key(name) {
            let learned = shared.store.note(&note(name)).await?.as_deref().map(read).unwrap_or_default();
            let known = Known { silence: Silence::new(&learned, now_us), heard_us: last_us };
            self.sources.insert(name.to_owned(), known);
        }
        let Some(known) = self.sources.get_mut(name) else { return Ok(()) };
        if last_us > known.heard_us {
            known.heard_us = last_us;
            known.silence.heard(now_us);
        }
        if let Some(silent_us) = known.silence.tick(now_us) {
            let minutes = silent_us / (60 * SECOND_US);
            let text = format!("source {name} has sent nothing for {minutes} minutes, which is unusual at this hour");
            shared.alerts.raise("silence", Some(name), "", text);
            // Its webhooks may be lost.
            shared.hint(name, crate::tracker::reconcile::Hint::Hurry);
        }
        Ok(())
    }

    async fn keep(&self, shared: &Shared) -> Result<(), StoreError> {
        for (name, known) in &self.sources {
            shared.store.set_note(&note(name), &write(known.silence.learned())).await?;
        }
        Ok(())
    }
}

fn note(source: &str) -> String {
    format!("silence {source}")
}

/// Two bytes for each hour of the week.
fn write(hours: &[Hour]) -> String {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 255")]
    let byte = |slots: f32| (slots * SCALE).round().clamp(0.0, 255.0) as u8;
    let bytes: Vec<u8> = hours.iter().flat_map(|hour| [byte(hour.slots), byte(hour.busy)]).collect();
    STANDARD_NO_PAD.encode(bytes)
}

/// What cannot be read was never learned.
fn read(text: &str) -> Vec<Hour> {
    let bytes = STANDARD_NO_PAD.decode(text).unwrap_or_default();
    if bytes.len() != 2 * HOURS {
        return Vec::new();
    }
    let number = |byte: u8| f32::from(byte) / SCALE;
    bytes.chunks_exact(2).map(|pair| Hour { slots: number(pair[0]), busy: number(pair[1]) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_learned_fits_into_a_note() {
        let hours: Vec<Hour> = (0_u8..168).map(|n| Hour { slots: 48.0, busy: f32::from(n % 48) }).collect();
        let text = write(&hours);
        assert!(text.len() <= 1000);
        assert_eq!(read(&text), hours);
        assert_eq!(read("AAAA"), Vec::new());
        assert_eq!(read("?"), Vec::new());
    }
}
