//! From the claims of a signed token to a grant.

use bugfeed_protocol::When;

use super::{BugScope, FeedScope, Grant, Refused};

/// What a signed token says (RFC 7519), as far as it is looked at. Times are in seconds since 1970.
#[derive(Clone, Debug, Default)]
pub struct Claims {
    /// `exp`
    pub expires_s: Option<i64>,
    /// `nbf`
    pub not_before_s: Option<i64>,
    /// `aud`: whom the token is for. `None` if it does not say.
    pub audience: Option<Vec<String>>,
    /// `iss`
    pub issuer: Option<String>,
    /// `bugfeed.feeds`
    pub feeds: Option<FeedScope>,
    /// `bugfeed.bugs`
    pub bugs: Option<BugScope>,
    /// `bugfeed.max_subscriptions`
    pub max_subscriptions: Option<usize>,
}

/// What is asked of signed tokens.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// A token that names an audience must name one of these. If there are any, each token must name one.
    pub audiences: Vec<String>,
    /// A token must be issued by one of these, if there are any.
    pub issuers: Vec<String>,
    /// What the clocks of issuer and gateway may differ by, in seconds.
    pub leeway_s: i64,
}

impl Policy {
    /// What a token with these claims, whose signature fits, allows at this time (in seconds since 1970).
    ///
    /// A token that names an audience is refused where no audience is configured: it is meant for somebody else (RFC 7519
    /// §4.1.3). A token without `exp` is refused: it could never be taken away.
    ///
    /// # Errors
    /// Why the token is refused.
    pub fn grant(&self, claims: Claims, now_s: i64) -> Result<Grant, Refused> {
        let expires_s = claims.expires_s.ok_or(Refused::NoExpiry)?;
        let ends_s = expires_s.saturating_add(self.leeway_s);
        if now_s >= ends_s {
            return Err(Refused::Expired);
        }
        if claims.not_before_s.is_some_and(|from_s| now_s < from_s.saturating_sub(self.leeway_s)) {
            return Err(Refused::NotYet);
        }
        let is_named = |named: &String| self.audiences.contains(named);
        match &claims.audience {
            Some(named) if !named.iter().any(is_named) => return Err(Refused::Audience),
            None if !self.audiences.is_empty() => return Err(Refused::Audience),
            _ => {}
        }
        if !self.issuers.is_empty() && !claims.issuer.as_ref().is_some_and(|issuer| self.issuers.contains(issuer)) {
            return Err(Refused::Issuer);
        }
        let (Some(feeds), Some(bugs)) = (claims.feeds, claims.bugs) else { return Err(Refused::Claims) };
        // What lies beyond the dates that this program knows is far enough away.
        let date = |seconds: i64| seconds.checked_mul(1_000_000).and_then(When::from_micros);
        Ok(Grant {
            feeds,
            bugs,
            max_subscriptions: claims.max_subscriptions,
            expires: date(expires_s),
            ends: date(ends_s),
            id: None,
        })
    }
}
