//! Who is at the other end: what servers say first, and what of it is believed.
//!
//! With TLS the certificate proves the id, and the [`Hello`] must agree with it. What a certificate cannot know (the data
//! directory that answers, whom the other side takes this server for) only the Hello says. Whoever does not fit is told
//! why, so that the operators of both sides read the same reason.

use raftmap_proto::peer;
use raftmap_raft::{GroupId, NodeId};
use raftmap_state::{LEVEL_FIRST, Member};
use rustls::pki_types::CertificateDer;

use super::wire::{WireError, node, printable, u128_from_wire, u128_into_wire};
use crate::tls::identity::{ClusterName, Identity, IdentityError, Role};

/// The version of the messages between servers. Servers of different ones refuse each other.
pub const PROTOCOL: u32 = 1;

/// The longest text in a Hello, in bytes.
const TEXT_BYTES_MAX: usize = 300;

/// Who a server is, as it says itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hello {
    /// Of the messages between servers: [`PROTOCOL`].
    pub(super) protocol: u32,
    /// Of the program.
    pub(super) version: String,
    /// The highest feature level that the program understands.
    pub(super) level: u8,
    /// The cluster's id by the data directory.
    pub(super) cluster_id: u128,
    /// Id, incarnation and founding members by the data directory.
    pub(super) member: Member,
    /// Whom it believes to talk to.
    pub(super) peer_id: NodeId,
    /// Where it answers clients; empty: nowhere.
    pub(super) client_address: String,
    /// Where other servers reach it, as it was told last; empty: it was told nothing.
    pub(super) peer_address: String,
    /// It lost something that it may have acknowledged.
    pub(super) damaged: bool,
}

/// How the other end proved who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Proof {
    /// By a certificate of the cluster, made out to this server.
    Certificate(NodeId),
    /// Not at all: the connection is plaintext.
    Nothing,
}

/// Which way a connection was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    /// This server dialed the one with this id.
    Dialed(NodeId),
    /// The other end dialed.
    Accepted,
}

/// Why a server is not the one that is wanted here.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum Unwelcome {
    /// Its certificate names nobody of this cluster.
    #[error(transparent)]
    Certificate(#[from] IdentityError),
    /// Its certificate is not a server's.
    #[error("the certificate is that of {0}, and only servers may connect here")]
    NotAServer(Role),
    /// Certificate and data directory are of different servers.
    #[error("the certificate is that of server {certificate}, the data directory that of server {hello}")]
    NotTheHolder {
        /// By its certificate.
        certificate: NodeId,
        /// By what it said.
        hello: NodeId,
    },
    /// Its messages are of another version.
    #[error(
        "server {node} speaks version {theirs} of the protocol between servers, this server version {ours}"
    )]
    Protocol {
        /// The other server.
        node: NodeId,
        /// Its version.
        theirs: u32,
        /// The version here.
        ours: u32,
    },
    /// Its data directory is of another cluster.
    #[error("the data directory of server {node} is of cluster {theirs:032x}, this is cluster {ours:032x}")]
    OtherCluster {
        /// The other server.
        node: NodeId,
        /// Its cluster.
        theirs: u128,
        /// The cluster here.
        ours: u128,
    },
    /// It has the id of this server.
    #[error(
        "server {0} was called by another server {0}: was a data directory copied, or an address mistaken?"
    )]
    OwnId(NodeId),
    /// It is none of the servers that this one knows, and wants its state.
    #[error("server {0} is not a member of this cluster")]
    Unknown(NodeId),
    /// It is none of the servers that this one knows, and too many of those have called.
    #[error("server {node} is no member that this server knows, as are {limit} others that called before")]
    Crowded {
        /// The other server.
        node: NodeId,
        /// How many may be.
        limit: usize,
    },
    /// Another server than the dialed one answered.
    #[error("server {found} answers at the address of server {dialed}: check the addresses of the members")]
    NotTheDialed {
        /// Who was dialed.
        dialed: NodeId,
        /// Who answered.
        found: NodeId,
    },
    /// It wanted another server than this one.
    #[error(
        "server {node} looks for server {meant}, this is server {ours}: check the addresses of the members"
    )]
    Mistaken {
        /// The other server.
        node: NodeId,
        /// Whom it looks for.
        meant: NodeId,
        /// Who this is.
        ours: NodeId,
    },
}

