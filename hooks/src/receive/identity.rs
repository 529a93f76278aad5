//! Hashes by which repetitions are recognised.
//!
//! Goes in: what an event says. Comes out: a SHA-256 hash. What follows from equal hashes is decided elsewhere.

use std::fmt;
use std::io::{self, BufWriter, Write};

use ring::digest::{Context, SHA256, digest};
use serde_json::Value;

/// A SHA-256 hash.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Sha256(pub [u8; 32]);

impl Sha256 {
    /// The hash of these bytes, for example of a body.
    pub fn of(bytes: &[u8]) -> Sha256 {
        Sha256::from_digest(digest(&SHA256, bytes).as_ref())
    }

    /// Reads 64 hexadecimal digits.
    pub fn parse(text: &str) -> Option<Sha256> {
        let mut hash = [0; 32];
        let is_hex = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        for (index, to) in hash.iter_mut().enumerate().filter(|_| is_hex) {
            *to = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).ok()?;
        }
        is_hex.then_some(Sha256(hash))
    }

    /// The hash of what went into this context.
    pub(crate) fn of_context(context: Context) -> Sha256 {
        Sha256::from_digest(context.finish().as_ref())
    }

    fn from_digest(bytes: &[u8]) -> Sha256 {
        let mut hash = [0; 32];
        hash.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        Sha256(hash)
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Hashes parts one after another; each part is set off from the next, so that no two sequences of parts look alike.
pub(crate) struct Hasher(Context);

impl Hasher {
    pub(crate) fn new() -> Hasher {
        Hasher(Context::new(&SHA256))
    }

    /// Adds a text.
    pub(crate) fn text(&mut self, text: &str) {
        self.0.update(&(text.len() as u64).to_le_bytes());
        self.0.update(text.as_bytes());
    }

    /// Adds a JSON value, as compact text. Nothing is said by a mark of its own.
    pub(crate) fn value(&mut self, value: Option<&Value>) {
        struct Into<'a>(&'a mut Context);
        impl Write for Into<'_> {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.update(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        // Neither writing a value as text nor this writer can fail. A compact text of JSON ends where its value ends,
        // so it needs no length; the mark before it tells it from nothing.
        match value {
            None => self.0.update(&[0]),
            Some(value) => {
                self.0.update(&[1]);
                let mut writer = BufWriter::with_capacity(4096, Into(&mut self.0));
                let _ = serde_json::to_writer(&mut writer, value);
                let _ = writer.flush();
                drop(writer);
                self.0.update(&[0]);
            }
        }
    }

    pub(crate) fn finish(self) -> Sha256 {
        Sha256::from_digest(self.0.finish().as_ref())
    }
}
