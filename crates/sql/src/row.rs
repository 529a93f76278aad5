//! Converts the typed rows of a driver into rows of integers and texts.

// Not used if all databases but PostgreSQL are left out.
#![cfg_attr(not(all(feature = "mysql", feature = "sqlite")), allow(dead_code))]

use sqlx::{ColumnIndex, Decode, Row, Type, ValueRef as _};

use crate::Value;

/// The columns of a row.
pub(crate) fn values<R>(row: &R) -> Result<Vec<Value>, sqlx::Error>
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
    // A text that is not UTF-8 is read with replacement characters, because one such text must not make the other rows
    // unreadable.
    let bytes = <&[u8] as Decode<'_, R::Database>>::decode(raw).map_err(decode)?;
    Ok(Value::Text(String::from_utf8_lossy(bytes).into_owned()))
}
