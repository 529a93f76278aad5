//! Tokens that stand in a file (`--tokens`), in TOML.
//!
//! Goes in: the text of the file. Comes out: what each token allows, by the token's SHA-256. No error shows a token, nor a line of
//! the file, which may hold one.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use bugfeed_core::access::{FeedScope, Grant, TokenId};
use bugfeed_protocol::{When, feed_name, token::Token};
use ring::digest;
use serde::Deserialize;

use super::claims::Named;

/// The longest file, in bytes.
const LONGEST: usize = 16 * 1024 * 1024;

/// A token that a person has made up is refused if it is shorter than this: it could be guessed.
const SHORTEST: usize = 16;

/// What the tokens of a file allow. They are found by their hash, which says nothing of how far a wrong token is right.
pub type Table = HashMap<TokenId, Arc<Grant>>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    token: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    sha256: Option<String>,
    token: Option<String>,
    feeds: Named,
    bugs: Named,
    max_subscriptions: Option<usize>,
    expires: Option<Date>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Date {
    Toml(toml::value::Datetime),
    Text(String),
}

/// The SHA-256 of a token.
pub fn id_of(token: &str) -> TokenId {
    let digest = digest::digest(&digest::SHA256, token.as_bytes());
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// Reads a file.
///
/// # Errors
/// What is wrong with it, and where.
pub fn read(text: &str) -> Result<Table, String> {
    if text.len() > LONGEST {
        return Err(format!("a file of tokens has at most {LONGEST} bytes"));
    }
    let file: File = toml::from_str(text).map_err(|error| {
        // The error itself would show the line, which may hold a token.
        let line = error.span().map_or(1, |span| text[..span.start.min(text.len())].lines().count().max(1));
        format!("line {line}: {}", scrubbed(error.message()))
    })?;
    let (mut table, mut names) = (Table::new(), BTreeSet::new());
    for entry in file.token {
        let name = entry.name.clone();
        let (id, grant) = entry.read().map_err(|error| format!("token '{name}': {error}"))?;
        if !names.insert(name.clone()) {
            return Err(format!("two tokens have the name '{name}'; give each its own"));
        }
        if table.insert(id, Arc::new(grant)).is_some() {
            return Err(format!("token '{name}' is the same as another one; make it anew with `bugfeed token new`"));
        }
    }
    Ok(table)
}

/// A message of the TOML reader without what it quotes of values.
fn scrubbed(message: &str) -> String {
    let first = message.lines().next().unwrap_or_default();
    // Names of members stand between backquotes, values between double ones.
    first.split('"').next().unwrap_or_default().trim_end().to_owned()
}

impl Entry {
    fn read(self) -> Result<(TokenId, Grant), String> {
        let id = match (&self.sha256, &self.token) {
            (Some(hash), None) => hash_of(hash)?,
            (None, Some(token)) => {
                let token = Token::new(token);
                if !token.is_well_formed() || token.secret().len() < SHORTEST {
                    return Err(format!(
                        "a token is {SHORTEST} to 8192 of A-Z a-z 0-9 - . _ ~; make one with `bugfeed token new`"
                    ));
                }
                id_of(token.secret())
            }
            _ => return Err("write either sha256 or token".to_owned()),
        };
        let feeds = self.feeds.feeds().ok_or("feeds is \"*\" or a list of names")?;
        if let FeedScope::These(names) = &feeds {
            for name in names {
                feed_name::check(name).map_err(|error| format!("feeds: '{name}': {error}"))?;
            }
        }
        let bugs = self.bugs.bugs().ok_or("bugs is \"*\" or a list of numbers")?;
        let expires = self.expires.as_ref().map(date).transpose()?;
        let grant =
            Grant { feeds, bugs, max_subscriptions: self.max_subscriptions, expires, ends: expires, id: Some(id) };
        Ok((id, grant))
    }
}

fn date(date: &Date) -> Result<When, String> {
    let text = match date {
        Date::Toml(date) => date.to_string(),
        Date::Text(text) => text.clone(),
    };
    When::parse_utc(&text).map_err(|_| "expires is a date in UTC, such as 2027-01-01T00:00:00Z".to_owned())
}

/// A hash in hexadecimal digits.
fn hash_of(text: &str) -> Result<TokenId, String> {
    let wrong = || "sha256 is 64 hexadecimal digits, as `bugfeed token new` prints them".to_owned();
    let text = text.trim();
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(wrong());
    }
    let mut id = TokenId::default();
    for (byte, digits) in id.iter_mut().zip(text.as_bytes().chunks(2)) {
        let digits = std::str::from_utf8(digits).map_err(|_| wrong())?;
        *byte = u8::from_str_radix(digits, 16).map_err(|_| wrong())?;
    }
    Ok(id)
}

