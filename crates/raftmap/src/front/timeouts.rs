//! How long a caller says that it waits: the headers of Connect and gRPC.
//!
//! They are read here and taken off the request, so that one clock runs from the first byte of the body to the answer,
//! and what is late gets an answer that says whether it was applied.

use std::time::Duration;

use http::HeaderMap;

const CONNECT: &str = "connect-timeout-ms";
const GRPC: &str = "grpc-timeout";

/// Takes the timeout off `headers`. A malformed one counts as none.
pub(super) fn take(headers: &mut HeaderMap) -> Option<Duration> {
    let connect = headers.remove(CONNECT);
    let grpc = headers.remove(GRPC);
    let text = |value: &http::HeaderValue| value.to_str().ok().map(str::to_owned);
    connect
        .as_ref()
        .and_then(text)
        .and_then(|text| parse_connect(&text))
        .or_else(|| grpc.as_ref().and_then(text).and_then(|text| parse_grpc(&text)))
}

/// Milliseconds, at most ten digits (Connect protocol, "Timeout-Milliseconds").
fn parse_connect(text: &str) -> Option<Duration> {
    digits(text, 10).map(Duration::from_millis)
}

/// At most eight digits and a unit (gRPC over HTTP/2, "TimeoutValue TimeoutUnit").
fn parse_grpc(text: &str) -> Option<Duration> {
    let (value, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let value = digits(value, 8)?;
    Some(match unit {
        "H" => Duration::from_secs(value * 3600),
        "M" => Duration::from_secs(value * 60),
        "S" => Duration::from_secs(value),
        "m" => Duration::from_millis(value),
        "u" => Duration::from_micros(value),
        "n" => Duration::from_nanos(value),
        _ => return None,
    })
}

fn digits(text: &str, count_max: usize) -> Option<u64> {
    let well_formed = (1..=count_max).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    well_formed.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(name: &'static str, value: &str) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert(name, http::HeaderValue::from_bytes(value.as_bytes()).unwrap());
        let timeout = take(&mut headers);
        assert!(headers.is_empty(), "the header is gone");
        timeout
    }

    #[test]
    fn both_spellings_are_read() {
        assert_eq!(taken(CONNECT, "250"), Some(Duration::from_millis(250)));
        assert_eq!(taken(GRPC, "250m"), Some(Duration::from_millis(250)));
        assert_eq!(taken(GRPC, "2S"), Some(Duration::from_secs(2)));
        assert_eq!(taken(GRPC, "1M"), Some(Duration::from_secs(60)));
        assert_eq!(taken(GRPC, "99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        assert_eq!(taken(GRPC, "5u"), Some(Duration::from_micros(5)));
        assert_eq!(taken(GRPC, "5n"), Some(Duration::from_nanos(5)));
    }

    #[test]
    fn what_is_malformed_counts_as_none() {
        for value in ["", "-1", "+1", "1.5", "12345678901", "x"] {
            assert_eq!(taken(CONNECT, value), None, "{value:?}");
        }
        for value in ["", "S", "1", "1x", "123456789S", "+1S", "é"] {
            assert_eq!(taken(GRPC, value), None, "{value:?}");
        }
    }
}
