//! What the processes note for each other: small values by name, and which sources and feeds are switched off.
//!
//! Goes in: a name and a value. Comes out: the value. How far a feed is matched, and when a source was last reconciled,
//! are such notes.

use bugfeed_sql::{Tx, Value};

use super::cells::{Columns, text_value};
use super::{Store, StoreError};

/// What can be switched off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Switch {
    /// A source: its events wait.
    Source,
    /// A feed: events that go to it wait.
    Feed,
}

impl Switch {
    const fn as_str(self) -> &'static str {
        match self {
            Switch::Source => "source",
            Switch::Feed => "feed",
        }
    }
}

/// A source or feed that is switched off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SwitchedOff {
    /// Which of the two.
    pub what: Switch,
    /// Its name.
    pub name: String,
    /// Since when.
    pub since_us: i64,
}

impl Store {
    /// Reads a note.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn note(&self, name: &str) -> Result<Option<String>, StoreError> {
        let sql = "SELECT value FROM hooks_notes WHERE name = ?";
        let row = self.reader.fetch(sql, &[text_value(name)]).await?.pop();
        row.map(|row| Columns::of(row).text()).transpose()
    }

    /// Writes a note. The name has at most 100 characters, the value at most 1,000.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn set_note(&self, name: &str, value: &str) -> Result<(), StoreError> {
        let mut tx = self.db.begin().await?;
        write(&mut tx, name, value).await?;
        Ok(tx.commit().await?)
    }

    /// Changes a note if it still has this value; `None`: there is none. Returns whether it had, so that of several
    /// processes that do so at once one succeeds.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn change_note(&self, name: &str, from: Option<&str>, to: Option<&str>) -> Result<bool, StoreError> {
        let changed = match (from, to) {
            (None, None) => 0,
            (None, Some(to)) => {
                let into = self.db.dialect().insert_or_ignore("hooks_notes (name, value) VALUES (?, ?)");
                self.db.execute(&into, &[text_value(name), text_value(to)]).await?
            }
            (Some(from), Some(to)) => {
                let sql = "UPDATE hooks_notes SET value = ? WHERE name = ? AND value = ?";
                self.db.execute(sql, &[text_value(to), text_value(name), text_value(from)]).await?
            }
            (Some(from), None) => {
                let sql = "DELETE FROM hooks_notes WHERE name = ? AND value = ?";
                self.db.execute(sql, &[text_value(name), text_value(from)]).await?
            }
        };
        Ok(changed == 1)
    }

    /// The notes whose names begin like this, at most 1,000, in no certain order. The beginning has no `%` and no `_`.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn notes_like(&self, beginning: &str) -> Result<Vec<(String, String)>, StoreError> {
        let sql = "SELECT name, value FROM hooks_notes WHERE name LIKE ? LIMIT 1000";
        let rows = self.reader.fetch(sql, &[Value::Text(format!("{beginning}%"))]).await?;
        let read = |row| {
            let mut row = Columns::of(row);
            Ok((row.text()?, row.text()?))
        };
        rows.into_iter().map(read).collect()
    }

    /// Switches a source or a feed off or on. Events that wait are moved by the workers, and when it is switched on
    /// again, by an order for each.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn set_switch(&self, what: Switch, name: &str, off_since_us: Option<i64>) -> Result<(), StoreError> {
        let args = [Value::Text(what.as_str().to_owned()), text_value(name)];
        match off_since_us {
            None => {
                self.db.execute("DELETE FROM hooks_switches WHERE what = ? AND name = ?", &args).await?;
            }
            Some(since_us) => {
                let into = "hooks_switches (what, name, since_us) VALUES (?, ?, ?)";
                let [what, name] = args;
                self.db.execute(&self.db.dialect().insert_or_ignore(into), &[what, name, Value::Int(since_us)]).await?;
            }
        }
        Ok(())
    }

    /// What is switched off.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn switched_off(&self) -> Result<Vec<SwitchedOff>, StoreError> {
        let rows =
            self.reader.fetch("SELECT what, name, since_us FROM hooks_switches ORDER BY what, name", &[]).await?;
        let read = |row| {
            let mut row = Columns::of(row);
            let what = if row.text()? == "feed" { Switch::Feed } else { Switch::Source };
            Ok(SwitchedOff { what, name: row.text()?, since_us: row.int()? })
        };
        rows.into_iter().map(read).collect()
    }
}

/// Reads a note, in the caller's transaction.
pub(super) async fn read(tx: &mut Tx, name: &str) -> Result<Option<String>, StoreError> {
    let row = tx.fetch("SELECT value FROM hooks_notes WHERE name = ?", &[text_value(name)]).await?.pop();
    row.map(|row| Columns::of(row).text()).transpose()
}

/// Writes a note, in the caller's transaction.
pub(super) async fn write(tx: &mut Tx, name: &str, value: &str) -> Result<(), StoreError> {
    let args = [text_value(value), text_value(name)];
    if tx.execute("UPDATE hooks_notes SET value = ? WHERE name = ?", &args).await? == 0 {
        let [value, name] = args;
        tx.execute("INSERT INTO hooks_notes (name, value) VALUES (?, ?)", &[name, value]).await?;
    }
    Ok(())
}
