//! deploy/README.md, tried: users with exactly the permissions of its commands, the units' command lines, the samples'
//! variables (with the addresses of the test's servers), and a change that goes all the way.

mod chaos {
    use bugfeed_testbed::{Proc, RabbitMq, Run, SqlServer, bin, eventually, shared, unique};
    use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};
    use lapin::{BasicProperties, Connection, ConnectionProperties};

    use crate::deploy::{Variables, commands, sample, unit};
    use crate::examples::tools::Python;
    use crate::support::{Client, SOON, free_address};

    const T: &str = "2014-04-03T21:13:45";

    /// A command line, taken apart as a shell does it.
    async fn words(line: &str) -> Vec<String> {
        let code = format!("sudo() {{ printf '%s\\n' \"$@\"; }}\n{line}");
        let mut shell = Run::new("sh").args(["-c", &code]).spawn().unwrap();
        assert!(shell.wait(SOON).await.unwrap().success(), "{line}");
        shell.output().lines().map(str::to_owned).collect()
    }

    /// A node whose users are those of the document.
    async fn broker_or_skip() -> Option<RabbitMq> {
        let rabbit = RabbitMq::start_or_skip().await?;
        let mut users = 0;
        for line in commands().iter().filter(|line| line.starts_with("sudo rabbitmqctl")) {
            let words: Vec<String> = words(line).await.iter().map(|word| where_it_is(word)).collect();
            rabbit.ctl(&words[1..].iter().map(String::as_str).collect::<Vec<_>>()).await.unwrap();
            if words[1] == "import_definitions" {
                nobody_is_let_in_without_a_password(&rabbit).await;
            }
            users += usize::from(["change_password", "add_user"].contains(&words[1].as_str()));
        }
        assert_eq!(users, 4, "shim, gateway, hooks, indexer");
        let policies = rabbit.ctl(&["list_policies", "--formatter", "json"]).await.unwrap();
        let policies: serde_json::Value = serde_json::from_str(&policies).unwrap();
        assert_eq!(policies[0]["pattern"], "^gateway\\.", "{policies}");
        Some(rabbit)
    }

    /// A file that the document installs, where it is in the repository.
    fn where_it_is(word: &str) -> String {
        let installs = commands().into_iter().filter(|line| line.starts_with("sudo install"));
        let pair = |line: &str| {
            let mut words = line.rsplit(' ');
            Some((words.next()?.to_owned(), words.next()?.to_owned()))
        };
        let found = installs.filter_map(|line| pair(&line)).find(|(to, _)| to == word);
        found.map_or_else(|| word.to_owned(), |(_, from)| format!("{}/{from}", env!("CARGO_MANIFEST_DIR")))
    }

    /// Whoever reads the file of users becomes none of them.
    async fn nobody_is_let_in_without_a_password(rabbit: &RabbitMq) {
        for user in ["bugfeed-shim", "bugfeed-gateway", "bugfeed-hooks"] {
            for password in ["", "SECRET"] {
                let amqp = format!("amqp://{user}:{password}@127.0.0.1:{}/%2f", rabbit.port());
                let connected = Connection::connect(&amqp, ConnectionProperties::default()).await;
                assert!(connected.is_err(), "{user} with '{password}'");
            }
        }
    }

    /// A database with the change table, and the URL of a user who may do no more than the document says.
    async fn tracker(server: &SqlServer) -> (String, String) {
        let database = server.create_database().await.unwrap();
        crate::support::init(&server.url(&database)).await;
        let user = unique("u").replace("u_", "u").chars().take(30).collect::<String>();
        let grants = format!(
            "CREATE USER {user}@'%' IDENTIFIED BY 'SECRET'; GRANT SELECT, DELETE ON {database}.push_notify TO {user}@'%'"
        );
        server.sql(&database, &grants).await.unwrap();
        let url = server.url(&database);
        let host = url.rsplit_once('@').unwrap().1;
        (database, format!("mysql://{user}:SECRET@{host}"))
    }

    /// What a unit starts, with the variables that it has it read, those in `instead` with other values.
    fn start(unit_name: &str, sample_name: &str, instead: &[(&str, &str)], dir: &std::path::Path) -> Proc {
        let unit = unit(unit_name);
        let mut words = unit["ExecStart"][0].split(' ');
        let program = words.next().unwrap().strip_prefix("/usr/local/bin/").unwrap();
        let pairs = unit.get("Environment").into_iter().flatten().map(|pair| pair.split_once('=').unwrap());
        let run = Run::new(bin(program).unwrap()).args(words).envs(pairs);
        run.envs(variables(sample_name, instead)).dir(dir).spawn().unwrap()
    }

    /// A sample's variables, those in `instead` with other values.
    fn variables(sample_name: &str, instead: &[(&str, &str)]) -> Variables {
        let (mut variables, _) = sample(sample_name);
        for (name, value) in instead {
            variables.retain(|(other, _)| other != name);
            variables.push(((*name).to_owned(), (*value).to_owned()));
        }
        variables
    }

    /// The address of a sample's user at the test's broker.
    fn at(rabbit: &RabbitMq, sample_name: &str, variable: &str) -> String {
        let (set, _) = sample(sample_name);
        let (_, url) = set.into_iter().find(|(name, _)| name == variable).unwrap();
        url.replace("@127.0.0.1/", &format!("@127.0.0.1:{}/", rabbit.port()))
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_documents_users_units_and_samples_carry_a_change() {
        let Some(server) = shared::mariadb().await else { return };
        let Some(rabbit) = broker_or_skip().await else { return };
        let (database, source) = tracker(&server).await;
        let dir = tempfile::tempdir().unwrap();
        let shim_admin = free_address();
        let amqp = at(&rabbit, "env/shim.env", "BUGFEED_SHIM_AMQP");
        let ledger = format!("sqlite://{}/ledger.db", dir.path().display());
        let admin = shim_admin.to_string();
        let instead = [
            ("BUGFEED_SHIM_SOURCE", source.as_str()),
            ("BUGFEED_SHIM_AMQP", &amqp),
            ("BUGFEED_SHIM_LEDGER", &ledger),
            ("BUGFEED_SHIM_ADMIN_LISTEN", &admin),
        ];
        let mut shim = start("systemd/bugfeed-shim.service", "env/shim.env", &instead, dir.path());
        shim.wait_ready(shim_admin, SOON * 2).await.unwrap();

        // One gateway as it is, one with the durable queue of the file beside the unit.
        let amqp = at(&rabbit, "env/gateway.env", "BUGFEED_AMQP");
        let durable = unit("systemd/bugfeed-gateway@.service.d/durable-queue.conf")["Environment"][0].clone();
        let durable = durable.strip_prefix("BUGFEED_QUEUE_NAME=").unwrap().replace("%l", "host").replace("%i", "b");
        let mut gateways = Vec::new();
        for queue in [None, Some(durable.as_str())] {
            let (clients, admin) = (free_address(), free_address());
            let (listen, admin_listen) = (clients.to_string(), admin.to_string());
            let mut instead = vec![("BUGFEED_AMQP", amqp.as_str())];
            instead.extend([("BUGFEED_LISTEN", listen.as_str()), ("BUGFEED_ADMIN_LISTEN", &admin_listen)]);
            instead.extend(queue.map(|name| ("BUGFEED_QUEUE_NAME", name)));
            let mut proc = start("systemd/bugfeed-gateway@.service", "env/gateway.env", &instead, dir.path());
            proc.wait_ready(admin, SOON * 2).await.unwrap();
            let mut client = Client::connect(&format!("ws://{clients}/")).await;
            client.subscribe(&[1234]).await;
            gateways.push((proc, admin, client));
        }
        let change = async || {
            let sql = format!("INSERT INTO push_notify (bug_id, delta_ts) VALUES (1234, '{}')", T.replace('T', " "));
            server.sql(&database, &sql).await.unwrap();
        };
        change().await;
        for (_, _, client) in &mut gateways {
            assert_eq!(client.update().await, (1234, T.to_owned()));
        }

        // Both find their way back, by history and by queue.
        rabbit.ctl(&["close_all_connections", "a test"]).await.unwrap();
        change().await;
        for (proc, admin, client) in &mut gateways {
            assert_eq!(client.update().await, (1234, T.to_owned()));
            proc.wait_ready(*admin, SOON * 2).await.unwrap();
        }
        for text in gateways.iter().map(|(proc, ..)| proc.output()).chain([shim.output()]) {
            assert!(!text.contains("not permitted") && !text.contains("ACCESS_REFUSED"), "{text}");
        }
        // What else is run with the same variables speaks of the same ledger.
        let status = Run::new(bin("bugfeed-shim").unwrap()).arg("status");
        let mut status = status.envs(variables("env/shim.env", &instead)).dir("/").spawn().unwrap();
        status.succeeds(SOON).await.unwrap();
        assert!(status.output().contains(&ledger) && status.output().contains("unpublished  0"), "{}", status.output());
        a_gateway_cannot_publish(&amqp).await;
        hooks_publish(&rabbit, dir.path()).await;
        an_indexer_reads(&rabbit, dir.path(), change).await;
    }

    /// With the sample of sources and a key, a webhook goes to its exchange; nothing is refused to the process.
    async fn hooks_publish(rabbit: &RabbitMq, dir: &std::path::Path) {
        let [port, admin] = [(); 2].map(|()| free_address());
        let amqp = at(rabbit, "env/hooks.env", "BUGFEED_AMQP");
        let at_dir = |name: &str| dir.join(name).display().to_string();
        let (config, spool, token) = (at_dir("hooks.toml"), at_dir("spool"), at_dir("hooks.token"));
        std::fs::write(&config, crate::deploy::read("hooks.toml")).unwrap();
        let (listen, admin_listen, store) =
            (port.to_string(), admin.to_string(), format!("sqlite://{}", at_dir("hooks.db")));
        let instead = [
            ("BUGFEED_LISTEN", listen.as_str()),
            ("BUGFEED_ADMIN_LISTEN", &admin_listen),
            ("BUGFEED_CONFIG", &config),
            ("BUGFEED_STORE", &store),
            ("BUGFEED_SPOOL_DIR", &spool),
            ("BUGFEED_AMQP", &amqp),
            ("BUGFEED_ADMIN_TOKEN_FILE", &token),
        ];
        let mut hooks = start("systemd/bugfeed-hooks.service", "env/hooks.env", &instead, dir);
        hooks.wait_ready(admin, SOON * 2).await.unwrap();
        let url = format!("http://{admin}");
        let key = Run::new(bin("bugfeed").unwrap())
            .args(["keys", "create", "--name", "kde", "--source", "kde", "--admin-token-file", &token])
            .args(["--admin-url", &url]);
        let key = crate::hooks::key_in(&key.succeeds(SOON).await.unwrap());
        let body = "{\"bug\":{\"id\":7,\"is_private\":false},\"event\":{\"action\":\"modify\",\"target\":\"bug\",\
                    \"routing_key\":\"bug.modify:status\",\"time\":\"2026-01-26T11:59:07\"}}";
        let receiver = crate::hooks::Receiver { proc: hooks, port, admin };
        let (status, answer) = receiver.post("/hooks/kde", &key, body).await;
        assert!(status == 200 && answer["result"] == "ok", "{status} {answer}");
        eventually(SOON, "a published change", async || {
            let (_, metrics) = crate::support::get(admin, "/metrics").await;
            if metrics.contains("bugfeed_shim_changes_published_total{feed=\"kde\"} 1") { Ok(()) } else { Err(metrics) }
        })
        .await
        .unwrap();
        let text = receiver.proc.output();
        assert!(!text.contains("not permitted") && !text.contains("ACCESS_REFUSED"), "{text}");
    }

    /// Only the shim publishes.
    async fn a_gateway_cannot_publish(amqp: &str) {
        let connection = Connection::connect(amqp, ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        let (exchange, options) = ("bugfeed.default".into(), BasicPublishOptions::default());
        let sent = channel.basic_publish(exchange, "1".into(), options, b"{}", BasicProperties::default()).await;
        let refused = match sent {
            Ok(confirm) => confirm.await.err(),
            Err(error) => Some(error),
        };
        assert!(refused.is_some_and(|error| error.to_string().contains("ACCESS_REFUSED")), "it was taken");
    }

    /// A consumer with its own permissions: it is bound, hears of changes, and reads from history what its queue lost.
    async fn an_indexer_reads(rabbit: &RabbitMq, dir: &std::path::Path, change: impl AsyncFn()) {
        let Some(python) = Python::find_or_skip() else { return };
        let amqp = format!("amqp://indexer:SECRET@127.0.0.1:{}/%2f", rabbit.port());
        let start = || {
            python
                .run("amqp-indexer/indexer.py")
                .args(["--amqp", &amqp, "--exchange", "bugfeed.default", "--queue", "indexer"])
                .arg("--database")
                .arg(dir.join("index.db"))
                .spawn()
                .unwrap()
        };
        let mut indexer = start();
        indexer.wait_for_line("is bound", SOON).await.unwrap();
        change().await;
        indexer.wait_for_line("reindex bug 1234", SOON).await.unwrap();
        indexer.sigterm();
        indexer.wait(SOON).await.unwrap();

        let connection = Connection::connect(&rabbit.url(), ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        let purge = async || channel.queue_purge("indexer".into(), Default::default()).await.unwrap();
        let holds_one = async || {
            eventually(SOON, "a change in the queue", async || {
                let look = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
                let queue = channel.queue_declare("indexer".into(), look, Default::default()).await.unwrap();
                if queue.message_count() == 1 { Ok(()) } else { Err(queue.message_count()) }
            })
            .await
            .unwrap();
        };
        // It may have ended before it acknowledged what it had dealt with.
        purge().await;
        change().await;
        holds_one().await;
        purge().await;
        change().await;
        holds_one().await;
        let mut indexer = start();
        indexer.wait_for_line("did not come: reading history", SOON).await.unwrap();
        for _ in 0..2 {
            indexer.wait_for_line("reindex bug 1234", SOON).await.unwrap();
        }
        let text = indexer.output();
        assert!(!text.contains("ACCESS_REFUSED") && !text.contains("cannot read"), "{text}");
    }
}
