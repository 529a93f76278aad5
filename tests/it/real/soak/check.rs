//! What must be true in the end. Goes in: what the table ever held, what the ledger numbered, and what each client was
//! sent. Comes out: everything that is wrong, in words.

use std::collections::{HashMap, HashSet};

use bugfeed_protocol::When;

use super::client::{Plan, Seen};

/// So many faults of one client are told.
const TOLD: usize = 5;

/// The changes in the order of their numbers.
pub struct Truth {
    /// Each change's number and bug; dates are unique.
    of: HashMap<When, (u64, u64)>,
    by_bug: HashMap<u64, Vec<(u64, When)>>,
}

impl Truth {
    /// Checks that the numbers are 1, 2, 3… and that every committed row has exactly one.
    pub fn new(written: &[(u64, When)], numbered: &[(u64, u64, When)]) -> Result<Truth, Vec<String>> {
        let mut wrong = Vec::new();
        for (want, (seq, bug, when)) in (1..).zip(numbered) {
            if *seq != want {
                wrong.push(format!("number {seq} (bug {bug}, {when}) where {want} should be"));
                break;
            }
        }
        let mut left: HashMap<(u64, When), i64> = HashMap::new();
        written.iter().for_each(|row| *left.entry(*row).or_default() += 1);
        numbered.iter().for_each(|(_, bug, when)| *left.entry((*bug, *when)).or_default() -= 1);
        let differs = |((bug, when), count): (&(u64, When), &i64)| match count {
            0 => None,
            1.. => Some(format!("bug {bug}, {when} was committed and has no number")),
            _ => Some(format!("bug {bug}, {when} has more numbers than rows")),
        };
        wrong.extend(left.iter().filter_map(differs).take(TOLD));
        if !wrong.is_empty() {
            return Err(wrong);
        }
        let mut by_bug: HashMap<u64, Vec<(u64, When)>> = HashMap::new();
        numbered.iter().for_each(|(seq, bug, when)| by_bug.entry(*bug).or_default().push((*seq, *when)));
        Ok(Truth { of: numbered.iter().map(|(seq, bug, when)| (*when, (*seq, *bug))).collect(), by_bug })
    }

    pub fn changes(&self) -> usize {
        self.of.len()
    }

    fn of_bug(&self, bug: u64) -> &[(u64, When)] {
        self.by_bug.get(&bug).map_or(&[], Vec::as_slice)
    }

    /// The bugs whose newest change a client does not have.
    pub fn lacks(&self, plan: &Plan, seen: &Seen) -> Vec<String> {
        let newest = plan.bugs.iter().filter_map(|bug| Some((bug, self.of_bug(*bug).last()?)));
        let lacking = newest.filter(|(_, (_, when))| !seen.has(*when));
        lacking
            .map(|(bug, (seq, when))| format!("number {seq}, the newest of bug {bug} ({when}), never came"))
            .collect()
    }

    /// How many changes a client was not sent because newer ones of the same bug were on their way.
    pub fn conflated(&self, plan: &Plan, seen: &Seen) -> usize {
        plan.bugs.iter().flat_map(|bug| self.of_bug(*bug)).filter(|(_, when)| !seen.has(*when)).count()
    }

    /// Everything that is wrong with what a client was sent.
    pub fn judge(&self, plan: &Plan, seen: &Seen) -> Vec<String> {
        let mut wrong: Vec<String> = seen.wrong.clone();
        wrong.extend(self.lacks(plan, seen));
        self.judge_order(plan, seen, &mut wrong);
        told(plan, wrong)
    }

    /// What was left out for a client for whom nothing may be conflated.
    pub fn left_out(&self, plan: &Plan, seen: &Seen) -> Vec<String> {
        let all = plan.bugs.iter().flat_map(|bug| self.of_bug(*bug).iter().map(move |change| (bug, change)));
        let missing = all.filter(|(_, (_, when))| plan.exact() && !seen.has(*when));
        told(plan, missing.map(|(bug, (seq, when))| format!("number {seq} (bug {bug}, {when}) was left out")).collect())
    }

    /// Of each bug only newer changes.
    fn judge_order(&self, plan: &Plan, seen: &Seen, wrong: &mut Vec<String>) {
        let watched: HashSet<u64> = plan.bugs.iter().copied().collect();
        let mut last: HashMap<u64, u64> = HashMap::new();
        let mut era = 0;
        for update in &seen.updates {
            if update.era != era {
                last.clear();
            }
            era = update.era;
            let Some(&(seq, bug)) = self.of.get(&update.when) else {
                wrong.push(format!("{update:?} was never committed"));
                continue;
            };
            if bug != update.bug || !watched.contains(&bug) {
                wrong.push(format!("{update:?} is of bug {bug}, watched: {watched:?}"));
            }
            if update.seq.is_some_and(|cursor| cursor != seq) || update.seq.is_none() == plan.modern {
                wrong.push(format!("{update:?} has number {seq}"));
            }
            if last.insert(bug, seq).is_some_and(|last| last >= seq) {
                wrong.push(format!("number {seq} came after a newer change of the bug, or twice: {update:?}"));
            }
        }
    }
}

/// The first of what is wrong with one client, with its name.
fn told(plan: &Plan, mut wrong: Vec<String>) -> Vec<String> {
    let count = wrong.len();
    wrong.truncate(TOLD);
    if count > TOLD {
        wrong.push(format!("and {} more", count - TOLD));
    }
    let kind = if plan.modern { "modern" } else { "classic" };
    wrong.into_iter().map(|text| format!("{kind} client {}: {text}", plan.number)).collect()
}
