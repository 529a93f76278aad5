//! The command `bugfeed-bench`: see `--help`.

#![allow(clippy::print_stdout)]

use anyhow::{Context as _, Result};
use bugfeed_bench::cli::{Cli, Command};
use bugfeed_bench::plot::Growth;
use bugfeed_bench::procfs::pin_self;
use bugfeed_bench::report::Report;
use bugfeed_bench::scenario::{Bench, against, cost, fanout, growth, idle, scale, slow, sparse};
use bugfeed_bench::{attack, chain, compare, feed_server, floor, hooks_deliver, hooks_store, load};
use clap::Parser as _;

fn main() -> Result<()> {
    let (common, report) = match Cli::parse().command {
        Command::Load { core } => {
            pin_self(core)?;
            return load::worker::run();
        }
        Command::Attacker => return attack::attacker::run(),
        Command::Writer => return chain::writer::run(),
        Command::PostLoop { to, count } => return hooks_deliver::bare::run(to, count),
        Command::FloorServer { core } => {
            pin_self(core)?;
            return floor::run();
        }
        Command::FeedServer { feed_listen, args } => return feed_server::run(feed_listen, &args),
        Command::Fanout { common, rate, one_by_one, seconds, burst } => {
            let pace = (!one_by_one).then_some(rate);
            let report = fanout::run(&mut Bench::new(&common)?, pace, rate * seconds, burst)?;
            (common, report)
        }
        Command::Sparse { common, watching, rate, seconds, burst } => {
            let report = sparse::run(&mut Bench::new(&common)?, watching, rate, seconds, burst)?;
            (common, report)
        }
        Command::Idle { common, watching, seconds } => {
            let report = idle::run(&mut Bench::new(&common)?, watching, seconds)?;
            (common, report)
        }
        Command::Unwatched { common, watching, burst } => {
            let report = sparse::unwatched(&mut Bench::new(&common)?, watching, burst)?;
            (common, report)
        }
        Command::Handshake { common } => {
            let report = cost::handshake(&mut Bench::new(&common)?)?;
            (common, report)
        }
        Command::Subscribe { common, watching } => {
            let report = cost::subscribe(&mut Bench::new(&common)?, watching)?;
            (common, report)
        }
        Command::Slow { common, rate, seconds, fill } => {
            let report = slow::run(&mut Bench::new(&common)?, rate, seconds, fill)?;
            (common, report)
        }
        Command::Scale { common, gateways, pause_ms } => {
            let report = scale::run(&mut Bench::new(&common)?, gateways, common.clients, pause_ms)?;
            (common, report)
        }
        Command::Growth { common } => {
            return show_growth(&growth::run(&mut Bench::new(&common)?)?, common.json);
        }
        Command::Chain(options) => {
            let report = chain::run(&options)?;
            print!("{}", if options.json { report.json()? } else { report.markdown() });
            return Ok(());
        }
        Command::Attack(options) => {
            let page = attack::run(&options)?;
            print!("{}", if options.json { serde_json::to_string(&page)? + "\n" } else { page.text() });
            return Ok(());
        }
        Command::HooksStore(options) => {
            return show(&hooks_store::run(&options)?, options.json);
        }
        Command::HooksDeliver(options) => {
            return show(&hooks_deliver::run(&options)?, options.json);
        }
        Command::Against(against) => {
            println!("{}", serde_json::to_string(&against::run(&against)?)?);
            return Ok(());
        }
        Command::Table { found, json } => {
            print!("{}", compare::show(&found, json)?);
            return Ok(());
        }
        Command::Plot { data, picture } => {
            let read = std::fs::read(&data).with_context(|| format!("cannot read {}", data.display()))?;
            let growth: Growth = serde_json::from_slice(&read).context("this is not what `growth --json` prints")?;
            return std::fs::write(&picture, growth.svg())
                .with_context(|| format!("cannot write {}", picture.display()));
        }
    };
    show(&report, common.json)
}

fn show_growth(growth: &Growth, json: bool) -> Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(growth)?);
    } else {
        print!("{}", growth.text());
    }
    Ok(())
}

fn show(report: &Report, json: bool) -> Result<()> {
    if json {
        println!("{}", serde_json::to_string(report)?);
    } else {
        print!("{}", report.text());
    }
    Ok(())
}