#[cfg(test)]
mod tests {
    use bugfeed_core::access::BugScope;

    use super::*;

    const PLAIN: &str = "a-token-that-nobody-knows";

    #[test]
    fn tokens_by_hash_and_in_plain() {
        let hash: String = id_of("another").iter().map(|byte| format!("{byte:02X}")).collect();
        let text = format!(
            "[[token]]\nname = 'a'\ntoken = '{PLAIN}'\nfeeds = '*'\nbugs = [1, 2]\nmax_subscriptions = 5\n\
             expires = 2027-01-01T00:00:00Z\n\
             [[token]]\nname = 'b'\nsha256 = '{hash}'\nfeeds = ['kde']\nbugs = '*'\nexpires = '2027-01-01'\n"
        );
        let table = read(&text).unwrap();
        let (a, b) = (&table[&id_of(PLAIN)], &table[&id_of("another")]);
        assert!(matches!(&a.bugs, BugScope::These(bugs) if bugs.len() == 2));
        assert_eq!((a.max_subscriptions, a.id), (Some(5), Some(id_of(PLAIN))));
        assert_eq!((a.expires, b.expires), (When::parse_utc("2027-01-01").ok(), When::parse_utc("2027-01-01").ok()));
        assert_eq!(b.check_feed("kde"), Ok(()));
        assert!(b.check_feed("default").is_err());
        assert!(read("").unwrap().is_empty(), "nobody is let in");
    }

    #[test]
    fn what_is_wrong_is_named_without_the_secret() {
        let entry = |more: &str| format!("[[token]]\nname = 'a'\n{more}\n");
        let good = format!("token = '{PLAIN}'\nfeeds = '*'\nbugs = '*'");
        for (text, want) in [
            ("[[token]]\ntoken = \"secret-secret".to_owned(), "line 2"),
            (format!("token = '{PLAIN}'"), "line 1"),
            (entry("feeds = '*'\nbugs = '*'"), "either sha256 or token"),
            (entry(&format!("sha256 = '00'\n{good}")), "either sha256 or token"),
            (entry("sha256 = 'secret'\nfeeds = '*'\nbugs = '*'"), "64 hexadecimal digits"),
            (entry(&format!("sha256 = '{}'\nfeeds = '*'\nbugs = '*'", "+1".repeat(32))), "64 hexadecimal digits"),
            (entry("token = 'secret'\nfeeds = '*'\nbugs = '*'"), "16 to 8192"),
            (entry("token = 'secret secret secret'\nfeeds = '*'\nbugs = '*'"), "16 to 8192"),
            (entry(&format!("token = '{PLAIN}'\nbugs = '*'")), "missing field `feeds`"),
            (entry(&format!("token = '{PLAIN}'\nfeeds = '*'")), "missing field `bugs`"),
            (entry(&format!("token = '{PLAIN}'\nfeeds = ['Kde']\nbugs = '*'")), "'Kde'"),
            (entry(&format!("token = '{PLAIN}'\nfeeds = '*'\nbugs = [0]")), "list of numbers"),
            (entry(&format!("{good}\nexpires = 'soon'")), "2027-01-01T00:00:00Z"),
            (entry(&format!("{good}\nexpire = 'soon'")), "unknown field `expire`"),
            (entry(&good) + &entry(&good.replace(PLAIN, "another-long-token")), "name 'a'"),
            (entry(&good) + &entry(&good).replace("'a'", "'b'"), "same as another"),
        ] {
            let error = read(&text).unwrap_err();
            assert!(error.contains(want), "{error}: {want}");
            assert!(!error.contains("secret") && !error.contains(PLAIN), "{error}");
        }
    }
}
