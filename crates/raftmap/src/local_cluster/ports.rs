//! Free ports on the loopback interface.

use std::collections::HashSet;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{LazyLock, Mutex, PoisonError};

/// Below the ports that systems give to outgoing connections (RFC 6335, section 6, and Linux, from 32768): a server that
/// is down for a while finds its port free when it comes back.
const PORTS: std::ops::Range<u16> = 10_000..32_000;

/// Ports tried before the machine counts as full.
const TRIES_MAX: usize = 100_000;

/// What this process has given out: the server that it was for may be down for a moment.
static GIVEN: LazyLock<Mutex<HashSet<SocketAddr>>> = LazyLock::new(Mutex::default);

/// So many addresses of 127.0.0.1 that nothing listens on, and that this process was not given before. Nothing keeps them free
/// of other programs: those that look at the same time may find the same, if rarely, as each looks at random places.
///
/// # Errors
/// If there are not so many.
pub fn free_loopback_addresses(count: usize) -> io::Result<Vec<SocketAddr>> {
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut free = Vec::new();
    for _ in 0..TRIES_MAX {
        if free.len() == count {
            return Ok(free);
        }
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, fastrand::u16(PORTS)));
        if !given.contains(&address) && TcpListener::bind(address).is_ok() {
            given.insert(address);
            free.push(address);
        }
    }
    let message = format!("fewer than {count} free ports from {} to {}", PORTS.start, PORTS.end);
    Err(io::Error::new(io::ErrorKind::AddrNotAvailable, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_addresses_are_distinct_and_can_be_bound_all_at_once() {
        let addresses = free_loopback_addresses(9).unwrap();
        let listeners: Vec<_> = addresses.iter().map(|address| TcpListener::bind(address).unwrap()).collect();
        assert_eq!(listeners.len(), 9);
        drop(listeners);
        let again = free_loopback_addresses(500).unwrap();
        assert!(again.iter().all(|address| !addresses.contains(address)), "given twice");
    }
}
