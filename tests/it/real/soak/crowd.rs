//! All clients of a test: started together, waited for together, summed up.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bugfeed_protocol::When;
use bugfeed_testbed::eventually;
use rand::SeedableRng as _;
use rand::rngs::SmallRng;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::check::Truth;
use super::client::{Client, Plan, Seen};
use super::pods::Pods;
use super::tracker::Tracker;
use crate::support::SOON;

/// All clients of a test.
pub struct Clients {
    pub plans: Vec<(Plan, Arc<Mutex<Seen>>)>,
    running: JoinSet<()>,
    pub calm: CancellationToken,
    away: watch::Sender<bool>,
}

impl Clients {
    /// Starts them, and waits until each is subscribed. Those that are `restless` leave and stall until they are calmed.
    pub async fn start(
        plans: Vec<Plan>,
        seed: u64,
        pods: &Arc<Pods>,
        tracker: &Arc<Tracker>,
        restless: bool,
    ) -> Clients {
        let (away, sent_away) = watch::channel(false);
        let mut clients = Clients { plans: Vec::new(), running: JoinSet::new(), calm: CancellationToken::new(), away };
        if !restless {
            clients.calm.cancel();
        }
        let since = When::from_system_time(SystemTime::now() - Duration::from_secs(2));
        for plan in plans {
            let random = SmallRng::seed_from_u64(seed + 1000 + plan.number as u64);
            let seen = Arc::new(Mutex::new(Seen::default()));
            clients.plans.push((plan.clone(), Arc::clone(&seen)));
            let (pods, tracker, calm) = (Arc::clone(pods), Arc::clone(tracker), clients.calm.clone());
            let away = sent_away.clone();
            let client =
                Client { plan, seen, random, pods, tracker, calm, away, cursor: None, since, retry_after: None };
            clients.running.spawn(client.run());
        }
        eventually(SOON, "all clients are subscribed", async || {
            clients.plans.iter().all(|(_, seen)| seen.lock().unwrap().subscribed)
        })
        .await
        .unwrap();
        clients
    }

    /// Sends those who leave away, and waits until they are gone.
    pub async fn send_away(&self) {
        self.away.send_replace(true);
        let gone = async || self.plans.iter().all(|(plan, seen)| !plan.leaves || seen.lock().unwrap().away);
        eventually(SOON, "those who leave are gone", gone).await.unwrap();
    }

    /// Lets them in again.
    pub fn let_in(&self) {
        // From here on they are waited for.
        self.plans.iter().for_each(|(_, seen)| seen.lock().unwrap().away = false);
        self.away.send_replace(false);
    }

    /// Waits until each has the newest change of each of its bugs; what is still lacking when time is up is said later.
    pub async fn caught_up(&self, truth: &Truth, limit: Duration) {
        let lacking = async || {
            let lacks = |(plan, seen): &(Plan, Arc<Mutex<Seen>>)| !truth.lacks(plan, &seen.lock().unwrap()).is_empty();
            self.plans.iter().filter(|client| lacks(client)).count() == 0
        };
        if let Err(error) = eventually(limit, "all clients are current", lacking).await {
            println!("{error}");
        }
    }

    /// What clients were neither sent nor told a gap after, whatever numbers it had; in words.
    pub fn missing(&self, written: &[(u64, When)]) -> Vec<String> {
        let mut missing = Vec::new();
        for (plan, seen) in &self.plans {
            let seen = seen.lock().unwrap();
            let lost = written.iter().filter(|(bug, when)| plan.bugs.contains(bug) && !seen.has(*when));
            let leaves = if plan.leaves { ", which leaves" } else { "" };
            let said = |(bug, when): &(u64, When)| {
                format!("client {}{leaves}: neither told of bug {bug}, {when}, nor of a gap after it", plan.number)
            };
            missing.extend(lost.map(said));
        }
        missing
    }

    /// `lagged`: how often a client lagged where there was room for all; `unread`: how often history could not be read in
    /// time, after which a gap is the truth.
    pub fn report(&self, truth: &Truth, lagged: u64, unread: usize) -> (String, Vec<String>) {
        let mut wrong = Vec::new();
        let (mut left_out, mut incomplete) = (Vec::new(), 0);
        let mut sum = Seen::default();
        let (mut updates, mut conflated, mut modern) = (0, 0, 0);
        for (plan, seen) in &self.plans {
            let seen = seen.lock().unwrap();
            wrong.extend(truth.judge(plan, &seen));
            let lacking = truth.left_out(plan, &seen);
            incomplete += u64::from(!lacking.is_empty());
            left_out.extend(lacking);
            conflated += truth.conflated(plan, &seen);
            updates += seen.updates.len();
            modern += usize::from(plan.modern);
            sum.connections += seen.connections;
            sum.complete += seen.complete;
            sum.latest += seen.latest;
            sum.behind += seen.behind;
            sum.gaps += seen.gaps;
            sum.goaways += seen.goaways;
            sum.stalls += seen.stalls;
        }
        let line = format!(
            "{} clients ({modern} modern) with {} connections, {} stalls and {} goaways got {updates} updates, \
             {conflated} conflated ({incomplete} of those with room lack some, {lagged} lagged); resumes: {} complete, {} latest; gaps: {} told by \
             gateways that were behind, {} others",
            self.plans.len(),
            sum.connections,
            sum.stalls,
            sum.goaways,
            sum.complete,
            sum.latest,
            sum.behind,
            sum.gaps,
        );
        if incomplete > lagged {
            wrong.push(format!("{incomplete} clients lack changes that nothing may leave out, but {lagged} lagged"));
            wrong.extend(left_out);
        }
        if sum.gaps > 0 && unread == 0 {
            wrong.push(format!("{} gaps, though history was there all the time", sum.gaps));
        }
        (line, wrong)
    }
}
