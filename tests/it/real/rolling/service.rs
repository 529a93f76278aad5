//! What a Kubernetes Service is to gateways: one address, and each new connection goes to any gateway that says it is
//! ready. It notes when connections came and where they went.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rand::seq::IndexedRandom as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, timeout};

use crate::real::soak::pause;
use crate::real::soak::pods::get;
use crate::support::free_address;

/// How often each gateway is asked.
const PERIOD: Duration = Duration::from_millis(50);

/// A gateway as the service knows it.
#[derive(Debug)]
pub struct Endpoint {
    pub clients: SocketAddr,
    pub admin: SocketAddr,
    ready: bool,
    open: usize,
}

#[derive(Debug, Default)]
struct State {
    endpoints: Vec<Endpoint>,
    came: Vec<Instant>,
    /// Connections that went to a gateway which did not take them, or that had nowhere to go.
    refused: usize,
}

/// The service; gone when dropped, with every connection through it.
pub struct Service {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
    tasks: Vec<AbortHandle>,
}

impl Drop for Service {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl Service {
    /// Before so many gateways, on ports that are free now.
    pub async fn start(gateways: usize) -> Service {
        let endpoint = |_| Endpoint { clients: free_address(), admin: free_address(), ready: false, open: 0 };
        let endpoints = (0..gateways).map(endpoint).collect();
        let state = Arc::new(Mutex::new(State { endpoints, ..State::default() }));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let probes = (0..gateways).map(|index| tokio::spawn(probe(Arc::clone(&state), index)).abort_handle());
        let accepting = tokio::spawn(accept(listener, Arc::clone(&state))).abort_handle();
        let tasks = probes.chain([accepting]).collect();
        Service { address, state, tasks }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Where a gateway listens: for clients, and its admin port.
    pub fn ports(&self, index: usize) -> (SocketAddr, SocketAddr) {
        let endpoint = &self.state().endpoints[index];
        (endpoint.clients, endpoint.admin)
    }

    pub fn is_ready(&self, index: usize) -> bool {
        self.state().endpoints[index].ready
    }

    /// How many connections each gateway has.
    pub fn open(&self) -> Vec<usize> {
        self.state().endpoints.iter().map(|endpoint| endpoint.open).collect()
    }

    pub fn refused(&self) -> usize {
        self.state().refused
    }

    /// When connections came from then on, counted from it.
    pub fn came_since(&self, begin: Instant) -> Vec<Duration> {
        self.state().came.iter().filter_map(|at| at.checked_duration_since(begin)).collect()
    }
}

async fn probe(state: Arc<Mutex<State>>, index: usize) {
    let admin = state.lock().unwrap().endpoints[index].admin;
    loop {
        let asked = timeout(Duration::from_secs(1), get(admin, "/readyz")).await;
        let ready = matches!(asked, Ok(Some(answer)) if answer.contains(" 200 "));
        state.lock().unwrap().endpoints[index].ready = ready;
        pause(PERIOD).await;
    }
}

async fn accept(listener: TcpListener, state: Arc<Mutex<State>>) {
    // Ended with this task.
    let mut connections = JoinSet::new();
    loop {
        let (client, _) = listener.accept().await.unwrap();
        while connections.try_join_next().is_some() {}
        connections.spawn(carry(client, Arc::clone(&state)));
    }
}

async fn carry(mut client: TcpStream, state: Arc<Mutex<State>>) {
    let (chosen, address) = {
        let mut state = state.lock().unwrap();
        state.came.push(Instant::now());
        let ready: Vec<usize> = (0..state.endpoints.len()).filter(|index| state.endpoints[*index].ready).collect();
        let Some(&chosen) = ready.choose(&mut rand::rng()) else {
            state.refused += 1;
            return;
        };
        (chosen, state.endpoints[chosen].clients)
    };
    let Ok(mut gateway) = TcpStream::connect(address).await else {
        state.lock().unwrap().refused += 1;
        return;
    };
    state.lock().unwrap().endpoints[chosen].open += 1;
    // Frames are small and must not wait for each other.
    let _ = (client.set_nodelay(true), gateway.set_nodelay(true));
    let _either_side_may_break_it = tokio::io::copy_bidirectional(&mut client, &mut gateway).await;
    state.lock().unwrap().endpoints[chosen].open -= 1;
}
