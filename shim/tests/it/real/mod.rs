//! With real servers: shared ones here, own ones that are killed and restarted in `chaos`.

mod amqp;
mod chaos;
mod heads;
mod lease;
mod listen;
mod privileges;
mod queue;
mod set_back;
