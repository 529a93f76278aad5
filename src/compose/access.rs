//! Who checks the tokens of clients, composed: the gatekeeper of the gateway, and an HTTP client to ask the issuer for its keys.

use std::sync::Arc;

use bugfeed_gateway::access::keys::Fetch;
use bugfeed_gateway::access::{AccessOptions, Gatekeeper};
use bugfeed_hooks::client::{Address, Client, Options, Request};

/// The longest set of keys that is read, in bytes.
const LONGEST_SET: usize = 256 * 1024;

/// The gatekeeper, if clients need tokens.
///
/// # Errors
/// If a file cannot be used; the error names the option.
pub(super) fn open(options: Option<&AccessOptions>) -> anyhow::Result<Option<Arc<Gatekeeper>>> {
    let Some(options) = options else { return Ok(None) };
    let keeper = Gatekeeper::open(options.clone(), fetch()).map_err(anyhow::Error::msg)?;
    Ok(Some(Arc::new(keeper)))
}

/// Gets what is at a URL. The URL is the operator's word, so it may be anywhere; it may not lead elsewhere.
fn fetch() -> Fetch {
    let client = Client::new(Options::default());
    Fetch(Arc::new(move |url| {
        let client = client.clone();
        Box::pin(async move {
            let to = Address::parse(&url).map_err(|error| error.to_string())?;
            let request = Request { longest_body: LONGEST_SET, ..Request::get(to) };
            let response = client.send(request).await.map_err(|fault| fault.to_string())?;
            match response.status.as_u16() {
                200 => Ok(response.body.to_vec()),
                status => Err(format!("it answers {status}")),
            }
        })
    }))
}
