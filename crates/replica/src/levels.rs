//! Feature levels: a leader raises the cluster's once all members understand a higher one, and nobody is given what it does not
//! understand.
//!
//! Who connects says what its program understands. Two things keep an older program from a command that it would stop at. Who
//! does not understand the level that is applied is refused. And a raise that is in the log and not applied yet is sent to nobody
//! who does not understand it, whoever proposed it and in whatever life.

use raftmap_raft::{Body as MessageBody, Message, NodeId, Payload};
use raftmap_state::{Command, LEVEL_FIRST, Member};

use crate::event::Notice;
use crate::members::Objection;
use crate::peer::PeerMessage;
use crate::replica::Replica;

/// A server that is connected, as it introduced itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Connected {
    pub(crate) member: Member,
    /// The feature level that its program understands.
    pub(crate) level: u8,
}

impl Replica {
    /// The level to raise the cluster's to: the highest that all members understand, learners among them, if all are here to say
    /// so. While earlier leaders' entries are still to be applied the level in the log is not known.
    pub(crate) fn level_to_raise(&self) -> Option<u8> {
        if self.view.level >= self.config.level || self.view.applied_term != self.raft.term() {
            return None;
        }
        let understood = |id: NodeId| match self.connected.get(&id) {
            _ if id == self.raft.id() => Some(self.config.level),
            peer => peer.map(|peer| peer.level),
        };
        let all: Option<Vec<u8>> = self.raft.membership().all().into_iter().map(understood).collect();
        all?.into_iter().min().filter(|lowest| *lowest > self.view.level)
    }

    pub(crate) fn note_level(&mut self, before: u8) {
        if self.view.level > before {
            self.notice(Notice::LevelRaised { level: self.view.level });
        }
    }

    /// Why a program that understands `level` must not take part, if `needed` is the cluster's.
    pub(crate) fn objection_to_level(&self, id: NodeId, level: u8, needed: u8) -> Option<Objection> {
        let reason = || {
            format!(
                "server {id} runs a version of raftmap that is too old: it understands feature level {level}, and the cluster's is \
                 {needed}; start the newer version on its data directory"
            )
        };
        (level < needed).then(|| Objection { reason: reason(), removed: false })
    }

    /// Sends a message of consensus, unless an entry in it needs a level that the receiver does not understand. What a server
    /// understands that has not said it yet is not known; it may be connected all the same, and about to say it.
    pub(crate) fn send_understood(&mut self, to: NodeId, message: Message) {
        let peer = self.connected.get(&to).map(|peer| peer.level);
        let level = peer.unwrap_or(LEVEL_FIRST);
        if level < self.config.level
            && let needed = needed_level(&message)
            && let Some(objection) = self.objection_to_level(to, level, needed)
        {
            if peer.is_some() {
                self.refuse_peer(to, objection);
            }
            return;
        }
        self.send(to, PeerMessage::Raft(message));
    }
}

/// The level that a server must understand to apply what is in a message.
fn needed_level(message: &Message) -> u8 {
    let MessageBody::Append(append) = &message.body else { return LEVEL_FIRST };
    let needed = append.entries.iter().map(|entry| match &entry.payload {
        Payload::Command(bytes) => Command::level_of(bytes),
        Payload::Noop | Payload::Membership(_) => LEVEL_FIRST,
    });
    needed.max().unwrap_or(LEVEL_FIRST)
}
