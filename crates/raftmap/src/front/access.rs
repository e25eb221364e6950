//! Who may call what: the one place where that is decided.
//!
//! A connection has a standing by its certificate, a request may have another one by its token. From either follow rights
//! ([`crate::users`]); without a file of users a certificate of the cluster is enough for the whole map.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, LazyLock};

use http::{HeaderMap, header};
use rustls::pki_types::CertificateDer;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::api::{Code, Failure};
use crate::tls::identity::{ClusterName, Identity, IdentityError, Role};
use crate::users::{Rights, Token, TokenHash, Users};

/// The service whose calls concern the cluster and not the map.
const CLUSTER_SERVICE: &str = "raftmap.v1.Cluster/";

/// How often a connection may show a token that is nobody's. Whoever guesses pays for a handshake every few tries.
const WRONG_TOKENS_MAX: u32 = 8;

/// The service that load balancers ask. They are nobody: all that they can do is get through the handshake.
const HEALTH_SERVICE: &str = "grpc.health.v1.Health/";

// What most callers may do, made once: it is asked for with each message.
static EVERYTHING: LazyLock<Arc<Rights>> = LazyLock::new(|| Arc::new(Rights::everything()));
static ALL_KEYS: LazyLock<Arc<Rights>> = LazyLock::new(|| Arc::new(Rights::all_keys()));

/// Whom the front door lets in.
#[derive(Clone, Debug)]
pub enum Admission {
    /// Those with a certificate of this cluster.
    Certificates(ClusterName),
    /// Everyone, as a client: there are no certificates to tell one from another (`--client-auth none`, `--insecure`).
    Everyone,
    /// The users of a file, each with rights of its own, and operators.
    Users {
        /// Certificates of this cluster count: a client's names a user. `None`: tokens alone do.
        cluster: Option<ClusterName>,
        /// The users of now.
        users: watch::Receiver<Arc<Users>>,
    },
}

impl Admission {
    fn users(&self) -> Option<&watch::Receiver<Arc<Users>>> {
        match self {
            Self::Users { users, .. } => Some(users),
            Self::Certificates(_) | Self::Everyone => None,
        }
    }

