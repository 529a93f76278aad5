//! A bug list in Bugzilla: the rows of changed bugs are replaced where they are, and nothing else is touched.

use bugfeed_testbed::eventually;
use serde_json::{Value, json};

use super::bugzilla::{Bugzilla, listens, reader_or_skip};
use crate::browser::page::Page;
use crate::browser::servers::Server;
use crate::support::SOON;

/// What a row says: its class, its text, what became of it.
async fn row(page: &Page, bug: u64) -> (String, String, String) {
    let row = "const row = document.getElementById('b' + arguments[0]);
        return [row.className, row.innerText, row.dataset.bugfeed ?? ''];";
    let row = page.driver.script(row, json!([bug])).await;
    let part = |part: usize| row[part].as_str().unwrap().to_owned();
    (part(0), part(1), part(2))
}

async fn becomes(page: &Page, bug: u64, what: &str) {
    eventually(SOON, format!("row {bug} is {what}"), async || {
        let (class, text, became) = row(page, bug).await;
        if became == what { Ok(()) } else { Err((class, text, became)) }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn rows_are_shown_anew_where_they_are() {
    let Some(page) = reader_or_skip().await else { return };
    let data = tempfile::tempdir().unwrap();
    let ledger = data.path().join("data");
    let mut server = Server::start(&["--data-dir", ledger.to_str().unwrap()]).await;
    let source = format!("sqlite://{}/bugfeed.db", ledger.display());
    let (bugzilla, site) = Bugzilla::start(&server.url("/")).await;
    let scenario = async || {
        for bug in 1..=80 {
            bugzilla.set(bug, "2014-04-03 21:13:45", "NEW", &format!("crash {bug}"));
        }
        // Between rendering and listening, as far as the page can tell.
        server.touch(&["7", "--source", &source]).await;
        page.driver.goto(&site.url("/buglist.cgi?product=P&order=bug_id")).await;
        becomes(&page, 7, "changed").await;
        listens(&page).await;

        page.driver.click("#b2 input").await;
        // Other scripts may have had a hand in the row.
        let focus = "document.querySelector('#b2 input').title = 'for later'; document.querySelector('#b2 .bz_id_column a').focus(); window.scrollTo(0, 200); return scrollY";
        let scrolled = page.driver.script(focus, json!([])).await;
        assert_eq!(scrolled, 200);
        bugzilla.set(1, "2014-04-03 21:13:46", "NEW", "nobody was told of this");
        bugzilla.set(2, "2014-04-03 21:13:46", "RESOLVED", "mended");
        server.touch(&["2", "--source", &source]).await;
        becomes(&page, 2, "changed").await;
        let (class, text, _) = row(&page, 2).await;
        assert!(text.contains("RESOLVED") && text.contains("mended"), "{text}");
        assert_eq!(class, "bz_bugitem bz_normal bz_P1 bz_RESOLVED bz_row_even");
        assert!(row(&page, 1).await.1.contains("crash 1"), "only what changed");
        let kept = "[document.querySelector('#b2 input').checked, scrollY, document.activeElement.textContent,
            document.activeElement.isConnected]";
        assert_eq!(page.js(kept).await, json!([true, 200, "2", true]));
        assert_eq!(page.text("#bugfeed").await, "Bugs that changed and are shown anew: 2");
        let lists = bugzilla.knows(|knows| knows.lists.clone());
        assert_eq!(lists.last().unwrap(), "product=P&order=bug_id&serverpush=0");

        // No longer found, and the rows below it have changed their parity there.
        bugzilla.knows(|knows| knows.bugs.remove(&3));
        bugzilla.set(4, "2014-04-03 21:13:46", "ASSIGNED", "in work");
        server.touch(&["3", "4", "--source", &source]).await;
        becomes(&page, 3, "gone").await;
        becomes(&page, 4, "changed").await;
        assert_eq!(row(&page, 4).await.0, "bz_bugitem bz_normal bz_P1 bz_ASSIGNED bz_row_even");

        // Nobody knows which: all rows.
        server.kill9();
        std::fs::remove_dir_all(&ledger).unwrap();
        server.start_again().await;
        becomes(&page, 1, "changed").await;
        assert!(row(&page, 1).await.1.contains("nobody was told"));

        bugzilla.knows(|knows| knows.logged_out = true);
        bugzilla.set(5, "2014-04-03 21:13:46", "RESOLVED", "mended");
        server.touch(&["5", "--source", &source]).await;
        page.says("#bugfeed", "Bugs of this list have changed.").await;
        assert_eq!(page.js("document.querySelector('#bugfeed a').href === location.href").await, Value::Bool(true));
        assert!(row(&page, 5).await.1.contains("crash 5"), "nothing is taken from a page that is no list");
    };
    page.play("list", &["WebSocket connection", "no list there"], scenario).await;
}
