//! The checkers against histories that are right, wrong, and wrong in subtle ways.

#![allow(unreachable_pub)]

mod brute;
mod build;
mod generate;

mod property;
mod speed;
mod subtle;
