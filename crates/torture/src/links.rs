//! The network between the servers, of either kind.

use std::io;

use raftmap::local_cluster::{LocalMember, Network};
use raftmap_raft::NodeId;

use crate::error::{Failure, refused};
use crate::namespaces::Namespaces;

/// The network between the servers.
#[derive(Debug)]
pub(crate) enum Links {
    Proxies(Network),
    Namespaces(Namespaces),
}

impl Links {
    /// One more server, which is told where it is.
    pub(crate) fn add(&mut self, member: &mut LocalMember) -> io::Result<()> {
        match self {
            Self::Proxies(network) => network.add(member),
            Self::Namespaces(namespaces) => namespaces.add(member),
        }
    }

    /// Has nothing to do any more with a server that is gone.
    pub(crate) fn forget(&mut self, id: NodeId) -> Result<(), Failure> {
        match self {
            Self::Proxies(network) => network.forget(id),
            Self::Namespaces(namespaces) => namespaces.forget(id).map_err(refused("remove a namespace"))?,
        }
        Ok(())
    }

    /// Nothing from or to this server goes through any more.
    pub(crate) fn isolate(&self, id: NodeId) -> Result<(), Failure> {
        match self {
            Self::Proxies(network) => network.isolate(id),
            Self::Namespaces(namespaces) => namespaces.isolate(id).map_err(refused("cut a server off"))?,
        }
        Ok(())
    }

    /// What `from` says does not reach `to` any more.
    pub(crate) fn mute(&self, from: NodeId, to: NodeId) -> Result<(), Failure> {
        match self {
            Self::Proxies(network) => network.mute(from, to),
            Self::Namespaces(namespaces) => namespaces.mute(from, to).map_err(refused("mute a server"))?,
        }
        Ok(())
    }

    /// All goes through again.
    pub(crate) fn heal(&self) -> Result<(), Failure> {
        match self {
            Self::Proxies(network) => network.heal(),
            Self::Namespaces(namespaces) => namespaces.heal().map_err(refused("heal the network"))?,
        }
        Ok(())
    }

    /// What only a proxy can do.
    pub(crate) fn proxies(&self, act: impl FnOnce(&Network)) {
        if let Self::Proxies(network) = self {
            act(network);
        }
    }
}
