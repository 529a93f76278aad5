//! What the all-in-one prints at its start is copied into other terminals: it must run there, letter for letter.

use bugfeed_testbed::{Proc, Run, bin, free_port};

use crate::support::{SOON, connected};

/// A terminal: a shell in the folder, with the variables that the person has set everywhere.
fn terminal(dir: &std::path::Path, line: &str) -> Proc {
    Run::new("sh")
        .args(["-c", &format!("exec {line}")])
        .dir(dir)
        .env("BUGFEED_SHIM_SOURCE", "sqlite://another-tracker.db")
        .env("BUGFEED_URL", "ws://127.0.0.1:1/")
        .spawn()
        .unwrap()
}

#[tokio::test]
async fn the_banners_commands_run_as_they_are_printed() {
    for (program, options) in [
        ("target/release/bugfeed", ""),
        ("'my programs/bugfeed'", "--data-dir 'all my data' --table changes --timezone Asia/Tokyo"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(program.trim_matches('\''));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(bin("bugfeed").unwrap(), &path).unwrap();
        let (clients, admin) = (free_port().unwrap(), free_port().unwrap());
        let ports = format!("--listen 127.0.0.1:{clients} --admin-listen 127.0.0.1:{admin}");
        let mut serve = terminal(dir.path(), &format!("{program} serve {ports} {options}"));
        // The last of the banner, which is printed as soon as it is this one's turn.
        serve.wait_for_line(" touch 1234", SOON).await.unwrap();
        let banner = serve.output();
        let printed = |word: &str| {
            let lines = banner.lines().skip_while(|line| !line.starts_with("Try, in two other terminals"));
            let found = lines.map(str::trim).find(|line| line.contains(&format!(" {word} 1234")));
            found.unwrap_or_else(|| panic!("no {word} in: {banner}")).to_owned()
        };
        let mut watch = terminal(dir.path(), &format!("{} --count 1", printed("watch")));
        connected(&mut watch).await;
        let mut touch = terminal(dir.path(), &printed("touch"));
        assert!(touch.wait(SOON).await.unwrap().success(), "{banner}{}", touch.output());
        watch.wait_for_line("bug 1234 changed", SOON).await.unwrap();
        // In the zone that the all-in-one was told, the change was made just now.
        let day = |text: String| text.lines().find_map(|line| line.split_once("  bug").map(|at| at.0.to_owned()));
        assert_eq!(day(watch.output()), day(touch.output()), "{}{}", watch.output(), touch.output());
    }
}
