//! The conditions of a listing: lists with operators, bounds of dates, regular expressions.

use regex::{Regex, RegexBuilder};
use serde_json::Value;

use super::clock::parse_millis;
use super::error::ApiError;

/// A list of wanted values: any of them, or all after `__$and`; not those after `__$not` or with a leading `-`.
#[derive(Debug, Default)]
pub(super) struct Terms {
    any: Vec<Value>,
    all: Vec<Value>,
    not_any: Vec<Value>,
    not_all: Vec<Value>,
    /// Whether nothing at all in the field is fine too (a null in the list).
    empty: bool,
    /// Whether all the above must hold, or one of them.
    conjunct: bool,
}

impl Terms {
    /// Reads a list; `None` when it is empty, which asks for nothing.
    pub(super) fn parse(field: &str, items: &[Value]) -> Result<Option<Self>, ApiError> {
        if items.is_empty() {
            return Ok(None);
        }
        let mut terms = Self::default();
        let (mut conjunct, mut global, mut negated) = (false, None, false);
        for item in items {
            match item {
                Value::Null => terms.empty = true,
                Value::String(word) if word.starts_with("__$") => match word.as_str() {
                    "__$not" => negated = true,
                    "__$nop" => negated = false,
                    "__$all" | "__$and" => {
                        conjunct = true;
                        global.get_or_insert(true);
                    }
                    "__$any" | "__$or" => {
                        conjunct = false;
                        global.get_or_insert(false);
                    }
                    _ => return Err(ApiError::values("Unsupported operator", field)),
                },
                value => {
                    global.get_or_insert(false);
                    let (value, excluded) = match value.as_str().and_then(|it| it.strip_prefix('-')) {
                        Some(rest) if !rest.is_empty() => (Value::from(rest), true),
                        _ => (value.clone(), negated),
                    };
                    negated = false;
                    match (conjunct, excluded) {
                        (false, false) => terms.any.push(value),
                        (true, false) => terms.all.push(value),
                        // Excluded values are all kept out, whichever way the rest is combined.
                        (false, true) => terms.not_any.push(value),
                        (true, true) => terms.not_all.push(value),
                    }
                }
            }
        }
        terms.conjunct = global.unwrap_or(false);
        Ok(Some(terms))
    }

    /// Whether a field's value is wanted.
    pub(super) fn admit(&self, value: Option<&Value>) -> bool {
        let has = |wanted: &Value| match value {
            Some(Value::Array(items)) => items.contains(wanted),
            Some(other) => other == wanted,
            None => false,
        };
        let is_empty = match value {
            None | Some(Value::Null) => true,
            Some(Value::Array(items)) => items.is_empty(),
            Some(Value::String(text)) => text.is_empty(),
            Some(_) => false,
        };
        let mut verdicts = Vec::new();
        if !self.any.is_empty() {
            verdicts.push(self.any.iter().any(has));
        }
        if !self.all.is_empty() {
            verdicts.push(self.all.iter().all(has));
        }
        if !self.not_any.is_empty() {
            verdicts.push(!self.not_any.iter().any(has));
        }
        if !self.not_all.is_empty() {
            verdicts.push(!self.not_all.iter().any(has));
        }
        if self.empty {
            return is_empty || (!verdicts.is_empty() && verdicts.iter().all(|it| *it));
        }
        // Mixed lists of the default operator ("this or that, but not those") exclude in any case.
        let included = !(self.any.is_empty() && self.all.is_empty());
        let excluding = !(self.not_any.is_empty() && self.not_all.is_empty());
        if self.conjunct || (included && excluding) { verdicts.iter().all(|it| *it) } else { verdicts.contains(&true) }
    }
}

/// Bounds of a date: `[">=2026-01-01", "<2026-02-01"]`, or two dates from and to, or one.
#[derive(Debug)]
pub(super) struct Dates(Vec<(Bound, i64)>);

#[derive(Debug, Clone, Copy)]
enum Bound {
    AtLeast,
    After,
    AtMost,
    Before,
    Equal,
}

impl Dates {
    /// Reads bounds.
    pub(super) fn parse(field: &str, value: &Value) -> Result<Self, ApiError> {
        let items = match value {
            Value::Array(items) => items.as_slice(),
            one => std::slice::from_ref(one),
        };
        let bounded = |it: &Value| it.as_str().is_some_and(|it| it.starts_with(['<', '>']));
        let range = items.len() == 2 && !items.iter().any(bounded);
        let mut bounds = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let Some(text) = item.as_str() else { continue };
            let (bound, date) = if range {
                (if index == 0 { Bound::AtLeast } else { Bound::AtMost }, text)
            } else if let Some(rest) = text.strip_prefix(">=") {
                (Bound::AtLeast, rest)
            } else if let Some(rest) = text.strip_prefix("<=") {
                (Bound::AtMost, rest)
            } else if let Some(rest) = text.strip_prefix('>') {
                (Bound::After, rest)
            } else if let Some(rest) = text.strip_prefix('<') {
                (Bound::Before, rest)
            } else {
                (Bound::Equal, text)
            };
            let millis = parse_millis(date).ok_or_else(|| ApiError::values("invalid datetime", field))?;
            bounds.push((bound, millis));
        }
        Ok(Self(bounds))
    }

    /// Whether a field's date is within them.
    pub(super) fn admit(&self, value: Option<&Value>) -> bool {
        let Some(date) = value.and_then(Value::as_str).and_then(parse_millis) else { return false };
        self.0.iter().all(|(bound, limit)| match bound {
            Bound::AtLeast => date >= *limit,
            Bound::After => date > *limit,
            Bound::AtMost => date <= *limit,
            Bound::Before => date < *limit,
            Bound::Equal => date == *limit,
        })
    }
}

