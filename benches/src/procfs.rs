//! What the kernel says of a process and of the machine. In: a process id. Out: processor time, memory, waiting.

use std::fs;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

/// Processor time of a process so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cpu {
    /// Time on a processor, in user and kernel mode, in nanoseconds.
    pub ns: u64,
    /// Time in which the process was ready to run but something else had the processor, in nanoseconds. It shows how
    /// noisy the machine was.
    pub waited_ns: u64,
}

impl Cpu {
    /// Reads the sum over a process's threads, as the scheduler counts it (to the nanosecond). The kernel's work in
    /// write(2) is included, and so is loopback delivery. Threads that have ended are not included; none end during a
    /// measurement.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn of(pid: u32) -> Result<Cpu> {
        let dir = format!("/proc/{pid}/task");
        let tasks = fs::read_dir(&dir).with_context(|| format!("process {pid} is gone"))?;
        let mut sum = Cpu::default();
        for task in tasks {
            let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else { continue };
            let mut fields = text.split_whitespace().map(|field| field.parse::<u64>().unwrap_or(0));
            sum.ns += fields.next().unwrap_or(0);
            sum.waited_ns += fields.next().unwrap_or(0);
        }
        Ok(sum)
    }

    /// What was used since an earlier reading.
    pub fn since(self, earlier: Cpu) -> Cpu {
        Cpu { ns: self.ns.saturating_sub(earlier.ns), waited_ns: self.waited_ns.saturating_sub(earlier.waited_ns) }
    }
}

/// Memory of a process, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Memory {
    /// Resident memory.
    pub rss: u64,
    /// Resident memory; each shared page is divided by the number of processes that share it.
    pub pss: u64,
}

impl Memory {
    /// Reads the current values.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn of(pid: u32) -> Result<Memory> {
        let path = format!("/proc/{pid}/smaps_rollup");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}; is the process gone?"))?;
        Ok(Memory { rss: kilobytes(&text, "Rss:"), pss: kilobytes(&text, "Pss:") })
    }
}

/// Resident memory of a process, in bytes. Unlike [`Memory`] it comes from counters, so that reading it does not hold a large
/// process up.
///
/// # Errors
/// When the process is gone.
pub fn resident(pid: u32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).with_context(|| format!("process {pid} is gone"))?;
    Ok(kilobytes(&text, "VmRSS:"))
}

/// Kernel memory of the whole machine, in bytes. The difference of two readings shows what sockets cost; it includes
/// both ends of a loopback connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Kernel {
    /// Structures (sockets, files, inodes, epoll entries).
    pub slab: u64,
    /// Bytes in TCP's buffers.
    pub tcp_buffers: u64,
    /// TCP sockets in use.
    pub tcp_sockets: u64,
}

impl Kernel {
    /// Reads the current values.
    pub fn now() -> Kernel {
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let sockstat = fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
        let tcp = sockstat.lines().find(|line| line.starts_with("TCP:")).unwrap_or_default();
        let field = |name: &str| -> u64 {
            let mut words = tcp.split_whitespace().skip_while(|word| *word != name).skip(1);
            words.next().and_then(|value| value.parse().ok()).unwrap_or(0)
        };
        Kernel { slab: kilobytes(&meminfo, "Slab:"), tcp_buffers: field("mem") * 4096, tcp_sockets: field("inuse") }
    }
}

fn kilobytes(text: &str, name: &str) -> u64 {
    let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|value| value.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// The machine that the figures were measured on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Machine {
    /// The processor's name.
    pub processor: String,
    /// The number of processors.
    pub cores: usize,
    /// The kernel's name and version.
    pub kernel: String,
    /// Memory in GiB.
    pub memory_gib: u64,
    /// Load averages of 1, 5 and 15 minutes: they show what else was running.
    pub load: String,
}

impl Machine {
    /// Describes this machine.
    pub fn this() -> Machine {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = read("/proc/cpuinfo");
        let model = cpuinfo.lines().find(|line| line.starts_with("model name"));
        let processor = model.and_then(|line| line.split(": ").nth(1)).unwrap_or("unknown processor").trim();
        let cores = cpuinfo.lines().filter(|line| line.starts_with("processor")).count().max(1);
        Machine {
            processor: processor.to_owned(),
            cores,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            memory_gib: kilobytes(&read("/proc/meminfo"), "MemTotal:") >> 30,
            load: read("/proc/loadavg").split_whitespace().take(3).collect::<Vec<_>>().join(" "),
        }
    }
}

/// Binds this process to a processor, if one is named.
///
/// # Errors
/// When there is no such processor.
pub fn pin_self(core: Option<usize>) -> Result<()> {
    core.map_or(Ok(()), |core| pin(std::process::id(), core))
}

/// Binds a process, with all its threads, to one processor.
///
/// # Errors
/// When there is no such processor or process.
pub fn pin(pid: u32, core: usize) -> Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    set.set(core);
    for task in fs::read_dir(format!("/proc/{pid}/task")).with_context(|| format!("process {pid} is gone"))? {
        let name = task?.file_name();
        let Some(id) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        let pinned = rustix::thread::sched_setaffinity(rustix::thread::Pid::from_raw(id), &set);
        pinned.with_context(|| format!("cannot bind process {pid} to processor {core}"))?;
    }
    Ok(())
}

/// Raises the limit on open files of this process, and of those that it starts, as far as the system allows.
///
/// # Errors
/// When fewer than `need` are allowed.
pub fn raise_file_limit(need: u64) -> Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
        .context("cannot raise the limit of open files")?;
    match maximum {
        Some(maximum) if maximum < need => {
            anyhow::bail!("{need} open files are needed in one process, and {maximum} are allowed (ulimit -Hn)")
        }
        _ => Ok(()),
    }
}
