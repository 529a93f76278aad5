//! The errors and warnings about a command line and its environment variables, for both programs.
//!
//! Goes in: the definition of the options, and the given arguments and variables. Comes out: texts that name the option
//! or the variable that a wrong value came from, show no password, and say what to write.

use std::ffi::OsString;
use std::io::Write as _;

use bugfeed_protocol::redact::scrub;
use clap::error::ErrorKind;

/// Variables that look like ours and are set for other reasons; they are not misspelt.
const FOREIGN: [&str; 2] = ["BUGFEED_BUG", "BUGFEED_TEST_"];

/// Endings of variables that orchestrators set for each service; a service may well be called bugfeed.
const SERVICES: [&str; 4] = ["_SERVICE_HOST", "_SERVICE_PORT", "_PORT", "_TCP"];

/// The same command, but its help never shows the values of variables.
#[must_use]
pub fn without_values(command: clap::Command) -> clap::Command {
    command.mut_args(|arg| arg.hide_env_values(true)).mut_subcommands(without_values)
}

/// A variable that was renamed. The former name still counts if the new one is not set. (The option's former spelling
/// is an alias in the definition of the command line.)
#[derive(Clone, Copy, Debug)]
pub struct Renamed {
    /// The new name.
    pub now: &'static str,
    /// The former name.
    pub before: &'static str,
}

/// The same command; an option reads its former variable if that one is set and the new one is not. `is_set` says
/// whether an environment variable is set.
#[must_use]
pub fn with_former_variables(
    mut command: clap::Command,
    renamed: &[Renamed],
    is_set: impl Fn(&str) -> bool,
) -> clap::Command {
    let former: Vec<Renamed> =
        renamed.iter().filter(|renamed| is_set(renamed.before) && !is_set(renamed.now)).copied().collect();
    read_former(&mut command, &former);
    command
}

fn read_former(command: &mut clap::Command, former: &[Renamed]) {
    let taken = std::mem::take(command);
    *command = taken
        .mut_args(|arg| {
            let before = former.iter().find(|renamed| arg.get_env().is_some_and(|env| env == renamed.now));
            before.map_or_else(|| arg.clone(), |renamed| arg.clone().env(renamed.before))
        })
        .mut_subcommands(|mut sub| {
            read_former(&mut sub, former);
            sub
        });
}

/// Whether an environment variable is set.
pub fn is_set(variable: &str) -> bool {
    std::env::var_os(variable).is_some()
}

/// One option.
#[derive(Debug)]
struct Known {
    long: String,
    variable: String,
    is_address: bool,
    /// Whether its value is nothing but a secret.
    is_secret: bool,
}

/// The options of a program, and its arguments and variables.
#[derive(Debug)]
pub struct Usage {
    known: Vec<Known>,
    args: Vec<String>,
    variables: Vec<(String, String)>,
}

impl Usage {
    /// The usage of a program with these arguments and variables.
    pub fn new(
        command: &clap::Command,
        args: impl IntoIterator<Item = OsString>,
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Usage {
        let mut known = Vec::new();
        let mut commands = vec![command];
        while let Some(command) = commands.pop() {
            commands.extend(command.get_subcommands());
            known.extend(command.get_arguments().filter_map(|arg| {
                let names = arg.get_value_names().unwrap_or_default();
                Some(Known {
                    long: arg.get_long()?.to_owned(),
                    variable: arg.get_env()?.to_string_lossy().into_owned(),
                    is_address: names.iter().any(|name| name.contains("URL")),
                    is_secret: names.iter().any(|name| ["SECRET", "TOKEN"].contains(&name.as_str())),
                })
            }));
        }
        let text = |text: OsString| text.to_string_lossy().into_owned();
        Usage {
            known,
            args: args.into_iter().map(text).collect(),
            variables: variables.into_iter().map(|(name, value)| (text(name), text(value))).collect(),
        }
    }

    /// The usage of this process.
    pub fn of_this_process(command: &clap::Command) -> Usage {
        Usage::new(command, std::env::args_os(), std::env::vars_os())
    }

    /// Prints clap's message without secrets and ends the process, with clap's exit code.
    pub fn exit(&self, error: &clap::Error) -> ! {
        if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
            error.exit();
        }
        // An error while writing to standard error cannot be reported anywhere.
        let _ = std::io::stderr().write_all(self.explain(&error.render().to_string()).as_bytes());
        std::process::exit(error.exit_code());
    }

