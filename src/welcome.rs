//! The banner of the all-in-one. In: its options, the sources of its configuration, its ports, how it was called, which
//! variables are set. Out: a text with commands that work as printed, in another terminal in the same folder.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bugfeed_hooks::api::first_token;
use bugfeed_hooks::config::HooksConfig;
use bugfeed_runtime::usage::quoted;

use crate::cli::ServeArgs;
use crate::compose::all_in_one::FEED;

/// The default place of the all-in-one's table. `touch` uses the same one.
const DATA_DIR: &str = "data";
const TABLE: &str = "push_notify";
/// The source that there is without a configuration.
const PLAIN: &str = "plain";

/// How many sources and feeds the banner names; further ones are counted.
const NAMED: usize = 5;

/// The texts to print: when this process works, and while another one works on the ledger.
#[derive(Clone, Debug)]
pub struct Banner {
    name: String,
    dir: String,
    places: String,
    commands: String,
}

impl Banner {
    /// The banner for these options, sources and bound ports. `is_set` says whether an environment variable is set.
    pub fn new(
        args: &ServeArgs,
        config: &HooksConfig,
        (clients, admin): (SocketAddr, SocketAddr),
        program: &str,
        is_set: impl Fn(&str) -> bool,
    ) -> Banner {
        let dir = args.data_dir.display().to_string();
        let dir = dir.trim_end_matches('/').to_owned();
        let everywhere =
            if clients.ip().is_unspecified() { ", and at every other address of this machine" } else { "" };
        let (reached, admin) = (reachable(clients), reachable(admin));
        let key = key_options(admin, &dir, &is_set);
        let has_tls = args.listen.tls.tls_cert.is_some();
        let is_default = reached == SocketAddr::from((Ipv4Addr::LOCALHOST, 8844)) && !has_tls && !is_set("BUGFEED_URL");
        let (http, ws) = if has_tls { ("https", "wss") } else { ("http", "ws") };
        // A certificate is for a name.
        let reached = match args.listen.host.first().filter(|_| has_tls) {
            Some(name) => format!("{name}:{}", reached.port()),
            None => reached.to_string(),
        };
        let watch = if is_default { String::new() } else { format!(" --url {ws}://{reached}/") };
        let touch = touch_options(args, &dir, is_set);
        let sources = config.sources.iter().map(|source| format!("{http}://{reached}/hooks/{}", source.name)).collect();
        let none = "none: the configuration has no [[source]]";
        let feeds =
            config.feeds().into_iter().filter(|feed| *feed != FEED).map(|feed| format!("{ws}://{reached}/{feed}/"));
        let first = format!("{ws}://{reached}/{everywhere}");
        let places = format!(
            "\x20 live page  {http}://{reached}/\n\
             \x20 clients    {clients}\n\
             \x20 webhooks   {webhooks}\n\
             \x20 admin      http://{admin}/readyz, /metrics, /api\n\
             \x20 table      {table} in {dir}/bugfeed.db\n\
             \x20 ledger     {dir}/ledger.db\n",
            clients = lines(std::iter::once(first).chain(feeds).collect(), ""),
            webhooks = lines(sources, none),
            table = args.table,
        );
        let mut commands = format!(
            "Try, in two other terminals:\n\
             \x20 {program} watch 1234{watch}\n\
             \x20 {program} touch 1234{touch}\n"
        );
        if args.config.is_none() {
            // Writing to a String never fails.
            let _ = writeln!(
                commands,
                "Or as a tracker's webhook would:\n\
                 \x20 curl -H \"Authorization: Bearer $({program} keys create --name try --source {PLAIN}{key})\" \
                 -d '{{\"changes\":[{{\"bug\":1234}}]}}' {http}://{reached}/hooks/{PLAIN}"
            );
        }
        Banner { name: format!("bugfeed {}, all in one", bugfeed_runtime::VERSION), dir, places, commands }
    }

    /// The text for when this process has its turn.
    pub fn working(&self) -> String {
        format!("{}\n{}{}", self.name, self.places, self.commands)
    }

