//! The rule for tests whose server is missing. In: what is missing and what to do. Out: one line and a skipped test,
//! or, where nothing may be skipped, a panic. It never skips silently.

/// Prints that a test is skipped, and why. If `BUGFEED_TEST_REQUIRE` is 1, as under `tests/run`, it fails the test
/// instead.
///
/// # Panics
/// When nothing may be skipped.
#[expect(clippy::panic, reason = "the one way to fail a test")]
#[expect(clippy::print_stderr, reason = "this is what a person reads when a test does nothing")]
pub fn skipped(why: &str) {
    if std::env::var_os("BUGFEED_TEST_REQUIRE").is_some_and(|value| value == "1") {
        panic!("BUGFEED_TEST_REQUIRE=1, but {why}");
    }
    eprintln!("skipped: {why}");
}

/// Starts a server, or skips the test where its package is missing.
pub(crate) async fn unless<T>(
    installed: bool,
    package: &str,
    start: impl Future<Output = anyhow::Result<T>>,
) -> Option<T> {
    if !installed {
        skipped(&format!("{package} is not installed; run tests/run, or install the Debian package {package}"));
        return None;
    }
    Some(must(start.await))
}

/// The started server; if the start failed, this fails the test.
#[expect(clippy::panic, reason = "the one way to fail a test")]
pub(crate) fn must<T>(started: anyhow::Result<T>) -> T {
    started.unwrap_or_else(|error| panic!("{error:?}"))
}
