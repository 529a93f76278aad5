pub mod store;
pub mod worker;
