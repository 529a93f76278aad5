//! Endpoints, their attempts and their leases.

pub(super) mod attempts;
pub(super) mod leasing;
pub(super) mod people;
pub(super) mod saving;

use std::sync::Arc;

use bugfeed_core::endpoints::policy::Policy;
use bugfeed_core::endpoints::question::{Since, Watch};
use bugfeed_core::endpoints::row::{Applied, Row};
use bugfeed_core::hooks::event::Trigger;
use bugfeed_protocol::{BugId, Cursor};

use super::rig::NOON_US;
use crate::deliver::headers::UserHeaders;
use crate::deliver::sign::{RANDOM_BYTES, SigningSecret};
use crate::receive::received::RequestId;
use crate::store::Store;
use crate::store::endpoints::{AttemptRow, EndpointId, FeedChoice, Save, Settings, Stored};

pub(super) fn id(n: u32) -> EndpointId {
    let mut random = [7; 13];
    random[..4].copy_from_slice(&n.to_be_bytes());
    EndpointId::new(random)
}

/// Settings of the endpoint of this number, which was made so many seconds after noon.
pub(super) fn settings(n: u32) -> Settings {
    Settings {
        url: format!("https://example.org/{n}"),
        secret: SigningSecret::generate(&[1; RANDOM_BYTES]),
        previous: None,
        headers: UserHeaders::read([("X-Key", "s3cret")]).unwrap(),
        description: format!("number {n} é"),
        feeds: FeedChoice::Named(vec!["f".into()]),
        template: None,
        created_us: NOON_US + i64::from(n) * 1_000_000,
    }
}

pub(super) fn watch(bugs: &[u64]) -> Watch {
    Watch::Bugs(bugs.iter().filter_map(|bug| BugId::new(*bug)).collect())
}

pub(super) fn row(bugs: &[u64]) -> Row {
    Row::new(Policy::Classic, watch(bugs), [Arc::from("f")])
}

/// Makes the endpoint of this number.
pub(super) async fn create(store: &Store, n: u32) -> Stored {
    store.create_endpoint(&id(n), &settings(n), &row(&[1, 2]), None).await.unwrap()
}

/// The row after the planner's next effect under this term: its cursor has this number.
pub(super) fn moved(row: &Row, term: u64, seq: u64) -> Row {
    let mut row = row.clone();
    row.version += 1;
    let effect = if row.applied.term == term { row.applied.effect + 1 } else { 1 };
    row.applied = Applied { term, effect };
    row.lines[0].since = Since::Cursor(Cursor::parse(&format!("E.{seq}")).unwrap());
    row
}

pub(super) fn save(id: &EndpointId, row: &Row, attempts: Vec<AttemptRow>) -> Save {
    let (id, partition, term) = (id.clone(), id.partition(), row.applied.term);
    Save { id, row: Some(row.clone()), partition, term, attempts }
}

/// An attempt of this endpoint, so many milliseconds after noon.
pub(super) fn attempt(endpoint: &EndpointId, ms: i64) -> AttemptRow {
    let begun_us = NOON_US + 1000 * ms;
    AttemptRow {
        id: RequestId::new(begun_us, rand::random()).0,
        endpoint: endpoint.clone(),
        feed: Some("f".to_owned()),
        trigger: Trigger::Live,
        begun_us,
        took_us: 1234,
        status: Some(200),
        fault: None,
        error: None,
        response: "ok é".to_owned(),
        webhook_id: format!("{endpoint}-E-1-1-0123456789ab"),
        counts: true,
        request: r#"{"command":"update"}"#.to_owned(),
        content_type: "application/json".to_owned(),
    }
}

/// As if a process held all leases under this term.
pub(super) async fn hold_all(store: &Store, term: u64) {
    let sql = format!("UPDATE hooks_leases SET term = {term}, holder = 'x' WHERE name LIKE 'endpoints-%'");
    assert_eq!(store.db.execute(&sql, &[]).await.unwrap(), 32);
}
