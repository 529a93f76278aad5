//! Keys that change, that cannot be had, and that nobody may ask for too often. The issuer is a function.

use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

use super::*;

/// An issuer that publishes this set, or is away.
#[derive(Clone, Default)]
struct Issuer {
    set: Arc<Mutex<Option<String>>>,
    asked: Arc<AtomicU32>,
}

impl Issuer {
    fn publish(&self, set: Option<String>) {
        *self.set.lock().unwrap() = set;
    }

    fn fetch(&self) -> Fetch {
        let this = self.clone();
        Fetch(Arc::new(move |url| {
            assert_eq!(url, "https://login.example.org/keys");
            this.asked.fetch_add(1, Ordering::Relaxed);
            let answer = this.set.lock().unwrap().clone().map(String::into_bytes).ok_or("it is away".to_owned());
            Box::pin(async move { answer })
        }))
    }
}

fn vectors() -> Value {
    serde_json::from_str(include_str!("../jws/vectors.json")).unwrap()
}

/// The set with the key of this name only.
fn set(id: &str) -> Option<String> {
    let key = vectors()["keys"].as_array().unwrap().iter().find(|key| key["kid"] == id).unwrap().clone();
    Some(serde_json::json!({ "keys": [key] }).to_string())
}

fn options() -> KeysOptions {
    KeysOptions {
        public: Some(KeysFrom::Url("https://login.example.org/keys".to_owned())),
        secret: None,
        refresh: Duration::from_secs(600),
        retry: Duration::ZERO,
        max_age: Duration::from_secs(3600),
    }
}

async fn check(keys: &Keys, algorithm: &str) -> Result<(), Refused> {
    let vectors = vectors();
    let token = vectors["good"][algorithm].as_str().unwrap();
    keys.verify(&Jws::read(token).unwrap()).await.map(drop)
}

#[tokio::test]
async fn a_key_that_is_unknown_is_asked_for_and_an_old_one_is_forgotten() {
    let issuer = Issuer::default();
    issuer.publish(set("p256"));
    let keys = Keys::open(options(), issuer.fetch()).unwrap();
    assert_eq!(check(&keys, "ES256").await, Ok(()), "the first token asks for the keys");
    assert_eq!(check(&keys, "ES256").await, Ok(()));
    assert_eq!(issuer.asked.load(Ordering::Relaxed), 1);
    issuer.publish(set("p384"));
    assert_eq!(check(&keys, "ES256").await, Ok(()), "the issuer is not asked about a key that is known");
    assert_eq!(check(&keys, "ES384").await, Ok(()));
    assert_eq!(check(&keys, "ES256").await, Err(Refused::UnknownKey), "it was taken back");
}

#[tokio::test]
async fn unknown_keys_have_the_issuer_asked_only_so_often() {
    let issuer = Issuer::default();
    issuer.publish(set("p256"));
    let keys = Keys::open(KeysOptions { retry: Duration::from_secs(3600), ..options() }, issuer.fetch()).unwrap();
    for _ in 0..50 {
        assert_eq!(check(&keys, "EdDSA").await, Err(Refused::UnknownKey));
    }
    assert_eq!(issuer.asked.load(Ordering::Relaxed), 1);
    assert_eq!(check(&keys, "ES256").await, Ok(()));
    issuer.publish(set("ed"));
    assert_eq!(keys.refresh().await, Ok(()), "at its own time it is asked all the same");
    assert_eq!(check(&keys, "EdDSA").await, Ok(()));
}

