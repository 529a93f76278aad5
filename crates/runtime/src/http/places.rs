//! The places of a listener: what `core/admission` plans, with the clock, and guards that give back what was taken.
//!
//! Goes in: that a connection came, or that its client became known. Comes out: a [`Place`], or why there is none. When places
//! get scarce, connections on which nobody has asked anything are told to end.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bugfeed_core::admission::{Admission, AdmissionLimits, Client, Refusal};
use tokio::sync::Notify;

/// Places are scarce when fewer than a tenth of them are free.
const SCARCE_PARTS: usize = 10;

/// While they are, idle connections are told so at most this often.
const TELL_EVERY: Duration = Duration::from_millis(500);

/// All places of a listener.
#[derive(Debug)]
pub(crate) struct Places {
    began: Instant,
    admission: Mutex<Admission>,
    /// Wakes the connections that may end.
    scarce: Notify,
    told_ms: AtomicU64,
}

impl Places {
    pub(crate) fn new(limits: AdmissionLimits) -> Arc<Places> {
        Arc::new(Places {
            began: Instant::now(),
            admission: Mutex::new(Admission::new(limits)),
            scarce: Notify::new(),
            told_ms: AtomicU64::new(0),
        })
    }

    /// A connection came, of this client, as far as that is known.
    ///
    /// # Errors
    /// Says why there is no place for it.
    pub(crate) fn connect(self: &Arc<Places>, client: Option<Client>) -> Result<Place, Refusal> {
        let connected = self.lock().connect(self.now_ns(), client);
        self.make_room();
        connected.map(|()| Place { places: Arc::clone(self), client })
    }

    /// A client that has become known takes a place of its own.
    ///
    /// # Errors
    /// Says why there is none for it.
    pub(super) fn join(self: &Arc<Places>, client: Client) -> Result<Held, Refusal> {
        self.lock().join(self.now_ns(), client).map(|()| Held(Some((Arc::clone(self), client))))
    }

    /// A client that has a place asks for something more.
    ///
    /// # Errors
    /// Says why it may not.
    pub(super) fn ask(&self, client: Client) -> Result<(), Refusal> {
        self.lock().ask(self.now_ns(), client)
    }

    /// Waits until places are scarce.
    pub(super) async fn get_scarce(&self) {
        self.scarce.notified().await;
    }

    /// What to say of them, if there is something to say.
    pub(super) fn warning(&self) -> Option<String> {
        let (taken, most) = self.lock().places();
        is_scarce(taken, most).then(|| {
            let word = if taken >= most { "all" } else { "nearly all" };
            format!("{word} places are taken, {taken} of {most} (--max-connections)")
        })
    }

    /// Tells idle connections to end, if places are scarce and this was not said a moment ago.
    fn make_room(&self) {
        let (taken, most) = self.lock().places();
        if !is_scarce(taken, most) {
            return;
        }
        let now_ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX).max(1);
        let told_ms = self.told_ms.load(Ordering::Relaxed);
        if told_ms == 0 || u128::from(now_ms.saturating_sub(told_ms)) >= TELL_EVERY.as_millis() {
            self.told_ms.store(now_ms, Ordering::Relaxed);
            self.scarce.notify_waiters();
        }
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn lock(&self) -> MutexGuard<'_, Admission> {
        self.admission.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_scarce(taken: usize, most: usize) -> bool {
    most.saturating_sub(taken) < most.div_ceil(SCARCE_PARTS)
}

/// A place among a listener's connections, and perhaps one of a client's. They are free again when this is dropped.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    client: Option<Client>,
}

impl Place {
    /// The only place there is: for a connection that came from no listener.
    pub fn only() -> Place {
        Place { places: Places::new(AdmissionLimits::connections(1)), client: None }
    }

    /// The address of the client whose place it is, where that is known; of IPv6 the first one of its /64.
    pub fn address(&self) -> Option<IpAddr> {
        self.client.map(Client::address)
    }

    pub(super) fn places(&self) -> &Arc<Places> {
        &self.places
    }

    /// Also holds what a request holds. A connection has at most one place of a client's.
    pub(super) fn hold(&mut self, held: Held) {
        if self.client.is_none() {
            self.client = held.into_client();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut admission = self.places.lock();
        if let Some(client) = self.client {
            admission.leave(client);
        }
        admission.disconnect();
    }
}

/// A client's place for one request, or for what the request becomes. It is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Held(Option<(Arc<Places>, Client)>);

impl Held {
    /// The place is the caller's from now on.
    fn into_client(mut self) -> Option<Client> {
        self.0.take().map(|(_, client)| client)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some((places, client)) = self.0.take() {
            places.lock().leave(client);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Client = Client::V4(1);

    fn places(connections: usize) -> Arc<Places> {
        Places::new(AdmissionLimits { connections_per_client: Some(2), ..AdmissionLimits::connections(connections) })
    }

    #[test]
    fn what_was_taken_is_given_back() {
        let places = places(20);
        let (one, mut two) = (places.connect(Some(A)).unwrap(), places.connect(None).unwrap());
        let held = places.join(A).unwrap();
        assert!(places.join(A).is_err() && places.connect(Some(A)).is_err());
        two.hold(held);
        assert!(places.join(A).is_err(), "the connection has it now");
        drop(two);
        let again = places.join(A).unwrap();
        drop(again);
        drop(one);
        assert_eq!(places.lock().places(), (0, 20));
    }

    #[tokio::test]
    async fn scarcity_is_told_and_shown() {
        let places = places(20);
        let mut taken: Vec<Place> = (0..18).map(|_| places.connect(None).unwrap()).collect();
        assert_eq!(places.warning(), None);
        let told = places.get_scarce();
        tokio::pin!(told);
        assert!(waits(&mut told).await, "nobody has said so yet");
        taken.push(places.connect(None).unwrap());
        told.await;
        assert!(places.warning().is_some_and(|text| text.contains("nearly all") && text.contains("19 of 20")));
        taken.push(places.connect(None).unwrap());
        assert!(places.connect(None).is_err());
        assert!(places.warning().is_some_and(|text| text.starts_with("all places")));
        drop(taken);
        assert_eq!(places.warning(), None);
    }

    /// Polls once; whether it waits.
    async fn waits(future: &mut (impl Future<Output = ()> + Unpin)) -> bool {
        std::future::poll_fn(|cx| std::task::Poll::Ready(std::pin::Pin::new(&mut *future).poll(cx).is_pending())).await
    }
}
