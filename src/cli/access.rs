//! Options about the tokens of clients: which are taken (of roles that serve), and which is shown (of clients).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bugfeed_core::access::Policy;
use bugfeed_gateway::access::AccessOptions;
use bugfeed_gateway::access::keys::{KeysFrom, KeysOptions};
use bugfeed_runtime::values::age;
use clap::Args;
use tokio::sync::Notify;

use crate::token::ShownToken;

/// Who may connect. Without any of these options, everybody may.
#[derive(Clone, Debug, Args)]
pub struct AccessArgs {
    /// Let only clients in that show a token which stands in this file (TOML; make one with `bugfeed token new`). It is read
    /// again when it changes [default: everybody is let in]
    #[arg(long, env = "BUGFEED_TOKENS", value_name = "FILE")]
    pub tokens: Option<PathBuf>,
    /// Take JSON Web Tokens that one of these keys has signed (a JWKS): a file, or the https address at which the issuer
    /// publishes them
    #[arg(long, env = "BUGFEED_JWT_KEYS", value_name = "FILE|URL", value_parser = keys_from)]
    pub jwt_keys: Option<KeysFrom>,
    /// Take JSON Web Tokens that are signed with the secret in this file (HS256 from 32 bytes, HS384 from 48, HS512 from 64)
    #[arg(long, env = "BUGFEED_JWT_SECRET_FILE", value_name = "FILE")]
    pub jwt_secret_file: Option<PathBuf>,
    /// Whom JSON Web Tokens must be for (aud); repeat for more. Without it, tokens that name anybody are refused
    #[arg(long, env = "BUGFEED_JWT_AUDIENCE", value_name = "NAME", value_delimiter = ',')]
    pub jwt_audience: Vec<String>,
    /// Who must have issued JSON Web Tokens (iss); repeat for more [default: anybody who has the key]
    #[arg(long, env = "BUGFEED_JWT_ISSUER", value_name = "NAME", value_delimiter = ',')]
    pub jwt_issuer: Vec<String>,
    /// What the clocks of issuer and gateway may differ by, in seconds: so long a token is good after its exp
    #[arg(long, env = "BUGFEED_JWT_LEEWAY_S", default_value_t = 60, value_name = "S", value_parser = clap::value_parser!(u32).range(0..=600), hide_short_help = true)]
    pub jwt_leeway_s: u32,
    /// How often the address of --jwt-keys is asked for its keys, in seconds
    #[arg(long, env = "BUGFEED_JWT_KEYS_REFRESH_S", default_value_t = 600, value_name = "S", value_parser = clap::value_parser!(u32).range(1..=86_400), hide_short_help = true)]
    pub jwt_keys_refresh_s: u32,
    /// A token with an unknown key has the address asked at once, but not within so many seconds after the last time
    #[arg(long, env = "BUGFEED_JWT_KEYS_RETRY_S", default_value_t = 30, value_name = "S", value_parser = clap::value_parser!(u32).range(1..=3600), hide_short_help = true)]
    pub jwt_keys_retry_s: u32,
    /// For how long keys are used that the address does not give again, such as 24h or 90m
    #[arg(long, env = "BUGFEED_JWT_KEYS_MAX_AGE", default_value = "24h", value_name = "AGE", value_parser = age, hide_short_help = true)]
    pub jwt_keys_max_age: Duration,
    /// A file with a secret that several gateways share, so that each takes the tickets of the others (for EventSource)
    /// [default: a gateway takes its own]
    #[arg(long, env = "BUGFEED_TICKET_KEY_FILE", value_name = "FILE", hide_short_help = true)]
    pub ticket_key_file: Option<PathBuf>,
}

fn keys_from(text: &str) -> Result<KeysFrom, String> {
    if !text.contains("://") {
        return Ok(KeysFrom::File(PathBuf::from(text)));
    }
    let address = bugfeed_hooks::client::Address::parse(text).map_err(|error| error.to_string())?;
    let origin = address.origin();
    let is_here =
        origin.host == "localhost" || origin.host.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback());
    match origin.is_https || is_here {
        true => Ok(KeysFrom::Url(text.to_owned())),
        false => {
            Err("write https://, because whoever can change these keys on their way can let anybody in".to_owned())
        }
    }
}

