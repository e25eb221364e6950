//! What a certificate says that its holder is.

use std::fmt;
use std::str::FromStr;

use raftmap_raft::NodeId;
use rustls::pki_types::CertificateDer;

/// The scheme of the URIs that carry an identity.
pub const SCHEME: &str = "raftmap://";

/// The most bytes in the name of a cluster, client or operator.
pub const NAME_BYTES_MAX: usize = 64;

/// What the holder of a certificate is, and in which cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster that the certificate is good for.
    pub cluster: ClusterName,
    /// What the holder is there.
    pub role: Role,
}

/// What the holder of a certificate may be in a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// A server of the cluster.
    Node(NodeId),
    /// A client: reads and writes the map, and nothing else.
    Client(String),
    /// An operator: what a client may, and changes to the cluster.
    Operator(String),
}

/// A cluster's id as certificates carry it: 1 to [`NAME_BYTES_MAX`] bytes of `a-z A-Z 0-9 . _ -`, the first one a letter
/// or a digit.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClusterName(String);

/// Why a certificate names nobody.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum IdentityError {
    /// The connection came without a certificate.
    #[error("no certificate was shown")]
    NoCertificate,
    /// The certificate cannot be parsed.
    #[error("the certificate cannot be read: {0}")]
    Unreadable(String),
    /// None of its names is an identity.
    #[error(
        "the certificate has no subject alternative name raftmap://CLUSTER/...: was it made by `raftmap certs`?"
    )]
    None,
    /// It claims to be two things, so it is neither.
    #[error("the certificate carries {0} raftmap:// names instead of one")]
    Several(usize),
    /// The URI has the scheme, but not the form.
    #[error("the certificate's name {uri:?} is no identity: {reason}")]
    Malformed {
        /// The URI as it stands in the certificate.
        uri: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// It belongs to another cluster.
    #[error("the certificate is of cluster {theirs}, this is cluster {ours}")]
    OtherCluster {
        /// The cluster in the certificate.
        theirs: ClusterName,
        /// The cluster that checks it.
        ours: ClusterName,
    },
}

/// A name that breaks the rules of [`ClusterName`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is no name: 1 to {NAME_BYTES_MAX} bytes of a-z A-Z 0-9 . _ -, first a letter or a digit")]
pub struct NameError(pub String);

impl Identity {
    /// The identity in a certificate: its only URI of the scheme [`SCHEME`]. Names of other kinds and schemes are left
    /// alone. The certificate's signature is not looked at here; the handshake has done that.
    ///
    /// # Errors
    /// If there is no such URI, more than one, or one that is malformed.
    pub fn of_certificate(certificate: &CertificateDer<'_>) -> Result<Self, IdentityError> {
        let parsed = webpki::EndEntityCert::try_from(certificate)
            .map_err(|error| IdentityError::Unreadable(error.to_string()))?;
        let mut uris = parsed.valid_uri_names().filter(|uri| uri.starts_with(SCHEME));
        let uri = uris.next().ok_or(IdentityError::None)?;
        match uris.count() {
            0 => uri.parse(),
            more => Err(IdentityError::Several(1 + more)),
        }
    }

    /// The identity of the other end of a connection, from the chain that it showed in the handshake.
    ///
    /// # Errors
    /// As [`Self::of_certificate`]; also if there is no chain, or if the certificate is of a cluster other than `ours`.
    pub fn of_peer(chain: Option<&[CertificateDer<'_>]>, ours: &ClusterName) -> Result<Self, IdentityError> {
        let leaf = chain.and_then(<[_]>::first).ok_or(IdentityError::NoCertificate)?;
        let identity = Self::of_certificate(leaf)?;
        if identity.cluster == *ours {
            Ok(identity)
        } else {
            Err(IdentityError::OtherCluster { theirs: identity.cluster, ours: ours.clone() })
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/{}", self.cluster, self.role)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(id) => write!(f, "node/{id}"),
            Self::Client(name) => write!(f, "client/{name}"),
            Self::Operator(name) => write!(f, "operator/{name}"),
        }
    }
}

impl FromStr for Identity {
    type Err = IdentityError;

