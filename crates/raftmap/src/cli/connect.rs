//! How a command reaches a cluster.

use std::env::VarError;
use std::fs;
use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use clap::Args;
use clap::builder::BoolishValueParser;
use raftmap::survey;
use raftmap::users::{Token, TokenError};
use raftmap_client::{Client, Identity, Security, Tls};

use super::exit::Failure;
use super::status;

/// How long each server may take to say how it is, once something has failed.
const EXPLAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// The options by which a command reaches a cluster. All can come from the environment.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Cluster")]
pub(crate) struct ConnectArgs {
    /// Servers of the cluster, host:port, separated by commas; one that answers is enough
    #[arg(long, env = "RAFTMAP_ENDPOINTS", value_name = "HOST:PORT,...", value_delimiter = ',')]
    pub(crate) endpoints: Vec<String>,

    /// Folder of certificates, as `raftmap certs` makes it
    #[arg(long, env = "RAFTMAP_CERTS", value_name = "DIR")]
    pub(crate) certs: Option<PathBuf>,

    /// Whose certificate of the folder to show [default: client]
    #[arg(long = "as", env = "RAFTMAP_AS", value_name = "NAME")]
    name: Option<String>,

    /// Certificate of the cluster's authority, instead of DIR/ca.pem
    #[arg(long, env = "RAFTMAP_CA", value_name = "FILE")]
    ca: Option<PathBuf>,

    /// Certificate to show, instead of DIR/NAME.pem
    #[arg(long, env = "RAFTMAP_CERT", value_name = "FILE", requires = "tls_key")]
    cert: Option<PathBuf>,

    /// Its key, instead of DIR/NAME.key
    // Under another id, as commands have a KEY of their own.
    #[arg(id = "tls_key", long = "key", env = "RAFTMAP_KEY", value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,

    /// File with the token to send, as `raftmap token` writes it, instead of a certificate; RAFTMAP_TOKEN holds one itself
    #[arg(long, env = "RAFTMAP_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// Speak without TLS, to servers that were started so
    #[arg(long, env = "RAFTMAP_INSECURE", value_parser = BoolishValueParser::new())]
    insecure: bool,

    /// How long each request may take, its retries included, in milliseconds
    #[arg(long, env = "RAFTMAP_TIMEOUT_MS", value_name = "MS", default_value_t = 10_000)]
    timeout_ms: u64,
}

impl ConnectArgs {
    /// A client of the cluster.
    pub(crate) async fn client(&self) -> Result<Client, Failure> {
        let builder = Client::builder(self.endpoints()?.to_vec(), self.security()?);
        Ok(builder.timeout(self.timeout()).connect().await?)
    }

    /// Runs what a command asks of the cluster. If nobody could answer, the failure says of each server why.
    pub(crate) fn block_on<T>(&self, part: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        block_on(self.explained(part))
    }

    /// The same, for a caller that has a runtime.
    pub(crate) async fn explained<T>(
        &self,
        part: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        match part.await {
            Err(Failure::Unanswered { message, maybe_applied }) => {
                // Whatever is wrong with these now, what happened before is what counts.
                let explained = match (self.endpoints(), self.security()) {
                    (Ok(endpoints), Ok(security)) => {
                        let view = survey::ask(endpoints, &security, EXPLAIN_TIMEOUT).await;
                        format!("{message}\n{}", status::explain(&view))
                    }
                    _ => message,
                };
                Err(Failure::Unanswered { message: explained, maybe_applied })
            }
            result => result,
        }
    }

