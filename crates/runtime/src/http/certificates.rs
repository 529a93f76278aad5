//! Follows the certificate of a listener: reads its files again, and tells when it cannot be used or ends soon.
//!
//! Goes in: the listener's TLS, and where to report. Comes out: log lines, two metrics, and a warning of `/readyz`. The
//! certificate in use is only replaced by one that can be used.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bugfeed_protocol::log_event::LogEvent;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::tls::{Reloaded, ServerTls};
use crate::health::Health;
use crate::metrics::Register;

/// How often the files are looked at. A certificate is renewed days before it ends, so this need not be quick.
const EVERY: Duration = Duration::from_secs(10);
/// The name in `/readyz`.
const PART: &str = "certificate";
const DAY_S: u64 = 24 * 60 * 60;

/// When a person should look: this long before the end, or a tenth of the time for which the certificate counts, if that
/// is shorter. Programs that renew do so at a third of that time.
const SOON_S: u64 = 7 * DAY_S;

/// Follows a certificate. A clone is the same one.
#[derive(Clone, Debug)]
pub struct Certificates {
    tls: ServerTls,
    health: Health,
    expiry: Gauge,
    refused: Counter,
}

impl Certificates {
    /// The certificate of this listener.
    pub fn new(tls: ServerTls, health: Health) -> Certificates {
        Certificates { tls, health, expiry: Gauge::default(), refused: Counter::default() }
    }

    /// Looks at the files until `stop`.
    pub async fn follow(self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut fault = None;
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = self.tls.again().notified() => {}
                () = stop.cancelled() => return,
            }
            let tls = self.tls.clone();
            // Files may lie on a disk that is slow today.
            let Ok(read) = tokio::task::spawn_blocking(move || tls.reload().map_err(|error| error.to_string())).await
            else {
                continue;
            };
            self.report(read, &mut fault);
        }
    }

    /// Tells what came of a look. `fault` is what was wrong the last time; the same fault is logged once.
    fn report(&self, read: Result<Reloaded, String>, fault: &mut Option<String>) {
        let file = self.tls.files().chain.display();
        let until_s = self.tls.expires_s();
        self.expiry.set(until_s.map_or(0, |s| i64::try_from(s).unwrap_or(i64::MAX)));
        match read {
            Ok(reloaded) => {
                if reloaded == Reloaded::New || fault.is_some() {
                    let until = until_s.map(in_words);
                    tracing::info!(%file, until, event = %LogEvent::CertificateLoaded, "the certificate was read again; new connections get it");
                }
                *fault = None;
            }
            Err(reason) => {
                if fault.as_ref() != Some(&reason) {
                    self.refused.inc();
                    tracing::error!(%file, reason, event = %LogEvent::CertificateRefused, "the new certificate cannot be used; the one before stays");
                }
                *fault = Some(reason);
            }
        }
        match warning(fault.as_deref(), until_s, now_s(), self.tls.lifetime_s()) {
            Some(text) => self.health.warn(PART, text),
            None => self.health.calm(PART),
        }
    }
}

/// What `/readyz` says of a certificate.
fn warning(fault: Option<&str>, until_s: Option<u64>, now_s: u64, lifetime_s: Option<u64>) -> Option<String> {
    let soon_s = lifetime_s.map_or(SOON_S, |lifetime_s| (lifetime_s / 10).min(SOON_S));
    let end = until_s.and_then(|until_s| match until_s.saturating_sub(now_s) {
        0 => Some(format!("it expired at {}; clients refuse it; renew it", in_words(until_s))),
        left_s if left_s < soon_s => Some(format!("it expires at {}; renew it", in_words(until_s))),
        _ => None,
    });
    let fault = fault.map(|fault| format!("the new one cannot be used, the one before stays: {fault}"));
    let texts: Vec<String> = end.into_iter().chain(fault).collect();
    (!texts.is_empty()).then(|| texts.join("; "))
}

fn in_words(at_s: u64) -> String {
    jiff::Timestamp::from_second(i64::try_from(at_s).unwrap_or(i64::MAX)).unwrap_or_default().to_string()
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

impl Register for Certificates {
    fn register(&self, r: &mut Registry) {
        let expiry =
            "When the certificate of the port for clients expires, in seconds since 1970; 0 if that is not known";
        r.register("tls_certificate_expiry_timestamp_seconds", expiry, self.expiry.clone());
        r.register("tls_certificates_refused", "New certificates that could not be used", self.refused.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_told_before_it_comes() {
        let (now, year) = (1_800_000_000, Some(365 * DAY_S));
        let end = |left_s: u64, lifetime| warning(None, Some(now + left_s), now, lifetime);
        assert_eq!(end(SOON_S, year), None);
        assert_eq!(end(SOON_S - 1, year).unwrap(), "it expires at 2027-01-22T07:59:59Z; renew it");
        assert_eq!(end(6 * DAY_S, Some(7 * DAY_S)), None, "one of a week is renewed daily");
        assert!(end(DAY_S / 2, Some(7 * DAY_S)).is_some());
        assert!(end(0, year).unwrap().contains("it expired at 2027-01-15T08:00:00Z"));
        assert_eq!(warning(None, None, now, None), None);
        assert_eq!(
            warning(Some("no file"), Some(now + 2 * SOON_S), now, year).unwrap(),
            "the new one cannot be used, the one before stays: no file"
        );
    }
}
