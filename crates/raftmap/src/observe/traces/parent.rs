//! What a caller says of its own trace (W3C Trace Context, section 3.2).

use std::num::{NonZeroU64, NonZeroU128};

use raftmap_state::TraceContext;

/// The span of a caller that made a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parent {
    /// Its trace, and its id in it.
    pub context: TraceContext,
    /// Whether it is recorded, so that its parts should be, too.
    pub sampled: bool,
}

/// Reads a `traceparent`: `00-`, the trace in 32 lower-case hexadecimal digits, `-`, the span in 16, `-`, and flags in two, of
/// which the last bit says "sampled". `None`: it is something else, as a request id may be. Later versions may have more
/// behind that.
pub fn parent_of(text: &str) -> Option<Parent> {
    let bytes = text.as_bytes();
    let (head, rest) = (bytes.get(..55)?, &bytes[55..]);
    let is_hyphen = |at: usize| head[at] == b'-';
    let version = digits(&head[..2])?;
    let ends_well =
        if version == 0 { rest.is_empty() } else { rest.first().is_none_or(|next| *next == b'-') };
    if version == 0xff || !ends_well || ![2, 35, 52].into_iter().all(is_hyphen) {
        return None;
    }
    let trace_id = NonZeroU128::new(digits(&head[3..35])?)?;
    let span_id = NonZeroU64::new(u64::try_from(digits(&head[36..52])?).ok()?)?;
    let sampled = digits(&head[53..55])? & 1 == 1;
    Some(Parent { context: TraceContext::new(trace_id, span_id), sampled })
}

/// At most 32 lower-case hexadecimal digits.
fn digits(text: &[u8]) -> Option<u128> {
    text.iter().try_fold(0u128, |value, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(value << 4 | u128::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_is_read_as_the_standard_has_it() {
        let text = "00-80000000000000000000000000000001-c000000000000002-01";
        let parent = parent_of(text).expect("it is one");
        assert_eq!(parent.context.trace_id().get(), 1 << 127 | 1);
        assert_eq!(parent.context.span_id().get(), 0b11 << 62 | 2);
        assert!(parent.sampled);
        assert!(!parent_of(&text.replace("-01", "-00")).expect("it is one").sampled);
        let later = text.replacen("00", "01", 1);
        assert!(parent_of(&later).is_some() && parent_of(&format!("{later}-more")).is_some());
    }

    #[test]
    fn anything_else_is_none() {
        let text = "00-80000000000000000000000000000001-c000000000000002-01";
        let others = [
            String::new(),
            "a request".to_owned(),
            text.to_uppercase(),
            format!("{text}-more"),
            format!("{}x", text.replacen("00", "01", 1)),
            text.replacen("00", "ff", 1),
            text.replace('-', "_"),
            text.replace('8', "g"),
            "00-00000000000000000000000000000000-c000000000000002-01".to_owned(),
            "00-80000000000000000000000000000001-0000000000000000-01".to_owned(),
            "ü".repeat(40),
        ];
        for other in others {
            assert_eq!(parent_of(&other), None, "{other}");
        }
        for end in 0..text.len() {
            assert_eq!(parent_of(&text[..end]), None);
        }
    }
}
