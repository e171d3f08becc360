//! The value model: what CLIXML says, without its text.

use std::fmt;

use chrono::{DateTime, FixedOffset, NaiveDateTime, TimeDelta, Utc};
use uuid::Uuid;
use zeroize::Zeroizing;

/// One value, primitive (MS-PSRP 2.2.5.1) or complex (2.2.5.2).
#[derive(Clone, Default, PartialEq)]
pub enum Value {
    /// `<Nil/>`
    #[default]
    Null,
    /// `<B>`
    Bool(bool),
    /// `<BA>`
    Bytes(Vec<u8>),
    /// `<C>`: one UTF-16 unit.
    Char(u16),
    /// `<DT>` with a zone.
    DateTime(DateTime<FixedOffset>),
    /// `<D>`: its decimal text.
    Decimal(String),
    /// `<Db>`
    Double(f64),
    /// `<TS>`
    Duration(TimeDelta),
    /// `<G>`
    Guid(Uuid),
    /// `<SB>`
    I8(i8),
    /// `<I16>`
    I16(i16),
    /// `<I32>`
    I32(i32),
    /// `<I64>`
    I64(i64),
    /// `<DT>` without a zone.
    NaiveDateTime(NaiveDateTime),
    /// `<Obj>`
    Object(Box<Object>),
    /// `<SBK>`: a script block, its text.
    ScriptBlock(String),
    /// `<SS>`: encrypted on the wire, plain text here.
    SecureString(Secret),
    /// `<Sg>`
    Single(f32),
    /// `<S>`
    String(String),
    /// `<By>`
    U8(u8),
    /// `<U16>`
    U16(u16),
    /// `<U32>`
    U32(u32),
    /// `<U64>`
    U64(u64),
    /// `<URI>`
    Uri(String),
    /// `<Version>`
    Version(String),
    /// `<XD>`: an XML document, its text.
    Xml(String),
}

/// A complex value: a base value, properties of its own and members added to it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Object {
    /// `<TN>`: .NET type names, most derived first. After remoting they begin with `Deserialized.`.
    pub type_names: Vec<String>,
    /// `<ToString>`: how PowerShell shows it. For enums, versions and ids of Exchange the only readable form.
    pub to_string: Option<String>,
    /// What it is besides its properties.
    pub base: Base,
    /// `<Props>`: adapted properties, in order.
    pub properties: Vec<(String, Value)>,
    /// `<MS>`: extended members, in order.
    pub members: Vec<(String, Value)>,
}

/// What an object is besides its properties (MS-PSRP 2.2.5.2.3, 2.2.5.2.6).
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Base {
    /// Only its properties.
    #[default]
    None,
    /// `<DCT>`: pairs, in order.
    Dictionary(Vec<(Value, Value)>),
    /// `<IE>`
    Enumerable(Vec<Value>),
    /// `<LST>`
    List(Vec<Value>),
    /// A primitive, e.g. the number of an enum.
    Primitive(Value),
    /// `<QUE>`
    Queue(Vec<Value>),
    /// `<STK>`
    Stack(Vec<Value>),
}

/// Text that must not be shown. Wiped when dropped; `Debug` says nothing.
#[derive(Clone, PartialEq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Wraps a secret.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// The text. Do not let it out.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// Bytes may be a PFX: only their number is shown.
impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("Null"),
            Self::Bytes(bytes) => write!(f, "Bytes({})", bytes.len()),
            Self::Bool(value) => f.debug_tuple("Bool").field(value).finish(),
            Self::Char(value) => f.debug_tuple("Char").field(value).finish(),
            Self::DateTime(value) => f.debug_tuple("DateTime").field(value).finish(),
            Self::Decimal(value) => f.debug_tuple("Decimal").field(value).finish(),
            Self::Double(value) => f.debug_tuple("Double").field(value).finish(),
            Self::Duration(value) => f.debug_tuple("Duration").field(value).finish(),
            Self::Guid(value) => f.debug_tuple("Guid").field(value).finish(),
            Self::I8(value) => f.debug_tuple("I8").field(value).finish(),
            Self::I16(value) => f.debug_tuple("I16").field(value).finish(),
            Self::I32(value) => f.debug_tuple("I32").field(value).finish(),
            Self::I64(value) => f.debug_tuple("I64").field(value).finish(),
            Self::NaiveDateTime(value) => f.debug_tuple("NaiveDateTime").field(value).finish(),
            Self::Object(value) => f.debug_tuple("Object").field(value).finish(),
            Self::ScriptBlock(value) => f.debug_tuple("ScriptBlock").field(value).finish(),
            Self::SecureString(value) => f.debug_tuple("SecureString").field(value).finish(),
            Self::Single(value) => f.debug_tuple("Single").field(value).finish(),
            Self::String(value) => f.debug_tuple("String").field(value).finish(),
            Self::U8(value) => f.debug_tuple("U8").field(value).finish(),
            Self::U16(value) => f.debug_tuple("U16").field(value).finish(),
            Self::U32(value) => f.debug_tuple("U32").field(value).finish(),
            Self::U64(value) => f.debug_tuple("U64").field(value).finish(),
            Self::Uri(value) => f.debug_tuple("Uri").field(value).finish(),
            Self::Version(value) => f.debug_tuple("Version").field(value).finish(),
            Self::Xml(value) => f.debug_tuple("Xml").field(value).finish(),
        }
    }
}

