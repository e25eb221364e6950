//! How connections between servers are secured, and what the other end proves by it.

use std::time::Duration;

use raftmap_raft::NodeId;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncWriteExt, copy, sink};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use tokio_util::either::Either;

use super::connection::LINGER;
use super::hello::{Proof, Unwelcome};
use super::watched::explain;
use crate::tls::config::{Credentials, TlsError, TlsFiles};
use crate::tls::identity::{ClusterName, Identity, Role};
use crate::tls::renewal::{PeerTls, Trust};

/// A connection, encrypted or not.
pub(super) type Io = Either<TcpStream, TlsStream<TcpStream>>;

/// How connections between servers are secured.
#[derive(Clone, Debug)]
pub struct Security(Mode);

#[derive(Clone, Debug)]
enum Mode {
    Tls { cluster: ClusterName, tls: PeerTls },
    Plaintext,
}

/// Why credentials are of no use between servers.
#[derive(Debug, thiserror::Error)]
pub enum SecurityError {
    /// They do not work.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// They are not those of this server.
    #[error("the certificate is that of {role}, and this is node/{node}")]
    NotOurs {
        /// Whose they are.
        role: Role,
        /// This server.
        node: NodeId,
    },
}

impl Security {
    /// TLS, with the credentials of server `node`. Its peers show certificates of the same cluster.
    ///
    /// # Errors
    /// If the credentials do not work, or are not those of `node`.
    pub fn tls(credentials: &Credentials, node: NodeId) -> Result<Self, SecurityError> {
        let cluster = cluster_of(credentials.identity()?, node)?;
        Ok(Self(Mode::Tls { cluster, tls: PeerTls::fixed(credentials)? }))
    }

    /// As [`Self::tls`], with the credentials in `files`, which are followed when they change. Needs a tokio runtime.
    ///
    /// # Errors
    /// If what the files hold now does not work, or is not that of `node`.
    pub fn tls_of_files(files: &TlsFiles, node: NodeId) -> Result<Self, SecurityError> {
        let cluster = cluster_of(Credentials::load(files)?.identity()?, node)?;
        Ok(Self(Mode::Tls { cluster, tls: PeerTls::of_files(files)? }))
    }

    /// None at all: whoever reaches the port may claim to be a server. For tests and benchmarks on one machine; the caller
    /// warns of it.
    pub fn insecure() -> Self {
        Self(Mode::Plaintext)
    }

    /// The scheme of URIs.
    pub(super) fn scheme(&self) -> &'static str {
        match self.0 {
            Mode::Tls { .. } => "https",
            Mode::Plaintext => "http",
        }
    }

    /// What a connection that broke before the first word may suffer from.
    pub(super) fn hint(&self) -> &'static str {
        match self.0 {
            Mode::Tls { .. } => "",
            Mode::Plaintext => " (this server runs with --insecure; does the other one use TLS?)",
        }
    }

    /// Secures a connection that came in.
    pub(super) async fn accept(&self, socket: TcpStream) -> Result<Secured, String> {
        let Mode::Tls { cluster, tls } = &self.0 else { return Ok(Secured::plaintext(socket)) };
        let (settings, changes) = tls.begin();
        match TlsAcceptor::from(settings.listener.config).accept(socket).into_fallible().await {
            Ok(stream) => {
                let chain = stream.get_ref().1.peer_certificates();
                let (proof, trust) = (Proof::of_peer(chain, cluster), changes.trust(chain));
                Ok(Secured { io: Either::Right(stream.into()), proof, trust })
            }
            Err((error, socket)) => {
                linger(socket, LINGER).await;
                Err(explain(&error))
            }
        }
    }

    /// Secures a connection to `host` that this server made.
    pub(super) async fn connect(&self, socket: TcpStream, host: &str) -> Result<Secured, String> {
        let Mode::Tls { cluster, tls } = &self.0 else { return Ok(Secured::plaintext(socket)) };
        let (settings, changes) = tls.begin();
        let name = ServerName::try_from(host.to_owned()).map_err(|error| format!("{host:?}: {error}"))?;
        let connected = TlsConnector::from(settings.dialler).connect(name, socket).await;
        let stream = connected.map_err(|error| explain(&error))?;
        let chain = stream.get_ref().1.peer_certificates();
        let (proof, trust) = (Proof::of_peer(chain, cluster), changes.trust(chain));
        Ok(Secured { io: Either::Right(stream.into()), proof, trust })
    }
}

/// The cluster of a certificate, which is to be that of server `node`.
fn cluster_of(identity: Identity, node: NodeId) -> Result<ClusterName, SecurityError> {
    if identity.role == Role::Node(node) {
        Ok(identity.cluster)
    } else {
        Err(SecurityError::NotOurs { role: identity.role, node })
    }
}

/// A connection that is secured as this server wants it.
pub(super) struct Secured {
    pub(super) io: Io,
    /// What the other end proved. It comes apart: it is to be told why it is unwelcome.
    pub(super) proof: Result<Proof, Unwelcome>,
    /// Whether that is still worth something.
    pub(super) trust: Trust,
}

impl Secured {
    fn plaintext(socket: TcpStream) -> Self {
        Self { io: Either::Left(socket), proof: Ok(Proof::Nothing), trust: Trust::in_nothing() }
    }
}

/// Closes a connection so that the other end can read what was sent last: TLS's reason. A socket that is closed with
/// bytes unread resets the connection; the other end then fails when it writes, and may never come to read.
async fn linger(mut socket: TcpStream, within: Duration) {
    let _ = timeout(within, async {
        socket.shutdown().await?;
        copy(&mut socket, &mut sink()).await
    })
    .await;
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn the_other_end_can_write_on_and_read_what_was_sent_last() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut dialed = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut accepted, _) = listener.accept().await.unwrap();
        dialed.write_all(&[1; 10_000]).await.unwrap();
        accepted.readable().await.unwrap();
        accepted.write_all(b"alert").await.unwrap();
        let closing = tokio::spawn(linger(accepted, Duration::from_secs(60)));
        for _ in 0..100 {
            dialed.write_all(&[2; 10_000]).await.unwrap();
            tokio::task::yield_now().await;
        }
        let mut heard = Vec::new();
        dialed.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"alert");
        drop(dialed);
        closing.await.unwrap();
    }
}
