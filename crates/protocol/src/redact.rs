//! Addresses without their secrets, for logs, errors and files that others read.
//!
//! Goes in: what a person wrote as an address, right or wrong. Comes out: a text that helps to find the fault and holds
//! no password, token or parameter. A part whose meaning is unclear is left out.

/// Stands for what is left out.
const HIDDEN: &str = "…";

/// Schemes whose addresses contain an account name, which is shown because it is no secret by itself. With other
/// schemes the same part may be a token.
const ACCOUNTS: [&str; 6] = ["mysql", "mariadb", "postgres", "postgresql", "amqp", "amqps"];

/// Characters that end an address: parameters, a fragment, or the next element of a list follows.
const ENDS: [char; 7] = ['?', '#', ';', '&', ' ', '\t', '\n'];

/// An address without its secrets, whatever its shape.
pub fn redact(text: &str) -> String {
    let text = text.trim();
    let (scheme, rest) = split_scheme(text);
    let name = scheme.trim_end_matches([':', '/']);
    if let Some((credentials, place)) = rest.rsplit_once('@') {
        // The last '@' is taken, because a password that should have been percent-encoded may contain another one.
        let file = name == "sqlite" && !credentials.contains(':');
        if !file {
            return format!("{scheme}{}@{}", account(name, credentials), shown(place));
        }
    }
    if name == "sqlite" {
        return format!("{scheme}{}", cut(rest));
    }
    if scheme.is_empty() && rest.contains('=') {
        return hide_values(rest);
    }
    if scheme.is_empty() && rest.contains(':') {
        // A host and a port, or a user and a password.
        return format!("{}:{HIDDEN}", rest.split(':').next().unwrap_or_default());
    }
    format!("{scheme}{}", shown(rest))
}

/// A text of unknown purpose, such as a stray argument: redacted where it looks like an address or a secret.
pub fn redact_if_secret(text: &str) -> String {
    if text.contains('@') || text.contains("://") { redact(text) } else { hide_values(text) }
}

/// Splits into `scheme://`, or what was probably meant as that, and the rest.
fn split_scheme(text: &str) -> (&str, &str) {
    let plain = |c: char| c.is_ascii_alphanumeric() || "+.-:".contains(c);
    let end = match text.find("://") {
        Some(at) if text[..at].chars().all(plain) => at + 3,
        _ => match text.split_once(':') {
            // `mysql:/…`; but `guest:password` has no scheme.
            Some((before, after)) if after.starts_with('/') && before.chars().all(plain) => before.len() + 2,
            Some(("sqlite", _)) => "sqlite:".len(),
            _ => 0,
        },
    };
    text.split_at(end)
}

/// The account's name, if it is no secret.
fn account<'a>(scheme: &str, credentials: &'a str) -> &'a str {
    let (user, has_password) = match credentials.split_once(':') {
        Some((user, _)) => (user, true),
        None => (credentials, false),
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-+%".contains(c);
    let known = ACCOUNTS.contains(&scheme) || (scheme.is_empty() && has_password);
    if known && user.len() <= 64 && user.chars().all(plain) { user } else { HIDDEN }
}

fn cut(text: &str) -> &str {
    text.split(ENDS).next().unwrap_or_default()
}

/// Host, port and path, as far as the text has that form.
fn shown(place: &str) -> String {
    let place = cut(place);
    let (authority, path) = match place.find('/') {
        Some(at) => place.split_at(at),
        None => (place, ""),
    };
    let host_end = if authority.starts_with('[') { authority.find(']').map_or(0, |at| at + 1) } else { 0 };
    let port = authority[host_end..].split_once(':').map(|(_, port)| port);
    if port.is_some_and(|port| port.len() > 5 || !port.chars().all(|c| c.is_ascii_digit())) {
        let host = &authority[..authority[host_end..].find(':').map_or(0, |at| host_end + at)];
        return format!("{host}:{HIDDEN}");
    }
    match path.split_once([':', '=']) {
        Some((path, _)) => format!("{authority}{path}{HIDDEN}"),
        None => place.to_owned(),
    }
}

/// Leaves out the values whose names sound like a secret, as in `host=h password=secret`.
fn hide_values(text: &str) -> String {
    let secret = ["pass", "pwd", "secret", "token", "key", "auth"];
    let ends = |c: char| ENDS.contains(&c) || c == ',';
    let mut out = String::new();
    for part in text.split_inclusive(ends) {
        let (body, end) = match part.chars().next_back().filter(|&c| ends(c)) {
            Some(end) => part.split_at(part.len() - end.len_utf8()),
            None => (part, ""),
        };
        let hidden = body.split_once('=').filter(|(name, value)| {
            let name = name.to_ascii_lowercase();
            !value.is_empty() && secret.iter().any(|word| name.contains(word))
        });
        match hidden {
            Some((name, _)) => out.push_str(&format!("{name}={HIDDEN}")),
            None => out.push_str(body),
        }
        out.push_str(end);
    }
    out
}

