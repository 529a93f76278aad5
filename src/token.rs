//! Tokens of clients, on the side of the command line: `bugfeed token new`, and the token that `watch` and `hooks listen` show.
//!
//! Goes in: options. Comes out: a new token and its entry for `--tokens`; or the token for a connection. Nothing here asks a
//! running process.

use std::fmt::Write as _;
use std::path::PathBuf;

use bugfeed_client::Builder;
use bugfeed_gateway::access::file;
use bugfeed_protocol::token::Token;

/// The token that a client shows.
#[derive(Clone, Debug)]
pub enum ShownToken {
    /// This one.
    Fixed(Token),
    /// The one in this file, which is read for each connection.
    InFile(PathBuf),
}

impl ShownToken {
    /// A feed that shows it.
    pub fn of(this: Option<&ShownToken>, feed: Builder) -> Builder {
        match this {
            None => feed,
            Some(ShownToken::Fixed(token)) => feed.token(token.secret()),
            Some(ShownToken::InFile(path)) => {
                let path = path.clone();
                feed.token_from(move || {
                    let path = path.clone();
                    async move {
                        let told = |error: std::io::Error| format!("--token-file {}: {error}", path.display());
                        tokio::fs::read_to_string(&path).await.map_err(told)
                    }
                })
            }
        }
    }
}

/// What a new token is to allow.
#[derive(Clone, Debug)]
pub struct NewToken {
    /// By which people know it.
    pub name: String,
    /// The feeds; all of them if there are none.
    pub feeds: Vec<String>,
    /// The bugs; all of them if there are none.
    pub bugs: Vec<u64>,
    /// How many bugs it may watch.
    pub max_subscriptions: Option<u32>,
    /// When it expires, as a date in UTC.
    pub expires: Option<bugfeed_protocol::When>,
}

/// Makes a token of these random bytes, and its entry in the file of `--tokens`, which holds its hash only.
pub fn make(wanted: &NewToken, random: &[u8; 32]) -> (Token, String) {
    let hex = |bytes: &[u8]| {
        bytes.iter().fold(String::new(), |mut text, byte| {
            // Writing into a text cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
    };
    let token = Token::new(&format!("bft_{}", hex(random)));
    let list =
        |items: Vec<String>| if items.is_empty() { "\"*\"".to_owned() } else { format!("[{}]", items.join(", ")) };
    let name = wanted.name.replace('\\', "\\\\").replace('"', "\\\"");
    let mut entry = format!(
        "[[token]]\nname = \"{name}\"\nsha256 = \"{}\"\nfeeds = {}\nbugs = {}\n",
        hex(&file::id_of(token.secret())),
        list(wanted.feeds.iter().map(|feed| format!("\"{feed}\"")).collect()),
        list(wanted.bugs.iter().map(u64::to_string).collect()),
    );
    if let Some(most) = wanted.max_subscriptions {
        let _ = writeln!(entry, "max_subscriptions = {most}");
    }
    if let Some(expires) = wanted.expires {
        let _ = writeln!(entry, "expires = \"{expires}\"");
    }
    (token, entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_entry_is_read_by_a_gateway_and_holds_no_token() {
        let wanted = NewToken {
            name: "a \"name\" with \\".to_owned(),
            feeds: vec!["default".to_owned(), "kde".to_owned()],
            bugs: vec![7],
            max_subscriptions: Some(3),
            expires: bugfeed_protocol::When::parse_utc("2027-01-01").ok(),
        };
        let (token, entry) = make(&wanted, &[7; 32]);
        assert!(token.is_well_formed() && !entry.contains(token.secret()), "{entry}");
        let (other, all) =
            make(&NewToken { feeds: vec![], bugs: vec![], name: "b".to_owned(), ..wanted.clone() }, &[8; 32]);
        let table = file::read(&(entry + &all)).unwrap();
        let grant = &table[&file::id_of(token.secret())];
        assert_eq!((grant.expires, grant.max_subscriptions), (wanted.expires, Some(3)));
        assert!(grant.check_feed("kde").is_ok() && grant.check_feed("gnome").is_err());
        assert!(table[&file::id_of(other.secret())].check_feed("gnome").is_ok());
    }
}
