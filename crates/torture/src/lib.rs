//! Real servers, as real processes on real disks, that are killed, stopped, cut off, slowed down, robbed of power and lied
//! to about the time, while clients in processes of their own read and write; and what the clients were told, judged by
//! [`raftmap_lincheck`].
//!
//! [`torture`] does that, round after round; [`soak`] for long, and looks what the servers take meanwhile. [`Shim`] is there for
//! other tests, too.

mod client;
mod error;
mod inspect;
mod links;
mod members;
mod namespaces;
mod nemesis;
mod offer;
mod rig;
mod shim;
mod soak;
mod torture;
mod volumes;

pub use client::{ClientArguments, run as run_client};
pub use error::Failure;
pub use nemesis::Class;
pub use offer::Offer;
pub use shim::{Shim, Wrong};
pub use soak::{SoakReport, Usage, soak};
pub use torture::{Report, Settings, torture};
