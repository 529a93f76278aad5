//! All clients of a test: started together, waited for together, summed up.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bugfeed_protocol::When;
use bugfeed_testbed::eventually;
use rand::SeedableRng as _;
use rand::rngs::SmallRng;
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
        let mut clients = Clients { plans: Vec::new(), running: JoinSet::new(), calm: CancellationToken::new() };
        if !restless {
            clients.calm.cancel();
        }
        let since = When::from_system_time(SystemTime::now() - Duration::from_secs(2));
        for plan in plans {
            let random = SmallRng::seed_from_u64(seed + 1000 + plan.number as u64);
            let seen = Arc::new(Mutex::new(Seen::default()));
            clients.plans.push((plan.clone(), Arc::clone(&seen)));
            let (pods, tracker, calm) = (Arc::clone(pods), Arc::clone(tracker), clients.calm.clone());
            let client = Client { plan, seen, random, pods, tracker, calm, cursor: None, since, retry_after: None };
            clients.running.spawn(client.run());
        }
        eventually(SOON, "all clients are subscribed", async || {
            clients.plans.iter().all(|(_, seen)| seen.lock().unwrap().subscribed)
        })
        .await
        .unwrap();
        clients
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

    /// `lagged`: how often a client lagged where there was room for all.
    pub fn report(&self, truth: &Truth, lagged: u64) -> (String, Vec<String>) {
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
        if sum.gaps > 0 {
            wrong.push(format!("{} gaps, though history was there all the time", sum.gaps));
        }
        (line, wrong)
    }
}
