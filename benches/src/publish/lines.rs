//! Publishes directly into a feed, without a broker: messages of the bus, one a line, over TCP (see
//! [`crate::feed_server`]).

use std::io::{BufRead as _, BufReader, BufWriter, Write as _};
use std::net::{SocketAddr, TcpStream};

use anyhow::{Context as _, Result, bail};
use bugfeed_protocol::bus::{self, Format};
use bugfeed_protocol::{Change, Cursor, Epoch, Numbered, When};

use super::Publish;
use crate::plan::Phase;

/// A publisher of one feed.
#[derive(Debug)]
pub struct LinePublisher {
    out: BufWriter<TcpStream>,
    answers: BufReader<TcpStream>,
    next: Cursor,
}

impl LinePublisher {
    /// Connects.
    ///
    /// # Errors
    /// When nobody listens there.
    pub fn connect(to: SocketAddr) -> Result<LinePublisher> {
        let stream = TcpStream::connect(to).with_context(|| format!("no feed at {to}"))?;
        stream.set_nodelay(true)?;
        let answers = BufReader::new(stream.try_clone()?);
        let next = Cursor::new(Epoch::parse("bench").context("an epoch")?, 1);
        Ok(LinePublisher { out: BufWriter::new(stream), answers, next })
    }

    /// Lets the server generate a phase's messages itself, and take them in at full speed: nothing is read or decoded.
    ///
    /// # Errors
    /// When the connection failed.
    pub fn generate(&mut self, phase: &Phase) -> Result<()> {
        writeln!(self.out, "generate {}", serde_json::to_string(phase)?)?;
        self.next.seq += u64::from(phase.count);
        self.settle()
    }
}

impl Publish for LinePublisher {
    fn send(&mut self, change: Change) -> Result<()> {
        let cursor = self.next.clone();
        self.next.seq += 1;
        let numbered = Numbered { change, cursor, after: None, recorded: When::MIN };
        self.out.write_all(&bus::encode(&numbered, Format::Native, ""))?;
        Ok(self.out.write_all(b"\n")?)
    }

    fn flush(&mut self) -> Result<()> {
        Ok(self.out.flush()?)
    }

    fn settle(&mut self) -> Result<()> {
        self.out.write_all(b"settle\n")?;
        self.out.flush()?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        if line.trim() != "settled" {
            bail!("the feed is gone");
        }
        Ok(())
    }
}
