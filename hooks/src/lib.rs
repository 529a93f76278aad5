//! Webhooks in: what a tracker POSTs becomes changes, by a mapping that is written in TOML. Webhooks out, in parts.
//!
//! [`config`] reads the mapping, [`receive`] applies it. Both are pure (no IO, no clock, no randomness, no async runtime;
//! time, random bytes and the contents of files are arguments), except [`receive::http`], which serves the requests, and
//! [`receive::spool`], which keeps them while the store is away. [`client`] speaks HTTP, [`tracker`] asks trackers with it,
//! [`notify`] tells people, [`deliver`] makes one request to an endpoint, [`endpoints`] delivers changes to all of them.
//! [`store`] is the database, [`work`] carries out what the planners of events decide, [`service`] composes all of it, and
//! [`api`] is what people and commands see of it.
//!
//! ```
//! use bugfeed_hooks::config::HooksConfig;
//! use bugfeed_hooks::receive::mapped::{Mapped, Request};
//! use bugfeed_hooks::receive::mapping::map;
//!
//! let config = r#"
//!     [[source]]
//!     name = "tickets"                   # POST /hooks/tickets
//!     items = "/events"                  # a list; what follows is looked for in each of its elements
//!     kind = "/what"                     # chooses the rule
//!     feed = { from = "/team", map = { "red" = "red-feed" }, else = "drop" }
//!     [source.on."ticket-*"]
//!     bug = { from = "/ticket", match = "^T-([0-9]+)$" }
//!     when = ["/changed", "/created"]    # the first that is a date; without any, the time of arrival
//!     [source.on."*"]
//!     answer = "ignored"
//! "#;
//! let config = HooksConfig::read("hooks.toml", config, &|_| Err("no file".to_owned()))?;
//! let source = config.source("tickets").ok_or("no such source")?;
//!
//! let body = br#"{"events":[
//!     {"what":"ticket-changed","team":"red","ticket":"T-5","changed":"2026-11-26T11:59:00Z"},
//!     {"what":"user-created"}
//! ]}"#;
//! let headers = vec![("Content-Type".to_owned(), "application/json".to_owned())];
//! let arrived = "2026-11-26T12:00:00".parse()?;
//! let items = map(source, Request { headers: &headers, body, arrived }).map_err(|error| error.error)?;
//! let [Mapped::Item(item), Mapped::Answered { .. }] = &items[..] else { panic!("{items:?}") };
//! assert_eq!((item.bug.get(), item.feed.as_str()), (5, "red-feed"));
//! assert_eq!(item.time.when.to_string(), "2026-11-26T11:59:00");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod api;
pub mod client;
pub mod config;
pub mod deliver;
pub mod endpoints;
pub mod notify;
pub mod receive;
mod recurring;
pub mod service;
pub mod store;
#[cfg(test)]
mod test_server;
#[cfg(test)]
mod test_tls;
pub mod tracker;
pub mod work;
