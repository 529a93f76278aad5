//! Publishes into a server of another kind, over one TCP connection in that server's own protocol.

use std::io::{BufWriter, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

use anyhow::{Context as _, Result};
use bugfeed_protocol::{Change, server};

use super::Publish;
use crate::dialect::Dialect;

/// How long the server may take to answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// A publisher to one server.
#[derive(Debug)]
pub struct StreamPublisher {
    dialect: Dialect,
    host: String,
    out: BufWriter<TcpStream>,
    answers: Receiver<()>,
    unanswered: u32,
    text: Vec<u8>,
    message: Vec<u8>,
}

impl StreamPublisher {
    /// Connects.
    ///
    /// # Errors
    /// When nobody listens there.
    pub fn connect(dialect: Dialect, to: SocketAddr) -> Result<StreamPublisher> {
        let stream = TcpStream::connect(to).with_context(|| format!("nobody takes updates at {to}"))?;
        stream.set_nodelay(true)?;
        let (sender, answers) = mpsc::channel();
        let reader = stream.try_clone()?;
        std::thread::spawn(move || count(reader, dialect.answer(), &sender));
        let mut out = BufWriter::with_capacity(64 * 1024, stream);
        if let Some(hello) = dialect.hello() {
            out.write_all(&hello)?;
        }
        let (text, message) = (Vec::new(), Vec::new());
        let mut publisher =
            StreamPublisher { dialect, host: to.to_string(), out, answers, unanswered: 0, text, message };
        publisher.settle()?;
        Ok(publisher)
    }
}

impl Publish for StreamPublisher {
    fn send(&mut self, change: Change) -> Result<()> {
        self.text.clear();
        self.message.clear();
        server::write_update(&mut self.text, change);
        self.dialect.publish(&mut self.message, &self.host, change.bug.get(), &self.text);
        if self.dialect.mark().is_none() {
            self.unanswered += 1;
        }
        Ok(self.out.write_all(&self.message)?)
    }

    fn flush(&mut self) -> Result<()> {
        Ok(self.out.flush()?)
    }

    fn settle(&mut self) -> Result<()> {
        if let Some(mark) = self.dialect.mark() {
            self.out.write_all(&mark)?;
            self.unanswered += 1;
        }
        self.out.flush()?;
        while self.unanswered > 0 {
            self.answers.recv_timeout(PATIENCE).context("the server did not take an update")?;
            self.unanswered -= 1;
        }
        Ok(())
    }
}

/// Reports every answer, until the connection ends.
fn count(mut stream: TcpStream, answer: &[u8], tell: &Sender<()>) {
    let (mut seen, mut buffer) = (Vec::new(), vec![0; 64 * 1024]);
    while let Ok(read @ 1..) = stream.read(&mut buffer) {
        seen.extend_from_slice(&buffer[..read]);
        let mut from = 0;
        while let Some(at) = seen[from..].windows(answer.len()).position(|part| part == answer) {
            from += at + answer.len();
            if tell.send(()).is_err() {
                return;
            }
        }
        // An answer may begin at the end of this read and continue in the next one.
        seen.drain(..from.max(seen.len().saturating_sub(answer.len() - 1)));
    }
}
