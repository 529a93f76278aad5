//! What a feed answers an endpoint: the newest change of each of its bugs since its cursor, and the verdict.
//!
//! Goes in: the bugs, and where the endpoint stands. Comes out: changes with the cursors that are told with them, a gap,
//! or the word that nothing can be said yet. It reads the replay cache as a session's conflation does, and holds cursors
//! back by the same rule. Of all bugs it finds no more than one request may hold, however many changes follow. It never
//! waits; the caller asks again when the feed has moved. The caller does not ask at all
//! (the answer is [`Answer::NotYet`]) while the feed is not current, or while it is being found out whether changes were
//! missed.

use std::sync::Arc;

use bugfeed_protocol::{BugId, Change, Cursor, When};

use crate::cursor_hold::CursorHold;
use crate::position_map::Standing;
use crate::replay::{CursorPlace, Found, PageSize, Pos, Replay, Wanted, WantedOfAll};

/// Which bugs an endpoint watches.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Watch {
    /// All bugs of its feeds.
    All,
    /// These, ascending, each once.
    Bugs(Arc<[BugId]>),
}

/// Where an endpoint stands in a feed, as the store knows it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Since {
    /// It is new: it begins at the head of the feed.
    Head,
    /// It began when the feed had no number yet, or must be told a gap.
    Unknown,
    /// Its receiver has everything up to here.
    Cursor(Cursor),
    /// A person ordered that it is sent again what was recorded from this time on.
    Time(When),
}

/// Where an endpoint stands in the replay cache of this process. It says more than a cursor: a change that came late
/// moves no cursor. It is worth something only until continuity is lost the next time, and only in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pos: Pos,
    /// How often continuity had been lost.
    breaks: u64,
    /// The cursor is held back, because a late change is among those yet to be sent.
    hold: Option<CursorHold>,
    /// The cursor is ahead of this feed, or was when this place was given.
    ahead: bool,
}

/// How much one request may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Changes.
    pub entries: usize,
    /// Bytes of the changes' JSON, with commas. One change is always taken.
    pub bytes: usize,
}

/// No change takes fewer bytes than this, with its comma.
const LEAST_BYTES: usize = 50;

impl Default for Bound {
    /// A body of 20 kB, less what stands around the changes.
    fn default() -> Bound {
        Bound { entries: 10_000, bytes: 19_700 }
    }
}

/// A question.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// Whose changes.
    pub watch: &'a Watch,
    /// Since when.
    pub since: &'a Since,
    /// The place that the last answer gave, if nothing but its changes was accepted since.
    pub place: Option<Place>,
    /// How much may be answered.
    pub bound: Bound,
}

/// One change, and the cursor that a receiver may store once it has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// The change.
    pub change: Change,
    /// The cursor.
    pub cursor: Cursor,
}

impl Told {
    /// The length of `{"bug":1,"when":"…","cursor":"…"},`.
    fn json_len(&self) -> usize {
        struct Count(usize);
        impl std::fmt::Write for Count {
            fn write_str(&mut self, text: &str) -> std::fmt::Result {
                self.0 += text.len();
                Ok(())
            }
        }
        let mut count = Count(r#"{"bug":,"when":"","cursor":""},"#.len());
        let Told { change: Change { bug, when }, cursor } = self;
        let counted = std::fmt::Write::write_fmt(&mut count, format_args!("{bug}{when}{cursor}"));
        counted.map_or(usize::MAX, |()| count.0)
    }
}

/// Changes that were found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The newest of each bug, in order of their positions, as far as they may stand in one request.
    pub changes: Vec<Told>,
    /// There are more.
    pub more: bool,
    /// A change of these bugs since the endpoint's place is left out, because a newer one replaces it; or that cannot be
    /// told.
    pub left_out: bool,
    /// What the receiver has once it has taken the changes.
    pub cursor: Cursor,
    /// The same in this process.
    pub place: Place,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Nothing can be said: no number is known. Ask again when the feed has moved, with this place.
    NotYet(Option<Place>),
    /// The endpoint has more than this feed. If that lasts [`AHEAD_MS`](crate::input::AHEAD_MS) while the feed is current,
    /// its number may never come: ask since [`Since::Unknown`] then. Ask with this place until then.
    Ahead(Place),
    /// Changes may be missing, and nobody knows which. Who is told so asks the tracker, and then has everything up to
    /// this cursor.
    Gap(Cursor, Place),
    /// What changed, possibly nothing.
    Changes(Batch),
}

/// Where an endpoint stands.
enum Begin<'a> {
    /// It is owed what comes after this.
    After(Owed<'a>),
    /// It is new.
    Head,
    Ahead,
    Gap,
    /// It was there before the first change of this process, but changes before that one were given elsewhere.
    GapBeforeFirst(Cursor),
}

struct Owed<'a> {
    after: Pos,
    hold: Option<CursorHold>,
    /// It has the numbered changes up to here, which were recorded after `after`, from another process.
    has: Option<&'a Cursor>,
    /// That number has not come here yet.
    ahead: bool,
    time: Option<When>,
}

