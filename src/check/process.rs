//! Looks at running processes by their admin ports, and at this machine.
//!
//! Goes in: addresses of admin ports. Comes out: what `/readyz` says, and which limits are too low.

use std::time::Duration;

use bugfeed_hooks::client::{Address, Client, Options, Request};
use bugfeed_runtime::findings::Findings;

const AREA: &str = "processes";

/// The listen backlog that gateways ask for; the kernel's own bound cuts it.
const BACKLOG: u64 = 4096;

/// Below this share of free descriptors, a person should look.
const FILES_LEFT: f64 = 0.2;

/// Looks at a process.
pub(super) async fn check(admin: &str) -> Findings {
    let mut found = Findings::default();
    let client = Client::new(Options::default());
    let base = admin.trim_end_matches('/');
    let get = async |path: &str| {
        let to = Address::parse(&format!("{base}{path}")).map_err(|error| error.to_string())?;
        let request = Request { within: Duration::from_secs(10), longest_body: 4 << 20, ..Request::get(to) };
        let response = client.send(request).await.map_err(|error| error.to_string())?;
        Ok::<_, String>((response.status, String::from_utf8_lossy(&response.body).into_owned()))
    };
    match get("/readyz").await {
        Ok((status, text)) if status == 200 => {
            let lines: Vec<&str> = text.lines().skip(1).collect();
            if lines.is_empty() {
                found.good(AREA, format!("{base} is ready"));
            } else {
                found.warning(AREA, format!("{base} is ready, with remarks"), lines.join("\n"));
            }
        }
        Ok((status, text)) => {
            let lines: Vec<&str> = text.lines().skip(1).collect();
            found.bad(AREA, format!("{base} is not ready ({status})"), lines.join("\n"));
        }
        Err(error) => {
            found.bad(
                AREA,
                format!("{base}: {error}"),
                "is it the admin port (--admin-listen), and reachable from here?",
            );
            return found;
        }
    }
    if let Ok((_, page)) = get("/metrics").await {
        files(&mut found, base, &page);
    }
    found
}

/// Whether the process may open enough files.
fn files(found: &mut Findings, base: &str, page: &str) {
    let (Some(open), Some(most)) = (metric(page, "process_open_fds"), metric(page, "process_max_fds")) else { return };
    if open > most * (1.0 - FILES_LEFT) {
        let text = format!("{base}: {open} of {most} files are open");
        found.warning(AREA, text, "raise LimitNOFILE (systemd) or ulimit -n, or lower --max-connections");
    } else {
        found.good(AREA, format!("{base}: {open} of {most} files are open"));
    }
}

/// A metric without labels.
fn metric(page: &str, name: &str) -> Option<f64> {
    page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.split(' ').next()?.parse().ok())
}

/// Looks at this machine: the limits that a gateway started here would have.
pub(super) fn machine() -> Findings {
    use rustix::process::{Resource, getrlimit};
    const AREA: &str = "this machine";
    /// What 15,000 clients (the default of --max-connections) need.
    const FILES: u64 = 15_100;
    let mut found = Findings::default();
    match getrlimit(Resource::Nofile).maximum {
        Some(files) if files < FILES => {
            let text = format!("a process may open {files} files, so some {} clients fit", files.saturating_sub(100));
            let fix = format!(
                "raise the hard limit to {FILES} or more (LimitNOFILE of systemd; /etc/security/limits.conf), or lower --max-connections"
            );
            found.warning(AREA, text, fix);
        }
        _ => found.good(AREA, "a process may open enough files for 15,000 clients"),
    }
    let asked = |path: &str| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    match asked("/proc/sys/net/core/somaxconn") {
        Some(backlog) if backlog < BACKLOG => {
            let fix = format!(
                "sysctl net.core.somaxconn={BACKLOG} (deploy/sysctl), or clients that come back at once wait for seconds"
            );
            found.warning(AREA, format!("net.core.somaxconn is {backlog}"), fix);
        }
        Some(_) => found.good(AREA, "the kernel queues enough new connections"),
        None => {}
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_found_by_its_whole_name() {
        let page =
            "# HELP process_open_fds x\nprocess_open_fds_more 3\nprocess_open_fds 12\nprocess_max_fds 1.024e3 7\n";
        assert_eq!(metric(page, "process_open_fds"), Some(12.0));
        assert_eq!(metric(page, "process_max_fds"), Some(1024.0));
        assert_eq!(metric(page, "process"), None);
    }
}
