//! Looks at the broker: what the feed has there, and what this user may do.

use std::time::Duration;

use bugfeed_amqp::survey::{Place, Survey, survey};
use bugfeed_amqp::{AmqpError, BrokerUrl, history_name};
use bugfeed_protocol::Cursor;
use bugfeed_protocol::bus::Head;
use bugfeed_runtime::findings::Findings;

const AREA: &str = "broker";

/// Heads are said every 5 s; two of them may be missed.
const LISTEN: Duration = Duration::from_secs(12);

/// What was found, and what a shim says.
#[derive(Debug, Default)]
pub(super) struct Looked {
    pub(super) found: Findings,
    /// The head that a shim said.
    pub(super) head: Option<Head>,
    /// The numbers at the end of the history.
    pub(super) history: Vec<Cursor>,
}

/// Looks at a feed's exchange.
pub(super) async fn check(url: &BrokerUrl, exchange: &str) -> Looked {
    let mut looked = Looked::default();
    match survey(url, exchange, LISTEN).await {
        Ok(survey) => {
            let has_history = matches!(survey.history, Place::There);
            looked.found = told(url, exchange, &survey);
            looked.head = survey.head;
            if has_history {
                match bugfeed_shim::publish::history::look(url, exchange).await {
                    Ok(history) => looked.history = history,
                    Err(error) => {
                        let text = format!("the history {} cannot be read: {error}", history_name(exchange));
                        looked.found.bad(AREA, text, needs(&error));
                    }
                }
            }
        }
        Err(error) => looked.found.bad(AREA, error.to_string(), needs(&error)),
    }
    looked
}

fn told(url: &BrokerUrl, exchange: &str, survey: &Survey) -> Findings {
    let mut found = Findings::default();
    found.good(AREA, format!("{url}: logged in"));
    match &survey.exchange {
        Place::There => found.good(AREA, format!("the exchange {exchange} is a durable topic exchange")),
        Place::Missing => {
            let fix = "the first shim or gateway makes it; is the name the same in --exchange of the shim and --feed of the gateway?";
            found.warning(AREA, format!("there is no exchange {exchange} yet"), fix);
        }
        Place::Wrong(error) => found.bad(AREA, error.to_string(), needs(error)),
    }
    match &survey.history {
        Place::There => found.good(AREA, format!("the stream {} keeps the feed's history", history_name(exchange))),
        Place::Missing => {
            let fix = "a shim or gateway with --history true makes it (RabbitMQ 3.9 or newer, plugin rabbitmq_stream is not needed); \
                       without it, clients of a gateway that restarts are told 'gap'";
            found.warning(AREA, "no stream keeps the feed's history", fix);
        }
        Place::Wrong(error) => found.bad(AREA, error.to_string(), needs(error)),
    }
    match &survey.own_queue {
        Ok(()) if matches!(survey.exchange, Place::There) => {
            found.good(AREA, "this user may have a queue of its own, bind it and consume from it, as gateways do");
        }
        Ok(()) => {}
        Err(error) => found.bad(AREA, error.to_string(), needs(error)),
    }
    match &survey.head {
        Some(head) => {
            let paused = head.paused.as_ref().map(|what| format!(", which waits for its {what}")).unwrap_or_default();
            let text = format!("a shim publishes there: its head is {}{paused}", head.cursor);
            match head.paused {
                None => found.good(AREA, text),
                Some(_) => found.bad(AREA, text, "the shim's log and /readyz say why"),
            }
        }
        None if !matches!(survey.exchange, Place::There) => {}
        None => {
            let text = format!("no shim says its head within {} s", LISTEN.as_secs());
            let fix = "is the shim running, and does it publish to this exchange of this broker?";
            found.warning(AREA, text, fix);
        }
    }
    found
}

fn needs(error: &AmqpError) -> &'static str {
    match error {
        AmqpError::Permission(_) => {
            "deploy/README.md and deploy/rabbitmq/definitions.json have the permissions that each role needs"
        }
        _ => "",
    }
}
