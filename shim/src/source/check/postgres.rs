//! What the catalogue of PostgreSQL is asked. Everybody may read it.

use super::Catalogue;

pub(super) const CATALOGUE: Catalogue = Catalogue {
    database: "postgres",
    privileges: Some(
        "SELECT p FROM (VALUES ('SELECT'), ('DELETE'), ('INSERT'), ('UPDATE'), ('TRUNCATE'), ('TRIGGER'), ('REFERENCES')) \
         AS asked(p) WHERE has_table_privilege(quote_ident(?), p)",
    ),
    others: Some(
        "SELECT COUNT(*), MIN(c.relname::text) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind IN ('r', 'p') AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema' \
         AND c.relname <> ? AND c.relname NOT LIKE 'bugfeed%' AND has_table_privilege(c.oid, 'SELECT')",
    ),
    triggers: "SELECT t.tgname::text, c.relname::text FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid \
               JOIN pg_proc p ON p.oid = t.tgfoid WHERE NOT t.tgisinternal AND t.tgenabled <> 'D' \
               AND p.prosrc LIKE '%' || ? || '%'",
    no_trigger: "no trigger of this database names the table; where the tracker itself writes the rows, there is none",
    clock: Some("SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) AS BIGINT)"),
    revoke: |more, table| format!("as an administrator: REVOKE {more} ON {table} FROM the user of --source"),
};
