//! PostgreSQL's NOTIFY as a hint: look at the table now.
//!
//! Goes in: notifications on a channel. Comes out: wake-ups of the intake. Never replaces the poll: a notification that
//! is lost only costs the poll interval, so every failure here is retried quietly.

use std::sync::Arc;

use bugfeed_protocol::backoff::Backoff;
use sqlx::postgres::{PgListener, PgPoolOptions};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::Name;
use crate::sql::DbUrl;
use crate::sql::url::DbOptions;

/// Wakes the intake at each notification, until stopped. Does nothing for another database than PostgreSQL.
pub async fn wake_on_notify(url: &DbUrl, channel: &Name, wake: Arc<Notify>, stop: CancellationToken) {
    let DbOptions::Postgres(options) = &url.options else { return };
    let options = options.as_ref().clone().application_name("bugfeed-shim listen");
    let pool = PgPoolOptions::new().max_connections(1).connect_lazy_with(options);
    let mut backoff = Backoff::SERVER;
    let listening = async {
        loop {
            let Err(e) = listen(&pool, channel, &wake, &mut backoff).await;
            tracing::debug!(%channel, "not listening: {e}");
            tokio::time::sleep(backoff.next(rand::random())).await;
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = listening => {}
    }
}

async fn listen(
    pool: &sqlx::PgPool,
    channel: &Name,
    wake: &Notify,
    backoff: &mut Backoff,
) -> Result<std::convert::Infallible, sqlx::Error> {
    let mut listener = PgListener::connect_with(pool).await?;
    listener.listen(channel.as_str()).await?;
    backoff.reset();
    // Whatever was committed before the channel was open.
    wake.notify_one();
    loop {
        listener.recv().await?;
        wake.notify_one();
    }
}
