//! Who may send, and what becomes of what others send.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bugfeed_hooks::config::HooksConfig;
use bugfeed_hooks::receive::http::{KeyRow, ReceiverLimits, Trust, recheck};
use bugfeed_hooks::receive::received::{QuarantinedRequest, RequestId, Share};
use ring::hmac;

use crate::support::{CONFIG, Options, Rig, key, logs, row};

const BODY: &str = r#"{"changes":[{"bug":7,"when":"2026-11-26T10:00:00Z"}]}"#;

/// The only request in quarantine.
fn quarantined(rig: &Rig) -> QuarantinedRequest {
    rig.store.rows(|rows| {
        assert_eq!((rows.quarantine.len(), rows.requests.len()), (1, 0));
        (*rows.quarantine[0]).clone()
    })
}

fn hex_hmac(secret: &str, body: impl AsRef<[u8]>) -> String {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), body.as_ref());
    tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_comes_in_each_place() {
    let rig = Rig::new().await;
    let key = rig.key.expose().to_owned();
    let basic = format!("Basic {}", STANDARD.encode(format!("x:{key}")));
    for (path, header) in [
        ("/hooks/plain", ("Authorization", format!("Bearer {key}"))),
        ("/public/webhook/plain", ("authorization", basic)),
        ("/hooks/plain", ("X-Api-Key", key.clone())),
        ("/hooks/plain", ("X-Secret-Key", key.clone())),
        (&format!("/hooks/urls/{key}"), ("X-None", String::new())),
        (&format!("/public/webhook/urls/{key}?a=b"), ("X-None", String::new())),
        (&format!("/h/urls/{key}"), ("X-None", String::new())),
    ] {
        let answer = rig.post_with(path, &[(header.0, &header.1)], r#"{"bug":7}"#).await;
        answer.is(200, "ok", &["queued"]);
    }
    assert!(rig.store.rows(|rows| rows.quarantine.is_empty()));
    rig.store.rows(|rows| {
        assert!(rows.requests.iter().all(|request| request.envelope.key_id.as_deref() == Some(rig.key.id())));
        assert_eq!(rows.requests[4].envelope.path, "/hooks/urls/…");
        assert!(!format!("{:?}", rows.requests).contains(&key), "a key is stored");
    });
    assert_eq!(rig.keys.take_used().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_bad_key_goes_to_its_share_of_the_quarantine() {
    let good = key(1);
    let expired = KeyRow { expires_us: Some(1), ..row(&good) };
    let revoked = KeyRow { is_revoked: true, ..row(&good) };
    let of_another = KeyRow { sources: Some(vec!["github".to_owned()]), ..row(&good) };
    let bearer = format!("Bearer {}", good.expose());
    for (rows, header, share, error) in [
        (vec![], Some(bearer.as_str()), Share::KnownSource, "the key is not known"),
        (vec![expired], Some(&bearer), Share::KnownSender, "the key has expired"),
        (vec![revoked], Some(&bearer), Share::KnownSender, "the key was revoked"),
        (vec![of_another], Some(&bearer), Share::KnownSender, "the key is for another source"),
        (vec![row(&good)], Some("Bearer nonsense"), Share::KnownSource, "is no key"),
        (vec![row(&good)], None, Share::KnownSource, "there is no key"),
    ] {
        for (source, status) in [("plain", 200), ("honest", 401)] {
            let rig = Rig::new().await;
            rig.keys.replace(rows.clone());
            let headers: Vec<(&str, &str)> = header.iter().map(|value| ("Authorization", *value)).collect();
            let answer = rig.post_with(&format!("/hooks/{source}"), &headers, BODY).await;
            answer.is(status, "error", &[]);
            let json = answer.json();
            assert!(json["error"].as_str().unwrap().contains(error), "{json}");
            assert!(json["fix"].as_str().unwrap().len() > 10 && json["quarantined"] == true, "{json}");
            let request = quarantined(&rig);
            assert_eq!((request.share, request.envelope.body.as_deref()), (share, Some(BODY.as_bytes())));
            assert_eq!(request.envelope.status, status);
            let secret = good.expose();
            assert!(!format!("{request:?}{}", answer.body).contains(secret), "a key is shown");
            assert!(!rig.metrics.page().contains(secret) && !rig.metrics.page().contains(good.id()));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_in_a_path_counts_only_where_the_source_says_so_and_is_never_shown() {
    let rig = Rig::new().await;
    let key = rig.key.expose();
    for path in [format!("/hooks/plain/{key}"), format!("/hooks/{key}"), format!("/hooks/urls/{key}/x")] {
        let answer = rig.post_with(&path, &[], BODY).await;
        answer.is(200, "error", &[]);
        assert!(!answer.body.contains(key), "{answer:?}");
    }
    rig.store.rows(|rows| {
        assert_eq!((rows.quarantine.len(), rows.requests.len()), (3, 0));
        assert!(!format!("{:?}", rows.quarantine).contains(key));
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn project_and_key_must_agree() {
    let rig = Rig::new().await;
    rig.keys.replace(vec![KeyRow { feeds: Some(vec!["red-feed".to_owned()]), ..row(&rig.key) }]);
    let body = r#"{"changes":[{"bug":1,"project":"red"},{"bug":2,"project":"blue"},{"bug":3,"project":"green"}]}"#;
    let answer = rig.post("/hooks/projects", body).await;
    answer.is(200, "ok", &["queued", "dropped", "dropped"]);
    let reasons: Vec<_> =
        answer.json()["items"].as_array().unwrap().iter().map(|item| item["reason"].clone()).collect();
    assert_eq!(reasons[1..], ["project_mismatch", "not_mapped"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn signatures_must_fit_and_a_key_is_no_replacement() {
    let rig = Rig::new().await;
    let body = r#"{"action":"opened","issue":{"number":5,"updated_at":"2026-11-26T11:59:50Z"},"repository":{"full_name":"octo/hello","private":false}}"#;
    let good = format!("sha256={}", hex_hmac("It's a Secret to Everybody", body));
    let event = ("X-GitHub-Event", "issues");
    let answer = rig.post_with("/hooks/github", &[event, ("X-Hub-Signature-256", &good)], body).await;
    answer.is(200, "ok", &["queued"]);
    let forged = format!("sha256={}", hex_hmac("another", body));
    let sha1 = "sha1=b1476cccda26b23eb073bfcb2738ea149c0f8989";
    let bearer = format!("Bearer {}", rig.key.expose());
    let with_key = ("Authorization", bearer.as_str());
    for (headers, body, share) in [
        (vec![event, ("X-Hub-Signature-256", forged.as_str())], body, Share::KnownSender),
        (vec![event, ("X-Hub-Signature-256", &good)], "{}", Share::KnownSender),
        (vec![event, ("X-Hub-Signature-256", "")], body, Share::KnownSource),
        (vec![event, ("X-Hub-Signature-256", "sha256=")], body, Share::KnownSource),
        (vec![event, ("X-Hub-Signature", sha1)], body, Share::KnownSource),
        (vec![event, with_key], body, Share::KnownSource),
    ] {
        let before = rig.store.rows(|rows| rows.quarantine.len());
        let answer = rig.post_with("/hooks/github", &headers, body).await;
        answer.is(200, "error", &[]);
        rig.store.rows(|rows| {
            assert_eq!((rows.quarantine.len(), rows.requests.len()), (before + 1, 1), "{headers:?}");
            assert_eq!(rows.quarantine[before].share, share, "{headers:?}");
            assert!(!rows.quarantine[before].envelope.headers.iter().any(|(name, _)| name.contains("signature")));
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compressed_body_is_signed_before_or_after_compression() {
    use std::io::Write as _;
    let rig = Rig::new().await;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(BODY.as_bytes()).unwrap();
    let compressed = gzip.finish().unwrap();
    let secret = "It's a Secret to Everybody";
    for (signed, result) in [(BODY.as_bytes(), "ok"), (&compressed, "ok"), (b"{}", "error")] {
        let signature = format!("sha256={}", hex_hmac(secret, signed));
        let headers = [("X-GitHub-Event", "ping"), ("X-Hub-Signature-256", &signature), ("Content-Encoding", "gzip")];
        let answer = rig.post_with("/hooks/github", &headers, &compressed).await;
        assert_eq!(answer.states().0, result, "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn giteas_signature_is_over_the_json_in_the_form() {
    let rig = Rig::new().await;
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/payloads/gitea/form.http");
    let captured = bugfeed_hooks::receive::capture::read(&std::fs::read(file).unwrap());
    let headers: Vec<(&str, &str)> = captured.headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    let headers: Vec<_> = headers.into_iter().filter(|(name, _)| !["Host", "Content-Length"].contains(name)).collect();
    rig.post_with("/hooks/gitea", &headers, &captured.body).await.is(200, "ok", &["queued"]);
    let over_form = hex_hmac("3f2b", std::str::from_utf8(&captured.body).unwrap());
    let mut wrong: Vec<(&str, &str)> = headers.clone();
    wrong.retain(|(name, _)| *name != "X-Gitea-Signature");
    wrong.push(("X-Gitea-Signature", &over_form));
    rig.post_with("/hooks/gitea", &wrong, &captured.body).await.is(200, "error", &[]);
    assert_eq!(rig.store.rows(|rows| (rows.requests.len(), rows.quarantine.len())), (1, 1));
}

/// Headers of Standard Webhooks for the secret of the source `signed`.
fn standard(id: &str, timestamp: i64, body: &str) -> Vec<(&'static str, String)> {
    let secret = STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &secret), format!("{id}.{timestamp}.{body}").as_bytes());
    let signature = format!("v1,{}", STANDARD.encode(tag.as_ref()));
    vec![("webhook-id", id.to_owned()), ("webhook-timestamp", timestamp.to_string()), ("webhook-signature", signature)]
}

fn now_s() -> i64 {
    bugfeed_protocol::When::from_system_time(std::time::SystemTime::now()).as_micros() / 1_000_000
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_timestamp_is_refused() {
    let rig = Rig::new().await;
    for (away_s, status) in [(0, 200), (-290, 200), (-310, 401), (310, 401)] {
        let id = format!("m{away_s}");
        let headers = standard(&id, now_s() + away_s, BODY);
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let answer = rig.post_with("/hooks/signed", &headers, BODY).await;
        assert_eq!(answer.status, status, "{away_s} {answer:?}");
    }
    rig.store.rows(|rows| assert!(rows.quarantine.iter().all(|request| request.share == Share::KnownSender)));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_an_unknown_source_only_head_and_hash_are_kept() {
    let rig = Rig::new().await;
    let answer = rig.post("/hooks/nobody", BODY).await;
    answer.is(200, "error", &[]);
    let request = quarantined(&rig);
    assert_eq!((request.share, request.envelope.body.clone()), (Share::UnknownSource, None));
    assert_eq!((request.envelope.source.as_str(), request.envelope.size), ("nobody", BODY.len() as u64));
    assert!(request.envelope.body_hash.is_some());
    assert_eq!(rig.counter(r#"bugfeed_hooks_requests_total{source="",result="refused"}"#), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_kept_is_said() {
    let limits = ReceiverLimits { quarantine_per_minute: 2, ..ReceiverLimits::default() };
    let rig = Rig::with(Options { limits, quarantine_room: 3, ..Options::default() }).await;
    let kept = |answer: &crate::support::Answer| answer.json()["quarantined"].as_bool().unwrap();
    let mut told = Vec::new();
    for _ in 0..3 {
        let answer = rig.post_with("/hooks/honest", &[], BODY).await;
        told.push((answer.status, kept(&answer)));
    }
    assert_eq!(told, [(401, true), (401, true), (429, false)]);
    assert!(kept(&rig.post_with("/hooks/plain", &[], BODY).await), "another source has an allowance of its own");
    let full = rig.post_with("/hooks/plain", &[], BODY).await;
    assert_eq!((full.status, kept(&full)), (200, false), "the store has no room");
    let counted =
        |kept: &str| rig.counter(&format!(r#"bugfeed_hooks_quarantined_total{{share="known_source",kept="{kept}"}}"#));
    assert_eq!((counted("yes"), counted("no")), (3, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_leaves_quarantine_when_its_key_or_secret_is_mended() {
    let rig = Rig::new().await;
    let config = HooksConfig::read("test", CONFIG, &|_| Err(String::new())).unwrap();
    let id = RequestId::new(9, [9; 10]);
    let again = |name: &str, trust| {
        let request = rig.store.rows(|rows| (**rows.quarantine.last().unwrap()).clone());
        recheck(config.source(name).unwrap(), &rig.keys, &request, id, 9, trust)
    };
    rig.keys.replace(Vec::new());
    rig.post("/hooks/plain", BODY).await.is(200, "error", &[]);
    assert_eq!(again("plain", Trust::Check).unwrap_err().error, "the key is not known");
    assert_eq!(again("plain", Trust::Person).unwrap().items.len(), 1);
    rig.keys.replace(vec![row(&rig.key)]);
    let request = again("plain", Trust::Check).unwrap();
    assert_eq!((request.envelope.id, request.items[0].bug.unwrap().get(), request.envelope.body), (id, 7, None));

    // A body that was kept as it came is compressed; it is what it was before compression that is mapped.
    rig.keys.replace(Vec::new());
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, BODY.as_bytes()).unwrap();
    let bearer = format!("Bearer {}", rig.key.expose());
    let headers = [("Authorization", bearer.as_str()), ("Content-Encoding", "gzip")];
    rig.post_with("/hooks/plain", &headers, gzip.finish().unwrap()).await.is(200, "error", &[]);
    rig.keys.replace(vec![row(&rig.key)]);
    let request = again("plain", Trust::Check).unwrap();
    assert_eq!((request.failure, request.items[0].bug.unwrap().get()), (None, 7));

    // A signature that fitted all the time stands for a secret that was mended.
    for (source, header, good) in [
        ("gitea", "X-Gitea-Signature", hex_hmac("3f2b", BODY)),
        ("gitlab", "X-Gitlab-Token", "a token of gitlab".to_owned()),
    ] {
        let quarantine = |value: &str| {
            let value = value.to_owned();
            let rig = &rig;
            async move {
                rig.post_with(&format!("/hooks/{source}"), &[(header, &value)], BODY).await.is(200, "error", &[]);
            }
        };
        quarantine(&good.replace('a', "b")).await;
        assert!(again(source, Trust::Check).is_err(), "{source}");
        let mut request = rig.store.rows(|rows| (**rows.quarantine.last().unwrap()).clone());
        let kept = &mut request.proof.signature.iter_mut().find(|(name, _)| name == header).unwrap().1;
        let hash = bugfeed_hooks::receive::identity::Sha256::of(good.as_bytes()).to_string();
        assert!(!kept.contains("token"), "a token is kept as its hash only");
        *kept = if source == "gitlab" { hash } else { good.clone() };
        let source = config.source(source).unwrap();
        assert!(recheck(source, &rig.keys, &request, id, 9, Trust::Check).is_ok(), "{}", source.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_logged() {
    let rig = Rig::new().await;
    let (key, header) = (rig.key.expose(), format!("Bearer {}", rig.key.expose()));
    rig.post("/hooks/plain", r#"{"bug":"x"}"#).await.is(200, "error", &["errored"]);
    rig.keys.replace(Vec::new());
    rig.post(&format!("/hooks/plain/{key}?key={key}"), BODY).await.is(200, "error", &[]);
    rig.post(&format!("/h/{key}"), BODY).await.is(200, "error", &[]);
    rig.post_with("/hooks/gitlab", &[("X-Gitlab-Token", "not the token"), ("Cookie", &header)], BODY).await;
    rig.store.set(crate::store::Mode::Away);
    rig.post("/hooks/plain", BODY).await.is(200, "error", &[]);
    let logs = logs();
    assert!(logs.contains("hook_errored") && logs.contains("hook_refused") && logs.contains("spool_begun"), "{logs}");
    for secret in [key, "not the token", "a token of gitlab", "a Secret to Everybody"] {
        assert!(!logs.contains(secret), "{secret}");
    }
}
