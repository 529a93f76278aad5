//! The files of deploy/, as far as they can be checked without servers: units, samples and document fit each other and the
//! programs. `real::deploy` checks the rest.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use bugfeed_testbed::{Run, bin, skipped, tool};

use crate::support::{Client, SOON, free_address};

/// A file of deploy/.
pub fn read(name: &str) -> String {
    std::fs::read_to_string(folder().join(name)).unwrap_or_else(|error| panic!("deploy/{name}: {error}"))
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy")
}

fn names(under: &str) -> Vec<String> {
    let entries = std::fs::read_dir(folder().join(under)).unwrap();
    entries.map(|entry| format!("{under}/{}", entry.unwrap().file_name().to_str().unwrap())).collect()
}

/// A unit: the values of each key.
pub fn unit(name: &str) -> BTreeMap<String, Vec<String>> {
    let mut keys: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in read(name).lines().filter(|line| !line.starts_with(['#', '['])) {
        if let Some((key, value)) = line.split_once('=') {
            keys.entry(key.to_owned()).or_default().push(value.to_owned());
        }
    }
    keys
}

/// Names and values.
pub type Variables = Vec<(String, String)>;

/// The variables of a sample, and those that it has as a suggestion.
pub fn sample(name: &str) -> (Variables, Variables) {
    let pair = |line: &str| {
        let (name, value) = line.split_once('=')?;
        let is_name = name.starts_with("BUGFEED_") && !name.contains(' ');
        is_name.then(|| (name.to_owned(), value.to_owned()))
    };
    let text = read(name);
    let set = text.lines().filter_map(pair).collect();
    (set, text.lines().filter_map(|line| pair(line.strip_prefix('#')?)).collect())
}

/// The lines of the document's code, those that go on joined.
pub fn commands() -> Vec<String> {
    let text = read("README.md").replace("\\\n", "");
    let blocks = text.split("```sh\n").skip(1).map(|block| block.split("```").next().unwrap_or_default());
    blocks.flat_map(str::lines).map(str::to_owned).collect()
}

/// The nginx configuration that the document has for the root of a site.
pub fn nginx() -> String {
    read("README.md").split("```nginx\n").nth(1).and_then(|block| block.split("```").next()).unwrap().to_owned()
}

/// The units as if they were installed below a folder, where systemd-analyze is.
fn installed_units() -> Option<tempfile::TempDir> {
    if tool("systemd-analyze").is_err() {
        skipped("systemd-analyze is not installed; install the Debian package systemd");
        return None;
    }
    let root = tempfile::tempdir().unwrap();
    let units = root.path().join("etc/systemd/system");
    let programs = root.path().join("usr/local/bin");
    for folder in [&units.join("bugfeed-gateway@.service.d"), &programs] {
        std::fs::create_dir_all(folder).unwrap();
    }
    for name in names("systemd").iter().chain(&names("systemd/bugfeed-gateway@.service.d")) {
        if !folder().join(name).is_dir() {
            std::fs::write(units.join(name.strip_prefix("systemd/").unwrap()), read(name)).unwrap();
        }
    }
    std::fs::create_dir_all(root.path().join("usr/bin")).unwrap();
    for program in ["bugfeed", "bugfeed-shim", "../../bin/kill"] {
        // Only looked for, never run; a link would lead out of the folder that is taken for the root.
        let stand_in = programs.join(program);
        std::fs::write(&stand_in, "#!/bin/sh\n").unwrap();
        std::fs::set_permissions(&stand_in, PermissionsExt::from_mode(0o755)).unwrap();
    }
    std::os::unix::fs::symlink("bugfeed-gateway@.service", units.join("bugfeed-gateway@a.service")).unwrap();
    Some(root)
}

const UNITS: [&str; 4] =
    ["bugfeed.service", "bugfeed-shim.service", "bugfeed-gateway@a.service", "bugfeed-hooks.service"];

#[tokio::test]
async fn systemd_takes_the_units() {
    let Some(root) = installed_units() else { return };
    let mut verify = Run::new("systemd-analyze")
        .args(["verify", "--man=no", "--recursive-errors=no", &format!("--root={}", root.path().display())])
        .args(UNITS)
        .dir(root.path().join("etc/systemd/system"))
        .spawn()
        .unwrap();
    let ended = verify.wait(SOON).await.unwrap();
    assert!(ended.success() && verify.output().trim().is_empty(), "{}", verify.output());
}

