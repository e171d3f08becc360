//! Leg D: servers for a partner that reads their metadata documents.

use std::{collections::BTreeMap, sync::Arc};

use chrono::{DateTime, Utc};

use super::{
    Leg, Reason, Signer, TrustProbe, Verifier,
    servers::{active, named, signing_entry},
};
use crate::{
    certificate::Certificate,
    organization::PartnerRules,
    server::{ProcessKind, Server},
};

/// A partner, and the document of each server as it last read it.
#[derive(Debug)]
pub(super) struct Partner {
    rules: PartnerRules,
    documents: BTreeMap<String, Document>,
}

#[derive(Clone, Debug)]
struct Document {
    keys: Vec<Arc<Certificate>>,
    read: DateTime<Utc>,
}

impl Partner {
    pub(super) fn new(rules: PartnerRules) -> Self {
        Self { rules, documents: BTreeMap::new() }
    }

    /// The document of a server as the partner knows it; it reads it if it is too old.
    fn document(&mut self, server: &Server, now: DateTime<Utc>) -> Document {
        let (known, rules) = (self.documents.get(&server.spec.fqdn), self.rules);
        match known.filter(|document| now - document.read < rules.refresh) {
            Some(document) => document.clone(),
            None => self.read(server, now),
        }
    }

    fn read(&mut self, server: &Server, now: DateTime<Utc>) -> Document {
        let keys = if self.rules.sees_stale_documents { server.metadata.clone() } else { document_of_now(server) };
        let document = Document { keys, read: now };
        self.documents.insert(server.spec.fqdn.clone(), document.clone());
        document
    }
}

/// Current and previous of what the pool knows that serves the document, not next (domain.md 3.6).
fn document_of_now(server: &Server) -> Vec<Arc<Certificate>> {
    let keys = &server.process(ProcessKind::Owa).keys;
    let is_next = |certificate: &&Arc<Certificate>| Some(&certificate.thumbprint) == keys.next.as_ref();
    keys.accepted.iter().filter(|certificate| !is_next(certificate)).cloned().collect()
}

impl TrustProbe {
    /// The pool that serves the document is the one that signs for partners.
    pub(super) fn look_at_partner(&mut self, now: DateTime<Utc>, servers: &[Server]) {
        let Some(mut partner) = self.partner.take() else { return };
        for server in active(servers) {
            let process = server.process(ProcessKind::Owa);
            let signs = signing_entry(now, server, &process.keys);
            let mut document = partner.document(server, now);
            let mut verdict = signs.and_then(|entry| self.verify(now, entry, &document.keys));
            if verdict == Err(Reason::UnknownKey) && partner.rules.refetches {
                document = partner.read(server, now);
                verdict = signs.and_then(|entry| self.verify(now, entry, &document.keys));
            }
            let (name, of_partner) = (|| named(server, process), || "partner".to_owned());
            let signer = Signer { name: &name, thumbprint: process.keys.current.as_ref(), signs };
            let verifier = Verifier { name: &of_partner, accepted: &document.keys, read: document.read };
            self.count(now, Leg::Partner, &signer, &verifier, verdict);
        }
        self.partner = Some(partner);
    }
}
