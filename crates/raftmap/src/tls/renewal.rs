//! Certificates that are replaced while a server runs, and connections whose certificate is not trusted any more.
//!
//! New connections are made with the certificates and authorities of now. One that stands is looked at again when they change:
//! if the other end's certificate would be refused now, since its authority was taken off the list or it has expired, the
//! connection ends. So an authority is replaced without a pause: both are trusted first, then everyone gets a certificate of the
//! new one, then the old one goes.

use std::fmt;
use std::future::pending;
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::{ClientConfig, ServerConfig};
use tokio::sync::watch;

use super::config::{ClientAuth, Credentials, TlsError, TlsFiles};
use super::identity::Identity;
use crate::renewed;

/// How a port answers.
#[derive(Clone)]
pub struct ServerSettings {
    /// What a handshake needs.
    pub config: Arc<ServerConfig>,
    pub(super) verifier: Arc<dyn ClientCertVerifier>,
}

/// How a port answers, as of now.
#[derive(Clone)]
pub struct ServerTls(watch::Receiver<ServerSettings>);

/// How servers answer and dial each other, as of now.
#[derive(Clone)]
pub(crate) struct PeerTls(watch::Receiver<PeerSettings>);

#[derive(Clone)]
pub(crate) struct PeerSettings {
    pub(crate) listener: ServerSettings,
    pub(crate) dialler: Arc<ClientConfig>,
}

impl ServerTls {
    /// Settings that stay as they are.
    pub fn fixed(settings: ServerSettings) -> Self {
        Self(watch::channel(settings).1)
    }

    /// The front door's settings, which follow `files`. Needs a tokio runtime.
    ///
    /// # Errors
    /// If what the files hold now is of no use.
    pub fn of_front_door(files: &TlsFiles, client_auth: ClientAuth) -> Result<Self, TlsError> {
        let make = move |credentials: &Credentials| credentials.front_door_settings(client_auth);
        Ok(Self(follow("certificates for clients", files, make)?))
    }

    /// The settings for a new connection, and what is to become of it when they change.
    pub(crate) fn begin(&self) -> (ServerSettings, Changes) {
        let mut changes = self.0.clone();
        let settings = changes.borrow_and_update().clone();
        (settings, Changes(Kind::Clients(changes)))
    }
}

impl PeerTls {
    /// Settings that stay as they are.
    pub(crate) fn fixed(credentials: &Credentials) -> Result<Self, TlsError> {
        Ok(Self(watch::channel(PeerSettings::of(credentials)?).1))
    }

    /// Settings that follow `files`. Needs a tokio runtime.
    pub(crate) fn of_files(files: &TlsFiles) -> Result<Self, TlsError> {
        Ok(Self(follow("certificates between servers", files, PeerSettings::of)?))
    }

    /// The settings for a new connection, and what is to become of it when they change, whoever of the two servers dials: the
    /// certificate of each is good for both.
    pub(crate) fn begin(&self) -> (PeerSettings, Changes) {
        let mut changes = self.0.clone();
        let settings = changes.borrow_and_update().clone();
        (settings, Changes(Kind::Servers(changes)))
    }
}

impl fmt::Debug for PeerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PeerTls")
    }
}

impl PeerSettings {
    fn of(credentials: &Credentials) -> Result<Self, TlsError> {
        Ok(Self { listener: credentials.peer_listener()?, dialler: credentials.dialler()? })
    }
}

/// What `make` makes of the credentials in `files`, now and when they change. Whose they are does not change.
fn follow<T: Send + Sync + 'static>(
    what: &'static str,
    files: &TlsFiles,
    make: impl Fn(&Credentials) -> Result<T, TlsError> + Send + 'static,
) -> Result<watch::Receiver<T>, TlsError> {
    let was = Credentials::load(files)?.identity()?;
    let (paths, files) = (files.paths(), files.clone());
    let load = move || {
        let credentials = Credentials::load(&files)?;
        credentials.check()?;
        let is = credentials.identity()?;
        if is != was {
            return Err(TlsError::OtherIdentity { is: Box::new(is), was: Box::new(was.clone()) });
        }
        make(&credentials)
    };
    renewed::of_files(what, paths, load)
}

/// The settings that come after those that a connection was made with.
pub(crate) struct Changes(Kind);

enum Kind {
    Clients(watch::Receiver<ServerSettings>),
    Servers(watch::Receiver<PeerSettings>),
}

/// Whether what the other end of a connection has shown is still trusted.
pub(crate) struct Trust(Option<(Vec<CertificateDer<'static>>, Changes)>);

impl Changes {
    /// Whether `chain`, which was shown in the handshake, is still trusted.
    pub(crate) fn trust(self, chain: Option<&[CertificateDer<'_>]>) -> Trust {
        let owned = |chain: &[CertificateDer<'_>]| chain.iter().map(|der| der.clone().into_owned()).collect();
        Trust(chain.map(|chain| (owned(chain), self)))
    }

    /// What verifies from the next change on. `None`: nothing changes any more.
    async fn next(&mut self) -> Option<Arc<dyn ClientCertVerifier>> {
        match &mut self.0 {
            Kind::Clients(receiver) => {
                receiver.changed().await.ok()?;
                Some(Arc::clone(&receiver.borrow_and_update().verifier))
            }
            Kind::Servers(receiver) => {
                receiver.changed().await.ok()?;
                Some(Arc::clone(&receiver.borrow_and_update().listener.verifier))
            }
        }
    }
}

impl Trust {
    /// Nothing was shown, so nothing can become worthless.
    pub(crate) fn in_nothing() -> Self {
        Self(None)
    }

    /// Ends when it is lost, with the reason.
    pub(crate) async fn lost(&mut self) -> String {
        let Some((chain, changes)) = &mut self.0 else { return pending().await };
        let Some((leaf, others)) = chain.split_first() else { return pending().await };
        loop {
            let Some(verifier) = changes.next().await else { return pending().await };
            if let Err(error) = verifier.verify_client_cert(leaf, others, UnixTime::now()) {
                let whose = Identity::of_certificate(leaf)
                    .map_or_else(|_| String::new(), |it| format!(" of {}", it.role));
                return format!("the certificate{whose} is not trusted any more: {error}");
            }
        }
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Trust")
    }
}
