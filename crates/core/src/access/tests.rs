//! Every reason to refuse, and what a grant covers.

use super::*;

const NOW_S: i64 = 1_795_000_000;

fn bug(number: u64) -> BugId {
    BugId::new(number).unwrap()
}

fn bugs(numbers: &[u64]) -> WhichBugs {
    WhichBugs::These(numbers.iter().copied().map(bug).collect())
}

fn scope(numbers: &[u64]) -> BugScope {
    BugScope::These(numbers.iter().copied().map(bug).collect())
}

fn grant(bugs: BugScope, max_subscriptions: Option<usize>) -> Grant {
    Grant { feeds: FeedScope::All, bugs, max_subscriptions, expires: None, ends: None, id: None }
}

fn good() -> Claims {
    Claims { expires_s: Some(NOW_S + 300), feeds: Some(FeedScope::All), bugs: Some(BugScope::All), ..Claims::default() }
}

#[test]
fn times_are_compared_with_some_leeway() {
    let policy = Policy { leeway_s: 60, ..Policy::default() };
    for (expires_s, not_before_s, want) in [
        (Some(NOW_S + 1), None, Ok(())),
        (Some(NOW_S - 59), None, Ok(())),
        (Some(NOW_S - 60), None, Err(Refused::Expired)),
        (Some(0), None, Err(Refused::Expired)),
        (Some(i64::MIN), None, Err(Refused::Expired)),
        (Some(i64::MAX), Some(i64::MIN), Ok(())),
        (None, None, Err(Refused::NoExpiry)),
        (Some(NOW_S + 600), Some(NOW_S + 60), Ok(())),
        (Some(NOW_S + 600), Some(NOW_S + 61), Err(Refused::NotYet)),
        (Some(i64::MAX), Some(i64::MAX), Err(Refused::NotYet)),
    ] {
        let claims = Claims { expires_s, not_before_s, ..good() };
        assert_eq!(policy.grant(claims, NOW_S).map(drop), want, "{expires_s:?} {not_before_s:?}");
    }
    let granted = policy.grant(good(), NOW_S).unwrap();
    let date = |seconds: i64| When::from_micros(seconds * 1_000_000);
    assert_eq!((granted.expires, granted.ends), (date(NOW_S + 300), date(NOW_S + 360)));
}

#[test]
fn who_a_token_is_for_and_who_issued_it() {
    let here = || Policy { audiences: vec!["bugfeed".into(), "feeds".into()], ..Policy::default() };
    let names = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
    for (policy, audience, want) in [
        (Policy::default(), None, Ok(())),
        (Policy::default(), names(&["account"]), Err(Refused::Audience)),
        (Policy::default(), names(&[]), Err(Refused::Audience)),
        (here(), names(&["account", "feeds"]), Ok(())),
        (here(), names(&["account"]), Err(Refused::Audience)),
        (here(), names(&["Bugfeed"]), Err(Refused::Audience)),
        (here(), None, Err(Refused::Audience)),
    ] {
        let claims = Claims { audience: audience.clone(), ..good() };
        assert_eq!(policy.grant(claims, NOW_S).map(drop), want, "{audience:?}");
    }
    let ours = Policy { issuers: vec!["https://login.example.org/realms/a".into()], ..Policy::default() };
    for (issuer, want) in [
        (Some("https://login.example.org/realms/a"), Ok(())),
        (Some("https://login.example.org/realms/a/"), Err(Refused::Issuer)),
        (Some("https://login.example.org/realms/b"), Err(Refused::Issuer)),
        (None, Err(Refused::Issuer)),
    ] {
        let claims = Claims { issuer: issuer.map(str::to_owned), ..good() };
        assert_eq!(ours.grant(claims, NOW_S).map(drop), want, "{issuer:?}");
    }
}

