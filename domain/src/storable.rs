//! Text that every database can hold. PostgreSQL takes no NUL (U+0000), neither in text nor in JSON, while SQLite does; .NET, directories and ticket
//! systems may well have one. It is replaced where text of other systems comes in, and refused where somebody sends it to us.

use serde_json::Value;

/// What is wrong with text that holds one.
pub const HOLDS_NUL: &str = "holds a NUL character, which cannot be stored";

/// The text with U+FFFD, the sign of what could not be read, in the place of each NUL.
#[must_use]
pub fn storable(text: impl Into<String>) -> String {
    let text = text.into();
    if text.contains('\0') { text.replace('\0', "\u{FFFD}") } else { text }
}

/// The same in JSON that was not read yet, where a NUL can only stand as `\u0000`.
pub fn make_json_storable(json: &mut [u8]) {
    let mut at = 0;
    while at < json.len() {
        match &json[at..] {
            [b'\\', b'u', b'0', b'0', b'0', b'0', ..] => {
                json[at + 2..at + 6].copy_from_slice(b"fffd");
                at += 6;
            }
            // Whatever follows is no beginning of an escape.
            [b'\\', ..] => at += 2,
            _ => at += 1,
        }
    }
}

/// JSON Pointers (RFC 6901) of what holds a NUL: of texts, and of members by their names.
#[must_use]
pub fn nul_in(value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    find_nul(value, &mut String::new(), &mut found);
    found
}

fn find_nul(value: &Value, pointer: &mut String, found: &mut Vec<String>) {
    let length = pointer.len();
    match value {
        Value::String(text) if text.contains('\0') => found.push(pointer.clone()),
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                pointer.push_str(&format!("/{index}"));
                find_nul(item, pointer, found);
                pointer.truncate(length);
            }
        }
        Value::Object(members) => {
            for (name, member) in members {
                pointer.push_str(&format!("/{}", storable(name.replace('~', "~0").replace('/', "~1"))));
                if name.contains('\0') {
                    found.push(pointer.clone());
                }
                find_nul(member, pointer, found);
                pointer.truncate(length);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_nul_of_a_text_becomes_the_sign_of_what_cannot_be_read() {
        assert_eq!(storable("https://x\0/\0"), "https://x\u{FFFD}/\u{FFFD}");
        assert_eq!(storable("ü\n"), "ü\n");
    }

    #[test]
    fn json_is_changed_only_where_it_means_a_nul() {
        let cases = [
            (r#"{"a\u0000":"\u0000\u0000"}"#, json!({"a\u{FFFD}": "\u{FFFD}\u{FFFD}"})),
            (r#"["\\u0000", "\\\u0000", "\u00001"]"#, json!(["\\u0000", "\\\u{FFFD}", "\u{FFFD}1"])),
            (r#"["\u0001", "\ud83d\ude00", "\""]"#, json!(["\u{1}", "😀", "\""])),
        ];
        for (sent, read) in cases {
            let mut bytes = sent.as_bytes().to_vec();
            make_json_storable(&mut bytes);
            assert_eq!(serde_json::from_slice::<Value>(&bytes).unwrap(), read, "{sent}");
        }
        for cut in [r"\", r"\u", r"\u000", ""] {
            let mut bytes = cut.as_bytes().to_vec();
            make_json_storable(&mut bytes);
            assert_eq!(bytes, cut.as_bytes());
        }
    }

    #[test]
    fn what_holds_a_nul_is_named_by_its_place() {
        let value = json!({"a": ["x", {"b/c": "\0"}], "d\0": 1, "e": "fine"});
        assert_eq!(nul_in(&value), ["/a/1/b~1c", "/d\u{FFFD}"]);
        assert_eq!(nul_in(&json!("\0")), [""]);
        assert!(nul_in(&json!([null, true, 0, "\u{1}"])).is_empty());
    }
}
