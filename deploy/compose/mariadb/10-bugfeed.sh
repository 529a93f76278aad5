# Sourced by the entry point of the MariaDB image when the database is made. Three users, each with no more than it needs; their
# passwords are in files. The tracker's table is here because this example has no tracker of its own.

secret() { cat "${BUGFEED_SECRETS:-/run/secrets}/mariadb-$1"; }

docker_process_sql <<SQL
CREATE DATABASE bugs;
CREATE TABLE bugs.push_notify (
    id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    bug_id BIGINT NOT NULL,
    delta_ts DATETIME NOT NULL
) ENGINE = InnoDB;
CREATE DATABASE ledger;
CREATE DATABASE hooks;

-- Reads and deletes rows of the change table; gives numbers in the ledger.
CREATE USER 'bugfeed-shim'@'%' IDENTIFIED BY '$(secret shim)';
GRANT SELECT, DELETE ON bugs.push_notify TO 'bugfeed-shim'@'%';
GRANT CREATE, ALTER, INDEX, SELECT, INSERT, UPDATE, DELETE ON ledger.* TO 'bugfeed-shim'@'%';

-- Events of webhooks, their change tables and ledgers.
CREATE USER 'bugfeed-hooks'@'%' IDENTIFIED BY '$(secret hooks)';
GRANT CREATE, INDEX, SELECT, INSERT, UPDATE, DELETE ON hooks.* TO 'bugfeed-hooks'@'%';

-- What the tracker may do, and what tells of a change by hand.
CREATE USER 'tracker'@'%' IDENTIFIED BY '$(secret tracker)';
GRANT SELECT, INSERT ON bugs.push_notify TO 'tracker'@'%';
SQL