/// Bounds of a number: `[least, greatest]`, either of them null.
#[derive(Debug)]
pub(super) struct Range {
    least: Option<f64>,
    greatest: Option<f64>,
}

impl Range {
    /// Reads bounds; numbers may be texts.
    pub(super) fn parse(field: &str, value: &Value) -> Result<Self, ApiError> {
        let number = |it: &Value| match it {
            Value::String(text) => text.parse().ok(),
            other => other.as_f64(),
        };
        match value.as_array().map(Vec::as_slice) {
            Some([Value::Null, Value::Null]) => {
                let why = format!("At least one of min or max values should be provided for field {field}");
                Err(ApiError::validation(&why))
            }
            Some([least, greatest]) => Ok(Self { least: number(least), greatest: number(greatest) }),
            _ => {
                let why = format!("Min and max values should be specified for range field {field}");
                Err(ApiError::validation(&why))
            }
        }
    }

    /// Whether a field's number is within them. Without a least, so is a field that has none.
    pub(super) fn admit(&self, value: Option<&Value>) -> bool {
        match value.and_then(Value::as_f64) {
            Some(number) => self.least.is_none_or(|it| number >= it) && self.greatest.is_none_or(|it| number <= it),
            None => self.least.is_none(),
        }
    }
}

/// A regular expression, unanchored and case-sensitive. `*` alone, which clients send, matches everything.
pub(super) fn pattern(field: &str, expression: &str) -> Result<Regex, ApiError> {
    compiled(field, &mut builder(expression))
}

/// The same, whatever the case of letters.
pub(super) fn pattern_of_any_case(field: &str, expression: &str) -> Result<Regex, ApiError> {
    compiled(field, builder(expression).case_insensitive(true))
}

fn builder(expression: &str) -> RegexBuilder {
    RegexBuilder::new(if expression == "*" { ".*" } else { expression })
}

fn compiled(field: &str, builder: &mut RegexBuilder) -> Result<Regex, ApiError> {
    builder.build().map_err(|_| ApiError::regex(field))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn admits(items: &Value, value: &Value) -> bool {
        let terms = Terms::parse("tags", items.as_array().unwrap()).unwrap().unwrap();
        terms.admit(Some(value))
    }

    #[test]
    fn lists_ask_for_any_all_or_none_of_their_values() {
        assert!(admits(&json!(["a", "b"]), &json!(["b"])));
        assert!(!admits(&json!(["__$all", "a", "b"]), &json!(["b"])));
        assert!(admits(&json!(["__$all", "a", "b"]), &json!(["b", "a"])));
        assert!(!admits(&json!(["-archived"]), &json!(["archived"])));
        assert!(admits(&json!(["-archived"]), &json!([])));
        assert!(!admits(&json!(["__$not", "archived"]), &json!(["archived"])));
        assert!(!admits(&json!(["a", "-b"]), &json!(["a", "b"])));
        assert!(!admits(&json!(["a", "__$not", "b"]), &json!(["c"])));
        assert!(admits(&json!([null, "a"]), &json!([])));
        assert!(admits(&json!(["queued", "created"]), &json!("created")));
        assert!(Terms::parse("tags", &[]).unwrap().is_none());
        assert!(Terms::parse("tags", &[json!("__$x")]).is_err());
    }

    #[test]
    fn dates_are_bounded() {
        let bounds = Dates::parse("started", &json!([">=2026-01-01", "<2026-02-01"])).unwrap();
        assert!(bounds.admit(Some(&json!("2026-01-31T23:59:59.999000+00:00"))));
        assert!(!bounds.admit(Some(&json!("2026-02-01T00:00:00.000000+00:00"))));
        assert!(!bounds.admit(None));
        let range = Dates::parse("started", &json!(["2026-01-01", null])).unwrap();
        assert!(range.admit(Some(&json!("2026-03-01T00:00:00+00:00"))));
        assert!(Dates::parse("started", &json!("soon")).is_err());
    }

    #[test]
    fn numbers_are_bounded() {
        let range = |bounds: Value| Range::parse("f", &bounds);
        let least = range(json!([0.5, null])).unwrap();
        assert!(least.admit(Some(&json!(0.5))) && !least.admit(Some(&json!(0))) && !least.admit(None));
        let greatest = range(json!([null, "2"])).unwrap();
        assert!(greatest.admit(Some(&json!(2))) && !greatest.admit(Some(&json!(2.5))) && greatest.admit(None));
        for wrong in [json!([null, null]), json!([1]), json!(1)] {
            assert_eq!(range(wrong).unwrap_err().subcode, 12);
        }
    }

    #[test]
    fn names_escaped_by_python_are_read() {
        let regex = pattern("name", r"^train\ one\-\#\&\~$").unwrap();
        assert!(regex.is_match("train one-#&~"));
        assert!(pattern("name", "efaul").unwrap().is_match("default"));
        assert!(!pattern("name", "DEFAULT").unwrap().is_match("default"));
        assert!(pattern_of_any_case("name", "DEFAULT").unwrap().is_match("default"));
        assert_eq!(pattern("name", "(").unwrap_err().subcode, 21);
    }
}
