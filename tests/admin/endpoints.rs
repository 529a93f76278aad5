//! Endpoints.

use std::pin::pin;

use bugfeed::admin::Outcome;
use bugfeed_core::endpoints::policy::Outcome as Sent;
use bugfeed_core::endpoints::question::{Since, Watch};
use bugfeed_core::endpoints::row::Row;
use bugfeed_core::hooks::event::Trigger;
use bugfeed_hooks::deliver::sign::SigningSecret;
use bugfeed_hooks::receive::received::RequestId;
use bugfeed_hooks::store::endpoints::{AttemptRow, EndpointId, FeedChoice, Save, Stored};
use bugfeed_protocol::Cursor;

use crate::support::{Rig, Said, now_us, run};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const URL: &str = "https://bot.example.org/hook/hidden";

impl Rig {
    /// Makes an endpoint with these options.
    async fn endpoint(&self, more: &[&str]) -> EndpointId {
        let mut args = vec!["endpoints", "create", "--url", URL, "--bugs", "1234,5678"];
        args.extend(more);
        let made = self.json(&args).await;
        EndpointId::parse(made[0]["id"].as_str().unwrap()).unwrap()
    }

    async fn stored(&self, id: &EndpointId) -> Stored {
        self.store.endpoint(id).await.unwrap().unwrap()
    }

    async fn plan(&self, id: &EndpointId, mut change: impl FnMut(&mut Row) + Send) {
        let change = |_: &mut _, row: &mut Row| {
            change(row);
            row.version += 1;
            Ok::<(), ()>(())
        };
        self.store.change_endpoint(id, None, change).await.unwrap();
    }

    async fn attempted(&self, id: &EndpointId, trigger: Trigger, status: u16, webhook_id: &str) -> String {
        let at_us = now_us();
        let row = AttemptRow {
            id: RequestId::new(at_us, rand::random()).0,
            endpoint: id.clone(),
            feed: Some("default".to_owned()),
            trigger,
            begun_us: at_us,
            took_us: 12_345,
            status: Some(status),
            fault: None,
            error: None,
            response: "thank\u{1b}[31m you".to_owned(),
            webhook_id: webhook_id.to_owned(),
            counts: true,
            request: "{\"command\":\"test\"}".to_owned(),
            content_type: "application/json".to_owned(),
        };
        let attempt = RequestId(row.id).to_string();
        let save = Save { id: id.clone(), row: None, partition: id.partition(), term: 0, attempts: vec![row] };
        self.store.save_endpoints(&[save]).await.unwrap();
        attempt
    }

    /// What this command says, while the endpoint's first order is carried out in this way.
    async fn while_asked(&self, id: &EndpointId, sent: (Trigger, u16, &str), args: &[&str]) -> Said {
        let mut command = pin!(self.run(args));
        tokio::select! {
            said = &mut command => return said,
            () = self.answer_wish(id, sent) => {}
        }
        command.await
    }

    async fn answer_wish(&self, id: &EndpointId, (trigger, status, webhook_id): (Trigger, u16, &str)) {
        while self.stored(id).await.row.wishes.is_empty() {
            tokio::task::yield_now().await;
        }
        self.attempted(id, trigger, status, webhook_id).await;
        self.plan(id, |row| row.wishes.clear()).await;
    }
}

