//! Who a node is: written once by `init`, shown in every handshake.

use std::fmt::Write as _;

use raftmap_raft::NodeId;

use crate::error::IdentityError;

/// A member that the cluster was founded with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundingMember {
    /// Its id.
    pub node: NodeId,
    /// Where its peers reach it.
    pub peer_address: String,
    /// Where clients reach it.
    pub client_address: String,
}

/// Who a node is. A node id that shows up with another incarnation has lost its disk, and with it the votes and entries
/// that it promised to keep: it is refused. Founding members that differ are two clusters that think they are one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    cluster: u128,
    node: NodeId,
    incarnation: u64,
    founding_members: Vec<FoundingMember>,
}

const TITLE: &str = "# Who this raftmap server is. Written once by `raftmap init`; do not change it.\n";
const MEMBERS_MAX: usize = 1000;
const ADDRESS_BYTES_MAX: usize = 300;

impl Identity {
    /// The version of the format that this code writes.
    pub(crate) const VERSION: u32 = 1;

    /// An identity. `incarnation` is random, drawn anew for every data directory.
    ///
    /// # Errors
    /// If there are no or too many founding members, one is named twice, an id is 0 or an address is not one.
    pub fn new(
        cluster: u128,
        node: NodeId,
        incarnation: u64,
        mut founding_members: Vec<FoundingMember>,
    ) -> Result<Self, IdentityError> {
        founding_members.sort_by_key(|member| member.node);
        if !(1..=MEMBERS_MAX).contains(&founding_members.len()) {
            return Err(IdentityError::MemberCount(founding_members.len()));
        }
        if let Some(pair) = founding_members.windows(2).find(|pair| pair[0].node == pair[1].node) {
            return Err(IdentityError::MemberTwice(pair[0].node));
        }
        if node == NodeId(0) || founding_members[0].node == NodeId(0) {
            return Err(IdentityError::NodeZero);
        }
        for member in &founding_members {
            for address in [&member.peer_address, &member.client_address] {
                check_address(member.node, address)?;
            }
        }
        Ok(Self { cluster, node, incarnation, founding_members })
    }

    /// The cluster's id, the same on all of its nodes.
    pub fn cluster(&self) -> u128 {
        self.cluster
    }

    /// The node's own id.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// The random number of this data directory.
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// The members that the cluster was founded with, in the order of their ids.
    pub fn founding_members(&self) -> &[FoundingMember] {
        &self.founding_members
    }

    /// XXH3 (128 bits) of the founding members' lines in [`Self::to_text`]: equal on all nodes of a cluster.
    pub fn founding_hash(&self) -> u128 {
        xxhash_rust::xxh3::xxh3_128(self.member_lines().as_bytes())
    }

    /// The text of the identity file.
    pub fn to_text(&self) -> String {
        let mut text = format!(
            "{TITLE}version = {}\ncluster = {:032x}\nnode = {}\nincarnation = {:016x}\n{}",
            Self::VERSION,
            self.cluster,
            self.node,
            self.incarnation,
            self.member_lines()
        );
        let checksum = crc32c::crc32c(text.as_bytes());
        writeln!(text, "checksum = {checksum:08x}").expect("writing to a string cannot fail");
        text
    }

    /// The identity that [`Self::to_text`] wrote, byte for byte: anything else is refused.
    ///
    /// # Errors
    /// If the checksum does not fit, the version is unknown, or the text is not what this version writes.
    pub fn parse(text: &str) -> Result<Self, IdentityError> {
        let body_len = text.rfind("checksum = ").ok_or(IdentityError::Checksum)?;
        let (body, last_line) = text.split_at(body_len);
        if last_line != format!("checksum = {:08x}\n", crc32c::crc32c(body.as_bytes())) {
            return Err(IdentityError::Checksum);
        }
        let mut lines =
            Lines { rest: body.strip_prefix(TITLE).ok_or(IdentityError::Malformed(1))?, number: 1 };
        let version = lines.number("version", 10)?;
        if version != u128::from(Self::VERSION) {
            return Err(IdentityError::UnknownVersion(u32::try_from(version).unwrap_or(u32::MAX)));
        }
        let cluster = lines.number("cluster", 16)?;
        let node = NodeId(lines.number_u64("node", 10)?);
        let incarnation = lines.number_u64("incarnation", 16)?;
        let mut members = Vec::new();
        while !lines.rest.is_empty() {
            members.push(lines.member()?);
        }
        let identity = Self::new(cluster, node, incarnation, members)?;
        if identity.to_text() == text { Ok(identity) } else { Err(IdentityError::Malformed(lines.number)) }
    }

    fn member_lines(&self) -> String {
        self.founding_members
            .iter()
            .map(|member| {
                format!("member = {} {} {}\n", member.node, member.peer_address, member.client_address)
            })
            .collect()
    }
}

fn check_address(node: NodeId, address: &str) -> Result<(), IdentityError> {
    let fits = (1..=ADDRESS_BYTES_MAX).contains(&address.len());
    if fits && address.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"') {
        return Ok(());
    }
    Err(IdentityError::Address { node, address: address.to_owned() })
}

/// What is left to read of an identity's text.
struct Lines<'a> {
    rest: &'a str,
    number: usize,
}

