//! What a case of WebSocket is made of, and the raw client that plays it.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::SOON;

pub const TEXT: u8 = 0x1;
pub const BINARY: u8 = 0x2;
pub const MORE: u8 = 0x0;
pub const CLOSE: u8 = 0x8;
pub const PING: u8 = 0x9;
pub const PONG: u8 = 0xA;

/// A frame with FIN, with a mask, and with the shortest length.
pub fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    raw_frame(0x80 | opcode, payload)
}

/// A frame that is not the last of its message.
pub fn part(opcode: u8, payload: &[u8]) -> Vec<u8> {
    raw_frame(opcode, payload)
}

/// A frame with any first byte.
pub fn raw_frame(first: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];
    let mut bytes = vec![first];
    match payload.len() {
        short @ 0..=125 => bytes.push(0x80 | u8::try_from(short).unwrap()),
        len => match u16::try_from(len) {
            Ok(len) => bytes.extend([&[0xFE][..], &len.to_be_bytes()].concat()),
            Err(_) => bytes.extend([&[0xFF][..], &(len as u64).to_be_bytes()].concat()),
        },
    }
    bytes.extend(MASK);
    bytes.extend(payload.iter().enumerate().map(|(at, byte)| byte ^ MASK[at % 4]));
    bytes
}

/// A close frame with this code.
pub fn close(code: u16, reason: &[u8]) -> Vec<u8> {
    frame(CLOSE, &[&code.to_be_bytes()[..], reason].concat())
}

/// In which pieces the bytes of a case are written.
#[derive(Clone, Copy, Debug)]
pub enum Chop {
    /// All in one.
    Whole,
    /// Each frame, or what else stands together in the list, on its own.
    Frames,
    /// So many bytes at a time.
    Octets(usize),
}

/// What a gateway sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// An error reply; it stands for an echo.
    Reply,
    Pong(Vec<u8>),
    /// A close frame with this code.
    Close(u16),
    /// The connection ended without one.
    End,
}

/// One case: frames that are sent, and what comes. If it does not end with a close frame, the client closes.
pub struct Case {
    pub id: String,
    pub frames: Vec<Vec<u8>>,
    pub chop: Chop,
    pub want: Vec<Heard>,
}

pub fn case(id: impl Into<String>, frames: Vec<Vec<u8>>, chop: Chop, want: &[Heard]) -> Case {
    Case { id: id.into(), frames, chop, want: want.to_vec() }
}

/// Plays cases, one after the other, each on a connection of its own.
pub async fn play(address: SocketAddr, cases: Vec<Case>) {
    let mut wrong = Vec::new();
    for case in cases {
        let heard = tokio::time::timeout(SOON, run(address, &case)).await;
        let mut want = case.want.clone();
        if !matches!(want.last(), Some(Heard::Close(_))) {
            want.push(Heard::Close(1000));
        }
        match heard {
            Ok(heard) if heard == want => {}
            Ok(heard) => wrong.push(format!("{}: {heard:?} instead of {want:?}", case.id)),
            Err(_) => wrong.push(format!("{}: nothing came in time", case.id)),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

async fn run(address: SocketAddr, case: &Case) -> Vec<Heard> {
    let mut stream = shake_hands(address).await;
    stream.set_nodelay(true).unwrap();
    let (mut reading, mut writing) = stream.split();
    let ends_itself = matches!(case.want.last(), Some(Heard::Close(_)));
    let all = case.frames.concat();
    let pieces: Vec<&[u8]> = match case.chop {
        Chop::Whole => vec![&all],
        Chop::Frames => case.frames.iter().map(Vec::as_slice).collect(),
        Chop::Octets(size) => all.chunks(size).collect(),
    };
    let sending = async {
        for piece in pieces {
            // A gateway that closes does not read on.
            if writing.write_all(piece).await.is_err() {
                return;
            }
            tokio::task::yield_now().await;
        }
        if !ends_itself {
            let _ = writing.write_all(&close(1000, b"")).await;
        }
    };
    let hearing = async {
        let mut heard = Vec::new();
        while !matches!(heard.last(), Some(Heard::Close(_) | Heard::End)) {
            heard.extend(next(&mut reading).await);
        }
        heard
    };
    // Both at once, so that neither side waits for the other to read.
    tokio::join!(sending, hearing).1
}

/// What the next frame is; nothing, if it is a ping.
async fn next(reading: &mut (impl tokio::io::AsyncRead + Unpin)) -> Option<Heard> {
    let Ok(first) = reading.read_u8().await else { return Some(Heard::End) };
    let len = match reading.read_u8().await.unwrap() {
        126 => u64::from(reading.read_u16().await.unwrap()),
        127 => reading.read_u64().await.unwrap(),
        short => u64::from(short),
    };
    let mut payload = vec![0; usize::try_from(len).unwrap()];
    reading.read_exact(&mut payload).await.unwrap();
    match first {
        0x81 => {
            let text = String::from_utf8(payload).expect("the gateway sends UTF-8");
            assert!(text.contains(r#""result":"error""#), "{text}");
            Some(Heard::Reply)
        }
        0x88 => Some(Heard::Close(u16::from_be_bytes([payload[0], payload[1]]))),
        0x89 => None,
        0x8A => Some(Heard::Pong(payload)),
        other => panic!("a frame that begins with {other:#x}"),
    }
}

pub async fn shake_hands(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "GET / HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await.unwrap());
    }
    assert!(answer.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&answer));
    stream
}
