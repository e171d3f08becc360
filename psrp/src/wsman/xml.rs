//! The small part of XML that SOAP needs: a tree with resolved namespaces, bounded in depth and size.

use std::fmt;

use quick_xml::NsReader;
use quick_xml::XmlVersion;
use quick_xml::escape::resolve_predefined_entity;
use quick_xml::events::{BytesRef, BytesStart, Event};
use quick_xml::name::ResolveResult;
use thiserror::Error;

use super::excerpt;

/// The namespaces that mean something here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Namespace {
    Addressing,
    Fault,
    Microsoft,
    Other,
    PowerShell,
    Shell,
    Soap,
    Transfer,
    WsMan,
}

impl Namespace {
    /// Its URI; nothing for [`Namespace::Other`].
    pub(super) const fn uri(self) -> &'static str {
        match self {
            Self::Addressing => "http://schemas.xmlsoap.org/ws/2004/08/addressing",
            Self::Fault => "http://schemas.microsoft.com/wbem/wsman/1/wsmanfault",
            Self::Microsoft => "http://schemas.microsoft.com/wbem/wsman/1/wsman.xsd",
            Self::Other => "",
            Self::PowerShell => "http://schemas.microsoft.com/powershell",
            Self::Shell => "http://schemas.microsoft.com/wbem/wsman/1/windows/shell",
            Self::Soap => "http://www.w3.org/2003/05/soap-envelope",
            Self::Transfer => "http://schemas.xmlsoap.org/ws/2004/09/transfer",
            Self::WsMan => "http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd",
        }
    }

    fn of(resolved: &ResolveResult<'_>) -> Self {
        let ResolveResult::Bound(namespace) = resolved else { return Self::Other };
        let uri: &str = namespace.as_ref();
        NAMESPACES.into_iter().find(|known| known.uri() == uri).unwrap_or(Self::Other)
    }
}

/// One element with all that is in it.
#[derive(Clone, Debug)]
pub(super) struct Element {
    pub(super) namespace: Namespace,
    pub(super) name: String,
    /// Local name and value. SOAP's own attributes (`mustUnderstand`) share this list; namespace declarations are not in it.
    attributes: Vec<(String, String)>,
    pub(super) children: Vec<Self>,
    /// All text directly inside, joined.
    text: String,
}

impl Element {
    pub(super) fn is(&self, namespace: Namespace, name: &str) -> bool {
        self.namespace == namespace && self.name == name
    }

    pub(super) fn child(&self, namespace: Namespace, name: &str) -> Option<&Self> {
        self.children.iter().find(|child| child.is(namespace, name))
    }

    pub(super) fn children_named<'a>(&'a self, namespace: Namespace, name: &'a str) -> impl Iterator<Item = &'a Self> {
        self.children.iter().filter(move |child| child.is(namespace, name))
    }

    /// The text of a child, trimmed.
    pub(super) fn child_text(&self, namespace: Namespace, name: &str) -> Option<&str> {
        self.child(namespace, name).map(Self::text)
    }

    pub(super) fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Its text, trimmed.
    pub(super) fn text(&self) -> &str {
        self.text.trim()
    }

    /// Its text and that of everything below it, in no particular order, trimmed.
    pub(super) fn all_text(&self) -> String {
        let below = self.children.iter().map(Self::all_text);
        let parts = std::iter::once(self.text().to_owned()).chain(below).filter(|part| !part.is_empty());
        parts.collect::<Vec<_>>().join(" ")
    }
}

/// Why a text is not an XML document that is accepted here.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(super) enum XmlError {
    #[error("not UTF-8")]
    NotUtf8,
    #[error("not well-formed XML: {0}")]
    Syntax(String),
    #[error("XML with a document type or an entity of its own is refused")]
    Entity,
    #[error("XML deeper than {MAX_DEPTH} elements or with more than {MAX_ELEMENTS} is refused")]
    TooMuch,
    #[error("an XML document without an element")]
    Empty,
}

impl XmlError {
    /// The library quotes names as long as they come.
    fn syntax(error: impl fmt::Display) -> Self {
        Self::Syntax(excerpt(&error.to_string()))
    }
}

