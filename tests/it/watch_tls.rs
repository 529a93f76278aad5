//! `wss://`: a client behind a proxy that speaks TLS, with a certificate that the machine trusts, or does not.

use bugfeed_testbed::{Proc, Run};

use crate::commands::bugfeed;
use crate::support::{SOON, Serve, goes_on_trying, tls};

#[tokio::test]
async fn tls_with_the_certificates_of_this_machine() {
    let serve = Serve::start(&[]).await;
    let Some(acceptor) = tls::acceptor(serve.dir.path()).await else { return };
    let url = format!("https://localhost:{}/", tls::proxy(acceptor, serve.clients).await);
    let args = ["watch", "1", "--count", "1", "--url", &url];
    let trusted = serve.dir.path().join("cert.pem");
    let mut trusting = Run::new(bugfeed()).env("SSL_CERT_FILE", &trusted).args(args).spawn().unwrap();
    trusting.wait_for_line("connected to wss://localhost:", SOON).await.unwrap();
    serve.touch(1, "2014-04-03T21:13:45").await;
    trusting.wait_for_line("bug 1 changed", SOON).await.unwrap();
    trusting.succeeds(SOON).await.unwrap();

    let mut wary = Proc::spawn(bugfeed(), &args, &[]).unwrap();
    let said = goes_on_trying(&mut wary).await;
    assert!(said.contains("not trusted here: invalid peer certificate"), "{said}");
    // Without TLS at such a port, and with TLS at the gateway's own.
    for (url, want) in [
        (url.replace("https://", "http://"), "if it wants TLS, write wss://"),
        (format!("https://localhost:{}/", serve.clients.port()), "for a gateway without TLS write ws://"),
    ] {
        let mut wrong = Proc::spawn(bugfeed(), &["watch", "1", "--url", &url], &[]).unwrap();
        let said = goes_on_trying(&mut wrong).await;
        assert!(said.contains(want), "{said}");
    }
}