    /// The text for when `holder` works in the same folder. It has no commands, because no changes reach clients of
    /// this process.
    pub fn waiting(&self, holder: &str) -> String {
        format!(
            "{}: WAITING for its turn. {holder} works on {}, and this one takes over when that one ends.\n\
             Until then it serves nobody: clients are told to come again (503).\n{}",
            self.name, self.dir, self.places
        )
    }
}

/// Addresses, one on a line; of many, the first ones and how many more there are.
fn lines(mut all: Vec<String>, none: &str) -> String {
    let more = all.len().saturating_sub(NAMED);
    all.truncate(NAMED);
    if more > 0 {
        all.push(format!("and {more} more"));
    }
    if all.is_empty() { none.to_owned() } else { all.join("\n             ") }
}

/// The options that commands about webhooks need to find this process.
fn key_options(admin: SocketAddr, dir: &str, is_set: impl Fn(&str) -> bool) -> String {
    let mut options = String::new();
    if admin != SocketAddr::from((Ipv4Addr::LOCALHOST, 8845)) || is_set("BUGFEED_ADMIN_URL") {
        // Writing to a String never fails.
        let _ = write!(options, " --admin-url http://{admin}");
    }
    if dir.strip_prefix("./").unwrap_or(dir) != DATA_DIR || is_set("BUGFEED_ADMIN_TOKEN_FILE") {
        let _ = write!(options, " --admin-token-file {}", quoted(&format!("{dir}/{}", first_token::FILE_NAME)));
    }
    options
}

/// The options that `touch` needs to write into this table.
fn touch_options(args: &ServeArgs, dir: &str, is_set: impl Fn(&str) -> bool) -> String {
    let mut options = String::new();
    // If these variables are set here, they may be set in the other terminal too, and name another table.
    let elsewhere = ["BUGFEED_SOURCE", "BUGFEED_SHIM_SOURCE"].into_iter().any(&is_set);
    if dir.strip_prefix("./").unwrap_or(dir) != DATA_DIR || elsewhere {
        options = format!(" --source {}", quoted(&format!("sqlite://{}/bugfeed.db", escaped(dir))));
    }
    // Writing to a String never fails.
    if args.table.to_string() != TABLE || is_set("BUGFEED_TABLE") {
        let _ = write!(options, " --table {}", args.table);
    }
    let zone = args.timezone.iana_name().unwrap_or("UTC");
    if zone != "UTC" || is_set("BUGFEED_TIMEZONE") {
        let _ = write!(options, " --timezone {zone}");
    }
    options
}

