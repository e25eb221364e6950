//! What a data directory tells: whose it is, and where to listen.

use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use raftmap::node::StartFailure;
use raftmap_log::{FoundingMember, Identity, OpenError};
use tokio::net::TcpListener;

use super::super::exit::Failure;

/// Who a data directory belongs to.
pub(super) fn read_identity(data: &Path) -> Result<Identity, Failure> {
    let path = data.join("identity");
    let mut text = String::new();
    let read = File::open(&path).and_then(|file| file.take(IDENTITY_BYTES_MAX).read_to_string(&mut text));
    match read {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(StartFailure::Open(OpenError::NotInitialised(data.to_owned())).into())
        }
        Err(error) => Err(Failure::io("read", &path, &error)),
        Ok(_) => Identity::parse(&text)
            .map_err(|source| StartFailure::Open(OpenError::Identity { path, source }).into()),
    }
}

/// More than a thousand members take.
const IDENTITY_BYTES_MAX: u64 = 1 << 20;

pub(super) fn own_entry(identity: &Identity) -> Result<&FoundingMember, Failure> {
    identity
        .own()
        .ok_or_else(|| Failure::Failed(format!("node {} is none of its own members", identity.node())))
}

/// Where to listen: as told, or else by the address that the others were told. A name may mean other addresses here than
/// it does elsewhere, so that only its port counts.
pub(super) fn listen_address(told: Option<SocketAddr>, advertised: &str) -> Result<SocketAddr, Failure> {
    if let Some(address) = told {
        return Ok(address);
    }
    if let Ok(address) = advertised.parse() {
        return Ok(address);
    }
    let port = advertised.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
    let port = port.ok_or_else(|| {
        Failure::Failed(format!(
            "the data directory names {advertised:?}, which has no port: say where to listen"
        ))
    })?;
    Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port))
}

pub(super) async fn bind(address: SocketAddr, flag: &str) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|error| {
        let in_use = "; another program has the port (another server, perhaps)";
        let hint = if error.kind() == io::ErrorKind::AddrInUse { in_use } else { "" };
        Failure::Failed(format!("cannot listen on {address}: {error}{hint}; {flag} chooses another"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_listened_on_and_of_names_only_the_port_counts() {
        let listen = |told: Option<&str>, advertised: &str| {
            listen_address(told.map(|told| told.parse().unwrap()), advertised).unwrap().to_string()
        };
        assert_eq!(listen(None, "10.0.0.1:7000"), "10.0.0.1:7000");
        assert_eq!(listen(None, "[::1]:7000"), "[::1]:7000");
        assert_eq!(listen(None, "host1:7000"), "0.0.0.0:7000");
        assert_eq!(listen(Some("127.0.0.1:1"), "host1:7000"), "127.0.0.1:1");
        assert!(listen_address(None, "host1").is_err());
    }
}
