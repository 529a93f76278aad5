//! A captured request: the body alone, or the whole as HTTP/1.1 text.
//!
//! Goes in: the bytes of a file. Comes out: path, headers and body. It is for files that people have, so a line may end
//! without a carriage return, and a missing or wrong `Content-Length` is no error.

/// A request from a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Captured {
    /// The path, where the file has a request line.
    pub path: Option<String>,
    /// The headers.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// What is unusual, in words.
    pub remarks: Vec<String>,
}

/// Reads a file. What does not begin with a request line is a body.
pub fn read(bytes: &[u8]) -> Captured {
    let (line, rest) = next_line(bytes);
    let Some(path) = path_of(&line) else {
        let remark = "the file is a body alone: no header is known, and no signature can be checked".to_owned();
        return Captured { path: None, headers: Vec::new(), body: bytes.to_vec(), remarks: vec![remark] };
    };
    let (mut headers, mut rest) = (Vec::new(), rest);
    let mut remarks = Vec::new();
    loop {
        let (line, after) = next_line(rest);
        let at_end = rest.is_empty();
        rest = after;
        if line.is_empty() || at_end {
            break;
        }
        match line.split_once(':') {
            Some((name, value)) => headers.push((name.trim().to_owned(), value.trim().to_owned())),
            None => remarks.push(format!("this is no header: {}", super::lookup::short(&line))),
        }
    }
    let header = |wanted: &str| headers.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted));
    let mut body = rest.to_vec();
    if header("transfer-encoding").is_some_and(|(_, value)| value.to_ascii_lowercase().contains("chunked")) {
        match unchunked(rest) {
            Some(whole) => body = whole,
            None => remarks.push("Transfer-Encoding says chunked, but the body is not in chunks".to_owned()),
        }
    } else if let Some(length) = header("content-length").and_then(|(_, value)| value.parse::<usize>().ok()) {
        if length < body.len() && body[length..].trim_ascii().is_empty() {
            // An editor has added a line's end.
            body.truncate(length);
        } else if length != body.len() {
            remarks.push(format!("Content-Length says {length}, but the body has {} bytes", body.len()));
        }
    }
    if let Some((_, encoding)) = header("content-encoding") {
        remarks.push(format!("the body is taken as it is, although Content-Encoding says {encoding}"));
    }
    Captured { path: Some(path), headers, body, remarks }
}

/// The path of `POST /hooks/x HTTP/1.1`.
fn path_of(line: &str) -> Option<String> {
    let mut parts = line.split(' ');
    let (method, path, version) = (parts.next()?, parts.next()?, parts.next()?);
    let good = method.bytes().all(|byte| byte.is_ascii_uppercase()) && version.starts_with("HTTP/");
    (good && !method.is_empty() && parts.next().is_none()).then(|| path.to_owned())
}

/// A line without its end, and what follows it.
fn next_line(bytes: &[u8]) -> (String, &[u8]) {
    let end = bytes.iter().position(|&byte| byte == b'\n').unwrap_or(bytes.len());
    let line = bytes[..end].strip_suffix(b"\r").unwrap_or(&bytes[..end]);
    (String::from_utf8_lossy(line).into_owned(), bytes.get(end + 1..).unwrap_or_default())
}

/// A body that came in chunks.
fn unchunked(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let (line, after) = next_line(rest);
        let size = usize::from_str_radix(line.split(';').next()?.trim(), 16).ok()?;
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(after.get(..size)?);
        let (end, after) = next_line(&after[size..]);
        if !end.is_empty() {
            return None;
        }
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_and_whole_requests() {
        let alone = read(b"{\"bug\": 1}\n");
        assert_eq!((alone.path, alone.body.as_slice()), (None, b"{\"bug\": 1}\n".as_slice()));
        let whole = read(b"POST /hooks/x HTTP/1.1\r\nHost: h\r\nX-A:  b: c \r\n\r\n{\"bug\":1}\r\n");
        assert_eq!(whole.path.as_deref(), Some("/hooks/x"));
        assert_eq!(whole.headers[1], ("X-A".to_owned(), "b: c".to_owned()));
        assert_eq!(whole.body, b"{\"bug\":1}\r\n");
        let cut = read(b"POST / HTTP/1.1\nContent-Length: 9\n\n{\"bug\":1}\n");
        assert_eq!((cut.body.as_slice(), cut.remarks.len()), (b"{\"bug\":1}".as_slice(), 0));
        let wrong = read(b"POST / HTTP/1.1\nContent-Length: 99\nnonsense\n\n{}");
        assert_eq!(wrong.remarks.len(), 2);
        let chunks =
            read(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n3;x=y\r\n\r\n \r\n0\r\n\r\n");
        assert_eq!(chunks.body, b"{}\r\n ");
        for bad in ["zz\r\n", "5\r\n{}", "2\r\n{}x\r\n", "fffffffffffffffff\r\n", ""] {
            let text = format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{bad}");
            assert_eq!(read(text.as_bytes()).remarks.len(), 1, "{bad}");
        }
        assert_eq!(read(b"POST / HTTP/1.1").body, b"");
    }
}
