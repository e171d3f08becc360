//! Reading CLIXML: tolerant of what is not known, strict about what would be read wrong, bounded in all it takes.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use quick_xml::events::{BytesRef, BytesStart, Event};
use quick_xml::{Reader, XmlVersion};

use super::text::{read_date_time, read_duration, unescape};
use super::{Base, MAX_DEPTH, Object, Value};
use crate::session_key::{KeyError, SessionKey};

/// Why text is no value. Never says what the text was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not UTF-8.
    #[error("not UTF-8")]
    NotUtf8,
    /// Not well-formed, or not one value.
    #[error("not well-formed at byte {0}")]
    Malformed(u64),
    /// A document type or an entity of its own: nothing that PowerShell sends.
    #[error("a document type or entity at byte {0}")]
    Entity(u64),
    /// More than 64 elements within each other.
    #[error("nested more than {MAX_DEPTH} elements deep")]
    TooDeep,
    /// More bytes or more elements than a message may have; what is referred to counts each time.
    #[error("more than {MAX_ELEMENTS} elements or {MAX_BYTES} bytes")]
    TooLarge,
    /// The text of a primitive does not fit its element.
    #[error("what stands in <{element}> is no such value")]
    BadValue {
        /// Its name.
        element: String,
    },
    /// A SecureString, but no session key was agreed on.
    #[error("a SecureString needs a session key")]
    NoSessionKey,
    /// A SecureString that cannot be decrypted.
    #[error(transparent)]
    SecureString(#[from] KeyError),
}

/// Reads one value. A byte order mark and an `<Objs>` around it may be there; of several values in `<Objs>` a list is made, and no text at all (as
/// END_OF_PIPELINE_INPUT has it) is `Null`.
///
/// Elements that are not known are `Null`, and so is a reference to an object that is not complete yet.
///
/// # Errors
/// See [`DecodeError`].
pub fn decode(text: &[u8], key: Option<&SessionKey>) -> Result<Value, DecodeError> {
    decode_among(text, key, &mut Size::default())
}

/// Like [`decode`], for values that are kept together: they may have no more elements and bytes in all than one may have alone. `spent` is what those before had.
///
/// Without this, a few kilobytes of messages that consist of references could make gigabytes.
pub(crate) fn decode_among(text: &[u8], key: Option<&SessionKey>, spent: &mut Size) -> Result<Value, DecodeError> {
    if text.len() > MAX_BYTES {
        return Err(DecodeError::TooLarge);
    }
    let text = std::str::from_utf8(text).map_err(|_| DecodeError::NotUtf8)?;
    let mut decoder = Decoder { spent: *spent, ..Decoder::new(text.trim_start_matches('\u{FEFF}'), key) };
    let value = decoder.document();
    *spent = decoder.spent;
    value
}

struct Decoder<'a> {
    reader: Reader<&'a [u8]>,
    key: Option<&'a SessionKey>,
    /// RefIds that some `<Ref>` names: only these objects are kept.
    wanted: HashSet<&'a str>,
    objects: HashMap<String, Kept>,
    types: HashMap<String, Vec<String>>,
    spent: Size,
    depth: usize,
    /// The greatest depth since the object that is being read began.
    deepest: usize,
}

/// An object that may be referred to, and what a copy costs.
struct Kept {
    value: Value,
    size: Size,
    height: usize,
}

/// Of what was decoded.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Size {
    elements: usize,
    bytes: usize,
}

impl<'a> Decoder<'a> {
    fn new(text: &'a str, key: Option<&'a SessionKey>) -> Self {
        let mut reader = Reader::from_str(text);
        reader.config_mut().expand_empty_elements = true;
        Self {
            reader,
            key,
            wanted: referred_to(text),
            objects: HashMap::new(),
            types: HashMap::new(),
            spent: Size::default(),
            depth: 0,
            deepest: 0,
        }
    }

    fn document(&mut self) -> Result<Value, DecodeError> {
        let Some(root) = self.next_root()? else { return Ok(Value::Null) };
        let value = if root.local_name().as_ref() == "Objs" {
            let mut values = self.values()?;
            if values.len() > 1 { Value::from(values) } else { values.pop().unwrap_or_default() }
        } else {
            self.value(&root)?
        };
        match self.next_root()? {
            None => Ok(value),
            Some(_) => Err(self.malformed()),
        }
    }

