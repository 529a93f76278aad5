//! One client's connection: its socket, its state, and the bytes of incomplete frames.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use anyhow::{Context as _, Result, bail};
use mio::net::TcpStream;

use crate::dialect::{Dialect, Message};
use crate::plan::Index;
use crate::ws::{self, opcode};

/// The state of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Waits for the connection, then for the answer to its handshake.
    Opening,
    /// Waits for the answer to its greeting, if the protocol has one.
    Greeting,
    /// May subscribe, or gets updates.
    Ready,
    /// Waits for the reply to its subscription.
    Subscribing,
    /// Has ended.
    Closed,
}

/// One client.
#[derive(Debug)]
pub struct Conn {
    /// Its socket.
    pub stream: TcpStream,
    /// The client's state.
    pub state: State,
    /// What it watches, ascending.
    pub bugs: Box<[u32]>,
    /// The newest update seen of each.
    pub last: Box<[Index]>,
    /// Whether the client reads slowly on purpose.
    pub slow: bool,
    connected: bool,
    /// Bytes of an incomplete frame.
    carry: Vec<u8>,
    /// Bytes of an incomplete message of a protocol within WebSocket.
    partial: Vec<u8>,
    /// Bytes yet to be written.
    out: Vec<u8>,
}

/// The result of one read.
#[derive(Debug, Default)]
pub struct Got {
    /// Bytes that were read; 0 if there were none.
    pub bytes: usize,
    /// The connection ended.
    pub closed: bool,
}

impl Conn {
    /// Begins to connect.
    ///
    /// # Errors
    /// When the source address has no free port left, or the process may open no more files.
    pub fn open(server: SocketAddr, source: Ipv4Addr, opening: Vec<u8>, bugs: Vec<u32>) -> Result<Conn> {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        let source = SocketAddr::V4(SocketAddrV4::new(source, 0));
        socket.bind(&source.into()).with_context(|| format!("no port left at {source}"))?;
        match socket.connect(&server.into()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {}
            Err(error) => return Err(error).with_context(|| format!("cannot connect to {server}")),
        }
        Ok(Conn {
            stream: TcpStream::from_std(socket.into()),
            state: State::Opening,
            last: vec![0; bugs.len()].into(),
            bugs: bugs.into(),
            slow: false,
            connected: false,
            carry: Vec::new(),
            partial: Vec::new(),
            out: opening,
        })
    }

    /// Appends bytes to what is to be written, and writes as much as the socket takes.
    ///
    /// # Errors
    /// When the connection failed.
    pub fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.out.extend_from_slice(bytes);
        self.flush()
    }

    /// Goes on writing, when the socket takes more or has just connected.
    ///
    /// # Errors
    /// When the connection failed.
    pub fn flush(&mut self) -> std::io::Result<()> {
        while !self.out.is_empty() {
            match self.stream.write(&self.out) {
                Ok(written) => {
                    self.connected = true;
                    self.out.drain(..written);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::NotConnected && !self.connected => {
                    return self.stream.take_error()?.map_or(Ok(()), Err);
                }
                Err(error) => return Err(error),
            }
        }
        self.out = Vec::new();
        Ok(())
    }

    /// Whether the connection is open and the first bytes are written.
    pub fn opened(&self) -> bool {
        self.connected && self.out.is_empty()
    }

    /// Reads once, and hands every complete message to `each`.
    ///
    /// # Errors
    /// When the server does not keep to the protocol.
    pub fn read(
        &mut self,
        dialect: Dialect,
        buffer: &mut [u8],
        mut each: impl FnMut(&mut Conn, Message),
    ) -> Result<Got> {
        let read = match self.stream.read(buffer) {
            Ok(0) => return Ok(Got { bytes: 0, closed: true }),
            Ok(read) => read,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => {
                return Ok(Got::default());
            }
            Err(_) => return Ok(Got { bytes: 0, closed: true }),
        };
        let carried = std::mem::take(&mut self.carry);
        let mut joined;
        let mut rest: &[u8] = if carried.is_empty() {
            &buffer[..read]
        } else {
            joined = carried;
            joined.extend_from_slice(&buffer[..read]);
            &joined
        };
        if self.state == State::Opening && dialect.has_handshake() {
            match ws::answer_end(rest)? {
                None => {
                    self.carry = rest.to_vec();
                    return Ok(Got { bytes: read, closed: false });
                }
                Some(end) => {
                    rest = &rest[end..];
                    match dialect.greeting() {
                        Some(greeting) => {
                            self.state = State::Greeting;
                            // If the connection has failed, the next read reports it.
                            let _ = self.write(&greeting);
                        }
                        None => self.state = State::Ready,
                    }
                }
            }
        }
        let mut closed = false;
        while let Some(frame) = ws::frame(rest)? {
            let payload = &rest[frame.start..frame.end];
            match frame.opcode {
                opcode::TEXT | opcode::BINARY => self.messages(dialect, payload, &mut each)?,
                opcode::PING => self.pong(payload),
                opcode::PONG => {}
                opcode::CLOSE => closed = true,
                other => bail!("the server sent a frame with opcode {other}, which nobody needs here"),
            }
            rest = &rest[frame.end..];
        }
        if !rest.is_empty() {
            self.carry = rest.to_vec();
        }
        Ok(Got { bytes: read, closed })
    }

    /// Finds the messages in a frame's payload; the last message may continue in the next frame.
    fn messages(&mut self, dialect: Dialect, payload: &[u8], each: &mut impl FnMut(&mut Conn, Message)) -> Result<()> {
        let partial = std::mem::take(&mut self.partial);
        let joined = if partial.is_empty() { None } else { Some([&partial, payload].concat()) };
        let mut rest = joined.as_deref().unwrap_or(payload);
        while let Some((message, len)) = dialect.next(rest)? {
            rest = &rest[len..];
            match message {
                Message::Welcome if self.state == State::Greeting => self.state = State::Ready,
                // If the connection has failed, the next read reports it.
                Message::Ping => drop(self.write(&dialect.pong())),
                message => each(self, message),
            }
        }
        if !rest.is_empty() {
            self.partial = rest.to_vec();
        }
        Ok(())
    }

    fn pong(&mut self, payload: &[u8]) {
        let mut out = Vec::with_capacity(6 + payload.len());
        ws::push_masked(&mut out, opcode::PONG, payload);
        // If the connection has failed, the next read reports it.
        let _ = self.write(&out);
    }
}
