//! Both policies over sixty days, against a table that is made from the words of the contract alone; single rules.

use super::*;

const S: i64 = SECOND_US;
const DAY: i64 = 86_400 * S;

/// Drives an endpoint whose receiver answers so, always, and for which there is always something to send. An attempt
/// takes no time. Returns the seconds of the attempts in sixty days, and the final health.
fn attempts(policy: Policy, outcome: impl Fn(usize) -> Outcome) -> (Vec<i64>, Health) {
    let (mut health, mut now_us, mut at) = (Health::default(), 0, Vec::new());
    while now_us <= 60 * DAY {
        assert!(health.is_executable(policy, now_us));
        at.push(now_us / S);
        health.count(policy, outcome(at.len()), now_us);
        let Some(from_us) = health.from_us(policy, false) else { break };
        // The microsecond just before must not be allowed.
        if health.disabled_until_us.is_some() {
            assert!(!health.is_executable(policy, from_us - 1), "strictly after the cool-down");
        }
        now_us = from_us.max(now_us);
    }
    (at, health)
}

/// The instants of the contract: after the first attempt, one after each of these minutes, the last of them for ever.
fn expected(minutes: &[i64]) -> Vec<i64> {
    let mut second = 0;
    let mut all = vec![0];
    for step in 0.. {
        second += 60 * minutes.get(step).or(minutes.last()).copied().unwrap_or(0);
        if second > 60 * 86_400 {
            break;
        }
        all.push(second);
    }
    all
}

#[test]
fn sixty_days_of_failures_are_exact_to_the_second() {
    let begun = std::time::Instant::now();
    let server = |_| Outcome::Server { retry_after_us: None };
    // "10, 20, 40, 80, 160, 320, 640, 1,280, 1,440, 1,440 … minutes, exactly, no jitter"
    let classic = expected(&[10, 20, 40, 80, 160, 320, 640, 1280, 1440]);
    assert_eq!(attempts(Policy::Classic, server).0, classic);
    assert_eq!(classic.len(), 67, "2,550 minutes for the first eight, then one a day");
    for outcome in [Outcome::Fault, Outcome::Redirect, Outcome::Busy { retry_after_us: None }] {
        assert_eq!(attempts(Policy::Classic, |_| outcome).0, classic, "{outcome:?}");
    }
    // "the first three failures in a row of any kind are free (… after a minute), the 4th cools down 1 min, × 2 up to 24 h,
    // the 40th disables"
    let mut minutes = vec![1, 1, 1];
    minutes.extend((0..11).map(|doublings| 1_i64 << doublings));
    minutes.push(1440);
    let mut current = expected(&minutes);
    current.truncate(40);
    for outcome in [Outcome::Fault, Outcome::Redirect, Outcome::Refused, server(0)] {
        let (at, health) = attempts(Policy::Current, |_| outcome);
        assert_eq!(at, current, "{outcome:?}");
        assert_eq!((health.recent_failures, health.backoff_count), (40, 37));
        assert_eq!(health.disabled(Policy::Current), Some(Bar::Failures));
    }
    // "a 4xx raises recent_failures; the fourth disables … after an hour"
    let (at, health) = attempts(Policy::Classic, |_| Outcome::Refused);
    assert_eq!(at, [0, 3600, 7200, 10_800]);
    assert_eq!((health.recent_failures, health.backoff_count, health.disabled_until_us), (4, 0, None));
    assert_eq!(health.state(Policy::Classic, false, 60 * DAY), State::Disabled);
    // "off: cools down 10 s, × 2 up to 1 min; nothing disables"
    let (at, health) = attempts(Policy::Off, |count| if count % 2 == 0 { Outcome::Gone } else { Outcome::Nameless });
    assert_eq!(at[..6], [0, 10, 30, 70, 130, 190]);
    assert!(at[6..].windows(2).all(|pair| pair[1] - pair[0] == 60), "every minute for sixty days");
    assert_eq!(health.disabled(Policy::Off), None);
    assert!(begun.elapsed().as_secs_f64() < 1.0, "{:?}", begun.elapsed());
}

/// Refusals among faults: each counter is touched by its own kind only, and a success begins both anew.
#[test]
fn the_counters_of_classic_are_apart() {
    let fault = Outcome::Fault;
    let (refused, success) = (Outcome::Refused, Outcome::Success);
    let mut health = Health::default();
    let mut now_us = 0;
    let mut got = Vec::new();
    for outcome in [fault, fault, refused, fault, refused, refused, success, refused, refused, refused, fault, refused]
    {
        let begun_us = now_us;
        health.count(Policy::Classic, outcome, now_us);
        let waits = health.from_us(Policy::Classic, false).map(|from_us| (from_us.max(begun_us) - begun_us) / S / 60);
        got.push((health.recent_failures, health.backoff_count, waits));
        now_us = health.from_us(Policy::Classic, false).unwrap_or(0).max(begun_us);
    }
    let want = [
        (0, 1, Some(10)),
        (0, 2, Some(20)),
        (1, 2, Some(60)),
        (1, 3, Some(40)),
        (2, 3, Some(60)),
        (3, 3, Some(60)),
        (0, 0, Some(0)),
        (1, 0, Some(60)),
        (2, 0, Some(60)),
        (3, 0, Some(60)),
        (3, 1, Some(10)),
        (4, 1, None),
    ];
    assert_eq!(got, want);
}