/// The text with each of these values replaced by its redacted form. Each value comes with whether it is an address.
pub fn scrub<'a>(text: &str, values: impl IntoIterator<Item = (&'a str, bool)>) -> String {
    let mut pairs: Vec<(&str, String)> = values
        .into_iter()
        .map(|(value, is_address)| (value, if is_address { redact(value) } else { redact_if_secret(value) }))
        .filter(|(value, shown)| !value.is_empty() && value != shown)
        .collect();
    // The longest value is replaced first, because one value may be a part of another.
    pairs.sort_by_key(|(value, _)| std::cmp::Reverse(value.len()));
    pairs.iter().fold(text.to_owned(), |text, (value, shown)| text.replace(value, shown))
}

/// Advice if a character in the user's name or password has to be percent-encoded, as far as that can be recognised:
/// unencoded, a part of the password would be taken for something else.
pub fn unescaped(text: &str) -> Option<&'static str> {
    let (_, rest) = text.split_once("://")?;
    if rest.contains('#') {
        return Some("write %23 for '#' in the user's name and the password");
    }
    let end = rest.find(['/', '?'])?;
    let (authority, after) = rest.split_at(end);
    // An '@' follows what looks like the end of the host. Parameters may contain an '@' of their own, which is no
    // mistake.
    let (before, _) = after.split_once('@')?;
    let parameter = before.split_once('?').is_some_and(|(_, parameters)| parameters.contains('='));
    match (authority.contains('@') || parameter, after.starts_with('/')) {
        (true, _) => None,
        (false, true) => Some("write %2F for '/' in the user's name and the password"),
        (false, false) => Some("write %3F for '?' in the user's name and the password"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_without_their_secrets_whatever_their_shape() {
        for (text, want) in [
            ("mysql://u:secret@h/db", "mysql://u@h/db"),
            ("mysql://u:se@cr/et@h:1/db?socket=/x", "mysql://u@h:1/db"),
            ("mysql://u:secr?et@h/db", "mysql://u@h/db"),
            ("mysql://u:secr#et@h/db", "mysql://u@h/db"),
            ("postgres://h/db?password=secret", "postgres://h/db"),
            ("postgres://u@h/db", "postgres://u@h/db"),
            ("postgres://h:5432/db", "postgres://h:5432/db"),
            ("sqlite://a/b.db", "sqlite://a/b.db"),
            ("sqlite:///srv/a@b/x.db?key=secret", "sqlite:///srv/a@b/x.db"),
            ("sqlite:x.db", "sqlite:x.db"),
            ("amqp://guest:secret@h:5672/%2f", "amqp://guest@h:5672/%2f"),
            ("amqps://u:secret@[::1]:5671/v", "amqps://u@[::1]:5671/v"),
            ("mysql:/u:secret@h/db", "mysql:/u@h/db"),
            ("mysql:u:secret@h/db", "mysql@h/db"),
            ("//u:secret@h/db", "…@h/db"),
            ("guest:secret@h", "guest@h"),
            ("guest:secret", "guest:…"),
            ("amqp://guest:secret", "amqp://guest:…"),
            ("amqp:/guest:secret/x", "amqp:/guest:…"),
            ("mysql:///u:secret", "mysql:///u…"),
            ("secret@h", "…@h"),
            ("u:secret@mysql://h/db", "u@mysql://h/db"),
            ("ws://u:secret@h:8844/kde/", "ws://…@h:8844/kde/"),
            ("wss://secret@h/", "wss://…@h/"),
            ("wss://h/kde/?token=secret", "wss://h/kde/"),
            ("https://h/#secret", "https://h/"),
            ("jdbc:mysql://h/db?user=u&password=secret", "jdbc:mysql://h/db"),
            ("host=h user=u password=secret dbname=x", "host=h user=u password=… dbname=x"),
            ("Server=h;Uid=u;Pwd=secret;", "Server=h;Uid=u;Pwd=…;"),
            ("x.db", "x.db"),
            ("", ""),
        ] {
            assert_eq!(redact(text), want, "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_left_alone() {
        for text in ["1234", "127.0.0.1:8844", "2014-04-03T21:13:45", "--table", "default=bugfeed.default", "a/b.db"] {
            assert_eq!(redact_if_secret(text), text);
        }
        assert_eq!(redact_if_secret("mysql:/u:secret@h/db"), "mysql:/u@h/db");
        assert_eq!(redact_if_secret("password=secret"), "password=…");
    }

    #[test]
    fn a_text_repeats_no_secret() {
        let (url, part) = ("mysql:/u:secret@h/db", "secret@h");
        let text = format!("invalid value '{url}': '{part}' is no host; see --help");
        assert_eq!(
            scrub(&text, [(part, true), (url, true), ("--help", false)]),
            "invalid value 'mysql:/u@h/db': '…@h' is no host; see --help"
        );
    }
}
