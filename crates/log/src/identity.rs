//! Who a node is: written once by `init`, shown in every handshake.

use std::fmt::Write as _;

use raftmap_raft::{LogIndex, LogPosition, NodeId, Term};

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

/// The backup that a cluster was made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestoredFrom {
    /// The last entry that is in it: where the log of the new cluster begins.
    pub position: LogPosition,
    /// The digest of the whole file.
    pub digest: u128,
}

/// Who a node is. A node id that shows up with another incarnation has lost its disk, and with it the votes and entries
/// that it promised to keep: it is refused. Founding members that differ are two clusters that think they are one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    cluster: u128,
    node: NodeId,
    incarnation: u64,
    founding_members: Vec<FoundingMember>,
    restored_from: Option<RestoredFrom>,
    joined: Option<Joined>,
}

/// What a server is told that is not of the founding.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Joined {
    own: FoundingMember,
    contacts: Vec<FoundingMember>,
}

const TITLE: &str = "# Who this raftmap server is. Written once by `raftmap init`; do not change it.\n";
const RESTORED: &str = "restored";
const MEMBERS_MAX: usize = 1000;
const ADDRESS_BYTES_MAX: usize = 300;

impl Identity {
    /// The latest version of the format that this code knows. It writes 1 where that says everything, so that an older
    /// program reads it.
    pub(crate) const VERSION: u32 = 2;

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
        founding_members.iter().try_for_each(check_addresses)?;
        Ok(Self { cluster, node, incarnation, founding_members, restored_from: None, joined: None })
    }

    /// The identity of a server that joins the cluster after its founding: where it is itself, and where others were when it was
    /// made.
    ///
    /// # Errors
    /// As [`Self::new`], and if the server is one of the founders, or is among its contacts.
    pub fn joining(
        cluster: u128,
        incarnation: u64,
        own: FoundingMember,
        founding_members: Vec<FoundingMember>,
        mut contacts: Vec<FoundingMember>,
    ) -> Result<Self, IdentityError> {
        let identity = Self::new(cluster, own.node, incarnation, founding_members)?;
        contacts.sort_by_key(|contact| contact.node);
        if contacts.len() > MEMBERS_MAX {
            return Err(IdentityError::MemberCount(contacts.len()));
        }
        let ids: Vec<NodeId> = contacts.iter().map(|contact| contact.node).chain([own.node]).collect();
        if let Some(twice) =
            (1..ids.len()).map(|at| ids[at]).find(|id| ids.iter().filter(|each| *each == id).count() > 1)
        {
            return Err(IdentityError::MemberTwice(twice));
        }
        if identity.founding_members.iter().any(|member| member.node == own.node) {
            return Err(IdentityError::MemberTwice(own.node));
        }
        contacts.iter().chain([&own]).try_for_each(check_addresses)?;
        Ok(Self { joined: Some(Joined { own, contacts }), ..identity })
    }

    /// This server's own addresses, as the others were told.
    pub fn own(&self) -> Option<&FoundingMember> {
        let founder = self.founding_members.iter().find(|member| member.node == self.node);
        founder.or(self.joined.as_ref().map(|joined| &joined.own))
    }

    /// Where servers were, itself included, when the directory was made: of two that it was told, the later.
    pub fn addresses(&self) -> impl Iterator<Item = &FoundingMember> {
        let joined = self.joined.iter().flat_map(|joined| joined.contacts.iter().chain([&joined.own]));
        self.founding_members.iter().chain(joined)
    }

    /// The same, of a cluster that was made of a backup.
    pub fn restored(self, from: RestoredFrom) -> Self {
        Self { restored_from: Some(from), ..self }
    }

    /// The backup that the cluster was made of, if it was.
    pub fn restored_from(&self) -> Option<RestoredFrom> {
        self.restored_from
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

    /// XXH3 (128 bits) of what the cluster was founded with, as lines in [`Self::to_text`]: the members, and the backup if
    /// there was one. Equal on all nodes of a cluster.
    pub fn founding_hash(&self) -> u128 {
        let founding = lines("member", &self.founding_members) + &self.restored_line();
        xxhash_rust::xxh3::xxh3_128(founding.as_bytes())
    }

    /// The text of the identity file.
    pub fn to_text(&self) -> String {
        let plain = self.joined.is_none() && self.restored_from.is_none();
        let version = if plain { 1 } else { Self::VERSION };
        let mut text = format!(
            "{TITLE}version = {version}\ncluster = {:032x}\nnode = {}\nincarnation = {:016x}\n{}{}",
            self.cluster,
            self.node,
            self.incarnation,
            lines("member", &self.founding_members),
            self.restored_line()
        );
        if let Some(Joined { own, contacts }) = &self.joined {
            text.push_str(&lines("own", [own]));
            text.push_str(&lines("contact", contacts));
        }
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
        if !(1..=u128::from(Self::VERSION)).contains(&version) {
            return Err(IdentityError::UnknownVersion(u32::try_from(version).unwrap_or(u32::MAX)));
        }
        let cluster = lines.number("cluster", 16)?;
        let node = NodeId(lines.number_u64("node", 10)?);
        let incarnation = lines.number_u64("incarnation", 16)?;
        let mut members = Vec::new();
        while lines.rest.starts_with("member = ") {
            members.push(lines.member("member")?);
        }
        let restored_from =
            if lines.rest.starts_with(RESTORED) { Some(lines.restored_from()?) } else { None };
        let identity = if lines.rest.is_empty() {
            Self::new(cluster, node, incarnation, members)?
        } else {
            let own = lines.member("own")?;
            let mut contacts = Vec::new();
            while !lines.rest.is_empty() {
                contacts.push(lines.member("contact")?);
            }
            Self::joining(cluster, incarnation, own, members, contacts)?
        };
        let identity = Self { restored_from, ..identity };
        if identity.to_text() == text { Ok(identity) } else { Err(IdentityError::Malformed(lines.number)) }
    }

    fn restored_line(&self) -> String {
        self.restored_from.map_or_else(String::new, |RestoredFrom { position, digest }| {
            format!("{RESTORED} = {} {} {digest:032x}\n", position.index, position.term)
        })
    }
}