#[tokio::test]
async fn a_secret_is_printed_alone_and_never_again() {
    let rig = Rig::start().await;
    let said = rig.run(&["endpoints", "create", "--url", URL, "--bugs", "1234, 5678", "--feed", "kde"]).await;
    assert!(said.remarks.contains("shown only now") && said.remarks.contains("endpoints test ep_"), "{said:?}");
    let text = said.good();
    let secret = text.strip_suffix('\n').unwrap();
    assert!(SigningSecret::parse(secret).is_ok(), "{secret}");
    let table = rig.run(&["endpoints", "list"]).await.good();
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].starts_with("ID                       STATE   FEEDS  BUGS"), "{table}");
    assert!(lines[1].contains("active  kde    1234, 5678"), "{table}");
    assert!(!table.contains(secret) && table.contains(URL), "{table}");
    let id = lines[1].split_whitespace().next().unwrap();
    let said = rig.run(&["endpoints", "rotate", id, "--overlap-hours", "0"]).await;
    assert!(said.remarks.contains("the old one signs no more"), "{said:?}");
    assert_ne!(said.good(), text);
    let file = rig.dir.path().join("secret");
    std::fs::write(&file, format!("{SECRET}\n")).unwrap();
    let file = file.display().to_string();
    let said = rig.run(&["endpoints", "rotate", id, "--secret-file", &file]).await;
    assert!(said.remarks.contains("the old one signs too, until "), "{said:?}");
    assert_eq!(said.good(), format!("{SECRET}\n"));
    let made = rig.json(&["endpoints", "create", "--url", URL, "--bugs", "all", "--secret-file", &file]).await;
    assert_eq!((&made[0]["secret"], &made[0]["bugs"]), (&SECRET.into(), &"all".into()));
}

#[tokio::test]
async fn all_that_an_endpoint_has_can_be_said_and_changed() {
    let rig = Rig::start().await;
    let file = |name: &str, text: &str| {
        let path = rig.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        format!("@{}", path.display())
    };
    let (template, headers) = (file("t.json", "{\"text\":\"Bug {bug}\"}\n"), file("h.txt", "X-A: 1\nX-B: 2\n"));
    let more = [
        "--all-feeds",
        "--policy",
        "current",
        "--rate",
        "5",
        "--template",
        &template,
        "--header",
        &headers,
        "--header",
        "X-C: 3",
        "--description",
        "build bot",
    ];
    let id = rig.endpoint(&more).await;
    let stored = rig.stored(&id).await;
    assert_eq!(stored.settings.template.as_deref(), Some("{\"text\":\"Bug {bug}\"}"));
    assert_eq!(stored.settings.headers.expose().map(|(_, value)| value).collect::<Vec<_>>(), ["1", "2", "3"]);
    assert_eq!((&stored.settings.feeds, stored.row.rate), (&FeedChoice::All, Some(5)));
    let shown = rig.run(&["endpoints", "show", id.as_str()]).await.good();
    for want in ["build bot", "current", "5 a second", "cursor of kde: none yet", "  x-c: 3", "active: all is well"] {
        assert!(shown.contains(want), "no '{want}' in {shown}");
    }
    let change = [
        "endpoints",
        "change",
        id.as_str(),
        "--bugs",
        "all",
        "--feed",
        "default",
        "--no-rate",
        "--no-template",
        "--no-header",
        "X-A",
        "--header",
        "X-B: new",
    ];
    rig.run(&change).await.good();
    let stored = rig.stored(&id).await;
    assert_eq!((&stored.row.watch, stored.row.rate, stored.settings.template), (&Watch::All, None, None));
    let headers: Vec<_> = stored.settings.headers.expose().collect();
    assert_eq!(headers, [("x-c", "3"), ("x-b", "new")]);
    let listed = rig.json(&["endpoints", "list", "--state", "active", "--feed", "default", "--bug", "7"]).await;
    assert_eq!((listed.len(), listed[0]["id"].as_str()), (1, Some(id.as_str())));
    let said = rig.run(&["endpoints", "list", "--state", "paused"]).await;
    assert!(said.remarks.contains("no such endpoints"), "{said:?}");
}

