//! Stores cursors in the background, one at a time, always the newest one. In: cursors. Out: the result of each
//! attempt. Never blocks the task that receives, never stores the same cursor twice in a row.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::task::JoinHandle;

use crate::store::Store;

type Shared = Arc<Mutex<Box<dyn Store>>>;

/// Stores the cursor of one feed; without a store it does nothing.
pub(crate) struct CursorSaver {
    store: Option<Shared>,
    saved: Option<String>,
    saving: Option<(String, JoinHandle<io::Result<()>>)>,
    /// The cursor that could not be stored, until a newer one is to be stored.
    unsaved: Option<String>,
}

impl CursorSaver {
    pub(crate) fn new(store: Option<Box<dyn Store>>) -> CursorSaver {
        CursorSaver { store: store.map(|store| Arc::new(Mutex::new(store))), saved: None, saving: None, unsaved: None }
    }

    /// The cursor of the last run.
    pub(crate) async fn load(&mut self) -> io::Result<Option<String>> {
        let Some(store) = self.store.clone() else { return Ok(None) };
        let loaded = tokio::task::spawn_blocking(move || lock(&store).load()).await;
        self.saved = loaded.map_err(io::Error::other)??;
        Ok(self.saved.clone())
    }

    /// Whether no cursor is being stored, so that [`CursorSaver::save`] may be called.
    pub(crate) fn is_idle(&self) -> bool {
        self.saving.is_none()
    }

    /// Begins to store a cursor. Call it only while [`CursorSaver::is_idle`] holds.
    pub(crate) fn save(&mut self, cursor: String) {
        let Some(store) = self.store.clone() else { return };
        self.unsaved = None;
        if self.saved.as_ref() == Some(&cursor) {
            return;
        }
        let text = cursor.clone();
        let saving = tokio::task::spawn_blocking(move || lock(&store).save(&text));
        self.saving = Some((cursor, saving));
    }

    /// Takes the cursor that could not be stored, for a last attempt.
    pub(crate) fn take_unsaved(&mut self) -> Option<String> {
        self.unsaved.take()
    }

    /// Waits for the result of the attempt that was begun; waits for ever if there is none. The future may be dropped
    /// and the function called again.
    pub(crate) async fn saved(&mut self) -> io::Result<()> {
        let Some((_, saving)) = &mut self.saving else { return std::future::pending().await };
        let outcome = saving.await.unwrap_or_else(|panicked| Err(io::Error::other(panicked)));
        let cursor = self.saving.take().map(|(cursor, _)| cursor);
        match &outcome {
            Ok(()) => self.saved = cursor,
            Err(_) => self.unsaved = cursor,
        }
        outcome
    }
}

fn lock(store: &Shared) -> std::sync::MutexGuard<'_, Box<dyn Store>> {
    store.lock().unwrap_or_else(PoisonError::into_inner)
}
