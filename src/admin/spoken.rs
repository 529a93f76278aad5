//! Refusals of the API in the language of the command line.
//!
//! Goes in: a refusal that names members of JSON. Comes out: the same with the options of `bugfeed endpoints`. What is not
//! known here stays as it is.

use bugfeed_hooks::api::client::CallError;

use super::AdminError;

/// Members of JSON, and the options that say the same.
const OPTIONS: [(&str, &str); 13] = [
    ("url", "--url"),
    ("bugs", "--bugs"),
    ("bug", "--bug"),
    ("feeds", "--feed"),
    ("feed", "--feed"),
    ("policy", "--policy"),
    ("rate", "--rate"),
    ("template", "--template"),
    ("headers", "--header"),
    ("description", "--description"),
    ("secret", "--secret-file"),
    ("cursor", "--cursor"),
    ("since", "--since"),
];

/// Pieces of JSON in advice, and what is written on a command line instead. Longer ones stand before their parts.
const ADVICE: [(&str, &str); 13] = [
    ("add \"bugs\": [1234, 5678], or \"bugs\": \"all\"", "add --bugs 1234,5678, or --bugs all"),
    (
        "write \"all\", or a list of whole numbers from 1 on, such as [1234, 5678]",
        "write --bugs all, or whole numbers from 1 on with commas between them: --bugs 1234,5678",
    ),
    ("add \"url\": where changes are POSTed to, as https://example.org/hook", "add --url https://example.org/hook"),
    ("write \"all\", or some of: ", "write --all-feeds, or --feed with one of: "),
    ("name at most 10000, write \"all\"", "name at most 10000, write --bugs all"),
    (
        "send it as a header: \"headers\": {\"Authorization\": \"…\"}",
        "send it as a header: --header 'Authorization: …'",
    ),
    ("write {\"X-Api-Key\": \"…\"}: names", "write --header 'X-Api-Key: …': names"),
    (", or null for no limit", "; `endpoints change ID --no-rate` takes the limit away"),
    ("; or write a JSON object such as {", "; or write a JSON object such as '{"),
    (
        "leave it out, and one is made; or write whsec_",
        "leave --secret-file out, and one is made; or have in the file whsec_",
    ),
    ("add \"feed\"; its feeds are", "add --feed NAME; its feeds are"),
    ("give exactly one of \"cursor\" and \"since\"", "give exactly one of --cursor and --since"),
    ("the value of a header is a text; null takes the header away", "write --header 'NAME: VALUE'"),
];

/// An error of a command about endpoints.
pub(super) fn spoken(error: AdminError) -> AdminError {
    match error {
        AdminError::Call(CallError::Refused { status, error, fix }) => {
            AdminError::Call(CallError::Refused { status, error: option(&error), fix: advice(&fix) })
        }
        other => other,
    }
}

/// The member at the beginning, as an option.
fn option(error: &str) -> String {
    let named = error.split_once(": ").and_then(|(member, rest)| {
        let option = OPTIONS.iter().find(|(name, _)| *name == member)?.1;
        Some(format!("{option}: {rest}"))
    });
    named.unwrap_or_else(|| error.to_owned())
}

fn advice(fix: &str) -> String {
    let told = ADVICE.iter().fold(fix.to_owned(), |told, (json, spoken)| told.replace(json, spoken));
    if told.ends_with('}') && told.contains("such as '{") { format!("{told}'") } else { told }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_options() {
        assert_eq!(option("bugs: 'x' is wrong"), "--bugs: 'x' is wrong");
        assert_eq!(option("headers: host cannot be set"), "--header: host cannot be set");
        assert_eq!(option("there is no endpoint x"), "there is no endpoint x");
        let fix = "the names are slack; or write a JSON object such as {\"text\": \"Bug {bug}: {url}\"}";
        assert_eq!(
            advice(fix),
            "the names are slack; or write a JSON object such as '{\"text\": \"Bug {bug}: {url}\"}'"
        );
        assert_eq!(
            advice("write \"all\", or some of: default, kde"),
            "write --all-feeds, or --feed with one of: default, kde"
        );
    }
}
