//! What is stored: how far each feed is, the last changes that were taken, and the work that is left. One file, which is
//! replaced in one step, so that a crash leaves the old one or the new one. A busy bot would take a database.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

/// So many of the last changes are known again; a request has at most some 200.
const REMEMBERED: usize = 2_000;

/// What bugfeed sends. Members that are not known are left out.
#[derive(Deserialize)]
pub struct Message {
    pub command: String,
    pub feed: String,
    pub cursor: String,
    bug: Option<u64>,
    when: Option<String>,
    #[serde(default)]
    changes: Vec<Change>,
}

#[derive(Deserialize)]
struct Change {
    bug: u64,
    when: String,
    cursor: Option<String>,
}

/// Something to look at; without a bug, all bugs of the feed.
#[derive(Clone, PartialEq, Deserialize, Serialize)]
pub struct Item {
    pub feed: String,
    pub bug: Option<u64>,
    pub when: String,
    cursor: Option<String>,
}

#[derive(Clone, Default, Deserialize, Serialize)]
struct Content {
    cursors: BTreeMap<String, String>,
    /// The changes that were taken. Those that came late share a cursor, so the date belongs to what tells them apart.
    #[serde(default)]
    known: VecDeque<(String, u64, String, String)>,
    todo: Vec<Item>,
}

pub struct Store {
    path: PathBuf,
    content: Mutex<Content>,
    news: Notify,
}

impl Store {
    pub fn open(path: impl Into<PathBuf>) -> io::Result<Store> {
        let path = path.into();
        let content = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Content::default(),
            Err(error) => return Err(error),
        };
        Ok(Store { path, content: Mutex::new(content), news: Notify::new() })
    }

    /// Takes what a request says. When this returns, it is on the disk.
    pub fn take(&self, message: Message) -> io::Result<()> {
        let Message { command, feed, cursor, bug, when, mut changes } = message;
        match (command.as_str(), bug, when) {
            ("update", Some(bug), Some(when)) => changes = vec![Change { bug, when, cursor: Some(cursor.clone()) }],
            ("updates" | "gap", ..) => {}
            // A test, or something that is newer than this program.
            _ => return Ok(()),
        }
        let mut content = self.lock();
        let mut next = content.clone();
        if command == "gap" {
            next.add(Item { feed: feed.clone(), bug: None, when: String::new(), cursor: None });
        }
        for Change { bug, when, cursor } in changes {
            // A request may come twice, and a change in two requests.
            if let Some(cursor) = &cursor {
                let name = (feed.clone(), bug, when.clone(), cursor.clone());
                if next.known.contains(&name) {
                    continue;
                }
                next.known.push_back(name);
                if next.known.len() > REMEMBERED {
                    next.known.pop_front();
                }
            }
            next.add(Item { feed: feed.clone(), bug: Some(bug), when, cursor });
        }
        next.cursors.insert(feed, cursor);
        self.replace(&mut content, next)
    }

    /// The next work; waits for it.
    pub async fn next(&self) -> Item {
        loop {
            let news = self.news.notified();
            if let Some(item) = self.lock().todo.first() {
                return item.clone();
            }
            news.await;
        }
    }

    /// The work is done. A newer change of the bug, which came meanwhile, is another item, and stays.
    pub fn done(&self, item: &Item) -> io::Result<()> {
        let mut content = self.lock();
        let mut next = content.clone();
        next.todo.retain(|other| other != item);
        self.replace(&mut content, next)
    }

    /// How far each feed is.
    pub fn places(&self) -> BTreeMap<String, String> {
        self.lock().cursors.clone()
    }

    /// On the disk first, then in memory.
    fn replace(&self, content: &mut Content, next: Content) -> io::Result<()> {
        let new = self.path.with_extension("new");
        let mut file = File::create(&new)?;
        file.write_all(&serde_json::to_vec(&next)?)?;
        file.sync_all()?;
        fs::rename(&new, &self.path)?;
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()?;
        *content = next;
        self.news.notify_one();
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Content {
    /// Of a bug, only the newest change is left to be looked at.
    fn add(&mut self, item: Item) {
        self.todo.retain(|known| (&known.feed, known.bug) != (&item.feed, item.bug));
        self.todo.push(item);
    }
}
