//! The token that a gateway may want, and where it comes from. It is never shown: not in errors, not by `Debug`.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use bugfeed_protocol::token::Token;

use crate::connection_end::ConnectionEnd;
use crate::words;

type Getting = Pin<Box<dyn Future<Output = Result<String, String>> + Send>>;

/// Where the token of a connection comes from.
#[derive(Clone, Default)]
pub(crate) enum Tokens {
    /// The gateway is shown none.
    #[default]
    None,
    /// It is always the same.
    Fixed(Token),
    /// The application gives one for each connection.
    Given(Arc<dyn Fn() -> Getting + Send + Sync>),
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Tokens::None => "None",
            Tokens::Fixed(_) => "Fixed",
            Tokens::Given(_) => "Given",
        })
    }
}

impl Tokens {
    /// Tokens that the application gives.
    pub(crate) fn given<F, T, E>(give: F) -> Tokens
    where
        F: Fn() -> T + Send + Sync + 'static,
        T: Future<Output = Result<String, E>> + Send + 'static,
        E: fmt::Display,
    {
        Tokens::Given(Arc::new(move || {
            let giving = give();
            Box::pin(async move { giving.await.map_err(|error| error.to_string()) })
        }))
    }

    /// Whether each connection may have another token.
    pub(crate) fn may_change(&self) -> bool {
        matches!(self, Tokens::Given(_))
    }

    /// The token for the next connection.
    ///
    /// # Errors
    /// If the application could give none, or what it gave is none. Both count as a connection that failed.
    pub(crate) async fn next(&self) -> Result<Option<Token>, ConnectionEnd> {
        let token = match self {
            Tokens::None => return Ok(None),
            Tokens::Fixed(token) => token.clone(),
            Tokens::Given(give) => {
                let given = give().await;
                let failed = |error: String| format!("no token could be got: {}", words::plain(&error));
                Token::new(&given.map_err(|error| ConnectionEnd::Broken(failed(error)))?)
            }
        };
        match token.is_well_formed() {
            true => Ok(Some(token)),
            // What is no text of a header cannot be sent, and the gateway would not know it.
            false => {
                Err(ConnectionEnd::NoToken("a token is 1 to 8192 of the characters A-Z a-z 0-9 - . _ ~".to_owned()))
            }
        }
    }
}
