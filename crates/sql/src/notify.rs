//! PostgreSQL's NOTIFY as a hint: look at the table now.
//!
//! Goes in: notifications on a channel. Comes out: wake-ups of whoever polls. Never replaces the poll: a notification that
//! is lost only costs the poll interval, so every failure here is retried quietly. Never listens through a pooler that
//! gives sessions to others (PgBouncer in transaction mode): nothing would arrive, and the tracker's session would listen.

use std::sync::Arc;
use std::time::Duration;

use bugfeed_protocol::backoff::Backoff;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use sqlx::{ConnectOptions as _, Connection as _, PgConnection, Row as _};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::Name;
use crate::url::{DbOptions, DbUrl};

/// The longest time to find out whether there is a pooler in between.
const ASK: Duration = Duration::from_secs(10);

/// Wakes whoever polls at each notification, until stopped. Does nothing for another database than PostgreSQL, nor through a
/// pooler.
pub async fn wake_on_notify(url: &DbUrl, channel: &Name, wake: Arc<Notify>, stop: CancellationToken) {
    let DbOptions::Postgres(options) = &url.options else { return };
    let options = options.as_ref().clone().application_name("bugfeed-shim listen").extra_float_digits(None);
    let pool = PgPoolOptions::new().max_connections(1).connect_lazy_with(options.clone());
    let mut backoff = Backoff::SERVER;
    let listening = async {
        loop {
            match tokio::time::timeout(ASK, is_pooled(&options)).await {
                Ok(Ok(true)) => {
                    tracing::warn!(
                        %channel,
                        "{url} leads through a pooler that gives each transaction to another session: notifications do \
                         not come through it, so --listen has no effect and only the poll is left; give --source the \
                         server's own address, or leave --listen out"
                    );
                    return;
                }
                Ok(Ok(false)) => {
                    let Err(e) = listen(&pool, channel, &wake, &mut backoff).await;
                    tracing::debug!(%channel, "not listening: {e}");
                }
                Ok(Err(e)) => tracing::debug!(%channel, "not listening: {e}"),
                Err(_) => tracing::debug!(%channel, "not listening: no answer"),
            }
            tokio::time::sleep(backoff.next(rand::random())).await;
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = listening => {}
    }
}

/// Whether two of our sessions are seen to be one and the same of the server, or one to be two.
async fn is_pooled(options: &PgConnectOptions) -> Result<bool, sqlx::Error> {
    let (mut one, mut two) = (options.connect().await?, options.connect().await?);
    let mut pooled = false;
    // A pooler gives out first what was given back last; but somebody else may just then be quicker.
    for _ in 0..5 {
        let before = pid(&mut one).await?;
        sqlx::raw_sql("BEGIN").execute(&mut two).await?;
        pooled = pid(&mut two).await? == before || pid(&mut one).await? != before;
        sqlx::raw_sql("COMMIT").execute(&mut two).await?;
        if pooled {
            break;
        }
    }
    one.close().await?;
    two.close().await?;
    Ok(pooled)
}

async fn pid(session: &mut PgConnection) -> Result<i32, sqlx::Error> {
    sqlx::raw_sql("SELECT pg_backend_pid()").fetch_one(session).await?.try_get(0)
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
