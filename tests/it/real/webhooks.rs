//! Webhooks while everything dies at random, on the real parts: RabbitMQ, the store's database, hooks with their shims, a
//! gateway, clients, receivers of webhooks out, and two trackers. One sends as Bugzilla does: in order, again and again until it is answered. The
//! other one sends as GitHub does: once.
//!
//! Goes in: a seed, a duration, a kind of store, a number of replicas (`BUGFEED_TEST_WEBHOOKS_SEED`, `_SECONDS`, `_STORE`,
//! `_REPLICAS`). Comes out: a few lines that count faults, changes, requests, what webhooks alone would have lost and what
//! the reconciler brought, or a list of what is wrong, with the logs of every process. Faults and senders draw from the
//! seed; what the machine makes of it is not repeated exactly.
//!
//! What is checked in the end: every change of a tracker was announced to every client and taken by every receiver, with a date
//! at least as new, or they were told of a gap; every request that was answered with 200 is in the store; every event is at
//! its end; no identifier of a webhook out had two bodies, none had a wrong signature, and no cursor fell.

mod bugzilla;
mod chaos;
mod check;
mod faults;
mod github;
mod journal;
mod listener;
mod post;
mod receivers;
mod site;
mod store;
mod tracker;