impl Proof {
    /// What the chain of certificates proves that the other end showed in the handshake.
    ///
    /// # Errors
    /// If it is not the certificate of a server of `cluster`.
    pub(super) fn of_peer(
        chain: Option<&[CertificateDer<'_>]>,
        cluster: &ClusterName,
    ) -> Result<Self, Unwelcome> {
        match Identity::of_peer(chain, cluster)?.role {
            Role::Node(id) => Ok(Self::Certificate(id)),
            role => Err(Unwelcome::NotAServer(role)),
        }
    }
}

impl Hello {
    /// Whether the server that says this is welcome at one that says `ours`. It need not be a member that this one knows:
    /// membership may have changed while this one was away, and whoever leads must be heard.
    ///
    /// # Errors
    /// If it is not, with the reason that both sides are to read.
    pub(super) fn check(&self, ours: &Self, proof: Proof, direction: Direction) -> Result<(), Unwelcome> {
        let (node, own) = (self.member.node_id, ours.member.node_id);
        if self.protocol != ours.protocol {
            return Err(Unwelcome::Protocol { node, theirs: self.protocol, ours: ours.protocol });
        }
        if let Proof::Certificate(certificate) = proof
            && certificate != node
        {
            return Err(Unwelcome::NotTheHolder { certificate, hello: node });
        }
        if self.cluster_id != ours.cluster_id {
            return Err(Unwelcome::OtherCluster { node, theirs: self.cluster_id, ours: ours.cluster_id });
        }
        if node == own {
            return Err(Unwelcome::OwnId(node));
        }
        if let Direction::Dialed(dialed) = direction
            && node != dialed
        {
            return Err(Unwelcome::NotTheDialed { dialed, found: node });
        }
        if self.peer_id != own {
            return Err(Unwelcome::Mistaken { node, meant: self.peer_id, ours: own });
        }
        Ok(())
    }

    pub(super) fn into_wire(self) -> peer::Hello {
        let Member { node_id, incarnation, founding_hash } = self.member;
        peer::Hello {
            protocol: self.protocol,
            version: self.version,
            level: u32::from(self.level),
            cluster_id: u128_into_wire(self.cluster_id),
            node_id: node_id.0,
            peer_id: self.peer_id.0,
            incarnation: u128_into_wire(incarnation),
            client_address: self.client_address,
            peer_address: self.peer_address,
            groups: vec![peer::GroupHello {
                group_id: GroupId::DEFAULT.0,
                founding_hash: u128_into_wire(founding_hash),
                damaged: self.damaged,
            }],
        }
    }

