//! What the store sends for endpoints.

use bugfeed_core::endpoints::orders::{Order, carry_out};
use bugfeed_core::endpoints::policy::{Policy, State};
use bugfeed_core::endpoints::question::Watch;
use bugfeed_core::endpoints::row::{Applied, Row};
use bugfeed_core::hooks::event::Trigger;
use bugfeed_hooks::deliver::headers::UserHeaders;
use bugfeed_hooks::deliver::sign::{RANDOM_BYTES, SigningSecret};
use bugfeed_hooks::receive::received::RequestId;
use bugfeed_hooks::store::Store;
use bugfeed_hooks::store::audit::Deed;
use bugfeed_hooks::store::endpoints::leases::Leases;
use bugfeed_hooks::store::endpoints::read::EndpointFilter;
use bugfeed_hooks::store::endpoints::{AttemptRow, EndpointId, FeedChoice, Save, Saved, Settings};
use bugfeed_protocol::BugId;

use crate::NOON_US;
use crate::recorder::Recorder;

fn settings() -> Settings {
    Settings {
        url: "https://example.org/".to_owned(),
        secret: SigningSecret::generate(&[1; RANDOM_BYTES]),
        previous: None,
        headers: UserHeaders::default(),
        description: "d".to_owned(),
        feeds: FeedChoice::Named(vec!["f".into()]),
        template: None,
        created_us: NOON_US,
    }
}

fn attempt(endpoint: &EndpointId) -> AttemptRow {
    AttemptRow {
        id: RequestId::new(NOON_US, [1; 10]).0,
        endpoint: endpoint.clone(),
        feed: Some("f".to_owned()),
        trigger: Trigger::Live,
        begun_us: NOON_US,
        took_us: 1,
        status: Some(200),
        fault: None,
        error: None,
        response: String::new(),
        webhook_id: "w".to_owned(),
        counts: true,
        request: "r".to_owned(),
        content_type: "application/json".to_owned(),
    }
}

pub(crate) async fn endpoints(store: &Store, told: &Recorder) {
    let (id, other) = (EndpointId::new([1; 13]), EndpointId::new([2; 13]));
    let deed = |n: u8| {
        let (id, text) = (RequestId::new(NOON_US, [n; 10]), |text: &str| text.to_owned());
        Deed { id, at_us: NOON_US, who: text("w"), deed: text("d"), subject: text("s"), detail: text("e") }
    };
    told.section("an endpoint is made, and changed");
    let row = Row::new(Policy::Classic, Watch::Bugs([BugId::new(1).unwrap()].into()), ["f".into()]);
    store.create_endpoint(&id, &settings(), &row, Some(&deed(2))).await.unwrap();
    let order = async |order: Order, deed: Option<&Deed>| {
        store.change_endpoint(&id, deed, |_, row| carry_out(row, &order)).await.unwrap().0.row
    };
    let row = order(Order::Pause, Some(&deed(3))).await;
    told.section("endpoints are listed");
    store.endpoint(&id).await.unwrap().unwrap();
    store.endpoints(&EndpointFilter::default(), None, 10).await.unwrap().unwrap();
    for state in [State::Active, State::Cooling, State::Disabled, State::Paused] {
        let filter = EndpointFilter { feed: Some("f".to_owned()), state: Some((state, NOON_US)), bug: BugId::new(1) };
        store.endpoints(&filter, Some(&id), 10).await.unwrap().unwrap();
    }
    store.count_endpoints(NOON_US).await.unwrap();
    store.endpoint_feeds().await.unwrap();
    store.endpoints_changed(0).await.unwrap();
    told.section("leases");
    let mut leases = Leases::new(store);
    let round = leases.round().await.unwrap();
    leases.round().await.unwrap();
    told.section("endpoints are taken over");
    store.endpoints_of(&[1, 2], None, 10).await.unwrap();
    let all: Vec<u16> = (0..32).collect();
    store.endpoints_of(&all, Some(&other), 10).await.unwrap();
    told.section("rows are saved");
    let partition = id.partition();
    let term = round.held[&partition];
    let row = Row { version: row.version + 1, applied: Applied { term, effect: 1 }, ..row };
    let save = Save { id: id.clone(), row: Some(row.clone()), partition, term, attempts: vec![attempt(&id)] };
    assert_eq!(store.save_endpoints(std::slice::from_ref(&save)).await.unwrap(), [Saved::Stored]);
    told.section("one of them in vain");
    let gone = Save { id: other.clone(), attempts: Vec::new(), partition: other.partition(), ..save.clone() };
    assert_eq!(store.save_endpoints(&[save, gone]).await.unwrap()[1], Saved::Conflict(None));
    told.section("attempts");
    store.attempts(&id, None, 10).await.unwrap();
    store.attempts(&id, Some(u128::MAX), 10).await.unwrap();
    store.attempt(5).await.unwrap();
    assert_eq!(store.bound_attempts().await.unwrap(), 1);
    told.section("an endpoint is deleted");
    order(Order::Delete, None).await;
    assert_eq!(store.remove_endpoints(&[id]).await.unwrap(), 1);
    told.section("leases are given back");
    leases.release(&[1]).await.unwrap();
    leases.leave().await.unwrap();
}

/// The text with a word for the random name of a process that holds leases.
pub(crate) fn without_names(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let hex = |text: &str| text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    while let Some(at) = rest.find([':', '\'']) {
        let (before, after) = rest.split_at(at + 1);
        out.push_str(before);
        rest = after;
        let ends_well = |after: &str| after.starts_with(", HOLDER") || out.ends_with("endpoints:");
        if after.get(..16).is_some_and(hex) && ends_well(&after[16..]) {
            out.push_str("NAME");
            rest = &after[16..];
        }
    }
    out + rest
}