#[test]
fn who_asks_for_time_gets_it_within_bounds() {
    let wait = |policy, outcome| {
        let mut health = Health::default();
        let tidings = health.count(policy, outcome, 0);
        assert_eq!(tidings.cooling_until_us, health.disabled_until_us);
        health.disabled_until_us.map(|until_us| until_us / S)
    };
    let busy = |seconds: i64| Outcome::Busy { retry_after_us: Some(seconds * S) };
    let server = |status, seconds: i64| Outcome::of_status(status, Some(seconds * S));
    assert_eq!(wait(Policy::Classic, busy(5)), Some(600), "not less than the step that it earns");
    assert_eq!(wait(Policy::Classic, busy(3000)), Some(3000));
    assert_eq!(wait(Policy::Classic, busy(1_000_000)), Some(86_400), "not more than 24 h");
    assert_eq!(wait(Policy::Classic, busy(-5)), Some(600), "a date that is over");
    assert_eq!(wait(Policy::Classic, server(503, 700)), Some(700));
    assert_eq!(wait(Policy::Classic, server(502, 700)), Some(600), "only a 503 may ask");
    assert_eq!(wait(Policy::Current, busy(5)), Some(5), "a free failure that asks for time is no longer free of it");
    assert_eq!(wait(Policy::Current, busy(0)), None);
    assert_eq!(wait(Policy::Off, busy(3000)), Some(3000));
    let mut health = Health::default();
    health.count(Policy::Classic, busy(3000), 0);
    assert_eq!((health.recent_failures, health.backoff_count), (0, 1), "only backoff_count");
}

#[test]
fn statuses_mean_what_the_contract_says() {
    for (status, outcome) in [
        (200, Outcome::Success),
        (299, Outcome::Success),
        (301, Outcome::Redirect),
        (404, Outcome::Refused),
        (410, Outcome::Gone),
        (500, Outcome::Server { retry_after_us: None }),
        (100, Outcome::Fault),
        (600, Outcome::Fault),
    ] {
        assert_eq!(Outcome::of_status(status, None), outcome, "{status}");
    }
    for status in [408, 425, 429] {
        assert_eq!(Outcome::of_status(status, Some(7)), Outcome::Busy { retry_after_us: Some(7) });
    }
}

#[test]
fn what_disables_for_good() {
    for (policy, outcome, bar) in [
        (Policy::Classic, Outcome::Gone, Some(Bar::Gone)),
        (Policy::Current, Outcome::Gone, Some(Bar::Gone)),
        (Policy::Off, Outcome::Gone, None),
        (Policy::Classic, Outcome::Forbidden, Some(Bar::Forbidden)),
        (Policy::Current, Outcome::Forbidden, Some(Bar::Forbidden)),
        (Policy::Off, Outcome::Forbidden, Some(Bar::Forbidden)),
    ] {
        let mut health = Health::default();
        let tidings = health.count(policy, outcome, 0);
        assert_eq!(health.disabled(policy), bar, "{policy} {outcome:?}");
        assert_eq!(tidings.warning, bar.map(|_| 100), "{policy} {outcome:?}");
    }
}

#[test]
fn a_name_without_an_address_is_final_after_a_day() {
    for (policy, disables) in [(Policy::Classic, true), (Policy::Current, true), (Policy::Off, false)] {
        let mut health = Health::default();
        let mut warnings = Vec::new();
        let mut now_us = 0;
        while now_us < 3 * DAY && health.disabled(policy).is_none() {
            warnings.extend(health.count(policy, Outcome::Nameless, now_us).warning);
            now_us = health.from_us(policy, false).unwrap_or(now_us);
        }
        assert_eq!(health.disabled(policy), disables.then_some(Bar::Nameless), "{policy}");
        if disables {
            assert!((DAY..3 * DAY).contains(&now_us), "{policy}: {now_us}");
            assert_eq!(warnings.last(), Some(&100));
        }
    }
    // Another failure in between begins the day anew.
    let mut health = Health::default();
    for (hour, outcome) in [(0, Outcome::Nameless), (12, Outcome::Fault), (25, Outcome::Nameless)] {
        health.count(Policy::Classic, outcome, hour * 3600 * S);
    }
    assert_eq!(health.disabled(Policy::Classic), None);
}

#[test]
fn warnings_come_at_50_75_and_100_percent() {
    for (policy, outcome, want) in [
        (Policy::Classic, Outcome::Refused, &[(2, 50), (3, 75), (4, 100)][..]),
        (Policy::Current, Outcome::Fault, &[(20, 50), (30, 75), (40, 100)]),
        (Policy::Classic, Outcome::Fault, &[]),
        (Policy::Off, Outcome::Fault, &[]),
    ] {
        let mut health = Health::default();
        let warning = |count: i64| health.count(policy, outcome, count * DAY * 2).warning;
        let got: Vec<(usize, u8)> =
            (0..40).map(warning).enumerate().filter_map(|(at, warning)| Some((at + 1, warning?))).collect();
        assert_eq!(got[..want.len().max(got.len().min(3))], *want, "{policy}");
    }
}

#[test]
fn an_attempt_before_its_time_only_lengthens_the_cool_down() {
    for policy in [Policy::Classic, Policy::Current, Policy::Off] {
        for outcome in [Outcome::Fault, Outcome::Refused, Outcome::Busy { retry_after_us: Some(S) }] {
            let mut health = Health::default();
            let wish = Outcome::Busy { retry_after_us: Some(1000 * S) };
            health.count(policy, wish, 0);
            let until_us = health.disabled_until_us;
            health.count(policy, outcome, 10 * S);
            assert!(health.disabled_until_us >= until_us, "{policy} {outcome:?}");
        }
    }
}

#[test]
fn a_clock_that_was_set_back_does_not_lengthen_a_cool_down() {
    let mut health = Health::default();
    health.count(Policy::Classic, Outcome::Fault, 1000 * DAY);
    assert!(health.mend(0));
    assert_eq!(health.disabled_until_us, Some(DAY));
    assert!(!health.mend(0));
}