#[tokio::test]
async fn orders_are_given_to_several_endpoints() {
    let rig = Rig::start().await;
    let (one, two) = (rig.endpoint(&[]).await, rig.endpoint(&[]).await);
    let order = async |word: &str| rig.run(&["endpoints", word, one.as_str(), two.as_str()]).await;
    let said = order("pause").await.good();
    let paused = "paused: a person has paused it: `bugfeed endpoints resume` lets it go on";
    assert_eq!(said, format!("{one}  {paused}\n{two}  {paused}\n"));
    assert!(
        order("enable")
            .await
            .good()
            .contains(&format!("not changed: it stays paused; to go on with it: bugfeed endpoints resume {one}"))
    );
    assert!(order("resume").await.good().contains("active: all is well"));
    rig.plan(&one, |row| {
        row.health.count(row.policy, Sent::Gone, now_us());
    })
    .await;
    let table = rig.run(&["endpoints", "list"]).await.good();
    assert!(table.contains("disabled") && table.contains("it answered 410"), "{table}");
    assert!(order("reset").await.good().contains("not changed: it stays disabled: it answered 410"));
    assert!(order("enable").await.good().contains(&format!("{one}  active")));
    let none = EndpointId::new([0; 13]);
    let said = rig.run(&["endpoints", "delete", none.as_str(), two.as_str()]).await;
    assert_eq!((&said.outcome, said.out.as_str()), (&Ok(Outcome::NotGood), format!("{two}  is deleted\n").as_str()));
    assert!(said.remarks.contains(&format!("{none}: there is no endpoint")), "{said:?}");
    let told = rig.run(&["bug", "1234"]).await;
    assert!(told.out.contains(&format!("{one}  default  {URL}  active")), "{told:?}");
    rig.run(&["endpoints", "show", two.as_str()]).await.error(&["no endpoint", "bugfeed endpoints list"]);
}

#[tokio::test]
async fn a_test_and_a_redelivery_say_what_came_of_them() {
    let rig = Rig::start().await;
    let id = rig.endpoint(&[]).await;
    let test = ["endpoints", "test", id.as_str(), "--wait", "20"];
    let webhook_id = format!("{id}-E-test-1-0123456789ab-g1");
    let said = rig.while_asked(&id, (Trigger::Manual, 204, &webhook_id), &test).await;
    assert_eq!(said.good(), "the receiver took it: 204 in 12 ms\n  thank\u{fffd}[31m you\n");
    let webhook_id = format!("{id}-E-test-1-0123456789ab-g2");
    let said = rig.while_asked(&id, (Trigger::Manual, 500, &webhook_id), &test).await;
    assert_eq!(said.outcome, Ok(Outcome::NotGood));
    assert!(said.out.contains("(answered 500: thank[31m you) in 12 ms; a failed test counts nothing"), "{said:?}");
    let said = rig.run(&["endpoints", "test", id.as_str(), "--wait", "0"]).await;
    assert_eq!(said.outcome, Ok(Outcome::NotGood));
    assert!(said.out.contains("the test waits for its turn"), "{said:?}");
    rig.plan(&id, |row| row.wishes.clear()).await;

    let attempts = rig.run(&["endpoints", "attempts", id.as_str()]).await.good();
    let lines: Vec<&str> = attempts.lines().collect();
    assert_eq!(lines.len(), 3, "{attempts}");
    assert!(lines[1].contains("manual   500      12 ms"), "{attempts}");
    let attempt = lines[2].split_whitespace().next().unwrap();
    let shown = rig.run(&["endpoints", "attempt", attempt]).await.good();
    assert!(shown.contains("sent:\n{\"command\":\"test\"}\n") && !shown.contains('\u{1b}'), "{shown}");
    let again = ["endpoints", "redeliver", attempt, "--wait", "20"];
    let webhook_id = format!("{id}-E-test-1-0123456789ab-g1");
    let said = rig.while_asked(&id, (Trigger::Replay, 200, &webhook_id), &again).await;
    assert!(said.good().starts_with("the receiver took it: 200"));
    rig.run(&["endpoints", "redeliver", "x"]).await.error(&["id: 'x'"]);
}