impl Owed<'_> {
    fn after(after: Pos) -> Begin<'static> {
        Begin::After(Owed { after, hold: None, has: None, ahead: false, time: None })
    }

    fn is_had(&self, replay: &Replay, found: &Found) -> bool {
        let Some(has) = self.has else { return false };
        replay.number_of(found.pos).is_some_and(|number| number.epoch == has.epoch && number.seq <= has.seq)
    }
}

/// Answers a question from a replay cache.
pub fn answer(replay: &Replay, ask: &Ask<'_>) -> Answer {
    let Some(standing) = replay.standing() else {
        // What comes from now on is all that is owed to who begins here; who has a cursor may be owed more.
        let begins = replay.head() == 0 && matches!(ask.since, Since::Head | Since::Unknown);
        let place = Place { pos: 0, breaks: replay.breaks(), hold: None, ahead: false };
        return Answer::NotYet(begins.then_some(place));
    };
    let head = Place { pos: standing.head, breaks: standing.breaks, hold: None, ahead: false };
    let place = ask.place.filter(|place| place.breaks == standing.breaks);
    let begin = match place {
        Some(place) => from_place(replay, place, ask.since),
        None => from_store(replay, ask.since),
    };
    match begin {
        Begin::After(owed) if owed.after > standing.head => Answer::Ahead(Place { ahead: true, ..head }),
        Begin::After(owed) => look_up(replay, ask, &owed, standing),
        Begin::Head => Answer::Changes(nothing(standing.cursor, head)),
        Begin::Ahead => Answer::Ahead(Place { ahead: true, ..head }),
        Begin::Gap => Answer::Gap(standing.cursor, head),
        Begin::GapBeforeFirst(cursor) => Answer::Gap(cursor, Place { pos: 0, ..head }),
    }
}

/// Where an endpoint stands that was answered by this process since continuity was lost the last time.
fn from_place<'a>(replay: &Replay, place: Place, since: &'a Since) -> Begin<'a> {
    let Place { pos: after, hold, ahead, .. } = place;
    let owed = |has, ahead| Begin::After(Owed { after, hold, has, ahead, time: None });
    match since {
        Since::Head | Since::Unknown => match replay.cursor_before(1) {
            Some(first) if after == 0 && first.seq > 0 => Begin::GapBeforeFirst(first),
            _ => owed(None, false),
        },
        Since::Cursor(cursor) if ahead => match replay.place_of(cursor) {
            CursorPlace::Unknown => Begin::Gap,
            CursorPlace::Ahead => owed(Some(cursor), true),
            CursorPlace::InRing(_) | CursorPlace::BeforeRing(_) => owed(Some(cursor), false),
        },
        Since::Cursor(_) => owed(None, false),
        Since::Time(_) => from_store(replay, since),
    }
}

/// Where an endpoint stands of which only that is known which the store has.
fn from_store<'a>(replay: &Replay, since: &Since) -> Begin<'a> {
    match since {
        Since::Head => Begin::Head,
        Since::Unknown => Begin::Gap,
        Since::Cursor(cursor) => match replay.place_of(cursor) {
            CursorPlace::InRing(pos) | CursorPlace::BeforeRing(pos) => Owed::after(pos),
            CursorPlace::Ahead => Begin::Ahead,
            CursorPlace::Unknown => Begin::Gap,
        },
        Since::Time(when) => {
            let after = replay.before(*when);
            if !replay.is_whole_after(after) {
                return Begin::Gap;
            }
            Begin::After(Owed { after, hold: None, has: None, ahead: false, time: Some(*when) })
        }
    }
}

fn nothing(cursor: Cursor, place: Place) -> Batch {
    Batch { changes: Vec::new(), more: false, left_out: false, cursor, place }
}

/// What a search has found, and what it says of the changes that it passed over.
struct Search {
    /// The newest of each bug, in order of their positions.
    found: Vec<Found>,
    /// The position up to which all of them are found. Of all bugs, it may lie before the end of what was asked for.
    searched: Pos,
    /// A change of these bugs was passed over, because a newer one replaces it; or it cannot be told whether one was.
    left_out: bool,
    /// The last change that came late, before which the cursor is held back.
    last_late: Option<Pos>,
    /// A change is not known any more that every cursor would claim.
    lost: bool,
}