    /// How long a request may take.
    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }

    /// The servers to begin with.
    pub(crate) fn endpoints(&self) -> Result<&[String], Failure> {
        if self.endpoints.is_empty() {
            let message = "which cluster? Name its servers: --endpoints host:port,... or RAFTMAP_ENDPOINTS";
            return Err(Failure::Usage(message.to_owned()));
        }
        Ok(&self.endpoints)
    }

    /// What to show and to trust.
    pub(crate) fn security(&self) -> Result<Security, Failure> {
        let token = self.token()?;
        if self.insecure {
            if token.is_some() {
                let message = "--insecure would send the token in the clear: it is sent over TLS alone";
                return Err(Failure::Usage(message.to_owned()));
            }
            return Ok(Security::Insecure);
        }
        let in_folder = |name: &str| self.certs.as_ref().map(|folder| folder.join(name));
        let ca = self.ca.clone().or_else(|| in_folder("ca.pem"));
        if token.is_some() && self.name.is_some() {
            let message = "who asks? There is a token, and a certificate is named by --as or RAFTMAP_AS: choose one of them";
            return Err(Failure::Usage(message.to_owned()));
        }
        let name = self.name.as_deref().unwrap_or("client");
        let own = |name: String| in_folder(&name).filter(|_| token.is_none());
        let certificate = self.cert.clone().or_else(|| own(format!("{name}.pem")));
        let key = self.key.clone().or_else(|| own(format!("{name}.key")));
        let Some(ca) = ca else {
            return Err(Failure::Usage(
                "which certificates? --certs DIR --as NAME, or --ca, --cert and --key, or the variables of the \
                 environment that --help names; --insecure only for servers that were started so"
                    .to_owned(),
            ));
        };
        let identity = match (certificate, key) {
            (Some(certificate), Some(key)) => {
                Some(Identity { certificate: self.read(&certificate)?, key: self.read(&key)? })
            }
            _ => None,
        };
        Ok(Security::Tls(Tls { ca: self.read(&ca)?, identity, token }))
    }

    /// The token, if there is one. No option takes it itself: command lines are for everyone to see.
    fn token(&self) -> Result<Option<String>, Failure> {
        let text = match (&self.token_file, std::env::var("RAFTMAP_TOKEN")) {
            (Some(path), _) => fs::read_to_string(path).map_err(|error| Failure::io("read", path, &error))?,
            (None, Ok(text)) => text,
            (None, Err(VarError::NotPresent)) => return Ok(None),
            (None, Err(VarError::NotUnicode(_))) => {
                return Err(Failure::Usage(format!("RAFTMAP_TOKEN: {}", TokenError::Form)));
            }
        };
        let token: Token = text.trim().parse().map_err(|error: TokenError| {
            let place =
                self.token_file.as_ref().map_or("RAFTMAP_TOKEN".into(), |path| path.to_string_lossy());
            Failure::Usage(format!("{place}: {error}"))
        })?;
        Ok(Some(token.secret_text().to_owned()))
    }

    fn read(&self, path: &Path) -> Result<Vec<u8>, Failure> {
        fs::read(path).map_err(|error| {
            let names = self.certs.as_deref().map(holders).unwrap_or_default();
            let hint = match error.kind() {
                io::ErrorKind::NotFound if !names.is_empty() => {
                    format!(
                        "\nThe folder has certificates of {}: choose by --as or RAFTMAP_AS.",
                        names.join(", ")
                    )
                }
                _ => String::new(),
            };
            Failure::Failed(format!("cannot read {}: {error}{hint}", path.display()))
        })
    }
}

/// The clients and operators that a folder of certificates has keys of.
fn holders(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let stem = |name: std::ffi::OsString| {
        name.to_str().and_then(|name| name.strip_suffix(".key").map(str::to_owned))
    };
    let mut holders: Vec<String> =
        names.filter_map(stem).filter(|stem| stem != "ca" && !stem.starts_with("node-")).collect();
    holders.sort();
    holders
}

/// Runs a command's asynchronous part, on this thread alone.
pub(crate) fn block_on<T>(part: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::Failed(format!("cannot start: {error}")))?;
    runtime.block_on(part)
}

/// Runs a command's asynchronous part, on all cores.
pub(crate) fn block_on_all_cores<T>(part: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    block_on_threads(thread::available_parallelism().map_or(1, NonZeroUsize::get), part)
}

/// Runs on half of the cores what others share them with: the front door of a server, whose log, state and replica have threads of their
/// own, and the clients of a benchmark. Threads that wake each other in vain cost more than a second one is worth.
pub(crate) fn block_on_half_of_the_cores<T>(
    part: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    block_on_threads(thread::available_parallelism().map_or(1, |cores| cores.get().div_ceil(2)), part)
}

fn block_on_threads<T>(threads: usize, part: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build();
    let runtime = runtime.map_err(|error| Failure::Failed(format!("cannot start: {error}")))?;
    let result = runtime.block_on(part);
    // Nothing that is left is waited for: a disk that hangs must not keep a server that is to end.
    runtime.shutdown_background();
    result
}
