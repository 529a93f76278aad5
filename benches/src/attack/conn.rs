//! One connection of an attacker: what it has sent, and what comes next.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use anyhow::{Context as _, Result};
use mio::net::TcpStream;

use super::Strength;
use super::catalogue::{Group, Then};
use crate::ws;

/// The receive buffer of those who do not read, in bytes.
const SMALL: usize = 4096;
/// Reads of one connection before it is another's turn.
const READS: u32 = 16;

/// Where a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It sends its opening.
    Opening,
    /// It waits until it is a WebSocket.
    Answer,
    /// It sends what is sent once.
    First,
    /// It does what it does until the end.
    Then,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Conn {
    pub(super) stream: TcpStream,
    /// Which group it belongs to.
    pub(super) group: usize,
    /// Whether it is among those that have more to send.
    pub(super) eager: bool,
    /// Which of the group's openings it sends.
    variant: usize,
    stage: Stage,
    /// How much was sent of what is being sent.
    at: usize,
    /// The beginning of an answer to its handshake.
    answer: Vec<u8>,
}

/// What came of an attempt to send or to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It waits for its socket.
    Waits,
    /// It has more to send at once.
    Goes,
    /// It has more to read at once.
    ReadsOn,
    /// The server has closed it.
    Ended,
    /// It was refused.
    Refused,
    /// It has what it wanted, and leaves.
    Leaves,
}

impl Conn {
    /// Begins to connect.
    ///
    /// # Errors
    /// When there is no port or no file left.
    pub(super) fn open(to: SocketAddr, source: Ipv4Addr, group: usize, of: &Group, number: u64) -> Result<Conn> {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        if !of.reads {
            // Before it connects: later, the window has been offered already.
            socket.set_recv_buffer_size(SMALL)?;
        }
        let source = SocketAddr::V4(SocketAddrV4::new(source, 0));
        socket.bind(&source.into()).with_context(|| format!("no port left at {source}"))?;
        match socket.connect(&to.into()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {}
            Err(error) => return Err(error).with_context(|| format!("cannot connect to {to}")),
        }
        let variant = usize::try_from(number % of.opening.len() as u64)?;
        let stream = TcpStream::from_std(socket.into());
        Ok(Conn { stream, group, eager: false, variant, stage: Stage::Opening, at: 0, answer: Vec::new() })
    }

    /// Sends what is next. Of what is sent over and over, one block at most, so that it is another connection's turn.
    pub(super) fn send(&mut self, of: &Group, strength: &mut Strength) -> Outcome {
        loop {
            let bytes = match (self.stage, &of.then) {
                (Stage::Opening, _) => &of.opening[self.variant],
                (Stage::First, _) => &of.first,
                (Stage::Then, Then::Repeat(block)) => block,
                (Stage::Answer | Stage::Then, _) => return Outcome::Waits,
            };
            if self.at == bytes.len() {
                self.at = 0;
                match self.stage {
                    Stage::Opening if of.handshake => self.stage = Stage::Answer,
                    Stage::Opening => self.stage = Stage::First,
                    Stage::First => self.stage = Stage::Then,
                    Stage::Answer | Stage::Then => return Outcome::Goes,
                }
                continue;
            }
            match self.stream.write(&bytes[self.at..]) {
                Ok(sent) => {
                    self.at += sent;
                    strength.sent_bytes += sent as u64;
                }
                Err(error) if waits(&error) => return Outcome::Waits,
                Err(_) => return Outcome::Ended,
            }
        }
    }

    /// Sends one byte, if it is time for that.
    pub(super) fn drip(&mut self, byte: u8, strength: &mut Strength) -> Outcome {
        if self.stage != Stage::Then {
            return Outcome::Waits;
        }
        match self.stream.write(&[byte]) {
            Ok(sent) => strength.sent_bytes += sent as u64,
            Err(error) if waits(&error) => {}
            Err(_) => return Outcome::Ended,
        }
        Outcome::Waits
    }

    /// Reads all there is, once it may.
    pub(super) fn read(&mut self, of: &Group, buffer: &mut [u8], strength: &mut Strength) -> Outcome {
        if !of.reads && self.stage != Stage::Answer {
            return Outcome::Waits;
        }
        for _ in 0..READS {
            let read = match self.stream.read(buffer) {
                Ok(0) => return Outcome::Ended,
                Ok(read) => read,
                Err(error) if waits(&error) => return Outcome::Waits,
                Err(_) => return Outcome::Ended,
            };
            strength.received_bytes += read as u64;
            if self.stage == Stage::Answer {
                self.answer.extend_from_slice(&buffer[..read]);
                match ws::answer_end(&self.answer) {
                    Ok(None) => {}
                    Ok(Some(_)) => {
                        self.answer = Vec::new();
                        self.stage = Stage::First;
                        return Outcome::Goes;
                    }
                    Err(_) => return Outcome::Refused,
                }
            } else if matches!(of.then, Then::Leave) {
                return Outcome::Leaves;
            }
            if read < buffer.len() {
                // The socket is empty, and the next event will come (epoll(7), question 9).
                return Outcome::Waits;
            }
        }
        Outcome::ReadsOn
    }
}

fn waits(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected | ErrorKind::Interrupted)
}
