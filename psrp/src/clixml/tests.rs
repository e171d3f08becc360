use chrono::{DateTime, TimeDelta};

use super::decode::DecodeError;
use super::encode::EncodeError;
use super::*;
use crate::session_key::{KeyError, SessionKey};

fn read(text: &str) -> Result<Value, DecodeError> {
    decode(text.as_bytes(), None)
}

fn list(base: Base) -> Value {
    Object { base, ..Object::default() }.into()
}

/// One of each primitive with what stands on the wire.
fn primitives() -> Vec<(Value, &'static str)> {
    let at = |text| DateTime::parse_from_rfc3339(text).unwrap();
    vec![
        (Value::Null, "<Nil/>"),
        (Value::Bool(true), "<B>true</B>"),
        (Value::Bytes(vec![0, 1, 254, 255]), "<BA>AAH+/w==</BA>"),
        (Value::Bytes(Vec::new()), "<BA></BA>"),
        (Value::Char(0xD83D), "<C>55357</C>"),
        (Value::DateTime(at("2026-11-23T10:20:30.1234567+01:00")), "<DT>2026-11-23T10:20:30.1234567+01:00</DT>"),
        (Value::NaiveDateTime(at("2026-11-23T10:20:30Z").naive_utc()), "<DT>2026-11-23T10:20:30</DT>"),
        (Value::Decimal("-79228162514264337593543950335".to_owned()), "<D>-79228162514264337593543950335</D>"),
        (Value::Double(-1.5e300), "<Db>-1.5E300</Db>"),
        (Value::Double(f64::INFINITY), "<Db>INF</Db>"),
        (Value::Double(f64::NEG_INFINITY), "<Db>-INF</Db>"),
        (Value::Duration(TimeDelta::new(-86_401, 0).unwrap()), "<TS>-P1DT1S</TS>"),
        (
            Value::Guid("00112233-4455-6677-8899-aabbccddeeff".parse().unwrap()),
            "<G>00112233-4455-6677-8899-aabbccddeeff</G>",
        ),
        (Value::I8(-128), "<SB>-128</SB>"),
        (Value::I16(-32_768), "<I16>-32768</I16>"),
        (Value::I32(i32::MIN), "<I32>-2147483648</I32>"),
        (Value::I64(i64::MIN), "<I64>-9223372036854775808</I64>"),
        (Value::ScriptBlock("{ $_ }".to_owned()), "<SBK>{ $_ }</SBK>"),
        (Value::Single(0.1), "<Sg>0.1</Sg>"),
        (
            Value::String(" a\r\n<&_x0041_😀 ".to_owned()),
            "<S> a_x000D__x000A_&lt;&amp;_x005F_x0041__xD83D__xDE00_ </S>",
        ),
        (Value::String(String::new()), "<S></S>"),
        (Value::U8(255), "<By>255</By>"),
        (Value::U16(65_535), "<U16>65535</U16>"),
        (Value::U32(u32::MAX), "<U32>4294967295</U32>"),
        (Value::U64(u64::MAX), "<U64>18446744073709551615</U64>"),
        (Value::Uri("https://a.example/?b&c".to_owned()), "<URI>https://a.example/?b&amp;c</URI>"),
        (Value::Version("15.2.1118.7".to_owned()), "<Version>15.2.1118.7</Version>"),
        (Value::Xml("<a/>".to_owned()), "<XD>&lt;a/&gt;</XD>"),
    ]
}

/// Everything an object can have, at once and in each other.
fn rich_object() -> Value {
    let of_color = |n: i32, shown: &str| Object {
        type_names: vec!["System.ConsoleColor".to_owned(), "System.Enum".to_owned()],
        base: Base::Primitive(Value::I32(n)),
        ..Object::default().shown_as(shown)
    };
    let items = vec![Value::from(of_color(1, "DarkBlue")), of_color(2, "DarkGreen").into(), Value::Null];
    let pairs = vec![(Value::from("a_\n"), list(Base::Queue(vec![1.into()]))), (7.into(), Value::Null)];
    let everything = Object { base: Base::List(items.clone()), ..Object::of_type("T <1>") }
        .shown_as("_x000A_\t")
        .with("Pairs", list(Base::Dictionary(pairs)))
        .with("_x0041_ \"<\n", list(Base::Stack(items)))
        .with_member("Pairs", list(Base::Enumerable(vec![list(Base::None)])))
        .with_member("Text", list(Base::Primitive("extended".into())));
    everything.into()
}