    fn from_str(uri: &str) -> Result<Self, IdentityError> {
        let malformed = |reason| IdentityError::Malformed { uri: uri.to_owned(), reason };
        let path = uri.strip_prefix(SCHEME).ok_or_else(|| malformed("its scheme is not raftmap://"))?;
        let mut parts = path.split('/');
        let (Some(cluster), Some(kind), Some(name), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(malformed("its form is not raftmap://CLUSTER/KIND/NAME"));
        };
        let cluster = cluster.parse().map_err(|_| malformed("its cluster is not a name"))?;
        let checked = |name| check_name(name).map_err(|_| malformed("its last part is not a name"));
        let role = match kind {
            "node" => {
                Role::Node(parse_node(name).ok_or_else(|| malformed("its node is not a number from 1"))?)
            }
            "client" => Role::Client(checked(name)?),
            "operator" => Role::Operator(checked(name)?),
            _ => return Err(malformed("its kind is not node, client or operator")),
        };
        Ok(Self { cluster, role })
    }
}

/// A node id in its one spelling: no sign, no leading zero.
fn parse_node(digits: &str) -> Option<NodeId> {
    let id: u64 = digits.parse().ok()?;
    (id > 0 && id.to_string() == digits).then_some(NodeId(id))
}

/// `name`, if it keeps the rules of [`ClusterName`], which those of clients and operators follow, too.
pub(crate) fn check_name(name: &str) -> Result<String, NameError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let well_formed = name.len() <= NAME_BYTES_MAX
        && name.bytes().all(allowed)
        && name.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric);
    if well_formed { Ok(name.to_owned()) } else { Err(NameError(name.to_owned())) }
}

impl ClusterName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ClusterName {
    type Err = NameError;

    fn from_str(name: &str) -> Result<Self, NameError> {
        check_name(name).map(Self)
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster() -> ClusterName {
        "demo-1".parse().unwrap()
    }

    /// A certificate, signed by itself, with these URIs as its names.
    fn certificate(uris: &[&str]) -> CertificateDer<'static> {
        let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        for uri in uris {
            params.subject_alt_names.push(rcgen::SanType::URI((*uri).try_into().unwrap()));
        }
        params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    #[test]
    fn every_role_survives_its_uri() {
        for role in
            [Role::Node(NodeId(7)), Role::Client("import.1".to_owned()), Role::Operator("ann".to_owned())]
        {
            let identity = Identity { cluster: cluster(), role };
            assert_eq!(identity.to_string().parse(), Ok(identity.clone()));
            assert_eq!(Identity::of_certificate(&certificate(&[&identity.to_string()])), Ok(identity));
        }
    }

    #[test]
    fn a_certificate_names_exactly_one_identity_or_none() {
        let node = "raftmap://demo-1/node/1";
        assert_eq!(
            Identity::of_certificate(&certificate(&["https://example.org"])),
            Err(IdentityError::None)
        );
        assert!(Identity::of_certificate(&certificate(&["https://example.org", node])).is_ok());
        let two = certificate(&[node, "raftmap://demo-1/operator/eve"]);
        assert_eq!(Identity::of_certificate(&two), Err(IdentityError::Several(2)));
        let broken = certificate(&["raftmap://demo-1/node/one"]);
        assert!(matches!(Identity::of_certificate(&broken), Err(IdentityError::Malformed { .. })));
        let noise = CertificateDer::from(vec![1, 2, 3]);
        assert!(matches!(Identity::of_certificate(&noise), Err(IdentityError::Unreadable(_))));
    }

    #[test]
    fn malformed_uris_are_refused() {
        for uri in [
            "raftmap://demo/node/0",
            "raftmap://demo/node/01",
            "raftmap://demo/node/+1",
            "raftmap://demo/node/-1",
            "raftmap://demo/node/1/2",
            "raftmap://demo/node/1/",
            "raftmap://demo/node/",
            "raftmap://demo/node",
            "raftmap:///node/1",
            "raftmap://de mo/node/1",
            "raftmap://demo/Node/1",
            "raftmap://demo/admin/ann",
            "raftmap://demo/client/",
            "raftmap://demo/client/.hidden",
            "raftmap://demo/client/a%2Fb",
            "https://demo/node/1",
        ] {
            assert!(matches!(uri.parse::<Identity>(), Err(IdentityError::Malformed { .. })), "{uri}");
        }
        let long = "x".repeat(NAME_BYTES_MAX + 1);
        assert!(long.parse::<ClusterName>().is_err());
        assert!(long[1..].parse::<ClusterName>().is_ok());
    }

    #[test]
    fn a_peer_shows_a_certificate_of_our_cluster() {
        let ours = cluster();
        let chain = [certificate(&["raftmap://demo-1/client/a"])];
        let identity = Identity::of_peer(Some(&chain), &ours).unwrap();
        assert_eq!(identity.role, Role::Client("a".to_owned()));

        let other = [certificate(&["raftmap://demo-2/client/a"])];
        let refusal = Identity::of_peer(Some(&other), &ours).unwrap_err();
        assert_eq!(refusal.to_string(), "the certificate is of cluster demo-2, this is cluster demo-1");
        assert_eq!(Identity::of_peer(None, &ours), Err(IdentityError::NoCertificate));
        assert_eq!(Identity::of_peer(Some(&[]), &ours), Err(IdentityError::NoCertificate));
    }
}
