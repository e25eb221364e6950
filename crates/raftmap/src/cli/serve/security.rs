//! How a server is secured.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use raftmap::front::{Admission, Security};
use raftmap::node::{StartFailure, cluster_id};
use raftmap::observe::audit::Audit;
use raftmap::tls::config::{ClientAuth, Credentials, TlsError, TlsFiles};
use raftmap::tls::identity::{ClusterName, Role};
use raftmap::tls::renewal::ServerTls;
use raftmap::users::{Users, UsersError};
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

    /// File of users and roles (TOML): who may read and write which keys, and whose tokens are good; it is read anew when it
    /// changes, as certificates are
    #[arg(long, value_name = "FILE")]
    users: Option<PathBuf>,

    /// Append to this file, as lines of JSON, who was refused, and who changed the cluster or took a backup [default: nowhere]
    #[arg(long, value_name = "FILE")]
    audit_log: Option<PathBuf>,

    /// No TLS at all, neither to clients nor between servers: for tests on one machine
    #[arg(long, conflicts_with_all = ["certs", "ca", "cert", "key"])]
    insecure: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ClientCertificates {
    /// Whoever shows none is refused
    Required,
    /// Who shows none sends a token: takes --users
    Optional,
    /// Nobody is asked for one: whoever reaches the port may read and write the map, or with --users, who sends a token
    None,
}

/// What a server shows and asks for, once it is known to be sound.
pub(super) struct Checked {
    /// The certificates between servers. `None`: no TLS.
    pub(super) files: Option<TlsFiles>,
    client_auth: ClientAuth,
    /// Whose certificates count at the front door. `None`: nobody is asked for one.
    cluster: Option<ClusterName>,
    users: Option<PathBuf>,
}

impl SecurityArgs {
    /// Reads all that it names.
    pub(super) fn check(&self, identity: &Identity) -> Result<Checked, Failure> {
        if self.insecure
            && (self.certs.is_some() || self.ca.is_some() || self.cert.is_some() || self.key.is_some())
        {
            let message = "--insecure and certificates exclude each other, wherever they are set";
            return Err(Failure::Usage(message.to_owned()));
        }
        if self.client_auth == ClientCertificates::Optional && self.users.is_none() {
            let message = "--client-auth optional takes --users FILE: who shows no certificate sends a token";
            return Err(Failure::Usage(message.to_owned()));
        }
        if let Some(path) = &self.users {
            Users::load(path).map_err(unusable_users)?;
        }
        if self.insecure {
            let (client_auth, users) = (ClientAuth::None, self.users.clone());
            return Ok(Checked { files: None, client_auth, cluster: None, users });
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
        let (client_auth, cluster) = match self.client_auth {
            ClientCertificates::Required => (ClientAuth::Required, Some(own.cluster)),
            ClientCertificates::Optional => (ClientAuth::Optional, Some(own.cluster)),
            ClientCertificates::None => (ClientAuth::None, None),
        };
        credentials.front_door(client_auth).map_err(failed)?;
        Ok(Checked { files: Some(files), client_auth, cluster, users: self.users.clone() })
    }

    /// Where refusals and changes of the cluster are told.
    pub(super) fn audit(&self) -> Result<Audit, Failure> {
        let Some(path) = &self.audit_log else { return Ok(Audit::none()) };
        Audit::to_file(path).map_err(|error| Failure::io("open", path, &error))
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

impl Checked {
    /// How the front door is secured, and whom it lets in. Both follow their files from now on.
    pub(super) fn front_door(&self) -> Result<(Security, Admission), Failure> {
        let security = match &self.files {
            Some(files) => Security::Tls(
                ServerTls::of_front_door(files, self.client_auth)
                    .map_err(|error| Failure::from(StartFailure::Tls(error)))?,
            ),
            None => Security::Plaintext,
        };
        let admission = match (&self.users, &self.cluster) {
            (Some(path), cluster) => {
                let users = Users::of_file(path).map_err(unusable_users)?;
                tracing::info!(file = %path.display(), count = users.borrow().count(), "users are those of a file");
                Admission::Users { cluster: cluster.clone(), users }
            }
            (None, Some(cluster)) => Admission::Certificates(cluster.clone()),
            (None, None) => Admission::Everyone,
        };
        self.warn();
        Ok((security, admission))
    }

    fn warn(&self) {
        match (&self.files, &self.users, &self.cluster) {
            (None, Some(_), _) => tracing::warn!(
                "--insecure: no TLS; whoever listens learns tokens and values, and whoever reaches the port for servers may claim to be one"
            ),
            (None, None, _) => tracing::warn!(
                "--insecure: no TLS; whoever reaches the ports may read and write everything, or claim to be a server"
            ),
            (Some(_), None, None) => tracing::warn!(
                "--client-auth none: whoever reaches the port for clients may read and write the map"
            ),
            _ => {}
        }
    }
}

fn unusable_users(error: UsersError) -> Failure {
    Failure::Failed(error.to_string())
}
