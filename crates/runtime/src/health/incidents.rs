//! What became bad or good again last, for people who look.

use std::collections::VecDeque;
use std::time::SystemTime;

/// So many are kept.
const MOST: usize = 50;

/// Something became bad, or good again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incident {
    /// When.
    pub at: SystemTime,
    /// What it is about.
    pub part: String,
    /// What happened, for people.
    pub text: String,
}

/// The last incidents.
#[derive(Debug, Default)]
pub(super) struct Incidents(VecDeque<Incident>);

impl Incidents {
    pub(super) fn note(&mut self, part: &str, text: &str) {
        if self.0.len() == MOST {
            self.0.pop_front();
        }
        self.0.push_back(Incident { at: SystemTime::now(), part: part.to_owned(), text: text.to_owned() });
    }

    /// The newest first.
    pub(super) fn newest(&self) -> Vec<Incident> {
        self.0.iter().rev().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_ones_are_kept() {
        let mut incidents = Incidents::default();
        (0..MOST + 3).for_each(|number| incidents.note("bus", &number.to_string()));
        let newest = incidents.newest();
        assert_eq!((newest.len(), newest[0].text.as_str()), (MOST, "52"));
        assert_eq!(newest.last().unwrap().text, "3");
    }
}
