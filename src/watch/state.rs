//! `--state`: keeps how far a bot has got, in a file of JSON: `{"url":"ws://…","bugs":[1234],"cursor":"…"}`, or with
//! `"bugs":"all"`. The address is stored without its secrets.
//!
//! In: cursors, the address, the bugs of this run. Out: the cursor of the last run, and the bugs that the last run did
//! not watch, because the cursor says nothing about those. Never overwrites a file that is not a state file.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use bugfeed_client::{Store, replace_file, shown};
use bugfeed_protocol::BugId;
use bugfeed_protocol::client::WhichBugs;
use serde::{Deserialize, Serialize};

use super::WatchError;

/// The bugs of a run, as the file has them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(untagged)]
enum Bugs {
    All(Word),
    These(Vec<BugId>),
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
enum Word {
    All,
}

impl Bugs {
    fn of(bugs: &WhichBugs) -> Bugs {
        match bugs {
            WhichBugs::All => Bugs::All(Word::All),
            WhichBugs::These(bugs) => {
                let mut bugs = bugs.clone();
                bugs.sort_unstable();
                bugs.dedup();
                Bugs::These(bugs)
            }
        }
    }

    /// Those of these bugs that `before` did not hold.
    fn new_since(&self, before: &Bugs) -> WhichBugs {
        match (self, before) {
            (_, Bugs::All(_)) => WhichBugs::default(),
            (Bugs::All(_), Bugs::These(_)) => WhichBugs::All,
            (Bugs::These(bugs), Bugs::These(before)) => {
                WhichBugs::These(bugs.iter().filter(|bug| !before.contains(bug)).copied().collect())
            }
        }
    }
}

#[derive(Debug, Deserialize, Serialize)]
struct Content {
    url: String,
    bugs: Bugs,
    cursor: Option<String>,
}

/// A state file that can be written.
#[derive(Debug)]
pub(crate) struct StateFile {
    path: PathBuf,
    url: String,
    bugs: Bugs,
    /// The state of the last run, if there was one that has received something.
    before: Option<Content>,
}

impl StateFile {
    /// Reads the state of the last run, if there was one, and makes sure that the file can be written. `url` is the
    /// address without its secrets.
    ///
    /// # Errors
    /// When the file cannot be read or written, or is not a state file.
    pub(crate) fn open(path: &Path, url: &str, bugs: &WhichBugs) -> Result<StateFile, WatchError> {
        let bugs = Bugs::of(bugs);
        let (url, path) = (url.to_owned(), path.to_owned());
        let before = match fs::read(&path) {
            // An empty file (a power cut can cause it) is no fresh start. It becomes a cursor that the gateway answers
            // with a gap.
            Ok(bytes) if bytes.trim_ascii().is_empty() => {
                Some(Content { url: url.clone(), bugs: bugs.clone(), cursor: Some("damaged".to_owned()) })
            }
            Ok(bytes) => {
                let read = serde_json::from_slice(&bytes).map_err(|_| WatchError::StateForeign(path.clone()))?;
                Some(read)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(WatchError::StateRead { path, error }),
        };
        // Without a cursor nothing was received yet, so nothing can be missing.
        let before = before.filter(|content: &Content| content.cursor.is_some());
        let before = before.map(|content| Content { url: shown(&content.url), ..content });
        let file = StateFile { path, url, bugs, before };
        // Writing the same content again shows that the file can be written. The content must not change yet: the old
        // cursor is true for the old bugs only, until the gap of the new ones was told.
        let same = match &file.before {
            Some(Content { url, bugs, cursor }) => {
                file.write(&Content { url: url.clone(), bugs: bugs.clone(), cursor: cursor.clone() })
            }
            None => file.write(&file.content(None)),
        };
        same.map_err(WatchError::StateWrite)?;
        Ok(file)
    }

    /// The address of the last run, if it was another one.
    pub(crate) fn other_url(&self) -> Option<&str> {
        self.before.as_ref().map(|content| &*content.url).filter(|url| *url != self.url)
    }

    /// The bugs that the last run, if there was one, did not watch; ascending.
    pub(crate) fn new_bugs(&self) -> WhichBugs {
        self.before.as_ref().map(|before| self.bugs.new_since(&before.bugs)).unwrap_or_default()
    }

    /// Writes the bugs and the address of this run into the file. Call it after the gap of the new bugs was told.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn adopt(&self) -> Result<(), WatchError> {
        let cursor = self.before.as_ref().and_then(|content| content.cursor.as_deref());
        self.write(&self.content(cursor)).map_err(WatchError::StateWrite)
    }

    fn content(&self, cursor: Option<&str>) -> Content {
        Content { url: self.url.clone(), bugs: self.bugs.clone(), cursor: cursor.map(str::to_owned) }
    }

