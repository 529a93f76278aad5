//! The `bugfeed` command: parse, bind, run, exit code.

use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bugfeed::admin::{self, AdminCommand, AdminError, Outcome};
use bugfeed::cli::hooks::HooksRoleArgs;
use bugfeed::cli::{
    CheckArgs, Cli, Command, GatewayArgs, ServeArgs, Target, TokenArgs, TokenCommand, TouchArgs, WatchArgs,
};
use bugfeed::compose::hooks::{ConfigFile, HooksPorts};
use bugfeed::compose::serving::{Ports, ServingOptions};
use bugfeed::compose::{all_in_one, gateway, hooks};
use bugfeed::hooks_config;
use bugfeed::listen::ListenError;
use bugfeed::watch::{self, Ended, Screen, Stop, WatchError};
use bugfeed::welcome::Banner;
use bugfeed_gateway::access::AccessOptions;
use bugfeed_protocol::log_event::LogEvent;
use bugfeed_runtime::findings::Verdict;
use bugfeed_runtime::http::tls::ServerTls;
use bugfeed_runtime::logging::{LogFormat, init_logging};
use bugfeed_runtime::secret::noticed;
use bugfeed_runtime::signals::{self, Orders};
use bugfeed_runtime::usage::{Usage, program};
use bugfeed_shim::events::Turn;
use bugfeed_shim::source;
use clap::CommandFactory as _;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> ExitCode {
    // The one crypto provider for all TLS in this process. An error only means that it is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let usage = Usage::of_this_process(&Cli::definition());
    let cli = Cli::read(std::env::args_os()).unwrap_or_else(|error| usage.exit(&error));
    let shim = Usage::of_this_process(&bugfeed_shim::cli::Cli::definition());
    let warnings = usage.strays("BUGFEED_", Some(&shim));
    if !is_a_server(&cli.command) {
        for warning in warnings.iter().chain(&noticed()) {
            let _ = writeln!(std::io::stderr(), "warning: {warning}");
        }
    }
    let ended = match AdminCommand::of(cli.command) {
        Ok(command) => ask(command).await,
        Err(Command::Serve(args)) => serve(*args, &usage, &warnings).await.map(done),
        Err(Command::Gateway(args)) => run_gateway(*args, &usage, &warnings).await.map(done),
        Err(Command::Hooks(args)) => run_hooks(args.role, &usage, &warnings).await.map(done),
        Err(Command::Touch(args)) => touch(*args).await.map(done),
        Err(Command::Watch(args)) => watch(*args).await,
        Err(Command::Token(args)) => make_token(&args).map(done),
        Err(Command::Check(args)) => check_deployment(&args).await,
        // The others are about webhooks.
        Err(_) => Ok(ExitCode::FAILURE),
    };
    match ended {
        Ok(code) => code,
        Err(error) => {
            // An error while writing to standard error cannot be reported anywhere.
            let text = usage.explain(&format!("error: {}", in_one_line(&error)));
            let _ = writeln!(std::io::stderr(), "{text}");
            ExitCode::FAILURE
        }
    }
}

/// Whether the command runs until it is stopped, and logs.
fn is_a_server(command: &Command) -> bool {
    match command {
        Command::Serve(_) | Command::Gateway(_) => true,
        Command::Hooks(args) => args.command.is_none(),
        _ => false,
    }
}

fn done(_: ()) -> ExitCode {
    ExitCode::SUCCESS
}

/// The error and its causes in one line, without causes that the text before already contains.
fn in_one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if line.is_empty() {
            line = cause;
        } else if !line.contains(&cause) {
            line = format!("{line}: {cause}");
        }
    }
    line
}

/// What the configuration of sources would do. No port is bound, and nothing is opened.
fn tell_configuration(path: Option<&Path>) -> anyhow::Result<()> {
    let config = hooks_config::read(path)?;
    bugfeed_hooks::service::check(&config)?;
    let text = hooks_config::describe(path, &config);
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(())
}