    fn standing(&self, chain: Option<&[CertificateDer<'_>]>) -> Standing {
        let cluster = match self {
            Self::Everyone => return Standing::Anyone,
            Self::Users { cluster: None, .. } => return Standing::Nobody,
            Self::Users { cluster: Some(_), .. } if chain.is_none() => return Standing::Nobody,
            Self::Certificates(cluster) | Self::Users { cluster: Some(cluster), .. } => cluster,
        };
        match Identity::of_peer(chain, cluster) {
            Ok(identity) => Standing::Known(identity.role),
            Err(error) => Standing::Refused(error),
        }
    }
}

/// Who asks: the other end of a connection, or whose token came with a request. Requests of one connection share what they can.
#[derive(Clone, Debug)]
pub(super) struct Caller(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    address: SocketAddr,
    standing: Standing,
    users: Option<watch::Receiver<Arc<Users>>>,
    connection: Arc<Conduct>,
}

#[derive(Debug)]
enum Standing {
    /// By its certificate.
    Known(Role),
    /// By its token, if that is still one.
    Token { name: String, hash: TokenHash },
    /// Nobody is asked.
    Anyone,
    /// It has not said who it is.
    Nobody,
    /// It holds a certificate of the right authority that is of no use here.
    Refused(IdentityError),
}

/// What a connection has tried, and whether it may go on.
#[derive(Debug, Default)]
struct Conduct {
    wrong_tokens: AtomicU32,
    too_many: CancellationToken,
    distrusted: AtomicBool,
}

impl Caller {
    pub(super) fn new(
        address: SocketAddr,
        admission: &Admission,
        chain: Option<&[CertificateDer<'_>]>,
    ) -> Self {
        let (standing, users) = (admission.standing(chain), admission.users().cloned());
        Self(Arc::new(Inner { address, standing, users, connection: Arc::default() }))
    }

    /// Who makes a request of these headers: whose token is among them, else who made the connection. Without a file of users
    /// tokens say nothing, so that clients may have theirs before servers know them.
    ///
    /// # Errors
    /// If what stands there is no token, or nobody's.
    pub(super) fn of_request(&self, headers: &HeaderMap) -> Result<Self, Failure> {
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        let (Some(users), Some(value)) = (&self.0.users, values.next()) else {
            return Ok(self.clone());
        };
        if self.0.connection.too_many.is_cancelled() {
            let reason = "this connection has shown too many tokens that are nobody's";
            return Err(Failure::not_applied(Code::Unauthenticated, reason));
        }
        let refused = |reason: String| {
            self.0.connection.count_wrong_token();
            Err(Failure::not_applied(Code::Unauthenticated, reason))
        };
        // One that a proxy has added, say, is not to be taken for the caller's own.
        let only = Some(value).filter(|_| values.next().is_none());
        let Some(text) = only.and_then(|value| value.to_str().ok()).and_then(bearer) else {
            return refused("there is to be one header authorization, `Bearer TOKEN`".to_owned());
        };
        let token: Token = match text.parse() {
            Ok(token) => token,
            Err(error) => return refused(error.to_string()),
        };
        let (name, hash) = (token.name().to_owned(), token.hash());
        if users.borrow().rights_of_token(&name, &hash).is_none() {
            return refused(wrong_token(&name));
        }
        Ok(Self(Arc::new(Inner {
            address: self.0.address,
            standing: Standing::Token { name, hash },
            users: Some(users.clone()),
            connection: Arc::clone(&self.0.connection),
        })))
    }

    /// Why nothing that it asks for is answered, if that is so.
    pub(super) fn refusal(&self) -> Option<&IdentityError> {
        match &self.0.standing {
            Standing::Refused(error) => Some(error),
            _ => None,
        }
    }

    /// Ends when this connection has shown too many wrong tokens.
    pub(super) async fn guesses_too_much(&self) {
        self.0.connection.too_many.cancelled().await;
    }

    /// The certificate of its connection is not trusted any more: streams that stand on it are not served on.
    pub(super) fn distrust(&self) {
        self.0.connection.distrusted.store(true, Ordering::Relaxed);
    }

    /// What it may do, as of now.
    ///
    /// # Errors
    /// If it may do nothing at all.
    pub(super) fn rights(&self) -> Result<Arc<Rights>, Failure> {
        let unauthenticated = |reason: String| Err(Failure::not_applied(Code::Unauthenticated, reason));
        let denied = |reason| Err(Failure::not_applied(Code::Denied, reason));
        if self.0.connection.distrusted.load(Ordering::Relaxed) {
            return unauthenticated("the certificate of this connection is not trusted any more".to_owned());
        }
        let users = self.0.users.as_ref().map(|users| Arc::clone(&users.borrow()));
        match (&self.0.standing, users) {
            (Standing::Refused(error @ IdentityError::NoCertificate), _) => {
                unauthenticated(error.to_string())
            }
            (Standing::Refused(error), _) => denied(error.to_string()),
            (Standing::Nobody, _) => unauthenticated(
                "who asks? Show a certificate, or send a token in the header `authorization: Bearer TOKEN`"
                    .to_owned(),
            ),
            (Standing::Known(Role::Operator(_)), _) => Ok(Arc::clone(&EVERYTHING)),
            (Standing::Known(_) | Standing::Anyone, None) => Ok(Arc::clone(&ALL_KEYS)),
            // A server asks others who the members are, and its certificate opens no more than that.
            (Standing::Known(Role::Node(_)), Some(_)) => Ok(Arc::new(Rights::none())),
            (Standing::Known(Role::Client(name)), Some(users)) => match users.rights_of(name) {
                Some(rights) => Ok(Arc::clone(rights)),
                None => denied(format!("{name} is not among the users of this server")),
            },
            (Standing::Token { name, hash }, Some(users)) => match users.rights_of_token(name, hash) {
                Some(rights) => Ok(Arc::clone(rights)),
                None => unauthenticated(wrong_token(name)),
            },
            (Standing::Anyone, Some(_)) | (Standing::Token { .. }, None) => {
                unreachable!("whoever there are users for says who it is, and tokens are theirs")
            }
        }
    }

    /// What it may do, if it may make the call at `path` (`SERVICE/METHOD`) at all. Calls of the cluster that are not marked in the
    /// `.proto` file as free of side effects change the cluster or give all of it away, and need an operator.
    ///
    /// # Errors
    /// The failure to answer with.
    pub(super) fn check(&self, path: &str, side_effects: bool) -> Result<Arc<Rights>, Failure> {
        if path.starts_with(HEALTH_SERVICE) {
            return Ok(self.rights().unwrap_or_else(|_| Arc::new(Rights::none())));
        }
        let rights = self.rights()?;
        if !side_effects || !path.starts_with(CLUSTER_SERVICE) || rights.admin() {
            return Ok(rights);
        }
        let but = match (&self.0.standing, &self.0.users) {
            (Standing::Known(role), None) => format!(", not that of {role}"),
            (Standing::Known(role), Some(_)) => format!(" or the right `admin`, which {role} does not have"),
            (Standing::Token { name, .. }, _) => format!(" or the right `admin`, which {name} does not have"),
            _ => ", and this server asks for none".to_owned(),
        };
        Err(Failure::not_applied(Code::Denied, format!("{path} needs an operator's certificate{but}")))
    }

    /// Whether it may still have what only an operator may.
    ///
    /// # Errors
    /// The failure to answer with.
    pub(super) fn check_admin(&self) -> Result<(), Failure> {
        if self.rights()?.admin() {
            return Ok(());
        }
        Err(Failure::not_applied(Code::Denied, "this caller is no operator any more"))
    }
}

fn wrong_token(name: &str) -> String {
    format!("this token is not one of {name}'s, as far as this server knows")
}

/// The token in the header `authorization` (RFC 6750, section 2.1).
fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim_start_matches(' '))
}

