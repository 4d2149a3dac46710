//! A cursor over untrusted bytes: every read is checked against what is left, and nothing is allocated by a count that
//! the file states.

/// Where and why a file is broken.
pub(super) type Broken = String;

/// The bytes of a file and a position among them.
#[derive(Debug, Clone)]
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0 }
    }

    pub(super) fn position(&self) -> usize {
        self.position
    }

    fn left(&self) -> usize {
        self.bytes.len() - self.position
    }

    /// The next `count` bytes.
    pub(super) fn take(&mut self, count: u64, what: &str) -> Result<&'a [u8], Broken> {
        let left = self.left();
        let count = usize::try_from(count).ok().filter(|count| *count <= left);
        let count = count.ok_or_else(|| {
            format!("{what} that reaches beyond the end of the file ({left} bytes are left at byte {})", self.position)
        })?;
        let taken = &self.bytes[self.position..self.position + count];
        self.position += count;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], Broken> {
        let bytes = self.take(N as u64, what)?;
        Ok(bytes.try_into().expect("take gives as many bytes as it was asked for"))
    }

    pub(super) fn u32(&mut self, what: &str) -> Result<u32, Broken> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, what: &str) -> Result<u64, Broken> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// How many of something follow, each at least `size` bytes long.
    pub(super) fn count(&mut self, size: u64, what: &str) -> Result<u64, Broken> {
        let count = self.u64(what)?;
        let most = self.left() as u64 / size;
        if count > most {
            return Err(format!("{count} {what}, of which at most {most} fit into the rest of the file"));
        }
        Ok(count)
    }

    /// A length and so many bytes of UTF-8.
    pub(super) fn text(&mut self, what: &str) -> Result<&'a str, Broken> {
        let at = self.position;
        let length = self.u64(what)?;
        let bytes = self.take(length, what)?;
        std::str::from_utf8(bytes).map_err(|_| format!("{what} that is no UTF-8 at byte {at}"))
    }
}
