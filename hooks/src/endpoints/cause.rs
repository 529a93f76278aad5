//! Why an attempt failed, in a few words for people.
//!
//! Goes in: a row of the log of attempts. Comes out: the fault, or the status with the beginning of the answer, in one line.
//! It goes to people who may not see secrets, so what the receiver repeats of them is masked: values of the endpoint's
//! headers, its secret, the parts of its URL behind the server.

use crate::store::endpoints::{AttemptRow, Settings};

/// So many characters of an answer are told.
const LONGEST_SAID: usize = 100;
/// A part of a URL or header that is shorter than this is no secret.
const SHORTEST_SECRET: usize = 6;
/// What stands in place of a secret.
const MASK: &str = "…";

/// What must not be shown of an endpoint, the longest first.
#[derive(Clone, Default)]
pub(crate) struct Hidden(Box<[String]>);

impl Hidden {
    /// The secrets of an endpoint.
    pub(crate) fn of(settings: &Settings) -> Hidden {
        let behind = settings.url.strip_prefix(settings.server()).unwrap_or(&settings.url);
        let mut all: Vec<&str> = vec![settings.secret.expose(), behind.trim_matches('/')];
        all.extend(settings.previous.iter().map(|(secret, _)| secret.expose()));
        all.extend(behind.split(['/', '?', '&', '=', '#']));
        for (_, value) in settings.headers.expose() {
            all.push(value);
            all.extend(value.split_whitespace());
        }
        all.retain(|text| text.len() >= SHORTEST_SECRET);
        all.sort_unstable_by(|a, b| b.len().cmp(&a.len()).then(a.cmp(b)));
        all.dedup();
        Hidden(all.into_iter().map(str::to_owned).collect())
    }

    fn mask(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, secret| text.replace(secret, MASK))
    }
}

impl std::fmt::Debug for Hidden {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hidden")
    }
}

/// Why this attempt failed; `None` of one that succeeded.
pub(crate) fn cause(row: &AttemptRow, hidden: &Hidden) -> Option<String> {
    match row.status {
        Some(200..=299) => None,
        Some(status) => {
            let said = said(&row.response, hidden);
            Some(if said.is_empty() { format!("answered {status}") } else { format!("answered {status}: {said}") })
        }
        None => Some(hidden.mask(row.error.as_deref().or(row.fault.as_deref()).unwrap_or("unknown"))),
    }
}

/// The beginning of an answer, in one line. Line ends and other control characters stand in it as escapes.
fn said(response: &str, hidden: &Hidden) -> String {
    let blank = ["\\n", "\\r", "\\t"].iter().fold(response.to_owned(), |text, escape| text.replace(escape, " "));
    let words: Vec<&str> = blank.split_whitespace().collect();
    let line: String = words.join(" ").chars().filter(|c| !c.is_control()).collect();
    let line = hidden.mask(&line);
    match line.char_indices().nth(LONGEST_SAID) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use bugfeed_core::hooks::event::Trigger;

    use super::*;
    use crate::deliver::headers::UserHeaders;
    use crate::deliver::sign::SigningSecret;
    use crate::store::endpoints::{EndpointId, FeedChoice};

    fn row(status: Option<u16>, error: Option<&str>, response: &str) -> AttemptRow {
        AttemptRow {
            id: 1,
            endpoint: EndpointId::new([1; 13]),
            feed: None,
            trigger: Trigger::Live,
            begun_us: 0,
            took_us: 0,
            status,
            fault: error.map(|_| "refused".to_owned()),
            error: error.map(str::to_owned),
            response: response.to_owned(),
            webhook_id: String::new(),
            counts: true,
            request: String::new(),
            content_type: String::new(),
        }
    }

    #[test]
    fn a_cause_is_one_line_that_shows_no_secret() {
        let headers = UserHeaders::read([("Authorization", "Bearer s3cret-token")]).unwrap();
        let settings = Settings {
            url: "https://h.example/hooks/T0KENT0KEN?key=K3Y-K3Y".to_owned(),
            secret: SigningSecret::generate(&[7; 32]),
            previous: None,
            headers,
            description: String::new(),
            feeds: FeedChoice::All,
            template: None,
            created_us: 0,
        };
        let hidden = Hidden::of(&settings);
        let told = |status, error, response: &str| cause(&row(status, error, response), &hidden);
        assert_eq!(told(Some(204), None, ""), None);
        assert_eq!(told(Some(502), None, "").unwrap(), "answered 502");
        assert_eq!(told(Some(404), None, "no\\r\\n  such\\thook").unwrap(), "answered 404: no such hook");
        let echo = format!("T0KENT0KEN K3Y-K3Y s3cret-token {} x", settings.secret.expose());
        assert_eq!(told(Some(401), None, &echo).unwrap(), "answered 401: … … … … x");
        let long = told(Some(500), None, &"é".repeat(300)).unwrap();
        assert_eq!(long.chars().count(), "answered 500: ".len() + LONGEST_SAID + 1);
        assert_eq!(told(None, Some("cannot connect: T0KENT0KEN"), "").unwrap(), "cannot connect: …");
    }
}
