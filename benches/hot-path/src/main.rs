//! Counts the processor's instructions on the hot path, under valgrind. The count is the same on every machine and at every
//! load, so that a test can tell when the hot path becomes more expensive.
//!
//! ```sh
//! cargo run --profile dist -p bugfeed-hot-path             # compares with benches/hot-path/expected.txt; fails beyond +30 %
//! cargo run --profile dist -p bugfeed-hot-path -- --write  # after a change that is worth it: what is expected from now on
//! ```

#![allow(clippy::print_stdout)]

mod drive;

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

const EXPECTED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/expected.txt");

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["run", act, count] => drive::run(act, count.parse()?),
        [] => compare(),
        ["--write"] => write(),
        _ => bail!("options: none, or --write"),
    }
}

/// Instructions of one act, from two runs. One run does the act twice as often as the other, so that everything else that
/// both of them do cancels out.
fn count(act: &str, often: u32, of_each: u32) -> Result<u64> {
    let more = collected(act, often * 2)?.saturating_sub(collected(act, often)?);
    Ok(more / u64::from(often) / u64::from(of_each))
}

fn collected(act: &str, count: u32) -> Result<u64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe()?)
        .args(["run", act, &count.to_string()])
        .output()
        .context("valgrind does not start; is the package installed?")?;
    let said = String::from_utf8_lossy(&output.stderr);
    let collected = said.lines().find_map(|line| line.split("Collected : ").nth(1)).and_then(|text| text.parse().ok());
    match collected {
        Some(collected) if output.status.success() => Ok(collected),
        _ => bail!("valgrind did not count '{act}':\n{said}"),
    }
}

fn compare() -> Result<()> {
    let text = std::fs::read_to_string(Path::new(EXPECTED)).with_context(|| format!("cannot read {EXPECTED}"))?;
    let mut dearer = Vec::new();
    for (act, often, of_each) in drive::ACTS {
        let expected = text.lines().find_map(|line| line.split_once(' ').filter(|(_, name)| name.trim() == act));
        let expected: u64 = expected.with_context(|| format!("{EXPECTED} does not name '{act}'"))?.0.parse()?;
        let found = count(act, often, of_each)?;
        println!("{act:45} {found:>8} instructions, expected {expected:>8}: {:+} %", percent(found, expected));
        if found * 10 > expected * 13 {
            dearer.push(act);
        }
    }
    if !dearer.is_empty() {
        bail!(
            "dearer by more than 30 %: {}. If it is worth that: cargo run --profile dist -p bugfeed-hot-path -- --write",
            dearer.join("; ")
        );
    }
    Ok(())
}

fn percent(found: u64, expected: u64) -> i64 {
    let (found, expected) = (found.cast_signed(), expected.cast_signed());
    (found - expected) * 100 / expected.max(1)
}

fn write() -> Result<()> {
    let mut text = String::new();
    for (act, often, of_each) in drive::ACTS {
        let found = count(act, often, of_each)?;
        println!("{act:45} {found:>8} instructions");
        writeln!(text, "{found} {act}")?;
    }
    std::fs::write(EXPECTED, text).with_context(|| format!("cannot write {EXPECTED}"))
}
