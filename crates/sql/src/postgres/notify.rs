//! PostgreSQL's NOTIFY as a hint to read the table now.
//!
//! Goes in: notifications on a channel. Comes out: wake-ups of the poller. Never replaces the poll: a notification that
//! is lost only costs the poll interval, so every failure here is retried quietly. Never listens through a pooler that
//! gives sessions to others (PgBouncer in transaction mode): no notification would arrive, and the LISTEN would stay on
//! a session that the tracker gets.

use std::sync::Arc;
use std::time::Duration;

use bugfeed_protocol::backoff::Backoff;
use bugfeed_protocol::log_event::LogEvent;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use sqlx::{ConnectOptions as _, Connection as _, PgConnection, Row as _};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::Name;
use crate::driver::{BoxFuture, Notifier};

/// The longest time to find out whether there is a pooler in between.
const ASK: Duration = Duration::from_secs(10);

/// Where to listen.
pub(super) struct PostgresNotifier {
    pub(super) options: PgConnectOptions,
    /// The URL for messages.
    pub(super) shown: String,
}

impl Notifier for PostgresNotifier {
    /// Returns early when there is a pooler in between.
    fn wake_on<'a>(&'a self, channel: &'a Name, wake: Arc<Notify>, stop: CancellationToken) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.listen_again_and_again(channel, &wake) => {}
            }
        })
    }
}

impl PostgresNotifier {
    async fn listen_again_and_again(&self, channel: &Name, wake: &Notify) {
        let pool = PgPoolOptions::new().max_connections(1).connect_lazy_with(self.options.clone());
        let mut backoff = Backoff::SERVER;
        loop {
            match tokio::time::timeout(ASK, is_pooled(&self.options)).await {
                Ok(Ok(true)) => {
                    tracing::warn!(
                        %channel,
                        event = %LogEvent::ListenUseless,
                        "{} leads through a pooler that gives each transaction to another session: notifications do not \
                         come through it, so --listen has no effect and only the poll is left; give --source the \
                         server's own address, or leave --listen out",
                        self.shown
                    );
                    return;
                }
                Ok(Ok(false)) => {
                    let Err(e) = listen(&pool, channel, wake, &mut backoff).await;
                    tracing::debug!(%channel, event = %LogEvent::ListenFailed, "not listening: {}", why(&e));
                }
                Ok(Err(e)) => tracing::debug!(%channel, event = %LogEvent::ListenFailed, "not listening: {}", why(&e)),
                Err(_) => tracing::debug!(%channel, event = %LogEvent::ListenFailed, "not listening: no answer"),
            }
            tokio::time::sleep(backoff.next(rand::random())).await;
        }
    }
}

/// An error of the driver in words.
fn why(error: &sqlx::Error) -> String {
    crate::tls::explain(error).map_or_else(|| error.to_string(), |(what, advice)| format!("{what}; {advice}"))
}

/// Whether there is a pooler in between: two connections of this program turn out to use one session of the server, or
/// one connection to use two.
async fn is_pooled(options: &PgConnectOptions) -> Result<bool, sqlx::Error> {
    let (mut one, mut two) = (options.connect().await?, options.connect().await?);
    let mut pooled = false;
    // A pooler gives out the session that was given back last. Another client may take that session first, so this is
    // tried several times.
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
    // Rows may have been committed before the channel was open.
    wake.notify_one();
    loop {
        listener.recv().await?;
        wake.notify_one();
    }
}