    /// The error as it may be shown: without secrets, and, for each option that it names, with the variable that the
    /// value came from.
    pub fn explain(&self, text: &str) -> String {
        // The text after the first blank line is clap's usage, which names options too.
        let fault = text.split("\n\n").next().unwrap_or_default();
        let mut notes = String::new();
        for Known { long, variable, .. } in &self.known {
            let option = format!("--{long}");
            let is_given =
                |arg: &String| arg.strip_prefix(&*option).is_some_and(|rest| rest.is_empty() || rest.starts_with('='));
            let is_set = self.variables.iter().any(|(name, _)| name == variable);
            let note = format!("  {option} was given by the environment variable {variable}\n");
            if is_set && names(fault, &option) && !self.args.iter().any(is_given) && !notes.contains(&note) {
                notes.push_str(&note);
            }
        }
        let fault =
            if notes.is_empty() { fault.to_owned() } else { format!("{}\n{}", fault.trim_end(), notes.trim_end()) };
        self.scrub(&(fault + &text[text.split("\n\n").next().map_or(0, str::len)..]))
    }

    /// The text without the secrets in the given values.
    fn scrub(&self, text: &str) -> String {
        let text = &self.secrets().fold(text.to_owned(), |text, secret| text.replace(secret, "…"));
        let mut values: Vec<(&str, bool)> = Vec::new();
        let is_address = |option: &str| {
            let known = |known: &Known| known.is_address && option.strip_prefix("--") == Some(&known.long);
            self.known.iter().any(known)
        };
        let mut before = "";
        for arg in &self.args {
            match arg.split_once('=').filter(|(option, _)| option.starts_with('-')) {
                Some((option, value)) => values.push((value, is_address(option))),
                None => values.push((arg, is_address(before))),
            }
            before = arg;
        }
        for (name, value) in &self.variables {
            if let Some(known) = self.known.iter().find(|known| known.variable == *name) {
                values.push((value, known.is_address));
            }
        }
        // The name of a file, which is no address.
        for (value, _) in &mut values {
            *value = value.strip_prefix('@').unwrap_or(value);
        }
        // A value may be a list with commas: its elements are replaced too.
        let parts = values.iter().flat_map(|(value, is_address)| value.split(',').map(|part| (part, *is_address)));
        let parts: Vec<_> = parts.collect();
        scrub(text, values.into_iter().chain(parts))
    }

    /// The given values of options that hold nothing but a secret. The name of a file is none.
    fn secrets(&self) -> impl Iterator<Item = &str> {
        let is_option = |known: &Known, text: &str| text.strip_prefix("--") == Some(&known.long);
        let known = || self.known.iter().filter(|known| known.is_secret);
        let joined = self.args.iter().filter_map(move |arg| {
            let (option, value) = arg.split_once('=')?;
            known().any(|known| is_option(known, option)).then_some(value)
        });
        let next = self
            .args
            .windows(2)
            .filter_map(move |pair| known().any(|known| is_option(known, &pair[0])).then_some(pair[1].as_str()));
        let set = self
            .variables
            .iter()
            .filter_map(move |(name, value)| known().any(|known| known.variable == *name).then_some(value.as_str()));
        joined.chain(next).chain(set).filter(|value| !value.is_empty() && !value.starts_with('@'))
    }

    /// A warning for each set variable that begins with `prefix` but belongs to no option, so that it has no effect.
    /// `also` is another program whose variables have the same prefix.
    pub fn strays(&self, prefix: &str, also: Option<&Usage>) -> Vec<String> {
        let known = || self.known.iter().chain(also.iter().flat_map(|also| &also.known)).map(|known| &*known.variable);
        let is_stray = |name: &str| {
            let service = SERVICES.iter().any(|end| name.ends_with(end)) || name.contains("_SERVICE_PORT_");
            let port = name.contains("_TCP_") || name.contains("_UDP");
            let foreign = FOREIGN.iter().any(|foreign| name.starts_with(foreign));
            name.starts_with(prefix) && !known().any(|known| known == name) && !(service || port || foreign)
        };
        let mut strays: Vec<&str> =
            self.variables.iter().map(|(name, _)| &**name).filter(|name| is_stray(name)).collect();
        strays.sort_unstable();
        let told = strays.into_iter().map(|name| {
            let nearest = known().map(|known| (distance(name, known), known)).min();
            let hint =
                nearest.filter(|(distance, _)| *distance <= 4).map(|(_, known)| format!("; did you mean {known}?"));
            format!("the environment variable {name} is not known and has no effect{}", hint.unwrap_or_default())
        });
        told.collect()
    }
}

