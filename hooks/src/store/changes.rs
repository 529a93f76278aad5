//! Every statement that makes an event or changes its state. No other file writes these columns.
//!
//! Goes in: the actions of plans, in their order, within one transaction. Comes out: whether all of them held. A step
//! is a compare-and-set on (id, state, version); steps that follow one another are one statement, whatever they do, so
//! that thousands of ordinary completions cost a few statements. If one of them does not hold, the transaction must not
//! be committed.
//!
//! What is written along with a step: the row of the change table (before the step, because the step stores its id),
//! the line of the history, the link, the reason of an error; and what is kept of an item is removed when its event
//! ends, or its mapping has succeeded.

use std::collections::{BTreeMap, HashSet};

use bugfeed_core::hooks::action::{Action, Step};
use bugfeed_core::hooks::event::{AT_ONCE, Event, EventId, Link, Progress, State};
use bugfeed_core::hooks::lane::LaneKey;
use bugfeed_core::hooks::states::Cause;
use bugfeed_sql::{CellKind, Tx, Value};

use super::cells::{CHUNK, Rows, marks};
use super::codes::{self, Code};
use super::row::{self, Arrival, Derived, bug_number};
use super::{Store, StoreError, change_table};
use crate::receive::received::Failure;

/// What a transaction is about to write; written as late as possible, and in the order in which it came.
pub(super) struct Changes<'a> {
    store: &'a Store,
    tx: &'a mut Tx,
    now_us: i64,
    new: Rows,
    steps: Vec<&'a Step>,
    /// The events of `new` and `steps`: a second step of one must wait until the first is written.
    waiting: HashSet<EventId>,
    /// Steps whose rows change more than their progress.
    mapped: Vec<&'a Step>,
    links: Rows,
    lines: Rows,
    ended: Vec<EventId>,
    held: bool,
}

