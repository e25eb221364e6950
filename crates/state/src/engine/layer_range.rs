//! A range over one layer of rows in memory, from both ends.

use std::collections::VecDeque;
use std::iter::FusedIterator;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use super::RowChange;
use super::recent::{Layer, View};

/// Rows that are taken from a layer at first, and at most, while it is locked.
const ROWS_FIRST: usize = 8;
const ROWS_MAX: usize = 256;

/// What became of the rows of a range, in order: `None`, if they were removed.
pub(super) struct LayerRange {
    layer: Arc<Layer>,
    /// Keeps the versions that it sees.
    view: View,
    front: VecDeque<RowChange>,
    /// Where the rows are that are in neither queue; `None`: nowhere.
    between: Option<(Bound<Bytes>, Bound<Bytes>)>,
    back: VecDeque<RowChange>,
    rows: usize,
}

impl LayerRange {
    pub(super) fn new(view: View, layer: Arc<Layer>, start: &[u8], end: &[u8]) -> Self {
        let bounds = || (Bytes::copy_from_slice(start), Bytes::copy_from_slice(end));
        let between =
            (start < end).then(bounds).map(|(start, end)| (Bound::Included(start), Bound::Excluded(end)));
        Self { layer, view, front: VecDeque::new(), between, back: VecDeque::new(), rows: ROWS_FIRST }
    }

    /// Takes more rows from the layer.
    fn fetch(&mut self, from_back: bool) -> Vec<RowChange> {
        let Some((start, end)) = self.between.take() else { return Vec::new() };
        let between = (start.as_ref().map(|key| &key[..]), end.as_ref().map(|key| &key[..]));
        let rows = self.layer.some_rows(between, self.view.at(), self.rows, from_back);
        if let Some((last, _)) = rows.last().filter(|_| rows.len() == self.rows) {
            let last = Bound::Excluded(last.clone());
            self.between = Some(if from_back { (start, last) } else { (last, end) });
        }
        self.rows = (self.rows * 2).min(ROWS_MAX);
        rows
    }
}

impl Iterator for LayerRange {
    type Item = RowChange;

    fn next(&mut self) -> Option<RowChange> {
        if self.front.is_empty() {
            self.front = self.fetch(false).into();
        }
        self.front.pop_front().or_else(|| self.back.pop_front())
    }
}

impl DoubleEndedIterator for LayerRange {
    fn next_back(&mut self) -> Option<RowChange> {
        if self.back.is_empty() {
            self.back = self.fetch(true).into_iter().rev().collect();
        }
        self.back.pop_back().or_else(|| self.front.pop_back())
    }
}

impl FusedIterator for LayerRange {}
