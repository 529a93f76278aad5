//! Names: those that fail, change, have forbidden addresses, or too many.

use std::io;
use std::net::IpAddr;
use std::sync::Mutex;

use futures::future::BoxFuture;

use super::*;

/// Answers each question with the next of these lists, and the last one for ever.
#[derive(Debug)]
pub(super) struct Fixed {
    answers: Mutex<Vec<Vec<IpAddr>>>,
}

impl Fixed {
    pub(super) fn new(answers: &[&[&str]]) -> Fixed {
        let answers = answers.iter().map(|list| list.iter().map(|text| text.parse().unwrap()).collect()).collect();
        Fixed { answers: Mutex::new(answers) }
    }

    pub(super) fn loopback() -> Fixed {
        Fixed::new(&[&["127.0.0.1"]])
    }
}

impl Resolver for Fixed {
    fn addresses<'a>(&'a self, _: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        let mut answers = self.answers.lock().unwrap();
        let answer = if answers.len() > 1 { answers.remove(0) } else { answers[0].clone() };
        Box::pin(async { Ok(answer) })
    }
}

/// Fails, or never answers.
#[derive(Debug)]
struct Broken {
    hangs: bool,
}

impl Resolver for Broken {
    fn addresses<'a>(&'a self, _: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        if self.hangs {
            return Box::pin(std::future::pending());
        }
        Box::pin(async { Err(io::Error::other("no such name")) })
    }
}

fn asking(resolver: impl Resolver + 'static) -> Sender {
    let options = Options { connect: Duration::from_secs(2), ..Options::default() };
    Sender::with_resolver(options, rules(), Arc::new(resolver))
}

fn failure(attempt: &Attempt) -> (FaultClass, bool, &str) {
    match &attempt.outcome {
        Outcome::Failed { class, why, is_final } => (*class, *is_final, why.as_str()),
        Outcome::Answered { status, .. } => panic!("{status}"),
    }
}

#[tokio::test]
async fn names_that_cannot_be_looked_up_are_a_temporary_fault() {
    let broken = deliver(&asking(Broken { hangs: false }), "http://hook.example/SECRET").await;
    let want = "the name hook.example cannot be looked up: no such name";
    assert_eq!(failure(&broken), (FaultClass::Dns, false, want));
    let empty = deliver(&asking(Fixed::new(&[&[]])), "http://hook.example/").await;
    assert_eq!(failure(&empty).0, FaultClass::Dns);
}

#[tokio::test]
async fn a_name_server_that_does_not_answer_is_given_up() {
    let options = Options { connect: Duration::from_millis(100), ..Options::default() };
    let sender = Sender::with_resolver(options, rules(), Arc::new(Broken { hangs: true }));
    let hanging = deliver(&sender, "http://hook.example/").await;
    let want = "the name hook.example cannot be looked up: this took longer than 0.1 s";
    assert_eq!(failure(&hanging), (FaultClass::Dns, false, want));
}

#[tokio::test]
async fn forbidden_addresses_are_not_connected_to() {
    let server = Server::start(|_| Reply::full(200, "", "internal")).await;
    let port = server.address.port();
    // 127.0.0.2 would reach nothing else than the server: it must not even be tried.
    let everywhere = TcpListener::bind(("127.0.0.2", port)).await.unwrap();
    let forbidden = asking(Fixed::new(&[&["127.0.0.2", "10.0.0.1", "::1"]]));
    let attempt = deliver(&forbidden, &format!("http://hook.example:{port}/")).await;
    let (class, is_final, why) = failure(&attempt);
    assert_eq!((class, is_final, attempt.response.as_str()), (FaultClass::Forbidden, false, ""));
    assert!(
        why.starts_with("hook.example leads to 127.0.0.2") && why.ends_with("--allow-network 127.0.0.0/8"),
        "{why}"
    );
    for host in ["127.0.0.2", "0x7f.2", "[::1]", "[::ffff:127.0.0.1]", "169.254.169.254"] {
        let Ok(url) = (Rules { allowed: vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()], ..rules() })
            .check(&format!("http://{host}:{port}/"))
        else {
            panic!("{host}")
        };
        // As if the rules had been changed after the endpoint was made.
        let url = format!("{}/", url.origin());
        let attempt = deliver(&asking(Fixed::loopback()), &url).await;
        assert_eq!((failure(&attempt).0, failure(&attempt).1), (FaultClass::Forbidden, true), "{host}");
    }
    assert!(tokio::time::timeout(Duration::from_millis(50), everywhere.accept()).await.is_err());
    assert!(server.got().is_empty());
}

#[tokio::test]
async fn only_permitted_addresses_of_a_name_are_connected_to() {
    let server = Server::start(|_| Reply::full(200, "", "")).await;
    let port = server.address.port();
    let mixed = asking(Fixed::new(&[&["127.0.0.2", "10.0.0.1", "127.0.0.1", "169.254.169.254"]]));
    assert_eq!(status(&deliver(&mixed, &format!("http://hook.example:{port}/")).await), Some(200));
    assert_eq!(server.got()[0].header("host"), Some(format!("hook.example:{port}").as_str()));
}

/// Where nobody listens at a permitted address, a forbidden one is none to try instead.
#[tokio::test]
async fn a_forbidden_address_is_not_fallen_back_on() {
    let internal = TcpListener::bind("127.0.0.2:0").await.unwrap();
    let url = format!("http://hook.example:{}/", internal.local_addr().unwrap().port());
    let attempt = deliver(&asking(Fixed::new(&[&["127.0.0.1", "127.0.0.2"]])), &url).await;
    assert_eq!(failure(&attempt).0, FaultClass::Refused);
    assert!(tokio::time::timeout(Duration::from_millis(50), internal.accept()).await.is_err());
}

#[tokio::test]
async fn a_name_that_changes_to_a_forbidden_address_is_judged_again() {
    let server = Server::start(|_| Reply::Last(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n".to_vec())).await;
    let url = format!("http://hook.example:{}/", server.address.port());
    let sender = asking(Fixed::new(&[&["127.0.0.1"], &["127.0.0.2"]]));
    assert_eq!(status(&deliver(&sender, &url).await), Some(200));
    assert_eq!(failure(&deliver(&sender, &url).await).0, FaultClass::Forbidden);
    assert_eq!(server.got().len(), 1);
}

#[tokio::test]
async fn of_a_hundred_addresses_a_few_are_tried_and_each_gets_its_time() {
    // Nobody listens at any of them, and the system says so at once.
    let refused: Vec<String> = (1..=100).map(|number| format!("127.1.0.{number}")).collect();
    let refused: Vec<&str> = refused.iter().map(String::as_str).collect();
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let rules = Rules { allowed: vec!["127.0.0.0/8".parse().unwrap()], https_only: false };
    let sender = Sender::with_resolver(Options::default(), rules, Arc::new(Fixed::new(&[&refused])));
    let attempt = deliver(&sender, &format!("http://hook.example:{free}/")).await;
    assert_eq!(failure(&attempt).0, FaultClass::Refused);
    assert!(attempt.took < Duration::from_secs(2), "{attempt:?}");
    // The hundredth is the only one that is permitted.
    let server = Server::start(|_| Reply::full(200, "", "")).await;
    let mut mostly: Vec<String> = (1..=99).map(|number| format!("10.0.0.{number}")).collect();
    mostly.push("127.0.0.1".to_owned());
    let mostly: Vec<&str> = mostly.iter().map(String::as_str).collect();
    let attempt =
        deliver(&asking(Fixed::new(&[&mostly])), &format!("http://hook.example:{}/", server.address.port())).await;
    assert_eq!(status(&attempt), Some(200));
}
