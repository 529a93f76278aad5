//! What must hold: after a commit, of a plan, and at the end.

use std::collections::BTreeMap;

use bugfeed_core::hooks::action::{Action, Step};
use bugfeed_core::hooks::event::{DropReason, Event, LinkKind, State, WhenOrigin};
use bugfeed_core::hooks::lane::{DeadLetters, Lane, Older, Private, Settings};
use bugfeed_core::hooks::outcome::Outcome;
use bugfeed_core::hooks::states::Cause;

use super::worker::Job;
use super::{Checked, World};

/// A plan in one line.
pub fn told(actions: &[Action]) -> String {
    let tell = |action: &Action| match action {
        Action::Step(step) => format!("{}: {} {} {:?}", step.id.0, step.cause, step.after.state, step.after.due_us),
        action => format!("{action:?}"),
    };
    actions.iter().map(tell).collect::<Vec<_>>().join(", ")
}

fn steps(actions: &[Action]) -> impl Iterator<Item = &Step> {
    actions.iter().filter_map(|action| match action {
        Action::Step(step) => Some(&**step),
        _ => None,
    })
}

impl World {
    pub fn check_commit(&self, job: &Job, seen: &Lane, actions: &[Action]) -> Checked {
        let settings = |event: &Event| {
            let of_now = self.settings()(event);
            let holds = !self.loose.contains(&event.source);
            Settings { dead_letters: if holds { of_now.dead_letters } else { DeadLetters::Supersede }, ..of_now }
        };
        self.store.check_order(seen, actions, &settings)?;
        for step in steps(actions) {
            let event = &*self.store.events[&step.id];
            if step.row.is_some() {
                self.check_row(job, step, event)?;
            }
            let planned_us = match job {
                Job::Read(_, _, at_us) | Job::Concludes(_, _, _, at_us) => *at_us,
                _ => self.now_us,
            };
            if step.cause == Cause::Expired && planned_us < event.expires_us {
                return Err(format!("{} expired too early", step.id));
            }
            if step.cause == Cause::Older {
                self.check_older(step, event)?;
            }
        }
        Ok(())
    }

    fn check_row(&self, job: &Job, step: &Step, event: &Event) -> Checked {
        let settings = self.settings()(event);
        if event.private && settings.private == Private::Drop {
            return Err(format!("{} is private and was announced", step.id));
        }
        let asked = match job {
            Job::Concludes(claim, outcome, ..) => {
                let is_hidden = *outcome == Outcome::Private && settings.private == Private::Announce;
                claim.id == step.id && (*outcome == Outcome::Visible || is_hidden)
            }
            _ => false,
        };
        if settings.verify && !asked {
            return Err(format!("{} was announced without having been seen", step.id));
        }
        Ok(())
    }

    fn check_older(&self, step: &Step, event: &Event) -> Checked {
        let link = step.link.ok_or("dropped for nothing")?;
        let newer = &self.store.events[&link.to];
        let dated = newer.origin == WhenOrigin::Tracker && event.origin == WhenOrigin::Tracker;
        let same = newer.source == event.source && newer.feed == event.feed && newer.bug == event.bug;
        if !dated || !same || newer.when <= event.when || newer.progress.state != State::Completed {
            return Err(format!("{} was dropped for {}", step.id, link.to));
        }
        // It was in the store before the newer row was written, or its source wants every older one dropped.
        let late = self.store.inserted[&step.id] > self.store.announced[&link.to];
        if late && self.settings()(event).older == Older::Announce {
            return Err(format!("{} came after the row of {} was written", step.id, link.to));
        }
        Ok(())
    }

    /// A live event about which nothing is asked, alone in its lane, is settled at once, whatever other lanes do.
    pub fn check_alone(&self, job: &Job, actions: &[Action]) -> Checked {
        let Job::Read(_, lane, _) = job else { return Ok(()) };
        let [event] = &lane.open[..] else { return Ok(()) };
        let is_live = event.progress.state == State::Queued && !event.is_paced() && event.progress.class.is_none();
        if is_live && !self.settings()(event).verify && !steps(actions).any(|step| step.after.state != State::Queued) {
            return Err(format!("{} waits for another lane", event.id));
        }
        Ok(())
    }

    pub fn check_end(&self) -> Checked {
        let mut announced: BTreeMap<_, usize> = BTreeMap::new();
        for event in self.store.events.values() {
            if !event.progress.state.is_terminal() {
                return Err(format!("{} stays {}", event.id, event.progress.state));
            }
            let counts = event.progress.state == State::Completed && !self.replays.contains(&event.id);
            if let Some(delivery) = event.delivery.as_ref().filter(|_| counts) {
                let item = (event.source.clone(), delivery.id.clone(), event.hash);
                *announced.entry(item).or_default() += 1;
            }
            let said = event.progress.drop.is_some() == (event.progress.state == State::Dropped);
            if !said || event.progress.ended_us.is_none() {
                return Err(format!("{} ended without a reason or a time", event.id));
            }
        }
        if let Some((item, count)) = announced.iter().find(|(_, count)| **count > 1) {
            return Err(format!("{item:?} was announced {count} times"));
        }
        self.check_links()
    }

    /// Whatever was not announced is spoken for, or was not to be announced.
    fn check_links(&self) -> Checked {
        for (of, link) in &self.store.links {
            let (event, to) = (&self.store.events[of], self.store.events.get(&link.to));
            let state = to.map(|to| to.progress.state);
            let fits = match link.kind {
                LinkKind::DroppedFor => {
                    event.progress.drop == Some(DropReason::Older) && state == Some(State::Completed)
                }
                LinkKind::CanceledBy => event.progress.state == State::Canceled && state == Some(State::Completed),
                LinkKind::DuplicateOf => event.progress.state == State::Duplicate && state.is_some(),
                LinkKind::SameTimeAs | LinkKind::SameDeliveryAs => true,
            };
            if !fits {
                return Err(format!("{of} has the link {link:?}"));
            }
        }
        Ok(())
    }
}
