//! What heads of requests show.

use axum::body::Body;

use super::*;

fn request(uri: &str, headers: &[(&str, &str)]) -> Request {
    let mut request = Request::get(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Body::empty()).unwrap()
}

#[test]
fn the_token_of_a_header() {
    for (lines, want) in [
        (&[][..], None),
        (&["Bearer abc"], Some("abc")),
        (&["bearer   abc "], Some("abc")),
        (&["BEARER a.b-c_d~e"], Some("a.b-c_d~e")),
        (&["Bearer"], Some("")),
        (&["Bearer "], Some("")),
        (&["Bearer a b"], Some("a b")),
        (&["Basic dTpw"], None),
        (&["Bearerabc"], None),
        (&["Bearer a", "Bearer a"], Some("")),
        (&["Basic dTpw", "Bearer a"], Some("")),
    ] {
        let headers: Vec<_> = lines.iter().map(|line| ("authorization", *line)).collect();
        let shown = Shown::by(&request("/sse", &headers), true);
        assert_eq!(shown.token, want.map(Token::new), "{lines:?}");
    }
}

#[test]
fn tokens_as_subprotocols() {
    for (lines, want) in [
        (&[][..], Ok((false, None))),
        (&["bugfeed"], Ok((true, None))),
        (&["chat, bugfeed"], Ok((true, None))),
        (&["chat"], Ok((false, None))),
        (&["Bugfeed"], Ok((false, None))),
        (&["bugfeed, bugfeed.bearer.a.b.c"], Ok((true, Some("a.b.c")))),
        (&["bugfeed.bearer.a", "bugfeed"], Ok((true, Some("a")))),
        (&["bugfeed,bugfeed.bearer."], Ok((true, Some("")))),
        (&["bugfeed.bearer.a"], Err("beside it")),
        (&["bugfeed, bugfeed.bearer.a, bugfeed.bearer.b"], Err("one is enough")),
    ] {
        let headers: Vec<_> = lines.iter().map(|line| ("sec-websocket-protocol", *line)).collect();
        let offered = Offered::read(request("/", &headers).headers());
        match (offered, want) {
            (Ok(offered), Ok((ours, token))) => {
                assert_eq!((offered.ours, offered.token), (ours, token.map(Token::new)), "{lines:?}");
            }
            (Err(error), Err(want)) => assert!(error.contains(want), "{lines:?} {error}"),
            (offered, want) => panic!("{lines:?}: {offered:?} instead of {want:?}"),
        }
    }
}

#[test]
fn what_stands_in_a_url() {
    for (uri, ticket, in_url) in [
        ("/sse?bugs=1", None, false),
        ("/sse?bugs=1&ticket=abc", Some("abc"), false),
        ("/sse?token=abc", None, true),
        ("/sse?Access_Token=abc", None, true),
        ("/sse?access%5Ftoken=", None, true),
        ("/sse?x=token", None, false),
    ] {
        let shown = Shown::by(&request(uri, &[]), true);
        assert_eq!((shown.ticket.as_deref(), shown.in_url), (ticket, in_url), "{uri}");
        assert_eq!(Shown::by(&request(uri, &[]), false).ticket, None, "{uri}");
    }
}

#[test]
fn a_header_of_an_answer_holds_no_quotation_mark_of_its_text() {
    let answer = answer(StatusCode::UNAUTHORIZED, Some("invalid_token"), "its \"claim\" \\", "x");
    assert_eq!(
        answer.headers()[header::WWW_AUTHENTICATE],
        "Bearer realm=\"bugfeed\", error=\"invalid_token\", error_description=\"its 'claim' '\""
    );
}
