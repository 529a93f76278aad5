//! The parameters behind the `?` of a broker's address, and what they say about TLS.
//!
//! Goes in: the text of the address. Comes out: whom to trust, or an error that names the parameter and what is allowed. A
//! parameter that would have no effect is an error, because it may be there to keep somebody out. Never switches the
//! verification off.

use std::path::PathBuf;

use bugfeed_trust::{BadTrust, Identity, client_config};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;

/// The parameters that have an effect, as RabbitMQ's URLs have them (<https://www.rabbitmq.com/docs/uri-query-parameters>).
/// `frame_max` is lapin's.
const KNOWN: [&str; 10] = [
    "cacertfile",
    "certfile",
    "keyfile",
    "server_name_indication",
    "verify",
    "auth_mechanism",
    "heartbeat",
    "connection_timeout",
    "channel_max",
    "frame_max",
];
/// Those that are numbers, with the largest one.
const NUMBERS: [(&str, u64); 4] =
    [("heartbeat", 65_535), ("connection_timeout", u64::MAX), ("channel_max", 65_535), ("frame_max", 4_294_967_295)];
const MECHANISMS: [&str; 5] = ["plain", "external", "amqplain", "anonymous", "rabbit-cr-demo"];

const UNVERIFIED: &str = "verify=verify_none is refused: nobody would know who gets the password. Leave it out, and name the \
                          certificate of the broker's authority: cacertfile=FILE";
const UNNAMED: &str = "server_name_indication=disable is refused: any certificate would do. Write the name that is in the \
                       broker's certificate";

/// What a broker must prove, and what it is shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tls {
    /// The authorities that are trusted; `None` for those of this machine.
    authorities: Option<PathBuf>,
    /// The files of this side's certificate and its key.
    identity: Option<(PathBuf, PathBuf)>,
    /// The name that the certificate must have; `None` for the address's host.
    pub(crate) name: Option<ServerName<'static>>,
}

impl Tls {
    /// Reads the files. It takes a while.
    ///
    /// # Errors
    /// If one is of no use.
    pub(crate) fn config(&self) -> Result<ClientConfig, BadTrust> {
        let identity = self.identity.as_ref().map(|(certificate, key)| Identity { certificate, key });
        client_config(self.authorities.as_deref(), identity)
    }
}

/// The parameters of an address.
#[derive(Default)]
pub(crate) struct Parameters {
    tls: Vec<(&'static str, String)>,
}

impl Parameters {
    /// Reads and checks them.
    ///
    /// # Errors
    /// If one is not known, has a wrong value, or stands there twice.
    pub(crate) fn of(text: &str) -> Result<Parameters, String> {
        let mut parameters = Parameters::default();
        let query = text.trim().split_once('?').map_or("", |(_, query)| query);
        let mut seen = Vec::new();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let Some(&name) = KNOWN.iter().find(|known| **known == name) else {
                return Err(unknown(&name, value.is_empty()));
            };
            if seen.contains(&name) {
                return Err(format!("the parameter {name} stands there twice"));
            }
            seen.push(name);
            if let Some((_, most)) = NUMBERS.iter().find(|(number, _)| *number == name) {
                let fits = value.parse::<u64>().is_ok_and(|value| value <= *most);
                fits.then_some(()).ok_or(format!("the parameter {name} is a whole number, {most} at most"))?;
            } else if name == "auth_mechanism" {
                let is_known = MECHANISMS.contains(&value.to_lowercase().as_str());
                is_known.then_some(()).ok_or(format!("the parameter {name} is one of {}", MECHANISMS.join(", ")))?;
            } else {
                parameters.tls.push((name, value.into_owned()));
            }
        }
        Ok(parameters)
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.tls.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str())
    }

    /// What they say about TLS; `None` for an address without TLS. Reads the files that are named.
    ///
    /// # Errors
    /// If they contradict each other or the address, switch the verification off, or name files that are of no use.
    pub(crate) fn tls(&self, is_amqps: bool) -> Result<Option<Tls>, String> {
        if !is_amqps {
            let stray = self.tls.first().map(|(name, _)| *name);
            return stray.map_or(Ok(None), |name| {
                Err(format!("the parameter {name} is about TLS, which an address has that begins with amqps://"))
            });
        }
        match self.get("verify") {
            None | Some("verify_peer") => {}
            Some("verify_none") => return Err(UNVERIFIED.to_owned()),
            Some(_) => return Err("the parameter verify is verify_peer, which is so without it".to_owned()),
        }
        let name = match self.get("server_name_indication") {
            None => None,
            Some("disable") => return Err(UNNAMED.to_owned()),
            Some(name) => Some(ServerName::try_from(name.to_owned()).map_err(|_| {
                "the parameter server_name_indication is the name of a host, as it is in the broker's certificate"
                    .to_owned()
            })?),
        };
        let file = |name| self.get(name).map(PathBuf::from);
        let identity = match (file("certfile"), file("keyfile")) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => {
                return Err(
                    "certfile and keyfile belong together: the certificate of this side, and its key".to_owned()
                );
            }
        };
        let tls = Tls { authorities: file("cacertfile"), identity, name };
        // What this machine trusts may be there later; what is named here must be there.
        if tls.authorities.is_some() || tls.identity.is_some() {
            match tls.config() {
                Ok(_) | Err(BadTrust::NoAuthority(_)) => {}
                Err(error) => return Err(error.to_string()),
            }
        }
        Ok(Some(tls))
    }
}

