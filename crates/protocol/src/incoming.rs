//! The members of a client's message, read without building a tree of JSON values first, because most of what clients
//! send is lists of bugs.

use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use crate::change::BugId;
use crate::client::WhichBugs;

/// The members that a message may have. If a member comes twice, the last one counts.
#[derive(Default)]
pub(crate) struct Members {
    pub(crate) command: Option<Value>,
    pub(crate) bugs: Option<Bugs>,
    pub(crate) since: Option<Value>,
    pub(crate) cursor: Option<Value>,
    pub(crate) heartbeat: Option<Value>,
    pub(crate) token: Option<Value>,
}

/// The text [`ALL`], one bug or a list of bugs, each a number or a text; `None` if an element is no bug number.
pub(crate) struct Bugs(pub(crate) Option<WhichBugs>);

/// Instead of bugs: all of them.
const ALL: &str = "all";

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Members::default();
                while let Some(name) = map.next_key::<std::borrow::Cow<'de, str>>()? {
                    match &*name {
                        "command" => members.command = Some(map.next_value()?),
                        "bugs" => members.bugs = Some(map.next_value()?),
                        "since" => members.since = Some(map.next_value()?),
                        "cursor" => members.cursor = Some(map.next_value()?),
                        "heartbeat" => members.heartbeat = Some(map.next_value()?),
                        "token" => members.token = Some(map.next_value()?),
                        _ => drop(map.next_value::<IgnoredAny>()?),
                    }
                }
                Ok(members)
            }
        }
        deserializer.deserialize_map(Object)
    }
}

impl<'de> Deserialize<'de> for Bugs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (mut bugs, mut all) = (Vec::new(), false);
        let good = deserializer.deserialize_any(Reading { bugs: &mut bugs, all: Some(&mut all) })?;
        let which = if all { WhichBugs::All } else { WhichBugs::These(bugs) };
        Ok(Bugs(good.then_some(which)))
    }
}

/// Appends what it reads to `bugs`, and returns whether it was one bug. If `all` is there, a list of bugs is good too, and
/// so is the text [`ALL`], for which it is set.
struct Reading<'a> {
    bugs: &'a mut Vec<BugId>,
    all: Option<&'a mut bool>,
}

impl Reading<'_> {
    fn bug(self, bug: Option<BugId>) -> bool {
        self.bugs.extend(bug);
        bug.is_some()
    }
}

impl<'de> serde::de::DeserializeSeed<'de> for Reading<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reading<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_u64<E>(self, number: u64) -> Result<bool, E> {
        Ok(self.bug(BugId::new(number)))
    }

    fn visit_str<E>(self, text: &str) -> Result<bool, E> {
        let Reading { bugs, all } = self;
        match all {
            Some(all) if text.trim() == ALL => {
                *all = true;
                Ok(true)
            }
            _ => Ok(Reading { bugs, all: None }.bug(BugId::parse(text))),
        }
    }

    fn visit_i64<E>(self, _: i64) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_f64<E>(self, _: f64) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_bool<E>(self, _: bool) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_unit<E>(self) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<bool, A::Error> {
        let mut good = self.all.is_some();
        while good {
            match seq.next_element_seed(Reading { bugs: &mut *self.bugs, all: None })? {
                Some(one) => good = one,
                None => return Ok(true),
            }
        }
        // The rest of the list is not used, but must be valid JSON.
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(false)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<bool, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(false)
    }
}
