//! Reads the PROXY header with which a proxy begins a connection.
//!
//! Goes in: a connection of a proxy that is named. Comes out: whose connection it is. Nothing after the header is read from the
//! socket, so that TLS or HTTP may begin there.

use std::time::Duration;

use bugfeed_core::client_address::proxy_header::{self, BadHeader, Progress, Source};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

/// Why a connection has no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoHeader {
    /// Its first bytes are none.
    Bad(BadHeader),
    /// It did not arrive in time.
    Late,
    /// The proxy has gone. If nothing was read, it has only looked whether somebody is here.
    Gone { silent: bool },
}

/// Reads the header, which may take this time.
///
/// # Errors
/// If there is none.
pub(super) async fn read(stream: &mut TcpStream, time: Duration) -> Result<Source, NoHeader> {
    let reading = async {
        let mut bytes = Vec::with_capacity(64);
        loop {
            match proxy_header::read(&bytes).map_err(NoHeader::Bad)? {
                Progress::Complete(source) => return Ok(source),
                Progress::Missing(missing) => {
                    let read = (&mut *stream).take(missing as u64).read_buf(&mut bytes).await;
                    if !matches!(read, Ok(1..)) {
                        return Err(NoHeader::Gone { silent: bytes.is_empty() });
                    }
                }
            }
        }
    };
    tokio::time::timeout(time, reading).await.unwrap_or(Err(NoHeader::Late))
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        proxy.set_nodelay(true).unwrap();
        (proxy, listener.accept().await.unwrap().0)
    }

    const SOON: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn what_follows_the_header_stays_in_the_socket() {
        let version_2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0f\xc0\0\x02\x01\x0a\0\0\x01\x1f\x90\0\x50\x04\0\0";
        for header in [&b"PROXY TCP4 192.0.2.1 10.0.0.1 8080 80\r\n"[..], version_2] {
            let (mut proxy, mut stream) = pair().await;
            let all = [header, b"GET"].concat();
            // One byte at a time: the reader has taken each before the next is sent.
            let sending = async {
                for byte in &all {
                    proxy.write_all(&[*byte]).await.unwrap();
                    tokio::task::yield_now().await;
                }
            };
            let (source, ()) = tokio::join!(read(&mut stream, SOON), sending);
            assert_eq!(source, Ok(Source::Client("192.0.2.1:8080".parse().unwrap())));
            drop(proxy);
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).await.unwrap();
            assert_eq!(rest, b"GET");
        }
    }

    #[tokio::test]
    async fn who_sends_none_is_told_apart() {
        let (mut proxy, mut stream) = pair().await;
        proxy.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        assert_eq!(read(&mut stream, SOON).await, Err(NoHeader::Bad(BadHeader::Absent)));
        let (mut proxy, mut stream) = pair().await;
        proxy.write_all(b"PROXY TCP4 ").await.unwrap();
        assert_eq!(read(&mut stream, Duration::from_millis(50)).await, Err(NoHeader::Late));
        let (proxy, mut stream) = pair().await;
        drop(proxy);
        assert_eq!(read(&mut stream, SOON).await, Err(NoHeader::Gone { silent: true }));
        let (mut proxy, mut stream) = pair().await;
        proxy.write_all(b"PROXY").await.unwrap();
        drop(proxy);
        assert_eq!(read(&mut stream, SOON).await, Err(NoHeader::Gone { silent: false }));
    }
}
