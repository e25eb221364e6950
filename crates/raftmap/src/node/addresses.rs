//! Where servers are.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use raftmap_log::{FoundingMember, Identity};
use raftmap_raft::{LogIndex, NodeId};
use raftmap_state::Introduction;

/// Where servers are: as the log has told, or else the data directory.
pub(super) struct AddressBook {
    at_first: BTreeMap<NodeId, FoundingMember>,
    known: RwLock<BTreeMap<NodeId, FoundingMember>>,
    /// The index of the entry that changed members or addresses last.
    index: AtomicU64,
}

impl AddressBook {
    pub(super) fn new(identity: &Identity) -> Self {
        let at_first: BTreeMap<_, _> =
            identity.addresses().map(|member| (member.node, member.clone())).collect();
        Self { known: RwLock::new(at_first.clone()), at_first, index: AtomicU64::new(0) }
    }

    fn known(&self) -> RwLockReadGuard<'_, BTreeMap<NodeId, FoundingMember>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn learn(&self, index: LogIndex, introductions: &[Introduction], removed: &[NodeId]) {
        let mut known = self.at_first.clone();
        known.extend(introductions.iter().map(|said| {
            let Introduction { node_id, peer_address, client_address, replaces: _ } = said.clone();
            (node_id, FoundingMember { node: node_id, peer_address, client_address })
        }));
        known.retain(|id, _| !removed.contains(id));
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = known;
        self.index.store(index.0, Ordering::Relaxed);
    }

    /// The index of the entry that changed members or addresses last.
    pub(super) fn index(&self) -> u64 {
        self.index.load(Ordering::Relaxed)
    }

    /// Where a server is, if anybody said so.
    pub(super) fn of(&self, id: NodeId) -> Option<FoundingMember> {
        self.known().get(&id).cloned()
    }

    /// Where the servers reach each other.
    pub(super) fn of_peers(&self) -> BTreeMap<NodeId, String> {
        self.known().values().map(|member| (member.node, member.peer_address.clone())).collect()
    }
}
