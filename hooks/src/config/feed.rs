//! Which feed a change goes to: always the same, or one that depends on the tracker's project.

pub use bugfeed_protocol::feed_name::DEFAULT_FEED;
use bugfeed_protocol::feed_name::{self, BadFeedName, RESERVED};

use super::error::ConfigError;
use super::mapping::read_lookups;
use super::reader::Node;
use crate::receive::lookup::{Glob, Lookup};

/// What stands for "no feed" in a map, so that no feed has this name.
const DROP: &str = "drop";

/// Which feed a change goes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FeedRule {
    /// Always this one.
    Fixed(String),
    /// The feed of the project.
    Map {
        /// Projects, and their feeds. A project's own name counts before patterns, which are tried in order.
        map: Vec<(Glob, String)>,
        /// The feed of all other projects. `None`: their changes are dropped as not mapped.
        otherwise: Option<String>,
    },
}

impl FeedRule {
    /// The feed of a project. `None`: the change is not mapped.
    pub fn choose(&self, project: Option<&str>) -> Option<&str> {
        let (map, otherwise) = match self {
            FeedRule::Fixed(name) => return Some(name),
            FeedRule::Map { map, otherwise } => (map, otherwise),
        };
        let found = project.and_then(|project| {
            let literal = map.iter().find(|(glob, _)| glob.is_literal() && glob.as_str() == project);
            literal.or_else(|| map.iter().find(|(glob, _)| glob.matches(project)))
        });
        found.map(|(_, feed)| feed.as_str()).or(otherwise.as_deref())
    }

    /// All feeds that it names.
    pub(crate) fn names(&self) -> Vec<&str> {
        match self {
            FeedRule::Fixed(name) => vec![name],
            FeedRule::Map { map, otherwise } => {
                map.iter().map(|(_, feed)| feed.as_str()).chain(otherwise.as_deref()).collect()
            }
        }
    }
}

/// Reads `feed`, and where the project is, if that stands here.
pub(crate) fn read_feed(node: &Node<'_>) -> Result<(FeedRule, Option<Vec<Lookup>>), ConfigError> {
    if !node.is_table() {
        return Ok((FeedRule::Fixed(read_name(node)?), None));
    }
    let mut fields = node.table()?;
    let from = fields.get("from").map(|node| read_lookups(&node)).transpose()?;
    let mut map = Vec::new();
    if let Some(node) = fields.get("map") {
        for (project, feed) in node.table()?.all() {
            map.push((Glob::new(project), read_name(&feed)?));
        }
    }
    let otherwise = match fields.get("else") {
        Some(node) if node.text()? == "drop" => None,
        Some(node) => Some(read_name(&node)?),
        None => None,
    };
    fields.finish()?;
    if map.is_empty() && otherwise.is_none() {
        let fix = "write feed = \"NAME\", or feed = { map = { \"PROJECT\" = \"FEED\" }, else = \"drop\" }";
        return Err(node.error("this names no feed", fix));
    }
    Ok((FeedRule::Map { map, otherwise }, from))
}

/// Reads the name of a feed.
fn read_name(node: &Node<'_>) -> Result<String, ConfigError> {
    let name = node.text()?;
    let is_reserved = match feed_name::check(name) {
        Err(error @ BadFeedName::Malformed) => {
            return Err(node.error(format!("\"{name}\" cannot be the name of a feed"), error.to_string()));
        }
        checked => checked.is_err(),
    };
    if is_reserved || name == DROP {
        let fix = format!("choose a name that is none of {}, {DROP}", RESERVED.join(", "));
        return Err(node.error(format!("\"{name}\" cannot be the name of a feed, because it is in use as a path"), fix));
    }
    Ok(name.to_owned())
}
