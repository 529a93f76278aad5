//! What needs no running process.

use bugfeed::admin::Outcome;
use bugfeed_hooks::store::tokens::Token;
use tempfile::TempDir;

use crate::support::{Rig, run};

#[tokio::test]
async fn a_captured_request_is_explained() {
    let dir = TempDir::new().unwrap();
    let path = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let good = path("good.json", "{\"changes\":[{\"bug\":1234,\"when\":\"2026-11-26T12:00:00\"}]}");
    let said = run(&["hooks", "test", &good]).await.good();
    assert!(
        said.contains("source plain (preset plain)") && said.contains("bug 1234 changed at 2026-11-26T12:00:00"),
        "{said}"
    );
    let bad = path("bad.json", "{\"changes\":[{\"bug\":\"\\u001b[31m\"}]}");
    let said = run(&["hooks", "test", &bad, "--source", "plain"]).await;
    assert_eq!(said.outcome, Ok(Outcome::NotGood));
    assert!(said.out.contains("errored") && !said.out.contains('\u{1b}'), "{said:?}");
    let config = path("hooks.toml", "[[source]]\nname = \"a\"\nbug = \"/n\"\n[[source]]\nname = \"b\"\nbug = \"/m\"\n");
    let item = path("item.json", "{\"m\":5}");
    let said = run(&["hooks", "test", &item, "--config", &config, "--source", "b"]).await.good();
    assert!(said.contains("bug 5"), "{said}");
    let typo = path("typo.toml", "[[source]]\nname = \"a\"\nbug = \"/m\"\nproject = \"/produkt\"\n");
    let said = run(&["hooks", "test", &item, "--config", &typo]).await;
    assert_eq!(said.outcome, Ok(Outcome::NotGood));
    assert!(said.out.contains("`project` was found in no item (/produkt → nothing)"), "{said:?}");
    run(&["hooks", "test", &item, "--config", &config]).await.error(&["--source", "a, b"]);
    run(&["hooks", "test", &item, "--config", &config, "--source", "c"]).await.error(&["no source 'c'", "a, b"]);
    run(&["hooks", "test", "none.json"]).await.error(&["none.json"]);
    let broken = path("broken.toml", "[[source]]\nname = \"a\"\nbugs = 1\n");
    run(&["hooks", "test", &item, "--config", &broken]).await.error(&["broken.toml", "bugs"]);
}

#[tokio::test]
async fn a_lost_token_is_replaced_on_the_machine_of_the_store() {
    let rig = Rig::start().await;
    let url = format!("sqlite://{}", rig.dir.path().join("hooks.db").display());
    let text = run(&["hooks", "token", "--store", &url]).await.good();
    assert!(Token::parse(text.trim()).is_some());
    std::fs::write(rig.token_file(), &text).unwrap();
    assert!(rig.run(&["tokens", "list"]).await.good().contains("this one"));
    let file = rig.dir.path().join("more.token").display().to_string();
    let said = run(&["hooks", "token", "--store", &url, "--file", &file, "--name", "mine"]).await;
    assert!(said.remarks.contains(&file) && said.out.is_empty(), "{said:?}");
    assert!(Token::parse(std::fs::read_to_string(&file).unwrap().trim()).is_some());
    let none = format!("sqlite://{}", rig.dir.path().join("none.db").display());
    run(&["hooks", "token", "--store", &none]).await.error(&["none.db"]);
}
