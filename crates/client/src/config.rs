//! What a client is told at its start, and the limits that it keeps.

use std::sync::Arc;
use std::time::Duration;

use hyper::header::AUTHORIZATION;
use hyper::http::{HeaderMap, HeaderValue};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::client::Client;
use crate::endpoint::Endpoint;
use crate::error::SetupError;

/// How long a whole call may take, its retries included, unless it says otherwise.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long one attempt may take before another server is asked.
pub const DEFAULT_ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);

/// How a client proves who it is and knows that a server is one of the cluster. All in PEM.
#[derive(Clone)]
pub struct Tls {
    /// The certificates of the authorities that sign servers. A server's certificate must name the host or address of
    /// the endpoint.
    pub ca: Vec<u8>,
    /// The client's certificate chain and key; `None` for who shows a token instead, and for servers that ask for neither.
    pub identity: Option<Identity>,
    /// The client's token, as `raftmap token` prints it, for servers that have users. It is sent over TLS alone.
    pub token: Option<String>,
}

/// A client's certificate chain, its own certificate first, and the key of that, in PEM.
#[derive(Clone)]
pub struct Identity {
    /// The chain.
    pub certificate: Vec<u8>,
    /// The key.
    pub key: Vec<u8>,
}

impl Tls {
    /// From the contents of `ca.pem`, `client.pem` and `client.key`, as `raftmap certs` writes them.
    pub fn new(ca: impl Into<Vec<u8>>, certificate: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        let identity = Identity { certificate: certificate.into(), key: key.into() };
        Self { ca: ca.into(), identity: Some(identity), token: None }
    }

    /// From the contents of `ca.pem`, and a token, as `raftmap token` prints it.
    pub fn with_token(ca: impl Into<Vec<u8>>, token: impl Into<String>) -> Self {
        Self { ca: ca.into(), identity: None, token: Some(token.into()) }
    }

    fn secured(&self) -> Result<Secured, SetupError> {
        Ok(Secured { tls: Arc::new(self.client_config()?), headers: self.headers()? })
    }

    fn headers(&self) -> Result<HeaderMap, SetupError> {
        let mut headers = HeaderMap::new();
        if let Some(token) = &self.token {
            // What it looks like stays out of the reason: it is a secret.
            let mut value = HeaderValue::try_from(format!("Bearer {}", token.trim()))
                .map_err(|_| SetupError::Tls("the token has characters that no token has".to_owned()))?;
            // Not to be shown, and not to be kept in HTTP/2's tables.
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        Ok(headers)
    }

    /// TLS 1.3 and HTTP/2 only: what every server offers.
    fn client_config(&self) -> Result<rustls::ClientConfig, SetupError> {
        let tls = |e: rustls::Error| SetupError::Tls(e.to_string());
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&self.ca, "the CA")? {
            roots.add(certificate).map_err(tls)?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(tls)?
            .with_root_certificates(roots);
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let chain = certificates(&identity.certificate, "the client's certificate")?;
                let key = PrivateKeyDer::from_pem_slice(&identity.key)
                    .map_err(|e| SetupError::Tls(format!("the client's key: {e}")))?;
                builder.with_client_auth_cert(chain, key).map_err(tls)?
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }
}

fn certificates(pem: &[u8], whose: &str) -> Result<Vec<CertificateDer<'static>>, SetupError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if found.is_empty() => Err(SetupError::Tls(format!("{whose}: no certificate in the PEM"))),
        Ok(found) => Ok(found),
        Err(e) => Err(SetupError::Tls(format!("{whose}: {e}"))),
    }
}

/// How the way to the servers is kept.
#[derive(Clone)]
pub enum Security {
    /// TLS 1.3.
    Tls(Tls),
    /// Nothing: for tests, and for servers that were started with `--insecure`.
    Insecure,
}

impl From<Tls> for Security {
    fn from(tls: Tls) -> Self {
        Self::Tls(tls)
    }
}

/// How connections are secured, and what goes with each request.
pub(crate) struct Secured {
    pub(crate) tls: Arc<rustls::ClientConfig>,
    pub(crate) headers: HeaderMap,
}

/// Sets up a [`Client`]; from [`Client::builder`].
#[derive(Clone)]
pub struct Builder {
    endpoints: Vec<String>,
    security: Security,
    timeout: Duration,
    attempt_timeout: Duration,
    discover: bool,
}

/// What stays of the builder while the client lives.
pub(crate) struct Config {
    pub(crate) seeds: Vec<Endpoint>,
    /// `None`: not at all.
    pub(crate) secured: Option<Arc<Secured>>,
    pub(crate) timeout: Duration,
    pub(crate) attempt_timeout: Duration,
    pub(crate) discover: bool,
}

impl Builder {
    pub(crate) fn new(endpoints: Vec<String>, security: Security) -> Self {
        Self {
            endpoints,
            security,
            timeout: DEFAULT_TIMEOUT,
            attempt_timeout: DEFAULT_ATTEMPT_TIMEOUT,
            discover: true,
        }
    }

    /// How long a call may take, its retries included, unless it says otherwise; [`DEFAULT_TIMEOUT`].
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How long one attempt may take before another server is asked; [`DEFAULT_ATTEMPT_TIMEOUT`].
    #[must_use]
    pub fn attempt_timeout(mut self, timeout: Duration) -> Self {
        self.attempt_timeout = timeout;
        self
    }

    /// Whether to follow the cluster's members and its leader to other addresses than the given ones; yes. Without it
    /// the client keeps to the given endpoints, as it must behind address translation or a proxy.
    #[must_use]
    pub fn discover(mut self, discover: bool) -> Self {
        self.discover = discover;
        self
    }

    /// Starts the client and waits until a server has answered, for as long as a call may take.
    ///
    /// # Errors
    /// If the endpoints or the TLS files cannot be used, or no server answered.
    ///
    /// # Panics
    /// Outside of a tokio runtime with I/O and time.
    pub async fn connect(self) -> Result<Client, SetupError> {
        if self.endpoints.is_empty() {
            return Err(SetupError::NoEndpoint);
        }
        let seeds: Result<Vec<_>, _> = self.endpoints.iter().map(|text| Endpoint::parse(text)).collect();
        let secured = match &self.security {
            Security::Tls(tls) => Some(Arc::new(tls.secured()?)),
            Security::Insecure => None,
        };
        Client::start(Config {
            seeds: seeds?,
            secured,
            timeout: self.timeout,
            attempt_timeout: self.attempt_timeout,
            discover: self.discover,
        })
        .await
    }
}
