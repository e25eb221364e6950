//! Memory that a device may read and write directly.

use std::ops::{Deref, DerefMut};

/// Bytes that begin at an address which is a multiple of 4 KiB, as O_DIRECT wants it.
#[derive(Debug, Default)]
pub struct AlignedBuffer {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl AlignedBuffer {
    const ALIGNMENT: usize = 4096;

    /// `len` bytes of which nothing is promised but that they can be used; zeroes if the buffer has to grow. What was
    /// allocated before is used again where it suffices.
    pub fn resize(&mut self, len: usize) {
        if self.memory.len() < len + Self::ALIGNMENT {
            self.memory = vec![0; len.next_power_of_two() + Self::ALIGNMENT];
            self.start = self.memory.as_ptr().align_offset(Self::ALIGNMENT);
            assert!(self.start < Self::ALIGNMENT, "an offset of bytes is always found");
        }
        self.len = len;
    }
}

impl Deref for AlignedBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.len]
    }
}

impl DerefMut for AlignedBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.len]
    }
}
