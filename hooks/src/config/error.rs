//! What is wrong with a configuration: where it stands, and what would be right.

use std::fmt;

/// A configuration that is refused. It names the file, the line and the member, and says what is allowed. It never
/// contains the value of a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The file, as the caller named it.
    pub file: String,
    /// The line, counted from 1.
    pub line: usize,
    /// The member, as a path such as `source.kde.on."issue*".bug`. Empty where the file is no TOML at all.
    pub key: String,
    /// What is wrong.
    pub problem: String,
    /// What is allowed, or what to do.
    pub fix: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.file, self.line)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.problem)?;
        if self.fix.is_empty() { Ok(()) } else { write!(f, "; {}", self.fix) }
    }
}

impl std::error::Error for ConfigError {}

/// The word of `known` that was probably meant, as advice; empty where none is similar.
pub(crate) fn did_you_mean<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let similarity = |name: &str| strsim::jaro_winkler(&word.to_ascii_lowercase(), name);
    let best = known.into_iter().map(|name| (similarity(name), name)).max_by(|a, b| a.0.total_cmp(&b.0));
    match best {
        Some((similarity, name)) if similarity >= 0.8 => format!("did you mean \"{name}\"? "),
        _ => String::new(),
    }
}