    fn value(&mut self, start: &BytesStart<'_>) -> Result<Value, DecodeError> {
        match start.local_name().as_ref() {
            "Obj" => self.object(start),
            "Ref" => self.reference(start),
            element => Ok(self.primitive(element)?.unwrap_or_default()),
        }
    }

    /// `None` for `<Nil/>` and for elements that are not known.
    fn primitive(&mut self, element: &str) -> Result<Option<Value>, DecodeError> {
        if element == "SS" {
            let text = self.text()?;
            let key = self.key.ok_or(DecodeError::NoSessionKey)?;
            return Ok(Some(Value::SecureString(key.decrypt(&text)?)));
        }
        let Some(read) = reader_of(element) else {
            self.skip()?;
            return Ok(None);
        };
        let text = self.text()?;
        read(&text).map(Some).ok_or_else(|| DecodeError::BadValue { element: element.to_owned() })
    }

    fn object(&mut self, start: &BytesStart<'_>) -> Result<Value, DecodeError> {
        let id = self.attribute(start, "RefId")?;
        let (before, depth) = (self.spent, self.depth);
        let outer = std::mem::replace(&mut self.deepest, depth);
        let mut object = Object::default();
        while let Some(child) = self.next_child()? {
            self.part_of(&mut object, &child)?;
        }
        let value = Value::from(object);
        if let Some(id) = id.filter(|id| self.wanted.contains(&**id)) {
            let size =
                Size { elements: self.spent.elements - before.elements + 1, bytes: self.spent.bytes - before.bytes };
            self.spend(size)?;
            self.objects.insert(id, Kept { value: value.clone(), size, height: self.deepest - depth });
        }
        self.deepest = self.deepest.max(outer);
        Ok(value)
    }

    fn part_of(&mut self, object: &mut Object, start: &BytesStart<'_>) -> Result<(), DecodeError> {
        match start.local_name().as_ref() {
            "TN" => object.type_names = self.type_names(start)?,
            "TNRef" => object.type_names = self.type_names_again(start)?,
            "ToString" => object.to_string = Some(unescape(&self.text()?).into_owned()),
            "Props" => object.properties.extend(self.named()?),
            "MS" => object.members.extend(self.named()?),
            "DCT" => object.base = Base::Dictionary(self.pairs()?),
            "IE" => object.base = Base::Enumerable(self.values()?),
            "LST" => object.base = Base::List(self.values()?),
            "QUE" => object.base = Base::Queue(self.values()?),
            "STK" => object.base = Base::Stack(self.values()?),
            element => {
                if let Some(value) = self.primitive(element)? {
                    object.base = Base::Primitive(value);
                }
            }
        }
        Ok(())
    }

    /// A copy of an object that is complete.
    fn reference(&mut self, start: &BytesStart<'_>) -> Result<Value, DecodeError> {
        let depth = self.depth;
        let id = self.attribute(start, "RefId")?.unwrap_or_default();
        self.skip()?;
        let Some(Kept { size, height, .. }) = self.objects.get(&id) else { return Ok(Value::Null) };
        if depth + height > MAX_DEPTH {
            return Err(DecodeError::TooDeep);
        }
        self.deepest = self.deepest.max(depth + height);
        self.spend(*size)?;
        Ok(self.objects[&id].value.clone())
    }

    fn type_names(&mut self, start: &BytesStart<'_>) -> Result<Vec<String>, DecodeError> {
        let id = self.attribute(start, "RefId")?;
        let mut names = Vec::new();
        while let Some(child) = self.next_child()? {
            match child.local_name().as_ref() {
                "T" => names.push(unescape(&self.text()?).into_owned()),
                _ => self.skip()?,
            }
        }
        if let Some(id) = id {
            self.types.insert(id, names.clone());
        }
        Ok(names)
    }

    fn type_names_again(&mut self, start: &BytesStart<'_>) -> Result<Vec<String>, DecodeError> {
        let id = self.attribute(start, "RefId")?.unwrap_or_default();
        self.skip()?;
        let Some(names) = self.types.get(&id) else { return Ok(Vec::new()) };
        let size = Size { elements: names.len(), bytes: names.iter().map(String::len).sum() };
        self.spend(size)?;
        Ok(self.types[&id].clone())
    }

