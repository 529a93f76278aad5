//! The live page in a real Chromium, against the real binaries. In: Debian's chromium and chromium-driver, a browser and
//! servers of its own for each test. Out: what a person would see, asserted; and where a test fails, a screenshot. It
//! never looks into the page's script, only at the ids and attributes that main.js promises.

mod address;
mod all_in_one;
mod bugzilla;
mod console;
mod event_source;
mod fallback;
mod keyboard;
mod look;
pub mod page;
mod phone;
pub mod prefix;
mod restart;
mod resume;
pub mod servers;
mod signs;
mod split;
mod tracker;
pub mod webdriver;
