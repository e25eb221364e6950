//! How a server is secured.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use raftmap::front::{Admission, Security};
use raftmap::node::{StartFailure, cluster_id};
use raftmap::tls::config::{ClientAuth, Credentials, TlsError, TlsFiles};
use raftmap::tls::identity::Role;
use raftmap_log::Identity;

use super::super::exit::Failure;

#[derive(Args)]
#[command(next_help_heading = "Security")]
pub(super) struct SecurityArgs {
    /// Folder of certificates, as `raftmap certs` makes it
    #[arg(long, env = "RAFTMAP_CERTS", value_name = "DIR")]
    certs: Option<PathBuf>,

    /// Certificate of the cluster's authority, instead of DIR/ca.pem
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,

    /// This server's certificate, instead of DIR/node-ID.pem
    #[arg(long, value_name = "FILE")]
    cert: Option<PathBuf>,

    /// Its key, instead of DIR/node-ID.key
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,

    /// Whether clients must show a certificate of the cluster
    #[arg(long, value_name = "WHETHER", default_value = "required")]
    client_auth: ClientCertificates,

    /// No TLS at all, neither to clients nor between servers: for tests on one machine
    #[arg(long, conflicts_with_all = ["certs", "ca", "cert", "key"])]
    insecure: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ClientCertificates {
    /// Whoever shows none is refused
    Required,
    /// Whoever reaches the port may read and write the map
    None,
}

impl SecurityArgs {
    /// The certificates between servers, and how the front door is secured and whom it lets in.
    pub(super) fn check(
        &self,
        identity: &Identity,
    ) -> Result<(Option<TlsFiles>, Security, Admission), Failure> {
        if self.insecure
            && (self.certs.is_some() || self.ca.is_some() || self.cert.is_some() || self.key.is_some())
        {
            let message = "--insecure and certificates exclude each other, wherever they are set";
            return Err(Failure::Usage(message.to_owned()));
        }
        if self.insecure {
            tracing::warn!(
                "--insecure: no TLS; whoever reaches the ports may read and write everything, or claim to be a server"
            );
            return Ok((None, Security::Plaintext, Admission::Everyone));
        }
        let files = self.files(identity)?;
        let failed = |error: TlsError| Failure::from(StartFailure::Tls(error));
        let credentials = Credentials::load(&files).map_err(failed)?;
        let own = credentials.identity().map_err(failed)?;
        let ours = if cluster_id(&own.cluster) != identity.cluster() {
            Some("of another cluster".to_owned())
        } else if own.role != Role::Node(identity.node()) {
            Some(format!("of node {}", identity.node()))
        } else {
            None
        };
        if let Some(ours) = ours {
            return Err(Failure::Failed(format!(
                "{}: is the certificate of {own}, and the data directory is one {ours}: \
                 wrong certificate, or wrong data directory",
                files.certificate.display(),
            )));
        }
        let (auth, admission) = match self.client_auth {
            ClientCertificates::Required => (ClientAuth::Required, Admission::Certificates(own.cluster)),
            ClientCertificates::None => {
                tracing::warn!(
                    "--client-auth none: whoever reaches the port for clients may read and write the map"
                );
                (ClientAuth::None, Admission::Everyone)
            }
        };
        let tls = credentials.front_door(auth).map_err(failed)?;
        Ok((Some(files), Security::Tls(tls), admission))
    }

    fn files(&self, identity: &Identity) -> Result<TlsFiles, Failure> {
        let stem = format!("node-{}", identity.node());
        let file = |given: &Option<PathBuf>, name: String| {
            let in_folder = || self.certs.as_ref().map(|folder| folder.join(name));
            given.clone().or_else(in_folder).ok_or_else(|| {
                Failure::Usage(
                    "which certificates? --certs DIR, or --ca, --cert and --key; `raftmap certs` makes them"
                        .to_owned(),
                )
            })
        };
        Ok(TlsFiles {
            ca: file(&self.ca, "ca.pem".to_owned())?,
            certificate: file(&self.cert, format!("{stem}.pem"))?,
            key: file(&self.key, format!("{stem}.key"))?,
        })
    }
}
