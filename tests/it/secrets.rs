//! A secret in any option or variable that takes an address appears nowhere: not in errors, help, logs or on the admin
//! port, whatever the shape of the address.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use bugfeed_protocol::log_event::LogEvent;
use bugfeed_testbed::{Proc, Run, bin, eventually};
use clap::CommandFactory as _;
use futures::{StreamExt as _, stream};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{SOON, free_address, has_retried, init};

const SECRET: &str = "hunter2topsecret";

/// Right ones and wrong ones, `SECRET` for the secret. Nothing listens at port 1.
const SHAPES: [&str; 20] = [
    "mysql://u:SECRET@127.0.0.1:1/db",
    "postgres://u:SECRET@127.0.0.1:1/db",
    "postgres://u@127.0.0.1:1/db?password=SECRET",
    "amqp://guest:SECRET@127.0.0.1:1/%2f",
    "ws://u:SECRET@127.0.0.1:1/",
    "ws://127.0.0.1:1/?token=SECRET",
    "wss://SECRET@127.0.0.1:1/",
    "sqlite://none.db?key=SECRET",
    "kde=https://u:SECRET@127.0.0.1/{bug}",
    "https://u:SECRET@127.0.0.1/",
    "mysql:/u:SECRET@h/db",
    "mysql:u:SECRET@h/db",
    "amqp:/guest:SECRET@h",
    "amqp://guest:SECRET#x@h/",
    "amqp://guest:1/SECRET@h/",
    "amqp://guest:1?SECRET@h/",
    "guest:SECRET@127.0.0.1",
    "guest:SECRET",
    "host=h user=u password=SECRET",
    "oracle://u:SECRET@h/db",
];

/// A program, one of its commands, what that needs, and an option of it that takes an address.
#[derive(Clone, Debug)]
struct Place {
    program: &'static str,
    args: Vec<String>,
    option: String,
    variable: String,
}

fn places(dir: &Path) -> Vec<Place> {
    let file = |name: &str| format!("sqlite://{}", dir.join(name).display());
    let (table, data) = (file("table.db"), dir.join("data").display().to_string());
    let ports = ["--listen", "127.0.0.1:0", "--admin-listen", "ADMIN"];
    let needs = |program: &str, command: &str| -> Vec<String> {
        let more: &[&str] = match (program, command) {
            (_, "serve") => &[&ports[..], &["--data-dir", &data]].concat(),
            (_, "gateway" | "hooks") => &ports,
            (_, "touch" | "watch") => &["1"],
            (_, "run") => &["--source", &table, "--admin-listen", "ADMIN"],
            (_, "init") => &["--source", &table],
            _ => &[],
        };
        more.iter().map(|&text| text.to_owned()).collect()
    };
    let mut places = Vec::new();
    for (program, command) in
        [("bugfeed", bugfeed::cli::Cli::command()), ("bugfeed-shim", bugfeed_shim::cli::Cli::command())]
    {
        for sub in command.get_subcommands() {
            for arg in sub.get_arguments() {
                let is_address = arg.get_value_names().unwrap_or_default().iter().any(|name| name.contains("URL"));
                let Some(long) = arg.get_long().filter(|_| is_address) else { continue };
                let option = format!("--{long}");
                let mut needs = needs(program, sub.get_name());
                if let Some(at) = needs.iter().position(|need| *need == option) {
                    needs.drain(at..at + 2);
                }
                let args = [vec![sub.get_name().to_owned()], needs].concat();
                let variable = arg.get_env().expect("each has one").to_string_lossy().into_owned();
                places.push(Place { program, args, option, variable });
            }
        }
    }
    places
}

/// Runs until it ends, or has said and done enough to be asked how it is; all that it said.
async fn all_output(dir: &Path, program: &str, args: &[String], variables: &[(String, String)]) -> String {
    let admin = free_address();
    let args = args.iter().map(|arg| if arg == "ADMIN" { admin.to_string() } else { arg.clone() });
    let run = Run::new(bin(program).unwrap()).dir(dir).args(args).env("RUST_LOG", "debug");
    let mut proc = run.envs(variables.iter().map(|(name, value)| (name, value))).spawn().unwrap();
    let mut answers = String::new();
    eventually(SOON, "it ends, or serves, or tries again", async || {
        let ended = proc.exited().unwrap().is_some();
        ended || TcpStream::connect(admin).await.is_ok() || tries_again(&proc)
    })
    .await
    .unwrap();
    if proc.exited().unwrap().is_none() {
        // Until it is ready, or has found out that nobody is there, or ends for that.
        let _ = eventually(SOON, "it knows", async || {
            let answer = try_get(admin, "/readyz").await.unwrap_or_default();
            let knows = answer.contains(" 200 ") || answer.contains("refused");
            knows || tries_again(&proc) || proc.exited().unwrap().is_some()
        })
        .await;
        for path in ["/readyz", "/metrics"] {
            answers.push_str(&try_get(admin, path).await.unwrap_or_default());
        }
        proc.sigterm();
    }
    proc.wait(SOON).await.unwrap();
    proc.output() + &answers
}

