//! One client's connection: its socket, where it stands, and what it has of a frame that is not all there.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use anyhow::{Context as _, Result, bail};
use mio::net::TcpStream;

use crate::dialect::{Dialect, Message};
use crate::plan::Index;
use crate::ws::{self, opcode};

/// How far a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Waits for the connection, then for the answer to its handshake.
    Opening,
    /// Waits for the answer to its greeting, where the protocol has one.
    Greeting,
    /// May subscribe, or gets updates.
    Ready,
    /// Waits for the reply to its subscription.
    Subscribing,
    /// Is over.
    Closed,
}

/// One client.
#[derive(Debug)]
pub struct Conn {
    /// Its socket.
    pub stream: TcpStream,
    /// How far it is.
    pub state: State,
    /// What it watches, ascending.
    pub bugs: Box<[u32]>,
    /// The newest update seen of each.
    pub last: Box<[Index]>,
    /// Reads slowly on purpose.
    pub slow: bool,
    connected: bool,
    /// Bytes read that are no whole frame yet.
    carry: Vec<u8>,
    /// Bytes of a protocol within WebSocket that are no whole message yet.
    partial: Vec<u8>,
    /// Bytes yet to be written.
    out: Vec<u8>,
}

/// What came out of reading once.
#[derive(Debug, Default)]
pub struct Got {
    /// Bytes; 0 when there was nothing.
    pub bytes: usize,
    /// The connection ended.
    pub closed: bool,
}

impl Conn {
    /// Begins to connect.
    ///
    /// # Errors
    /// When there is no port left at the source address, or no file.
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

    /// Writes what there is to write, and on.
    ///
    /// # Errors
    /// When the connection failed.
    pub fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.out.extend_from_slice(bytes);
        self.flush()
    }

    /// Goes on writing: the socket takes more, or is connected now.
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

    /// Whether the first bytes are written.
    pub fn opened(&self) -> bool {
        self.connected && self.out.is_empty()
    }

    /// Reads once, and hands every whole message to `each`.
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
                            // If the connection failed, the next read says so.
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

    /// Finds the messages in a frame's payload; the last one may go on in the next frame.
    fn messages(&mut self, dialect: Dialect, payload: &[u8], each: &mut impl FnMut(&mut Conn, Message)) -> Result<()> {
        let partial = std::mem::take(&mut self.partial);
        let joined = if partial.is_empty() { None } else { Some([&partial, payload].concat()) };
        let mut rest = joined.as_deref().unwrap_or(payload);
        while let Some((message, len)) = dialect.next(rest)? {
            rest = &rest[len..];
            match message {
                Message::Welcome if self.state == State::Greeting => self.state = State::Ready,
                // If the connection failed, the next read says so.
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
        // If the connection failed, the next read says so.
        let _ = self.write(&out);
    }
}
