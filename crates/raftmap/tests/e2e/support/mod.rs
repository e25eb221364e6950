//! What the tests share.

pub(crate) mod load;
pub(crate) mod segments;
pub(crate) mod world;

pub(crate) use load::Load;
pub(crate) use world::{PATIENCE, World, soon, until};
