//! RFC 9112 and 9110: what is no request, where its body ends, and what every answer has, on both ports.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::{SOON, Serve};

/// All that is answered until the gateway ends the connection.
async fn talk(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let reading = stream.read_to_string(&mut answer);
    tokio::time::timeout(SOON, reading).await.unwrap_or_else(|_| panic!("no end: {request}")).unwrap();
    answer
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or_default()
}

/// The head of an answer: its first line, and its headers.
fn head(answer: &str) -> (String, BTreeMap<String, String>) {
    let head = answer.split("\r\n\r\n").next().unwrap_or_default();
    let mut lines = head.split("\r\n");
    let first = lines.next().unwrap_or_default().to_owned();
    let headers = lines.map(|line| line.split_once(": ").unwrap_or_else(|| panic!("{line}")));
    (first, headers.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect())
}

/// A refusal of ours, after which the connection is over.
fn is_refused(answer: &str, want: &str, request: &str) {
    assert_eq!(status(answer), want, "{request}: {answer}");
    assert_eq!(answer.matches("HTTP/1.").count(), 1, "{request}: {answer}");
    let headers = head(answer).1;
    assert!(headers.contains_key("bugfeed-version"), "{request}: {answer}");
    assert_eq!(headers["x-content-type-options"], "nosniff", "{request}: {answer}");
    let body = answer.split("\r\n\r\n").nth(1).unwrap_or_default();
    let body: serde_json::Value = serde_json::from_str(body).unwrap_or_else(|_| panic!("no JSON: {answer}"));
    assert!(body["error"].is_string(), "{body}");
}

#[tokio::test]
async fn a_request_names_one_host() {
    let serve = Serve::start(&[]).await;
    for (address, path) in [
        (serve.clients, "/"),
        (serve.clients, "/changes?bugs=1"),
        (serve.clients, "/hooks/plain"),
        (serve.admin, "/livez"),
        (serve.admin, "/api/keys"),
    ] {
        for hosts in
            ["", "Host: x\r\nHost: x\r\n", "Host: x\r\nHost: y\r\n", "Host: a b\r\n", "Host: a@x\r\n", "Host: x:y\r\n"]
        {
            // The second request is not looked at.
            let request = format!("GET {path} HTTP/1.1\r\n{hosts}\r\nGET /livez HTTP/1.1\r\nHost: x\r\n\r\n");
            is_refused(&talk(address, &request).await, "400", &request);
        }
    }
    for request in ["GET /client.js HTTP/1.0\r\n\r\n", "GET /client.js HTTP/1.1\r\nHost:\r\nConnection: close\r\n\r\n"]
    {
        assert_eq!(status(&talk(serve.clients, request).await), "200", "{request}");
    }
}

/// Whatever a proxy in front takes for the end of a body, nothing that stands in it is carried out as a request.
#[tokio::test]
async fn no_request_can_be_smuggled() {
    let serve = Serve::start(&[]).await;
    let smuggled = "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n";
    let chunks = "6\r\nbugs=1\r\n0\r\n\r\n";
    for (address, path) in [(serve.clients, "/changes"), (serve.clients, "/hooks/plain"), (serve.admin, "/api/keys")] {
        let post =
            |headers: &str, body: &str| format!("POST {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n{body}{smuggled}");
        for (headers, body, want) in [
            ("Transfer-Encoding: gzip, chunked\r\n", chunks, "501"),
            ("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n", chunks, "501"),
            ("Transfer-Encoding: identity, chunked\r\n", chunks, "501"),
            ("Transfer-Encoding: xchunked, chunked\r\n", chunks, "501"),
            ("Transfer-Encoding: chunked, chunked\r\n", chunks, "400"),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", chunks, "400"),
            ("Content-Length: 6\r\nTransfer-Encoding: chunked\r\n", chunks, "400"),
            ("Transfer-Encoding: chunked\r\nContent-Length: 6\r\n", chunks, "400"),
            ("Transfer-Encoding: chunked\r\ncontent-length :0\r\n", chunks, ""),
            ("Transfer-Encoding: chunked\r\nCONTENT-LENGTH:\t0\r\n", chunks, "400"),
        ] {
            let answer = talk(address, &post(headers, body)).await;
            if want.is_empty() {
                assert_eq!(status(&answer), "400", "{headers}: {answer}");
            } else {
                is_refused(&answer, want, headers);
            }
        }
        // These the HTTP library refuses, which knows no JSON.
        for headers in [
            "Content-Length: 6\r\nContent-Length: 7\r\n",
            "Content-Length: 6, 7\r\n",
            "Content-Length: 6, 6\r\n",
            "Content-Length: -6\r\n",
            "Content-Length: +6\r\n",
            "Content-Length: 0x6\r\n",
            "Content-Length:\r\n",
            "Transfer-Encoding: gzip\r\n",
            "Transfer-Encoding: chunked, gzip\r\n",
            "Transfer-Encoding : chunked\r\n",
            "Transfer-Encoding:\r\n",
            "X: y\r\n Transfer-Encoding: chunked\r\n",
            "X\r\n",
        ] {
            let answer = talk(address, &post(headers, "bugs=1")).await;
            assert_eq!((status(&answer), answer.matches("HTTP/1.").count()), ("400", 1), "{headers}: {answer}");
        }
        let old = post("Transfer-Encoding: chunked\r\n", chunks).replacen("HTTP/1.1", "HTTP/1.0", 1);
        let answer = talk(address, &old).await;
        assert_eq!((status(&answer), answer.matches("HTTP/1.").count()), ("400", 1), "{answer}");
    }
}

