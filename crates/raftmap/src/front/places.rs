//! Places for connections: so many in all, and so many for one address, so that one stranger does not take them all.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

/// Places of one kind.
pub(super) struct Places {
    limit: usize,
    limit_each: usize,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    count: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// One of them, for as long as it lives.
pub(super) struct Place {
    places: Arc<Places>,
    address: IpAddr,
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Full {
    /// All are taken.
    #[error("all {0} places are taken")]
    All(usize),
    /// This address has as many as it may.
    #[error("one address may take {0} places")]
    Address(usize),
}

impl Places {
    /// `limit` places, of which one address may take `limit_each`.
    pub(super) fn new(limit: usize, limit_each: usize) -> Arc<Self> {
        Arc::new(Self { limit, limit_each, taken: Mutex::default() })
    }

    /// A place for a connection from `address`.
    pub(super) fn take(self: &Arc<Self>, address: IpAddr) -> Result<Place, Full> {
        let address = holder(address);
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.count >= self.limit {
            return Err(Full::All(self.limit));
        }
        let held = taken.by_address.entry(address).or_default();
        if *held >= self.limit_each {
            return Err(Full::Address(self.limit_each));
        }
        *held += 1;
        taken.count += 1;
        Ok(Place { places: Arc::clone(self), address })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.count -= 1;
        if let Entry::Occupied(mut held) = taken.by_address.entry(self.address) {
            *held.get_mut() -= 1;
            if *held.get() == 0 {
                held.remove();
            }
        }
    }
}

/// Who counts as one: an address of IPv4, or a network of IPv6, which is given out as a whole (RFC 6177).
fn holder(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let network = v6.to_bits() & !u128::from(u64::MAX);
            IpAddr::V6(Ipv6Addr::from_bits(network))
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(places: &Arc<Places>, address: &str) -> Result<Place, Full> {
        places.take(address.parse().unwrap())
    }

    #[test]
    fn one_address_does_not_take_them_all() {
        let places = Places::new(3, 2);
        let (first, second) = (take(&places, "10.0.0.1").unwrap(), take(&places, "::ffff:10.0.0.1").unwrap());
        assert_eq!(take(&places, "10.0.0.1").err(), Some(Full::Address(2)));
        let third = take(&places, "10.0.0.2").unwrap();
        assert_eq!(take(&places, "10.0.0.3").err(), Some(Full::All(3)));
        drop(first);
        assert!(take(&places, "10.0.0.1").is_ok());
        drop((second, third));
        assert!(places.taken.lock().unwrap().by_address.is_empty());
    }

    #[test]
    fn a_network_of_version_6_counts_as_one() {
        let places = Places::new(9, 1);
        let _held = take(&places, "2001:db8:0:1::1").unwrap();
        assert!(take(&places, "2001:db8:0:1:ffff::2").is_err());
        assert!(take(&places, "2001:db8:0:2::1").is_ok());
    }
}