/// What systemd itself says of how much of the machine a unit reaches: 10 is everything, 1.1 what Debian 12 says of these.
#[tokio::test]
async fn systemd_finds_the_units_hardened() {
    let Some(root) = installed_units() else { return };
    let root = format!("--root={}", root.path().display());
    for unit in UNITS {
        let args = ["security", "--no-pager", "--offline=true", "--threshold=15", &root, unit];
        let mut security = Run::new("systemd-analyze").args(args).spawn().unwrap();
        let ended = security.wait(SOON).await.unwrap();
        assert!(ended.success(), "{}", security.output());
        assert!(security.output().contains("Overall exposure level for"), "{}", security.output());
    }
}

/// A variable that is no option does nothing, and nobody is told.
#[tokio::test]
async fn samples_and_units_name_options_that_there_are() {
    for (program, command, sample_name, unit_name) in [
        ("bugfeed", "serve", "env/bugfeed.env", "systemd/bugfeed.service"),
        ("bugfeed", "gateway", "env/gateway.env", "systemd/bugfeed-gateway@.service"),
        ("bugfeed", "gateway", "env/gateway.env", "systemd/bugfeed-gateway@.service.d/durable-queue.conf"),
        ("bugfeed", "gateway", "env/gateway.env", "systemd/bugfeed-gateway@.service.d/credential.conf"),
        ("bugfeed", "hooks", "env/hooks.env", "systemd/bugfeed-hooks.service"),
        ("bugfeed-shim", "run", "env/shim.env", "systemd/bugfeed-shim.service"),
    ] {
        let mut help = Run::new(bin(program).unwrap()).args([command, "--help"]).spawn().unwrap();
        help.succeeds(SOON).await.unwrap();
        let known = |name: &str| ["]", "=]"].iter().any(|end| help.output().contains(&format!("[env: {name}{end}")));
        let (set, suggested) = sample(sample_name);
        assert!(set.len() >= 3, "{set:?}");
        let unit = unit(unit_name);
        let of_unit = unit.get("Environment").into_iter().flatten().map(|pair| pair.split_once('=').unwrap().0);
        for name in set.iter().chain(&suggested).map(|(name, _)| name.as_str()).chain(of_unit) {
            assert!(known(name), "{sample_name}, {unit_name}: {name} is no option of {program} {command}");
        }
        // What the unit reads is what the document installs.
        for file in unit.get("EnvironmentFile").into_iter().flatten() {
            let file = file.trim_start_matches('-').rsplit_once('/').unwrap().1;
            assert!(file.contains("%i") || folder().join("env").join(file).is_file(), "{unit_name}: {file}");
        }
    }
}

/// Whoever reaches a proxy would reach the button.
#[test]
fn the_demo_button_is_off_wherever_the_all_in_one_is_deployed() {
    let serves: Vec<String> = names("systemd").into_iter().filter(|name| name.ends_with(".service")).collect();
    for name in serves.iter().filter(|name| read(name).contains("bugfeed serve")) {
        assert!(unit(name)["Environment"].contains(&"BUGFEED_DEMO=false".to_owned()), "{name}");
    }
    assert!(sample("env/bugfeed.env").0.contains(&("BUGFEED_DEMO".to_owned(), "false".to_owned())));
    for name in names("env").iter().chain(&names("systemd")).filter(|name| !folder().join(name).is_dir()) {
        assert!(!read(name).to_lowercase().contains("demo=true"), "{name}");
    }
}

/// Two gateways on one queue would each tell half: not two of a host, nor two hosts' of one name.
#[test]
fn a_durable_queue_is_named_by_host_and_instance() {
    let queue = &unit("systemd/bugfeed-gateway@.service.d/durable-queue.conf")["Environment"][0];
    assert!(queue.starts_with("BUGFEED_QUEUE_NAME=") && queue.contains("%l") && queue.contains("%i"), "{queue}");
}

