//! What the store knows when items arrive, read with two queries for all of them.
//!
//! Goes in: arriving events; later, what was decided about them. Comes out: [`Known`] for each. An item sees the items
//! before it in the same transaction as if they were stored.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};

use bugfeed_core::hooks::action::Action;
use bugfeed_core::hooks::arrival::{DedupKey, Known};
use bugfeed_core::hooks::event::{Event, WhenOrigin};
use bugfeed_core::hooks::lane::LaneKey;
use bugfeed_sql::{CellKind, Dialect, Tx, Value};

use super::super::StoreError;
use super::super::cells::{CHUNK, Rows};
use super::super::codes;
use super::super::row::{self, columns, key_columns};

/// How many events of a key are looked at.
const OF_KEY: usize = 16;

/// A bug's lane and a time of it.
type Moment = (i64, i64);

/// What is known. All lists have the newest events first.
#[derive(Default)]
pub(super) struct Facts {
    same_key: HashMap<i64, Vec<Event>>,
    /// The generation of the next event with this number of a key.
    generations: HashMap<i64, u32>,
    same_time: HashMap<Moment, Vec<Event>>,
}

fn number(event: &Event) -> Option<i64> {
    codes::dedup(&event.source, &DedupKey::of(event))
}

fn moment(event: &Event) -> Option<Moment> {
    let is_dated = event.bug.is_some() && event.origin == WhenOrigin::Tracker;
    is_dated.then(|| (codes::lane(&LaneKey::of(event)), event.when.as_micros()))
}

/// Puts an event before the others, of which no more are kept than are looked at: thousands may come of one moment.
fn note(newest_first: &mut Vec<Event>, event: &Event) {
    newest_first.truncate(OF_KEY - 1);
    newest_first.insert(0, event.clone());
}

impl Facts {
    /// Reads what is known of these events.
    pub(super) async fn read<'e>(
        tx: &mut Tx,
        dialect: &dyn Dialect,
        arriving: impl Iterator<Item = &'e Event>,
    ) -> Result<Facts, StoreError> {
        let (mut numbers, mut moments) = (BTreeSet::new(), BTreeSet::new());
        for event in arriving {
            numbers.extend(number(event));
            moments.extend(moment(event));
        }
        let mut facts = Facts::default();
        let numbers: Vec<i64> = numbers.into_iter().collect();
        for chunk in numbers.chunks(2 * CHUNK) {
            facts.read_keys(tx, chunk).await?;
        }
        let moments: Vec<Moment> = moments.into_iter().collect();
        for chunk in moments.chunks(CHUNK) {
            facts.read_moments(tx, dialect, chunk).await?;
        }
        let newest_first = |list: &mut Vec<Event>| list.sort_by_key(|event| Reverse(event.id));
        facts.same_key.values_mut().for_each(newest_first);
        facts.same_time.values_mut().for_each(newest_first);
        Ok(facts)
    }

    async fn read_keys(&mut self, tx: &mut Tx, numbers: &[i64]) -> Result<(), StoreError> {
        let limit = numbers.len() * OF_KEY;
        let list = numbers.iter().map(i64::to_string).collect::<Vec<_>>().join(",");
        let sql = format!("SELECT {} FROM hooks_events WHERE dedup IN ({list}) LIMIT {limit}", key_columns());
        let rows = tx.fetch(&sql, &[]).await?;
        if rows.len() < limit {
            self.add_keys(rows);
            return Ok(());
        }
        // Some keys have more events than are looked at: only the newest of each are read.
        for number in numbers {
            let end = format!("WHERE dedup = {number} ORDER BY generation DESC LIMIT {OF_KEY}");
            let sql = format!("SELECT {} FROM hooks_events {end}", key_columns());
            self.add_keys(tx.fetch(&sql, &[]).await?);
        }
        Ok(())
    }

    fn add_keys(&mut self, rows: Vec<Vec<Value>>) {
        for row in rows {
            // The number as it is stored: what it was made of may have changed by a repeated mapping. It counts also where
            // the rest of the row cannot be read.
            let Some((number, generation)) = row::key_of(&row) else { continue };
            let next = self.generations.entry(number).or_insert(0);
            *next = (*next).max(generation + 1);
            let event = row::readable_row(row).map(|stored| stored.event);
            self.same_key.entry(number).or_default().extend(event);
        }
    }

    async fn read_moments(&mut self, tx: &mut Tx, dialect: &dyn Dialect, moments: &[Moment]) -> Result<(), StoreError> {
        let limit = moments.len() * OF_KEY;
        let mut rows = Rows::default();
        for (lane, when_us) in moments {
            rows.row().int(*lane).int(*when_us);
        }
        let values = dialect.rows_as_table(&[CellKind::Int, CellKind::Int], &rows.rows);
        let all = columns("e.");
        let sql = format!(
            "SELECT {all} FROM {values} v JOIN hooks_events e ON e.lane = v.column1 AND e.when_us = v.column2 WHERE \
             e.origin = 0 LIMIT {limit}"
        );
        let found = tx.fetch(&sql, &[]).await?;
        if found.len() < limit {
            self.add_moments(found);
            return Ok(());
        }
        for (lane, when_us) in moments {
            let sql = format!(
                "SELECT {all} FROM hooks_events e WHERE e.lane = {lane} AND e.when_us = {when_us} AND e.origin = 0 \
                 ORDER BY e.id DESC LIMIT {OF_KEY}"
            );
            self.add_moments(tx.fetch(&sql, &[]).await?);
        }
        Ok(())
    }

    fn add_moments(&mut self, rows: Vec<Vec<Value>>) {
        for event in row::readable_events(rows) {
            if let Some(moment) = moment(&event) {
                self.same_time.entry(moment).or_default().push(event);
            }
        }
    }

    /// What is known of an arriving event.
    pub(super) fn known(&self, event: &Event) -> Known {
        let key = DedupKey::of(event);
        let number = number(event);
        let of_number = number.and_then(|number| self.same_key.get(&number)).map_or(&[][..], Vec::as_slice);
        let is_same = |other: &&Event| other.source == event.source && DedupKey::of(other) == key;
        let of_moment = moment(event).and_then(|moment| self.same_time.get(&moment)).map_or(&[][..], Vec::as_slice);
        let is_beside =
            |other: &&Event| other.source == event.source && other.feed == event.feed && other.bug == event.bug;
        Known {
            same_key: of_number.iter().filter(is_same).take(OF_KEY).cloned().collect(),
            generation: number.and_then(|number| self.generations.get(&number)).copied().unwrap_or(0),
            same_time: of_moment.iter().filter(is_beside).take(OF_KEY).cloned().collect(),
        }
    }

    /// Notes what was decided about an event, for those that come after it.
    pub(super) fn note(&mut self, actions: &[Action]) {
        for action in actions {
            match action {
                Action::Insert { event, generation, .. } => {
                    if let Some(number) = number(event) {
                        self.generations.insert(number, generation + 1);
                        note(self.same_key.entry(number).or_default(), event);
                    }
                    if let Some(moment) = moment(event) {
                        note(self.same_time.entry(moment).or_default(), event);
                    }
                }
                Action::Step(step) => {
                    let lists = self.same_key.values_mut().chain(self.same_time.values_mut());
                    for event in lists.flatten().filter(|event| event.id == step.id) {
                        step.apply(event);
                    }
                }
                _ => {}
            }
        }
    }
}
