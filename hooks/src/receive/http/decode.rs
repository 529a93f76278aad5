//! Compressed bodies: `Content-Encoding: gzip` and `deflate`, up to a bound on what comes out.

use std::io::{self, Read};

use flate2::read::{MultiGzDecoder, ZlibDecoder};

use crate::receive::received::Failure;

/// How a body is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Gzip,
    Deflate,
}

/// What `Content-Encoding` says. `None`: the body is as it is.
///
/// # Errors
/// It is compressed in a way that is not read here, or more than once.
pub(super) fn encoding(header: Option<&str>) -> Result<Option<Encoding>, Failure> {
    match header.unwrap_or_default().trim().to_ascii_lowercase().as_str() {
        "" | "identity" => Ok(None),
        "gzip" | "x-gzip" => Ok(Some(Encoding::Gzip)),
        "deflate" => Ok(Some(Encoding::Deflate)),
        _ => Err(Failure {
            error: "the body is compressed in a way that is not read here (Content-Encoding)".to_owned(),
            fix: "send it uncompressed, or with Content-Encoding: gzip".to_owned(),
        }),
    }
}

/// Decompresses a body. Takes memory for what comes out, up to `most` bytes.
///
/// # Errors
/// More than `most` bytes come out, or the body is not what it says.
pub(super) fn decode(encoding: Encoding, body: &[u8], most: usize) -> Result<Vec<u8>, Failure> {
    let read = match encoding {
        Encoding::Gzip => bounded(MultiGzDecoder::new(body), most),
        Encoding::Deflate => bounded(ZlibDecoder::new(body), most),
    };
    match read {
        Ok(bytes) if bytes.len() <= most => Ok(bytes),
        Ok(_) => Err(Failure {
            error: format!("the body has more than {most} bytes once it is decompressed"),
            fix: "send fewer items in a request".to_owned(),
        }),
        Err(_) => Err(Failure {
            error: "the body is not compressed as its Content-Encoding says".to_owned(),
            fix: "send it uncompressed, or with Content-Encoding: gzip".to_owned(),
        }),
    }
}

/// Reads one byte more than is allowed, at most.
fn bounded(decoder: impl Read, most: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    decoder.take(most as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::{GzEncoder, ZlibEncoder};

    use super::*;

    #[test]
    fn what_comes_out_is_bounded() {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
        gzip.write_all(&vec![b' '; 100_000]).unwrap();
        let bomb = gzip.finish().unwrap();
        assert!(bomb.len() < 300);
        assert_eq!(decode(Encoding::Gzip, &bomb, 100_000).unwrap().len(), 100_000);
        assert!(decode(Encoding::Gzip, &bomb, 99_999).unwrap_err().error.contains("99999"));
        assert!(decode(Encoding::Gzip, &bomb[..bomb.len() - 9], 100_000).is_err(), "it is cut");
        assert!(decode(Encoding::Gzip, b"{}", 100).is_err());
        let mut deflate = ZlibEncoder::new(Vec::new(), Compression::fast());
        deflate.write_all(b"{}").unwrap();
        assert_eq!(decode(Encoding::Deflate, &deflate.finish().unwrap(), 2).unwrap(), b"{}");
    }

    #[test]
    fn which_encodings_are_read() {
        for (header, want) in [(None, None), (Some(" GZIP"), Some(Encoding::Gzip)), (Some("identity"), None)] {
            assert_eq!(encoding(header), Ok(want));
        }
        for header in ["br", "gzip, gzip", "zstd"] {
            assert!(encoding(Some(header)).is_err(), "{header}");
        }
    }
}
