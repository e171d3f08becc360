//! Writing CLIXML.

use std::collections::HashMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::text::{date_time, duration, escape, naive_date_time};
use super::{Base, MAX_DEPTH, Object, Value};
use crate::session_key::SessionKey;

/// Why a value cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// It holds a SecureString, and there is no key to encrypt it with.
    #[error("a SecureString needs a session key")]
    NoSessionKey,
    /// It is nested deeper than a reader would take.
    #[error("a value nested more than {MAX_DEPTH} elements deep")]
    TooDeep,
}

/// Writes a value as one bare element, `<S>…</S>` or `<Obj RefId="0">…</Obj>`: the data of a message.
///
/// # Errors
/// [`EncodeError::NoSessionKey`] when a SecureString is met without a key, [`EncodeError::TooDeep`].
pub fn encode(value: &Value, key: Option<&SessionKey>) -> Result<String, EncodeError> {
    let mut encoder = Encoder { xml: String::new(), key, objects: 0, types: HashMap::new(), depth: 0 };
    encoder.value(value, "")?;
    Ok(encoder.xml)
}

struct Encoder<'a> {
    xml: String,
    key: Option<&'a SessionKey>,
    /// Objects so far, for their RefIds.
    objects: usize,
    /// Lists of type names so far, with their RefIds.
    types: HashMap<&'a [String], usize>,
    depth: usize,
}

impl<'a> Encoder<'a> {
    /// `attribute` is empty or ` N="…"`.
    fn value(&mut self, value: &'a Value, attribute: &str) -> Result<(), EncodeError> {
        let (name, text) = match value {
            Value::Null => {
                self.check_depth()?;
                self.xml.extend(["<Nil", attribute, "/>"]);
                return Ok(());
            }
            Value::Object(object) => return self.object(object, attribute),
            Value::SecureString(secret) => ("SS", self.key.ok_or(EncodeError::NoSessionKey)?.encrypt(secret.expose())),
            Value::Bool(value) => ("B", value.to_string()),
            Value::Bytes(bytes) => ("BA", STANDARD.encode(bytes)),
            Value::Char(unit) => ("C", unit.to_string()),
            Value::DateTime(at) => ("DT", date_time(at)),
            Value::Decimal(text) => ("D", escape(text)),
            Value::Double(number) => ("Db", real(&format!("{number:?}"))),
            Value::Duration(span) => ("TS", duration(*span)),
            Value::Guid(id) => ("G", id.to_string()),
            Value::I8(number) => ("SB", number.to_string()),
            Value::I16(number) => ("I16", number.to_string()),
            Value::I32(number) => ("I32", number.to_string()),
            Value::I64(number) => ("I64", number.to_string()),
            Value::NaiveDateTime(at) => ("DT", naive_date_time(at)),
            Value::ScriptBlock(text) => ("SBK", escape(text)),
            Value::Single(number) => ("Sg", real(&format!("{number:?}"))),
            Value::String(text) => ("S", escape(text)),
            Value::U8(number) => ("By", number.to_string()),
            Value::U16(number) => ("U16", number.to_string()),
            Value::U32(number) => ("U32", number.to_string()),
            Value::U64(number) => ("U64", number.to_string()),
            Value::Uri(text) => ("URI", escape(text)),
            Value::Version(text) => ("Version", escape(text)),
            Value::Xml(text) => ("XD", escape(text)),
        };
        self.element(name, attribute, &text)
    }

    fn element(&mut self, name: &str, attribute: &str, text: &str) -> Result<(), EncodeError> {
        self.check_depth()?;
        self.xml.extend(["<", name, attribute, ">", text, "</", name, ">"]);
        Ok(())
    }

    fn object(&mut self, object: &'a Object, attribute: &str) -> Result<(), EncodeError> {
        let id = self.objects;
        self.objects += 1;
        self.within("Obj", &format!("{attribute} RefId=\"{id}\""), |this| {
            this.type_names(&object.type_names)?;
            if let Some(text) = &object.to_string {
                this.element("ToString", "", &escape(text))?;
            }
            this.base(&object.base)?;
            this.named("Props", &object.properties)?;
            this.named("MS", &object.members)
        })
    }

    fn type_names(&mut self, names: &'a [String]) -> Result<(), EncodeError> {
        if names.is_empty() {
            return Ok(());
        }
        if let Some(id) = self.types.get(names) {
            self.check_depth()?;
            self.xml.push_str(&format!("<TNRef RefId=\"{id}\"/>"));
            return Ok(());
        }
        let id = self.types.len();
        self.types.insert(names, id);
        self.within("TN", &format!(" RefId=\"{id}\""), |this| {
            names.iter().try_for_each(|name| this.element("T", "", &escape(name)))
        })
    }

    fn base(&mut self, base: &'a Base) -> Result<(), EncodeError> {
        match base {
            Base::None => Ok(()),
            Base::Dictionary(pairs) => self.dictionary(pairs),
            Base::Enumerable(items) => self.items("IE", items),
            Base::List(items) => self.items("LST", items),
            Base::Primitive(value) => self.value(value, ""),
            Base::Queue(items) => self.items("QUE", items),
            Base::Stack(items) => self.items("STK", items),
        }
    }

    fn items(&mut self, name: &str, items: &'a [Value]) -> Result<(), EncodeError> {
        self.within(name, "", |this| items.iter().try_for_each(|item| this.value(item, "")))
    }

    fn dictionary(&mut self, pairs: &'a [(Value, Value)]) -> Result<(), EncodeError> {
        self.within("DCT", "", |this| {
            pairs.iter().try_for_each(|(key, value)| {
                this.within("En", "", |this| {
                    this.value(key, " N=\"Key\"")?;
                    this.value(value, " N=\"Value\"")
                })
            })
        })
    }

    fn named(&mut self, name: &str, values: &'a [(String, Value)]) -> Result<(), EncodeError> {
        if values.is_empty() {
            return Ok(());
        }
        self.within(name, "", |this| {
            values.iter().try_for_each(|(name, value)| this.value(value, &format!(" N=\"{}\"", escape(name))))
        })
    }

    fn within(
        &mut self,
        name: &str,
        attribute: &str,
        content: impl FnOnce(&mut Self) -> Result<(), EncodeError>,
    ) -> Result<(), EncodeError> {
        self.check_depth()?;
        self.depth += 1;
        self.xml.extend(["<", name, attribute, ">"]);
        content(self)?;
        self.xml.extend(["</", name, ">"]);
        self.depth -= 1;
        Ok(())
    }

    /// Whether there is room for one element more within those that are open.
    fn check_depth(&self) -> Result<(), EncodeError> {
        if self.depth < MAX_DEPTH { Ok(()) } else { Err(EncodeError::TooDeep) }
    }
}

/// Rust's shortest text that reads back as the same number, in .NET's spelling.
fn real(text: &str) -> String {
    match text {
        "inf" => "INF".to_owned(),
        "-inf" => "-INF".to_owned(),
        number => number.replace('e', "E"),
    }
}
