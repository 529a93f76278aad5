//! A secret in any option or variable that takes an address appears nowhere: not in errors, help, logs or on the admin
//! port, whatever the shape of the address.

use std::net::SocketAddr;
use std::path::Path;

use bugfeed_protocol::log_event::LogEvent;
use bugfeed_testbed::{Proc, Run, bin, eventually};
use clap::CommandFactory as _;
use futures::{StreamExt as _, stream};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

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