impl<'a> Changes<'a> {
    pub(super) fn new(store: &'a Store, tx: &'a mut Tx, now_us: i64) -> Changes<'a> {
        let dialect = store.db.dialect();
        Changes {
            store,
            tx,
            now_us,
            new: Rows::again(dialect),
            steps: Vec::new(),
            waiting: HashSet::new(),
            mapped: Vec::new(),
            links: Rows::again(dialect),
            lines: Rows::again(dialect),
            ended: Vec::new(),
            held: true,
        }
    }

    /// Adds an event that has arrived.
    pub(super) async fn insert(&mut self, event: &Event, arrival: &Arrival, cause: Cause) -> Result<(), StoreError> {
        row::write(&mut self.new, event, arrival);
        self.waiting.insert(event.id);
        if cause != Cause::Accepted {
            self.line(event.id, event.progress.version, None, cause, event.progress.state);
        }
        if self.new.len() >= CHUNK {
            self.flush().await?;
        }
        Ok(())
    }

    /// Adds a link.
    pub(super) fn link(&mut self, of: EventId, link: Link) {
        self.links.row().text(&of.to_string()).text(link.kind.as_str()).text(&link.to.to_string());
    }

    /// Carries out an action of the transaction; what is none of it is passed over. `now_us` is the time of the plan.
    pub(super) async fn action(&mut self, action: &'a Action, now_us: i64) -> Result<(), StoreError> {
        match action {
            Action::Step(step) => {
                if self.waiting.contains(&step.id) || self.steps.len() >= CHUNK || now_us != self.now_us {
                    self.flush().await?;
                }
                self.now_us = now_us;
                self.step(step);
                Ok(())
            }
            Action::Guard { id, version } => {
                self.flush().await?;
                self.guard(*id, *version).await
            }
            Action::Unblock { by } => {
                self.flush().await?;
                self.unblock(*by).await
            }
            Action::Link { of, link } => {
                self.link(*of, *link);
                Ok(())
            }
            Action::Insert { .. } | Action::Ask { .. } | Action::Alert(_) | Action::Wait { .. } => Ok(()),
        }
    }

    fn step(&mut self, step: &'a Step) {
        self.waiting.insert(step.id);
        if !is_in_the_row(step) {
            self.line(step.id, step.after.version, Some(step.from), step.cause, step.after.state);
        }
        if let Some(link) = step.link {
            self.link(step.id, link);
        }
        if step.mapped.is_some() {
            self.mapped.push(step);
        }
        let ends = step.after.state.is_terminal() && (step.from == State::Errored || step.after.class.is_some());
        if ends || step.cause == Cause::Mapped {
            self.ended.push(step.id);
        }
        self.steps.push(step);
    }

    fn line(&mut self, id: EventId, version: u32, from: Option<State>, cause: Cause, to: State) {
        let mut line = self.lines.row();
        line.text(&id.to_string()).int(version.into()).int(self.now_us).maybe_text(from.map(State::as_str));
        line.text(cause.as_str()).text(to.as_str());
    }

    /// Says why events failed.
    pub(super) async fn reasons(&mut self, reasons: &[(EventId, Failure)], now_us: i64) -> Result<(), StoreError> {
        for chunk in reasons.chunks(CHUNK) {
            let ids: Vec<EventId> = chunk.iter().map(|(id, _)| *id).collect();
            self.delete("hooks_reasons", "event", &ids).await?;
            let mut rows = Rows::default();
            for (id, Failure { error, fix }) in chunk {
                rows.row().text(&id.to_string()).int(now_us).short(error, 1000).short(fix, 1000);
            }
            self.tx.execute(&rows.insert("hooks_reasons (event, at_us, error, fix)"), &rows.args).await?;
        }
        Ok(())
    }

    /// Writes what waits; returns whether all compare-and-sets of the transaction held.
    pub(super) async fn finish(mut self) -> Result<bool, StoreError> {
        self.flush().await?;
        Ok(self.held)
    }

    async fn flush(&mut self) -> Result<(), StoreError> {
        self.waiting.clear();
        let new = self.new.take();
        self.insert_rows(&format!("hooks_events ({})", row::all_columns()), &new).await?;
        let mut steps = std::mem::take(&mut self.steps);
        if self.held && !steps.is_empty() {
            // All transactions lock rows in one order, so that two of them do not wait for each other.
            steps.sort_by_key(|step| step.id);
            self.write_steps(&steps).await?;
        }
        for step in std::mem::take(&mut self.mapped) {
            self.write_mapped(step).await?;
        }
        for (into, rows) in [
            ("hooks_lines (event, version, at_us, before_state, cause, after_state)", self.lines.take()),
            ("hooks_links (event, kind, other)", self.links.take()),
        ] {
            self.insert_rows(into, &rows).await?;
        }
        let ended = std::mem::take(&mut self.ended);
        self.delete("hooks_kept", "event", &ended).await
    }

    async fn insert_rows(&mut self, into: &str, rows: &Rows) -> Result<(), StoreError> {
        if self.held && !rows.is_empty() {
            rows.insert_into(self.tx, into).await?;
        }
        Ok(())
    }

    async fn delete(&mut self, table: &str, column: &str, ids: &[EventId]) -> Result<(), StoreError> {
        for chunk in ids.chunks(CHUNK) {
            let args: Vec<Value> = chunk.iter().map(|id| Value::Text(id.to_string())).collect();
            let sql = format!("DELETE FROM {table} WHERE {column} IN ({})", marks(args.len()));
            self.tx.execute(&sql, &args).await?;
        }
        Ok(())
    }

    /// The compare-and-sets: steps that lead to the same have a statement together, in which that stands once.
    async fn write_steps(&mut self, steps: &[&Step]) -> Result<(), StoreError> {
        let rows_of = self.announce(steps).await?;
        let (alike, others) = alike(steps);
        for steps in alike {
            self.write_alike(&steps, &rows_of).await?;
        }
        if self.held && !others.is_empty() {
            self.write_others(&others, &rows_of).await?;
        }
        Ok(())
    }

    /// Steps from one state to the same progress, apart from its version, its times and the row.
    async fn write_alike(&mut self, steps: &[&Step], rows_of: &BTreeMap<EventId, i64>) -> Result<(), StoreError> {
        let Some(first) = steps.first().filter(|_| self.held) else { return Ok(()) };
        let dialect = self.store.db.dialect();
        let mut values = Rows::again(dialect);
        for step in steps {
            let mut row = values.row();
            row.text(&step.id.to_string()).int(step.version.into()).maybe_int(rows_of.get(&step.id).copied());
            row.maybe_int(step.after.due_us).maybe_int(step.after.began_us).maybe_int(step.after.ended_us);
        }
        let on = format!("e.id = v.column1 AND e.state = {} AND e.version = v.column2", first.from.code());
        let set = common_columns(first);
        let mut kinds = [CellKind::Int; 6];
        kinds[0] = CellKind::Text;
        for piece in values.pieces() {
            let table = dialect.rows_as_table(&kinds, piece.rows);
            let sql = dialect.update_from("hooks_events", &table, &on, &set);
            let matched = values.execute(self.tx, &sql, piece.args).await?;
            self.held &= usize::try_from(matched).is_ok_and(|matched| matched == piece.rows.len());
        }
        Ok(())
    }

    async fn write_others(&mut self, steps: &[&Step], rows_of: &BTreeMap<EventId, i64>) -> Result<(), StoreError> {
        let mut values = Rows::default();
        for step in steps {
            let (after, derived) = (&step.after, Derived::of(&step.after));
            let mut row = values.row();
            row.text(&step.id.to_string()).int(step.from.code()).int(step.version.into());
            row.int(after.state.code()).int(after.version.into());
            row.maybe_int(after.class.map(Code::code)).maybe_int(after.drop.map(Code::code));
            row.int(after.attempts.into()).int(after.step.into()).int(after.leases_lost.into());
            row.int(after.trigger.code()).maybe_int(after.due_us);
            row.maybe_text(after.blocked_by.map(|id| id.to_string()).as_deref()).flag(after.released);
            row.maybe_int(after.unseen_us).maybe_int(after.drained_us);
            row.maybe_int(after.began_us).maybe_int(after.ended_us);
            row.maybe_int(rows_of.get(&step.id).copied());
            row.flag(derived.is_open).flag(derived.is_busy).flag(derived.paced).maybe_int(derived.shelf);
        }
        let dialect = self.store.db.dialect();
        let table = dialect.rows_as_table(&STEP_KINDS, &values.rows);
        let on = "e.id = v.column1 AND e.state = v.column2 AND e.version = v.column3";
        let sql = dialect.update_from("hooks_events", &table, on, &step_columns());
        let matched = self.tx.execute(&sql, &values.args).await?;
        self.held &= usize::try_from(matched).is_ok_and(|matched| matched == steps.len());
        Ok(())
    }

    /// Inserts the rows of the change tables; returns their ids.
    async fn announce(&mut self, steps: &[&Step]) -> Result<BTreeMap<EventId, i64>, StoreError> {
        let mut of_feed: BTreeMap<&str, Vec<&Step>> = BTreeMap::new();
        for step in steps {
            if let Some(row) = &step.row {
                of_feed.entry(&row.feed).or_default().push(step);
            }
        }
        let mut ids = BTreeMap::new();
        for (feed, steps) in of_feed {
            let table = self.store.change_table(feed)?;
            let changes: Vec<_> = steps
                .iter()
                .filter_map(|step| step.row.as_ref())
                .map(|row| (row.change.bug, row.change.when))
                .collect();
            let zone = self.store.zone_of(feed);
            let given = change_table::insert(self.store.db.dialect(), self.tx, (&table, zone), &changes).await?;
            ids.extend(steps.iter().map(|step| step.id).zip(given));
        }
        Ok(ids)
    }

    /// A repeated mapping has moved an event to the lane of its bug. The step itself is written already.
    async fn write_mapped(&mut self, step: &Step) -> Result<(), StoreError> {
        let Some(mapped) = step.mapped.as_ref().filter(|_| self.held) else { return Ok(()) };
        let lane = codes::lane(&LaneKey::Bug(mapped.feed.clone(), mapped.bug));
        let derived = Derived::of(&step.after);
        let origin = i64::from(mapped.origin != bugfeed_core::hooks::event::WhenOrigin::Tracker);
        let int = |set: bool| if set { Value::Int(lane) } else { Value::Null };
        let sql = "UPDATE hooks_events SET feed = ?, bug = ?, when_us = ?, origin = ?, is_private = ?, hash = ?, lane = ?, \
                   open_lane = ?, busy = ? WHERE id = ?";
        let args = [
            super::cells::text_value(&mapped.feed),
            Value::Int(bug_number(mapped.bug)),
            Value::Int(mapped.when.as_micros()),
            Value::Int(origin),
            Value::Int(mapped.private.into()),
            Value::Text(codes::hash_text(&mapped.hash)),
            Value::Int(lane),
            int(derived.is_open),
            int(derived.is_busy),
            Value::Text(step.id.to_string()),
        ];
        self.held &= self.tx.execute(sql, &args).await? == 1;
        Ok(())
    }

    /// Locks the row, and checks its version.
    async fn guard(&mut self, id: EventId, version: u32) -> Result<(), StoreError> {
        let sql = "UPDATE hooks_events SET version = version WHERE id = ? AND version = ?";
        let args = [Value::Text(id.to_string()), Value::Int(version.into())];
        self.held &= self.tx.execute(sql, &args).await? == 1;
        Ok(())
    }

    /// See [`bugfeed_core::hooks::action::unblock`].
    async fn unblock(&mut self, by: EventId) -> Result<(), StoreError> {
        let sql = format!(
            "UPDATE hooks_events SET due_us = {AT_ONCE}, open_lane = lane, version = version + 1, blocked_by = NULL \
             WHERE blocked_by = ?"
        );
        self.tx.execute(&sql, &[Value::Text(by.to_string())]).await?;
        Ok(())
    }
}

