//! A pool of connections to one database, of any kind: statements and transactions, each within a time limit.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::driver::{Answer, Pool, Session, Stale, Statement};
use crate::error::{Advice, no_advice};
use crate::{ANSWER_TIMEOUT, CONNECT_TIMEOUT, DbUrl, Dialect, Fault, SqlError, Use, Value};

/// How long a connection is used again and again before it goes back to the pool, which tests it twice each time: when it is
/// given back, and before it is given out again. Each test is a way to the database and back.
const KEPT_FOR: Duration = Duration::from_secs(1);

/// A small pool of connections to one database.
#[derive(Clone, Debug)]
pub struct Db {
    dialect: &'static dyn Dialect,
    place: Place,
    purpose: Use,
    stale: Stale,
    kept: Arc<Mutex<Kept>>,
}

/// The connection that was used last, kept beside the pool.
#[derive(Default)]
struct Kept {
    /// The connection, and when it was taken from the pool.
    session: Option<(Box<dyn Session>, Instant)>,
    /// So many wait for the pool to give them one. Nothing is kept from them.
    waiting: usize,
    /// The pool is being closed.
    closed: bool,
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kept")
            .field("session", &self.session.is_some())
            .field("waiting", &self.waiting)
            .finish_non_exhaustive()
    }
}

impl Drop for Kept {
    /// Closes the connection. To give it back takes a runtime, and there may be none any more.
    fn drop(&mut self) {
        if let Some((session, _)) = self.session.take() {
            session.detach();
        }
    }
}

/// One that waits for the pool.
struct Waiting<'a>(&'a Mutex<Kept>);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        lock(self.0).waiting -= 1;
    }
}

fn lock(kept: &Mutex<Kept>) -> MutexGuard<'_, Kept> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where statements go, and what is said when they fail.
#[derive(Clone, Debug)]
struct Place {
    /// The database's address without a password.
    name: String,
    pool: Arc<dyn Pool>,
    advice: Advice,
}

impl Place {
    fn failed(&self, error: &sqlx::Error) -> SqlError {
        self.advised(SqlError::new(&self.name, error, |inner| self.pool.fault(inner)))
    }

    fn timeout(&self) -> SqlError {
        let message = format!("no answer within {} s", ANSWER_TIMEOUT.as_secs());
        self.advised(SqlError::stated(Fault::Away, &self.name, message))
    }

    fn advised(&self, error: SqlError) -> SqlError {
        error.advised(self.advice)
    }

    async fn within<T>(&self, answer: Answer<'_, T>) -> Result<T, SqlError> {
        match tokio::time::timeout(ANSWER_TIMEOUT, answer).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(e)) => Err(self.failed(&e)),
            Err(_) => Err(self.timeout()),
        }
    }
}

impl Db {
    /// Prepares a pool; connects at first use. Where the URL leaves open whether the right server answers, a warning is logged.
    pub fn new(url: &DbUrl, purpose: Use) -> Db {
        #[cfg(any(feature = "mysql", feature = "postgres"))]
        if let Some(note) = url.note() {
            note.say(&url.shown);
        }
        let stale = Stale::default();
        let pool = url.address.open(purpose, &stale);
        Db::over(pool, url, purpose, stale)
    }

    pub(crate) fn over(pool: Arc<dyn Pool>, url: &DbUrl, purpose: Use, stale: Stale) -> Db {
        let place = Place { name: url.to_string(), pool, advice: no_advice };
        Db { dialect: url.dialect(), place, purpose, stale, kept: Arc::default() }
    }

    /// Adds advice to its errors that fits what this database is used for.
    #[must_use]
    pub fn advising(mut self, advice: Advice) -> Db {
        self.place.advice = advice;
        self
    }

