//! Every client watches the same bug.

use anyhow::Result;

use super::Bench;
use crate::measure::Sample;
use crate::plan::Watch;
use crate::publish::Pace;
use crate::report::Report;

/// Updates of the one bug to all clients: at a pace, and at full speed; floor and server take turns.
///
/// # Errors
/// When something fails.
pub fn run(bench: &mut Bench, rate: Option<u32>, count: u32, burst: u32) -> Result<Report> {
    let watch = Watch { each: 1, bugs: 1 };
    let (mut floor, mut floor_clients) = bench.floor(watch)?;
    let (mut target, mut clients) = bench.served(watch)?;
    // This warms up buffers and code.
    bench.apart(&mut floor, &mut floor_clients, 5, rate)?;
    bench.apart(&mut target, &mut clients, 5, rate)?;
    let mut samples: [Vec<Sample>; 4] = Default::default();
    for _ in 0..bench.common.runs {
        samples[0].push(bench.apart(&mut floor, &mut floor_clients, count, rate)?);
        samples[1].push(bench.apart(&mut target, &mut clients, count, rate)?);
        let phase = bench.phase(burst, 1, 1);
        samples[2].push(bench.measure(&mut floor, &mut floor_clients, &phase, Pace::Full)?);
        let phase = bench.phase(burst, 1, 1);
        samples[3].push(bench.measure(&mut target, &mut clients, &phase, Pace::Full)?);
    }
    let [floor_paced, paced, floor_full, full] = samples;
    let clients = bench.common.clients;
    let pace = rate.map_or_else(|| "one by one".to_owned(), |rate| format!("{rate}/s"));
    let setting = format!("{clients} clients on one bug; {count} updates paced ({pace}), then {burst} at full speed");
    let mut report = Report::new("fanout", setting);
    let ns = |sample: &Sample| sample.ns_per_frame();
    report.of("floor, paced: CPU per frame", "ns", &floor_paced, ns);
    report.of("server, paced: CPU per frame", "ns", &paced, ns);
    report.ratio("server / floor, paced", &paced, &floor_paced, ns);
    report.of("floor, full speed: CPU per frame", "ns", &floor_full, ns);
    report.of("server, full speed: CPU per frame", "ns", &full, ns);
    report.row(
        "server at full speed / floor paced",
        "",
        full.iter().zip(&floor_paced).map(|(full, floor)| ns(full) / ns(floor)).collect(),
    );
    report.ratio("server / floor, full speed", &full, &floor_full, ns);
    for (name, samples) in [("paced (1: the pace was kept)", &paced), ("full speed", &full)] {
        report.of(format!("server, {name}: frames per read of a client"), "", samples, Sample::frames_per_read);
    }
    report.of("server, full speed: frames/s", "", &full, |sample| sample.tally.delivered as f64 / sample.seconds);
    for (name, samples) in [("floor", &floor_paced), ("server", &paced)] {
        for (label, quantile) in [("p50", 0.5), ("p99", 0.99), ("max", 1.0)] {
            report.of(format!("{name}, paced: {label} from sent to read"), "ms", samples, |sample| {
                sample.tally.latencies.quantile_us(quantile) / 1000.0
            });
        }
    }
    report.ratio("server / floor, paced: p99", &paced, &floor_paced, |sample| sample.tally.latencies.quantile_us(0.99));
    report.of("load process, paced: CPU per frame", "ns", &paced, |sample| {
        sample.load_cpu.ns as f64 / sample.tally.delivered.max(1) as f64
    });
    report.honesty("floor, paced", Pace::per_second(1), &floor_paced);
    report.honesty("server, paced", Pace::per_second(1), &paced);
    report.honesty("server, full speed", Pace::Full, &full);
    Ok(report)
}
