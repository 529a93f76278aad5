//! The budget of the first build: how much `cargo run --release` compiles before anybody sees the program.

use std::collections::{BTreeSet, HashMap};
use std::process::Command;

use serde_json::Value;

/// How many units the default program may be made of: one for each package, two more for each build script (to compile
/// it and to run it). docs/first-build.md says what they cost.
const BUDGET: usize = 274;

const TOO_MANY: &str = "\
The first build has become longer. `cargo tree -e normal,build -i NAME` says who brings a new package in, and \
`cargo tree -d -e normal` what is there in two versions. Look for a smaller package, or for a feature that can be left \
out (`default-features = false`). If a new package is worth its time, raise BUDGET in tests/it/build_budget.rs, and \
write down in docs/first-build.md what it costs.";

/// Packages that were left out on purpose, and how.
const NOT_AGAIN: [(&str, &str); 4] = [
    ("p12-keystore", "lapin is built without its TLS, which reads PKCS#12 files"),
    ("icu_normalizer", "idna_adapter 1.1.0 needs no ICU"),
    ("regex-automata", "RUST_LOG is read without EnvFilter"),
    ("zerocopy", "rand 0.10 does without it"),
];

fn cargo(args: &[&str]) -> String {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo).args(args).current_dir(env!("CARGO_MANIFEST_DIR")).output().expect("cargo starts");
    assert!(output.status.success(), "cargo {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The packages, as `name version`, that this machine compiles for the default program.
fn packages() -> BTreeSet<String> {
    let args = ["tree", "--package", "bugfeed", "--edges", "normal,build", "--prefix", "none", "--format", "{p}"];
    let tree = cargo(&[&args[..], &["--locked", "--offline"]].concat());
    // What follows the version is where the package is, or a note.
    tree.lines().map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" ")).collect()
}

/// Which packages have a build script.
fn with_build_script() -> HashMap<String, bool> {
    let host = cargo(&["--version", "--verbose"]);
    let host = host.lines().find_map(|line| line.strip_prefix("host: ")).expect("cargo names its host");
    let args = ["metadata", "--format-version", "1", "--filter-platform", host, "--locked", "--offline"];
    let metadata: Value = serde_json::from_str(&cargo(&args)).unwrap();
    let is_script = |target: &Value| target["kind"][0] == "custom-build";
    let packages = metadata["packages"].as_array().unwrap().iter();
    let describe = |package: &Value| {
        let name = format!("{} v{}", package["name"].as_str().unwrap(), package["version"].as_str().unwrap());
        (name, package["targets"].as_array().unwrap().iter().any(is_script))
    };
    packages.map(describe).collect()
}

#[test]
fn the_first_build_keeps_its_budget() {
    let packages = packages();
    let scripts = with_build_script();
    let units: usize = packages.iter().map(|package| if scripts[package] { 3 } else { 1 }).sum();
    println!("{units} units of {} packages", packages.len());
    for (name, instead) in NOT_AGAIN {
        let there = packages.iter().find(|package| package.split(' ').next() == Some(name));
        assert!(there.is_none(), "{name} is compiled again: {instead}. {TOO_MANY}");
    }
    assert!(units <= BUDGET, "{units} units, and the budget is {BUDGET}. {TOO_MANY}");
}

/// A level that `release` names for a package counts in `dist` as well, unless `dist` names another one.
#[test]
fn what_is_distributed_is_optimised_throughout() {
    let manifest = include_str!("../../Cargo.toml");
    let (_, profiles) = manifest.split_once("[profile.release.package]").expect("levels of single packages");
    let (release, dist) = profiles.split_once("[profile.dist]").expect("a profile for distribution");
    let (_, dist) = dist.split_once("[profile.dist.package]").expect("levels of single packages");
    let levels = |text: &str, level: &str| -> BTreeSet<String> {
        let line = format!(".opt-level = {level}");
        text.lines().filter_map(|text| text.strip_suffix(&line)).map(str::to_owned).collect()
    };
    let low: BTreeSet<String> = ["0", "1", "2"].iter().flat_map(|level| levels(release, level)).collect();
    assert!(!low.is_empty());
    assert_eq!(low, levels(dist, "3"), "each belongs into [profile.dist.package], at level 3");
}
