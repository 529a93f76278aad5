//! `--exec`: runs one command for each change. In: the bug and when it changed. Out: how the command ended. Never runs
//! two commands at a time, and leaves none running when watching ends.

use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use bugfeed_protocol::When;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, Command};

use super::{Signals, Stop};

/// How long a command may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(2);

/// A shell command with `{bug}` and `{when}` in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(String);

/// Reads the value of `--exec`.
///
/// # Errors
/// If the text is empty; the error says how to write a command.
pub fn parse_template(text: &str) -> Result<Template, String> {
    if text.trim().is_empty() {
        return Err("write a shell command, such as './look-at {bug}'".to_owned());
    }
    if text.contains("${bug}") || text.contains("${when}") {
        return Err("write {bug} and {when}, or $BUGFEED_BUG and $BUGFEED_WHEN".to_owned());
    }
    Ok(Template(text.to_owned()))
}

/// How a command ended.
#[derive(Debug, PartialEq)]
pub(super) enum Outcome {
    Ended(ExitStatus),
    /// It was ended, because watching ends.
    Stopped(Stop),
}

impl Template {
    /// The command for the shell. A number (or "all") and a date need no quotes.
    fn command(&self, bug: &str, when: Option<When>) -> String {
        let when = when.map(|when| when.to_string()).unwrap_or_default();
        self.0.replace("{bug}", bug).replace("{when}", &when)
    }

    /// Runs the command to its end, or until a signal comes.
    pub(super) async fn run(&self, bug: &str, when: Option<When>, signals: &mut Signals) -> io::Result<Outcome> {
        let mut command = Command::new("sh");
        command.arg("-c").arg(self.command(bug, when)).stdin(Stdio::null()).kill_on_drop(true);
        // The command gets a process group of its own, so that everything it starts can be ended with it, and so that
        // Ctrl-C reaches only this program.
        command.process_group(0).env("BUGFEED_BUG", bug);
        match when {
            Some(when) => command.env("BUGFEED_WHEN", when.to_string()),
            None => command.env_remove("BUGFEED_WHEN"),
        };
        let mut child = command.spawn()?;
        tokio::select! {
            status = child.wait() => Ok(Outcome::Ended(status?)),
            stop = signals.next() => {
                end(&mut child, signals).await?;
                Ok(Outcome::Stopped(stop))
            }
        }
    }
}

/// Ends the command and everything it started: with SIGTERM first, and after two seconds or another signal with
/// SIGKILL.
async fn end(child: &mut Child, signals: &mut Signals) -> io::Result<()> {
    // `None` means that it has ended already.
    let Some(group) = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw) else { return Ok(()) };
    // This fails only if the group has ended.
    let _ = kill_process_group(group, Signal::TERM);
    tokio::select! {
        status = child.wait() => return status.map(drop),
        () = tokio::time::sleep(GRACE) => {}
        _ = signals.next() => {}
    }
    let _ = kill_process_group(group, Signal::KILL);
    child.wait().await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bug_and_when_are_put_in_and_nothing_else_is_touched() {
        let bug = "1234";
        let when = When::parse_utc("2014-04-03T21:13:45.5").unwrap();
        for (template, want) in [
            ("look {bug} {when}", "look 1234 2014-04-03T21:13:45.5"),
            ("{bug}{bug}", "12341234"),
            ("awk '{print}' {a,b} $bug {bugs}", "awk '{print}' {a,b} $bug {bugs}"),
        ] {
            assert_eq!(parse_template(template).unwrap().command(bug, Some(when)), want);
        }
        assert_eq!(parse_template("{bug} '{when}'").unwrap().command(bug, None), "1234 ''");
        for refused in ["", "  ", "echo ${bug}", "x ${when}"] {
            parse_template(refused).unwrap_err();
        }
    }
}