#[test]
fn every_primitive_is_written_and_read_back() {
    for (value, text) in primitives() {
        assert_eq!(encode(&value, None).unwrap(), text);
        assert_eq!(read(text), Ok(value), "{text}");
    }
    assert!(matches!(read("<Db>NaN</Db>"), Ok(Value::Double(n)) if n.is_nan()));
    assert_eq!(encode(&Value::Double(f64::NAN), None).unwrap(), "<Db>NaN</Db>");
}

#[test]
fn what_other_writers_write_differently_is_read_too() {
    let table = [
        ("\u{FEFF}<?xml version=\"1.0\"?>\n<S>a</S>\n<!-- end -->", "a".into()),
        ("<S/>", "".into()),
        ("<S>&#97;&#x62;&apos;<![CDATA[<c>]]></S>", "ab'<c>".into()),
        ("<S>a\r\nb</S>", "a\nb".into()),
        ("<B>True</B>", true.into()),
        ("<BA>\n  AAH+\r\n  /w==\n</BA>", vec![0, 1, 254, 255].into()),
        ("<I32> 5 </I32>", 5.into()),
        ("<Sg>1.5E+30</Sg>", Value::Single(1.5e30)),
        ("<G>{00112233-4455-6677-8899-AABBCCDDEEFF}</G>", primitives()[12].0.clone()),
        ("", Value::Null),
        (
            "<Objs Version=\"1.1.0.1\" xmlns=\"http://schemas.microsoft.com/powershell/2004/04\"><S>a</S></Objs>",
            "a".into(),
        ),
        ("<Objs/>", Value::Null),
        ("<Objs><S S=\"Error\">a</S><I32>1</I32></Objs>", vec![Value::from("a"), 1.into()].into()),
    ];
    for (text, value) in table {
        assert_eq!(read(text), Ok(value), "{text}");
    }
}

#[test]
fn an_object_with_everything_comes_back_as_it_was() {
    let text = encode(&rich_object(), None).unwrap();
    assert_eq!(read(&text), Ok(rich_object()), "{text}");
    assert_eq!(text.matches("<TNRef RefId=\"1\"/>").count(), 3, "type names that were there are referred to: {text}");
}

#[test]
fn an_enum_looks_as_powershell_writes_it() {
    let value = Object { base: Base::Primitive(2.into()), ..Object::of_type("System.Threading.ApartmentState") };
    assert_eq!(
        encode(&value.shown_as("Unknown").into(), None).unwrap(),
        "<Obj RefId=\"0\"><TN RefId=\"0\"><T>System.Threading.ApartmentState</T></TN><ToString>Unknown</ToString><I32>2</I32></Obj>"
    );
}

#[test]
fn references_are_resolved() {
    let text = "<Obj RefId=\"0\"><TN RefId=\"0\"><T>A</T><T>B</T></TN><LST>\
        <Obj RefId=\"1\"><TNRef RefId=\"0\"/><Props><S N=\"x\">y</S></Props></Obj><Ref RefId=\"1\"/><Ref RefId='1' />\
        </LST><MS><Ref N=\"Same\" RefId=\"1\"/></MS></Obj>";
    let value = read(text).unwrap();
    let items = value.as_list().unwrap();
    assert_eq!(items[0].as_object().unwrap().type_names, ["A", "B"]);
    assert_eq!(items[0].property("x"), Some(&"y".into()));
    assert_eq!((&items[1], &items[2], value.property("same")), (&items[0], &items[0], Some(&items[0])));
}

#[test]
fn what_is_not_known_is_skipped() {
    let text = "<Obj RefId=\"0\" Z=\"1\"><New><Obj><MS><S N=\"a\">b</S></MS></Obj></New><TNRef RefId=\"9\"/>text\
        <MS><PR N=\"Record\"><AV>x</AV></PR><Ref N=\"Me\" RefId=\"0\"/><Ref N=\"Nobody\" RefId=\"7\"/><I32 N=\"n\">1<a>2</a></I32><S>nameless</S></MS></Obj>";
    let expected = Object::default()
        .with_member("Record", Value::Null)
        .with_member("Me", Value::Null)
        .with_member("Nobody", Value::Null)
        .with_member("n", 1)
        .with_member("", "nameless");
    assert_eq!(read(text), Ok(expected.into()));
}

#[test]
fn wrong_primitives_are_errors_that_name_the_element_only() {
    let wrong = [
        "<B>yes</B>",
        "<BA>AAA</BA>",
        "<BA>%</BA>",
        "<By>256</By>",
        "<C>65536</C>",
        "<C>a</C>",
        "<D>1,5</D>",
        "<D>inf</D>",
        "<D></D>",
        "<DT>2026-02-30T00:00:00</DT>",
        "<Db></Db>",
        "<G>1</G>",
        "<I32>2147483648</I32>",
        "<I64>1.5</I64>",
        "<SB>128</SB>",
        "<TS>1</TS>",
        "<U64>-1</U64>",
    ];
    for text in wrong {
        let element = text[1..].split('>').next().unwrap().to_owned();
        assert_eq!(read(text), Err(DecodeError::BadValue { element }), "{text}");
    }
}