fn look_up(replay: &Replay, ask: &Ask<'_>, owed: &Owed<'_>, standing: Standing) -> Answer {
    let upto = standing.head;
    let head = Place { pos: upto, breaks: standing.breaks, hold: None, ahead: owed.ahead };
    // A question by time begins with what has left the ring.
    let (mut from, mut left_out) = (if owed.time.is_some() { 0 } else { owed.after }, false);
    loop {
        let mut search = match ask.watch {
            Watch::Bugs(bugs) => search(replay, bugs, owed, upto),
            Watch::All => search_all(replay, ask.bound, owed, from, upto),
        };
        // This is asked after the search, because what is forgotten meanwhile is not found.
        let forgotten = owed.time.is_none() && from < replay.floor();
        if forgotten || search.lost {
            return Answer::Gap(standing.cursor, Place { ahead: false, ..head });
        }
        left_out |= search.left_out;
        let at = search.found.first().map_or(owed.after, |first| owed.after.min(first.pos - 1));
        let hold = CursorHold::until(search.last_late, owed.hold, at, owed.time.is_none());
        search.found.retain(|found| !owed.is_had(replay, found));
        let more = search.searched < upto;
        match (search.found.is_empty(), owed.ahead) {
            // The receiver has all that was found, or the ring was trimmed meanwhile.
            (true, _) if more => from = search.searched,
            (true, true) => return Answer::Ahead(head),
            (true, false) => return Answer::Changes(nothing(standing.cursor, head)),
            (false, _) => {
                let end = Place { pos: search.searched, hold, ..head };
                let batch = cut(replay, ask, owed, &search.found, (end, more), &standing.cursor);
                return Answer::Changes(Batch { left_out, ..batch });
            }
        }
    }
}

/// What is owed of these bugs.
fn search(replay: &Replay, bugs: &[BugId], owed: &Owed<'_>, upto: Pos) -> Search {
    let (after, mut found) = (owed.after, Vec::new());
    match owed.time {
        None => replay.newest(bugs, after, upto, &mut found),
        since @ Some(_) => {
            let wanted = Wanted { bugs, after, after_old: 0, upto, since, limit: 0 };
            replay.every(&wanted, &mut found);
        }
    }
    let left_out = is_dated(replay, owed) || !replay.are_all_after(&found, after);
    let (last_late, lost) = (replay.last_late(&found), replay.newest_is_lost(bugs, upto));
    Search { left_out, last_late, lost, searched: upto, found }
}

/// What is owed of all bugs, where it was searched up to `from` already: as much as one request may hold, and one change
/// more, which shows that there is more.
fn search_all(replay: &Replay, bound: Bound, owed: &Owed<'_>, from: Pos, upto: Pos) -> Search {
    let after = owed.after.max(from);
    let wanted = WantedOfAll { after, after_old: from, upto, since: owed.time, newest_only: true };
    let at_most = bound.entries.min(bound.bytes / LEAST_BYTES).saturating_add(1);
    let mut found = Vec::new();
    let searched = replay.page(&wanted, PageSize { found: at_most, seen: Pos::MAX }, &mut found);
    let in_ring = found.iter().filter(|found| found.pos > after).count() as u64;
    // What has left the ring is not known one by one.
    let left_out = after + 1 < replay.start() || searched.saturating_sub(after) > in_ring || is_dated(replay, owed);
    // It is looked for in all that follows: what it replaces may be in this page, and it in a later one.
    let (last_late, lost) = (replay.last_late_in(from, upto), replay.newest_of_any_is_lost(upto));
    Search { left_out, last_late, lost, searched, found }
}

/// Whether changes from before a time may be owed that have left the ring: then it cannot be told whether others are.
fn is_dated(replay: &Replay, owed: &Owed<'_>) -> bool {
    owed.time.is_some() && replay.start() > 1 && owed.after < replay.start()
}

/// As many of the changes as may stand in one request. `end` is the place of who has them all, with the hold on the cursor
/// until then. `more`: there are others after them.
fn cut(
    replay: &Replay,
    ask: &Ask<'_>,
    owed: &Owed<'_>,
    found: &[Found],
    (end, more): (Place, bool),
    standing: &Cursor,
) -> Batch {
    let (mut changes, mut bytes): (Vec<Told>, usize) = (Vec::new(), 0);
    let hold_after = |pos| end.hold.filter(|hold| hold.until > pos);
    let mut place = Place { hold: None, ..end };
    for found in found {
        // A position whose number was forgotten stands in no run, which only a question by time can meet.
        let cursor = CursorHold::cursor(end.hold, replay, found.pos).or_else(|| replay.cursor_before(found.pos));
        let Some(cursor) = cursor else { continue };
        let cursor =
            owed.has.filter(|has| has.epoch == cursor.epoch && has.seq > cursor.seq).unwrap_or(&cursor).clone();
        let told = Told { change: found.change, cursor };
        bytes = bytes.saturating_add(told.json_len());
        let full = changes.len() >= ask.bound.entries || bytes > ask.bound.bytes;
        if full && let Some(last) = changes.last() {
            let (more, cursor) = (true, last.cursor.clone());
            return Batch { changes, more, left_out: false, cursor, place };
        }
        changes.push(told);
        // The rest is looked up from here.
        place = Place { pos: found.pos, hold: hold_after(found.pos), ahead: owed.has.is_some(), ..end };
    }
    let cursor = changes.last().map_or_else(|| standing.clone(), |last| last.cursor.clone());
    let place = match more {
        true => Place { hold: hold_after(end.pos), ahead: owed.has.is_some(), ..end },
        false => Place { hold: None, ..end },
    };
    Batch { changes, more, left_out: false, cursor, place }
}

#[cfg(test)]
mod tests;
