//! TLS to a database server: what its URL asks for, and what is said about it.
//!
//! Goes in: the parameters of a URL. Comes out: how the driver is to connect, and perhaps a warning. Where TLS is asked for,
//! certificate and name of the server are verified, though the drivers do not do that by default; only `tls-verify` in the URL
//! says less. Where nothing is asked for, the driver's default stays (TLS where the server has it, never verified), since many
//! servers have certificates that nobody could verify.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use bugfeed_protocol::log_event::LogEvent;
use bugfeed_trust::{BadTrust, Cause, Identity, Refused, client_config};

/// The parameter that both databases have, and no driver reads.
const VERIFY: &str = "tls-verify";

/// What a database calls its parameters.
#[derive(Debug)]
pub(crate) struct Names {
    /// Whether there is TLS.
    pub(crate) mode: &'static [&'static str],
    /// The values of that, in small letters.
    pub(crate) modes: &'static [&'static str],
    /// The same as they are usually written, for messages.
    pub(crate) modes_shown: &'static str,
    /// What asks for TLS.
    pub(crate) required: &'static str,
    /// The file with the authorities.
    pub(crate) authorities: &'static [&'static str],
    /// This side's certificate, and its key.
    pub(crate) certificate: &'static [&'static str],
    pub(crate) key: &'static [&'static str],
    /// All others that the driver reads. One that ends with `[` is the beginning of a name.
    pub(crate) others: &'static [&'static str],
}

/// What a URL asks for, as its driver has read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// No TLS.
    Never,
    /// TLS where the server offers it.
    IfOffered,
    /// TLS or nothing.
    Always,
}

/// How much of the server's certificate is verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verify {
    /// That a trusted authority has signed it, and that it is for this host.
    Full,
    /// Only the first.
    Authority,
    /// Nothing.
    Nothing,
}

/// How to connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tls {
    /// As the driver has read it: no TLS, or TLS where the server offers it.
    AsRead,
    /// TLS or nothing.
    Required(Verify),
}

/// The parameters of a URL.
#[derive(Debug)]
pub(crate) struct Parameters<'a> {
    names: &'static Names,
    pairs: Vec<(Cow<'a, str>, Cow<'a, str>)>,
}

impl<'a> Parameters<'a> {
    /// Takes them from the end of a URL. Also returns the URL as the driver may read it.
    ///
    /// # Errors
    /// If one is not known: it would have no effect, and may be there to keep somebody out.
    pub(crate) fn take(url: &'a str, names: &'static Names) -> Result<(String, Parameters<'a>), String> {
        let Some((place, query)) = url.split_once('?') else {
            return Ok((url.to_owned(), Parameters { names, pairs: Vec::new() }));
        };
        let pairs: Vec<_> = form_urlencoded::parse(query.as_bytes()).collect();
        let parameters = Parameters { names, pairs };
        parameters.check()?;
        let is_ours =
            |pair: &&str| form_urlencoded::parse(pair.as_bytes()).next().is_some_and(|(name, _)| name == VERIFY);
        let rest: Vec<&str> = query.split('&').filter(|pair| !is_ours(pair)).collect();
        Ok((format!("{place}?{}", rest.join("&")), parameters))
    }

    fn check(&self) -> Result<(), String> {
        let Names { mode, modes, modes_shown, authorities, certificate, key, others, .. } = self.names;
        let known = || [*mode, *authorities, *certificate, *key, *others].into_iter().flatten().copied();
        for (name, value) in &self.pairs {
            let is_known = |known: &str| known == name || (known.ends_with('[') && name.starts_with(known));
            if mode.contains(&&**name) && !modes.contains(&&*value.to_lowercase()) {
                return Err(format!("{name} is one of {modes_shown}"));
            }
            if name != VERIFY && !known().any(is_known) {
                let is_word = name.len() <= 40 && name.chars().all(|c| c.is_ascii_alphabetic() || "_-".contains(c));
                // A word without a value may be a part of a password.
                let shown = if is_word && !value.is_empty() { format!(" '{name}'") } else { String::new() };
                let all: Vec<&str> = known().chain([VERIFY]).collect();
                return Err(format!("there is a parameter{shown} that is not known; known are {}", all.join(", ")));
            }
        }
        Ok(())
    }

    fn get(&self, names: &[&str]) -> Option<&str> {
        self.pairs.iter().rev().find(|(name, _)| names.contains(&&**name)).map(|(_, value)| &**value)
    }

    /// Whether the URL itself says whether there is TLS.
    pub(crate) fn says_mode(&self) -> bool {
        self.get(self.names.mode).is_some()
    }

