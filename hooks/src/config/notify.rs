//! `[[notify]]`: who is told of what.

use std::path::Path;

use super::error::ConfigError;
use super::reader::{Fields, Node};
use super::secret::Secret;
use super::source::ReadFile;

/// What somebody can be told of, as the words of `on`.
pub const SUBJECTS: [&str; 14] = [
    "errored",
    "dead-letters",
    "expired",
    "silence",
    "key-expiring",
    "sender",
    "quarantine",
    "not-kept",
    "digest",
    "endpoint.warning",
    "endpoint.cooling",
    "endpoint.disabled",
    "endpoint.recovered",
    "endpoint.enabled",
];

/// Words for several of them: all; all about endpoints.
const GROUPS: [&str; 2] = ["all", "endpoints"];

/// One target, and what it is told.
#[derive(Clone, Debug)]
pub struct Notify {
    /// What it is told of: words of [`SUBJECTS`].
    pub on: Vec<&'static str>,
    /// Of which sources; empty means all.
    pub sources: Vec<String>,
    /// How it is told.
    pub target: Target,
}

/// How somebody is told.
#[derive(Clone, Debug)]
pub enum Target {
    /// A POST to this URL, which is a secret, because the URLs of chats hold tokens.
    Url(Secret),
    /// A program and its arguments.
    Command(Vec<String>),
    /// A mail.
    Smtp {
        /// The server, as `smtp://USER:PASSWORD@HOST:PORT`.
        server: Secret,
        /// The sender's address.
        from: String,
        /// The recipients.
        to: Vec<String>,
    },
}

/// Reads one `[[notify]]`, given the names of all sources. `read_file` reads the files of addresses.
pub(crate) fn read_notify(
    fields: &mut Fields<'_>,
    known: &[&str],
    read_file: ReadFile<'_>,
) -> Result<Notify, ConfigError> {
    let words: Vec<(&str, &'static str)> = SUBJECTS.into_iter().chain(GROUPS).map(|word| (word, word)).collect();
    let mut on = Vec::new();
    if let Some(node) = fields.get("on") {
        for node in node.list() {
            match node.one_of(&words)? {
                "all" => on.extend(SUBJECTS),
                "endpoints" => on.extend(SUBJECTS.iter().filter(|word| word.starts_with("endpoint."))),
                word => on.push(word),
            }
        }
    }
    let mut sources = Vec::new();
    if let Some(node) = fields.get("sources") {
        for node in node.list() {
            let name = node.text()?;
            if !known.contains(&name) {
                return Err(node.unknown_word(name, known.iter().copied()));
            }
            sources.push(name.to_owned());
        }
    }
    let (url, url_file) = (fields.get("url"), fields.get("url_file"));
    let (command, smtp) = (fields.get("command"), fields.get("smtp"));
    fields.finish()?;
    if on.is_empty() {
        let fix = format!("add on = [\"all\"], or some of {}, endpoints", SUBJECTS.join(", "));
        return Err(fields.error("this tells of nothing", fix));
    }
    let target = match (url, url_file, command, smtp) {
        (Some(url), None, None, None) => Target::Url(read_url(url.text()?, &url)?),
        (None, Some(file), None, None) => Target::Url(read_url(&text_in(&file, read_file)?, &file)?),
        (None, None, Some(command), None) => Target::Command(texts(&command)?),
        (None, None, None, Some(smtp)) => read_smtp(&smtp, read_file)?,
        _ => {
            let fix = "give exactly one of url = \"https://…\", url_file = \"FILE\", command = [\"PROGRAM\", …], \
                       smtp = { server, from, to }";
            return Err(fields.error("this does not say who is told", fix));
        }
    };
    Ok(Notify { on, sources, target })
}

fn texts(node: &Node<'_>) -> Result<Vec<String>, ConfigError> {
    let texts: Vec<String> = node.list().iter().map(|node| Ok(node.text()?.to_owned())).collect::<Result<_, _>>()?;
    match texts.first() {
        Some(first) if !first.is_empty() => Ok(texts),
        _ => Err(node.error("this is empty", "give at least one text")),
    }
}

/// What is in the file that is named here, without the line break at its end.
fn text_in(node: &Node<'_>, read_file: ReadFile<'_>) -> Result<String, ConfigError> {
    let text = read_file(read_path(node)?);
    let text =
        text.map_err(|why| node.error(format!("the file cannot be read: {why}"), "it holds the address alone"))?;
    Ok(text.trim_end_matches(['\n', '\r']).to_owned())
}

fn read_url(text: &str, node: &Node<'_>) -> Result<Secret, ConfigError> {
    check_http_url(text).map_err(|fix| node.error("this is no address to POST to", fix))?;
    Ok(Secret::new(text))
}

/// Checks that this is an address of a web server, as far as that can be said without a parser of URLs.
pub(crate) fn check_http_url(text: &str) -> Result<(), &'static str> {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let host = rest.and_then(|rest| rest.split(['/', '?', '#']).next()).unwrap_or_default();
    if host.is_empty() {
        return Err("write https://HOST/PATH");
    }
    if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err("it may contain no blank; write %20");
    }
    Ok(())
}

fn read_smtp(node: &Node<'_>, read_file: ReadFile<'_>) -> Result<Target, ConfigError> {
    let mut fields = node.table()?;
    let (server, file, from, to) =
        (fields.get("server"), fields.get("server_file"), fields.get("from"), fields.get("to"));
    fields.finish()?;
    if let (Some(_), Some(file)) = (&server, &file) {
        return Err(file.error("the server is named twice", "leave out either server or server_file"));
    }
    let (Some(server), Some(from), Some(to)) = (server.as_ref().or(file.as_ref()), from, to) else {
        let fix = "write smtp = { server = \"smtp://HOST\", from = \"bugfeed@HOST\", to = [\"…\"] }";
        return Err(node.error("server, from and to are all needed", fix));
    };
    let address = match &file {
        Some(file) => text_in(file, read_file)?,
        None => server.text()?.to_owned(),
    };
    if !["smtp://", "smtps://"].iter().any(|scheme| address.starts_with(scheme) && address.len() > scheme.len()) {
        return Err(server.error("this is no mail server", "write smtp://HOST:PORT or smtps://HOST:PORT"));
    }
    let to = texts(&to)?;
    Ok(Target::Smtp { server: Secret::new(&address), from: from.text()?.to_owned(), to })
}

/// A path relative to nothing: the caller says where it begins.
pub(crate) fn read_path<'a>(node: &Node<'a>) -> Result<&'a Path, ConfigError> {
    match node.text()? {
        "" => Err(node.error("the path is empty", "name a file")),
        text => Ok(Path::new(text)),
    }
}
