//! The metrics of the programs, the page that explains them, the dashboard, and the alert rules: each fits the others.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;

use crate::hooks::Receiver;
use crate::support::get;

fn file(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// A row of docs/observability.md.
struct Documented {
    kind: String,
    /// It is there from the start.
    always: bool,
}

fn documented() -> BTreeMap<String, Documented> {
    let page = file("docs/observability.md");
    let rows = page.lines().filter_map(|line| {
        let cells: Vec<&str> = line.strip_prefix("| `")?.strip_suffix(" |")?.split(" | ").collect();
        let [name, kind, _labels, _meaning, when] = cells[..] else { return None };
        let kind = kind.to_owned();
        Some((name.strip_suffix('`')?.to_owned(), Documented { kind, always: when.trim().is_empty() }))
    });
    let rows: BTreeMap<String, Documented> = rows.collect();
    assert!(rows.len() > 60, "the tables are not read");
    rows
}

/// The names and types on a page of metrics.
fn shown(page: &str) -> BTreeMap<String, String> {
    let types = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let named = types.map(|(name, kind)| {
        let end = if kind == "counter" { "_total" } else { "" };
        (format!("{name}{end}"), kind.to_owned())
    });
    named.collect()
}

/// The row that docs/observability.md lacks, as far as the page of metrics tells.
fn row_of(name: &str, kind: &str, page: &str) -> String {
    let family = name.strip_suffix("_total").unwrap_or(name);
    let help = page.lines().find_map(|line| line.strip_prefix("# HELP ")?.strip_prefix(family)?.strip_prefix(' '));
    let sample = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('{')?.split_once('}'));
    let labels = sample.map_or("", |(labels, _)| labels).split("\",").filter_map(|label| label.split_once('='));
    let labels: Vec<String> = labels.map(|(label, _)| format!("`{label}`")).collect();
    let help = help.unwrap_or("").trim_end_matches('.');
    format!("| `{name}` | {kind} | {} | {help} |  |", labels.join(", "))
}

/// The names of metrics in a text, without the ends that a histogram's have.
fn used(text: &str) -> BTreeSet<String> {
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    let names = words.filter(|word| word.starts_with("bugfeed_") || word.starts_with("process_"));
    let stem = |name: &str| name.strip_suffix("_bucket").unwrap_or(name).to_owned();
    names.map(stem).collect()
}

#[tokio::test]
async fn the_page_explains_what_the_programs_show() {
    let dir = tempfile::tempdir().unwrap();
    let mut serve = Receiver::start(dir.path(), &[]).await;
    let key = serve.key(dir.path(), "plain").await;
    serve.change("plain", &key, 7).await;
    let (_, page) = get(serve.admin, "/metrics").await;
    let (shown, documented) = (shown(&page), documented());
    let missing: Vec<String> = shown
        .iter()
        .filter(|(name, kind)| documented.get(*name).is_none_or(|row| &row.kind != *kind))
        .map(|(name, kind)| row_of(name, kind, &page))
        .collect();
    assert!(missing.is_empty(), "docs/observability.md lacks these rows, or has another type:\n{}", missing.join("\n"));
    let gone: Vec<&String> = documented
        .iter()
        .filter(|(name, row)| row.always && !shown.contains_key(*name))
        .map(|(name, _)| name)
        .collect();
    assert!(gone.is_empty(), "docs/observability.md has rows of metrics that are not shown: {gone:?}");
    serve.proc.stop(crate::support::SOON).await.unwrap();
}

#[test]
fn dashboard_and_alerts_use_what_there_is() {
    let dashboard: Value = serde_json::from_str(&file("deploy/grafana/bugfeed.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let expressions: Vec<&str> = targets.map(|target| target["expr"].as_str().unwrap()).collect();
    assert!(expressions.len() > 40);
    let alerts = file("deploy/prometheus/alerts.yml");
    let rules: Vec<&str> = alerts.lines().filter(|line| line.trim().starts_with("expr: ")).collect();
    assert!(rules.len() > 15);
    let documented = documented();
    for text in expressions.iter().chain(&rules) {
        let names = used(text);
        // `up` is Prometheus's own: whether the process answered.
        assert!(!names.is_empty() || text.contains("up{job="), "{text}");
        for name in names {
            assert!(documented.contains_key(&name), "there is no {name}: {text}");
        }
    }
}

/// Each alert is made to fire in the tests of the rules.
#[test]
fn each_alert_has_a_test() {
    let named = |text: &str, key: &str| -> BTreeSet<String> {
        text.lines()
            .filter_map(|line| Some(line.trim().trim_start_matches("- ").strip_prefix(key)?.to_owned()))
            .collect()
    };
    let (alerts, tests) = (file("deploy/prometheus/alerts.yml"), file("deploy/prometheus/alerts.test.yml"));
    assert_eq!(named(&alerts, "alert: "), named(&tests, "alertname: "));
}
