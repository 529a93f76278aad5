//! Finds programs and users. In: names. Out: absolute paths and ids, or an error that says what to install or build. It
//! never guesses a path that exists only on one machine.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Folders that hold servers but are not in every user's PATH.
const MORE_FOLDERS: [&str; 4] = ["/usr/sbin", "/usr/local/sbin", "/sbin", "/usr/libexec"];

/// A system user.
#[derive(Clone, Copy, Debug)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// The absolute path of an installed program.
///
/// # Errors
/// When it is neither in a folder of the PATH nor in the folders for servers.
pub fn tool(name: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(MORE_FOLDERS.iter().map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|file| file.is_absolute() && file.is_file())
        .with_context(|| format!("the program {name} is not installed"))
}

/// The first of several names under which a program is installed.
pub(crate) fn tool_of(names: &[&str]) -> Result<PathBuf> {
    names.iter().find_map(|name| tool(name).ok()).with_context(|| format!("{} is not installed", names.join(" or ")))
}

/// A binary of this workspace, built in the same profile as the running test.
///
/// # Errors
/// When it has not been built.
pub fn bin(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("the path of the test itself is unknown")?;
    let folder = own.parent().context("the test is in no folder")?;
    let inside = |part: &str| folder.file_name().is_some_and(|last| last == part);
    let folder = if inside("deps") || inside("examples") { folder.parent().unwrap_or(folder) } else { folder };
    let path = folder.join(name);
    if !path.is_file() {
        let profile = match folder.file_name().and_then(|last| last.to_str()) {
            Some("release") => " --release",
            Some("dist") => " --profile dist",
            _ => "",
        };
        bail!("{} is not there: run `cargo build{profile} --workspace --bins` first", path.display());
    }
    Ok(path)
}

/// Whether this process runs as root.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A user by name, as /etc/passwd has it.
pub(crate) fn user(name: &str) -> Option<User> {
    let passwd = std::fs::read_to_string("/etc/passwd").ok()?;
    let mut fields = passwd.lines().find(|line| line.split(':').next() == Some(name))?.split(':').skip(2);
    Some(User { uid: fields.next()?.parse().ok()?, gid: fields.next()?.parse().ok()? })
}

/// The existing folders `PREFIX*/SUFFIX`, ordered by version, the highest last.
pub(crate) fn versioned(parent: &Path, prefix: &str, suffix: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(parent) else { return Vec::new() };
    let mut found: Vec<(Vec<u32>, PathBuf)> = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let version = name.strip_prefix(prefix)?.split('.').map(|part| part.parse().unwrap_or(0)).collect();
            let folder = entry.path().join(suffix);
            folder.is_dir().then_some((version, folder))
        })
        .collect();
    found.sort();
    found.into_iter().map(|(_, folder)| folder).collect()
}
