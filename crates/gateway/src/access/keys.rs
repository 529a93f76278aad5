//! The keys that verify signed tokens: where they come from, and for how long they are good.
//!
//! Goes in: a JWKS in a file or at a URL, and a secret in a file. Comes out: the keys as they were last had. A set that cannot be
//! had, or is broken, leaves the one before in place: one from a URL for at most [`KeysOptions::max_age`], because a key that
//! the issuer has taken back must not be good for ever. Never asks the issuer more often than [`KeysOptions::retry`] allows,
//! however many tokens name unknown keys.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bugfeed_core::access::Refused;
use futures::future::BoxFuture;

use super::jwks;
use super::jws::{Jws, Key, Material};

/// How long whoever shows a token with an unknown key waits for the issuer.
const FETCH: Duration = Duration::from_secs(5);

/// The longest secret, in bytes.
const LONGEST_SECRET: u64 = 64 * 1024;

/// The shortest secret, in bytes: what HS256 needs.
const SHORTEST_SECRET: usize = 32;

/// Gets what is at a URL, or says why not. Whoever composes the process has an HTTP client; a gateway has none.
#[derive(Clone)]
pub struct Fetch(pub Arc<FetchFn>);

type FetchFn = dyn Fn(String) -> BoxFuture<'static, Result<Vec<u8>, String>> + Send + Sync;

impl std::fmt::Debug for Fetch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Fetch")
    }
}

/// Where the public keys of the issuer are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeysFrom {
    /// In a file, which is read again when it changes.
    File(PathBuf),
    /// At a URL, which is asked again and again.
    Url(String),
}

/// Where keys come from, and how often.
#[derive(Clone, Debug)]
pub struct KeysOptions {
    /// The issuer's public keys.
    pub public: Option<KeysFrom>,
    /// A file with the secret that issuer and gateway share.
    pub secret: Option<PathBuf>,
    /// How often a URL is asked for its keys.
    pub refresh: Duration,
    /// A token with an unknown key has it asked sooner, but no sooner than this after the last time.
    pub retry: Duration,
    /// For how long keys are good that cannot be had anew.
    pub max_age: Duration,
}

impl KeysOptions {
    /// The files that are read again when they change.
    pub(super) fn files(&self) -> impl Iterator<Item = &PathBuf> {
        let public = match &self.public {
            Some(KeysFrom::File(path)) => Some(path),
            _ => None,
        };
        public.into_iter().chain(&self.secret)
    }
}

/// The keys as they are known now.
#[derive(Debug)]
pub(super) struct Keys {
    options: KeysOptions,
    fetch: Fetch,
    known: Mutex<Known>,
    /// Held by whoever asks for the keys; the others wait for the answer.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Known {
    public: Option<Arc<Vec<Key>>>,
    secret: Option<Arc<Key>>,
    /// When the public keys were last had.
    had: Option<Instant>,
    /// When they were last asked for.
    asked: Option<Instant>,
    /// Why they could not be had the last time.
    fault: Option<String>,
}

