//! What a configuration consists of once it is read and resolved.

use std::collections::BTreeMap;

/// Keys and their values, by key order.
pub type Object = BTreeMap<String, Value>;

/// One value. Numbers keep their text, so that `3.10` stays a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number as written.
    Number(String),
    /// A text.
    Text(String),
    /// A list.
    List(Vec<Self>),
    /// An object.
    Object(Object),
}

impl Value {
    /// The value as text where it is a single one; `None` for `null`, lists and objects.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Number(text) | Self::Text(text) => Some(text),
            Self::Bool(true) => Some("true"),
            Self::Bool(false) => Some("false"),
            Self::Null | Self::List(_) | Self::Object(_) => None,
        }
    }

    /// The value as yes or no: also the words that ClearML's own configuration accepts (`yes`, `on`, `1`).
    #[must_use]
    pub fn flag(&self) -> Option<bool> {
        crate::process::flag(self.text()?)
    }

    /// What sort of value it is, for messages.
    #[must_use]
    pub const fn noun(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "yes or no",
            Self::Number(_) => "a number",
            Self::Text(_) => "a text",
            Self::List(_) => "a list",
            Self::Object(_) => "an object",
        }
    }

    /// The value as JSON; a number that JSON cannot hold unchanged becomes a text.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        match self {
            Self::Null => serde_json::Value::Null,
            Self::Bool(it) => (*it).into(),
            Self::Number(text) => match serde_json::from_str::<serde_json::Number>(text) {
                Ok(number) if number.to_string() == *text => number.into(),
                _ => text.as_str().into(),
            },
            Self::Text(text) => text.as_str().into(),
            Self::List(items) => items.iter().map(Self::to_json).collect(),
            Self::Object(object) => object_to_json(object),
        }
    }

    /// The value of a JSON document.
    #[must_use]
    pub fn from_json(value: &serde_json::Value) -> Self {
        match value {
            serde_json::Value::Null => Self::Null,
            serde_json::Value::Bool(it) => Self::Bool(*it),
            serde_json::Value::Number(number) => Self::Number(number.to_string()),
            serde_json::Value::String(text) => Self::Text(text.clone()),
            serde_json::Value::Array(items) => Self::List(items.iter().map(Self::from_json).collect()),
            serde_json::Value::Object(map) => {
                Self::Object(map.iter().map(|(key, value)| (key.clone(), Self::from_json(value))).collect())
            }
        }
    }
}

/// An object as JSON.
#[must_use]
pub fn object_to_json(object: &Object) -> serde_json::Value {
    serde_json::Value::Object(object.iter().map(|(key, value)| (key.clone(), value.to_json())).collect())
}

/// Lays `upper` over `lower`: objects merge key by key, everything else replaces.
pub fn merge(lower: &mut Object, upper: Object) {
    for (key, value) in upper {
        match (lower.get_mut(&key), value) {
            (Some(Value::Object(below)), Value::Object(above)) => merge(below, above),
            (_, value) => {
                lower.insert(key, value);
            }
        }
    }
}

/// The value at a path of keys.
#[must_use]
pub fn at<'a>(object: &'a Object, path: &[&str]) -> Option<&'a Value> {
    let (last, parents) = path.split_last()?;
    let mut object = object;
    for key in parents {
        let Some(Value::Object(inner)) = object.get(*key) else { return None };
        object = inner;
    }
    object.get(*last)
}

/// Sets the value at a path of keys; what stands in the way and is no object is replaced.
pub fn set(object: &mut Object, path: &[&str], value: Value) {
    let Some((last, parents)) = path.split_last() else { return };
    let mut object = object;
    for key in parents {
        let slot = object.entry((*key).to_owned()).or_insert_with(|| Value::Object(Object::new()));
        if !matches!(slot, Value::Object(_)) {
            *slot = Value::Object(Object::new());
        }
        let Value::Object(inner) = slot else { return };
        object = inner;
    }
    object.insert((*last).to_owned(), value);
}
