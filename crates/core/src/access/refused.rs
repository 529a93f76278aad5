//! Why a token is refused.

/// Why somebody is not let in, or not to this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refused {
    /// No token was shown.
    Missing,
    /// What was shown has not the form of a token.
    Malformed,
    /// It is longer than tokens may be.
    TooLong,
    /// It stands in no file, and is no signed token that could be checked.
    Unknown,
    /// Its time is over.
    Expired,
    /// Its time has not come.
    NotYet,
    /// The signature does not fit: it was forged, or changed.
    Signature,
    /// It names an algorithm that is not that of the key.
    Algorithm,
    /// No key that is known has signed it.
    UnknownKey,
    /// The keys cannot be had, so nothing can be checked. This may pass.
    KeysAway,
    /// It is for somebody else.
    Audience,
    /// It was issued by somebody else.
    Issuer,
    /// It does not say when it expires.
    NoExpiry,
    /// It demands an extension that is not understood (`crit`).
    Critical,
    /// It is a token of another kind (`typ`).
    Type,
    /// It does not say what it allows here, or not in the form that is understood.
    Claims,
    /// A ticket that was used, has expired, or was never given.
    Ticket,
    /// It is valid, but not for this feed.
    Feed,
    /// It is valid, but not for these bugs, or not for so many.
    Bugs,
}

impl Refused {
    /// A short name, for metrics and logs.
    pub const fn kind(self) -> &'static str {
        match self {
            Refused::Missing => "missing",
            Refused::Malformed => "malformed",
            Refused::TooLong => "too_long",
            Refused::Unknown => "unknown",
            Refused::Expired => "expired",
            Refused::NotYet => "not_yet_valid",
            Refused::Signature => "signature",
            Refused::Algorithm => "algorithm",
            Refused::UnknownKey => "unknown_key",
            Refused::KeysAway => "keys_away",
            Refused::Audience => "audience",
            Refused::Issuer => "issuer",
            Refused::NoExpiry => "no_expiry",
            Refused::Critical => "critical",
            Refused::Type => "type",
            Refused::Claims => "claims",
            Refused::Ticket => "ticket",
            Refused::Feed => "feed",
            Refused::Bugs => "bugs",
        }
    }

    /// What a client is told. It follows "invalid token: " where the token is at fault.
    pub const fn text(self) -> &'static str {
        match self {
            Refused::Missing => "a token is needed",
            Refused::Malformed => "it has not the form of a token",
            Refused::TooLong => "it is longer than 8192 bytes",
            Refused::Unknown => "it is not known",
            Refused::Expired => "it has expired",
            Refused::NotYet => "it is not valid yet (nbf)",
            Refused::Signature => "its signature does not fit",
            Refused::Algorithm => "its algorithm is not that of the key",
            Refused::UnknownKey => "it is signed with an unknown key",
            Refused::KeysAway => "the keys for checking tokens cannot be had now; try again later",
            Refused::Audience => "it is for another audience (aud)",
            Refused::Issuer => "it is from another issuer (iss)",
            Refused::NoExpiry => "it does not say when it expires (exp)",
            Refused::Critical => "it demands an extension that is not known here (crit)",
            Refused::Type => "it is a token of another kind (typ)",
            Refused::Claims => "its claim \"bugfeed\" does not say which feeds and bugs it is for",
            Refused::Ticket => "the ticket was used, has expired, or is not for this feed",
            Refused::Feed => "this token is not for this feed",
            Refused::Bugs => "this token is not for these bugs",
        }
    }

    /// Whether the token is valid, and allows something else.
    pub const fn is_scope(self) -> bool {
        matches!(self, Refused::Feed | Refused::Bugs)
    }
}
