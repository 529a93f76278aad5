//! Who may call, who may not, and what is remembered.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::*;
use crate::deliver::sign::{RANDOM_BYTES, SigningSecret};

const NOW: i64 = 1_800_000_000;
const TARGET: &str = "/endpoints/ep_1/changes?cursor=E.1";

fn moment(seconds: i64) -> Moment {
    let clock = When::from_micros((NOW + seconds) * 1_000_000).unwrap();
    Moment { clock, uptime: Duration::from_secs(10_000).saturating_add_signed(seconds) }
}

trait AddSigned {
    fn saturating_add_signed(self, seconds: i64) -> Duration;
}

impl AddSigned for Duration {
    fn saturating_add_signed(self, seconds: i64) -> Duration {
        let seconds = i64::try_from(self.as_secs()).unwrap() + seconds;
        Duration::from_secs(seconds.try_into().unwrap_or(0))
    }
}

fn secret(byte: u8) -> SigningSecret {
    SigningSecret::generate(&[byte; RANDOM_BYTES])
}

fn signed(secret: &SigningSecret, id: &str, at: i64, content: &str) -> Vec<(String, String)> {
    let timestamp = (NOW + at).to_string();
    let tag = hmac::sign(secret.key(), format!("{id}.{timestamp}.{content}").as_bytes());
    let signature = format!("v1,{}", STANDARD.encode(tag));
    [("Webhook-Id", id), ("webhook-timestamp", &timestamp), ("webhook-signature", &signature)]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec()
}

fn callers() -> Callers {
    Callers::new(&[9; 32])
}

fn check(
    callers: &Callers,
    secrets: Option<&Secrets>,
    headers: &Vec<(String, String)>,
    now: Moment,
) -> Result<(), Refused> {
    callers.check("ep_1", secrets, &Call { headers, method: "GET", target: TARGET, body: b"" }, now)
}

#[test]
fn a_call_counts_for_its_method_path_query_and_body_only() {
    let secrets = Secrets::new(secret(1));
    let content = format!("GET {TARGET}.");
    for (method, target, body, want) in [
        ("GET", TARGET, "", Ok(())),
        ("POST", TARGET, "", Err(Refused::Unauthorized)),
        ("GET", "/endpoints/ep_1/changes?cursor=E.2", "", Err(Refused::Unauthorized)),
        ("GET", "/endpoints/ep_2/changes?cursor=E.1", "", Err(Refused::Unauthorized)),
        ("GET", "/endpoints/ep_1/changes", "", Err(Refused::Unauthorized)),
        ("GET", TARGET, "x", Err(Refused::Unauthorized)),
    ] {
        let headers = signed(&secret(1), "a", 0, &content);
        let call = Call { headers: &headers, method, target, body: body.as_bytes() };
        assert_eq!(callers().check("ep_1", Some(&secrets), &call, moment(0)), want, "{method} {target} {body}");
    }
}

#[test]
fn what_is_no_proof() {
    let secrets = Secrets::new(secret(1));
    let content = format!("GET {TARGET}.");
    let good = |id: &str, at| signed(&secret(1), id, at, &content);
    let refused = |headers: &Vec<(String, String)>, now: i64| {
        check(&callers(), Some(&secrets), headers, moment(now)).unwrap_err()
    };
    assert_eq!(refused(&signed(&secret(2), "a", 0, &content), 0), Refused::Unauthorized);
    assert_eq!(check(&callers(), None, &good("a", 0), moment(0)), Err(Refused::Unauthorized), "no such endpoint");
    // Not even with what is compared where there is no endpoint.
    let nobody = signed(&secret(9), "a", 0, &content);
    assert_eq!(check(&callers(), None, &nobody, moment(0)), Err(Refused::Unauthorized));
    assert_eq!(refused(&nobody, 0), Refused::Unauthorized);
    assert_eq!(refused(&good("a", 0), 301), Refused::Headers(SignatureError::Stale(301)));
    assert_eq!(refused(&good("a", 0), -301), Refused::Headers(SignatureError::Stale(301)));
    assert_eq!(check(&callers(), None, &good("a", 0), moment(301)), Err(SignatureError::Stale(301).into()), "the same");
    for id in ["a.b", "a b", "é", &"a".repeat(LONGEST_ID + 1)] {
        assert_eq!(refused(&good(id, 0), 0), Refused::Id, "{id}");
    }
    for (index, want) in [
        (0, SignatureError::Missing("webhook-id".to_owned())),
        (1, SignatureError::Missing("webhook-timestamp".to_owned())),
        (2, SignatureError::Missing("webhook-signature".to_owned())),
    ] {
        let mut headers = good("a", 0);
        headers.remove(index);
        assert_eq!(refused(&headers, 0), Refused::Headers(want));
    }
    // What signs a delivery signs no call: its content has no method.
    let delivery = secrets.headers("a", b"{}", moment(0).clock).unwrap();
    let delivery = delivery.map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).to_vec();
    let call = Call { headers: &delivery, method: "POST", target: "/endpoints/ep_1/ready", body: b"{}" };
    assert_eq!(callers().check("ep_1", Some(&secrets), &call, moment(0)), Err(Refused::Unauthorized));
}

