//! Clients that show tokens, to an all-in-one that wants some: over WebSocket, SSE and long-poll.

mod signed;
mod watching;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bugfeed_protocol::When;
use bugfeed_testbed::eventually;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Error as WsError;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use crate::support::{Client, SOON, Serve, get};

const T: &str = "2014-04-03T21:13:45";
const TOKEN: &str = "a-token-that-nobody-knows";
const NEEDED: &str = r#"{"command":"subscribe","result":"error","error":"a token is needed: send it in hello, or as Authorization: Bearer"}"#;
const ALL: &str = "feeds = '*'\nbugs = '*'";

/// A file of tokens: name, which is the token as well if it is long enough, and what it allows.
fn file(dir: &Path, tokens: &[(&str, &str)]) -> PathBuf {
    let path = dir.join("tokens.toml");
    let entry = |(token, more): &(&str, &str)| format!("[[token]]\nname = '{token}'\ntoken = '{token}'\n{more}\n");
    // A reader never sees half a file.
    let new = dir.join("tokens.new");
    std::fs::write(&new, tokens.iter().map(entry).collect::<String>()).unwrap();
    std::fs::rename(new, &path).unwrap();
    path
}

/// An all-in-one that takes these tokens.
async fn serve(tokens: &[(&str, &str)], options: &[&str]) -> Serve {
    let dir = tempfile::tempdir().unwrap();
    let path = file(dir.path(), tokens);
    Serve::start_in(dir, &[&["--tokens", path.to_str().unwrap()], options].concat()).await
}

/// A date so long from now, as the file has it.
fn soon(after: Duration) -> String {
    format!("expires = '{}'", When::from_system_time(SystemTime::now() + after))
}

