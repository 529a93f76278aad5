//! The audit log: who did what.

use serde_json::{Value, json};

use super::call::{Call, answer};
use super::error::Answer;
use super::shapes::at;
use crate::receive::received::RequestId;
use crate::store::audit::Deed;

pub(super) async fn list(call: Call) -> Answer {
    let params = call.params(&["after", "limit", "from", "to", "deed", "subject", "who"])?;
    let (limit, range) = (params.limit()?, params.range()?);
    // Identifiers begin with the time, so the end of the range is a place in the list.
    let end = range.to_us.map(|to_us| RequestId::new(to_us, [0; 10]));
    let after = [params.after()?, end].into_iter().flatten().min();
    let mut deeds = call.store().audited(after, limit).await?;
    let is_late = |deed: &Deed| range.from_us.is_none_or(|from_us| deed.at_us >= from_us);
    // A page of what fits may be short, or empty, although more follows.
    let next = deeds.last().filter(|last| deeds.len() == limit && is_late(last)).map(|last| last.id.to_string());
    let is = |name: &str, fits: &dyn Fn(&str) -> bool| params.text(name).is_none_or(fits);
    deeds.retain(|deed| {
        is_late(deed)
            && is("deed", &|text| deed.deed.starts_with(text))
            && is("subject", &|text| deed.subject == text)
            && is("who", &|text| deed.who.contains(text))
    });
    let deeds: Vec<Value> = deeds.iter().map(shape).collect();
    answer(json!({ "deeds": deeds, "next": next }))
}

fn shape(deed: &Deed) -> Value {
    let detail = serde_json::from_str(&deed.detail)
        .unwrap_or_else(|_| if deed.detail.is_empty() { Value::Null } else { Value::String(deed.detail.clone()) });
    json!({
        "id": deed.id.to_string(),
        "at": at(deed.at_us),
        "who": deed.who,
        "deed": deed.deed,
        "subject": deed.subject,
        "detail": detail,
    })
}
