//! A real Redmine, where the machine has one: Debian's packages `redmine`, `redmine-sqlite` and `puma`. Without them the
//! test says so and does nothing; the tests within the package have its answers, word for word.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test")]

mod real {
    use std::sync::Arc;
    use std::time::{Duration, SystemTime};

    use bugfeed_core::hooks::event::ErrorClass;
    use bugfeed_core::hooks::outcome::Outcome;
    use bugfeed_core::hooks::reconcile::Question;
    use bugfeed_hooks::client::{Address, Client, Options, Request};
    use bugfeed_hooks::config::HooksConfig;
    use bugfeed_hooks::tracker::{Asker, Clock, Tracker};
    use bugfeed_protocol::{BugId, When};
    use bugfeed_testbed::Redmine;
    use hyper::Method;
    use hyper::header::{HeaderName, HeaderValue};

    fn asker(members: &str) -> Asker {
        let text = format!("[[source]]\nname = \"s\"\npreset = \"redmine\"\n{members}\n");
        let source = HooksConfig::read("hooks.toml", &text, &|_| Err("no file".to_owned())).unwrap().sources.remove(0);
        let clock: Clock = Arc::new(|| When::from_system_time(SystemTime::now()).as_micros());
        let tracker = Tracker::of(&source).unwrap();
        Asker::new(tracker, Client::new(Options::default()), source.tracker_key_file.clone(), clock)
    }

    /// What changed since then: number and whether it is private.
    async fn changed(asker: &Asker, since: When) -> Vec<(u64, bool)> {
        let scope = asker.tracker().scopes()[0].clone();
        let question = Question { since: Some(since), after: None, page: 1 };
        let page = asker.changed(&scope, &question).await.unwrap();
        page.seen.iter().map(|seen| (seen.bug.get(), seen.private)).collect()
    }

    #[tokio::test]
    async fn redmine_is_asked() {
        if !Redmine::installed() {
            println!("not run: the Debian packages redmine, redmine-sqlite and puma are not installed");
            return;
        }
        let redmine = Redmine::start().await.unwrap();
        let url = format!("http://127.0.0.1:{}", redmine.port());
        let [open, private, closed] = redmine.numbers();
        let anybody = asker(&format!("tracker = \"{url}\""));
        let begin = When::from_micros(0).unwrap();
        for (number, want) in [
            (open, Outcome::Visible),
            (private, Outcome::NotVisible),
            (closed, Outcome::NotVisible),
            (closed + 1000, Outcome::NotVisible),
        ] {
            let bug = BugId::new(number).unwrap();
            let found = anybody.look("default", bug, 0, Duration::from_secs(20)).await;
            assert_eq!(found.outcome, want, "{number}: {:?}", found.reason);
        }
        assert_eq!(changed(&anybody, begin).await, [(open, false)]);

        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key");
        std::fs::write(&file, redmine.key()).unwrap();
        let with_key = asker(&format!(
            "tracker = \"{url}\"\ntracker_key_file = {file:?}\nreconcile = \"5m\"\nreconcile_as_key = true"
        ));
        assert_eq!(changed(&with_key, begin).await, [(open, false), (private, true), (closed, true)]);

        // An edit is in the list of what changed since then, and what did not change is not.
        let bug = BugId::new(open).unwrap();
        let before = anybody.look("default", bug, i64::MAX, Duration::from_secs(20)).await.changed.unwrap();
        let later = When::from_micros(before.as_micros() + 1_000_000).unwrap();
        let mut after = before;
        while after <= before {
            let to = Address::parse(&format!("{url}/issues/{open}.json")).unwrap();
            let key = (HeaderName::from_static("x-redmine-api-key"), HeaderValue::from_str(redmine.key()).unwrap());
            let body = format!("{{\"issue\":{{\"notes\":\"n\",\"subject\":\"{:?}\"}}}}", SystemTime::now());
            let edit = Request { method: Method::PUT, ..Request::post_json(to, body) }.with(key.0, key.1);
            let response = Client::new(Options::default()).send(edit).await.unwrap();
            assert!(response.status.is_success(), "{response:?}");
            after = anybody.look("default", bug, i64::MAX, Duration::from_secs(20)).await.changed.unwrap();
        }
        assert_eq!(changed(&anybody, later).await, [(open, false)]);
        // Redmine's "from this second on" begins a second before.
        assert_eq!(changed(&anybody, When::from_micros(after.as_micros() + 2_000_000).unwrap()).await, []);

        let wrong = asker(&format!("tracker = \"{url}/nothing\""));
        let found = wrong.look("default", bug, 0, Duration::from_secs(20)).await;
        assert_eq!(found.outcome, Outcome::Failed(ErrorClass::Tracker), "{:?}", found.reason);
    }
}