/// Many who come at once, after the keys have changed, wait for one answer.
#[tokio::test]
async fn many_wait_for_one_answer() {
    let (issuer, gate) = (Issuer::default(), Arc::new(tokio::sync::Semaphore::new(0)));
    issuer.publish(set("p256"));
    let (inner, waits) = (issuer.fetch(), Arc::clone(&gate));
    let slow = Fetch(Arc::new(move |url| {
        let (answer, gate) = ((inner.0)(url), Arc::clone(&waits));
        Box::pin(async move {
            gate.acquire().await.unwrap().forget();
            answer.await
        })
    }));
    let keys = Arc::new(Keys::open(KeysOptions { retry: Duration::from_secs(3600), ..options() }, slow).unwrap());
    let checks: Vec<_> = (0..20)
        .map(|_| {
            let keys = Arc::clone(&keys);
            tokio::spawn(async move { check(&keys, "ES256").await })
        })
        .collect();
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    gate.add_permits(1);
    for done in checks {
        assert_eq!(done.await.unwrap(), Ok(()));
    }
    assert_eq!(issuer.asked.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn an_issuer_that_is_away_leaves_its_keys_for_a_while() {
    let issuer = Issuer::default();
    let keys = Keys::open(options(), issuer.fetch()).unwrap();
    assert_eq!(check(&keys, "ES256").await, Err(Refused::KeysAway), "never had");
    assert!(keys.trouble().is_some_and(|text| text.contains("it is away") && text.contains("refused")));
    issuer.publish(set("p256"));
    assert_eq!(check(&keys, "ES256").await, Ok(()));
    assert_eq!(keys.trouble(), None);
    for broken in [None, Some("{}".to_owned()), Some("<html>".to_owned())] {
        issuer.publish(broken);
        assert!(keys.refresh().await.is_err());
        assert_eq!(check(&keys, "ES256").await, Ok(()));
        assert!(keys.trouble().is_some_and(|text| text.contains("60 min more")), "{:?}", keys.trouble());
    }
    // The last time that they were had is an hour ago.
    let past = Instant::now().checked_sub(Duration::from_secs(3601)).unwrap();
    keys.known().had = Some(past);
    assert_eq!(check(&keys, "ES256").await, Err(Refused::KeysAway));
    assert!(keys.trouble().is_some_and(|text| text.contains("refused until then")));
    issuer.publish(set("p256"));
    assert_eq!(check(&keys, "ES256").await, Ok(()));
}

#[tokio::test]
async fn files_are_read_again_all_or_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (public, secret) = (folder.path().join("keys.json"), folder.path().join("secret"));
    fs::write(&public, set("p256").unwrap()).unwrap();
    fs::write(&secret, "short\n").unwrap();
    let options =
        KeysOptions { public: Some(KeysFrom::File(public.clone())), secret: Some(secret.clone()), ..options() };
    let error = Keys::open(options.clone(), Issuer::default().fetch()).unwrap_err();
    assert!(
        error.contains("--jwt-secret-file") && error.contains("openssl rand") && !error.contains("short"),
        "{error}"
    );
    fs::write(&secret, format!("{}\n", vectors()["secret"].as_str().unwrap())).unwrap();
    let keys = Keys::open(options, Issuer::default().fetch()).unwrap();
    assert_eq!((check(&keys, "ES256").await, check(&keys, "HS512").await), (Ok(()), Ok(())));
    assert_eq!(check(&keys, "ES384").await, Err(Refused::UnknownKey));
    fs::write(&public, set("p384").unwrap()).unwrap();
    fs::write(&secret, "").unwrap();
    assert!(keys.read_again().unwrap_err().contains("--jwt-secret-file"));
    assert_eq!((check(&keys, "ES256").await, check(&keys, "HS256").await), (Ok(()), Ok(())));
    fs::write(&secret, "another secret that is long enough to be one").unwrap();
    assert_eq!(keys.read_again(), Ok(()));
    assert_eq!((check(&keys, "ES384").await, check(&keys, "HS256").await), (Ok(()), Err(Refused::Signature)));
    fs::remove_file(&public).unwrap();
    assert!(keys.read_again().unwrap_err().contains("--jwt-keys"));
    assert_eq!(check(&keys, "ES384").await, Ok(()));
}
