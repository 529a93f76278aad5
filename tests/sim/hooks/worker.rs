//! A worker: reads a lane, plans, commits, asks, and concludes, one step at a time. A crash forgets all it knows.

use std::rc::Rc;

use bugfeed_core::hooks::action::{Action, Question};
use bugfeed_core::hooks::event::{Event, EventId, State};
use bugfeed_core::hooks::lane::{Lane, LaneKey, World};
use bugfeed_core::hooks::outcome::{Outcome, conclude};
use bugfeed_core::hooks::processor::plan_lane;

/// What a worker knows just now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Job {
    #[default]
    Idle,
    /// It has read this lane.
    Read(LaneKey, Rc<Lane>, i64),
    /// It has claimed an event, when the lane was like this, and asks.
    Asks(Claim),
    /// It has an answer.
    Knows(Claim, Outcome),
    /// It has the answer, and has read the lane again.
    Concludes(Claim, Outcome, Rc<Lane>, i64),
}

/// A claim that was committed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Claim {
    pub id: EventId,
    pub version: u32,
    pub what: Question,
    pub key: LaneKey,
    pub lane: Rc<Lane>,
}

impl Job {
    /// The actions that the worker would commit now, planned with what it has read, at the time when it read it; and the
    /// lane that decides about order.
    pub fn plan(&self, world: &World<'_>) -> Option<(Vec<Action>, &Lane)> {
        match self {
            Job::Read(_, lane, now_us) => Some((plan_lane(lane, &at(world, *now_us)), lane)),
            Job::Concludes(claim, outcome, lane, now_us) => {
                Some((conclude(lane, claim.id, claim.version, outcome, &at(world, *now_us)), &claim.lane))
            }
            _ => None,
        }
    }

    /// After the commit of these actions, or its failure.
    pub fn after(self, actions: &[Action], committed: bool) -> Job {
        match self {
            Job::Read(key, mut lane, _) if committed => {
                // What the plan switched off is not in the way, even if it is switched on again.
                let off = |event: &Event| {
                    actions.iter().any(|action| match action {
                        Action::Step(step) => step.id == event.id && step.after.state == State::Disabled,
                        _ => false,
                    })
                };
                Rc::make_mut(&mut lane).open.retain(|event| !off(event));
                let ask = actions.iter().find_map(|action| match action {
                    Action::Ask { id, version, what, .. } => Some((*id, *version, *what)),
                    _ => None,
                });
                ask.map_or(Job::Idle, |(id, version, what)| Job::Asks(Claim { id, version, what, key, lane }))
            }
            Job::Concludes(claim, outcome, ..) if !committed => Job::Knows(claim, outcome),
            _ => Job::Idle,
        }
    }
}

fn at<'a>(world: &World<'a>, now_us: i64) -> World<'a> {
    World { now_us, ..*world }
}