/// Whether it has found out that nobody is there.
fn tries_again(proc: &Proc) -> bool {
    proc.events(LogEvent::PartDown) > 0 || proc.events(LogEvent::BusDown) > 0 || has_retried(proc)
}

/// The whole answer; an error where nobody is there, or not any more.
async fn try_get(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

#[tokio::test]
async fn a_secret_in_an_address_appears_nowhere() {
    let dir = tempfile::tempdir().unwrap();
    let table = format!("sqlite://{}", dir.path().join("table.db").display());
    init(&table).await;
    let places = places(dir.path());
    assert!(places.len() >= 9, "{places:?}");
    let mut runs = Vec::new();
    for place in &places {
        for shape in SHAPES {
            let value = shape.replace("SECRET", SECRET);
            let with = |args: &[&str]| [place.args.clone(), args.iter().map(|&arg| arg.to_owned()).collect()].concat();
            let joined = format!("{}={value}", place.option);
            runs.push((place.program, with(&[&joined]), vec![]));
            runs.push((place.program, with(&[]), vec![(place.variable.clone(), value)]));
        }
        let value = SHAPES[0].replace("SECRET", SECRET);
        for help in ["--help", "-h"] {
            runs.push((
                place.program,
                vec![place.args[0].clone(), help.to_owned()],
                vec![(place.variable.clone(), value.clone())],
            ));
        }
    }
    for shape in SHAPES {
        // In the wrong place, and by a wrong name.
        let value = shape.replace("SECRET", SECRET);
        for (program, args) in [
            ("bugfeed", vec![value.clone()]),
            ("bugfeed", vec!["watch".to_owned(), value.clone()]),
            ("bugfeed", vec!["gateway".to_owned(), value.clone()]),
            ("bugfeed", vec!["gateway".to_owned(), format!("--ampq={value}")]),
            ("bugfeed", vec!["gateway".to_owned(), format!("--allow-origin={value}")]),
            ("bugfeed-shim", vec![value.clone()]),
            ("bugfeed-shim", vec!["status".to_owned(), value.clone()]),
            ("bugfeed-shim", vec!["init".to_owned(), "--sourc".to_owned(), value.clone()]),
        ] {
            if shape != "guest:SECRET" {
                // Which could be anything there.
                runs.push((program, args, vec![]));
            }
        }
    }
    let (count, dir) = (runs.len(), dir.path());
    let runs = runs.into_iter().enumerate().map(async |(number, (program, args, variables))| {
        // Each in a folder of its own: they write into it.
        let dir = dir.join(number.to_string());
        std::fs::create_dir(&dir).unwrap();
        let output = all_output(&dir, program, &args, &variables).await;
        assert!(!output.contains(SECRET), "{program} {args:?} {variables:?}:\n{output}");
        assert!(!output.contains("panicked"), "{program} {args:?} {variables:?}:\n{output}");
    });
    let done = stream::iter(runs).buffer_unordered(4).count().await;
    assert_eq!(done, count);
}

/// Contents of files, right ones and wrong ones.
const CONTENTS: [&str; 5] = [
    "mysql://u:SECRET@127.0.0.1:1/db\n",
    "amqp://guest:SECRET@127.0.0.1:1/%2f",
    "SECRET",
    "guest:SECRET\n",
    "mysql:/u:SECRET@h/db\r\n",
];

#[tokio::test]
async fn a_secret_in_a_file_appears_nowhere() {
    let dir = tempfile::tempdir().unwrap();
    init(&format!("sqlite://{}", dir.path().join("table.db").display())).await;
    let all = [bugfeed::cli::Cli::command(), bugfeed_shim::cli::Cli::command()];
    let has_file = |place: &Place| {
        let long = format!("{}-file", &place.option[2..]);
        let commands = all.iter().flat_map(clap::Command::get_subcommands);
        commands.flat_map(clap::Command::get_arguments).any(|arg| arg.get_long() == Some(&*long))
    };
    let places: Vec<Place> = places(dir.path()).into_iter().filter(has_file).collect();
    let mut options: Vec<&str> = places.iter().map(|place| &*place.option).collect();
    options.sort_unstable();
    options.dedup();
    assert_eq!(options, ["--amqp", "--ledger", "--shim-amqp", "--source", "--store"], "each may hold a password");
    let mut runs = Vec::new();
    for (number, place) in places.iter().enumerate() {
        for (shape, content) in CONTENTS.iter().enumerate() {
            let file = dir.path().join(format!("secret-{shape}"));
            std::fs::write(&file, content.replace("SECRET", SECRET)).unwrap();
            let file = file.display().to_string();
            let with = |arg: String| [place.args.clone(), vec![arg]].concat();
            // All ways, and all contents, but not each content in each way at each place.
            runs.push(match (number + shape) % 4 {
                0 => (place.program, with(format!("{}=@{file}", place.option)), vec![]),
                1 => (place.program, with(format!("{}-file={file}", place.option)), vec![]),
                2 => (place.program, place.args.clone(), vec![(place.variable.clone(), format!("@{file}"))]),
                _ => (place.program, place.args.clone(), vec![(format!("{}_FILE", place.variable), file)]),
            });
        }
    }
    let (count, dir) = (runs.len(), dir.path());
    let runs = runs.into_iter().enumerate().map(async |(number, (program, args, variables))| {
        let dir = dir.join(format!("run-{number}"));
        std::fs::create_dir(&dir).unwrap();
        let output = all_output(&dir, program, &args, &variables).await;
        assert!(!output.contains(SECRET), "{program} {args:?} {variables:?}:\n{output}");
        assert!(!output.contains("panicked"), "{program} {args:?} {variables:?}:\n{output}");
    });
    let done = stream::iter(runs).buffer_unordered(4).count().await;
    assert_eq!(done, count);
}

/// A gateway with a secret in a file: the address is used, other users see the file's name only, and are told where it is open
/// to them.
#[tokio::test]
async fn an_address_and_a_password_in_files_are_used() {
    let dir = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (whole, password) = (dir.path().join("amqp"), dir.path().join("password"));
    std::fs::write(&password, "p@ss/word\n").unwrap();
    std::fs::write(&whole, format!("amqp://me:{{@{}}}@127.0.0.1:{port}/%2f\n", password.display())).unwrap();
    std::fs::set_permissions(&whole, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::set_permissions(&password, std::fs::Permissions::from_mode(0o644)).unwrap();
    let mut gateway = Run::new(bin("bugfeed").unwrap())
        .args(["gateway", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--amqp-file"])
        .arg(&whole)
        .spawn()
        .unwrap();
    let said = gateway.wait_for_event(LogEvent::SecretReadable, SOON).await.unwrap();
    assert!(said.contains("password") && !said.contains("p@ss"), "{said}");
    let talk = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = [0; 8];
        stream.read_exact(&mut head).await.unwrap();
        assert_eq!(&head, b"AMQP\0\0\x09\x01");
    };
    tokio::time::timeout(SOON, talk).await.unwrap();
    let seen = std::fs::read(format!("/proc/{}/cmdline", gateway.pid())).unwrap();
    assert!(!String::from_utf8_lossy(&seen).contains("me:"), "other users see the arguments");
}

#[tokio::test]
async fn a_value_and_a_file_contradict_each_other_and_a_file_that_is_not_there_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("amqp").display().to_string();
    std::fs::write(&file, format!("amqp://u:{SECRET}@h/")).unwrap();
    /// Arguments, variables, and what is said.
    type Case<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)], &'a [&'a str]);
    let cases: [Case<'_>; 4] = [
        (
            &["gateway", "--amqp", "amqp://u:hunter2topsecret@h/"],
            &[("BUGFEED_AMQP_FILE", &file)],
            &[
                "--amqp <URL>",
                "--amqp-file <FILE>",
                "--amqp-file was given by the environment variable BUGFEED_AMQP_FILE",
            ],
        ),
        (&["gateway", "--amqp-file", "/no/such/file"], &[], &["--amqp-file", "the file /no/such/file cannot be read"]),
        (&["gateway", "--amqp", "@/no/such/file"], &[], &["'@/no/such/file'", "--amqp", "cannot be read"]),
        (
            &["hooks"],
            &[("BUGFEED_STORE_FILE", "/no/such/file")],
            &["--store-file", "the file /no/such/file cannot be read", "environment variable BUGFEED_STORE_FILE"],
        ),
    ];
    for (args, variables, wants) in cases {
        let mut run = Run::new(bin("bugfeed").unwrap()).args(args).envs(variables.iter().copied()).spawn().unwrap();
        assert_eq!(run.wait(SOON).await.unwrap().code(), Some(2));
        let said = run.output();
        for want in wants {
            assert!(said.contains(want), "{want}: {said}");
        }
        assert!(!said.contains(SECRET), "{said}");
    }
}
