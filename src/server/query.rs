//! `get_all`: which documents, in which order, which page of them and which of their fields. The same for every kind.
//!
//! Lists of ids narrow in the database; the rest is decided on the documents, whose fields clients name freely.

use serde_json::{Map, Value, json};

use super::call::{Call, Reply};
use super::clock::parse_millis;
use super::document::{Document, at, found, project, texts};
use super::error::ApiError;
use super::filter::{Dates, Range, Terms, pattern, pattern_of_any_case};
use super::storage::{Kind, Narrow, list};

/// The largest page, and the size of one where none is asked for.
const MAX_PAGE: usize = 500;

/// What can be asked of a kind of document.
pub(super) struct Spec {
    pub kind: Kind,
    /// Every field a document may have: what `only_fields` and `order_by` may begin with.
    pub fields: &'static [&'static str],
    /// Fields that the database narrows by.
    pub narrow: &'static [&'static str],
    /// Fields asked for by lists of values. `x.*` here and below stands for every path below `x`.
    pub lists: &'static [&'static str],
    /// Fields asked for by one value.
    pub equal: &'static [&'static str],
    /// Fields asked for by the least and the greatest number.
    pub ranges: &'static [&'static str],
    /// Fields asked for by bounds.
    pub dates: &'static [&'static str],
    /// Fields asked for by a regular expression.
    pub patterns: &'static [&'static str],
}

/// What a listing found, fields not yet chosen.
pub(super) struct Found {
    pub documents: Vec<Document>,
    /// The fields asked for; all when empty.
    only: Vec<String>,
    scroll: Option<String>,
}

impl Found {
    /// The answer: the documents under `name`, cut to the fields asked for.
    pub(super) fn reply(self, name: &str) -> Reply {
        let only: Vec<&str> = self.only.iter().map(String::as_str).collect();
        let documents = self.documents.iter().map(|it| {
            let shown = if only.is_empty() { it.clone() } else { project(it, &only) };
            Value::Object(shown)
        });
        let mut data = Map::new();
        data.insert(name.to_owned(), documents.collect());
        if let Some(scroll) = self.scroll {
            data.insert("scroll_id".into(), json!(scroll));
        }
        Reply::Data(Value::Object(data))
    }

    /// The fields asked for; all when empty.
    pub(super) fn only(&self) -> &[String] {
        &self.only
    }
}

/// Answers a listing from a call's body.
pub(super) fn get_all(call: &Call<'_>, spec: &Spec) -> Result<Found, ApiError> {
    let only = only_fields(call, spec)?;
    let order = order_by(call, spec)?;
    let filters = filters(call, spec)?;
    let mut documents = candidates(call, spec)?;
    documents.retain(|document| filters.iter().all(|it| it(document)));
    sort(&mut documents, &order);
    let scroll = paginate(call, &mut documents)?;
    Ok(Found { documents, only, scroll })
}

fn only_fields(call: &Call<'_>, spec: &Spec) -> Result<Vec<String>, ApiError> {
    let mut asked = call.texts("only_fields");
    asked.extend(call.texts("projection"));
    for field in &asked {
        known(spec, field)?;
    }
    Ok(asked.into_iter().map(str::to_owned).collect())
}

fn known(spec: &Spec, path: &str) -> Result<(), ApiError> {
    let root = path.split('.').next().unwrap_or_default();
    if spec.fields.contains(&root) { Ok(()) } else { Err(ApiError::unknown_field(root)) }
}

fn order_by(call: &Call<'_>, spec: &Spec) -> Result<Vec<(String, bool)>, ApiError> {
    let fields = call.texts("order_by").into_iter().filter(|it| !it.is_empty());
    fields
        .map(|field| {
            let path = field.trim_start_matches(['-', '+', '@']);
            known(spec, path)?;
            Ok((path.to_owned(), field.starts_with('-')))
        })
        .collect()
}

