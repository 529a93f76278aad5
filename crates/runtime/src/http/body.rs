//! Reading the body of a request, within bounds.
//!
//! Goes in: a body, the most that is taken of it, and the time that it may take. Comes out: all of it, or why not. A body
//! that declares too much is refused before any of it is asked for (`100 Continue`).

use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use bytes::{Bytes, BytesMut};

/// Why a body was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFault {
    /// It has more bytes than are taken, or declares more.
    TooLarge,
    /// It did not arrive in time.
    Slow,
    /// The sender left, or the chunks cannot be read.
    Broken,
}

/// Whether a body declares more than `most` bytes. This does not ask for the body.
pub fn declares_more_than(body: &Body, most: usize) -> bool {
    body.size_hint().lower() > most as u64
}

/// Reads a body of at most `most` bytes, which may take this time to arrive.
///
/// # Errors
/// Says why it was not read. The rest of it is left on the connection, which hyper closes after the answer.
pub async fn read(mut body: Body, most: usize, time: Duration) -> Result<Bytes, BodyFault> {
    if declares_more_than(&body, most) {
        return Err(BodyFault::TooLarge);
    }
    let reading = async {
        let mut bytes = BytesMut::new();
        while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            // What is no data are trailers, which nobody here reads.
            let Ok(piece) = frame.map_err(|_| BodyFault::Broken)?.into_data() else { continue };
            if bytes.len() + piece.len() > most {
                return Err(BodyFault::TooLarge);
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes.freeze())
    };
    tokio::time::timeout(time, reading).await.unwrap_or(Err(BodyFault::Slow))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_body_is_taken_up_to_the_bound() {
        let time = Duration::from_secs(20);
        assert_eq!(read(Body::from("hello"), 5, time).await, Ok(Bytes::from_static(b"hello")));
        assert_eq!(read(Body::empty(), 0, time).await, Ok(Bytes::new()));
        assert_eq!(read(Body::from("hello"), 4, time).await, Err(BodyFault::TooLarge));
        assert!(declares_more_than(&Body::from("hello"), 4) && !declares_more_than(&Body::from("hello"), 5));
    }
}
