//! The front door, over real sockets and real TLS.

mod calls;
mod connections;
mod pipeline;
mod refusals;
mod support;
