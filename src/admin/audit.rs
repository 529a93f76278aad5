//! `bugfeed audit`: who did what through the API.

use serde_json::Value;

use super::table::{cell, table, text, time};
use super::{AdminError, Outcome, Screen, Session, times};
use crate::cli::hooks::AuditArgs;

pub(super) async fn audit(args: AuditArgs, screen: &mut Screen<'_>) -> Result<Outcome, AdminError> {
    let mut session = Session::new(&args.admin, screen)?;
    let at = |option: &str, text: &Option<String>| text.as_deref().map(|text| times::ago(option, text)).transpose();
    let (from, to) = (at("from", &args.from)?, at("to", &args.to)?);
    let filter = [("deed", &args.deed), ("subject", &args.subject), ("who", &args.who), ("from", &from), ("to", &to)];
    let query: Vec<(&str, &str)> =
        filter.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?))).collect();
    let rows = session.pages("audit", "deeds", &query, args.limit.limit).await?;
    session.list(&rows, "nobody has changed anything like that through the API", |rows| {
        let rows: Vec<_> = rows.iter().map(row).collect();
        table(&["AT", "WHO", "DEED", "SUBJECT", "DETAIL"], &rows)
    })
}

fn row(deed: &Value) -> Vec<String> {
    // A detail is an object, of which only what is said is shown.
    let detail = deed["detail"].as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
    let detail: Vec<String> = detail.map(|(name, value)| format!("{name} {}", text(value))).collect();
    vec![time(&deed["at"]), cell(deed, "who"), cell(deed, "deed"), cell(deed, "subject"), detail.join("; ")]
}
