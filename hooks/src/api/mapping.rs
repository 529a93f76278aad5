//! What a captured request would become: by a source of the configuration, or by TOML that is tried out. Nothing is stored.

use bugfeed_protocol::When;
use serde::Deserialize;
use serde_json::json;

use super::call::{Call, answer};
use super::error::{Answer, ApiError};
use crate::config::{HooksConfig, Source};
use crate::receive::capture;
use crate::receive::explain::explain;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct TryBody {
    source: Option<String>,
    config: Option<String>,
    request: String,
}

pub(super) async fn try_out(call: Call) -> Answer {
    let body: TryBody = call.json()?;
    if body.request.is_empty() {
        let fix = "send a body, or a whole request as HTTP/1.1 text, as the member request";
        return Err(ApiError::bad("there is no request", fix));
    }
    let config = match &body.config {
        None => call.api.service().config(),
        Some(text) => {
            let no_file = |_: &std::path::Path| Err("files are not read here; write secret = \"…\"".to_owned());
            let read = HooksConfig::read("config", text, &no_file);
            read.map_err(|error| ApiError::bad(error.to_string(), "mend the TOML"))?.into()
        }
    };
    let source = choose(&config, body.source.as_deref())?;
    let now = When::from_micros(call.now_us).unwrap_or(When::MIN);
    let explained = explain(source, &capture::read(body.request.as_bytes()), now);
    answer(json!({ "source": source.name, "good": explained.is_good(), "text": explained.to_string() }))
}

fn choose<'a>(config: &'a HooksConfig, name: Option<&str>) -> Result<&'a Source, ApiError> {
    let names: Vec<&str> = config.sources.iter().map(|source| source.name.as_str()).collect();
    let found = match (name, &config.sources[..]) {
        (Some(name), _) => config.source(name),
        (None, [only]) => Some(only),
        (None, _) => None,
    };
    found.ok_or_else(|| ApiError::bad("no source is named that there is", format!("sources: {}", names.join(", "))))
}
