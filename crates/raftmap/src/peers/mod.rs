//! How servers talk to each other.

mod hello;
mod wire;
