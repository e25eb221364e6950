//! Ranges over sources of which each hides what those after it say of a row, from both ends.

use std::cmp::Ordering;

use bytes::Bytes;

use super::{EngineError, Row, RowChange};

/// What a source says of a row.
pub(super) type Said = Result<RowChange, EngineError>;

/// A source: rows in the order of their keys, each once.
pub(super) type Source = Box<dyn DoubleEndedIterator<Item = Said> + Send>;

/// The rows that are there, in the order of their keys.
pub(super) struct Merged {
    sources: Vec<Ends>,
}

/// A source of which the next row at either end may have been looked at.
struct Ends {
    source: Source,
    front: Option<Said>,
    back: Option<Said>,
}

#[derive(Clone, Copy)]
enum End {
    Front,
    Back,
}

impl Merged {
    /// The first source comes first.
    pub(super) fn new(sources: impl IntoIterator<Item = Source>) -> Self {
        let ends = |source| Ends { source, front: None, back: None };
        Self { sources: sources.into_iter().map(ends).collect() }
    }

    fn next_at(&mut self, end: End) -> Option<Result<Row, EngineError>> {
        loop {
            let (key, value) = match self.take_next(end)? {
                Ok(row) => row,
                Err(error) => return Some(Err(error)),
            };
            if let Some(value) = value {
                return Some(Ok((key, value)));
            }
        }
    }

    /// Takes the next row from all sources that say something of it, and gives what the first of them says.
    fn take_next(&mut self, end: End) -> Option<Said> {
        let mut best: Option<(usize, Bytes)> = None;
        let mut hidden = Vec::new();
        for (at, source) in self.sources.iter_mut().enumerate() {
            let key = match source.peek(end) {
                None => continue,
                Some(Err(_)) => return source.take(end),
                Some(Ok((key, _))) => key,
            };
            let order = best.as_ref().map(|(_, best)| match end {
                End::Front => key.cmp(best),
                End::Back => best.cmp(key),
            });
            match order {
                Some(Ordering::Greater) => {}
                Some(Ordering::Equal) => hidden.push(at),
                Some(Ordering::Less) | None => {
                    best = Some((at, key.clone()));
                    hidden.clear();
                }
            }
        }
        for at in hidden {
            self.sources[at].take(end);
        }
        self.sources[best?.0].take(end)
    }
}

impl Ends {
    fn peek(&mut self, end: End) -> Option<&Said> {
        let (near, far) = match end {
            End::Front => (&mut self.front, &mut self.back),
            End::Back => (&mut self.back, &mut self.front),
        };
        if near.is_none() {
            let next = match end {
                End::Front => self.source.next(),
                End::Back => self.source.next_back(),
            };
            // The last row may have been looked at from the other end.
            *near = next.or_else(|| far.take());
        }
        near.as_ref()
    }

    fn take(&mut self, end: End) -> Option<Said> {
        match end {
            End::Front => self.front.take(),
            End::Back => self.back.take(),
        }
    }
}

impl Iterator for Merged {
    type Item = Result<Row, EngineError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_at(End::Front)
    }
}

impl DoubleEndedIterator for Merged {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.next_at(End::Back)
    }
}