impl Value {
    /// The property or member of that name, in any case; `None` when there is none or this is no object.
    #[must_use]
    pub fn property(&self, name: &str) -> Option<&Self> {
        self.as_object()?.property(name)
    }

    /// The object, if it is one.
    #[must_use]
    pub fn as_object(&self) -> Option<&Object> {
        match self {
            Self::Object(object) => Some(object),
            _ => None,
        }
    }

    /// The text of a string; also of an object whose base is a string.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            Self::Object(object) => match &object.base {
                Base::Primitive(inner) => inner.as_str(),
                _ => None,
            },
            _ => None,
        }
    }

    /// A boolean.
    #[must_use]
    pub fn as_bool(&self) -> Option<bool> {
        match self.primitive() {
            Self::Bool(value) => Some(*value),
            _ => None,
        }
    }

    /// A whole number of any width; also the number of an enum.
    #[must_use]
    pub fn as_i64(&self) -> Option<i64> {
        match self.primitive() {
            Self::I8(n) => Some(i64::from(*n)),
            Self::I16(n) => Some(i64::from(*n)),
            Self::I32(n) => Some(i64::from(*n)),
            Self::I64(n) => Some(*n),
            Self::U8(n) => Some(i64::from(*n)),
            Self::U16(n) => Some(i64::from(*n)),
            Self::U32(n) => Some(i64::from(*n)),
            Self::U64(n) => i64::try_from(*n).ok(),
            _ => None,
        }
    }

    /// Bytes.
    #[must_use]
    pub fn as_bytes(&self) -> Option<&[u8]> {
        match self.primitive() {
            Self::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// An instant; a time without a zone is taken as UTC.
    #[must_use]
    pub fn as_date_time(&self) -> Option<DateTime<Utc>> {
        match self.primitive() {
            Self::DateTime(at) => Some(at.to_utc()),
            Self::NaiveDateTime(at) => Some(at.and_utc()),
            _ => None,
        }
    }

    /// The elements of a list of any kind.
    #[must_use]
    pub fn as_list(&self) -> Option<&[Self]> {
        match &self.as_object()?.base {
            Base::Enumerable(items) | Base::List(items) | Base::Queue(items) | Base::Stack(items) => Some(items),
            Base::None | Base::Dictionary(_) | Base::Primitive(_) => None,
        }
    }

    /// How PowerShell would show it, as far as that is known; empty for `$null`. A secret shows nothing.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Null | Self::SecureString(_) => String::new(),
            Self::Bool(value) => if *value { "True" } else { "False" }.to_owned(),
            Self::Bytes(bytes) => format!("{} bytes", bytes.len()),
            Self::Char(unit) => String::from_utf16_lossy(&[*unit]),
            Self::DateTime(at) => at.to_rfc3339(),
            Self::Double(n) => n.to_string(),
            Self::Duration(span) => span.to_string(),
            Self::Guid(id) => id.to_string(),
            Self::NaiveDateTime(at) => at.to_string(),
            Self::Object(object) => object.text(),
            Self::Single(n) => n.to_string(),
            Self::Decimal(text)
            | Self::ScriptBlock(text)
            | Self::String(text)
            | Self::Uri(text)
            | Self::Version(text)
            | Self::Xml(text) => text.clone(),
            Self::U64(n) => n.to_string(),
            number => number.as_i64().map(|n| n.to_string()).unwrap_or_default(),
        }
    }

    /// Puts U+FFFD in the place of each NUL in its texts, which not everybody can hold that they are handed on to. Bytes and secrets stay as they are.
    pub fn replace_nul(&mut self) {
        match self {
            Self::Decimal(text)
            | Self::ScriptBlock(text)
            | Self::String(text)
            | Self::Uri(text)
            | Self::Version(text)
            | Self::Xml(text) => replace_nul(text),
            Self::Char(unit) if *unit == 0 => *unit = 0xFFFD,
            Self::Object(object) => object.replace_nul(),
            _ => {}
        }
    }

    fn primitive(&self) -> &Self {
        match self {
            Self::Object(object) => match &object.base {
                Base::Primitive(inner) => inner,
                _ => self,
            },
            _ => self,
        }
    }
}

