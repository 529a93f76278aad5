//! What the operating system says about this process: the `process_…` metrics that Prometheus's own libraries have.
//!
//! Goes in: the files of `/proc/self`, which are opened once, so that nothing is missing when descriptors have run out. Comes
//! out: figures, at each scrape. A figure that cannot be had is left out.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;
use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

/// Reads the figures.
#[derive(Debug)]
pub(super) struct Process {
    /// `/proc/self/statm`: sizes in pages.
    memory: Option<File>,
    /// Seconds since 1970 at which the process began.
    begun_s: Option<f64>,
}

impl Process {
    pub(super) fn new() -> Process {
        Process { memory: File::open("/proc/self/statm").ok(), begun_s: begun_s() }
    }

    /// Virtual and resident memory, in bytes.
    fn memory(&self) -> Option<(u64, u64)> {
        let mut text = [0; 256];
        let count = self.memory.as_ref()?.read_at(&mut text, 0).ok()?;
        let mut pages = std::str::from_utf8(&text[..count]).ok()?.split_ascii_whitespace();
        let page = rustix::param::page_size() as u64;
        let mut next = || Some(pages.next()?.parse::<u64>().ok()? * page);
        Some((next()?, next()?))
    }
}

/// The processor time that the process has had, in seconds.
fn cpu_s() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    seconds(time.tv_sec, time.tv_nsec)
}

#[expect(clippy::cast_precision_loss, reason = "2^53 s are longer than any process lives")]
fn seconds(s: i64, ns: i64) -> f64 {
    s as f64 + ns as f64 / 1e9
}

/// How many descriptors are open. Since Linux 6.2 the folder's size tells; before, its entries are counted, which needs a
/// descriptor.
fn open_files() -> Option<u64> {
    let size =
        rustix::fs::stat("/proc/self/fd").ok().map(|stat| stat.st_size).and_then(|size| u64::try_from(size).ok());
    size.filter(|size| *size > 0).or_else(|| Some(std::fs::read_dir("/proc/self/fd").ok()?.count() as u64))
}

fn begun_s() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name, in parentheses, may have spaces. The time of the start is the 22nd field, in hundredths of a second since boot.
    let ticks: f64 = stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()?;
    let boot = clock_gettime(ClockId::Boottime);
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs_f64();
    Some(now_s - seconds(boot.tv_sec, boot.tv_nsec) + ticks / 100.0)
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let mut put = |name: &str, help: &str, unit: Option<&Unit>, metric: &dyn Encode| {
            metric.put(encoder.encode_descriptor(name, help, unit, metric.kind())?)
        };
        put("process_cpu", "Processor time, of user and system", Some(&Unit::Seconds), &ConstCounter::new(cpu_s()))?;
        if let Some((virtual_bytes, resident_bytes)) = self.memory() {
            put("process_resident_memory", "Resident memory", Some(&Unit::Bytes), &ConstGauge::new(resident_bytes))?;
            put("process_virtual_memory", "Virtual memory", Some(&Unit::Bytes), &ConstGauge::new(virtual_bytes))?;
        }
        if let Some(open) = open_files() {
            put("process_open_fds", "Open descriptors", None, &ConstGauge::new(open))?;
        }
        if let Some(most) = getrlimit(Resource::Nofile).current {
            put("process_max_fds", "Most descriptors that may be open", None, &ConstGauge::new(most))?;
        }
        if let Some(begun_s) = self.begun_s {
            let help = "When the process began, since 1970";
            put("process_start_time", help, Some(&Unit::Seconds), &ConstGauge::new(begun_s))?;
        }
        Ok(())
    }
}

/// A metric of any kind.
trait Encode {
    fn kind(&self) -> prometheus_client::metrics::MetricType;
    fn put(&self, encoder: prometheus_client::encoding::MetricEncoder<'_>) -> Result<(), std::fmt::Error>;
}

impl<M: EncodeMetric> Encode for M {
    fn kind(&self) -> prometheus_client::metrics::MetricType {
        self.metric_type()
    }

    fn put(&self, encoder: prometheus_client::encoding::MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        self.encode(encoder)
    }
}
