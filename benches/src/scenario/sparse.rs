//! Each client watches a few bugs of very many, so that each update is for about two clients. Also: updates that nobody
//! watches.

use anyhow::Result;

use super::{Bench, broker};
use crate::cli::Watching;
use crate::measure::Sample;
use crate::plan::Watch;
use crate::publish::Pace;
use crate::report::Report;
use crate::target::Via;

/// Updates for about two clients each: at a pace, and at full speed; floor and server take turns.
///
/// # Errors
/// When something fails.
pub fn run(bench: &mut Bench, watching: Watching, rate: u32, seconds: u32, burst: u32) -> Result<Report> {
    let count = bench.common.clients;
    let watch = Watch { each: watching.subscriptions, bugs: watching.bugs(count) };
    let (mut floor, mut floor_clients) = bench.floor(watch)?;
    let (mut target, mut clients) = bench.served(watch)?;
    let warm = bench.phase(rate.min(burst), 1, watch.bugs);
    bench.measure(&mut floor, &mut floor_clients, &warm, Pace::Full)?;
    let warm = bench.phase(rate.min(burst), 1, watch.bugs);
    bench.measure(&mut target, &mut clients, &warm, Pace::Full)?;
    let mut samples: [Vec<Sample>; 4] = Default::default();
    for _ in 0..bench.common.runs {
        for (at, (pace, count)) in
            [(Pace::per_second(rate), rate * seconds), (Pace::Full, burst)].into_iter().enumerate()
        {
            let phase = bench.phase(count, 1, watch.bugs);
            samples[at * 2].push(bench.measure(&mut floor, &mut floor_clients, &phase, pace)?);
            let phase = bench.phase(count, 1, watch.bugs);
            samples[at * 2 + 1].push(bench.measure(&mut target, &mut clients, &phase, pace)?);
        }
    }
    let [floor_paced, paced, floor_full, full] = samples;
    let mut report = Report::new(
        "sparse",
        setting(bench, watch, &format!("paced {rate}/s for {seconds} s, then {burst} at full speed")),
    );
    let us = |sample: &Sample| sample.us_per_update();
    report.of("frames per update", "", &paced, |sample| sample.tally.delivered as f64 / f64::from(sample.updates));
    report.of("floor, paced: CPU per update", "µs", &floor_paced, us);
    report.of("server, paced: CPU per update", "µs", &paced, us);
    report.ratio("server / floor, paced", &paced, &floor_paced, us);
    report.of("floor, full speed: CPU per update", "µs", &floor_full, us);
    report.of("server, full speed: CPU per update", "µs", &full, us);
    report.ratio("server / floor, full speed", &full, &floor_full, us);
    report.of("server, full speed: updates/s of its processor (1 s / CPU per update)", "", &full, |sample| {
        1e6 / us(sample)
    });
    report.of("server, full speed: updates/s as they came", "", &full, |sample| {
        f64::from(sample.updates) / sample.seconds
    });
    for (name, samples) in [("floor", &floor_paced), ("server", &paced)] {
        for (label, quantile) in [("p50", 0.5), ("p99", 0.99), ("max", 1.0)] {
            report.of(format!("{name}, paced: {label} from sent to read"), "µs", samples, |sample| {
                sample.tally.latencies.quantile_us(quantile)
            });
        }
    }
    if bench.common.via == Via::Amqp {
        broker_alone(bench, &mut report, (rate, rate * seconds), watch)?;
    }
    report.honesty("server, paced", Pace::per_second(rate), &paced);
    report.honesty("server, full speed", Pace::Full, &full);
    Ok(report)
}

/// Adds how long the broker alone takes, at this rate and for so many updates.
fn broker_alone(bench: &mut Bench, report: &mut Report, (rate, count): (u32, u32), watch: Watch) -> Result<()> {
    let mut runs = Vec::new();
    for _ in 0..bench.common.runs {
        let phase = bench.phase(count, 1, watch.bugs);
        runs.push(broker::alone(bench, &phase, Pace::per_second(rate))?);
    }
    for (label, quantile) in [("p50", 0.5), ("p99", 0.99)] {
        let name = format!("broker alone, paced: {label} from sent to delivered");
        report.row(name, "µs", runs.iter().map(|run| run.quantile_us(quantile)).collect());
    }
    Ok(())
}

/// Updates of bugs that nobody watches. The last update of each phase is of a watched bug, so that the end of the phase
/// is seen.
///
/// # Errors
/// When something fails.
pub fn unwatched(bench: &mut Bench, watching: Watching, burst: u32) -> Result<Report> {
    let watch = Watch { each: watching.subscriptions, bugs: watching.bugs(bench.common.clients) };
    let (mut target, mut clients) = bench.served(watch)?;
    let last_bug = watch.of(0)[0];
    let mut samples = Vec::new();
    for run in 0..=bench.common.runs {
        let mut phase = bench.phase(burst, watch.bugs + 1, watch.bugs);
        phase.last_bug = Some(last_bug);
        target.generates(bench.common.via == Via::Feed);
        let sample = bench.measure(&mut target, &mut clients, &phase, Pace::Full)?;
        // The first run is not counted: it fills the table of newest changes.
        if run > 0 {
            samples.push(sample);
        }
    }
    let mut report =
        Report::new("unwatched", setting(bench, watch, &format!("{burst} updates of {} other bugs", watch.bugs)));
    report.of("CPU per update", "µs", &samples, Sample::us_per_update);
    report.honesty("server", Pace::Full, &samples);
    Ok(report)
}

fn setting(bench: &Bench, watch: Watch, what: &str) -> String {
    let via = match bench.common.via {
        Via::Amqp => "through RabbitMQ",
        Via::Feed => "the feed alone",
    };
    format!("{} clients with {} of {} bugs each; {what}; {via}", bench.common.clients, watch.each, watch.bugs)
}
