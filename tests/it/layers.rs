//! Which package may know which: rules that Cargo's own graph of dependencies must show.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// What each package links when it is built, directly or through others. What only its tests need is left out.
struct Graph {
    names: BTreeMap<String, String>,
    edges: BTreeMap<String, Vec<String>>,
}

impl Graph {
    fn read() -> Graph {
        let mut cargo = Command::new(env!("CARGO"));
        let metadata = cargo.args(["metadata", "--format-version", "1", "--offline", "--locked"]);
        let output = metadata.current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let list = |value: &Value| value.as_array().unwrap().clone();
        let names =
            list(&metadata["packages"]).into_iter().map(|package| (text(&package["id"]), text(&package["name"])));
        let is_linked = |dep: &Value| {
            // loom is linked only by a special build that tests the replay ring.
            let is_loom = |kind: &Value| kind["target"].as_str().is_some_and(|target| target.contains("loom"));
            list(&dep["dep_kinds"]).iter().any(|kind| kind["kind"].is_null() && !is_loom(kind))
        };
        let edges = list(&metadata["resolve"]["nodes"])
            .iter()
            .map(|node| {
                let deps = list(&node["deps"]).into_iter().filter(is_linked).map(|dep| text(&dep["pkg"])).collect();
                (text(&node["id"]), deps)
            })
            .collect();
        Graph { names: names.collect(), edges }
    }

    /// The names of all that a package links.
    fn linked_by(&self, package: &str) -> BTreeSet<&str> {
        let id = self.names.iter().find(|(_, name)| *name == package).map(|(id, _)| id).expect(package);
        let (mut seen, mut open) = (BTreeSet::new(), vec![id]);
        while let Some(id) = open.pop() {
            for dep in &self.edges[id] {
                if seen.insert(dep) {
                    open.push(dep);
                }
            }
        }
        seen.into_iter().map(|id| &*self.names[id]).collect()
    }
}

#[test]
fn each_package_knows_only_what_it_may() {
    let graph = Graph::read();
    let async_io = ["tokio", "tokio-util", "mio", "socket2", "hyper", "axum", "tokio-tungstenite", "futures-util"];
    let world = ["lapin", "sqlx", "sqlx-core", "rand", "getrandom", "tracing-subscriber", "clap", "rustls"];
    let databases = ["sqlx", "sqlx-core", "libsqlite3-sys", "bugfeed-sql"];
    let rules: [(&str, &[&[&str]]); 10] = [
        // Pure: no runtime, clock, randomness, socket, database, broker or command line.
        ("bugfeed-protocol", &[&async_io, &world]),
        ("bugfeed-core", &[&async_io, &world, &["tracing"]]),
        ("bugfeed-trust", &[&async_io, &databases, &["clap"]]),
        // The packages that roles share know no role, and do not know each other. The runtime carries out core/admission.
        ("bugfeed-amqp", &[&databases, &["clap", "axum", "bugfeed-runtime"]]),
        ("bugfeed-sql", &[&["lapin", "clap", "axum", "bugfeed-amqp", "bugfeed-runtime"]]),
        ("bugfeed-runtime", &[&databases, &["lapin", "bugfeed-amqp"]]),
        // Roles meet in the composition only. A gateway alone links no database.
        ("bugfeed-gateway", &[&databases, &["bugfeed-shim", "bugfeed-client", "bugfeed"]]),
        ("bugfeed-shim", &[&["bugfeed-gateway", "bugfeed-client", "bugfeed", "tokio-tungstenite"]]),
        ("bugfeed-hooks", &[&["bugfeed-gateway", "bugfeed-shim", "bugfeed-client", "bugfeed"]]),
        // A client of the feed is not linked with any part of the server.
        (
            "bugfeed-client",
            &[&databases, &["lapin", "bugfeed-core", "bugfeed-gateway", "bugfeed-shim", "bugfeed-runtime"]],
        ),
    ];
    for (package, forbidden) in rules {
        let linked = graph.linked_by(package);
        let alone = ["bugfeed-protocol", "bugfeed-trust"];
        assert!(alone.contains(&package) || linked.contains("bugfeed-protocol"), "{package} links {linked:?}");
        let found: Vec<_> = forbidden.iter().copied().flatten().filter(|name| linked.contains(**name)).collect();
        assert!(found.is_empty(), "{package} may not link {found:?}");
    }
}

/// Every source file belongs to one target. Code that two targets need must be in a package.
#[test]
fn nothing_is_compiled_twice() {
    let mut open: Vec<PathBuf> = ["src", "crates", "hooks", "shim", "tests", "benches", "clients/rust", "examples"]
        .iter()
        .map(|folder| Path::new(env!("CARGO_MANIFEST_DIR")).join(folder))
        .collect();
    let mut files = 0;
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() && name != "target" && name != "node_modules" {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files += 1;
                let text = std::fs::read_to_string(&path).unwrap();
                let elsewhere =
                    text.lines().find(|line| line.trim_start().starts_with("#[path") && line.contains("../"));
                assert_eq!(elsewhere, None, "{}", path.display());
            }
        }
    }
    assert!(files > 200, "{files} files");
}
