//! What `raftmap certs` makes: the authority of a cluster, and the certificates of its servers, clients and operators.
//!
//! A folder of certificates holds `ca.pem` and `ca.key`, and for each holder `STEM.pem` and `STEM.key`: `node-N` for
//! server `N`, else the client's or operator's name. All are PEM; keys are PKCS#8, and only their owner may read them
//! (mode 0600). A file is there whole or not at all, and one that is there is never written again. Servers need
//! `ca.pem` and their own pair; `ca.key` signs for the whole cluster and belongs on no server.

use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, DnsName, UnixTime};
use rustls::server::WebPkiClientVerifier;

use super::config::provider;
use super::identity::{ClusterName, Identity, NameError, Role, check_name};

/// How long an authority's certificate is good for.
pub const AUTHORITY_LIFETIME: Duration = Duration::from_secs(3650 * DAY_SECS);

/// How long the other certificates are good for, unless asked otherwise.
pub const LIFETIME: Duration = Duration::from_secs(825 * DAY_SECS);

/// Certificates hold from a while ago, for machines whose clocks are behind.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(3600);

const DAY_SECS: u64 = 24 * 3600;

const AUTHORITY_STEM: &str = "ca";

/// The authority of a cluster: what signs its certificates.
pub struct Authority {
    cluster: ClusterName,
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, both as PEM.
pub struct Pair {
    /// The certificate.
    pub certificate_pem: String,
    /// Its private key, PKCS#8. A secret: it is nowhere logged.
    pub key_pem: String,
}

/// The two files of a [`Pair`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PairPaths {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// Why a certificate cannot be made, written or read.
#[derive(Debug, thiserror::Error)]
pub enum CertsError {
    /// Certificates are made once: what is there stays.
    #[error("{} is there already, and certificates are never overwritten: choose another name or folder", .0.display())]
    Exists(PathBuf),
    /// A file cannot be read or written.
    #[error("{}: {error}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        error: io::Error,
    },
    /// The authority in the folder is of another cluster, its key is another's, or it has expired.
    #[error("{} and its key are not the authority of cluster {cluster}: {reason}", .path.display())]
    NotTheAuthority {
        /// The authority's certificate.
        path: PathBuf,
        /// The cluster that was asked for.
        cluster: ClusterName,
        /// What the check of a certificate signed by it said.
        reason: String,
    },
    /// What clients would dial is neither an IP address nor a DNS name. Ports do not belong here.
    #[error("{0:?} is neither an IP address nor a DNS name (ports do not belong here)")]
    Address(String),
    /// A server needs at least one address, a client or operator has none.
    #[error("{0} {1}")]
    Addresses(Role, &'static str),
    /// The name of a client or operator breaks the rules.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The cryptographic library refused.
    #[error("cannot make a certificate: {0}")]
    Crypto(#[from] rcgen::Error),
}

impl Authority {
    /// A new authority, in memory.
    ///
    /// # Errors
    /// If the library for cryptography fails.
    pub fn generate(cluster: ClusterName) -> Result<Self, CertsError> {
        let key = KeyPair::generate()?;
        let pem = authority_params(&cluster).self_signed(&key)?.pem();
        Ok(Self::of_key(cluster, pem, key))
    }

    /// The authority in `folder`: the one that is there, or a new one, which is written. The folder is made if needed.
    ///
    /// # Errors
    /// If files cannot be read or written, or if the authority that is there is not `cluster`'s.
    pub fn open_or_create(folder: &Path, cluster: ClusterName) -> Result<Self, CertsError> {
        std::fs::create_dir_all(folder).map_err(|error| CertsError::Io { path: folder.to_owned(), error })?;
        let paths = PairPaths::new(folder, AUTHORITY_STEM);
        if paths.certificate.exists() || paths.key.exists() {
            return Self::open(folder, cluster);
        }
        let authority = Self::generate(cluster)?;
        let pair =
            Pair { certificate_pem: authority.pem.clone(), key_pem: authority.issuer.key().serialize_pem() };
        pair.write(&paths)?;
        Ok(authority)
    }

    /// The authority that is in `folder`.
    ///
    /// # Errors
    /// If its files cannot be read, or if it is not `cluster`'s: what it signs is checked against it here, not first in
    /// a handshake.
    pub fn open(folder: &Path, cluster: ClusterName) -> Result<Self, CertsError> {
        let paths = PairPaths::new(folder, AUTHORITY_STEM);
        let pem = read(&paths.certificate)?;
        let key = KeyPair::from_pem(&read(&paths.key)?)?;
        let authority = Self::of_key(cluster, pem, key);
        match authority.probe() {
            Ok(()) => Ok(authority),
            Err(error) => Err(CertsError::NotTheAuthority {
                path: paths.certificate,
                cluster: authority.cluster,
                reason: error.to_string(),
            }),
        }
    }

    /// The authority's subject and key id depend on nothing but the cluster's name and the key, so that its certificate
    /// need not be parsed to sign with it.
    fn of_key(cluster: ClusterName, pem: String, key: KeyPair) -> Self {
        let issuer = Issuer::new(authority_params(&cluster), key);
        Self { cluster, pem, issuer }
    }

    /// Whether what it signs passes the check that servers make.
    fn probe(&self) -> Result<(), Box<dyn std::error::Error>> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes())?)?;
        let pair = self.issue(&Role::Client("probe".to_owned()), &[], LIFETIME)?;
        let leaf = CertificateDer::from_pem_slice(pair.certificate_pem.as_bytes())?;
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider()).build()?;
        verifier.verify_client_cert(&leaf, &[], UnixTime::now())?;
        Ok(())
    }

    /// Its certificate as PEM: what all members and clients trust.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// A new key, and a certificate that makes its holder `role` in this cluster for `lifetime`. `addresses` are the IP
    /// addresses and DNS names by which a server is dialled; clients and operators have none.
    ///
    /// # Errors
    /// If an address or a name is malformed, a server has no address, or another holder has one.
    pub fn issue(&self, role: &Role, addresses: &[String], lifetime: Duration) -> Result<Pair, CertsError> {
        let mut params = base_params(&self.cluster, &role.to_string(), lifetime);
        match role {
            Role::Node(_) if addresses.is_empty() => {
                return Err(CertsError::Addresses(role.clone(), "needs an address by which it is dialled"));
            }
            Role::Client(_) | Role::Operator(_) if !addresses.is_empty() => {
                return Err(CertsError::Addresses(role.clone(), "is not dialled and has no addresses"));
            }
            Role::Client(name) | Role::Operator(name) => {
                check_name(name)?;
            }
            Role::Node(_) => params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth),
        }
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        for address in addresses {
            params.subject_alt_names.push(address_name(address)?);
        }
        let identity = Identity { cluster: self.cluster.clone(), role: role.clone() };
        params.subject_alt_names.push(SanType::URI(identity.to_string().try_into()?));

        let key = KeyPair::generate()?;
        let certificate_pem = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Pair { certificate_pem, key_pem: key.serialize_pem() })
    }

    /// [`Self::issue`], with the files written to `folder`, under the name that the module's documentation says.
    ///
    /// # Errors
    /// As [`Self::issue`]; also if a file of that name is there already, or cannot be written.
    pub fn issue_to(
        &self,
        folder: &Path,
        role: &Role,
        addresses: &[String],
        lifetime: Duration,
    ) -> Result<PairPaths, CertsError> {
        let stem = match role {
            Role::Node(id) => format!("node-{id}"),
            Role::Client(name) | Role::Operator(name) => name.clone(),
        };
        let paths = PairPaths::new(folder, &stem);
        self.issue(role, addresses, lifetime)?.write(&paths)?;
        Ok(paths)
    }
}