#[tokio::test]
async fn a_receiver_is_sent_again_what_it_lost() {
    let rig = Rig::start().await;
    let id = rig.endpoint(&[]).await;
    let said = rig.run(&["endpoints", "recover", id.as_str(), "--cursor", "E.5"]).await.good();
    assert_eq!(said, format!("{id}  is sent again what has changed since E.5\n"));
    assert_eq!(rig.stored(&id).await.row.lines[0].since, Since::Cursor(Cursor::parse("E.5").unwrap()));
    rig.run(&["endpoints", "recover", id.as_str(), "--since", "2h", "--feed", "default"]).await.good();
    assert!(matches!(rig.stored(&id).await.row.lines[0].since, Since::Time(_)));
    rig.run(&["endpoints", "recover", id.as_str(), "--since", "soon"]).await.error(&["--since", "'soon'", "2h"]);
    rig.run(&["endpoints", "recover", id.as_str(), "--cursor", "E.5", "--feed", "kde"])
        .await
        .error(&["no such feed", "its feeds are: default"]);
}

#[tokio::test]
async fn refusals_say_what_to_do() {
    let rig = Rig::start().await;
    for (more, wants) in [
        (&["--url", "http://127.0.0.1:9000/", "--bugs", "1"][..], &["127.0.0.1", "--allow-network 127.0.0.0/8"][..]),
        (&["--url", URL, "--bugs", "x"], &["--bugs: 'x'", "--bugs 1234,5678"]),
        (&["--url", URL, "--bugs", "all,1"], &["--bugs", "alone"]),
        (&["--url", URL, "--bugs", "1", "--feed", "gnome"], &["--feed: there is no feed 'gnome'", "default, kde"]),
        (&["--url", URL, "--bugs", "1", "--policy", "strict"], &["--policy: 'strict'", "classic, current, off"]),
        (&["--url", URL, "--bugs", "1", "--template", "irc"], &["--template: 'irc'", "slack"]),
        (&["--url", URL, "--bugs", "1", "--template", "@/none.json"], &["/none.json"]),
        (&["--url", URL, "--bugs", "1", "--header", "X-A"], &["--header", "no colon"]),
        (
            &["--url", URL, "--bugs", "1", "--header", "Host: x"],
            &["--header: ", "host cannot be set", "--header 'X-Api-Key"],
        ),
    ] {
        for command in ["create", "preview"] {
            let mut args = vec!["endpoints", command];
            args.extend(more);
            rig.run(&args).await.error(wants);
        }
    }
    let said = rig.run(&["endpoints", "list"]).await;
    assert!(said.remarks.contains("there are no endpoints; make one: bugfeed endpoints create"), "{said:?}");
    let shown = rig.run(&["endpoints", "preview", "--url", URL, "--bugs", "1234", "--template", "slack"]).await.good();
    for want in
        ["POST https://bot", "webhook-signature: v1,", "{\"text\":\"Bug 1234", "secret for samples", "would be sent"]
    {
        assert!(shown.contains(want), "no '{want}' in {shown}");
    }
    assert!(run(&["endpoints", "list", "--admin-token-file", "/none"]).await.outcome.unwrap_err().contains("/none"));
}

#[tokio::test]
async fn attempts_and_deeds_are_filtered() {
    let rig = Rig::start().await;
    let id = rig.endpoint(&[]).await;
    rig.attempted(&id, Trigger::Live, 204, "good").await;
    rig.attempted(&id, Trigger::Live, 404, "bad").await;
    let attempts = async |more: &[&str]| {
        let mut args = vec!["endpoints", "attempts", id.as_str()];
        args.extend(more);
        rig.run(&args).await
    };
    let failed = attempts(&["--failed", "--from", "1h"]).await.good();
    assert!(failed.contains("answered 404: thank[31m you") && !failed.contains("good"), "{failed}");
    assert!(attempts(&["--bug", "7"]).await.remarks.contains("no such attempts"));
    rig.run(&["endpoints", "pause", id.as_str()]).await.good();
    let deeds = rig.run(&["audit", "--deed", "endpoints.pause", "--subject", id.as_str(), "--from", "1h"]).await.good();
    assert!(deeds.lines().count() == 2 && deeds.contains("endpoints.pause"), "{deeds}");
    assert_eq!(rig.json(&["audit", "--deed", "endpoints"]).await.len(), 2);
    assert!(rig.run(&["audit", "--who", "nobody"]).await.remarks.contains("nobody has changed"));
}