/// A WebSocket with these headers.
async fn connect(serve: &Serve, headers: &[(&'static str, &str)]) -> Result<(Client, Option<String>), WsError> {
    let mut request = serve.url().into_client_request().unwrap();
    for (name, value) in headers {
        request.headers_mut().append(*name, value.parse().unwrap());
    }
    let (socket, answer) = tokio_tungstenite::connect_async(request).await?;
    let selected = answer.headers().get("sec-websocket-protocol").map(|value| value.to_str().unwrap().to_owned());
    Ok((Client(socket), selected))
}

async fn with_token(serve: &Serve, token: &str) -> Client {
    connect(serve, &[("authorization", &format!("Bearer {token}"))]).await.unwrap().0
}

/// Status, head and body of an answer.
async fn ask(address: SocketAddr, line: &str, headers: &str) -> (u16, String, Value) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("{line} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(SOON, stream.read_to_string(&mut answer)).await.expect("an answer in time").unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    (status, head.to_owned(), serde_json::from_str(body).unwrap_or_default())
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

async fn metric(serve: &Serve, line: &str) {
    let found = async || {
        let page = get(serve.admin, "/metrics").await.1;
        if page.lines().any(|found| found == line) { Ok(()) } else { Err(page) }
    };
    eventually(SOON, line, found).await.unwrap();
}

/// The data of the events that come, up to one with this text; then whatever comes up to the end.
struct Events(TcpStream, String);

impl Events {
    async fn open(serve: &Serve, query: &str, headers: &str) -> Events {
        let mut stream = TcpStream::connect(serve.clients).await.unwrap();
        let request = format!("GET /sse?{query} HTTP/1.1\r\nHost: x\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        Events(stream, String::new())
    }

    async fn until(&mut self, text: &str) {
        let mut piece = [0; 4096];
        while !self.1.contains(text) {
            let read = tokio::time::timeout(SOON, self.0.read(&mut piece)).await.expect("an event in time").unwrap();
            assert!(read > 0, "no {text} in {}", self.1);
            self.1.push_str(std::str::from_utf8(&piece[..read]).unwrap());
        }
    }

    async fn rest(mut self) -> String {
        let reading = self.0.read_to_string(&mut self.1);
        tokio::time::timeout(SOON, reading).await.expect("the end in time").unwrap();
        self.1
    }
}

#[tokio::test]
async fn a_token_comes_by_header_in_hello_or_as_a_subprotocol() {
    let serve = serve(&[(TOKEN, ALL)], &[]).await;
    let mut by_header = with_token(&serve, TOKEN).await;
    let mut in_hello = serve.client().await;
    let reply = in_hello.ask(json!({ "command": "hello", "token": TOKEN }).to_string()).await;
    assert!(reply.contains(r#""result":"ok""#) && !reply.contains("expires"), "{reply}");
    let offers = [("sec-websocket-protocol", &*format!("bugfeed, bugfeed.bearer.{TOKEN}"))];
    let (mut by_protocol, selected) = connect(&serve, &offers).await.unwrap();
    assert_eq!(selected.as_deref(), Some("bugfeed"), "the token is not repeated");
    for client in [&mut by_header, &mut in_hello, &mut by_protocol] {
        client.subscribe(&[1]).await;
    }
    serve.touch(1, T).await;
    for client in [&mut by_header, &mut in_hello, &mut by_protocol] {
        assert_eq!(client.update().await, (1, T.to_owned()));
    }
    let refused = connect(&serve, &[("sec-websocket-protocol", &format!("bugfeed.bearer.{TOKEN}"))]).await;
    let Err(WsError::Http(answer)) = refused.map(drop) else { panic!("it is let in") };
    assert_eq!(answer.status(), 400);
    for (headers, kind) in [
        (("authorization", "Bearer another-long-token"), "unknown"),
        (("authorization", "Bearer two words"), "malformed"),
        (("sec-websocket-protocol", "bugfeed, bugfeed.bearer.another-long-token"), "unknown"),
    ] {
        let Err(WsError::Http(answer)) = connect(&serve, &[headers]).await.map(drop) else { panic!("it is let in") };
        assert_eq!(answer.status(), 401);
        let challenge = answer.headers()["www-authenticate"].to_str().unwrap();
        assert!(challenge.starts_with(r#"Bearer realm="bugfeed", error="invalid_token", error_desc"#), "{challenge}");
        assert!(
            get(serve.admin, "/metrics").await.1.contains(&format!("bugfeed_access_refused_total{{kind=\"{kind}\"}}"))
        );
    }
}

#[tokio::test]
async fn without_a_token_the_connection_stays_for_a_while() {
    let serve = serve(&[(TOKEN, ALL)], &["--handshake-timeout-ms", "1500"]).await;
    let mut client = serve.client().await;
    assert_eq!(client.ask(r#"{"command":"subscribe","bugs":[1]}"#).await, NEEDED);
    assert!(client.ask(r#"{"command":"version"}"#).await.contains(r#""result":"ok""#));
    let refused = client.ask(r#"{"command":"hello","token":"another-long-token"}"#).await;
    assert_eq!(refused, r#"{"command":"hello","result":"error","error":"invalid token: it is not known"}"#);
    assert_eq!(client.close_code().await, 4401);
    metric(&serve, "bugfeed_sessions_ended_total{kind=\"token_needed\"} 1").await;
    metric(&serve, "bugfeed_access_refused_total{kind=\"command\"} 1").await;
}

#[tokio::test]
async fn requests_without_a_good_token_are_refused_as_rfc_6750_says() {
    let some = "feeds = ['default']\nbugs = [1, 2]\nmax_subscriptions = 1";
    let tokens =
        [(TOKEN, ALL), ("only-for-two-of-the-bugs", some), ("for-another-feed", "feeds = ['kde']\nbugs = '*'")];
    let serve = serve(&tokens, &["--allow-all"]).await;
    for path in ["/sse", "/changes"] {
        for (query, token, status, error) in [
            ("bugs=1", None, 401, "a token is needed"),
            ("bugs=1", Some("another-long-token"), 401, "invalid token: it is not known"),
            ("bugs=1", Some("for-another-feed"), 403, "this token is not for this feed"),
            ("bugs=1,7", Some("only-for-two-of-the-bugs"), 403, "this token is not for bug 7"),
            ("bugs=1,2", Some("only-for-two-of-the-bugs"), 403, "this token may watch at most 1 bugs"),
            ("bugs=all", Some("only-for-two-of-the-bugs"), 403, "this token is not for all bugs"),
            ("bugs=7&cursor=unknown", Some("only-for-two-of-the-bugs"), 403, "this token is not for bug 7"),
            ("bugs=x", None, 401, "a token is needed"),
        ] {
            let headers = token.map(bearer).unwrap_or_default();
            let (got, head, body) = ask(serve.clients, &format!("GET {path}?{query}"), &headers).await;
            assert_eq!((got, body["error"].as_str()), (status, Some(error)), "{path} {query} {head}");
            assert!(body["fix"].is_string() && head.contains("bugfeed-version"), "{head}");
            let challenge = head.lines().find(|line| line.starts_with("www-authenticate: ")).unwrap();
            let code = match (status, token) {
                (_, None) => "realm=\"bugfeed\"",
                (401, _) => "error=\"invalid_token\"",
                _ => "error=\"insufficient_scope\"",
            };
            assert!(challenge.contains(code) && challenge.contains("error=") == token.is_some(), "{challenge}");
        }
        for name in ["token", "access_token"] {
            let line = format!("GET {path}?bugs=1&{name}={TOKEN}");
            let (status, _, body) = ask(serve.clients, &line, &bearer(TOKEN)).await;
            assert_eq!(status, 400);
            assert!(body["error"].as_str().unwrap().contains("URL") && !body.to_string().contains(TOKEN), "{body}");
        }
    }
    let (status, _, body) = ask(serve.clients, "GET /changes?bugs=1", &bearer("only-for-two-of-the-bugs")).await;
    assert_eq!((status, &body["changes"]), (200, &json!([])));
    let (status, _, body) = ask(serve.clients, "GET /changes?bugs=all", &bearer(TOKEN)).await;
    assert_eq!((status, &body["changes"]), (200, &json!([])));
    let url = format!("{}?token={TOKEN}", serve.url());
    assert!(matches!(Client::try_connect(&url).await.map(drop), Err(WsError::Http(answer)) if answer.status() == 400));
    let (status, _, body) = ask(serve.clients, "GET /nothing/changes", "").await;
    assert_eq!((status, &body["error"]), (404, &json!("there is no feed here")), "names of feeds are not told");
}

#[tokio::test]
async fn a_session_sees_only_what_its_token_is_for() {
    let serve = serve(&[("only-for-two-of-the-bugs", "feeds = '*'\nbugs = [1, 2]")], &["--allow-all"]).await;
    serve.touch(7, T).await;
    let mut client = with_token(&serve, "only-for-two-of-the-bugs").await;
    assert!(client.ask(r#"{"command":"hello"}"#).await.contains(r#""result":"ok""#));
    for bugs in ["[1,7]", "7", "\"all\""] {
        for since in ["", r#","since":"1970-01-01""#, r#","cursor":"unknown""#] {
            let reply = client.ask(format!(r#"{{"command":"subscribe","bugs":{bugs}{since}}}"#)).await;
            assert!(reply.contains("\"error\":\"this token is not for"), "{reply}");
        }
    }
    assert!(client.ask(r#"{"command":"subscribe","bugs":[1,2]}"#).await.contains(r#""count":2"#));
    serve.touch(7, T).await;
    serve.touch(2, T).await;
    assert_eq!(client.update().await.0, 2);
}

/// Dates in the file may have fractions, so nobody waits for long here.
#[tokio::test]
async fn a_token_that_expires_ends_what_it_has_begun() {
    let expires = soon(Duration::from_secs(4));
    let serve = serve(&[(TOKEN, &format!("{ALL}\n{expires}"))], &[]).await;
    let mut socket = with_token(&serve, TOKEN).await;
    let reply = socket.ask(r#"{"command":"hello"}"#).await;
    assert!(reply.contains(r#","expires":"20"#), "{reply}");
    socket.subscribe(&[1]).await;
    let mut events = Events::open(&serve, "bugs=1", &bearer(TOKEN)).await;
    events.until("\"subscribe\"").await;
    let poll = tokio::spawn(ask_owned(serve.clients, "GET /changes?bugs=1&wait=60"));
    assert_eq!(socket.close_code().await, 4401);
    let events = events.rest().await;
    assert!(
        events.contains(r#"data: {"command":"goaway","reason":"token expired","retry_after_ms":0,"cursor":"#),
        "{events}"
    );
    let (status, _, body) = poll.await.unwrap();
    assert!(status == 200 && body["changes"] == json!([]) && body.get("retry_after_ms").is_none(), "{body}");
    assert_eq!(ask(serve.clients, "GET /changes?bugs=1", &bearer(TOKEN)).await.0, 401);
    metric(&serve, "bugfeed_sessions_ended_total{kind=\"token_expired\"} 3").await;
}

async fn ask_owned(address: SocketAddr, line: &'static str) -> (u16, String, Value) {
    ask(address, line, &bearer(TOKEN)).await
}

#[tokio::test]
async fn a_later_hello_renews_the_session() {
    let first = format!("{ALL}\n{}", soon(Duration::from_secs(4)));
    let serve = serve(&[(TOKEN, &first), ("the-next-token-for-it", ALL)], &[]).await;
    let mut kept = with_token(&serve, TOKEN).await;
    let mut lost = with_token(&serve, TOKEN).await;
    kept.subscribe(&[1]).await;
    let reply = kept.ask(r#"{"command":"hello","token":"the-next-token-for-it"}"#).await;
    assert!(reply.contains(r#""result":"ok""#) && !reply.contains("expires"), "{reply}");
    assert_eq!(lost.close_code().await, 4401);
    serve.touch(1, T).await;
    assert_eq!(kept.update().await.0, 1);
}

#[tokio::test]
async fn a_token_is_taken_away_and_a_broken_file_changes_nothing() {
    let serve = serve(&[(TOKEN, ALL), ("another-long-token", ALL)], &[]).await;
    let dir = serve.dir.path().to_owned();
    let mut gone = with_token(&serve, TOKEN).await;
    let mut kept = with_token(&serve, "another-long-token").await;
    let mut events = Events::open(&serve, "bugs=1", &bearer(TOKEN)).await;
    events.until("\"subscribe\"").await;
    kept.subscribe(&[1]).await;
    std::fs::write(dir.join("tokens.toml"), "[[token]]\ntoken = 'a-secret-that-is-broken").unwrap();
    let warned = async || {
        let (status, body) = get(serve.admin, "/readyz").await;
        if status == 200 && body.contains("--tokens") { Ok(body) } else { Err(body) }
    };
    let warning = eventually(SOON, "a warning", warned).await.unwrap();
    assert!(!warning.contains("a-secret-that-is-broken"), "{warning}");
    drop(with_token(&serve, TOKEN).await);
    file(&dir, &[("another-long-token", ALL)]);
    assert_eq!(gone.close_code().await, 4403);
    let events = events.rest().await;
    assert!(events.contains(r#""command":"goaway","reason":"token changed or taken away""#), "{events}");
    assert_eq!(ask(serve.clients, "GET /changes?bugs=1", &bearer(TOKEN)).await.0, 401);
    assert!(!get(serve.admin, "/readyz").await.1.contains("--tokens"));
    // What it allows is made smaller: the session fits no more, comes again, and is told why.
    file(&dir, &[("another-long-token", "feeds = '*'\nbugs = [2]")]);
    assert_eq!(kept.close_code().await, 1012);
    metric(&serve, "bugfeed_sessions_ended_total{kind=\"token_revoked\"} 3").await;
}

#[tokio::test]
async fn an_event_source_takes_a_ticket_once() {
    let serve = serve(&[(TOKEN, ALL), ("only-for-two-of-the-bugs", "feeds = '*'\nbugs = [1, 2]")], &[]).await;
    let page = "Origin: https://bugs.example.org\r\n";
    let preflight = "Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: authorization\r\n";
    let (status, head, _) = ask(serve.clients, "OPTIONS /ticket", &format!("{page}{preflight}")).await;
    assert!(status == 200 && head.contains("access-control-allow-headers: authorization"), "{head}");
    assert_eq!(ask(serve.clients, "POST /ticket", page).await.0, 401);
    let ticket = async |token: &str| {
        let (status, head, body) = ask(serve.clients, "POST /ticket", &format!("{page}{}", bearer(token))).await;
        assert!(status == 201 && head.contains("cache-control: no-store"), "{head}");
        assert!(head.contains("access-control-allow-origin: *") && body["expires_in"] == 30, "{head} {body}");
        body["ticket"].as_str().unwrap().to_owned()
    };
    let first = ticket(TOKEN).await;
    assert!(!first.contains(TOKEN));
    let mut events = Events::open(&serve, &format!("bugs=1&ticket={first}"), page).await;
    events.until("\"subscribe\"").await;
    serve.touch(1, T).await;
    events.until("\"update\"").await;
    let (status, head, body) = ask(serve.clients, &format!("GET /sse?bugs=1&ticket={first}"), "").await;
    assert!(status == 401 && head.contains("invalid_token"), "{head}");
    assert!(body["fix"].as_str().unwrap().contains("POST /ticket"), "{body}");
    let second = ticket("only-for-two-of-the-bugs").await;
    assert_eq!(ask(serve.clients, &format!("GET /sse?bugs=7&ticket={second}"), "").await.0, 403);
    let third = ticket(TOKEN).await;
    // Only /sse takes tickets.
    assert_eq!(ask(serve.clients, &format!("GET /changes?bugs=1&ticket={third}"), "").await.0, 401);
    metric(&serve, "bugfeed_access_refused_total{kind=\"ticket\"} 1").await;
}

/// Where no token is wanted, those that clients send make no difference.
#[tokio::test]
async fn without_tokens_everything_is_as_before() {
    let serve = Serve::start(&[]).await;
    let offers = [("authorization", "Bearer x"), ("sec-websocket-protocol", "bugfeed, bugfeed.bearer.x")];
    let (mut client, selected) = connect(&serve, &offers).await.unwrap();
    assert_eq!(selected.as_deref(), Some("bugfeed"));
    let reply = client.ask(r#"{"command":"hello","token":"x"}"#).await;
    assert!(reply.contains(r#""result":"ok""#) && !reply.contains("expires"), "{reply}");
    client.subscribe(&[1]).await;
    assert!(
        matches!(serve.client().await.ask(r#"{"command":"subscribe","bugs":1}"#).await, text if text.contains("ok"))
    );
    let (status, _, body) = ask(serve.clients, "POST /ticket", "").await;
    assert_eq!((status, &body), (201, &json!({ "ticket": "open", "expires_in": 30 })));
    for query in ["bugs=1&ticket=open", "bugs=1&token=x&access_token=y"] {
        let (status, _, body) = ask(serve.clients, &format!("GET /changes?{query}"), &bearer("x")).await;
        assert_eq!((status, &body["changes"]), (200, &json!([])));
    }
    assert!(!matches!(client.ask(r#"{"command":"version"}"#).await, text if text.contains("error")));
    assert!(!get(serve.admin, "/metrics").await.1.contains("bugfeed_access_refused_total{"));
}
