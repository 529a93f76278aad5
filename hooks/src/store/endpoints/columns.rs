//! How an endpoint stands in the table, and how it is read back.
