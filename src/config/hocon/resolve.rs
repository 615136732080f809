//! Documents to values: substitutions looked up, pieces put together, objects merged.
//!
//! A key may have been given several values; the last counts, and objects merge. A reference from within a value to the
//! same key means what the key had *before* that value. Lookups walk what was written instead of asking for the finished
//! value of an enclosing object, so that `a { x = 1, y = ${a.x} }` is no cycle.

use super::super::value::{Object, Value};
use super::parse::{Document, Fields, Raw, Reference};
use super::{MAX_DEPTH, MAX_RESULT, SyntaxError};

/// How many substitutions may lead to each other.
const MAX_CHAIN: usize = 64;

pub(super) fn resolve(
    document: &Document,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<Object, SyntaxError> {
    let mut resolver = Resolver { root: &document.fields, environment, active: Vec::new(), depth: 0, left: MAX_RESULT };
    resolver.object(&[], &[Part::Fields(&document.fields)])
}

/// Something an object is made of.
#[derive(Clone)]
enum Part<'a> {
    Fields(&'a Fields),
    Done(Object),
}

/// One value a key was given.
#[derive(Clone)]
enum Given<'a> {
    Raw(&'a Raw),
    Done(Value),
}

/// The values a key was given, reduced to what still counts.
enum Shape<'a> {
    Nothing,
    Single(Value),
    Object(Vec<Part<'a>>),
}

struct Resolver<'a, 'e> {
    root: &'a Fields,
    environment: &'e dyn Fn(&str) -> Option<String>,
    /// The values being resolved: path of the key and how many values it had before.
    active: Vec<(Vec<String>, usize)>,
    /// Objects within objects, references followed.
    depth: usize,
    left: usize,
}

impl<'a> Resolver<'a, '_> {
    fn charge(&mut self, size: usize, reference: Option<&Reference>) -> Result<(), SyntaxError> {
        match self.left.checked_sub(size + 1) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => Err(self.too_much(reference)),
        }
    }

    fn too_much(&self, reference: Option<&Reference>) -> SyntaxError {
        let nowhere = super::Position { source: "configuration".into(), line: 1, column: 1 };
        SyntaxError {
            position: reference.map_or(nowhere, |it| it.position.clone()),
            message: format!("substitutions make more than {} MiB of this configuration", MAX_RESULT >> 20),
            hint: None,
        }
    }

    /// The finished object that `parts` make at `path`.
    fn object(&mut self, path: &[String], parts: &[Part<'a>]) -> Result<Object, SyntaxError> {
        let mut keys: Vec<String> = Vec::new();
        for part in parts {
            match part {
                Part::Fields(fields) => keys.extend(fields.keys().cloned()),
                Part::Done(object) => keys.extend(object.keys().cloned()),
            }
        }
        keys.sort();
        keys.dedup();
        self.depth += 1;
        if self.depth > MAX_DEPTH * 2 {
            let mut error = self.too_much(None);
            error.message = format!("substitutions nest deeper than {} levels", MAX_DEPTH * 2);
            return Err(error);
        }
        let mut object = Object::new();
        for key in keys {
            let given = children(parts, &key);
            let mut inner = path.to_vec();
            inner.push(key.clone());
            self.charge(key.len(), None)?;
            if let Some(value) = self.value(&inner, &given)? {
                object.insert(key, value);
            }
        }
        self.depth -= 1;
        Ok(object)
    }

    /// The finished value of the key at `path`; `None` when only optional references were given and none has a value.
    fn value(&mut self, path: &[String], given: &[Given<'a>]) -> Result<Option<Value>, SyntaxError> {
        match self.reduce(path, given)? {
            Shape::Nothing => Ok(None),
            Shape::Single(value) => Ok(Some(value)),
            Shape::Object(parts) => Ok(Some(Value::Object(self.object(path, &parts)?))),
        }
    }

    fn reduce(&mut self, path: &[String], given: &[Given<'a>]) -> Result<Shape<'a>, SyntaxError> {
        let active = self.active.iter().rev().find(|(it, _)| it == path);
        let given = &given[..active.map_or(given.len(), |(_, before)| (*before).min(given.len()))];
        let mut shape = Shape::Nothing;
        for (index, one) in given.iter().enumerate() {
            let value = match one {
                Given::Raw(Raw::Object(fields)) => {
                    shape = with(shape, Part::Fields(fields));
                    continue;
                }
                Given::Done(value) => Some(value.clone()),
                Given::Raw(raw) => {
                    self.active.push((path.to_vec(), index));
                    let value = self.raw(path, raw);
                    self.active.pop();
                    value?
                }
            };
            shape = match (shape, value) {
                (shape, None) => shape,
                (shape, Some(Value::Object(object))) => with(shape, Part::Done(object)),
                (shape, Some(value)) => match one {
                    Given::Raw(Raw::Append(_)) => Shape::Single(self.append(path, shape, value)?),
                    _ => Shape::Single(value),
                },
            };
        }
        Ok(shape)
    }

    /// `+=`: the list so far and one more.
    fn append(&mut self, path: &[String], shape: Shape<'a>, value: Value) -> Result<Value, SyntaxError> {
        let mut items = match shape {
            Shape::Nothing => Vec::new(),
            Shape::Single(Value::List(items)) => items,
            Shape::Single(other) => vec![other],
            Shape::Object(parts) => vec![Value::Object(self.object(path, &parts)?)],
        };
        items.push(value);
        Ok(Value::List(items))
    }

    fn raw(&mut self, path: &[String], raw: &'a Raw) -> Result<Option<Value>, SyntaxError> {
        match raw {
            Raw::Plain(value) => {
                self.charge(value.text().map_or(0, str::len), None)?;
                Ok(Some(value.clone()))
            }
            Raw::Space(text) => Ok(Some(Value::Text(text.clone()))),
            Raw::List(items) => {
                let mut list = Vec::new();
                for item in items {
                    self.charge(0, None)?;
                    list.extend(self.raw(path, item)?);
                }
                Ok(Some(Value::List(list)))
            }
            Raw::Object(fields) => {
                // Inside a list or a concatenation: its keys have no path that anything could refer to.
                let mut inner = path.to_vec();
                inner.push(String::from("\u{0}"));
                self.object(&inner, &[Part::Fields(fields)]).map(|it| Some(Value::Object(it)))
            }
            Raw::Reference(reference) => self.reference(reference),
            Raw::Append(item) => self.raw(path, item),
            Raw::Concatenation(pieces) => self.concatenation(path, pieces),
        }
    }

    fn reference(&mut self, reference: &Reference) -> Result<Option<Value>, SyntaxError> {
        let error = |message: String, hint: Option<String>| {
            Err(SyntaxError { position: reference.position.clone(), message, hint })
        };
        let name = reference.path.join(".");
        if self.active.len() > MAX_CHAIN {
            return error(format!("`${{{name}}}` leads through more than {MAX_CHAIN} substitutions"), None);
        }
        let mut paths = vec![reference.path.clone()];
        if !reference.prefix.is_empty() {
            paths.insert(0, reference.prefix.iter().chain(&reference.path).cloned().collect());
        }
        for path in &paths {
            if let Some(value) = self.lookup(path)? {
                self.charge(size(&value), Some(reference))?;
                return Ok(Some(value));
            }
        }
        if let Some(text) = (self.environment)(&name) {
            self.charge(text.len(), Some(reference))?;
            return Ok(Some(Value::Text(text)));
        }
        if reference.optional {
            return Ok(None);
        }
        if self.active.iter().any(|(it, _)| paths.contains(it)) {
            return error(format!("`${{{name}}}` refers to itself"), None);
        }
        let hint = format!("Set `{name}`, export it in the environment, or write `${{?{name}}}` if it may be absent.");
        error(format!("`${{{name}}}` is set neither here nor in the environment"), Some(hint))
    }

    fn lookup(&mut self, path: &[String]) -> Result<Option<Value>, SyntaxError> {
        let mut parts = vec![Part::Fields(self.root)];
        for (depth, key) in path.iter().enumerate() {
            let given = children(&parts, key);
            let here = &path[..=depth];
            if depth + 1 == path.len() {
                return self.value(here, &given);
            }
            match self.reduce(here, &given)? {
                Shape::Object(inner) => parts = inner,
                Shape::Nothing | Shape::Single(_) => return Ok(None),
            }
        }
        Ok(None)
    }

    fn concatenation(&mut self, path: &[String], pieces: &'a [Raw]) -> Result<Option<Value>, SyntaxError> {
        let mut result: Option<Value> = None;
        let mut space = "";
        for piece in pieces {
            if let Raw::Space(text) = piece {
                space = text;
                continue;
            }
            let place = if let Raw::Reference(reference) = piece { Some(reference) } else { None };
            let Some(value) = self.raw(path, piece)? else {
                // An absent optional value leaves the white space around it, as the specification says.
                if let Some(Value::Text(text)) = &mut result {
                    text.push_str(std::mem::take(&mut space));
                }
                continue;
            };
            result = Some(match (result, value) {
                (None, value) => value,
                (Some(Value::Object(mut below)), Value::Object(above)) => {
                    super::super::value::merge(&mut below, above);
                    Value::Object(below)
                }
                (Some(Value::List(mut items)), Value::List(more)) => {
                    items.extend(more);
                    Value::List(items)
                }
                (Some(left), right) => {
                    let (Some(a), Some(b)) = (word(&left), word(&right)) else {
                        return Err(self.mixed(pieces, &left, &right));
                    };
                    let text = format!("{a}{space}{b}");
                    self.charge(text.len(), place)?;
                    Value::Text(text)
                }
            });
            space = "";
        }
        Ok(result)
    }

    fn mixed(&self, pieces: &[Raw], left: &Value, right: &Value) -> SyntaxError {
        let reference = pieces.iter().find_map(|it| if let Raw::Reference(it) = it { Some(it) } else { None });
        let mut error = self.too_much(reference);
        error.message = format!("{} and {} cannot be put together", left.noun(), right.noun());
        error.hint = Some("Put a comma or a new line between two values; quote a text.".to_owned());
        error
    }
}

fn with<'a>(shape: Shape<'a>, part: Part<'a>) -> Shape<'a> {
    match shape {
        Shape::Object(mut parts) => {
            parts.push(part);
            Shape::Object(parts)
        }
        Shape::Nothing | Shape::Single(_) => Shape::Object(vec![part]),
    }
}

fn children<'a>(parts: &[Part<'a>], key: &str) -> Vec<Given<'a>> {
    let mut given = Vec::new();
    for part in parts {
        match part {
            Part::Fields(fields) => given.extend(fields.get(key).into_iter().flatten().map(Given::Raw)),
            Part::Done(object) => given.extend(object.get(key).cloned().map(Given::Done)),
        }
    }
    given
}

fn word(value: &Value) -> Option<&str> {
    match value {
        Value::Null => Some("null"),
        other => other.text(),
    }
}

fn size(value: &Value) -> usize {
    match value {
        Value::List(items) => items.iter().map(size).sum::<usize>() + items.len(),
        Value::Object(object) => object.iter().map(|(key, value)| key.len() + size(value) + 1).sum(),
        single => single.text().map_or(4, str::len),
    }
}
