//! From a name to addresses, and which of them may be connected to.
//!
//! Goes in: a host's name. Comes out: its addresses, as the system knows them now; nothing is cached here. Bounded: so many
//! look-ups at the same time, because each keeps a thread for as long as the system takes.

use std::fmt;
use std::io;
use std::net::{IpAddr, ToSocketAddrs as _};
use std::sync::Arc;

use futures::future::BoxFuture;
use tokio::sync::Semaphore;

/// So many names are looked up at the same time; others wait for their turn.
const MOST_LOOK_UPS: usize = 64;
/// Of a name's addresses so many are looked at.
const MOST_ADDRESSES: usize = 256;

/// Which addresses may be connected to.
pub trait AddressRule: fmt::Debug + Send + Sync {
    /// Whether this address of this host may be connected to. It is asked about every address, just before it is
    /// connected to: a name may get another address at any time.
    ///
    /// # Errors
    /// Why not, and what to do about it, in a sentence.
    fn permits(&self, host: &str, address: IpAddr) -> Result<(), String>;
}

/// Permits all.
#[derive(Clone, Copy, Debug)]
pub struct Anywhere;

impl AddressRule for Anywhere {
    fn permits(&self, _: &str, _: IpAddr) -> Result<(), String> {
        Ok(())
    }
}

/// Knows the addresses of names. It is not asked about a host that is an address itself.
pub trait Resolver: fmt::Debug + Send + Sync {
    /// The host's addresses, the best one first. Whoever asks gives up after a while, and drops the future.
    fn addresses<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>>;
}

/// What this machine's resolver says.
#[derive(Debug)]
pub struct System {
    turns: Arc<Semaphore>,
}

impl Default for System {
    fn default() -> System {
        System { turns: Arc::new(Semaphore::new(MOST_LOOK_UPS)) }
    }
}

impl Resolver for System {
    fn addresses<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        Box::pin(async move {
            let turn = Arc::clone(&self.turns).acquire_owned().await.map_err(io::Error::other)?;
            let host = host.to_owned();
            let looking_up = tokio::task::spawn_blocking(move || {
                // The turn ends with the thread's work, also if nobody waits for it any more.
                let turn = turn;
                let found = (host.as_str(), 0).to_socket_addrs();
                drop(turn);
                found
            });
            let found = looking_up.await.map_err(io::Error::other)??;
            let mut addresses: Vec<IpAddr> = Vec::new();
            for address in found.take(MOST_ADDRESSES).map(|address| address.ip()) {
                if !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
            Ok(addresses)
        })
    }
}
