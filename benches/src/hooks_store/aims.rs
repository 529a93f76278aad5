//! What the figures of `hooks-store` should be.

use crate::figures::{Aim, Target};

pub(super) const AIMS: &[Aim] = &[
    ("single requests", "single requests, durable before the answer", Target::AtLeast(3000.0)),
    ("single request at a pace, p99", "… p99 at 3000 in a second", Target::AtMost(20.0)),
    ("road: single POSTs", "single POSTs over HTTP, durable before the answer", Target::AtLeast(3000.0)),
    ("road: single POST at a pace, p99", "… p99 at 3000 in a second", Target::AtMost(20.0)),
    ("bulk: accepted and completed", "bulk: accepted and completed in the store", Target::AtLeast(10_000.0)),
    ("road: NDJSON, in the change table", "NDJSON over HTTP, through to the change table", Target::AtLeast(10_000.0)),
    ("size: row of an event", "a row of an event, without indexes", Target::AtMost(300.0)),
    ("list 100 of ", "lists and filters, the slowest kind, p99", Target::AtMost(50.0)),
    ("next due, p99", "the next due lanes, p99", Target::AtMost(50.0)),
    ("retention: a write beside it, longest", "the longest write beside retention", Target::AtMost(50.0)),
];