/// An address that clients can connect to: for a server that listens on all addresses, this machine's loopback address.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// A path, percent-encoded for a URL.
fn escaped(path: &str) -> String {
    path.chars().fold(String::new(), |mut escaped, char| {
        match char {
            '%' | '?' | '#' => {
                let _ = write!(escaped, "%{:02X}", u32::from(char));
            }
            char => escaped.push(char),
        }
        escaped
    })
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;
    use crate::cli::{Cli, Command};

    fn commands(options: &[&str], listen: &str, set: &[&str]) -> Vec<String> {
        let args = ["bugfeed"].iter().chain(options).map(OsString::from);
        let Command::Serve(args) = Cli::read(args).unwrap().command else { panic!("not serve") };
        let ports = (listen.parse().unwrap(), "127.0.0.1:8845".parse().unwrap());
        let config = HooksConfig::plain().unwrap();
        let banner = Banner::new(&args, &config, ports, "target/release/bugfeed", |name| set.contains(&name));
        let waiting = banner.waiting("pid 7");
        assert!(waiting.contains("pid 7") && !waiting.contains("watch 1234"), "{waiting}");
        let text = banner.working();
        text.lines().filter_map(|line| line.strip_prefix("  target/release/bugfeed ")).map(str::to_owned).collect()
    }

    #[test]
    fn commands_have_the_options_that_reach_this_instance_and_no_others() {
        let plain = "127.0.0.1:8844";
        for (options, listen, set, watch, touch) in [
            (&[][..], plain, &[][..], "watch 1234", "touch 1234"),
            (&["--data-dir", "data/"], plain, &[], "watch 1234", "touch 1234"),
            (&[], "127.0.0.1:8854", &[], "watch 1234 --url ws://127.0.0.1:8854/", "touch 1234"),
            (&[], "192.0.2.7:8844", &[], "watch 1234 --url ws://192.0.2.7:8844/", "touch 1234"),
            (&[], "0.0.0.0:8844", &[], "watch 1234", "touch 1234"),
            (&[], "[::]:8844", &[], "watch 1234 --url ws://[::1]:8844/", "touch 1234"),
            (
                &["--tls-cert", "c", "--tls-key", "k", "--host", "feeds.example.org"],
                plain,
                &[],
                "watch 1234 --url wss://feeds.example.org:8844/",
                "touch 1234",
            ),
            (&["--data-dir", "/srv/b"], plain, &[], "watch 1234", "touch 1234 --source sqlite:///srv/b/bugfeed.db"),
            (&["--data-dir", "my data"], plain, &[], "watch 1234", "touch 1234 --source 'sqlite://my data/bugfeed.db'"),
            (&["--data-dir", "50%"], plain, &[], "watch 1234", "touch 1234 --source sqlite://50%25/bugfeed.db"),
            (&["--table", "t"], plain, &[], "watch 1234", "touch 1234 --table t"),
            (&["--timezone", "Europe/Berlin"], plain, &[], "watch 1234", "touch 1234 --timezone Europe/Berlin"),
            (
                &[],
                plain,
                &["BUGFEED_URL", "BUGFEED_SHIM_SOURCE", "BUGFEED_TABLE", "BUGFEED_TIMEZONE"],
                "watch 1234 --url ws://127.0.0.1:8844/",
                "touch 1234 --source sqlite://./data/bugfeed.db --table push_notify --timezone UTC",
            ),
        ] {
            assert_eq!(commands(options, listen, set), [watch, touch], "{options:?} {listen} {set:?}");
        }
    }

    #[test]
    fn the_webhook_goes_to_this_instance() {
        let hook = |options: &[&str], admin: &str| {
            let args = ["bugfeed"].iter().chain(options).map(OsString::from);
            let Command::Serve(args) = Cli::read(args).unwrap().command else { panic!("not serve") };
            let ports = ("0.0.0.0:8844".parse().unwrap(), admin.parse().unwrap());
            let named =
                |name: &str| format!("[[source]]\nname = \"{name}\"\npreset = \"plain\"\nfeed = \"f-{name}\"\n");
            let text: String = ["a", "b", "c", "d", "e", "f", "g"].map(named).concat();
            let file = HooksConfig::read("hooks.toml", &text, &|_| Err(String::new())).unwrap();
            let config = if args.config.is_some() { file } else { HooksConfig::plain().unwrap() };
            Banner::new(&args, &config, ports, "bugfeed", |_| false).working()
        };
        let plain = hook(&[], "127.0.0.1:8845");
        let key = "$(bugfeed keys create --name try --source plain)";
        assert!(plain.contains("  webhooks   http://127.0.0.1:8844/hooks/plain\n") && plain.contains(key), "{plain}");
        let other = hook(&["--data-dir", "my data"], "127.0.0.1:1");
        let key = "--source plain --admin-url http://127.0.0.1:1 --admin-token-file 'my data/admin.token')";
        assert!(other.contains(key), "{other}");
        let configured = hook(&["--config", "hooks.toml"], "127.0.0.1:8845");
        let sources = "  webhooks   http://127.0.0.1:8844/hooks/a\n             http://127.0.0.1:8844/hooks/b\n";
        let feeds = "  clients    ws://127.0.0.1:8844/, and at every other address of this machine\n             \
                     ws://127.0.0.1:8844/f-a/\n";
        for want in [sources, feeds, "/hooks/e\n             and 2 more\n", "/f-d/\n             and 3 more\n"] {
            assert!(configured.contains(want), "no '{want}' in: {configured}");
        }
        assert!(!configured.contains("curl"), "{configured}");
    }

    #[test]
    fn a_word_is_quoted_where_a_shell_would_take_it_apart() {
        for (word, want) in
            [("/opt/b-1/bugfeed", "/opt/b-1/bugfeed"), ("a b", "'a b'"), ("it's", r"'it'\''s'"), ("", "''")]
        {
            assert_eq!(quoted(word), want);
        }
    }
}