async fn serve(args: ServeArgs, usage: &Usage, warnings: &[String]) -> anyhow::Result<()> {
    let options = check(args.options(), usage);
    if args.check {
        return tell_configuration(args.config.as_deref());
    }
    let ports = begin(args.log.log_format, warnings, &options.serving)?;
    let (clients, admin) = ports.addresses()?;
    let again = again(Some(&options.config), options.serving.tls.as_ref(), options.serving.access.as_ref());
    let stop = stop_on_signal(again, options.ends_within())?;
    let is_set = |name: &str| std::env::var_os(name).is_some();
    let sources = hooks_config::read(args.config.as_deref())?;
    let banner = Banner::new(&args, &sources, (clients, admin), &program(), is_set);
    let show_turn = move |turn: &Turn| {
        let text = match turn {
            Turn::Starting => return,
            Turn::Waiting(holder) => banner.waiting(holder),
            Turn::Working => banner.working(),
        };
        // If standard output is closed, nobody wants to read this.
        let _ = std::io::stdout().write_all(text.as_bytes());
    };
    all_in_one::run(options, ports, &stop, show_turn).await
}

async fn run_gateway(args: GatewayArgs, usage: &Usage, warnings: &[String]) -> anyhow::Result<()> {
    let options = check(args.options(), usage);
    let ports = begin(args.log.log_format, warnings, &options.serving)?;
    let (clients, admin) = ports.addresses()?;
    tracing::info!(%clients, %admin, version = bugfeed_runtime::VERSION, event = %LogEvent::GatewayListens, "gateway listens");
    let again = again(None, options.serving.tls.as_ref(), options.serving.access.as_ref());
    let stop = stop_on_signal(again, options.serving.ends_within())?;
    gateway::run(options, ports, &stop).await
}

async fn run_hooks(args: HooksRoleArgs, usage: &Usage, warnings: &[String]) -> anyhow::Result<()> {
    let options = check(args.options(), usage);
    if args.check {
        return tell_configuration(args.config.as_deref());
    }
    begin_log(args.log.log_format, warnings, options.connections);
    let ports = HooksPorts::bind(&options)?;
    let again = again(Some(&options.config), options.tls.as_ref(), None);
    let stop = stop_on_signal(again, options.ends_within())?;
    hooks::run(options, ports, &stop).await
}

/// Starts logging, and binds the ports.
fn begin(format: LogFormat, warnings: &[String], serving: &ServingOptions) -> anyhow::Result<Ports> {
    begin_log(format, warnings, serving.limits.connections);
    Ok(Ports::bind(serving)?)
}

fn begin_log(format: LogFormat, warnings: &[String], connections: usize) {
    init_logging(format);
    for warning in warnings {
        tracing::warn!(event = %LogEvent::VariableUnknown, "{warning}");
    }
    for note in noticed() {
        tracing::warn!(event = %LogEvent::SecretReadable, "{note}");
    }
    raise_file_limit(connections);
}

/// Makes a token for clients. Only the token goes to standard output.
fn make_token(args: &TokenArgs) -> anyhow::Result<()> {
    let TokenCommand::New(args) = &args.command;
    let (token, entry) = bugfeed::token::make(&args.wanted(), &rand::random());
    writeln!(std::io::stdout(), "{}", token.secret())?;
    // Whoever has closed standard error does not want the entry.
    let _ = write!(std::io::stderr(), "{entry}");
    Ok(())
}

async fn touch(args: TouchArgs) -> anyhow::Result<()> {
    let (bugs, when) = (args.bugs(), args.when.unwrap_or_else(all_in_one::this_second));
    let Target { source, spec, timezone, variable } = args.target().map_err(anyhow::Error::msg)?;
    let named_by = variable.map(|variable| format!(" ({variable})")).unwrap_or_default();
    let place = format!("table {} of {source}{named_by}", spec.table);
    source::touch(&source, &spec, &bugs, when, &timezone)
        .await
        .with_context(|| format!("no change was written into {place}; is bugfeed running here, or --source right?"))?;
    let mut out = std::io::stdout().lock();
    for bug in &bugs {
        writeln!(out, "{when}  bug {bug} touched in {place}")?;
    }
    Ok(())
}