#[test]
fn the_document_makes_what_the_units_need_and_names_files_that_there_are() {
    let commands = commands().join("\n");
    for name in names("systemd").into_iter().filter(|name| name.ends_with(".service")) {
        for user in unit(&name).get("User").into_iter().flatten() {
            let made = commands.lines().any(|line| line.contains("useradd") && line.ends_with(&format!(" {user}")));
            assert!(made, "{name}: nobody makes the user {user}");
        }
        let started = name.trim_start_matches("systemd/").trim_end_matches(".service");
        assert!(commands.contains(&format!("systemctl enable --now {started}")), "{name} is never enabled");
    }
    for word in commands.split_whitespace().filter(|word| word.starts_with("deploy/")) {
        let found = !word.contains('*') && Path::new(env!("CARGO_MANIFEST_DIR")).join(word).exists();
        assert!(found || ["deploy/env/*.env", "deploy/systemd/*.service"].contains(&word), "{word}");
    }
}

/// A ledger that is set back gives numbers out twice; nothing may advise it.
#[test]
fn no_document_advises_to_put_a_ledger_back() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let units = names("systemd").into_iter().filter(|name| !folder().join(name).is_dir());
    let mut texts: Vec<(String, String)> = units.map(|name| (name.clone(), read(&name))).collect();
    for name in ["README.md", "ARCHITECTURE.md", "PROTOCOL.md", "deploy/README.md", "docs/capacity.md"] {
        texts.push((name.to_owned(), std::fs::read_to_string(root.join(name)).unwrap()));
    }
    for (name, text) in texts {
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase();
        for advice in ["back it up", "back the ledger up", "restore the ledger", "restore it from", "from a backup or"]
        {
            assert!(!text.contains(advice), "{name}: {advice}");
        }
    }
}

/// The tracker runs as another user, in the group of the all-in-one, and writes into its table.
#[tokio::test]
async fn whoever_is_in_the_group_writes_the_change_table() {
    let unit = unit("systemd/bugfeed.service");
    let mode = u32::from_str_radix(&unit["StateDirectoryMode"][0], 8).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("bugfeed");
    std::fs::create_dir(&data).unwrap();
    let is_root = rustix::process::geteuid().is_root();
    // Users that nobody else is; only root becomes another one.
    let (service, tracker, group) = (64_201, 64_202, 64_200);
    if is_root {
        std::os::unix::fs::chown(&data, Some(service), Some(group)).unwrap();
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    }
    std::fs::set_permissions(&data, PermissionsExt::from_mode(mode)).unwrap();
    // Where others may not look into the folder of the build.
    let program = dir.path().join("program");
    std::fs::hard_link(bin("bugfeed").unwrap(), &program)
        .or_else(|_| std::fs::copy(bin("bugfeed").unwrap(), &program).map(drop))
        .unwrap();
    let run_as = |user: u32, umask: &str, args: &[&str]| {
        let words = args.iter().map(|arg| format!("'{arg}'")).collect::<Vec<_>>().join(" ");
        let other = format!("setpriv --reuid={user} --regid={group} --clear-groups");
        let code = format!("umask {umask}; exec {} '{}' {words}", if is_root { &other } else { "" }, program.display());
        Run::new("sh").args(["-c", &code]).dir(&data).spawn().unwrap()
    };
    let [listen, admin] = [(); 2].map(|()| free_address());
    let (folder, words) = (data.to_str().unwrap(), [listen.to_string(), admin.to_string()]);
    let args = ["serve", "--data-dir", folder, "--listen", &words[0], "--admin-listen", &words[1]];
    let mut serve = run_as(service, &unit["UMask"][0], &args);
    serve.wait_ready(admin, SOON).await.unwrap();
    for file in ["bugfeed.db", "bugfeed.db-wal", "bugfeed.db-shm"] {
        let mode = std::fs::metadata(data.join(file)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o660, "{file}: {mode:o}");
    }
    let table = format!("sqlite://{folder}/bugfeed.db");
    let write = async || {
        let mut touch = run_as(tracker, "022", &["touch", "1234", "--source", &table]);
        touch.succeeds(SOON).await.unwrap();
    };
    let mut client = Client::connect(&format!("ws://{listen}/")).await;
    client.subscribe(&[1234]).await;
    write().await;
    assert_eq!(client.update().await.0, 1234);
    // Also while the service does not run: what SQLite makes anew then, it can still write.
    serve.stop(SOON).await.unwrap();
    write().await;
    let mut serve = run_as(service, &unit["UMask"][0], &args);
    serve.wait_ready(admin, SOON).await.unwrap();
    let mut client = Client::connect(&format!("ws://{listen}/")).await;
    client.subscribe(&[1234]).await;
    write().await;
    assert_eq!(client.update().await.0, 1234);
}
