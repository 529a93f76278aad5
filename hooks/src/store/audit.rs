//! The audit log: who did what through the API.
//!
//! Goes in: a deed, when it is done. Comes out: pages, newest first. Rows are never changed; old ones go by
//! [`super::retention`].

use bugfeed_sql::{Tx, Value};

use super::cells::{Columns, Rows, text_value};
use super::events::page_size;
use super::row::needed_id;
use super::{Store, StoreError};
use crate::receive::received::RequestId;

/// One deed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deed {
    /// Its identifier, which begins with the time.
    pub id: RequestId,
    /// When.
    pub at_us: i64,
    /// Who: the name of the token, or the session.
    pub who: String,
    /// What, for example `keys.create`. At most 64 characters.
    pub deed: String,
    /// To what. At most 200 characters.
    pub subject: String,
    /// What else is to be known, without secrets.
    pub detail: String,
}

impl Deed {
    /// A deed of this moment.
    pub fn new(at_us: i64, who: &str, deed: &str, subject: &str, detail: String) -> Deed {
        let id = RequestId::new(at_us, rand::random());
        Deed { id, at_us, who: who.to_owned(), deed: deed.to_owned(), subject: subject.to_owned(), detail }
    }
}

const INTO: &str = "hooks_audit (id, at_us, who, deed, subject, detail)";

fn rows(deed: &Deed) -> Rows {
    let mut rows = Rows::default();
    let mut row = rows.row();
    row.text(&deed.id.to_string()).int(deed.at_us).short(&deed.who, 200).short(&deed.deed, 64);
    row.short(&deed.subject, 200).text(&deed.detail);
    rows
}

/// Writes a deed down in the transaction that does it.
pub(super) async fn insert(tx: &mut Tx, deed: &Deed) -> Result<(), StoreError> {
    let rows = rows(deed);
    tx.execute(&rows.insert(INTO), &rows.args).await?;
    Ok(())
}

impl Store {
    /// Writes a deed down.
    ///
    /// # Errors
    /// When the database cannot be written. What is to be audited must then not be done, or be undone.
    pub async fn audit(&self, deed: &Deed) -> Result<(), StoreError> {
        let rows = rows(deed);
        self.db.execute(&rows.insert(INTO), &rows.args).await?;
        Ok(())
    }

    /// The newest deed of this word about this subject.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn last_deed(&self, deed: &str, subject: &str) -> Result<Option<Deed>, StoreError> {
        let sql = "SELECT id, at_us, who, deed, subject, detail FROM hooks_audit WHERE subject = ? AND deed = ? ORDER BY \
                   id DESC LIMIT 1";
        self.reader.fetch(sql, &[text_value(subject), text_value(deed)]).await?.pop().map(read).transpose()
    }

    /// A page of the audit log, at most 1,000, newest first.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn audited(&self, after: Option<RequestId>, limit: usize) -> Result<Vec<Deed>, StoreError> {
        let limit = page_size(limit);
        let (wanted, args) = match after {
            Some(after) => (" WHERE id < ?", vec![Value::Text(after.to_string())]),
            None => ("", Vec::new()),
        };
        let sql = format!(
            "SELECT id, at_us, who, deed, subject, detail FROM hooks_audit{wanted} ORDER BY id DESC LIMIT {limit}"
        );
        self.reader.fetch(&sql, &args).await?.into_iter().map(read).collect()
    }
}

fn read(row: Vec<Value>) -> Result<Deed, StoreError> {
    let mut row = Columns::of(row);
    let id = RequestId(needed_id(&mut row)?.0);
    let (at_us, who, deed) = (row.int()?, row.text()?, row.text()?);
    Ok(Deed { id, at_us, who, deed, subject: row.text()?, detail: row.text()? })
}