    fn values(&mut self) -> Result<Vec<Value>, DecodeError> {
        let mut values = Vec::new();
        while let Some(child) = self.next_child()? {
            values.push(self.value(&child)?);
        }
        Ok(values)
    }

    fn named(&mut self) -> Result<Vec<(String, Value)>, DecodeError> {
        let mut values = Vec::new();
        while let Some(child) = self.next_child()? {
            values.push((self.name_of(&child)?, self.value(&child)?));
        }
        Ok(values)
    }

    /// The entries `<En>` of a dictionary. What lacks a key or a value has `Null` there.
    fn pairs(&mut self) -> Result<Vec<(Value, Value)>, DecodeError> {
        let mut pairs = Vec::new();
        while self.next_child()?.is_some() {
            let (mut key, mut value) = (Value::Null, Value::Null);
            for (name, part) in self.named()? {
                match name.as_str() {
                    "Key" => key = part,
                    _ => value = part,
                }
            }
            pairs.push((key, value));
        }
        Ok(pairs)
    }

    /// The next element outside of all others; `None` at the end.
    fn next_root(&mut self) -> Result<Option<BytesStart<'a>>, DecodeError> {
        loop {
            match self.event()? {
                Event::Start(start) => return Ok(Some(start)),
                Event::Eof => return Ok(None),
                Event::Text(text) if text.trim().is_empty() => {}
                Event::Decl(_) | Event::Comment(_) | Event::PI(_) => {}
                _ => return Err(self.malformed()),
            }
        }
    }

    /// The next element within the one that is being read; `None` when that ends. Text between elements means nothing.
    fn next_child(&mut self) -> Result<Option<BytesStart<'a>>, DecodeError> {
        loop {
            match self.event()? {
                Event::Start(start) => return Ok(Some(start)),
                Event::End(_) => return Ok(None),
                Event::Eof => return Err(self.malformed()),
                _ => {}
            }
        }
    }

    /// Reads to the end of the element that has begun, and past the elements in it.
    fn skip(&mut self) -> Result<(), DecodeError> {
        let outside = self.depth - 1;
        while self.depth > outside {
            if let Event::Eof = self.event()? {
                return Err(self.malformed());
            }
        }
        Ok(())
    }

    /// Reads to the end of the element that has begun: its text without XML's escapes.
    fn text(&mut self) -> Result<String, DecodeError> {
        let mut text = String::new();
        loop {
            match self.event()? {
                Event::Text(part) => text.push_str(&part.xml10_content()),
                Event::CData(part) => text.push_str(&part),
                Event::GeneralRef(reference) => text.push(self.character(&reference)?),
                Event::Start(_) => self.skip()?,
                Event::End(_) => break,
                Event::Eof => return Err(self.malformed()),
                _ => {}
            }
        }
        self.spend(Size { elements: 0, bytes: text.len() })?;
        Ok(text)
    }

    fn character(&self, reference: &BytesRef<'_>) -> Result<char, DecodeError> {
        if let Some(c) = reference.resolve_char_ref().map_err(|_| self.malformed())? {
            return Ok(c);
        }
        match &**reference {
            "amp" => Ok('&'),
            "apos" => Ok('\''),
            "gt" => Ok('>'),
            "lt" => Ok('<'),
            "quot" => Ok('"'),
            _ => Err(DecodeError::Entity(self.reader.buffer_position())),
        }
    }

    fn name_of(&mut self, start: &BytesStart<'_>) -> Result<String, DecodeError> {
        let name = self.attribute(start, "N")?.unwrap_or_default();
        self.spend(Size { elements: 0, bytes: name.len() })?;
        Ok(unescape(&name).into_owned())
    }

    fn attribute(&self, start: &BytesStart<'_>, name: &str) -> Result<Option<String>, DecodeError> {
        let found = start.try_get_attribute(name).map_err(|_| self.malformed())?;
        let value = found.map(|attribute| attribute.normalized_value(XmlVersion::Explicit1_0).map(Cow::into_owned));
        value.transpose().map_err(|_| self.malformed())
    }

    fn event(&mut self) -> Result<Event<'a>, DecodeError> {
        let event = self.reader.read_event().map_err(|_| self.malformed())?;
        match &event {
            Event::Start(_) => {
                self.depth += 1;
                self.deepest = self.deepest.max(self.depth);
                if self.depth > MAX_DEPTH {
                    return Err(DecodeError::TooDeep);
                }
                self.spend(Size { elements: 1, bytes: 0 })?;
            }
            // The reader has seen to it that it has a beginning.
            Event::End(_) => self.depth -= 1,
            Event::DocType(_) => return Err(DecodeError::Entity(self.reader.buffer_position())),
            _ => {}
        }
        Ok(event)
    }

    fn spend(&mut self, size: Size) -> Result<(), DecodeError> {
        self.spent.elements += size.elements;
        self.spent.bytes += size.bytes;
        if self.spent.elements > MAX_ELEMENTS || self.spent.bytes > MAX_BYTES {
            return Err(DecodeError::TooLarge);
        }
        Ok(())
    }

    fn malformed(&self) -> DecodeError {
        DecodeError::Malformed(self.reader.buffer_position())
    }
}

