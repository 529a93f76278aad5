//! The steps of a mapping, for people who want to know why it came out as it did.

use std::fmt;

/// One look at one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The member of the configuration, such as `bug`.
    pub member: &'static str,
    /// The place, as it was looked for.
    pub place: String,
    /// What was there, shortened.
    pub found: String,
    /// What was made of it (empty: it was taken as it is), or why it could not be used. `None` where there was nothing.
    pub used: Option<Result<String, String>>,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<10} {} → {}", self.member, self.place, self.found)?;
        match &self.used {
            None => Ok(()),
            Some(Ok(taken)) if taken.is_empty() => f.write_str(" ✓"),
            Some(Ok(taken)) => write!(f, " ✓ {taken}"),
            Some(Err(why)) => write!(f, " ✗ {why}"),
        }
    }
}

/// Collects steps, or does not.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    is_on: bool,
    pub(crate) steps: Vec<Step>,
}

impl Trace {
    /// Collects nothing.
    pub(crate) fn off() -> Trace {
        Trace::default()
    }

    /// Collects.
    pub(crate) fn on() -> Trace {
        Trace { is_on: true, steps: Vec::new() }
    }

    /// Adds a step, which is made only if it is wanted.
    pub(crate) fn note(&mut self, step: impl FnOnce() -> Step) {
        if self.is_on {
            self.steps.push(step());
        }
    }
}
