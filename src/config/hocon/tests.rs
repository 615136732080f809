use serde_json::{Value as Json, json};

use super::super::value::object_to_json;
use super::*;

fn environment(name: &str) -> Option<String> {
    (name == "HOME").then(|| "/home/ada".to_owned())
}

fn read(text: &str) -> Result<Json, SyntaxError> {
    let document = parse("test.conf", text, None)?;
    resolve(vec![document], &environment).map(|it| object_to_json(&it))
}

#[track_caller]
#[expect(clippy::needless_pass_by_value, reason = "tables of cases read better")]
fn reads(text: &str, expected: Json) {
    assert_eq!(read(text).unwrap(), expected, "{text}");
}

#[track_caller]
fn fails(text: &str, expected: &str) {
    assert_eq!(read(text).unwrap_err().to_string(), expected, "{text}");
}

#[test]
fn the_forms_of_a_clearml_conf() {
    let text = r#"
        # ClearML configuration
        api {
            web_server: http://localhost:8080
            api_server: http://localhost:8008  // the API
            files_server: "http://localhost:8081"
            credentials {"access_key": "KEY", "secret_key": "SE#CRET"}
            host: ${api.api_server}
            verify_certificate: false,
        }
        agent.git_user = ""
        agent {
            worker_name: ${?NO_SUCH_NAME}
            venvs_dir = ~/.clearml/venvs-builds
            default_python: 3.10
            package_manager: {
                type: pip,
                pip_version: ["<20.2 ; python_version < '3.10'", "<22.3"],
                extra_index_url: []
                extra_index_url += "https://one/simple"
                extra_index_url += "https://two/simple"
            }
            default_docker: { image: "nvidia/cuda:12.6.3", arguments = ["--ipc=host", ] }
            extra_docker_arguments: null
            home = ${HOME}/x
        }
    "#;
    let agent = json!({
        "git_user": "",
        "venvs_dir": "~/.clearml/venvs-builds",
        "default_python": "3.10",
        "package_manager": {
            "type": "pip",
            "pip_version": ["<20.2 ; python_version < '3.10'", "<22.3"],
            "extra_index_url": ["https://one/simple", "https://two/simple"],
        },
        "default_docker": {"image": "nvidia/cuda:12.6.3", "arguments": ["--ipc=host"]},
        "extra_docker_arguments": null,
        "home": "/home/ada/x",
    });
    let api = json!({
        "web_server": "http://localhost:8080",
        "api_server": "http://localhost:8008",
        "files_server": "http://localhost:8081",
        "credentials": {"access_key": "KEY", "secret_key": "SE#CRET"},
        "host": "http://localhost:8008",
        "verify_certificate": false,
    });
    reads(text, json!({"api": api, "agent": agent}));
}

#[test]
fn json_is_hocon() {
    let json = json!({"a": [1, -2.5, "é\n\"", true, null, {"b": {}}], "c.d": {"": 1}, "e": []});
    reads(&json.to_string(), json);
}

#[test]
fn keys_merge_and_the_last_value_counts() {
    reads("a.b = 1, a.c = 2, a { b = 3 }", json!({"a": {"b": 3, "c": 2}}));
    reads("a { b = 1 }, a = 2, a { c = 3 }", json!({"a": {"c": 3}}));
    reads("\"a.b\".c = 1\n'x y' z : 2", json!({"a.b": {"c": 1}, "'x y' z": 2}));
    reads("{ a = 1 }", json!({"a": 1}));
    reads("", json!({}));
}

#[test]
fn substitutions_see_what_comes_later_and_themselves_before() {
    reads("a = ${b}, b = 1", json!({"a": 1, "b": 1}));
    reads("a { x = 1, y = ${a.x} }", json!({"a": {"x": 1, "y": 1}}));
    reads("p = /bin, p = ${p}\":/sbin\"", json!({"p": "/bin:/sbin"}));
    reads("a = [1], a = ${a} [2, 3], a += 4", json!({"a": [1, 2, 3, 4]}));
    reads("a = {x: 1, y: 1}, b = ${a} {y: 2}", json!({"a": {"x": 1, "y": 1}, "b": {"x": 1, "y": 2}}));
    reads("a = ${?none}", json!({}));
    reads("a = 1, a = ${?none}", json!({"a": 1}));
    reads("a = x ${?none} y", json!({"a": "x  y"}));
    reads("a { b = 1 }, a { b = ${a.b}2 }", json!({"a": {"b": "12"}}));
    reads(
        "a = ${b}, a { y = 2 }, b { x = 1 }, c = ${a.x}${a.y}",
        json!({"a": {"x": 1, "y": 2}, "b": {"x": 1}, "c": "12"}),
    );
    reads("a = ${?a} {b = 1}", json!({"a": {"b": 1}}));
}

