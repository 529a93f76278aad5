//! Accepts connections of the admin port, and serves each in a task.
//!
//! Goes in: a listener and a router. Comes out: answers. It never refuses a connection because others are idle, and it
//! answers also when the process has no descriptors left: see `places.rs` and `reserve.rs`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::middleware::{self, Next};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::places::Places;
use super::reserve::{Reserve, is_out_of_files};
use super::{Counted, LIMITS};
use crate::http::{self, ConnectionEvents, Front, Hosts, Peer, Shared};
use crate::throttle::Throttle;

/// How often the reserve of descriptors is filled up.
const REFILL_EVERY: Duration = Duration::from_secs(1);
/// After a failure to accept, there is a pause.
const AGAIN: Duration = Duration::from_millis(100);

/// What the port needs.
pub(super) struct Port {
    pub(super) listener: TcpListener,
    pub(super) router: Router,
    pub(super) hosts: Hosts,
    pub(super) events: Arc<dyn ConnectionEvents>,
    pub(super) counted: Counted,
}

/// Serves until `stop`, and then for as long as answers that have begun may take.
pub(super) async fn serve(port: Port, stop: CancellationToken) {
    let (reserve, places, tracker) = (Arc::new(Reserve::default()), Places::default(), TaskTracker::new());
    let (failures, permits) = (Throttle::once_a_minute(), Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)));
    reserve.refill();
    let mut refill = tokio::time::interval(REFILL_EVERY);
    refill.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let accepted = tokio::select! {
            accepted = accept(&port.listener, &reserve) => accepted,
            _ = refill.tick() => {
                reserve.refill();
                continue;
            }
            () = stop.cancelled() => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                port.events.accept_failed(&error, failures.is_quiet());
                tokio::select! {
                    () = tokio::time::sleep(AGAIN) => continue,
                    () = stop.cancelled() => break,
                }
            }
        };
        http::prepare(&stream, &LIMITS);
        let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else { continue };
        let Some((place, evicted)) = places.take(LIMITS.connections) else {
            port.events.turned_away("full");
            tracker.spawn(http::turn_away(stream));
            continue;
        };
        if evicted {
            port.counted.evicted.inc();
        }
        let (id, place) = (place.id(), Arc::new(place));
        let noted = Arc::clone(&place);
        let note = middleware::from_fn(move |request: Request, next: Next| {
            let busy = noted.busy();
            async move {
                let answer = next.run(request).await;
                drop(busy);
                answer
            }
        });
        let shared = Shared {
            router: port.router.clone().layer(note),
            front: Front { hosts: port.hosts.clone(), ..Front::default() },
            limits: LIMITS,
            events: Arc::clone(&port.events),
            stop: stop.clone(),
        };
        let reserve = Arc::clone(&reserve);
        let task = tracker.spawn(async move {
            // Whether it ends or gives way: its descriptor goes back to the reserve, should that need it.
            let _filled = Refilled(reserve);
            http::connection(stream, Peer(peer), permit, shared).await;
            drop(place);
        });
        places.served_by(id, task.abort_handle());
        // What this connection has asked already is answered before it can give way to the next one.
        tokio::task::yield_now().await;
    }
    tracker.close();
    let _ = tokio::time::timeout(LIMITS.grace + Duration::from_secs(1), tracker.wait()).await;
}

/// Accepts a connection, with a descriptor of the reserve if there is no other.
async fn accept(listener: &TcpListener, reserve: &Reserve) -> std::io::Result<(TcpStream, SocketAddr)> {
    loop {
        match listener.accept().await {
            Err(error) if is_out_of_files(&error) && reserve.release() => {}
            accepted => return accepted,
        }
    }
}

struct Refilled(Arc<Reserve>);

impl Drop for Refilled {
    fn drop(&mut self) {
        self.0.refill();
    }
}