impl PairPaths {
    fn new(folder: &Path, stem: &str) -> Self {
        // Not `with_extension`, which would take the end of a name with a dot for an extension.
        Self { certificate: folder.join(format!("{stem}.pem")), key: folder.join(format!("{stem}.key")) }
    }
}

impl Pair {
    /// Writes both files, the key first: a certificate that is there has its key.
    fn write(&self, paths: &PairPaths) -> Result<(), CertsError> {
        for path in [&paths.key, &paths.certificate] {
            if path.exists() {
                return Err(CertsError::Exists(path.clone()));
            }
        }
        create(&paths.key, &self.key_pem, 0o600)?;
        create(&paths.certificate, &self.certificate_pem, 0o644)
    }
}

fn base_params(cluster: &ClusterName, name: &str, lifetime: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    let now = SystemTime::now();
    params.not_before = (now - CLOCK_TOLERANCE).into();
    params.not_after = (now + lifetime).into();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, cluster.as_str());
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn authority_params(cluster: &ClusterName) -> CertificateParams {
    let mut params = base_params(cluster, "raftmap authority", AUTHORITY_LIFETIME);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn address_name(address: &str) -> Result<SanType, CertsError> {
    if let Ok(ip) = address.parse() {
        return Ok(SanType::IpAddress(ip));
    }
    DnsName::try_from(address).map_err(|_| CertsError::Address(address.to_owned()))?;
    Ok(SanType::DnsName(address.try_into()?))
}

fn read(path: &Path) -> Result<String, CertsError> {
    std::fs::read_to_string(path).map_err(|error| CertsError::Io { path: path.to_owned(), error })
}

/// A file that is there with all its content and `mode`, durably, or not at all.
fn create(path: &Path, content: &str, mode: u32) -> Result<(), CertsError> {
    let failed = |error| CertsError::Io { path: path.to_owned(), error };
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
    file.write_all(content.as_bytes()).map_err(failed)?;
    file.as_file().set_permissions(PermissionsExt::from_mode(mode)).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    file.persist_noclobber(path).map_err(|error| match error.error.kind() {
        io::ErrorKind::AlreadyExists => CertsError::Exists(path.to_owned()),
        _ => failed(error.error),
    })?;
    std::fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)
}

