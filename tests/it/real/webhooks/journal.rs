//! What a sender sent, and what it was answered.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};

use bugfeed_protocol::When;
use serde::Deserialize;

use super::post::Posted;

/// An event of which a sender was told that it was taken.
#[derive(Clone, Debug)]
pub struct Taken {
    /// The identifier of the request.
    pub request: String,
    /// The identifier of the event.
    pub event: String,
    pub bug: u64,
    pub when: When,
}

#[derive(Debug, Default)]
struct Notes {
    sent: u64,
    taken: Vec<Taken>,
    /// How often an item was said to be in each state.
    states: BTreeMap<String, u64>,
    /// How often a request was not answered with 200, and why.
    refused: BTreeMap<String, u64>,
    /// How many messages there were of the same bug and date.
    messages: HashMap<(u64, When), u32>,
    wrong: Vec<String>,
}

/// The journal of a sender. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct Journal(Arc<Mutex<Notes>>);

#[derive(Deserialize)]
struct Answer {
    result: String,
    request: String,
    items: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    state: String,
    event: String,
}

/// What an item may become at first.
const STATES: [&str; 3] = ["queued", "spooled", "duplicate"];

impl Journal {
    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.0.lock().unwrap()
    }

    /// There is a message to send.
    pub fn message(&self, bug: u64, when: When) {
        *self.notes().messages.entry((bug, when)).or_default() += 1;
    }

    /// A request about this change was made; returns whether it was answered with success.
    pub fn posted(&self, bug: u64, when: When, posted: &Posted) -> bool {
        let mut notes = self.notes();
        notes.sent += 1;
        let (status, body) = match posted {
            Posted::Answered(status, body) => (*status, body),
            Posted::Failed(why) => {
                *notes.refused.entry((*why).to_owned()).or_default() += 1;
                return false;
            }
        };
        if status != 200 {
            *notes.refused.entry(status.to_string()).or_default() += 1;
            return false;
        }
        match serde_json::from_str::<Answer>(body) {
            Ok(Answer { result, request, items }) if result == "ok" && items.len() == 1 => {
                let Item { state, event } = items.into_iter().next().unwrap();
                if !STATES.contains(&state.as_str()) {
                    notes.wrong.push(format!("bug {bug}, {when}: answered with {body}"));
                }
                *notes.states.entry(state).or_default() += 1;
                notes.taken.push(Taken { request, event, bug, when });
            }
            _ => notes.wrong.push(format!("bug {bug}, {when}: answered with {body}")),
        }
        true
    }

    /// All that it was told to be taken.
    pub fn taken(&self) -> Vec<Taken> {
        self.notes().taken.clone()
    }

    /// How many messages there were of this bug and date.
    pub fn messages(&self, bug: u64, when: When) -> u32 {
        self.notes().messages.get(&(bug, when)).copied().unwrap_or(0)
    }

    /// What no receiver may answer.
    pub fn wrong(&self) -> Vec<String> {
        self.notes().wrong.clone()
    }

    /// Requests and answers, in words.
    pub fn line(&self) -> String {
        let notes = self.notes();
        let list = |counts: &BTreeMap<String, u64>| {
            counts.iter().map(|(what, count)| format!("{what} {count}")).collect::<Vec<_>>().join(", ")
        };
        let refused: u64 = notes.refused.values().sum();
        format!(
            "{} requests, {} answered with 200 ({}), {refused} not ({})",
            notes.sent,
            notes.taken.len(),
            list(&notes.states),
            list(&notes.refused),
        )
    }
}
