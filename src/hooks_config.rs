//! The file with the sources of webhooks (`--config`).
//!
//! Goes in: its path. Comes out: the checked configuration, or an error that names file, line and what is allowed. Relative
//! paths in the file begin at its own folder, wherever the program was started.

use std::fs;
use std::io;
use std::path::Path;

use bugfeed_hooks::config::{ConfigError, HooksConfig};

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigFileError {
    /// The file cannot be read.
    #[error("the configuration {path} cannot be read (--config): {error}")]
    File {
        /// Which file.
        path: String,
        /// What the system says.
        error: io::Error,
    },
    /// It does not say what it should.
    #[error(transparent)]
    Wrong(#[from] ConfigError),
}

/// Reads the file; without one, there is the source `plain`.
///
/// # Errors
/// When the file cannot be read, or is wrong.
pub fn read(path: Option<&Path>) -> Result<HooksConfig, ConfigFileError> {
    let Some(path) = path else { return Ok(HooksConfig::plain()?) };
    let bytes = fs::read(path).map_err(|error| ConfigFileError::File { path: path.display().to_string(), error })?;
    let text = String::from_utf8_lossy(&bytes);
    let folder = path.parent().unwrap_or(Path::new(""));
    let read_file = |file: &Path| fs::read_to_string(folder.join(file)).map_err(|error| error.to_string());
    let mut config = HooksConfig::read(&path.display().to_string(), &text, &read_file)?;
    for source in &mut config.sources {
        source.tracker_key_file = source.tracker_key_file.as_ref().map(|file| folder.join(file));
    }
    Ok(config)
}

/// What a configuration does, in a few lines for people: who may send where, to which feeds it goes, who is told.
pub fn describe(path: Option<&Path>, config: &HooksConfig) -> String {
    let file = path.map_or("no --config, so the one source is plain".to_owned(), |path| path.display().to_string());
    let mut lines = vec![format!("{file}: good")];
    for source in &config.sources {
        let by = source.preset.map_or("a mapping of its own".to_owned(), |preset| format!("preset {preset}"));
        let proof = match (source.secrets.len(), source.lacks_secret()) {
            (0, true) => format!("NOTHING CAN BE RECEIVED: {}", source.secret_advice()),
            (0, false) => "with a key".to_owned(),
            (_, _) => "signed, or with the source's token".to_owned(),
        };
        lines.push(format!("  POST /hooks/{}: {by}, {proof}", source.name));
        let mut asks = Vec::new();
        asks.extend(
            source.tracker.as_deref().filter(|_| source.verify).map(|tracker| format!("verified at {tracker}")),
        );
        asks.extend(source.reconcile.map(|every| format!("reconciled every {} s", every.as_secs())));
        let asks = if asks.is_empty() { String::new() } else { format!("; {}", asks.join(", ")) };
        lines.push(format!("    feeds: {}{asks}", source.feeds().join(", ")));
    }
    if config.sources.is_empty() {
        lines.push("  no [[source]]: no webhook is received".to_owned());
    }
    if !config.notify.is_empty() {
        lines.push(format!("  [[notify]]: {} targets", config.notify.len()));
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_paths_begin_at_the_files_own_folder() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hooks.toml");
        let text = "[[source]]\nname = \"kde\"\npreset = \"github\"\nsecret_file = \"kde.secret\"\n\
                    tracker = \"https://github.com/KDE/kate\"\ntracker_key_file = \"keys/kde\"\n";
        fs::write(&path, text).unwrap();
        let error = read(Some(&path)).unwrap_err().to_string();
        assert!(error.contains("hooks.toml:4: ") && error.contains("secret_file"), "{error}");
        fs::write(dir.path().join("kde.secret"), "hidden\n").unwrap();
        let config = read(Some(&path)).unwrap();
        assert_eq!(config.sources[0].tracker_key_file, Some(dir.path().join("keys/kde")));
        let error = read(Some(&dir.path().join("other.toml"))).unwrap_err().to_string();
        assert!(error.contains("other.toml") && error.contains("--config"), "{error}");
        assert_eq!(read(None).unwrap().sources[0].name, "plain");
    }

    #[test]
    fn what_a_configuration_does_is_told_without_its_secrets() {
        let text = "[[source]]\nname = \"a\"\npreset = \"github\"\nsecret = \"hidden\"\nfeed = \"kde\"\n\
                    [[source]]\nname = \"b\"\npreset = \"github\"\n[[source]]\nname = \"c\"\nbug = \"/n\"\n";
        let config = HooksConfig::read("x", text, &|_| Err(String::new())).unwrap();
        let told = describe(Some(Path::new("x")), &config);
        assert!(!told.contains("hidden"), "{told}");
        for want in [
            "x: good",
            "POST /hooks/a: preset github, signed",
            "feeds: kde",
            "b: preset github, NOTHING",
            "c: a mapping of its own, with a key",
        ] {
            assert!(told.contains(want), "{want}: {told}");
        }
    }
}