/// The request with both lengths comes after others on its connection, which are answered.
#[tokio::test]
async fn the_requests_before_a_smuggled_one_are_answered() {
    let serve = Serve::start(&[]).await;
    let post = |headers: &str, body: &str| format!("POST /changes HTTP/1.1\r\nHost: x\r\n{headers}\r\n{body}");
    let requests = [
        "GET /client.js HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
        post("Content-Length: 6\r\n", "bugs=1"),
        post("Transfer-Encoding: chunked\r\n", "6;a=b\r\nbugs=1\r\n0\r\nContent-Length: 5\r\n\r\n"),
        post("Content-Length: 6\r\nTransfer-Encoding: chunked\r\n", "6\r\nbugs=1\r\n0\r\n\r\n"),
    ];
    let answer = talk(serve.clients, &requests.concat()).await;
    let statuses: Vec<&str> = answer.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect();
    assert_eq!(statuses, ["200", "200", "200", "400"]);
}

/// `Expect: 100-continue` asks before a body is sent: for what is refused, it is not asked for.
#[tokio::test]
async fn a_body_that_is_too_large_is_not_asked_for() {
    let serve = Serve::start(&[]).await;
    let token = serve.dir.path().join("data/admin.token");
    let token = std::fs::read_to_string(token).unwrap_or_default();
    for (address, path, want) in [
        (serve.clients, "/changes", "413"),
        (serve.clients, "/sse", "413"),
        (serve.clients, "/default/changes", "413"),
        (serve.clients, "/kde/changes", "404"),
        (serve.clients, "/endpoints/ep_x/ready", "413"),
        (serve.clients, "/hooks/plain", "200"),
        (serve.admin, "/api/keys", "413"),
        (serve.admin, "/livez", "405"),
    ] {
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nContent-Length: 1000000000\r\n\
             Expect: 100-continue\r\n\r\n",
            token.trim()
        );
        let answer = talk(address, &request).await;
        assert_eq!(status(&answer), want, "{path}: {answer}");
        assert_eq!(answer.matches("HTTP/1.").count(), 1, "{path}: {answer}");
    }
    // One that is taken is asked for.
    let mut stream = TcpStream::connect(serve.clients).await.unwrap();
    let head =
        "POST /changes HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 6\r\nExpect: 100-continue\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut asked = [0; 25];
    tokio::time::timeout(SOON, stream.read_exact(&mut asked)).await.unwrap().unwrap();
    assert_eq!(asked, *b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"bugs=1").await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(SOON, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert_eq!(status(&answer), "200", "{answer}");
}