#[test]
fn texts() {
    reads(
        r#"a = """raw \n "two"
lines"""""#,
        json!({"a": "raw \\n \"two\"\nlines\""}),
    );
    reads(r#"a = "\u00e9\ud83d\ude00\t\s""#, json!({"a": "é😀\t\\s"}));
    reads("a = one two  three # four", json!({"a": "one two  three"}));
    reads("a = 10s\nb = 1.\nc = 1e400\nd = -", json!({"a": "10s", "b": "1.", "c": "1e400", "d": "-"}));
    reads("a =\n  5", json!({"a": 5}));
    reads("a = b\r\nc = d\r\n", json!({"a": "b", "c": "d"}));
}

#[test]
fn mistakes_are_told_with_their_place() {
    fails("a = \"x\nb = 1", "test.conf:1:5: this text is not closed");
    fails("a {\n  b = 1\n", "test.conf:1:3: this `{` is not closed");
    fails("a = 1\n}", "test.conf:2:1: a `}` that closes nothing");
    fails("a = [1, 2", "test.conf:1:5: this `[` is not closed");
    fails("a\n", "test.conf:1:2: key `a` has no value");
    fails("é = \nb = ", "test.conf:2:3: an unquoted value cannot have this character");
    fails("a = ", "test.conf:1:5: a value is missing here");
    fails("a = {} b = 1", "test.conf:1:10: an unquoted value cannot have this character");
    fails("a..b = 1", "test.conf:1:1: a key is missing here");
    fails("[1]", "test.conf:1:1: a list instead of keys and values");
    fails("a = \"\\u12\"", "test.conf:1:6: `\\u` needs four hexadecimal digits");
    fails("x = 1\na = ${b}", "test.conf:2:5: `${b}` is set neither here nor in the environment");
    fails("a = ${b}, b = ${a}", "test.conf:1:15: `${a}` refers to itself");
    fails("a = ${a}", "test.conf:1:5: `${a}` refers to itself");
    fails("a = ${b", "test.conf:1:5: this `${` is not closed");
    fails("include \"x\"", "test.conf:1:1: nothing can be included here");
    fails("include url(\"http://x\")", "test.conf:1:1: only files can be included");
    fails("b = [1], a = ${b} x", "test.conf:1:14: a list and a text cannot be put together");
}

#[test]
fn hostile_texts_are_refused() {
    let deep = "a={".repeat(100_000);
    assert!(read(&deep).unwrap_err().message.contains("nested deeper"));
    assert!(read(&format!("a={}", "[".repeat(100_000))).unwrap_err().message.contains("nested deeper"));
    assert!(read(&format!("{}=1", vec!["a"; 100_000].join("."))).unwrap_err().message.contains("nested deeper"));
    assert!(read(&format!("a={}", "[{b=".repeat(100_000))).unwrap_err().message.contains("nested deeper"));
    let mut bomb = "a0 = xxxxxxxxxx\n".to_owned();
    for level in 1..50 {
        let below = format!("${{a{}}}", level - 1);
        bomb.push_str(&format!("a{level} = {}\n", below.repeat(10)));
    }
    assert!(read(&bomb).unwrap_err().message.contains("substitutions"), "billion laughs");
    let chain: String = (0..5000).map(|it| format!("a{it} = {{x = ${{a{}}}}}\n", it + 1)).collect();
    assert!(read(&chain).unwrap_err().message.contains("substitutions"));
    for text in
        ["\u{0}", "a=\\", "=", ":", "a=$", "a=$x", "\"", "${a}=1", "a+", "a+=", "{{", "a=\"\\", "a=\"\\u", "a.=1"]
    {
        let _ = read(text);
    }
}

#[test]
fn files_are_included_where_they_are_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs_err::write(dir.path().join(name), text).unwrap();
    write("inner.conf", "x = 1, y = ${x}, z = ${top}");
    write("loop.conf", "include \"loop.conf\"");
    write("broken.conf", "a = 1\nb = \"");
    let read = |text: &str| {
        let document = parse("main.conf", text, Some(dir.path()))?;
        resolve(vec![document], &environment).map(|it| object_to_json(&it))
    };
    let text = "top = 2, include \"inner.conf\", a { include file(\"inner.conf\"), x = 3 }\ninclude \"absent.conf\"";
    let expected = json!({"top": 2, "x": 1, "y": 1, "z": 2, "a": {"x": 3, "y": 3, "z": 2}});
    assert_eq!(read(text).unwrap(), expected);
    assert_eq!(read("include = 1").unwrap(), json!({"include": 1}));
    let message = |text: &str| read(text).unwrap_err().to_string();
    assert!(message("include required(file(\"absent.conf\"))").contains("cannot include `absent.conf`"));
    assert!(message("include \"loop.conf\"").contains("includes itself"));
    assert!(message("include \"broken.conf\"").ends_with("broken.conf:2:5: this text is not closed"));
}

#[test]
fn a_value_alone() {
    let value = |text: &str| parse_value("`X`", text, &environment).map(|it| it.to_json());
    assert_eq!(value("\"\"").unwrap(), json!(""));
    assert_eq!(value("[1, two]").unwrap(), json!([1, "two"]));
    assert_eq!(value("~/x # cut").unwrap(), json!("~/x"));
    assert_eq!(value("true").unwrap(), json!(true));
    assert_eq!(value("a, b").unwrap_err().to_string(), "`X`:1:2: nothing may follow the value");
}

proptest::proptest! {
    /// A configuration file is whatever somebody typed.
    #[test]
    fn no_text_makes_it_panic(text in crate::testing::mangled_text(&[
        "api { web_server: \"http://a\", credentials { \"access_key\" = ${?KEY} } }\nagent.x = [1, 2.5, true]\n",
        "a += 1\na += ${a}\nb = ${a} {c: \"\"\"x\ny\"\"\"} # d\ninclude \"e\"\nf.\"g.h\".i: ${?HOME}/x",
    ], "{}[]\"$?=:+,#/\\\n .include${}aA1")) {
        if let Err(error) = read(&text) {
            // Whoever wrote it is told where.
            assert!(!error.message.is_empty());
        }
    }
}
