//! What the examples are run with. Out: paths, or a skipped test where tests/run has not installed it.

use std::path::{Path, PathBuf};

use bugfeed_testbed::{Run, skipped, tool};

/// A file below `examples/`.
pub fn example(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(path)
}

/// How a program below `examples/` is run by the Python that has the client library and pika.
#[derive(Clone)]
pub struct Python(PathBuf);

impl Python {
    pub fn find_or_skip() -> Option<Python> {
        let python = Path::new(env!("CARGO_TARGET_TMPDIR")).parent()?.join("python/bin/python");
        if !python.exists() {
            skipped(&format!("there is no {} with the client library and pika; run tests/run", python.display()));
            return None;
        }
        Some(Python(python))
    }

    /// How a few lines of it are run.
    pub fn code(&self, code: &str) -> Run {
        Run::new("env").arg(&self.0).args(["-c", code])
    }

    /// By way of `env`: the Python of a virtual environment must be started as the link that it is.
    pub fn run(&self, program: &str) -> Run {
        Run::new("env").arg(&self.0).arg(example(program))
    }
}

/// Node, if the packages of the bot are there too.
pub fn node() -> Option<PathBuf> {
    node_with("node-bot", "ws")
}

/// Node, if an example has this package.
pub fn node_with(folder: &str, package: &str) -> Option<PathBuf> {
    let packages = example(folder).join("node_modules");
    let node = tool("node").ok().filter(|_| packages.join(package).exists());
    if node.is_none() {
        skipped(&format!("node or {} is missing; run tests/run, or npm ci there", packages.display()));
    }
    node
}
