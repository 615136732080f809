//! One API call: who asks, at which version, with which body; and the table every endpoint declares itself in.

use rusqlite::Connection;
use serde_json::{Map, Value};

use super::auth::Identity;
use super::clock::Moment;
use super::document::Document;
use super::error::ApiError;
use super::site::Site;

/// A version in a path: `v2.23`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version(pub u16, pub u16);

/// The API version this server speaks, the one of the server whose answers were recorded.
pub(super) const API_VERSION: Version = Version(2, 34);
/// The server version it names.
pub(super) const SERVER_VERSION: &str = "2.3.0";

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

/// A call whose fields fit its endpoint's table. The database is in a transaction that ends with the call.
pub(super) struct Call<'a> {
    pub db: &'a Connection,
    pub site: &'a Site,
    pub identity: Identity,
    pub version: Version,
    pub body: Document,
    /// The lines of a json-lines body, else the body itself.
    pub batch: Vec<Value>,
    /// The client's `X-ClearML-Worker` header.
    pub worker: Option<String>,
    /// Where the client is.
    pub address: String,
    pub now: Moment,
}

impl Call<'_> {
    /// The text of a field; `None` when absent, null or empty.
    pub(super) fn text(&self, field: &str) -> Option<&str> {
        self.body.get(field).and_then(Value::as_str).filter(|it| !it.is_empty())
    }

    /// The text of a field the endpoint's table requires.
    pub(super) fn required(&self, field: &str) -> Result<&str, ApiError> {
        self.body.get(field).and_then(Value::as_str).ok_or_else(|| ApiError::field_required(field))
    }

    /// Whether a flag is set.
    pub(super) fn flag(&self, field: &str) -> bool {
        self.body.get(field).and_then(Value::as_bool).unwrap_or_default()
    }

    /// A whole number.
    pub(super) fn integer(&self, field: &str) -> Option<i64> {
        let value = self.body.get(field)?;
        value.as_i64().or_else(|| value.as_f64().map(|it| it as i64))
    }

    /// The texts of a list; a text alone counts as a list of one.
    pub(super) fn texts(&self, field: &str) -> Vec<&str> {
        match self.body.get(field) {
            Some(Value::String(one)) => vec![one],
            Some(Value::Array(many)) => many.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        }
    }

    /// The items of a list.
    pub(super) fn items(&self, field: &str) -> &[Value] {
        self.body.get(field).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
    }

    /// An object.
    pub(super) fn object(&self, field: &str) -> Option<&Map<String, Value>> {
        self.body.get(field).and_then(Value::as_object)
    }

    /// The company every object belongs to.
    pub(super) fn company(&self) -> &str {
        &self.identity.company
    }
}

/// What a call is answered with.
pub(super) enum Reply {
    /// The envelope's `data`.
    Data(Value),
    /// A token, sent as data and as a cookie.
    Token(String),
    /// A text file, without envelope.
    File { name: String, text: String },
}

impl From<Value> for Reply {
    fn from(data: Value) -> Self {
        Self::Data(data)
    }
}

/// Who may call an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Anybody, without credentials.
    Anybody,
    /// Every user.
    User,
    /// Nobody who comes by this API; the roles named in the refusal.
    Roles(&'static str),
}

/// What a field holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    Text,
    Integer,
    Number,
    Flag,
    Object,
    List,
    /// A text or a list of them.
    Texts,
    Choice(&'static [&'static str]),
    Any,
}

impl Type {
    fn name(self) -> &'static str {
        match self {
            Self::Text | Self::Choice(_) => "str",
            Self::Integer => "int",
            Self::Number => "float",
            Self::Flag => "bool",
            Self::Object => "dict",
            Self::List | Self::Texts => "list",
            Self::Any => "any",
        }
    }

    fn admits(self, value: &Value) -> bool {
        match self {
            Self::Text | Self::Choice(_) => value.is_string(),
            Self::Integer => value.as_f64().is_some_and(|it| it.fract() == 0.0),
            Self::Number => value.is_number(),
            Self::Flag => value.is_boolean(),
            Self::Object => value.is_object(),
            Self::List => value.is_array(),
            Self::Texts => value.is_array() || value.is_string(),
            Self::Any => true,
        }
    }
}

/// Whether a field must be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    May,
    Must,
    /// Must, refused in the words of the endpoints without a schema (400/11).
    MustOld,
}

/// A field of a call's body. Fields not in an endpoint's table are ignored.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field {
    name: &'static str,
    ty: Type,
    need: Need,
}

/// A field that may be left out or null.
pub(super) const fn may(name: &'static str, ty: Type) -> Field {
    Field { name, ty, need: Need::May }
}

/// A field that must be there.
pub(super) const fn must(name: &'static str, ty: Type) -> Field {
    Field { name, ty, need: Need::Must }
}

/// A field that must be there, of an endpoint without a schema.
pub(super) const fn must_old(name: &'static str) -> Field {
    Field { name, ty: Type::Any, need: Need::MustOld }
}

pub(super) type Handler = fn(&mut Call<'_>) -> Result<Reply, ApiError>;

/// An endpoint: its name, the version it appeared in, who may call it, its fields, and what answers.
pub(super) struct Endpoint {
    pub name: &'static str,
    pub since: Version,
    pub access: Access,
    pub fields: &'static [Field],
    pub handler: Handler,
}

/// An endpoint for every user.
pub(super) const fn endpoint(
    name: &'static str,
    since: Version,
    fields: &'static [Field],
    handler: Handler,
) -> Endpoint {
    Endpoint { name, since, access: Access::User, fields, handler }
}

/// Checks a body against an endpoint's table.
pub(super) fn validate(fields: &[Field], body: &Document) -> Result<(), ApiError> {
    for field in fields {
        let value = body.get(field.name).filter(|it| !it.is_null());
        match (value, field.need) {
            (None, Need::May) => {}
            (None, Need::Must) => return Err(ApiError::field_required(field.name)),
            (None, Need::MustOld) => return Err(ApiError::missing_fields(field.name)),
            (Some(value), _) => check(field, value)?,
        }
    }
    Ok(())
}

fn check(field: &Field, value: &Value) -> Result<(), ApiError> {
    if !field.ty.admits(value) {
        let shown = match value {
            Value::String(text) => format!("'{text}'"),
            other => other.to_string(),
        };
        let why = format!("('value is wrong, expected type \"{}\"', {shown})", field.ty.name());
        return Err(ApiError::field_invalid(field.name, &why));
    }
    if let (Type::Choice(choices), Some(text)) = (field.ty, value.as_str())
        && !choices.contains(&text)
    {
        return Err(ApiError::field_invalid_choice(field.name, text));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::server::document::document;

    #[test]
    fn a_body_is_refused_in_the_words_of_the_original() {
        const FIELDS: &[Field] = &[must("task", Type::Text), may("type", Type::Choice(&["testing"]))];
        let refused = |body: Value| validate(FIELDS, &document(body)).unwrap_err().message;
        assert_eq!(refused(json!({})), "Validation error (error for field 'task'. field is required!)");
        assert_eq!(
            refused(json!({"task": 5})),
            "Validation error (error for field 'task': ('value is wrong, expected type \"str\"', 5).)"
        );
        assert_eq!(
            refused(json!({"task": "t", "type": "zzz"})),
            "Validation error (error for field 'type': value 'zzz' is not a valid choice..)"
        );
        assert!(validate(FIELDS, &document(json!({"task": "t", "type": null, "more": 1}))).is_ok());
    }
}