#[test]
fn either_secret_while_one_is_replaced() {
    let secrets = Secrets::rotating(secret(2), secret(1), moment(100).clock);
    let content = format!("GET {TARGET}.");
    let callers = callers();
    for (byte, id, now, want) in [
        (1, "a", 99, Ok(())),
        (2, "b", 99, Ok(())),
        (1, "c", 100, Err(Refused::Unauthorized)),
        (2, "d", 100, Ok(())),
        (3, "e", 99, Err(Refused::Unauthorized)),
    ] {
        assert_eq!(
            check(&callers, Some(&secrets), &signed(&secret(byte), id, now, &content), moment(now)),
            want,
            "{id}"
        );
    }
}

#[test]
fn an_id_counts_once_in_ten_minutes() {
    let secrets = Secrets::new(secret(1));
    let content = format!("GET {TARGET}.");
    let callers = callers();
    let try_at = |id: &str, stamp, now| check(&callers, Some(&secrets), &signed(&secret(1), id, stamp, &content), now);
    assert_eq!(try_at("a", 300, moment(0)), Ok(()), "of a clock that is ahead");
    assert_eq!(try_at("a", 300, moment(0)), Err(Refused::Repeated));
    assert_eq!(try_at("a", 300, moment(600)), Err(Refused::Repeated), "as long as the timestamp counts");
    assert_eq!(try_at("b", 600, moment(600)), Ok(()));
    // The same id of another endpoint.
    let headers = signed(&secret(1), "a", 0, "POST /endpoints/ep_2/ready.");
    let call = Call { headers: &headers, method: "POST", target: "/endpoints/ep_2/ready", body: b"" };
    assert_eq!(callers.check("ep_2", Some(&secrets), &call, moment(0)), Ok(()));
    // A jump of the clock by an hour, and back.
    let jumped = Moment { clock: moment(3_600).clock, uptime: moment(601).uptime };
    assert_eq!(try_at("c", 3_600, Moment { uptime: moment(599).uptime, ..jumped }), Ok(()));
    assert_eq!(try_at("a", 300, moment(600)), Err(Refused::Repeated));
    // Both clocks are far enough.
    assert_eq!(try_at("a", 601, moment(601)), Ok(()));
    // A refused call uses no id up.
    assert_eq!(
        check(&callers, Some(&secrets), &signed(&secret(2), "z", 601, &content), moment(601)),
        Err(Refused::Unauthorized)
    );
    assert_eq!(try_at("z", 601, moment(601)), Ok(()));
}

#[test]
fn the_memory_is_bounded_and_one_endpoint_fills_its_own_share() {
    let mut seen = Seen::default();
    for number in 0..MOST_OF_ONE {
        assert_eq!(seen.remember("a", &number.to_string(), moment(0)), Ok(()));
    }
    assert_eq!(seen.remember("a", "x", moment(0)), Err(Refused::TooMany));
    assert_eq!(seen.remember("b", "x", moment(0)), Ok(()));
    assert_eq!(seen.remember("a", "x", moment(601)), Ok(()));
    assert_eq!((seen.of.len(), seen.in_order.len(), seen.by_endpoint.len()), (1, 1, 1), "old ones are forgotten");
    let mut seen = Seen::default();
    for number in 0..MOST {
        assert_eq!(seen.remember(&(number / 1_000).to_string(), &number.to_string(), moment(0)), Ok(()));
    }
    assert_eq!(seen.remember("new", "x", moment(0)), Err(Refused::TooMany));
}