#[tokio::test]
async fn chunks_that_cannot_be_read_are_no_large_ones() {
    let serve = Serve::start(&["--max-message-bytes", "1024"]).await;
    let token = std::fs::read_to_string(serve.dir.path().join("data/admin.token")).unwrap_or_default();
    let long = format!("800\r\n{}\r\n0\r\n\r\n", "x".repeat(2048));
    for (body, want) in [
        ("xyz\r\n", "400"),
        ("-1\r\n", "400"),
        ("6\r\nbugs=1xx0\r\n\r\n", "400"),
        ("ffffffffffffffffff\r\n", "400"),
        (long.as_str(), "413"),
    ] {
        for (address, path) in [
            (serve.clients, "/changes"),
            (serve.clients, "/sse"),
            (serve.clients, "/hooks/plain"),
            (serve.admin, "/api/keys"),
        ] {
            if want == "413" && !matches!(path, "/changes" | "/sse") {
                continue;
            }
            let auth = format!("Authorization: Bearer {}", token.trim());
            let request =
                format!("POST {path} HTTP/1.1\r\nHost: x\r\n{auth}\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
            let answer = talk(address, &request).await;
            assert_eq!(status(&answer), want, "{path} {body}: {answer}");
        }
    }
}

/// RFC 9110 §9.3.2: HEAD has the head of GET, and no body. And every answer says `nosniff`.
#[tokio::test]
async fn head_is_answered_as_get_is() {
    let serve = Serve::start(&[]).await;
    let clients = [
        "/",
        "/default/",
        "/default",
        "/page.json",
        "/page/main.js",
        "/page/none",
        "/client.js",
        "/client-fallback.js",
        "/changes?bugs=1",
        "/changes",
        "/default/changes?bugs=1&wait=60",
        "/kde/changes",
        "/none/of/these",
        "/kde",
        "/sse",
        "/kde/sse",
        "/hooks/plain",
        "/demo/touch",
        "/endpoints/ep_x/changes",
    ];
    let admin = ["/livez", "/readyz", "/metrics", "/none", "/api/keys", "/api/none", "/api/overview"];
    let paths = clients.map(|path| (serve.clients, path)).into_iter().chain(admin.map(|path| (serve.admin, path)));
    for (address, path) in paths {
        let ask = async |method: &str| {
            let path = if method == "GET" { path.replace("&wait=60", "") } else { path.to_owned() };
            talk(address, &format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).await
        };
        let (by_get, by_head) = (ask("GET").await, ask("HEAD").await);
        assert!(by_head.ends_with("\r\n\r\n"), "a body: {by_head}");
        let ((first, mut get), (same, mut head)) = (head(&by_get), head(&by_head));
        assert_eq!(get["x-content-type-options"], "nosniff", "{path}");
        for headers in [&mut get, &mut head] {
            headers.remove("date");
            if path == "/metrics" {
                headers.remove("content-length");
            }
        }
        assert_eq!((first, get), (same, head), "{path}");
    }
    // An answer without an end: only its head is read.
    let mut heads = Vec::new();
    for method in ["GET", "HEAD"] {
        let mut stream = TcpStream::connect(serve.clients).await.unwrap();
        stream.write_all(format!("{method} /sse?bugs=1 HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
        let mut bytes = Vec::new();
        while !bytes.ends_with(b"\r\n\r\n") {
            bytes.push(tokio::time::timeout(SOON, stream.read_u8()).await.unwrap().unwrap());
        }
        let (first, mut headers) = head(&String::from_utf8(bytes).unwrap());
        headers.remove("date");
        assert_eq!(headers["x-content-type-options"], "nosniff");
        heads.push((first, headers));
        if method == "HEAD" {
            let end = tokio::time::timeout(SOON, stream.read(&mut [0; 10])).await.expect("the end").unwrap();
            assert_eq!(end, 0, "no body");
        }
    }
    assert_eq!(heads[0], heads[1]);
}

/// Several lines of a header are one list.
#[tokio::test]
async fn a_handshake_may_spread_its_lists_over_lines() {
    let serve = Serve::start(&[]).await;
    let mut stream = TcpStream::connect(serve.clients).await.unwrap();
    let request = "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\nConnection: keep-alive\r\nUpgrade: websocket\r\n\
        Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = [0; 13];
    tokio::time::timeout(SOON, stream.read_exact(&mut answer)).await.unwrap().unwrap();
    assert_eq!(answer, *b"HTTP/1.1 101 ");
}
