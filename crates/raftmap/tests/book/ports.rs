//! The ports that pages name, and those that stand for them.

use std::collections::{BTreeMap, HashSet};
use std::net::TcpListener;
use std::sync::{LazyLock, Mutex};

/// Four digits, as those of the pages, so that columns keep their widths.
const FREE: std::ops::Range<u16> = 2000..7000;

/// What this process has given out.
static GIVEN: LazyLock<Mutex<HashSet<u16>>> = LazyLock::new(Mutex::default);

/// The ports of one page, each with the free one that stands for it.
#[derive(Default)]
pub(crate) struct Ports(BTreeMap<u16, u16>);

impl Ports {
    /// A command with free ports in the place of the page's.
    pub(crate) fn freed(&mut self, text: &str) -> String {
        replace(text, |port| match port {
            7000..=7999 => Some(*self.0.entry(port).or_insert_with(free)),
            _ => None,
        })
    }

    /// What came, with the page's ports again.
    pub(crate) fn of_page(&self, text: &str) -> String {
        replace(text, |port| self.0.iter().find(|(_, free)| **free == port).map(|(page, _)| *page))
    }
}

/// Replaces numbers of four digits behind a host and a colon.
fn replace(text: &str, mut other: impl FnMut(u16) -> Option<u16>) -> String {
    let mut replaced = String::new();
    let mut rest = text;
    while let Some(colon) = rest.find(':') {
        let (before, behind) = rest.split_at(colon + 1);
        replaced.push_str(before);
        let host = before[..colon].ends_with(|last: char| last.is_ascii_alphanumeric() || last == ']');
        let digits = behind.bytes().take_while(u8::is_ascii_digit).count();
        let port = behind[..digits].parse().ok().filter(|_| host && digits == 4);
        let taken = match port.and_then(&mut other) {
            Some(port) => {
                replaced.push_str(&port.to_string());
                digits
            }
            None => 0,
        };
        rest = &behind[taken..];
    }
    replaced + rest
}

fn free() -> u16 {
    let mut given = GIVEN.lock().unwrap();
    loop {
        let port = fastrand::u16(FREE);
        if !given.contains(&port) && TcpListener::bind(("127.0.0.1", port)).is_ok() {
            given.insert(port);
            return port;
        }
    }
}

#[test]
fn ports_of_pages_are_replaced_and_come_back() {
    let text = "--member 1=127.0.0.1:7101,127.0.0.1:7100 [::1]:7000 https://localhost:7100/raftmap.v1.Map/Get {\"a\":7100} 1:71000 b:80";
    let mut ports = Ports::default();
    let free = ports.freed(text);
    for kept in ["{\"a\":7100}", "1:71000", "b:80"] {
        assert!(free.contains(kept), "{free}");
    }
    for gone in ["0.0.1:7", "]:7", "localhost:7"] {
        assert!(!free.contains(gone), "{free}");
    }
    assert_eq!(ports.0.len(), 3);
    assert_eq!(ports.of_page(&free), text);
}