impl Conduct {
    fn count_wrong_token(&self) {
        if self.wrong_tokens.fetch_add(1, Ordering::Relaxed) + 1 >= WRONG_TOKENS_MAX {
            self.too_many.cancel();
        }
    }
}

/// As logs name it: its address, and what it is.
impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.standing {
            Standing::Known(role) => write!(f, "{role} at {}", self.0.address),
            Standing::Token { name, .. } => write!(f, "user/{name} at {}", self.0.address),
            Standing::Anyone | Standing::Nobody | Standing::Refused(_) => write!(f, "{}", self.0.address),
        }
    }
}

#[cfg(test)]
mod tests {
    use raftmap_raft::NodeId;

    use super::*;

    fn caller(standing: Standing) -> Caller {
        caller_among(None, standing)
    }

    fn caller_among(users: Option<watch::Receiver<Arc<Users>>>, standing: Standing) -> Caller {
        let address = ([127, 0, 0, 1], 1).into();
        Caller(Arc::new(Inner { address, standing, users, connection: Arc::default() }))
    }

    fn users(text: &str) -> watch::Sender<Arc<Users>> {
        watch::channel(Arc::new(Users::parse(text).unwrap())).0
    }

    fn with_token(text: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, text.parse().unwrap());
        headers
    }

    #[test]
    fn only_an_operator_changes_the_cluster() {
        let change = |standing| caller(standing).check("raftmap.v1.Cluster/RemoveMember", true);
        assert!(change(Standing::Known(Role::Operator("ann".into()))).is_ok());
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
            assert!(caller.check("raftmap.v1.Map/Put", true).unwrap().write().contains(b"k"));
            assert!(caller.check("raftmap.v1.Cluster/Members", false).is_ok());
        }
    }

    #[test]
    fn whoever_is_connected_may_ask_how_the_server_is() {
        let theirs: ClusterName = "theirs".parse().unwrap();
        let other = IdentityError::OtherCluster { ours: "ours".parse().unwrap(), theirs };
        for standing in
            [Standing::Refused(other), Standing::Refused(IdentityError::NoCertificate), Standing::Anyone]
        {
            assert!(caller(standing).check("grpc.health.v1.Health/Check", true).is_ok());
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

    #[test]
    fn with_users_each_certificate_opens_what_its_user_may() {
        let sender = users("[roles.r]\nread = [\"a/\"]\nadmin = true\n[users.ann]\nroles = [\"r\"]");
        let among = |standing| caller_among(Some(sender.subscribe()), standing);
        let ann = among(Standing::Known(Role::Client("ann".into())));
        let rights = ann.check("raftmap.v1.Cluster/Backup", true).unwrap();
        assert!(rights.read().contains(b"a/1") && !rights.write().contains(b"a/1"));
        let bob = among(Standing::Known(Role::Client("bob".into())));
        assert_eq!(bob.rights().unwrap_err().code, Code::Denied);
        assert_eq!(*among(Standing::Known(Role::Node(NodeId(1)))).rights().unwrap(), Rights::none());
        assert_eq!(
            *among(Standing::Known(Role::Operator("o".into()))).rights().unwrap(),
            Rights::everything()
        );
        assert_eq!(among(Standing::Nobody).rights().unwrap_err().code, Code::Unauthenticated);
    }

    #[test]
    fn a_token_is_good_for_as_long_as_its_hash_is_there() {
        let token = Token::generate("ann").unwrap();
        let text = |tokens: &str| {
            format!("[roles.r]\nread = [\"\"]\n[users.ann]\nroles = [\"r\"]\ntokens = [{tokens}]")
        };
        let sender = users(&text(&format!("\"{}\"", token.hash())));
        let connection = caller_among(Some(sender.subscribe()), Standing::Nobody);
        let headers = with_token(&format!("bearer {}", token.secret_text()));
        let ann = connection.of_request(&headers).unwrap();
        assert!(ann.rights().unwrap().read().contains(b"k"));
        assert_eq!(ann.to_string(), "user/ann at 127.0.0.1:1");
        assert_eq!(ann.check("raftmap.v1.Cluster/Backup", true).unwrap_err().code, Code::Denied);

        sender.send_replace(Arc::new(Users::parse(&text("")).unwrap()));
        assert_eq!(ann.rights().unwrap_err().code, Code::Unauthenticated);
        assert_eq!(connection.of_request(&headers).unwrap_err().code, Code::Unauthenticated);
    }

    #[tokio::test]
    async fn who_guesses_tokens_loses_the_connection() {
        let sender = users("[users.ann]\nroles = []");
        let connection = caller_among(Some(sender.subscribe()), Standing::Nobody);
        let guesses = [
            "Basic YTpi".to_owned(),
            "Bearer raftmap~ann~x".to_owned(),
            format!("Bearer {}", Token::generate("ann").unwrap().secret_text()),
            format!("Bearer {}", Token::generate("bob").unwrap().secret_text()),
        ];
        for guess in guesses.iter().cycle().take(WRONG_TOKENS_MAX as usize) {
            assert!(!connection.0.connection.too_many.is_cancelled());
            let failure = connection.of_request(&with_token(guess)).unwrap_err();
            assert_eq!(failure.code, Code::Unauthenticated);
            assert!(!failure.reason.contains(guess), "{failure}");
        }
        connection.guesses_too_much().await;
        let right = with_token(&format!("Bearer {}", Token::generate("ann").unwrap().secret_text()));
        let failure = connection.of_request(&right).unwrap_err();
        assert!(failure.reason.contains("too many tokens"), "{failure}");
    }

    #[test]
    fn who_is_distrusted_may_do_nothing_any_more() {
        let client = caller(Standing::Known(Role::Client("c".into())));
        assert!(client.rights().is_ok());
        client.clone().distrust();
        assert_eq!(client.rights().unwrap_err().code, Code::Unauthenticated);
    }

    #[test]
    fn without_users_a_token_says_nothing() {
        let anyone = caller(Standing::Anyone);
        let same = anyone.of_request(&with_token("Bearer nonsense")).unwrap();
        assert_eq!(*same.rights().unwrap(), Rights::all_keys());
    }
}
