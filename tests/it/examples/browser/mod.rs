//! What runs in a page, in a real Chromium.

mod bug_page;
mod bugzilla;
mod list;
mod page;
mod readme;
