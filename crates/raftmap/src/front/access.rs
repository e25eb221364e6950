//! Who may call what: the one place where that is decided.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;

use crate::api::{Code, Failure};
use crate::tls::identity::{ClusterName, Identity, IdentityError, Role};

/// The service whose calls concern the cluster and not the map.
const CLUSTER_SERVICE: &str = "raftmap.v1.Cluster/";

/// The service that load balancers ask. They are nobody: all that they can do is get through the handshake.
const HEALTH_SERVICE: &str = "grpc.health.v1.Health/";

/// Whom the front door lets in.
#[derive(Clone, Debug)]
pub enum Admission {
    /// Those with a certificate of this cluster.
    Certificates(ClusterName),
    /// Everyone, as a client: there are no certificates to tell one from another (`--client-auth none`, `--insecure`).
    Everyone,
}

/// The other end of a connection. All its requests share one.
#[derive(Clone, Debug)]
pub(super) struct Caller(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    address: SocketAddr,
    standing: Standing,
}

#[derive(Debug)]
enum Standing {
    Known(Role),
    Anyone,
    /// It holds a certificate of the right authority that is of no use here.
    Refused(IdentityError),
}

impl Caller {
    pub(super) fn new(
        address: SocketAddr,
        admission: &Admission,
        chain: Option<&[CertificateDer<'_>]>,
    ) -> Self {
        let standing = match admission {
            Admission::Everyone => Standing::Anyone,
            Admission::Certificates(cluster) => match Identity::of_peer(chain, cluster) {
                Ok(identity) => Standing::Known(identity.role),
                Err(error) => Standing::Refused(error),
            },
        };
        Self(Arc::new(Inner { address, standing }))
    }

    /// Why nothing that it asks for is answered, if that is so.
    pub(super) fn refusal(&self) -> Option<&IdentityError> {
        match &self.0.standing {
            Standing::Refused(error) => Some(error),
            Standing::Known(_) | Standing::Anyone => None,
        }
    }

    /// Whether it may make the call at `path` (`SERVICE/METHOD`). Calls of the cluster that are not marked in the
    /// `.proto` file as free of side effects change the cluster or give all of it away, and need an operator.
    ///
    /// # Errors
    /// The failure to answer with.
    pub(super) fn check(&self, path: &str, side_effects: bool) -> Result<(), Failure> {
        if path.starts_with(HEALTH_SERVICE) {
            return Ok(());
        }
        let for_operators = side_effects && path.starts_with(CLUSTER_SERVICE);
        let denied = |reason| Err(Failure::not_applied(Code::Denied, reason));
        match &self.0.standing {
            Standing::Refused(error @ IdentityError::NoCertificate) => {
                Err(Failure::not_applied(Code::Unauthenticated, error.to_string()))
            }
            Standing::Refused(error) => denied(error.to_string()),
            Standing::Known(Role::Operator(_)) => Ok(()),
            Standing::Known(role) if for_operators => {
                denied(format!("{path} needs an operator's certificate, not that of {role}"))
            }
            Standing::Anyone if for_operators => {
                denied(format!("{path} needs an operator's certificate, and this server asks for none"))
            }
            Standing::Known(_) | Standing::Anyone => Ok(()),
        }
    }
}

/// As logs name it: its address, and what it is.
impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.standing {
            Standing::Known(role) => write!(f, "{role} at {}", self.0.address),
            Standing::Anyone | Standing::Refused(_) => write!(f, "{}", self.0.address),
        }
    }
}

#[cfg(test)]
mod tests {
    use raftmap_raft::NodeId;

    use super::*;

    fn caller(standing: Standing) -> Caller {
        Caller(Arc::new(Inner { address: ([127, 0, 0, 1], 1).into(), standing }))
    }

    #[test]
    fn only_an_operator_changes_the_cluster() {
        let change = |standing| caller(standing).check("raftmap.v1.Cluster/RemoveMember", true);
        assert_eq!(change(Standing::Known(Role::Operator("ann".into()))), Ok(()));
        for standing in [
            Standing::Known(Role::Client("c".into())),
            Standing::Known(Role::Node(NodeId(1))),
            Standing::Anyone,
        ] {
            assert_eq!(change(standing).unwrap_err().code, Code::Denied);
        }
    }

    #[test]
    fn every_member_of_the_cluster_reads_it_and_uses_the_map() {
        for standing in [
            Standing::Known(Role::Client("c".into())),
            Standing::Known(Role::Operator("o".into())),
            Standing::Known(Role::Node(NodeId(1))),
            Standing::Anyone,
        ] {
            let caller = caller(standing);
            assert_eq!(caller.check("raftmap.v1.Map/Put", true), Ok(()));
            assert_eq!(caller.check("raftmap.v1.Cluster/Members", false), Ok(()));
        }
    }

    #[test]
    fn whoever_is_connected_may_ask_how_the_server_is() {
        let theirs: ClusterName = "theirs".parse().unwrap();
        let other = IdentityError::OtherCluster { ours: "ours".parse().unwrap(), theirs };
        for standing in
            [Standing::Refused(other), Standing::Refused(IdentityError::NoCertificate), Standing::Anyone]
        {
            assert_eq!(caller(standing).check("grpc.health.v1.Health/Check", true), Ok(()));
        }
    }

    #[test]
    fn who_is_refused_is_told_why() {
        let ours: ClusterName = "ours".parse().unwrap();
        let theirs = "theirs".parse().unwrap();
        let stranger = caller(Standing::Refused(IdentityError::OtherCluster { theirs, ours: ours.clone() }));
        let failure = stranger.check("raftmap.v1.Map/Get", false).unwrap_err();
        assert_eq!(failure.code, Code::Denied);
        assert_eq!(failure.reason, "the certificate is of cluster theirs, this is cluster ours");

        let nobody = Caller::new(([127, 0, 0, 1], 1).into(), &Admission::Certificates(ours), None);
        assert_eq!(nobody.check("raftmap.v1.Map/Get", false).unwrap_err().code, Code::Unauthenticated);
    }
}