fn lines<'a>(name: &str, members: impl IntoIterator<Item = &'a FoundingMember>) -> String {
    let line = |member: &FoundingMember| {
        format!("{name} = {} {} {}\n", member.node, member.peer_address, member.client_address)
    };
    members.into_iter().map(line).collect()
}

fn check_addresses(member: &FoundingMember) -> Result<(), IdentityError> {
    if member.node == NodeId(0) {
        return Err(IdentityError::NodeZero);
    }
    [&member.peer_address, &member.client_address]
        .into_iter()
        .try_for_each(|address| check_address(member.node, address))
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

    fn restored_from(&mut self) -> Result<RestoredFrom, IdentityError> {
        let value = self.value(RESTORED)?;
        let malformed = IdentityError::Malformed(self.number);
        let mut parts = value.split(' ');
        let (Some(index), Some(term), Some(digest), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(malformed);
        };
        let number = |text: &str| text.parse::<u64>().map_err(|_| malformed.clone());
        Ok(RestoredFrom {
            position: LogPosition { term: Term(number(term)?), index: LogIndex(number(index)?) },
            digest: u128::from_str_radix(digest, 16).map_err(|_| malformed.clone())?,
        })
    }

    fn member(&mut self, key: &str) -> Result<FoundingMember, IdentityError> {
        let value = self.value(key)?;
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

    fn restored() -> Identity {
        let position = LogPosition { term: Term(3), index: LogIndex(70) };
        identity().restored(RestoredFrom { position, digest: 0xAB })
    }

    #[test]
    fn the_backup_that_a_cluster_was_made_of_is_part_of_its_founding() {
        let text = restored().to_text();
        assert!(text.contains("\nversion = 2\n"), "{text}");
        let line = "\nrestored = 70 3 000000000000000000000000000000ab\nchecksum";
        assert!(text.contains(line), "{text}");
        assert_eq!(Identity::parse(&text), Ok(restored()));
        let hash = restored().founding_hash();
        assert_ne!(hash, identity().founding_hash(), "one is restored, the other is not");
        let from = restored().restored_from().unwrap();
        let other = |from| identity().restored(from).founding_hash();
        assert_eq!(other(from), hash);
        assert_ne!(other(RestoredFrom { digest: 0xAC, ..from }), hash);
        let position = LogPosition { index: LogIndex(71), ..from.position };
        assert_ne!(other(RestoredFrom { position, ..from }), hash);
    }

    #[test]
    fn who_joins_later_knows_the_founders_itself_and_others() {
        let joining =
            |own, contacts| Identity::joining(0xFACE, 0xBEEF, member(own), vec![member(1)], contacts);
        let identity = joining(4, vec![member(3), member(2)]).unwrap();
        let text = identity.to_text();
        assert!(text.contains("version = 2\n"), "{text}");
        assert!(
            text.contains(
                "member = 1 host-1.example:7001 [fd00::1]:7000\n\
                 own = 4 host-4.example:7001 [fd00::4]:7000\n\
                 contact = 2 host-2.example:7001 [fd00::2]:7000\n\
                 contact = 3 host-3.example:7001 [fd00::3]:7000\n"
            ),
            "{text}"
        );
        assert_eq!(Identity::parse(&text), Ok(identity.clone()));
        assert_eq!(identity.own(), Some(&member(4)));
        assert_eq!(identity.addresses().map(|member| member.node.0).collect::<Vec<_>>(), [1, 2, 3, 4]);
        let founder = Identity::new(0xFACE, NodeId(1), 1, vec![member(1)]).unwrap();
        assert_eq!(founder.founding_hash(), identity.founding_hash(), "of one founding");
        assert_eq!(founder.own(), Some(&member(1)));
        assert_eq!(joining(1, vec![]), Err(IdentityError::MemberTwice(NodeId(1))));
        assert_eq!(joining(4, vec![member(4)]), Err(IdentityError::MemberTwice(NodeId(4))));
        assert_eq!(joining(4, vec![member(0)]), Err(IdentityError::NodeZero));
        // It joins a cluster that was made of a backup.
        let from = restored().restored_from().unwrap();
        let (founder, later) = (founder.restored(from), identity.restored(from));
        assert_eq!(Identity::parse(&later.to_text()), Ok(later.clone()));
        assert_eq!(founder.founding_hash(), later.founding_hash());
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
        for version in [0, 3] {
            let changed = resealed(&|text| text.replace("version = 1", &format!("version = {version}")));
            assert_eq!(changed, Err(IdentityError::UnknownVersion(version)));
        }
        let line = "restored = 70 3 000000000000000000000000000000ab\n";
        let version_2 = |text: &str| text.replace("version = 1", "version = 2");
        assert_eq!(resealed(&|text| version_2(text) + line), Ok(restored()));
        let malformed: [&dyn Fn(&str) -> String; 11] = [
            &version_2,
            &|text| format!("{text}{line}"),
            &|text| version_2(text) + line + line,
            &|text| version_2(text) + &line.replace("70", "070"),
            &|text| version_2(text).replace("member = 3", &format!("{line}member = 3")),
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
