//! Statements on one connection: parameters, decoding, time limits.

use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, ColumnIndex, Decode, Postgres, Row, Type, ValueRef as _};

use super::{ANSWER_TIMEOUT, Conn, Dialect, Does, Fault, Flavour, Inner, SqlError, Value};

/// Runs the same code for whichever driver this connection has.
macro_rules! each {
    ($inner:expr, $conn:ident => $body:expr) => {
        match $inner {
            Inner::MySql($conn) => $body,
            Inner::Postgres($conn) => $body,
            Inner::Sqlite($conn) => $body,
        }
    };
}

macro_rules! bound {
    ($sql:expr, $args:expr) => {{
        // Statements with many parameters come in many lengths: caching them would only evict the useful ones.
        let mut query = sqlx::query(AssertSqlSafe($sql)).persistent($args.len() < 16);
        for arg in $args {
            query = match arg {
                Value::Int(int) => query.bind(*int),
                Value::Text(text) => query.bind(text.clone()),
                Value::Null => query.bind(None::<String>),
            };
        }
        query
    }};
}

impl Conn {
    /// Runs one statement, within a transaction or as one of its own; returns the number of rows it matched.
    pub(crate) async fn execute(&mut self, sql: &str, args: &[Value], inside: bool) -> Result<u64, SqlError> {
        if self.settings.dialect == Dialect::Sqlite && !args.is_empty() {
            let answer = async {
                let Inner::Sqlite(conn) = open(&mut self.inner) else { return Ok(0) };
                Ok(bound!(sql.to_owned(), args).execute(&mut **conn).await?.rows_affected())
            };
            return within(&self.place, answer).await;
        }
        let done = self.raw(self.text(sql, args, inside, Does::Write)).await;
        if let (Err(e), Some(set_back)) = (&done, self.settings.set_back(Does::Write))
            && e.fault != Fault::Away
        {
            self.raw(set_back.to_owned()).await?;
        }
        done
    }

    /// Reads rows.
    pub(crate) async fn fetch(&mut self, sql: &str, args: &[Value], inside: bool) -> Result<Vec<Vec<Value>>, SqlError> {
        let text = self.text(sql, args, inside, Does::Read);
        let answer = async {
            match open(&mut self.inner) {
                Inner::MySql(conn) => {
                    let rows = sqlx::raw_sql(AssertSqlSafe(text)).fetch_all(&mut **conn).await?;
                    rows.iter().map(values).collect()
                }
                Inner::Postgres(conn) => {
                    let rows = sqlx::raw_sql(AssertSqlSafe(text)).fetch_all(&mut **conn).await?;
                    rows.iter().map(|row| (0..row.len()).map(|index| text_value(row, index)).collect()).collect()
                }
                Inner::Sqlite(conn) => {
                    let rows = bound!(sql.to_owned(), args).fetch_all(&mut **conn).await?;
                    rows.iter().map(values).collect()
                }
            }
        };
        within(&self.place, answer).await
    }

    /// Runs statements without parameters as plain text; returns the number of rows they matched.
    pub(crate) async fn raw(&mut self, sql: String) -> Result<u64, SqlError> {
        let answer = async {
            Ok(each!(open(&mut self.inner), conn => {
                sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut **conn).await?.rows_affected()
            }))
        };
        within(&self.place, answer).await
    }

    fn text(&self, sql: &str, args: &[Value], inside: bool, does: Does) -> String {
        let sql = if args.is_empty() { sql } else { &self.settings.with(sql, args) };
        if inside { self.settings.inside(sql, does) } else { self.settings.alone(sql, does) }
    }

    /// Which server this is, of those that speak the MySQL protocol.
    pub(crate) async fn flavour(&mut self) -> Result<Flavour, SqlError> {
        let answer = async {
            let Inner::MySql(conn) = open(&mut self.inner) else { return Ok(Vec::new()) };
            let rows = sqlx::raw_sql(AssertSqlSafe("SELECT VERSION()")).fetch_all(&mut **conn).await?;
            rows.iter().map(values).collect::<Result<Vec<Vec<Value>>, _>>()
        };
        let mut rows = within(&self.place, answer).await?;
        let version = rows.pop().and_then(|mut row| row.pop()).and_then(Value::into_text).unwrap_or_default();
        Ok(if version.contains("MariaDB") { Flavour::MariaDb } else { Flavour::Oracle })
    }

    /// Returns the connection to the pool, unless what was done with it leaves its state in doubt, or it may lead to the
    /// wrong server.
    pub(crate) fn give_back<T>(mut self, done: Result<T, SqlError>) -> Result<T, SqlError> {
        match done.as_ref().err().map(|e| e.fault) {
            None | Some(Fault::Locked | Fault::Refused | Fault::Duplicate) => drop(self.inner.take()),
            // Others in the pool lead there too.
            Some(Fault::Moved) => self.stale.now(),
            Some(_) => {}
        }
        done
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        if let Some(inner) = self.inner.take() {
            each!(inner, conn => drop(conn.detach()));
        }
    }
}

fn open(inner: &mut Option<Inner>) -> &mut Inner {
    inner.as_mut().expect("only give_back and drop take it, and both end the connection's use")
}

async fn within<T>(place: &str, answer: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, SqlError> {
    match tokio::time::timeout(ANSWER_TIMEOUT, answer).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(e)) => Err(SqlError::new(place, &e)),
        Err(_) => Err(SqlError::timeout(place)),
    }
}

fn values<R>(row: &R) -> Result<Vec<Value>, sqlx::Error>
where
    R: Row,
    usize: ColumnIndex<R>,
    for<'r> i64: Decode<'r, R::Database> + Type<R::Database>,
    for<'r> String: Decode<'r, R::Database> + Type<R::Database>,
    for<'r> &'r [u8]: Decode<'r, R::Database>,
{
    (0..row.len()).map(|index| value(row, index)).collect()
}

fn value<R>(row: &R, index: usize) -> Result<Value, sqlx::Error>
where
    R: Row,
    usize: ColumnIndex<R>,
    for<'r> i64: Decode<'r, R::Database> + Type<R::Database>,
    for<'r> String: Decode<'r, R::Database> + Type<R::Database>,
    for<'r> &'r [u8]: Decode<'r, R::Database>,
{
    let raw = row.try_get_raw(index)?;
    if raw.is_null() {
        return Ok(Value::Null);
    }
    let is_int = <i64 as Type<R::Database>>::compatible(&raw.type_info());
    let decode = |source| sqlx::Error::ColumnDecode { index: index.to_string(), source };
    if is_int {
        return <i64 as Decode<'_, R::Database>>::decode(raw).map(Value::Int).map_err(decode);
    }
    // Whatever is not UTF-8 is read as well as it can be: one such text must not hide the other rows.
    let bytes = <&[u8] as Decode<'_, R::Database>>::decode(raw).map_err(decode)?;
    Ok(Value::Text(String::from_utf8_lossy(bytes).into_owned()))
}

/// A column of PostgreSQL's text format.
fn text_value(row: &PgRow, index: usize) -> Result<Value, sqlx::Error> {
    let raw = row.try_get_raw(index)?;
    if raw.is_null() {
        return Ok(Value::Null);
    }
    let decode = |source| sqlx::Error::ColumnDecode { index: index.to_string(), source };
    if <i64 as Type<Postgres>>::compatible(&raw.type_info()) {
        return <i64 as Decode<'_, Postgres>>::decode(raw).map(Value::Int).map_err(decode);
    }
    Ok(Value::Text(String::from_utf8_lossy(raw.as_bytes().map_err(decode)?).into_owned()))
}
