//! How connections are ended: with an answer that the peer can read, and without a reset that overtakes it.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::VERSION_HEADER;
use super::wire::Wire;

/// The longest time for which a connection is still read from while it is closed.
const LINGER: Duration = Duration::from_secs(1);

/// Answers 503: there is no room for this connection.
pub(super) async fn turn_away(stream: TcpStream) {
    let mut stream = Wire::from(stream);
    let text = "{\"error\":\"this gateway is full; try again later\"}";
    // Pages of any site may read this answer, because it tells them nothing secret.
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nContent-Type: application/json\r\nConnection: close\r\n\
         {VERSION_HEADER}: {}\r\nAccess-Control-Allow-Origin: *\r\nAccess-Control-Expose-Headers: \
         {VERSION_HEADER}, retry-after\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nContent-Length: {}\r\n\r\n{text}",
        crate::VERSION,
        text.len()
    );
    // A new connection's buffer has room for the answer; an error means that the peer has left.
    let _ = stream.write_all(answer.as_bytes()).await;
    linger_close(&mut stream).await;
}

/// Closes a connection to which nothing can be said.
pub(super) async fn leave(stream: TcpStream) {
    linger_close(&mut Wire::from(stream)).await;
}

/// Answers 400 to a peer that speaks HTTP to a port that speaks TLS.
pub(super) async fn speak_tls(stream: TcpStream) {
    let mut stream = Wire::from(stream);
    let text = "{\"error\":\"this port speaks TLS\",\"fix\":\"use https:// or wss://\"}";
    let answer = format!(
        "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nConnection: close\r\n{VERSION_HEADER}: {}\r\n\
         X-Content-Type-Options: nosniff\r\nContent-Length: {}\r\n\r\n{text}",
        crate::VERSION,
        text.len()
    );
    // As above.
    let _ = stream.write_all(answer.as_bytes()).await;
    linger_close(&mut stream).await;
}

/// Ends a connection. To a peer that has begun a request and not ended its head in time, it says so first.
pub(super) async fn part(stream: &mut Wire, is_late: bool) {
    if is_late {
        let text = "{\"error\":\"the head of the request did not arrive in time\",\"fix\":\"send it again\"}";
        let answer = format!(
            "HTTP/1.1 408 Request Timeout\r\nContent-Type: application/json\r\nConnection: close\r\n\
             {VERSION_HEADER}: {}\r\nX-Content-Type-Options: nosniff\r\nContent-Length: {}\r\n\r\n{text}",
            crate::VERSION,
            text.len()
        );
        // An error means that the peer has left; one that takes nothing is not waited for.
        let _ = tokio::time::timeout(LINGER, stream.write_all(answer.as_bytes())).await;
    }
    linger_close(stream).await;
}

/// Closes politely: sends FIN, then reads for a moment until the peer closes. Why: bytes that arrive after a plain
/// close are answered with a reset. The reset would stop a peer that is still writing its refused request, and might
/// overtake the refusal.
async fn linger_close(stream: &mut Wire) {
    let parting = async {
        stream.shutdown().await?;
        let mut scratch = [0; 4096];
        while stream.read(&mut scratch).await? > 0 {}
        std::io::Result::Ok(())
    };
    // The peer has been answered, so errors and the timeout do not matter.
    let _ = tokio::time::timeout(LINGER, parting).await;
}
