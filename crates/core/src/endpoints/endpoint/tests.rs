//! Single steps of the planner; what it promises over time is in `tests/sim/endpoints.rs`.