impl<'a> Lines<'a> {
    fn value(&mut self, key: &str) -> Result<&'a str, IdentityError> {
        self.number += 1;
        let malformed = IdentityError::Malformed(self.number);
        let (line, rest) = self.rest.split_once('\n').ok_or(malformed.clone())?;
        self.rest = rest;
        line.strip_prefix(key).and_then(|line| line.strip_prefix(" = ")).ok_or(malformed)
    }

    fn number(&mut self, key: &str, radix: u32) -> Result<u128, IdentityError> {
        let value = self.value(key)?;
        u128::from_str_radix(value, radix).map_err(|_| IdentityError::Malformed(self.number))
    }

    fn number_u64(&mut self, key: &str, radix: u32) -> Result<u64, IdentityError> {
        u64::try_from(self.number(key, radix)?).map_err(|_| IdentityError::Malformed(self.number))
    }

    fn member(&mut self) -> Result<FoundingMember, IdentityError> {
        let value = self.value("member")?;
        let malformed = IdentityError::Malformed(self.number);
        let mut parts = value.split(' ');
        let (Some(node), Some(peer), Some(client), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(malformed);
        };
        Ok(FoundingMember {
            node: NodeId(node.parse().map_err(|_| malformed)?),
            peer_address: peer.to_owned(),
            client_address: client.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn member(id: u64) -> FoundingMember {
        FoundingMember {
            node: NodeId(id),
            peer_address: format!("host-{id}.example:7001"),
            client_address: format!("[fd00::{id}]:7000"),
        }
    }

    fn identity() -> Identity {
        Identity::new(0xFACE, NodeId(2), 0xBEEF, vec![member(3), member(1), member(2)]).unwrap()
    }

    #[test]
    fn the_text_can_be_read_by_a_person() {
        let text = identity().to_text();
        let (body, checksum) = text.split_at(text.rfind("checksum").unwrap());
        assert_eq!(
            body,
            "# Who this raftmap server is. Written once by `raftmap init`; do not change it.\n\
             version = 1\n\
             cluster = 0000000000000000000000000000face\n\
             node = 2\n\
             incarnation = 000000000000beef\n\
             member = 1 host-1.example:7001 [fd00::1]:7000\n\
             member = 2 host-2.example:7001 [fd00::2]:7000\n\
             member = 3 host-3.example:7001 [fd00::3]:7000\n"
        );
        assert_eq!(checksum, format!("checksum = {:08x}\n", crc32c::crc32c(body.as_bytes())));
        assert_eq!(Identity::parse(&text), Ok(identity()));
    }

    #[test]
    fn the_founding_hash_is_that_of_the_members_alone() {
        let hash = identity().founding_hash();
        let other = |members| Identity::new(1, NodeId(9), 1, members).unwrap().founding_hash();
        assert_eq!(other(vec![member(1), member(2), member(3)]), hash);
        assert_ne!(other(vec![member(1), member(2)]), hash);
        let moved = FoundingMember { peer_address: "host-9.example:7001".to_owned(), ..member(3) };
        assert_ne!(other(vec![member(1), member(2), moved]), hash);
    }

    #[test]
    fn nonsense_is_refused() {
        let new = |node, members| Identity::new(1, NodeId(node), 1, members);
        assert_eq!(new(1, vec![]), Err(IdentityError::MemberCount(0)));
        assert_eq!(new(1, (1..=1001).map(member).collect()), Err(IdentityError::MemberCount(1001)));
        assert_eq!(new(1, vec![member(1), member(2), member(1)]), Err(IdentityError::MemberTwice(NodeId(1))));
        assert_eq!(new(0, vec![member(1)]), Err(IdentityError::NodeZero));
        assert_eq!(new(1, vec![member(0)]), Err(IdentityError::NodeZero));
        for address in ["", "a b", "a\n", "\"a\"", "ä", &"a".repeat(301)] {
            let bad = FoundingMember { client_address: address.to_owned(), ..member(1) };
            assert!(matches!(new(1, vec![bad]), Err(IdentityError::Address { .. })), "{address:?}");
        }
    }

    #[test]
    fn only_the_very_text_is_taken() {
        let resealed = |change: &dyn Fn(&str) -> String| {
            let text = identity().to_text();
            let mut body = change(&text[..text.rfind("checksum").unwrap()]);
            let checksum = crc32c::crc32c(body.as_bytes());
            body.push_str(&format!("checksum = {checksum:08x}\n"));
            Identity::parse(&body)
        };
        assert_eq!(resealed(&str::to_owned), Ok(identity()));
        assert_eq!(
            resealed(&|text| text.replace("version = 1", "version = 2")),
            Err(IdentityError::UnknownVersion(2))
        );
        let malformed: [&dyn Fn(&str) -> String; 6] = [
            &|text| text.replace("# Who", "# who"),
            &|text| text.replace("node = 2", "node = +2"),
            &|text| text.replace("node = 2", "node = 02"),
            &|text| text.replace("0000face", "0000FACE"),
            &|text| format!("{text}member = 4 a\n"),
            &|text| format!("{text}extra = 1\n"),
        ];
        for (nth, change) in malformed.into_iter().enumerate() {
            assert!(matches!(resealed(change), Err(IdentityError::Malformed(_))), "change {nth}");
        }
    }

    proptest! {
        #[test]
        fn no_changed_byte_is_taken(at in 0usize..300, byte: u8) {
            let mut text = identity().to_text().into_bytes();
            let at = at % text.len();
            prop_assume!(text[at] != byte);
            text[at] = byte;
            if let Ok(text) = String::from_utf8(text) {
                prop_assert_eq!(Identity::parse(&text), Err(IdentityError::Checksum));
            }
        }

        #[test]
        fn random_text_never_panics(text in "[ -~\n]{0,400}") {
            prop_assert!(Identity::parse(&text).is_err());
        }
    }
}