#[cfg(test)]
mod tests {
    use raftmap_raft::NodeId;

    use super::*;

    fn cluster() -> ClusterName {
        "demo".parse().unwrap()
    }

    fn leaf(pair: &Pair) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(pair.certificate_pem.as_bytes()).unwrap()
    }

    #[test]
    fn a_server_certificate_carries_its_addresses_and_its_identity() {
        let authority = Authority::generate(cluster()).unwrap();
        let addresses = ["127.0.0.1", "::1", "one.example.org"].map(str::to_owned);
        let pair = authority.issue(&Role::Node(NodeId(1)), &addresses, LIFETIME).unwrap();
        let leaf = leaf(&pair);
        let parsed = webpki::EndEntityCert::try_from(&leaf).unwrap();
        for address in &addresses {
            let name = rustls::pki_types::ServerName::try_from(address.as_str()).unwrap();
            parsed.verify_is_valid_for_subject_name(&name).unwrap();
        }
        let identity = Identity::of_certificate(&leaf).unwrap();
        assert_eq!(identity, Identity { cluster: cluster(), role: Role::Node(NodeId(1)) });
    }

    #[test]
    fn malformed_requests_are_refused() {
        let authority = Authority::generate(cluster()).unwrap();
        let issue = |role: &Role, addresses: &[&str]| {
            let addresses: Vec<_> = addresses.iter().map(|text| (*text).to_owned()).collect();
            authority.issue(role, &addresses, LIFETIME).map(|_| ())
        };
        let node = Role::Node(NodeId(1));
        assert!(matches!(issue(&node, &[]), Err(CertsError::Addresses(..))));
        for address in ["", "host:1", "a b", "https://host"] {
            assert!(matches!(issue(&node, &[address]), Err(CertsError::Address(_))), "{address:?}");
        }
        assert!(matches!(issue(&Role::Client("../x".into()), &[]), Err(CertsError::Name(_))));
        assert!(matches!(issue(&Role::Operator("a".into()), &["h"]), Err(CertsError::Addresses(..))));
    }

    #[test]
    fn files_are_private_whole_and_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::open_or_create(folder.path(), cluster()).unwrap();
        let role = Role::Client("c".to_owned());
        let paths = authority.issue_to(folder.path(), &role, &[], LIFETIME).unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&paths.key), 0o600);
        assert_eq!(mode(&folder.path().join("ca.key")), 0o600);
        assert_eq!(mode(&paths.certificate), 0o644);

        let before = read(&paths.key).unwrap();
        let again = authority.issue_to(folder.path(), &role, &[], LIFETIME);
        assert!(matches!(again, Err(CertsError::Exists(path)) if path == paths.key));
        std::fs::remove_file(&paths.certificate).unwrap();
        let again = authority.issue_to(folder.path(), &role, &[], LIFETIME);
        assert!(matches!(again, Err(CertsError::Exists(path)) if path == paths.key));
        assert_eq!(read(&paths.key).unwrap(), before);
        let taken = create(&paths.key, "other", 0o600);
        assert!(matches!(taken, Err(CertsError::Exists(path)) if path == paths.key));

        let mut names: Vec<_> =
            folder.path().read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["c.key", "ca.key", "ca.pem"], "nothing half-made is left");
    }

    #[test]
    fn an_authority_signs_on_after_it_was_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let first = Authority::open_or_create(folder.path(), cluster()).unwrap();
        let second = Authority::open_or_create(folder.path(), cluster()).unwrap();
        assert_eq!(first.pem(), second.pem());
        assert!(second.probe().is_ok());
    }

    #[test]
    fn an_authority_of_another_cluster_or_key_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        Authority::open_or_create(folder.path(), cluster()).unwrap();
        let other = Authority::open_or_create(folder.path(), "other".parse().unwrap());
        assert!(matches!(other, Err(CertsError::NotTheAuthority { .. })));

        let key = KeyPair::generate().unwrap().serialize_pem();
        std::fs::write(folder.path().join("ca.key"), key).unwrap();
        let swapped = Authority::open_or_create(folder.path(), cluster());
        assert!(matches!(swapped, Err(CertsError::NotTheAuthority { .. })));
    }
}
