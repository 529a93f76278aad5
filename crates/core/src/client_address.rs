//! Whose request it is, where proxies are in front.
//!
//! Goes in: what a proxy says, in a PROXY header before the first request ([`proxy_header`]) or in headers of each request
//! ([`forwarded`]). Comes out: the client's address. A proxy is believed only if the operator has named it; that is for the
//! caller to look at.

pub mod forwarded;
pub mod proxy_header;
