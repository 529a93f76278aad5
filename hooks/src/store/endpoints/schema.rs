//! The tables of endpoints.
//!
//! | column of `hooks_endpoints` | meaning | index |
//! |---|---|---|
//! | `part` | the partition, from the identifier | with `id`: for who takes it over |
//! | `created_us` | | with `id`: the list, newest first |
//! | `mark` | what the counter said when people changed it last | itself: what was changed since |
//! | `version`, `term`, `effect` | compare-and-set, and up to which effect of which holder the row includes | |
//! | `disabled` | whether it is disabled, for whatever reason; follows from counters and policy | |
//! | `progress` | lines, wishes, generations, as JSON with a version of its form | |
//! | `feeds` | names as JSON; NULL: all | |
//! | `bugs` | `,1,2,3,`; NULL: all | |
//! | `secrets`, `headers` | as JSON | |
//!
//! An attempt's `bytes` count what the bound of all attempts counts.

use bugfeed_core::endpoints::partitions::PARTITIONS;
use bugfeed_sql::Dialect;

use super::leases::lease_name;
use crate::store::schema::{index, table};

/// The statements of the migration that brings endpoints.
pub(in crate::store) fn tables(dialect: &dyn Dialect) -> Vec<String> {
    let mut statements = endpoints(dialect);
    statements.extend(attempts(dialect));
    statements.push(table(dialect, "counters", "name VARCHAR(64) NOT NULL PRIMARY KEY, value BIGINT NOT NULL"));
    statements.push(dialect.insert_or_ignore("hooks_counters (name, value) VALUES ('endpoints', 0)"));
    let leases: Vec<String> =
        (0..PARTITIONS).map(|partition| format!("('{}', 0, 0, NULL)", lease_name(partition))).collect();
    let into = format!("hooks_leases (name, term, beat, holder) VALUES {}", leases.join(", "));
    statements.push(dialect.insert_or_ignore(&into));
    statements
}

fn endpoints(dialect: &dyn Dialect) -> Vec<String> {
    let long = dialect.long_text_type();
    let columns = format!(
        "id VARCHAR(23) NOT NULL PRIMARY KEY, part SMALLINT NOT NULL, created_us BIGINT NOT NULL, mark BIGINT NOT NULL, \
         version BIGINT NOT NULL, policy SMALLINT NOT NULL, rate BIGINT, paused SMALLINT NOT NULL, deleted SMALLINT NOT \
         NULL, disabled SMALLINT NOT NULL, recent_failures BIGINT NOT NULL, backoff_count BIGINT NOT NULL, \
         disabled_until_us BIGINT, bar SMALLINT, nameless_us BIGINT, again_us BIGINT, term BIGINT NOT NULL, effect \
         BIGINT NOT NULL, progress {long} NOT NULL, url {long} NOT NULL, description {long} NOT NULL, feeds {long}, bugs \
         {long}, secrets {long} NOT NULL, headers {long} NOT NULL, template {long}"
    );
    vec![
        table(dialect, "endpoints", &columns),
        index(dialect, "endpoints_part", "part, id", None),
        index(dialect, "endpoints_created", "created_us, id", None),
        index(dialect, "endpoints_mark", "mark", None),
    ]
}

fn attempts(dialect: &dyn Dialect) -> Vec<String> {
    let long = dialect.long_text_type();
    let columns = format!(
        "id VARCHAR(36) NOT NULL PRIMARY KEY, bytes BIGINT NOT NULL, endpoint VARCHAR(23) NOT NULL, feed VARCHAR(64), \
         cause SMALLINT NOT NULL, begun_us BIGINT NOT NULL, took_us BIGINT NOT NULL, status INTEGER, fault VARCHAR(32), \
         error VARCHAR(1000), webhook_id VARCHAR(200) NOT NULL, counts SMALLINT NOT NULL, content_type VARCHAR(100) NOT \
         NULL, response {long} NOT NULL, request {long} NOT NULL"
    );
    vec![table(dialect, "attempts", &columns), index(dialect, "attempts_endpoint", "endpoint, id", None)]
}