impl Keys {
    /// Reads what is in files.
    ///
    /// # Errors
    /// If a file cannot be used. A URL is asked later.
    pub(super) fn open(options: KeysOptions, fetch: Fetch) -> Result<Keys, String> {
        let mut known = Known::default();
        if let Some(path) = &options.secret {
            known.secret = Some(Arc::new(read_secret(path)?));
        }
        if let Some(KeysFrom::File(path)) = &options.public {
            (known.public, known.had) = (Some(Arc::new(read_set(path)?)), Some(Instant::now()));
        }
        Ok(Keys { options, fetch, known: Mutex::new(known), turn: tokio::sync::Mutex::new(()) })
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where they come from.
    pub(super) fn options(&self) -> &KeysOptions {
        &self.options
    }

    /// Whether the keys are at a URL.
    pub(super) fn are_away_from_here(&self) -> bool {
        matches!(self.options.public, Some(KeysFrom::Url(_)))
    }

    /// How often a URL is asked.
    pub(super) fn refresh_every(&self) -> Duration {
        self.options.refresh
    }

    /// Reads the files again.
    ///
    /// # Errors
    /// If one of them cannot be used: what was read before stays.
    pub(super) fn read_again(&self) -> Result<(), String> {
        // Both are read before either is used.
        let secret = self.options.secret.as_deref().map(read_secret).transpose()?;
        let set = match &self.options.public {
            Some(KeysFrom::File(path)) => Some(read_set(path)?),
            _ => None,
        };
        let mut known = self.known();
        if let Some(secret) = secret {
            known.secret = Some(Arc::new(secret));
        }
        if let Some(set) = set {
            (known.public, known.had) = (Some(Arc::new(set)), Some(Instant::now()));
        }
        Ok(())
    }

    /// The payload of a token that one of the keys has signed. If the token names an unknown key, the issuer may have a new
    /// one, and is asked.
    ///
    /// # Errors
    /// Why the token is refused.
    pub(super) async fn verify<'j>(&self, jws: &'j Jws<'_>) -> Result<&'j [u8], Refused> {
        let verified = self.verify_now(jws);
        if !matches!(verified, Err(Refused::UnknownKey | Refused::KeysAway)) || !self.ask_again().await {
            return verified;
        }
        self.verify_now(jws)
    }

    fn verify_now<'j>(&self, jws: &'j Jws<'_>) -> Result<&'j [u8], Refused> {
        let (public, secret, is_stale) = {
            let known = self.known();
            let is_stale = self.is_stale(&known);
            (known.public.clone().filter(|_| !is_stale), known.secret.clone(), is_stale)
        };
        let keys = public.iter().flat_map(|set| set.iter()).chain(secret.as_deref());
        match jws.verify(keys) {
            // Perhaps one of the keys that cannot be had would do.
            Err(Refused::UnknownKey | Refused::Algorithm) if is_stale => Err(Refused::KeysAway),
            verified => verified,
        }
    }

    /// Whether keys at a URL were never had, or are too old.
    fn is_stale(&self, known: &Known) -> bool {
        self.are_away_from_here() && known.had.is_none_or(|had| had.elapsed() > self.options.max_age)
    }

    /// Asks for the keys because of a token, if it is not too soon. Returns whether there are newer ones now.
    async fn ask_again(&self) -> bool {
        let begun = Instant::now();
        if !self.are_away_from_here() {
            return false;
        }
        if self.known().asked.is_some_and(|asked| asked.elapsed() < self.options.retry) && self.turn.try_lock().is_ok()
        {
            return false;
        }
        let _turn = self.turn.lock().await;
        if self.known().had.is_some_and(|had| had >= begun) {
            return true;
        }
        if self.known().asked.is_some_and(|asked| asked.elapsed() < self.options.retry) {
            return false;
        }
        self.ask().await.is_ok()
    }

    /// Asks the URL for its keys, at its time.
    ///
    /// # Errors
    /// Why there are none; the known ones stay.
    pub(super) async fn refresh(&self) -> Result<(), String> {
        let _turn = self.turn.lock().await;
        self.ask().await
    }

    async fn ask(&self) -> Result<(), String> {
        let Some(KeysFrom::Url(url)) = &self.options.public else { return Ok(()) };
        self.known().asked = Some(Instant::now());
        let fetched = match tokio::time::timeout(FETCH, (self.fetch.0)(url.clone())).await {
            Ok(fetched) => fetched,
            Err(_) => Err(format!("no answer within {} s", FETCH.as_secs())),
        };
        let set = fetched.and_then(|json| jwks::read(&json));
        let mut known = self.known();
        match set {
            Ok(set) => {
                (known.public, known.had, known.fault) = (Some(Arc::new(set)), Some(Instant::now()), None);
                Ok(())
            }
            Err(error) => {
                known.fault = Some(error.clone());
                Err(error)
            }
        }
    }

    /// What a person should know about the keys at the URL: why they cannot be had, and for how long they are good.
    pub(super) fn trouble(&self) -> Option<String> {
        let known = self.known();
        let fault = known.fault.as_ref()?;
        let left = known.had.map(|had| self.options.max_age.saturating_sub(had.elapsed()));
        let consequence = match left.filter(|left| !left.is_zero()) {
            Some(left) => format!("those that were had before are good for {} min more", left.as_secs().div_ceil(60)),
            None => "signed tokens are refused until then".to_owned(),
        };
        Some(format!("the keys of --jwt-keys cannot be had: {fault}; {consequence}"))
    }
}

fn read_set(path: &Path) -> Result<Vec<Key>, String> {
    let json = fs::read(path).map_err(|error| format!("--jwt-keys {}: {error}", path.display()))?;
    jwks::read(&json).map_err(|error| format!("--jwt-keys {}: {error}", path.display()))
}

fn read_secret(path: &Path) -> Result<Key, String> {
    let told = |error: String| format!("--jwt-secret-file {}: {error}", path.display());
    let size = fs::metadata(path).map_err(|error| told(error.to_string()))?.len();
    if size > LONGEST_SECRET {
        return Err(told(format!("a secret has at most {LONGEST_SECRET} bytes")));
    }
    let bytes = fs::read(path).map_err(|error| told(error.to_string()))?;
    // Editors end a file with a line break, which is no part of the secret.
    let secret = bytes.trim_ascii_end().to_vec();
    if secret.len() < SHORTEST_SECRET {
        return Err(told(format!(
            "it has {} bytes, and HS256 needs at least {SHORTEST_SECRET}; make one with `openssl rand -hex 32`",
            secret.len()
        )));
    }
    Ok(Key { id: None, material: Material::Secret(secret), only: None })
}

#[cfg(test)]
mod tests;