fn candidates(call: &Call<'_>, spec: &Spec) -> Result<Vec<Document>, ApiError> {
    let mut wanted: Vec<(&'static str, Vec<&str>)> = Vec::new();
    for column in spec.narrow {
        let values = call.texts(column);
        // Operators and exclusions are for the filter; the database has a limit of parameters.
        let plain = values.iter().all(|it| !it.starts_with('-') && !it.starts_with("__$"));
        let has_null = call.items(column).iter().any(Value::is_null);
        if !values.is_empty() && plain && !has_null && values.len() < 10_000 {
            wanted.push((column, values));
        }
    }
    let narrow: Vec<_> = wanted.iter().map(|(column, values)| Narrow { column, values }).collect();
    list(call.db, spec.kind, &narrow)
}

type Filter<'a> = Box<dyn Fn(&Document) -> bool + 'a>;

fn filters<'a>(call: &'a Call<'_>, spec: &'a Spec) -> Result<Vec<Filter<'a>>, ApiError> {
    let mut filters: Vec<Filter<'a>> = Vec::new();
    for (field, value) in asked(call, spec.lists) {
        let items = value.as_array().map_or_else(|| std::slice::from_ref(value), Vec::as_slice);
        if let Some(terms) = Terms::parse(field, items)? {
            filters.push(Box::new(move |it| terms.admit(found(it, field).as_deref())));
        }
    }
    for (field, value) in asked(call, spec.equal) {
        let is = move |it: &Value| it == value || it.as_array().is_some_and(|all| all.contains(value));
        filters.push(Box::new(move |it| found(it, field).is_some_and(|it| is(&it))));
    }
    for (field, value) in asked(call, spec.ranges) {
        let range = Range::parse(field, value)?;
        filters.push(Box::new(move |it| range.admit(at(it, field))));
    }
    for (field, value) in asked(call, spec.dates) {
        let dates = Dates::parse(field, value)?;
        filters.push(Box::new(move |it| dates.admit(at(it, field))));
    }
    for field in spec.patterns.iter().copied() {
        if let Some(expression) = call.text(field) {
            let regex = pattern(field, expression)?;
            filters.push(Box::new(move |it| matches(&regex, it, field)));
        }
    }
    for (key, all) in [("_any_", false), ("_or_", false), ("_all_", true), ("_and_", true)] {
        if let Some(condition) = call.object(key) {
            filters.push(many(condition, all)?);
        }
    }
    if let Some(words) = call.text("search_text") {
        let words = words.to_lowercase();
        filters.push(Box::new(move |it| {
            ["id", "name", "comment", "description"]
                .iter()
                .any(|field| at(it, field).and_then(Value::as_str).is_some_and(|it| it.to_lowercase().contains(&words)))
        }));
    }
    if spec.fields.contains(&"system_tags") && !call.flag("search_hidden") && call.texts("id").is_empty() {
        filters.push(Box::new(|it| !texts(it, "system_tags").contains(&"hidden")));
    }
    Ok(filters)
}

/// The fields of a call's body that a specification names, with what is asked of them.
fn asked<'a>(call: &'a Call<'_>, fields: &'a [&'static str]) -> impl Iterator<Item = (&'a str, &'a Value)> {
    let named =
        |key: &str| fields.iter().any(|it| it.strip_suffix('*').map_or(*it == key, |prefix| key.starts_with(prefix)));
    let present = call.body.iter().filter(move |(key, value)| !value.is_null() && named(key));
    present.map(|(key, value)| (key.as_str(), value))
}