impl AccessArgs {
    /// What is asked of clients; `None` if nothing is. `wait`: how long a client may take to show its token.
    ///
    /// # Errors
    /// If options contradict each other; the error names them.
    pub fn options(&self, wait: Duration) -> Result<Option<AccessOptions>, String> {
        let signed = self.jwt_keys.is_some() || self.jwt_secret_file.is_some();
        let needs_keys = [("--jwt-audience", &self.jwt_audience), ("--jwt-issuer", &self.jwt_issuer)];
        if let Some((option, _)) = needs_keys.iter().find(|(_, values)| !signed && !values.is_empty()) {
            return Err(format!(
                "{option} needs --jwt-keys or --jwt-secret-file; without them no signed token is taken"
            ));
        }
        if !signed && self.tokens.is_none() {
            return match &self.ticket_key_file {
                Some(_) => Err("--ticket-key-file needs --tokens, --jwt-keys or --jwt-secret-file".to_owned()),
                None => Ok(None),
            };
        }
        let seconds = |seconds: u32| Duration::from_secs(u64::from(seconds));
        Ok(Some(AccessOptions {
            tokens: self.tokens.clone(),
            keys: signed.then(|| KeysOptions {
                public: self.jwt_keys.clone(),
                secret: self.jwt_secret_file.clone(),
                refresh: seconds(self.jwt_keys_refresh_s),
                retry: seconds(self.jwt_keys_retry_s),
                max_age: self.jwt_keys_max_age,
            }),
            policy: Policy {
                audiences: self.jwt_audience.clone(),
                issuers: self.jwt_issuer.clone(),
                leeway_s: i64::from(self.jwt_leeway_s),
            },
            ticket_key: self.ticket_key_file.clone(),
            wait,
            again: Arc::new(Notify::new()),
        }))
    }
}

/// The token that a client shows.
#[derive(Clone, Debug, Args)]
pub struct ShownTokenArgs {
    /// The file with the token that the gateway wants. It is read for each connection, so that a new token can be put there
    #[arg(long, env = "BUGFEED_TOKEN_FILE", value_name = "FILE", conflicts_with = "token")]
    pub token_file: Option<PathBuf>,
    /// The token itself. On the command line others on this machine can read it; the variable, or --token-file, hides it
    #[arg(long, env = "BUGFEED_TOKEN", value_name = "TOKEN", hide_env_values = true, hide_short_help = true)]
    pub token: Option<String>,
}

impl ShownTokenArgs {
    /// The token, if there is one.
    pub fn shown(&self) -> Option<ShownToken> {
        match (&self.token_file, &self.token) {
            (Some(path), _) => Some(ShownToken::InFile(path.clone())),
            (None, Some(text)) => Some(ShownToken::Fixed(bugfeed_protocol::token::Token::new(text))),
            (None, None) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        access: AccessArgs,
    }

    fn options(args: &[&str]) -> Result<Option<AccessOptions>, String> {
        let line = Line::try_parse_from(std::iter::once(&"x").chain(args)).map_err(|error| error.to_string())?;
        line.access.options(Duration::from_secs(10))
    }

    #[test]
    fn without_options_everybody_is_let_in() {
        assert!(options(&[]).unwrap().is_none());
        assert!(options(&["--tokens", "x"]).unwrap().is_some_and(|options| options.keys.is_none()));
        let keys =
            options(&["--jwt-keys", "https://login.example.org/keys", "--jwt-audience", "a,b"]).unwrap().unwrap();
        assert_eq!(keys.policy.audiences, ["a", "b"]);
        assert!(options(&["--jwt-keys", "http://127.0.0.1:9/keys"]).unwrap().is_some());
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for (args, want) in [
            (&["--jwt-keys", "http://login.example.org/keys"][..], "https://"),
            (&["--jwt-keys", "ftp://login.example.org/keys"], "https://"),
            (&["--jwt-issuer", "x"], "--jwt-keys"),
            (&["--tokens", "x", "--jwt-audience", "x"], "--jwt-secret-file"),
            (&["--ticket-key-file", "x"], "--tokens"),
            (&["--jwt-leeway-s", "601"], "0..=600"),
        ] {
            let error = options(args).unwrap_err();
            assert!(error.contains(want), "{args:?}: {error}");
        }
    }
}
