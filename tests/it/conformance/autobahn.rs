//! The fuzzing client of Autobahn|Testsuite itself, where it is installed: `BUGFEED_TEST_AUTOBAHN` names the Python 2.7 that
//! has it. `tests/autobahn/fuzz.py` says more. Its cases are in this folder, too, and need nothing.

use std::path::Path;
use std::time::Duration;

use bugfeed_testbed::Run;

use crate::support::Serve;

#[tokio::test]
async fn the_suite_itself_agrees() {
    let Ok(python) = std::env::var("BUGFEED_TEST_AUTOBAHN") else {
        println!("skipped: BUGFEED_TEST_AUTOBAHN names no Python 2.7 with autobahntestsuite");
        return;
    };
    let serve = Serve::start(&[]).await;
    let reports = tempfile::tempdir().unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/autobahn/fuzz.py");
    let args = [script.display().to_string(), serve.url(), reports.path().display().to_string()];
    let said = Run::new(python).args(args).succeeds(Duration::from_secs(300)).await.unwrap();
    assert!(said.contains(" 0 did not pass"), "{said}");
}
