//! Asking trackers: whether a bug is visible, what changed lately, and what the sender's own list of webhooks says.
//!
//! Goes in: a source of the configuration, and the shared HTTP client. Comes out: an [`Asker`] for the executor
//! ([`Asker::look`]), [`reconcile::run`] for lost webhooks, or [`CannotAsk`]. What a tracker sends is never believed without
//! a check of its form, number and time; whatever does not fit is a [`Trouble`] of class `tracker` with a reason for people.
//! A tracker is never asked with a key, except for its own list of webhooks, and for lists where the configuration says
//! `reconcile_as_key`.
//!
//! | tracker | one bug | what changed | paged |
//! |---|---|---|---|
//! | Bugzilla | `/rest/bug/N` | `/rest/bug?last_change_time=T`, `/rest/time` | by number, 1000 |
//! | GitHub | `/repos/P/issues/N` | `/repos/P/issues?since=T` | by time, 100 |
//! | Gitea, Forgejo | the same | the same | by page, 50 |
//! | GitLab | `/projects/P/issues/N` | `/projects/P/issues?updated_after=T` | by time, 100 |
//! | Redmine | `/issues/N.json` | `/issues.json?updated_on=>=T` | by time, 100 |
//!
//! `kind.rs` says which tracker a source has, `api.rs` what each kind can be asked, `trouble.rs` what answers are none,
//! `ask.rs` asks, `cache.rs` keeps looks, `sender.rs` reads the sender's list, `reconcile.rs` carries out the plan of `core/hooks/reconcile.rs`.

mod api;
mod ask;
mod bugzilla;
mod cache;
mod forge;
mod gitlab;
mod kind;
pub mod reconcile;
mod redmine;
mod sender;
#[cfg(test)]
mod tests;
mod trouble;

pub use self::api::Look;
pub use self::ask::{Asker, Clock, Found};
pub use self::kind::{CannotAsk, Kind, Scope, Tracker};
pub use self::sender::{SenderHook, complaints};
pub use self::trouble::Trouble;