    fn write(&self, content: &Content) -> io::Result<()> {
        let mut text = serde_json::to_vec(content)?;
        text.push(b'\n');
        replace_file(&self.path, &text)
    }
}

impl Store for StateFile {
    fn load(&mut self) -> io::Result<Option<String>> {
        Ok(self.before.as_ref().and_then(|content| content.cursor.clone()))
    }

    fn save(&mut self, cursor: &str) -> io::Result<()> {
        self.write(&self.content(Some(cursor)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bugs(numbers: &[u64]) -> WhichBugs {
        WhichBugs::These(numbers.iter().map(|&bug| BugId::new(bug).unwrap()).collect())
    }

    #[test]
    fn all_bugs_are_kept_as_a_word() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bot.state");
        let open = |bugs: &WhichBugs| StateFile::open(&path, "ws://a/", bugs).unwrap();
        open(&bugs(&[1, 2])).save("E.5").unwrap();
        let mut all = open(&WhichBugs::All);
        assert_eq!(all.new_bugs(), WhichBugs::All, "the last run watched two");
        all.adopt().unwrap();
        all.save("E.6").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "{\"url\":\"ws://a/\",\"bugs\":\"all\",\"cursor\":\"E.6\"}\n");
        let mut again = open(&WhichBugs::All);
        assert_eq!((again.load().unwrap().as_deref(), again.new_bugs()), (Some("E.6"), bugs(&[])));
        assert_eq!(open(&bugs(&[7])).new_bugs(), bugs(&[]));
    }

    #[test]
    fn it_goes_on_where_it_was_and_names_the_bugs_that_are_new() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bot.state");
        let open = |url: &str, numbers: &[u64]| StateFile::open(&path, url, &bugs(numbers)).unwrap();
        let mut first = open("ws://a/", &[2, 1, 2]);
        assert_eq!(
            (first.load().unwrap(), first.new_bugs(), first.other_url()),
            (None, bugs(&[]), None),
            "a fresh start"
        );
        // A run that received nothing has no changes to miss.
        let mut first = open("ws://a/", &[1, 2, 3]);
        assert_eq!((first.load().unwrap(), first.new_bugs()), (None, bugs(&[])));
        first.save("E.5").unwrap();
        let mut same = open("ws://a/", &[1, 2]);
        assert_eq!((same.load().unwrap().as_deref(), same.new_bugs()), (Some("E.5"), bugs(&[])));
        let more = open("ws://b/", &[1, 4, 9]);
        assert_eq!((more.new_bugs(), more.other_url()), (bugs(&[4, 9]), Some("ws://a/")));
        // The run died before it told the gap, so these bugs are still new.
        let mut more = open("ws://b/", &[1, 4, 9]);
        assert_eq!(more.new_bugs(), bugs(&[4, 9]));
        more.adopt().unwrap();
        assert_eq!(open("ws://b/", &[1, 4, 9]).load().unwrap().as_deref(), Some("E.5"), "the cursor stays");
        more.save("E.6").unwrap();
        assert_eq!(open("ws://b/", &[1, 4, 9]).new_bugs(), bugs(&[]));
        // Bug 2 was not watched in the last run.
        assert_eq!(open("ws://b/", &[1, 2]).new_bugs(), bugs(&[2]));
        assert_eq!(fs::read_to_string(&path).unwrap(), "{\"url\":\"ws://b/\",\"bugs\":[1,4,9],\"cursor\":\"E.6\"}\n");
    }

    #[test]
    fn no_secret_of_an_address_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bot.state");
        fs::write(&path, r#"{"url":"ws://u:secret@a/?key=secret","bugs":[1],"cursor":"E.5"}"#).unwrap();
        let same = StateFile::open(&path, "ws://…@a/?…", &bugs(&[1])).unwrap();
        assert_eq!(same.other_url(), None);
        assert!(!fs::read_to_string(&path).unwrap().contains("secret"), "written by an older version");
    }

    #[test]
    fn what_is_no_state_file_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notes");
        for content in ["my notes\n", "{\"url\":7}", "[]"] {
            fs::write(&path, content).unwrap();
            let error = StateFile::open(&path, "ws://a/", &bugs(&[1])).unwrap_err();
            assert!(matches!(error, WatchError::StateForeign(_)), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
        }
        fs::write(&path, "").unwrap();
        let mut emptied = StateFile::open(&path, "ws://a/", &bugs(&[1])).unwrap();
        assert!(emptied.load().unwrap().is_some(), "no fresh start");
        let error = StateFile::open(&dir.path().join("no/folder"), "ws://a/", &bugs(&[1])).unwrap_err().to_string();
        assert!(error.contains("no/folder") && error.contains("--state"), "{error}");
    }
}
