//! From a request that went wrong to a mapping that reads it: what was received is shown as `hooks test` takes it, and
//! `--check` looks at a configuration before it is used.

use bugfeed_testbed::Run;

use super::Receiver;
use crate::commands::bugfeed;
use crate::support::SOON;

const OWN: &str = "[[source]]\nname = \"own\"\nkind = \"header:X-Kind\"\nbug = \"/number\"\n";

#[tokio::test]
async fn a_captured_request_is_tried_out_and_received_again() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("hooks.toml");
    std::fs::write(&file, OWN).unwrap();
    let serve = Receiver::start(dir.path(), &["serve", "--config", "hooks.toml"]).await;
    let key = serve.key(dir.path(), "own").await;
    let (_, answer) = serve.post("/hooks/own", &key, "{\"nr\":5}").await;
    let request = answer["request"].as_str().unwrap();
    assert_eq!(serve.command(dir.path(), &["requests", "show", request, "--body"]).await, "{\"nr\":5}");
    let captured = serve.command(dir.path(), &["requests", "show", request, "--http"]).await;
    assert!(!captured.contains(&key), "{captured}");
    std::fs::write(dir.path().join("captured.http"), captured).unwrap();
    let test =
        || Run::new(bugfeed()).dir(dir.path()).args(["hooks", "test", "captured.http", "--config", "hooks.toml"]);
    let error = test().succeeds(SOON).await.unwrap_err();
    assert!(format!("{error:#}").contains("no bug's number was found"), "{error:#}");
    // Its kind is in a header that the sender left out.
    std::fs::write(&file, OWN.replace("/number", "/nr").replace("kind = \"header:X-Kind\"\n", "")).unwrap();
    assert!(test().succeeds(SOON).await.unwrap().contains("bug 5"));
}

#[tokio::test]
async fn a_configuration_is_looked_at_before_it_is_used() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("hooks.toml");
    std::fs::write(&file, OWN).unwrap();
    // Its port is in use, and the broker is away: neither matters.
    let serve = Receiver::start(dir.path(), &["serve"]).await;
    for role in ["serve", "hooks"] {
        let port = serve.port.to_string();
        let check =
            || Run::new(bugfeed()).dir(dir.path()).args([role, "--config", "hooks.toml", "--check", "--listen", &port]);
        std::fs::write(&file, OWN).unwrap();
        let told = check().succeeds(SOON).await.unwrap();
        assert!(told.contains("hooks.toml: good") && told.contains("POST /hooks/own"), "{told}");
        std::fs::write(&file, format!("{OWN}answers = \"always\"\n")).unwrap();
        let error = format!("{:#}", check().succeeds(SOON).await.unwrap_err());
        assert!(error.contains("hooks.toml:5: "), "{error}");
    }
    assert!(!dir.path().join("data").join("hooks.db").exists());
}
