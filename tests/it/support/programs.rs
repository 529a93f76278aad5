//! The programs as processes. In: their arguments. Out: processes that have come as far as a test needs them. Only this file
//! knows the words that programs print for people; tests that wait for such words call it.

use std::net::SocketAddr;
use std::path::Path;

use bugfeed_testbed::{Proc, Run, bin, free_port};

use super::SOON;

/// An address on this machine on which nobody listens.
pub fn free_address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], free_port().unwrap()))
}

/// Runs `bugfeed touch` in this folder.
pub async fn touch(dir: &Path, args: &[&str]) {
    Run::new(bin("bugfeed").unwrap()).dir(dir).arg("touch").args(args).succeeds(SOON).await.unwrap();
}

/// Runs `bugfeed-shim init`.
pub async fn init(source: &str) {
    Run::new(bin("bugfeed-shim").unwrap()).args(["init", "--source", source]).succeeds(SOON).await.unwrap();
}

/// Waits until `bugfeed watch` says that it is connected; what it says.
pub async fn connected(watch: &mut Proc) -> String {
    watch.wait_for_line("connected to", SOON).await.unwrap()
}

/// Waits until `bugfeed watch` says that it cannot connect, and goes on trying; what it says.
pub async fn goes_on_trying(watch: &mut Proc) -> String {
    watch.wait_for_line(RETRY, SOON).await.unwrap()
}

/// Whether `bugfeed watch` has said that it goes on trying.
pub fn has_retried(watch: &Proc) -> bool {
    watch.output().contains(RETRY)
}

const RETRY: &str = "trying again in";
