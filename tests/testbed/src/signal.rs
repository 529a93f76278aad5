//! Signals and process trees. In: process ids of processes that a test started. Out: signals sent, and whether the
//! processes are gone. It never chooses a process by its name.

use std::collections::HashMap;
use std::fs;
use std::time::{Duration, Instant};

pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process, kill_process_group};

fn as_pid(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw)
}

/// Sends a signal to one process; does nothing if the process is gone.
pub fn send(pid: u32, signal: Signal) {
    if let Some(pid) = as_pid(pid) {
        let _gone_already = kill_process(pid, signal);
    }
}

/// Sends a signal to every process of a group.
pub fn send_group(leader: u32, signal: Signal) {
    if let Some(pid) = as_pid(leader) {
        let _gone_already = kill_process_group(pid, signal);
    }
}

/// The state letter and the parent of a process, as /proc tells.
fn state_and_parent(pid: u32) -> Option<(char, u32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in brackets, may hold blanks and brackets itself.
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

/// Whether a process has ended. A zombie counts as ended, because orphans stay zombies where process 1 does not reap
/// them.
#[must_use]
pub fn is_gone(pid: u32) -> bool {
    state_and_parent(pid).is_none_or(|(state, _)| matches!(state, 'Z' | 'X'))
}

/// All children of a process, their children, and so on, as of now.
#[must_use]
pub fn descendants(pid: u32) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    for entry in entries.flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if let Some((_, parent)) = state_and_parent(id) {
            children.entry(parent).or_default().push(id);
        }
    }
    let mut found = Vec::new();
    let mut queue = vec![pid];
    while let Some(next) = queue.pop() {
        let own = children.remove(&next).unwrap_or_default();
        found.extend(&own);
        queue.extend(own);
    }
    found
}

/// Kills a process that leads its own group, the group, and every descendant that has left the group, and waits
/// a moment until all of the descendants are gone. The caller still has to reap its own child.
pub fn kill_tree(leader: u32) {
    let others = descendants(leader);
    send_group(leader, Signal::KILL);
    send(leader, Signal::KILL);
    for pid in &others {
        send(*pid, Signal::KILL);
    }
    wait_gone(&others, Duration::from_secs(5));
}

/// Blocks until all of these processes are gone; false when time was up before.
pub fn wait_gone(pids: &[u32], limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    while !pids.iter().all(|pid| is_gone(*pid)) {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    true
}
