//! What operators see of a node from outside: metrics, health, logs.

pub mod http;
pub mod logs;
pub mod metrics;