/// Whether the columns of the row tell all of this step, so that it needs no line: the ordinary way of an event, and
/// steps that only move a time or a link.
fn is_in_the_row(step: &Step) -> bool {
    let to = step.after.state;
    match step.cause {
        Cause::Claimed => step.from == State::Queued,
        Cause::Announced => step.from != State::Errored,
        _ => step.from == to,
    }
}

/// From how many steps on that lead to the same it is worth a statement of their own.
const ALIKE: usize = 8;

/// Groups of steps that lead to the same, and the rest. A blocked event is among the rest, because what blocks it would be a
/// parameter, and databases differ in where it would have to stand.
fn alike<'s>(steps: &[&'s Step]) -> (Vec<Vec<&'s Step>>, Vec<&'s Step>) {
    let mut groups: Vec<Vec<&Step>> = Vec::new();
    let mut others: Vec<&Step> = Vec::new();
    for &step in steps {
        if step.after.blocked_by.is_some() || step.after.version != step.version.wrapping_add(1) {
            others.push(step);
            continue;
        }
        match groups.iter_mut().find(|group| group.first().is_some_and(|first| leads_to_the_same(first, step))) {
            Some(group) => group.push(step),
            None => groups.push(vec![step]),
        }
    }
    let (alike, few): (Vec<_>, Vec<_>) = groups.into_iter().partition(|group| group.len() >= ALIKE);
    others.extend(few.into_iter().flatten());
    others.sort_by_key(|step| step.id);
    (alike, others)
}