/// The RefIds of all `<Ref>`: a quick look, which may find too many.
fn referred_to(text: &str) -> HashSet<&str> {
    text.split("<Ref")
        .skip(1)
        .filter_map(|rest| {
            let (_, value) = rest.split_once("RefId")?;
            let value = value.trim_start().strip_prefix('=')?.trim_start();
            let quote = value.chars().next().filter(|c| matches!(c, '"' | '\''))?;
            value[1..].split_once(quote).map(|(id, _)| id)
        })
        .collect()
}

/// How to read the text of an element that holds nothing else (MS-PSRP 2.2.5.1); `None` for other elements.
fn reader_of(element: &str) -> Option<fn(&str) -> Option<Value>> {
    Some(match element {
        "B" => |text| boolean(text.trim()).map(Value::Bool),
        "BA" => |text| bytes(text).map(Value::Bytes),
        "By" => |text| number(text).map(Value::U8),
        "C" => |text| number(text).map(Value::Char),
        "D" => |text| decimal(text.trim()).map(Value::Decimal),
        "Db" => |text| number(text).map(Value::Double),
        "DT" => |text| read_date_time(text.trim()),
        "G" => |text| number(text).map(Value::Guid),
        "I16" => |text| number(text).map(Value::I16),
        "I32" => |text| number(text).map(Value::I32),
        "I64" => |text| number(text).map(Value::I64),
        "S" => |text| Some(Value::String(unescape(text).into_owned())),
        "SB" => |text| number(text).map(Value::I8),
        "SBK" => |text| Some(Value::ScriptBlock(unescape(text).into_owned())),
        "Sg" => |text| number(text).map(Value::Single),
        "TS" => |text| read_duration(text.trim()).map(Value::Duration),
        "U16" => |text| number(text).map(Value::U16),
        "U32" => |text| number(text).map(Value::U32),
        "U64" => |text| number(text).map(Value::U64),
        "URI" => |text| Some(Value::Uri(unescape(text).into_owned())),
        "Version" => |text| Some(Value::Version(unescape(text).into_owned())),
        "XD" => |text| Some(Value::Xml(unescape(text).into_owned())),
        _ => return None,
    })
}

fn boolean(text: &str) -> Option<bool> {
    match text {
        "true" | "True" => Some(true),
        "false" | "False" => Some(false),
        _ => None,
    }
}

/// A number of any kind, or a GUID. Real ones may be `INF`, `-INF` and `NaN`.
fn number<T: FromStr>(text: &str) -> Option<T> {
    text.trim().parse().ok()
}

fn decimal(text: &str) -> Option<String> {
    let is_number = text.parse::<f64>().is_ok() && text.bytes().any(|byte| byte.is_ascii_digit());
    is_number.then(|| text.to_owned())
}

fn bytes(text: &str) -> Option<Vec<u8>> {
    if text.contains(|c: char| c.is_ascii_whitespace()) {
        return STANDARD.decode(text.split_ascii_whitespace().collect::<String>()).ok();
    }
    STANDARD.decode(text).ok()
}

/// Elements in one message.
const MAX_ELEMENTS: usize = 2_000_000;

/// Bytes of one message.
const MAX_BYTES: usize = 64 << 20;
