//! What `bugfeed endpoints` sends to the API: options, and files that they name, as JSON.

use std::fs;
use std::io::Read as _;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::AdminError;
use crate::cli::hooks::{ChangeEndpointArgs, CreateEndpointArgs, EndpointSettingsArgs};

/// The body that makes an endpoint, or shows what it would be sent.
pub(super) fn create(args: &CreateEndpointArgs) -> Result<Value, AdminError> {
    let mut body = settings(&args.settings)?;
    body.insert("url".to_owned(), json!(args.url));
    body.insert("bugs".to_owned(), bugs(&args.bugs)?);
    if let Some(secret) = secret(args.secret_file.as_deref())? {
        body.insert("secret".to_owned(), json!(secret));
    }
    Ok(Value::Object(body))
}

/// The body that changes one.
pub(super) fn change(args: &ChangeEndpointArgs) -> Result<Value, AdminError> {
    let mut body = settings(&args.settings)?;
    if let Some(url) = &args.url {
        body.insert("url".to_owned(), json!(url));
    }
    if !args.bugs.is_empty() {
        body.insert("bugs".to_owned(), bugs(&args.bugs)?);
    }
    for (is_none, member) in [(args.no_rate, "rate"), (args.no_template, "template")] {
        if is_none {
            body.insert(member.to_owned(), Value::Null);
        }
    }
    if !args.no_header.is_empty() {
        let headers = body.entry("headers").or_insert_with(|| json!({}));
        for name in &args.no_header {
            headers[name] = Value::Null;
        }
    }
    Ok(Value::Object(body))
}

/// A secret that a person has written into a file. `None`: no file is named.
pub(super) fn secret(path: Option<&Path>) -> Result<Option<String>, AdminError> {
    path.map(|path| read(path).map(|text| text.trim().to_owned())).transpose()
}

fn settings(args: &EndpointSettingsArgs) -> Result<Map<String, Value>, AdminError> {
    let mut body = Map::new();
    if args.all_feeds {
        body.insert("feeds".to_owned(), json!("all"));
    } else if !args.feed.is_empty() {
        body.insert("feeds".to_owned(), json!(args.feed));
    }
    for (member, text) in [("policy", &args.policy), ("description", &args.description)] {
        if let Some(text) = text {
            body.insert(member.to_owned(), json!(text));
        }
    }
    if let Some(rate) = args.rate {
        body.insert("rate".to_owned(), json!(rate));
    }
    if let Some(template) = &args.template {
        let text = match template.strip_prefix('@') {
            Some(path) => read(Path::new(path))?,
            None => template.clone(),
        };
        body.insert("template".to_owned(), json!(text));
    }
    if !args.header.is_empty() {
        body.insert("headers".to_owned(), Value::Object(headers(&args.header)?));
    }
    Ok(body)
}

/// Numbers, or `all`. What is neither is left to the API, which says what is wrong with it.
fn bugs(texts: &[String]) -> Result<Value, AdminError> {
    let parts: Vec<&str> = texts.iter().flat_map(|text| text.split(',')).map(str::trim).collect();
    let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    match parts.as_slice() {
        ["all"] => Ok(json!("all")),
        parts if parts.contains(&"all") => {
            Err(AdminError::Value("--bugs: all stands alone; or name bugs, as in 1234,5678".to_owned()))
        }
        parts => Ok(parts.iter().map(|part| part.parse::<u64>().map_or_else(|_| json!(part), Value::from)).collect()),
    }
}

/// Headers as they are written in HTTP. No error repeats a value, which may be a secret.
fn headers(texts: &[String]) -> Result<Map<String, Value>, AdminError> {
    let mut headers = Map::new();
    for text in texts {
        let lines = match text.strip_prefix('@') {
            Some(path) => read(Path::new(path))?,
            None => text.clone(),
        };
        for line in lines.lines().filter(|line| !line.trim().is_empty()) {
            let Some((name, value)) = line.split_once(':') else {
                let fix = "write --header 'X-Api-Key: VALUE', or @FILE with one header a line";
                return Err(AdminError::Value(format!("--header: there is no colon after the name; {fix}")));
            };
            headers.insert(name.trim().to_owned(), json!(value.trim()));
        }
    }
    Ok(headers)
}

fn read(path: &Path) -> Result<String, AdminError> {
    let mut text = String::new();
    let done = if path == Path::new("-") {
        std::io::stdin().lock().read_to_string(&mut text).map(|_| ())
    } else {
        fs::read_to_string(path).map(|read| text = read)
    };
    done.map_err(|error| AdminError::File { path: path.display().to_string(), error })?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bugs_and_headers_as_people_write_them() {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        assert_eq!(bugs(&texts(&["1, 2,", "3"])).unwrap(), json!([1, 2, 3]));
        assert_eq!(bugs(&texts(&["all"])).unwrap(), json!("all"));
        assert_eq!(bugs(&texts(&["1,x"])).unwrap(), json!([1, "x"]));
        assert!(bugs(&texts(&["all", "1"])).unwrap_err().to_string().contains("alone"));
        let read = headers(&texts(&["X-A: b: c", "Authorization:Bearer x"])).unwrap();
        assert_eq!(Value::Object(read), json!({ "X-A": "b: c", "Authorization": "Bearer x" }));
        let error = headers(&texts(&["s3cret"])).unwrap_err().to_string();
        assert!(error.contains("no colon") && !error.contains("s3cret"), "{error}");
        assert!(headers(&texts(&["@/none"])).unwrap_err().to_string().contains("/none"));
    }
}
