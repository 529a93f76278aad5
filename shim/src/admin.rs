//! `GET /livez` and `GET /readyz`, by hand: a page of HTTP/1.1 does not need a framework.
//!
//! Goes in: a bound listener. Comes out: 200, or 503 with the reason. Never reads more than a small request, never waits
//! long for one, never serves more than a few at a time.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::events::Telemetry;

/// A request line and its headers must fit.
const REQUEST_MAX: usize = 8192;
/// The longest time for one request, from accept to close.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Requests at a time.
const CONCURRENT: usize = 16;

/// Answers until stopped.
pub async fn serve(listener: TcpListener, telemetry: Arc<Telemetry>, stop: CancellationToken) {
    let mut requests = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            Some(_) = requests.join_next() => {}
            accepted = listener.accept(), if requests.len() < CONCURRENT => match accepted {
                Ok((socket, _)) => {
                    let telemetry = telemetry.clone();
                    requests.spawn(async move {
                        // Whoever asks too slowly, or hangs up, is nobody's trouble but their own.
                        let _ = tokio::time::timeout(REQUEST_TIMEOUT, answer(socket, &telemetry)).await;
                    });
                }
                // Out of file descriptors, for instance: accepting again at once would only spin.
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            },
        }
    }
}

async fn answer(mut socket: TcpStream, telemetry: &Telemetry) -> std::io::Result<()> {
    let mut request = Vec::with_capacity(512);
    while !request.windows(4).any(|window| window == b"\r\n\r\n") {
        if request.len() > REQUEST_MAX || socket.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    let line = request.split(|b| *b == b'\r').next().unwrap_or_default();
    let (status, body) = respond(&String::from_utf8_lossy(line), telemetry);
    let response = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nCache-Control: \
         no-store\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    socket.write_all(response.as_bytes()).await?;
    socket.shutdown().await
}

fn respond(line: &str, telemetry: &Telemetry) -> (&'static str, String) {
    let mut words = line.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path = target.split('?').next().unwrap_or_default();
    match (method, path) {
        ("GET", "/livez") => ("200 OK", "ok\n".to_owned()),
        ("GET", "/readyz") => match telemetry.ready() {
            Ok(()) => ("200 OK", "ok\n".to_owned()),
            Err(reason) => ("503 Service Unavailable", format!("{reason}\n")),
        },
        (_, "/livez" | "/readyz") => ("405 Method Not Allowed", "use GET\n".to_owned()),
        _ => ("404 Not Found", "try /livez or /readyz\n".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::Part;

    #[test]
    fn answers() {
        let telemetry = Telemetry::default();
        let status = |line: &str| respond(line, &telemetry).0[..3].to_owned();
        assert_eq!(status("GET /livez HTTP/1.1"), "200");
        assert_eq!(status("GET /readyz?x=1 HTTP/1.1"), "200");
        assert_eq!(status("POST /readyz HTTP/1.1"), "405");
        assert_eq!(status("GET / HTTP/1.1"), "404");
        assert_eq!(status(""), "404");
        telemetry.down(Part::Bus, &"connection refused");
        assert_eq!(status("GET /livez HTTP/1.1"), "200");
        assert_eq!(respond("GET /readyz HTTP/1.1", &telemetry).1, "bus: connection refused\n");
    }
}
