//! Statements on one connection: binding, decoding, time limits.

use std::borrow::Cow;

use sqlx::{AssertSqlSafe, ColumnIndex, Decode, Row, Type, ValueRef as _};

use super::{ANSWER_TIMEOUT, Conn, Fault, Inner, SqlError, Value};

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
    /// Runs one statement; returns the number of rows it matched. Without parameters it goes as plain text: preparing a
    /// text that never comes again costs a server two round trips and a parse for nothing.
    pub(crate) async fn execute(&mut self, sql: &str, args: &[Value]) -> Result<u64, SqlError> {
        if args.is_empty() {
            return self.raw(sql).await;
        }
        let sql = self.placeholders(sql);
        let answer = async {
            Ok(each!(open(&mut self.inner), conn => {
                bound!(sql.into_owned(), args).execute(&mut **conn).await?.rows_affected()
            }))
        };
        within(&self.place, answer).await
    }

    /// Reads rows.
    pub(crate) async fn fetch(&mut self, sql: &str, args: &[Value]) -> Result<Vec<Vec<Value>>, SqlError> {
        let sql = self.placeholders(sql);
        let answer = async {
            each!(open(&mut self.inner), conn => {
                let rows = bound!(sql.into_owned(), args).fetch_all(&mut **conn).await?;
                rows.iter().map(values).collect()
            })
        };
        within(&self.place, answer).await
    }

    /// Runs statements without parameters as plain text; returns the number of rows they matched.
    pub(crate) async fn raw(&mut self, sql: &str) -> Result<u64, SqlError> {
        let answer = async {
            Ok(each!(open(&mut self.inner), conn => {
                sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut **conn).await?.rows_affected()
            }))
        };
        within(&self.place, answer).await
    }

    /// Returns the connection to the pool, unless what was done with it leaves its state in doubt.
    pub(crate) fn give_back<T>(mut self, done: Result<T, SqlError>) -> Result<T, SqlError> {
        if done.as_ref().err().is_none_or(|e| e.fault != Fault::Away) {
            drop(self.inner.take());
        }
        done
    }

    /// `?` for PostgreSQL is `$1`, `$2`, … . No statement here has a `?` in a text.
    fn placeholders<'a>(&self, sql: &'a str) -> Cow<'a, str> {
        if !matches!(self.inner, Some(Inner::Postgres(_))) || !sql.contains('?') {
            return Cow::Borrowed(sql);
        }
        let mut out = String::with_capacity(sql.len() + 64);
        let mut parts = sql.split('?');
        out.push_str(parts.next().unwrap_or_default());
        for (index, part) in parts.enumerate() {
            out.push('$');
            out.push_str(&(index + 1).to_string());
            out.push_str(part);
        }
        Cow::Owned(out)
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
