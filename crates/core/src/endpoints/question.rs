//! What a feed answers an endpoint: the newest change of each of its bugs since its cursor, and the verdict.
//!
//! Goes in: the bugs, and where the endpoint stands. Comes out: changes with the cursors that are told with them, a gap,
//! or the word that nothing can be said yet. It reads the replay cache as a session's conflation does, and holds cursors
//! back by the same rule. It never waits; the caller asks again when the feed has moved. The caller does not ask at all
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

/// No change takes fewer bytes in a request.
const SHORTEST: usize = r#"{"bug":1,"when":"2026-11-26T12:00:00","cursor":"E.1"},"#.len();
/// So many changes of all bugs are found at a time, however many may be told.
const MOST_FOUND: usize = 10_000;

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

/// The changes that are owed: the newest of each bug, oldest first, a page at a time; and what is to be known of them all
/// before the first is told.
struct Owing<'a> {
    pages: Pages<'a>,
    /// There is none.
    is_none: bool,
    /// Changes of the same bugs are left out.
    are_some_left_out: bool,
    /// The position of the last one that came late.
    last_late: Option<Pos>,
}

/// Of some bugs, all changes are one page. Of all bugs, a page has hardly more than a request takes, so that neither the
/// memory of a question nor its time depends on how many bugs wait.
enum Pages<'a> {
    One(Option<Vec<Found>>),
    All { first: Option<Vec<Found>>, replay: &'a Replay, wanted: WantedOfAll, size: PageSize },
}

impl Iterator for Pages<'_> {
    type Item = Vec<Found>;

    fn next(&mut self) -> Option<Vec<Found>> {
        match self {
            Pages::One(found) => found.take(),
            Pages::All { first, replay, wanted, size } => first.take().or_else(|| next_page(replay, wanted, *size)),
        }
    }
}

/// The next page, if there may be one.
fn next_page(replay: &Replay, wanted: &mut WantedOfAll, size: PageSize) -> Option<Vec<Found>> {
    if wanted.after_old >= wanted.upto {
        return None;
    }
    let mut found = Vec::new();
    let searched = replay.newest_page(wanted, size, &mut found);
    (wanted.after, wanted.after_old) = (wanted.after.max(searched), searched);
    Some(found)
}

impl<'a> Owing<'a> {
    fn of(replay: &Replay, bugs: &[BugId], owed: &Owed<'_>, upto: Pos) -> Owing<'a> {
        let (after, mut found) = (owed.after, Vec::new());
        match owed.time {
            None => replay.newest(bugs, after, upto, &mut found),
            since @ Some(_) => {
                let wanted = Wanted { bugs, after, after_old: 0, upto, since, limit: 0 };
                replay.every(&wanted, &mut found);
            }
        }
        Owing {
            is_none: found.is_empty(),
            are_some_left_out: !replay.are_all_after(&found, after),
            last_late: replay.last_late(&found),
            pages: Pages::One(Some(found)),
        }
    }

    fn of_all(replay: &'a Replay, owed: &Owed<'_>, upto: Pos, bound: Bound) -> Owing<'a> {
        let (after, since) = (owed.after, owed.time);
        let after_old = if since.is_some() { 0 } else { after };
        let mut wanted = WantedOfAll { after, after_old, upto, since, newest_only: true };
        let last_late = replay.last_late_newest(&wanted);
        // One more than is told shows that there are more.
        let found = bound.entries.min(bound.bytes / SHORTEST).min(MOST_FOUND) + 1;
        // To look at a position takes some eight times as long as to pass over a bug of the table.
        let size = PageSize { found, seen: 2 * found as u64 + replay.bugs() as u64 / 8 };
        let first = next_page(replay, &mut wanted, size);
        let is_none = first.as_ref().is_none_or(Vec::is_empty);
        Owing {
            is_none,
            are_some_left_out: !is_none && replay.is_any_left_out(after, upto),
            last_late,
            pages: Pages::All { first, replay, wanted, size },
        }
    }
}

fn look_up(replay: &Replay, ask: &Ask<'_>, owed: &Owed<'_>, standing: Standing) -> Answer {
    let (after, upto) = (owed.after, standing.head);
    let head = Place { pos: upto, breaks: standing.breaks, hold: None, ahead: owed.ahead };
    let owing = match ask.watch {
        Watch::Bugs(bugs) => Owing::of(replay, bugs, owed, upto),
        Watch::All => Owing::of_all(replay, owed, upto, ask.bound),
    };
    // A change from before this time may have left the ring, and then it cannot be told whether others did.
    let dated = owed.time.is_some() && replay.start() > 1 && after < replay.start();
    let left_out = !owing.is_none && (dated || owing.are_some_left_out);
    let hold = CursorHold::until(owing.last_late, owed.hold, after, owed.time.is_none());
    let mut found = owing.pages.flatten().filter(|found| !owed.is_had(replay, found)).peekable();
    let answer = match (found.peek().is_none(), owed.ahead) {
        (true, true) => Answer::Ahead(head),
        (true, false) => Answer::Changes(nothing(standing.cursor.clone(), head)),
        (false, _) => {
            let batch = cut(replay, ask, owed, found, Place { hold, ..head }, &standing.cursor);
            Answer::Changes(Batch { left_out, ..batch })
        }
    };
    // This comes last: what the cache has forgotten meanwhile may be missing from what was found.
    let forgotten = owed.time.is_none() && after < replay.floor();
    let newest_is_lost = || match ask.watch {
        Watch::Bugs(bugs) => replay.newest_is_lost(bugs, upto),
        Watch::All => replay.newest_of_any_is_lost(upto),
    };
    if forgotten || newest_is_lost() {
        return Answer::Gap(standing.cursor, Place { ahead: false, ..head });
    }
    answer
}

/// As many of the changes as may stand in one request. `head` is the place of who has them all, with the hold on the
/// cursor until then.
fn cut(
    replay: &Replay,
    ask: &Ask<'_>,
    owed: &Owed<'_>,
    found: impl Iterator<Item = Found>,
    head: Place,
    standing: &Cursor,
) -> Batch {
    let (mut changes, mut bytes): (Vec<Told>, usize) = (Vec::new(), 0);
    let mut place = Place { hold: None, ..head };
    for found in found {
        // A position whose number was forgotten stands in no run, which only a question by time can meet.
        let cursor = CursorHold::cursor(head.hold, replay, found.pos).or_else(|| replay.cursor_before(found.pos));
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
        place = Place { pos: found.pos, hold: head.hold, ahead: owed.has.is_some(), ..head };
    }
    let cursor = changes.last().map_or_else(|| standing.clone(), |last| last.cursor.clone());
    Batch { changes, more: false, left_out: false, cursor, place: Place { hold: None, ..head } }
}

#[cfg(test)]
mod tests;