impl From<quick_xml::Error> for XmlError {
    fn from(error: quick_xml::Error) -> Self {
        Self::syntax(error)
    }
}

/// Parses a document, with or without a byte order mark.
pub(super) fn parse(bytes: &[u8]) -> Result<Element, XmlError> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let text = std::str::from_utf8(bytes).map_err(|_| XmlError::NotUtf8)?;
    let mut reader = NsReader::from_str(text);
    let mut tree = Tree::default();
    loop {
        let (namespace, event) = reader.read_resolved_event()?;
        let namespace = Namespace::of(&namespace);
        match event {
            Event::Start(start) => tree.open(element(namespace, &start)?)?,
            Event::Empty(start) => {
                tree.open(element(namespace, &start)?)?;
                tree.close();
            }
            Event::End(_) => tree.close(),
            Event::Text(text) => tree.text(&text.xml10_content()),
            Event::CData(text) => tree.text(&text.xml10_content()),
            Event::GeneralRef(reference) => tree.text(&resolve(&reference)?),
            Event::DocType(_) => return Err(XmlError::Entity),
            Event::Comment(_) | Event::Decl(_) | Event::PI(_) => {}
            Event::Eof => return tree.root(),
        }
    }
}

/// The elements that are open, outermost first, and the root once it is closed.
#[derive(Default)]
struct Tree {
    open: Vec<Element>,
    root: Option<Element>,
    elements: usize,
}

impl Tree {
    fn open(&mut self, element: Element) -> Result<(), XmlError> {
        self.elements += 1;
        if self.open.len() == MAX_DEPTH || self.elements > MAX_ELEMENTS {
            return Err(XmlError::TooMuch);
        }
        if self.open.is_empty() && self.root.is_some() {
            return Err(XmlError::Syntax("a second root element".to_owned()));
        }
        self.open.push(element);
        Ok(())
    }

    /// The reader has checked that an element is open.
    fn close(&mut self) {
        let Some(closed) = self.open.pop() else { return };
        match self.open.last_mut() {
            Some(parent) => parent.children.push(closed),
            None => self.root = Some(closed),
        }
    }

    fn text(&mut self, text: &str) {
        if let Some(element) = self.open.last_mut() {
            element.text.push_str(text);
        }
    }

    fn root(self) -> Result<Element, XmlError> {
        if !self.open.is_empty() {
            return Err(XmlError::Syntax("it ends inside an element".to_owned()));
        }
        self.root.ok_or(XmlError::Empty)
    }
}

fn element(namespace: Namespace, start: &BytesStart<'_>) -> Result<Element, XmlError> {
    let mut attributes = Vec::new();
    // Checking for duplicates would take time quadratic in their number.
    for attribute in start.attributes().with_checks(false) {
        let attribute = attribute.map_err(XmlError::syntax)?;
        if attributes.len() == MAX_ATTRIBUTES {
            return Err(XmlError::TooMuch);
        }
        if attribute.key.as_namespace_binding().is_none() {
            let name: &str = attribute.key.local_name().into_inner();
            let value = attribute.normalized_value(XmlVersion::Implicit1_0)?;
            attributes.push((name.to_owned(), value.into_owned()));
        }
    }
    let name: &str = start.local_name().into_inner();
    Ok(Element { namespace, name: name.to_owned(), attributes, children: Vec::new(), text: String::new() })
}

fn resolve(reference: &BytesRef<'_>) -> Result<String, XmlError> {
    if let Some(character) = reference.resolve_char_ref()? {
        return Ok(character.to_string());
    }
    resolve_predefined_entity(&reference.xml10_content()).map(str::to_owned).ok_or(XmlError::Entity)
}

const NAMESPACES: [Namespace; 8] = [
    Namespace::Addressing,
    Namespace::Fault,
    Namespace::Microsoft,
    Namespace::PowerShell,
    Namespace::Shell,
    Namespace::Soap,
    Namespace::Transfer,
    Namespace::WsMan,
];
/// SOAP needs about ten.
const MAX_DEPTH: usize = 32;
const MAX_ELEMENTS: usize = 20_000;
const MAX_ATTRIBUTES: usize = 32;
