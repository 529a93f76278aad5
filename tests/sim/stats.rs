//! What happened in a run, so that it can be seen that something did.
//!
//! Goes in: counts. Comes out: their sums, and a failure where one of them is nothing.

use crate::client::ToldAll;

macro_rules! stats {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct Stats {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Stats {
            pub fn add(&mut self, other: &Stats) {
                $(self.$name += other.$name;)*
            }

            /// What clients that watch all bugs were told.
            pub fn told_all(&mut self, told: &ToldAll) {
                let ToldAll { updates, complete, latest, gaps, elsewhere, held, begun, ended } = *told;
                self.all_updates += updates;
                self.all_complete += complete;
                self.all_latest += latest;
                self.all_gaps += gaps;
                self.all_elsewhere += elsewhere;
                self.all_held += held;
                self.all_begun += begun;
                self.all_ended += ended;
            }

            /// A simulation in which nothing happens proves nothing.
            pub fn assert_all_happened(&self) {
                let nobody_has_all = std::env::var("BUGFEED_SIM_ALL").is_ok_and(|text| text == "0");
                $(
                    let cannot = nobody_has_all && stringify!($name).starts_with("all_");
                    assert!(self.$name > 0 || cannot, "{} never happened: {self:?}", stringify!($name));
                )*
            }
        }
    };
}

stats! {
    steps,
    changes,
    heard,
    sessions,
    complete,
    latest,
    gaps,
    lagged,
    caught_up,
    breaks,
    dropped,
    faults,
    renumbered,
    forks,
    /// Heads that were said.
    heads,
    /// Runs whose publisher says none.
    headless,
    /// Runs whose pods may not bind to the exchange of heads, and look into history.
    looks,
    /// Gaps that a head gave rise to.
    head_gaps,
    /// Connections after which nothing proved that nothing was missed.
    loses,
    /// Bindings made anew.
    rebinds,
    /// Quiet feeds whose pod missed a change, without history.
    quiet,
    /// Resumes that came before it was known what was missed.
    quiet_resumes,
    wiped,
    unbound,
    seconds,
    copies,
    /// Messages of several changes.
    batches,
    /// Changes without a number.
    foreign,
    /// Pods whose numbering has hundreds of runs.
    many_runs,
    /// Clients that a pod turned away because it had yet to read history.
    turned_away,
    /// Pods that had something to read before the first client came.
    begun_late,
    /// Feeds of which clients were told that nothing can arrive.
    paused,
    /// Times the shim could not read the change table.
    waits,
    /// What clients that watch all bugs were told: changes, verdicts and gaps.
    all_updates,
    all_complete,
    all_latest,
    all_gaps,
    /// Resumes that were granted by another pod than the one before.
    all_elsewhere,
    /// Cursors that were held back.
    all_held,
    /// Clients that began to watch all bugs beside some by name, or stopped.
    all_begun,
    all_ended,
}
