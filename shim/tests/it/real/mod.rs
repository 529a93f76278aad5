//! With real servers: shared ones here, own ones that are killed and restarted in `chaos`.

mod amqp;
mod chaos;
mod lease;
mod privileges;
mod queue;
