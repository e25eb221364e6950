//! A reader that says what it has read.

use std::io::{self, BufRead, BufReader, Read};

use xxhash_rust::xxh3::Xxh3Default;

/// XXH3 (128 bits) of all bytes that were consumed.
pub(super) struct Hashed<R> {
    reader: BufReader<R>,
    hash: Xxh3Default,
}

impl<R: Read> Hashed<R> {
    pub(super) fn new(reader: R) -> Self {
        Self { reader: BufReader::new(reader), hash: Xxh3Default::new() }
    }

    pub(super) fn digest(&self) -> u128 {
        self.hash.digest128()
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(into)?;
        self.consume(read);
        Ok(read)
    }
}

impl<R: Read> BufRead for Hashed<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.reader.fill_buf()
    }

    fn consume(&mut self, bytes: usize) {
        self.hash.update(&self.reader.buffer()[..bytes]);
        self.reader.consume(bytes);
    }
}

#[cfg(test)]
mod tests {
    use xxhash_rust::xxh3::xxh3_128;

    use super::*;

    #[test]
    fn the_digest_is_that_of_the_whole_content_however_it_is_read() {
        let content: Vec<u8> = (0..100_000_u32).flat_map(|n| n.to_string().into_bytes()).collect();
        let mut by_lines = Hashed::new(&content[..]);
        by_lines.read_until(b'9', &mut Vec::new()).unwrap();
        by_lines.read_to_end(&mut Vec::new()).unwrap();
        assert_eq!(by_lines.digest(), xxh3_128(&content));
        let mut half = Hashed::new(&content[..]);
        half.read_until(b'9', &mut Vec::new()).unwrap();
        assert_ne!(half.digest(), xxh3_128(&content), "what was not consumed does not count");
    }
}