/// Whether a text names this option, and not only a longer one that begins with its name.
fn names(text: &str, option: &str) -> bool {
    let goes_on = |rest: &str| rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '-');
    text.match_indices(option).any(|(at, _)| !goes_on(&text[at + option.len()..]))
}

/// The edit distance (Levenshtein): how many letters have to be changed, inserted or removed.
fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, b) in other.bytes().enumerate() {
            let least = (diagonal + usize::from(a != b)).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = std::mem::replace(&mut row[j + 1], least);
        }
    }
    row[other.len()]
}

/// Advice for a port that cannot be bound.
pub fn bind_advice(error: &std::io::Error) -> &'static str {
    use std::io::ErrorKind::{AddrInUse, AddrNotAvailable, PermissionDenied};
    match error.kind() {
        AddrInUse => "another program uses it: stop that, or choose another port",
        PermissionDenied => {
            "this user may not use the port: choose one above 1023, or give the program CAP_NET_BIND_SERVICE \
             (AmbientCapabilities= in a unit of systemd)"
        }
        AddrNotAvailable => "this machine has no such address: choose one that it has, or 0.0.0.0 for all of them",
        _ => "choose another address",
    }
}

/// A word, quoted for a shell if it needs that.
pub fn quoted(word: &str) -> String {
    let is_plain = |char: char| char.is_ascii_alphanumeric() || "_@%+=:,./-".contains(char);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// How this program was called, quoted for a shell: `target/release/bugfeed`, or `bugfeed` if it was found in the PATH.
pub fn program() -> String {
    quoted(&std::env::args_os().next().map_or_else(|| "bugfeed".into(), |name| name.to_string_lossy().into_owned()))
}

/// Inserts the default command into the arguments if it was left out: when there are no arguments, or the first one is
/// an option of the default command.
pub fn with_default_command(args: impl IntoIterator<Item = OsString>, command: &str) -> Vec<OsString> {
    let mut args: Vec<OsString> = args.into_iter().collect();
    let first = args.get(1).map(|arg| arg.to_string_lossy().into_owned());
    let own = ["-h", "--help", "-V", "--version"];
    if first.is_none_or(|first| first.starts_with('-') && !own.contains(&first.as_str())) {
        args.insert(args.len().min(1), command.into());
    }
    args
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use clap::Parser;

    use super::*;
    use crate::values::listen_address;

    #[derive(Parser)]
    #[command(name = "prog")]
    struct Options {
        #[arg(long, env = "BUGFEED_LISTEN", value_parser = listen_address)]
        listen: Option<SocketAddr>,
        #[arg(long, env = "BUGFEED_LISTEN_MORE")]
        listen_more: Option<u8>,
        #[arg(long, env = "BUGFEED_AMQP", value_name = "URL")]
        amqp: Option<u8>,
        #[arg(long, env = "BUGFEED_TOKEN", value_name = "TOKEN")]
        token: Option<u8>,
    }

    fn usage(args: &[&str], variables: &[(&str, &str)]) -> Usage {
        let variables = variables.iter().map(|(name, value)| (name.into(), value.into()));
        Usage::new(&<Options as clap::CommandFactory>::command(), args.iter().map(OsString::from), variables)
    }

    #[test]
    fn an_error_names_the_variable_where_that_is_where_the_value_came_from() {
        let note = "--listen was given by the environment variable BUGFEED_LISTEN";
        let set = [("BUGFEED_LISTEN", "x"), ("BUGFEED_LISTEN_MORE", "1")];
        let text = "error: invalid value 'x' for '--listen <ADDR>'\n\nUsage: prog --listen-more 1\n";
        let told = usage(&[], &set).explain(text);
        assert!(told.contains(note) && told.ends_with("Usage: prog --listen-more 1\n"), "{told}");
        assert!(!told.contains("BUGFEED_LISTEN_MORE"), "{told}");
        for args in [&["--listen", "x"][..], &["--listen=x"]] {
            assert_eq!(usage(args, &set).explain(text), text, "{args:?}");
        }
        assert!(usage(&["--listen-more", "1"], &set).explain(text).contains(note));
        assert_eq!(usage(&[], &[]).explain(text), text);
        assert!(usage(&[], &set).explain("cannot listen on x (--listen)").contains(note));
    }

    #[test]
    fn an_error_repeats_no_secret_wherever_it_was_given() {
        let text =
            "error: invalid value 'guest:secret' for '--amqp <URL>': bad port secret1\n\ntip: '-- mysql:/u:secret@h'\n";
        let want = "error: invalid value 'guest:…' for '--amqp <URL>': bad port secret1\n";
        for (args, variables) in [
            (&["prog", "--amqp", "guest:secret", "mysql:/u:secret@h"][..], &[][..]),
            (&["prog", "--amqp=guest:secret", "mysql:/u:secret@h"], &[]),
            (&["prog", "mysql:/u:secret@h"], &[("BUGFEED_AMQP", "guest:secret")]),
        ] {
            let told = usage(args, variables).explain(text);
            assert!(told.starts_with(want) || told.contains("BUGFEED_AMQP"), "{told}");
            assert!(!told.contains("secret'") && !told.contains("secret@"), "{told}");
        }
    }

    #[test]
    fn an_error_shows_nothing_of_a_value_that_is_a_secret_as_a_whole() {
        let text = "error: invalid value 'hidden' for '--token <TOKEN>': too short\n";
        let want = "error: invalid value '…' for '--token <TOKEN>': too short\n";
        for args in [&["prog", "--token", "hidden"][..], &["prog", "--token=hidden"]] {
            assert_eq!(usage(args, &[]).explain(text), want);
        }
        assert!(usage(&[], &[("BUGFEED_TOKEN", "hidden")]).explain(text).starts_with("error: invalid value '…' for"));
        // The name of a file is shown, also where an address is expected.
        let text = "error: invalid value '@/a/b' for '--amqp <URL>': the file /a/b cannot be read\n";
        assert_eq!(usage(&["prog", "--amqp", "@/a/b"], &[]).explain(text), text);
    }

    #[test]
    fn variables_that_nobody_reads_are_named() {
        let strays = |names: &[&str]| {
            let set: Vec<_> = names.iter().map(|name| (*name, "x")).collect();
            usage(&[], &set).strays("BUGFEED_", None)
        };
        assert_eq!(
            strays(&["BUGFEED_LISTN", "BUGFEED_AMQP", "BUGFEED_UNHEARD_OF", "HOME"]),
            [
                "the environment variable BUGFEED_LISTN is not known and has no effect; did you mean BUGFEED_LISTEN?",
                "the environment variable BUGFEED_UNHEARD_OF is not known and has no effect",
            ]
        );
        // Variables of an orchestrator's service that is called bugfeed, of a command of `--exec`, of tests.
        let others = [
            "BUGFEED_SERVICE_HOST",
            "BUGFEED_SERVICE_PORT",
            "BUGFEED_SERVICE_PORT_HTTP",
            "BUGFEED_PORT",
            "BUGFEED_PORT_8844_TCP",
            "BUGFEED_PORT_8844_TCP_ADDR",
            "BUGFEED_BUG",
            "BUGFEED_TEST_AMQP",
        ];
        assert_eq!(strays(&others), [""; 0]);
    }

    #[test]
    fn what_to_do_about_a_port_depends_on_why_it_cannot_be_had() {
        for (number, want) in
            [(98, "another program"), (13, "above 1023"), (99, "no such address"), (24, "another address")]
        {
            let advice = bind_advice(&std::io::Error::from_raw_os_error(number));
            assert!(advice.contains(want), "{number}: {advice}");
            assert_eq!(advice.contains("another program"), number == 98);
        }
    }

    #[test]
    fn a_former_variable_counts_where_the_new_one_is_not_set() {
        const RENAMED: [Renamed; 1] = [Renamed { now: "BUGFEED_AMQP", before: "BUGFEED_BROKER" }];
        let variable = |set: &[&str]| {
            let command = <Options as clap::CommandFactory>::command();
            let command = with_former_variables(command, &RENAMED, |name| set.contains(&name));
            let amqp = command.get_arguments().find(|arg| arg.get_long() == Some("amqp")).unwrap();
            amqp.get_env().unwrap().to_string_lossy().into_owned()
        };
        assert_eq!(variable(&[]), "BUGFEED_AMQP");
        assert_eq!(variable(&["BUGFEED_BROKER"]), "BUGFEED_BROKER");
        assert_eq!(variable(&["BUGFEED_BROKER", "BUGFEED_AMQP"]), "BUGFEED_AMQP");
    }

    #[test]
    fn help_shows_no_values() {
        // No variable is set here, so this can only check that the variable's name stays.
        let help = without_values(<Options as clap::CommandFactory>::command()).render_help().to_string();
        assert!(help.contains("[env: BUGFEED_AMQP]"), "{help}");
    }
}