fn leads_to_the_same(one: &Step, other: &Step) -> bool {
    let Progress { version, due_us, began_us, ended_us, .. } = one.after;
    one.from == other.from && one.after == Progress { version, due_us, began_us, ended_us, ..other.after.clone() }
}

/// What becomes of each column, where steps lead to the same.
fn common_columns(step: &Step) -> Vec<(&'static str, String)> {
    let (after, derived) = (&step.after, Derived::of(&step.after));
    let maybe = |number: Option<i64>| number.map_or_else(|| "NULL".to_owned(), |number| number.to_string());
    let lane_if = |is_so: bool| if is_so { "e.lane" } else { "NULL" }.to_owned();
    vec![
        ("state", after.state.code().to_string()),
        ("version", "v.column2 + 1".to_owned()),
        ("class", maybe(after.class.map(Code::code))),
        ("drop_reason", maybe(after.drop.map(Code::code))),
        ("attempts", after.attempts.to_string()),
        ("step", after.step.to_string()),
        ("leases_lost", after.leases_lost.to_string()),
        ("cause_of_try", after.trigger.code().to_string()),
        ("due_us", "v.column4".to_owned()),
        ("blocked_by", "NULL".to_owned()),
        ("released", i64::from(after.released).to_string()),
        ("unseen_us", maybe(after.unseen_us)),
        ("drained_us", maybe(after.drained_us)),
        ("began_us", "v.column5".to_owned()),
        ("ended_us", "v.column6".to_owned()),
        ("row_id", "v.column3".to_owned()),
        ("open_lane", lane_if(derived.is_open)),
        ("busy", lane_if(derived.is_busy)),
        ("paced", i64::from(derived.paced).to_string()),
        ("shelf", maybe(derived.shelf)),
    ]
}

/// The kinds of the cells that `write_others` writes: one for each column below, after id, state and version.
const STEP_KINDS: [CellKind; 23] = {
    let mut kinds = [CellKind::Int; 23];
    (kinds[0], kinds[12]) = (CellKind::Text, CellKind::Text);
    kinds
};

/// What becomes of each column.
fn step_columns() -> Vec<(&'static str, String)> {
    const PLAIN: [&str; 16] = [
        "state",
        "version",
        "class",
        "drop_reason",
        "attempts",
        "step",
        "leases_lost",
        "cause_of_try",
        "due_us",
        "blocked_by",
        "released",
        "unseen_us",
        "drained_us",
        "began_us",
        "ended_us",
        "row_id",
    ];
    let lane_if = |n: usize| format!("CASE WHEN v.column{n} = 1 THEN e.lane END");
    let mut set: Vec<(&str, String)> = (4..).zip(PLAIN).map(|(n, name)| (name, format!("v.column{n}"))).collect();
    set.push(("open_lane", lane_if(20)));
    set.push(("busy", lane_if(21)));
    set.push(("paced", "v.column22".to_owned()));
    set.push(("shelf", "v.column23".to_owned()));
    set
}
