//! Names of feeds.
//!
//! A feed's name is part of paths (`/NAME/`) and of the names of exchanges and tables. So it is short and plain, and none of
//! the names that the client port has for its own paths.

/// The feed at `/`.
pub const DEFAULT_FEED: &str = "default";
/// The longest name, in bytes.
pub const LONGEST: usize = 64;
/// Paths of the client port and of the admin port, now or soon. No feed may have one of these names.
pub const RESERVED: [&str; 15] = [
    "api",
    "changes",
    "demo",
    "endpoints",
    "h",
    "healthz",
    "hooks",
    "livez",
    "metrics",
    "page",
    "public",
    "readyz",
    "sse",
    "ticket",
    "webhook",
];

/// Why a text is no name of a feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadFeedName {
    /// It has other characters, or too many, or none.
    #[error("a feed's name is 1 to 64 of a-z, 0-9, '-' and '_', because it becomes a path: /NAME/")]
    Malformed,
    /// It is a path already.
    #[error("this is a path of the server itself; choose another name for the feed, none of {}", RESERVED.join(", "))]
    Reserved,
}

/// Checks a name.
///
/// # Errors
/// Says what is allowed.
pub fn check(name: &str) -> Result<(), BadFeedName> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    if name.is_empty() || name.len() > LONGEST || !name.chars().all(plain) {
        return Err(BadFeedName::Malformed);
    }
    if RESERVED.contains(&name) {
        return Err(BadFeedName::Reserved);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_a_name() {
        for good in ["default", "kde", "a-b_c9", &"x".repeat(64)] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for bad in ["", "Kde", "a/b", "a.b", "a b", "é", &"x".repeat(65)] {
            assert_eq!(check(bad), Err(BadFeedName::Malformed), "{bad}");
        }
        for path in RESERVED {
            assert_eq!(check(path), Err(BadFeedName::Reserved), "{path}");
        }
        assert!(BadFeedName::Reserved.to_string().contains("another name") && RESERVED.is_sorted());
    }
}
