//! Free ports on the loopback interface.

use std::collections::HashSet;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

/// Below the ports that systems give to outgoing connections (RFC 6335, section 6, and Linux, from 32768): a server that
/// is down for a while finds its port free when it comes back.
const PORTS: std::ops::Range<u16> = 10_000..32_000;

/// Ports tried before the machine counts as full.
const TRIES_MAX: usize = 10_000;

/// So many addresses of 127.0.0.1 that nothing listens on. Nothing keeps them free: other programs that look at the same
/// time may find the same, if rarely, as each looks at random places.
///
/// # Errors
/// If there are not so many.
pub fn free_loopback_addresses(count: usize) -> io::Result<Vec<SocketAddr>> {
    let mut free = HashSet::new();
    for _ in 0..TRIES_MAX {
        if free.len() == count {
            return Ok(free.into_iter().collect());
        }
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, fastrand::u16(PORTS)));
        if TcpListener::bind(address).is_ok() {
            free.insert(address);
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
    }
}
