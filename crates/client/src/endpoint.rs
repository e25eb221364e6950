//! Where a server answers clients.

use std::fmt;
use std::net::Ipv6Addr;

use hyper::Uri;
use hyper::http::uri::{Authority, Scheme};
use rustls::pki_types::ServerName;

use crate::error::SetupError;

/// `host:port`, as it was given; the host is a DNS name, an IPv4 address or an IPv6 address in brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    text: String,
    host: String,
    port: u16,
    server_name: ServerName<'static>,
    authority: Authority,
}

impl Endpoint {
    pub(crate) fn parse(text: &str) -> Result<Self, SetupError> {
        let bad =
            |reason: &str| SetupError::BadEndpoint { endpoint: text.to_owned(), reason: reason.to_owned() };
        if text.contains("://") {
            return Err(bad("it has a scheme"));
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(|| bad("it has no port"))?;
        let port = port.parse().map_err(|_| bad("the port is not a number up to 65535"))?;
        let host = match host.strip_prefix('[') {
            Some(rest) => {
                let host = rest.strip_suffix(']').ok_or_else(|| bad("a bracket is not closed"))?;
                host.parse::<Ipv6Addr>().map_err(|_| bad("no IPv6 address stands in the brackets"))?;
                host
            }
            None if host.contains(':') => return Err(bad("an IPv6 address stands without brackets")),
            None => host,
        };
        let server_name = ServerName::try_from(host.to_owned())
            .map_err(|_| bad("the host is neither a DNS name nor an address"))?;
        let authority = Authority::try_from(text).map_err(|_| bad("it cannot stand in a URI"))?;
        Ok(Self { text: text.to_owned(), host: host.to_owned(), port, server_name, authority })
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    /// What to resolve and connect to.
    pub(crate) fn address(&self) -> (&str, u16) {
        (&self.host, self.port)
    }

    /// The name that the server's certificate must carry.
    pub(crate) fn server_name(&self) -> ServerName<'static> {
        self.server_name.clone()
    }

    /// The base of every call's URI.
    pub(crate) fn uri(&self, tls: bool) -> Uri {
        let scheme = if tls { Scheme::HTTPS } else { Scheme::HTTP };
        Uri::builder()
            .scheme(scheme)
            .authority(self.authority.clone())
            .path_and_query("/")
            .build()
            .expect("a scheme, an authority and a path make a URI")
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_are_endpoints() {
        for (text, host, port) in [
            ("localhost:7001", "localhost", 7001),
            ("db-1.example.org:443", "db-1.example.org", 443),
            ("127.0.0.1:1", "127.0.0.1", 1),
            ("[::1]:65535", "::1", 65_535),
        ] {
            let endpoint = Endpoint::parse(text).unwrap();
            assert_eq!(endpoint.address(), (host, port));
            assert_eq!(endpoint.uri(true).to_string(), format!("https://{text}/"));
        }
    }

    #[test]
    fn what_is_not_an_endpoint_says_why() {
        for (text, part) in [
            ("localhost", "no port"),
            ("localhost:http", "not a number"),
            ("localhost:65536", "not a number"),
            ("::1:7001", "without brackets"),
            ("[::1:7001", "not closed"),
            ("a b:1", "neither"),
            (":1", "neither"),
            ("https://localhost:1", "scheme"),
            ("[127.0.0.1]:1", "no IPv6"),
        ] {
            let error = Endpoint::parse(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