#[test]
fn what_is_not_one_value_is_an_error() {
    let malformed = [
        "<S>",
        "<S>a",
        "<S>a</B>",
        "a",
        "</S>",
        "<S>a</S><S>b</S>",
        "<S>a</S>b",
        "<",
        "<S",
        "<S>&a",
        "<S>& </S>",
        "<Obj RefId=0/>",
        "<S>&#xD83D;</S>",
        "<S>&#0;</S>",
        "<Obj><MS><S N='a'>1</MS></Obj>",
        "<Obj><MS><S N=a>1</S></MS></Obj>",
        "<![CDATA[a]]>",
    ];
    for text in malformed {
        assert!(matches!(read(text), Err(DecodeError::Malformed(_))), "{text}: {:?}", read(text));
    }
    assert_eq!(decode(b"<S>\xFF</S>", None), Err(DecodeError::NotUtf8));
}

#[test]
fn entities_and_document_types_are_refused() {
    for text in ["<!DOCTYPE a [<!ENTITY b \"c\">]><S>&b;</S>", "<S>&b;</S>", "<S>&nbsp;</S>"] {
        assert!(matches!(read(text), Err(DecodeError::Entity(_))), "{text}: {:?}", read(text));
    }
}

#[test]
fn depth_is_limited_also_through_references() {
    let nested = |depth: usize| "<Obj><LST>".repeat(depth) + &"</LST></Obj>".repeat(depth);
    assert!(read(&nested(MAX_DEPTH / 2)).is_ok());
    assert_eq!(read(&nested(MAX_DEPTH / 2 + 1)), Err(DecodeError::TooDeep));
    let chain = |length: usize| {
        let link = |n: usize| format!("<Obj RefId=\"{n}\"><LST><Ref RefId=\"{}\"/></LST></Obj>", n.wrapping_sub(1));
        format!("<Obj><LST>{}</LST></Obj>", (0..length).map(link).collect::<String>())
    };
    assert!(read(&chain(20)).is_ok());
    assert_eq!(read(&chain(40)), Err(DecodeError::TooDeep));
}

/// No stack grows with the input.
#[test]
fn a_hundred_thousand_elements_within_each_other_are_refused_wherever_they_stand() {
    let table = [
        ("", "<Obj><LST>"),
        ("", "<New>"),
        ("<S>", "<S>"),
        ("<Obj><TN>", "<T>"),
        ("<Obj><DCT>", "<En>"),
        ("<Objs>", "<Ref>"),
    ];
    for (before, element) in table {
        assert_eq!(read(&(before.to_owned() + &element.repeat(100_000))), Err(DecodeError::TooDeep), "{element}");
    }
}

#[test]
fn references_to_nothing_cost_no_more_than_other_elements() {
    let references = |count: usize| (0..count).map(|n| format!("<Ref RefId=\"{n}\"/>")).collect::<String>();
    let list = read(&format!("<Obj><LST>{}</LST></Obj>", references(100_000))).unwrap();
    assert!(list.as_list().unwrap().iter().all(|item| *item == Value::Null));
    assert!(read(&format!("<S>{}", "<Ref".repeat(1_000_000))).is_err());
    assert!(read(&format!("<S>{}</S>", "<Ref RefId=\"".repeat(1_000_000))).is_err());
}

#[test]
fn what_can_be_read_can_be_written_and_the_other_way_round() {
    let nested = |depth: usize| (0..depth).fold(Value::Null, |inner, _| list(Base::List(vec![inner])));
    let deepest = (1..MAX_DEPTH).rev().map(nested).find(|value| encode(value, None).is_ok()).unwrap();
    assert_eq!(read(&encode(&deepest, None).unwrap()), Ok(deepest));
    assert_eq!(encode(&nested(MAX_DEPTH), None), Err(EncodeError::TooDeep));
}

#[test]
fn type_names_count_when_a_value_is_written_as_deep_as_it_may_be() {
    let within = |inner: Object, depth: usize| (0..depth).fold(Value::from(inner), |it, _| list(Base::List(vec![it])));
    for inner in
        [Object::default(), Object::of_type("T"), Object::default().shown_as("s"), Object::default().with("n", 1)]
    {
        let written = (1..MAX_DEPTH).filter_map(|depth| {
            let value = within(inner.clone(), depth);
            encode(&value, None).ok().map(|text| (value, text))
        });
        for (value, text) in written {
            assert_eq!(read(&text), Ok(value), "{text}");
        }
    }
}

