//! Which admin port, and with which token.

use std::fs;
use std::path::Path;

use bugfeed_hooks::api::client::{AdminUrl, ApiClient, CallError};
use bugfeed_hooks::store::tokens::Token;
use serde_json::Value;

use super::AdminError;
use crate::cli::hooks::AdminArgs;

/// Where the API usually is: of the all-in-one, of `bugfeed hooks`.
const USUAL: [&str; 2] = ["http://127.0.0.1:8845", "http://127.0.0.1:8847"];

/// The API of a running process. The first question finds out which port it is on, if nobody has said it.
pub(super) struct Connection {
    candidates: Vec<ApiClient>,
    is_found: bool,
}

impl Connection {
    pub(super) fn new(args: &AdminArgs) -> Result<Connection, AdminError> {
        let token = read_token(&args.admin_token_file)?;
        let urls: Vec<AdminUrl> = match &args.admin_url {
            Some(url) => vec![url.clone()],
            None => USUAL.iter().filter_map(|url| url.parse().ok()).collect(),
        };
        let candidates: Vec<_> = urls.into_iter().map(|url| ApiClient::new(url, token.clone())).collect();
        let is_found = candidates.len() == 1;
        Ok(Connection { candidates, is_found })
    }

    /// The client of the port where the API is.
    async fn client(&mut self) -> Result<ApiClient, AdminError> {
        if !self.is_found {
            self.find().await?;
        }
        // There is always one.
        self.candidates.first().cloned().ok_or_else(|| AdminError::Nowhere("no port is known".to_owned()))
    }

    /// Finds the first port with the API by a question that changes nothing.
    async fn find(&mut self) -> Result<(), AdminError> {
        let mut reasons = Vec::new();
        for client in &self.candidates {
            match client.get("tokens", &[("limit", "1")]).await {
                Err(error) if error.is_elsewhere() => reasons.push(error.to_string()),
                // A refusal is an answer of the API too; what was asked for may be allowed.
                Ok(_) | Err(_) => {
                    self.candidates = vec![client.clone()];
                    self.is_found = true;
                    return Ok(());
                }
            }
        }
        Err(AdminError::Nowhere(reasons.join("; ")))
    }

    pub(super) async fn get(&mut self, path: &str, query: &[(&str, &str)]) -> Result<Value, AdminError> {
        let client = self.client().await?;
        client.get(path, query).await.map_err(|error| told(&client, error))
    }

    pub(super) async fn post(&mut self, path: &str, body: &Value) -> Result<Value, AdminError> {
        let client = self.client().await?;
        client.post(path, body).await.map_err(|error| told(&client, error))
    }

    pub(super) async fn patch(&mut self, path: &str, body: &Value) -> Result<Value, AdminError> {
        let client = self.client().await?;
        client.patch(path, body).await.map_err(|error| told(&client, error))
    }

    pub(super) async fn delete(&mut self, path: &str) -> Result<Value, AdminError> {
        let client = self.client().await?;
        client.delete(path).await.map_err(|error| told(&client, error))
    }
}

/// An error in the words of a command.
fn told(client: &ApiClient, error: CallError) -> AdminError {
    match error {
        CallError::Refused { status: 401, error, .. } => AdminError::Token(format!(
            "{} refuses the token: {error}; name the file of another one with --admin-token-file, or make one on the machine \
             of the store with `bugfeed hooks token --store URL`",
            client.url()
        )),
        CallError::Fault(fault) => AdminError::Nowhere(fault.to_string()),
        other => other.into(),
    }
}

fn read_token(path: &Path) -> Result<Token, AdminError> {
    let shown = path.display();
    let text = fs::read_to_string(path).map_err(|error| {
        AdminError::Token(format!(
            "no token: {shown}: {error}; bugfeed makes this file in its data directory when it is started for the first time; \
             name it with --admin-token-file, or make a token with `bugfeed hooks token --store URL`"
        ))
    })?;
    Token::parse(text.trim()).ok_or_else(|| {
        AdminError::Token(format!("{shown} holds no token; one looks like bt_ID_SECRET, alone in the file"))
    })
}