    pub(super) fn from_wire(hello: peer::Hello) -> Result<Self, WireError> {
        for (what, text) in [
            ("the version", &hello.version),
            ("the client address", &hello.client_address),
            ("the peer address", &hello.peer_address),
        ] {
            if text.len() > TEXT_BYTES_MAX {
                return Err(WireError::Length { what, expected: TEXT_BYTES_MAX, found: text.len() });
            }
        }
        let [group] = &hello.groups[..] else {
            return Err(WireError::Length {
                what: "the list of groups",
                expected: 1,
                found: hello.groups.len(),
            });
        };
        if GroupId(group.group_id) != GroupId::DEFAULT {
            return Err(WireError::Group(GroupId(group.group_id)));
        }
        Ok(Self {
            protocol: hello.protocol,
            version: printable(&hello.version),
            // Programs without levels say nothing of them. How far one is ahead of what can be counted does not matter.
            level: u8::try_from(hello.level).unwrap_or(u8::MAX).max(LEVEL_FIRST),
            cluster_id: u128_from_wire("the cluster id", &hello.cluster_id)?,
            member: Member {
                node_id: node("the node id", hello.node_id)?,
                incarnation: u128_from_wire("the incarnation", &hello.incarnation)?,
                founding_hash: u128_from_wire("the founding hash", &group.founding_hash)?,
            },
            peer_id: node("the peer id", hello.peer_id)?,
            client_address: printable(&hello.client_address),
            peer_address: printable(&hello.peer_address),
            damaged: group.damaged,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(node_id: u64, peer_id: u64) -> Hello {
        Hello {
            protocol: PROTOCOL,
            version: "1.2.3".to_owned(),
            level: 2,
            cluster_id: 7,
            member: Member { node_id: NodeId(node_id), incarnation: 8, founding_hash: 9 },
            peer_id: NodeId(peer_id),
            client_address: "a:1".to_owned(),
            peer_address: "a:2".to_owned(),
            damaged: false,
        }
    }

    /// Server 1 says `theirs` to server 2.
    fn check(theirs: &Hello, proof: Proof, direction: Direction) -> Result<(), Unwelcome> {
        theirs.check(&hello(2, 1), proof, direction)
    }

    #[test]
    fn who_fits_is_welcome() {
        assert_eq!(check(&hello(1, 2), Proof::Certificate(NodeId(1)), Direction::Accepted), Ok(()));
        assert_eq!(check(&hello(1, 2), Proof::Nothing, Direction::Accepted), Ok(()));
        assert_eq!(check(&hello(3, 2), Proof::Nothing, Direction::Dialed(NodeId(3))), Ok(()));
        assert_eq!(check(&hello(3, 2), Proof::Nothing, Direction::Accepted), Ok(()));
    }

    #[test]
    fn who_does_not_fit_is_told_why() {
        let refused = |theirs: Hello, proof, direction| check(&theirs, proof, direction).unwrap_err();
        let accepted = |theirs| refused(theirs, Proof::Nothing, Direction::Accepted);
        let (node, ours) = (NodeId(1), NodeId(2));

        let protocol = Hello { protocol: 2, ..hello(1, 2) };
        assert_eq!(accepted(protocol), Unwelcome::Protocol { node, theirs: 2, ours: 1 });
        let cluster = Hello { cluster_id: 5, ..hello(1, 2) };
        assert_eq!(accepted(cluster), Unwelcome::OtherCluster { node, theirs: 5, ours: 7 });
        assert_eq!(accepted(hello(2, 2)), Unwelcome::OwnId(ours));
        assert_eq!(accepted(hello(1, 3)), Unwelcome::Mistaken { node, meant: NodeId(3), ours });
        let holder = Unwelcome::NotTheHolder { certificate: NodeId(3), hello: node };
        assert_eq!(refused(hello(1, 2), Proof::Certificate(NodeId(3)), Direction::Accepted), holder);
        let dialed = Unwelcome::NotTheDialed { dialed: NodeId(3), found: node };
        assert_eq!(refused(hello(1, 2), Proof::Nothing, Direction::Dialed(NodeId(3))), dialed);
    }

    #[test]
    fn a_program_that_says_no_level_understands_the_first() {
        for (said, understood) in [(0, LEVEL_FIRST), (1, LEVEL_FIRST), (2, 2), (255, 255), (1 << 20, 255)] {
            let wire = peer::Hello { level: said, ..hello(1, 2).into_wire() };
            assert_eq!(Hello::from_wire(wire), Ok(Hello { level: understood, ..hello(1, 2) }));
        }
    }

    #[test]
    fn a_hello_with_impossible_parts_is_malformed() {
        let whole = hello(1, 2).into_wire();
        assert_eq!(Hello::from_wire(whole.clone()), Ok(hello(1, 2)));
        let node = peer::Hello { node_id: 0, ..whole.clone() };
        assert_eq!(Hello::from_wire(node), Err(WireError::Number { what: "the node id", value: 0 }));
        let short = peer::Hello { incarnation: vec![1; 15].into(), ..whole.clone() };
        let length = WireError::Length { what: "the incarnation", expected: 16, found: 15 };
        assert_eq!(Hello::from_wire(short), Err(length));
        let long = peer::Hello { version: "v".repeat(TEXT_BYTES_MAX + 1), ..whole.clone() };
        assert!(matches!(Hello::from_wire(long), Err(WireError::Length { what: "the version", .. })));
        let groups = peer::Hello { groups: Vec::new(), ..whole.clone() };
        assert!(matches!(Hello::from_wire(groups), Err(WireError::Length { .. })));
        let mut group = whole;
        group.groups[0].group_id = 2;
        assert_eq!(Hello::from_wire(group), Err(WireError::Group(GroupId(2))));
    }
}
