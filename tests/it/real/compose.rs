//! deploy/compose/compose.yaml without containers: its services, started by hand as the file says, each on an address of its own.

mod chaos {
    use std::collections::BTreeMap;
    use std::net::{IpAddr, Ipv4Addr, SocketAddr};
    use std::path::{Path, PathBuf};

    use bugfeed_testbed::{MariaDb, Proc, RabbitMq, Run, bin, eventually, tool};
    use rand::RngExt as _;
    use serde_json::Value;
    use tokio::net::TcpStream;

    use crate::examples::tools::Python;
    use crate::hooks::{Receiver, key_in};
    use crate::support::{Client, SOON, get};

    fn folder() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/compose")
    }

    /// The file, the servers that stand for its images, and which name has which address.
    struct Machine {
        services: Value,
        secrets: PathBuf,
        data: tempfile::TempDir,
        addresses: BTreeMap<String, IpAddr>,
        rabbit: RabbitMq,
        mariadb: MariaDb,
    }

    impl Machine {
        async fn start_or_skip() -> Option<Machine> {
            let python = Python::find_or_skip()?;
            let (rabbit, mariadb) = (RabbitMq::start_or_skip().await?, MariaDb::start_or_skip().await?);
            let data = tempfile::tempdir().unwrap();
            let secrets = data.path().join("secrets");
            Run::new(folder().join("make-secrets")).arg(&secrets).succeeds(SOON).await.unwrap();
            let code = "import json, sys, yaml; print(json.dumps(yaml.safe_load(open(sys.argv[1]))))";
            let file = python.code(code).arg(folder().join("compose.yaml")).succeeds(SOON).await.unwrap();
            let services = serde_json::from_str::<Value>(&file).unwrap()["services"].take();
            // Addresses of this machine that nobody else uses, so that the ports are those of the file.
            let net: u8 = rand::rng().random_range(1..=254);
            let names = ["shim", "shim-2", "gateway-a", "gateway-b", "hooks", "proxy"];
            let addresses = names.iter().zip(1..).map(|(name, host)| {
                let address = IpAddr::from(Ipv4Addr::new(127, 77, net, host));
                ((*name).to_owned(), address)
            });
            let machine = Machine { services, secrets, data, addresses: addresses.collect(), rabbit, mariadb };
            machine.make_users().await;
            Some(machine)
        }

        /// As the images of the broker and of the database do it at their first start.
        async fn make_users(&self) {
            let definitions = self.secrets.join("rabbitmq-definitions.json");
            self.rabbit.ctl(&["import_definitions", definitions.to_str().unwrap()]).await.unwrap();
            let code =
                format!("docker_process_sql() {{ cat; }}\n. {}", folder().join("mariadb/10-bugfeed.sh").display());
            let sql = Run::new("sh").args(["-c", &code]).env("BUGFEED_SECRETS", &self.secrets);
            self.mariadb.sql("", &sql.succeeds(SOON).await.unwrap()).await.unwrap();
        }

        /// A text with the addresses that names have here.
        fn here(&self, text: &str, own: IpAddr) -> String {
            text.replace("@rabbitmq/", &format!("@127.0.0.1:{}/", self.rabbit.port()))
                .replace("@mariadb/", &format!("@127.0.0.1:{}/", self.mariadb.client().address().1))
                .replace("0.0.0.0:", &format!("{own}:"))
                .replace("127.0.0.1:88", &format!("{own}:88"))
        }

        fn at(&self, name: &str, port: u16) -> SocketAddr {
            SocketAddr::from((self.addresses[name], port))
        }

        /// A service of one of the two programs.
        fn start(&self, service: &str, name: &str) -> Proc {
            let own = self.addresses[name];
            let about = &self.services[service];
            let entry = about["entrypoint"][0].as_str().unwrap_or("/usr/local/bin/bugfeed");
            let words = about["command"].as_array().unwrap().iter().map(|word| word.as_str().unwrap());
            let mut variables: Vec<(String, String)> = Vec::new();
            for (variable, value) in about["environment"].as_object().unwrap() {
                variables.push((variable.clone(), value.as_str().unwrap().to_owned()));
            }
            // What the image has by default.
            if service.starts_with("gateway") {
                variables.push(("BUGFEED_ADMIN_LISTEN".to_owned(), "127.0.0.1:8845".to_owned()));
            }
            for (_, value) in &mut variables {
                let mut text = self.here(value, own);
                for (inside, outside) in self.mounts(about).into_iter().chain(self.secret_files(about, own)) {
                    text = text.replace(&inside, &outside);
                }
                *value = text;
            }
            let program = bin(entry.strip_prefix("/usr/local/bin/").unwrap()).unwrap();
            Run::new(program).args(words).envs(variables).dir(self.data.path()).spawn().unwrap()
        }

        /// Where the secrets of a service are here, with the addresses that names have here.
        fn secret_files(&self, about: &Value, own: IpAddr) -> Vec<(String, String)> {
            let file = |secret: &Value| {
                let name = secret.as_str().unwrap();
                let file = self.data.path().join(format!("secret-{name}"));
                let text = std::fs::read_to_string(self.secrets.join(name)).unwrap();
                std::fs::write(&file, self.here(&text, own)).unwrap();
                (format!("/run/secrets/{name}"), file.display().to_string())
            };
            about["secrets"].as_array().unwrap().iter().map(file).collect()
        }

        /// Where the folders and files of a service are here.
        fn mounts(&self, about: &Value) -> Vec<(String, String)> {
            let volumes = about["volumes"].as_array().into_iter().flatten();
            let mount = |volume: &Value| {
                let mut parts = volume.as_str().unwrap().split(':');
                let (from, to) = (parts.next().unwrap(), parts.next().unwrap());
                let outside = if from.starts_with('.') { folder().join(from) } else { self.data.path().join(from) };
                if !from.starts_with('.') {
                    std::fs::create_dir_all(&outside).unwrap();
                }
                (to.to_owned(), outside.display().to_string())
            };
            volumes.map(mount).collect()
        }

        /// Asks what the service's health check asks.
        async fn healthy(&self, service: &str, name: &str, proc: &mut Proc) {
            let test = self.services[service]["healthcheck"]["test"].as_array().unwrap();
            let url = test.last().unwrap().as_str().unwrap();
            let (port, path) = url.strip_prefix("http://127.0.0.1:").unwrap().split_once('/').unwrap();
            let address = self.at(name, port.parse().unwrap());
            let look = async || {
                assert!(proc.exited().unwrap().is_none(), "{name} ended: {}", proc.output());
                let Ok(_) = TcpStream::connect(address).await else { return Err(proc.output()) };
                let (status, body) = get(address, &format!("/{path}")).await;
                if status == 200 { Ok(()) } else { Err(format!("{name}: {body}{}", proc.output())) }
            };
            eventually(SOON * 2, format!("{name} is healthy"), look).await.unwrap();
        }

        /// nginx with the file that the proxy's container gets.
        async fn start_proxy(&self) -> Proc {
            let mut server = std::fs::read_to_string(folder().join("nginx.conf")).unwrap();
            for name in ["gateway-a", "gateway-b", "hooks"] {
                server = server.replace(&format!("{name}:"), &format!("{}:", self.addresses[name]));
            }
            let address = self.at("proxy", 8080);
            let dir = self.data.path().display();
            let server = server.replace("listen 8080;", &format!("listen {address};"));
            let kinds = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
            let temporary = kinds.map(|kind| format!("{kind}_temp_path {dir}/{kind};\n")).concat();
            let text = format!(
                "daemon off;\nmaster_process off;\npid {dir}/pid;\nerror_log stderr;\nevents {{}}\n\
                 http {{\naccess_log off;\n{temporary}{server}\n}}\n"
            );
            let file = self.data.path().join("nginx.conf");
            std::fs::write(&file, text).unwrap();
            let run = Run::new(tool("nginx").unwrap()).arg("-p").arg(self.data.path()).arg("-c").arg(&file);
            let proc = run.args(["-e", "stderr"]).spawn().unwrap();
            let listens = async || TcpStream::connect(address).await.map(drop);
            eventually(SOON, "nginx listens", listens).await.unwrap();
            proc
        }

        /// A row as the tracker writes it, with its own user.
        async fn touch(&self, bug: u64) {
            let password = std::fs::read_to_string(self.secrets.join("mariadb-tracker")).unwrap();
            let url = self.here(&format!("mysql://tracker:{password}@mariadb/bugs"), IpAddr::from([127, 0, 0, 1]));
            let run = Run::new(bin("bugfeed").unwrap()).args(["touch", &bug.to_string(), "--source", &url]);
            run.succeeds(SOON).await.unwrap();
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_services_of_the_file_carry_changes_and_webhooks() {
        let Some(machine) = Machine::start_or_skip().await else { return };
        let replicas = machine.services["shim"]["deploy"]["replicas"].as_u64();
        assert_eq!(replicas, Some(2), "one stands by");
        let mut running = BTreeMap::new();
        for (service, name) in [
            ("shim", "shim"),
            ("shim", "shim-2"),
            ("gateway-a", "gateway-a"),
            ("gateway-b", "gateway-b"),
            ("hooks", "hooks"),
        ] {
            let mut proc = machine.start(service, name);
            machine.healthy(service, name, &mut proc).await;
            running.insert(name, proc);
        }
        let _proxy = machine.start_proxy().await;
        let site = machine.at("proxy", 8080);

        // Two, of which each gateway gets one.
        let mut clients = Vec::new();
        for _ in 0..2 {
            let mut client = Client::connect(&format!("ws://{site}/")).await;
            client.subscribe(&[1234]).await;
            clients.push(client);
        }
        machine.touch(1234).await;
        for client in &mut clients {
            assert_eq!(client.update().await.0, 1234);
        }

        let mut client = Client::connect(&format!("ws://{site}/kde/")).await;
        client.subscribe(&[7]).await;
        let hooks = running.remove("hooks").unwrap();
        let receiver = Receiver { proc: hooks, port: site, admin: machine.at("hooks", 8847) };
        let token = machine.data.path().join("hooks/admin.token").display().to_string();
        let args = ["keys", "create", "--name", "kde", "--source", "kde", "--admin-token-file", &token];
        let key = key_in(&receiver.command(machine.data.path(), &args).await);
        let body = "{\"bug\":{\"id\":7,\"is_private\":false},\"event\":{\"action\":\"modify\",\"target\":\"bug\",\
                    \"routing_key\":\"bug.modify:status\",\"time\":\"2026-01-26T11:59:07\"}}";
        let (status, answer) = receiver.post("/hooks/kde", &key, body).await;
        assert!(status == 200 && answer["result"] == "ok", "{status} {answer}");
        assert_eq!(client.update().await.0, 7);

        // The standby takes over.
        running.get_mut("shim").unwrap().stop(SOON).await.unwrap();
        machine.touch(1234).await;
        for client in &mut clients {
            assert_eq!(client.update().await.0, 1234);
        }
        for proc in running.values().chain([&receiver.proc]) {
            let text = proc.output();
            assert!(!text.contains("not permitted") && !text.contains("ACCESS_REFUSED"), "{text}");
        }
    }
}
