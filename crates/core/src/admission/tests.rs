use std::collections::HashMap;

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

use super::*;

const LIMITS: AdmissionLimits = AdmissionLimits {
    connections: 10,
    connections_per_client: Some(3),
    rate: Some(Rate { per_second: 10, burst: 20 }),
    rate_per_client: Some(Rate { per_second: 2, burst: 5 }),
};

fn client(address: &str) -> Client {
    Client::of(address.parse().unwrap())
}

fn reason(verdict: Result<(), Refusal>) -> Option<Reason> {
    verdict.err().map(|refusal| refusal.reason)
}

#[test]
fn who_is_one_client() {
    for (one, other, same) in [
        ("192.0.2.1", "192.0.2.1", true),
        ("192.0.2.1", "192.0.2.2", false),
        ("192.0.2.1", "::ffff:192.0.2.1", true),
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff:ffff:ffff:ffff", true),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", false),
        ("::1", "0.0.0.1", false),
    ] {
        assert_eq!(client(one) == client(other), same, "{one} {other}");
    }
    assert_eq!(client("::ffff:192.0.2.1").to_string(), "192.0.2.1");
    assert_eq!(client("2001:db8:1:2::9").to_string(), "2001:db8:1:2::/64");
}

#[test]
fn one_client_takes_its_share_and_no_more() {
    let mut admission = Admission::new(LIMITS);
    let greedy = Some(client("192.0.2.1"));
    for _ in 0..3 {
        assert_eq!(admission.connect(0, greedy), Ok(()));
    }
    let refused = admission.connect(0, greedy).unwrap_err();
    assert_eq!((refused.reason, refused.retry_after_s), (Reason::ClientFull, 30));
    assert_eq!(admission.places(), (3, 10));
    assert_eq!(admission.connect(0, Some(client("192.0.2.2"))), Ok(()));
    admission.leave(client("192.0.2.1"));
    admission.disconnect();
    assert_eq!(admission.connect(0, greedy), Ok(()));
}

/// A new address of the same /64 is no new client.
#[test]
fn rotating_addresses_within_a_64_does_not_help() {
    let mut admission = Admission::new(LIMITS);
    let let_in = (0..200_u128).filter(|low| {
        let address = Ipv6Addr::from_bits(0x2001_0db8_0001_0002 << 64 | low << 32 | low);
        admission.connect(0, Some(Client::of(address.into()))).is_ok()
    });
    assert_eq!(let_in.count(), 3);
}

#[test]
fn tokens_come_back_with_time_and_a_refusal_takes_none() {
    let mut admission = Admission::new(LIMITS);
    let hasty = client("192.0.2.1");
    for _ in 0..5 {
        assert_eq!(admission.ask(0, hasty), Ok(()));
    }
    for _ in 0..100 {
        let refused = admission.ask(1, hasty).unwrap_err();
        assert_eq!((refused.reason, refused.retry_after_s), (Reason::ClientRate, 1));
    }
    // 2 a second: one after half a second.
    assert_eq!(reason(admission.ask(SECOND_NS / 2 - 1, hasty)), Some(Reason::ClientRate));
    assert_eq!(admission.ask(SECOND_NS / 2, hasty), Ok(()));
    assert_eq!(reason(admission.ask(SECOND_NS / 2, hasty)), Some(Reason::ClientRate));
    // A bucket is never more than full.
    let let_in = (0..100).filter(|_| admission.ask(1_000 * SECOND_NS, hasty).is_ok()).count();
    assert_eq!(let_in, 5);
}

#[test]
fn all_clients_together_have_bounds_too() {
    let mut admission = Admission::new(LIMITS);
    for _ in 0..10 {
        assert_eq!(admission.connect(0, None), Ok(()));
    }
    assert_eq!(reason(admission.connect(0, None)), Some(Reason::Full));
    for _ in 0..10 {
        admission.disconnect();
    }
    for _ in 0..10 {
        assert_eq!(admission.connect(0, None), Ok(()));
        admission.disconnect();
    }
    assert_eq!(reason(admission.connect(0, None)), Some(Reason::Rate), "20 have come");
    // What a known client is refused here, it may still do afterwards.
    assert_eq!(reason(admission.connect(0, Some(client("192.0.2.1")))), Some(Reason::Rate));
    assert_eq!(admission.clients(), 0);
}

#[test]
fn clients_are_forgotten_once_they_are_as_good_as_never_seen() {
    let mut admission = Admission::new(LIMITS);
    for host in 0..3 {
        admission.connect(0, Some(Client::V4(host))).unwrap();
    }
    admission.leave(Client::V4(0));
    admission.ask(0, Client::V4(9)).unwrap();
    assert_eq!(admission.clients(), 4);
    // The bucket of the two without a connection is full after half a second.
    admission.ask(SECOND_NS / 2, Client::V4(2)).unwrap();
    assert_eq!(admission.clients(), 2);
    admission.leave(Client::V4(1));
    admission.leave(Client::V4(2));
    admission.ask(10 * SECOND_NS, Client::V4(7)).unwrap();
    assert_eq!(admission.clients(), 1);
}

#[test]
fn the_table_is_bounded_and_who_is_connected_stays_known() {
    // Buckets that take long to fill.
    let rate_per_client = Some(Rate { per_second: 1, burst: 1_000 });
    let mut admission = Admission::new(AdmissionLimits { rate: None, rate_per_client, ..LIMITS });
    for _ in 0..3 {
        admission.connect(0, Some(Client::V6(1 << 40))).unwrap();
    }
    for host in 0..20_000 {
        admission.ask(u64::from(host), Client::V4(host)).unwrap();
        assert!(admission.clients() <= LIMITS.connections + SPARE_CLIENTS);
    }
    assert_eq!(admission.clients(), admission.idle.len() + 1);
    assert_eq!(reason(admission.connect(0, Some(Client::V6(1 << 40)))), Some(Reason::ClientFull));
}