#[test]
fn an_object_without_content_may_be_the_deepest_element() {
    let pair = list(Base::Dictionary(vec![("k".into(), list(Base::None))]));
    let value = (0..30).fold(pair, |inner, _| list(Base::List(vec![inner])));
    assert_eq!(read(&encode(&value, None).unwrap()), Ok(value));
}

#[test]
fn copies_of_copies_hit_the_limit_instead_of_the_memory() {
    let mut text = "<Obj><LST><Obj RefId=\"0\"><LST><S>x</S></LST></Obj>".to_owned();
    for n in 1..20 {
        let copies = format!("<Ref RefId=\"{}\"/>", n - 1).repeat(10);
        text += &format!("<Obj RefId=\"{n}\"><LST>{copies}</LST></Obj>");
    }
    assert_eq!(read(&(text + "</LST></Obj>")), Err(DecodeError::TooLarge));
    let names = format!("<Obj><TN RefId=\"0\"><T>{}</T></TN></Obj>", "x".repeat(1 << 20));
    let again = "<Obj><TNRef RefId=\"0\"/></Obj>".repeat(100);
    assert_eq!(read(&format!("<Obj><LST>{names}{again}</LST></Obj>")), Err(DecodeError::TooLarge));
}

#[test]
fn elements_are_counted() {
    let many = |count: usize| format!("<Obj><LST>{}</LST></Obj>", "<Nil/>".repeat(count));
    assert_eq!(read(&many(100_000)).unwrap().as_list().unwrap().len(), 100_000);
    assert_eq!(read(&many(2_000_000)), Err(DecodeError::TooLarge));
}

#[test]
fn secrets_travel_encrypted_and_only_with_a_key() {
    let key = SessionKey::generate();
    let value = list(Base::List(vec![Secret::new("pass word_\n").into()]));
    let text = encode(&value, Some(&key)).unwrap();
    assert!(!text.contains("pass"));
    assert_eq!(decode(text.as_bytes(), Some(&key)), Ok(value.clone()));
    assert_eq!(encode(&value, None), Err(EncodeError::NoSessionKey));
    assert_eq!(read(&text), Err(DecodeError::NoSessionKey));
    assert_eq!(decode(b"<SS>AAAA</SS>", Some(&key)), Err(KeyError::SecureString.into()));
}

#[test]
fn a_large_pfx_comes_through() {
    let value = Value::Bytes((0..200_000_u32).map(|n| n.to_le_bytes()[0]).collect());
    assert_eq!(read(&encode(&value, None).unwrap()), Ok(value));
}

/// Everything above as text, cut and changed everywhere: nothing may panic, and what is read can be written again.
#[test]
fn no_damage_makes_it_panic() {
    let key = SessionKey::generate();
    let secret = encode(&Secret::new("x").into(), Some(&key)).unwrap();
    let mut corpus = vec![encode(&rich_object(), None).unwrap(), secret];
    corpus.extend(primitives().into_iter().map(|(_, text)| text.to_owned()));
    for text in corpus {
        for end in 0..text.len() {
            survives(&text.as_bytes()[..end], &key);
        }
        for (at, change) in (0..text.len()).flat_map(|at| b"<>&_\"/ 0\xFF\0".map(|byte| (at, byte))) {
            let mut damaged = text.clone().into_bytes();
            damaged[at] = change;
            survives(&damaged, &key);
            damaged.remove(at);
            survives(&damaged, &key);
        }
    }
}

fn survives(text: &[u8], key: &SessionKey) {
    if let Ok(value) = decode(text, Some(key)) {
        encode(&value, Some(key)).expect("what was read can be written");
    }
}

#[test]
fn a_nul_is_replaced_in_every_text_and_nowhere_else() {
    let secret = || Value::from(Secret::new("p\0"));
    let made = |nul: &str, unit: u16| {
        let text = || Value::from(format!("a{nul}"));
        let pairs = vec![(text(), Value::Uri(nul.to_owned())), (1.into(), Value::Bytes(vec![0]))];
        let object = Object { base: Base::Dictionary(pairs), ..Object::of_type(nul) }
            .shown_as(nul)
            .with(&format!("b{nul}"), list(Base::Stack(vec![text(), secret(), Value::Char(unit)])))
            .with_member("c", list(Base::Primitive(Value::Xml(nul.to_owned()))));
        Value::from(object)
    };
    let mut value = made("\0", 0);
    value.replace_nul();
    assert_eq!(value, made("\u{FFFD}", 0xFFFD));
}