/// `_any_` and `_all_`: one condition over several fields. Patterns are those of any case here.
fn many<'a>(condition: &'a Map<String, Value>, all: bool) -> Result<Filter<'a>, ApiError> {
    let fields = texts(condition, "fields");
    if let Some(expression) = condition.get("pattern").and_then(Value::as_str) {
        let regex = pattern_of_any_case("pattern", expression)?;
        return Ok(Box::new(move |it| combine(all, fields.iter().map(|field| matches(&regex, it, field)))));
    }
    if let Some(value) = condition.get("datetime") {
        let dates = Dates::parse("datetime", value)?;
        return Ok(Box::new(move |it| combine(all, fields.iter().map(|field| dates.admit(at(it, field))))));
    }
    if let Some(values) = condition.get("values").and_then(Value::as_array) {
        let Some(terms) = Terms::parse("values", values)? else { return Ok(Box::new(|_| true)) };
        return Ok(Box::new(move |it| {
            combine(all, fields.iter().map(|field| terms.admit(found(it, field).as_deref())))
        }));
    }
    Err(ApiError::values("pattern, datetime or values expected", "fields"))
}

fn combine(all: bool, mut verdicts: impl Iterator<Item = bool>) -> bool {
    if all { verdicts.all(|it| it) } else { verdicts.any(|it| it) }
}

fn matches(regex: &regex::Regex, document: &Document, field: &str) -> bool {
    match found(document, field).as_deref() {
        Some(Value::String(text)) => regex.is_match(text),
        Some(Value::Array(items)) => items.iter().filter_map(Value::as_str).any(|it| regex.is_match(it)),
        _ => false,
    }
}

fn sort(documents: &mut [Document], order: &[(String, bool)]) {
    documents.sort_by(|a, b| {
        let mut orders = order.iter().map(|(path, descending)| {
            let order = compare(at(a, path), at(b, path));
            if *descending { order.reverse() } else { order }
        });
        orders.find(|it| it.is_ne()).unwrap_or(std::cmp::Ordering::Equal)
    });
}

/// Values in MongoDB's order, as far as documents have them: nothing, numbers, texts, the rest.
fn compare(a: Option<&Value>, b: Option<&Value>) -> std::cmp::Ordering {
    let rank = |it: Option<&Value>| match it {
        None | Some(Value::Null) => 0,
        Some(Value::Number(_)) => 1,
        Some(Value::String(_)) => 2,
        Some(_) => 3,
    };
    match (a, b) {
        (Some(Value::Number(a)), Some(Value::Number(b))) => {
            a.as_f64().unwrap_or_default().total_cmp(&b.as_f64().unwrap_or_default())
        }
        (Some(Value::String(a)), Some(Value::String(b))) => match (parse_date(a), parse_date(b)) {
            (Some(a), Some(b)) => a.cmp(&b),
            _ => a.cmp(b),
        },
        _ => rank(a).cmp(&rank(b)),
    }
}

fn parse_date(text: &str) -> Option<i64> {
    (text.len() > 18 && text.as_bytes()[4] == b'-').then(|| parse_millis(text)).flatten()
}

/// Cuts to the page asked for, the first where none is. With `size` the listing scrolls: the answer's `scroll_id` is
/// where it goes on.
fn paginate(call: &Call<'_>, documents: &mut Vec<Document>) -> Result<Option<String>, ApiError> {
    let number = |field, least: usize| match call.integer(field).map(usize::try_from) {
        None => Ok(None),
        Some(Ok(number)) if number >= least => Ok(Some(number)),
        Some(_) => Err(ApiError::too_small(field, least)),
    };
    let (page, page_size) = (number("page", 0)?.unwrap_or(0), number("page_size", 1)?);
    if let (Some(size), None) = (number("size", 1)?, page_size) {
        let position = call.text("scroll_id").and_then(|it| it.parse().ok()).filter(|_| !call.flag("refresh_scroll"));
        let start = position.map_or_else(|| number("start", 0), |it| Ok(Some(it)))?.unwrap_or(0);
        cut(documents, start, size);
        return Ok(Some(start.saturating_add(documents.len()).to_string()));
    }
    let size = page_size.unwrap_or(MAX_PAGE).min(MAX_PAGE);
    cut(documents, page.saturating_mul(size), size);
    Ok(None)
}

fn cut(documents: &mut Vec<Document>, start: usize, length: usize) {
    documents.drain(..start.min(documents.len()));
    documents.truncate(length);
}