/// What is not said is not allowed.
#[test]
fn a_token_says_what_it_is_for() {
    let policy = Policy::default();
    assert_eq!(policy.grant(Claims { feeds: None, ..good() }, NOW_S), Err(Refused::Claims));
    assert_eq!(policy.grant(Claims { bugs: None, ..good() }, NOW_S), Err(Refused::Claims));
    let none = FeedScope::These(BTreeSet::new());
    let granted = policy.grant(Claims { feeds: Some(none), ..good() }, NOW_S).unwrap();
    assert_eq!(granted.check_feed("default"), Err(Refused::Feed));
    let one = FeedScope::These(BTreeSet::from(["kde".to_owned()]));
    let granted = policy.grant(Claims { feeds: Some(one), ..good() }, NOW_S).unwrap();
    assert_eq!(granted.check_feed("kde"), Ok(()));
    assert_eq!(granted.check_feed("default"), Err(Refused::Feed));
}

#[test]
fn which_bugs_a_session_may_add() {
    let not = |bug: u64| Err(format!("this token is not for bug {bug}"));
    let most = |count: usize| Err(format!("this token may watch at most {count} bugs"));
    let not_all = || Err("this token is not for all bugs".to_owned());
    for (grant, more, watched, all, want) in [
        (grant(BugScope::All, None), bugs(&[1, 2]), &[][..], false, Ok(())),
        (grant(BugScope::All, None), WhichBugs::All, &[7], false, Ok(())),
        (grant(scope(&[1, 2]), None), bugs(&[1, 2]), &[1], false, Ok(())),
        (grant(scope(&[1, 2]), None), bugs(&[1, 3, 4]), &[], false, not(3)),
        (grant(scope(&[1, 2]), None), bugs(&[]), &[], false, Ok(())),
        (grant(scope(&[]), None), bugs(&[1]), &[], false, not(1)),
        (grant(scope(&[1, 2]), None), WhichBugs::All, &[], false, not_all()),
        (grant(BugScope::All, Some(2)), bugs(&[1, 2]), &[1], false, Ok(())),
        (grant(BugScope::All, Some(2)), bugs(&[1, 2, 3]), &[], false, most(2)),
        (grant(BugScope::All, Some(2)), bugs(&[3]), &[1, 2], false, most(2)),
        (grant(BugScope::All, Some(0)), bugs(&[]), &[], false, Ok(())),
        (grant(BugScope::All, Some(100)), WhichBugs::All, &[], false, most(100)),
        (grant(BugScope::All, Some(100)), bugs(&[1]), &[], true, most(100)),
    ] {
        let watched: Vec<BugId> = watched.iter().copied().map(bug).collect();
        assert_eq!(grant.check_bugs(&more, &watched, all), want, "{grant:?} {more:?} {watched:?}");
    }
}

#[test]
fn whether_a_session_may_go_on_with_another_token() {
    let kde = Grant { feeds: FeedScope::These(BTreeSet::from(["kde".to_owned()])), ..grant(scope(&[1, 2]), Some(1)) };
    for (feed, watched, all, want) in [
        ("kde", &[1][..], false, Ok(())),
        ("kde", &[], false, Ok(())),
        ("default", &[1], false, Err("this token is not for this feed")),
        ("kde", &[3], false, Err("this token is not for bug 3")),
        ("kde", &[1, 2], false, Err("this token may watch at most 1 bugs")),
        ("kde", &[1], true, Err("this token is not for all bugs")),
    ] {
        let watched: Vec<BugId> = watched.iter().copied().map(bug).collect();
        let got = kde.check_session(feed, &watched, all);
        assert_eq!(got, want.map_err(str::to_owned), "{feed} {watched:?} {all}");
    }
}

#[test]
fn a_pass_ends_on_the_clock_of_the_shard() {
    let date = |seconds: i64| When::from_micros(seconds * 1_000_000).unwrap();
    let ending = |ends| Pass::granted(Arc::new(Grant { ends, ..grant(BugScope::All, None) }), 5000, date(100)).ends_ms;
    assert_eq!(ending(None), u64::MAX);
    assert_eq!(ending(Some(date(103))), 8000);
    assert_eq!(ending(Some(date(100))), 5000);
    assert_eq!(ending(Some(date(7))), 5000, "its time was over before");
    assert_eq!(ending(When::from_micros(100_000_001)), 5001, "never too early");
}