/// The error about a parameter that has no effect.
fn unknown(name: &str, is_bare: bool) -> String {
    let is_word = name.len() <= 40 && name.chars().all(|c| c.is_ascii_alphabetic() || c == '_' || c == '-');
    // A word without a value may be a part of a password.
    let shown = if is_word && !is_bare { format!(" '{name}'") } else { String::new() };
    let more = match name {
        "password" => "; take the password off the key in keyfile",
        "fail_if_no_peer_cert" | "depth" => "; it means something to a server only",
        _ => "",
    };
    format!("there is a parameter{shown} that is not known{more}; known are {}", KNOWN.join(", "))
}

#[cfg(test)]
mod tests {
    use crate::parse_url;

    fn error(text: &str) -> String {
        let error = parse_url(text).expect_err(text);
        assert!(!error.contains("secret"), "{error}");
        error
    }

    #[test]
    fn a_parameter_without_effect_is_an_error() {
        for (parameters, want) in [
            ("cacert=x", "a parameter 'cacert' that is not known"),
            ("cacert=x", "known are cacertfile, certfile, keyfile, server_name_indication, verify"),
            ("12%23", "there is a parameter that is not known"),
            ("secret", "there is a parameter that is not known"),
            ("depth=2", "to a server only"),
            ("password=x", "off the key"),
            ("verify=verify_none", "cacertfile=FILE"),
            ("verify=sideways", "verify_peer"),
            ("server_name_indication=disable", "any certificate would do"),
            ("server_name_indication=a%20b", "the name of a host"),
            ("certfile=/x", "belong together"),
            ("heartbeat=soon", "heartbeat is a whole number"),
            ("heartbeat=70000", "65535 at most"),
            ("heartbeat=1&heartbeat=2", "twice"),
            ("auth_mechanism=magic", "plain, external"),
            ("cacertfile=/no/such/file.pem", "the file /no/such/file.pem cannot be read"),
        ] {
            let error = error(&format!("amqps://me:secret@rabbit/%2f?{parameters}"));
            assert!(error.contains(want), "{parameters}: {error}");
        }
        assert!(error("amqp://me:secret@rabbit/%2f?cacertfile=/x").contains("begins with amqps://"));
        assert!(error("amqp://me:secret@rabbit/%2f?verify=verify_peer").contains("amqps://"));
    }

    #[test]
    fn parameters_that_have_an_effect_are_taken() {
        for text in [
            "amqp://rabbit/?heartbeat=5&frame_max=8192&channel_max=9&connection_timeout=1000",
            "amqps://rabbit/?auth_mechanism=EXTERNAL&verify=verify_peer",
            "amqps://rabbit/?server_name_indication=other.example.org",
        ] {
            assert!(parse_url(text).is_ok(), "{text}");
        }
        let url = parse_url("amqps://rabbit/?server_name_indication=other.example.org").unwrap();
        assert_eq!(url.0.tls.as_ref().unwrap().name.as_ref().unwrap().to_str(), "other.example.org");
        assert!(parse_url("amqp://rabbit/").unwrap().0.tls.is_none());
    }

    #[test]
    fn files_are_looked_at_before_anything_is_started() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x.pem");
        let text = format!("amqps://me:secret@rabbit/?cacertfile={}", file.display());
        std::fs::write(&file, "secret\n").unwrap();
        assert!(error(&text).contains("holds no certificate"));
        std::fs::write(&file, "-----BEGIN CERTIFICATE-----\nsecret\n-----END CERTIFICATE-----\n").unwrap();
        assert!(error(&text).contains("no certificate"));
    }
}