    /// Its SQL dialect.
    pub fn dialect(&self) -> &'static dyn Dialect {
        self.dialect
    }

    /// The database's address without a password, for messages.
    pub fn place(&self) -> &str {
        &self.place.name
    }

    /// Checks that the file of the database is still the one that was opened; asks nothing of a server.
    ///
    /// # Errors
    /// If the file is gone, or was replaced by another one. For the source, the second is an error only once: from then
    /// on the new file is used.
    pub fn look_at_file(&self) -> Result<(), SqlError> {
        let looked = self.place.pool.look(&self.place.name, matches!(self.purpose, Use::Source));
        looked.map_err(|error| {
            self.stale.invalidate_all();
            self.place.advised(error)
        })
    }

    /// From now on uses the file that has the name of the database now.
    pub fn follow_file(&self) {
        // The caller knows already that the file was replaced.
        let _ = self.place.pool.look(&self.place.name, true);
        self.stale.invalidate_all();
    }

    /// Whether the file of the database was replaced since this was last asked.
    pub fn take_replaced(&self) -> bool {
        self.place.pool.take_replaced()
    }

    /// Takes a connection.
    pub(crate) async fn connection(&self) -> Result<Conn, SqlError> {
        self.look_at_file()?;
        let pool = &self.place.pool;
        let conn = |session, taken_at| Conn {
            session: Some(session),
            place: self.place.clone(),
            stale: self.stale.clone(),
            kept: Arc::clone(&self.kept),
            taken_at,
        };
        let waiting = {
            let mut kept = lock(&self.kept);
            if let Some((session, taken_at)) = kept.session.take()
                && taken_at.elapsed() < KEPT_FOR
                && !self.stale.forbids(taken_at)
            {
                return Ok(conn(session, taken_at));
            }
            kept.waiting += 1;
            Waiting(&self.kept)
        };
        // The pool's own timeout does not cover a server that accepts the connection and then says nothing.
        let session = match tokio::time::timeout(2 * CONNECT_TIMEOUT, pool.connect()).await {
            Ok(Ok(session)) => session,
            Ok(Err(e)) => {
                let refused = pool.refused(&self.place.name).map(|error| self.place.advised(error));
                return Err(refused.unwrap_or_else(|| self.place.failed(&e)));
            }
            Err(_) => return Err(self.place.timeout()),
        };
        drop(waiting);
        pool.opened();
        let mut conn = conn(session, Instant::now());
        let prepared = open(&mut conn.session).prepare();
        conn.place.within(prepared).await?;
        Ok(conn)
    }

    /// Runs one statement on a connection of its own; returns the number of rows it matched.
    ///
    /// # Errors
    /// When the database is away, refuses, or does not answer in time.
    pub async fn execute(&self, sql: &str, args: &[Value]) -> Result<u64, SqlError> {
        let mut conn = self.connection().await?;
        let done = conn.execute(sql, args, false).await;
        conn.give_back(done)
    }

    /// Reads rows on a connection of its own.
    ///
    /// # Errors
    /// When the database is away, refuses, or does not answer in time.
    pub async fn fetch(&self, sql: &str, args: &[Value]) -> Result<Vec<Vec<Value>>, SqlError> {
        let mut conn = self.connection().await?;
        let done = conn.fetch(sql, args, false).await;
        conn.give_back(done)
    }

    /// Reads the rows of several statements, one after the other, on the same connection. So all are answered by the
    /// same server, even if there are several behind the address.
    ///
    /// # Errors
    /// When the database is away, refuses one of them, or does not answer in time.
    pub async fn fetch_together(&self, statements: &[&str]) -> Result<Vec<Vec<Vec<Value>>>, SqlError> {
        let mut conn = self.connection().await?;
        let mut all = Vec::with_capacity(statements.len());
        for sql in statements {
            match conn.fetch(sql, &[], false).await {
                Ok(rows) => all.push(rows),
                Err(error) => return conn.give_back(Err(error)),
            }
        }
        conn.give_back(Ok(all))
    }

    /// Begins a transaction.
    ///
    /// # Errors
    /// When the database is away, refuses, or does not answer in time.
    pub async fn begin(&self) -> Result<Tx, SqlError> {
        let mut conn = self.connection().await?;
        let begin = open(&mut conn.session).begin();
        match conn.run(begin).await {
            Ok(_) => Ok(Tx { conn }),
            Err(e) => conn.give_back(Err(e)),
        }
    }

    /// Closes every connection.
    pub async fn close(&self) {
        {
            let mut kept = lock(&self.kept);
            (kept.session, kept.closed) = (None, true);
        }
        // This is only polite: a connection that does not close in time is closed by the end of the process.
        let _ = tokio::time::timeout(Duration::from_secs(2), self.place.pool.close()).await;
    }
}

/// A transaction. Dropping it without [`Tx::commit`] closes its connection, which rolls it back.
pub struct Tx {
    conn: Conn,
}