impl Object {
    /// An object with this type name and no more yet.
    #[must_use]
    pub fn of_type(type_name: &str) -> Self {
        Self { type_names: vec![type_name.to_owned()], ..Self::default() }
    }

    /// Adds an adapted property.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.properties.push((name.to_owned(), value.into()));
        self
    }

    /// Adds an extended member.
    #[must_use]
    pub fn with_member(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.members.push((name.to_owned(), value.into()));
        self
    }

    /// Says how PowerShell shows it.
    #[must_use]
    pub fn shown_as(mut self, text: impl Into<String>) -> Self {
        self.to_string = Some(text.into());
        self
    }

    /// The property or member of that name, in any case.
    #[must_use]
    pub fn property(&self, name: &str) -> Option<&Value> {
        let mut all = self.properties.iter().chain(&self.members);
        all.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    fn replace_nul(&mut self) {
        self.type_names.iter_mut().chain(&mut self.to_string).for_each(replace_nul);
        self.base.replace_nul();
        for (name, value) in self.properties.iter_mut().chain(&mut self.members) {
            replace_nul(name);
            value.replace_nul();
        }
    }

    fn text(&self) -> String {
        match (&self.to_string, &self.base) {
            (Some(text), _) => text.clone(),
            (None, Base::Primitive(inner)) => inner.text(),
            (None, _) => self.type_names.first().cloned().unwrap_or_default(),
        }
    }
}

impl Base {
    fn replace_nul(&mut self) {
        match self {
            Self::None => {}
            Self::Dictionary(pairs) => pairs.iter_mut().for_each(|(key, value)| {
                key.replace_nul();
                value.replace_nul();
            }),
            Self::Enumerable(items) | Self::List(items) | Self::Queue(items) | Self::Stack(items) => {
                items.iter_mut().for_each(Value::replace_nul);
            }
            Self::Primitive(value) => value.replace_nul(),
        }
    }
}

fn replace_nul(text: &mut String) {
    if text.contains('\0') {
        *text = text.replace('\0', "\u{FFFD}");
    }
}

impl From<Object> for Value {
    fn from(object: Object) -> Self {
        Self::Object(Box::new(object))
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::String(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::String(text)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<i32> for Value {
    fn from(value: i32) -> Self {
        Self::I32(value)
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::I64(value)
    }
}

impl From<Uuid> for Value {
    fn from(value: Uuid) -> Self {
        Self::Guid(value)
    }
}

impl From<Vec<u8>> for Value {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes)
    }
}

impl From<Secret> for Value {
    fn from(secret: Secret) -> Self {
        Self::SecureString(secret)
    }
}

impl From<DateTime<Utc>> for Value {
    fn from(at: DateTime<Utc>) -> Self {
        Self::DateTime(at.fixed_offset())
    }
}

impl<T: Into<Self>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// A list as PowerShell sends an `ArrayList`.
impl From<Vec<Self>> for Value {
    fn from(items: Vec<Self>) -> Self {
        let type_names = vec!["System.Collections.ArrayList".to_owned(), "System.Object".to_owned()];
        Object { type_names, base: Base::List(items), ..Object::default() }.into()
    }
}
