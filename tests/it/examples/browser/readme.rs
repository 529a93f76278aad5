//! The page that README tells people to save. It is opened from a file, as README says.

use crate::browser::page::Page;
use crate::browser::servers::Server;
use crate::examples::tools::example;

#[tokio::test]
async fn the_readmes_page_says_at_once_that_it_is_connected_and_then_what_changes() {
    let Some(page) = Page::start_or_skip().await else { return };
    let server = Server::start(&[]).await;
    let readme = std::fs::read_to_string(example("../README.md")).unwrap();
    let html = readme.split("```html\n").nth(1).and_then(|block| block.split("```").next()).unwrap();
    assert!(html.matches("http://127.0.0.1:8844/").count() == 2, "{html}");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("watch.html");
    std::fs::write(&file, html.replace("http://127.0.0.1:8844/", &server.url("/"))).unwrap();
    let scenario = async || {
        page.driver.goto(&format!("file://{}", file.display())).await;
        page.says("body", "connection: open").await;
        server.touch(&["5678", "--when", "2014-04-03T21:13:45"]).await;
        page.says("body", "bug 5678 changed at 2014-04-03T21:13:45").await;
    };
    page.play("readme", &[], scenario).await;
}
