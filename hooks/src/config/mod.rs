//! The configuration of `bugfeed hooks`: who sends, and what becomes of it.
//!
//! Goes in: the text of a TOML file. Comes out: a [`HooksConfig`] in which everything was checked, or one
//! [`ConfigError`] that names file, line, member and what is allowed. It never opens a file (the caller passes a closure
//! that does), and no error and no `Debug` shows a secret.
//!
//! How one source becomes rules: `source.rs` reads `[[source]]` over its preset (`presets.rs`), `mapping.rs` the
//! members that say where bug and time are, `feed.rs` which feed, `auth.rs` how the sender proves who it is. All of
//! them read through `reader.rs`, which knows the lines.

pub mod auth;
mod error;
pub mod feed;
pub mod mapping;
pub mod notify;
pub mod presets;
mod reader;
mod secret;
pub mod source;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

pub use error::ConfigError;
pub use notify::Notify;
pub use secret::Secret;
pub use source::{ReadFile, Source};

use self::reader::{Fields, File};

/// The whole configuration.
#[derive(Clone, Debug)]
pub struct HooksConfig {
    /// The sources, in the order of the file; their names differ.
    pub sources: Vec<Source>,
    /// Who is told of what.
    pub notify: Vec<Notify>,
}

impl HooksConfig {
    /// Reads and checks a file's text. `file` is its name, for errors; `read_file` reads the files of secrets.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn read(file: &str, text: &str, read_file: ReadFile<'_>) -> Result<HooksConfig, ConfigError> {
        let file = File { name: file, text };
        let document = file.parse()?;
        let mut fields = Fields::new(file, "", 0, document.get_ref());
        let (source_nodes, notify_nodes) = (fields.get("source"), fields.get("notify"));
        fields.finish()?;
        let mut sources: Vec<Source> = Vec::new();
        for node in source_nodes.map(|node| node.list()).unwrap_or_default() {
            let source = Source::read(&mut node.table()?, read_file)?;
            if sources.iter().any(|other| other.name == source.name) {
                let fix = "give each source a name of its own";
                return Err(node.error(format!("there are two sources of the name \"{}\"", source.name), fix));
            }
            sources.push(source);
        }
        let names: Vec<&str> = sources.iter().map(|source| source.name.as_str()).collect();
        let mut notify = Vec::new();
        for node in notify_nodes.map(|node| node.list()).unwrap_or_default() {
            notify.push(notify::read_notify(&mut node.table()?, &names)?);
        }
        Ok(HooksConfig { sources, notify })
    }

    /// What holds where there is no configuration: the one source `plain`, for the feed `default`.
    ///
    /// # Errors
    /// None, unless the program was built with a broken preset.
    pub fn plain() -> Result<HooksConfig, ConfigError> {
        Ok(HooksConfig { sources: vec![Source::of_preset("plain", "plain")?], notify: Vec::new() })
    }

    /// The source of this name.
    pub fn source(&self, name: &str) -> Option<&Source> {
        self.sources.iter().find(|source| source.name == name)
    }

    /// All feeds that the sources name.
    pub fn feeds(&self) -> BTreeSet<&str> {
        self.sources.iter().flat_map(Source::feeds).collect()
    }
}
