//! Values of options that may hold a secret, and the files that they can be in.
//!
//! Goes in: what stands on the command line or in a variable. Comes out: the value. Three forms are understood, so that a
//! password need not be an argument, which every user of the machine can read:
//!
//! - `--amqp @FILE` (or `BUGFEED_AMQP=@FILE`): the file holds the value ([`secret`]);
//! - `--amqp-file FILE` (or `BUGFEED_AMQP_FILE=FILE`, as images of containers have it): the same ([`in_file`]);
//! - `amqp://user:{@FILE}@host/`: the file holds the password alone, and it is percent-encoded here.
//!
//! An error names the file, and never shows what is in it.

use std::fmt::Display;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::sync::{Mutex, PoisonError};

/// The longest secret, in bytes. A file that is longer is the wrong one.
const LONGEST: u64 = 64 << 10;

/// What a value begins with that is the name of a file.
const MARK: char = '@';
/// What stands around the name of a file within a value.
const INSIDE: (&str, char) = ("{@", '}');

/// Where Docker, Podman and the manifests here put secrets into a container. Nobody else is in there, and the mode is not ours to
/// choose.
const OF_CONTAINERS: &str = "/run/secrets/";

/// What was noticed while files were read. It cannot be logged at once, because nobody logs before the options are known.
static NOTICED: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// A parser for the value of an option that may hold a secret: `parse` reads the value itself, or what is in the file that the
/// value names.
pub fn secret<T, E: Display>(
    parse: impl Fn(&str) -> Result<T, E> + Clone + Send + Sync,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync {
    move |text| match text.trim().strip_prefix(MARK) {
        Some(file) => read(file, &parse),
        None => parse(&filled(text)?).map_err(|error| error.to_string()),
    }
}

/// A parser for an option whose value is the name of the file in which the secret is.
pub fn in_file<T, E: Display>(
    parse: impl Fn(&str) -> Result<T, E> + Clone + Send + Sync,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync {
    move |file| {
        if file.contains("://") {
            return Err("this is an address, not the name of a file; the option without -file takes it".to_owned());
        }
        read(file, &parse)
    }
}

/// What was noticed while files were read, one text for each; nothing the next time.
pub fn noticed() -> Vec<String> {
    std::mem::take(&mut NOTICED.lock().unwrap_or_else(PoisonError::into_inner))
}

fn read<T, E: Display>(file: &str, parse: &impl Fn(&str) -> Result<T, E>) -> Result<T, String> {
    let text = content(file)?;
    parse(&filled(&text)?).map_err(|error| {
        // The parser may repeat what it does not understand, such as a password that was taken for an address.
        let told = error.to_string().replace(text.trim(), "…");
        format!("in the file {file}: {told}")
    })
}

/// The text with passwords in place of the names of their files.
fn filled(text: &str) -> Result<String, String> {
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(INSIDE.0) {
        let (file, after) = after.split_once(INSIDE.1).ok_or("a } is missing behind {@FILE")?;
        filled.push_str(before);
        percent_encode(&content(file)?, &mut filled);
        rest = after;
    }
    filled.push_str(rest);
    Ok(filled)
}

fn percent_encode(text: &str, out: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
}

/// What is in a file, without the line break at its end.
fn content(name: &str) -> Result<String, String> {
    if name.is_empty() {
        return Err("the name of the file is missing".to_owned());
    }
    let wrong = |what: &dyn Display| format!("the file {name} {what}");
    let cannot = |error: std::io::Error| wrong(&format!("cannot be read: {error}"));
    let file = File::open(name).map_err(cannot)?;
    let about = file.metadata().map_err(cannot)?;
    let mut bytes = Vec::new();
    file.take(LONGEST + 1).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() as u64 > LONGEST {
        return Err(wrong(&format!("is longer than {LONGEST} bytes, so it holds something else than a secret")));
    }
    let mut text = String::from_utf8(bytes).map_err(|_| wrong(&"holds bytes that are no text (UTF-8)"))?;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    if text.trim().is_empty() {
        return Err(wrong(&"is empty"));
    }
    if text.contains(char::is_control) {
        return Err(wrong(&"has more than one line, or a control character; it must hold the value alone"));
    }
    if about.is_file() && about.mode() & 0o004 != 0 && !name.starts_with(OF_CONTAINERS) {
        let note = wrong(&"holds a secret, and every user of this machine can read it (chmod o-r)");
        let mut noticed = NOTICED.lock().unwrap_or_else(PoisonError::into_inner);
        if !noticed.contains(&note) {
            noticed.push(note);
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;

    use super::*;

    fn text(text: &str) -> Result<String, String> {
        Ok(text.to_owned())
    }

    fn file(dir: &Path, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = dir.join(name);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        path.display().to_string()
    }

    #[test]
    fn a_value_may_be_in_a_file() {
        let dir = tempfile::tempdir().unwrap();
        for (content, want) in
            [("hidden", "hidden"), ("hidden\n", "hidden"), ("hidden\r\n", "hidden"), ("a b \n", "a b ")]
        {
            let file = file(dir.path(), "x", content);
            assert_eq!(secret(text)(&format!("@{file}")).as_deref(), Ok(want));
            assert_eq!(in_file(text)(&file).as_deref(), Ok(want));
        }
        assert_eq!(secret(text)("amqp://u:p@h/").as_deref(), Ok("amqp://u:p@h/"));
    }

    #[test]
    fn a_password_alone_may_be_in_a_file_and_is_encoded() {
        let dir = tempfile::tempdir().unwrap();
        let password = file(dir.path(), "password", "p@ss/w?rd#%é\n");
        let url = format!("amqp://u:{{@{password}}}@h/%2f");
        let want = "amqp://u:p%40ss%2Fw%3Frd%23%25%C3%A9@h/%2f";
        assert_eq!(secret(text)(&url).as_deref(), Ok(want));
        let whole = file(dir.path(), "url", &url);
        assert_eq!(in_file(text)(&whole).as_deref(), Ok(want));
        assert!(secret(text)("amqp://u:{@/x").unwrap_err().contains('}'));
        assert_eq!(secret(text)("https://h/{bug}").as_deref(), Ok("https://h/{bug}"));
    }

    #[test]
    fn a_file_that_is_of_no_use_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let absent = dir.path().join("absent").display().to_string();
        for (file, want) in [
            (file(dir.path(), "empty", "\n"), "is empty"),
            (file(dir.path(), "two", "hidden\nhidden\n"), "more than one line"),
            (file(dir.path(), "bytes", [0xff, 0xfe]), "no text"),
            (file(dir.path(), "long", "x".repeat(70_000)), "longer than 65536 bytes"),
            (dir.path().display().to_string(), "cannot be read"),
            (absent, "cannot be read: No such file"),
        ] {
            for error in
                [secret(text)(&format!("@{file}")), in_file(text)(&file), secret(text)(&format!("a{{@{file}}}"))]
            {
                let error = error.unwrap_err();
                assert!(error.contains(&file) && error.contains(want) && !error.contains("hidden"), "{error}");
            }
        }
        assert!(secret(text)("@").unwrap_err().contains("is missing"));
        assert!(in_file(text)("amqp://u:p@h/").unwrap_err().contains("not the name of a file"));
    }

    #[test]
    fn an_error_about_a_value_does_not_repeat_what_is_in_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = file(dir.path(), "x", "hidden\n");
        let refuse = |text: &str| Err::<(), _>(format!("'{text}' is no address"));
        assert_eq!(in_file(refuse)(&file), Err(format!("in the file {file}: '…' is no address")));
    }

    #[test]
    fn a_file_that_everybody_can_read_is_noticed_once() {
        let dir = tempfile::tempdir().unwrap();
        let file = file(dir.path(), "open", "hidden");
        let of_file = || noticed().into_iter().filter(|note| note.contains(&file)).count();
        in_file(text)(&file).unwrap();
        assert_eq!(of_file(), 0);
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        in_file(text)(&file).unwrap();
        in_file(text)(&file).unwrap();
        assert_eq!(of_file(), 1);
    }
}
