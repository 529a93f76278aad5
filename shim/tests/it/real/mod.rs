//! With real servers: shared ones here, own ones that are killed and restarted in `chaos`.

mod amqp;
mod chaos;
mod heads;
mod init;
mod lease;
mod listen;
mod pooler;
mod privileges;
pub(crate) mod queue;
mod refuses;
mod set_back;
mod switchover;
