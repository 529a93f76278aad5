//! The configuration as it was read, without secrets.

use serde_json::{Value, json};

use super::shapes::MASK;
use crate::client::Address;
use crate::config::auth::{Encoding, Hash, KeyPlace, Over, Signature};
use crate::config::notify::Target;
use crate::config::source::{Answers, Bodies, DeadLetters, Duplicates, Older, Private, Retry};
use crate::config::{Notify, Source};

/// A source, in the words of the configuration.
pub(super) fn source(source: &Source) -> Value {
    let place = |place: &KeyPlace| match place {
        KeyPlace::Bearer => "bearer".to_owned(),
        KeyPlace::Basic => "basic".to_owned(),
        KeyPlace::Header(name) => format!("header {name}"),
        KeyPlace::Path => "path".to_owned(),
    };
    let is_signed = !source.secrets.is_empty();
    let keys: Vec<String> = if is_signed { Vec::new() } else { source.keys.iter().map(place).collect() };
    let signatures: Vec<String> =
        if is_signed { source.signatures.iter().map(signature).collect() } else { Vec::new() };
    json!({
        "name": source.name,
        "preset": source.preset,
        "path": format!("/hooks/{}", source.name),
        "keys": keys,
        "signatures": signatures,
        "secrets": source.secrets.len(),
        "lacks_secret": source.lacks_secret(),
        "feeds": source.feeds(),
        "answers": match source.answers { Answers::Always200 => "always-200", Answers::Honest => "honest" },
        "duplicates": match source.duplicates { Duplicates::ByContent => "by-content", Duplicates::ByTime => "by-time" },
        "older": match source.older { Older::Announce => "announce", Older::Drop => "drop" },
        "private": match source.private { Private::Drop => "drop", Private::Announce => "announce" },
        "dead_letters": match source.dead_letters { DeadLetters::Hold => "hold", DeadLetters::Supersede => "supersede" },
        "retry": match source.retry { Retry::Current => "current", Retry::Classic => "classic" },
        "bodies": match source.bodies { Bodies::Errors => "errors", Bodies::All => "all", Bodies::None => "none" },
        "tracker": source.tracker,
        "tracker_key": source.tracker_key_file.is_some(),
        "verify": source.verify,
        "reconcile_seconds": source.reconcile.map(|every| every.as_secs()),
        "reconcile_as_key": source.reconcile_as_key,
    })
}

fn signature(signature: &Signature) -> String {
    match signature {
        Signature::Hmac { hash, header, encoding, over, .. } => {
            let hash = match hash {
                Hash::Sha256 => "hmac-sha256",
                Hash::Sha1 => "hmac-sha1",
            };
            let encoding = match encoding {
                Encoding::Hex => "hex",
                Encoding::Base64 => "base64",
            };
            let over = match over {
                Over::Body => "body",
                Over::Payload => "payload",
            };
            format!("{hash} in {header}, {encoding}, over the {over}")
        }
        Signature::Token { header } => format!("token in {header}"),
        Signature::StandardWebhooks => "standard-webhooks".to_owned(),
    }
}

/// Who is told. Paths and arguments may hold tokens, so they are shown to whoever may see what is masked; passwords to
/// nobody.
pub(super) fn notify(notify: &Notify, is_raw: bool) -> Value {
    let target = match &notify.target {
        Target::Url(url) => json!({ "url": if is_raw { url.expose().to_owned() } else { origin(url.expose()) } }),
        Target::Command(words) => {
            let masked = |(place, word): (usize, &String)| {
                if is_raw || place == 0 { word.clone() } else { MASK.to_owned() }
            };
            json!({ "command": words.iter().enumerate().map(masked).collect::<Vec<_>>() })
        }
        Target::Smtp { server, from, to } => json!({ "smtp": mail_server(server.expose()), "from": from, "to": to }),
    };
    json!({ "on": notify.on, "sources": notify.sources, "target": target })
}

/// A URL without path and query.
fn origin(url: &str) -> String {
    Address::parse(url).map_or_else(|_| MASK.to_owned(), |address| format!("{}/{MASK}", address.origin()))
}

/// A mail server without name and password.
fn mail_server(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("smtp", url));
    let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    format!("{scheme}://{host}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::HooksConfig;

    const TEXT: &str = r#"
        [[source]]
        name = "signed"
        preset = "github"
        secret = "hidden-1"
        feed = "kde"
        [[source]]
        name = "own"
        auth = { header = "X-Own" }
        path_key = true
        bug = "/bug"
        older = "drop"
        [[notify]]
        on = "all"
        url = "https://chat.example.org/hook/hidden-2?x=hidden-3"
        [[notify]]
        on = "digest"
        command = ["/bin/tell", "hidden-4"]
        [[notify]]
        on = "digest"
        smtp = { server = "smtp://me:hidden-5@mail.example.org:25", from = "a@example.org", to = "b@example.org" }
    "#;

    #[test]
    fn no_secret_is_shown() {
        let config = HooksConfig::read("hooks.toml", TEXT, &|_| Err("no file".to_owned())).unwrap();
        let shown = |is_raw| {
            let notify = config.notify.iter().map(|one| notify(one, is_raw));
            let sources = config.sources.iter().map(source);
            sources.chain(notify).map(|value| value.to_string()).collect::<Vec<_>>().join("\n")
        };
        let (masked, raw) = (shown(false), shown(true));
        for number in 1..=5 {
            let hidden = format!("hidden-{number}");
            assert!(!masked.contains(&hidden), "{masked}");
            assert_eq!(raw.contains(&hidden), [2, 3, 4].contains(&number), "{hidden}: {raw}");
        }
        for want in
            ["https://chat.example.org/…", "smtp://mail.example.org:25", "/bin/tell", "hmac-sha256 in ", "header X-Own"]
        {
            assert!(masked.contains(want), "{want}: {masked}");
        }
        let own = source(config.source("own").unwrap());
        assert_eq!((&own["keys"], &own["older"]), (&json!(["header X-Own", "path"]), &json!("drop")));
        assert_eq!(own["preset"], Value::Null);
    }
}
