//! Behind a real nginx, set up as people do and as deploy/README.md says.

use std::net::SocketAddr;
use std::path::Path;

use bugfeed_testbed::{Proc, Run, eventually, free_port};
use tokio::net::TcpStream;

use crate::support::{SOON, Serve, request};

/// The location block of deploy/README.md.
fn documented() -> String {
    let readme = include_str!("../../../deploy/README.md");
    let (_, rest) = readme.split_once("```nginx\n").expect("a block for nginx");
    rest.split_once("```").expect("its end").0.to_owned()
}

/// nginx in front of `backend`, with this location block for a gateway on port 8844.
pub(super) async fn nginx(dir: &Path, location: &str, backend: SocketAddr) -> (Proc, SocketAddr) {
    let address = SocketAddr::from(([127, 0, 0, 1], free_port().unwrap()));
    let location = location.replace("127.0.0.1:8844", &backend.to_string());
    let path = |name: &str| dir.join(name).display().to_string();
    let temp = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let temp: String = temp.iter().map(|kind| format!("{kind}_temp_path {};\n", path(kind))).collect();
    let text = format!(
        "daemon off;\nmaster_process off;\npid {};\nerror_log stderr;\nevents {{}}\nhttp {{\naccess_log off;\n{temp}\
         server {{\nlisten {address};\n{location}\n}}\n}}\n",
        path("pid")
    );
    std::fs::write(dir.join("nginx.conf"), text).unwrap();
    let proc = Run::new("/usr/sbin/nginx").args(["-p", &path(""), "-c", &path("nginx.conf"), "-e", "stderr"]).spawn();
    let proc = proc.expect("nginx is installed (tests/run sees to it)");
    eventually(SOON, "nginx listens", async || TcpStream::connect(address).await.is_ok()).await.unwrap();
    (proc, address)
}

#[tokio::test]
async fn nobody_presses_the_demo_button_through_it() {
    let serve = Serve::start(&[]).await;
    let plain = "location / { proxy_pass http://127.0.0.1:8844; }".to_owned();
    for (name, location) in [("as it comes", plain), ("as documented", documented())] {
        let dir = tempfile::tempdir().unwrap();
        let (_proc, address) = nginx(dir.path(), &location, serve.clients).await;
        let local = format!("127.0.0.1:{}", serve.clients.port());
        // Whoever writes requests by hand says what it likes.
        for (host, origin) in [
            ("feed.example", Some("http://feed.example")),
            ("feed.example", None),
            (&local, Some(&*format!("http://{local}"))),
            ("127.0.0.1", Some("http://127.0.0.1")),
            ("localhost", Some("http://localhost")),
            ("feed.example", Some(&*format!("http://{}", serve.clients))),
        ] {
            let origin = origin.map(|origin| format!("Origin: {origin}\r\n")).unwrap_or_default();
            let press = format!(
                "POST /demo/touch HTTP/1.1\r\nHost: {host}\r\n{origin}Connection: close\r\n\
                 Content-Type: application/json\r\nContent-Length: 12\r\n\r\n{{\"bugs\":[1]}}"
            );
            let (status, body) = request(address, &press).await;
            assert_eq!(status, 403, "{name}, {host} {origin}: {body}");
            let about = format!("GET /page.json HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
            assert!(request(address, &about).await.1.contains("\"demo\":false"), "{name}, {host}");
        }
    }
    let metrics = crate::support::get(serve.admin, "/metrics").await.1;
    assert!(!metrics.contains("bugfeed_changes_total{feed=\"default\"} 1"), "{metrics}");
}
