//! What operators see of a node from outside: metrics, health, logs, the audit log.

pub mod audit;
pub mod http;
pub mod logs;
pub mod metrics;
pub mod traces;
