//! `WWW-Authenticate` (RFC 9110, 11.6.1): what a registry wants of us.

use std::collections::BTreeMap;

/// A way to say who we are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    /// User name and password with every request.
    Basic,
    /// A token from `realm` (distribution-spec, "Token Authentication").
    Bearer {
        /// Where tokens are given.
        realm: String,
        /// Whom the token is for.
        service: Option<String>,
        /// What the registry thinks the token must allow.
        scope: Option<String>,
    },
}

/// The first challenge of a kind we know.
pub(super) fn parse<'a>(headers: impl IntoIterator<Item = &'a str>) -> Option<Challenge> {
    headers.into_iter().find_map(one)
}

fn one(header: &str) -> Option<Challenge> {
    let (scheme, rest) = header.trim().split_once(char::is_whitespace).unwrap_or((header.trim(), ""));
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let mut parameters = parameters(rest);
    Some(Challenge::Bearer {
        realm: parameters.remove("realm")?,
        service: parameters.remove("service"),
        scope: parameters.remove("scope"),
    })
}

/// `name="value",name=value`: commas inside quotes belong to the value.
fn parameters(text: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut rest = text.trim_start();
    while let Some((name, tail)) = rest.split_once('=') {
        let (value, tail) = match tail.strip_prefix('"') {
            Some(quoted) => unquote(quoted),
            None => {
                let end = tail.find(',').unwrap_or(tail.len());
                (tail[..end].trim().to_owned(), &tail[end..])
            }
        };
        found.insert(name.trim().to_ascii_lowercase(), value);
        rest = tail.trim_start_matches([',', ' ', '\t']);
    }
    found
}

fn unquote(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((index, character)) = characters.next() {
        match character {
            '"' => return (value, &text[index + 1..]),
            '\\' => value.extend(characters.next().map(|it| it.1)),
            other => value.push(other),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bearer_challenge_with_commas_in_its_scope_is_read_whole() {
        let header =
            r#"Bearer realm="https://auth.example/token",service="registry.example",scope="repository:a/b:pull,push""#;
        let expected = Challenge::Bearer {
            realm: "https://auth.example/token".to_owned(),
            service: Some("registry.example".to_owned()),
            scope: Some("repository:a/b:pull,push".to_owned()),
        };
        assert_eq!(parse([header]), Some(expected));
    }

    #[test]
    fn unknown_schemes_are_passed_over() {
        assert_eq!(parse(["Negotiate", "basic realm=x"]), Some(Challenge::Basic));
        assert_eq!(parse(["Bearer service=x"]), None);
    }

    proptest::proptest! {
        #[test]
        fn no_header_makes_it_panic(header in crate::testing::mangled_text(&[
            r#"Bearer realm="https://a/token",service="b",scope="repository:a/b:pull,push""#,
            r#"Basic realm="a\"b""#,
        ], "\",=\\ a:/")) {
            let _ = parse([header.as_str()]);
        }
    }
}
