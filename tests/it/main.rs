//! Tests of the whole: the all-in-one in this process or as a binary, then with real servers (`real`) and a real
//! browser (`browser`).

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, missing_docs, unreachable_pub)]

mod access;
mod all;
mod amqps;
mod answers;
mod bad_input;
mod banner;
mod browser;
mod build_budget;
mod check;
mod classic;
mod commands;
mod conformance;
mod data_dir;
mod deploy;
mod environment;
mod events;
mod examples;
mod greedy;
mod hooks;
mod hygiene;
mod layers;
mod listen;
mod listener;
mod lively;
mod metrics;
mod old_clients;
mod plain_http;
mod real;
mod secrets;
mod support;
mod tls;
mod watch;
mod watch_client;
mod watch_patience;
mod watch_tls;