async fn watch(args: WatchArgs) -> anyhow::Result<ExitCode> {
    let mut signals = watch::Signals::listen().context("cannot wait for signals")?;
    let (out, status) = (std::io::stdout(), std::io::stderr());
    let (no_color, term) = (std::env::var_os("NO_COLOR"), std::env::var_os("TERM"));
    let color = watch::use_color(args.color, out.is_terminal(), no_color.as_deref(), term.as_deref());
    // The status line is live only if the changes go to the terminal too. Otherwise the program that reads the changes
    // may itself write to this terminal.
    let live = out.is_terminal() && status.is_terminal() && term.is_none_or(|term| term != "dumb");
    let mut screen = Screen::new(out, status, color, live, args.quiet);
    let ended = watch::run(&args.options(), &mut screen, &mut signals).await;
    screen.hide();
    match ended {
        Ok(Ended::Stopped(Stop::Interrupt)) => Ok(ExitCode::from(130)),
        Ok(Ended::Stopped(Stop::Terminate) | Ended::Enough) => Ok(ExitCode::SUCCESS),
        // The program that reads the output has closed it: that is a normal end.
        Err(WatchError::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        Err(error) => Err(error.into()),
    }
}

/// Looks at a deployment.
async fn check_deployment(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let found = bugfeed::check::check(&args.options()).await;
    let text = if args.json { format!("{:#}\n", found.json()) } else { format!("{found}{}\n", found.summary()) };
    std::io::stdout().write_all(text.as_bytes())?;
    let failed = if args.strict { found.worst() >= Verdict::Warning } else { found.worst() == Verdict::Bad };
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// A command about webhooks.
async fn ask(command: AdminCommand) -> anyhow::Result<ExitCode> {
    let (mut out, mut remarks) = (std::io::stdout(), std::io::stderr());
    let mut screen = admin::Screen { out: &mut out, remarks: &mut remarks };
    match admin::run(command, &mut screen).await {
        Ok(Outcome::Good) => Ok(ExitCode::SUCCESS),
        Ok(Outcome::NotGood) => Ok(ExitCode::FAILURE),
        Ok(Outcome::Interrupted) => Ok(ExitCode::from(130)),
        // The program that reads the output has closed it: that is a normal end.
        Err(AdminError::Output(error) | AdminError::Listen(ListenError::Output(error)))
            if error.kind() == std::io::ErrorKind::BrokenPipe =>
        {
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => Err(error.into()),
    }
}

/// Ends the process with an error like clap's for a wrong value.
fn check<T>(checked: Result<T, String>, usage: &Usage) -> T {
    checked
        .unwrap_or_else(|message| usage.exit(&Cli::command().error(clap::error::ErrorKind::ValueValidation, message)))
}

/// Raises the soft limit on open files to the hard one, because every client is an open file; warns if even that is too
/// low.
fn raise_file_limit(max_connections: usize) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if limit.current < limit.maximum || limit.maximum.is_none() {
        // If this fails, the old limit stays.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    }
    let needed = max_connections as u64 + 100;
    if let Some(files) = getrlimit(Resource::Nofile).current.filter(|files| *files < needed) {
        tracing::warn!(files, needed, event = %LogEvent::OpenFilesLow, "the limit on open files (ulimit -n) is too low for --max-connections");
    }
}

/// What SIGHUP has read again.
fn again(config: Option<&ConfigFile>, tls: Option<&ServerTls>, access: Option<&AccessOptions>) -> Vec<Arc<Notify>> {
    let config = config.filter(|config| config.path.is_some()).map(|config| Arc::clone(&config.again));
    let files =
        tls.map(|tls| Arc::clone(tls.again())).into_iter().chain(access.map(|access| Arc::clone(&access.again)));
    config.into_iter().chain(files).collect()
}

/// Cancelled by SIGTERM or SIGINT; a second signal ends the process at once, and so does the end of this time. SIGHUP
/// notifies these, and changes nothing if there are none.
fn stop_on_signal(again: Vec<Arc<Notify>>, within: Duration) -> anyhow::Result<CancellationToken> {
    let stop = CancellationToken::new();
    signals::obey(Orders { stop: stop.clone(), within, again, on_stop: || () })?;
    Ok(stop)
}
