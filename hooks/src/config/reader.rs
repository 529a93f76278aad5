//! Reads TOML member by member, so that each error knows its line.
//!
//! Goes in: a parsed TOML document. Comes out: texts, booleans, tables and lists, or an error that names file, line,
//! member and what is allowed. An error says of which type a value is, but never repeats the value, because it may be a
//! secret; only words that are chosen from a list are repeated.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, did_you_mean};

/// The file that is read.
#[derive(Clone, Copy)]
pub(crate) struct File<'a> {
    pub(crate) name: &'a str,
    pub(crate) text: &'a str,
}

impl<'a> File<'a> {
    /// Parses the text as TOML.
    pub(crate) fn parse(self) -> Result<Spanned<DeTable<'a>>, ConfigError> {
        DeTable::parse(self.text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            // Only the message: the whole error would show the line, which may hold a secret.
            let fix = "texts stand in quotes, a source begins with [[source]]";
            self.error(at, "", format!("this is not TOML: {}", error.message().replace('\n', ", ")), fix)
        })
    }

    /// An error at a place in the text, given in bytes from its start.
    pub(crate) fn error(self, at: usize, key: &str, problem: impl Into<String>, fix: impl Into<String>) -> ConfigError {
        let before = self.text.as_bytes().iter().take(at);
        let line = 1 + before.filter(|&&byte| byte == b'\n').count();
        ConfigError { file: self.name.to_owned(), line, key: key.to_owned(), problem: problem.into(), fix: fix.into() }
    }
}

/// A value with its name and place.
#[derive(Clone)]
pub(crate) struct Node<'d> {
    file: File<'d>,
    /// The path of names that leads to it.
    pub(crate) key: String,
    at: usize,
    value: &'d DeValue<'d>,
}

impl<'d> Node<'d> {
    /// An error at this value.
    pub(crate) fn error(&self, problem: impl Into<String>, fix: impl Into<String>) -> ConfigError {
        self.file.error(self.at, &self.key, problem, fix)
    }

    fn mistyped(&self, want: &str) -> ConfigError {
        self.error(format!("this is of type {}", self.value.type_str()), format!("it must be {want}"))
    }

    pub(crate) fn is_table(&self) -> bool {
        self.value.is_table()
    }

    /// A text.
    pub(crate) fn text(&self) -> Result<&'d str, ConfigError> {
        self.value.as_str().ok_or_else(|| self.mistyped("a text in quotes"))
    }

    /// `true` or `false`.
    pub(crate) fn boolean(&self) -> Result<bool, ConfigError> {
        self.value.as_bool().ok_or_else(|| self.mistyped("true or false"))
    }

    /// One of these words. An error repeats the word.
    pub(crate) fn one_of<T: Copy>(&self, words: &[(&str, T)]) -> Result<T, ConfigError> {
        let word = self.text()?;
        match words.iter().find(|(name, _)| *name == word) {
            Some((_, value)) => Ok(*value),
            None => Err(self.unknown_word(word, words.iter().map(|(name, _)| *name))),
        }
    }

    /// The error for a word that is none of these.
    pub(crate) fn unknown_word<'a>(&self, word: &str, known: impl IntoIterator<Item = &'a str> + Clone) -> ConfigError {
        let list: Vec<String> = known.clone().into_iter().map(|name| format!("\"{name}\"")).collect();
        let fix = format!("{}allowed: {}", did_you_mean(word, known), list.join(", "));
        self.error(format!("\"{word}\" is not known here"), fix)
    }

    /// The elements of a list, or the value itself as the only one. An empty list is allowed.
    pub(crate) fn list(&self) -> Vec<Node<'d>> {
        match self.value.as_array() {
            None => vec![self.clone()],
            Some(array) => array
                .iter()
                .map(|value| Node {
                    file: self.file,
                    key: self.key.clone(),
                    at: value.span().start,
                    value: value.get_ref(),
                })
                .collect(),
        }
    }

    /// A table's members.
    pub(crate) fn table(&self) -> Result<Fields<'d>, ConfigError> {
        let table = self.value.as_table().ok_or_else(|| self.mistyped("a table"))?;
        Ok(Fields::new(self.file, &self.key, self.at, table))
    }
}

/// The members of a table, in the order of the file. What nobody asked for is an error in the end.
pub(crate) struct Fields<'d> {
    file: File<'d>,
    /// The path of names that leads to the table.
    pub(crate) key: String,
    at: usize,
    members: Vec<(&'d str, Range<usize>, &'d Spanned<DeValue<'d>>)>,
    known: Vec<&'static str>,
}

impl<'d> Fields<'d> {
    /// The members of a table that begins at `at`.
    pub(crate) fn new(file: File<'d>, key: &str, at: usize, table: &'d DeTable<'d>) -> Fields<'d> {
        let mut members: Vec<_> =
            table.iter().map(|(name, value)| (name.get_ref().as_ref(), name.span(), value)).collect();
        members.sort_by_key(|(_, span, _)| span.start);
        Fields { file, key: key.to_owned(), at, members, known: Vec::new() }
    }

    /// An error at the table as a whole.
    pub(crate) fn error(&self, problem: impl Into<String>, fix: impl Into<String>) -> ConfigError {
        self.file.error(self.at, &self.key, problem, fix)
    }

    /// The member of this name.
    pub(crate) fn get(&mut self, name: &'static str) -> Option<Node<'d>> {
        if !self.known.contains(&name) {
            self.known.push(name);
        }
        let (name, span, value) = self.members.iter().find(|(found, ..)| *found == name)?;
        Some(self.node(name, span, value))
    }

    /// All members, whatever their names, in the order of the file. The names are data, so any is allowed.
    pub(crate) fn all(&self) -> Vec<(&'d str, Node<'d>)> {
        self.members.iter().map(|(name, span, value)| (*name, self.node(name, span, value))).collect()
    }

    fn node(&self, name: &str, span: &Range<usize>, value: &'d Spanned<DeValue<'d>>) -> Node<'d> {
        let plain = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c));
        let name = if plain { name.to_owned() } else { format!("\"{name}\"") };
        let key = if self.key.is_empty() { name } else { format!("{}.{name}", self.key) };
        Node { file: self.file, key, at: span.start, value: value.get_ref() }
    }

    /// Refuses a member that was not asked for.
    pub(crate) fn finish(&self) -> Result<(), ConfigError> {
        let Some((name, span, _)) = self.members.iter().find(|(name, ..)| !self.known.contains(name)) else {
            return Ok(());
        };
        let fix = format!("{}allowed: {}", did_you_mean(name, self.known.iter().copied()), self.known.join(", "));
        Err(self.file.error(span.start, &self.key, format!("\"{name}\" is no option here"), fix))
    }
}
