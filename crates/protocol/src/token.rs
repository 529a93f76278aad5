//! The secret by which a client shows what it may see: an opaque text, or a JSON Web Token.
//!
//! Goes in: a text that a client sent, or that a person put into a file. Comes out: the same text, in a type that never shows
//! it by accident. What a token allows is not known here.

use std::fmt;

/// The longest token, in bytes. Longer ones are refused before anybody looks into them.
pub const LONGEST: usize = 8192;

/// In a WebSocket handshake of a browser, a subprotocol with this prefix holds the token.
pub const SUBPROTOCOL_PREFIX: &str = "bugfeed.bearer.";

/// The subprotocol that a gateway selects where a client offers it.
pub const SUBPROTOCOL: &str = "bugfeed";

/// A token. Neither `Debug` nor an error shows it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// The token with this text. Blanks around it are left out, because files end with a line break.
    pub fn new(text: &str) -> Token {
        Token(text.trim().to_owned())
    }

    /// The secret itself.
    pub fn secret(&self) -> &str {
        &self.0
    }

    /// Whether it has the form of a token: of the characters that may stand in a header and in a subprotocol, and not too
    /// long. A JSON Web Token has that form, too.
    pub fn is_well_formed(&self) -> bool {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        !self.0.is_empty() && self.0.len() <= LONGEST && self.0.bytes().all(plain)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_of_tokens() {
        for good in ["a", "eyJh.eyJz.SflK", "A-Z_0~9.", &"x".repeat(LONGEST), " token\n"] {
            assert!(Token::new(good).is_well_formed(), "{good}");
        }
        for bad in ["", " ", "a b", "a,b", "a=", "a/b", "ä", "a\u{0}", &"x".repeat(LONGEST + 1)] {
            assert!(!Token::new(bad).is_well_formed(), "{bad}");
        }
    }

    #[test]
    fn nobody_sees_it_by_accident() {
        assert_eq!(format!("{:?}", Some(Token::new("secret"))), "Some(Token(…))");
    }
}