    /// How to connect. `asked` is what the driver has read; `is_written`: somebody wrote that, so that it is no default. Reads the
    /// files that are named.
    ///
    /// # Errors
    /// If the parameters contradict each other, or name files that are of no use.
    pub(crate) fn tls(&self, asked: Asked, is_written: bool) -> Result<Tls, String> {
        let Names { authorities, certificate, key, required, .. } = self.names;
        let verify = match self.get(&[VERIFY]) {
            None | Some("full") => Verify::Full,
            Some("ca") => Verify::Authority,
            Some("off") => Verify::Nothing,
            Some(_) => {
                return Err(format!(
                    "{VERIFY} is full (the certificate, and that it is for this host), ca (the certificate alone) or off"
                ));
            }
        };
        self.check_files()?;
        let all = [&[VERIFY][..], authorities, certificate, key];
        let about_tls = all.into_iter().flatten().copied().find(|name| self.get(&[name]).is_some());
        match (asked, about_tls) {
            (Asked::Always, _) => Ok(Tls::Required(verify)),
            // Whoever names an authority wants the server to be verified by it.
            (_, Some(_)) if !is_written => Ok(Tls::Required(verify)),
            (_, Some(name)) => Err(format!("{name} has no effect without TLS: write {required}")),
            (_, None) => Ok(Tls::AsRead),
        }
    }

    fn check_files(&self) -> Result<(), String> {
        let file = |names| self.get(names).filter(|value| !value.trim_start().starts_with("-----BEGIN"));
        let (certificate, key) = (self.names.certificate, self.names.key);
        if self.get(certificate).is_some() != self.get(key).is_some() {
            return Err(format!("{} and {} belong together", certificate[0], key[0]));
        }
        let authorities = file(self.names.authorities).map(Path::new);
        let identity = file(certificate).zip(file(key));
        let identity =
            identity.map(|(certificate, key)| Identity { certificate: certificate.as_ref(), key: key.as_ref() });
        if authorities.is_none() && identity.is_none() {
            return Ok(());
        }
        match client_config(authorities, identity) {
            // The drivers read what this machine trusts again for each connection.
            Ok(_) | Err(BadTrust::NoAuthority(_)) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// An IPv6 address without the brackets that it has in a URL; the drivers know it, and certificates have it, without them.
pub(crate) fn bare(host: &str) -> &str {
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

/// Whether this host (or the path of a socket) is the machine itself, so that nobody is in between.
pub(crate) fn is_here(host: &str) -> bool {
    host.is_empty()
        || host.starts_with('/')
        || host == "localhost"
        || host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

/// What is to be said in the log about a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Note {
    event: LogEvent,
    text: &'static str,
}

impl Note {
    /// What is to be said about this way to connect; nothing if a server proves who it is, nobody can be in between, or somebody
    /// wrote that there is to be no TLS. `hint` is for servers elsewhere of which nothing was asked.
    pub(crate) fn of(tls: Tls, is_written: bool, is_here: bool, hint: &'static str) -> Option<Note> {
        match tls {
            Tls::Required(Verify::Full) => None,
            Tls::Required(Verify::Authority) => Some(Note {
                event: LogEvent::DatabaseUnverified,
                text: "with tls-verify=ca, any server will do whose certificate a trusted authority has signed, for whatever \
                       name",
            }),
            Tls::Required(Verify::Nothing) => Some(Note {
                event: LogEvent::DatabaseUnverified,
                text: "with tls-verify=off, any server will do that answers at this address, and gets the password",
            }),
            Tls::AsRead if is_written || is_here => None,
            Tls::AsRead => Some(Note { event: LogEvent::DatabaseTlsOptional, text: hint }),
        }
    }

    /// Says it, once for each address in the life of this process.
    pub(crate) fn say(self, shown: &str) {
        static SAID: Mutex<BTreeSet<(String, &'static str)>> = Mutex::new(BTreeSet::new());
        let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
        if !said.insert((shown.to_owned(), self.event.name())) {
            return;
        }
        let text = self.text;
        match self.event {
            LogEvent::DatabaseUnverified => {
                tracing::warn!(event = %LogEvent::DatabaseUnverified, "database {shown}: {text}");
            }
            _ => tracing::warn!(event = %LogEvent::DatabaseTlsOptional, "database {shown}: {text}"),
        }
    }
}

/// What went wrong with TLS, and what to do; `None` if the error is about something else.
pub(crate) fn explain(error: &sqlx::Error) -> Option<(String, &'static str)> {
    match error {
        sqlx::Error::Io(inner) => bugfeed_trust::refused(inner).map(|Refused { cause, what }| (what, advice(cause))),
        sqlx::Error::Tls(inner) if inner.to_string().contains("does not support TLS") => Some((
            "it offers no TLS, which the URL asks for".to_owned(),
            "switch TLS on at the server; or write an address in the URL that leads to one that has it",
        )),
        sqlx::Error::Tls(inner) => Some((format!("no encrypted connection ({inner})"), advice(Cause::Certificate))),
        _ => None,
    }
}

fn advice(cause: Cause) -> &'static str {
    match cause {
        Cause::Authority => {
            "name the certificate of its authority, ssl-ca=FILE in the URL, or SSL_CERT_FILE for the whole process"
        }
        Cause::Name => {
            "write a name that is in the certificate as the host; or, if the authority signs for nobody else, tls-verify=ca in \
             the URL"
        }
        Cause::Time => "renew it at the server; is the clock right, here and there?",
        Cause::Certificate => {
            "let an authority sign a certificate for the server (for its name, without CA:TRUE), and name that authority: \
             ssl-ca=FILE in the URL"
        }
        Cause::Server => "name this side's certificate and its key, ssl-cert=FILE&ssl-key=FILE in the URL",
        Cause::NoTls => "is a database at this port?",
    }
}

#[cfg(test)]
mod tests;