/// What the module's head promises, written down as simply as can be.
#[derive(Default)]
struct Model {
    open: usize,
    all: (u64, u64),
    clients: HashMap<Client, (u32, (u64, u64))>,
}

/// A bucket as (how much time it holds, when that was so): a token costs the time that it takes to come back.
fn refilled((held, at): (u64, u64), now: u64, rate: Rate) -> u64 {
    (held + (now - at)).min(u64::from(rate.burst) * (SECOND_NS / u64::from(rate.per_second)))
}

impl Model {
    fn new(limits: &AdmissionLimits) -> Model {
        let rate = limits.rate.unwrap();
        Model { all: (u64::from(rate.burst) * (SECOND_NS / u64::from(rate.per_second)), 0), ..Model::default() }
    }

    fn client(&mut self, limits: &AdmissionLimits, now: u64, client: Client, more: u32) -> Option<Reason> {
        let rate = limits.rate_per_client.unwrap();
        let full = (u64::from(rate.burst) * (SECOND_NS / u64::from(rate.per_second)), 0);
        let (open, bucket) = self.clients.entry(client).or_insert((0, full));
        if more > 0 && *open >= limits.connections_per_client.unwrap() {
            return Some(Reason::ClientFull);
        }
        let held = refilled(*bucket, now, rate);
        match held.checked_sub(SECOND_NS / u64::from(rate.per_second)) {
            None => Some(Reason::ClientRate),
            Some(left) => {
                *bucket = (left, now);
                *open += more;
                None
            }
        }
    }

    fn connect(&mut self, limits: &AdmissionLimits, now: u64, client: Option<Client>) -> Option<Reason> {
        let before = client.map(|client| (client, self.clients.get(&client).copied()));
        if let Some(reason) = client.and_then(|client| self.client(limits, now, client, 1)) {
            return Some(reason);
        }
        let rate = limits.rate.unwrap();
        let held = refilled(self.all, now, rate).checked_sub(SECOND_NS / u64::from(rate.per_second));
        let refused = match held {
            _ if self.open >= limits.connections => Some(Reason::Full),
            None => Some(Reason::Rate),
            Some(left) => {
                self.all = (left, now);
                self.open += 1;
                None
            }
        };
        if let (Some(_), Some((client, before))) = (refused, before) {
            match before {
                Some(before) => drop(self.clients.insert(client, before)),
                None => drop(self.clients.remove(&client)),
            }
        }
        refused
    }
}

#[test]
fn random_histories_are_as_the_model_says() {
    for seed in 0..300 {
        let mut random = SmallRng::seed_from_u64(seed);
        let limits = AdmissionLimits {
            connections: random.random_range(1..30),
            connections_per_client: Some(random.random_range(1..6)),
            rate: Some(Rate {
                per_second: [1, 10, 100, 1000][random.random_range(0..4)],
                burst: random.random_range(1..40),
            }),
            rate_per_client: Some(Rate {
                per_second: [1, 5, 50][random.random_range(0..3)],
                burst: random.random_range(1..10),
            }),
        };
        let (mut admission, mut model) = (Admission::new(limits), Model::new(&limits));
        let mut now = 0;
        // Each connection that is let in, and the place of a client's that it has.
        let mut connections: Vec<Option<Client>> = Vec::new();
        let mut let_in = 0;
        for step in 0..400 {
            now += [0, 1, 1_000_000, 40_000_000, 3 * SECOND_NS][random.random_range(0..5)]
                * u64::from(random.random_bool(0.5));
            let client = Client::V4(random.random_range(0..6));
            let (got, want) = match random.random_range(0..10) {
                0..=3 => {
                    let client = random.random_bool(0.7).then_some(client);
                    let got = admission.connect(now, client);
                    if got.is_ok() {
                        connections.push(client);
                    }
                    (got, model.connect(&limits, now, client))
                }
                4 | 5 => match connections.iter_mut().find(|client| client.is_none()) {
                    None => continue,
                    Some(place) => {
                        let got = admission.join(now, client);
                        if got.is_ok() {
                            *place = Some(client);
                        }
                        (got, model.client(&limits, now, client, 1))
                    }
                },
                6 | 7 => (admission.ask(now, client), model.client(&limits, now, client, 0)),
                _ if connections.is_empty() => continue,
                _ => {
                    let gone = connections.swap_remove(random.random_range(0..connections.len()));
                    if let Some(client) = gone {
                        admission.leave(client);
                        model.clients.get_mut(&client).unwrap().0 -= 1;
                    }
                    admission.disconnect();
                    model.open -= 1;
                    continue;
                }
            };
            let_in += usize::from(got.is_ok());
            assert_eq!(reason(got), want, "seed {seed}, step {step}");
            assert_eq!(admission.places().0, connections.len(), "seed {seed}, step {step}");
        }
        assert!(let_in > 0, "seed {seed}");
        for client in connections.drain(..) {
            client.into_iter().for_each(|client| admission.leave(client));
            admission.disconnect();
        }
        let long_after = now + 1_000 * SECOND_NS;
        admission.ask(long_after, Client::V6(1)).unwrap();
        assert_eq!((admission.places().0, admission.clients()), (0, 1), "seed {seed}");
    }
}
