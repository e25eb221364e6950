//! The TLS settings of every connection: TLS 1.3 with aws-lc-rs, certificates on both ends, no resumption.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use super::identity::{Identity, IdentityError};
use super::renewal::{ServerSettings, ServerTls};

/// The ALPN name of HTTP/2 (RFC 9113, section 3.1).
pub const ALPN_H2: &[u8] = b"h2";

/// The ALPN name of HTTP/1.1 (RFC 7301, section 6).
pub const ALPN_HTTP1: &[u8] = b"http/1.1";

/// The cryptography of every connection. Settings name it themselves, so that they do not depend on what the process
/// has installed as its default.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// Where the PEM files of a member or client are.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The authorities to trust: one or more certificates. More than one while an authority is being replaced.
    pub ca: PathBuf,
    /// The own certificate, and the chain behind it if any.
    pub certificate: PathBuf,
    /// The own private key.
    pub key: PathBuf,
}

/// Whether the front door asks its clients for certificates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientAuth {
    /// A client without a certificate of the cluster's authority is refused in the handshake.
    #[default]
    Required,
    /// A client may show a certificate; who shows none says otherwise who it is, by a token.
    Optional,
    /// Nobody is asked for one.
    None,
}

/// What a member or client shows and trusts.
pub struct Credentials {
    roots: Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

/// Why credentials are of no use.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or holds no PEM of the kind that is needed.
    #[error("{}: {error}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: pem::Error,
    },
    /// A certificate in the file of authorities is unusable.
    #[error("{}: not a certificate authority: {error}", .path.display())]
    Authority {
        /// The file.
        path: PathBuf,
        /// What the library says.
        error: rustls::Error,
    },
    /// The own certificate does not belong to the key, or is unusable otherwise.
    #[error("the certificate and key do not work: {0}")]
    Unusable(#[from] rustls::Error),
    /// Who trusts the same authorities would refuse the own certificate.
    #[error("the certificate is none of the authorities beside it, or out of date: {0}")]
    Untrusted(rustls::Error),
    /// The check of client certificates cannot be set up.
    #[error("client certificates cannot be checked: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
    /// The own certificate carries no identity.
    #[error("the own certificate is of no use: {0}")]
    Identity(#[from] IdentityError),
    /// A certificate that took the place of another one is somebody else's.
    #[error(
        "the certificate is that of {is} now, and was that of {was}: a server's identity stays for as long as it runs"
    )]
    OtherIdentity {
        /// Whose it is.
        is: Box<Identity>,
        /// Whose it was.
        was: Box<Identity>,
    },
}

impl TlsFiles {
    /// All of them.
    pub(super) fn paths(&self) -> Vec<PathBuf> {
        vec![self.ca.clone(), self.certificate.clone(), self.key.clone()]
    }
}

impl Credentials {
    /// Reads `files`.
    ///
    /// # Errors
    /// If one of them cannot be read or holds nothing of its kind.
    pub fn load(files: &TlsFiles) -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&files.ca)? {
            roots.add(certificate).map_err(|error| TlsError::Authority { path: files.ca.clone(), error })?;
        }
        let key = PrivateKeyDer::from_pem_file(&files.key)
            .map_err(|error| TlsError::File { path: files.key.clone(), error })?;
        Ok(Self { roots: Arc::new(roots), chain: certificates(&files.certificate)?, key })
    }

    /// What the own certificate says that its holder is.
    ///
    /// # Errors
    /// If it says nothing, or more than one thing.
    pub fn identity(&self) -> Result<Identity, TlsError> {
        let leaf = self.chain.first().ok_or(IdentityError::NoCertificate)?;
        Ok(Identity::of_certificate(leaf)?)
    }

    /// Whether the own certificate would be taken by who trusts the same authorities: it is one of theirs, and not out of date.
    ///
    /// # Errors
    /// If it would not.
    pub fn check(&self) -> Result<(), TlsError> {
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&self.roots), provider()).build()?;
        let (leaf, others) = self.chain.split_first().ok_or(IdentityError::NoCertificate)?;
        let verified = verifier.verify_client_cert(leaf, others, UnixTime::now());
        verified.map(drop).map_err(TlsError::Untrusted)
    }

    /// How the front door answers: HTTP/2 and HTTP/1.1, with or without client certificates.
    ///
    /// # Errors
    /// If certificate and key do not work together.
    pub fn front_door(&self, client_auth: ClientAuth) -> Result<ServerTls, TlsError> {
        Ok(ServerTls::fixed(self.front_door_settings(client_auth)?))
    }

    pub(super) fn front_door_settings(&self, client_auth: ClientAuth) -> Result<ServerSettings, TlsError> {
        self.server(client_auth, &[ALPN_H2, ALPN_HTTP1])
    }

    /// How the port for peers answers: HTTP/2 alone, and to nobody without a certificate of the authority. That it is
    /// a server's and of this cluster is checked after the handshake, by [`Identity::of_peer`], where a reason can be
    /// given.
    ///
    /// # Errors
    /// If certificate and key do not work together.
    pub fn peer_listener(&self) -> Result<ServerSettings, TlsError> {
        self.server(ClientAuth::Required, &[ALPN_H2])
    }

    /// How a member or client dials a server, by HTTP/2.
    ///
    /// # Errors
    /// If certificate and key do not work together.
    pub fn dialler(&self) -> Result<Arc<ClientConfig>, TlsError> {
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(Arc::clone(&self.roots))
            .with_client_auth_cert(self.chain.clone(), self.key.clone_key())?;
        config.alpn_protocols = vec![ALPN_H2.to_vec()];
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Arc::new(config))
    }

    fn server(&self, client_auth: ClientAuth, alpn: &[&[u8]]) -> Result<ServerSettings, TlsError> {
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::clone(&self.roots), provider());
        let verifier = match client_auth {
            ClientAuth::Required => builder.build()?,
            ClientAuth::Optional => builder.allow_unauthenticated().build()?,
            ClientAuth::None => WebPkiClientVerifier::no_client_auth(),
        };
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(Arc::clone(&verifier))
            .with_single_cert(self.chain.clone(), self.key.clone_key())?;
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        // A resumed session would carry over a certificate that has expired, or was taken off the list, since.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(ServerSettings { config: Arc::new(config), verifier })
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed = |error| TlsError::File { path: path.to_owned(), error };
    let certificates: Vec<_> =
        CertificateDer::pem_file_iter(path).and_then(Iterator::collect).map_err(failed)?;
    if certificates.is_empty() { Err(failed(pem::Error::NoItemsFound)) } else { Ok(certificates) }
}
