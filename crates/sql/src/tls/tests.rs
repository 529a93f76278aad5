use super::*;
use crate::DbUrl;

fn note(url: &str) -> Option<LogEvent> {
    url.parse::<DbUrl>().unwrap_or_else(|error| panic!("{url}: {error}")).note().map(|note| note.event)
}

fn error(url: &str) -> String {
    let error = url.parse::<DbUrl>().expect_err(url).to_string();
    assert!(!error.contains("secret"), "{error}");
    error
}

#[test]
fn tls_that_is_asked_for_is_verified() {
    for text in ["ssl-mode=REQUIRED", "sslmode=verify_ca", "ssl-mode=VERIFY_IDENTITY"] {
        let (_, parameters) = Parameters::take("x?tls-verify=full", &crate::mysql::NAMES).unwrap();
        assert_eq!(parameters.tls(Asked::Always, true), Ok(Tls::Required(Verify::Full)), "{text}");
        assert_eq!(note(&format!("mysql://u@db.example.org/x?{text}")), None, "{text}");
    }
    for text in ["sslmode=require", "sslmode=verify-ca", "sslmode=verify-full"] {
        assert_eq!(note(&format!("postgres://u@db.example.org/x?{text}")), None, "{text}");
    }
}

#[test]
fn less_is_verified_only_where_the_url_says_so_and_that_is_logged() {
    for scheme in ["mysql", "mariadb", "postgres"] {
        for (text, event) in [
            ("tls-verify=off", Some(LogEvent::DatabaseUnverified)),
            ("tls-verify=ca", Some(LogEvent::DatabaseUnverified)),
            ("tls-verify=full", None),
        ] {
            for host in ["db.example.org", "127.0.0.1"] {
                assert_eq!(note(&format!("{scheme}://u@{host}/x?{text}")), event, "{scheme} {text}");
            }
        }
    }
}

#[test]
fn a_server_elsewhere_of_which_nothing_is_asked_is_warned_about() {
    let warned = Some(LogEvent::DatabaseTlsOptional);
    for (url, event) in [
        ("mysql://u@db.example.org/x", warned),
        ("postgres://u@10.0.0.1/x", warned),
        ("postgres://u@db.example.org/x?application_name=y", warned),
        ("mysql://u@localhost/x", None),
        ("mysql://u@127.0.0.1/x", None),
        ("postgres://u@[::1]/x", None),
        ("mysql://u@db.example.org/x?socket=/run/mysqld/mysqld.sock", None),
        ("postgres://u@%2Frun%2Fpostgresql/x", None),
        ("mysql://u@db.example.org/x?ssl-mode=PREFERRED", None),
        ("postgres://u@db.example.org/x?sslmode=disable", None),
        ("sqlite://x.db", None),
    ] {
        assert_eq!(note(url), event, "{url}");
    }
}

#[test]
fn parameters_without_effect_or_with_a_wrong_value_are_refused() {
    for (url, want) in [
        ("mysql://u:secret@h/x?ssl-mode=sideways", "ssl-mode is one of DISABLED, PREFERRED, REQUIRED"),
        (
            "mysql://u:secret@h/x?sslMode=REQUIRED",
            "a parameter 'sslMode' that is not known; known are sslmode, ssl-mode",
        ),
        ("mysql://u:secret@h/x?useSSL=true", "'useSSL'"),
        ("postgres://u:secret@h/x?sslmode=verify_full", "sslmode is one of disable, allow, prefer, require"),
        ("postgres://u@h/x?password=a&secret", "there is a parameter that is not known"),
        ("postgres://u:secret@h/x?tls_verify=off", "known are sslmode"),
        ("mysql://u:secret@h/x?tls-verify=no", "tls-verify is full"),
        (
            "mysql://u:secret@h/x?ssl-mode=PREFERRED&tls-verify=full",
            "tls-verify has no effect without TLS: write ssl-mode=REQUIRED",
        ),
        ("postgres://u:secret@h/x?sslmode=disable&tls-verify=off", "write sslmode=require"),
        ("postgres://u:secret@h/x?sslrootcert=/no/such.pem", "the file /no/such.pem cannot be read"),
        ("mysql://u:secret@h/x?ssl-cert=/x.pem", "belong together"),
    ] {
        let error = error(url);
        assert!(error.contains(want), "{url}: {error}");
    }
}

#[test]
fn what_only_this_program_reads_is_kept_from_the_driver() {
    let take = |url| Parameters::take(url, &crate::postgres::NAMES).unwrap().0;
    assert_eq!(take("//h/x?sslmode=require&tls-verify=off&user=a%26b"), "//h/x?sslmode=require&user=a%26b");
    assert_eq!(take("//h/x?tls%2Dverify=off"), "//h/x?");
    assert_eq!(take("//h/x?options[a]=b"), "//h/x?options[a]=b");
    assert_eq!(take("//h/x"), "//h/x");
}

#[test]
fn errors_of_tls_say_what_to_do() {
    let error = sqlx::Error::Tls("server does not support TLS".into());
    assert!(explain(&error).unwrap().0.contains("offers no TLS"));
    assert_eq!(explain(&sqlx::Error::PoolTimedOut), None);
    assert_eq!(explain(&sqlx::Error::Io(std::io::ErrorKind::ConnectionRefused.into())), None);
}