impl Tx {
    /// Runs a statement; returns the number of rows it matched.
    ///
    /// # Errors
    /// When the database is away, refuses, or does not answer in time.
    pub async fn execute(&mut self, sql: &str, args: &[Value]) -> Result<u64, SqlError> {
        self.conn.execute(sql, args, true).await
    }

    /// The same for a text that will be sent again and again with other parameters. Where
    /// [`Dialect::keeps_statements`] says so, it is translated once.
    ///
    /// # Errors
    /// When the database is away, refuses, or does not answer in time.
    pub async fn execute_kept(&mut self, sql: &str, args: &[Value]) -> Result<u64, SqlError> {
        self.conn.send(Statement { sql, args, inside: true, kept: true }).await
    }

    /// Reads rows.
    ///
    /// # Errors
    /// When the database is away, refuses, or does not answer in time.
    pub async fn fetch(&mut self, sql: &str, args: &[Value]) -> Result<Vec<Vec<Value>>, SqlError> {
        self.conn.fetch(sql, args, true).await
    }

    /// Commits.
    ///
    /// # Errors
    /// On any error it is unknown whether the commit happened.
    pub async fn commit(mut self) -> Result<(), SqlError> {
        self.conn.run("COMMIT".to_owned()).await?;
        self.conn.give_back(Ok(()))
    }
}

/// A connection. If it is dropped in the middle of something (a cancelled task, a timeout), it is closed; only
/// [`Conn::give_back`] keeps it, or returns it to the pool.
pub(crate) struct Conn {
    session: Option<Box<dyn Session>>,
    place: Place,
    stale: Stale,
    kept: Arc<Mutex<Kept>>,
    /// When it was taken from the pool.
    taken_at: Instant,
}

impl Conn {
    /// Runs one statement, within a transaction or as one of its own; returns the number of rows it matched.
    pub(crate) async fn execute(&mut self, sql: &str, args: &[Value], inside: bool) -> Result<u64, SqlError> {
        self.send(Statement { sql, args, inside, kept: false }).await
    }

    async fn send(&mut self, statement: Statement<'_>) -> Result<u64, SqlError> {
        let answer = open(&mut self.session).execute(statement);
        let done = self.place.within(answer).await;
        if let (Err(e), Some(restore)) = (&done, open(&mut self.session).restore_settings())
            && e.fault != Fault::Away
        {
            self.run(restore.to_owned()).await?;
        }
        done
    }

    /// Reads rows.
    pub(crate) async fn fetch(&mut self, sql: &str, args: &[Value], inside: bool) -> Result<Vec<Vec<Value>>, SqlError> {
        let answer = open(&mut self.session).fetch(Statement { sql, args, inside, kept: false });
        self.place.within(answer).await
    }

    /// Runs a text as it is; returns the number of rows it matched.
    async fn run(&mut self, text: String) -> Result<u64, SqlError> {
        let answer = open(&mut self.session).run(text);
        self.place.within(answer).await
    }

    /// Keeps the connection, or returns it to the pool, unless its state is in doubt after what was done with it, or it
    /// may lead to the wrong server.
    pub(crate) fn give_back<T>(mut self, done: Result<T, SqlError>) -> Result<T, SqlError> {
        match done.as_ref().err().map(|e| e.fault) {
            None => self.keep(),
            Some(Fault::Locked | Fault::Refused | Fault::Duplicate) => drop(self.session.take()),
            // The other connections of the pool may lead to that server too.
            Some(Fault::Moved) => self.stale.invalidate_all(),
            Some(_) => {}
        }
        done
    }

    /// Keeps the connection for the next use. It goes back to the pool where somebody waits for one, another one is kept
    /// already, or it was long enough away from there.
    fn keep(&mut self) {
        let mut kept = lock(&self.kept);
        let free = kept.waiting == 0 && kept.session.is_none() && !kept.closed;
        if free && self.taken_at.elapsed() < KEPT_FOR {
            kept.session = self.session.take().map(|session| (session, self.taken_at));
        } else {
            drop(self.session.take());
        }
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            session.detach();
        }
    }
}

fn open(session: &mut Option<Box<dyn Session>>) -> &mut dyn Session {
    session.as_mut().expect("only give_back and drop take it, and both end the connection's use").as_mut()
}

#[cfg(all(test, feature = "sqlite"))]
mod tests;
